"""A finished build folder, read back: its files by role, and what ``manifest.json`` says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import field, frozen

from edge.errors import ModelFileError
from edge.files import is_plain_name, read_json, read_yaml
from edge.folder.metadata import FILE, Metadata, read_metadata
from edge.folder.publication import settle

MANIFEST = "manifest.json"


@frozen
class Built:
    """What ``edge build`` published in a folder, such as ``build/ConvNeXt_atto``."""

    folder: Path
    manifest: Mapping[str, Any]
    metadata: Metadata
    #: role -> existing file: ``bin``, ``float_onnx``, ``bpu_onnx``, ``calibrated_onnx``, ``quantized_onnx``,
    #: ``portable_onnx``, ``mapper_yaml``, ``compile_log``, ``quant_info``, …
    files: Mapping[str, Path]
    sha256: Mapping[str, str] = field(factory=dict)  #: role -> hash that the manifest lists.

    def file(self, role: str, *, remedy: str | None = None) -> Path:
        """Return the file of a role; ModelFileError if there is none (onnxruntime makes no ``bin``)."""
        if role not in self.files:
            raise ModelFileError(
                f"{self.folder} holds no {role}",
                expected=", ".join(sorted(self.files)),
                remedy=remedy or f"edge build {self.metadata.model}",
            )
        return self.files[role]


def compiler_settings(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the compiler's settings, flat: ``calibration_parameters.calibration_type`` -> ``default``.

    Args:
        files: of a build by their roles; without the mapper YAML nothing is known.
    """
    path = files.get("mapper_yaml")
    if path is None:
        return {}
    try:
        return dict(_flat("", read_yaml(path)))
    except (OSError, ValueError):
        return {}


def _flat(prefix: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(f"{prefix}.{key}".lstrip("."), inner)]
    return [(prefix, str(value))]


@contextmanager
def as_written(*folders: Path) -> Iterator[None]:
    """Turn what follows from documents that edge did not write so into a clear error.

    A received folder's documents are JSON, and each of their many values may be of another type.

    Raises:
        ModelFileError: instead of the KeyError, TypeError and so on.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ModelFileError(
            f"a document in {' or '.join(map(str, folders))} is not as edge writes it: {type(error).__name__} {error}",
            expected=f"{MANIFEST} and the other .json files of a build by this edge",
            remedy=f"edge build {folders[0].name}",
        ) from error


# Parts of the manifest that are JSON objects, where they are there.
_OBJECTS = ("accuracy", "calibration", "static", "toolchain", "verify")


def open_built(folder: Path) -> Built:
    """Read a finished build folder.

    Raises:
        ModelFileError: it is not a build folder, its manifest can't be read, or a listed file is missing or of
            another size.
    """
    remedy = f"edge build {folder.name}"
    settle(folder)
    try:
        manifest = read_json(folder / MANIFEST)
        listed = [
            (str(entry["role"]), folder / entry["path"], int(entry["bytes"]), str(entry["sha256"]))
            for entry in manifest["artifacts"]
        ]
    except FileNotFoundError:
        raise ModelFileError(
            f"{folder} holds no {MANIFEST}", expected="the folder of a finished build", remedy=remedy
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{folder / MANIFEST} can't be read: {type(error).__name__}", remedy=remedy) from error
    if wrong := [name for name in _OBJECTS if not isinstance(manifest.get(name) or {}, dict)]:
        raise ModelFileError(f"{folder / MANIFEST} can't be read: {wrong[0]} is no object", remedy=remedy)
    for _, path, size, _ in listed:
        if path.parent != folder or not is_plain_name(path.name):
            raise ModelFileError(f"{folder / MANIFEST} names {path}", expected="files in that folder", remedy=remedy)
        if not path.is_file() or path.stat().st_size != size:
            raise ModelFileError(f"{path} is missing or does not have {size} bytes", remedy=remedy)
    return Built(
        folder=folder,
        manifest=manifest,
        metadata=read_metadata(folder / FILE),
        files={role: path for role, path, _, _ in listed},
        sha256={role: digest for role, _, _, digest in listed},
    )
