"""``metadata.json``: what a program is and how its input is made; it travels with the program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import cattrs
from attrs import field, frozen

from edge.errors import ModelFileError, SpecError
from edge.files import is_plain_name, read_json, write_json
from edge.specs import Detector, Preprocess
from edge.specs.schema import MARCH, Input, Output, ScoreKind, Task

FILE = "metadata.json"
SCHEMA_VERSION = 1
# Keys in the metadata of a portable model's ONNX file.
EXACT_KEY = "edge.exact"  # "1" where it computes the program's integers
INPUTS_KEY = "edge.inputs"  # JSON: [name, shape in NCHW, whether it is NV12] of each, where it is not one image
SIZE_KEY = "edge.size"  # "HxW" of the NV12 image that it takes

Role = Literal["bin", "portable", "quantized", "labels", "test"]


@frozen
class FileEntry:
    """A file beside ``metadata.json``: its name, size in bytes and sha256."""

    path: str  #: name in the same folder.
    bytes: int  #: size.
    sha256: str  #: hash of the content.


@frozen
class Metadata:
    """What the runtime must know about a program."""

    name: str  #: of the program, such as ``ConvNeXt_atto_demo``.
    model: str  #: the zoo's name of the model, or the user's.
    weights: str  #: source of the weights, as ``weights`` in ``manifest.json`` names it.
    preprocess: Preprocess  #: from an image to the network's input. The program itself takes NV12.
    classes: int  #: number of scores; 0 where the outputs are no class scores.
    #: ``bin``, ``portable``, ``quantized``, ``labels`` and ``test`` (an input and its answer), as far as they exist.
    files: Mapping[Role, FileEntry]
    toolchain: Mapping[str, str] = field(factory=dict)  #: versions of what compiled or quantized it.
    exact: bool = False  #: whether the portable model gives the same integers as the program.
    march: str = MARCH  #: of the BPU: ``bayes-e``.
    scores: ScoreKind | None = None  #: what a classifier's scores are; None in a build of an earlier edge.
    task: Task = "classify"  #: what the outputs mean.
    #: of a network that takes more than one camera image, or something else; empty for one image.
    inputs: tuple[Input, ...] = ()
    detector: Detector | None = None  #: how boxes are read from the outputs; None but for a detector.
    outputs: tuple[Output, ...] = ()  #: of the float network, in the program's order; empty from an earlier edge.
    schema_version: int = SCHEMA_VERSION


def write_metadata(path: Path, metadata: Metadata) -> None:
    """Write ``metadata.json`` whole or not at all."""
    write_json(path, cattrs.unstructure(metadata))


def read_metadata(path: Path) -> Metadata:
    """Read ``metadata.json``.

    Raises:
        ModelFileError: it is missing, not JSON, of another version, or breaks the schema.
    """
    try:
        data = read_json(path)
        version = data["schema_version"]
        if version != SCHEMA_VERSION:
            raise ModelFileError(
                f"{path} is of schema {version}",
                expected=f"schema {SCHEMA_VERSION}",
                remedy="build it again with this edge, or install the edge that made it",
            )
        found = cattrs.structure(data, Metadata)
    except FileNotFoundError:
        raise ModelFileError(
            f"{path.parent} holds no {FILE}",
            expected="a finished build folder or a bundle",
            remedy=f"edge build {path.parent.name}",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, SpecError, cattrs.BaseValidationError) as error:
        raise ModelFileError(
            f"{path} can't be read: {type(error).__name__}", remedy="build or bundle it again"
        ) from error
    for name in (found.name, found.model, *(entry.path for entry in found.files.values())):
        if not is_plain_name(name):  # names become parts of paths
            raise ModelFileError(
                f"{path} names {name!r}", expected="names without folders", remedy="build or bundle it again"
            )
    return found
