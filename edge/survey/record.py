"""What was measured of each model, as one small JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import cattrs
from attrs import evolve, field, frozen

from edge.atomic import disk_errors, write_json
from edge.errors import InputError

RECORDS = "models.json"
SCHEMA = 1
LEVELS = ("O0", "O1", "O2", "O3")


@frozen
class Counted:
    """Size and work of the exported network, see :class:`edge.macs.Work`.

    Attributes:
        height: of the input, pixels.
        width: of the input, pixels.
        parameters: of the exported ONNX.
        macs: multiply-accumulates of convolutions and matrix products for one picture.
        attention: those of ``macs`` between two activations.
        other: operations of everything else.
        published_at: side of the square input for which the published FLOPs were counted, where that is
            another.
        macs_published_at: ``macs`` at that input.
        versions: of what exported and counted.
    """

    height: int
    width: int
    parameters: int
    macs: int
    attention: int
    other: int
    published_at: int | None = None
    macs_published_at: int | None = None
    versions: Mapping[str, str] = field(factory=dict)


@frozen
class Checked:
    """Where the compiler's checker puts the nodes.

    Attributes:
        weights: such as ``random``.
        nodes: operators of the ONNX that the compiler takes.
        bpu: nodes on the BPU, as the compiler merges them.
        cpu: nodes on the CPU.
        tail: names of the CPU nodes behind the last BPU node: what turns the result into scores.
        moved: names of CPU nodes before it that the model's recipe moves to the BPU, which the checker is not
            told of.
        inside: names of all other CPU nodes.
        seconds: of export, simplification and check together.
        peak_memory: bytes that the checker held at most; None if unknown.
        versions: of the compiler.
        failed: why there is no placement; empty if there is one.
        machine: whether the machine is the reason, which lacks memory or the compiler, and not the model.
        network: content of the ONNX and the recipe that it was held against.
        same_as: model of the same network, whose check this is; empty if it was checked itself.
    """

    weights: str
    nodes: int = 0
    bpu: int = 0
    cpu: int = 0
    tail: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_memory: int | None = None
    versions: Mapping[str, str] = field(factory=dict)
    failed: str = ""
    machine: bool = False
    network: str = ""
    same_as: str = ""

    @property
    def passed(self) -> bool:
        """Whether the network runs on the BPU from end to end."""
        return not self.failed and not self.inside and self.bpu > 0


@frozen
class Compiled:
    """A real compile.

    Attributes:
        weights: where they came from; static speed does not depend on it.
        level: optimisation level.
        recipe: precision recipe.
        latency_us: static, microseconds.
        fps: static.
        ddr_bytes: memory traffic a frame.
        bin_bytes: size of the program.
        seconds: that the compiler took.
        peak_memory: bytes that it and its children held at most; None if unknown.
        bpu: nodes on the BPU.
        cpu: nodes on the CPU.
        inside: names of the CPU nodes before the last BPU node.
        verified: whether the program was seen to equal the quantized model; None if nobody looked.
        versions: of the compiler.
    """

    weights: str
    level: str
    recipe: str
    latency_us: float | None
    fps: float | None
    ddr_bytes: int | None
    bin_bytes: int
    seconds: float
    peak_memory: int | None
    bpu: int
    cpu: int
    inside: tuple[str, ...] = ()
    verified: bool | None = None
    versions: Mapping[str, str] = field(factory=dict)


@frozen
class Record:
    """Everything measured of one model; None what was not."""

    counted: Counted | None = None
    checked: Checked | None = None
    compiled: Compiled | None = None

    def update(self, new: Record) -> Record:
        """Return this record with what is new.

        A compile gives way to one of the same or a higher level. A check that failed for want of memory or of
        a compiler is no reason to forget one that did not.
        """
        checked = new.checked or self.checked
        if checked and checked.machine and self.checked and not self.checked.failed:
            checked = self.checked
        old, compiled = self.compiled, new.compiled
        if old and compiled and LEVELS.index(compiled.level) < LEVELS.index(old.level):
            compiled = old
        return evolve(
            self,
            counted=new.counted or self.counted,
            checked=checked,
            compiled=compiled or old,
        )


Records = Mapping[str, Record]


def load_records(path: Path) -> dict[str, Record]:
    """Read the records of all models; none if there is no such file.

    Raises:
        InputError: the file is none of ours.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version, models = data["schema_version"], cattrs.structure(data["models"], dict[str, Record])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, cattrs.BaseValidationError) as error:
        raise InputError(
            f"{path} can't be read as records of models: {type(error).__name__}",
            allowed="the file that edge models --measure, --check-all and --page write",
            remedy=f"mv {path} {path}.old, and measure again",
        ) from error
    if version != SCHEMA:
        raise InputError(f"{path} has schema version {version}", allowed=str(SCHEMA))
    return models


def save_records(path: Path, records: Records) -> None:
    """Write the records of all models, sorted by name.

    Raises:
        WorkspaceError: the file can't be written.
    """
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        models = {name: cattrs.unstructure(records[name]) for name in sorted(records)}
        write_json(path, {"schema_version": SCHEMA, "models": models})


def keep(path: Path, name: str, new: Record) -> None:
    """Add what is new of one model to the records in a file.

    Raises:
        InputError: the file is none of ours.
        WorkspaceError: it can't be written.
    """
    records = load_records(path)  # read anew: another edge may survey other models meanwhile
    records[name] = records.get(name, Record()).update(new)
    save_records(path, records)
