"""Attention in the form that the BPU runs fast, with the same answers.

The times per layer that the compiler reports (hb_mapper 1.24.3, ``debug: True``) show the problem: it lays out
several values of torch's export as images one element wide, or copies them head by head. :func:`lay_out` gives the
order of the steps below; each changes a model in place and returns the names of what it changed.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from attrs import astuple, evolve, frozen
from onnx import helper

from edge.graph.files import copied
from edge.graph.view import View, add_constant, insert, unused
from edge.prepare.normal_form import has_branches, tidy

_PARTS_FIRST = [2, 0, 3, 1, 4]  # batch, tokens, parts, heads, width → parts, batch, heads, tokens, width
READ_AT_ONCE = 4  # keys
_TURNS = ([[0, 2, 3, 1]], [[0, 2, 1, 3], [0, 1, 3, 2]])  # of keys, from batch, keys, heads, d
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")
_HEADS_FIRST = [0, 2, 1, 3]  # from batch, tokens, heads, width, and back
_PADDING = {"auto_pad": b"NOTSET", "ceil_mode": 0, "count_include_pad": 0}
_MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")  # a constant factor passes through them


@frozen
class Attention:
    """The nodes that were rewritten."""

    fused: tuple[str, ...] = ()  #: MatMul nodes that computed queries, keys and values together, now split.
    pools: tuple[str, ...] = ()  #: AveragePool nodes over tokens.
    scales: tuple[str, ...] = ()  #: Mul or Div nodes whose number went into weights.
    keys: tuple[str, ...] = ()  #: Transpose nodes of keys that now come before the heads are split.
    matrices: tuple[str, ...] = ()  #: Softmax nodes whose attention now has values of three axes.
    shares: tuple[str, ...] = ()  #: Softmax nodes with a convolution behind them that keeps the program correct.

    def __bool__(self) -> bool:
        return any(astuple(self))


def lay_out(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Attention]:
    """Return the model with its attention laid out for the BPU, or the model itself if nothing fits.

    A model with subgraphs inside nodes stays as it is: they may read values that would be removed.

    Args:
        model: a checked model of opset 10 or 11 whose shapes are inferred.
    """
    if has_branches(model.graph):
        return model, Attention()
    changed = copied(model)
    fused = take_apart(changed)
    changed = tidy(changed) if fused else changed  # the next steps need shapes
    done = Attention(fused=fused, pools=pool_in_rows(changed), scales=into_weights(changed), keys=turn_keys(changed))
    changed = tidy(changed)
    done = evolve(done, matrices=as_matrices(changed))
    changed = tidy(changed)
    done = evolve(done, shares=close_shares(changed))
    return (tidy(changed), done) if done else (model, done)


def attends(view: View, node: onnx.NodeProto) -> bool:
    """Tell whether a node multiplies two activations."""
    return node.op_type == "MatMul" and all(view.rank(name) is None for name in node.input)


@frozen
class _Fused:
    """One product and the parts that are cut out of it."""

    matmul: onnx.NodeProto  #: the product.
    bias: str | None  #: name of the bias added to it; None if there is none.
    value: str  #: name of the value that is multiplied.
    parts: dict[int, onnx.NodeProto]  #: part -> node whose output it is.
    size: tuple[int, int, int, int]  #: batch, tokens, heads, width.


def take_apart(model: onnx.ModelProto) -> tuple[str, ...]:
    """Give queries, keys and values a MatMul each; return the MatMuls that were split.

    A vision transformer computes all three with one MatMul and cuts the result along a fifth axis, which the compiler
    moves element by element. The columns of its weights are split into three smaller MatMuls: an attention of
    deit_tiny took 1.1 ms instead of 11.5 (O2), and 0.7 ms with its keys transposed first.

    Args:
        model: a checked model with inferred shapes; a changed model has no inferred shapes.
    """
    view = View(model)
    names = []
    for node in view.nodes:
        fused = _fused(view, node) if node.op_type == "Transpose" else None
        if fused is None:
            continue
        _replace(model, view, node, fused)
        names.append(fused.matmul.name)
    return tuple(names)


def _fused(view: View, turn: onnx.NodeProto) -> _Fused | None:
    """Return the product behind a Transpose of five axes, if its parts are taken one by one."""
    split = view.inner(turn.input[0], "Reshape")
    apart = view.shape(turn.input[0])
    if split is None or apart is None or list(view.attribute(turn, "perm", ())) != _PARTS_FIRST:
        return None
    made = view.inner(split.input[0])
    bias = None
    if made is not None and made.op_type == "Add":
        places = [index for index, name in enumerate(made.input) if view.rank(name) == 1]
        if len(places) != 1:
            return None
        bias, made = made.input[places[0]], view.inner(made.input[1 - places[0]])
    if made is None or made.op_type != "MatMul" or view.rank(made.input[1]) != 2:
        return None
    parts = _parts(view, turn, apart[2])
    rows = view.shape(made.output[0])
    if parts is None or rows is None or rows[:2] != apart[:2] or rows[2:] != [int(np.prod(apart[2:]))]:
        return None
    return _Fused(made, bias, made.input[0], parts, (apart[0], apart[1], apart[3], apart[4]))


def _parts(view: View, turn: onnx.NodeProto, count: int) -> dict[int, onnx.NodeProto] | None:
    """Return the nodes that read one part each along the first axis: Gathers, or Squeezes behind a Split."""
    found: dict[int, onnx.NodeProto] = {}
    for reader in view.readers(turn.output[0]):
        if reader.op_type == "Gather" and view.attribute(reader, "axis", 0) == 0:
            index = view.scalar(reader.input[1])
            if index is None or view.rank(reader.input[1]) != 0 or int(index) % count in found:
                return None
            found[int(index) % count] = reader
        elif reader.op_type == "Split" and view.attribute(reader, "axis", 0) == 0:
            for index, name in enumerate(reader.output):
                readers = view.readers(name)
                if len(readers) != 1 or view.is_output(name) or not _drops_first(view, readers[0]):
                    return None
                if len(reader.output) != count or index in found:
                    return None
                found[index] = readers[0]
        else:
            return None
    return found if found and not view.is_output(turn.output[0]) else None


def _drops_first(view: View, node: onnx.NodeProto) -> bool:
    return node.op_type == "Squeeze" and list(view.attribute(node, "axes", ())) == [0]


def _replace(model: onnx.ModelProto, view: View, turn: onnx.NodeProto, fused: _Fused) -> None:
    """Put the smaller products before the Transpose; nodes that are no longer read are removed later."""
    graph = model.graph
    batch, tokens, heads, width = fused.size
    weights = view.tensor(fused.matmul.input[1])
    bias = None if fused.bias is None else view.tensor(fused.bias)
    made = []
    for part, reader in sorted(fused.parts.items()):
        columns = slice(part * heads * width, (part + 1) * heads * width)
        base = f"{fused.matmul.name}/{part}"
        value = unused(graph, f"{base}/product")
        inputs = [fused.value, add_constant(graph, f"{base}/weight", weights[:, columns])]
        made.append(helper.make_node("MatMul", inputs, [value], base))
        if bias is not None:
            own = add_constant(graph, f"{base}/bias", bias[columns] if bias.size > 1 else bias)
            inputs, value = [value, own], unused(graph, f"{base}/sum")
            made.append(helper.make_node("Add", inputs, [value], f"{base}/Add"))
        shape = add_constant(graph, f"{base}/shape", [batch, tokens, heads, width])
        split = unused(graph, f"{base}/heads")
        made.append(helper.make_node("Reshape", [value, shape], [split], f"{base}/Reshape"))
        turned = list(reader.output)
        made.append(helper.make_node("Transpose", [split], turned, f"{base}/Transpose", perm=[0, 2, 1, 3]))
        graph.node.remove(reader)
    insert(graph, turn, *made)


def pool_in_rows(model: onnx.ModelProto) -> tuple[str, ...]:
    """Pool tokens as an image whose rows are the windows; return the names of the pools.

    NextViT pools ``[1, C, N]`` in windows of k, which the compiler lays out as an image one element wide. With an image
    of ``N/k`` rows and ``k`` columns, the same pooling keeps the channels innermost: an attention of 784 tokens took
    11.3 instead of 20.4 ms (O2).
    """
    view, graph = View(model), model.graph
    names = []
    for node in view.nodes:
        shape = view.shape(node.input[0]) if node.op_type == "AveragePool" else None
        window = _pooled(view, node)
        if shape is None or len(shape) != 3 or window is None or shape[2] % window:
            continue
        batch, channels, tokens = shape
        rows, pooled = unused(graph, f"{node.name}/rows"), unused(graph, f"{node.name}/pooled")
        to_rows = add_constant(graph, f"{rows}/shape", [batch, channels, tokens // window, window])
        to_row = add_constant(graph, f"{node.output[0]}/shape", [0, 0, -1])
        new = (
            helper.make_node("Reshape", [_image(view, node, shape), to_rows], [rows], name=rows),
            helper.make_node("AveragePool", [rows], [pooled], node.name, kernel_shape=[1, window], strides=[1, window]),
            helper.make_node("Reshape", [pooled, to_row], list(node.output), name=f"{node.name}/tokens"),
        )
        insert(graph, node, *new)
        graph.node.remove(node)
        names.append(node.name)
    return tuple(names)


def _pooled(view: View, node: onnx.NodeProto) -> int | None:
    """Return k of a pooling with window k and stride k, without padding."""
    kernel, strides = view.attribute(node, "kernel_shape", []), view.attribute(node, "strides", [1])
    plain = all(view.attribute(node, name, usual) == usual for name, usual in _PADDING.items())
    if node.op_type != "AveragePool" or len(kernel) != 1 or kernel != strides or not plain:
        return None
    return None if any(view.attribute(node, "pads", [])) or kernel[0] < 2 else int(kernel[0])


def _image(view: View, node: onnx.NodeProto, shape: list[int]) -> str:
    """Return the image that was reshaped into a row of tokens, else that row; the order of values is the same."""
    row: str = node.input[0]
    made = view.producer(row)
    if made is None or made.op_type != "Reshape":
        return row
    image: str = made.input[0]
    before = view.shape(image)
    whole = before is not None and len(before) == 4 and before[:2] == shape[:2]
    return image if whole and math.prod(before or ()) == math.prod(shape) else row


def into_weights(model: onnx.ModelProto) -> tuple[str, ...]:
    """Move constant factors of queries, keys, values or scores into weights; return their nodes.

    torch multiplies the queries by 1/sqrt(d) after splitting the heads. The compiler turns this into a convolution over
    an image one element wide: without it the attention of 784 tokens took 1.4 instead of 11.3 ms (O2).
    """
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


def _weights(view: View, name: str) -> list[tuple[onnx.NodeProto, int]] | None:
    """Return the places (node, input) of the weights that can absorb a factor of a value."""
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
    model: onnx.ModelProto, view: View, places: list[tuple[onnx.NodeProto, int]], factor: float, reason: str
) -> bool:
    """Multiply the weights at each place by the factor, unless float32 overflows; tell whether it was done.

    Other readers of these weights keep the old values.
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


