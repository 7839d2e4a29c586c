"""Count the parameters and multiply-accumulates of an ONNX network."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from edge.errors import ModelFileError

# Published counts of these families cover convolutions and matrix products; one multiply-add counts as one.
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")


@frozen
class Work:
    """What one image costs."""

    input_shape: tuple[int, ...]  #: the input shape that was counted, batch first.
    parameters: int  #: elements of all weights, biases and statistics of the file.
    macs: int  #: multiply-accumulates of convolutions and matrix products, attention too; adding a bias is one.
    attention: int  #: the part of ``macs`` in products of two activations (MatMul without a weight).
    #: operations of everything else, as onnx-tool weighs them: normalisation, activation functions, additions, pooling.
    other: int
    activations: int  #: elements of all tensors between operators.
    by_operator: Mapping[str, int]  #: operator -> operations, largest first.


def count(onnx_file: Path, *, input_shape: Sequence[int] | None = None) -> Work:
    """Count a float network of one image with onnx-tool, which infers every shape and weighs each operator.

    ``input_shape``, such as (1, 3, 224, 224), replaces the file's own static shape.

    Raises:
        ModelFileError: the file can't be read, or the network can't be counted at that shape.
    """
    import numpy as np

    from edge.graph.files import image_input, load_onnx

    model = load_onnx(onnx_file)
    shape = image_input(model, onnx_file.name)[1] if input_shape is None else tuple(input_shape)
    weights = {tensor.name for tensor in model.graph.initializer}
    graph = profile(onnx_file, shape)
    by_operator: Counter[str] = Counter()
    attention = 0
    for node in graph.nodemap.values():
        operations = int(node.macs[0])
        by_operator[node.op_type] += operations
        constant = any(tensor in weights or tensor in graph.initials for tensor in node.input)
        if node.op_type in PRODUCTS and not constant:
            attention += operations
    macs = sum(by_operator[operator] for operator in PRODUCTS)
    held = {tensor for node in graph.nodemap.values() for tensor in node.output}
    activations = sum(int(np.prod(graph.tensormap[tensor].get_shape())) for tensor in held)
    return Work(
        input_shape=shape,
        parameters=int(graph.params),
        macs=macs,
        attention=attention,
        other=sum(by_operator.values()) - macs,
        activations=activations,
        by_operator={operator: n for operator, n in by_operator.most_common() if n},
    )


def profile(onnx_file: Path, input_shape: Sequence[int] | None = None) -> Any:
    """Return onnx-tool's graph with the operations of every node and the shape of every tensor; see :func:`count`."""
    import numpy as np
    import onnx_tool

    from edge.graph.files import image_input, load_onnx

    model = load_onnx(onnx_file)
    name, own = image_input(model, onnx_file.name)
    shape = own if input_shape is None else tuple(input_shape)
    chatter = io.StringIO()  # onnx-tool prints warnings
    try:
        with contextlib.redirect_stdout(chatter):
            graph = onnx_tool.Model(model, {"verbose": False}).graph
            graph.shape_infer({name: np.zeros(shape, np.float32)})
            graph.profile()
    except Exception as error:  # its formulas raise exceptions of any kind
        raise ModelFileError(
            f"{onnx_file.name} can't be counted at input {'x'.join(map(str, shape))}: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            expected="a network whose shapes follow from its input",
        ) from error
    return graph
