"""The search space: how thresholds are chosen and weights rounded, and which units get 16 bits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from attrs import evolve, frozen

from edge.compiler.rules import OPERATOR_FORM
from edge.measure.layers import Group
from edge.simulate.fakequant import INT16, Quantizer, Translated
from edge.specs import Calibration, NodePrecision, Precision
from edge.specs.schema import Equalization, Level, RangeSplit, Rewrite, Rounding, Thresholds

NOTE = "found by edge tune; the evidence below says on what"
PREPROCESS = "HzPreprocess"
FAMILY = "family"

# In the order in which they are tried; those that gained most on trained networks come first.
CALIBRATIONS: Mapping[str, Calibration] = {
    "max 0.9999": Calibration("max", max_percentile=0.9999),
    "max 0.9999 per channel": Calibration("max", max_percentile=0.9999, per_channel=True),
    "kl": Calibration("kl"),
    "mix": Calibration("mix"),
    "max": Calibration("max"),
    "max 0.9999 asymmetric": Calibration("max", max_percentile=0.9999, optimization=("asymmetric",)),
    "default, bias corrected": Calibration("default", optimization=("bias_correction",)),
}
SLOW = ("default, bias corrected", "kl")  # they take three to five times as long as the others
EQUALIZED = Equalization()
SPLIT, FINER = RangeSplit(2), RangeSplit(4)
LEARNED = Thresholds()
REWRITES: tuple[Rewrite, ...] = ("channel_mean",)
ROUNDED = Rounding()
# Tried if rounding was better: more images, and more or less weight of rare inputs.
ROUNDINGS: Mapping[str, Rounding] = {
    "on 256 images": Rounding(images=256),
    "damping 0.1": Rounding(damping=0.1),
    "damping 0.002": Rounding(damping=0.002),
}


@frozen
class Unit:
    """A layer, a tensor, or a group of them that get 16 bits together."""

    name: str  #: as shown to the user: a module path, or two nodes with an arrow for a single tensor.
    kind: str  #: such as ``LayerNorm``, ``add`` or ``tensor``.
    nodes: Mapping[str, NodePrecision]  #: node -> its setting in a recipe.
    widened: frozenset[int]  #: quantizers that become 16 bits, indices in graph order.


def units(graph: Translated, groups: Sequence[Group], on_cpu: Iterable[str] = ()) -> tuple[Unit, ...]:
    """Return the units of a calibrated model that can get 16 bits.

    These are each layer, each tensor alone, and all layers or tensors of one kind together, since many small losses
    add up that no single unit shows.

    A node that reads the image keeps its 8-bit inputs: camera pixels have no more bits, and a program with 16 bits
    there differed from the compiler's own quantized model.
    """
    skipped = set(on_cpu) | {node.name for node in graph.nodes if node.op_type == PREPROCESS}
    reads_image = _readers_of_image(graph, skipped)
    found: list[Unit] = []
    for group in groups:
        names = [name for name in group.nodes if name not in skipped]
        nodes = {
            name: NodePrecision(
                "BPU", inputs=None if name in reads_image else "int16", outputs=None if group.last else "int16"
            )
            for name in names
        }
        found.append(_unit(graph, group.name, group.kind, nodes))
    for item in graph.quantizers:
        if item.weight or not item.producer or item.producer in skipped:
            continue
        readers = [name for name in item.consumers if name not in skipped]
        if not readers:
            continue
        nodes = {item.producer: NodePrecision("BPU", outputs="int16")}
        nodes |= {name: NodePrecision("BPU", inputs="int16") for name in readers}
        found.append(_unit(graph, _tensor_name(item.producer, readers), "tensor", nodes))
        for name in readers if len(readers) > 1 else ():
            one = {name: NodePrecision("BPU", inputs="int16")}
            found.append(_unit(graph, f"inputs of {name.strip('/')}", "inputs", one))
    kept: dict[frozenset[int], Unit] = {}
    for unit in [*found, *families(found)]:
        # If two units widen the same tensors, keep the one with fewer settings.
        known = kept.get(unit.widened)
        if unit.widened and (known is None or len(unit.nodes) < len(known.nodes)):
            kept[unit.widened] = unit
    return tuple({unit.name: unit for unit in kept.values()}.values())


def families(members: Sequence[Unit]) -> tuple[Unit, ...]:
    """Return units that join all units of one kind, in the network or in one of its stages.

    The kind of a layer is its type, the kind of a tensor the operators at its ends.
    """
    kinds: dict[str, list[Unit]] = {}
    for unit in members:
        if unit.kind == "inputs":
            continue
        kind = signature(unit.name) if unit.kind == "tensor" else unit.kind
        kinds.setdefault(f"every {kind}", []).append(unit)
        stage = re.search(r"(?:stages|layers|blocks|features)\.\d+", unit.name)
        if stage is not None:
            kinds.setdefault(f"every {kind} of {stage.group()}", []).append(unit)
    return tuple(
        Unit(name, FAMILY, combined(some), frozenset().union(*(unit.widened for unit in some)))
        for name, some in kinds.items()
        if len(some) > 1
    )


def signature(name: str) -> str:
    """Return a tensor's name without its module: ``fc1/Conv → act/Mul``."""
    inside = name.partition(": ")[2] or name
    ends = re.split(r" → |, ", inside)
    bare = [re.sub(r"[._]?\d+", "", "/".join(end.split("/")[-2:])) for end in ends if end]
    return " → ".join(bare)


