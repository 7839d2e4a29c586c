"""The compiler's own float operators as standard ones; each rule was compared with the vendor's runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge.errors import ModelFileError
from edge.simulate.portable.graph import Attributes

DOMAIN = "horizon"
CONTRIB = "com.microsoft"  # operators that onnxruntime itself brings
_GELUS = {"none": "Gelu", "tanh": "FastGelu"}  # value of ``approximate`` -> onnxruntime's own operator


class Emit:
    """Collect the nodes and constants that replace one node; their names start with its name."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self.node = node
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.attributes = Attributes(node)

    def get(self, name: str, default: Any) -> Any:
        """Return an attribute, or the default."""
        return self.attributes.get(name, default)

    def constant(self, value: float) -> str:
        """Add a scalar constant and return its name."""
        name = f"{self.node.output[0]}/c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def add(self, op: str, *inputs: str, last: bool = False, domain: str = "", **attributes: Any) -> str:
        """Add a node and return its output's name; the last node takes the output of the replaced node."""
        output = self.node.output[0] if last else f"{self.node.output[0]}/t{len(self.nodes)}"
        name = self.node.name if last else f"{self.node.name}/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=name, domain=domain, **attributes))
        return output

    def finish(self) -> None:
        """Refuse an attribute that the rule did not read."""
        if unread := self.attributes.unread:
            raise unknown(self.node, f"attribute {min(unread)} is not known")


def unknown(node: onnx.NodeProto, why: str) -> ModelFileError:
    """Return the error for something that no rule covers."""
    return ModelFileError(
        f"{node.op_type} {node.name!r}: {why}",
        expected="standard ONNX operators, HzCalibration, " + ", ".join(sorted(RULES)),
        remedy="report the node; the build itself is not affected",
    )


def _preprocess(emit: Emit) -> None:
    if emit.get("data_format", "NCHW") != "NCHW":
        raise unknown(emit.node, f"data_format {emit.attributes['data_format']!r}")
    emit.get("input_type", "")  # the matrix is in the weights
    emit.add("Conv", *emit.node.input, last=True, group=int(emit.get("channel_group", 1)))


def _rsqrt(emit: Emit) -> None:
    (x,) = emit.node.input
    epsilon = emit.constant(float(emit.get("epsilon", 0.0)))
    if emit.get("is_sqrt_add_reciprocal", 0):
        root = emit.add("Add", emit.add("Sqrt", x), epsilon)
    else:
        root = emit.add("Sqrt", emit.add("Add", x, epsilon))
    emit.add("Reciprocal", root, last=True)


def _gelu(emit: Emit) -> None:
    (x,) = emit.node.input
    form = emit.get("approximate", "none")
    if form not in _GELUS:
        raise unknown(emit.node, f"approximate {form!r}")
    emit.add(_GELUS[form], x, last=True, domain=CONTRIB)


def _swish(emit: Emit) -> None:
    (x,) = emit.node.input
    emit.add("Mul", x, emit.add("Sigmoid", x), last=True)


def _mish(emit: Emit) -> None:
    (x,) = emit.node.input
    emit.add("Mul", x, emit.add("Tanh", emit.add("Softplus", x)), last=True)


def _hard_swish(emit: Emit) -> None:
    (x,) = emit.node.input
    emit.add("Mul", x, emit.add("HardSigmoid", x, alpha=1 / 6, beta=0.5), last=True)


def _softmax(emit: Emit) -> None:
    """Normalize over one axis; before opset 13 the standard operator flattens all axes behind it."""
    (x,) = emit.node.input
    axis = int(emit.get("axis", 1))
    shifted = emit.add("Sub", x, emit.add("ReduceMax", x, axes=[axis], keepdims=1))
    powers = emit.add("Exp", shifted)
    # ReduceSum takes its axes as an attribute only below opset 13; ReduceMean x count needs the shape.
    total = emit.add("ReduceL1", powers, axes=[axis], keepdims=1)
    emit.add("Div", powers, total, last=True)


RULES: dict[str, Callable[[Emit], None]] = {
    "HzGelu": _gelu,
    "HzHardSwish": _hard_swish,
    "HzMish": _mish,
    "HzPreprocess": _preprocess,
    "HzRsqrt": _rsqrt,
    "HzSoftmax": _softmax,
    "HzSwish": _swish,
}


def standard(node: onnx.NodeProto) -> Emit:
    """Return what replaces one of the compiler's own nodes; ModelFileError if no rule covers it."""
    if node.domain != DOMAIN or node.op_type not in RULES:
        raise unknown(node, "an operator that edge does not know")
    emit = Emit(node)
    RULES[node.op_type](emit)
    emit.finish()
    return emit
