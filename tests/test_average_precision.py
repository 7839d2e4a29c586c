"""Average precision of boxes and the bootstrap of its change, against pycocotools' own whole evaluation."""

from __future__ import annotations

import contextlib
import io
import time
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edge.errors import UsageError
from edge.images.annotations import NOTHING, Truth, truth
from edge.measure.average_precision import change, match, truth_of

CLASSES = 5


def random_set(images: int, seed: int = 0, *, crowds: bool = True) -> tuple[list[np.ndarray], list[Truth]]:
    """Objects of all sizes, and boxes that find many of them, some twice, and much else besides."""
    rng = np.random.default_rng(seed)
    predictions, truths = [], []
    for _ in range(images):
        count = rng.integers(0, 9)
        corner, side = rng.uniform(0, 400, (count, 2)), np.exp(rng.uniform(2, 5.5, (count, 2)))
        boxes, labels = np.hstack([corner, corner + side]), rng.integers(0, CLASSES - 1, count)
        crowd = rng.random(count) < 0.1 if crowds else np.zeros(count, bool)
        truths.append(truth(boxes.tolist(), labels.tolist(), crowd.tolist(), (side.prod(1) * 0.7).tolist()))
        again = np.concatenate([boxes, boxes, rng.uniform(0, 200, (12, 4)) + np.array([0, 0, 250, 250])])
        again += rng.normal(0, 8, again.shape)
        again[:, 2:] = np.maximum(again[:, 2:], again[:, :2] + 1)
        label = np.concatenate([labels, labels, rng.integers(0, CLASSES, 12)])
        score = rng.permutation(np.linspace(0.011, 0.99, len(again)))
        rows = np.column_stack([again, score, label]).astype(np.float32)
        padding = np.zeros((3, 6), np.float32)  # unused rows of an answer
        predictions.append(np.concatenate([rows, padding]))
    return predictions, truths


