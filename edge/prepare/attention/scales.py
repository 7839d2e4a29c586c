"""The number 1/sqrt(d) by which scores are multiplied, in the weights of the layer before.

torch multiplies the queries once their heads are apart. The compiler makes of it a convolution over a picture
one element wide: without it the attention of 784 tokens took 1.4 instead of 11.3 ms (O2).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edge.graph.view import View, add_constant

if TYPE_CHECKING:
    import onnx

_MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")  # a number passes through them


def into_weights(model: onnx.ModelProto) -> tuple[str, ...]:
    """Move numbers by which queries, keys, values or scores are multiplied into weights; return the nodes."""
    names = []
    view = View(model)
    for node in view.nodes:
        product, reader = _product(view, node), view.only_reader(node)
        if product is None or reader is None or not _feeds_attention(view, node, product[0]):
            continue
        value, factor = product
        places = _weights(view, value)
        if places is None or not _multiply(model, view, places, factor, node.name):
            continue
        for index, name in enumerate(reader.input):
            if view.source(name) == node.output[0]:
                reader.input[index] = value
        model.graph.node.remove(node)
        view = View(model)
        names.append(node.name)
    return tuple(names)


def _product(view: View, node: onnx.NodeProto) -> tuple[str, float] | None:
    """Return the value that a node multiplies by a number, and the number."""
    if node.op_type not in ("Mul", "Div"):
        return None
    for index, name in enumerate(node.input):
        number, rank = view.scalar(name), view.rank(name)
        if number is None or rank is None or rank > 1 or not math.isfinite(number):
            continue
        if node.op_type == "Mul":
            return node.input[1 - index], number
        if index == 1 and number != 0:
            return node.input[0], 1 / number
    return None


def _feeds_attention(view: View, node: onnx.NodeProto, value: str) -> bool:
    """Tell whether a product is read by a MatMul of two activations, or by the Softmax behind one."""
    reader = view.only_reader(node)
    while reader is not None and reader.op_type in _MOVES:
        reader = view.only_reader(reader)
    if reader is None:
        return False
    scores = view.inner(value, "MatMul")
    softmax = reader.op_type == "Softmax" and scores is not None and attends(view, scores)
    return softmax or attends(view, reader)


def attends(view: View, node: onnx.NodeProto) -> bool:
    """Tell whether a node multiplies two activations."""
    return node.op_type == "MatMul" and all(view.rank(name) is None for name in node.input)


def _weights(view: View, name: str) -> list[tuple[onnx.NodeProto, int]] | None:
    """Return where the weights stand that a factor of a value may move into, as (node, input)."""
    node = view.inner(name)
    if node is None:
        return None
    if node.op_type in _MOVES or attends(view, node):
        return _weights(view, node.input[0])
    fixed = [index for index, term in enumerate(node.input) if view.rank(term) is not None]
    if node.op_type == "Add" and len(fixed) == 1:
        rest = _weights(view, node.input[1 - fixed[0]])
        return None if rest is None else [(node, fixed[0]), *rest]
    if node.op_type == "MatMul" and len(fixed) == 1:
        return [(node, fixed[0])]
    if node.op_type in ("Gemm", "Conv") and fixed == list(range(1, len(node.input))):
        return [(node, index) for index in fixed]
    return None


def _multiply(
    model: onnx.ModelProto,
    view: View,
    places: list[tuple[onnx.NodeProto, int]],
    factor: float,
    reason: str,
) -> bool:
    """Give each place its weights times the factor, unless they leave float32; tell whether it was done.

    Who else reads the weights keeps them as they were.
    """
    scaled = []
    with np.errstate(over="ignore"):
        for node, index in places:
            values = view.tensor(node.input[index])
            scaled.append((values.astype(np.float64) * factor).astype(values.dtype))
    if not all(np.isfinite(values).all() for values in scaled):
        return False
    for (node, index), values in zip(places, scaled, strict=True):
        node.input[index] = add_constant(model.graph, f"{node.input[index]}/times {reason}", values)
    return True
