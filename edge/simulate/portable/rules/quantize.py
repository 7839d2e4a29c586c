"""Real numbers to integers, one integer scale to another, and integers back to real numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve

from edge.simulate.portable.graph import Graph, Source, Value, channels, spread
from edge.simulate.portable.requantize import bounds, requantize


def quantize(graph: Graph, source: Source) -> Sequence[Value]:
    """Divide by a float32 scale in float32, round halves to even, saturate.

    The vendor turns quotients of 2^31 and more into the smallest integer; no quantized network has them.
    """
    source.expect(bits=(8, 16))
    x = graph.values[source.node.input[0]]
    scale = source.constant(1).astype(np.float32).reshape(-1)
    source.attributes.get("axis")  # of several scales; there is one
    if scale.size != 1 or not x.real:
        raise source.unknown(f"{scale.size} scales for {'real' if x.real else 'integer'} input")
    bits = source.attributes["bits"]
    low, high = bounds(bits)
    factor = graph.constant(scale.reshape(()))
    if bits == 8:
        name = graph.quantized(x.name, scale.reshape(()))
    else:
        name = graph.add("Round", graph.add("Div", x.name, factor))
        name = graph.add("Clip", name, graph.constant(low), graph.constant(high))
    return [evolve(x, name=name, low=low, high=high, real=False)]


def rescale(graph: Graph, source: Source) -> Sequence[Value]:
    """``sat(nearest((x * output_scale) >> output_right_shift))``, per channel of the last axis."""
    source.expect(method="Rescale", bits=(8, 16))
    x = graph.values[source.node.input[0]]
    if source.attributes["axis"] != len(x.shape) - 1:
        raise source.unknown(f"axis is {source.attributes['axis']} of {len(x.shape)}")
    scale, shift = source.integers("output_scale"), source.integers("output_right_shift")
    if (scale == scale[0]).all() and (shift == shift[0]).all():
        scale, shift = scale[:1], shift[:1]
    elif scale.size != x.shape[-1] or shift.size != x.shape[-1]:
        raise source.unknown(f"{scale.size} scales for {x.shape[-1]} channels")
    bits = source.attributes["bits"]
    ends = np.array([x.low]), np.array([x.high])
    name = requantize(graph, x.name, *ends, scale, shift, bits, channels(x.axes, scale.size), nearest=True)
    low, high = bounds(bits)
    return [evolve(x, name=name, low=low, high=high)]


def dequantize(graph: Graph, source: Source) -> Sequence[Value]:
    """Multiply with a float32 scale, one or one per channel (axis 1), in float32."""
    x = graph.values[source.node.input[0]]
    scale = source.constant(1).astype(np.float32).reshape(-1)
    axis = source.attributes.get("axis", 1) % len(x.shape)
    if scale.size not in (1, x.shape[axis]):
        raise source.unknown(f"{scale.size} scales for {x.shape[axis]} channels")
    order = (*(a for i, a in enumerate(x.axes) if i != axis), x.axes[axis])  # spread works on the last axis
    factor = spread(scale.astype(np.float64), order) if scale.size > 1 else scale.reshape(())
    return [evolve(x, name=graph.add("Mul", x.name, graph.constant(factor)), real=True)]
