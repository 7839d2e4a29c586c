"""A loaded program: image in, scores or labels out, on any backend."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from edge.detect import Boxes
from edge.detect import decode as decode_boxes
from edge.errors import BackendError, LabelError, UsageError, counted
from edge.folder.metadata import Metadata
from edge.images.preprocess import decode, resize_crop, rgb_to_nv12, unletterbox
from edge.images.samples import as_sample, program_input
from edge.runtime.protocol import Array, Backend, Info, Scores, Tensor
from edge.runtime.scores import probabilities
from edge.specs import Preprocess
from edge.specs.detector import Detector
from edge.specs.schema import Input, ScoreKind

Image = str | Path | NDArray[np.uint8]


@frozen
class PassedOver:
    """A backend that ``auto`` tried but could not use, and why."""

    backend: str
    why: str


class Net:
    """A program that is ready to run; may be shared by threads.

    Args:
        backends: the same program opened one or more times; if a backend serves only one caller, this is how
            many threads can compute at once.
        preprocess: from an image to the input; None if unknown, then only :meth:`run` works.
        labels: class names in index order; None if unknown.
        score_kind: how the scores are read; None if unknown, then :meth:`classify` gives them as they are.
        passed_over: what ``auto`` tried before.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        preprocess: Preprocess | None,
        labels: Sequence[str] | None,
        metadata: Metadata | None = None,
        score_kind: ScoreKind | None = None,
        passed_over: Sequence[PassedOver] = (),
    ) -> None:
        self.info: Info = backends[0].info
        self.preprocess = preprocess
        self.labels = None if labels is None else tuple(labels)
        self.metadata = metadata
        self.score_kind = score_kind
        self.passed_over = tuple(passed_over)
        self._backends = tuple(backends)
        self._free: queue.Queue[Backend] = queue.Queue()
        for backend in backends:
            self._free.put(backend)
        self._closed = False
        self._closing = threading.Lock()
        self._check_size()
        self._check_labels()

    @property
    def backend(self) -> str:
        """Name of the backend in use."""
        return self.info.backend

    @property
    def ended(self) -> bool:
        """Whether the process of a runtime is gone, so that runs fail."""
        return any(getattr(backend, "ended", False) for backend in self._backends)

    @property
    def restarts(self) -> int:
        """How often a runtime's process that ended was started again."""
        return sum(getattr(backend, "restarts", 0) for backend in self._backends)

    def nv12(self, image: Image) -> NDArray[np.uint8]:
        """Return the bytes that the program takes: packed full-range NV12, uint8, flat, H*W*3/2.

        Args:
            image: path of an image file, or RGB, uint8, (height, width, 3).

        Raises:
            ImageError: no such image, or it can't be read.
            UsageError: the program's preprocessing is not known.
        """
        rule = self.known_preprocess
        if [tensor.nv12 for tensor in self.info.inputs] != [True]:
            listed = ", ".join(f"{tensor.name} {'x'.join(map(str, tensor.shape))}" for tensor in self.info.inputs)
            raise UsageError(
                f"{self.info.model} takes no single camera image: {listed}",
                expected="an array an input",
                remedy="net.outputs({name: array, ...})",
            )
        rgb = image if isinstance(image, np.ndarray) else decode(Path(image).expanduser(), str(image))
        return rgb_to_nv12(np.ascontiguousarray(resize_crop(rgb, rule)))

    def run(self, *inputs: Array) -> list[Scores]:
        """Execute the program once.

        Args:
            inputs: one array per input of ``info.inputs``; NV12 as uint8 of H*W*3/2 values in any shape, other
                inputs of exactly the stated shape and dtype.

        Returns:
            One float32 array per output of ``info.outputs``, dequantized.

        Raises:
            UsageError: wrong number of inputs, dtype or size, or not a numpy array. This is checked here because
                the vendor's runtime might read beyond the array.
            BackendError: the runtime failed, or the net is closed.
        """
        expected = self.info.inputs
        if len(inputs) != len(expected):
            raise UsageError(
                counted(len(inputs), "input"),
                expected=f"{len(expected)}: {', '.join(tensor.name for tensor in expected)}",
            )
        checked = [_checked(array, tensor) for array, tensor in zip(inputs, expected, strict=True)]
        with self._borrow() as backend:
            return backend.run(checked)

    def outputs(self, image: Image | Mapping[str, NDArray[np.generic]]) -> dict[str, Scores]:
        """Return all outputs by name, float32, dequantized.

        The names are the float network's; of a program without ``metadata.json`` its own.

        Args:
            image: as for :meth:`nv12`; or, of a program that takes more than one image or something else, input name ->
                array: an RGB image (uint8, any size), or numbers of the input's shape.

        Raises:
            ImageError: it can't be read, or an array is missing, too many or of another shape.
        """
        taken = self._sample(image) if isinstance(image, Mapping) else [self.nv12(image)]
        return dict(zip(self.output_names, self.run(*taken), strict=True))

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs in the order of :meth:`run`: the float network's, or the program's own if unknown."""
        known = self.metadata.outputs if self.metadata else ()
        return [tensor.name for tensor in known or self.info.outputs]

    def _sample(self, arrays: Mapping[str, NDArray[np.generic]]) -> list[Array]:
        """Return what the program takes of arrays, in its own order of inputs."""
        inputs = [Input(tensor.name, tensor.shape, tensor.nv12) for tensor in self.info.inputs]
        sample = as_sample(arrays, inputs, self.known_preprocess)
        return [program_input(sample[one.name]) for one in inputs]

    def scores(self, image: Image) -> Scores:
        """Return the class scores of an image, float32 (classes,), as the network gives them.

        Raises:
            UsageError: the outputs are no class scores, or which of several holds them is not plain.
        """
        place = self._scores_at()
        return self.run(self.nv12(image))[place].reshape(-1)

    def classify(self, image: Image, k: int = 5) -> list[tuple[str, float]]:
        """Return the ``k`` best classes, or all if there are fewer: (label, probability in 0..1), best first.

        Where ``score_kind`` is None, the bare score stands in the probability's place. Where it is ``sigmoid``, each
        class is judged by itself and the probabilities do not add up to 1.
        Labels that are not known are the class index as text. ``image`` is as for :meth:`nv12`.
        """
        self._scores_at()
        return self.ranked(self.run(self.nv12(image)), k)

    def ranked(self, outputs: Sequence[Scores], k: int = 5) -> list[tuple[str, float]]:
        """Return what :meth:`classify` does, of outputs that :meth:`run` gave."""
        if k < 1:
            raise UsageError(f"k = {k}", expected="1 and above")
        chances = probabilities(outputs[self._scores_at()].reshape(-1), self.score_kind)
        best = np.argsort(-chances, kind="stable")[:k]
        return [(self.labels[index] if self.labels else str(index), float(chances[index])) for index in best.tolist()]

    def detect(
        self, image: Image, *, score: float = 0.25, iou: float = 0.65, limit: int = 300, class_agnostic: bool = False
    ) -> Boxes:
        """Return the objects that a detector sees in an image, the surest first, in the image's own pixels.

        Args:
            image: as for :meth:`nv12`.
            score: least score, 0..1.
            iou: of two boxes of one class that overlap more, the surer one stays.
            limit: at most so many.
            class_agnostic: boxes of all classes thin each other out.

        Raises:
            UsageError: the program is no detector.
        """
        self._detector()
        rgb = image if isinstance(image, np.ndarray) else decode(Path(image).expanduser(), str(image))
        height, width = rgb.shape[:2]
        outputs = self.run(self.nv12(rgb))
        return self.boxes(outputs, (height, width), score=score, iou=iou, limit=limit, class_agnostic=class_agnostic)

    def boxes(
        self,
        outputs: Sequence[Scores],
        size: tuple[int, int],
        *,
        score: float = 0.25,
        iou: float = 0.65,
        limit: int = 300,
        class_agnostic: bool = False,
    ) -> Boxes:
        """Return what :meth:`detect` does, of outputs of :meth:`run`; ``size`` is the image's (height, width)."""
        detector, rule = self._detector()
        found = decode_boxes(
            outputs,
            self.output_names,
            detector,
            size=rule.crop,
            score=score,
            iou=iou,
            limit=limit,
            class_agnostic=class_agnostic,
        )
        return evolve(found, boxes=unletterbox(found.boxes, size, rule))

    def _detector(self) -> tuple[Detector, Preprocess]:
        about = self.metadata
        if about is None or about.detector is None or self.preprocess is None:
            raise UsageError(
                f"{self.info.model} is no detector",
                expected="a program built with --task detect",
                remedy="net.outputs(image) gives all outputs by name",
            )
        return about.detector, self.preprocess

    def close(self) -> None:
        """Close the backend when the runs in progress have ended; further calls do nothing."""
        with self._closing, ExitStack() as stack:
            if self._closed:
                return
            self._closed = True
            if not self._backends[0].concurrent:
                for _ in self._backends:
                    stack.callback(self._free.put, self._free.get())  # wakes waiting threads, which then fail
            for backend in self._backends:
                stack.callback(backend.close)

    def __enter__(self) -> Net:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _borrow(self) -> Iterator[Backend]:
        self._check_open()
        if self._backends[0].concurrent:
            yield self._backends[0]
            return
        backend = self._free.get()
        try:
            self._check_open()  # it may have been closed while we waited
            yield backend
        finally:
            self._free.put(backend)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(f"{self.info.model} is closed", remedy="load it again")

    @property
    def known_preprocess(self) -> Preprocess:
        """What happens to an image; UsageError where that is not known."""
        if self.preprocess is None:
            raise UsageError(
                "the preprocessing of this program is not known",
                expected="a build folder or a bundle, which store it, or load(path, preprocess=Preprocess(...))",
            )
        return self.preprocess

    @property
    def classes(self) -> int:
        """Number of classes; UsageError as of :meth:`scores` where the outputs tell none."""
        if self.metadata is not None and self.metadata.detector is not None:
            return self.metadata.detector.classes
        return self.info.outputs[self._scores_at()].elements

    def _scores_at(self) -> int:
        """Return the place of the only output, or of the only one that is a row of two scores and more."""
        outputs = self.info.outputs
        if self.metadata is not None and self.metadata.task != "classify":
            raise UsageError(
                f"the outputs of {self.info.model} are no class scores",
                expected="a classifier",
                remedy="net.detect(image) gives its boxes"
                if self.metadata.detector is not None
                else "net.outputs(image) gives all outputs by name",
            )
        rows = [i for i, tensor in enumerate(outputs) if tensor.elements == max(tensor.shape, default=0) > 1]
        if len(outputs) > 1 and len(rows) != 1:
            listed = ", ".join(f"{tensor.name} {tensor.dtype} {'x'.join(map(str, tensor.shape))}" for tensor in outputs)
            raise UsageError(
                f"which output of {self.info.model} holds class scores is not plain: {listed}",
                expected="a classifier, with one row of scores",
                remedy="net.outputs(image) gives all outputs by name",
            )
        return rows[0] if len(outputs) > 1 else 0

    def _check_labels(self) -> None:
        if self.labels is None:
            return
        count = self.classes
        if len(self.labels) != count:
            raise LabelError(
                f"{counted(len(self.labels), 'label')} for {self.info.model}",
                expected=f"{count}, one per score, in index order",
            )

    def _check_size(self) -> None:
        images = [tensor for tensor in self.info.inputs if tensor.nv12]
        if self.preprocess and images and images[0].size != self.preprocess.canvas:
            height, width = images[0].size
            raise UsageError(
                f"the program takes {height}x{width} images, the preprocessing makes "
                f"{self.preprocess.canvas[0]}x{self.preprocess.canvas[1]}",
                expected="the same size",
            )


def _checked(array: Array, tensor: Tensor) -> Array:
    """Refuse arrays that the vendor's runtimes would misread: they check neither size nor layout."""
    want = f"{tensor.elements} bytes of NV12" if tensor.nv12 else str(tensor.shape)
    expected = f"a numpy array of {tensor.dtype}, {want}"
    if not isinstance(array, np.ndarray):
        raise UsageError(f"input {tensor.name!r} is a {type(array).__name__}", expected=expected)
    shaped = array.size == tensor.elements if tensor.nv12 else array.shape == tensor.shape
    if str(array.dtype) != tensor.dtype or not shaped:
        raise UsageError(f"input {tensor.name!r} is {array.dtype} {array.shape}", expected=expected)
    flat = array.reshape(-1) if tensor.nv12 else array
    return np.ascontiguousarray(flat)