def combined(chosen: Iterable[Unit]) -> dict[str, NodePrecision]:
    """Return the settings of several units as one table, in the units' order."""
    table: dict[str, NodePrecision] = {}
    for unit in chosen:
        for name, setting in unit.nodes.items():
            known = table.get(name, NodePrecision("BPU"))
            table[name] = NodePrecision(
                "BPU", inputs=setting.inputs or known.inputs, outputs=setting.outputs or known.outputs
            )
    return table


def operator_items(precision: Precision) -> tuple[str, ...]:
    """Return the optimization items that give all nodes of an operator a type, ``set_<Op>_...``.

    They decide where an operator runs, not how thresholds are chosen: a Softmax without one runs on the CPU.
    """
    return tuple(item for item in precision.calibration.optimization if re.fullmatch(OPERATOR_FORM, item))


def keeping(calibration: Calibration, items: Iterable[str]) -> Calibration:
    """Return a calibration with further optimization items, each once."""
    return evolve(calibration, optimization=tuple(dict.fromkeys([*calibration.optimization, *items])))


def baseline(int8: Precision, own: Precision) -> Precision:
    """Return plain int8 for a model: int8 with the operators' types of the model's own recipe."""
    items = operator_items(own)
    if not items:
        return int8
    note = f"every node int8, with {', '.join(items)} of {own.name}"
    return evolve(int8, calibration=keeping(int8.calibration, items), note=note)


def recipe(model: str, base: Precision, calibration: Calibration, rounding: Rounding | None) -> Precision:
    """Return a recipe of the search: named after the model, with compiler settings and operator types of ``base``."""
    return Precision(
        name=model,
        calibration=keeping(calibration, operator_items(base)),
        compiler=base.compiler,
        note=NOTE,
        rounding=rounding,
    )


def at_level(precision: Precision, level: Level) -> Precision:
    """Return the recipe with another optimisation level; its integers stay the same."""
    return evolve(precision, compiler=evolve(precision.compiler, optimize_level=level))


def with_thresholds(precision: Precision) -> Precision | None:
    """Return the recipe with thresholds chosen by the answers; None if it calibrates what can't be told.

    ``default`` may choose what can't be told, such as factors of channels; it is replaced by the method that chooses
    among the others for each tensor.
    """
    if precision.calibration.beyond_thresholds:
        return None
    default = precision.calibration.method == "default"
    calibration = evolve(precision.calibration, method="mix") if default else precision.calibration
    return evolve(precision, calibration=calibration, thresholds=LEARNED)


def with_int16(precision: Precision, within: float) -> Precision:
    """Return a recipe with chosen thresholds that also grants time to 16-bit activations, relative to int8's."""
    return evolve(precision, thresholds=evolve(precision.thresholds or LEARNED, int16_latency=round(within, 3)))


def _unit(graph: Translated, name: str, kind: str, nodes: Mapping[str, NodePrecision]) -> Unit:
    return Unit(name, kind, nodes, frozenset(_widened(graph.quantizers, nodes)))


def _widened(quantizers: Sequence[Quantizer], nodes: Mapping[str, NodePrecision]) -> Iterable[int]:
    """Yield the quantizers that get 16 bits by the settings."""
    reading = {name for name, setting in nodes.items() if setting.inputs}
    writing = {name for name, setting in nodes.items() if setting.outputs}
    for i, item in enumerate(quantizers):
        if item.weight or item.bits == INT16:
            continue
        if item.producer in writing or reading & set(item.consumers):
            yield i


def _readers_of_image(graph: Translated, preprocess: set[str]) -> set[str]:
    """Return the nodes that read the image or the preprocess node's output."""
    made = {graph.image} | {name for node in graph.nodes if node.op_type == PREPROCESS for name in node.output}
    made |= {item.output for item in graph.quantizers if item.tensor in made}
    found = {node.name for node in graph.nodes if made & set(node.input)}
    return found | preprocess


def _tensor_name(producer: str, readers: Sequence[str]) -> str:
    """Return ``path: A → B`` for nodes of one module, else both in full."""
    path, _, last = producer.strip("/").rpartition("/")
    inside = [name.strip("/").rpartition("/") for name in readers]
    if path and all(folder == path for folder, _, _ in inside):
        return f"{path}: {last} → {', '.join(name for _, _, name in inside)}"
    return f"{producer.strip('/')} → {', '.join(name.strip('/') for name in readers)}"
