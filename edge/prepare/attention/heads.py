"""Keys and shares of several heads.

Keys become heads first and are turned then. Turned first, they need no copy of their own, head by head:
NextViT_small_224 takes 7920.9 instead of 8562.3 us (O2). Only where a picture's own pixels are the keys, 49
of them, it was the other way round (845.4 instead of 791.4 us, with values of four axes).

Shares that keep four axes (``matrices`` says which don't) and have 16 bits are computed over more keys than
there are, and the product with the values reads up to a multiple of four of them: with 25 and 49 keys the
compiled program gave other integers than the quantized model (36, 64, 144 and 196 were right). A convolution
with ones, one a head, writes zeros there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.graph.view import View, add_constant, unused
from edge.prepare.attention.scales import attends

if TYPE_CHECKING:
    import onnx

READ_AT_ONCE = 4  # keys
_TURNS = ([[0, 2, 3, 1]], [[0, 2, 1, 3], [0, 1, 3, 2]])  # of keys, from batch, keys, heads, d


def turn_keys(model: onnx.ModelProto) -> tuple[str, ...]:
    """Turn keys before their heads are taken apart; return the Transposes."""
    from onnx import helper

    view, graph = View(model), model.graph
    names = []
    for scores in view.nodes:
        chain = _head_moves(view, scores) if attends(view, scores) else None
        if chain is None:
            continue
        split, *turns = chain
        before, apart, after = (
            view.shape(name) for name in (split.input[0], split.output[0], scores.output[0])
        )
        if before is None or apart is None or after is None:
            continue
        if len(before) != 3 or len(apart) != 4 or before[:2] != apart[:2]:
            continue
        batch, tokens, heads, width = apart
        if after[2] == tokens and _of_picture(view, split.input[0]):
            continue
        last = turns[-1]
        turned = unused(graph, f"{last.output[0]}/turned")
        apart_now = np.array([batch, heads, width, tokens], np.int64)
        shape = add_constant(graph, f"{last.output[0]}/shape", apart_now)
        new = (
            helper.make_node("Transpose", [split.input[0]], [turned], last.name, perm=[0, 2, 1]),
            helper.make_node("Reshape", [turned, shape], list(last.output), split.name),
        )
        place = list(graph.node).index(last)
        for offset, made in enumerate(new):
            graph.node.insert(place + offset, made)
        for node in chain:
            graph.node.remove(node)
        names.append(last.name)
    return tuple(names)


def _head_moves(view: View, scores: onnx.NodeProto) -> tuple[onnx.NodeProto, ...] | None:
    """Return the Reshape that takes the heads of the keys apart, and the Transposes behind it."""
    turns: list[onnx.NodeProto] = []
    node = view.inner(scores.input[1])
    while node is not None and node.op_type == "Transpose":
        turns.insert(0, node)
        node = view.inner(node.input[0])
    perms = [list(view.attribute(turn, "perm", ())) for turn in turns]
    if node is None or node.op_type != "Reshape" or perms not in _TURNS:
        return None
    return (node, *turns)


def _of_picture(view: View, name: str) -> bool:
    """Tell whether a linear layer reads a picture's pixels as tokens."""
    node = view.producer(name)
    if node is not None and node.op_type == "Add":
        node = next((view.producer(term) for term in node.input if view.rank(term) is None), None)
    for kind in ("MatMul", "Transpose", "Reshape"):
        if node is None or node.op_type != kind:
            return False
        name = node.input[0]
        node = view.producer(name)
    return len(view.shape(name) or ()) == 4


def close_shares(model: onnx.ModelProto) -> tuple[str, ...]:
    """Put a convolution with ones behind shares of no multiple of four keys; return the Softmax nodes."""
    from onnx import helper

    view, graph = View(model), model.graph
    names = []
    for node in view.nodes:
        product = view.only_reader(node, "MatMul") if node.op_type == "Softmax" else None
        shape = view.shape(node.output[0])
        if product is None or not attends(view, product) or shape is None or len(shape) != 4:
            continue
        if view.source(product.input[0]) != node.output[0] or shape[3] % READ_AT_ONCE == 0:
            continue
        heads = shape[1]
        closed = unused(graph, f"{node.name}/closed")
        ones = add_constant(graph, f"{node.name}/ones", np.ones((heads, 1, 1, 1), np.float32))
        conv = helper.make_node(
            "Conv", [node.output[0], ones], [closed], f"{node.name}/Close", group=heads, kernel_shape=[1, 1]
        )
        graph.node.insert(list(graph.node).index(product), conv)
        product.input[0] = closed
        names.append(node.name)
    return tuple(names)
