"""Class scores compared with labels and with other scores."""

from __future__ import annotations

import math

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.errors import counted
from edge.measure.statistics import wilson
from edge.specs.schema import ScoreKind

ALPHA = 0.01  # level of the test that scores come closer to float's
DRAWS = 4000  # of that test
RIVALS, NODES = 10, 24  # of the expected agreement
_LEAST = 1e-12  # of a probability whose logarithm is taken: integers round many to 0

Scores = NDArray[np.float32]  # (n, classes), or (classes,) of one image


@frozen
class Gain:
    """The gain of a change over the network as built, on the same images."""

    what: str  #: name of the change, or of the layer.
    before: float  #: agreement with the float network as built, 0..1.
    after: float  #: the same with the change.
    n: int  #: images.
    cosine_before: float  #: mean cosine with float's scores, or of a detector's outputs.
    cosine_after: float  #: the same with the change.
    #: gain in agreement, in points; of class scores what their errors let expect, see :func:`expected`.
    expected: float
    #: p that answers come this much closer by chance, paired over images: sign flips of the cosine, or bootstrap of AP.
    p_closer: float
    boxes: bool = False  #: whether agreement is AP with float's boxes as objects, instead of a share of the images.

    @property
    def points(self) -> float:
        """Counted gain in agreement, in points."""
        return 100 * (self.after - self.before)

    @property
    def closer(self) -> float:
        """Gain in the cosine."""
        return self.cosine_after - self.cosine_before

    @property
    def sure(self) -> bool:
        """Whether answers come closer to float's beyond chance."""
        return (self.points if self.boxes else self.closer) > 0 and self.p_closer < ALPHA

    @property
    def figure(self) -> str:
        """The gain as text for remedies."""
        change = f"{100 * self.before:.1f} → {100 * self.after:.1f}"
        if self.boxes:
            return f"AP with float's boxes behind NV12 {change} ({counted(self.n, 'image')})"
        return (
            f"agreement with float behind NV12 {change} %, "
            f"cosine {self.cosine_before:.4f} → {self.cosine_after:.4f} ({counted(self.n, 'image')})"
        )


@frozen(eq=False)
class StepEffect:
    """The network after one step of the build compared with the step before, on the same images."""

    name: str  #: ``NV12``, ``simplify``, ``optimize``, ``calibrated`` or ``program``.
    what: str  #: in words.
    agreement: float  #: share of the images with the same answer, or AP with the step before's boxes, 0..1.
    cosine: float  #: mean cosine of the scores, or of a detector's outputs.


def gain(what: str, reference: Scores, before: Scores, after: Scores) -> Gain:
    """Return the gain of a change; ``reference`` are the float network's scores, each (n, classes)."""
    answers = reference.argmax(1)
    old, new = before.argmax(1) == answers, after.argmax(1) == answers
    near_before, near_after = cosines(reference, before), cosines(reference, after)
    return Gain(
        what=what,
        before=float(old.mean()),
        after=float(new.mean()),
        n=len(answers),
        cosine_before=float(near_before.mean()),
        cosine_after=float(near_after.mean()),
        expected=100 * (expected(reference, after) - expected(reference, before)),
        p_closer=sign_flip(near_after - near_before),
    )


def expected(reference: Scores, scores: Scores) -> float:
    """Return the expected agreement, 0..1, from the errors of scores against the float network's, both (n, classes).

    A count of equal answers changes by whole images. This assumes independent normal errors with standard deviation s
    within each image. It computes the probability that the best class stays ahead of each of its nearest rivals j,
    which are m_j behind: the integral of phi(t) * prod_j Phi(t + m_j / s) over t (Gauss-Hermite quadrature), averaged
    over the images.
    """
    ordered = -np.sort(-reference.astype(np.float64), axis=1)[:, : RIVALS + 1]
    margins = ordered[:, :1] - ordered[:, 1:]
    deviation = (scores.astype(np.float64) - reference).std(axis=1, ddof=1)
    moved = deviation > 1e-9 * np.abs(ordered).max(axis=1)
    nodes, weights = np.polynomial.hermite.hermgauss(NODES)
    ratio = margins[moved] / deviation[moved, None]
    stays = _normal(ratio[:, None, :] + np.sqrt(2) * nodes[None, :, None]).prod(axis=2)
    kept = (stays * weights / np.sqrt(np.pi)).sum(axis=1)
    return float((kept.sum() + np.count_nonzero(~moved)) / len(reference))


