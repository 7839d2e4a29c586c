"""The runtime of the vendor's older notebooks, ``bpu_infer_lib``, which the vendor calls legacy."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge.errors import BackendError
from edge.runtime.backends.watch import Watch
from edge.runtime.libdnn import FAILURES, bin_of, flat, known_interface, load_failure, reason, vendor_module
from edge.runtime.program import Program
from edge.runtime.protocol import Array, Info, Scores, Tensor
from edge.runtime.quantization import Dequantizer, dequantizer

SOURCE = "bpu_infer_lib_x5, a wheel on the vendor's download server"
NV12 = "HB_DNN_IMG_TYPE_NV12"
FLOAT = "HB_DNN_TENSOR_TYPE_F32"


class BpuInferLibBackend:
    """One ``Infer``. Not every version gives shapes; they come from the program's metadata.

    Raises:
        BackendMissing: this machine has no bpu_infer_lib, or the program no ``.bin``.
        BackendError: the runtime refuses it, or does not give enough information to read its outputs safely.
    """

    concurrent = False

    @known_interface("bpu_infer_lib")
    def __init__(self, program: Program) -> None:
        path = bin_of(program)
        module = vendor_module(("bpu_infer_lib",), "Infer", SOURCE)
        if program.metadata is None:
            raise BackendError(
                f"{path.name} comes without metadata.json, and bpu_infer_lib gives no shapes",
                expected="a build folder or a bundle",
                remedy="load(path, backend='hbm_runtime')",
            )
        try:
            self._infer: Any = module.Infer(False)
            status = self._infer.load_model(str(path))
            kinds = [_kind(tensor) for tensor in self._infer.inputs]
            results = [_kind(tensor) for tensor in self._infer.outputs]
            shapes = [_shape(tensor) for tensor in (*self._infer.inputs, *self._infer.outputs)]
        except FAILURES as error:
            raise load_failure("bpu_infer_lib", path, error) from error
        if _refused(status) or not kinds:
            raise load_failure("bpu_infer_lib", path, f"it answered {status} and told the reason on the console only")
        about = program.metadata
        outputs = [(output.name, output.shape) for output in about.outputs] if about.task != "classify" else []
        outputs = outputs or [("output", (1, about.classes))]
        if kinds != [NV12] or results != [FLOAT] * len(outputs):
            raise BackendError(
                f"{path.name} takes {', '.join(kinds)} and gives {', '.join(results)}",
                expected=f"one {NV12} and {'one' if len(outputs) == 1 else len(outputs)} {FLOAT}: "
                "bpu_infer_lib gives no scales",
                remedy="load(path, backend='hbm_runtime')",
            )
        wanted = [(1, 3, *about.preprocess.canvas), *(shape for _, shape in outputs)]
        for found, shape in zip(shapes, wanted, strict=True):
            # (1, 1000, 1, 1) in the program may be (1, 1000) in the network, and an image (1, H, W, 3).
            if found and sorted(side for side in found if side > 1) != sorted(side for side in shape if side > 1):
                raise BackendError(
                    f"{path.name} has a tensor of shape {found}",
                    expected=f"{shape}, as metadata.json says",
                    remedy="copy the whole folder again, or build it again",
                )
        # Its image readers resize and convert in unknown ways; these readers take the bytes as they are.
        old = not hasattr(self._infer, "read_input")
        self._read = self._infer.read_numpy_arr_uint8 if old else self._infer.read_input
        self._rules: list[Dequantizer] = [dequantizer(name, shape, "float32") for name, shape in outputs]
        logging.getLogger("edge.runtime").warning(
            "bpu_infer_lib is legacy: the vendor's current runtime is hbm_runtime, of RDK OS 3.5 and above"
        )
        self._watch = Watch("bpu_infer_lib", self._once, [True] * len(outputs))
        self.info = Info(
            backend="bpu_infer_lib",
            model=program.name,
            version=_version(),
            inputs=(Tensor("input", (1, 3, *program.metadata.preprocess.canvas), "uint8", nv12=True),),
            outputs=tuple(Tensor(name, shape, "float32") for name, shape in outputs),
        )

    def run(self, inputs: Sequence[Array]) -> list[Scores]:
        """Execute once; see the protocol."""
        return self._watch(inputs)

    def _once(self, inputs: Sequence[Array]) -> list[Scores]:
        try:
            _succeeded("reading the input", self._read(inputs[0], 0))
            self._infer.forward()  # None, whether it failed or not
            return [rule(values) for rule, values in zip(self._rules, self._outputs(), strict=True)]
        except FAILURES as error:
            raise BackendError(f"bpu_infer_lib failed: {reason(error)}") from error

    def close(self) -> None:
        """Drop the model, which frees its memory."""
        self._infer = self._read = None

    def _outputs(self) -> list[Array]:
        places = range(len(self._rules))
        if not hasattr(self._infer, "get_output"):
            return [np.asarray(self._infer.get_infer_res_np_float32(place)) for place in places]
        _succeeded("get_output()", self._infer.get_output())
        return [np.asarray(self._infer.outputs[place].data) for place in places]


def _kind(tensor: Any) -> str:
    # An enum that prints as HB_DNN_..., with or without the name of its class in front.
    return str(tensor.properties.tensorType).rpartition(".")[2]


def _shape(tensor: Any) -> tuple[int, ...]:
    """Return a tensor's shape; empty in versions that give none."""
    shape = getattr(tensor.properties, "validShape", None)
    return () if shape is None else tuple(flat(shape.dimensionSize)[: int(shape.numDimensions)])


def _refused(status: Any) -> bool:
    """Return whether a call failed: True is success, and 0 in older versions; some calls give nothing."""
    return status is False or status not in (None, True, 0)


def _succeeded(what: str, status: Any) -> None:
    if _refused(status):
        raise BackendError(f"bpu_infer_lib failed: {what} answered {status}")


def _version() -> str:
    try:
        return importlib.metadata.version("bpu_infer_lib_x5")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


open_backend = BpuInferLibBackend
