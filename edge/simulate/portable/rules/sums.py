"""Sums of products: how large they can become, and their nodes, in float32 or, beyond it, in float64.

float32 holds every integer below 2^24. Sums that can become larger are split into parts that can't: int16
numbers into two halves, and the input's channels into groups. The parts are added in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edge.simulate.portable.graph import EXACT, Graph, Source, Value
from edge.simulate.portable.requantize import Integers

INT32 = 1 << 31
_HALF = 8  # bits of the lower part of an int16


def reach(low: int, high: int, weight: NDArray[Any]) -> tuple[Integers, Integers]:
    """Return the smallest and largest sum of products of inputs in low..high per output channel, weight's first axis.

    Padding adds zeros.
    """
    flat = weight.reshape(weight.shape[0], -1).astype(np.int64)
    positive, negative = np.maximum(flat, 0).sum(1), np.minimum(flat, 0).sum(1)
    low, high = min(low, 0), max(high, 0)
    return positive * low + negative * high, positive * high + negative * low


def convolve(graph: Graph, x: str, kernel: NDArray[Any], bias: NDArray[Any] | None, geometry: Mapping[str, Any]) -> str:
    """Add a Conv of ``x``, float32 NCHW, with a kernel (O, I / group, kH, kW) and a bias (O,).

    ``geometry`` is ``strides``, ``pads``, ``dilations`` and ``group``; ONNX's defaults where missing.
    """
    attributes = {key: geometry[key] for key in ("strides", "pads", "dilations", "group") if key in geometry}
    inputs = [x, graph.constant(kernel)]
    if bias is not None and bias.any():
        inputs.append(graph.constant(bias))
    return graph.add("Conv", *inputs, kernel_shape=list(kernel.shape[2:]), **attributes)


def wide_convolve(
    graph: Graph, source: Source, x: Value, weight: NDArray[Any], unit: NDArray[np.float64], geometry: Mapping[str, Any]
) -> str:
    """Add an exact convolution of any size, as float64, its sums multiplied with ``unit``: powers of two, (O,).

    ``x`` is stored as NCHW, ``weight`` is of integers, (O, kH, kW, I / group), ``geometry`` as for :func:`convolve`.
    """
    total = ""
    for name, low, high, factor in _halves(graph, x):
        for part, run in _runs(graph, source, name, low, high, weight, geometry):
            kernel = (run.astype(np.float64) * (unit * factor)[:, None, None, None]).transpose(0, 3, 1, 2)
            term = graph.add("Cast", convolve(graph, part, kernel, None, geometry), to=TensorProto.DOUBLE)
            total = graph.add("Add", total, term) if total else term
    return total


def wrapped(graph: Graph, name: str, largest: int, unit: NDArray[np.float64]) -> str:
    """Wrap float64 sums up to a magnitude as int32 does, beyond 2^31.

    Each sum is multiplied with its ``unit``, a power of two, shaped to broadcast against the sums.
    """
    if largest < INT32:
        return name
    turn = 2.0 * INT32 * unit
    turns = graph.add("Mul", name, graph.constant(1 / turn, np.float64))
    turns = graph.add("Floor", graph.add("Add", turns, graph.constant(0.5, np.float64)))
    return graph.add("Sub", name, graph.add("Mul", turns, graph.constant(turn, np.float64)))


def _halves(graph: Graph, x: Value) -> list[tuple[str, int, int, float]]:
    """Return tensors that add up to x, each with its bounds and its factor."""
    if x.limit <= 1 << _HALF:
        return [(x.name, x.low, x.high, 1.0)]
    base = 1 << _HALF
    upper = graph.add("Floor", graph.add("Mul", x.name, graph.constant(1 / base)))
    lower = graph.add("Sub", x.name, graph.add("Mul", upper, graph.constant(float(base))))
    return [(upper, x.low >> _HALF, x.high >> _HALF, float(base)), (lower, 0, base - 1, 1.0)]


def _runs(
    graph: Graph, source: Source, x: str, low: int, high: int, weight: NDArray[Any], geometry: Mapping[str, Any]
) -> list[tuple[str, NDArray[Any]]]:
    """Split the input's channels into groups whose sums stay exact in float32."""
    for count in range(1, weight.shape[3] + 1):
        parts = np.array_split(np.arange(weight.shape[3]), count)
        ends = [reach(low, high, weight[..., part]) for part in parts]
        if max(int(np.abs(end).max()) for pair in ends for end in pair) < EXACT:
            break
    else:
        raise source.unknown("the sum of one channel does not fit float32")
    if count == 1:
        return [(x, weight)]
    if geometry.get("group", 1) != 1:
        raise source.unknown("sums in groups that do not fit float32")
    return [(graph.slice(x, part[0], part[-1] + 1, 1), weight[..., part]) for part in parts]
