"""Build a standard ONNX graph that carries a quantized network's integers in float32 tensors.

A vendor tensor is int8 or int16, most often NHWC. Here it becomes float32 with the same integer values. In onnxruntime
float32 convolutions are ten times as fast as integer ones. They are exact as long as no partial sum reaches 2^24, which
is proved for every operator when it is translated. Images are NCHW, onnxruntime's own order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from attrs import define, evolve, frozen
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.errors import ModelFileError, counted

EXACT = 1 << 24  # float32 holds every integer up to here
WORTH = 4096  # elements of a constant that is stored as int8; smaller ones stay as they are
NHWC = (0, 2, 3, 1)  # logical axis -> stored axis of a vendor image tensor


@frozen
class Value:
    """A vendor tensor in the new graph, held by the float32 tensor ``name``.

    ``shape`` is logical, as the vendor's graph has it; logical axis i is axis ``axes[i]`` of the stored tensor.
    Integers lie in ``low``..``high``; ``real`` numbers are not bounded.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    low: int = 0
    high: int = 0
    real: bool = False

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape of the stored tensor."""
        shape = [0] * len(self.shape)
        for logical, axis in enumerate(self.axes):
            shape[axis] = self.shape[logical]
        return tuple(shape)

    @property
    def limit(self) -> int:
        """Largest magnitude that can occur."""
        return max(abs(self.low), abs(self.high))


@define
class Graph:
    """The new graph while it grows: nodes in order, constants, and the vendor's tensors by name."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, NDArray[Any]]
    values: dict[str, Value]
    integers: dict[str, str]
    """float32 tensor -> the int8 tensor that it was cast from."""

    @classmethod
    def empty(cls) -> Graph:
        """Return an empty graph."""
        return cls([], {}, {}, {})

    def constant(self, array: NDArray[Any] | float, dtype: type = np.float32) -> str:
        """Add a constant and return its name; equal constants are shared."""
        data: NDArray[Any] = np.ascontiguousarray(array, dtype)
        for name, known in self.constants.items():
            if data.size <= 16 and known.dtype == data.dtype and np.array_equal(known, data):
                return name
        name = f"c{len(self.constants)}"
        self.constants[name] = data
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{op}_{len(self.nodes)}", **attributes))
        return name

    def transposed(self, value: Value, axes: tuple[int, ...]) -> Value:
        """Return the value stored with other ``axes``; a node is added only if the data must move."""
        if value.axes == axes:
            return value
        target = evolve(value, axes=axes)
        # stored axis of the target <- stored axis of the source that carries the same logical axis
        perm = [value.axes[axes.index(axis)] for axis in range(len(axes))]
        moved = [size for axis in perm if (size := value.stored[axis]) > 1]
        kept = [size for axis, size in enumerate(value.stored) if size > 1 and axis in perm]
        order = [axis for axis in perm if value.stored[axis] > 1]
        if moved == kept and order == sorted(order):
            name = self.reshape(value.name, target.stored)
        else:
            name = self.add("Transpose", value.name, perm=perm)
        return evolve(target, name=name)

    def plain(self, value: Value) -> Value:
        """Return the value stored in its logical order."""
        return self.transposed(value, tuple(range(len(value.shape))))

    def image(self, value: Value) -> Value:
        """Return a logical NHWC value stored as NCHW."""
        return self.transposed(value, NHWC)

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """Reshape a stored tensor."""
        return self.add("Reshape", name, self.constant(np.array(shape), np.int64))

    def reshaped(self, value: Value, shape: tuple[int, ...]) -> Value:
        """Return the value with another logical shape, stored in that order."""
        name = self.reshape(self.plain(value).name, shape)
        return evolve(value, name=name, shape=shape, axes=tuple(range(len(shape))))

    def slice(self, name: str, *limits: int) -> str:
        """Cut a range out of one axis of a stored tensor: start, end, then optionally the axis and a step."""
        return self.add("Slice", name, *(self.constant(np.array([n]), np.int64) for n in limits))

    def operand(self, source: Source, index: int, *, image: bool = False) -> Value:
        """Return a node's input, computed or constant; ``image`` stores a constant of four axes as NCHW."""
        name = source.node.input[index]
        if name in self.values:
            return self.values[name]
        data = source.constant(index)
        axes = NHWC if image and data.ndim == 4 else tuple(range(data.ndim))
        real = data.dtype == np.float32
        low, high = (0, 0) if real else (int(data.min()), int(data.max()))
        stored = data.transpose(np.argsort(axes)) if data.ndim else data
        return Value(self.constant(stored), data.shape, axes, low, high, real)

    def quantized(self, name: str, scale: NDArray[np.float32], **axis: int) -> str:
        """Divide by a scale, one or one along an axis, round halves to even and saturate to int8, kept as float32."""
        zero = self.constant(np.zeros(scale.shape, np.int8), np.int8)
        int8 = self.add("QuantizeLinear", name, self.constant(scale), zero, **axis)
        name = self.add("Cast", int8, to=TensorProto.FLOAT)
        self.integers[name] = int8
        return name

    def model(
        self,
        input_name: str,
        input_shape: Sequence[int],
        outputs: Sequence[tuple[str, Value]],
        further: Sequence[tuple[str, int, Sequence[int]]] = (),
    ) -> onnx.ModelProto:
        """Return the finished model: uint8 in, float32 out; nodes that nothing reads are left out.

        Args:
            further: name, ONNX type and shape of inputs in place of that one.
        """
        last = [helper.make_node("Identity", [v.name], [name], name=f"output_{name}") for name, v in outputs]
        needed = {name for name, _ in outputs}
        kept: list[onnx.NodeProto] = []
        for node in reversed([*self.nodes, *last]):
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        unpacking: list[onnx.NodeProto] = []
        constants: list[onnx.TensorProto] = []
        for name, data in self.constants.items():
            if name in needed:
                steps, tensors = packed(name, data)
                unpacking += steps
                constants += tensors
        graph = helper.make_graph(
            [*unpacking, *kept[::-1]],
            "edge_portable",
            [
                helper.make_tensor_value_info(name, kind, list(shape))
                for name, kind, shape in further or [(input_name, TensorProto.UINT8, input_shape)]
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(v.shape)) for name, v in outputs],
            constants,
        )
        # Opset 13 and IR 7: onnxruntime reads them since 1.7, on all supported Pythons and on Arm.
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7, producer_name="edge")


