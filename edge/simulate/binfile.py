"""What a ``.bin`` holds: the BPU's program, the CPU nodes around it with their constants, and its origin.

The file is one Protocol Buffers message with the fields of ``horizon_tc_ui/hbdtort/runtime_pb2.py`` in the vendor's
package; fields not needed here are left out. Files of hb_mapper 1.23.5 and 1.24.3 can be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from edge.errors import ModelFileError

Constant = NDArray[np.generic]

BPU = "BPU"  # op_type of a node that stands for a whole subgraph on the BPU
HBM = "PACKED_HBM_MODEL"  # name of the constant that holds what the BPU executes

# message -> (number, name, kind); the kind is a scalar type or a message, with [] if repeated.
_SCHEMA = {
    "Model": ((3, "graph", "Graph"), (5, "graphs", "[]Graph"), (6, "metadata_props_info", "[]ModelInfo")),
    "ModelInfo": ((1, "model_info", "[]Entry"),),
    "Entry": ((1, "key", "string"), (2, "value", "string")),
    "Graph": (
        (1, "node", "[]Node"),
        (2, "name", "string"),
        (3, "initializer", "[]Tensor"),
        (4, "input", "[]ValueInfo"),
        (5, "output", "[]ValueInfo"),
        (6, "value_info", "[]ValueInfo"),
        (7, "input_type", "[]int32"),
    ),
    "Node": (
        (1, "input", "[]string"),
        (2, "output", "[]string"),
        (3, "name", "string"),
        (4, "op_type", "string"),
        (5, "attribute", "[]Attribute"),
    ),
    "Attribute": (
        (1, "name", "string"),
        (2, "type", "int32"),
        (3, "f", "float"),
        (4, "i", "int64"),
        (5, "s", "bytes"),
        (7, "floats", "[]float"),
        (8, "ints", "[]int64"),
    ),
    "ValueInfo": ((1, "name", "string"), (2, "type", "TensorType")),
    "Tensor": (
        (1, "shape_type", "TensorType"),
        (2, "float_data", "[]float"),
        (3, "int32_data", "[]int32"),
        (4, "int64_data", "[]int64"),
        (5, "string_data", "[]bytes"),
        (6, "double_data", "[]double"),
        (7, "uint64_data", "[]uint64"),
        (8, "name", "string"),
    ),
    "TensorType": ((1, "elem_type", "int32"), (2, "dim", "[]int64")),
}
# TensorTypeProto.DataType; strings and bfloat16 have no numpy name.
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "float16",
    10: "float64", 11: "uint32", 12: "uint64", 14: "bool",
}  # fmt: skip
# InputDataType
_INPUTS = (
    "UNDEFINED", "S8", "U8", "S32", "U32", "F32", "Gray", "NV12", "YUV444", "BGR", "RGB", "BGRP", "RGBP",
    "NV12_SEPARATE", "S64", "U64", "F64", "S16", "U16", "F16", "S4", "U4",
)  # fmt: skip
_ATTRIBUTES = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints"}


@frozen
class BinValue:
    """A tensor of a program: its name, logical shape and numpy dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@frozen
