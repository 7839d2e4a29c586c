"""COCO's average precision of boxes, and how sure a change of it is, on the same images.

Boxes are matched with objects by pycocotools, image by image. A resampling of the images needs no new matching: it
counts each image as often as it was drawn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.errors import UsageError, counted
from edge.images.annotations import Truth, truth

#: Columns of a row: left, top, right, bottom in pixels of the image, score, class. A score of 0 is no box.
Rows = NDArray[np.float32]

SHOWN = 0.25  # score from which a box counts as an answer; the usual one of demos
SMALL, LARGE = 32**2, 96**2  # COCO's bounds of the areas, in square pixels
_AREAS = ((0.0, 1e10), (0.0, float(SMALL)), (float(SMALL), float(LARGE)), (float(LARGE), 1e10))
_DRAWS, _LEAST_DRAWS, _MOST_IMAGES = 999, 199, 1_000_000  # of the bootstrap; images drawn in all of it
_MOST_VALUES = 4_000_000  # that a batch of draws holds of a class

Weights = NDArray[np.int64]  # (draws, images): how often each image counts
Floats = NDArray[np.float64]


@frozen
class AveragePrecision:
    """COCO's figures, in percent; None where there are no objects of that size."""

    ap: float  #: mean over the classes and over IoU 0.50 to 0.95.
    ap50: float  #: the same at IoU 0.50 alone.
    small: float | None  #: ``ap`` of objects below 32 x 32 pixels.
    medium: float | None  #: of those up to 96 x 96.
    large: float | None  #: of those above.


@frozen
class ApChange:
    """The change of the average precision from one set of boxes to another, on the same images."""

    points: float  #: AP after minus AP before, in points.
    interval: tuple[float, float]  #: 95 % interval of ``points``.
    p: float  #: two-sided.
    draws: int  #: resamplings behind the two.


@frozen(eq=False)
class _Class:
    """The boxes of a class on all images, best first, and how many objects there are."""

    images: NDArray[np.int64]  # (boxes,)
    hits: NDArray[np.bool_]  # (IoUs, boxes): matched with an object that counts
    ignored: NDArray[np.bool_]  # (IoUs, boxes): counts neither as right nor as wrong
    objects: NDArray[np.int64]  # (images,): those that count


@frozen(eq=False)
class Matches:
    """Boxes matched with objects, image by image; from :func:`match`."""

    images: int  #: how many.
    #: of each object, in the truth's order, the score of the box that finds it at IoU 0.50; 0 without one.
    found: tuple[NDArray[np.float32], ...]
    _areas: tuple[tuple[_Class, ...], ...]
    _recalls: Floats

    def average_precision(self, counted: NDArray[np.bool_] | None = None) -> AveragePrecision:
        """Return COCO's figures, as pycocotools' own ``accumulate`` and ``summarize`` give them.

        Args:
            counted: which images count, (images,); all of them by default.

        Raises:
            UsageError: none of them has an object.
        """
        once = (np.ones(self.images, bool) if counted is None else counted).astype(np.int64)[None]
        sizes = [self._precision(place, once) for place in range(len(_AREAS))]
        ap, small, medium, large = (
            None if np.isnan(found).all() else 100 * float(np.nanmean(found)) for found in sizes
        )
        if ap is None:
            raise UsageError("no image has an object", expected="at least one object that is no crowd")
        return AveragePrecision(ap, 100 * float(np.nanmean(sizes[0][..., 0])), small, medium, large)

    def resampled(self, weights: Weights) -> Floats:
        """Return AP, 0..1, for each draw: (draws,); nan where no object was drawn."""
        with np.errstate(invalid="ignore"):
            found = self._precision(0, weights).mean(axis=2)
        known = ~np.isnan(found)
        count = known.sum(axis=0)
        return np.where(count > 0, np.where(known, found, 0).sum(axis=0) / np.maximum(count, 1), np.nan)

    def _precision(self, area: int, weights: Weights) -> Floats:
        """Return average precision by (class, draw, IoU), nan where a class has no objects."""
        return np.stack([_precision(one, weights, self._recalls) for one in self._areas[area]])


def truth_of(rows: Rows, score: float = SHOWN) -> Truth:
    """Return boxes from a score on as objects, to compare other boxes with where nobody labelled the images."""
    kept = rows[rows[:, 4] >= score]
    return truth(kept[:, :4].tolist(), kept[:, 5].astype(np.int64).tolist())


