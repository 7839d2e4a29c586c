"""Operators that the compiler leaves to the CPU, in float32, equal to the vendor's runtime bit for bit.

Most are one IEEE operation per element, the same everywhere. Softmax follows the vendor's polynomial and order of
additions, operation by operation: other runtimes differ in the last bits, which would sometimes change an integer
quantized from it. If the length of its rows is no multiple of 4, a few of the vendor's own last bits depend on the
number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve
from onnx import TensorProto

from edge.simulate.portable.graph import Graph, Source, Value

LANES = 4  # of the vendor's build, whatever the CPU


def softmax(graph: Graph, source: Source) -> Sequence[Value]:
    """Normalize over the axes from ``axis`` on: ``e * (1 / sum(e))``, e = exp(x - max(x))."""
    x = graph.plain(_real(source, graph.values[source.node.input[0]]))
    axis = source.attributes.get("axis", 1) % len(x.shape)  # opset 11, as in all of the vendor's networks
    shape = (int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))
    rows = graph.reshape(x.name, shape)
    e = _exp(graph, graph.add("Sub", rows, graph.add("ReduceMax", rows, axes=[1], keepdims=1)), shape)
    share = graph.add("Div", graph.constant(1.0), _sum(graph, e, shape))
    # The Max changes no value: it keeps onnxruntime from turning the product into e / sum.
    share = graph.add("Max", share, graph.constant(0.0))
    return [evolve(x, name=graph.reshape(graph.add("Mul", e, share), x.shape))]


def _exp(graph: Graph, x: str, shape: tuple[int, ...]) -> str:
    """Add the Cephes library's exp of numbers <= 0, as Eigen has it without fused multiply-add."""

    def times(a: str, b: float) -> str:
        return graph.add("Mul", a, graph.constant(b))

    def plus(a: str, b: float) -> str:
        return graph.add("Add", a, graph.constant(b))

    x = graph.add("Max", x, graph.constant(-88.3762626647949))
    power = graph.add("Floor", plus(times(x, 1.44269504088896341), 0.5))
    rest = graph.add("Sub", x, times(power, 0.693359375))
    rest = graph.add("Sub", rest, times(power, -2.12194440e-4))
    y = times(rest, 1.9875691500e-4)
    for term in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1):
        y = graph.add("Mul", plus(y, term), rest)
    y = graph.add("Mul", plus(y, 5.0000001201e-1), graph.add("Mul", rest, rest))
    y = plus(graph.add("Add", y, rest), 1.0)
    # 2^0, 2^-1, …, 2^-126, 0: numbers below a normal float32 are flushed to 0.
    powers = np.append(np.exp2(-np.arange(127.0)), [0.0, 0.0])
    index = graph.add("Cast", graph.reshape(graph.add("Neg", power), (-1,)), to=TensorProto.INT32)
    two = graph.add("GatherElements", graph.constant(powers), index, axis=0)
    return graph.add("Mul", y, graph.reshape(two, shape))


def _sum(graph: Graph, x: str, shape: tuple[int, int]) -> str:
    """Add rows as 4 lanes do: each lane in order, then (0 + 2) + (1 + 3), then the sum of the remaining elements."""
    rows, count = shape

    parts = []
    whole = count // LANES
    if whole:
        lanes = graph.reshape(graph.slice(x, 0, whole * LANES, 1), (rows, whole, LANES))
        # ReduceSum is free to add in any order; CumSum is not.
        running = graph.add("CumSum", lanes, graph.constant(np.array(1), np.int64))
        lanes = graph.reshape(graph.slice(running, whole - 1, whole, 1), (rows, LANES))
        pairs = graph.add("Add", graph.slice(lanes, 0, 2, 1), graph.slice(lanes, 2, 4, 1))
        parts.append(graph.add("Add", graph.slice(pairs, 0, 1, 1), graph.slice(pairs, 1, 2, 1)))
    if count % LANES:
        rest = graph.slice(x, whole * LANES, count, 1)
        running = graph.add("CumSum", rest, graph.constant(np.array(1), np.int64))
        parts.append(graph.slice(running, count % LANES - 1, count % LANES, 1))
    return graph.add("Add", *parts) if len(parts) > 1 else parts[0]


def one(graph: Graph, source: Source) -> Sequence[Value]:
    """Apply a function to each real number."""
    x = _real(source, graph.values[source.node.input[0]])
    return [evolve(x, name=graph.add(source.node.op_type, x.name))]


def two(graph: Graph, source: Source) -> Sequence[Value]:
    """Combine two real tensors, with broadcasting."""
    a, b, result = _pair(graph, source)
    _real(source, a), _real(source, b)
    return [evolve(result, name=graph.add(source.node.op_type, a.name, b.name))]


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
    """Return both operands in the same storage order, and the form of the result."""
    values = [_operand(graph, source, index) for index in range(2)]
    rank = max(len(value.shape) for value in values)
    values = [
        value if len(value.shape) == rank else graph.reshaped(value, (1,) * (rank - len(value.shape)) + value.shape)
        for value in values
    ]
    axes = max(values, key=lambda value: int(np.prod(value.shape))).axes
    a, b = (graph.transposed(value, axes) for value in values)
    shape = tuple(int(n) for n in np.broadcast_shapes(a.shape, b.shape))
    return a, b, evolve(a, shape=shape)


def _operand(graph: Graph, source: Source, index: int) -> Value:
    value = graph.operand(source, index)
    if not value.real and source.node.input[index] not in graph.values:
        raise source.unknown(f"a constant of {source.constant(index).dtype}")
    return value


def _real(source: Source, value: Value) -> Value:
    if not value.real:
        raise source.unknown("integers, where the vendor's networks have real numbers")
    return value
