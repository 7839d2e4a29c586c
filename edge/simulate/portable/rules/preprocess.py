"""The inserted preprocess node: YUV444 minus 128 to the network's first integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge.simulate.portable.graph import Graph, Source, Value
from edge.simulate.portable.requantize import bounds, requantize
from edge.simulate.portable.rules import rule
from edge.simulate.portable.rules.convolution import accumulate


@rule("HzSQuantizedPreprocess")
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
    bits = source.attributes["output_bit"]
    x = graph.picture(graph.values[source.node.input[0]])
    t = accumulate(graph, source, x, source.constant(1), source.constant(2), {})
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
        wide=t.wide,
    )
    low, high = bounds(bits)
    return [Value(name, t.shape, x.axes, low, high)]
