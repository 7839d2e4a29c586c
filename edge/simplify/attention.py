"""Attention in the form that the BPU runs fast: the same answers.

The compiler (hb_mapper 1.24.3) lays two parts of an exported attention out as columns one element wide. One
attention of 784 tokens of NextViT_small_224 took 20.4 ms at O2, and 1.4 ms without these two:

- Keys and values are pooled over the row of tokens, ``[1, C, N]``, in windows of k. As a picture of ``N/k``
  rows and ``k`` columns the same pooling keeps the channels innermost: 11.3 ms.
- The queries are multiplied by 1/sqrt(d) once the heads are apart. A product by one number belongs in the
  weights of the layer before: 1.4 ms.

Two more cost less than that:

- Keys become heads first and are turned then. Turned first, they need no copy of their own: 1444.8 → 1324.3
  us there, 872.8 → 640.1 us with 196 tokens, 2067.8 → 1170.4 us in deit_small. Only where a picture's own
  pixels are the keys, 49 of them, it was the other way round (791.4 → 845.4 us).
- Queries, keys and values come of one product, see :mod:`edge.simplify.fused`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from edge.simplify.fused import take_apart
from edge.simplify.prepare import tidy
from edge.simplify.view import View, constants

if TYPE_CHECKING:
    import onnx

_MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")  # a factor passes through them
_TURNS = ([[0, 2, 3, 1]], [[0, 2, 1, 3], [0, 1, 3, 2]])  # of keys, from [1, keys, heads, d]
_PADDING = {"auto_pad": b"NOTSET", "ceil_mode": 0, "count_include_pad": 0}


@frozen
class Attention:
    """What was written another way.

    Attributes:
        pools: AveragePool nodes over tokens.
        scales: Mul or Div nodes whose number went into weights.
        keys: Transpose nodes of keys that come before the heads are taken apart now.
        fused: MatMul nodes of queries, keys and values that became one each.
    """

    pools: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pools or self.scales or self.keys or self.fused)


def lay_out(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Attention]:
    """Return the model with its attention laid out for the BPU, or the model itself where nothing fits.

    Args:
        model: a checked model of opset 10 or 11 whose shapes are inferred.
    """
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    fused = take_apart(changed)
    changed = tidy(changed) if fused else changed
    done = Attention(_pools(changed), _scales(changed), _keys(changed), fused)
    return (tidy(changed), done) if done else (model, done)


def _pools(model: onnx.ModelProto) -> tuple[str, ...]:
    """Pool tokens as a picture whose rows are the windows; return the names of the pools."""
    from onnx import helper, numpy_helper

    view, graph = View(model), model.graph
    names = []
    for node in view.nodes:
        shape = view.shape(node.input[0]) if node.op_type == "AveragePool" else None
        window = _window(view, node)
        if shape is None or len(shape) != 3 or window is None or shape[2] % window:
            continue
        batch, channels, tokens = shape
        rows, pooled = f"{node.name}/rows", f"{node.name}/pooled"
        targets = {rows: [batch, channels, tokens // window, window], node.output[0]: [0, 0, -1]}
        for name, target in targets.items():
            graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), f"{name}/shape"))
        new = (
            helper.make_node("Reshape", [_picture(view, node, shape), f"{rows}/shape"], [rows], name=rows),
            helper.make_node(
                "AveragePool", [rows], [pooled], node.name, kernel_shape=[1, window], strides=[1, window]
            ),
            helper.make_node(
                "Reshape", [pooled, f"{node.output[0]}/shape"], list(node.output), name=f"{node.name}/tokens"
            ),
        )
        place = list(graph.node).index(node)
        graph.node.remove(node)
        for offset, made in enumerate(new):
            graph.node.insert(place + offset, made)
        names.append(node.name)
    return tuple(names)


def _window(view: View, node: onnx.NodeProto) -> int | None:
    """Return k of a pooling in steps of its window k, without padding."""
    kernel, strides = view.attribute(node, "kernel_shape", []), view.attribute(node, "strides", [1])
    plain = all(view.attribute(node, name, usual) == usual for name, usual in _PADDING.items())
    if node.op_type != "AveragePool" or len(kernel) != 1 or kernel != strides or not plain:
        return None
    return None if any(view.attribute(node, "pads", [])) or kernel[0] < 2 else int(kernel[0])


def _picture(view: View, node: onnx.NodeProto, shape: list[int]) -> str:
    """Return the picture that was made a row of tokens, or that row: both hold the values in one order."""
    row: str = node.input[0]
    made = view.producer(row)
    if made is None or made.op_type != "Reshape":
        return row
    picture: str = made.input[0]
    before = view.shape(picture)
    whole = before is not None and len(before) == 4 and before[:2] == shape[:2]
    return picture if whole and math.prod(before or ()) == math.prod(shape) else row


def _scales(model: onnx.ModelProto) -> tuple[str, ...]:
    """Move numbers by which queries, keys, values or scores are multiplied into weights; return the nodes."""
    names = []
    view = View(model)
    for node in view.nodes:
        product, reader = _product(view, node), view.only_reader(node)
        if product is None or reader is None or not _feeds_attention(view, node, product[0]):
            continue
        value, factor = product
        places = _weights(view, value)
        if places is None:
            continue
        _multiply(model, places, factor, node.name)
        for index, name in enumerate(reader.input):
            if view.source(name) == node.output[0]:
                reader.input[index] = value
        model.graph.node.remove(node)
        view = View(model)
        names.append(node.name)
    return tuple(names)


def _keys(model: onnx.ModelProto) -> tuple[str, ...]:
    """Turn keys before their heads are taken apart; return the Transposes."""
    from onnx import helper, numpy_helper

    view, graph = View(model), model.graph
    names = []
    for scores in view.nodes:
        chain = _head_moves(view, scores) if _attends(view, scores) else None
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
        turned, shape = f"{last.output[0]}/turned", f"{last.output[0]}/shape"
        target = np.array([batch, heads, width, tokens], np.int64)
        graph.initializer.append(numpy_helper.from_array(target, shape))
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
        node = next((made for term in node.input if (made := view.producer(term)) is not None), None)
    for kind in ("MatMul", "Transpose", "Reshape"):
        if node is None or node.op_type != kind:
            return False
        name = node.input[0]
        node = view.producer(name)
    return len(view.shape(name) or ()) == 4


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
    softmax = reader.op_type == "Softmax" and scores is not None and _attends(view, scores)
    return softmax or _attends(view, reader)


def _attends(view: View, node: onnx.NodeProto) -> bool:
    return node.op_type == "MatMul" and all(view.rank(name) is None for name in node.input)


def _weights(view: View, name: str) -> list[tuple[onnx.NodeProto, int]] | None:
    """Return where the weights stand that a factor of a value may move into, as (node, input)."""
    node = view.inner(name)
    if node is None:
        return None
    if node.op_type in _MOVES or _attends(view, node):
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
    model: onnx.ModelProto, places: list[tuple[onnx.NodeProto, int]], factor: float, reason: str
) -> None:
    """Give each place its weights times the factor; who else reads them keeps them as they were."""
    from onnx import numpy_helper

    fixed = constants(model.graph)
    for node, index in places:
        values = numpy_helper.to_array(fixed[node.input[index]])
        name = f"{node.input[index]}/times {reason}"
        scaled = (values.astype(np.float64) * factor).astype(values.dtype)
        model.graph.initializer.append(numpy_helper.from_array(scaled, name))
        node.input[index] = name
