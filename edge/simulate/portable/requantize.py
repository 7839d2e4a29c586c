"""The step at the end of almost every quantized operator: scale, shift, saturate - with the same integers.

The vendor computes ``saturate((t * scale) >> shift)`` in integers, where t has 16 bits, rounding down or to nearest.
This is a staircase in t with at most 256 steps, fully described by their positions. In float32 ``round((t + d) / S)``
is a staircase too, because every float operation is monotone. The two are equal for all t if they are equal just before
and at each step. This is checked here with exactly the float32 operations that onnxruntime does. d and S are searched
near their ideal values until the check holds for each channel. If none is found, the computation is done in float64,
which holds every product exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edge.simulate.portable.graph import Graph

Integers = NDArray[np.int64]
INT16 = (-(1 << 15), (1 << 15) - 1)
_NEIGHBOURS = 6  # of S, in float32 steps to each side
_OFFSETS = 9  # places of d inside the window that the steps leave free


def bounds(bits: int) -> tuple[int, int]:
    """Return the smallest and largest integer of ``bits`` bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def staircase(t: Integers, scale: Integers, shift: Integers, bits: int, *, nearest: bool) -> Integers:
    """Return the vendor's ``saturate((t * scale) >> shift)`` in ``bits`` bits, 8 or 16; all broadcast.

    The shift is arithmetic, >= 0. With ``nearest`` half of the divisor is added first, so that halves go up;
    else it rounds down.
    """
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0) if nearest else 0
    low, high = bounds(bits)
    result: Integers = np.clip((t * scale + half) >> shift, low, high)
    return result


def requantize(
    graph: Graph,
    t: str,
    low: Integers,
    high: Integers,
    scale: Integers,
    shift: Integers,
    bits: int,
    channels: tuple[int, ...],
    *,
    nearest: bool,
    offset: Integers | None = None,
    wide: bool = False,
) -> str:
    """Add the nodes of ``saturate((saturate16(t + offset) * scale) >> shift)``; return the float32 result.

    ``t`` is a tensor of integers, float32 or, if ``wide``, float64; ``t + offset`` lies in ``low``..``high``.
    These, ``scale`` and ``shift`` have one value per channel, or one. ``channels`` is the shape that broadcasts one
    constant per channel against ``t``, such as (1, C, 1, 1). ``bits`` and ``nearest`` as for :func:`staircase`.
    """
    count = max(low.size, scale.size, shift.size)
    low, high, scale, shift = (np.broadcast_to(a, count).astype(np.int64) for a in (low, high, scale, shift))
    add = np.zeros(count, np.int64) if offset is None else np.broadcast_to(offset, count)
    clipped = _clip_matters(low, high, scale, shift, bits, nearest=nearest)
    if not clipped and bits == 8 and not wide:
        found = search(low, high, scale, shift, add, nearest=nearest)
        if found is not None:
            divisor, d = found
            return _in_float32(graph, t, divisor, d, channels)
    return _in_float64(graph, t, scale, shift, add, bits, channels, nearest=nearest, clipped=clipped, wide=wide)


