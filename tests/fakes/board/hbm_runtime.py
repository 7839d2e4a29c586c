"""A stand-in for the board's hbm_runtime, with its contract and its hazards.

It checks dtypes and the shapes of inputs other than NV12; it does not check the size of NV12. RGB and BGR are int8;
Y, YUV444 and NV12_SEPARATE fail in every run. Inputs are copied flat, as if no row were padded. One caller at a
time. What it returns is the runtime's own memory, overwritten by the next run. A run that can't start ends the whole
process; one that fails later gives what lay in that memory before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum

import fake_libdnn
import numpy as np

if os.environ.get("FAKE_NO_LIBDNN") and os.environ.get("HBM_RUNTIME_SKIP_CHECK") != "1":
    raise RuntimeError("Missing required shared libraries: libdnn.so")

LATE = (-6000008, -6000012)  # of hbDNNWaitTaskDone, whose code it ignores
_NAMES = "Y NV12 NV12_SEPARATE YUV444 RGB BGR S4 U4 S8 U8 F16 S16 U16 F32 S32 U32 F64 S64 U64 MAX"
hbDNNDataType = Enum("hbDNNDataType", _NAMES)  # noqa: N816
hbDNNQuantiType = Enum("hbDNNQuantiType", "NONE SCALE")  # noqa: N816


def _strides(tensor):
    if tensor.type == "NV12":
        return [0] * len(tensor.shape)
    rows = np.zeros(tensor.shape[:-1], f"V{tensor.row_bytes}").strides
    return [*rows, np.dtype(tensor.dtype).itemsize]


class QuantParams:
    def __init__(self, tensor: fake_libdnn.Tensor) -> None:
        self.quant_type = hbDNNQuantiType["SCALE" if tensor.scale else "NONE"]
        self.scale = np.array(tensor.scale, np.float32)
        self.zero_point = np.array(tensor.zero_point, np.int32)
        self.axis = tensor.axis


class HB_HBMRuntime:  # noqa: N801
    version = fake_libdnn.version()

    def __init__(self, model_file) -> None:
        paths = [model_file] if isinstance(model_file, str) else model_file
        if not isinstance(paths, list):
            raise TypeError("__init__(): incompatible constructor arguments.")
        try:
            self._models = {model.name: model for model in map(fake_libdnn.Model, paths)}
        except fake_libdnn.DnnError as error:
            if error.code == -6000006:
                raise RuntimeError(f"The input hbm model {paths[0]} does not exist.") from None
            raise RuntimeError(f"hbDNN initialize from {paths[0]} file failed. error code: {error.code}") from None

    @property
    def model_names(self):
        return list(self._models)

    @property
    def input_names(self):
        return {name: [t.name for t in model.inputs] for name, model in self._models.items()}

    @property
    def output_names(self):
        return {name: [t.name for t in model.outputs] for name, model in self._models.items()}

    @property
    def input_shapes(self):
        return self._tell("inputs", lambda tensor: list(tensor.shape))

    @property
    def output_shapes(self):
        return self._tell("outputs", lambda tensor: list(tensor.shape))

    @property
    def input_dtypes(self):
        return self._tell("inputs", lambda tensor: hbDNNDataType[tensor.type])

    @property
    def output_dtypes(self):
        return self._tell("outputs", lambda tensor: hbDNNDataType[tensor.type])

    @property
    def input_strides(self):
        return self._tell("inputs", _strides)

    @property
    def output_quants(self):
        return self._tell("outputs", QuantParams)

    @property
    def input_quants(self):
        return self._tell("inputs", QuantParams)

    def _tell(self, side, what):
        return {
            name: {tensor.name: what(tensor) for tensor in getattr(model, side)} for name, model in self._models.items()
        }

    def run(self, data, *, model_name=None):
        name = model_name or next(iter(self._models))
        if isinstance(data, np.ndarray):
            if len(self._models[name].inputs) != 1:
                raise ValueError("Single-input run() requires the model to have exactly 1 input")
            data = {name: {self._models[name].inputs[0].name: data}}
        elif isinstance(data, Mapping) and all(isinstance(v, np.ndarray) for v in data.values()):
            data = {name: data}
        elif not (isinstance(data, Mapping) and all(isinstance(v, Mapping) for v in data.values())):
            raise TypeError("run(): incompatible function arguments.")
        return {model: self._run(model, inputs) for model, inputs in data.items()}

    def _run(self, name, inputs):
        model = self._models[name]
        tensors = {tensor.name: tensor for tensor in model.inputs}
        for key, array in inputs.items():
            if key not in tensors:
                raise ValueError(f'Input name "{key}" is invalid for model "{name}"')
            tensor = tensors[key]
            if tensor.type in ("Y", "YUV444", "NV12_SEPARATE"):
                raise ValueError(f"Unsupported data type of input tensor '{key}'")
            if array.dtype != ("int8" if tensor.type in ("RGB", "BGR") else tensor.dtype):
                raise ValueError(
                    f"Data type mismatch for input tensor '{key}' in model '{name}': expected numpy dtype "
                    f"format '{np.dtype(tensor.dtype).char}', but received '{array.dtype.char}'"
                )
            if not tensor.type.startswith("NV12") and array.shape != tensor.shape:
                raise RuntimeError("Mismatch in tensor dimension at index 0")
            fake_libdnn.overwrite(tensor.memory, np.ascontiguousarray(array).tobytes())
        try:
            model.infer()
        except fake_libdnn.DnnError as error:
            if error.code == -6000013:
                raise RuntimeError("run() already in use") from None
            if error.code not in LATE:
                os.abort()  # it throws in a thread that catches nothing
        return {tensor.name: tensor.read() for tensor in model.outputs}
