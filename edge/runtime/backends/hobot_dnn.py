"""The board's older runtime, ``pyeasy_dnn`` of ``hobot_dnn`` or ``hobot_dnn_rdkx5``."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from edge.errors import BackendError
from edge.runtime.libdnn import FAILURES, bin_of, flat, known_interface, load_failure, reason, vendor_module
from edge.runtime.program import Program
from edge.runtime.protocol import Array, Info, Scores, Tensor
from edge.runtime.quantization import Dequantizer, channel_axis, dequantizer

MODULES = ("hobot_dnn.pyeasy_dnn", "hobot_dnn_rdkx5.pyeasy_dnn")
SOURCE = "hobot_dnn of any RDK OS for the X5 (Debian package hobot-spdev)"
NV12 = ("NV12", "NV12_SEPARATE")  # both take one packed array; it splits the second kind itself
# RGB is missing: the module changes an RGB array in place and clears every value below 128.
IMAGES = (*NV12, "Y", "YUV444", "BGR")
ITEMSIZE = {"int8": 1, "int16": 2, "int32": 4, "float32": 4}  # it reads any other type as int8
# BPU memory: a row takes 256 k + one of these bytes, the rest is padding (vendor: data alignment).
UNPADDED = (0, 16, 32, 64, 128)


class HobotDnnBackend:
    """One pyeasy_dnn model; its buffers serve one caller. It gives no zero points; they are zero.

    Raises:
        BackendMissing: this machine has no pyeasy_dnn, or the program no ``.bin``.
        BackendError: the runtime refuses it, or would misread its inputs or outputs.
    """

    concurrent = False

    @known_interface("hobot_dnn")
    def __init__(self, program: Program) -> None:
        path = bin_of(program)
        module = vendor_module(MODULES, "load", SOURCE)
        try:
            models = module.load(str(path))
        except FAILURES as error:
            raise load_failure("hobot_dnn", path, error) from error
        if not models:
            raise load_failure("hobot_dnn", path, "it returned no model; see the console output")
        self._model: Any = models[0]
        inputs = tuple(_input(tensor) for tensor in self._model.inputs)
        self._rules = [_rule(tensor) for tensor in self._model.outputs]
        self.info = Info(
            backend="hobot_dnn",
            model=program.name,
            # The module has no version, and names itself dnnpy.
            version=next(name for name in MODULES if sys.modules.get(name) is module).partition(".")[0],
            inputs=inputs,
            outputs=tuple(Tensor(rule.name, rule.shape, "float32") for rule in self._rules),
        )

    def run(self, inputs: Sequence[Array]) -> list[Scores]:
        """Execute once; see the protocol."""
        try:
            tensors = self._model.forward(inputs[0] if len(inputs) == 1 else list(inputs))
            return [rule(tensor.buffer) for rule, tensor in zip(self._rules, tensors, strict=True)]
        except FAILURES as error:
            raise BackendError(f"hobot_dnn failed: {reason(error)}") from error

    def close(self) -> None:
        """Drop the model, which frees its memory."""
        self._model = None


def _input(tensor: Any) -> Tensor:
    kind = tensor.properties.tensor_type
    if kind not in IMAGES:
        why = "changes RGB images" if kind == "RGB" else "turns numbers other than bytes into bytes"
        raise BackendError(
            f"input {tensor.name!r} is of type {kind}: hobot_dnn {why}",
            expected=", ".join(IMAGES),
            remedy="load(path, backend='hbm_runtime'), or compile with input_type_rt: nv12",
        )
    shape = flat(tensor.properties.shape)
    if kind in NV12 and shape[-1] == 3:  # some programs state (1, H, W, 3)
        shape = [shape[0], 3, *shape[1:3]]
    return Tensor(tensor.name, tuple(shape), "uint8", nv12=kind in NV12)


def _rule(tensor: Any) -> Dequantizer:
    # Never read alignedShape or validShape: they are raw pointers.
    shape, kind = flat(tensor.properties.shape), tensor.properties.dtype
    if kind not in ITEMSIZE:
        raise BackendError(
            f"output {tensor.name!r} is of type {kind}: hobot_dnn reads it as int8",
            expected=", ".join(ITEMSIZE),
            remedy="load(path, backend='hbm_runtime')",
        )
    # Float outputs come from the CPU and have no padding. Padding behind a single row is harmless.
    if kind != "float32" and math.prod(shape[:-1]) > 1 and shape[-1] * ITEMSIZE[kind] % 256 not in UNPADDED:
        raise BackendError(
            f"output {tensor.name!r} is {kind} {tuple(shape)}: its rows are padded in BPU memory, "
            "and hobot_dnn reads the padding as values",
            expected="float32 outputs, as edge build makes them",
            remedy="load(path, backend='hbm_runtime'), or keep the model's Dequantize",
        )
    scale = tensor.properties.scale_data
    axis = channel_axis(tensor.name, shape, tensor.properties.layout, len(scale))
    return dequantizer(tensor.name, shape, kind, scale=scale, axis=axis)


open_backend = HobotDnnBackend
