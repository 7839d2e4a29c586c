"""The split stage: channels in groups of similar range, so that each group's int8 steps fit it.

The compiler gives a tensor one threshold. In front of a depthwise convolution that costs most: a few wide channels
take the steps of all the narrow ones. Here the channels between a convolution and the next but one are sorted by range
and cut into groups, each with tensors of its own::

    Conv → act → depthwise Conv → act → Conv
    Conv, act, depthwise Conv, act  per group  → Concat → Conv

The float function stays, and no multiplication is added. Groups are cut where the noise of the rounding, seen through
the weights that follow, is least: an exact search over the sorted channels.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.errors import ModelFileError, counted
from edge.graph.files import copied, image_input, load_onnx, open_exposed
from edge.graph.view import View, unused
from edge.images.preprocess import calibration_input
from edge.prepare.guard import Guard, reference, refused
from edge.progress import Reporter, Silent
from edge.specs import Preprocess, RangeSplit

if TYPE_CHECKING:
    import onnx

GUARDED = 4  # calibration images on which the outputs are compared, besides noise
# The BPU computes channels in blocks; a smaller group takes the time of a whole block.
BLOCK = 8
LISTED = 4  # places that an error names
PERCENTILE = 99.9  # of a channel's magnitudes: what a threshold covers, without the few largest values
_ONE = ("Relu", "LeakyRelu", "Clip")  # activations of one node
_FUSED = ("Relu", "Clip")  # the compiler makes them part of the convolution
_GATES = ("Sigmoid", "HardSigmoid")  # x * gate(x)

Ranges = NDArray[np.float64]
"""(channels,): the magnitude that covers a channel."""


@frozen
class Activated:
    """A convolution and the activation behind it."""

    convolution: onnx.NodeProto
    activation: tuple[onnx.NodeProto, ...]  #: none, one node, or a gate and its product.

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the values that are rounded: before the activation, unless the compiler fuses it, and behind it."""
        before, after = self.convolution.output[0], self.output
        fused = not self.activation or self.activation[0].op_type in _FUSED
        return (after,) if fused else (before, after)

    @property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """All nodes of it."""
        return self.convolution, *self.activation

    @property
    def output(self) -> str:
        """Name of the value behind the activation."""
        return str(self.nodes[-1].output[0])


@frozen
class Place:
    """Where channels can be grouped."""

    first: Activated  #: a convolution over all channels.
    depthwise: tuple[Activated, ...]  #: those that read it, and nothing else does.
    readers: tuple[tuple[onnx.NodeProto, ...], ...]  #: convolutions over all channels that read each of them.

    @property
    def name(self) -> str:
        """The name of the first convolution's node."""
        return str(self.first.convolution.name)


def find_places(model: onnx.ModelProto) -> tuple[Place, ...]:
    """Return the places of a simplified graph with channels for two groups, in graph order."""
    view, found = View(model), []
    for node in view.nodes:
        if not _joining(view, node) or view.initializers[node.input[1]].dims[0] <= BLOCK:
            continue
        first = _activated(view, node)
        behind = view.readers(first.output)
        if view.is_output(first.output) or not behind or not all(_depthwise(view, one) for one in behind):
            continue
        depthwise = tuple(_activated(view, one) for one in behind)
        readers = tuple(tuple(view.readers(one.output)) for one in depthwise)
        if any(view.is_output(one.output) for one in depthwise) or not all(
            part and all(_joining(view, reader) for reader in part) for part in readers
        ):
            continue
        found.append(Place(first, depthwise, readers))
    return tuple(found)


def _activated(view: View, node: onnx.NodeProto) -> Activated:
    value = node.output[0]
    readers = view.readers(value)
    if view.is_output(value):
        return Activated(node, ())
    if len(readers) == 1 and readers[0].op_type in _ONE:
        return Activated(node, (readers[0],))
    gates = [reader for reader in readers if reader.op_type in _GATES]
    if len(readers) == 2 and len(gates) == 1:
        product = view.only_reader(gates[0], "Mul")
        if product is not None and view.other(product, gates[0]) == view.source(value):
            return Activated(node, (gates[0], product))
    return Activated(node, ())


def _groups(view: View, node: onnx.NodeProto) -> int:
    return int(view.attribute(node, "group", 1))


def _joining(view: View, node: onnx.NodeProto) -> bool:
    """Tell whether a node is a convolution over all channels."""
    return node.op_type == "Conv" and _groups(view, node) == 1 and _constant(view, node)


def _constant(view: View, node: onnx.NodeProto) -> bool:
    return all(name in view.initializers for name in node.input[1:] if name)


def _depthwise(view: View, node: onnx.NodeProto) -> bool:
    """Tell whether a node convolves each channel by itself, one output a channel."""
    if node.op_type != "Conv" or not _constant(view, node):
        return False
    outputs, share = view.initializers[node.input[1]].dims[:2]
    return bool(share == 1 and _groups(view, node) == outputs > 1)


