"""A stand-in for bpu_infer_lib, with its contract and its hazards.

It returns status codes and raises nothing; sizes pass unchecked; results are the runtime's own memory. With
FAKE_BPU_INFER_LIB=old it has the older readers only.
"""

from __future__ import annotations

import os
from enum import Enum
from types import SimpleNamespace

import fake_libdnn
import numpy as np

_TYPES = {"F32": "TENSOR_TYPE_F32", "S32": "TENSOR_TYPE_S32", "S8": "TENSOR_TYPE_S8"}
_Type = Enum("hbDNNDataType", [f"HB_DNN_{n}" for n in (*_TYPES.values(), "IMG_TYPE_NV12", "IMG_TYPE_RGB")])
_Layout = Enum("hbDNNTensorLayout", ["HB_DNN_LAYOUT_NCHW", "HB_DNN_LAYOUT_NHWC"])


class _Infer:
    def __init__(self, debug: bool) -> None:
        if not isinstance(debug, bool):
            raise TypeError("__init__(): incompatible constructor arguments.")
        self.inputs: list[SimpleNamespace] = []
        self.outputs: list[SimpleNamespace] = []

    def load_model(self, path: str) -> int:
        try:
            self._model = fake_libdnn.Model(path)
        except fake_libdnn.DnnError as error:
            return error.code
        self.inputs = [_tensor(tensor) for tensor in self._model.inputs]
        self.outputs = [_tensor(tensor) for tensor in self._model.outputs]
        return 0

    def read_img_to_nv12(self, path: str, index: int) -> int:
        raise AssertionError("it resizes and converts in an unknown way: nobody may call it")

    def _read(self, array: np.ndarray, index: int) -> int:
        tensor = self._model.inputs[index]
        if array.dtype != tensor.dtype:
            return -6000001
        fake_libdnn.overwrite(tensor.memory, array.tobytes())
        return 0

    def forward(self, more: bool = False) -> int:
        try:
            self._model.infer()
        except fake_libdnn.DnnError as error:
            return error.code
        return 0


class _New(_Infer):
    read_input = _Infer._read

    def get_output(self) -> int:
        for shown, tensor in zip(self.outputs, self._model.outputs, strict=True):
            shown.data = tensor.read().reshape(-1)
        return 0


class _Old(_Infer):
    read_numpy_arr_uint8 = _Infer._read

    def get_infer_res_np_float32(self, index: int, n: int | None = None) -> np.ndarray:
        return self._model.outputs[index].read().reshape(-1)[:n]


Infer = _Old if os.environ.get("FAKE_BPU_INFER_LIB") == "old" else _New


def _tensor(tensor: fake_libdnn.Tensor) -> SimpleNamespace:
    properties = SimpleNamespace(
        tensorType=_Type[f"HB_DNN_{_TYPES.get(tensor.type, 'IMG_TYPE_' + tensor.type)}"],
        tensorLayout=_Layout[f"HB_DNN_LAYOUT_{tensor.layout}"],
    )
    return SimpleNamespace(properties=properties, data=None)
