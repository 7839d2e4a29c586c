"""What answers a picture: one callable a hop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.errors import ModelFileError
from edge.graph import open_session
from edge.preprocess import network_input, network_input_from_nv12, rgb_to_nv12
from edge.runtime import load
from edge.specs import Preprocess
from edge.toolchain.found import Toolchain
from edge.toolchain.hbdk_sim import Simulator
from edge.toolchain.quantized import QuantizedPool

Rgb = NDArray[np.uint8]
Logits = NDArray[np.float32]


class Runner(Protocol):
    """A network that answers pictures. May be called from several threads."""

    def __call__(self, rgb: Rgb) -> Logits:
        """Return the class scores, float32 (classes,), of an RGB picture, uint8 (H, W, 3)."""


class OnnxRunner:
    """A float-input ONNX classifier in stock onnxruntime, one thread a picture.

    Args:
        model: path of the ONNX.
        preprocess: how a picture becomes its input.
        nv12: whether the picture goes through NV12 first, as on the board.

    Raises:
        ModelFileError: onnxruntime refuses the model.
    """

    def __init__(self, model: Path, preprocess: Preprocess, *, nv12: bool = False) -> None:
        self._session = open_session(model)
        self._name = model.name
        self._input = self._session.get_inputs()[0].name
        self._preprocess = preprocess
        self._nv12 = nv12

    def __call__(self, rgb: Rgb) -> Logits:
        """Return the class scores of one picture."""
        if self._nv12:
            data = network_input_from_nv12(rgb_to_nv12(rgb), self._preprocess)
        else:
            data = network_input(rgb, self._preprocess)
        try:
            found = self._session.run(None, {self._input: data})[0]
        except Exception as error:  # as above
            raise ModelFileError(f"onnxruntime can't run {self._name}: {_one_line(error)}") from error
        scores: Logits = np.asarray(found, np.float32).ravel()
        return scores


@contextmanager
def onnx(model: Path, preprocess: Preprocess, *, nv12: bool = False) -> Iterator[Runner]:
    """Open a float ONNX."""
    yield OnnxRunner(model, preprocess, nv12=nv12)


@contextmanager
def vendor(toolchain: Toolchain, model: Path, workers: int) -> Iterator[Runner]:
    """Open one of the compiler's models in worker processes."""
    with QuantizedPool(toolchain, model, workers) as pool:
        yield pool


@contextmanager
def program(toolchain: Toolchain, path: Path) -> Iterator[Runner]:
    """Open a ``.bin`` in the vendor's simulator; each picture is a process of its own."""
    with Simulator(toolchain, path) as simulator:
        yield lambda rgb: simulator.outputs(rgb_to_nv12(rgb))[0].ravel()


@contextmanager
def portable(path: Path) -> Iterator[Runner]:
    """Open a portable model."""
    with load(path, "portable") as net:
        yield _fed_with_nv12(lambda nv12: net.run(nv12)[0])


def _fed_with_nv12(run: Callable[[Rgb], Logits]) -> Runner:
    return lambda rgb: run(rgb_to_nv12(rgb)).ravel()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
