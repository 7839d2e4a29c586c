"""Products of two computed int8 matrices: ``sat((sat16(acc >> right_shift) * scale) >> out_shift)``.

The first shift rounds down, the second as ``rounding_method`` says. With ``output_bit`` 32 the result is acc.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from edge.simulate.portable.graph import EXACT, Graph, Source, Value
from edge.simulate.portable.requantize import INT16, bounds, requantize
from edge.simulate.portable.rules import rule


@rule("HzSQuantizedMatmul")
def matmul(graph: Graph, source: Source) -> Sequence[Value]:
    """Multiply the last two axes; the ones before are batches."""
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
    name = requantize(
        graph,
        name,
        low=np.array([low]),
        high=np.array([high]),
        scale=source.integers("scale", 1),
        shift=source.integers("out_shift", 1),
        bits=bits,
        nearest=source.attributes["rounding_method"] == "ROUND",
        channels=(),
    )
    return [Value(name, shape, axes, *bounds(bits))]
