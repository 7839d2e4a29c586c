"""Decode a detector's outputs.

A score is above a threshold where its logit is above the threshold's logit, so no exponential is taken of the many
candidates that nobody wants: boxes and scores are computed for those that pass. A candidate gives one box, of its best
class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.errors import UsageError
from edge.specs.detector import Detector, Scale

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@frozen(eq=False)
class Boxes:
    """The boxes of an image, best first."""

    boxes: Floats  #: (n, 4): left, top, right, bottom in pixels of the network's input, or of the image.
    scores: Floats  #: (n,), 0..1.
    labels: Indices  #: (n,), index of the class.

    def __len__(self) -> int:
        return len(self.scores)


def decode(
    outputs: Sequence[Floats],
    names: Sequence[str],
    detector: Detector,
    *,
    size: tuple[int, int],
    score: float = 0.25,
    iou: float = 0.65,
    limit: int = 300,
    class_agnostic: bool = False,
) -> Boxes:
    """Return the boxes of an image.

    Args:
        outputs: arrays (1, channels, height, width).
        names: of the outputs, in their order.
        detector: what they mean.
        size: (height, width) of the network's input in pixels.
        score: boxes below it are left out.
        iou: of two boxes of a class that overlap more, the worse one is left out.
        limit: most boxes that are returned.
        class_agnostic: overlap counts across classes too.

    Raises:
        UsageError: an output is missing, or its shape is not the detector's; or a threshold is not in 0..1.
    """
    if not (0 <= score <= 1 and 0 <= iou <= 1 and limit >= 1):
        raise UsageError(f"score {score}, iou {iou}, limit {limit}", expected="score and iou in 0..1, limit above 0")
    maps = _maps(outputs, names, detector, size)
    found = [_above(maps, scale, detector, score) for scale in detector.scales]
    boxes, scores, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(-scores, kind="stable")
    if detector.nms:
        order = order[_kept(boxes[order], None if class_agnostic else labels[order], scores[order], iou)]
    order = order[:limit]
    return Boxes(boxes[order], scores[order], labels[order])


def decode_all(
    outputs: Sequence[Floats], names: Sequence[str], detector: Detector, *, size: tuple[int, int]
) -> tuple[Floats, Floats, Floats | None]:
    """Return every candidate's box (n, 4), class probabilities (n, classes) and objectness (n,), in the maps' order.

    These are what :func:`decode` chooses from, for comparison with a network's own decoder.
    """
    maps = _maps(outputs, names, detector, size)
    boxes, scores, objectness = [], [], []
    for scale in detector.scales:
        logits = _planes(maps[scale.scores], scale)
        anchors, classes, cells = logits.shape
        anchor, cell = (index.ravel() for index in np.indices((anchors, cells)))
        boxes.append(_boxes(maps, scale, detector, anchor, cell))
        scores.append(_sigmoid(logits.transpose(0, 2, 1).reshape(-1, classes)))
        if scale.objectness is not None:
            objectness.append(_sigmoid(maps[scale.objectness].ravel()))
    return np.concatenate(boxes), np.concatenate(scores), np.concatenate(objectness) if objectness else None


def _maps(
    outputs: Sequence[Floats], names: Sequence[str], detector: Detector, size: tuple[int, int]
) -> Mapping[str, Floats]:
    """Return the outputs by name; raise UsageError for one that is missing or of another shape."""
    maps = dict(zip(names, outputs, strict=True))
    for scale in detector.scales:
        for name, channels in detector.channels(scale).items():
            wanted = (1, channels, size[0] // scale.stride, size[1] // scale.stride)
            if name not in maps:
                raise UsageError(f"no output {name!r} among {', '.join(names)}", expected=", ".join(detector.outputs))
            if maps[name].shape != wanted:
                raise UsageError(
                    f"output {name!r} is {'x'.join(map(str, maps[name].shape))}",
                    expected=f"{'x'.join(map(str, wanted))}, by the detector's scale of stride {scale.stride}",
                )
    return maps


def _planes(map_: Floats, scale: Scale) -> Floats:
    """Return a map as (anchors, channels of an anchor, cells)."""
    anchors = max(1, len(scale.anchors))
    return map_.reshape(anchors, map_.shape[1] // anchors, -1)


def _above(
    maps: Mapping[str, Floats], scale: Scale, detector: Detector, score: float
) -> tuple[Floats, Floats, Indices]:
    """Return boxes, scores and labels of a scale's candidates that reach a score."""
    least = np.float32(_logit(score))
    logits = _planes(maps[scale.scores], scale)
    if detector.family == "centernet":
        label, cell = _peaks(maps[scale.scores][0], least)
        anchor = np.zeros_like(cell)
        scores = _sigmoid(logits[0, label, cell])
    elif scale.objectness is None:
        anchor, cell = np.nonzero(logits.max(axis=1) >= least)
        label, best = _best(logits, anchor, cell)
        scores = _sigmoid(best)
    else:  # both factors are at most 1, so each has to reach the score by itself
        objects = _planes(maps[scale.objectness], scale)[:, 0]
        anchor, cell = np.nonzero(objects >= least)
        label, best = _best(logits, anchor, cell)
        scores = _sigmoid(best) * _sigmoid(objects[anchor, cell])
        passing = np.flatnonzero(scores >= score)
        anchor, cell, label, scores = anchor[passing], cell[passing], label[passing], scores[passing]
    return _boxes(maps, scale, detector, anchor, cell), scores, label


