"""How far a network's outputs for an image are from the float network's, as a smooth measure.

AP and Top-1 move by whole boxes and images. What chooses numbers one by one, on some dozen images, needs a measure that
moves with every output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.detect.decode import decode_all
from edge.measure.networks import Outputs
from edge.measure.scores import divergence
from edge.specs.detector import Detector
from edge.specs.schema import ScoreKind

Damage = Callable[[Outputs], float]
"""Outputs for one image -> 0 and up; 0 for the float network's own."""
Floats = NDArray[np.floating[Any]]

BOX = 4.0  # nats that a sure box counts for if it does not overlap the float network's at all
_LEAST = 1e-4  # probability; what is far below it is never a box
_NOISE_FREE = 1e-12


def of_scores(kind: ScoreKind) -> Callable[[Outputs], Damage]:
    """Return the damage to class scores: the divergence of the probabilities, in nats."""
    return lambda reference: lambda outputs: divergence(_row(reference), _row(outputs), kind)


def of_values(reference: Outputs) -> Damage:
    """Return the damage to outputs of unknown meaning: noise by signal, each a mean square, summed over the outputs."""
    signals = [float(np.square(one, dtype=np.float64).mean()) for one in reference]

    def damage(outputs: Outputs) -> float:
        noise = (float(np.square(a - b, dtype=np.float64).mean()) for a, b in zip(outputs, reference, strict=True))
        return sum(part / max(signal, _NOISE_FREE) for part, signal in zip(noise, signals, strict=True))

    return damage


def of_boxes(detector: Detector, names: Sequence[str], size: tuple[int, int]) -> Callable[[Outputs], Damage]:
    """Return the damage to a detector's candidates: of their scores, in nats, and of the boxes of those that count.

    ::

        sum over candidates and classes of KL(p, q)  +  4 * sum over candidates of max(p) * (1 - IoU)

    where p are the float network's scores and q the others.

    Args:
        names: of the outputs, in their order.
        size: (height, width) of the network's input in pixels.
    """

    def candidates(outputs: Outputs) -> tuple[Floats, Floats]:
        boxes, scores, objectness = decode_all(list(outputs), names, detector, size=size)
        scores = scores if objectness is None else scores * objectness[:, None]
        return boxes, scores

    def of(reference: Outputs) -> Damage:
        boxes, p = candidates(reference)
        weight = BOX * p.max(axis=1)

        def damage(outputs: Outputs) -> float:
            others, q = candidates(outputs)
            yes = p * np.log((p + _LEAST) / (q + _LEAST))
            no = (1 - p) * np.log((1 - p + _LEAST) / (1 - q + _LEAST))
            lost = weight * (1 - _overlap(boxes, others))
            return float((yes + no).sum(dtype=np.float64) + lost.sum(dtype=np.float64))

        return damage

    return of


def _row(outputs: Outputs) -> NDArray[np.float32]:
    return np.asarray(outputs[0], np.float32).reshape(1, -1)


def _overlap(boxes: Floats, others: Floats) -> Floats:
    """Return the intersection over union of each box with its counterpart, (n,)."""
    inside = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    both = np.clip(inside, 0, None).prod(axis=1)
    areas = (np.clip(one[:, 2:] - one[:, :2], 0, None).prod(axis=1) for one in (boxes, others))
    return np.asarray(both / np.maximum(sum(areas) - both, _NOISE_FREE))
