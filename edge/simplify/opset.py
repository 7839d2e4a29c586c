"""Express a model in an older opset, as far as its operators are the same there.

onnx.version_converter has no way down for many operators, Pow among them, although little more than the
allowed types changed. What a newer operator says by an input (axes, split) or by a default is said here the
old way. Whether the result means the same is for the guard to find out: it compares the outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.simplify.view import constants

if TYPE_CHECKING:
    import onnx


class CannotExpress(Exception):  # noqa: N818 - reads as what it says
    """An operator has no counterpart; the message names it and its node."""


def downgrade(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """Return a copy of the model in an older opset of the default domain.

    Args:
        model: a checked model of a newer opset, constants as initializers or Constant nodes.
        target: the opset wanted, such as 11.

    Raises:
        CannotExpress: an operator, an attribute or an input that the old opset does not have.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    entry = next(item for item in result.opset_import if item.domain in ("", "ai.onnx"))
    stored = constants(result.graph)
    for node in result.graph.node:
        _rewrite(node, entry.version, target, stored)
    entry.version = target
    return result


def _rewrite(node: onnx.NodeProto, opset: int, target: int, stored: dict[str, onnx.TensorProto]) -> None:
    import onnx

    where = f"{node.op_type} of node {node.name!r}"
    try:
        new, old = (onnx.defs.get_schema(node.op_type, version, "") for version in (opset, target))
    except onnx.defs.SchemaError as error:
        raise CannotExpress(f"opset {target} has no {where}") from error
    if new.since_version == old.since_version:
        return
    given = {attribute.name for attribute in node.attribute}
    defaults = {name: spec.default_value for name, spec in new.attributes.items() if spec.default_value.name}
    for name, default in defaults.items():
        if name not in given and name in old.attributes and default != old.attributes[name].default_value:
            node.attribute.append(default)
    for attribute in [a for a in node.attribute if a.name not in old.attributes]:
        if attribute != defaults.get(attribute.name):
            raise CannotExpress(f"opset {target} has no {attribute.name} in {where}")
        node.attribute.remove(attribute)
    names = [value.name for value in new.inputs]
    while len(node.input) > old.max_input:
        name, value = names[len(node.input) - 1], node.input[-1]
        if value:
            if name not in old.attributes or value not in stored:
                raise CannotExpress(f"opset {target} has no input {name!r} that is computed, in {where}")
            numbers = onnx.numpy_helper.to_array(stored[value]).tolist()
            node.attribute.append(onnx.helper.make_attribute(name, numbers))
        del node.input[-1]