def search(
    low: Integers, high: Integers, scale: Integers, shift: Integers, offset: Integers, *, nearest: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Find S and d with ``round((t + d) / S)`` equal to the 8-bit staircase for every t of every channel.

    Every argument is (C,). float32 sees t, the staircase t + offset, which lies in low..high.
    Returns (S, d), float32 (C,); None if a channel has no solution, or a scale that is not positive.
    """
    if (scale <= 0).any():
        return None
    steps, levels = _steps(scale, shift, nearest=nearest)
    ideal = np.exp2(shift.astype(np.float64)) / scale
    # At a step the quotient must be above level - 1/2, just before it below; only for steps within the range of t.
    reachable = (steps > low[:, None]) & (steps <= high[:, None])
    line = (levels - 0.5) * ideal[:, None] - steps
    first, last = (staircase(t, scale, shift, 8, nearest=nearest) for t in (low, high))
    at = np.where(reachable, line, -np.inf).max(axis=1)
    before = np.where(reachable, line + 1, np.inf).min(axis=1)
    at = np.maximum(at, np.where(first > -128, (first - 0.5) * ideal - low, -np.inf))
    before = np.minimum(before, np.where(last < 127, (last + 0.5) * ideal - high, np.inf))
    # Close a window that is open on one side because the result is saturated there for every t.
    at = np.where(np.isfinite(at), at, np.where(np.isfinite(before), before - 1, 0))
    before = np.where(np.isfinite(before), before, at + 1)
    chosen_s = np.zeros(len(scale), np.float32)
    chosen_d = np.zeros(len(scale), np.float32)
    open_channels = np.arange(len(scale))
    for share in _inside_out(_OFFSETS):
        for neighbour in _inside_out(2 * _NEIGHBOURS + 1):
            k = open_channels
            s = ideal[k].astype(np.float32)
            s = (s.view(np.int32) + np.int32(neighbour)).view(np.float32)
            place = 0.5 + share / (_OFFSETS + 1)
            d = (offset[k] + at[k] + place * (before[k] - at[k])).astype(np.float32)
            good = _holds(steps[k], low[k], high[k], offset[k], s, d, scale[k], shift[k], nearest=nearest)
            chosen_s[k[good]], chosen_d[k[good]] = s[good], d[good]
            open_channels = k[~good]
            if not open_channels.size:
                return chosen_s, chosen_d
    return None


def _steps(scale: Integers, shift: Integers, *, nearest: bool) -> tuple[Integers, Integers]:
    """Return the smallest t that reaches each level -127..127, (C, 255), and the levels."""
    levels = np.arange(-127, 128, dtype=np.int64)
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0) if nearest else np.zeros_like(shift)
    # smallest t with t * scale + half >= level << shift
    need = (levels[None, :] << shift[:, None]) - half[:, None]
    return -((-need) // scale[:, None]), levels


def _holds(
    steps: Integers,
    low: Integers,
    high: Integers,
    offset: Integers,
    s: NDArray[np.float32],
    d: NDArray[np.float32],
    scale: Integers,
    shift: Integers,
    *,
    nearest: bool,
) -> NDArray[np.bool_]:
    """Say for each channel whether the float staircase equals the integer one, at and before each step."""
    good = np.ones(len(s), bool)
    ends = np.stack([low, high], axis=1)
    for points in (steps, steps - 1, ends):
        t = np.clip(points, low[:, None], high[:, None])
        wanted = staircase(t, scale[:, None], shift[:, None], 8, nearest=nearest)
        x = (t - offset[:, None]).astype(np.float32)
        got = np.clip(np.rint((x + d[:, None]) / s[:, None]), -128, 127)
        good &= (got == wanted).all(axis=1)
    return good


def _inside_out(count: int) -> list[int]:
    """Return 0, 1, -1, 2, -2, … of ``count`` numbers."""
    return sorted(range(-(count // 2), count - count // 2), key=lambda n: (abs(n), n))


def _clip_matters(low: Integers, high: Integers, scale: Integers, shift: Integers, bits: int, *, nearest: bool) -> bool:
    """Whether saturating t to 16 bits changes any result: often the result is saturated there anyway."""
    ends = np.stack([low, high])
    whole, inside = (staircase(t, scale, shift, bits, nearest=nearest) for t in (ends, np.clip(ends, *INT16)))
    return bool((whole != inside).any())


def _in_float32(
    graph: Graph, t: str, divisor: NDArray[np.float32], d: NDArray[np.float32], channels: tuple[int, ...]
) -> str:
    if divisor.size > 1 and (divisor == divisor[0]).all() and (d == d[0]).all():
        divisor, d = divisor[:1], d[:1]
    if d.any():
        t = graph.add("Add", t, graph.constant(d.reshape(channels) if d.size > 1 else d.reshape(())))
    if divisor.size == 1:
        return graph.quantized(t, divisor.reshape(()))
    return graph.quantized(t, divisor, axis=channels.index(divisor.size))


def _in_float64(
    graph: Graph,
    t: str,
    scale: Integers,
    shift: Integers,
    offset: Integers,
    bits: int,
    channels: tuple[int, ...],
    *,
    nearest: bool,
    clipped: bool,
    wide: bool,
) -> str:
    """Exact in any case: |t| < 2^31 and scale < 2^15, so that every value is far below 2^53."""

    def spread(array: NDArray[Any]) -> str:
        same = (array == array.flat[0]).all()
        return graph.constant(array.flat[0] if same else array.reshape(channels), np.float64)

    x = t if wide else graph.add("Cast", t, to=TensorProto.DOUBLE)
    if offset.any():
        x = graph.add("Add", x, spread(offset.astype(np.float64)))
    if clipped:
        x = graph.add("Clip", x, graph.constant(INT16[0], np.float64), graph.constant(INT16[1], np.float64))
    x = graph.add("Mul", x, spread(scale * np.exp2(-shift.astype(np.float64))))
    if nearest:
        x = graph.add("Add", x, spread(np.where(shift > 0, 0.5, 0.0)))
    x = graph.add("Floor", x)
    low, high = bounds(bits)
    x = graph.add("Clip", x, graph.constant(low, np.float64), graph.constant(high, np.float64))
    return graph.add("Cast", x, to=TensorProto.FLOAT)
