"""Statistics of a proportion, in the small part that edge reports."""

from __future__ import annotations

import math

# Two-sided 95 % quantile of the standard normal distribution.
Z95 = 1.959963984540054


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion.

    Unlike the plain normal interval it stays within 0..1 and holds for small n and near the ends.
    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    Journal of the American Statistical Association 22 (1927).

    Args:
        successes: 0..n.
        n: number of trials, above 0.
        z: quantile of the normal distribution; the default gives 95 %.

    Returns:
        Lower and upper bound, in 0..1.

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