def cut(ranges: Sequence[Ranges], gains: Sequence[Ranges], groups: int, block: int = BLOCK) -> list[NDArray[np.int64]]:
    """Return the channels of each group, so that the rounding noise behind them is least.

    A tensor of threshold T is rounded with noise T² / (3 * 255²) a value, whichever the channel; channel c passes it
    on with the power ``gains[c]``. So the sum over tensors and channels of ``gain * T(group)²`` is minimised, over all
    cuts of the channels sorted by the first tensor's range.

    Args:
        ranges: (channels,) of each tensor that is rounded.
        gains: (channels,) of each.
        groups: how many; fewer if the channels are too few.
        block: each group but the last has a multiple of these.
    """
    order = np.argsort(ranges[0], kind="stable")
    count = len(order)
    ends = [*range(block, count, block), count]
    sorted_ranges = [np.asarray(r)[order] for r in ranges]
    sums = [np.concatenate([[0.0], np.cumsum(np.asarray(g)[order])]) for g in gains]

    def noise(start: int, end: int) -> float:
        return float(
            sum(
                (total[end] - total[start]) * float(r[start:end].max()) ** 2
                for r, total in zip(sorted_ranges, sums, strict=True)
            )
        )

    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for _ in range(min(groups, len(ends))):
        fresh: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start, (loss, cuts) in best.items():
            for end in ends:
                if end > start:
                    total = loss + noise(start, end)
                    if end not in fresh or total < fresh[end][0]:
                        fresh[end] = (total, (*cuts, end))
        best = fresh
    edges = best[count][1] if count in best else (count,)
    return [np.sort(part) for part in np.split(order, edges[:-1])]


def split(model: onnx.ModelProto, groups: Mapping[str, Sequence[NDArray[np.int64]]]) -> onnx.ModelProto:
    """Return the graph with the channels of places in groups; the same function.

    Args:
        groups: name of a place → the channels of each group.
    """
    result = copied(model)
    for name, parts in groups.items():  # one at a time: the reader of one place may be the first layer of another
        place = next((place for place in find_places(result) if place.name == name), None)
        if place is not None and len(parts) > 1:
            _split_one(result, place, parts)
    return result


def _split_one(model: onnx.ModelProto, place: Place, parts: Sequence[NDArray[np.int64]]) -> None:
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def constant(name: str, values: NDArray[np.float32]) -> str:
        name = unused(graph, name)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def part_of(layer: Activated, source: str, number: int, channels: NDArray[np.int64]) -> list[onnx.NodeProto]:
        """Return the nodes of one group, the convolution's constants cut."""
        made, renamed = [], {}
        for node in (layer.convolution, *layer.activation):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name, copy.output[0] = f"{node.name}_g{number}", f"{node.output[0]}_g{number}"
            renamed[node.output[0]] = copy.output[0]
            if node is layer.convolution:
                copy.input[0] = source
                for place_, name in enumerate(copy.input[1:], start=1):
                    if name:
                        copy.input[place_] = constant(f"{name}_g{number}", tensors[name][channels])
                for attribute in copy.attribute:
                    if attribute.name == "group" and attribute.i > 1:
                        attribute.i = len(channels)
            else:
                for place_, name in enumerate(copy.input):
                    copy.input[place_] = renamed.get(name, name)
            made.append(copy)
        return made

    fresh: list[onnx.NodeProto] = []
    joined: dict[str, list[str]] = {layer.output: [] for layer in place.depthwise}
    for number, channels in enumerate(parts):
        first = part_of(place.first, place.first.convolution.input[0], number, channels)
        fresh += first
        for layer in place.depthwise:
            nodes = part_of(layer, first[-1].output[0], number, channels)
            fresh += nodes
            joined[layer.output].append(nodes[-1].output[0])
    order = np.concatenate(list(parts))
    for layer, readers in zip(place.depthwise, place.readers, strict=True):
        last = (layer.convolution, *layer.activation)[-1]
        value = f"{layer.output}_joined"
        fresh.append(onnx.helper.make_node("Concat", joined[layer.output], [value], f"{last.name}_joined", axis=1))
        for reader in readers:
            reader.input[0] = value
            reader.input[1] = constant(f"{reader.input[1]}_sorted", tensors[reader.input[1]][:, order])
    gone = {n.output[0] for layer in (place.first, *place.depthwise) for n in (layer.convolution, *layer.activation)}
    start = place.first.convolution.output[0]
    nodes = [
        onnx.NodeProto.FromString(node.SerializeToString())
        for old in graph.node
        for node in (fresh if old.output[0] == start else [] if old.output[0] in gone else [old])
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    stored = [
        onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in graph.initializer if tensor.name in read
    ]
    del graph.initializer[:]
    graph.initializer.extend(stored)
    del graph.value_info[:]


@frozen
class SplitPlace:
    """A place whose channels were grouped."""

    name: str  #: of the convolution in front.
    groups: tuple[int, ...]  #: number of channels of each, from the narrowest range to the widest.


@frozen
class SplitResult:
    """A float ONNX with the same outputs, whose channels are in groups of similar range."""

    onnx: str  #: file name.
    places: tuple[SplitPlace, ...]  #: in graph order.
    images: int  #: number of calibration images that gave the ranges.
    max_abs_error: float  #: largest difference of an output from before, over calibration images and noise.


def range_split(
    *,
    model: Path,
    calibration: Sequence[Path],
    preprocess: Preprocess,
    range_split: RangeSplit,
    out: Path,
    name: str,
    reporter: Reporter | None = None,
) -> SplitResult:
    """Group the channels of a BPU-ready ONNX by range; its answers stay.

    Node ``X`` of a place becomes ``X_g0``, ``X_g1``, …, one a group.

    Args:
        calibration: raw float32 files of :func:`edge.images.calibrate.calibrate`; the first ``range_split.images`` of
            them are looked at, behind NV12.
        preprocess: of the network.

    Raises:
        ModelFileError: there is no place, or not one that the recipe names, or the outputs change.
        CalibrationError: a calibration file is of another size.
    """
    import onnx

    reporter = reporter or Silent()
    source = load_onnx(model)
    places = chosen_places(source, range_split.places, model.name)
    files = list(calibration)[: range_split.images]
    images = [calibration_input(file, preprocess) for file in files]
    ranges = _ranges(source, places, images, reporter)
    gains = View(source)
    groups = {place.name: cut(*_noise(gains, place, ranges), range_split.groups) for place in places}
    changed = split(source, groups)

    reporter.update("compare the outputs", 0.9)
    with refused(
        f"the outputs of {model.name} change when its channels are split",
        expected="the same outputs on calibration images and on noise",
        remedy="use a recipe without 'range_split', and report the model",
    ):
        error = Guard(source, reference(source, model, further=images[:GUARDED]), baseline=source).prove(changed)
    onnx.save(changed, out / f"{name}.onnx")
    return SplitResult(
        onnx=f"{name}.onnx",
        places=tuple(SplitPlace(key, tuple(map(len, parts))) for key, parts in groups.items()),
        images=len(files),
        max_abs_error=error,
    )


def chosen_places(model: onnx.ModelProto, names: Sequence[str], origin: str) -> Sequence[Place]:
    """Return the places of a simplified graph with these names; all without any.

    Raises:
        ModelFileError: there is no place, or not one of these names.
    """
    places = find_places(model)
    known = [place.name for place in places]
    if not places:
        raise ModelFileError(
            f"{origin} has no channels to split",
            expected=f"a convolution of more than {BLOCK} outputs, a depthwise one, and another, "
            "an activation or nothing behind each",
            remedy="use a recipe without 'range_split'",
        )
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=LISTED, cutoff=0.5) or known[:LISTED]
            more = f" or one of {len(known) - len(near)} more" if len(near) < len(known) else ""
            there = any(node.name == name for node in model.graph.node)
            raise ModelFileError(
                f"range_split names the place {name!r}, "
                + (f"where the channels of {origin} can't be split" if there else f"and {origin} has no such node"),
                expected=", ".join(map(repr, near)) + more,
                remedy="leave out 'places' to split all; 'range_split' in the build's manifest.json then lists them",
            )
    return [place for place in places if not names or place.name in names]


