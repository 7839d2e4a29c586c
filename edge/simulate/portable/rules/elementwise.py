"""Sums, differences and products of integers, scaled and saturated.

``sat((sat16(p >> accu_right_shift) * output_scale) >> output_right_shift)``

For a product p = a * b; for a sum p = (a << x_shift) + ((b << e_shift) * e_scale), with minus for a
difference. The first shift rounds down, the second to nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edge.simulate.portable.graph import EXACT, Graph, Source, Value, channels, spread
from edge.simulate.portable.requantize import bounds, requantize
from edge.simulate.portable.rules.sums import INT32, wrapped


def multiply(graph: Graph, source: Source) -> Sequence[Value]:
    """Multiply, with broadcasting."""
    a, b, shape, axes = operands(graph, source)
    products = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    low, high = min(products), max(products)
    wide = max(-low, high) >= EXACT
    name = graph.add("Mul", *(_cast(graph, value, wide=wide) for value in (a, b)))
    right = source.integers("accu_right_shift")
    if right.any():
        dtype = np.float64 if wide else np.float32
        unit = graph.constant(spread(np.exp2(-right.astype(np.float64)), axes), dtype)
        name = graph.add("Floor", graph.add("Mul", name, unit))
    return [_tail(graph, source, name, low, high, shape, axes, wide=wide)]


def add(graph: Graph, source: Source) -> Sequence[Value]:
    """Add or subtract, with broadcasting.

    Both terms are divided by 2^accu_right_shift before they are added. The first stays an integer, since it is shifted
    up at least as far; so rounding the second down is the same as rounding the sum down.
    """
    a, b, shape, axes = operands(graph, source)
    right = source.integers("accu_right_shift")
    up = source.integers("x_shift") - right
    e_shift = source.integers("e_shift") if "e_shift" in source.attributes else np.zeros(1, np.int64)
    sign = -1 if source.node.op_type == "HzSElementwiseSub" else 1
    e_factor = sign * source.integers("e_scale") * np.exp2((e_shift - right).astype(np.float64))
    a_factor = np.exp2(up.astype(np.float64))
    ends = np.array([[x * a_factor + y * e_factor for x in (a.low, a.high)] for y in (b.low, b.high)])
    low, high = int(np.floor(ends.min())), int(np.ceil(ends.max()))
    digits = max(a.limit, (b.limit * source.integers("e_scale")).max(), -low, high)
    if (e_shift < 0).any():
        raise source.unknown("e_shift is negative")
    if (up < 0).any() or digits >= EXACT or max(-low, high) << int(right.max()) >= INT32:
        return [_wide_sum(graph, source, (a, b), (a_factor, e_factor), (low, high), shape, axes)]
    x = graph.add("Mul", a.name, graph.constant(spread(a_factor, axes))) if up.any() else a.name
    y = graph.add("Floor", graph.add("Mul", b.name, graph.constant(spread(e_factor, axes))))
    name = graph.add("Add", x, y)
    return [_tail(graph, source, name, low << int(right.min()), high << int(right.max()), shape, axes)]


def _wide_sum(
    graph: Graph,
    source: Source,
    operands: tuple[Value, Value],
    factors: tuple[NDArray[Any], NDArray[Any]],
    ends: tuple[int, int],
    shape: tuple[int, ...],
    axes: tuple[int, ...],
) -> Value:
    """Add in float64, and wrap as int32 does."""
    terms = []
    for value, factor in zip(operands, factors, strict=True):
        constant = graph.constant(spread(factor, axes), np.float64)
        terms.append(graph.add("Mul", _cast(graph, value, wide=True), constant))
    name = graph.add("Add", *terms)
    right = source.integers("accu_right_shift")
    low, high = (end << int(right.max()) for end in ends)
    unit = spread(np.exp2(-right.astype(np.float64)), axes)
    name = wrapped(graph, name, max(-low, high), unit)
    if max(-low, high) >= INT32:
        low, high = -INT32, INT32 - 1
    return _tail(graph, source, graph.add("Floor", name), low, high, shape, axes, wide=True)


def _cast(graph: Graph, value: Value, *, wide: bool) -> str:
    return graph.add("Cast", value.name, to=TensorProto.DOUBLE) if wide else value.name


def operands(graph: Graph, source: Source) -> tuple[Value, Value, tuple[int, ...], tuple[int, ...]]:
    """Return both operands in the same storage order, the result's logical shape and its axes."""
    source.expect(rounding_method="ROUND", data_format=("NHWC", "NONE"), output_bit=(8, 16))
    values = [graph.operand(source, index, image=True) for index in range(2)]
    shape = tuple(int(n) for n in np.broadcast_shapes(*(value.shape for value in values)))
    axes = max(values, key=lambda value: int(np.prod(value.shape))).axes
    if any(len(value.shape) != len(shape) for value in values):
        axes = tuple(range(len(shape)))
        values = [graph.plain(value) for value in values]
    a, b = (graph.transposed(value, axes) for value in values)
    return a, b, shape, axes


def _tail(
    graph: Graph,
    source: Source,
    t: str,
    low: int,
    high: int,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    *,
    wide: bool = False,
) -> Value:
    """Add scale, shift and saturation to a shifted sum; ``low`` and ``high`` are before the shift."""
    right = source.integers("accu_right_shift")
    bits = source.attributes["output_bit"]
    scale = source.integers("output_scale")
    ends = np.int64(low) >> right, np.int64(high) >> right
    shift, stored = source.integers("output_right_shift"), channels(axes, max(right.size, scale.size))
    name = requantize(graph, t, *ends, scale, shift, bits, stored, nearest=True, wide=wide)
    return Value(name, shape, axes, *bounds(bits))