def turn_keys(model: onnx.ModelProto) -> tuple[str, ...]:
    """Transpose keys before their heads are split; return the Transposes.

    Then they are not copied head by head: NextViT_small_224 takes 7920.9 instead of 8562.3 us (O2). Keys that are
    an image's own pixels are left out: with 49 of them it was slower (845.4 instead of 791.4 us, values of four axes).
    """
    view, graph = View(model), model.graph
    names = []
    for scores in view.nodes:
        chain = _head_moves(view, scores) if attends(view, scores) else None
        if chain is None:
            continue
        split, *turns = chain
        before, apart, after = (view.shape(name) for name in (split.input[0], split.output[0], scores.output[0]))
        if before is None or apart is None or after is None:
            continue
        if len(before) != 3 or len(apart) != 4 or before[:2] != apart[:2]:
            continue
        batch, tokens, heads, width = apart
        if after[2] == tokens and _of_image(view, split.input[0]):
            continue
        last = turns[-1]
        turned = unused(graph, f"{last.output[0]}/turned")
        shape = add_constant(graph, f"{last.output[0]}/shape", [batch, heads, width, tokens])
        new = (
            helper.make_node("Transpose", [split.input[0]], [turned], last.name, perm=[0, 2, 1]),
            helper.make_node("Reshape", [turned, shape], list(last.output), split.name),
        )
        insert(graph, last, *new)
        for node in chain:
            graph.node.remove(node)
        names.append(last.name)
    return tuple(names)