def _best(logits: Floats, anchor: Indices, cell: Indices) -> tuple[Indices, Floats]:
    """Return the best class of candidates and its logit."""
    rows = logits[anchor, :, cell]
    label = rows.argmax(axis=1)
    return label, np.take_along_axis(rows, label[:, None], axis=1)[:, 0]


def _peaks(heat: Floats, least: np.float32) -> tuple[Indices, Indices]:
    """Return class and cell of each local maximum of heat maps that reaches a logit."""
    labels, cells = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for label in np.flatnonzero(heat.max(axis=(1, 2)) >= least):
        plane = np.ascontiguousarray(heat[label])
        highest = cv2.dilate(plane, np.ones((3, 3), np.uint8))
        cell = np.flatnonzero((plane >= least) & (plane == highest))
        cells.append(cell)
        labels.append(np.full_like(cell, label))
    return np.concatenate(labels), np.concatenate(cells)


def _boxes(maps: Mapping[str, Floats], scale: Scale, detector: Detector, anchor: Indices, cell: Indices) -> Floats:
    """Return the boxes (n, 4) of candidates: corners in pixels of the network's input."""
    width = maps[scale.boxes].shape[3]
    raw = _planes(maps[scale.boxes], scale)[anchor, :, cell]
    corner = np.stack((cell % width, cell // width), axis=1).astype(np.float32)  # of the cell, in strides
    if detector.family == "dfl":
        near, far = np.split(_distances(raw, detector.reg_max), 2, axis=1)
        low, high = corner + np.float32(0.5) - near, corner + np.float32(0.5) + far
        return np.concatenate((low, high), axis=1) * np.float32(scale.stride)
    if detector.family == "anchors":
        ratios = 2 * _sigmoid(raw)
        middle = (corner + ratios[:, :2] - np.float32(0.5)) * np.float32(scale.stride)
        sides = ratios[:, 2:] ** 2 * np.asarray(scale.anchors, np.float32)[anchor]
    elif detector.family == "yolox":
        middle = (corner + raw[:, :2]) * np.float32(scale.stride)
        with np.errstate(over="ignore"):
            sides = np.exp(raw[:, 2:]) * np.float32(scale.stride)
    else:
        if scale.offsets is not None:
            corner += _planes(maps[scale.offsets], scale)[anchor, :, cell]
        middle, sides = corner * np.float32(scale.stride), raw * np.float32(scale.stride)
    return np.concatenate((middle - sides / 2, middle + sides / 2), axis=1)


def _distances(raw: Floats, bins: int) -> Floats:
    """Return the distances to left, top, right and bottom in strides: means of distributions over the bins."""
    if bins == 1:
        return raw
    shares = raw.reshape(-1, 4, bins)
    shares = np.exp(shares - shares.max(axis=2, keepdims=True))
    means: Floats = shares @ np.arange(bins, dtype=np.float32) / shares.sum(axis=2)
    return means


def _kept(boxes: Floats, labels: Indices | None, scores: Floats, iou: float) -> Indices:
    """Return the places of boxes that non-maximum suppression keeps, best first."""
    if not len(boxes):
        return np.empty(0, np.int64)
    corners = boxes.astype(np.float64)
    if labels is not None:  # classes are moved apart, so that boxes of two classes never overlap
        corners += (labels * (np.ptp(corners) + 1.0))[:, None]
    corners[:, 2:] -= corners[:, :2]
    # Lists, and a flat answer: OpenCV 4.5 on the board takes no arrays, and gives a column.
    kept = cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), 0.0, iou)
    return np.asarray(kept, np.int64).reshape(-1)


def _logit(share: float) -> float:
    if share <= 0:
        return -math.inf
    return math.inf if share >= 1 else math.log(share / (1 - share))


def _sigmoid(logits: Floats) -> Floats:
    with np.errstate(over="ignore"):
        shares: Floats = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return shares
