"""Replace the published files of a build folder as one set: a kill at any moment leaves no mixture of old and new.

The complete new set lies in ``.next`` before the first old file is touched. The next process that opens the folder, to
build or to run, first finishes an interrupted publication. The board can do it too: only the standard library is used.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from edge.errors import WorkspaceError
from edge.files import is_plain_name, link_or_copy, read_json, replace_symlink, write_json, write_text

NEXT = ".next"
_GONE = ".gone.json"  # names that the old set has and the new one lacks
_PARTIAL = ".next.partial"


def publish_set(
    root: Path, files: Mapping[str, Path], texts: Mapping[str, str], folders: Mapping[str, Path], gone: Iterable[str]
) -> None:
    """Put a set of files into a folder.

    Args:
        root: the folder, its lock held.
        files: name -> file, which is linked where the file system has hard links, else copied.
        texts: name -> content.
        folders: name -> folder to show under that name, as a relative symbolic link.
        gone: names to remove.
    """
    settle(root)
    partial = root / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, source in files.items():
        link_or_copy(source, partial / name)
    for name, text in texts.items():
        write_text(partial / name, text)
    for name, folder in folders.items():
        replace_symlink(partial / name, folder, seen_from=root)
    write_json(partial / _GONE, list(gone))
    partial.replace(root / NEXT)
    settle(root)


def settle(root: Path) -> None:
    """Finish a publication that was interrupted; return at once if there was none.

    Raises:
        WorkspaceError: the folder can't be written.
    """
    new = root / NEXT
    if not new.is_dir() or new.is_symlink():
        return
    try:
        with contextlib.suppress(FileNotFoundError):  # another process settles the same set
            gone = [name for name in _gone(new) if is_plain_name(name)]
            for path in [path for path in new.iterdir() if is_plain_name(path.name)]:
                path.replace(root / path.name)
                path.unlink(missing_ok=True)  # rename(2) leaves both where they are links to one file
            for name in gone:
                (root / name).unlink(missing_ok=True)
            (new / _GONE).unlink(missing_ok=True)
            new.rmdir()
    except OSError as error:
        raise WorkspaceError(
            f"publishing a build into {root} was interrupted, and can't be finished: {error.strerror or error}",
            expected="a writable folder",
            remedy=f"edge build {root.name}",
        ) from error


def _gone(new: Path) -> list[str]:
    try:
        return [str(name) for name in read_json(new / _GONE)]
    except (OSError, ValueError, TypeError):
        return []
