"""Largest values of windows and along axes, and their places; scaled sums over axes: means, the global average pool.

Mean and sum: ``sat(nearest((sat16(sum >> accu_right_shift) * scale) >> out_shift))``; the first shift rounds down.
Global average pool: the same, but ``rounding_method`` applies to its first shift too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve
from onnx import TensorProto

from edge.simulate.portable.graph import EXACT, NHWC, Graph, Source, Value, channels
from edge.simulate.portable.requantize import Integers, bounds, requantize
from edge.simulate.portable.rules.sums import INT32

_MOST_PLACES = 128  # whose numbers fit int8


def max_pool(graph: Graph, source: Source) -> Sequence[Value]:
    """Take the largest of each window; padding is ignored."""
    source.expect(data_format="NHWC", ceil_mode=(0, 1), auto_pad="NOTSET", storage_order=0, dilations=[1, 1])
    x = graph.image(graph.values[source.node.input[0]])
    kernel = source.attributes["kernel_shape"]
    strides, pads = source.attributes.get("strides", [1, 1]), source.attributes.get("pads", [0] * 4)
    sides = []
    ends = list(pads)
    for i in range(2):
        free = x.shape[1 + i] + pads[i] + pads[2 + i] - kernel[i]
        steps = -(-free // strides[i]) if source.attributes.get("ceil_mode") else free // strides[i]
        if steps * strides[i] >= x.shape[1 + i] + pads[i]:
            raise source.unknown("a window that lies in the padding alone")
        # onnxruntime's versions differ in ceil_mode; padding at the end means the same to all of them.
        ends[2 + i] += max(steps * strides[i] - free, 0)
        sides.append(steps + 1)
    name = graph.add("MaxPool", x.name, kernel_shape=kernel, strides=strides, pads=ends)
    return [evolve(x, name=name, shape=(x.shape[0], *sides, x.shape[3]))]


def global_max_pool(graph: Graph, source: Source) -> Sequence[Value]:
    """Take the largest of each channel."""
    source.expect(data_format="NHWC")
    x = graph.values[source.node.input[0]]
    return [_largest(graph, x, (1, 2))]


def reduce_max(graph: Graph, source: Source) -> Sequence[Value]:
    """Take the largest along one axis, which stays with length 1."""
    x = graph.values[source.node.input[0]]
    return [_largest(graph, x, (int(np.atleast_1d(source.attributes["axis"])[0]) % len(x.shape),))]


def place_of_largest(graph: Graph, source: Source) -> Sequence[Value]:
    """Give the place of the largest along one axis, which stays with length 1; of equal values the first."""
    x = graph.values[source.node.input[0]]
    axis = int(source.attributes["axis"]) % len(x.shape)
    source.expect(keepdims=1, select_last_index=0)
    if x.shape[axis] > _MOST_PLACES:
        raise source.unknown(f"{x.shape[axis]} places, more than int8 numbers")
    place = graph.add("ArgMax", x.name, axis=x.axes[axis], keepdims=1)
    shape = tuple(1 if i == axis else n for i, n in enumerate(x.shape))
    return [evolve(x, name=graph.add("Cast", place, to=1), shape=shape, low=0, high=x.shape[axis] - 1, real=False)]


def plain_reduce_max(graph: Graph, source: Source) -> Sequence[Value]:
    """Take the largest along axes, which are kept with length 1 or removed."""
    x = graph.values[source.node.input[0]]
    axes = tuple(axis % len(x.shape) for axis in source.attributes.get("axes", range(len(x.shape))))
    y = _largest(graph, x, axes)
    if source.attributes.get("keepdims", 1):
        return [y]
    return [graph.reshaped(y, tuple(size for axis, size in enumerate(y.shape) if axis not in axes))]


def _largest(graph: Graph, x: Value, axes: tuple[int, ...]) -> Value:
    stored = sorted(x.axes[axis] for axis in axes)
    name = graph.add("ReduceMax", x.name, axes=stored, keepdims=1)
    return evolve(x, name=name, shape=tuple(1 if axis in axes else n for axis, n in enumerate(x.shape)))


def reduce_mean(graph: Graph, source: Source) -> Sequence[Value]:
    """Sum over one axis, which stays with length 1."""
    x = graph.values[source.node.input[0]]
    axis = int(np.atleast_1d(source.attributes["axis"])[0]) % len(x.shape)
    total = _sum(graph, source, x, (axis,))
    return [_tail(graph, source, total, "scale", "out_shift", nearest=True, nearest_first=False)]


def global_average_pool(graph: Graph, source: Source) -> Sequence[Value]:
    """Sum over height and width."""
    source.expect(rounding_method=("ROUND", "FLOOR"), data_format="NHWC")
    x = graph.image(graph.values[source.node.input[0]])
    total = _sum(graph, source, x, (1, 2))
    nearest = source.attributes.get("rounding_method") == "ROUND"
    return [_tail(graph, source, total, "output_scale", "output_right_shift", nearest=nearest, nearest_first=nearest)]


def _sum(graph: Graph, source: Source, x: Value, axes: tuple[int, ...]) -> Value:
    """Add the nodes of a sum; it is float64 where it may be beyond what float32 holds."""
    count = int(np.prod([x.shape[axis] for axis in axes]))
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    if x.limit * count >= INT32:
        raise source.unknown(f"a sum of {x.limit * count} does not fit int32")
    wide = x.limit * count >= EXACT
    if axes == (3,) and x.axes == NHWC and not wide:
        # A 1x1 convolution with ones: half the time of ReduceSum over the channels.
        name = graph.add("Conv", x.name, graph.constant(np.ones((1, x.shape[3], 1, 1))), kernel_shape=[1, 1])
        # It changes no value, but keeps onnxruntime from folding the next nodes into the convolution.
        name = graph.add("Floor", name)
    else:
        stored = np.array(sorted(x.axes[axis] for axis in axes))
        terms = graph.add("Cast", x.name, to=TensorProto.DOUBLE) if wide else x.name
        name = graph.add("ReduceSum", terms, graph.constant(stored, np.int64), keepdims=1)
    return evolve(x, name=name, shape=shape, low=min(x.low * count, 0), high=max(x.high * count, 0))


def _tail(
    graph: Graph, source: Source, total: Value, scale: str, shift: str, *, nearest: bool, nearest_first: bool
) -> Value:
    wide = total.limit >= EXACT
    if source.attributes["output_bit"] == 32:  # the sum itself, which the network's end dequantizes
        if wide or {"accu_right_shift", scale, shift} & source.attributes.keys():
            raise source.unknown("a 32-bit sum with a scale, or one that does not fit float32")
        return total
    dtype = np.float64 if wide else np.float32
    # The vendor repeats its constants for each element that is summed; all are equal.
    right, scales, shifts = (_few(source.integers(key)) for key in ("accu_right_shift", scale, shift))
    count = max(right.size, scales.size, shifts.size)
    if count not in (1, total.shape[-1]):
        raise source.unknown(f"{count} different scales for {total.shape[-1]} channels")
    stored = channels(total.axes, count)
    half = np.where(right > 0, 0.5, 0.0) if nearest_first else np.zeros(right.size)
    name = total.name
    if right.any():
        unit = np.exp2(-right.astype(np.float64))
        name = graph.add("Mul", name, graph.constant(unit.reshape(stored if unit.size > 1 else ()), dtype))
        if half.any():
            name = graph.add("Add", name, graph.constant(half.reshape(stored if half.size > 1 else ()), dtype))
        name = graph.add("Floor", name)
    bits = source.attributes["output_bit"]
    ends = np.int64(total.low) >> right, (np.int64(total.high) >> right) + 1
    name = requantize(graph, name, *ends, scales, shifts, bits, stored, nearest=nearest, wide=wide)
    low, high = bounds(bits)
    return evolve(total, name=name, low=low, high=high)


def _few(values: Integers) -> Integers:
    return values[:1] if (values == values[0]).all() else values
