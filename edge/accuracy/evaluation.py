"""A whole evaluation: the same images through every step, then counted in one pass, a few at a time."""

from __future__ import annotations

import csv
import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cattrs
import cv2
import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray

from edge import __version__
from edge.accuracy.answers import Answered, Indices, KeptAnswers, measure
from edge.accuracy.steps import Step, Subject
from edge.accuracy.table import Change, Evaluation, Mistake, StepName, StepResult, explain
from edge.errors import InputError, LabelError
from edge.files import disk_errors, write_json
from edge.images import ImageItem, ImageSet
from edge.images.frames import cores
from edge.measure.labels import Shift, Shifts
from edge.measure.scores import Score, Scores, cosines, ranks
from edge.measure.statistics import mcnemar, paired_interval
from edge.progress import SILENT, Listener
from edge.runtime.scores import probabilities
from edge.specs.schema import ScoreKind

ANSWERS = "answers.csv"
MISTAKES = 48  # largest number listed

_ROWS = 64  # images that are counted together
_TOLD = 10  # names of broken images that are shown one by one; eval.json has all
_STAND_FOR_THE_PROGRAM: tuple[StepName, ...] = ("quantized", "portable")


@frozen
class MeasuredOn:
    """The images of a measurement."""

    images: ImageSet  #: the set; labels are class indices.
    unlabelled: str = ""  #: why there is no Top-1; empty if the labels are the network's classes.
    seed: int = 0  #: of the bootstrap, and of the sample for steps that are measured on a sample.


def evaluate(
    subject: Subject,
    steps: Sequence[Step],
    measured_on: MeasuredOn,
    *,
    root: Path,
    command: str = "",
    answers: Path | None = None,
    workers: int | None = None,
    listener: Listener | None = None,
) -> Evaluation:
    """Measure the steps, each on the images that it has not answered before, and compare them.

    Args:
        steps: in order, ``float`` first; from :func:`edge.accuracy.steps.choose`.
        root: the build folder, its lock held; answers to single images are kept in it.
        workers: images that are computed at once; the number of usable cores if None.
        listener: told which step is measured, and its progress.

    Raises:
        LabelError: a label outside the classes.
        InputError: no image could be read.
    """
    listener, workers = listener or SILENT, workers or cores()
    images, started = measured_on.images, time.monotonic()
    if not measured_on.unlabelled:
        _check_labels(images, subject.classes)
    listener.update(f"reading {len(images)} images")
    readable = np.flatnonzero(images.contents.any(axis=1)).astype(np.int32)
    with KeptAnswers(root, subject.classes, listener.warn) as kept:
        columns: list[Column] = []
        for step in steps:
            listener.begin(step.name)
            answered = measure(
                step,
                kept,
                images=images,
                wanted=_sample(readable, step.count, measured_on.seed),
                preprocess=subject.preprocess,
                classes=subject.classes,
                workers=workers,
                reporter=listener,
            )
            columns.append(Column(step, answered, kept))
            listener.end(step.name, answered.seconds, cached=not answered.computed, note=_note(answered))
            if len(columns) == 1:
                readable = np.flatnonzero(answered.known).astype(np.int32)
                unreadable = _unreadable(images, answered, listener)
        quantized = _quantized(steps)
        with disk_errors(root), answers_csv(answers, steps) if answers else nullcontext() as sink:
            results, total, mistakes, shift = tally(columns, measured_on, quantized, sink, subject.scores)
    verdict, explanation = explain(results, quantized, total, measured_on.unlabelled)
    doubt = "" if shift is None else str(shift)
    if doubt:  # every figure of Top-1 hangs on it
        verdict, explanation = f"{doubt[0].upper()}{doubt[1:]}.", (verdict, *explanation)
    return Evaluation(
        name=subject.name,
        command=command,
        models={step.role: step.model for step in steps},
        dataset=images.description,
        dataset_sha256=images.fingerprint,
        n=len(readable),
        unlabelled=measured_on.unlabelled,
        steps=results,
        quantized=quantized,
        verdict=verdict,
        explanation=explanation,
        mistakes=mistakes.listed(),
        mistakes_total=mistakes.total,
        unreadable=unreadable,
        versions=_versions(subject),
        seconds=round(time.monotonic() - started, 3),
        total=total,
        labels_doubt=doubt,
    )


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write ``eval.json`` whole or not at all."""
    with disk_errors(path.parent):
        write_json(path, cattrs.unstructure(evaluation))


def _check_labels(images: ImageSet, classes: int) -> None:
    for item in images:
        if item.label is None:
            raise LabelError(f"{item.name} has no label", expected="a label for every image, or for none")
        if not 0 <= item.label < classes:
            raise LabelError(
                f"{item.name} has the label {item.label}",
                expected=f"0..{classes - 1}: the model has {classes} classes",
                remedy="give the labels of this model's classes, or none at all to measure agreement",
            )


def _sample(readable: Indices, count: int | None, seed: int) -> Indices:
    """Choose images with a seed, in the set's order; a larger count includes the images of a smaller one."""
    if count is None or count >= len(readable):
        return readable
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(readable))
    return np.sort(readable[order[:count]])


