"""The float network and the program of a build, as functions from a picture to scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.built import Built
from edge.errors import EdgeError, ModelFileError
from edge.graph import open_session
from edge.preprocess import Image, network_input, network_input_from_nv12
from edge.runtime import Net, load
from edge.specs import Preprocess

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
