"""Float against quantized: counting, labels, unreadable pictures, failures of the worker."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge.errors import InputError, LabelError, ModelFileError
from edge.evaluate import OnnxRunner, cosine, evaluate, score
from edge.images import open_images
from edge.progress import Silent
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
def pictures(tmp_path: Path) -> Path:
    """Four pictures: two red, one green, one blue, in class folders 0, 1, 2."""
    folder = tmp_path / "pictures"
    for name, colour in (
        ("0/a", (0, 0, 250)),
        ("0/b", (0, 0, 240)),
        ("1/c", (0, 250, 0)),
        ("2/d", (250, 0, 0)),
    ):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((40, 40, 3), colour, np.uint8))  # OpenCV writes BGR
    return folder


def run(
    tmp_path: Path, folder: Path, quantized: object = None, *, labelled: bool = True, reporter: object = None
):
    runner = OnnxRunner(brightest_channel(tmp_path / "net.onnx"), PRE)
    return evaluate(
        images=open_images(folder, classes=3 if labelled else None),
        preprocess=PRE,
        float_runner=runner,
        quantized_runner=quantized or runner,
        classes=3,
        labelled=labelled,
        out=tmp_path,
        reporter=reporter,
    )


def test_a_perfect_network_scores_100(tmp_path: Path, pictures: Path) -> None:
    result = run(tmp_path, pictures)
    assert (result.n, result.float_score.top1, result.quantized_score.top1) == (4, 100, 100)
    assert (result.drop, result.agreement_percent) == (0, 100)
    assert result.cosine == pytest.approx(1)
    saved = np.load(tmp_path / result.outputs)
    assert list(saved["labels"]) == [0, 0, 1, 2]


def test_a_broken_quantized_network_is_seen(tmp_path: Path, pictures: Path) -> None:
    def swapped(rgb: np.ndarray) -> np.ndarray:
        return rgb[:, :, ::-1].astype(np.float32).mean((0, 1))

    result = run(tmp_path, pictures, swapped)
    assert result.float_score.top1 == 100
    assert result.quantized_score.top1 == 25
    assert result.agreement == 1
    assert result.drop == 75


def test_unreadable_pictures_are_named_and_in_no_figure(tmp_path: Path, pictures: Path) -> None:
    (pictures / "1" / "broken.png").write_bytes(b"no picture")
    reporter = Silent()
    result = run(tmp_path, pictures, reporter=reporter)
    assert result.n == 4
    assert [Path(name).name for name in result.unreadable] == ["broken.png"]
    assert any("broken.png" in warning for warning in reporter.warnings)


def test_only_unreadable_pictures_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="could be read"):
        run(tmp_path, folder, labelled=False)


def test_a_label_outside_the_classes_is_named(tmp_path: Path, pictures: Path) -> None:
    (pictures / "labels.csv").write_text("filename,class_index\n0/a.png,0\n0/b.png,7\n1/c.png,1\n2/d.png,2\n")
    with pytest.raises(LabelError, match="7"):
        run(tmp_path, pictures)


def test_networks_of_different_width_are_refused(tmp_path: Path, pictures: Path) -> None:
    other = OnnxRunner(brightest_channel(tmp_path / "five.onnx", 5), PRE)
    with pytest.raises(ModelFileError, match="scores"):
        run(tmp_path, pictures, other)


def test_a_model_that_onnxruntime_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    with pytest.raises(ModelFileError, match=r"bad\.onnx"):
        OnnxRunner(tmp_path / "bad.onnx", PRE)


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


def test_cosine_of_zero_rows_is_zero() -> None:
    a = np.array([[0, 0], [1, 0], [1, 1]], np.float32)
    b = np.array([[1, 2], [2, 0], [-1, -1]], np.float32)
    assert cosine(a, b) == pytest.approx([0, 1, -1])