class BinNode:
    """A node: one CPU operator, or (``op`` is ``BPU``) everything that one call of the BPU computes."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(factory=dict)


@frozen
class BinProgram:
    """The content of a ``.bin``."""

    name: str
    inputs: tuple[BinValue, ...]  #: of the whole program; the shape is the network's, (1, H, W, 3) for an image.
    input_kinds: tuple[str, ...]  #: how each input arrives, ``NV12`` for an image on this board.
    outputs: tuple[BinValue, ...]  #: of the whole program, behind its CPU nodes.
    nodes: tuple[BinNode, ...]  #: in execution order.
    constants: Mapping[str, Constant]  #: of the CPU nodes.
    values: Mapping[str, BinValue]  #: everything between the nodes, by name.
    hbm: bytes = field(repr=False)  #: what the BPU executes.
    #: how it was built, as the compiler states it, such as ``BUILDER_VERSION``.
    origin: Mapping[str, str] = field(factory=dict)

    @property
    def bpu(self) -> tuple[BinNode, ...]:
        """The calls of the BPU."""
        return tuple(node for node in self.nodes if node.op == BPU)

    @property
    def cpu(self) -> tuple[BinNode, ...]:
        """The CPU nodes."""
        return tuple(node for node in self.nodes if node.op != BPU)


def read_bin(path: Path) -> BinProgram:
    """Read a ``.bin``.

    Raises:
        ModelFileError: it can't be read, is not a ``.bin`` or incomplete, or holds several models.
    """
    from google.protobuf.message import DecodeError

    try:
        model = _message("Model").FromString(path.read_bytes())
    except OSError as error:
        raise ModelFileError(
            f"{path} can't be read: {error.strerror or error}", remedy="check the path and its permissions"
        ) from error
    except DecodeError as error:
        raise _no_program(path, "it can't be decoded") from error
    graphs = list(model.graphs) or ([model.graph] if model.HasField("graph") else [])
    if len(graphs) > 1:
        names = ", ".join(graph.name for graph in graphs)
        raise ModelFileError(f"{path.name} packs {len(graphs)} models: {names}", expected="one model")
    if not graphs:
        raise _no_program(path, "it holds no model")
    graph = graphs[0]
    hbm = [tensor.string_data[0] for tensor in graph.initializer if tensor.name == HBM and tensor.string_data]
    if not hbm or not any(node.op_type == BPU for node in graph.node):
        raise _no_program(path, "nothing in it is for the BPU")
    try:
        constants = {tensor.name: _array(tensor) for tensor in graph.initializer if tensor.name != HBM}
    except (KeyError, ValueError) as error:
        raise _no_program(path, f"a constant in it is broken: {error}") from error
    inputs = tuple(map(_value, graph.input))
    return BinProgram(
        name=graph.name,
        inputs=inputs,
        input_kinds=tuple(_INPUTS[i] if 0 <= i < len(_INPUTS) else str(i) for i in graph.input_type),
        outputs=tuple(map(_value, graph.output)),
        nodes=tuple(map(_node, graph.node)),
        constants=constants,
        values={value.name: value for value in map(_value, (*graph.input, *graph.value_info, *graph.output))},
        hbm=hbm[0],
        origin={entry.key: entry.value for info in model.metadata_props_info for entry in info.model_info},
    )


def _no_program(path: Path, why: str) -> ModelFileError:
    return ModelFileError(
        f"{path.name} is not a program for the board: {why}",
        expected="a .bin as hb_mapper makes it",
        remedy="copy it again, or build it again: edge build MODEL",
    )


def _value(info: Any) -> BinValue:
    return BinValue(info.name, tuple(info.type.dim), _DTYPES.get(info.type.elem_type, "unknown"))


def _node(node: Any) -> BinNode:
    attributes = {}
    for attribute in node.attribute:
        value = getattr(attribute, _ATTRIBUTES.get(attribute.type, "s"))
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        attributes[attribute.name] = value if isinstance(value, (int, float, str)) else tuple(value)
    return BinNode(node.name, node.op_type, tuple(node.input), tuple(node.output), attributes)


def _array(tensor: Any) -> Constant:
    dtype = _DTYPES[tensor.shape_type.elem_type]
    for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        data = getattr(tensor, name)
        if len(data):
            break
    array: Constant = np.array(data, dtype).reshape(tuple(tensor.shape_type.dim))
    return array


@cache
def _message(name: str) -> Any:
    """Return the class of a message; protobuf comes with the onnx package."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    scalars = {
        kind: getattr(kinds, f"TYPE_{kind.upper()}")
        for kind in ("string", "bytes", "float", "double", "int32", "int64", "uint64")
    }
    file = descriptor_pb2.FileDescriptorProto(name="edge_horizon_ir.proto", package="edge_horizon_ir", syntax="proto3")
    for message, fields in _SCHEMA.items():
        _declare(file.message_type.add(name=message), fields, scalars, kinds)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"edge_horizon_ir.{name}"))


def _declare(message: Any, fields: Iterable[tuple[int, str, str]], scalars: Mapping[str, int], kinds: Any) -> None:
    for number, name, kind in fields:
        repeated, kind = kind.startswith("[]"), kind.removeprefix("[]")
        entry = message.field.add(
            name=name, number=number, label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        )
        if kind in scalars:
            entry.type = scalars[kind]
        else:
            entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".edge_horizon_ir.{kind}"
