"""Operators that move numbers without changing them, and the step back to real numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve

from edge.simulate.portable.graph import Graph, Source, Value
from edge.simulate.portable.rules import rule
from edge.simulate.portable.rules.elementwise import spread


@rule("Transpose", domain="")
def transpose(graph: Graph, source: Source) -> Sequence[Value]:
    """Rename the axes; data move only where a later operator needs them to."""
    x = graph.values[source.node.input[0]]
    perm = source.attributes.get("perm") or list(range(len(x.shape)))[::-1]
    shape, axes = tuple(x.shape[axis] for axis in perm), tuple(x.axes[axis] for axis in perm)
    return [evolve(x, shape=shape, axes=axes)]


@rule("Reshape", domain="")
def reshape(graph: Graph, source: Source) -> Sequence[Value]:
    """Reshape in the logical order."""
    x = graph.plain(graph.values[source.node.input[0]])
    wanted = [int(n) for n in source.constant(1)]
    shape = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    if -1 in shape:
        known = -int(np.prod(shape))
        shape[shape.index(-1)] = int(np.prod(x.shape)) // known
    return [evolve(x, name=graph.reshape(x.name, shape), shape=tuple(shape), axes=tuple(range(len(shape))))]


@rule("HzDequantize")
def dequantize(graph: Graph, source: Source) -> Sequence[Value]:
    """Multiply with a float32 scale, one or one a channel (axis 1), in float32."""
    x = graph.values[source.node.input[0]]
    scale = source.constant(1).astype(np.float32).reshape(-1)
    axis = source.attributes.get("axis", 1) % len(x.shape)
    if scale.size not in (1, x.shape[axis]):
        raise source.unknown(f"{scale.size} scales for {x.shape[axis]} channels")
    order = (*(a for i, a in enumerate(x.axes) if i != axis), x.axes[axis])  # spread speaks of the last axis
    factor = spread(scale.astype(np.float64), x.shape, order) if scale.size > 1 else scale.reshape(())
    return [evolve(x, name=graph.add("Mul", x.name, graph.constant(factor)), real=True)]
