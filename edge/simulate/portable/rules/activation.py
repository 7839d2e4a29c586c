"""A rectifier with a slope for negative values, one or one a channel.

For x >= 0: ``sat(nearest((x * positive_scale) >> positive_right_shift))``. For x < 0, first shifted down:
``sat(nearest((sat16((x * slope) >> accu_right_shift) * negative_scale) >> negative_right_shift))``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve
from onnx import TensorProto

from edge.simulate.portable.graph import Graph, Source, Value
from edge.simulate.portable.requantize import INT16, Integers, bounds, requantize, staircase
from edge.simulate.portable.rules import rule
from edge.simulate.portable.rules.lut import gather

TABLE = 1 << 18  # more entries than this, and arithmetic costs less


@rule("HzSPRelu")
def prelu(graph: Graph, source: Source) -> Sequence[Value]:
    """Look the result up in a table for each slope; with many slopes for int16, compute it."""
    x = graph.values[source.node.input[0]]
    bits = 8 if x.limit <= 128 else 16
    slope = source.constant(1).astype(np.int64)
    if slope.size != 1 and slope.shape[-1] != slope.size:
        raise source.unknown(f"slopes of shape {slope.shape}")
    slope = slope.reshape(-1)
    slope = slope[:1] if (slope == slope[0]).all() else slope
    if slope.size not in (1, x.shape[-1]):
        raise source.unknown(f"{slope.size} slopes for {x.shape[-1]} channels")
    steps = 1 << bits
    if slope.size * steps <= TABLE:
        every = np.arange(*bounds(bits), dtype=np.int64)
        every = np.append(every, bounds(bits)[1])
        table = _function(source, every[None], slope[:, None], bits)
        name = _look_up(graph, x, table, steps)
    else:
        name = _computed(graph, source, x, slope, bits)
    low, high = bounds(bits)
    return [evolve(x, name=name, low=low, high=high)]


def _one(source: Source, name: str) -> Integers:
    return source.integers(name, 1)


def _function(source: Source, x: Integers, slope: Integers, bits: int) -> Integers:
    scale, shift = _one(source, "positive_scale"), _one(source, "positive_right_shift")
    positive = staircase(x, scale, shift, bits, nearest=True)
    t = np.clip((x * slope) >> _one(source, "accu_right_shift"), *INT16)
    scale, shift = _one(source, "negative_scale"), _one(source, "negative_right_shift")
    return np.where(x >= 0, positive, staircase(t, scale, shift, bits, nearest=True))


def _look_up(graph: Graph, x: Value, table: Integers, steps: int) -> str:
    if len(table) == 1:
        return gather(graph, x, np.roll(table[0], steps // 2).astype(np.float32))
    start = np.arange(len(table)) * steps + steps // 2
    index = graph.add("Add", x.name, graph.constant(start.reshape(_channels(x, len(table)))))
    return gather(graph, evolve(x, name=index), table.reshape(-1).astype(np.float32))


def _computed(graph: Graph, source: Source, x: Value, slope: Integers, bits: int) -> str:
    """Compute both sides and choose; the product of two int16 needs float64."""

    def tail(t: str, low: int, high: int, sign: str) -> str:
        return requantize(
            graph,
            t,
            low=np.array([low]),
            high=np.array([high]),
            scale=_one(source, f"{sign}_scale"),
            shift=_one(source, f"{sign}_right_shift"),
            bits=bits,
            nearest=True,
            channels=(),
        )

    unit = slope * np.exp2(-_one(source, "accu_right_shift").astype(np.float64))
    wide = graph.add("Cast", x.name, to=TensorProto.DOUBLE)
    factor = graph.constant(unit.reshape(_channels(x, slope.size)), np.float64)
    t = graph.add("Floor", graph.add("Mul", wide, factor))
    t = graph.add("Clip", t, *(graph.constant(end, np.float64) for end in INT16))
    negative = tail(graph.add("Cast", t, to=TensorProto.FLOAT), *INT16, "negative")
    below = graph.add("Less", x.name, graph.constant(0.0))
    return graph.add("Where", below, negative, tail(x.name, x.low, x.high, "positive"))


def _channels(x: Value, count: int) -> list[int]:
    stored = [1] * len(x.shape)
    stored[x.axes[-1]] = count
    return stored
