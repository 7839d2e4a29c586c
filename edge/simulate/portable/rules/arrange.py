"""Operators that join, cut, reorder and reshape tensors; no number changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve
from onnx import TensorProto

from edge.simulate.portable.graph import Graph, Source, Value

_HOLDING = (TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64)  # types of a Cast that lose no integer of the BPU


def transpose(graph: Graph, source: Source) -> Sequence[Value]:
    """Rename the axes; data moves only if a later operator needs it."""
    x = graph.values[source.node.input[0]]
    perm = source.attributes.get("perm") or list(range(len(x.shape)))[::-1]
    shape, axes = tuple(x.shape[axis] for axis in perm), tuple(x.axes[axis] for axis in perm)
    return [evolve(x, shape=shape, axes=axes)]


def cast(graph: Graph, source: Source) -> Sequence[Value]:
    """Leave integers as they are: the portable model keeps all numbers as float32, which holds those of the BPU."""
    x = graph.values[source.node.input[0]]
    to = source.attributes["to"]
    if x.real or to not in _HOLDING:
        raise source.unknown(f"from {'real numbers' if x.real else 'integers'} to type {to}")
    return [x]


def reshape(graph: Graph, source: Source) -> Sequence[Value]:
    """Reshape in the logical order."""
    x = graph.values[source.node.input[0]]
    wanted = [int(n) for n in source.constant(1)]
    shape = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    if -1 in shape:
        known = -int(np.prod(shape))
        shape[shape.index(-1)] = int(np.prod(x.shape)) // known
    return [graph.reshaped(x, tuple(shape))]


def concat(graph: Graph, source: Source) -> Sequence[Value]:
    """Join along one axis, in the storage order of the largest part."""
    parts = [graph.operand(source, index) for index in range(len(source.node.input))]
    axes = max(parts, key=lambda part: int(np.prod(part.shape))).axes
    axis = source.attributes["axis"] % len(axes)
    parts = [graph.transposed(part, axes) for part in parts]
    if len({part.real for part in parts}) != 1:
        raise source.unknown("integers and real numbers in one tensor")
    name = graph.add("Concat", *(part.name for part in parts), axis=axes[axis])
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    low, high = min(part.low for part in parts), max(part.high for part in parts)
    return [evolve(parts[0], name=name, shape=tuple(shape), low=low, high=high)]


def split(graph: Graph, source: Source) -> Sequence[Value]:
    """Cut along one axis, into the given lengths or equal ones."""
    x = graph.values[source.node.input[0]]
    axis = source.attributes.get("axis", 0) % len(x.shape)
    count = len(source.node.output)
    lengths = source.attributes.get("split")
    if len(source.node.input) > 1:
        lengths = source.constant(1).tolist()
    lengths = lengths or [x.shape[axis] // count] * count
    if sum(lengths) != x.shape[axis]:
        raise source.unknown(f"lengths {lengths} of {x.shape[axis]}")
    ends = np.cumsum(lengths)
    return [_cut(graph, x, axis, int(end) - length, int(end)) for end, length in zip(ends, lengths, strict=True)]


def slices(graph: Graph, source: Source) -> Sequence[Value]:
    """Cut ranges out, with constant ends and steps."""
    x = graph.values[source.node.input[0]]
    starts, ends = source.constant(1).tolist(), source.constant(2).tolist()
    given = len(source.node.input)
    axes = source.constant(3).tolist() if given > 3 else list(range(len(starts)))
    steps = source.constant(4).tolist() if given > 4 else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        first, last, stride = slice(start, end, step).indices(x.shape[axis])
        if step < 1 or last <= first:
            raise source.unknown(f"a slice {start}:{end}:{step} of {x.shape[axis]}")
        if (first, last, stride) != (0, x.shape[axis], 1):
            x = _cut(graph, x, axis % len(x.shape), first, last, stride)
    return [x]


def gather(graph: Graph, source: Source) -> Sequence[Value]:
    """Take constant indices along one axis; a single index removes the axis."""
    x = graph.values[source.node.input[0]]
    places = source.constant(1).astype(np.int64)
    axis = source.attributes.get("axis", 0) % len(x.shape)
    if places.ndim > 1:
        raise source.unknown(f"places of shape {places.shape}")
    flat = graph.constant(places.reshape(-1), np.int64)
    name = graph.add("Gather", x.name, flat, axis=x.axes[axis])
    shape = (*x.shape[:axis], places.size, *x.shape[axis + 1 :])
    y = evolve(x, name=name, shape=shape)
    if places.ndim:
        return [y]
    return [graph.reshaped(y, (*x.shape[:axis], *x.shape[axis + 1 :]))]


def channel_shuffle(graph: Graph, source: Source) -> Sequence[Value]:
    """Take the first channel of every group, then the second of every group, and so on."""
    source.expect(data_format="NHWC")
    x = graph.image(graph.values[source.node.input[0]])
    count, channels, height, width = x.stored
    groups = source.attributes["group"]
    if channels % groups:
        raise source.unknown(f"{groups} groups of {channels} channels")
    name = graph.reshape(x.name, (count, groups, channels // groups, height, width))
    name = graph.add("Transpose", name, perm=[0, 2, 1, 3, 4])
    return [evolve(x, name=graph.reshape(name, x.stored))]


def depth_to_space(graph: Graph, source: Source) -> Sequence[Value]:
    """Spread channels over blocks of pixels, in ONNX's modes."""
    source.expect(data_format="NHWC", mode=("CRD", "DCR"))
    x = graph.image(graph.values[source.node.input[0]])
    size, mode = source.attributes["blocksize"], source.attributes["mode"]
    name = graph.add("DepthToSpace", x.name, blocksize=size, mode=mode)
    count, height, width, channels = x.shape
    return [evolve(x, name=name, shape=(count, height * size, width * size, channels // size**2))]


def pad(graph: Graph, source: Source) -> Sequence[Value]:
    """Add a border: constant, repeated from the edge, or mirrored."""
    source.expect(data_format="NHWC", mode=("constant", "edge", "reflect"))
    x = graph.image(graph.values[source.node.input[0]])
    fill = int(source.constant(1).reshape(-1)[0])
    pads = source.attributes["pads"]
    rank = len(x.shape)
    if min(pads) < 0 or len(pads) != 2 * rank:
        raise source.unknown(f"pads are {pads}")
    stored = [0] * (2 * rank)
    for logical, axis in enumerate(x.axes):
        stored[axis], stored[rank + axis] = pads[logical], pads[rank + logical]
    limits = graph.constant(np.array(stored), np.int64)
    name = graph.add("Pad", x.name, limits, graph.constant(float(fill)), mode=source.attributes["mode"])
    shape = tuple(n + pads[i] + pads[rank + i] for i, n in enumerate(x.shape))
    return [evolve(x, name=name, shape=shape, low=min(x.low, fill), high=max(x.high, fill))]


def _cut(graph: Graph, x: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
    shape = list(x.shape)
    shape[axis] = -(-(end - start) // step)
    return evolve(x, name=graph.slice(x.name, start, end, x.axes[axis], step), shape=tuple(shape))
