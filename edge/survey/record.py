"""The measurements of each model, as one small JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import cattrs
from attrs import evolve, field, frozen
from filelock import FileLock

from edge.errors import InputError
from edge.files import disk_errors, write_json

RECORDS = "models.json"
SCHEMA = 1
LEVELS = ("O0", "O1", "O2", "O3")


@frozen
class Counted:
    """Size and work of the exported network, see :class:`edge.graph.count.Work`."""

    height: int  #: of the input, pixels.
    width: int  #: of the input, pixels.
    parameters: int  #: of the exported ONNX.
    macs: int  #: multiply-accumulates of convolutions and matrix products for one image.
    attention: int  #: the part of ``macs`` in products of two activations.
    other: int  #: operations of everything else.
    #: side of the square input for which the published FLOPs were counted, if it differs.
    published_at: int | None = None
    macs_published_at: int | None = None  #: ``macs`` at that input.
    versions: Mapping[str, str] = field(factory=dict)  #: of the packages that exported and counted.
    #: largest difference between the scores of the exported ONNX and of its framework, as a share of their range; None
    #: if the file was an ONNX, or in a record of an earlier edge.
    max_error: float | None = None


@frozen
class Checked:
    """Where the compiler's checker puts the nodes."""

    weights: str  #: such as ``random``.
    nodes: int = 0  #: operators of the ONNX that is compiled.
    bpu: int = 0  #: nodes on the BPU, as the compiler merges them.
    cpu: int = 0  #: nodes on the CPU.
    tail: tuple[str, ...] = ()  #: names of the CPU nodes behind the last BPU node; they turn the result into scores.
    #: names of CPU nodes before it that the model's recipe moves to the BPU; the checker does not see the recipe.
    moved: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()  #: names of all other CPU nodes.
    seconds: float = 0.0  #: of export, simplification and check together.
    peak_memory: int | None = None  #: bytes that the checker held at most; None if unknown.
    versions: Mapping[str, str] = field(factory=dict)  #: of the compiler.
    failed: str = ""  #: why there is no placement; empty if there is one.
    machine: bool = False  #: whether the check failed because of the machine (no memory, no compiler), not the model.
    network: str = ""  #: content of the ONNX and the recipe.
    same_as: str = ""  #: model of the same network whose check this is; empty if it was checked itself.
    remedy: str = ""  #: what to do about ``failed``; empty if unknown.
    max_error: float | None = None  #: of the exported ONNX, as in :class:`Counted`.

    @property
    def passed(self) -> bool:
        """Whether the network runs on the BPU from end to end."""
        return not self.failed and not self.inside and self.bpu > 0


@frozen
class Compiled:
    """A real compile. Values that an earlier edge did not record are empty or None."""

    weights: str  #: their source; static speed does not depend on it.
    level: str  #: optimisation level.
    recipe: str  #: precision recipe.
    latency_us: float | None  #: static, microseconds.
    fps: float | None  #: static.
    ddr_bytes: int | None  #: memory traffic per frame.
    bin_bytes: int  #: size of the program.
    seconds: float  #: time of the compiler.
    peak_memory: int | None  #: bytes that it and its children held at most; None if unknown.
    bpu: int  #: nodes on the BPU.
    cpu: int  #: nodes on the CPU.
    inside: tuple[str, ...] = ()  #: names of the CPU nodes before the last BPU node.
    verified: bool | None = None  #: whether verify found program and quantized model equal; None if it did not run.
    versions: Mapping[str, str] = field(factory=dict)  #: of the compiler.
    onnx: str = ""  #: sha256 of the ONNX that was compiled.
    network: str = ""  #: content of the simplified ONNX and the recipe, as in :class:`Checked`.
    recipe_sha256: str = ""  #: of the recipe's content, see :func:`edge.survey.collect.recipe_sha256`.
    tag: str = ""  #: of the weights: timm tag, URL or file name.
    seed: int | None = None  #: of random weights; else None.
    max_error: float | None = None  #: of the exported ONNX, as in :class:`Counted`.
    images: int | None = None  #: number of calibration images.
    calibration: str = ""  #: source of these images.
    calibration_sha256: str = ""  #: of the set.
    toolchain: str = ""  #: identity of the compiler: its versions and its lock file.
    machine: str = ""  #: the machine that compiled, for ``seconds`` and ``peak_memory``.
    command: str = ""  #: compiles the same again; empty if no command line does, as with own images.


@frozen
class Record:
    """All measurements of one model; None if not measured."""

    counted: Counted | None = None
    checked: Checked | None = None
    compiled: Compiled | None = None

    @property
    def same_network(self) -> bool | None:
        """Whether the program is from the network of the check; None if unknown."""
        checked, compiled = self.checked, self.compiled
        if not (checked and checked.network and compiled and compiled.network):
            return None
        if checked.weights != compiled.weights:
            return None  # trained weights and random ones are never the same bytes
        return checked.network.partition(" ")[0] == compiled.network.partition(" ")[0]

    def update(self, new: Record) -> Record:
        """Return this record, updated.

        A compile is replaced by one of the same or a higher level, and by any one if it is from another network than
        the check. A check that failed for lack of memory or of a compiler does not replace one that did not fail.
        """
        checked = new.checked or self.checked
        if checked and checked.machine and self.checked and not self.checked.failed:
            checked = self.checked
        old, compiled = self.compiled, new.compiled
        current = Record(checked=checked, compiled=old).same_network is not False
        if old and compiled and current and LEVELS.index(compiled.level) < LEVELS.index(old.level):
            compiled = old
        return evolve(self, counted=new.counted or self.counted, checked=checked, compiled=compiled or old)


Records = Mapping[str, Record]


def load_records(path: Path) -> dict[str, Record]:
    """Read the records of all models; none if there is no such file.

    Raises:
        InputError: the file can't be read, or edge did not write it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except NotADirectoryError as error:
        above = next(folder for folder in path.parents if folder.exists())
        raise InputError(
            f"{path} can't exist: {above} is a file", expected="a file in a folder", remedy="name another folder"
        ) from error
    except UnicodeDecodeError as error:
        raise _foreign(path, error) from error
    except OSError as error:
        raise InputError(
            f"{path} can't be read: {error.strerror}", remedy=f"ls -ld {path}   shows why; or name another file"
        ) from error
    try:
        data = json.loads(text)
        version, models = data["schema_version"], cattrs.structure(data["models"], dict[str, Record])
    except (ValueError, KeyError, TypeError, cattrs.BaseValidationError) as error:
        raise _foreign(path, error) from error
    if version != SCHEMA:
        raise InputError(f"{path} has schema version {version}", expected=str(SCHEMA))
    return models


def _foreign(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} can't be read as records of models: {type(error).__name__}",
        expected="the file that edge models --measure, --check-all and --page write",
        remedy=f"mv {path} {path}.old, and measure again",
    )


def save_records(path: Path, records: Records) -> None:
    """Write the records of all models, sorted by name."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        models = {name: cattrs.unstructure(records[name]) for name in sorted(records)}
        write_json(path, {"schema_version": SCHEMA, "models": models})


def keep(path: Path, new: Records) -> dict[str, Record]:
    """Update the records of some models in a file, and return all of them.

    Several processes may do this at the same time: each waits for the others.
    """
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            records = load_records(path)
            for name, record in new.items():
                records[name] = records.get(name, Record()).update(record)
            save_records(path, records)
    return records
