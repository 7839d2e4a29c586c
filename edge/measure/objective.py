"""What a network's answer to an image is, and how far answers are from float's: class scores, or boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from edge.folder.built import Built
from edge.images.annotations import NOTHING, BoxSet, Truth
from edge.images.frames import Frame
from edge.images.items import ImageSet
from edge.measure.average_precision import SHOWN, Matches, Rows, change, match, truth_of
from edge.measure.boxes import BOXES, VALUES, Boxer, boxes_in, differences, precision
from edge.measure.networks import Outputs, scores_of
from edge.measure.scores import Gain, StepEffect, cosines, divergence, gain
from edge.measure.statistics import mcnemar
from edge.runtime.scores import probabilities
from edge.specs import Preprocess
from edge.specs.schema import ScoreKind

ALPHA = 0.01  # of the test that calls an answer to another input better
# Mean score of each image's best box above which a detector only seems sure: NudeNet's is 0.999 if it is fed 0..255
# instead of 0..1, on whatever images.
SATURATED = 0.97
CONFIDENCE_POINTS = 5.0  # gain of the mean confidence that counts as better without labels
ONE_ANSWER = 0.9  # a network that gives this share of the images the same answer shows nothing
ALONE = 16  # images on which each layer is rounded alone
FEWEST = 8  # images; AP of fewer may change by chance, whatever it does
BOXES_ALONE = 6  # the same of a detector: an image has several boxes, and a detector many layers
SAMPLE = 1024  # values of each output that its cosine and its noise are taken of
_LEAST_NOISE = 1e-12  # of the signal; less is that of the arithmetic

Answers = NDArray[np.float32]  # (n, width), a row an image; (width,) of one
Answer = Callable[[Outputs, Frame], Answers]


@frozen
class Judged:
    """Answers to another input, compared with those to the build's own."""

    value: float  #: percent; see ``measure``.
    as_built: float  #: the same for the build's own input.
    #: ``Top-1``, ``agreement`` or ``confidence``; of a detector ``AP``, ``AP with float's boxes`` or ``confidence``.
    measure: str
    better: bool  #: beyond chance.


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
    """What a task's answers are, and what makes one better than another."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs in the order that :meth:`answer` reads; empty for the first alone."""

    @property
    def boxes(self) -> bool:
        """Whether agreement is AP with boxes as objects, instead of a share of the images."""

    @property
    def labelled(self) -> bool:
        """Whether the images are labelled."""

    def answer(self, outputs: Outputs, frame: Frame, preprocess: Preprocess | None = None) -> Answers:
        """Return the answer to an image as a row; ``preprocess`` made the input, if it was not the build's."""

    def agreement(self, reference: Answers, answers: Answers) -> float:
        """Return how far answers agree with the reference's, 0..1."""

    def cosine(self, reference: Answers, answers: Answers) -> float:
        """Return the mean cosine of the outputs."""

    def divergence(self, reference: Answers, answers: Answers) -> float:
        """Return how far answers are from the float network's, 0 and up."""

    def measured(self, reference: Answers, answers: Answers, truth: Sequence[Any]) -> Measured:
        """Return what answers are worth.

        Args:
            reference: of the float network behind NV12.
            truth: the label or the objects of each image; None where they are not known.
        """

    def gain(self, what: str, reference: Answers, before: Answers, after: Answers) -> Gain:
        """Return what a change wins, from answers before it and after it."""

    def right(self, answers: Answers) -> float | None:
        """Return Top-1 or AP in percent; None without labels."""

    def judged(self, answers: Answers, as_built: Answers, reference: Answers | None = None) -> Judged:
        """Compare by the labels; without labels by the reference's answers, or without one by the confidence."""

    def usual(self, answers: Answers) -> float:
        """Return the share of the images with the most frequent answer, 0..1; 0 where there is no such thing."""

    def costs_more(self, reference: Answers, answers: Answers, than: tuple[Answers, Answers]) -> float:
        """Return the p that two pairs of answers differ as much by chance."""

    def telling(self, reference: Answers) -> list[int]:
        """Return which images each layer is rounded alone on."""


