"""Class scores compared with labels and with other scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.evaluate.table import Score

Scores = NDArray[np.float32]


def ranks(scores: Scores, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each row's label among its scores; 0 is Top-1.

    Of equal scores the lower class index comes first, as with argmax.

    Args:
        scores: (n, classes).
        labels: (n,) class indices.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    lower = np.arange(scores.shape[1])[None] < labels[:, None]
    ahead: NDArray[np.int64] = ((scores > own) | ((scores == own) & lower)).sum(axis=1)
    return ahead


def score(scores: Scores, labels: NDArray[np.int64]) -> Score:
    """Count the right answers.

    Args:
        scores: (n, classes).
        labels: (n,) class indices.
    """
    places = ranks(scores, labels)
    return Score(len(labels), top1_right=int((places == 0).sum()), top5_right=int((places < 5).sum()))


def cosine(a: Scores, b: Scores) -> NDArray[np.float64]:
    """Return the cosine of each row of ``a`` with the same row of ``b``; 0 where a row is all zero."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norm = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    result: NDArray[np.float64] = np.divide((x * y).sum(axis=1), norm, out=np.zeros(len(x)), where=norm > 0)
    return result