def match(predictions: Sequence[Rows], truths: Sequence[Truth], classes: int) -> Matches:
    """Match the boxes of each image with its objects, by COCO's rules: 100 boxes per image and class at most.

    Raises:
        UsageError: pycocotools is not installed, or the two are not of the same images.
    """
    if len(predictions) != len(truths):
        raise UsageError(f"boxes of {counted(len(predictions), 'image')}", expected=f"{len(truths)}, as the objects")
    judge, scores, places = _judge(predictions, truths)
    found = [np.zeros(len(one), np.float32) for one in truths]
    limit = judge.params.maxDets[-1]
    areas: list[dict[int, list[tuple[int, dict[str, Any]]]]] = [defaultdict(list) for _ in _AREAS]
    for image, label in sorted({*judge._gts, *judge._dts}):
        if not judge._gts.get((image, label)):  # most pairs of image and class; pycocotools' way takes minutes for them
            for bounds, area in zip(_AREAS, areas, strict=True):
                area[label].append((image, _unmatched(judge._dts[image, label], bounds, limit, judge.params.iouThrs)))
            continue
        judge.ious[image, label] = judge.computeIoU(image, label)
        for bounds, area in zip(_AREAS, areas, strict=True):
            area[label].append((image, judge.evaluateImg(image, label, list(bounds), limit)))
        result = areas[0][label][-1][1]
        for identity, box in zip(result["gtIds"], result["gtMatches"][0], strict=True):
            if box:
                found[image][places[identity]] = scores[int(box)]
    empty = _joined([], len(truths), len(judge.params.iouThrs))
    return Matches(
        len(truths),
        tuple(found),
        tuple(
            tuple(
                _joined(area[label], len(truths), len(judge.params.iouThrs)) if label in area else empty
                for label in range(classes)
            )
            for area in areas
        ),
        np.asarray(judge.params.recThrs, np.float64),
    )


