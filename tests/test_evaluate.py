"""The table: counting, labels, unreadable images, networks that do not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge.accuracy import Evaluation, MeasuredOn, Step, Subject, choose, evaluate, find_steps
from edge.errors import InputError, LabelError, ModelFileError
from edge.images import open_images
from edge.measure.networks import FloatNet
from edge.measure.scores import score
from edge.progress import Quiet
from edge.specs import Preprocess

PRE = Preprocess(crop=(32, 32), resize=32, mean=(0, 0, 0), std=(255, 255, 255))


def brightest_channel(path: Path, classes: int = 3) -> Path:
    """A network whose scores are the mean red, green and blue, and zero for further classes."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["f"])]
    weight = np.zeros((3, classes), np.float32)
    weight[:3, :3] = np.eye(3)
    nodes.append(helper.make_node("MatMul", ["f", "w"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, classes])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images: two red, one green, one blue, in class folders 0, 1, 2."""
    folder = tmp_path / "images"
    for name, colour in (("0/a", (0, 0, 250)), ("0/b", (0, 0, 240)), ("1/c", (0, 250, 0)), ("2/d", (250, 0, 0))):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((40, 40, 3), colour, np.uint8))  # OpenCV writes BGR
    return folder


def save(model: Path, name: str = "net.onnx", classes: int = 3) -> Path:
    return brightest_channel(model / name, classes)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def subject(path: Path, *, after: Path | None = None, classes: int = 3) -> Subject:
    """A network and what stands for its simplified form, the same one unless told otherwise."""
    files = {"float_onnx": path, "bpu_onnx": after or path}
    hashes = {role: sha256(file) for role, file in files.items()}
    return Subject("net", PRE, classes, files, hashes, scores="logits")


def scripted(name: str, answer: Callable[[np.ndarray], np.ndarray], *, count: int | None = None) -> Step:
    """A step that a test computes itself."""

    @contextmanager
    def opened(workers: int) -> Iterator[object]:
        yield lambda rgb: [answer(rgb)]

    return Step(name, "a test", f"{name}_onnx", "11" * 32, "22" * 32, opened, count)


def run(
    tmp_path: Path, folder: Path, *more: Step, unlabelled: str = "", steps: tuple[str, ...] = (), **options: object
) -> Evaluation:
    what = subject(save(tmp_path))
    found, missing = find_steps(what)
    images = open_images(folder, classes=None if unlabelled else 3)
    chosen = [*choose(found, missing, steps), *more]
    return evaluate(what, chosen, MeasuredOn(images, unlabelled), root=tmp_path / "build", **options)


def swapped(rgb: np.ndarray) -> np.ndarray:
    return rgb[:, :, ::-1].astype(np.float32).mean((0, 1))


def test_a_perfect_network_scores_100(tmp_path: Path, images: Path) -> None:
    result = run(tmp_path, images, steps=("simplified",))
    first, second = result.steps
    assert (result.n, first.score.top1, second.score.top1) == (4, 100, 100)
    assert (result.drop, second.agreement_percent, second.identical_before) == (0, 100, 4)
    assert second.cosine == pytest.approx(1)
    assert (second.change.lost, second.change.gained, second.change.p) == (0, 0, 1)


def test_a_broken_quantized_network_is_seen(tmp_path: Path, images: Path) -> None:
    result = run(tmp_path, images, scripted("quantized", swapped))
    assert result.quantized == "quantized"
    assert result.step("float").score.top1 == 100
    assert result.step("quantized").score.top1 == 25
    assert result.step("quantized").agreement == 1
    assert result.drop == 75
    assert (result.mistakes_total, len(result.mistakes)) == (3, 3)
    assert {(m.label, m.float_answer, m.answer) for m in result.mistakes} == {(0, 0, 2), (2, 2, 0)}
    assert Path(result.mistakes[0].path).is_file()


def test_agreement_is_with_float_behind_nv12(tmp_path: Path, images: Path) -> None:
    """What NV12 itself costs stands at its own step: it is no fault of the integers."""
    nv12 = scripted("nv12", swapped)
    result = run(tmp_path, images, nv12, scripted("quantized", swapped), steps=("simplified",))
    found = {step.name: (step.agreement, step.agreement_with) for step in result.steps}
    assert found == {
        "float": (4, "float"), "simplified": (4, "float"), "nv12": (1, "float"), "quantized": (4, "nv12"),
    }  # fmt: skip
    assert result.drop == 75
    assert result.step("quantized").cosine == pytest.approx(1)
    # Without labels the images with another answer are those of the same count.
    result = run(tmp_path, images, nv12, scripted("quantized", swapped), steps=("simplified",), unlabelled="a test")
    assert "answer behind NV12 on 100.0 % of 4 images" in result.verdict
    assert result.mistakes_total == 0


def test_what_is_compared_with_nv12_is_measured_with_it() -> None:
    steps = [scripted(name, swapped) for name in ("float", "simplified", "nv12", "quantized")]
    assert [step.name for step in choose(steps, [], ["quantized"])] == ["float", "nv12", "quantized"]
    assert [step.name for step in choose(steps, [], ["simplified"])] == ["float", "simplified"]


def test_without_labels_agreement_is_measured(tmp_path: Path, images: Path) -> None:
    result = run(tmp_path, images, scripted("quantized", swapped), unlabelled="a test")
    last = result.step("quantized")
    assert (last.score, last.change, result.total, result.drop) == (None, None, None, None)
    assert (last.agreement, last.agreement_before, result.mistakes_total) == (1, 1, 3)


def test_unreadable_images_are_named_and_in_no_figure(tmp_path: Path, images: Path) -> None:
    (images / "1" / "broken.png").write_bytes(b"no image")
    listener = Quiet()
    result = run(tmp_path, images, steps=("nv12",), listener=listener)
    assert [step.n for step in result.steps] == [4, 4]
    assert [Path(name).name for name in result.unreadable] == ["broken.png"]
    assert any("broken.png" in warning for warning in listener.warnings)


def test_only_unreadable_images_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="could be read"):
        run(tmp_path, folder, unlabelled="a test")


def test_a_label_outside_the_classes_is_named(tmp_path: Path, images: Path) -> None:
    (images / "labels.csv").write_text("filename,class_index\n0/a.png,0\n0/b.png,7\n1/c.png,1\n2/d.png,2\n")
    with pytest.raises(LabelError, match="7"):
        run(tmp_path, images)


def test_networks_of_different_width_are_refused(tmp_path: Path, images: Path) -> None:
    other = scripted("quantized", lambda rgb: np.zeros(5, np.float32))
    with pytest.raises(ModelFileError, match="scores"):
        run(tmp_path, images, other)


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path, images: Path) -> None:
    with pytest.raises(ModelFileError, match="nan"):
        run(tmp_path, images, scripted("quantized", lambda rgb: np.full(3, np.nan, np.float32)))


def test_a_model_that_onnxruntime_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    with pytest.raises(ModelFileError, match=r"bad\.onnx"):
        FloatNet(tmp_path / "bad.onnx", PRE)


@given(st.integers(0, 2**32 - 1))
def test_counts_equal_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 3, (20, 7)).astype(np.float32)  # with many ties
    labels = rng.integers(0, 7, 20)
    top1 = sum(int(np.argmax(row)) == label for row, label in zip(scores, labels, strict=True))
    top5 = sum(
        int(label) in sorted(range(7), key=lambda i: (-row[i], i))[:5]
        for row, label in zip(scores, labels, strict=True)
    )
    result = score(scores, labels)
    assert (result.top1_right, result.top5_right, result.n) == (top1, top5, 20)
