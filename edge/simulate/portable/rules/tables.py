"""Functions of one integer, looked up in a table of all results.

- ``HzLut``: a table of 256 entries comes with the node: any function of one int8, such as GELU.
- ``HzLut2Layer``: functions of one int16, which the vendor keeps as line segments and computes in fixed
  point. Seven bounds divide the axis into eight pieces. In the outer two the result is
  ``nearest((x * scale + (bias << left_shift)) >> right_shift)``. In the inner six the same number, with
  8 fraction bits, is a position in a table of 64 entries; the result is interpolated between entries, again to
  nearest. A symmetric function is computed from |x|. The result depends on x alone, so here it becomes one
  table of every int16.
- ``HzSPRelu``: a rectifier with a slope for negative values, one or one per channel. For x >= 0:
  ``sat(nearest((x * positive_scale) >> positive_right_shift))``. For x < 0, first shifted down:
  ``sat(nearest((sat16((x * slope) >> accu_right_shift) * negative_scale) >> negative_right_shift))``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import evolve
from numpy.typing import NDArray
from onnx import TensorProto

from edge.simulate.portable.graph import Graph, Source, Value, channels
from edge.simulate.portable.requantize import INT16, Integers, bounds, requantize, staircase


def lut(graph: Graph, source: Source) -> Sequence[Value]:
    """Look up ``table[x + 128]``."""
    x = graph.values[source.node.input[0]]
    table = source.constant(1)
    if table.shape != (256,) or table.dtype != np.int8 or x.low < -128 or x.high > 127:
        raise source.unknown(f"a table of {table.dtype} {table.shape} for {x.low}..{x.high}")
    # A negative index counts from the table's end, so the half for negative x goes there.
    name = gather(graph, x, np.roll(table, 128))
    reached = table[x.low + 128 : x.high + 129]
    return [evolve(x, name=name, low=int(reached.min()), high=int(reached.max()))]


def gather(graph: Graph, x: Value, table: NDArray[Any]) -> str:
    """Add ``table[x]`` for every element; negative x count from the end.

    GatherElements on flat data takes a tenth of Gather's time in onnxruntime.
    """
    whole = graph.integers.get(x.name, x.name)
    index = graph.add("Cast", graph.reshape(whole, (-1,)), to=TensorProto.INT32)
    return graph.reshape(graph.add("GatherElements", graph.constant(table), index, axis=0), x.stored)


PIECES = 8
ENTRIES = 64  # of each inner piece's table
FRACTION = 8  # bits


def lut2(graph: Graph, source: Source) -> Sequence[Value]:
    """Look up a table of 65536 entries, made here."""
    source.expect(rounding_method="ROUND", output_bit=(8, 16))
    x = graph.values[source.node.input[0]]
    every = np.arange(x.low, x.high + 1, dtype=np.int64)
    values = function(source, every)
    table = np.zeros(1 << 16, np.float32)
    table[every] = values  # a negative index counts from the end, here and in GatherElements
    name = gather(graph, x, table)
    return [evolve(x, name=name, low=int(values.min()), high=int(values.max()))]


def function(source: Source, x: Integers) -> Integers:
    """Return the vendor's result for integers -32768..32767.

    Raises:
        ModelFileError: an unknown function, or parameters that the rule does not cover.
    """
    symmetry = source.attributes["symmetry_mode"]
    if symmetry not in ("NONE", "Y_SYMMETRIC", "ORIGIN_SYMMETRIC"):
        raise source.unknown(f"symmetry_mode is {symmetry!r}")
    magnitude = x if symmetry == "NONE" else np.minimum(np.abs(x), (1 << 15) - 1)
    scale, bias, left, right, bound = (
        source.integers(key, PIECES) for key in ("scale", "bias", "left_shift", "right_shift", "bound")
    )
    table = source.integers("table_param", (PIECES - 2) * ENTRIES).reshape(PIECES - 2, ENTRIES)
    # Beyond these the vendor's 16-bit arithmetic wraps.
    if np.abs(np.diff(table)).max() >= 1 << 15:
        raise source.unknown("neighbours in the table differ by more than 16 bits hold")
    piece = np.searchsorted(bound[: PIECES - 1], magnitude, side="left")
    place = _nearest(magnitude * scale[piece] + (bias[piece] << left[piece]), right[piece])
    inner = (piece > 0) & (piece < PIECES - 1)
    last = (ENTRIES - 1) << FRACTION
    if (inner & ((place < -(1 << FRACTION)) | (place >= last + (1 << FRACTION)))).any():
        raise source.unknown("a place beyond its table")
    inside = np.clip(place, 0, last)
    entry, share = inside >> FRACTION, inside & ((1 << FRACTION) - 1)
    rows = table[np.clip(piece - 1, 0, PIECES - 3)]
    start = np.take_along_axis(rows, entry[:, None], 1)[:, 0]
    end = np.take_along_axis(rows, np.minimum(entry + 1, ENTRIES - 1)[:, None], 1)[:, 0]
    between = start + _nearest((end - start) * share, np.full_like(share, FRACTION))
    limits = bounds(source.attributes["output_bit"])
    result = np.clip(np.where(inner, between, place), *limits)
    if symmetry == "ORIGIN_SYMMETRIC":
        result = np.where(x < 0, np.clip(-result, *limits), result)
    return result


def _nearest(value: Integers, shift: Integers) -> Integers:
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    result: Integers = (value + half) >> shift
    return result


TABLE = 1 << 18  # above this number of entries, arithmetic is faster


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
        every = np.arange(-(steps // 2), steps // 2, dtype=np.int64)
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
    index = graph.add("Add", x.name, graph.constant(start.reshape(channels(x.axes, len(table)))))
    return gather(graph, evolve(x, name=index), table.reshape(-1).astype(np.float32))


def _computed(graph: Graph, source: Source, x: Value, slope: Integers, bits: int) -> str:
    """Compute both sides and choose; the product of two int16 needs float64."""

    def tail(t: str, low: int, high: int, sign: str) -> str:
        scale, shift = _one(source, f"{sign}_scale"), _one(source, f"{sign}_right_shift")
        return requantize(graph, t, np.array([low]), np.array([high]), scale, shift, bits, (), nearest=True)

    unit = slope * np.exp2(-_one(source, "accu_right_shift").astype(np.float64))
    wide = graph.add("Cast", x.name, to=TensorProto.DOUBLE)
    factor = graph.constant(unit.reshape(channels(x.axes, slope.size)), np.float64)
    t = graph.add("Floor", graph.add("Mul", wide, factor))
    t = graph.add("Clip", t, *(graph.constant(end, np.float64) for end in INT16))
    negative = tail(graph.add("Cast", t, to=TensorProto.FLOAT), *INT16, "negative")
    below = graph.add("Less", x.name, graph.constant(0.0))
    return graph.add("Where", below, negative, tail(x.name, x.low, x.high, "positive"))
