"""Boxes: COCO's average precision with labels, and with float's own boxes as the objects, on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.accuracy.judge import ROWS, Column, MeasuredOn, Row, Sink, Tally, before, compared_with
from edge.accuracy.table import (
    WHOLE,
    Box,
    BoxResult,
    Change,
    ChangedImage,
    StepName,
    StepResult,
    agreement_line,
    boxes_line,
    effect,
    largest,
    subject_of_step,
)
from edge.errors import counted
from edge.images.annotations import BoxSet, Truth
from edge.measure.average_precision import SHOWN, Matches, Rows, change, match, truth_of
from edge.measure.boxes import (
    BOXES,
    VALUES,
    Boxer,
    Differences,
    Shown,
    boxes_in,
    differences,
    precision,
    self_precision,
)
from edge.measure.networks import Outputs

CHANGED = 12  # images that are listed
COARSE = 30  # images; on fewer a single box moves AP by points


@frozen
class Detection:
    """The part of a detector in an evaluation; its answer to an image is 300 rows of box, score and class."""

    boxer: Boxer
    width: int = BOXES * VALUES
    paired: bool = False

    def row(self, outputs: Outputs, _like: Outputs | None, size: tuple[int, int], /) -> Row:
        """Return the boxes in pixels of the image, as :class:`edge.measure.boxes.Boxer` does."""
        return self.boxer.answer(outputs, size)

    def tally(
        self, columns: Sequence[Column], measured_on: MeasuredOn, quantized: StepName, sink: Sink | None
    ) -> Tally:
        """Compare the steps; the sink gets how many boxes from a score of 0.25 on each step gave."""
        images = measured_on.images
        labelled = isinstance(images, BoxSet) and images.labelled and not measured_on.unlabelled
        truths = images.truths() if labelled and isinstance(images, BoxSet) else None
        steps = [_answers(column, images.contents) for column in columns]
        if sink is not None:
            for index, item in enumerate(images):
                counts = [int((rows[index][:, 4] >= SHOWN).sum()) if shown[index] else None for rows, shown in steps]
                sink([item.name, None if truths is None else len(truths[index]), *counts])
        compared = compare(
            [rows for rows, _ in steps],
            [shown for _, shown in steps],
            truths,
            classes=self.boxer.detector.classes,
            like=compared_with([column.step.name for column in columns]),
            earlier=[before(columns, place) for place in range(len(columns))],
            seed=measured_on.seed,
        )
        names = [column.step.name for column in columns]
        results = tuple(
            StepResult(
                name=column.step.name,
                by=column.step.by,
                n=one.n,
                score=None,
                before=None if one.earlier is None else names[one.earlier],
                change=one.change,
                agreement=one.agreement,
                cosine=(one.boxes.self_ap or 0.0) / 100,
                agreement_before=None,
                cosine_before=None,
                seconds=round(column.answered.seconds, 3),
                computed=column.answered.computed,
                identical_before=one.identical,
                agreement_with=names[one.like],
                boxes=one.boxes,
            )
            for column, one in zip(columns, compared, strict=True)
        )
        last = names.index(quantized)
        total, now, was = None, compared[last], compared[0]
        if last and was.matches is not None and now.matches is not None:
            total = _change_of(was.matches, now.matches, steps[0][1] & steps[last][1], measured_on.seed)
        changed: tuple[ChangedImage, ...] = ()
        if last:
            like, there = steps[now.like]
            rows, shown = steps[last]
            paths = [None if item.path is None else str(item.path.resolve()) for item in images]
            named = [item.name for item in images]
            changed = changed_most(named, paths, like, rows, there & shown, now.differ)
        verdict, sentences = _explain(results, quantized, total, measured_on.unlabelled)
        return Tally(results, verdict, sentences, total, changed=changed)


@frozen
class Compared:
    """A step's boxes compared with labels, with float's boxes, and with those of the step before."""

    n: int  #: images that it answered.
    boxes: BoxResult
    agreement: int  #: images on which no box is lost or gained.
    like: int  #: place of the step whose boxes are the objects of ``boxes.self_ap``.
    earlier: int | None  #: place of the step before; None for the first.
    change: Change | None  #: of AP from that step; None without labels, and for the first.
    identical: int | None  #: images with bit for bit the boxes of that step; None for the first.
    differ: Differences  #: the boxes lost and gained.
    matches: Matches | None  #: with the labelled objects; None without labels.


def compare(
    steps: Sequence[Sequence[Rows]],
    answered: Sequence[Shown],
    truths: Sequence[Truth] | None,
    *,
    classes: int,
    like: Sequence[int],
    earlier: Sequence[int | None],
    seed: int = 0,
) -> list[Compared]:
    """Compare the steps' boxes on the same images.

    Args:
        steps: boxes by step and image, (n, 6), in pixels of the image; none where there is no answer.
        answered: by step, whether it answered each image.
        truths: labelled objects by image; None without labels.
        classes: of the detector.
        like: by step, the place of the one whose boxes are taken as objects.
        earlier: by step, the place of the step before.
    """
    known = None if truths is None else [match(rows, truths, classes) for rows in steps]
    own = {place: [truth_of(rows) for rows in steps[place]] for place in set(like)}
    found = []
    for place, (rows, shown) in enumerate(zip(steps, answered, strict=True)):
        both = shown & answered[like[place]]
        differ = lost, gained = differences(steps[like[place]], rows, classes)
        counts = np.array([len(a) + len(b) for a, b in zip(lost, gained, strict=True)])
        boxes = BoxResult(
            ap=None if known is None else precision(known[place], shown),
            self_ap=self_precision(rows, own[like[place]], both, classes),
            lost=sum(len(one) for one, counted in zip(lost, both, strict=True) if counted),
            gained=sum(len(one) for one, counted in zip(gained, both, strict=True) if counted),
        )
        ago, moved, identical = earlier[place], None, None
        if ago is not None:
            together = shown & answered[ago]
            identical = sum(np.array_equal(rows[i], steps[ago][i]) for i in np.flatnonzero(together).tolist())
            if known is not None:
                moved = _change_of(known[ago], known[place], together, seed)
        agreement = int(((counts == 0) & both).sum())
        matches = None if known is None else known[place]
        found.append(Compared(int(shown.sum()), boxes, agreement, like[place], ago, moved, identical, differ, matches))
    return found


def changed_most(
    names: Sequence[str],
    paths: Sequence[str | None],
    like: Sequence[Rows],
    rows: Sequence[Rows],
    counted: Shown,
    differ: Differences,
) -> tuple[ChangedImage, ...]:
    """Return the images whose lost and gained boxes have the highest scores together, at most 12."""
    lost, gained = differ
    weights = [
        float(a[out, 4].sum() + b[new, 4].sum()) if here else 0.0
        for a, b, out, new, here in zip(like, rows, lost, gained, counted, strict=True)
    ]
    order = sorted(range(len(names)), key=lambda index: (-weights[index], index))[:CHANGED]
    return tuple(
        ChangedImage(
            image=names[index],
            path=paths[index],
            like=_listed(like[index]),
            boxes=_listed(rows[index]),
            lost=tuple(lost[index].tolist()),
            gained=tuple(gained[index].tolist()),
        )
        for index in order
        if weights[index] > 0
    )


def _listed(rows: Rows) -> tuple[Box, ...]:
    return tuple(
        (round(left, 1), round(top, 1), round(right, 1), round(bottom, 1), round(score, 4), int(label))
        for left, top, right, bottom, score, label in rows[rows[:, 4] >= SHOWN].astype(np.float64).tolist()
    )


def _answers(column: Column, contents: NDArray[np.uint8]) -> tuple[list[Rows], Shown]:
    """Return a step's boxes of every image, and which images it answered."""
    shown = column.answered.known
    found: list[Rows] = [np.zeros((0, VALUES), np.float32)] * len(shown)
    there = np.flatnonzero(shown)
    for start in range(0, len(there), ROWS):
        part = there[start : start + ROWS]
        for index, row in zip(part.tolist(), column.answers.read(column.step, contents[part]), strict=True):
            found[index] = boxes_in(row)
    return found, shown


