"""``answers.csv`` of two builds, paired by picture: who was right where."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from edge.built import Built
from edge.errors import LabelError
from edge.evaluate.table import Evaluation
from edge.report.accuracy import judge
from edge.report.measured import Change
from edge.statistics import mcnemar, paired_bootstrap

FILE = "answers.csv"


@frozen
class Answers:
    """What each hop answered.

    Attributes:
        labels: picture -> class index; None without one.
        hops: hop -> picture -> answered class index.
    """

    labels: Mapping[str, int | None]
    hops: Mapping[str, Mapping[str, int]]


@frozen
class Paired:
    """Two networks on the same pictures.

    Attributes:
        title: what is compared.
        n: pictures that both answered.
        same: of them, those with the same answer.
        a_right: of them, those that the first got right; None without labels.
        b_right: the same of the second.
        change: from the first to the second; None without labels.
    """

    title: str
    n: int
    same: int
    a_right: int | None
    b_right: int | None
    change: Change | None


def read_answers(built: Built, evaluation: Evaluation) -> Answers:
    """Read the answers that belong to an evaluation.

    Raises:
        LabelError: the file is missing, broken, or of another evaluation.
    """
    path = built.folder / FILE
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        labels = {row["picture"]: int(row["label"]) if row["label"] else None for row in rows}
        hops: dict[str, dict[str, int]] = {
            hop.hop: {row["picture"]: int(row[hop.hop]) for row in rows if row[hop.hop]}
            for hop in evaluation.hops
        }
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise _unusable(path, type(error).__name__, built) from error
    for hop in evaluation.hops:
        right = sum(labels[picture] == answer for picture, answer in hops[hop.hop].items())
        if len(hops[hop.hop]) != hop.n or (hop.score is not None and right != hop.score.top1_right):
            raise _unusable(path, f"its column {hop.hop} is not what eval.json counted", built)
    return Answers(labels, hops)


def pair(
    title: str, a: Mapping[str, int], b: Mapping[str, int], labels: Mapping[str, int | None] | None
) -> Paired:
    """Compare two networks picture by picture.

    Args:
        title: what is compared.
        a: picture -> answer of the first.
        b: the same of the second.
        labels: picture -> class index; None if right and wrong are not known.
    """
    both = sorted(a.keys() & b.keys())
    same = sum(a[picture] == b[picture] for picture in both)
    if labels is None or not both:
        return Paired(title, len(both), same, None, None, None)
    right = [(a[picture] == labels[picture], b[picture] == labels[picture]) for picture in both]
    lost = sum(one and not two for one, two in right)
    gained = sum(two and not one for one, two in right)
    n, p = len(both), mcnemar(lost, gained)
    points = 100 * (gained - lost) / n
    low, high = paired_bootstrap(lost, gained, n)
    interval = (100 * low, 100 * high)
    judgement = judge(points, interval, p) if lost or gained else "none"
    return Paired(
        title=title,
        n=n,
        same=same,
        a_right=sum(one for one, _ in right),
        b_right=sum(two for _, two in right),
        change=Change("A", points, interval, lost, gained, p, judgement),
    )


def _unusable(path: Path, why: str, built: Built) -> LabelError:
    return LabelError(f"{path} can't be used: {why}", remedy=f"edge eval {built.folder.name}")
