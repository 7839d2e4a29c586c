"""The float network and the program of a build, as functions from a picture to scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.errors import EdgeError, ModelFileError
from edge.folder.built import Built
from edge.graph.files import open_session
from edge.images.preprocess import Image, network_input, network_input_from_nv12, rgb_to_nv12
from edge.runtime import Net, load
from edge.simulate.hbdk import Simulator
from edge.simulate.vendor import QuantizedPool
from edge.specs import Preprocess
from edge.toolchain.found import Toolchain

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


Scores = NDArray[np.float32]


class FloatNet:
    """A float ONNX in stock onnxruntime, one thread; may be called from several.

    Args:
        model: path.
        preprocess: how a picture becomes its input.

    Raises:
        ModelFileError: onnxruntime refuses it.
    """

    def __init__(self, model: Path, preprocess: Preprocess) -> None:
        self._session = open_session(model)
        self._input = self._session.get_inputs()[0].name
        self.preprocess = preprocess

    def __call__(self, rgb: Image, preprocess: Preprocess | None = None) -> Scores:
        """Return the scores of a picture, RGB, made into the input as built or in another way."""
        return self._run(network_input(rgb, preprocess or self.preprocess))

    def behind_nv12(self, nv12: Image) -> Scores:
        """Return the scores of a picture that went through NV12."""
        return self._run(network_input_from_nv12(nv12, self.preprocess))

    def _run(self, data: NDArray[np.float32]) -> Scores:
        return np.asarray(self._session.run(None, {self._input: data})[0], np.float32).ravel()


@frozen(eq=False)
class Program:
    """The program's integers in the portable model, or why there are none.

    Attributes:
        net: the loaded model; closed by whoever opened it.
        why_not: empty if there is one.
    """

    net: Net | None
    why_not: str = ""

    def __call__(self, nv12: Image) -> Scores:
        """Return the scores of an NV12 picture."""
        if self.net is None:
            raise ModelFileError(self.why_not)
        return np.asarray(self.net.run(nv12)[0], np.float32).ravel()

    def close(self) -> None:
        """Close the model."""
        if self.net is not None:
            self.net.close()


def open_program(built: Built, threads: int) -> Program:
    """Load the portable model of a build."""
    try:
        return Program(load(built.folder, "portable", threads=threads))
    except EdgeError as error:
        return Program(None, error.seen)
