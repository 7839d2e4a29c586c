"""Measured size and work beside the published figures, and why they differ where they do."""

from __future__ import annotations

from attrs import frozen

from edge.specs import Published
from edge.survey.record import Counted

TOLERANCE = 2.0  # percent


@frozen
class Compared:
    """Percentages are measured against published; None where nothing was published.

    Attributes:
        parameters: difference in percent.
        macs: difference in percent.
        why: of a difference beyond the tolerance, in words; empty where there is none.
        explained: every difference is within the tolerance or has its reason, checked by a count.
    """

    parameters: float | None
    macs: float | None
    why: str
    explained: bool


def compare(counted: Counted, published: Published | None) -> Compared:
    """Set a count beside what others published of the same model."""
    parameters = _percent(counted.parameters / 1e6, published.params_m if published else None)
    macs = _percent(counted.macs / 1e9, published.gflops if published else None)
    reasons = []
    explained = True
    if parameters is not None and abs(parameters) > TOLERANCE:
        reasons.append("parameters: no reason known")
        explained = False
    if macs is not None and published is not None and published.gflops and abs(macs) > TOLERANCE:
        reason, good = _why(counted, published.gflops)
        reasons.append(reason)
        explained = explained and good
    return Compared(parameters, macs, "; ".join(reasons), explained)


def _why(counted: Counted, gflops: float) -> tuple[str, bool]:
    """Return the reason of a difference, and whether a count bears it out."""
    if counted.macs_published_at is not None:
        there = counted.macs_published_at / 1e9
        off = _percent(there, gflops) or 0.0
        side = counted.published_at
        said = f"counted at {side}x{side} it is {there:.3f} G ({off:+.2f} %)"
        if abs(off) <= TOLERANCE:
            return f"the published count is of a {side}x{side} input: {said}", True
        return f"not the input size: {said}", False
    candidates = {
        "additions and multiplications counted apart": 2 * counted.macs,
        "attention's products left out": counted.macs - counted.attention,
        "everything else counted too": counted.macs + counted.other,
    }
    for reason, operations in candidates.items():
        off = _percent(operations / 1e9, gflops) or 0.0
        if abs(off) <= TOLERANCE:
            return f"the published count fits {reason}: {operations / 1e9:.3f} G ({off:+.2f} %)", True
    return "no convention known here gives the published count", False


def _percent(measured: float, published: float | None) -> float | None:
    return None if not published else 100 * (measured - published) / published
