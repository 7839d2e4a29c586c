"""Store weights as int8: a quarter of the file; onnxruntime unfolds them once, when it loads the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WORTH = 4096  # elements; smaller constants stay as they are


def stored(name: str, data: NDArray[Any]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the tensors that hold a constant, and the nodes that make it of them.

    A float32 constant whose values are int8 integers, times a power of two for each index of its first
    axis, is kept as these; the float32 numbers that come out are the same.

    Args:
        name: of the constant in the graph.
        data: its values.
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
