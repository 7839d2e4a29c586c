"""Class scores: Top-1 and Top-5 against labels, and the same answer as float where there are none."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray

from edge.accuracy.judge import ROWS, Column, MeasuredOn, Row, Sink, Tally, before, compared_with
from edge.accuracy.table import Change, Mistake, StepName, StepResult, explain
from edge.images import ImageItem
from edge.measure.labels import Shifts
from edge.measure.networks import Outputs
from edge.measure.scores import Score, Scores, cosines, ranks
from edge.measure.statistics import mcnemar, paired_interval
from edge.runtime.scores import probabilities
from edge.specs.schema import ScoreKind

MISTAKES = 48  # largest number listed


@frozen
class Classify:
    """The part of a classifier in an evaluation; its answer to an image is the scores."""

    width: int  #: number of scores.
    scores: ScoreKind  #: what they are.
    paired: bool = False

    def row(self, outputs: Outputs, _like: Outputs | None, _size: tuple[int, int], /) -> Row:
        """Return the scores."""
        return np.asarray(outputs[0], np.float32).ravel()

    def tally(
        self, columns: Sequence[Column], measured_on: MeasuredOn, quantized: StepName, sink: Sink | None
    ) -> Tally:
        """Go through all images once; the sink gets the class that each step answered."""
        images, labelled, seed = measured_on.images, not measured_on.unlabelled, measured_on.seed
        names = [column.step.name for column in columns]
        last = names.index(quantized)
        earlier = [before(columns, place) for place in range(len(columns))]
        reference = compared_with(names)
        counts, whole = [_Counts() for _ in columns], _Pair()
        mistakes, shifts = _Mistakes(self.scores), Shifts()
        for start in range(0, len(images), ROWS):
            items = images[start : start + ROWS]
            labels = np.array([-1 if item.label is None else item.label for item in items], np.int64)
            contents = images.contents[start : start + ROWS]
            parts = [_part(column, start, contents, labels if labelled else None) for column in columns]
            for part, count, like, place in zip(parts, counts, reference, earlier, strict=True):
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
            for column, count, like, place in zip(columns, counts, reference, earlier, strict=True)
        )
        total = whole.change(seed) if labelled and last else None
        verdict, explanation = explain(results, quantized, total, measured_on.unlabelled)
        doubt = "" if shifts.better is None else str(shifts.better)
        if doubt:  # every figure of Top-1 hangs on it
            verdict, explanation = f"{doubt[0].upper()}{doubt[1:]}.", (verdict, *explanation)
        return Tally(results, verdict, explanation, total, mistakes.listed(), mistakes.total, doubt)


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