def _ranges(
    model: onnx.ModelProto, places: Sequence[Place], images: Sequence[NDArray[np.float32]], reporter: Reporter
) -> dict[str, Ranges]:
    """Return the magnitude that covers each channel of the tensors that are rounded, a mean over the images."""
    image, _ = image_input(model)
    layers = (layer for place in places for layer in (place.first, *place.depthwise))
    names = list(dict.fromkeys(name for layer in layers for name in layer.tensors))
    session = open_exposed(model, names)
    found = {name: np.zeros(()) for name in names}
    for done, data in enumerate(images, start=1):
        for name, value in zip(names, session.run(names, {image: data}), strict=True):
            channels = np.abs(value[0].reshape(value.shape[1], -1))
            found[name] = found[name] + np.percentile(channels, PERCENTILE, axis=1) / len(images)
        reporter.update(f"look at {done} of {counted(len(images), 'image')}", 0.8 * done / len(images))
    return found


def _noise(view: View, place: Place, ranges: Mapping[str, Ranges]) -> tuple[list[Ranges], list[Ranges]]:
    """Return ranges and gains of the tensors that are rounded at a place by group; see :func:`cut`.

    Those that are joined behind the depthwise convolutions keep one threshold: the compiler gives the parts of a Concat
    the same.
    """

    def power(node: onnx.NodeProto, axis: int) -> Ranges:
        weights = np.asarray(view.tensor(node.input[1]), np.float64) ** 2
        return np.asarray(weights.sum(axis=tuple(set(range(weights.ndim)) - {axis})))

    behind = [sum(power(reader, 1) for reader in readers) for readers in place.readers]
    front = sum(power(layer.convolution, 0) * after for layer, after in zip(place.depthwise, behind, strict=True))
    pairs = [(name, front) for name in place.first.tensors]
    for layer, after in zip(place.depthwise, behind, strict=True):
        pairs += [(name, after) for name in layer.tensors if name != layer.output]
    return [ranges[name] for name, _ in pairs], [np.asarray(gain) for _, gain in pairs]
