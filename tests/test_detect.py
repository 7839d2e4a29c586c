"""Boxes from a detector's outputs; what the outputs mean is said by a checked schema."""

from __future__ import annotations

from typing import Any

import cattrs
import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from edge.detect import Boxes, decode
from edge.detect.decode import decode_all
from edge.detect.draw import draw
from edge.errors import SpecError, UsageError
from edge.specs import load
from edge.specs.detector import Detector, Scale

SIZE = (64, 96)
Maps = dict[str, NDArray[np.float32]]


def detector(family: str = "dfl", **more: Any) -> Detector:
    scales = []
    for stride in (8, 16) if family != "centernet" else (4,):
        objectness = f"objectness_{stride}" if family in ("yolox", "anchors") else None
        offsets = f"offsets_{stride}" if family == "centernet" else None
        anchors = ((10.0, 20.0), (30.0, 15.0)) if family == "anchors" else ()
        scales.append(Scale(stride, f"boxes_{stride}", f"scores_{stride}", objectness, offsets, anchors))
    settings = {"reg_max": 4, "nms": family != "centernet"} | more
    return Detector(family, 5, tuple(scales), **settings)  # type: ignore[arg-type]


def maps(found: Detector, seed: int = 0) -> Maps:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(
            0 if name.startswith("boxes") else -1, 2, (1, channels, SIZE[0] // s.stride, SIZE[1] // s.stride)
        ).astype(np.float32)
        for s in found.scales
        for name, channels in found.channels(s).items()
    }


def run(values: Maps, found: Detector, **options: Any) -> Boxes:
    return decode(list(values.values()), list(values), found, size=SIZE, **options)


def overlap(a: NDArray[Any], b: NDArray[Any]) -> float:
    width, height = (max(0.0, float(min(a[i + 2], b[i + 2]) - max(a[i], b[i]))) for i in (0, 1))
    areas = sum(float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b))
    return width * height / (areas - width * height)


def plainly(
    values: Maps, found: Detector, *, score: float, iou: float, agnostic: bool = False
) -> list[tuple[float, int]]:
    """Decode everything, then compare and thin out in loops; return score and label of each box."""
    boxes, scores, objectness = decode_all(list(values.values()), list(values), found, size=SIZE)
    if objectness is not None:
        scores = scores * objectness[:, None]
    best, labels = scores.max(axis=1), scores.argmax(axis=1)
    kept: list[int] = []
    for place in np.argsort(-best, kind="stable"):
        rivals = (other for other in kept if agnostic or labels[other] == labels[place])
        if best[place] >= score and all(overlap(boxes[place], boxes[other]) <= iou for other in rivals):
            kept.append(int(place))
    return [(float(best[place]), int(labels[place])) for place in kept]


@pytest.mark.parametrize("family", ["yolox", "dfl", "anchors"])
@pytest.mark.parametrize("score", [0.01, 0.25, 0.8])
@pytest.mark.parametrize("agnostic", [False, True])
def test_thresholds_on_logits_give_what_decoding_everything_gives(family: str, score: float, agnostic: bool) -> None:
    found = detector(family)
    values = maps(found)
    boxes = run(values, found, score=score, iou=0.5, limit=10_000, class_agnostic=agnostic)
    wanted = plainly(values, found, score=score, iou=0.5, agnostic=agnostic)
    assert len(wanted) >= 2
    assert boxes.scores.tolist() == pytest.approx([value for value, _ in wanted], abs=1e-6)
    assert boxes.labels.tolist() == [label for _, label in wanted]
    assert (boxes.boxes.dtype, boxes.scores.dtype, boxes.labels.dtype) == (np.float32, np.float32, np.int64)


def test_peaks_of_heat_maps_are_those_of_their_neighbourhood() -> None:
    found = detector("centernet")
    values = maps(found)
    boxes = run(values, found, score=0.5, limit=10_000)
    heat = values["scores_4"][0]
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    peaks = [
        (1 / (1 + np.exp(-heat[c, y, x])), c, (x + dx) * 4, (y + dy) * 4, w * 4, h * 4)
        for c, y, x in zip(*np.nonzero(heat >= 0), strict=True)
        if heat[c, y, x] == padded[c, y : y + 3, x : x + 3].max()
        for dx, dy in [values["offsets_4"][0, :, y, x]]
        for w, h in [values["boxes_4"][0, :, y, x]]
    ]
    peaks.sort(key=lambda row: -row[0])
    assert 10 < len(peaks) == len(boxes)
    assert boxes.labels.tolist() == [row[1] for row in peaks]
    wanted = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for _, _, x, y, w, h in peaks]
    assert np.allclose(boxes.boxes, wanted, atol=1e-3)


def test_the_best_come_first_and_no_more_than_the_limit() -> None:
    found = detector()
    values = maps(found)
    every, few = run(values, found, limit=10_000), run(values, found, limit=7)
    assert (np.diff(every.scores) <= 0).all()
    assert len(few) == 7 < len(every)
    assert np.array_equal(few.boxes, every.boxes[:7])


def test_one_to_one_heads_are_not_thinned_out() -> None:
    values = maps(detector())
    assert len(run(values, detector(nms=False), limit=10_000)) > len(run(values, detector(), limit=10_000, iou=0.3))


def test_nothing_above_the_threshold_gives_no_boxes() -> None:
    for family in ("yolox", "dfl", "anchors", "centernet"):
        found = detector(family)
        boxes = run({name: value - 100 for name, value in maps(found).items()}, found)
        assert (len(boxes), boxes.boxes.shape) == (0, (0, 4))


def test_values_that_are_no_numbers_give_no_boxes() -> None:
    for family in ("yolox", "dfl", "anchors", "centernet"):
        found = detector(family)
        assert len(run({name: np.full_like(value, np.nan) for name, value in maps(found).items()}, found)) == 0