def _unreadable(images: ImageSet, answered: Answered, listener: Listener) -> tuple[str, ...]:
    """Return the names of the images without an answer of the first step, and warn of each."""
    names = tuple(images[index].name for index in np.flatnonzero(~answered.known).tolist())
    for name in names[:_TOLD]:
        listener.warn(f"{name} can't be read and is left out of all figures")
    if len(names) > _TOLD:
        listener.warn(f"and {len(names) - _TOLD} more can't be read")
    if len(names) == len(images):
        raise InputError(
            f"none of the {len(images)} images of {images.description} could be read",
            expected="JPEG, PNG, BMP, WebP, TIFF or PPM",
        )
    return names


def _quantized(steps: Sequence[Step]) -> StepName:
    names = [step.name for step in steps]
    for name in _STAND_FOR_THE_PROGRAM:
        if name in names:
            return name
    everywhere = [step.name for step in steps if step.count is None]
    return everywhere[-1] if len(everywhere) > 1 else names[-1]


def _note(answered: Answered) -> str:
    count = int(answered.known.sum())
    if answered.computed in (0, count):
        return f"{count} images"
    return f"{count} images, {answered.computed} of them new"


def _versions(subject: Subject) -> Mapping[str, str]:
    found = {"edge": __version__, "opencv": cv2.__version__}
    for package in ("numpy", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | (dict(subject.toolchain.versions) if subject.toolchain else {})


@frozen
class Column:
    """A step and its answers."""

    step: Step
    answered: Answered
    answers: KeptAnswers


Sink = Callable[[Sequence[object]], object]


def tally(
    columns: Sequence[Column], measured_on: MeasuredOn, quantized: StepName, sink: Sink | None, scores: ScoreKind
) -> tuple[tuple[StepResult, ...], Change | None, _Mistakes, Shift | None]:
    """Go through all images once.

    Args:
        columns: the steps in order, ``float`` first.
        sink: takes a row an image: its name, its label, and the class that each step answered; None where it has none.
        scores: what the scores are.

    Returns:
        One result a column, the change from the first step to the quantized one (None without labels or if they are
        the same), the mistakes, and the shift of the labels that fits the first step better.
    """
    images, labelled, seed = measured_on.images, not measured_on.unlabelled, measured_on.seed
    names = [column.step.name for column in columns]
    last = names.index(quantized)
    before = [_before(columns, place) for place in range(len(columns))]
    # Behind NV12 the float network is what quantization has to keep; what NV12 itself costs is said at its own step.
    nv12 = names.index("nv12") if "nv12" in names else 0
    reference = [nv12 if place > nv12 else 0 for place in range(len(columns))]
    counts, whole = [_Counts() for _ in columns], _Pair()
    mistakes, shifts = _Mistakes(scores), Shifts()
    for start in range(0, len(images), _ROWS):
        items = images[start : start + _ROWS]
        labels = np.array([-1 if item.label is None else item.label for item in items], np.int64)
        contents = images.contents[start : start + _ROWS]
        parts = [_part(column, start, contents, labels if labelled else None) for column in columns]
        for part, count, like, place in zip(parts, counts, reference, before, strict=True):
            count.add(part, parts[like], None if place is None else parts[place])
        whole.add(parts[0], parts[last])
        if labelled:
            shifts.add(parts[0].classes[parts[0].there], labels[parts[0].there])
        if last:
            mistakes.add(items, parts[0 if labelled else reference[last]], parts[last], labelled=labelled)
        if sink is not None:
            for row, item in enumerate(items):
                sink([item.name, item.label, *(part.classes[row] if part.there[row] else None for part in parts)])
    results = tuple(
        count.result(column, names[like], None if place is None else names[place], labelled=labelled, seed=seed)
        for column, count, like, place in zip(columns, counts, reference, before, strict=True)
    )
    total = whole.change(seed) if labelled and last else None
    return results, total, mistakes, shifts.better


@contextmanager
def answers_csv(path: Path, steps: Sequence[Step]) -> Iterator[Sink]:
    """Write ``image,label`` and one column per step; the file appears when it is complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("image", "label", *(step.name for step in steps)))
            yield writer.writerow
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@frozen
class _Part:
    """A step's answers to some images: which exist, scores (zero if there is none), and the best class.

    ``top1`` and ``top5`` say whether the label is the best, and among the best five; False without labels.
    """

    there: NDArray[np.bool_]
    scores: Scores
    classes: NDArray[np.int64]
    top1: NDArray[np.bool_]
    top5: NDArray[np.bool_]


def _part(column: Column, start: int, contents: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> _Part:
    there = column.answered.known[start : start + len(contents)]
    read = column.answers.read(column.step, contents[there])
    scores = np.zeros((len(contents), read.shape[1]), np.float32)
    scores[there] = read
    right = [np.zeros(len(contents), bool)] * 2
    if labels is not None:
        places = ranks(scores, np.maximum(labels, 0))
        right = [(places < best) & there & (labels >= 0) for best in (1, 5)]
    return _Part(there, scores, scores.argmax(axis=1), *right)


@define
class _Pair:
    """Two steps on the same images: Top-1 lost and gained, and how similar the answers are."""

    n: int = 0
    lost: int = 0
    gained: int = 0
    same: int = 0
    identical: int = 0
    cosines: float = 0.0

    def add(self, before: _Part, after: _Part) -> None:
        both = before.there & after.there
        self.n += int(both.sum())
        self.lost += int((before.top1 & ~after.top1 & both).sum())
        self.gained += int((~before.top1 & after.top1 & both).sum())
        self.same += int((before.classes == after.classes)[both].sum())
        self.identical += int((before.scores == after.scores).all(axis=1)[both].sum())
        self.cosines += float(cosines(before.scores, after.scores)[both].sum())

    @property
    def cosine(self) -> float:
        # Rounding may put the mean of equal vectors slightly above 1.
        return min(1.0, self.cosines / self.n) if self.n else 0.0

    def change(self, seed: int) -> Change | None:
        if not self.n:
            return None
        low, high = paired_interval(self.lost, self.gained, self.n, seed=seed)
        return Change(
            points=100 * (self.gained - self.lost) / self.n,
            interval=(100 * low, 100 * high),
            lost=self.lost,
            gained=self.gained,
            p=mcnemar(self.lost, self.gained),
        )


@define
class _Counts:
    """Counts of one step."""

    n: int = 0
    top1: int = 0
    top5: int = 0
    from_float: _Pair = field(factory=_Pair)  # behind NV12 or on RGB, as it is compared
    from_before: _Pair = field(factory=_Pair)

    def add(self, own: _Part, like: _Part, before: _Part | None) -> None:
        self.n += int(own.there.sum())
        self.top1 += int(own.top1.sum())
        self.top5 += int(own.top5.sum())
        self.from_float.add(like, own)
        if before is not None:
            self.from_before.add(before, own)

    def result(
        self, column: Column, like: StepName, before: StepName | None, *, labelled: bool, seed: int
    ) -> StepResult:
        return StepResult(
            name=column.step.name,
            by=column.step.by,
            n=self.n,
            score=Score(self.n, self.top1, self.top5) if labelled else None,
            before=before,
            change=self.from_before.change(seed) if labelled and before else None,
            agreement=self.from_float.same,
            cosine=self.from_float.cosine,
            agreement_before=self.from_before.same if before else None,
            cosine_before=self.from_before.cosine if before else None,
            seconds=round(column.answered.seconds, 3),
            computed=column.answered.computed,
            identical_before=self.from_before.identical if before else None,
            agreement_with=like,
        )


@define
class _Mistakes:
    """Keeps the mistakes on which the float network was most certain."""

    scores: ScoreKind
    total: int = 0
    heap: list[tuple[float, int, Mistake]] = field(factory=list)

    def add(self, items: Sequence[ImageItem], before: _Part, after: _Part, *, labelled: bool) -> None:
        both = before.there & after.there & (before.classes != after.classes)
        for row in np.flatnonzero(both & before.top1 if labelled else both).tolist():
            self.total += 1
            item = items[row]
            mistake = Mistake(
                image=item.name,
                path=None if item.path is None else str(item.path.resolve()),
                label=item.label if labelled else None,
                float_answer=int(before.classes[row]),
                answer=int(after.classes[row]),
                float_probability=float(probabilities(before.scores[row], self.scores).max()),
                probability=float(probabilities(after.scores[row], self.scores).max()),
            )
            # The count decides ties for the earlier image, so mistakes themselves are never compared.
            heapq.heappush(self.heap, (mistake.float_probability, -self.total, mistake))
            if len(self.heap) > MISTAKES:
                heapq.heappop(self.heap)

    def listed(self) -> tuple[Mistake, ...]:
        return tuple(mistake for *_, mistake in sorted(self.heap, key=lambda e: (-e[0], -e[1])))


def _before(columns: Sequence[Column], place: int) -> int | None:
    """Return the nearest earlier step that answered all images; steps on a sample are skipped."""
    return next((i for i in reversed(range(place)) if columns[i].step.count is None), None)
