"""Whether labels count the classes as the network does: one off, or nothing to do with its answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray

from edge.errors import counted
from edge.measure.statistics import mcnemar, wilson

SHIFTS = (1, -1)
ALPHA = 1e-3  # of the exact test that calls a shift better
SKILL = 0.05  # of the way from chance to 100 %; a network that may have less knows nothing of these labels
BACKGROUND = 1001  # classes of ImageNet behind a background class, as TF-Slim and Keras number them

Classes = NDArray[np.int64]


@frozen
class Shift:
    """Labels that fit the network's answers better if all count one higher or lower."""

    by: int  #: 1 or -1.
    before: int  #: images that are right as labelled.
    after: int  #: with the shift.
    n: int  #: images.

    def __str__(self) -> str:
        where = "higher" if self.by > 0 else "lower"
        return (
            f"the labels seem off by one: the network is right on {100 * self.before / self.n:.1f} % of {self.n} "
            f"images, and on {100 * self.after / self.n:.1f} % if every label counts one class {where}; "
            f"--label-offset {self.by}, added to any that is given, counts them so"
        )


@define
class Shifts:
    """Counts the right answers with labels as they are and one off, some images at a time."""

    n: int = 0
    right: int = 0
    lost: dict[int, int] = field(factory=lambda: dict.fromkeys(SHIFTS, 0))
    gained: dict[int, int] = field(factory=lambda: dict.fromkeys(SHIFTS, 0))

    def add(self, answers: Classes, labels: Classes) -> Shifts:
        """Add images: the classes that the network answers, and their labels."""
        right = answers == labels
        self.n += len(labels)
        self.right += int(right.sum())
        for by in SHIFTS:
            other = answers == labels + by
            self.lost[by] += int((right & ~other).sum())
            self.gained[by] += int((other & ~right).sum())
        return self

    @property
    def better(self) -> Shift | None:
        """The shift that fits better beyond chance; None as a rule."""
        by = max(SHIFTS, key=lambda by: self.gained[by])
        lost, gained = self.lost[by], self.gained[by]
        if gained <= lost or mcnemar(lost, gained) >= ALPHA:
            return None
        return Shift(by, self.right, self.right + gained - lost, self.n)


def at_chance(right: int, n: int, classes: int) -> bool:
    """Tell whether a network that is right on some of n images may know nothing of their labels."""
    chance = 1 / classes
    return wilson(right, n)[0] <= chance + SKILL * (1 - chance)


def lacks_background(labels: Sequence[int | None], classes: int) -> str:
    """Return what to tell of labels that leave out a background class, before anything is measured; '' for nothing."""
    highest = max((label for label in labels if label is not None), default=BACKGROUND)
    if classes != BACKGROUND or highest >= classes - 1:
        return ""
    return (
        f"{counted(classes, 'class')}, and no label above {highest}: if the network's class 0 is a background, labels "
        "that count ImageNet's classes from 0 are one too low; --label-offset 1 counts them from 1"
    )
