"""A whole evaluation: the same images through every step, then counted in one pass, a few at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cattrs
import cv2
import numpy as np
from attrs import evolve

from edge import __version__
from edge.accuracy.answers import Answered, Away, Indices, KeptAnswers, measure
from edge.accuracy.classify import Classify
from edge.accuracy.detection import Detection
from edge.accuracy.judge import Column, Judge, MeasuredOn, answers_csv, compared_with
from edge.accuracy.raw import Raw
from edge.accuracy.steps import Step, Subject
from edge.accuracy.table import Evaluation, StepName
from edge.errors import InputError, LabelError, counted
from edge.files import disk_errors, write_json
from edge.images import ImageSet
from edge.images.frames import cores
from edge.measure.boxes import Boxer
from edge.progress import SILENT, Listener

ANSWERS = "answers.csv"

_TOLD = 10  # names of broken images that are shown one by one; eval.json has all
_STAND_FOR_THE_PROGRAM: tuple[StepName, ...] = ("quantized", "portable")


def judge_of(subject: Subject) -> Judge:
    """Return what a subject's task makes of its outputs; here a further task joins."""
    if subject.detector is not None:
        names = tuple(output.name for output in subject.outputs)
        return Detection(Boxer(subject.detector, names, subject.preprocess))
    if subject.task != "classify":
        return Raw(subject.outputs)
    return Classify(subject.classes, subject.scores)


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
    away: Away | None = None,
) -> Evaluation:
    """Measure the steps, each on the images that it has not answered before, and compare them.

    Args:
        steps: in order, ``float`` first; from :func:`edge.accuracy.steps.choose`.
        root: the build folder, its lock held; answers to single images are kept in it.
        workers: images that are computed at once; the number of usable cores if None.
        listener: told which step is measured, and its progress.
        away: answers images instead of this process; a board is asked from here.

    Raises:
        LabelError: a label outside the classes.
        InputError: no image could be read.
    """
    listener, workers, judge = listener or SILENT, workers or cores(), judge_of(subject)
    if judge.paired:
        steps = _paired(steps)
    images, started = measured_on.images, time.monotonic()
    if subject.task == "classify" and not measured_on.unlabelled:
        _check_labels(images, subject.classes)
    listener.update(f"reading {counted(len(images), 'image')}")
    readable = np.flatnonzero(images.contents.any(axis=1)).astype(np.int32)
    with KeptAnswers(root, judge.width, listener.warn) as kept:
        columns: list[Column] = []
        for step in steps:
            listener.begin(step.name)
            answered = measure(
                step,
                kept,
                images=images,
                wanted=_sample(readable, step.count, measured_on.seed),
                preprocess=subject.preprocess,
                judge=judge,
                inputs=subject.inputs,
                workers=workers,
                reporter=listener,
                away=None if step.name == "board" else away,
            )
            columns.append(Column(step, answered, kept))
            listener.end(step.name, answered.seconds, cached=not answered.computed, note=_note(answered))
            if len(columns) == 1:
                readable = np.flatnonzero(answered.known).astype(np.int32)
                unreadable = _unreadable(images, answered, listener)
        quantized = _quantized(steps)
        with disk_errors(root), answers_csv(answers, steps) if answers else nullcontext() as sink:
            told = judge.tally(columns, measured_on, quantized, sink)
    return Evaluation(
        name=subject.name,
        command=command,
        models={step.role: step.model for step in steps},
        dataset=images.description,
        dataset_sha256=images.fingerprint,
        n=len(readable),
        unlabelled=measured_on.unlabelled,
        steps=told.steps,
        quantized=quantized,
        verdict=told.verdict,
        explanation=told.explanation,
        mistakes=told.mistakes,
        mistakes_total=told.mistakes_total,
        unreadable=unreadable,
        versions=_versions(subject),
        seconds=round(time.monotonic() - started, 3),
        total=told.total,
        task=subject.task,
        changed=told.changed,
        labels_doubt=told.labels_doubt,
    )


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write ``eval.json`` whole or not at all."""
    with disk_errors(path.parent):
        write_json(path, cattrs.unstructure(evaluation))


def _paired(steps: Sequence[Step]) -> list[Step]:
    """Return the steps, each with the one that its answers are compared with; the key tells which."""
    like = compared_with([step.name for step in steps])
    return [
        step if place == of else evolve(step, like=steps[of], key=f"{step.key}-{steps[of].key[:16]}")
        for place, (step, of) in enumerate(zip(steps, like, strict=True))
    ]


def _check_labels(images: ImageSet, classes: int) -> None:
    for item in images:
        if item.label is None:
            raise LabelError(f"{item.name} has no label", expected="a label for every image, or for none")
        if not 0 <= item.label < classes:
            raise LabelError(
                f"{item.name} has the label {item.label}",
                expected=f"0..{classes - 1}: the model has {counted(classes, 'class')}",
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
            f"none of the {counted(len(images), 'image')} of {images.description} could be read",
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
        return counted(count, "image")
    return f"{counted(count, 'image')}, {answered.computed} of them new"


def _versions(subject: Subject) -> Mapping[str, str]:
    found = {"edge": __version__, "opencv": cv2.__version__}
    for package in ("numpy", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | (dict(subject.toolchain.versions) if subject.toolchain else {})
