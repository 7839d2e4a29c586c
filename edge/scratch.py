"""Temporary folders that do not pile up: what a killed process left goes when the next needs such a folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

PREFIX = "edge-scratch-"
_EARLIER = ("edge-simplify-", "edge-sim-")  # as earlier versions of edge named them, without a lock
_FRESH = 60.0  # seconds in which a folder may not be locked yet


class Scratch:
    """A private folder in TMPDIR, removed with the object, or at the latest when the interpreter ends.

    It is locked while its process lives, whatever kills that, so that others know whether it is still used.
    """

    def __init__(self, what: str) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{what}-"))
        self.remove = weakref.finalize(self, _remove, self.path, _lock(self.path))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()


def _remove(path: Path, lock: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if lock >= 0:
        os.close(lock)


def _lock(path: Path) -> int:
    """Return a descriptor that holds the folder's lock; -1 if another process does, or nobody can."""
    try:
        import fcntl

        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except (ImportError, OSError):
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return -1
    return lock


def _sweep(root: Path) -> None:
    """Remove the folders that no living process holds."""
    with contextlib.suppress(OSError):
        for path in [path for path in root.iterdir() if path.name.startswith((PREFIX, *_EARLIER))]:
            with contextlib.suppress(OSError):
                status = path.lstat()
                ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
                if ours and time.time() - status.st_mtime > _FRESH and (lock := _lock(path)) >= 0:
                    _remove(path, lock)
