"""Statistics of a proportion and of its paired change, as far as edge reports them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Two-sided 95 % quantile of the standard normal distribution.
Z95 = 1.959963984540054
NOISE = 0.05  # p at and above which a change counts as chance


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Return the lower and upper bound, in 0..1, of the Wilson score interval of a proportion.

    Unlike the plain normal interval it stays within 0..1 and holds for small n and near the ends; ``z`` is a quantile
    of the normal distribution. Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical
    Inference", Journal of the American Statistical Association 22 (1927).

    Raises:
        ValueError: n is not positive or successes is outside 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(lost: int, gained: int) -> float:
    """Return the exact two-sided p of McNemar's test: the probability of a change as uneven as this by chance.

    Only images on which two networks differ count: those ``lost``, right before and wrong after, and those
    ``gained``. If neither network is better, each of them is lost with probability 1/2: ``lost`` is binomial. p is
    twice the smaller tail, at most 1, and 1 without any such image. Source: Q. McNemar, "Note on the sampling error
    of the difference between correlated proportions or percentages", Psychometrika 12 (1947); exact form as in
    A. Agresti, "Categorical Data Analysis".

    Raises:
        ValueError: a negative count.
    """
    if lost < 0 or gained < 0:
        raise ValueError(f"{lost} lost, {gained} gained")
    total, smaller = lost + gained, min(lost, gained)
    if lost == gained:
        return 1.0
    # Sum the terms of the tail in logarithms, scaled by the largest, the last one.
    logs = [_log_choose(total, k) for k in range(smaller + 1)]
    scaled = math.fsum(math.exp(value - logs[-1]) for value in logs)
    return min(1.0, 2 * math.exp(logs[-1] - total * math.log(2) + math.log(scaled)))


def may_be_chance(p: float) -> bool:
    """Tell whether a paired change may be chance: p of :func:`mcnemar` decides, 0.05 and above is chance."""
    return p >= NOISE


def p_value(p: float) -> str:
    """Return a p-value as one reads it: ``p = 0.03`` or ``p < 0.001``."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def holm(values: Sequence[float]) -> tuple[float, ...]:
    """Return the p of several tests, adjusted so that one of them below a level is as rare as a single test below it.

    Source: S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6
    (1979).
    """
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = largest
    return tuple(adjusted)


def paired_interval(lost: int, gained: int, n: int, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of a paired change of a proportion, in -1..1, that agrees with :func:`mcnemar`.

    It is that of :func:`paired_bootstrap`. Of few changed answers the bootstrap is too sure, the exact test is not: if
    that finds nothing beyond chance, the interval is widened to 0; else it ends before 0.
    """
    low, high = paired_bootstrap(lost, gained, n, seed=seed)
    if may_be_chance(mcnemar(lost, gained)):
        return min(low, 0.0), max(high, 0.0)
    # A change beyond chance is one image at least.
    return (low, min(high, -1 / n)) if lost > gained else (max(low, 1 / n), high)


def paired_bootstrap(
    lost: int, gained: int, n: int, *, seed: int = 0, draws: int = 20_000, level: float = 0.95
) -> tuple[float, float]:
    """Return the bootstrap percentile interval of a paired change of a proportion: (gained - lost) / n, in -1..1.

    Drawing n images with replacement is the same as drawing the counts of lost, gained and unchanged images from a
    multinomial distribution with the observed shares. So single images are not needed. ``level`` is the share of the
    draws inside the interval. Source: B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993),
    chapter 13.

    Raises:
        ValueError: counts that are negative or more than n.
    """
    if n <= 0 or min(lost, gained) < 0 or lost + gained > n:
        raise ValueError(f"{lost} lost and {gained} gained of {n}")
    shares = [lost / n, gained / n, (n - lost - gained) / n]
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = rng.multinomial(n, shares, size=draws)
    changes = (drawn[:, 1] - drawn[:, 0]) / n
    low, high = np.quantile(changes, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
