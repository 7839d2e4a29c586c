"""Sums of products: convolutions (plain, transposed, the preprocess node's) and matrix products.

A convolution is ``sat((sat16(acc >> right_shift) * scale) >> out_shift)``, rounding down twice. acc is the int32 sum
of products and bias. A residual that is added inside (``use_sumin``) enters acc as ``e * e_scale``, shifted by
``e_shift`` to the left, or to the right rounding down. A transposed convolution is the same with other names:
``sat((sat16(acc >> accu_right_shift) * y_quant_scale) >> y_right_shift)``, its bias shifted up by ``b_left_shift``. A
product of two computed matrices has no bias, and rounds its second shift as ``rounding_method`` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray
from onnx import TensorProto

from edge.simulate.portable.graph import EXACT, NHWC, Graph, Source, Value, spread
from edge.simulate.portable.requantize import INT16, Integers, bounds, requantize
from edge.simulate.portable.rules.sums import INT32, convolve, reach, wide_convolve, wrapped


@frozen
class Accumulated:
    """``acc >> right_shift`` without an offset per channel, which the next step adds."""

    name: str  #: float32 tensor of integers, NCHW.
    shape: tuple[int, ...]  #: logical, NHWC.
    low: Integers  #: smallest value per channel, with the offset.
    high: Integers  #: largest.
    offset: Integers  #: to be added per channel.
    wide: bool = False  #: the tensor is float64.


def convolution(graph: Graph, source: Source) -> Sequence[Value]:
    """Convolve images of integers, grouped or not, with or without a residual."""
    source.expect(data_format="NHWC", use_bias=(0, 1), activation=("relu", ""), auto_pad="NOTSET")
    x = graph.image(graph.values[source.node.input[0]])
    residual = None
    if source.attributes.get("use_sumin"):
        residual = graph.image(graph.values[source.node.input[4]])
    weight = source.constant(1)
    if source.attributes.get("use_bias", 1):
        # bias_b_scale shifts up; a negative one does nothing
        bias = source.constant(2).astype(np.int64) << np.maximum(source.constant(3), 0).astype(np.int64)
    elif residual is None:
        bias = np.zeros(weight.shape[0], np.int64)
    else:
        raise source.unknown("a residual without a bias")
    bits = source.attributes["output_bit"]
    if source.attributes.get("high_precision_output"):
        return [_activated(graph, source, _whole(graph, source, x, weight, bias))]
    t = accumulate(graph, source, x, weight, bias, source.attributes, residual)
    return [_activated(graph, source, _scaled(graph, source, t, bits))]


def _scaled(
    graph: Graph, source: Source, t: Accumulated, bits: int, scale: str = "scale", shift: str = "out_shift"
) -> Value:
    """Add scale, shift (the names of their attributes) and saturation to a sum."""
    count = t.shape[-1]
    scales, shifts, stored = source.integers(scale, count), source.integers(shift, count), (1, count, 1, 1)
    name = requantize(
        graph, t.name, t.low, t.high, scales, shifts, bits, stored, nearest=False, offset=t.offset, wide=t.wide
    )
    return Value(name, t.shape, NHWC, *bounds(bits))


def _activated(graph: Graph, source: Source, x: Value) -> Value:
    """Add the rectifier if the node has one."""
    if source.attributes.get("activation") != "relu":
        return x
    return evolve(x, name=graph.add("Relu", x.name), low=0, high=max(x.high, 0))


def accumulate(
    graph: Graph,
    source: Source,
    x: Value,
    weight: NDArray[Any],
    bias: NDArray[Any],
    geometry: Mapping[str, Any],
    residual: Value | None = None,
) -> Accumulated:
    """Add ``acc >> right_shift`` in float32, exactly; in float64 if a partial sum may reach 2^24.

    The weights are scaled by 2^-right_shift, which changes no digit, so that the shift is a Floor. A bias that is too
    large for the convolution is split at the shift: its upper part is an integer after the shift, kept as an offset.
    ``x`` is stored as NCHW, ``weight`` int8 (O, kH, kW, I / group), ``bias`` int32 (O,); ``geometry`` is ``strides``,
    ``pads``, ``dilations`` and ``group``, ONNX's defaults where missing.
    """
    channels = weight.shape[0]
    right = source.integers("right_shift", channels)
    low, high = reach(x.low, x.high, weight)
    bias = bias.astype(np.int64)
    fits = np.maximum(np.abs(low + bias), np.abs(high + bias)) + np.abs(bias) < EXACT
    steps = np.where(fits, 0, bias >> right)
    rest = bias - (steps << right)
    too_large = np.maximum(np.abs(low), np.abs(high)) + np.abs(rest) >= EXACT
    if too_large.any() or (residual is not None and not _residual_fits(source, residual, low, high, bias)):
        return _wide(graph, source, x, weight, bias, geometry, residual)
    low, high = low + rest, high + rest
    unit = np.exp2(-right.astype(np.float64))
    kernel = (weight.astype(np.float64) * unit[:, None, None, None]).transpose(0, 3, 1, 2)
    name = convolve(graph, x.name, kernel, rest * unit, geometry)
    if residual is not None:
        return _with_residual(graph, source, name, residual, low, high, steps)
    # Even without a shift: the Floor keeps onnxruntime from folding the next scale into the weights.
    name = graph.add("Floor", name)
    return Accumulated(name, _shape(x, weight, geometry), (low >> right) + steps, (high >> right) + steps, steps)


def _with_residual(
    graph: Graph, source: Source, name: str, e: Value, low: Integers, high: Integers, steps: Integers
) -> Accumulated:
    """Add ``e * e_scale``, shifted by ``e_shift``, to a sum in units of 2^right_shift, and round down.

    A sum beyond 2^24 is no longer exact, but then the 16 bits that follow saturate in any case, unless the
    shift is large; then the residual's integer part is added after rounding.
    """
    channels = e.shape[-1]
    right = source.integers("right_shift", channels)
    scale, shift = source.integers("e_scale", channels), source.integers("e_shift", channels)
    # acc is an integer, so rounding the residual down first is the same as rounding the sum.
    factor = scale * np.exp2((shift - right).astype(np.float64))
    p_low, p_high = np.floor(e.low * scale * np.exp2(shift)), np.floor(e.high * scale * np.exp2(shift))
    low, high = low + p_low.astype(np.int64), high + p_high.astype(np.int64)
    term = graph.add("Mul", e.name, graph.constant(spread(factor)))
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


def _residual_fits(source: Source, e: Value, low: Integers, high: Integers, bias: Integers) -> bool:
    """Whether float32 holds a residual, and int32 the sum with it."""
    right = source.integers("right_shift", low.size)
    scale, shift = source.integers("e_scale", low.size), source.integers("e_shift", low.size)
    residual = e.limit * scale * np.exp2(shift.astype(np.float64))
    largest = np.maximum(np.abs(low + bias), np.abs(high + bias)) + np.abs(residual)
    deep = (shift < 0).any() and (right - shift > 40).any()
    return not deep and bool((e.limit * np.abs(scale) < EXACT).all() and (largest < INT32).all())


def _wide(
    graph: Graph,
    source: Source,
    x: Value,
    weight: NDArray[Any],
    bias: Integers,
    geometry: Mapping[str, Any],
    e: Value | None,
) -> Accumulated:
    """Add ``acc >> right_shift`` in float64, for sums that float32 does not hold."""
    right = source.integers("right_shift", weight.shape[0])
    unit = np.exp2(-right.astype(np.float64))
    low, high = reach(x.low, x.high, weight)
    low, high = low + bias, high + bias
    name = wide_convolve(graph, source, x, weight, unit, geometry)
    if bias.any():
        name = graph.add("Add", name, graph.constant(spread(bias * unit), np.float64))
    if e is not None:
        scale, shift = source.integers("e_scale", right.size), source.integers("e_shift", right.size)
        factor = scale * np.exp2(shift.astype(np.float64))
        term = graph.add("Cast", e.name, to=TensorProto.DOUBLE)
        term = graph.add("Mul", term, graph.constant(spread(factor), np.float64))
        # the sum is an integer, and so is the residual that int32 holds
        term = graph.add("Mul", graph.add("Floor", term), graph.constant(spread(unit), np.float64))
        name = graph.add("Add", name, term)
        ends = np.stack([np.floor(e.low * factor), np.floor(e.high * factor)]).astype(np.int64)
        low, high = low + ends.min(0), high + ends.max(0)
    name = wrapped(graph, name, int(np.maximum(np.abs(low), np.abs(high)).max()), spread(unit))
    name = graph.add("Floor", name)
    low, high = np.clip(low, -INT32, INT32 - 1), np.clip(high, -INT32, INT32 - 1)
    none = np.zeros(right.size, np.int64)
    return Accumulated(name, _shape(x, weight, geometry), low >> right, high >> right, none, wide=True)


def _whole(graph: Graph, source: Source, x: Value, weight: NDArray[Any], bias: Integers) -> Value:
    """Add the 32-bit sum itself, in float32; the end of the network dequantizes it."""
    source.expect(output_bit=32, use_sumin=0)
    low, high = reach(x.low, x.high, weight)
    low, high = low + bias, high + bias
    shape = _shape(x, weight, source.attributes)
    largest = max(int(np.abs(low).max()), int(np.abs(high).max()))
    if largest < EXACT:
        kernel = weight.astype(np.float64).transpose(0, 3, 1, 2)
        name = convolve(graph, x.name, kernel, bias.astype(np.float64), source.attributes)
        # The Floor changes nothing: it keeps onnxruntime from folding the next scale into the weights.
        name = graph.add("Floor", name)
    else:
        unit = np.ones(weight.shape[0])
        name = wide_convolve(graph, source, x, weight, unit, source.attributes)
        name = graph.add("Add", name, graph.constant(spread(bias.astype(np.float64)), np.float64))
        name = graph.add("Cast", wrapped(graph, name, largest, np.ones(())), to=TensorProto.FLOAT)
    return Value(name, shape, NHWC, max(int(low.min()), -INT32), min(int(high.max()), INT32 - 1))


def _shape(x: Value, weight: NDArray[Any], geometry: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the logical NHWC shape of the result."""
    strides, dilations = geometry.get("strides", (1, 1)), geometry.get("dilations", (1, 1))
    pads = geometry.get("pads", (0, 0, 0, 0))
    sides = [
        (x.shape[1 + i] + pads[i] + pads[2 + i] - dilations[i] * (weight.shape[1 + i] - 1) - 1) // strides[i] + 1
        for i in range(2)
    ]
    return (x.shape[0], *sides, weight.shape[0])


