"""Find the files of a program: a build folder, a bundle, or a single file."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from attrs import frozen

from edge.errors import ModelFileError
from edge.folder.metadata import FILE, Metadata, Role, read_metadata

# How a single file tells what it is.
ENDINGS: dict[str, Role] = {".bin": "bin", "_portable_int8.onnx": "portable", "_quantized_model.onnx": "quantized"}
_log = logging.getLogger("edge.runtime")


@frozen
class Program:
    """A program on disk."""

    path: Path  #: what the user named.
    files: dict[Role, Path]  #: role -> existing file.
    metadata: Metadata | None = None  #: None for a single file without a ``metadata.json`` that speaks of it.

    @property
    def name(self) -> str:
        """For messages."""
        return self.metadata.name if self.metadata else self.path.name

    @property
    def folder(self) -> Path:
        """What its files lie in."""
        return self.path if self.path.is_dir() else self.path.parent

    def class_names(self) -> tuple[str, ...] | None:
        """Return the class names in index order; None where it brings none."""
        from edge.images import class_names

        return class_names(str(self.files["labels"])) if "labels" in self.files else None


def locate(path: str | Path) -> Program:
    """Find the program's files and check those that ``metadata.json`` lists by size.

    Args:
        path: a build folder, a bundle, a ``.bin``, or a ``*_portable_int8.onnx`` or ``*_quantized_model.onnx``.

    Raises:
        ModelFileError: nothing is there, a listed file is missing or of another size.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        metadata = read_metadata(path / FILE)
        files = {role: path / entry.path for role, entry in metadata.files.items()}
        for role, entry in metadata.files.items():
            if not files[role].is_file() or files[role].stat().st_size != entry.bytes:
                raise ModelFileError(
                    f"{files[role]} is missing or not of {entry.bytes} bytes",
                    expected=f"the file that {FILE} lists",
                    remedy="copy the whole folder again, or build it again",
                )
        return Program(path, files, metadata)
    if not path.is_file():
        raise ModelFileError(
            f"{path} does not exist",
            expected="a build folder, a bundle or a .bin",
            remedy=f"edge build {path.name or 'MODEL'}",
        )
    for ending, role in ENDINGS.items():
        if path.name.endswith(ending):
            return _with_metadata(path, role)
    raise ModelFileError(
        f"{path.name} is no program", expected="a name ending in " + ", ".join(ENDINGS), remedy="edge build MODEL"
    )


def _with_metadata(path: Path, role: Role) -> Program:
    """Take ``metadata.json`` beside a single file if it speaks of this very file."""
    if not (path.parent / FILE).is_file():
        return Program(path, {role: path})
    try:
        metadata = read_metadata(path.parent / FILE)
    except ModelFileError as error:  # a common name: it may be another program's
        _log.warning("%s is left out: %s", path.parent / FILE, error.seen)
        return Program(path, {role: path})
    entry = metadata.files.get(role)
    if entry is None or hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
        return Program(path, {role: path})
    files: dict[Role, Path] = {role: path}
    labels = metadata.files.get("labels")
    if labels and (path.parent / labels.path).is_file():
        files["labels"] = path.parent / labels.path
    return Program(path, files, metadata)