def class_scores(outputs: Outputs, _frame: Frame, _preprocess: Preprocess | None = None) -> Answers:
    """Return the first output, flat."""
    return np.asarray(outputs[0], np.float32).ravel()


@frozen(eq=False)
class Classes:
    """A classifier's answers are its scores."""

    labels: NDArray[np.int64] | None  #: class indices, (n,); None without.
    kind: ScoreKind  #: what scores are.
    boxes: bool = False
    outputs: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether the images are labelled."""
        return self.labels is not None

    def answer(self, outputs: Outputs, frame: Frame, preprocess: Preprocess | None = None) -> Answers:
        """Return the scores."""
        return class_scores(outputs, frame, preprocess)

    def agreement(self, reference: Answers, answers: Answers) -> float:
        """Return the share of the images with the same best class."""
        return float((reference.argmax(1) == answers.argmax(1)).mean())

    def cosine(self, reference: Answers, answers: Answers) -> float:
        """Return the mean cosine of the scores."""
        return float(cosines(reference, answers).mean())

    def divergence(self, reference: Answers, answers: Answers) -> float:
        """Return the mean Kullback-Leibler divergence, nats."""
        return divergence(reference, answers, self.kind)

    def measured(self, reference: Answers, answers: Answers, truth: Sequence[int | None]) -> Measured:
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

    def gain(self, what: str, reference: Answers, before: Answers, after: Answers) -> Gain:
        """Return what a change wins."""
        return gain(what, reference, before, after)

    def right(self, answers: Answers) -> float | None:
        """Return Top-1."""
        return None if self.labels is None else 100 * float((answers.argmax(1) == self.labels).mean())

    def judged(self, answers: Answers, as_built: Answers, reference: Answers | None = None) -> Judged:
        """Compare right answers, by McNemar's test.

        Without anything to compare with a network's own certainty is all there is: a wrong input makes it unsure, or
        sure of one and the same answer for every image.
        """
        if self.labels is None and reference is None:
            before, after = (probabilities(found, self.kind).max(axis=1) for found in (as_built, answers))
            varied = self.usual(answers) <= self.usual(as_built) + 0.1
            freed = self.usual(as_built) >= ONE_ANSWER and self.usual(answers) <= ONE_ANSWER / 2
            return _surer(before, after, varied=varied, freed=freed)
        known = self.labels if self.labels is not None or reference is None else reference.argmax(1)
        right, before = answers.argmax(1) == known, as_built.argmax(1) == known
        lost, gained = int((before & ~right).sum()), int((right & ~before).sum())
        better = gained > lost and mcnemar(lost, gained) < ALPHA
        measure = "agreement" if self.labels is None else "Top-1"
        return Judged(100 * float(right.mean()), 100 * float(before.mean()), measure, better)

    def usual(self, answers: Answers) -> float:
        """Return the share of the most frequent class."""
        return float(np.bincount(answers.argmax(1)).max() / len(answers))

    def costs_more(self, reference: Answers, answers: Answers, than: tuple[Answers, Answers]) -> float:
        """Return McNemar's p of the changed answers."""
        changed = [int((a.argmax(1) != b.argmax(1)).sum()) for a, b in ((reference, answers), than)]
        return mcnemar(*changed)

    def telling(self, reference: Answers) -> list[int]:
        """Return the first images."""
        return list(range(min(ALONE, len(reference))))


