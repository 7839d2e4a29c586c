"""A backend in a process of its own, with inputs and outputs in shared memory.

The board's runtimes print to stdout, hold Python's lock while they compute, and one ends its process when a run fails.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from edge.errors import BackendError, EdgeError
from edge.runtime.answer import require_answer
from edge.runtime.program import Program
from edge.runtime.protocol import Array, Backend, Info, Scores

_START = (
    "import sys; sys.path[:] = sys.argv[3:]; from edge.runtime.worker import serve; serve(*map(int, sys.argv[1:3]))"
)
_SECONDS = 5.0  # that a worker has to free its memory
HANGS = 60.0  # seconds without an answer: a run takes milliseconds, loading a large program some seconds
_LOGGER = "edge.runtime"


class Worker:
    """A backend in another process; it serves one caller.

    Raises:
        EdgeError: as the backend itself, or its process ended.
    """

    concurrent = False

    def __init__(self, name: str, program: Program) -> None:
        self._name = name
        self._memory = os.memfd_create("edge")
        self._pipe, theirs = Pipe()
        self._asked = 0
        numbers = theirs.fileno(), self._memory
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _START, *map(str, numbers), *sys.path],
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # the vendor's banners
                    pass_fds=numbers,
                )
            self._pipe.send((name, program))
            self.info: Info
            self.info, warnings = self._answer()
            for warning in warnings:
                logging.getLogger(_LOGGER).warning("%s", warning)
            self._inputs, self._outputs = _views(self.info, self._memory)
        except OSError as error:
            self.close()
            raise BackendError(f"{name} gets no process of its own: {error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return self._process.poll() is not None

    def run(self, inputs: Sequence[Array]) -> list[Scores]:
        """Execute once; see the protocol."""
        for ours, array in zip(self._inputs, inputs, strict=True):
            np.copyto(ours, array)
        self._asked += 1
        with contextlib.suppress(OSError):  # it ended; reading its answer tells how
            self._pipe.send(self._asked)
        self._answer()
        return [values.copy() for values in self._outputs]

    def close(self) -> None:
        """End the process, which frees all its memory."""
        if self._pipe.closed:
            return
        self._pipe.close()
        os.close(self._memory)
        self._inputs, self._outputs = [], []
        process = getattr(self, "_process", None)
        if process is None:
            return
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answer(self) -> Any:
        try:
            number, answer = self._received()
            while number != self._asked:  # of a run that Ctrl-C left
                number, answer = self._received()
        except (EOFError, OSError):
            code = self._process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise BackendError(
                f"the process of {self._name} ended: {how}",
                expected="an answer; the runtime's own message is on stderr",
                remedy="load the program again; if it ends again, hrt_model_exec infer on the board may tell more",
            ) from None
        if isinstance(answer, EdgeError):
            raise answer
        return answer

    def _received(self) -> Any:
        if not self._pipe.poll(HANGS):
            self._process.kill()
            self._process.wait()
            raise BackendError(
                f"{self._name} gave no answer within {HANGS:g} s; its process was ended",
                expected="an answer within milliseconds",
                remedy="load the program again; if it hangs again, restart the board",
            )
        return self._pipe.recv()


class Restarting:
    """A worker that is opened again when its process has ended; the run that ended it fails.

    Args:
        most: how often in a row, before it is left as it is.
    """

    concurrent = False

    def __init__(self, name: str, most: int, program: Program) -> None:
        self._name, self._program, self._most = name, program, most
        self._worker = Worker(name, program)
        self.info = self._worker.info
        self.restarts = self._in_a_row = 0

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return self._worker.ended

    def run(self, inputs: Sequence[Array]) -> list[Scores]:
        """Execute once; see the protocol."""
        try:
            outputs = self._worker.run(inputs)
        except BackendError:
            if self.ended and self._in_a_row < self._most:
                self._in_a_row += 1
                self._open_again()
            raise
        self._in_a_row = 0
        return outputs

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def _open_again(self) -> None:
        log = logging.getLogger(_LOGGER)
        try:
            with contextlib.ExitStack() as stack:
                worker = Worker(self._name, self._program)
                stack.callback(worker.close)
                require_answer([worker], self._program)
                stack.pop_all()
        except EdgeError as error:
            log.warning("%s can't be started again: %s", self.info.model, error)
            return
        self._worker.close()
        self._worker = worker
        self.restarts += 1
        log.warning("%s: the process of %s ended and was started again", self.info.model, self._name)


def serve(pipe: int, memory: int) -> None:
    """Open the backend that the other process names, and run it until that process closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process decides what Ctrl-C means
    with Connection(pipe) as connection, contextlib.suppress(EOFError, BrokenPipeError):
        name, program = connection.recv()
        warnings = _Collected()
        logging.getLogger(_LOGGER).addHandler(warnings)
        try:
            backend: Backend = importlib.import_module(f"edge.runtime.backends.{name}").open_backend(program)
        except Exception as error:
            connection.send((0, _sendable(name, error)))
            return
        os.truncate(memory, _places(backend.info)[-1])
        inputs, outputs = _views(backend.info, memory)
        connection.send((0, (backend.info, warnings.texts)))
        while True:
            number = connection.recv()
            try:
                for ours, values in zip(outputs, backend.run(inputs), strict=True):
                    np.copyto(ours, values)
                connection.send((number, None))
            except Exception as error:
                connection.send((number, _sendable(name, error)))


class _Collected(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _sendable(name: str, error: Exception) -> EdgeError:
    return error if isinstance(error, EdgeError) else BackendError(f"{name}: {type(error).__name__}: {error}")


def _places(info: Info) -> list[int]:
    """Return the first byte of each input and output in the shared memory, and the end."""
    places = [0]
    for tensor in (*info.inputs, *info.outputs):
        size = tensor.elements * np.dtype(tensor.dtype).itemsize
        places.append(places[-1] + math.ceil(max(size, 1) / 64) * 64)
    return places


def _views(info: Info, memory: int) -> tuple[list[Array], list[Scores]]:
    whole = mmap.mmap(memory, 0)
    tensors = (*info.inputs, *info.outputs)
    views = [
        np.frombuffer(whole, tensor.dtype, tensor.elements, place).reshape(-1 if tensor.nv12 else tensor.shape)
        for tensor, place in zip(tensors, _places(info), strict=False)
    ]
    count = len(info.inputs)
    return views[:count], views[count:]
