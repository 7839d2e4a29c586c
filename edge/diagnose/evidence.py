"""What a diagnosis measured, before it is judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.diagnose.findings import CpuNode, InputCheck, Share
from edge.diagnose.frames import cosines
from edge.evaluate.scoring import Scores
from edge.statistics import mcnemar

if TYPE_CHECKING:
    from edge.built import Built
    from edge.diagnose.inputs import Tried
    from edge.diagnose.precision import Precision
    from edge.diagnose.weights import ChangedTensor

ALPHA = 0.01
DRAWS = 4000
RIVALS, NODES = 10, 24  # of the expected agreement


@frozen
class Gain:
    """What a change wins over the network as built, on the same pictures.

    Attributes:
        what: name of the change, or of the layer.
        before: pictures with the float network's answer as built.
        after: the same with the change.
        n: pictures.
        p: exact McNemar of the two.
        cosine_before: mean cosine with float's scores.
        cosine_after: the same with the change.
        expected: gain in agreement, in points, that the nearer scores let expect; see :func:`expected`.
        p_closer: that the cosine rises so much by chance; paired sign-flip test on the pictures' differences.
    """

    what: str
    before: int
    after: int
    n: int
    p: float
    cosine_before: float
    cosine_after: float
    expected: float
    p_closer: float

    @property
    def points(self) -> float:
        """Gain in agreement that was counted, in points."""
        return 100 * (self.after - self.before) / self.n

    @property
    def sure(self) -> bool:
        """Whether scores come closer to float's beyond chance."""
        return self.cosine_after > self.cosine_before and self.p_closer < ALPHA

    @property
    def figure(self) -> str:
        """The figure as remedies cite it."""
        return (
            f"agreement with float {100 * self.before / self.n:.1f} → {100 * self.after / self.n:.1f} %, "
            f"cosine {self.cosine_before:.4f} → {self.cosine_after:.4f} ({self.n} pictures)"
        )


@frozen(eq=False)
class Step:
    """The network after one step of the build against the step before, on the same pictures.

    Attributes:
        name: ``NV12``, ``simplify``, ``optimize``, ``calibrated`` or ``program``.
        what: in words.
        agreement: share of the pictures with the same answer, 0..1.
        cosine: mean of the scores'.
    """

    name: str
    what: str
    agreement: float
    cosine: float


@frozen(eq=False)
class Evidence:
    """What was measured.

    Attributes:
        built: the build.
        n: pictures.
        labelled: whether they carry labels.
        checks: changes of the float network's input.
        program_checks: of the program's NV12.
        own_normalisation: how the float ONNX normalises its input itself; '' if it does not.
        pixel_range: 0.1 % and 99.9 % quantiles of the pictures' pixels, 0..255.
        steps: the network after one step of the build against the step before.
        shares: weights, activations, both, NV12.
        changed: weights that a step changed.
        cpu: nodes on the CPU.
        precision: the calibrated network taken apart; None without one.
    """

    built: Built
    n: int
    labelled: bool
    checks: tuple[Tried, ...]
    program_checks: tuple[InputCheck, ...]
    own_normalisation: str
    pixel_range: tuple[float, float]
    steps: tuple[Step, ...]
    shares: tuple[Share, ...]
    changed: tuple[ChangedTensor, ...]
    cpu: tuple[CpuNode, ...]
    precision: Precision | None

    def step(self, name: str) -> Step | None:
        """Return a step; None if it was not measured."""
        return next((step for step in self.steps if step.name == name), None)

    def share(self, part: str) -> Share | None:
        """Return a share; None if it was not measured."""
        return next((share for share in self.shares if share.part == part), None)


def gain(what: str, reference: Scores, before: Scores, after: Scores) -> Gain:
    """Return what a change wins.

    Args:
        what: its name.
        reference: (n, classes) of the float network.
        before: as built.
        after: with the change.
    """
    answers = reference.argmax(1)
    old, new = before.argmax(1) == answers, after.argmax(1) == answers
    near_before, near_after = cosines(reference, before), cosines(reference, after)
    return Gain(
        what=what,
        before=int(old.sum()),
        after=int(new.sum()),
        n=len(answers),
        p=mcnemar(int((old & ~new).sum()), int((new & ~old).sum())),
        cosine_before=float(near_before.mean()),
        cosine_after=float(near_after.mean()),
        expected=100 * (expected(reference, after) - expected(reference, before)),
        p_closer=_sign_flip(near_after - near_before),
    )


def expected(reference: Scores, scores: Scores) -> float:
    """Return the agreement that the scores' errors let expect, 0..1.

    A count of equal answers moves by whole pictures. This takes each picture's errors as independent and
    normal with their own standard deviation s, and asks how likely the first answer stays before each of its
    nearest rivals j, a margin m_j behind: the integral of phi(t) * prod_j Phi(t + m_j / s) over t, by
    Gauss and Hermite, averaged over the pictures.

    Args:
        reference: (n, classes) of the float network.
        scores: (n, classes) of the other.
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


def _sign_flip(differences: NDArray[np.float64]) -> float:
    """Return the one-sided p of a paired randomization test: how often random signs give as large a mean.

    Unlike a count of signs it sees a change that helps few pictures much. Source: R. A. Fisher, "The Design
    of Experiments" (1935), section 21.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    signs = rng.integers(0, 2, (DRAWS, len(differences)), np.int8) * 2 - 1
    means = signs @ differences
    return float((1 + np.count_nonzero(means >= differences.sum() - 1e-12)) / (1 + DRAWS))


def compare(name: str, what: str, before: Scores, after: Scores) -> Step:
    """Return how far a step moved the scores."""
    return Step(
        name=name,
        what=what,
        agreement=float((before.argmax(1) == after.argmax(1)).mean()),
        cosine=float(cosines(before, after).mean()),
    )


def share(part: str, reference: Scores, scores: Scores, labels: NDArray[np.int64] | None) -> Share:
    """Return how far a part moves the scores from the reference's."""
    return Share(
        part=part,
        agreement=float((reference.argmax(1) == scores.argmax(1)).mean()),
        cosine=float(cosines(reference, scores).mean()),
        top1=None if labels is None else 100 * float((scores.argmax(1) == labels).mean()),
    )


def names(items: Sequence[str], most: int = 3) -> str:
    """Return the first of several names, and how many more there are."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
