"""Convolutions: ``sat((sat16(acc >> right_shift) * scale) >> out_shift)``, rounding down twice.

acc is the int32 sum of products and bias. A residual that is added inside (``use_sumin``) enters acc as
``e * e_scale``, shifted by ``e_shift`` to the left, or to the right rounding down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.portable.graph import EXACT, NHWC, Graph, Source, Value
from edge.portable.requantize import Integers, bounds, requantize
from edge.portable.rules import rule


@frozen
class Accumulated:
    """``acc >> right_shift``, but for an offset per channel that is left to the next step.

    Attributes:
        name: float32 tensor of integers, NCHW.
        shape: logical, NHWC.
        low: smallest value per channel, with the offset.
        high: largest.
        offset: to be added per channel.
    """

    name: str
    shape: tuple[int, ...]
    low: Integers
    high: Integers
    offset: Integers

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.shape[-1]


@rule("HzSQuantizedConv")
def convolution(graph: Graph, source: Source) -> Sequence[Value]:
    """Convolve pictures of integers, grouped or not, with or without a residual."""
    source.expect(data_format="NHWC", use_bias=1, activation=("relu", ""), auto_pad="NOTSET")
    if np.any(source.constant(3)):
        raise source.unknown("bias_b_scale is not 0")
    x = graph.picture(graph.values[source.node.input[0]])
    residual = None
    if source.attributes.get("use_sumin"):
        residual = graph.picture(graph.values[source.node.input[4]])
    weight, bias = source.constant(1), source.constant(2)
    bits = source.attributes["output_bit"]
    if source.attributes.get("high_precision_output"):
        return [_whole(graph, source, x, weight, bias)]
    t = accumulate(graph, source, x, weight, bias, source.attributes, residual)
    name = requantize(
        graph,
        t.name,
        low=t.low,
        high=t.high,
        scale=source.integers("scale", t.channels),
        shift=source.integers("out_shift", t.channels),
        bits=bits,
        nearest=False,
        channels=(1, t.channels, 1, 1),
        offset=t.offset,
    )
    low, high = bounds(bits)
    if source.attributes.get("activation") == "relu":
        name, low = graph.add("Relu", name), 0
    return [Value(name, t.shape, NHWC, low, high)]


def accumulate(
    graph: Graph,
    source: Source,
    x: Value,
    weight: NDArray[Any],
    bias: NDArray[Any],
    geometry: Mapping[str, Any],
    residual: Value | None = None,
) -> Accumulated:
    """Add ``acc >> right_shift`` in float32, exactly.

    The weights are scaled by 2^-right_shift, which changes no digit, so that the shift is a Floor. A bias
    that is too large for the convolution is cut at the shift: what lies above is a whole number of steps,
    left as an offset.

    Args:
        graph: to add to.
        source: the node, for its shifts and for messages.
        x: stored as NCHW.
        weight: int8, (O, kH, kW, I / group).
        bias: int32, (O,).
        geometry: ``strides``, ``pads``, ``dilations``, ``group``; ONNX's defaults where missing.
        residual: integers to add, e.

    Raises:
        ModelFileError: a partial sum may reach 2^24, beyond which float32 is not exact.
    """
    channels = weight.shape[0]
    right = source.integers("right_shift", channels)
    low, high = _bounds(x, weight)
    bias = bias.astype(np.int64)
    fits = np.maximum(np.abs(low + bias), np.abs(high + bias)) + np.abs(bias) < EXACT
    steps = np.where(fits, 0, bias >> right)
    rest = bias - (steps << right)
    reach = np.maximum(np.abs(low), np.abs(high)) + np.abs(rest)
    if (reach >= EXACT).any():
        raise source.unknown(f"a sum of {int(reach.max())} does not fit float32")
    low, high = low + rest, high + rest
    unit = np.exp2(-right.astype(np.float64))
    kernel = (weight.astype(np.float64) * unit[:, None, None, None]).transpose(0, 3, 1, 2)
    name = _convolve(graph, x, kernel, rest * unit, geometry)
    if residual is not None:
        return _with_residual(graph, source, name, residual, low, high, steps)
    # Even where nothing is shifted: it keeps onnxruntime from folding the next scale into the weights.
    name = graph.add("Floor", name)
    return Accumulated(
        name, _shape(x, weight, geometry), (low >> right) + steps, (high >> right) + steps, steps
    )


def _with_residual(
    graph: Graph, source: Source, name: str, e: Value, low: Integers, high: Integers, steps: Integers
) -> Accumulated:
    """Add ``e * e_scale``, shifted by ``e_shift``, to a sum in units of 2^right_shift, and round down.

    A sum beyond 2^24 is no longer exact, but then the 16 bits that follow saturate in any case, unless the
    shift is large; for that the residual's whole part is added after rounding.
    """
    channels = e.shape[-1]
    right = source.integers("right_shift", channels)
    scale, shift = source.integers("e_scale", channels), source.integers("e_shift", channels)
    if (e.limit * scale >= EXACT).any() or ((shift < 0).any() and (right - shift > 40).any()):
        raise source.unknown("a residual does not fit float32")
    # acc is whole, so that rounding the residual down first, or the sum once, is the same.
    factor = scale * np.exp2((shift - right).astype(np.float64))
    p_low, p_high = np.floor(e.low * scale * np.exp2(shift)), np.floor(e.high * scale * np.exp2(shift))
    low, high = low + p_low.astype(np.int64), high + p_high.astype(np.int64)
    term = graph.add("Mul", e.name, graph.constant(_spread(factor)))
    digits = np.maximum(np.abs(low), np.abs(high)) * np.exp2(np.maximum(-shift, 0))
    saturated = np.exp2(24 - right - np.maximum(-shift, 0)) > (1 << 16)
    safe = (digits < EXACT) | (saturated & (steps == 0))
    if safe.all():
        name = graph.add("Floor", graph.add("Add", name, term))
    else:
        whole = graph.add("Floor", term)
        part = graph.add("Sub", term, whole)
        name = graph.add("Add", graph.add("Floor", graph.add("Add", name, part)), whole)
    return Accumulated(name, e.shape, (low >> right) + steps, (high >> right) + steps, steps)


def _whole(graph: Graph, source: Source, x: Value, weight: NDArray[Any], bias: NDArray[Any]) -> Value:
    """Add the 32-bit sum itself, which the network's end dequantizes."""
    source.expect(output_bit=32, use_sumin=0)
    low, high = _bounds(x, weight)
    low, high = low + bias, high + bias
    if max(int(np.abs(low).max()), int(np.abs(high).max())) >= EXACT:
        raise source.unknown("a sum does not fit float32")
    kernel = weight.astype(np.float64).transpose(0, 3, 1, 2)
    name = _convolve(graph, x, kernel, bias.astype(np.float64), source.attributes)
    shape = _shape(x, weight, source.attributes)
    # The Floor changes nothing: it keeps onnxruntime from folding the next scale into the weights.
    return Value(graph.add("Floor", name), shape, NHWC, int(low.min()), int(high.max()))


