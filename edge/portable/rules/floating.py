"""Operators that the compiler leaves to the CPU, in float32.

Those here give the same bits everywhere, being one IEEE operation an element - all but Softmax: its
exponentials and the order of its sum are each runtime's own, so that the last bit or two differ, and a number
that is quantized after it lies next to the other's now and then.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve

from edge.portable.graph import Graph, Source, Value
from edge.portable.rules import rule


@rule("Softmax", domain="")
def softmax(graph: Graph, source: Source) -> Sequence[Value]:
    """Normalize exponentials over the last axis; not the same bits as the vendor's."""
    x = _real(source, graph.values[source.node.input[0]])
    if source.attributes.get("axis", 1) % len(x.shape) != len(x.shape) - 1:
        raise source.unknown(f"axis is {source.attributes.get('axis', 1)} of {len(x.shape)}")
    return [evolve(x, name=graph.add("Softmax", x.name, axis=x.axes[-1]))]


@rule("Neg", "Abs", "Relu", domain="")
def one(graph: Graph, source: Source) -> Sequence[Value]:
    """Apply a function to each real number."""
    x = _real(source, graph.values[source.node.input[0]])
    return [evolve(x, name=graph.add(source.node.op_type, x.name))]


@rule("Add", "Sub", "Mul", "Div", domain="")
def two(graph: Graph, source: Source) -> Sequence[Value]:
    """Combine two real tensors, with broadcasting."""
    a, b, result = _pair(graph, source)
    _real(source, a), _real(source, b)
    return [evolve(result, name=graph.add(source.node.op_type, a.name, b.name))]


@rule("Max", "Min", domain="")
def extreme(graph: Graph, source: Source) -> Sequence[Value]:
    """Take the larger or smaller of two tensors, integers or real numbers, with broadcasting."""
    if len(source.node.input) != 2:
        raise source.unknown(f"{len(source.node.input)} inputs")
    a, b, result = _pair(graph, source)
    if a.real != b.real:
        raise source.unknown("integers and real numbers")
    choose = max if source.node.op_type == "Max" else min
    name = graph.add(source.node.op_type, a.name, b.name)
    return [evolve(result, name=name, low=choose(a.low, b.low), high=choose(a.high, b.high))]


def _pair(graph: Graph, source: Source) -> tuple[Value, Value, Value]:
    """Return both operands in one storage order, and the form of the result."""
    values = [_operand(graph, source, index) for index in range(2)]
    rank = max(len(value.shape) for value in values)
    values = [_raised(graph, value, rank) for value in values]
    axes = max(values, key=lambda value: int(np.prod(value.shape))).axes
    a, b = (graph.transposed(value, axes) for value in values)
    shape = tuple(int(n) for n in np.broadcast_shapes(a.shape, b.shape))
    return a, b, evolve(a, shape=shape)


def _raised(graph: Graph, value: Value, rank: int) -> Value:
    if len(value.shape) == rank:
        return value
    value = graph.plain(value)
    shape = (1,) * (rank - len(value.shape)) + value.shape
    return evolve(value, name=graph.reshape(value.name, shape), shape=shape, axes=tuple(range(rank)))


def _operand(graph: Graph, source: Source, index: int) -> Value:
    name = source.node.input[index]
    if name in graph.values:
        return graph.values[name]
    data = source.constant(index)
    if data.dtype != np.float32:
        raise source.unknown(f"a constant of {data.dtype}")
    return Value(graph.constant(data), data.shape, tuple(range(data.ndim)), real=True)


def _real(source: Source, value: Value) -> Value:
    if not value.real:
        raise source.unknown("integers, where the vendor's networks have real numbers")
    return value