@frozen(eq=False)
class Detections:
    """A detector's answers are its boxes, and behind them a sample of each output's values.

    Agreement is COCO's AP with the other network's boxes as the objects. Whether AP changes beyond chance is told by
    the paired bootstrap of :func:`edge.measure.average_precision.change`.
    """

    boxer: Boxer
    places: tuple[NDArray[np.int64], ...] = ()  #: of the values of each output that are kept; none without any.
    truths: tuple[Truth, ...] | None = None  #: the objects of each image; None without labels.
    boxes: bool = True

    @property
    def labelled(self) -> bool:
        """Whether the images are labelled."""
        return self.truths is not None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of all."""
        return self.boxer.names

    @property
    def _classes(self) -> int:
        return self.boxer.detector.classes

    def answer(self, outputs: Outputs, frame: Frame, preprocess: Preprocess | None = None) -> Answers:
        """Return the boxes in pixels of the image, then the kept values of each output."""
        boxer = self.boxer if preprocess is None else evolve(self.boxer, preprocess=preprocess)
        kept = (np.ravel(output)[place] for output, place in zip(outputs, self.places, strict=bool(self.places)))
        return np.concatenate((boxer.answer(outputs, frame.size), *kept)).astype(np.float32)

    def values(self, answers: Answers) -> list[Answers]:
        """Return the kept values of each output, (n, values)."""
        starts = np.cumsum([BOXES * VALUES, *(len(place) for place in self.places[:-1])])
        return np.split(answers, starts, axis=1)[1:]

    def rows(self, answers: Answers) -> list[Rows]:
        """Return the boxes of each image, (n, 6)."""
        return [boxes_in(row[: BOXES * VALUES]) for row in answers]

    def agreement(self, reference: Answers, answers: Answers) -> float:
        """Return AP with the reference's boxes as the objects."""
        return _ap(self._matches(self._objects(reference), answers))

    def cosine(self, reference: Answers, answers: Answers) -> float:
        """Return the mean cosine over the outputs."""
        pairs = zip(self.values(reference), self.values(answers), strict=True)
        return float(np.mean([cosines(a, b).mean() for a, b in pairs]))

    def noise(self, reference: Answers, answers: Answers) -> list[tuple[float, float | None]]:
        """Return for each output the mean cosine and the signal to noise in dB, None where there is no noise.

        The signal is the deviation from the output's mean, since most logits are far below 0 everywhere.
        """
        found: list[tuple[float, float | None]] = []
        for like, own in zip(self.values(reference), self.values(answers), strict=True):
            a, b = like.astype(np.float64), own.astype(np.float64)
            signal, lost = float(((a - a.mean()) ** 2).sum()), float(((a - b) ** 2).sum())
            snr = None if lost <= _LEAST_NOISE * signal else 10 * float(np.log10(max(signal, lost * 1e-9) / lost))
            found.append((float(cosines(like, own).mean()), snr))
        return found

    def divergence(self, reference: Answers, answers: Answers) -> float:
        """Return 1 minus AP with the reference's boxes as the objects, 0..1."""
        return 1 - self.agreement(reference, answers)

    def measured(self, reference: Answers, answers: Answers, truth: Sequence[Truth | None]) -> Measured:
        """Return agreement and, with labels, AP."""
        pairs = zip(*differences(self.rows(reference), self.rows(answers), self._classes), strict=True)
        other = tuple(len(lost) + len(gained) for lost, gained in pairs)
        share = self.agreement(reference, answers)
        found = Measured(len(answers), other.count(0), 1 - share, other=other, self_ap=100 * share)
        objects = [one for one in truth if one is not None]
        if len(objects) < len(truth):
            return found
        was, now = self._matches(objects, reference), self._matches(objects, answers)
        every = np.ones(len(answers), bool)
        float_ap, ap = precision(was, every), precision(now, every)
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

    def gain(self, what: str, reference: Answers, before: Answers, after: Answers) -> Gain:
        """Return the gain in AP."""
        objects = self._objects(reference)
        matches = [self._matches(objects, answers) for answers in (before, after)]
        old, new = (_ap(one) for one in matches)
        return Gain(
            what=what,
            before=old,
            after=new,
            n=len(reference),
            cosine_before=self.cosine(reference, before),
            cosine_after=self.cosine(reference, after),
            expected=100 * (new - old),
            p_closer=_p(*matches),
            boxes=True,
        )

    def right(self, answers: Answers) -> float | None:
        """Return AP with the labelled objects."""
        if self.truths is None:
            return None
        found = precision(self._matches(self.truths, answers), np.ones(len(answers), bool))
        return 0.0 if found is None else found.ap

    def judged(self, answers: Answers, as_built: Answers, reference: Answers | None = None) -> Judged:
        """Compare AP; without objects the best box of each image.

        With labels both count: YOLOX-nano with swapped channels loses 7 points of AP on 24 images, which may be chance,
        and 12 of confidence, which is not.
        """
        before, after = (found[:, 4].astype(np.float64) for found in (as_built, answers))
        confidence = _surer(before, after, varied=float(after.mean()) < SATURATED)
        if self.truths is None and reference is None:
            return confidence
        objects = self.truths if self.truths is not None or reference is None else self._objects(reference)
        matches = [self._matches(objects or (), found) for found in (as_built, answers)]
        old, value = (100 * _ap(one) for one in matches)
        measure = "AP with float's boxes" if self.truths is None else "AP"
        sure = _p(*matches) < ALPHA or (self.truths is not None and confidence.better)
        return Judged(value, old, measure, value > old and sure)

    def usual(self, _answers: Answers) -> float:
        """Return 0: an image has no single answer."""
        return 0.0

    def costs_more(self, reference: Answers, answers: Answers, than: tuple[Answers, Answers]) -> float:
        """Return the p of the difference in AP."""
        pairs = ((reference, answers), than)
        return _p(*(self._matches(self._objects(like), own) for like, own in pairs))

    def telling(self, reference: Answers) -> list[int]:
        """Return the first images with a box; the first ones, if there is none."""
        shown = [i for i, rows in enumerate(self.rows(reference)) if (rows[:, 4] >= SHOWN).any()]
        return (shown or list(range(len(reference))))[:BOXES_ALONE]

    def _objects(self, reference: Answers) -> tuple[Truth, ...]:
        """Return a network's boxes as the objects of each image."""
        return tuple(truth_of(rows) for rows in self.rows(reference))

    def _matches(self, objects: Sequence[Truth], answers: Answers) -> Matches:
        return match(self.rows(answers), objects, self._classes)


