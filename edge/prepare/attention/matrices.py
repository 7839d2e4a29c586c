"""Attention in matrices of three axes, [heads, queries, keys].

torch's have four, batch first. The compiler's Softmax then turns the scores until their heads are innermost,
and computes few heads at a time: two blocks of deit_tiny (197 tokens, 3 heads) took 3441 instead of 2619 us
(O2), the table of exp alone 248 instead of 23 us a block; NextViT_small_224 8987 instead of 7921 us. A
Reshape in front of Softmax would do it too, but then the scores reach it with 8 bits; so the products have
three axes as well. Shares of an odd number of keys need not be closed then (see ``heads``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from edge.graph.view import View, add_constant, unused
from edge.prepare.attention.scales import attends

if TYPE_CHECKING:
    import onnx

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")
_HEADS_FIRST = [0, 2, 1, 3]  # from batch, tokens, heads, width, and back


@frozen
class _Attention:
    """Softmax(queries x keys, changed by constants) x values."""

    scores: onnx.NodeProto
    changes: tuple[tuple[onnx.NodeProto, int], ...]  # with the input that is constant
    softmax: onnx.NodeProto
    product: onnx.NodeProto


def as_matrices(model: onnx.ModelProto) -> tuple[str, ...]:
    """Take the batch, which is 1, off the values of attentions; return their Softmax nodes."""
    view, graph = View(model), model.graph
    names = []
    for node in view.nodes:
        found = _attention(view, node) if node.op_type == "Softmax" else None
        if found is None:
            continue
        for reader, index in ((found.scores, 0), (found.scores, 1), (found.product, 1)):
            _drop_before(view, graph, reader, index)
        for change, index in found.changes:
            values = view.tensor(change.input[index])
            if values.ndim == 4:
                change.input[index] = add_constant(graph, f"{change.input[index]}/matrix", values[0])
        for attribute in node.attribute:
            if attribute.name == "axis":
                attribute.i = 2
        _restore_behind(view, graph, found.product)
        names.append(node.name)
    return tuple(names)


def _attention(view: View, softmax: onnx.NodeProto) -> _Attention | None:
    """Return the attention of a Softmax over keys, if all its values have four axes and batch 1."""
    shape, product = view.shape(softmax.output[0]), view.only_reader(softmax, "MatMul")
    if shape is None or len(shape) != 4 or shape[0] != 1 or product is None or not attends(view, product):
        return None
    if view.attribute(softmax, "axis", 1) not in (-1, 3):
        return None
    if view.source(product.input[0]) != view.source(softmax.output[0]):
        return None
    found = _scores(view, softmax.input[0], shape)
    if found is None:
        return None
    scores, changes = found
    heads = [view.shape(name) for name in (*scores.input, product.input[1], product.output[0])]
    if not all(value is not None and len(value) == 4 and value[:2] == shape[:2] for value in heads):
        return None
    return _Attention(scores, changes, softmax, product)


def _scores(
    view: View, name: str, shape: list[int]
) -> tuple[onnx.NodeProto, tuple[tuple[onnx.NodeProto, int], ...]] | None:
    """Return the product of queries and keys, and what adds constants to it or multiplies by them."""
    changes = []
    node = view.inner(name)
    while node is not None and not attends(view, node):
        fixed = [index for index, term in enumerate(node.input) if view.rank(term) is not None]
        if node.op_type not in _ELEMENTWISE or len(fixed) != 1 or view.shape(node.output[0]) != shape:
            return None
        values = view.tensor(node.input[fixed[0]])
        rest = node.input[1 - fixed[0]]
        if values.ndim > 4 or (values.ndim == 4 and len(values) != 1) or view.shape(rest) != shape:
            return None
        changes.append((node, fixed[0]))
        node = view.inner(rest)
    return None if node is None else (node, tuple(changes))


def _drop_before(view: View, graph: onnx.GraphProto, reader: onnx.NodeProto, index: int) -> None:
    """Let a product read three axes: of the moves before it where they are its alone, else of a new one."""
    from onnx import helper

    name = reader.input[index]
    _, heads, rows, columns = view.shape(name) or []
    made = view.inner(name)
    if made is not None and made.op_type == "Reshape":
        made.input[1] = _target(graph, made, [heads, rows, columns])
        return
    if made is not None and _turns(view, made):
        apart = view.inner(made.input[0], "Reshape")
        if apart is not None:
            apart.input[1] = _target(graph, apart, [rows, heads, columns])
            made.attribute[0].ints[:] = [1, 0, 2]
            return
    matrix = unused(graph, f"{name}/matrix")
    target = add_constant(graph, f"{matrix}/shape", np.array([heads, rows, columns], np.int64))
    new = helper.make_node("Reshape", [name, target], [matrix], name=matrix)
    graph.node.insert(list(graph.node).index(reader), new)
    reader.input[index] = matrix


def _restore_behind(view: View, graph: onnx.GraphProto, product: onnx.NodeProto) -> None:
    """Let who reads a product find the shape it expects: by the moves behind it, or by a new one."""
    from onnx import helper

    shape = view.shape(product.output[0])
    turn = view.only_reader(product, "Transpose")
    joined = view.only_reader(turn, "Reshape") if turn is not None and _turns(view, turn) else None
    if turn is not None and joined is not None:
        joined.input[1] = _target(graph, joined, view.shape(joined.output[0]) or [])
        turn.attribute[0].ints[:] = [1, 0, 2]
        return
    name = product.output[0]
    product.output[0] = matrix = unused(graph, f"{name}/matrix")
    target = add_constant(graph, f"{name}/shape", np.array(shape, np.int64))
    new = helper.make_node("Reshape", [matrix, target], [name], name=f"{matrix}/heads")
    graph.node.insert(list(graph.node).index(product) + 1, new)


def _turns(view: View, node: onnx.NodeProto) -> bool:
    return node.op_type == "Transpose" and list(view.attribute(node, "perm", ())) == _HEADS_FIRST


def _target(graph: onnx.GraphProto, node: onnx.NodeProto, shape: list[int]) -> str:
    return add_constant(graph, f"{node.output[0]}/shape", np.array(shape, np.int64))
