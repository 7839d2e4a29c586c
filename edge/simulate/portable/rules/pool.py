"""Largest values: of windows, of whole pictures, along an axis, and of two tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve

from edge.simulate.portable.graph import Graph, Source, Value
from edge.simulate.portable.rules import rule


@rule("HzQuantizedMaxPool")
def max_pool(graph: Graph, source: Source) -> Sequence[Value]:
    """Take the largest of each window; padding counts for nothing."""
    source.expect(data_format="NHWC", ceil_mode=(0, 1), auto_pad="NOTSET", storage_order=0, dilations=[1, 1])
    x = graph.picture(graph.values[source.node.input[0]])
    kernel = source.attributes["kernel_shape"]
    strides, pads = source.attributes.get("strides", [1, 1]), source.attributes.get("pads", [0] * 4)
    sides = []
    ends = list(pads)
    for i in range(2):
        free = x.shape[1 + i] + pads[i] + pads[2 + i] - kernel[i]
        steps = -(-free // strides[i]) if source.attributes.get("ceil_mode") else free // strides[i]
        if steps * strides[i] >= x.shape[1 + i] + pads[i]:
            raise source.unknown("a window that lies in the padding alone")
        # onnxruntime's versions differ in ceil_mode; padding at the end says the same to all of them.
        ends[2 + i] += max(steps * strides[i] - free, 0)
        sides.append(steps + 1)
    name = graph.add("MaxPool", x.name, kernel_shape=kernel, strides=strides, pads=ends)
    return [evolve(x, name=name, shape=(x.shape[0], *sides, x.shape[3]))]


@rule("HzQuantizedGlobalMaxPool")
def global_max_pool(graph: Graph, source: Source) -> Sequence[Value]:
    """Take the largest of each channel."""
    source.expect(data_format="NHWC")
    x = graph.values[source.node.input[0]]
    return [_largest(graph, x, (1, 2))]


@rule("HzQuantizedReduceMax")
def reduce_max(graph: Graph, source: Source) -> Sequence[Value]:
    """Take the largest along one axis, which stays with length 1."""
    x = graph.values[source.node.input[0]]
    return [_largest(graph, x, (int(np.atleast_1d(source.attributes["axis"])[0]) % len(x.shape),))]


@rule("ReduceMax", domain="")
def plain_reduce_max(graph: Graph, source: Source) -> Sequence[Value]:
    """Take the largest along axes, which stay or go."""
    x = graph.values[source.node.input[0]]
    axes = tuple(axis % len(x.shape) for axis in source.attributes.get("axes", range(len(x.shape))))
    y = _largest(graph, x, axes)
    if source.attributes.get("keepdims", 1):
        return [y]
    y = graph.plain(y)
    shape = tuple(size for axis, size in enumerate(y.shape) if axis not in axes)
    return [evolve(y, name=graph.reshape(y.name, shape), shape=shape, axes=tuple(range(len(shape))))]


def _largest(graph: Graph, x: Value, axes: tuple[int, ...]) -> Value:
    stored = sorted(x.axes[axis] for axis in axes)
    name = graph.add("ReduceMax", x.name, axes=stored, keepdims=1)
    return evolve(x, name=name, shape=tuple(1 if axis in axes else n for axis, n in enumerate(x.shape)))
