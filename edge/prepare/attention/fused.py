"""Queries, keys and values from one product, taken apart into three.

A vision transformer computes them with one MatMul, whose result is cut along a fifth axis that the compiler
(hb_mapper 1.24.3) moves element by element. The columns of its weights are those of three smaller MatMuls: an
attention of deit_tiny took 1.1 ms instead of 11.5 (O2), with its keys turned first 0.7 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from edge.graph.view import View, add_constant, unused

if TYPE_CHECKING:
    import onnx

_PARTS_FIRST = [2, 0, 3, 1, 4]  # batch, tokens, parts, heads, width → parts, batch, heads, tokens, width


@frozen
class _Fused:
    """One product and the values that are cut out of it.

    Attributes:
        matmul: the product.
        bias: what is added to it; None if nothing is.
        value: name of what is multiplied.
        parts: part -> node whose output it is.
        size: batch, tokens, heads, width.
    """

    matmul: onnx.NodeProto
    bias: str | None
    value: str
    parts: dict[int, onnx.NodeProto]
    size: tuple[int, int, int, int]


def take_apart(model: onnx.ModelProto) -> tuple[str, ...]:
    """Change a model in place: one MatMul for queries, keys and values each; return the MatMuls taken apart.

    Args:
        model: a checked model whose shapes are inferred; they are not any more where it changed.
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
    """Put the smaller products before the Transpose; what nobody reads then is tidied away."""
    from onnx import helper

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
        shape = add_constant(graph, f"{base}/shape", np.array([batch, tokens, heads, width], np.int64))
        split = unused(graph, f"{base}/heads")
        made.append(helper.make_node("Reshape", [value, shape], [split], f"{base}/Reshape"))
        turned = list(reader.output)
        made.append(helper.make_node("Transpose", [split], turned, f"{base}/Transpose", perm=[0, 2, 1, 3]))
        graph.node.remove(reader)
    place = list(graph.node).index(turn)
    for offset, node in enumerate(made):
        graph.node.insert(place + offset, node)