def test_scores_of_zero_and_one_are_thresholds_too() -> None:
    found = detector()
    values = maps(found)
    assert len(run(values, found, score=1.0)) == 0
    cells = sum(SIZE[0] // s.stride * (SIZE[1] // s.stride) for s in found.scales)
    assert len(run(values, detector(nms=False), score=0.0, limit=10_000)) == cells


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("scores_8"), "no output 'scores_8'"),
        (lambda v: v.update(boxes_16=v["boxes_8"]), "output 'boxes_16' is 1x16x8x12"),
    ],
)
def test_outputs_that_are_not_the_detectors_are_refused(change: Any, message: str) -> None:
    found = detector()
    values = maps(found)
    change(values)
    with pytest.raises(UsageError, match=message):
        run(values, found)


@pytest.mark.parametrize("options", [{"score": 1.1}, {"iou": -0.1}, {"limit": 0}])
def test_thresholds_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="score"):
        run(maps(detector()), detector(), **options)


# What outputs mean


def test_a_detector_survives_yaml_and_json() -> None:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for family in ("yolox", "dfl", "anchors", "centernet"):
        found = detector(family)
        assert converter.structure(converter.unstructure(found), Detector) == found


def test_a_detector_is_read_as_a_yaml_writes_it() -> None:
    text = """
      family: anchors
      classes: 3
      scales:
        - {stride: 8, boxes: out, scores: out, objectness: out, anchors: [[10, 13], [16.5, 30]]}
    """
    found = load._converter.structure(yaml.safe_load(text), Detector)
    assert found.scales == (Scale(8, "out", "out", "out", anchors=((10.0, 13.0), (16.5, 30.0))),)
    assert (found.scales[0].joint, found.channels(found.scales[0])) == (True, {"out": 16})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Detector("dfl", 0, (Scale(8, "b", "s"),)), "classes 0"),
        (lambda: Detector("dfl", 2, ()), "no scales"),
        (lambda: Detector("dfl", 2, (Scale(8, "b", "s"),), reg_max=0), "reg_max 0"),
        (lambda: Detector("dfl", 2, (Scale(8, "b", "s"), Scale(8, "c", "t"))), "strides 8, 8"),
        (lambda: Detector("dfl", 2, (Scale(8, "b", "s"), Scale(16, "c", "s"))), "output s in several scales"),
        (lambda: Detector("dfl", 2, (Scale(8, "b", "b"),)), "two meanings"),
        (lambda: Detector("dfl", 2, (Scale(8, "b", "s", "o"),)), "objectness o"),
        (lambda: Detector("yolox", 2, (Scale(8, "b", "s"),)), "objectness None"),
        (lambda: Detector("yolox", 2, (Scale(8, "b", "s", "o", "f"),)), "offsets f"),
        (lambda: Detector("anchors", 2, (Scale(8, "b", "s", "o"),)), "0 anchors"),
        (lambda: Detector("anchors", 2, (Scale(8, "b", "s", "o", anchors=((0, 3),)),)), "anchors"),
        (lambda: Detector("yolox", 2, (Scale(8, "b", "b", "b"),)), "two meanings"),
    ],
)
def test_a_detector_that_can_not_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


# Drawing


def boxes_of(*rows: tuple[float, float, float, float], label: int = 0) -> Boxes:
    return Boxes(
        np.asarray(rows, np.float32).reshape(-1, 4), np.full(len(rows), 0.9, np.float32), np.full(len(rows), label)
    )


def test_a_box_is_drawn_where_it_is_and_nothing_inside_it() -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    drawn = draw(image, boxes_of((50, 60, 200, 160)), ["cat"])
    assert drawn.shape == image.shape
    assert (image == 90).all()
    changed = (drawn != image).any(axis=2)
    assert changed[60, 60:190].all()
    assert changed[70:150, 50].all()
    assert not changed[70:150, 60:190].any()
    assert changed[40:60, 50:60].any()  # its name stands above it


def test_names_are_drawn_by_class_and_colours_differ() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    one, other = (draw(image, boxes_of((50, 60, 200, 160), label=label), ["cat", "dog"]) for label in (0, 1))
    assert tuple(one[100, 50]) != tuple(other[100, 50])
    assert not np.array_equal(one[:59], other[:59])
    nameless = draw(image, boxes_of((50, 60, 200, 160), label=7), None)
    assert (nameless != 0).any()


def test_boxes_beyond_the_image_and_odd_numbers_are_drawn_without_harm() -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    rows = [(-20, -20, 80, 90), (10, 0, 12, 3), (1e30, 0, 2e30, 5), (0, 0, np.inf, 10), (np.nan, 0, 1, 1)]
    drawn = draw(image, boxes_of(*rows), ["a name that is far wider than the image itself, é"])
    assert drawn.shape == image.shape
    assert np.array_equal(draw(image, boxes_of(), None), image)


def test_opencv_of_the_board_takes_what_is_given_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV 4.5 takes lists of plain numbers, and answers with a column, or an empty tuple."""
    real, seen = cv2.dnn.NMSBoxes, []

    def older(boxes: Any, scores: Any, least: float, iou: float) -> Any:
        seen.append((type(boxes), type(boxes[0]), type(boxes[0][0]), type(scores), type(scores[0])))
        return np.asarray(real(boxes, scores, least, iou)).reshape(-1, 1)

    found = detector()
    new = run(maps(found), found)
    monkeypatch.setattr(cv2.dnn, "NMSBoxes", older)
    assert np.array_equal(run(maps(found), found).boxes, new.boxes)
    assert seen == [(list, list, float, list, float)]
