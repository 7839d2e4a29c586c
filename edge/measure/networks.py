"""Networks as functions from an image to their outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.folder.built import Built
from edge.graph.files import load_onnx, open_session, refusals
from edge.images.preprocess import Image, network_input, network_input_from_nv12, rgb_to_nv12
from edge.images.samples import network_feed, program_input
from edge.measure.scores import Scores
from edge.runtime import load
from edge.simulate.hbdk import Simulator
from edge.simulate.vendor import QuantizedPool
from edge.sources.outputs import score_kind
from edge.specs import Preprocess
from edge.specs.schema import Output, ScoreKind
from edge.toolchain.found import Toolchain

Outputs = Sequence[NDArray[np.float32]]
Frame = Any  # an Image, or a Sample of a network that takes more than one camera image, or something else


class Runner(Protocol):
    """A network: image in, outputs out, in the float network's order. May be called from several threads."""

    def __call__(self, frame: Frame, /) -> Outputs:
        """Return the outputs of an RGB image, uint8 (H, W, 3), or of a sample."""


def scores_of(built: Built) -> ScoreKind:
    """Return what a build's scores are; the float network tells where an earlier edge did not record it."""
    return built.metadata.scores or score_kind(load_onnx(built.file("float_onnx")))


class FloatNet:
    """A float-input ONNX in stock onnxruntime, one thread per image; callable from several threads."""

    def __init__(self, model: Path, preprocess: Preprocess) -> None:
        self._session = open_session(model)
        self._name = model.name
        self._input = self._session.get_inputs()[0].name
        self.preprocess = preprocess

    def behind_nv12(self, nv12: Image) -> Scores:
        """Return a classifier's scores of an image that went through NV12, as on the board."""
        return self._run(network_input_from_nv12(nv12, self.preprocess))[0].ravel()

    def outputs(self, frame: Frame, preprocess: Preprocess | None = None) -> list[NDArray[np.float32]]:
        """Return all outputs of an RGB image or a sample, normalised as built or in another way."""
        if isinstance(frame, Mapping):
            return self._run_all(network_feed(frame, self.preprocess, nv12=False))
        return self._run(network_input(frame, preprocess or self.preprocess))

    def outputs_through_nv12(self, frame: Frame) -> list[NDArray[np.float32]]:
        """Return all outputs of an RGB image or a sample, whose images go through NV12 first, as on the board."""
        if isinstance(frame, Mapping):
            return self._run_all(network_feed(frame, self.preprocess, nv12=True))
        return self._run(network_input_from_nv12(rgb_to_nv12(frame), self.preprocess))

    def _run(self, data: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return self._run_all({self._input: data})

    def _run_all(self, feed: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        with refusals(f"onnxruntime can't run {self._name}"):
            found = self._session.run(None, dict(feed))
        return [np.asarray(output, np.float32) for output in found]


def floats_order(outputs: Sequence[Output], given: Sequence[str], run: Runner) -> Runner:
    """Return a runner with the float network's order of outputs, by their names.

    The compiler may change it: hb_mapper 1.24.3 put the last of nine outputs first with ``bias_correction``.

    Args:
        outputs: of the float network.
        given: names of the outputs of ``run``. Where they are others, its order stays.
    """
    wanted = [output.name for output in outputs]
    if wanted == list(given) or sorted(wanted) != sorted(given):
        return run
    places = [list(given).index(name) for name in wanted]

    def ordered(frame: Frame) -> Outputs:
        found = run(frame)
        return [found[place] for place in places]

    return ordered


@contextmanager
def vendor(toolchain: Toolchain, model: Path, workers: int, outputs: Sequence[Output] = ()) -> Iterator[Runner]:
    """Open one of the compiler's models in worker processes; ``outputs`` are the float network's."""
    given = [value.name for value in load_onnx(model).graph.output] if len(outputs) > 1 else []
    with QuantizedPool(toolchain, model, workers) as pool:
        yield floats_order(outputs, given, pool.outputs)


@contextmanager
def program(toolchain: Toolchain, path: Path, outputs: Sequence[Output] = ()) -> Iterator[Runner]:
    """Open a ``.bin`` in the vendor's simulator; each image starts a process. ``outputs`` are the float network's."""
    with Simulator(toolchain, path) as simulator:
        given = [output.name for output in simulator.program.outputs]
        yield floats_order(outputs, given, lambda frame: simulator.outputs(_program_inputs(frame)))


@contextmanager
def portable(path: Path, outputs: Sequence[Output] = ()) -> Iterator[Runner]:
    """Open a portable model; ``outputs`` are the float network's."""
    with load(path, "portable") as net:
        names = [tensor.name for tensor in net.info.inputs]

        def run(frame: Frame) -> Outputs:
            taken = _program_inputs(frame)
            return net.run(*[taken[name] for name in names] if isinstance(taken, dict) else [taken])

        yield floats_order(outputs, [tensor.name for tensor in net.info.outputs], run)


def _program_inputs(frame: Frame) -> Any:
    """Return what the program takes: packed NV12, or what it takes of a sample by the inputs' names."""
    if isinstance(frame, Mapping):
        return {name: program_input(value) for name, value in frame.items()}
    return rgb_to_nv12(frame)
