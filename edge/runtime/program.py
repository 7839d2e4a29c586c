"""Find the files of a program: a build folder, a bundle, or a single file."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from attrs import frozen

from edge.errors import ModelFileError
from edge.files import sha256_of
from edge.folder.metadata import FILE, FileEntry, Metadata, Role, read_metadata
from edge.folder.publication import settle
from edge.foreign import foreign

# First bytes of files that are not programs.
ENDINGS: dict[str, Role] = {".bin": "bin", "_portable_int8.onnx": "portable", "_quantized_model.onnx": "quantized"}
_START = b"\x08\x01\x10\x01\x2a"
_log = logging.getLogger("edge.runtime")


@frozen
class Program:
    """A program on disk."""

    path: Path  #: what the user named.
    files: dict[Role, Path]  #: role -> existing file.
    metadata: Metadata | None = None  #: None for a single file that no ``metadata.json`` beside it lists.

    @property
    def name(self) -> str:
        """Name for messages."""
        return self.metadata.name if self.metadata else self.path.name

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return self.path if self.path.is_dir() else self.path.parent

    def class_names(self) -> tuple[str, ...] | None:
        """Return the class names in index order; None if it has none."""
        from edge.images import class_names

        return class_names(str(self.files["labels"])) if "labels" in self.files else None


def locate(path: str | Path) -> Program:
    """Find the program's files, and check by sha256 those that ``metadata.json`` lists.

    Args:
        path: a build folder, a bundle, a ``.bin``, or a ``*_portable_int8.onnx`` or ``*_quantized_model.onnx``.

    Raises:
        ModelFileError: the path does not exist, a listed file is missing or changed, or a ``.bin`` is not a program.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        settle(path)
        metadata = read_metadata(path / FILE)
        files = {role: _listed(path, entry) for role, entry in metadata.files.items()}
        return Program(path, files, metadata)
    if not path.is_file():
        raise ModelFileError(
            f"{path} does not exist",
            expected="a build folder, a bundle or a .bin",
            remedy=f"edge build {path.name or 'MODEL'}",
        )
    for ending, role in ENDINGS.items():
        if path.name.endswith(ending):
            settle(path.parent)
            if role == "bin":
                _require_program(path)
            return _with_metadata(path, role)
    raise ModelFileError(
        f"{path.name} is not a program", expected="a name ending in " + ", ".join(ENDINGS), remedy="edge build MODEL"
    )


def _with_metadata(path: Path, role: Role) -> Program:
    """Use ``metadata.json`` beside a single file if it lists this file."""
    if not (path.parent / FILE).is_file():
        return Program(path, {role: path})
    try:
        metadata = read_metadata(path.parent / FILE)
    except ModelFileError as error:  # a common name: it may be another program's
        _log.warning("%s is ignored: %s", path.parent / FILE, error.seen)
        return Program(path, {role: path})
    entry = metadata.files.get(role)
    if entry is None or (entry.path != path.name and _digest(path) != entry.sha256):
        return Program(path, {role: path})
    _require_listed(path, entry)
    files: dict[Role, Path] = {role: path}
    labels = metadata.files.get("labels")
    if labels and (path.parent / labels.path).is_file():
        files["labels"] = _listed(path.parent, labels)
    return Program(path, files, metadata)


def _listed(folder: Path, entry: FileEntry) -> Path:
    """Return the path of a listed file, after checking that it is unchanged."""
    path = folder / entry.path
    _require_listed(path, entry)
    return path


def _require_listed(path: Path, entry: FileEntry) -> None:
    there = path.is_file()
    if not there or path.stat().st_size != entry.bytes:
        seen = f"{path} is missing or does not have {entry.bytes} bytes"
    elif _digest(path) != entry.sha256:
        seen = f"{path} was changed: its sha256 differs"
    else:
        return
    raise ModelFileError(
        seen, expected=f"the file that {FILE} lists", remedy="copy the whole folder again, or build it again"
    )


def _digest(path: Path) -> str:
    """Return a file's sha256; a process reads the same file only once."""
    status = path.stat()
    return _hashed(path, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


@lru_cache(maxsize=64)
def _hashed(path: Path, *_state: int) -> str:
    return sha256_of(path)


def _require_program(path: Path) -> None:
    """Refuse a file that is clearly not a program, or only its beginning.

    A ``.bin`` is a protocol buffer: two numbers, then the model and its description, each with its length before it.
    """
    size, other = path.stat().st_size, foreign(path)
    with path.open("rb") as stream:
        head = stream.read(64)
    kind, remedy = ("", "") if other is None or head.startswith(_START) else other
    if not kind and head.startswith(_START):
        length = at = 0
        for at, byte in enumerate(head[len(_START) :], len(_START)):
            length |= (byte & 127) << 7 * (at - len(_START))
            if byte < 128:
                break
        if at + 1 + length > size:
            kind = f"is cut off: it has {size:,} bytes of at least {at + 1 + length:,}"
    if kind:
        raise ModelFileError(
            f"{path} {kind}",
            expected="a program of the compiler",
            remedy=remedy or "copy or download it again, or edge build MODEL",
        )
