"""A libdnn for tests: what the three fake runtimes stand on.

Its ``.bin`` is a JSON description (``tests/fake_board.py`` writes it). It computes with the portable model
that the description names, or with fixed weights, on whatever bytes lie in the input memory; nothing here
checks sizes, as nothing in the real one does. It prints to stdout, and holds Python's lock for FAKE_SECONDS a run.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import threading
import time
from pathlib import Path

import numpy as np

DTYPES = {
    "S8": "int8", "U8": "uint8", "S16": "int16", "U16": "uint16", "F16": "float16",
    "S32": "int32", "F32": "float32", "S64": "int64",
}  # fmt: skip
BANNER = b"[BPU_PLAT]BPU Platform Version(1.3.6)!\n[DNN] Runtime version = 1.24.5_(3.15.55 HBRT)\n"


def version() -> str:
    return os.environ.get("FAKE_LIBDNN", "1.24.5_(3.15.55 HBRT)")


class DnnError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"error code {code}")
        self.code = code


class Tensor:
    """A tensor's properties and its memory, rows padded as ``row_bytes`` says."""

    def __init__(self, name, type, shape, layout="NCHW", scale=(), zero_point=(), axis=-1, row_bytes=None):  # noqa: A002
        self.name, self.type, self.shape, self.layout = name, type, tuple(shape), layout
        self.scale, self.zero_point, self.axis = list(scale), list(zero_point), axis
        self.dtype = DTYPES.get(type, "uint8")
        self.row_bytes = row_bytes or self.shape[-1] * np.dtype(self.dtype).itemsize
        count = math.prod(self.shape)
        if type in ("NV12", "NV12_SEPARATE"):
            self.bytes = count // 2
        else:
            self.bytes = math.prod(self.shape[:-1]) * self.row_bytes
        self.memory = np.full(self.bytes, 0xA5, np.uint8)  # not initialised

    def read(self) -> np.ndarray:
        """The values without padding, in the tensor's own memory where there is none."""
        rows = self.memory.reshape(-1, self.row_bytes)
        width = self.shape[-1] * np.dtype(self.dtype).itemsize
        return rows[:, :width].reshape(-1).view(self.dtype).reshape(self.shape)

    def store(self, scores: np.ndarray) -> None:
        """Quantize and write with padding of 0x7F bytes."""
        values = scores.reshape(self.shape)
        if self.scale:
            sides = [1] * len(self.shape)
            sides[self.axis] = -1
            scale, zero = (np.reshape(v, sides if len(v) > 1 else ()) for v in (self.scale, self.zero_point or [0]))
            limits = np.iinfo(self.dtype)
            values = np.clip(np.rint(values / scale) + zero, limits.min, limits.max)
        raw = np.ascontiguousarray(values.astype(self.dtype)).view(np.uint8)
        width = self.shape[-1] * np.dtype(self.dtype).itemsize
        rows = self.memory.reshape(-1, self.row_bytes)
        rows[:, width:] = 0x7F
        rows[:, :width] = raw.reshape(-1, width)


class Model:
    def __init__(self, path: str) -> None:
        if not Path(path).is_file():
            raise DnnError(-6000006)
        try:
            facts = json.loads(Path(path).read_bytes())
        except ValueError:
            raise DnnError(-6000002) from None
        if facts["builder"] > [int(part) for part in version().split(".")[:2]]:
            raise DnnError(-6000014)
        os.write(1, BANNER)
        self.name = facts["model"]
        self.inputs = [Tensor(**tensor) for tensor in facts["inputs"]]
        self.outputs = [Tensor(**tensor) for tensor in facts["outputs"]]
        self._facts = facts
        self._busy = threading.Lock()
        self._session = None
        self._runs = 0
        if facts["portable"]:
            import onnxruntime

            self._session = onnxruntime.InferenceSession(str(Path(path).parent / facts["portable"]))

    def infer(self) -> None:
        """Compute from the input memory into the output memory; a second caller is an error."""
        if not self._busy.acquire(blocking=False):
            raise DnnError(-6000013)
        try:
            self._runs += 1
            if self._facts["fails"] and self._runs > self._facts["healthy"]:
                raise DnnError(self._facts["fails"])
            if self._facts["constant"]:
                for tensor in self.outputs if self._runs == 1 else ():
                    flat = tensor.memory.view(np.uint8).reshape(-1)
                    flat[:] = np.arange(flat.size) % 251
                return
            before = [tensor.memory.copy() for tensor in self.inputs]
            ctypes.PyDLL(None).usleep(int(1e6 * float(os.environ.get("FAKE_SECONDS", 0))))
            time.sleep(0.001)  # let another thread in, if nobody keeps it out
            if any((tensor.memory != was).any() for tensor, was in zip(self.inputs, before, strict=True)):
                raise DnnError(-6000013)
            self._compute()
        finally:
            self._busy.release()

    def _compute(self) -> None:
        data = np.concatenate([tensor.memory for tensor in self.inputs])
        count = sum(math.prod(tensor.shape) for tensor in self.outputs)
        if self._session:
            scores = self._session.run(None, {self._session.get_inputs()[0].name: data})[0].reshape(-1)
        else:
            weights = np.random.default_rng(3).normal(0, 1e-4 * self._facts["gain"], (data.size, count))
            scores = (data.astype(np.float64) - 128) @ weights
        start = 0
        for tensor in self.outputs:
            size = math.prod(tensor.shape)
            tensor.store(scores[start : start + size].astype(np.float32))
            start += size


def overwrite(memory: np.ndarray, data: bytes) -> None:
    """Copy what is there: a short buffer leaves old bytes, a long one spoils what lies behind."""
    given = np.frombuffer(data, np.uint8)
    memory[: given.size] = given[: memory.size]
    if given.size > memory.size:
        memory[:64] ^= 0x55
