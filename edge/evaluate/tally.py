"""Count what the hops answered: one pass over the pictures, a few at a time, nothing kept of any."""

from __future__ import annotations

import csv
import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray

from edge.evaluate.answers import Measured, Outputs
from edge.evaluate.hops import Hop
from edge.evaluate.table import Change, HopName, HopResult, Mistake
from edge.images import ImageItem, ImageSet
from edge.measure.scores import Score, Scores, cosine, ranks
from edge.measure.statistics import mcnemar, paired_bootstrap
from edge.runtime.net import probabilities

MISTAKES = 48
_ROWS = 64  # pictures that are looked at together


@frozen
class Column:
    """One measured hop, its records open."""

    hop: Hop
    outputs: Outputs
    measured: Measured


@frozen
class Tally:
    """What the pass found.

    Attributes:
        hops: one result a column.
        total: from the first hop to the quantized one; None without labels or if they are the same.
        mistakes: at most ``MISTAKES``.
        mistakes_total: how many there are.
    """

    hops: tuple[HopResult, ...]
    total: Change | None
    mistakes: tuple[Mistake, ...]
    mistakes_total: int


class Sink(Protocol):
    """Takes the answers of one picture after the other."""

    def __call__(self, item: ImageItem, answers: Sequence[int | None]) -> None:
        """Take the answered class of each hop; None where it has no answer."""


def tally(
    columns: Sequence[Column],
    *,
    images: ImageSet,
    labelled: bool,
    quantized: HopName,
    sink: Sink | None = None,
    seed: int = 0,
) -> Tally:
    """Go through all pictures once.

    Args:
        columns: the hops in order, ``float`` first.
        images: the set.
        labelled: whether the labels speak of the networks' classes.
        quantized: the hop whose mistakes are listed.
        sink: takes every answer.
        seed: of the bootstrap.
    """
    names = [column.hop.name for column in columns]
    last = names.index(quantized)
    before = [_before(columns, place) for place in range(len(columns))]
    counts = [_Counts() for _ in columns]
    whole = _Pair()
    mistakes = _Mistakes()
    for start in range(0, len(images), _ROWS):
        items = images[start : start + _ROWS]
        labels = np.array([-1 if item.label is None else item.label for item in items], np.int64)
        answered = [_answers(column, start, len(items)) for column in columns]
        right = [_Right.of(answer, labels) if labelled else _Right.unknown(len(items)) for answer in answered]
        for place, count in enumerate(counts):
            count.add(answered, right, place, before[place])
        if last:
            whole.add(right[0], right[last], answered[0].there & answered[last].there)
            mistakes.add(items, labels, answered[0], answered[last], right[0], labelled=labelled)
        if sink is not None:
            for row, item in enumerate(items):
                sink(item, [int(a.classes[row]) if a.there[row] else None for a in answered])
    results = tuple(
        count.result(column, None if place is None else names[place], labelled=labelled, seed=seed)
        for column, count, place in zip(columns, counts, before, strict=True)
    )
    total = whole.change(seed) if labelled and last else None
    return Tally(results, total, mistakes.listed(), mistakes.total)