def preprocess(graph: Graph, source: Source) -> Sequence[Value]:
    """Round down twice: ``sat8((sat16(acc >> right_shift) * scale) >> out_shift)``, acc a 1x1 convolution."""
    source.expect(
        input_type="YUV_BT601_FULL_RANGE_128",
        channel_group=1,
        output_bit=(8, 16),
        high_precision_output=0,
        data_format="NHWC",
    )
    if np.any(source.constant(3)):
        raise source.unknown("bias_b_scale is not 0")
    x = graph.image(graph.values[source.node.input[0]])
    t = accumulate(graph, source, x, source.constant(1), source.constant(2), {})
    return [_scaled(graph, source, t, source.attributes["output_bit"])]


def transposed_convolution(graph: Graph, source: Source) -> Sequence[Value]:
    """Convolve int8 images, transposed; the result is int8."""
    source.expect(data_format="NHWC", use_bias=1, activation=("relu", ""), auto_pad="NOTSET")
    x = graph.image(graph.values[source.node.input[0]])
    weight = source.constant(1)
    groups = source.attributes.get("group", 1)
    channels = weight.shape[3] * groups
    up = source.integers("b_left_shift", channels)
    bias = source.constant(2).astype(np.int64) << np.maximum(up, 0)
    if (up < 0).any():
        raise source.unknown("b_left_shift is negative")
    right = source.integers("accu_right_shift", channels)
    strides, dilations = source.attributes.get("strides", [1, 1]), source.attributes.get("dilations", [1, 1])
    # (I, kH, kW, O / group) -> output channels first
    inputs = weight.shape[0] // groups
    first = weight.reshape(groups, inputs, *weight.shape[1:]).transpose(0, 4, 2, 3, 1)
    first = first.reshape(channels, *weight.shape[1:3], inputs)
    low, high = _reach(x, first, dilations, strides)
    steps, rest = bias >> right, bias & ((np.int64(1) << right) - 1)
    largest = np.maximum(np.abs(low), np.abs(high)) + rest
    if (largest >= EXACT).any():
        raise source.unknown(f"a sum of {int(largest.max())} does not fit float32")
    unit = np.exp2(-right.astype(np.float64))
    per_input = unit.reshape(groups, 1, 1, 1, -1).repeat(inputs, 1).reshape(weight.shape[0], 1, 1, -1)
    kernel = (weight.astype(np.float64) * per_input).transpose(0, 3, 1, 2)
    geometry = {
        key: source.attributes[key]
        for key in ("strides", "pads", "dilations", "group", "output_padding")
        if key in source.attributes
    }
    shape = list(source.attributes.get("kernel_shape", weight.shape[1:3]))
    inputs_of_node = [x.name, graph.constant(kernel), graph.constant(rest * unit)]
    name = graph.add("Floor", graph.add("ConvTranspose", *inputs_of_node, kernel_shape=shape, **geometry))
    pads, extra = source.attributes.get("pads", [0] * 4), source.attributes.get("output_padding", [0, 0])
    sides = [
        (x.shape[1 + i] - 1) * strides[i] + dilations[i] * (shape[i] - 1) + 1 + extra[i] - pads[i] - pads[2 + i]
        for i in range(2)
    ]
    ends = ((low + rest) >> right) + steps, ((high + rest) >> right) + steps
    t = Accumulated(name, (x.shape[0], *sides, channels), *ends, steps)
    return [_activated(graph, source, _scaled(graph, source, t, 8, "y_quant_scale", "y_right_shift"))]


