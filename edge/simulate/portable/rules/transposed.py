"""Transposed convolutions: the rule of convolutions, with other names.

``sat((sat16(acc >> accu_right_shift) * y_quant_scale) >> y_right_shift)``, rounding down twice; acc is the
sum of products and of ``bias << b_left_shift``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.simulate.portable.graph import EXACT, NHWC, Graph, Source, Value
from edge.simulate.portable.requantize import Integers, bounds, requantize
from edge.simulate.portable.rules import rule
from edge.simulate.portable.rules.sums import reach


@rule("HzSQuantizedConvTranspose")
def transposed_convolution(graph: Graph, source: Source) -> Sequence[Value]:
    """Spread int8 pictures of numbers; the result is int8."""
    source.expect(data_format="NHWC", use_bias=1, activation=("relu", ""), auto_pad="NOTSET")
    x = graph.picture(graph.values[source.node.input[0]])
    weight = source.constant(1)
    groups = source.attributes.get("group", 1)
    channels = weight.shape[3] * groups
    up = source.integers("b_left_shift", channels)
    bias = source.constant(2).astype(np.int64) << np.maximum(up, 0)
    if (up < 0).any():
        raise source.unknown("b_left_shift is negative")
    right = source.integers("accu_right_shift", channels)
    strides = source.attributes.get("strides", [1, 1])
    # (I, kH, kW, O / group) -> output channels first
    inputs = weight.shape[0] // groups
    first = weight.reshape(groups, inputs, *weight.shape[1:]).transpose(0, 4, 2, 3, 1)
    first = first.reshape(channels, *weight.shape[1:3], inputs)
    low, high = _reach(x, first, source.attributes.get("dilations", [1, 1]), strides)
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
    name = graph.add("ConvTranspose", *inputs_of_node, kernel_shape=shape, **geometry)
    name = graph.add("Floor", name)
    name = requantize(
        graph,
        name,
        low=((low + rest) >> right) + steps,
        high=((high + rest) >> right) + steps,
        scale=source.integers("y_quant_scale", channels),
        shift=source.integers("y_right_shift", channels),
        bits=8,
        nearest=False,
        channels=(1, channels, 1, 1),
        offset=steps,
    )
    least, most = bounds(8)
    if source.attributes.get("activation") == "relu":
        name, least = graph.add("Relu", name), 0
    pads, extra = source.attributes.get("pads", [0] * 4), source.attributes.get("output_padding", [0, 0])
    dilations = source.attributes.get("dilations", [1, 1])
    sides = [
        (x.shape[1 + i] - 1) * strides[i]
        + dilations[i] * (shape[i] - 1)
        + 1
        + extra[i]
        - pads[i]
        - pads[2 + i]
        for i in range(2)
    ]
    return [Value(name, (x.shape[0], *sides, channels), NHWC, least, most)]


def _reach(
    x: Value, weight: NDArray[Any], dilations: Sequence[int], strides: Sequence[int]
) -> tuple[Integers, Integers]:
    """Return the smallest and largest sum; with a stride, only every stride-th tap meets the same pixel."""
    if list(dilations) != [1, 1]:
        return reach(x.low, x.high, weight)
    ends = [
        reach(x.low, x.high, weight[:, row :: strides[0], column :: strides[1]])
        for row in range(strides[0])
        for column in range(strides[1])
    ]
    return np.min([low for low, _ in ends], axis=0), np.max([high for _, high in ends], axis=0)
