"""A detector's steps compared: AP with labels, float's own boxes as objects without, and the images that change."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from attrs import evolve

from edge.accuracy import steps as steps_module
from edge.accuracy.answers import Answered, KeptAnswers
from edge.accuracy.detection import CHANGED, Detection, _explain, changed_most, compare
from edge.accuracy.judge import Column, MeasuredOn, Tally
from edge.accuracy.steps import Step, Subject
from edge.accuracy.table import StepName
from edge.images.annotations import BoxSet, Truth, open_boxes, truth
from edge.measure.average_precision import SHOWN
from edge.measure.boxes import Boxer, differences
from edge.measure.networks import floats_order
from edge.specs import Preprocess
from edge.specs.detector import Detector, Scale
from edge.specs.schema import Output

PRE = Preprocess(crop=(64, 96), letterbox="center", mean=(0, 0, 0), std=(1, 1, 1))
DETECTOR = Detector("dfl", 3, (Scale(8, "b", "s"),), reg_max=1)


def rows(*boxes: tuple[float, ...]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 6)


def everything(count: int) -> np.ndarray:
    return np.ones(count, bool)


def test_an_answer_holds_boxes_in_the_images_own_pixels() -> None:
    """One cell says: a box of 32 x 16 pixels of the input; the image is twice as large, and lies in the middle."""
    distances, scores = np.zeros((1, 4, 8, 12), np.float32), np.full((1, 3, 8, 12), -9, np.float32)
    distances[0, :, 4, 6] = (2, 1, 2, 1)
    scores[0, 2, 4, 6] = 3
    judge = Detection(Boxer(DETECTOR, ("b", "s"), PRE))
    answer = judge.row([distances, scores], None, (64, 192)).reshape(-1, 6)
    assert answer.shape == (300, 6)
    assert answer[0].tolist() == pytest.approx([72, 24, 136, 56, 1 / (1 + np.exp(-3)), 2], abs=1e-4)
    assert not answer[1:].any()


def test_boxes_that_come_and_go_are_seen() -> None:
    one = rows((0, 0, 20, 20, 0.9, 0), (40, 0, 60, 20, 0.8, 1), (0, 40, 20, 60, 0.5, 2), (80, 0, 99, 9, 0.1, 0))
    other = rows((1, 0, 20, 20, 0.9, 0), (40, 0, 60, 20, 0.8, 2), (0, 40, 20, 60, 0.2, 2), (80, 0, 99, 9, 0.1, 0))
    lost, gained = differences([one], [other], 3)
    assert (lost[0].tolist(), gained[0].tolist()) == ([1, 2], [1])  # another class; below the score


def test_the_images_that_change_most_come_first() -> None:
    like = [rows((0, 0, 20, 20, 0.3, 0)), rows((0, 0, 20, 20, 0.9, 0)), rows((0, 0, 20, 20, 0.8, 0)), rows()]
    after = [rows(), rows(), rows((0, 0, 20, 20, 0.4, 0)), rows((5, 5, 9, 9, 0.95, 1))]
    differ = differences(like, after, 2)
    found = changed_most(list("abcd"), ["/a", None, None, None], like, after, everything(4), differ)
    assert [one.image for one in found] == ["d", "b", "a"]
    assert found[0].gained == (0,)
    assert (found[2].lost, found[2].path, found[2].like) == ((0,), "/a", ((0, 0, 20, 20, 0.3, 0),))
    only = np.array([True, True, False, False])
    assert [one.image for one in changed_most(list("abcd"), [None] * 4, like, after, only, differ)] == ["b", "a"]
    first = like[:1] * 30, after[:1] * 30
    many = changed_most(["x"] * 30, [None] * 30, *first, everything(30), differences(*first, 2))
    assert len(many) == CHANGED


def scene(images: int, seed: int = 0) -> tuple[list[Truth], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    truths, boxes = [], []
    for _ in range(images):
        corner = rng.uniform(0, 200, (5, 2))
        corners, labels = np.hstack([corner, corner + rng.uniform(20, 60, (5, 2))]), rng.integers(0, 3, 5)
        truths.append(truth(corners.tolist(), labels.tolist()))
        scores = -np.sort(-rng.uniform(0.05, 1, 5))
        boxes.append(np.column_stack([corners + rng.normal(0, 1, corners.shape), scores, labels]).astype(np.float32))
    return truths, boxes


def blurred(boxes: list[np.ndarray], by: float, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    moved = [one.copy() for one in boxes]
    for one in moved:
        one[:, :4] += rng.normal(0, by, (len(one), 4)).astype(np.float32)
    return moved


def test_steps_are_compared_with_labels_with_float_and_with_the_step_before() -> None:
    truths, boxes = scene(60)
    steps, shown = [boxes, boxes, blurred(boxes, 8)], [everything(60)] * 3
    first, second, third = compare(steps, shown, truths, classes=3, like=[0, 0, 1], earlier=[None, 0, 1])
    assert first.change is None
    assert first.identical is None
    assert first.boxes.self_ap == pytest.approx(100, abs=0.5)
    assert (first.boxes.lost, first.boxes.gained, first.agreement) == (0, 0, 60)
    assert (second.identical, second.change.points, second.change.p) == (60, 0, 1)
    assert third.identical == 0
    assert third.boxes.ap.ap < first.boxes.ap.ap - 5
    assert third.boxes.self_ap < 90
    assert third.change.interval[1] < 0
    assert third.change.p < 0.01
    assert third.change.lost > 0
    assert third.boxes.lost > 0
    assert third.agreement < 60


def test_without_labels_there_is_only_the_agreement() -> None:
    _, boxes = scene(20)
    steps, shown = [boxes, blurred(boxes, 3)], [everything(20)] * 2
    found = compare(steps, shown, None, classes=3, like=[0, 0], earlier=[None, 0])
    assert [one.boxes.ap for one in found] == [None, None]
    assert found[1].change is None
    assert 0 < found[1].boxes.self_ap < 100


def test_a_step_on_a_sample_is_compared_on_the_sample() -> None:
    truths, boxes = scene(40)
    few = np.arange(40) < 8
    sampled = [one if here else one[:0] for one, here in zip(boxes, few, strict=True)]
    found = compare([boxes, sampled], [everything(40), few], truths, classes=3, like=[0, 0], earlier=[None, 0])
    alone = compare([boxes[:8]], [everything(8)], truths[:8], classes=3, like=[0], earlier=[None])
    assert found[1].n == found[1].identical == found[1].agreement == 8
    assert found[1].boxes.ap.ap == pytest.approx(alone[0].boxes.ap.ap, abs=1e-9)
    assert (found[1].boxes.lost, found[1].change.points) == (0, 0)


# Through kept answers


def save_set(folder: Path, truths: list[Truth]) -> BoxSet:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for number, one in enumerate(truths):
        noise = np.random.default_rng(number).integers(0, 256, (300, 300, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number:02}.png"), noise)
        lines = [
            f"{label} {(left + right) / 600} {(top + bottom) / 600} {(right - left) / 300} {(bottom - top) / 300}\n"
            for (left, top, right, bottom), label in zip(one.boxes, one.labels, strict=True)
        ]
        (folder / "labels" / f"{number:02}.txt").write_text("".join(lines))
    return open_boxes(folder, classes=("cat", "dog", "bird"))


def told(folder: Path, images: BoxSet, steps: dict[StepName, list[np.ndarray]], unlabelled: str = "") -> Tally:
    judge = Detection(Boxer(DETECTOR, ("b", "s"), PRE))
    lines: list[Any] = []
    with KeptAnswers(folder, judge.width, lambda _: None) as kept:
        columns = []
        for name, boxes in steps.items():
            step = Step(name, "by hand", "bin", "0", name, lambda _: nullcontext())  # type: ignore[arg-type]
            for one, content in zip(boxes, images.contents, strict=True):
                answer = np.zeros((300, 6), np.float32)
                answer[: len(one)] = one
                kept.add(step, content.tobytes(), answer.ravel())
            columns.append(Column(step, Answered(everything(len(images)), len(boxes), 1.0), kept))
        kept.write()
        found = judge.tally(columns, MeasuredOn(images, unlabelled), "quantized", lines.append)
    assert [line[0] for line in lines] == [item.name for item in images]
    assert lines[0][2] == int((steps["float"][0][:, 4] >= SHOWN).sum())
    return found


def test_a_whole_evaluation_is_told(tmp_path: Path) -> None:
    truths, boxes = scene(40)
    images = save_set(tmp_path, truths)
    steps: dict[StepName, list[np.ndarray]] = {"float": boxes, "nv12": boxes, "quantized": blurred(boxes, 8)}
    found = told(tmp_path, images, steps)
    assert found.verdict.startswith("Quantization, NV12 included, costs ")
    assert "beyond noise (p = 0.00" in found.verdict or "beyond noise (p < 0.001" in found.verdict
    assert "AP50" in found.verdict
    assert found.total.points == found.steps[2].change.points < 0
    assert found.explanation[0] == "NV12 gives the boxes of float bit for bit on all 40 images."
    assert "objects lost" in found.explanation[1]
    assert found.explanation[-1].startswith("The largest cost is at quantized")
    assert 0 < len(found.changed) <= CHANGED
    assert found.changed[0].path is not None
    assert all(step.cosine == step.boxes.self_ap / 100 for step in found.steps)
    assert "coarse" not in " ".join(found.explanation)
    program = evolve(found.steps[2], name="program", n=10)
    _, sentences = _explain([*found.steps, program], "quantized", found.total, "")
    assert sentences[-1] == (
        "AP on fewer than 30 images is coarse, a single box moves it by points: program on 10 images; --program-count "
        "gives it more."
    )


def test_a_whole_evaluation_without_labels_is_told(tmp_path: Path) -> None:
    truths, boxes = scene(12)
    images = save_set(tmp_path, truths)
    steps: dict[StepName, list[np.ndarray]] = {"float": boxes, "quantized": blurred(boxes, 8)}
    found = told(tmp_path, images, steps, "the labels are of other classes")
    assert found.total is None
    assert "with the boxes of float on RGB as objects" in found.verdict
    assert "without labels no more is known" in found.verdict
    assert found.explanation[-1].endswith(" by points: float on 12 images, quantized on 12 images.")


def test_outputs_come_in_the_float_networks_order_whatever_the_compiler_does() -> None:
    outputs = [Output("boxes", (1, 4), "float32"), Output("scores", (1, 2), "float32")]
    maps = {"scores": np.ones((1, 2), np.float32), "boxes": np.zeros((1, 4), np.float32)}

    def run(_frame: object) -> list[np.ndarray]:
        return list(maps.values())

    ordered = floats_order(outputs, list(maps), run)
    assert [one.shape for one in ordered(None)] == [(1, 4), (1, 2)]
    assert floats_order(outputs, ["boxes", "scores"], run) is run
    assert floats_order(outputs, ["other", "scores"], run) is run


def test_answers_of_a_detector_are_kept_under_the_code_that_makes_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(steps_module, "code_digest", lambda *modules: seen.append(modules) or "0")
    for detector in (None, DETECTOR):
        subject = Subject("net", PRE, 2, scores="logits", files={}, sha256={}, detector=detector)
        steps_module.key_of("float", "0" * 64, subject, ())
    assert "edge.measure.boxes" not in seen[0]
    assert "edge.measure.boxes" in seen[1]  # which holds the least score and the overlap