def change(
    before: Matches,
    after: Matches,
    *,
    counted: NDArray[np.bool_] | None = None,
    seed: int = 0,
    draws: int | None = None,
) -> ApChange:
    """Return the change of AP with its 95 % interval and p, by a paired bootstrap over the images.

    Each draw takes as many images as there are, with replacement, the same ones for both, and gives a difference of
    AP. The interval leaves 2.5 % of the differences out at each end. p is twice the share of the differences on the
    other side of 0, with the observed one counted; below 0.05 exactly where the interval excludes 0. Source: B. Efron
    and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 13 and 15.

    Args:
        counted: which images count, (images,); all of them by default.
        draws: by default 999, fewer for more than a thousand images, 199 at least.
    """
    those = np.arange(before.images) if counted is None else np.flatnonzero(counted)
    images = len(those)
    draws = draws or min(_DRAWS, max(_LEAST_DRAWS, _MOST_IMAGES // max(1, images)))
    rng = np.random.Generator(np.random.PCG64(seed))
    weights = np.zeros((draws, before.images), np.int64)
    weights[:, those] = rng.multinomial(images, np.full(images, 1 / images), size=draws)
    differences = after.resampled(weights) - before.resampled(weights)
    differences = np.sort(differences[~np.isnan(differences)])
    count = len(differences)
    points = after.average_precision(counted).ap - before.average_precision(counted).ap
    if not count:
        return ApChange(points, (points, points), 1.0, 0)
    least = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    # So many differences are left out that the interval and p agree on 0.
    out = max(0, int(np.ceil(0.025 * (count + 1))) - 2)
    low, high = 100 * differences[out], 100 * differences[count - 1 - out]
    return ApChange(points, (float(low), float(high)), min(1.0, 2 * (1 + int(least)) / (1 + count)), count)


def _judge(predictions: Sequence[Rows], truths: Sequence[Truth]) -> tuple[Any, NDArray[np.float32], NDArray[np.int64]]:
    """Return pycocotools' evaluation with boxes and objects in it, scores of the boxes, places of the objects.

    Both are found by the identities that are counted from 1, since 0 stands for no match there.
    """
    try:
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise UsageError("pycocotools is not installed", remedy="pip install pycocotools") from None
    judge = COCOeval(iouType="bbox")
    judge.params.useCats = 1
    judge._gts, judge._dts = defaultdict(list), defaultdict(list)
    places, scores = [0], [0.0]
    for image, (rows, objects) in enumerate(zip(predictions, truths, strict=True)):
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        for place, label in enumerate(objects.labels.tolist()):
            crowd = int(objects.crowd[place])
            one = {
                "id": len(places),
                "bbox": [*objects.boxes[place, :2].tolist(), *sides[place].tolist()],
                "area": float(objects.areas[place]),
                "iscrowd": crowd,
                "ignore": crowd,
            }
            judge._gts[image, label].append(one)
            places.append(place)
        for row in rows[rows[:, 4] > 0].astype(np.float64):
            left, top, right, bottom, score, label = row.tolist()
            box = [left, top, right - left, bottom - top]
            one = {"id": len(scores), "bbox": box, "area": box[2] * box[3], "score": score}
            judge._dts[image, int(label)].append(one)
            scores.append(score)
    return judge, np.array(scores, np.float32), np.array(places, np.int64)


def _unmatched(
    boxes: Sequence[dict[str, Any]], bounds: tuple[float, float], limit: int, thresholds: Sequence[float]
) -> dict[str, Any]:
    """Return what pycocotools' ``evaluateImg`` gives for boxes of a class that the image does not show."""
    best = sorted(boxes, key=lambda one: -one["score"])[:limit]  # keeps the order of equal scores, as theirs
    outside = [not bounds[0] <= one["area"] <= bounds[1] for one in best]
    return {
        "dtMatches": np.zeros((len(thresholds), len(best))),
        "dtIgnore": np.tile(outside, (len(thresholds), 1)),
        "dtScores": [one["score"] for one in best],
        "gtIgnore": np.empty(0),
    }


def _joined(results: Sequence[tuple[int, dict[str, Any]]], images: int, thresholds: int) -> _Class:
    """Return pycocotools' results of a class on single images as one."""
    objects = np.zeros(images, np.int64)
    for image, result in results:
        objects[image] = np.count_nonzero(result["gtIgnore"] == 0)
    nothing = np.empty((thresholds, 0), bool)
    scores = np.concatenate([np.empty(0), *(np.asarray(result["dtScores"], np.float64) for _, result in results)])
    order = np.argsort(-scores, kind="mergesort")
    matched, ignored = (
        np.concatenate([nothing, *(np.asarray(result[key], bool) for _, result in results)], axis=1)[:, order]
        for key in ("dtMatches", "dtIgnore")
    )
    of = np.concatenate([np.empty(0, np.int64), *(np.full(len(r["dtScores"]), image) for image, r in results)])
    return _Class(of[order].astype(np.int64), matched & ~ignored, ignored, objects)


def _precision(one: _Class, weights: Weights, recalls: Floats) -> Floats:
    """Return the average precision of a class by (draw, IoU), nan where it has no objects.

    Precision falls at every wrong box and is taken as its highest value to the right, so only boxes that hit matter.
    """
    objects = weights @ one.objects
    found = np.zeros((len(weights), len(one.hits)))
    found[objects == 0] = np.nan
    if not one.objects.any() or not one.hits.any():
        return found
    step = max(1, _MOST_VALUES // len(one.images))
    for start in range(0, len(weights), step):
        part = slice(start, start + step)
        drawn = weights[part][:, one.images]
        seen = np.cumsum(drawn, axis=1)
        for place, (hits, ignored) in enumerate(zip(one.hits, one.ignored, strict=True)):
            found[part, place] += _area(
                drawn, seen, np.flatnonzero(hits), np.flatnonzero(ignored), objects[part], recalls
            )
    return found


def _area(
    drawn: Weights,
    seen: Weights,
    hits: NDArray[np.int64],
    ignored: NDArray[np.int64],
    objects: NDArray[np.int64],
    recalls: Floats,
) -> Floats:
    """Return the mean of the precision over the recalls, (draws,)."""
    right = np.cumsum(drawn[:, hits], axis=1)
    total = seen[:, hits]
    if len(ignored):
        passed = np.concatenate((np.zeros((len(drawn), 1), np.int64), np.cumsum(drawn[:, ignored], axis=1)), axis=1)
        total = total - passed[:, np.searchsorted(ignored, hits)]
    precision = right / (total + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(recalls, right / np.maximum(objects, 1)[:, None], side="right")
    steps = np.diff(reached, axis=1, prepend=0)
    mean: Floats = (steps * precision).sum(axis=1) / len(recalls)
    return mean
