"""A working folder for the compiler at a path that is the same on every machine.

The compiler writes absolute paths into the ``.bin``. So it works in ``/tmp/edge-<key>``, which holds links to
the real inputs and to a scratch folder beside the results. The key comes from the content of the inputs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import posixpath
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from attrs import frozen

from edge.errors import CompileError, UsageError, WorkspaceError
from edge.progress import Reporter
from edge.scratch import Scratch

# A literal, not tempfile.gettempdir(), which differs between users, and so would the bytes of the .bin.
ROOT = Path("/tmp")  # noqa: S108 - made with mode 0700, owner checked, never followed through a link
_KEY_LENGTH = 16


@frozen
class Sandbox:
    """Where the compiler works."""

    path: Path  #: the fixed folder; start the compiler here, so its log lies here.
    base: Path  #: stands for the YAML's own folder; the YAML goes here.
    tmp: Path  #: its TMPDIR, inside ``path``.
    scratch: Path  #: real folder on the results' file system, seen by the compiler as ``working_dir``.
    fixed: bool  #: the path is the same on every machine, so the bytes are reproducible.


@contextlib.contextmanager
def open_sandbox(
    key: str, *, files: Mapping[str, Path], working_dir: str, out: Path, timeout: float, reporter: Reporter
) -> Iterator[Sandbox]:
    """Make the folder, lock it while the block runs, and always remove it afterwards.

    Args:
        key: content key, letters and digits; the first 16 name the folder.
        files: name relative to the YAML's folder -> real file or folder, linked.
        working_dir: name, relative to the YAML's folder, of the folder for results.
        out: folder whose file system receives the scratch folder.
        timeout: seconds to wait for another compile of the same key.
        reporter: told when it waits, or when the fixed path is not available.

    Raises:
        WorkspaceError: it can't be written.
        UsageError: a name leads out of the sandbox, or the key is not letters and digits.
    """
    if not re.fullmatch(r"[0-9A-Za-z]{8,}", key):
        raise UsageError(f"compile key '{key}'", expected="at least 8 letters and digits, such as a sha256")
    depth = max(map(_climbs, (*files, working_dir)))
    with contextlib.ExitStack() as undo:
        try:
            path, fixed = _enter(ROOT / f"edge-{key[:_KEY_LENGTH]}", timeout, reporter, undo)
            scratch = Path(tempfile.mkdtemp(prefix=".scratch-", dir=out.resolve()))
            undo.callback(shutil.rmtree, scratch, ignore_errors=True)
            base = path.joinpath(*["w"] * (depth + 1))
            tmp = path / "tmp"
            _link(base, tmp, {**files, working_dir: scratch})
        except OSError as error:
            raise WorkspaceError(
                f"can't make a working folder for the compiler: {error}",
                remedy=f"check that {ROOT} and {out} are writable and have space, and that the inputs exist",
            ) from error
        yield Sandbox(path, base, tmp, scratch, fixed)


def _enter(path: Path, timeout: float, reporter: Reporter, undo: contextlib.ExitStack) -> tuple[Path, bool]:
    """Return the folder to work in, and whether it is the fixed one; ``undo`` removes it."""
    lock = _claim(path, timeout, reporter)
    if lock is not None:
        undo.callback(os.close, lock)
        undo.callback(shutil.rmtree, path, ignore_errors=True)
        return path, True
    other = undo.enter_context(Scratch("compile"))
    reporter.warn(
        f"{path} belongs to another user; working in {other}, "
        "so the .bin may differ in bytes (not in behaviour) from other builds"
    )
    return other, False


def _climbs(name: str) -> int:
    """Return how many folders ``name`` climbs above the YAML's own."""
    parts = PurePosixPath(posixpath.normpath(name)).parts
    if not parts or posixpath.isabs(name) or parts[-1] == "..":
        raise UsageError(f"the mapper YAML names '{name}'", expected="a path relative to the YAML's folder")
    return parts.count("..")


def _link(base: Path, tmp: Path, files: Mapping[str, Path]) -> None:
    base.mkdir(parents=True)
    tmp.mkdir(mode=0o700)
    for name, real in files.items():
        link = Path(os.path.normpath(base / name))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(real.resolve(strict=True))


def _claim(path: Path, timeout: float, reporter: Reporter) -> int | None:
    """Return a descriptor that holds ``path``, fresh, empty and ours; None when it is another user's."""
    deadline = time.monotonic() + timeout
    told = False
    while True:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # its holder has just removed it
        except OSError:
            return None  # a link, a file, or not ours to read
        seen = os.fstat(fd)
        if seen.st_uid != os.getuid() or stat.S_IMODE(seen.st_mode) & 0o077:
            os.close(fd)
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            if time.monotonic() >= deadline:
                raise CompileError(
                    "start",
                    f"another compile of the same inputs still holds {path}",
                    remedy="wait for it, or end it, and run the same command again",
                ) from None
            if not told:
                reporter.update("waiting for another compile of the same inputs")
                told = True
            time.sleep(0.2)
            continue
        # The previous holder may have removed the folder while we waited: then we locked a deleted folder.
        with contextlib.suppress(FileNotFoundError):
            now = path.lstat()
            if (now.st_ino, now.st_dev) == (seen.st_ino, seen.st_dev):
                _empty(path)  # what a killed run left behind
                return fd
        os.close(fd)


def _empty(path: Path) -> None:
    for child in path.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
