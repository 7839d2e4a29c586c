"""Look at an ONNX graph from a node: who makes a value, who reads it, which values are constant numbers."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the tensors of a graph's initializers and Constant nodes, by the name of their value."""
    return {tensor.name: tensor for tensor in graph.initializer} | {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }


def add_constant(graph: onnx.GraphProto, name: str, values: NDArray[Any] | Sequence[int]) -> str:
    """Add a constant under a name that is not taken, and return the name; whole numbers become int64."""
    from onnx import numpy_helper

    name = unused(graph, name)
    graph.initializer.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
    return name


def insert(graph: onnx.GraphProto, before: onnx.NodeProto, *nodes: onnx.NodeProto) -> None:
    """Put nodes in front of another node."""
    place = list(graph.node).index(before)
    for offset, node in enumerate(nodes):
        graph.node.insert(place + offset, node)


def unused(graph: onnx.GraphProto, name: str) -> str:
    """Return the name, followed by a number if a value of the graph already has it."""
    taken = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    taken.update(output for node in graph.node for output in node.output)
    number, wanted = 1, name
    while wanted in taken:
        number += 1
        wanted = f"{name}_{number}"
    return wanted


class View:
    """A graph with its edges; Identity nodes are seen through."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._made = {output: node for node in self.nodes for output in node.output if output}
        self._constants = constants(model.graph)
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            if node.op_type != "Identity":
                for name in node.input:
                    self._readers[self.source(name)].append(node)
        self._outputs = Counter(self.source(value.name) for value in model.graph.output)
        self._shapes = {
            value.name: _static(value)
            for group in (model.graph.value_info, model.graph.input, model.graph.output)
            for value in group
        }

    def source(self, name: str) -> str:
        """Return the value that a name stands for, skipping Identity nodes."""
        while (node := self._made.get(name)) is not None and node.op_type == "Identity":
            name = node.input[0]
        return name

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a value; None for inputs and initializers."""
        return self._made.get(self.source(name))

    def inner(self, name: str, op: str | None = None) -> onnx.NodeProto | None:
        """Return the producer of a value that is read once and is no output of the graph."""
        node = self.producer(name)
        if node is None or (op is not None and node.op_type != op) or self.only_reader(node) is None:
            return None
        return node

    def only_reader(self, node: onnx.NodeProto, op: str | None = None) -> onnx.NodeProto | None:
        """Return the one reader of a node's value; None if there are others, or it is an output."""
        name = self.source(node.output[0])
        readers = self._readers[name]
        if len(readers) != 1 or self._outputs[name] or (op is not None and readers[0].op_type != op):
            return None
        return readers[0]

    def readers(self, name: str) -> Sequence[onnx.NodeProto]:
        """Return the nodes that read a value; a node that reads it twice is listed twice."""
        return tuple(self._readers[self.source(name)])

    def is_output(self, name: str) -> bool:
        """Tell whether a value is an output of the graph."""
        return self._outputs[self.source(name)] > 0

    def other(self, node: onnx.NodeProto, known: onnx.NodeProto) -> str:
        """Return the other term of a sum or product; empty when both are the known one."""
        name = self.source(known.output[0])
        return next((self.source(term) for term in node.input if self.source(term) != name), "")

    def other_constant(self, node: onnx.NodeProto, known: onnx.NodeProto) -> float | None:
        """Return the other term of a sum or product when it is a constant number."""
        return self.constant(self.other(node, known))

    def constant(self, name: str) -> float | None:
        """Return the number that a constant tensor holds in all its elements, else None."""
        values = self.tensor(name)
        if values is None or values.size == 0 or (values != values.flat[0]).any():
            return None
        return float(values.flat[0])

    def scalar(self, name: str) -> float | None:
        """Return the number of a constant tensor of one element, else None."""
        values = self.tensor(name)
        return float(values.flat[0]) if values is not None and values.size == 1 else None

    def rank(self, name: str) -> int | None:
        """Return the number of axes of a constant tensor."""
        values = self.tensor(name)
        return None if values is None else int(values.ndim)

    def clip_range(self, node: onnx.NodeProto) -> tuple[float | None, float | None]:
        """Return the limits of a Clip, from its inputs (opset 11) or its attributes (opset 10)."""
        if len(node.input) > 1:
            low, high = ([*node.input[1:], ""])[:2]
            return self.constant(low), self.constant(high)
        return self.attribute(node, "min", None), self.attribute(node, "max", None)

    @staticmethod
    def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
        """Return a node's attribute, or the default."""
        import onnx

        return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)

    def shape(self, name: str) -> list[int] | None:
        """Return the static shape of a value, else None."""
        return self._shapes.get(name) or self._shapes.get(self.source(name))

    def reshape_target(self, node: onnx.NodeProto, before: Sequence[int] | None) -> list[int] | None:
        """Return the shape that a Reshape makes of a shape: 0 copies an axis, -1 takes the rest."""
        values = self.tensor(node.input[1])
        if values is None or before is None or values.ndim != 1:
            return None
        wanted = [int(size) for size in values]
        if any(size == 0 and axis >= len(before) for axis, size in enumerate(wanted)):
            return None
        shape = [before[axis] if size == 0 else size for axis, size in enumerate(wanted)]
        if -1 in shape:
            known = -math.prod(shape)
            shape[shape.index(-1)] = math.prod(before) // known if known > 0 else 0
        return shape if math.prod(shape) == math.prod(before) else None

    def tensor(self, name: str) -> Any:
        """Return a constant tensor as an array; None for anything else."""
        import onnx

        tensor = self._constants.get(self.source(name))
        return None if tensor is None else onnx.numpy_helper.to_array(tensor)


def _static(value: onnx.ValueInfoProto) -> list[int] | None:
    tensor = value.type.tensor_type
    sizes = [dim.dim_value for dim in tensor.shape.dim]
    return sizes if tensor.HasField("shape") and all(size > 0 for size in sizes) else None
