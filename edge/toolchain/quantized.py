"""The vendor's quantized ONNX, run by worker processes in the compiler's Python."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edge.errors import ToolchainError
from edge.preprocess import rgb_to_nv12
from edge.toolchain.found import Toolchain

START_SECONDS = 120.0  # a start takes about 3 s; a cold disk or a loaded machine may need far longer
ANSWER_SECONDS = 120.0  # a picture takes well under 1 s for the zoo's networks


class QuantizedPool:
    """Several workers that share the pictures; call it from as many threads as it has workers.

    Args:
        toolchain: the compiler whose runtime to use.
        model: path of ``*_quantized_model.onnx``.
        workers: processes, one thread each.

    Raises:
        ToolchainError: a worker does not start, dies, or stops answering.
    """

    def __init__(self, toolchain: Toolchain, model: Path, workers: int) -> None:
        self._free: queue.Queue[_Worker] = queue.Queue()
        self._workers: list[_Worker] = []
        script = toolchain.worker_path("quantized.py")
        python = toolchain.python_argv(mounts=[model.parent.resolve()])
        if python is None:
            raise ToolchainError(
                f"the Python behind {toolchain.where}/hb_mapper is not known", remedy="edge toolchain install"
            )
        argv = [*python, str(script), str(model.resolve()), "1"]
        try:
            for _ in range(workers):
                self._workers.append(_Worker(argv, toolchain.environ()))
            for worker in self._workers:
                worker.wait_ready()
                self._free.put(worker)
        except BaseException:
            self.close()
            raise

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the class scores, float32 (classes,), of an RGB picture, uint8 (H, W, 3)."""
        worker = self._free.get()
        try:
            return worker.ask(rgb_to_nv12(rgb))
        finally:
            self._free.put(worker)

    def __enter__(self) -> QuantizedPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """One process; the protocol is stated in ``workers/quantized.py``."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        # A file, not a pipe: nobody reads it while the worker runs, and a full pipe would stop it.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=env,
            start_new_session=True,
        )
        self._answer_bytes = 0
        self._picture_bytes = 0

    def wait_ready(self) -> None:
        """Read the worker's first line."""
        line = b""
        deadline = time.monotonic() + START_SECONDS
        while not line.endswith(b"\n"):
            line += self._read(1, deadline)
        try:
            hello = json.loads(line)
            if "error" in hello:
                raise ToolchainError(
                    f"the compiler's runtime can't load the quantized model: {hello['error']}"
                )
            self._picture_bytes = hello["height"] * hello["width"] * 3 // 2
            self._answer_bytes = 4 * int(np.prod(hello["outputs"][0]["shape"]))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ToolchainError(
                f"the compiler's runtime began with {line[:100]!r}", remedy="edge toolchain install"
            ) from error

    def ask(self, nv12: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Send one picture and return the answer."""
        if nv12.nbytes != self._picture_bytes:
            raise ToolchainError(f"{nv12.nbytes} bytes of NV12", allowed=f"{self._picture_bytes} bytes")
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe above
        try:
            self._process.stdin.write(nv12.tobytes())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        answer = b""
        deadline = time.monotonic() + ANSWER_SECONDS
        while len(answer) < self._answer_bytes:
            answer += self._read(self._answer_bytes - len(answer), deadline)
        return np.frombuffer(answer, np.float32)

    def close(self) -> None:
        """End the process."""
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

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - opened as a pipe above
        pipe = self._process.stdout.fileno()
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            self._process.kill()
            raise ToolchainError("the compiler's runtime stopped answering", remedy="run the command again")
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