def _head_moves(view: View, scores: onnx.NodeProto) -> tuple[onnx.NodeProto, ...] | None:
    """Return the Reshape that splits the heads of the keys, and the Transposes behind it."""
    turns: list[onnx.NodeProto] = []
    node = view.inner(scores.input[1])
    while node is not None and node.op_type == "Transpose":
        turns.insert(0, node)
        node = view.inner(node.input[0])
    perms = [list(view.attribute(turn, "perm", ())) for turn in turns]
    if node is None or node.op_type != "Reshape" or perms not in _TURNS:
        return None
    return (node, *turns)


def _of_image(view: View, name: str) -> bool:
    """Tell whether a linear layer reads an image's pixels as tokens."""
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
    """Put a convolution with ones behind each Softmax over keys that are no multiple of four; return these.

    This works around a fault of the compiler in a Softmax with four axes and 16 bits (:func:`as_matrices` removes
    most). It is computed over padding keys too, and the product with the values reads keys up to a multiple of four:
    with 25 and 49 keys the program gave other integers than the quantized model (36, 64, 144 and 196 were right). A
    convolution with ones, one per head, writes zeros there.
    """
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
        insert(graph, product, conv)
        product.input[0] = closed
        names.append(node.name)
    return tuple(names)


@frozen
class _Matrices:
    """Softmax(queries x keys, with constants added or multiplied) x values."""

    scores: onnx.NodeProto
    changes: tuple[tuple[onnx.NodeProto, int], ...]  # with the input that is constant
    softmax: onnx.NodeProto
    product: onnx.NodeProto