def channels(axes: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return the shape that broadcasts ``count`` numbers along the logical last axis of a stored tensor."""
    shape = [1] * len(axes)
    shape[axes[-1]] = count
    return tuple(shape)


def spread(values: NDArray[Any], axes: tuple[int, ...] = NHWC) -> NDArray[Any]:
    """Shape constants, one per index of the logical last axis, to broadcast against a stored tensor; one stays one."""
    if (values == values[0]).all():
        return np.array(values[0])
    return values.reshape(channels(axes, len(values)))


def packed(name: str, data: NDArray[Any]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the tensors that hold a constant, and the nodes that compute it from them.

    A float32 constant whose values are int8 integers times a power of two per index of its first axis is stored as
    int8, in a quarter of the bytes. onnxruntime computes the same numbers once, when it loads the model.
    """
    split = _split(data) if data.dtype == np.float32 and data.size >= WORTH and data.ndim > 1 else None
    if split is None:
        return [], [numpy_helper.from_array(data, name)]
    integers, units = split
    whole, factor = f"{name}_int8", f"{name}_unit"
    tensors = [numpy_helper.from_array(integers, whole)]
    if (units == 1).all():
        return [helper.make_node("Cast", [whole], [name], name=f"{name}_cast", to=TensorProto.FLOAT)], tensors
    tensors.append(numpy_helper.from_array(units, factor))
    return [
        helper.make_node("Cast", [whole], [f"{name}_float"], name=f"{name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_float", factor], [name], name=f"{name}_scale"),
    ], tensors


def _split(data: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    flat = data.reshape(len(data), -1).astype(np.float64)
    digits, exponents = np.frexp(flat)
    # Every float32 is an odd integer times a power of two; the smallest power of a row is its unit.
    odd = np.abs(digits * (1 << 24)).astype(np.int64)
    zeros = np.log2(np.where(odd > 0, odd & -odd, 1)).astype(np.int64)
    lowest = np.where(odd > 0, exponents - 24 + zeros, np.iinfo(np.int64).max).min(axis=1)
    units = np.exp2(np.where(odd.any(axis=1), lowest, 0).astype(np.float64))
    integers = flat / units[:, None]
    if integers.min() < -128 or integers.max() > 127:
        return None
    shape = (len(data),) + (1,) * (data.ndim - 1)
    return integers.reshape(data.shape).astype(np.int8), units.astype(np.float32).reshape(shape)


# Attributes that tell the origin of a node or repeat facts of its inputs or outputs.
_HARMLESS = {
    "cubic_coeff_a", "data_format", "input_scales", "kernel_shape", "lut_type", "output_bit", "weight_thresholds",
}  # fmt: skip


class Attributes(dict[str, Any]):
    """A node's attributes as Python values, bytes decoded; the names read are recorded."""

    def __init__(self, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            self[attribute.name] = value.decode() if isinstance(value, bytes) else value
        self.read: set[str] = set()

    @property
    def unread(self) -> set[str]:
        """Names of the attributes that were never read."""
        return set(self) - self.read

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or the default."""
        self.read.add(name)
        return super().get(name, default)


@frozen
class Source:
    """A node of the vendor's graph, and all constants of that graph by name."""

    node: onnx.NodeProto
    constants: dict[str, NDArray[Any]]
    attributes: Attributes

    @classmethod
    def of(cls, node: onnx.NodeProto, constants: dict[str, NDArray[Any]]) -> Source:
        """Read the node's attributes."""
        return cls(node, constants, Attributes(node))

    def unread(self) -> list[str]:
        """Return the attributes that may change the result but were not read by the rule."""
        return sorted(self.attributes.unread - _HARMLESS)

    def constant(self, index: int) -> NDArray[Any]:
        """Return the constant at an input; ModelFileError if the input is computed."""
        try:
            return self.constants[self.node.input[index]]
        except (KeyError, IndexError):
            raise self.unknown(f"input {index} is not a constant") from None

    def integers(self, name: str, count: int | None = None) -> NDArray[np.int64]:
        """Return an attribute as integers; a single value is repeated for ``count`` channels."""
        values = np.atleast_1d(np.asarray(self.attributes[name], np.int64))
        if count is not None and values.size == 1:
            values = np.repeat(values, count)
        if count is not None and values.size != count:
            raise self.unknown(f"{name} has {counted(values.size, 'value')} for {counted(count, 'channel')}")
        return values

    def expect(self, **wanted: object) -> None:
        """Refuse an attribute that is present with another value than the wanted one, or than one of a tuple."""
        for name, expected in wanted.items():
            seen = self.attributes.get(name)
            choices = expected if isinstance(expected, tuple) else (expected,)
            if seen is not None and seen not in choices:
                raise self.unknown(f"{name} is {seen!r}")

    def unknown(self, why: str) -> ModelFileError:
        """Return the error for something that no proved rule covers."""
        return ModelFileError(
            f"{self.node.op_type} {self.node.name!r}: {why}; there is no proved rule for it",
            expected="operators and attributes that edge/simulate/portable/rules covers",
            remedy="use the backend quantized or hbdk_sim, and report the node",
        )
