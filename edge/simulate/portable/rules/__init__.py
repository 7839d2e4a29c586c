"""One function per vendor operator: the integers that it computes, in standard ONNX.

Each rule was found by experiment and is compared with the vendor's runtime in ``tests/test_portable_rules.py``. A rule
takes the graph to add to and the vendor's node, and returns a :class:`Value` for each of its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edge.simulate.portable.graph import Graph, Source, Value
from edge.simulate.portable.rules import arrange, elementwise, floating, products, quantize, reduce, resize, tables

Rule = Callable[[Graph, Source], Sequence[Value]]

_STANDARD: Mapping[str, Rule] = {
    "Abs": floating.one,
    "Add": floating.two,
    "Cast": arrange.cast,
    "Concat": arrange.concat,
    "Div": floating.two,
    "Gather": arrange.gather,
    "Max": floating.extreme,
    "Min": floating.extreme,
    "Mul": floating.two,
    "Neg": floating.one,
    "ReduceMax": reduce.plain_reduce_max,
    "Relu": floating.one,
    "Reshape": arrange.reshape,
    "Resize": resize.nearest,
    "Slice": arrange.slices,
    "Softmax": floating.softmax,
    "Split": arrange.split,
    "Sub": floating.two,
    "Transpose": arrange.transpose,
}
_VENDOR: Mapping[str, Rule] = {
    "HzChannelShuffle": arrange.channel_shuffle,
    "HzDepthToSpace": arrange.depth_to_space,
    "HzDequantize": quantize.dequantize,
    "HzLut": tables.lut,
    "HzLut2Layer": tables.lut2,
    "HzPad": arrange.pad,
    "HzQuantize": quantize.quantize,
    "HzQuantizedArgMax": reduce.place_of_largest,
    "HzQuantizedGlobalMaxPool": reduce.global_max_pool,
    "HzQuantizedMaxPool": reduce.max_pool,
    "HzQuantizedReduceMax": reduce.reduce_max,
    "HzQuantizedResizeUpsample": resize.repeat,
    "HzQuantizedRoiResize": resize.bilinear,
    "HzRequantize": quantize.rescale,
    "HzSElementwiseAdd": elementwise.add,
    "HzSElementwiseMul": elementwise.multiply,
    "HzSElementwiseSub": elementwise.add,
    "HzSPRelu": tables.prelu,
    "HzSQuantizedConv": products.convolution,
    "HzSQuantizedConvTranspose": products.transposed_convolution,
    "HzSQuantizedGlobalAveragePool": reduce.global_average_pool,
    "HzSQuantizedMatmul": products.matmul,
    "HzSQuantizedPreprocess": products.preprocess,
    "HzSQuantizedReduceMean": reduce.reduce_mean,
    "HzSQuantizedReduceSum": reduce.reduce_mean,
}
RULES: Mapping[tuple[str, str], Rule] = {
    (domain, operator): rule
    for domain, known in (("", _STANDARD), ("horizon", _VENDOR))
    for operator, rule in known.items()
}
"""(domain, operator) -> its rule."""
