"""Float against quantized: Top-1, Top-5 and agreement on the same pictures."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.errors import ImageError, InputError, LabelError, ModelFileError
from edge.evaluate.table import Score
from edge.images import ImageItem, ImageSet
from edge.preprocess import network_input, resize_crop, rgb_to_nv12
from edge.progress import Reporter, Silent
from edge.runtime import Net
from edge.specs import Preprocess

__all__ = [
    "EvalResult",
    "NetRunner",
    "OnnxRunner",
    "Runner",
    "Score",
    "cosine",
    "evaluate",
    "score",
    "usable_cores",
]

Logits = NDArray[np.float32]


class Runner(Protocol):
    """A network that answers pictures. May be called from several threads."""

    def __call__(self, rgb: NDArray[np.uint8]) -> Logits:
        """Return the class scores, float32 (classes,), of an RGB picture, uint8 (H, W, 3)."""


@frozen
class EvalResult:
    """What was measured, and on what.

    Attributes:
        dataset: description of the pictures.
        dataset_sha256: of the names, labels and fingerprints of all pictures.
        n: pictures that both networks answered.
        float_score: None where the pictures carry no usable labels.
        quantized_score: likewise.
        agreement: pictures with the same Top-1 answer from both.
        cosine: mean cosine of the two score vectors, -1..1.
        unreadable: names of pictures that could not be read; they are in no figure.
        outputs: file with each picture's name, label and both score vectors.
    """

    dataset: str
    dataset_sha256: str
    n: int
    float_score: Score | None
    quantized_score: Score | None
    agreement: int
    cosine: float
    unreadable: tuple[str, ...]
    outputs: str

    @property
    def drop(self) -> float | None:
        """Top-1 lost to quantization, in points."""
        if self.float_score is None or self.quantized_score is None:
            return None
        return self.float_score.top1 - self.quantized_score.top1

    @property
    def agreement_percent(self) -> float:
        """Share of pictures with the same Top-1 answer, in percent."""
        return 100 * self.agreement / self.n


class OnnxRunner:
    """A float-input ONNX classifier in stock onnxruntime, one thread a picture.

    Args:
        model: path of the ONNX.
        preprocess: how a picture becomes its input.

    Raises:
        ModelFileError: onnxruntime refuses the model.
    """

    def __init__(self, model: Path, preprocess: Preprocess) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise ModelFileError(f"onnxruntime can't load {model.name}: {_one_line(error)}") from error
        self._input = self._session.get_inputs()[0].name
        self._preprocess = preprocess

    def __call__(self, rgb: NDArray[np.uint8]) -> Logits:
        """Return the class scores of one picture."""
        data = network_input(rgb, self._preprocess)
        scores: Logits = np.asarray(self._session.run(None, {self._input: data})[0], np.float32).ravel()
        return scores


class NetRunner:
    """A program of the runtime, fed with NV12 as on the board.

    Args:
        net: the loaded program; closed by whoever opened it.
    """

    def __init__(self, net: Net) -> None:
        self._net = net

    def __call__(self, rgb: NDArray[np.uint8]) -> Logits:
        """Return the class scores of one picture."""
        return self._net.run(rgb_to_nv12(rgb))[0].ravel()


def evaluate(
    *,
    images: ImageSet,
    preprocess: Preprocess,
    float_runner: Runner,
    quantized_runner: Runner,
    classes: int,
    labelled: bool,
    out: Path,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> EvalResult:
    """Run both networks on the same pictures.

    Args:
        images: the pictures; labels are class indices in 0..classes-1.
        preprocess: of the network.
        float_runner: the float network.
        quantized_runner: the quantized one.
        classes: number of scores each network gives.
        labelled: whether the labels speak of these classes; else only agreement is reported.
        out: folder for ``outputs.npz``.
        workers: pictures in flight at once; the number of usable cores if None.
        reporter: told the count as it grows.

    Raises:
        LabelError: a label outside the classes.
        InputError: no picture could be read.
    """
    reporter = reporter or Silent()
    workers = workers or usable_cores()
    items = list(images)
    if labelled:
        _check_labels(items, classes)

    def answer(item: ImageItem) -> tuple[Logits, Logits] | None:
        try:
            rgb = resize_crop(item.load(), preprocess)
        except ImageError:
            return None
        return float_runner(rgb), quantized_runner(rgb)

    names: list[str] = []
    labels: list[int] = []
    pairs: list[tuple[Logits, Logits]] = []
    unreadable: list[str] = []
    for done, (item, result) in enumerate(_in_order(answer, items, workers), start=1):
        if result is None:
            unreadable.append(item.name)
            reporter.warn(f"{item.name} can't be read; it is left out of every figure")
        else:
            names.append(item.name)
            labels.append(-1 if item.label is None else item.label)
            pairs.append(result)
        reporter.update(f"{done}/{len(items)} pictures", done / len(items))
    if not pairs:
        raise InputError(f"none of the {len(items)} pictures of {images.description} could be read")
    reference, quantized = (np.stack(column) for column in zip(*pairs, strict=True))
    _check_width(reference, quantized, classes)
    outputs = "outputs.npz"
    np.savez_compressed(
        out / outputs,
        names=np.array(names),
        labels=np.array(labels),
        reference=reference,
        quantized=quantized,
    )
    truth = np.array(labels) if labelled else None
    return EvalResult(
        dataset=images.description,
        dataset_sha256=images.fingerprint,
        n=len(pairs),
        float_score=None if truth is None else score(reference, truth),
        quantized_score=None if truth is None else score(quantized, truth),
        agreement=int(np.sum(reference.argmax(1) == quantized.argmax(1))),
        cosine=float(np.mean(cosine(reference, quantized))),
        unreadable=tuple(unreadable),
        outputs=outputs,
    )


def score(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Score:
    """Count the right answers.

    Args:
        scores: (n, classes).
        labels: (n,) class indices.
    """
    # A stable sort breaks ties by the lower index, as argmax does.
    order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    hits = order == labels[:, None]
    return Score(n=len(labels), top1_right=int(hits[:, 0].sum()), top5_right=int(hits.any(axis=1).sum()))


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each row of ``a`` with the same row of ``b``; 0 where a row is all zero."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norm = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    result: NDArray[np.float64] = np.divide((x * y).sum(axis=1), norm, out=np.zeros(len(x)), where=norm > 0)
    return result


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_labels(items: list[ImageItem], classes: int) -> None:
    for item in items:
        if item.label is None:
            raise LabelError(f"{item.name} has no label", allowed="a label for every picture, or for none")
        if not 0 <= item.label < classes:
            raise LabelError(
                f"{item.name} has the label {item.label}",
                allowed=f"0..{classes - 1}: the model has {classes} classes",
                remedy="give the labels of this model's classes, or none at all to measure agreement",
            )


def _check_width(reference: Logits, quantized: Logits, classes: int) -> None:
    if reference.shape != quantized.shape or reference.shape[1] != classes:
        raise ModelFileError(
            f"the float network gives {reference.shape[1]} scores, the quantized one {quantized.shape[1]}",
            allowed=f"{classes} of both",
        )


def _in_order(
    work: Callable[[ImageItem], tuple[Logits, Logits] | None], items: list[ImageItem], workers: int
) -> Iterator[tuple[ImageItem, tuple[Logits, Logits] | None]]:
    """Map in threads, in order, with a bounded number in flight so that memory does not grow with n."""
    waiting: deque[tuple[ImageItem, Future[tuple[Logits, Logits] | None]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > 2 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