def as_matrices(model: onnx.ModelProto) -> tuple[str, ...]:
    """Remove the batch axis, which is 1, from the values of attentions; return their Softmax nodes.

    With torch's four axes the compiler's Softmax moves the heads of the scores innermost and computes few heads at a
    time. Two blocks of deit_tiny (197 tokens, 3 heads) took 3441 us with four axes and 2619 us with three (O2), the
    table of exp alone 248 and 23 us per block; NextViT_small_224 took 8987 and 7921 us. A Reshape before the Softmax
    would do it too, but then the scores reach it with 8 bits; so the products have three axes as well. These Softmaxes
    do not need :func:`close_shares`.
    """
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


def _attention(view: View, softmax: onnx.NodeProto) -> _Matrices | None:
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
    return _Matrices(scores, changes, softmax, product)


def _scores(
    view: View, name: str, shape: list[int]
) -> tuple[onnx.NodeProto, tuple[tuple[onnx.NodeProto, int], ...]] | None:
    """Return the product of queries and keys, and the nodes that add constants to it or multiply it by them."""
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
    """Let a product read three axes: change the moves before it if only it reads them, else add a Reshape."""
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
    target = add_constant(graph, f"{matrix}/shape", [heads, rows, columns])
    new = helper.make_node("Reshape", [name, target], [matrix], name=matrix)
    insert(graph, reader, new)
    reader.input[index] = matrix


def _restore_behind(view: View, graph: onnx.GraphProto, product: onnx.NodeProto) -> None:
    """Give the readers of a product the shape they expect: change the moves behind it, or add a Reshape."""
    shape = view.shape(product.output[0]) or []
    turn = view.only_reader(product, "Transpose")
    joined = view.only_reader(turn, "Reshape") if turn is not None and _turns(view, turn) else None
    if turn is not None and joined is not None:
        joined.input[1] = _target(graph, joined, view.shape(joined.output[0]) or [])
        turn.attribute[0].ints[:] = [1, 0, 2]
        return
    name = product.output[0]
    product.output[0] = matrix = unused(graph, f"{name}/matrix")
    target = add_constant(graph, f"{name}/shape", shape)
    new = helper.make_node("Reshape", [matrix, target], [name], name=f"{matrix}/heads")
    graph.node.insert(list(graph.node).index(product) + 1, new)


def _turns(view: View, node: onnx.NodeProto) -> bool:
    return node.op_type == "Transpose" and list(view.attribute(node, "perm", ())) == _HEADS_FIRST


def _target(graph: onnx.GraphProto, node: onnx.NodeProto, shape: list[int]) -> str:
    return add_constant(graph, f"{node.output[0]}/shape", shape)