@contextmanager
def answers_csv(path: Path, hops: Sequence[HopName]) -> Iterator[Sink]:
    """Write ``picture,label`` and a column a hop; the file appears when all is written.

    Args:
        path: of the file.
        hops: names of the columns.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            yield _csv_sink(stream, hops)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _csv_sink(stream: TextIO, hops: Sequence[HopName]) -> Sink:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("picture", "label", *hops))

    def write(item: ImageItem, answers: Sequence[int | None]) -> None:
        cells = ("" if answer is None else answer for answer in answers)
        writer.writerow((item.name, "" if item.label is None else item.label, *cells))

    return write


@frozen
class _Answers:
    """Of some pictures: which are there, their scores (zero where not), and the best class."""

    there: NDArray[np.bool_]
    scores: Scores
    classes: NDArray[np.int64]


@frozen
class _Right:
    """Of some pictures: whether the label is the best, and among the best five."""

    top1: NDArray[np.bool_]
    top5: NDArray[np.bool_]

    @classmethod
    def of(cls, answers: _Answers, labels: NDArray[np.int64]) -> _Right:
        places = ranks(answers.scores, np.maximum(labels, 0))
        known = answers.there & (labels >= 0)
        return cls((places == 0) & known, (places < 5) & known)

    @classmethod
    def unknown(cls, n: int) -> _Right:
        return cls(np.zeros(n, bool), np.zeros(n, bool))


@define
class _Pair:
    """Two hops on the same pictures."""

    n: int = 0
    lost: int = 0
    gained: int = 0

    def add(self, before: _Right, after: _Right, both: NDArray[np.bool_]) -> None:
        self.n += int(both.sum())
        self.lost += int((before.top1 & ~after.top1 & both).sum())
        self.gained += int((~before.top1 & after.top1 & both).sum())

    def change(self, seed: int) -> Change | None:
        if not self.n:
            return None
        low, high = paired_bootstrap(self.lost, self.gained, self.n, seed=seed)
        return Change(
            points=100 * (self.gained - self.lost) / self.n,
            interval=(100 * low, 100 * high),
            lost=self.lost,
            gained=self.gained,
            p=mcnemar(self.lost, self.gained),
        )


@define
class _Likeness:
    """How like the answers of two hops are."""

    n: int = 0
    same: int = 0
    identical: int = 0
    cosines: float = 0.0

    def add(self, a: _Answers, b: _Answers) -> None:
        both = a.there & b.there
        self.n += int(both.sum())
        self.same += int((a.classes == b.classes)[both].sum())
        self.identical += int((a.scores == b.scores).all(axis=1)[both].sum())
        self.cosines += float(cosine(a.scores, b.scores)[both].sum())

    @property
    def cosine(self) -> float:
        # Rounding may leave the mean of equal vectors a last digit above 1.
        return min(1.0, self.cosines / self.n) if self.n else 0.0


@define
class _Counts:
    """Of one hop."""

    n: int = 0
    top1: int = 0
    top5: int = 0
    pair: _Pair = field(factory=_Pair)
    like_float: _Likeness = field(factory=_Likeness)
    like_before: _Likeness = field(factory=_Likeness)

    def add(
        self, answered: Sequence[_Answers], right: Sequence[_Right], place: int, before: int | None
    ) -> None:
        own = answered[place]
        self.n += int(own.there.sum())
        self.top1 += int(right[place].top1.sum())
        self.top5 += int(right[place].top5.sum())
        self.like_float.add(answered[0], own)
        if before is not None:
            self.pair.add(right[before], right[place], answered[before].there & own.there)
            self.like_before.add(answered[before], own)

    def result(self, column: Column, before: HopName | None, *, labelled: bool, seed: int) -> HopResult:
        return HopResult(
            hop=column.hop.name,
            by=column.hop.by,
            n=self.n,
            score=Score(self.n, self.top1, self.top5) if labelled else None,
            before=before,
            change=self.pair.change(seed) if labelled and before else None,
            agreement=self.like_float.same,
            cosine=self.like_float.cosine,
            agreement_before=self.like_before.same if before else None,
            cosine_before=self.like_before.cosine if before else None,
            seconds=round(column.measured.seconds, 3),
            computed=column.measured.computed,
            identical_before=self.like_before.identical if before else None,
        )


@define
class _Mistakes:
    """Keeps those on which the float network was most sure."""

    total: int = 0
    heap: list[tuple[float, int, Mistake]] = field(factory=list)

    def add(
        self,
        items: Sequence[ImageItem],
        labels: NDArray[np.int64],
        before: _Answers,
        after: _Answers,
        right: _Right,
        *,
        labelled: bool,
    ) -> None:
        both = before.there & after.there & (before.classes != after.classes)
        for row in np.flatnonzero(both & right.top1 if labelled else both).tolist():
            self.total += 1
            chances = [probabilities(answers.scores[row]) for answers in (before, after)]
            item = items[row]
            mistake = Mistake(
                picture=item.name,
                path=None if item.path is None else str(item.path.resolve()),
                label=int(labels[row]) if labelled else None,
                float_answer=int(before.classes[row]),
                answer=int(after.classes[row]),
                float_probability=float(chances[0].max()),
                probability=float(chances[1].max()),
            )
            # The count makes ties fall to the earlier picture, and mistakes never compared.
            heapq.heappush(self.heap, (mistake.float_probability, -self.total, mistake))
            if len(self.heap) > MISTAKES:
                heapq.heappop(self.heap)

    def listed(self) -> tuple[Mistake, ...]:
        return tuple(mistake for *_, mistake in sorted(self.heap, key=lambda e: (-e[0], -e[1])))


def _before(columns: Sequence[Column], place: int) -> int | None:
    """Return the nearest hop before that answered all pictures; a sample is nothing to compare with."""
    for earlier in range(place - 1, -1, -1):
        if columns[earlier].hop.count is None:
            return earlier
    return None


def _answers(column: Column, start: int, count: int) -> _Answers:
    records = column.measured.records[start : start + count]
    there = records >= 0
    read = column.outputs.read(records[there])
    scores = np.zeros((count, read.shape[1]), np.float32)
    scores[there] = read
    return _Answers(there, scores, scores.argmax(axis=1))
