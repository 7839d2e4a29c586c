"""Express a model of a newer opset in an older one; what has no counterpart is named with its node.

The forms are those that torch itself writes at opset 11, since the compiler recognises its fusions (GELU, LayerNorm,
hard swish) by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.graph.files import copied
from edge.graph.view import constants

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Rule = Callable[["_Lowering", onnx.NodeProto], bool]


class CannotExpress(Exception):  # noqa: N818 - reads as what it says
    """An operator has no counterpart; the message names it and its node."""


def downgrade(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """Return a copy of the model in an older opset of the default domain.

    Args:
        model: a checked model of a newer opset with a static input.
        target: the opset wanted, such as 11.

    Raises:
        CannotExpress: an operator, an attribute or an input that the old opset does not have.
    """
    result = copied(model)
    entry = next(item for item in result.opset_import if item.domain in ("", "ai.onnx"))
    lowering = _Lowering(result, entry.version, target)
    for node in list(result.graph.node):
        rule = _RULES.get(node.op_type)
        if rule is None or not rule(lowering, node):
            lowering.fit(node)
            lowering.nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(lowering.nodes)
    entry.version = target
    return result


class _Lowering:
    """The model while it is rewritten: its shapes and constants, and the nodes so far."""

    def __init__(self, model: onnx.ModelProto, opset: int, target: int) -> None:
        import onnx

        self.opset, self.target = opset, target
        self.graph = model.graph
        self.nodes: list[onnx.NodeProto] = []
        self.stored = constants(model.graph)
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        except (onnx.shape_inference.InferenceError, RuntimeError):
            inferred = model.graph
        self._shapes: dict[str, list[int]] = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
        } | {name: list(tensor.dims) for name, tensor in self.stored.items()}

    def shape(self, node: onnx.NodeProto, name: str) -> list[int]:
        """Return the static shape of a value; CannotExpress where it is not known."""
        shape = self._shapes.get(name)
        if not shape or min(shape) <= 0:
            raise CannotExpress(f"opset {self.target} has no {_where(node)} of a shape that is not known")
        return shape

    def constant(self, values: object, dtype: type = np.float32) -> str:
        """Store a constant; return its name."""
        import onnx

        array: NDArray[Any] = np.asarray(values, dtype)
        name = f"opset{self.target}_{len(self.graph.initializer)}"
        while name in self.stored:
            name += "_"
        tensor = onnx.numpy_helper.from_array(array, name)
        self.graph.initializer.append(tensor)
        self.stored[name] = tensor
        self._shapes[name] = list(array.shape)
        return name

    def value(self, node: onnx.NodeProto, place: int) -> NDArray[Any] | None:
        """Return a constant input as an array; None where it is absent; CannotExpress where it is computed."""
        import onnx

        if place >= len(node.input) or not node.input[place]:
            return None
        if node.input[place] not in self.stored:
            raise CannotExpress(f"opset {self.target} has no {_where(node)} whose input {place} is computed")
        return onnx.numpy_helper.to_array(self.stored[node.input[place]])

    def add(self, kind: str, inputs: Sequence[str], like: onnx.NodeProto, output: str = "", **attributes: Any) -> str:
        """Append a node named after the one that it stands for; return its output."""
        import onnx

        number = len(self.nodes)
        output = output or f"{like.output[0]}_{kind}_{number}"
        name = f"{like.name or like.op_type}/{kind}_{number}"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def fit(self, node: onnx.NodeProto) -> None:
        """Change attributes and inputs of a node that the old opset has too, so that it means there the same."""
        import onnx

        where = _where(node)
        try:
            new, old = (onnx.defs.get_schema(node.op_type, version, "") for version in (self.opset, self.target))
        except onnx.defs.SchemaError as error:
            raise CannotExpress(f"opset {self.target} has no {where}") from error
        if new.since_version == old.since_version:
            return
        given = {attribute.name for attribute in node.attribute}
        defaults = {name: spec.default_value for name, spec in new.attributes.items() if spec.default_value.name}
        for name, default in defaults.items():
            if name not in given and name in old.attributes and default != old.attributes[name].default_value:
                node.attribute.append(default)
        for attribute in [a for a in node.attribute if a.name not in old.attributes]:
            if attribute != defaults.get(attribute.name):
                raise CannotExpress(f"opset {self.target} has no {attribute.name} in {where}")
            node.attribute.remove(attribute)
        names = [value.name for value in new.inputs]
        while len(node.input) > old.max_input:
            name, value = names[len(node.input) - 1], node.input[-1]
            if value:
                if name not in old.attributes or value not in self.stored:
                    raise CannotExpress(f"opset {self.target} has no input {name!r} that is computed, in {where}")
                numbers = onnx.numpy_helper.to_array(self.stored[value]).tolist()
                node.attribute.append(onnx.helper.make_attribute(name, numbers))
            del node.input[-1]


def _where(node: onnx.NodeProto) -> str:
    return f"{node.op_type} of node {node.name!r}"


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _drop(node: onnx.NodeProto, *names: str) -> None:
    for attribute in [a for a in node.attribute if a.name in names]:
        node.attribute.remove(attribute)


# --- a rule returns whether it wrote the node another way; else the node, as changed, is fitted and kept


def _gelu(to: _Lowering, node: onnx.NodeProto) -> bool:
    x, out = node.input[0], node.output[0]
    if _attributes(node).get("approximate", b"none") == b"tanh":
        cube = to.add("Mul", [to.add("Mul", [x, x], node), x], node)
        inner = to.add("Add", [x, to.add("Mul", [cube, to.constant(0.044715)], node)], node)
        inner = to.add("Tanh", [to.add("Mul", [inner, to.constant(math.sqrt(2 / math.pi))], node)], node)
        half = to.add("Mul", [x, to.constant(0.5)], node)
        to.add("Mul", [half, to.add("Add", [inner, to.constant(1.0)], node)], node, out)
        return True
    inner = to.add("Erf", [to.add("Div", [x, to.constant(math.sqrt(2))], node)], node)
    product = to.add("Mul", [x, to.add("Add", [inner, to.constant(1.0)], node)], node)
    to.add("Mul", [product, to.constant(0.5)], node, out)
    return True


def _hard_swish(to: _Lowering, node: onnx.NodeProto) -> bool:
    shifted = to.add("Add", [node.input[0], to.constant(3.0)], node)
    cut = to.add("Clip", [shifted, to.constant(0.0), to.constant(6.0)], node)
    share = to.add("Div", [cut, to.constant(6.0)], node)
    to.add("Mul", [node.input[0], share], node, node.output[0])
    return True


def _mish(to: _Lowering, node: onnx.NodeProto) -> bool:
    inner = to.add("Tanh", [to.add("Softplus", [node.input[0]], node)], node)
    to.add("Mul", [node.input[0], inner], node, node.output[0])
    return True


def _swish(to: _Lowering, node: onnx.NodeProto) -> bool:
    x, alpha = node.input[0], _attributes(node).get("alpha", 1.0)
    scaled = x if alpha == 1 else to.add("Mul", [x, to.constant(alpha)], node)
    to.add("Mul", [x, to.add("Sigmoid", [scaled], node)], node, node.output[0])
    return True


def _celu(to: _Lowering, node: onnx.NodeProto) -> bool:
    alpha = to.constant(_attributes(node).get("alpha", 1.0))
    inner = to.add("Elu", [to.add("Div", [node.input[0], alpha], node)], node)
    to.add("Mul", [inner, alpha], node, node.output[0])
    return True


def _layer_norm(to: _Lowering, node: onnx.NodeProto) -> bool:
    if len([name for name in node.output if name]) > 1:
        raise CannotExpress(f"opset {to.target} has no {_where(node)} with mean and deviation as outputs")
    given, rank = _attributes(node), len(to.shape(node, node.input[0]))
    axes = list(range(given.get("axis", -1) % rank - rank, 0))
    mean = to.add("ReduceMean", [node.input[0]], node, axes=axes, keepdims=1)
    centred = to.add("Sub", [node.input[0], mean], node)
    squares = to.add("Pow", [centred, to.constant(2.0)], node)
    variance = to.add("ReduceMean", [squares], node, axes=axes, keepdims=1)
    steady = to.add("Add", [variance, to.constant(given.get("epsilon", 1e-5))], node)
    parts = [to.add("Div", [centred, to.add("Sqrt", [steady], node)], node)]
    parts.append(to.add("Mul", [parts[-1], node.input[1]], node))
    if len(node.input) > 2 and node.input[2]:
        to.add("Add", [parts[-1], node.input[2]], node)
    to.nodes[-1].output[0] = node.output[0]
    return True


def _group_norm(to: _Lowering, node: onnx.NodeProto) -> bool:
    given, shape = _attributes(node), to.shape(node, node.input[0])
    groups, channels = given["num_groups"], shape[1]
    grouped = to.add("Reshape", [node.input[0], to.constant([shape[0], groups, -1], np.int64)], node)
    ones, zeros = to.constant(np.ones(groups)), to.constant(np.zeros(groups))
    normal = to.add("InstanceNormalization", [grouped, ones, zeros], node, epsilon=float(given.get("epsilon", 1e-5)))
    normal = to.add("Reshape", [normal, to.constant(shape, np.int64)], node)
    scale, bias = (to.value(node, place) for place in (1, 2))
    assert scale is not None  # noqa: S101 - required inputs
    assert bias is not None  # noqa: S101
    sides = [1, channels, *[1] * (len(shape) - 2)]
    if scale.size == groups:  # opset 18 has one a group
        scale, bias = (np.repeat(values, channels // groups) for values in (scale, bias))
    scaled = to.add("Mul", [normal, to.constant(scale.reshape(sides))], node)
    to.add("Add", [scaled, to.constant(bias.reshape(sides))], node, node.output[0])
    return True


def _pad(to: _Lowering, node: onnx.NodeProto) -> bool:
    axes = to.value(node, 3)
    if axes is not None:
        rank, pads = len(to.shape(node, node.input[0])), to.value(node, 1)
        assert pads is not None  # noqa: S101 - a required input
        full = np.zeros((2, rank), np.int64)
        full[:, axes.astype(int)] = pads.reshape(2, -1)
        node.input[1] = to.constant(full.reshape(-1), np.int64)
    del node.input[3:]
    if len(node.input) == 3 and not node.input[2]:
        del node.input[2]
    return False


def _resize(to: _Lowering, node: onnx.NodeProto) -> bool:
    given = _attributes(node)
    if given.get("antialias", 0):
        raise CannotExpress(f"opset {to.target} has no antialias in {_where(node)}")
    inputs = [*node.input, "", "", ""][:4]
    if axes := given.get("axes"):
        shape = to.shape(node, inputs[0])
        for place, full, dtype in ((2, [1.0] * len(shape), np.float32), (3, shape, np.int64)):
            if (values := to.value(node, place)) is not None:
                whole = np.array(full, dtype)
                whole[list(axes)] = values
                inputs[place] = to.constant(whole, dtype)
    if given.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise CannotExpress(f"opset {to.target} has no keep_aspect_ratio_policy in {_where(node)}")
    # Both are required there; empty ones say that they are not used.
    empty = to.constant([])
    inputs[1], inputs[2] = (name or empty for name in inputs[1:3])
    del node.input[:]
    node.input.extend(inputs if inputs[3] else inputs[:3])
    _drop(node, "axes", "antialias", "keep_aspect_ratio_policy")
    return False


def _split(to: _Lowering, node: onnx.NodeProto) -> bool:
    given = _attributes(node)
    if count := given.get("num_outputs"):
        side = to.shape(node, node.input[0])[given.get("axis", 0)]
        part = -(-side // count)
        sizes = [part] * (count - 1)
        node.input[:] = [node.input[0], to.constant([*sizes, side - sum(sizes)], np.int64)]
        _drop(node, "num_outputs")
    return False


def _softmax(to: _Lowering, node: onnx.NodeProto) -> bool:
    """Before opset 13 all axes from ``axis`` on were one."""
    if to.opset < 13:
        return False
    shape = to.shape(node, node.input[0])
    axis = _attributes(node).get("axis", -1) % len(shape)
    _drop(node, "axis")
    import onnx

    if math.prod(shape[axis + 1 :]) == 1:
        node.attribute.append(onnx.helper.make_attribute("axis", axis))
        return False
    order = [place for place in range(len(shape)) if place != axis] + [axis]
    last = to.add("Transpose", [node.input[0]], node, perm=order)
    scores = to.add(node.op_type, [last], node, axis=len(shape) - 1)
    to.add("Transpose", [scores], node, node.output[0], perm=[order.index(place) for place in range(len(shape))])
    return True


def _reshape(to: _Lowering, node: onnx.NodeProto) -> bool:
    if _attributes(node).get("allowzero", 0):
        target = to.value(node, 1)
        if target is not None and not target.all():
            raise CannotExpress(f"opset {to.target} has no allowzero in {_where(node)}")
        _drop(node, "allowzero")
    return False


def _compare(to: _Lowering, node: onnx.NodeProto) -> bool:
    other = {"GreaterOrEqual": "Less", "LessOrEqual": "Greater"}[node.op_type]
    to.add("Not", [to.add(other, node.input, node)], node, node.output[0])
    return True


def _constant(to: _Lowering, node: onnx.NodeProto) -> bool:
    import onnx

    for name, value in _attributes(node).items():
        if name.startswith("value_") and "string" not in name:
            tensor = onnx.numpy_helper.from_array(np.asarray(value, np.float32 if "float" in name else np.int64))
            _drop(node, name)
            node.attribute.append(onnx.helper.make_attribute("value", tensor))
            to.stored[node.output[0]] = tensor
    return False


def _pow(to: _Lowering, node: onnx.NodeProto) -> bool:
    """Before opset 12 both are of one type."""
    import onnx

    tensor = to.stored.get(node.input[1])
    if tensor is not None and tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        node.input[1] = to.constant(onnx.numpy_helper.to_array(tensor))
    return False


def _shape(to: _Lowering, node: onnx.NodeProto) -> bool:
    given = _attributes(node)
    if not {"start", "end"} & set(given):
        return False
    whole = to.add("Shape", [node.input[0]], node)
    ends = [to.constant([given.get(name, default)], np.int64) for name, default in (("start", 0), ("end", 2**31))]
    to.add("Slice", [whole, *ends], node, node.output[0])
    return True


def _batch_norm(_to: _Lowering, node: onnx.NodeProto) -> bool:
    if _attributes(node).get("training_mode", 0):
        raise CannotExpress(
            f"{_where(node)} is in training mode: it takes mean and variance from its input; call model.eval() first"
        )
    return False


def _einsum(to: _Lowering, node: onnx.NodeProto) -> bool:
    """A product of two tensors as Transpose, Reshape, MatMul; of one, a Transpose and a sum."""
    equation = _attributes(node)["equation"].decode().replace(" ", "")
    terms, _, result = equation.partition("->")
    labels = terms.split(",")
    plain = all(len(set(term)) == len(term) and term.isalpha() for term in (*labels, result or "a"))
    if "->" not in equation or not plain or len(labels) > 2 or len(labels) != len(node.input):
        raise CannotExpress(f"opset {to.target} has no {_where(node)} with the equation {equation}")
    shapes = [to.shape(node, name) for name in node.input]
    side: dict[str, int] = {}
    for term, shape in zip(labels, shapes, strict=True):
        side |= dict(zip(term, shape, strict=True))
    values = list(node.input)
    for place, term in enumerate(labels):  # a label of one term alone that is not wanted is summed at once
        others = set(result) | {label for other in labels[:place] + labels[place + 1 :] for label in other}
        if gone := [axis for axis, label in enumerate(term) if label not in others]:
            values[place] = to.add("ReduceSum", [values[place]], node, axes=gone, keepdims=0)
            labels[place] = "".join(label for label in term if label in others)
    if len(labels) == 1:
        to.add("Transpose", values, node, node.output[0], perm=[labels[0].index(label) for label in result])
        return True
    batch = [label for label in result if label in labels[0] and label in labels[1]]
    summed = [label for label in labels[0] if label in labels[1] and label not in result]
    rows = [label for label in labels[0] if label not in labels[1]]
    columns = [label for label in labels[1] if label not in labels[0]]

    def arranged(place: int, order: Iterable[str], sides: Sequence[int]) -> str:
        order = list(order)
        value = to.add("Transpose", [values[place]], node, perm=[labels[place].index(label) for label in order])
        return to.add("Reshape", [value, to.constant(sides, np.int64)], node)

    def size(group: Iterable[str]) -> int:
        return math.prod(side[label] for label in group)

    own = [side[label] for label in batch]
    left = arranged(0, (*batch, *rows, *summed), [*own, size(rows), size(summed)])
    right = arranged(1, (*batch, *summed, *columns), [*own, size(summed), size(columns)])
    product = to.add("MatMul", [left, right], node)
    order = [*batch, *rows, *columns]
    product = to.add("Reshape", [product, to.constant([side[label] for label in order], np.int64)], node)
    to.add("Transpose", [product], node, node.output[0], perm=[order.index(label) for label in result])
    return True


_RULES: Mapping[str, Rule] = {
    "BatchNormalization": _batch_norm,
    "Celu": _celu,
    "Constant": _constant,
    "Einsum": _einsum,
    "Gelu": _gelu,
    "GreaterOrEqual": _compare,
    "GroupNormalization": _group_norm,
    "HardSwish": _hard_swish,
    "LayerNormalization": _layer_norm,
    "LessOrEqual": _compare,
    "LogSoftmax": _softmax,
    "Mish": _mish,
    "Pad": _pad,
    "Pow": _pow,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Softmax": _softmax,
    "Split": _split,
    "Swish": _swish,
}
