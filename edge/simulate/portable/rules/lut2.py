"""Functions of one int16, which the vendor keeps as line segments and computes in fixed point.

Seven bounds cut the axis into eight pieces. In the outer two the result is
``nearest((x * scale + (bias << left_shift)) >> right_shift)``. In the inner six the same number, with 8 bits
of fraction, is a place in a table of 64 entries, between which the result is interpolated, again to nearest.
A symmetric function is computed from |x|. All of it depends on x alone, so that it becomes one table of every
int16.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve

from edge.simulate.portable.graph import Graph, Source, Value
from edge.simulate.portable.requantize import Integers, bounds
from edge.simulate.portable.rules import rule
from edge.simulate.portable.rules.lut import gather

PIECES = 8
ENTRIES = 64  # of each inner piece's table
FRACTION = 8  # bits


@rule("HzLut2Layer")
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
        ModelFileError: parameters beyond those that the rule was derived for, or no such function.
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
