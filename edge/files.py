"""Write files whole or not at all, hash them, and report a full disk."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge.errors import EdgeError, WorkspaceError


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def is_plain_name(name: str) -> bool:
    """Say whether a name, read from an untrusted file, is a plain file name: no folder in it, no leading dot."""
    return bool(name) and not name.startswith(".") and len(name) <= 255 and not set(name) & set("/\\\0")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: it can't be read.
        ValueError: it is not JSON, nested too deeply, or larger than any that edge writes.
    """
    with path.open("rb") as stream:
        data = stream.read(_JSON_BYTES + 1)
    if len(data) > _JSON_BYTES:
        raise ValueError(f"more than {_JSON_BYTES:,} bytes")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_yaml(path: Path, loader: Any = None) -> Any:
    """Return what a YAML file holds.

    Args:
        loader: class of a safe loader of PyYAML's; its ``SafeLoader`` by default.

    Raises:
        OSError: it can't be read.
        ValueError: it is no YAML, gives a key twice, nests too deeply, or is larger than any configuration.
    """
    import yaml  # not at import: a board that runs a program reads none

    with path.open("rb") as stream:
        data = stream.read(_YAML_BYTES + 1)
    if len(data) > _YAML_BYTES:
        raise ValueError(f"more than {_YAML_BYTES:,} bytes")
    text, loader = data.decode("utf-8"), loader or yaml.SafeLoader
    try:
        node = yaml.compose(text, Loader=loader)
        if unfolded(node) > MOST_YAML_VALUES:
            raise ValueError(f"aliases that unfold to more than {MOST_YAML_VALUES} values")
        if twice := next(_twice(node, set()), None):
            raise ValueError(f"line {twice.start_mark.line + 1}: the key {twice.value} is given twice")
        return yaml.load(text, loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML: {' '.join(str(error).split())[:300]}") from error
    except RecursionError:
        raise ValueError("nested too deeply") from None


def unfolded(node: Any, known: dict[int, float] | None = None) -> float:
    """Return how many values a YAML node stands for with its aliases followed; infinite where it holds itself."""
    known = {} if known is None else known
    if not isinstance(getattr(node, "value", None), list):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(unfolded(part, known) for part in parts)
    return known[id(node)]


def _twice(node: Any, visited: set[int]) -> Iterator[Any]:
    """Yield the keys that a mapping gives a second time."""
    if not isinstance(getattr(node, "value", None), list) or id(node) in visited:
        return
    visited.add(id(node))
    seen: set[str] = set()
    for pair in node.value:
        if isinstance(pair, tuple):
            key = pair[0]
            if isinstance(key.value, str):
                if key.value in seen:
                    yield key
                seen.add(key.value)
        for part in pair if isinstance(pair, tuple) else (pair,):
            yield from _twice(part, visited)


def data_dir(name: str) -> Path:
    """Return the folder ``name``, in the checkout or, once installed, inside the wheel.

    Args:
        name: ``mapper_yaml``, ``calibration`` or ``notebooks``.

    Raises:
        EdgeError: neither place holds it (a broken installation).
    """
    package = Path(__file__).resolve().parent
    for candidate in (package.parent / name, package / "_data" / name):
        if candidate.is_dir():
            return candidate
    raise EdgeError(
        f"the data folder {name}/ is missing from this installation",
        remedy=f"in a checkout: git checkout {name}; else: pip install --force-reinstall edge-*.whl",
    )


_JSON_BYTES = 256_000_000  # an eval.json of 50,000 images has some millions
_YAML_BYTES = 10_000_000
MOST_YAML_VALUES = 100_000  # of a whole document with its aliases followed
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def write_json(path: Path, data: object) -> None:
    """Write JSON so that the file is either the old one or the complete new one."""
    write_text(path, json_text(data))


def json_text(data: object) -> str:
    """Return JSON as edge writes it: indented, UTF-8, with a last line break."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _beside(path: Path) -> Path:
    """Return the temporary path of a new file that will replace ``path``; each writer gets another."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")


def write_text(path: Path, text: str) -> None:
    """Write text so that the file is either the old one or the complete new one."""
    temporary = _beside(path)
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_ours(path: Path, mark: str) -> None:
    """Refuse to write over a file that lacks the mark which edge leaves in its own.

    Raises:
        WorkspaceError: such a file is there.
    """
    if path.exists() and not (path.is_file() and mark.encode() in path.read_bytes()):
        raise WorkspaceError(
            f"{path} exists, and edge did not make it",
            expected="a new name, or a file that this command wrote earlier",
            remedy=f"choose another name, or mv {path} elsewhere",
        )


def require_no_link(path: Path) -> None:
    """Refuse a link where edge writes in place: a received folder's may lead to any file of the user.

    Raises:
        WorkspaceError: it is one.
    """
    if path.is_symlink():
        raise WorkspaceError(f"{path} is a link", expected="a file or folder that edge made", remedy=f"rm {path}")


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``: a hard link if possible, else a copy; replace it whole."""
    temporary = _beside(target)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, temporary)
    temporary.replace(target)


def replace_symlink(link: Path, target: Path, *, seen_from: Path) -> None:
    """Make ``link`` point at ``target``, relative to the folder where the link will lie, so that both can be moved."""
    temporary = _beside(link)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, seen_from))
    temporary.replace(link)


@contextmanager
def disk_errors(root: Path, elsewhere: str = "--build-dir") -> Iterator[None]:
    """Turn a full disk or a read-only folder into a clear error; ``elsewhere`` is what names another.

    Raises:
        WorkspaceError: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = _free_bytes(root)
            raise WorkspaceError(
                f"the disk that holds {root} is full ({free / 1e6:.0f} MB free)",
                remedy=f"free some space, or choose another disk with {elsewhere}; finished stages are kept",
            ) from error
        if error.errno in UNWRITABLE and _inside(error.filename, root):
            raise WorkspaceError(
                f"{root} can't be written: {error.strerror}", remedy=f"choose another folder with {elsewhere}"
            ) from error
        raise


def _inside(filename: object, root: Path) -> bool:
    return isinstance(filename, str) and str(root) in filename


def _free_bytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