def _bounds(x: Value, weight: NDArray[Any]) -> tuple[Integers, Integers]:
    """Return the smallest and largest sum of products per output channel; padding adds zeros."""
    flat = weight.reshape(weight.shape[0], -1).astype(np.int64)
    positive, negative = np.maximum(flat, 0).sum(1), np.minimum(flat, 0).sum(1)
    low, high = min(x.low, 0), max(x.high, 0)
    return positive * low + negative * high, positive * high + negative * low


def _convolve(
    graph: Graph,
    x: Value,
    kernel: NDArray[Any],
    bias: NDArray[Any],
    geometry: Mapping[str, Any],
) -> str:
    attributes: dict[str, Any] = {
        key: geometry[key] for key in ("strides", "pads", "dilations", "group") if key in geometry
    }
    inputs = [x.name, graph.constant(kernel)]
    if bias.any():
        inputs.append(graph.constant(bias))
    return graph.add("Conv", *inputs, kernel_shape=list(kernel.shape[2:]), **attributes)


def _shape(x: Value, weight: NDArray[Any], geometry: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the logical NHWC shape of the result."""
    strides, dilations = geometry.get("strides", (1, 1)), geometry.get("dilations", (1, 1))
    pads = geometry.get("pads", (0, 0, 0, 0))
    sides = [
        (x.shape[1 + i] + pads[i] + pads[2 + i] - dilations[i] * (weight.shape[1 + i] - 1) - 1) // strides[i]
        + 1
        for i in range(2)
    ]
    return (x.shape[0], *sides, weight.shape[0])


def _spread(per_channel: NDArray[Any]) -> NDArray[Any]:
    """Shape constants per channel against NCHW; one value stays one."""
    if (per_channel == per_channel[0]).all():
        return np.array(per_channel[0])
    return per_channel.reshape(1, -1, 1, 1)
