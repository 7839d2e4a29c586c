"""Resize images: repeated pixels, and bilinear interpolation in fixed point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from edge.simulate.portable.graph import Graph, Source, Value

FRACTION = 8  # bits of a bilinear weight


def repeat(graph: Graph, source: Source) -> Sequence[Value]:
    """Repeat each pixel in a block."""
    source.expect(mode="nearest", data_format="NHWC")
    x = graph.image(graph.values[source.node.input[0]])
    scale = [int(n) for n in source.integers("scale", 2)]
    sides = [size * n for size, n in zip(x.shape[1:3], scale, strict=True)]
    factors = graph.constant(np.array([1, 1, *scale]))
    name = graph.add(
        "Resize", x.name, "", factors, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
    )
    return [evolve(x, name=name, shape=(x.shape[0], *sides, x.shape[3]))]


def nearest(graph: Graph, source: Source) -> Sequence[Value]:
    """Index i of an axis takes the pixel at i / (wanted / size), in float32, rounded down."""
    source.expect(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    x = graph.values[source.node.input[0]]
    if len(source.node.input) != 4:
        raise source.unknown("factors instead of sizes")
    sizes = tuple(int(n) for n in source.constant(3))
    name = x.name
    for axis, (size, wanted) in enumerate(zip(x.shape, sizes, strict=True)):
        if size != wanted:
            place = np.arange(wanted, dtype=np.float32) / (np.float32(wanted) / np.float32(size))
            places = graph.constant(np.clip(np.floor(place), 0, size - 1), np.int64)
            name = graph.add("Gather", name, places, axis=x.axes[axis])
    return [evolve(x, name=name, shape=sizes)]


def bilinear(graph: Graph, source: Source) -> Sequence[Value]:
    """``nearest(sum of 4 pixels * weights >> 16)``, as two matrix products of whole numbers.

    Pixel i of n lies at ``(2 i + 1) * step / 2 - 1/2``; the step is size / n with 16 fraction bits, rounded down. The
    position keeps 8 fraction bits. Outside the image the border's pixel is used.
    """
    source.expect(
        align_mode="center", pad_mode="boundary", step_decimal_bit=16, is_interpolate_twice=0, data_format="NHWC"
    )
    if len(source.node.input) != 1:
        raise source.unknown("a region of the image")
    x = graph.image(graph.values[source.node.input[0]])
    if x.limit > 128:
        raise source.unknown(f"numbers up to {x.limit}")
    height, width = (int(n) for n in source.integers("sizes", 2))
    name = graph.add("MatMul", x.name, graph.constant(_weights(x.shape[2], width).T))
    name = graph.add("MatMul", graph.constant(_weights(x.shape[1], height)), name)
    name = graph.add("Mul", name, graph.constant(2.0 ** (-2 * FRACTION)))
    name = graph.add("Floor", graph.add("Add", name, graph.constant(0.5)))
    return [evolve(x, name=name, shape=(x.shape[0], height, width, x.shape[3]))]


def _weights(size: int, wanted: int) -> NDArray[np.float32]:
    """Return (wanted, size) whole weights; each row sums to 256."""
    step = (size << 16) // wanted
    place = ((2 * np.arange(wanted, dtype=np.int64) + 1) * step // 2 - (1 << 15)) >> (16 - FRACTION)
    first, share = place >> FRACTION, place & ((1 << FRACTION) - 1)
    weights = np.zeros((wanted, size), np.float32)
    rows = np.arange(wanted)
    np.add.at(weights, (rows, np.clip(first, 0, size - 1)), (1 << FRACTION) - share)
    np.add.at(weights, (rows, np.clip(first + 1, 0, size - 1)), share)
    return weights
