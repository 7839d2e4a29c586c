"""The compiler's quantized ONNX, bit-exact with the program, in a process of the compiler's Python."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge.errors import BackendError, BackendMissing
from edge.runtime.backends import as_backend_errors
from edge.runtime.program import Program
from edge.runtime.protocol import Array, Info, Scores, Tensor
from edge.simulate.tail import FINISHED

ENDING = "_quantized_model.onnx"


class QuantizedBackend:
    """One resident worker process, for one caller at a time.

    Raises:
        BackendMissing: no such file, or no compiler.
        BackendError: the compiler's runtime refuses it.
    """

    concurrent = False

    def __init__(self, program: Program) -> None:
        path = program.files.get("quantized")
        if path is None:
            raise BackendMissing(f"{program.name} comes without its quantized ONNX", remedy="edge build MODEL")
        with as_backend_errors():
            from edge.simulate.vendor import QuantizedModel
            from edge.toolchain.find import find

            toolchain = find()
            self._model = QuantizedModel(toolchain, path)
        try:
            self._check(program.name)
        except BaseException:
            self.close()
            raise
        versions = toolchain.versions
        known = (f"{name} {versions[name]}" for name in ("hb_mapper", "horizon_nn") if name in versions)
        self.info = Info(
            backend="quantized",
            model=path.name.removesuffix(ENDING),
            version=", ".join(known) or "version unknown",
            inputs=tuple(
                Tensor(one.name, (1, 3, *self._model.size), "uint8", nv12=True)
                if one.image
                else Tensor(one.name, one.shape, "float32")
                for one in self._model.inputs
            ),
            outputs=tuple(Tensor(output.name, output.shape, "float32") for output in self._model.outputs),
        )

    def run(self, inputs: Sequence[Array]) -> list[Scores]:
        """Execute once; see the protocol."""
        with as_backend_errors():
            names = (tensor.name for tensor in self.info.inputs)
            answers = self._model.run_all(dict(zip(names, inputs, strict=True)))
        return [answer.astype(np.float32) for answer in answers]

    def close(self) -> None:
        """End the process."""
        self._model.close()

    def _check(self, name: str) -> None:
        with as_backend_errors():
            self._model.wait_ready()
        integers = [output.name for output in self._model.outputs if output.dtype not in FINISHED]
        if integers:
            raise BackendError(
                f"{name} does not dequantize {', '.join(integers)}: its Dequantize nodes were removed",
                expected="programs with their Dequantize nodes",
                remedy="compile without remove_node_type",
            )


open_backend = QuantizedBackend
