"""The compiler's ONNX models, quantized or float, run by worker processes in the compiler's Python."""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.errors import ToolchainError
from edge.images.preprocess import rgb_to_nv12
from edge.images.samples import Sample, program_input
from edge.simulate.tail import FINISHED
from edge.specs.schema import Input
from edge.toolchain.found import Toolchain

START_SECONDS = 120.0  # a start takes about 3 s; a cold disk or a loaded machine may need far longer
ANSWER_SECONDS = 120.0  # an image takes well under 1 s for the zoo's networks


@frozen
class ModelOutput:
    """An output of the model: its name, shape and numpy dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class QuantizedPool:
    """Several single-threaded workers that share the images; call it from as many threads as it has workers.

    Raises:
        ToolchainError: a worker does not start, dies, or stops answering.
    """

    def __init__(self, toolchain: Toolchain, model: Path, workers: int) -> None:
        self._free: queue.Queue[QuantizedModel] = queue.Queue()
        self._workers: list[QuantizedModel] = []
        try:
            for _ in range(workers):
                self._workers.append(QuantizedModel(toolchain, model))
            for worker in self._workers:
                for output in worker.wait_ready().outputs:
                    _require_finished(model, output)
                self._free.put(worker)
        except BaseException:
            self.close()
            raise

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the class scores, float32 (classes,), of an RGB image, uint8 (H, W, 3)."""
        return self.outputs(rgb)[0].reshape(-1)

    def outputs(self, frame: NDArray[np.uint8] | Sample) -> list[NDArray[np.float32]]:
        """Return all outputs of an RGB image, uint8 (H, W, 3), or of a sample."""
        if isinstance(frame, Mapping):
            taken = {name: program_input(value) for name, value in frame.items()}
        else:
            taken = {"": rgb_to_nv12(frame)}
        worker = self._free.get()
        try:
            return [output.astype(np.float32, copy=False) for output in worker.run_all(taken)]
        finally:
            self._free.put(worker)

    def __enter__(self) -> QuantizedPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()


class QuantizedModel:
    """The model in a separate process, for one caller.

    It starts at once and loads in the background: call :meth:`wait_ready` first. ``workers/quantized.py`` describes the
    protocol. ``inner`` values of the graph, name -> dtype, become further outputs after the model's own; ``size`` is
    (height, width) of the image, ``input`` the name of its input, ``inputs`` are all of them.

    Raises:
        ToolchainError: the compiler's Python is not known or does not start.
    """

    def __init__(self, toolchain: Toolchain, model: Path, inner: Mapping[str, str] | None = None) -> None:
        python = toolchain.python_argv(mounts=[model.parent.resolve()])
        if python is None:
            raise ToolchainError(
                f"the Python behind {toolchain.where}/hb_mapper is not known", remedy="edge toolchain install"
            )
        argv = [*python, str(toolchain.worker_path("quantized.py")), str(model.resolve()), "1"]
        for name, dtype in (inner or {}).items():
            argv += [name, dtype]
        self.input = ""
        self.size = (0, 0)
        self.inputs: tuple[Input, ...] = ()
        self.outputs: tuple[ModelOutput, ...] = ()
        # A file, not a pipe: nothing reads it while the worker runs, and a full pipe would block the worker.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=toolchain.environ(),
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise ToolchainError(
                f"can't start {argv[0]}: {error.strerror or error}", remedy="edge toolchain status"
            ) from error

    def wait_ready(self) -> QuantizedModel:
        """Wait until it is loaded; return itself. ToolchainError if it does not load or answer in time."""
        line = b""
        deadline = time.monotonic() + START_SECONDS
        while not line.endswith(b"\n"):
            line += self._read(1, deadline)
        try:
            hello = json.loads(line)
            if "error" in hello:
                raise ToolchainError(f"the compiler's runtime can't load the model: {hello['error']}")
            self.input = str(hello["input"])
            self.size = (int(hello["height"]), int(hello["width"]))
            self.inputs = tuple(
                Input(str(entry["name"]), tuple(map(int, entry["shape"])), bool(entry["image"]))
                for entry in hello.get("inputs", ())
            ) or (Input(self.input, (1, *self.size, 3), True),)
            self.outputs = tuple(
                ModelOutput(str(entry["name"]), tuple(map(int, entry["shape"])), np.dtype(entry["dtype"]).name)
                for entry in hello["outputs"]
            )
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ToolchainError(
                f"the compiler's runtime started with unknown output: {line[:100]!r}", remedy="edge toolchain install"
            ) from error
        return self

    def run(self, nv12: NDArray[np.uint8]) -> list[NDArray[np.generic]]:
        """Return one array per entry of ``outputs`` for an image, packed full-range NV12, uint8, H*W*3/2 values.

        Raises:
            ToolchainError: wrong number of bytes; the process died or stopped answering.
        """
        return self.run_all({"": nv12})

    def run_all(self, taken: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        """Return the outputs for what each input takes, by name: packed NV12 or float32; one alone has any name.

        Raises:
            ToolchainError: a wrong number of bytes; the process died or stopped answering.
        """
        parts = []
        for one in self.inputs:
            value = taken[one.name] if len(self.inputs) > 1 or one.name in taken else next(iter(taken.values()))
            size = self.size[0] * self.size[1] * 3 // 2 if one.image else 4 * math.prod(one.shape)
            if value.nbytes != size:
                what = "NV12" if one.image else one.name
                raise ToolchainError(f"{value.nbytes} bytes of {what}", expected=f"{size} bytes")
            parts.append(value.tobytes())
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe above
        try:
            self._process.stdin.write(b"".join(parts))
            self._process.stdin.flush()
        except ValueError:
            raise ToolchainError("the model is closed", remedy="open it again") from None
        except BrokenPipeError:
            raise self._died() from None
        deadline = time.monotonic() + ANSWER_SECONDS
        return [
            np.frombuffer(self._read_all(output, deadline), output.dtype).reshape(output.shape)
            for output in self.outputs
        ]

    def close(self) -> None:
        """End the process; further calls do nothing."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _read_all(self, output: ModelOutput, deadline: float) -> bytearray:
        size = np.dtype(output.dtype).itemsize * int(np.prod(output.shape, dtype=np.int64))
        data = bytearray()
        while len(data) < size:
            data += self._read(size - len(data), deadline)
        return data

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - opened as a pipe above
        pipe = self._process.stdout.fileno()
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            self._process.kill()
            raise ToolchainError(
                "the compiler's runtime stopped answering", remedy="close other programs, or give it more memory"
            )
        data = os.read(pipe, size)
        if not data:
            raise self._died()
        return data

    def _died(self) -> ToolchainError:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        cause = lines[-1] if lines else f"exit status {self._process.returncode}"
        return ToolchainError(
            f"the compiler's runtime ended: {cause[:200]}",
            remedy="edge doctor; a killed process often means too little memory",
        )


def _require_finished(model: Path, output: ModelOutput) -> None:
    if output.dtype not in FINISHED:
        raise ToolchainError(
            f"{model.name} gives {output.name} as {output.dtype}: its Dequantize nodes were removed",
            expected="models with their Dequantize nodes",
            remedy="compile without remove_node_type",
        )