def _reach(
    x: Value, weight: NDArray[Any], dilations: Sequence[int], strides: Sequence[int]
) -> tuple[Integers, Integers]:
    """Return the smallest and largest sum; with a stride, only every stride-th tap reaches the same pixel."""
    if list(dilations) != [1, 1]:
        return reach(x.low, x.high, weight)
    ends = [
        reach(x.low, x.high, weight[:, row :: strides[0], column :: strides[1]])
        for row in range(strides[0])
        for column in range(strides[1])
    ]
    return np.min([low for low, _ in ends], axis=0), np.max([high for _, high in ends], axis=0)


def matmul(graph: Graph, source: Source) -> Sequence[Value]:
    """Multiply matrices of the last two axes; the axes before are batches."""
    source.expect(rounding_method=("ROUND", "FLOOR"), output_bit=(8, 16, 32))
    a, b = (graph.plain(graph.values[name]) for name in source.node.input)
    inner = a.shape[-1]
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    axes = tuple(range(len(shape)))
    products = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    low, high = min(0, *products) * inner, max(0, *products) * inner
    bits = source.attributes["output_bit"]
    fits = max(-low, high) < EXACT
    if bits == 32:
        if not fits:
            raise source.unknown(f"a sum of {max(-low, high)} does not fit float32")
        # The Floor changes nothing: it keeps onnxruntime from folding the next scale into the product.
        return [Value(graph.add("Floor", graph.add("MatMul", a.name, b.name)), shape, axes, low, high)]
    right = int(source.integers("right_shift", 1)[0])
    if fits:
        name = graph.add("MatMul", a.name, b.name)
        if right:
            name = graph.add("Floor", graph.add("Mul", name, graph.constant(2.0**-right)))
        low, high = low >> right, high >> right
    else:
        wide = (graph.add("Cast", value.name, to=TensorProto.DOUBLE) for value in (a, b))
        name = graph.add("Mul", graph.add("MatMul", *wide), graph.constant(2.0**-right, np.float64))
        ends = (graph.constant(end, np.float64) for end in INT16)
        name = graph.add("Cast", graph.add("Clip", graph.add("Floor", name), *ends), to=TensorProto.FLOAT)
        low, high = INT16
    scale, shift = source.integers("scale", 1), source.integers("out_shift", 1)
    nearest = source.attributes["rounding_method"] == "ROUND"
    name = requantize(graph, name, np.array([low]), np.array([high]), scale, shift, bits, (), nearest=nearest)
    return [Value(name, shape, axes, *bounds(bits))]