def _change_of(earlier: Matches, later: Matches, counted: Shown, seed: int) -> Change | None:
    if precision(earlier, counted) is None:
        return None
    moved = change(earlier, later, counted=counted, seed=seed)
    lost = gained = 0
    for index in np.flatnonzero(counted):
        was, now = earlier.found[index] >= SHOWN, later.found[index] >= SHOWN
        lost += int((was & ~now).sum())
        gained += int((now & ~was).sum())
    return Change(moved.points, moved.interval, lost, gained, moved.p)


def _explain(
    steps: Sequence[StepResult], quantized: StepName, total: Change | None, unlabelled: str
) -> tuple[str, tuple[str, ...]]:
    """Return the verdict in one line, and sentences about the steps; the first step is ``float``."""
    last = next(step for step in steps if step.name == quantized)
    later = [step for step in steps if step.before is not None]
    sentences = list(_sentences(later))
    if unlabelled:
        sentences.append(f"There is no AP ({unlabelled}), so it is not known whether a changed box is worse.")
    else:
        sentences += largest(later, total)
    sentences += _coarse(steps)
    return _verdict(steps[0], last, total), tuple(sentences)


def _coarse(steps: Sequence[StepResult]) -> Iterator[str]:
    few = [step for step in steps if step.n < COARSE]
    if few:
        where = ", ".join(f"{step.name} on {counted(step.n, 'image')}" for step in few)
        more = "; --program-count gives it more" if [step.name for step in few] == ["program"] else ""
        yield f"AP on fewer than {COARSE} images is coarse, a single box moves it by points: {where}{more}."


def _verdict(first: StepResult, last: StepResult, total: Change | None) -> str:
    own, whole = (None if step.boxes is None else step.boxes.ap for step in (first, last))
    if first is last:
        if own is None:
            return f"Only the float network was measured, on {counted(first.n, 'image')} without labels."
        return f"The float network has AP {own.ap:.1f}, AP50 {own.ap50:.1f} on {counted(first.n, 'image')}."
    if total is None or own is None or whole is None:
        what = "The program" if last.name in WHOLE else f"The {last.name} network"
        return f"{what}, n = {last.n}: {agreement_line(last)}; without labels no more is known."
    where = f"{boxes_line(first, last)}, n = {last.n}"
    if first.n != last.n:
        where = f"on {last.n} of {counted(first.n, 'image')}"
    return f"{WHOLE.get(last.name, f'The way up to {last.name}')} {effect(total, 'AP')}: {where}."


def _sentences(later: Sequence[StepResult]) -> Iterator[str]:
    for step in later:
        subject = subject_of_step(step)
        images = counted(step.n, "image")
        sample = f" on the {images} it was tried on" if step.name == "program" else ""
        if step.identical_before == step.n:
            yield f"{subject} gives the boxes of {step.before} bit for bit{sample or f' on all {images}'}."
        elif step.change is None:
            yield f"{subject}{sample}: {agreement_line(step)}."
        else:
            objects = f"{counted(step.change.lost, 'labelled object')} lost and {step.change.gained} found"
            yield f"{subject} {effect(step.change, 'AP')}{sample}; {objects} at score 0.25."
