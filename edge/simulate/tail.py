"""The CPU nodes around the BPU: from float32 inputs to its integers, from its integers to the float outputs.

The tests compare each operator with the vendor's runtime on compiled programs: bit for bit, Softmax within the last
digits of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge.errors import ToolchainError
from edge.simulate.binfile import BinNode, BinProgram

# Types of outputs that are what the network gives, and no integers of the BPU: an ArgMax gives int64.
FINISHED = ("float32", "int64")
# Operators whose results are the same bits on every processor.
MOVING = ("Cast", "Dequantize", "Reshape", "Transpose")
Array = NDArray[np.generic]
Scores = NDArray[np.float32]


def check_tail(program: BinProgram) -> None:
    """Raise ToolchainError if a CPU node can't be computed here or an output is not dequantized; it names them."""
    head = set(head_outputs(program))
    tail = [node for node in program.cpu if not head.intersection(node.outputs)]
    unknown = [f"{node.op} {node.name!r}" for node in tail if node.op not in _OPERATORS]
    if unknown:
        raise ToolchainError(
            f"{program.name} has CPU nodes that edge does not know: {', '.join(unknown)}",
            expected=", ".join(sorted(_OPERATORS)),
            remedy="run it on the board, or with the backend quantized",
        )
    raw = [value.name for value in program.outputs if value.dtype not in FINISHED]
    if raw:
        raise ToolchainError(
            f"{program.name} does not dequantize {', '.join(raw)}: the Dequantize nodes were removed",
            expected="programs with their Dequantize nodes",
            remedy="compile without remove_node_type",
        )


def head_outputs(program: BinProgram) -> list[str]:
    """Return the integers that the CPU makes of the program's float32 inputs before the BPU is called."""
    given = {value.name for value in program.inputs if value.dtype == "float32"}
    return [node.outputs[0] for node in program.cpu if node.op == "Quantize" and node.inputs[0] in given]


def quantized_head(program: BinProgram, values: Mapping[str, Array]) -> dict[str, Array]:
    """Return these integers by name, from the float32 inputs by name: the nearest, halves to even, saturated."""
    found: dict[str, Array] = {}
    for node in program.cpu:
        if node.outputs[0] not in head_outputs(program):
            continue
        value, integers = values[node.inputs[0]].astype(np.float32), program.values[node.outputs[0]]
        steps = _spread(program.constants[node.inputs[1]], value.ndim, int(node.attributes.get("axis", 1)))
        limits = np.iinfo(integers.dtype)
        nearest = np.clip(np.rint(value.reshape(integers.shape) / steps), limits.min, limits.max)
        found[node.outputs[0]] = nearest.astype(integers.dtype)
    return found


def _spread(array: Array, rank: int, axis: int) -> NDArray[np.float32]:
    """Shape scales so that they lie along an axis; one stays one."""
    values = array.astype(np.float32)
    if values.size == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = values.size
    return values.reshape(shape)


def run_tail(program: BinProgram, integers: Mapping[str, Array]) -> list[Scores]:
    """Return the program's outputs, float32 in their shapes, from the outputs of the BPU by name."""
    values: dict[str, Array] = {**program.constants, **integers}
    head = set(head_outputs(program))
    for node in program.cpu:
        if head.intersection(node.outputs):
            continue
        try:
            result = _OPERATORS[node.op](node, [values[name] for name in node.inputs])
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ToolchainError(
                f"the CPU node {node.op} {node.name!r} of {program.name} can't be computed: {error}"
            ) from error
        values[node.outputs[0]] = result
    return [np.ascontiguousarray(values[output.name], np.float32).reshape(output.shape) for output in program.outputs]


def _dequantize(node: BinNode, inputs: Sequence[Array]) -> Array:
    """Return (integer - zero point) * scale, in float32; scales of several channels lie along ``axis``."""
    integers, scale, *zero = inputs
    axis = int(node.attributes.get("axis", 1))

    def spread(array: Array) -> Array:
        if array.size == 1:
            return array.reshape(())
        shape = [1] * integers.ndim
        shape[axis] = array.size
        return array.reshape(shape)

    if zero:
        integers = integers.astype(np.int64) - spread(zero[0]).astype(np.int64)
    result: Array = integers.astype(np.float32) * spread(scale).astype(np.float32)
    return result


def _reshape(_node: BinNode, inputs: Sequence[Array]) -> Array:
    data, wanted = inputs
    # ONNX: 0 keeps the dimension, -1 takes the rest.
    shape = [data.shape[i] if side == 0 else int(side) for i, side in enumerate(wanted.tolist())]
    return data.reshape(shape)


def _transpose(node: BinNode, inputs: Sequence[Array]) -> Array:
    perm = node.attributes.get("perm")
    return inputs[0].transpose(None if perm is None else [int(axis) for axis in perm])


def _cast(_node: BinNode, inputs: Sequence[Array]) -> Array:
    """Change the type of integers; ``run_tail`` gives all outputs as float32."""
    if not np.issubdtype(inputs[0].dtype, np.integer):
        raise ValueError(f"a cast of {inputs[0].dtype}")
    return inputs[0]


def _softmax(node: BinNode, inputs: Sequence[Array]) -> Array:
    values = inputs[0].astype(np.float32)
    axis = int(node.attributes.get("axis", 1)) % values.ndim
    if values[0].size != values.shape[axis]:
        # Opset 11 flattens from the axis on, later opsets do not; it is not known which one the board does.
        raise ValueError(f"softmax along axis {axis} of {values.shape}")
    powers = np.exp(values - values.max(axis=axis, keepdims=True))
    result: Array = powers / powers.sum(axis=axis, keepdims=True)
    return result


_OPERATORS: dict[str, Callable[[BinNode, Sequence[Array]], Array]] = {
    "Cast": _cast,
    "Dequantize": _dequantize,
    "Reshape": _reshape,
    "Softmax": _softmax,
    "Transpose": _transpose,
}
