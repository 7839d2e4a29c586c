"""A stand-in for pyeasy_dnn of both packages, with its contract and its hazards.

A bare array gives its data pointer and as many bytes as it has ELEMENTS: floats are cut to a quarter, strides
are ignored. Arrays in a list are cast to bytes. No size is checked. An RGB image is changed in place. A
padded integer output is read as if it had no padding. A failure is a SystemError.
"""

from __future__ import annotations

import ctypes
import math

import fake_libdnn
import numpy as np

TYPES = {"S8": "int8", "U8": "uint8", "S16": "int16", "F16": "float16", "S32": "int32", "F32": "float32"}
READABLE = ("int8", "int16", "int32", "float32")


class Properties:
    def __init__(self, tensor: fake_libdnn.Tensor) -> None:
        self.tensor_type = TYPES.get(tensor.type, tensor.type)
        self.dtype = TYPES.get(tensor.type, "uint8")
        self.layout = tensor.layout
        self.shape = tensor.shape
        self.scale_data = np.array(tensor.scale, np.float32)

    @property
    def alignedShape(self) -> int:  # noqa: N802
        raise AssertionError("a raw pointer that leaks: nobody may ask for it")

    validShape = alignedShape  # noqa: N815


class Tensor:
    def __init__(self, tensor: fake_libdnn.Tensor) -> None:
        self._tensor = tensor
        self.name = tensor.name
        self.properties = Properties(tensor)

    @property
    def buffer(self) -> np.ndarray:
        dtype = self.properties.dtype if self.properties.dtype in READABLE else "int8"
        count = math.prod(self._tensor.shape)
        shape = (*self._tensor.shape, 1, 1, 1)[:4]
        return self._tensor.memory.view(dtype)[:count].reshape(shape).copy()


class Model:
    def __init__(self, model: fake_libdnn.Model) -> None:
        self._model = model
        self.name = model.name
        self.estimate_latency = 100

    @property
    def inputs(self) -> list[Tensor]:
        return [Tensor(tensor) for tensor in self._model.inputs]

    @property
    def outputs(self) -> list[Tensor]:
        return [Tensor(tensor) for tensor in self._model.outputs]

    def forward(self, arg, core_id=0, priority=0):
        if isinstance(arg, np.ndarray):
            arrays = [arg]
        elif isinstance(arg, (list, tuple)):
            arrays = [np.ascontiguousarray(array).astype(np.uint8) for array in arg]
        else:
            _fail("forward", TypeError("input must be a numpy array or a list of them"))
        if len(arrays) > len(self._model.inputs):
            _fail("forward", RuntimeError("forward execution failed."))
        for array, tensor in zip(arrays, self._model.inputs, strict=False):
            if tensor.type == "RGB":
                array[...] = np.maximum(0, array.astype(np.int16) - 128)
            fake_libdnn.overwrite(tensor.memory, ctypes.string_at(array.ctypes.data, array.size))
        try:
            self._model.infer()
        except fake_libdnn.DnnError:
            _fail("forward", RuntimeError("forward execution failed."))
        return self.outputs


def load(model_file):
    if not isinstance(model_file, (str, list)):
        _fail("load", TypeError("model_file must be a string or a list"))
    paths = [model_file] if isinstance(model_file, str) else model_file
    try:
        return [Model(fake_libdnn.Model(path)) for path in paths]
    except fake_libdnn.DnnError:
        _fail("load", RuntimeError("hbDNNInitializeFromFiles failed"))


def _fail(function: str, error: Exception):
    message = f"<built-in method {function} of PyCapsule object> returned a result with an exception set"
    raise SystemError(message) from error
