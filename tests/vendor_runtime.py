"""The vendor's own runtime as the tests' reference for integer rules."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.toolchain.found import Toolchain

WORKER = Path(__file__).with_name("vendor_worker.py")


class VendorRuntime:
    """A resident process that runs any model of the compiler's."""

    def __init__(self, toolchain: Toolchain) -> None:
        argv = toolchain.python_argv(mounts=[WORKER.parent])
        assert argv is not None
        self._process = subprocess.Popen(
            [*argv, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=toolchain.environ(),
        )

    def run(self, model: onnx.ModelProto, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Return every output of the model; an AssertionError holds the runtime's message."""
        arrays = {str(i): inputs[value.name] for i, value in enumerate(model.graph.input)}
        file = io.BytesIO()
        np.savez(file, model=np.frombuffer(model.SerializeToString(), np.uint8), **arrays)
        data = file.getvalue()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(len(data).to_bytes(8, "little") + data)
        self._process.stdin.flush()
        size = int.from_bytes(self._process.stdout.read(8), "little")
        answer = np.load(io.BytesIO(self._process.stdout.read(size)))
        assert "error" not in answer, answer["error"].tobytes().decode()
        return {value.name: answer[str(i)] for i, value in enumerate(model.graph.output)}

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()
