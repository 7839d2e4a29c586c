"""Small classifiers that end in different ways, for tests of what scores and outputs are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

CLASSES = 6
SHARPNESS = 9.0  # of the head, so that answers are sure
Output = tuple[str, Sequence[int], int]  # name, shape, element type


def node(op: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), name=f"{op}_{outputs[0]}", **attributes)


def classifier(
    path: Path,
    tail: Sequence[NodeProto] = (),
    outputs: Sequence[Output] = (("s", (1, CLASSES), TensorProto.FLOAT),),
    constants: dict[str, np.ndarray] | None = None,
    *,
    classes: int = CLASSES,
    size: int = 32,
) -> Path:
    """Save a classifier whose logits are called ``s``, (1, classes), with more behind them."""
    rng = np.random.default_rng(3)
    values = {"k": rng.normal(0, 0.4, (8, 3, 3, 3)), "w": rng.normal(0, SHARPNESS, (8, classes)), **(constants or {})}
    stored = [
        numpy_helper.from_array(np.asarray(v, np.float32) if np.asarray(v).dtype.kind == "f" else np.asarray(v), name)
        for name, v in values.items()
    ]
    nodes = [
        node("Conv", ["x", "k"], "c", strides=[2, 2], pads=[1] * 4),
        node("Relu", ["c"], "r"),
        node("GlobalAveragePool", ["r"], "p"),
        node("Flatten", ["p"], "f"),
        node("Gemm", ["f", "w"], "s"),
        *tail,
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, size, size))],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape, kind in outputs],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def softmax(path: Path, **more: Any) -> Path:
    classes = more.get("classes", CLASSES)
    return classifier(path, [node("Softmax", ["s"], "y", axis=1)], [("y", (1, classes), TensorProto.FLOAT)], **more)


def sigmoid(path: Path, **more: Any) -> Path:
    classes = more.get("classes", CLASSES)
    return classifier(path, [node("Sigmoid", ["s"], "y")], [("y", (1, classes), TensorProto.FLOAT)], **more)