def _normal(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the normal distribution function."""
    flat = [0.5 * (1 + math.erf(value / math.sqrt(2))) for value in values.ravel()]
    return np.array(flat).reshape(values.shape)


def sign_flip(differences: NDArray[np.float64]) -> float:
    """Return the one-sided p of a paired randomization test: how often random signs give a mean as large.

    Unlike a count of signs, it detects a change that helps few images much. Source: R. A. Fisher, "The Design of
    Experiments" (1935), section 21.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    signs = rng.integers(0, 2, (DRAWS, len(differences)), np.int8) * 2 - 1
    means = signs @ differences
    return float((1 + np.count_nonzero(means >= differences.sum() - 1e-12)) / (1 + DRAWS))


def cosines(a: Scores, b: Scores) -> NDArray[np.float64]:
    """Return the cosine of each row of ``a`` with the same row of ``b``, -1..1, (n,).

    Equal rows give exactly 1, also two rows of zeros. One row of zeros gives 0.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    dots = np.einsum("ij,ij->i", x, y)
    norms = np.sqrt(np.einsum("ij,ij->i", x, x) * np.einsum("ij,ij->i", y, y))
    same = (norms == 0) & ~x.any(axis=1) & ~y.any(axis=1)
    result: NDArray[np.float64] = np.where(same, 1.0, np.divide(dots, norms, out=np.zeros(len(x)), where=norms > 0))
    return result


@frozen
class Score:
    """How many of n images were right. Properties are percentages."""

    n: int  #: images.
    top1_right: int  #: images whose best class is the label.
    top5_right: int  #: images whose five best classes hold the label.

    @property
    def top1(self) -> float:
        """Top-1 in percent."""
        return 100 * self.top1_right / self.n

    @property
    def top5(self) -> float:
        """Top-5 in percent."""
        return 100 * self.top5_right / self.n

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of Top-1, in percent."""
        low, high = wilson(self.top1_right, self.n)
        return 100 * low, 100 * high

    @property
    def top5_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of Top-5, in percent."""
        low, high = wilson(self.top5_right, self.n)
        return 100 * low, 100 * high


def score_record(score: Score | None) -> dict[str, object] | None:
    """Return a score as stored in manifests, in percent; None without labels."""
    if score is None:
        return None
    return {
        "top1": round(score.top1, 4),
        "top5": round(score.top5, 4),
        "top1_interval": [round(bound, 2) for bound in score.top1_interval],
        "top5_interval": [round(bound, 2) for bound in score.top5_interval],
    }


def ranks(scores: Scores, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place, (n,), of each row's label among its scores, (n, classes); 0 is Top-1.

    Of equal scores the lower class index comes first, as with argmax.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    lower = np.arange(scores.shape[1])[None] < labels[:, None]
    ahead: NDArray[np.int64] = ((scores > own) | ((scores == own) & lower)).sum(axis=1)
    return ahead


def score(scores: Scores, labels: NDArray[np.int64]) -> Score:
    """Count the right answers in scores, (n, classes); labels are class indices, (n,)."""
    places = ranks(scores, labels)
    return Score(len(labels), top1_right=int((places == 0).sum()), top5_right=int((places < 5).sum()))


def _log_probabilities(scores: Scores, kind: ScoreKind) -> NDArray[np.float64]:
    """Return the logarithms of the classes' probabilities, (n, classes), each row's probabilities with the sum 1."""
    values = scores.astype(np.float64)
    if kind == "softmax":
        values = np.log(np.maximum(values, _LEAST))
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float64)


def divergence(reference: Scores, scores: Scores, kind: ScoreKind) -> float:
    """Return the mean Kullback-Leibler divergence of the answers from the reference's, in nats.

    Of sigmoid scores, each of which is a yes or no of its own, it is the sum over the classes.

    A count of changed answers moves by whole images; this moves with every score, so that recipes that differ by
    less than an image in a hundred can be told apart on a few hundred. Units and recipes are ranked by it: of the 294
    units of a trained ConvNeXt-atto, the twelve that it put first on 32 images won 0.54 points of agreement each on
    300 others, those of the mean cosine 0.53, of :func:`expected` 0.48, of a count 0.47 (means of 40 draws, standard
    errors 0.02 to 0.03). :func:`expected` stays for what is told to a reader, in points of agreement; it needs no
    softmax. Source: S. Kullback and R. A. Leibler, "On Information and Sufficiency", Annals of Mathematical
    Statistics 22 (1951).
    """
    if kind == "sigmoid":
        p, q = (np.clip(values.astype(np.float64), _LEAST, 1 - _LEAST) for values in (reference, scores))
        parts = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    else:
        p, q = _log_probabilities(reference, kind), _log_probabilities(scores, kind)
        parts = np.exp(p) * (p - q)
    return float(parts.sum(axis=1).mean())
