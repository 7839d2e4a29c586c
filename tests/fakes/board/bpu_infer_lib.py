"""A stand-in for bpu_infer_lib, with its contract and its hazards.

True is success, and nothing is raised: a run that fails gives None as every other one, and its results are what lay
in the memory before. Sizes pass unchecked; results are the runtime's own memory. With FAKE_BPU_INFER_LIB=old it has
the older readers only, and gives no shapes.
"""

from __future__ import annotations

import contextlib
import os
from types import SimpleNamespace

import fake_libdnn
import numpy as np

_TYPES = {"F32": "TENSOR_TYPE_F32", "S32": "TENSOR_TYPE_S32", "S8": "TENSOR_TYPE_S8"}


class _Infer:
    def __init__(self, debug: bool) -> None:
        if not isinstance(debug, bool):
            raise TypeError("__init__(): incompatible constructor arguments.")
        self.inputs: list[SimpleNamespace] = []
        self.outputs: list[SimpleNamespace] = []

    def load_model(self, path: str) -> bool:
        try:
            self._model = fake_libdnn.Model(path)
        except fake_libdnn.DnnError:
            return False
        self.inputs = [_tensor(tensor) for tensor in self._model.inputs]
        self.outputs = [_tensor(tensor) for tensor in self._model.outputs]
        return True

    def read_img_to_nv12(self, path: str, index: int) -> bool:
        raise AssertionError("it resizes and converts in an unknown way: nobody may call it")

    def _read(self, array: np.ndarray, index: int) -> bool:
        tensor = self._model.inputs[index]
        if array.dtype != tensor.dtype:
            return False
        fake_libdnn.overwrite(tensor.memory, array.tobytes())
        return True

    def forward(self, more: bool = False) -> None:
        with contextlib.suppress(fake_libdnn.DnnError):
            self._model.infer()


class _New(_Infer):
    read_input = _Infer._read

    def get_output(self) -> bool:
        for shown, tensor in zip(self.outputs, self._model.outputs, strict=True):
            shown.data = tensor.read().reshape(-1)
        return True


class _Old(_Infer):
    read_numpy_arr_uint8 = _Infer._read

    def get_infer_res_np_float32(self, index: int, n: int | None = None) -> np.ndarray:
        return self._model.outputs[index].read().reshape(-1)[:n]


Infer = _Old if os.environ.get("FAKE_BPU_INFER_LIB") == "old" else _New


def _tensor(tensor: fake_libdnn.Tensor) -> SimpleNamespace:
    properties = SimpleNamespace(
        tensorType=f"HB_DNN_{_TYPES.get(tensor.type, 'IMG_TYPE_' + tensor.type)}",
        tensorLayout=f"HB_DNN_LAYOUT_{tensor.layout}",
    )
    if Infer is _New:
        sides = [*tensor.shape, *[0] * (8 - len(tensor.shape))]
        properties.validShape = SimpleNamespace(dimensionSize=sides, numDimensions=len(tensor.shape))
    return SimpleNamespace(properties=properties, data=None)
