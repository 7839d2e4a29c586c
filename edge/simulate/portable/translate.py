"""Translate the compiler's quantized ONNX into standard ONNX that computes the same integers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from attrs import frozen
from onnx import numpy_helper

from edge.errors import ModelFileError
from edge.graph.files import load_onnx
from edge.simulate.portable import nv12
from edge.simulate.portable.graph import Graph, Source, Value
from edge.simulate.portable.rules import RULES
from edge.specs.schema import Input

SUFFIX = "_portable_int8.onnx"


@frozen
class TranslateResult:
    """The name of the portable model, and the number of nodes of the vendor's graph.

    If an operator has no rule, ``onnx`` is None and ``why_not`` names it.
    """

    onnx: str | None
    nodes: int
    why_not: str = ""


def translate(*, quantized: Path, prefix: str, out: Path) -> TranslateResult:
    """Translate the compiler's ``*_quantized_model.onnx`` to ``<prefix>_portable_int8.onnx``.

    The same input gives the same bytes.

    Raises:
        ModelFileError: the file can't be read, or no proved rule covers an operator; the message names it.
    """
    source = load_onnx(quantized)
    target = out / f"{prefix}{SUFFIX}"
    onnx.save(translated(source), target)
    return TranslateResult(target.name, len(source.graph.node))


def translate_or_say(*, quantized: Path, prefix: str, out: Path) -> TranslateResult:
    """Write the portable model, or return why there is none; see :func:`translate`."""
    try:
        return translate(quantized=quantized, prefix=prefix, out=out)
    except ModelFileError as error:
        return TranslateResult(None, 0, error.seen)


def translated(source: onnx.ModelProto) -> onnx.ModelProto:
    """Return the portable model of a quantized one; see :func:`translate`."""
    vendor = source.graph
    graph = Graph.empty()
    several = len(vendor.input) > 1 or vendor.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    taken = [_input(graph, value) for value in vendor.input] if several else []
    size = None if several else _image_size(vendor.input)
    if size is not None:
        graph.values[vendor.input[0].name] = nv12.decode(graph, size)
    add_nodes(graph, vendor)
    outputs = [(value.name, graph.plain(graph.values[value.name])) for value in vendor.output]
    height, width = size or (0, 0)
    model = graph.model(nv12.INPUT, [height * width * 3 // 2], outputs, [entry for _, entry in taken])
    nv12.mark(model, size, exact=True, inputs=[one for one, _ in taken])
    return model


def _input(graph: Graph, value: onnx.ValueInfoProto) -> tuple[Input, tuple[str, int, Sequence[int]]]:
    """Let the portable model take an input of several under its own name: NV12, or numbers as they are."""
    name, kind = value.name, value.type.tensor_type
    if kind.elem_type == onnx.TensorProto.FLOAT:
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        graph.values[name] = Value(name, shape, tuple(range(len(shape))), 0, 0, real=True)
        return Input(name, shape, image=False), (name, onnx.TensorProto.FLOAT, shape)
    height, width = _image_size([value])
    graph.values[name] = nv12.decode(graph, (height, width), name)
    return Input(name, (1, 3, height, width), image=True), (name, onnx.TensorProto.UINT8, [height * width * 3 // 2])


def add_nodes(graph: Graph, vendor: onnx.GraphProto) -> None:
    """Translate every node of the vendor's graph; the graph's inputs are among ``graph.values``.

    Raises:
        ModelFileError: no proved rule covers an operator or its form.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in vendor.initializer}
    for node in vendor.node:
        source = Source.of(node, constants)
        rule = RULES.get((node.domain, node.op_type))
        if rule is None:
            raise source.unknown("an operator that edge does not know")
        try:
            values = rule(graph, source)
        except KeyError as error:
            raise source.unknown(f"{error} is missing") from error
        if unread := source.unread():
            raise source.unknown(f"attribute {unread[0]} is not known")
        graph.values.update(zip(node.output, values, strict=True))


def _image_size(inputs: Sequence[onnx.ValueInfoProto]) -> tuple[int, int]:
    dims = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inputs]
    if len(dims) != 1 or len(dims[0]) != 4 or dims[0][0] != 1 or dims[0][3] != 3 or not np.all(dims[0]):
        raise ModelFileError(
            f"the quantized model takes {dims}", expected="one NV12 image, seen by the compiler as 1xHxWx3"
        )
    return dims[0][1], dims[0][2]