def whole(predictions: list[np.ndarray], truths: list[Truth]) -> np.ndarray:
    """Run pycocotools as anybody would, and return its twelve figures."""
    images = [{"id": n + 1} for n in range(len(truths))]
    objects: list[dict[str, Any]] = []
    for n, one in enumerate(truths):
        for box, label, crowd, area in zip(one.boxes, one.labels, one.crowd, one.areas, strict=True):
            bbox = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
            row = {"image_id": n + 1, "category_id": int(label) + 1, "bbox": bbox, "area": area, "iscrowd": int(crowd)}
            objects.append({"id": len(objects) + 1, **row})
    boxes = [
        {
            "image_id": n + 1,
            "category_id": int(row[5]) + 1,
            "bbox": [*row[:2].tolist(), *(row[2:4].astype(float) - row[:2]).tolist()],
            "score": float(row[4]),
        }
        for n, rows in enumerate(predictions)
        for row in rows
        if row[4] > 0
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        categories = [{"id": n + 1, "name": str(n)} for n in range(CLASSES)]
        known.dataset = {"images": images, "annotations": objects, "categories": categories}
        known.createIndex()
        judge = COCOeval(known, known.loadRes(boxes), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_pycocotools_own(seed: int) -> None:
    predictions, truths = random_set(30, seed)
    own, theirs = match(predictions, truths, CLASSES).average_precision(), whole(predictions, truths)
    figures = [own.ap, own.ap50, own.small, own.medium, own.large]
    np.testing.assert_allclose(figures, 100 * theirs[[0, 1, 3, 4, 5]], rtol=0, atol=1e-9)
    assert 5 < own.ap < 95


def test_a_drawn_set_of_images_has_the_figure_of_that_set() -> None:
    """An image drawn twice is the same as two images."""
    predictions, truths = random_set(25, 7)
    rng = np.random.default_rng(0)
    drawn = [np.arange(25), *(rng.integers(0, 25, 25) for _ in range(5))]
    weights = np.array([np.bincount(one, minlength=25) for one in drawn])
    found = match(predictions, truths, CLASSES).resampled(weights)
    wanted = [whole([predictions[i] for i in np.sort(one)], [truths[i] for i in np.sort(one)])[0] for one in drawn]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


def test_a_part_of_the_images_has_the_figures_of_that_part() -> None:
    predictions, truths = random_set(30, 2)
    counted = np.arange(30) % 3 == 0
    part = [predictions[::3], truths[::3]]
    every, alone = match(predictions, truths, CLASSES), match(*part, CLASSES)
    own, wanted = every.average_precision(counted), alone.average_precision()
    assert [own.ap, own.ap50, own.large] == pytest.approx([wanted.ap, wanted.ap50, wanted.large], abs=1e-9)
    moved = match(worse(predictions, 5), truths, CLASSES)
    other = match([rows for rows, one in zip(worse(predictions, 5), counted, strict=True) if one], part[1], CLASSES)
    own_change, wanted_change = change(every, moved, counted=counted, draws=99), change(alone, other, draws=99)
    assert own_change.interval == pytest.approx(wanted_change.interval, abs=1e-9)
    assert own_change.p == wanted_change.p


def test_without_objects_of_a_size_there_is_no_figure_of_it() -> None:
    one = truth([(0, 0, 10, 10)], [0])
    rows = np.array([[0, 0, 10, 10, 0.9, 0]], np.float32)
    found = match([rows], [one], 1).average_precision()
    assert [found.ap, found.ap50, found.small] == pytest.approx([100, 100, 100])
    assert (found.medium, found.large) == (None, None)
    with pytest.raises(UsageError, match="no image has an object"):
        match([rows], [NOTHING], 1).average_precision()
    with pytest.raises(UsageError, match="boxes of 1 image"):
        match([rows], [], 1)


def test_no_box_at_all_finds_nothing() -> None:
    found = match([np.zeros((0, 6), np.float32)], [truth([(0, 0, 10, 10)], [0])], 1).average_precision()
    assert (found.ap, found.small) == (0, 0)


def test_an_object_is_found_by_the_best_box_that_fits() -> None:
    objects = truth([(0, 0, 40, 40), (50, 50, 90, 90), (0, 0, 40, 40)], [0, 0, 1])
    rows = np.array([[0, 0, 40, 40, 0.5, 0], [1, 0, 40, 40, 0.75, 0], [0, 0, 9, 9, 0.9, 1]], np.float32)
    assert match([rows], [objects], 2).found[0].tolist() == [0.75, 0, 0]


def test_boxes_agree_with_themselves() -> None:
    predictions, _ = random_set(20, 3)
    truths = [truth_of(rows) for rows in predictions]
    assert min(row[4] for rows in predictions for row in rows) < 0.25
    assert match(predictions, truths, CLASSES).average_precision().ap > 95


def worse(predictions: list[np.ndarray], by: float, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    moved = [rows.copy() for rows in predictions]
    for rows in moved:
        rows[:, :4] += rng.normal(0, by, (len(rows), 4)).astype(np.float32)
    return moved


def test_a_change_is_told_from_chance() -> None:
    predictions, truths = random_set(120, 5)
    before = match(predictions, truths, CLASSES)
    same = change(before, match(predictions, truths, CLASSES))
    assert (same.points, same.interval, same.p) == (0, (0, 0), 1)
    lost = change(before, match(worse(predictions, 12), truths, CLASSES))
    assert lost.interval[0] < lost.points < lost.interval[1] < 0
    assert lost.p < 0.01
    assert change(before, match(worse(predictions, 12), truths, CLASSES)) == lost  # seeded


@pytest.mark.parametrize("seed", range(12))
def test_interval_and_p_agree(seed: int) -> None:
    predictions, truths = random_set(40, seed)
    found = change(match(predictions, truths, CLASSES), match(worse(predictions, 3, seed), truths, CLASSES), draws=199)
    low, high = found.interval
    assert (found.p < 0.05) == (low > 0 or high < 0)


def test_the_interval_covers_what_it_should() -> None:
    """Two networks that are equally good differ beyond chance on few sets of images."""
    beyond = 0
    for seed in range(60):
        predictions, truths = random_set(40, 100 + seed, crowds=False)
        one, other = (match(worse(predictions, 4, s), truths, CLASSES) for s in (2 * seed, 2 * seed + 1))
        beyond += change(one, other, draws=199).p < 0.05
    assert beyond <= 9  # binomial: 3 expected, more than 9 with p = 0.001


def test_a_thousand_draws_take_seconds() -> None:
    predictions, truths = random_set(128, 5)
    one, other = match(predictions, truths, CLASSES), match(worse(predictions, 2), truths, CLASSES)
    started = time.perf_counter()
    change(one, other, draws=1000)
    assert time.perf_counter() - started < 10
