"""A classifier's scores as a map of one pixel, 1xNx1x1, where it ends in a row, 1xN.

The compiler makes a convolution of the last matrix product by itself, and then a row of its map: a Reshape on the CPU,
the only node there in most classifiers. The vendor's own programs end in the map, and the parser of
``dnn_node_example``, of its ROS 2, reads nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.graph.files import copied
from edge.graph.view import View, add_constant, insert, unused
from edge.prepare.normal_form import has_branches, tidy

if TYPE_CHECKING:
    import onnx

_RESHAPES = ("Flatten", "Reshape", "Squeeze")
_OF_SCORES = ("Softmax", "Sigmoid")
_PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0}


def as_map(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Return the model with scores of 1xNx1x1, and the name of the node that gives them; the model itself and "" else.

    Args:
        model: a checked model of opset 10 or 11 whose shapes are inferred.
    """
    from onnx import helper

    if has_branches(model.graph) or len(model.graph.output) != 1:
        return model, ""
    changed = copied(model)
    view, graph = View(changed), changed.graph
    (output,) = graph.output
    shape, last = view.shape(output.name), view.producer(output.name)
    if shape is None or len(shape) != 2 or shape[0] != 1 or last is None or last.output[0] != output.name:
        return model, ""
    end = last if last.op_type in _OF_SCORES else None
    last = view.inner(end.input[0]) if end is not None else last
    if last is None or (end is not None and last.output[0] != end.input[0]):
        return model, ""
    rewritten = _without if last.op_type in _RESHAPES else _as_convolution
    name = rewritten(view, graph, last, shape[1])
    if not name:
        return model, ""
    if end is not None and end.op_type == "Softmax":
        del end.attribute[:]
        end.attribute.append(helper.make_attribute("axis", 1))  # from there on, until opset 13
    for _ in range(2):
        output.type.tensor_type.shape.dim.add(dim_value=1)
    return tidy(changed), name


def _without(view: View, graph: onnx.GraphProto, last: onnx.NodeProto, classes: int) -> str:
    """Drop the node that makes a row of a map."""
    before = view.inner(last.input[0])
    if before is None or before.output[0] != last.input[0] or view.shape(last.input[0]) != [1, classes, 1, 1]:
        return ""
    before.output[0] = last.output[0]
    graph.node.remove(last)
    return str(before.name)


def _as_convolution(view: View, graph: onnx.GraphProto, last: onnx.NodeProto, classes: int) -> str:
    """Write the product of a row and constant weights as a convolution, which takes its name."""
    from onnx import helper

    product, added = last, list(last.input[2:])
    if last.op_type == "Add":
        product = next((node for name in last.input if (node := view.inner(name, "MatMul"))), last)
        added = [view.other(last, product)]
    plain = all(view.attribute(product, name, usual) == usual for name, usual in _PLAIN.items())
    if product.op_type not in ("Gemm", "MatMul") or not plain:
        return ""
    row, weights = view.shape(product.input[0]), view.tensor(product.input[1])
    biases = [view.tensor(name) for name in added]
    if row is None or len(row) != 2 or weights is None:
        return ""
    if any(bias is None or bias.size not in (1, classes) for bias in biases):
        return ""
    weights = weights if view.attribute(product, "transB", 0) else weights.T
    inputs = [
        _pixel(view, graph, product, row[1]),
        add_constant(graph, f"{product.input[1]}/pixel", weights[:, :, None, None]),
        *(add_constant(graph, f"{product.name}/bias", np.broadcast_to(bias.ravel(), classes)) for bias in biases),
    ]
    insert(graph, product, helper.make_node("Conv", inputs, last.output, product.name, kernel_shape=[1, 1]))
    for node in (product, last) if last is not product else (product,):
        graph.node.remove(node)
    return str(product.name)


def _pixel(view: View, graph: onnx.GraphProto, product: onnx.NodeProto, channels: int) -> str:
    """Return the map behind a product's row, which is made of the row if there is none."""
    from onnx import helper

    before = view.producer(product.input[0])
    if before is not None and before.op_type in _RESHAPES and view.shape(before.input[0]) == [1, channels, 1, 1]:
        return str(before.input[0])
    pixel = unused(graph, f"{product.input[0]}/pixel")
    sides = add_constant(graph, f"{pixel}/sides", [1, channels, 1, 1])
    insert(graph, product, helper.make_node("Reshape", [product.input[0], sides], [pixel], f"{product.name}/Reshape"))
    return pixel
