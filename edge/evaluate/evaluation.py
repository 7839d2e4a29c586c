"""A whole evaluation: the same pictures through every hop, then the table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cattrs
import cv2
import numpy as np
from attrs import frozen

from edge import __version__
from edge.errors import InputError, LabelError
from edge.evaluate.answers import Indices, Measured, Outputs, measure, usable_cores
from edge.evaluate.hops import Hop, Subject
from edge.evaluate.table import Evaluation, HopName, explain
from edge.evaluate.tally import Column, answers_csv, tally
from edge.files import disk_errors, write_json
from edge.images import ImageSet
from edge.progress import Listener, Quiet

ANSWERS = "answers.csv"

_TOLD = 10  # names of broken pictures that are shown one by one; eval.json has all
_STAND_FOR_THE_PROGRAM: tuple[HopName, ...] = ("quantized", "portable")


@frozen
class Pictures:
    """What is measured on.

    Attributes:
        images: the set; labels are class indices.
        unlabelled: why there is no Top-1; empty if the labels speak of the network's classes.
        seed: of the sample of hops that take one, and of the bootstrap.
    """

    images: ImageSet
    unlabelled: str = ""
    seed: int = 0


def evaluate(
    subject: Subject,
    hops: Sequence[Hop],
    pictures: Pictures,
    *,
    root: Path,
    command: str = "",
    answers: Path | None = None,
    workers: int | None = None,
    listener: Listener | None = None,
) -> Evaluation:
    """Measure the hops, each on what it has not answered before, and compare them.

    Args:
        subject: what is measured.
        hops: in order, ``float`` first; from :func:`edge.evaluate.hops.choose`.
        pictures: the same for every hop.
        root: the build folder, its lock held; answers to single pictures are kept in it.
        command: what the user typed, for the record.
        answers: file to write every answer to.
        workers: pictures that are computed at once; the number of usable cores if None.
        listener: told which hop is measured and how it goes.

    Raises:
        LabelError: a label outside the classes.
        InputError: no picture could be read.
        WorkspaceError: the disk is full.
        EdgeError: a hop failed.
    """
    listener, workers = listener or Quiet(), workers or usable_cores()
    images, started = pictures.images, time.monotonic()
    if not pictures.unlabelled:
        _check_labels(images, subject.classes)
    listener.update(f"reading {len(images)} pictures")
    readable = np.flatnonzero(images.contents.any(axis=1)).astype(np.int32)
    with ExitStack() as stack:
        columns: list[Column] = []
        for hop in hops:
            outputs = stack.enter_context(Outputs(root, hop, subject.classes))
            wanted = _sample(readable, hop.count, pictures.seed)
            listener.begin(hop.name)
            measured = measure(
                hop,
                outputs,
                images=images,
                wanted=wanted,
                preprocess=subject.preprocess,
                classes=subject.classes,
                workers=workers,
                reporter=listener,
            )
            columns.append(Column(hop, outputs, measured))
            listener.end(hop.name, measured.seconds, cached=not measured.computed, note=_note(measured))
            if len(columns) == 1:
                readable = np.flatnonzero(measured.records >= 0).astype(np.int32)
                unreadable = _unreadable(images, measured, listener)
        quantized = _quantized(hops)
        names = [hop.name for hop in hops]
        with disk_errors(root), answers_csv(answers, names) if answers else nullcontext() as sink:
            found = tally(
                columns,
                images=images,
                labelled=not pictures.unlabelled,
                quantized=quantized,
                sink=sink,
                seed=pictures.seed,
            )
    verdict, explanation = explain(found.hops, quantized, found.total, pictures.unlabelled)
    return Evaluation(
        name=subject.name,
        command=command,
        models={hop.role: hop.model for hop in hops},
        dataset=images.description,
        dataset_sha256=images.fingerprint,
        n=len(readable),
        unlabelled=pictures.unlabelled,
        hops=found.hops,
        quantized=quantized,
        verdict=verdict,
        explanation=explanation,
        mistakes=found.mistakes,
        mistakes_total=found.mistakes_total,
        unreadable=unreadable,
        versions=_versions(subject),
        seconds=round(time.monotonic() - started, 3),
        total=found.total,
    )


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write ``eval.json`` whole or not at all.

    Raises:
        WorkspaceError: the disk is full or the folder can't be written.
    """
    with disk_errors(path.parent):
        write_json(path, cattrs.unstructure(evaluation))


def _check_labels(images: ImageSet, classes: int) -> None:
    for item in images:
        if item.label is None:
            raise LabelError(f"{item.name} has no label", allowed="a label for every picture, or for none")
        if not 0 <= item.label < classes:
            raise LabelError(
                f"{item.name} has the label {item.label}",
                allowed=f"0..{classes - 1}: the model has {classes} classes",
                remedy="give the labels of this model's classes, or none at all to measure agreement",
            )


def _sample(readable: Indices, count: int | None, seed: int) -> Indices:
    """Choose pictures with a seed, in the set's order; of a larger count the smaller one's are a part."""
    if count is None or count >= len(readable):
        return readable
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(readable))
    return np.sort(readable[order[:count]])


def _unreadable(images: ImageSet, measured: Measured, listener: Listener) -> tuple[str, ...]:
    """Return the names of the pictures without an answer of the first hop, and tell of each."""
    names = tuple(images[index].name for index in np.flatnonzero(measured.records < 0).tolist())
    for name in names[:_TOLD]:
        listener.warn(f"{name} can't be read; it is left out of every figure")
    if len(names) > _TOLD:
        listener.warn(f"and {len(names) - _TOLD} more can't be read")
    if len(names) == len(images):
        raise InputError(f"none of the {len(images)} pictures of {images.description} could be read")
    return names


def _quantized(hops: Sequence[Hop]) -> HopName:
    names = [hop.name for hop in hops]
    for name in _STAND_FOR_THE_PROGRAM:
        if name in names:
            return name
    everywhere = [hop.name for hop in hops if hop.count is None]
    return everywhere[-1] if len(everywhere) > 1 else names[-1]


def _note(measured: Measured) -> str:
    answered = int((measured.records >= 0).sum())
    if measured.computed in (0, answered):
        return f"{answered} pictures"
    return f"{answered} pictures, {measured.computed} of them new"


def _versions(subject: Subject) -> Mapping[str, str]:
    found = {"edge": __version__, "opencv": cv2.__version__}
    for package in ("numpy", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | (dict(subject.toolchain.versions) if subject.toolchain else {})
