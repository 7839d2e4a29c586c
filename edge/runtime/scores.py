"""How class scores are read: the one place that makes probabilities of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.runtime.protocol import Scores
from edge.specs.schema import ScoreKind


def probabilities(scores: Scores, kind: ScoreKind | None) -> NDArray[np.float64]:
    """Return the classes' probabilities, (…, classes), of scores of that shape.

    Logits go through a softmax. What a Softmax or Sigmoid at the network's end gave stays as it is, though quantized
    values add up to 1 only nearly: a second softmax would make 2 % of 50 %. Scores of unknown kind (None) stay too,
    and are no probabilities then.
    """
    values = scores.astype(np.float64)
    if kind != "logits":
        return values
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
