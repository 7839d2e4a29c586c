"""What a network's answers are worth beside the float network's: one objective for classes, one for boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from edge.images.annotations import Truth
from edge.measure import boxes
from edge.measure.average_precision import SHOWN, match, truth_of
from edge.measure.networks import Outputs
from edge.measure.scores import divergence
from edge.specs.schema import ScoreKind

Answers = NDArray[np.float32]
"""(images, values): the answer to each image, flat."""


@frozen
class Measured:
    """A network's answers on a set of images, compared with the float network's behind NV12."""

    n: int  #: images.
    agreement: int  #: of them, with the float network's answer; of a detector, without a box lost or gained.
    #: mean Kullback-Leibler divergence of its probabilities from the float network's, nats, 0 and up; of a detector
    #: 1 minus AP with the float network's boxes as the objects, 0..1.
    divergence: float
    right: int | None = None  #: of the n, those answered as labelled; None without labels and of a detector.
    float_right: int | None = None  #: the same of the float network behind NV12.
    lost: int = 0  #: float right, this one wrong; of a detector, objects that only float finds; 0 without labels.
    gained: int = 0  #: the other way round.
    #: for each image, in order: 1 if the answer is not float's, else 0; of a detector, the boxes lost and gained.
    other: tuple[int, ...] = ()
    self_ap: float | None = None  #: of a detector: AP in percent with the float network's boxes as the objects.
    ap: float | None = None  #: of a detector: AP in percent; None without labels.
    float_ap: float | None = None  #: the same of the float network behind NV12.

    def __str__(self) -> str:
        """Return the accuracy in a few words."""
        name = "Top-1" if self.ap is None else "AP"
        own = "" if self.figure is None else f"{name} {self.float_figure:.1f} → {self.figure:.1f} %, "
        return f"{own}agreement {self.agreement_percent:.1f} %, divergence {self.divergence:.5f}"

    @property
    def agreement_percent(self) -> float:
        """Share of the images with the float network's answer, of a detector ``self_ap``; percent."""
        return 100 * self.agreement / self.n if self.self_ap is None else self.self_ap

    @property
    def figure(self) -> float | None:
        """Top-1, or a detector's AP, in percent; None without labels."""
        return self.ap if self.right is None else 100 * self.right / self.n

    @property
    def float_figure(self) -> float | None:
        """The same of the float network behind NV12."""
        return self.float_ap if self.float_right is None else 100 * self.float_right / self.n

    @property
    def drop(self) -> float | None:
        """Top-1 or AP lost compared with float behind NV12, points; None without labels."""
        if self.figure is None or self.float_figure is None:
            return None
        return self.float_figure - self.figure


class Objective(Protocol):
    """A task's part of the search."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs in the order that :meth:`answer` reads; empty for the first alone."""

    def answer(self, outputs: Outputs, size: tuple[int, int], /) -> NDArray[np.float32]:
        """Return the answer to an image of (height, width) pixels in its file, flat."""

    def divergence(self, reference: Answers, answers: Answers, /) -> float:
        """Return how far answers are from the float network's, 0 and up."""

    def measured(self, reference: Answers, answers: Answers, truth: Sequence[Any], /) -> Measured:
        """Return what answers are worth.

        Args:
            reference: of the float network behind NV12.
            truth: the label or the objects of each image; None where they are not known.
        """


@frozen
class OfClasses:
    """The objective of a classifier: its probabilities."""

    kind: ScoreKind  #: what the scores are.

    @property
    def outputs(self) -> tuple[str, ...]:
        """None: the scores are the first."""
        return ()

    def answer(self, outputs: Outputs, _size: tuple[int, int], /) -> NDArray[np.float32]:
        """Return the scores."""
        return outputs[0].ravel()

    def divergence(self, reference: Answers, answers: Answers, /) -> float:
        """Return the mean Kullback-Leibler divergence, nats."""
        return divergence(reference, answers, self.kind)

    def measured(self, reference: Answers, answers: Answers, truth: Sequence[int | None], /) -> Measured:
        """Return agreement and, with labels, Top-1."""
        before, after = reference.argmax(axis=1), answers.argmax(axis=1)
        other = tuple((before != after).astype(int).tolist())
        found = Measured(len(answers), other.count(0), self.divergence(reference, answers), other=other)
        if any(label is None for label in truth):
            return found
        labels = np.array(truth)
        was, now = before == labels, after == labels
        return evolve(
            found,
            right=int(now.sum()),
            float_right=int(was.sum()),
            lost=int((was & ~now).sum()),
            gained=int((now & ~was).sum()),
        )


@frozen
class OfBoxes:
    """The objective of a detector: which of the float network's boxes are found, and how exactly."""

    boxer: boxes.Boxer

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of all."""
        return self.boxer.names

    def answer(self, outputs: Outputs, size: tuple[int, int], /) -> NDArray[np.float32]:
        """Return the boxes."""
        return self.boxer.answer(outputs, size)

    def divergence(self, reference: Answers, answers: Answers, /) -> float:
        """Return 1 minus AP with the float network's boxes as the objects."""
        return boxes.divergence(reference, answers, self.boxer.detector.classes)

    def measured(self, reference: Answers, answers: Answers, truth: Sequence[Truth | None], /) -> Measured:
        """Return agreement and, with labels, AP."""
        classes, every = self.boxer.detector.classes, np.ones(len(answers), bool)
        before, after = ([boxes.boxes_in(row) for row in rows] for rows in (reference, answers))
        own = boxes.self_precision(after, [truth_of(one) for one in before], every, classes)
        pairs = zip(*boxes.differences(before, after, classes), strict=True)
        other = tuple(len(lost) + len(gained) for lost, gained in pairs)
        # A network that sees nothing on any image has nothing to lose.
        share = 100.0 if own is None else own
        found = Measured(len(answers), other.count(0), 1 - share / 100, other=other, self_ap=share)
        objects = [one for one in truth if one is not None]
        if len(objects) < len(truth):
            return found
        was, now = match(before, objects, classes), match(after, objects, classes)
        float_ap, ap = boxes.precision(was, every), boxes.precision(now, every)
        if float_ap is None or ap is None:
            return found
        pairs_of_scores = [(a >= SHOWN, b >= SHOWN) for a, b in zip(was.found, now.found, strict=True)]
        return evolve(
            found,
            lost=sum(int((a & ~b).sum()) for a, b in pairs_of_scores),
            gained=sum(int((b & ~a).sum()) for a, b in pairs_of_scores),
            ap=ap.ap,
            float_ap=float_ap.ap,
        )