def _ap(matches: Matches) -> float:
    """Return AP, 0..1; 1 where there are no objects to lose."""
    found = precision(matches, np.ones(matches.images, bool))
    return 1.0 if found is None else found.ap / 100


def _p(before: Matches, after: Matches) -> float:
    """Return the p that AP changes so much by chance; 1 of images too few to be drawn again."""
    everything = np.ones(before.images, bool)
    if before.images < FEWEST or None in (precision(before, everything), precision(after, everything)):
        return 1.0
    return change(before, after).p


def _surer(
    before: NDArray[np.floating[Any]], after: NDArray[np.floating[Any]], *, varied: bool = True, freed: bool = False
) -> Judged:
    """Compare the confidence of two answers to each image.

    Args:
        varied: whether the answers are about as different from one another as before.
        freed: whether they were all the same before.
    """
    up, down = int((after > before).sum()), int((after < before).sum())
    value, old = 100 * float(after.mean()), 100 * float(before.mean())
    surer = value - old >= CONFIDENCE_POINTS and up > down and varied and mcnemar(down, up) < ALPHA
    return Judged(value, old, "confidence", surer or (freed and value >= old - CONFIDENCE_POINTS))


def objective_of(built: Built, images: ImageSet, frames: Sequence[Frame], *, labelled: bool) -> Objective:
    """Return what a build's answers to images are."""
    about = built.metadata
    if about.detector is None:
        labels = np.array([frame.label for frame in frames], np.int64) if labelled else None
        return Classes(labels, scores_of(built))
    rng = np.random.Generator(np.random.PCG64(0))
    sizes = [int(np.prod(output.shape)) for output in about.outputs]
    places = tuple(np.sort(rng.permutation(size)[:SAMPLE]) for size in sizes)
    truths = None
    if labelled and isinstance(images, BoxSet):
        truths = tuple(images.objects.get(frame.name, NOTHING) for frame in frames)
    names = tuple(output.name for output in about.outputs)
    return Detections(Boxer(about.detector, names, about.preprocess), places, truths)


def step_effect(objective: Objective, name: str, what: str, before: Answers, after: Answers) -> StepEffect:
    """Return how far a step moved the answers."""
    return StepEffect(name, what, objective.agreement(before, after), objective.cosine(before, after))
