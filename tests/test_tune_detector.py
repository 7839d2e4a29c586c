"""The search on a detector: what its boxes are worth, and which recipes are tried."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from edge.images.annotations import truth
from edge.measure.boxes import BOXES, VALUES, Boxer
from edge.measure.objective import Detections, Measured
from edge.specs import Precision
from edge.specs.schema import RangeSplit, Thresholds
from edge.tune.choice import Point, compared, recommended
from edge.tune.context import Candidate, SearchOptions
from edge.tune.spaces import CALIBRATIONS
from edge.tune.tune import Search
from tests.test_detection import DETECTOR, PRE

OBJECTIVE = Detections(Boxer(DETECTOR, ("b", "s"), PRE))


def answers(*images: list[tuple[float, ...]]) -> np.ndarray:
    """Return answers of (left, top, right, bottom, score, class) a box."""
    found = np.zeros((len(images), BOXES, VALUES), np.float32)
    for place, rows in enumerate(images):
        found[place, : len(rows)] = rows or np.zeros((0, VALUES))
    return found.reshape(len(images), -1)


ONE, OTHER = (10.0, 10.0, 30.0, 30.0, 0.9, 0.0), (40.0, 10.0, 60.0, 40.0, 0.6, 1.0)


def test_boxes_are_counted_image_by_image() -> None:
    reference = answers([ONE, OTHER], [ONE], [])
    same = OBJECTIVE.measured(reference, reference, [None] * 3)
    assert (same.agreement, same.other) == (3, (0, 0, 0))
    assert (same.self_ap, same.divergence) == (pytest.approx(100), pytest.approx(0))
    assert (same.figure, same.drop) == (None, None)
    moved = (*OTHER[:4], 0.6, 0.0)  # another class: one box lost, one gained
    found = OBJECTIVE.measured(reference, answers([ONE, moved], [], [ONE]), [None] * 3)
    assert found.other == (2, 1, 1)
    assert found.agreement == 0
    assert found.self_ap is not None
    assert found.self_ap < 60
    assert found.divergence == pytest.approx(1 - found.self_ap / 100)


def test_a_box_that_moves_a_little_counts_in_ap_alone() -> None:
    reference = answers([ONE], [ONE])
    shifted = (11.0, 10.0, 31.0, 30.0, 0.9, 0.0)  # IoU 0.90
    found = OBJECTIVE.measured(reference, answers([shifted], [ONE]), [None] * 2)
    assert found.other == (0, 0)
    assert 0 < found.divergence < 0.2


def test_labels_give_ap_of_both() -> None:
    objects = [truth([ONE[:4]], [0]), truth([ONE[:4]], [0])]
    found = OBJECTIVE.measured(answers([ONE], [ONE]), answers([ONE], []), objects)
    assert found.float_ap == pytest.approx(100)
    assert found.ap is not None
    assert found.ap < 60
    assert (found.lost, found.gained) == (1, 0)
    assert found.drop == pytest.approx(100 - found.ap)
    assert "AP 100.0 →" in str(found)


def test_a_network_that_sees_nothing_has_nothing_to_lose() -> None:
    assert OBJECTIVE.divergence(answers([]), answers([])) == 0


def test_recipes_are_compared_by_the_images_with_fewer_wrong_boxes() -> None:
    def point(name: str, *other: int, worth: float) -> Point:
        found = Measured(len(other), other.count(0), 1 - worth / 100, other=other, self_ap=worth)
        return Point(name, Precision("m"), 100.0, found, found)

    base = point("plain int8", *[3] * 20, worth=40)
    points = compared([base, point("better", *[1] * 12, *[3] * 8, worth=60), point("noise", 2, 4, *[3] * 18, worth=41)])
    assert points[1].p is not None
    assert points[1].p < 0.01
    assert points[2].p == 1
    chosen, why = recommended(points, SearchOptions(), 110)
    assert chosen == 1
    assert "AP with float's boxes 40.0 → 60.0, nearer to float on 12 and further on 0 of 20 images kept back" in why


@pytest.mark.parametrize("places", [True, False])
def test_where_a_split_helps_calibrations_are_tried_on_it(monkeypatch: pytest.MonkeyPatch, places: bool) -> None:
    tried: list[tuple[str, Precision]] = []

    def quick(name: str, precision: Precision, _kept: float) -> Candidate:
        tried.append((name, precision))
        worth = 1.0 - 0.1 * (precision.calibration.method == "mix") - 0.5 * (precision.range_split is not None)
        return Candidate(name, precision, Measured(100, 90, worth))

    monkeypatch.setattr(sys.modules[Search.__module__], "figures", lambda _entry: Measured(100, 90, 1.0))
    search: Any = SimpleNamespace(
        request=SimpleNamespace(precision=Precision("int8"), spec=SimpleNamespace(name="net")),
        options=SimpleNamespace(seconds=1000.0),
        equalizable=False,
        splittable=places,
        _quick=quick,
        _ahead=lambda *_, **__: None,
        _guess=lambda *_, **__: None,
    )
    search._plain = Search._plain.fget(search)  # type: ignore[attr-defined]
    search._first, search._methods = partial(Search._first, search), partial(Search._methods, search)
    monkeypatch.setattr(sys.modules[Search.__module__], "places_to_split", lambda _search: ("/a/Conv", "/b/Conv"))
    found = Search._calibrations(search, cast(Any, None), 1.1)
    learned = [(name, precision.calibration.method) for name, precision in tried if precision.thresholds is not None]
    # Early, since it gains most; what turned out best in the end starts from the same thresholds. At last the time
    # that the limit leaves goes to 16 bits; three times as much at the level where it is measured.
    name = f"plain int8{', split in 2' * places}, thresholds chosen"
    assert learned == [(name, "mix"), (f"{name}, int16 within 1.3x", "mix")]
    assert tried[-1][1].thresholds == Thresholds(int16_latency=1.3)
    assert tried.index(next(item for item in tried if item[1].thresholds)) == 1 + places
    tried = [(name, precision) for name, precision in tried if precision.thresholds is None]
    split = [(name, precision) for name, precision in tried if precision.range_split is not None]
    if not places:
        assert not split
        return
    first = [precision.range_split for name, precision in split if "rounded" not in name]
    assert first[:-1] == [RangeSplit(2)] * (1 + len(CALIBRATIONS)) + [RangeSplit(4)]
    assert split[1 + len(CALIBRATIONS)][0] == "mix, split in 4"
    # As good as the one in two groups, which is simpler and comes first by name.
    assert first[-1] == RangeSplit(2, places=("/a/Conv", "/b/Conv"))
    assert min(found, key=lambda item: item.measured.divergence).precision.calibration.method == "mix"


@pytest.mark.parametrize(("latency", "granted"), [(109, None), (120, 1.15)])
def test_16_bits_that_ship_too_slow_get_less_time(latency: float, granted: float | None) -> None:
    found = Measured(100, 95, 0.5)
    recipe = Precision("net", thresholds=Thresholds(int16_latency=1.3))
    points = [
        Point("plain int8", Precision("int8"), 100.0, found),
        Point("thresholds chosen", Precision("net", thresholds=Thresholds()), 101.0, found),
        Point("thresholds chosen, int16 within 1.3x", recipe, latency, found),
    ]
    search: Any = SimpleNamespace(_quick=lambda name, precision, _kept: Candidate(name, precision, found))
    less = Search._with_less_int16(search, points, 1.1)
    if granted is None:
        assert less is None
        return
    assert less.name == "thresholds chosen, int16 within 1.15x"
    assert less.precision.thresholds.int16_latency == pytest.approx(granted)
