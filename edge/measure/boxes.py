"""A detector's answers as rows of boxes, and how far they are from the float network's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.detect import decode
from edge.errors import UsageError
from edge.images.annotations import Truth
from edge.images.preprocess import unletterbox
from edge.measure.average_precision import SHOWN, AveragePrecision, Matches, Rows, match, truth_of
from edge.measure.networks import Outputs
from edge.specs import Preprocess
from edge.specs.detector import Detector

BOXES, VALUES = 300, 6  # of an answer to an image
LEAST, IOU = 0.01, 0.65  # score from which a box is kept, and overlap at which the worse of two goes, of all figures

Answers = NDArray[np.float32]
"""(images, 1800): the rows of each image, flat."""
Shown = NDArray[np.bool_]
"""(images,), whether there is an answer."""
Differences = tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]
"""By image, the places of lost boxes among the one's rows and of gained ones among the other's."""


@frozen
class Boxer:
    """Turns a network's outputs into an answer: 300 rows of box, score and class."""

    detector: Detector
    names: tuple[str, ...]  #: of the outputs, in the order in which they come.
    preprocess: Preprocess

    def answer(self, outputs: Outputs, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the boxes in pixels of the image, best first, flat; rows that are left have score 0.

        Args:
            size: (height, width) of the image in its file.
        """
        found = decode(outputs, self.names, self.detector, size=self.preprocess.crop, score=LEAST, iou=IOU, limit=BOXES)
        rows = np.zeros((BOXES, VALUES), np.float32)
        count = len(found)
        rows[:count, :4] = unletterbox(found.boxes, size, self.preprocess)
        rows[:count, 4], rows[:count, 5] = found.scores, found.labels
        return rows.ravel()


def boxes_in(answer: NDArray[np.float32]) -> Rows:
    """Return the boxes of an image's answer, (n, 6)."""
    rows = answer.reshape(-1, VALUES)
    return rows[rows[:, 4] > 0].copy()


def differences(like: Sequence[Rows], rows: Sequence[Rows], classes: int) -> Differences:
    """Return by image the places of lost boxes in ``like`` and of gained ones in ``rows``.

    Both count from a score of 0.25 on; a box has a counterpart in the other that is of its class and overlaps by half.
    """
    ways = []
    for one, other in ((like, rows), (rows, like)):
        shown = [boxes[boxes[:, 4] >= SHOWN] for boxes in other]
        scores = match(shown, [truth_of(boxes) for boxes in one], classes).found
        # Rows are in the order of their scores, so the places are those of the whole.
        ways.append([np.flatnonzero(score == 0) for score in scores])
    return ways[0], ways[1]


def precision(matches: Matches, counted: Shown) -> AveragePrecision | None:
    """Return the average precision on some images; None if there is no object on them."""
    try:
        return matches.average_precision(counted)
    except UsageError:
        return None


def self_precision(rows: Sequence[Rows], objects: Sequence[Truth], counted: Shown, classes: int) -> float | None:
    """Return AP in percent with a network's own boxes as the objects; None if it has none on these images."""
    found = precision(match(rows, objects, classes), counted)
    return None if found is None else found.ap
