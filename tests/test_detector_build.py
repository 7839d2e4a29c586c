"""A detector from its export to boxes: the head is cut and proved, the program's boxes lie where they were planted."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from edge.errors import UsageError
from edge.images.preprocess import decode
from edge.runtime import load
from tests.conftest import Run, save_images, save_net
from tests.detectors import BINS, VARIANTS, reckoned
from tests.test_notebooks import run

RED = (1.0, 0.0, 0.0)
# A square image of 128 is halved and lies in the middle of 64x96: 16 pixels from the left.
SHARE, LEFT = 0.5, 16
# The block is the cell (3, 1) of stride 16, and four cells of stride 8.
BLOCK = [(16, (3, 1), RED), *((8, (x, y), RED) for x in (6, 7) for y in (2, 3))]


def save_image(path: Path) -> Path:
    bgr = np.zeros((128, 128, 3), np.uint8)
    bgr[32:64, 64:96, 2] = 255
    cv2.imwrite(str(path), bgr)
    return path


def save_detector(path: Path, variant: str = "dfl") -> Path:
    net, outputs = VARIANTS[variant][0]()
    onnx.save(net.model(outputs), path)
    return path


def build(edge: Run, tmp_path: Path, *more: str, variant: str = "dfl") -> Path:
    """Build a small detector without the vendor's compiler."""
    save_detector(tmp_path / "net.onnx", variant)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(4):
        save_image(images / f"planted_{number}.png")
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\nblue\n")
    given = ("--calib", str(images), "--images", str(images), "--labels", str(names), "--build-dir", str(tmp_path))
    code, _, err = edge(
        "build",
        str(tmp_path / "net.onnx"),
        "--task",
        "detect",
        "--compiler",
        "onnxruntime",
        *given,
        "--std",
        "255",
        *more,
    )
    assert code == 0, err
    return tmp_path / "net"


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - shared)


def test_boxes_come_back_in_the_pixels_of_the_image(edge: Run, tmp_path: Path) -> None:
    folder = build(edge, tmp_path)
    metadata = json.loads((folder / "metadata.json").read_text())
    assert (metadata["task"], metadata["detector"]["family"], metadata["classes"]) == ("detect", "dfl", 3)
    assert metadata["preprocess"]["letterbox"] == "center"
    image = save_image(tmp_path / "one.png")
    with load(folder) as net:
        found = net.detect(image, iou=1.0)
        every = net.detect(image, score=0.0, iou=1.0)
    wanted = [reckoned(VARIANTS["dfl"][0]()[0], "dfl", BINS, cell) for cell in BLOCK]
    assert len(found) == len(wanted) < len(every)
    assert set(found.labels.tolist()) == {0}
    for box, _, _ in wanted:
        own = (np.asarray(box) - [LEFT, 0, LEFT, 0]) / SHARE
        assert max(overlap(np.clip(own, 0, 128), seen) for seen in found.boxes) > 0.7
    assert every.boxes.min() >= 0
    assert every.boxes.max() <= 128


def test_run_shows_and_draws_boxes(edge: Run, tmp_path: Path) -> None:
    folder = build(edge, tmp_path)
    image = save_image(tmp_path / "one.png")
    code, shown, _ = edge("run", str(folder), str(image), "--out", str(tmp_path / "drawn.png"))
    assert code == 0
    assert "red" in shown
    drawn = cv2.imread(str(tmp_path / "drawn.png"))
    assert (drawn != cv2.imread(str(image))).any()
    told = json.loads(edge("run", str(folder), str(image), "--json")[1])
    first = told["images"][0]["boxes"][0]
    assert first["label"] == "red"
    assert len(first["box"]) == 4
    black = tmp_path / "black.png"
    cv2.imwrite(str(black), np.zeros((64, 64, 3), np.uint8))
    assert "nothing above a score of 0.25" in edge("run", str(folder), str(black))[1]


def test_run_takes_the_least_score_of_a_box(edge: Run, tmp_path: Path) -> None:
    folder, image = build(edge, tmp_path), save_image(tmp_path / "one.png")

    def scores(*more: str) -> list[float]:
        told = json.loads(edge("run", str(folder), str(image), "--json", *more)[1])
        return [entry["score"] for entry in told["images"][0]["boxes"]]

    usual, every = scores(), scores("--score", "0")
    assert len(every) > len(usual) > 0
    assert min(usual) >= 0.25
    assert scores("--score", "0.25") == usual
    assert max(every) < 1
    assert "nothing above a score of 1" in edge("run", str(folder), str(image), "--score", "1")[1]
    assert edge("run", str(folder), str(image), "--score", "1.5")[0] == 2


@pytest.mark.parametrize(("variant", "letterbox"), [("yolox", "corner"), ("anchors", "center")])
def test_images_are_shown_as_the_family_is_trained(edge: Run, tmp_path: Path, variant: str, letterbox: str) -> None:
    folder = build(edge, tmp_path, variant=variant)
    assert json.loads((folder / "metadata.json").read_text())["preprocess"]["letterbox"] == letterbox


def test_the_users_way_of_showing_images_wins(edge: Run, tmp_path: Path) -> None:
    folder = build(edge, tmp_path, "--resize", "stretch")
    preprocess = json.loads((folder / "metadata.json").read_text())["preprocess"]
    assert (preprocess["letterbox"], preprocess["resize"]) == (None, None)


def test_a_classifier_has_no_boxes(edge: Run, tmp_path: Path) -> None:
    save_net(tmp_path / "net.onnx")
    images = save_images(tmp_path / "images", 4)
    words = (
        "--mean",
        "0",
        "--std",
        "255",
        "--compiler",
        "onnxruntime",
        "--calib",
        str(images),
        "--images",
        str(images),
    )
    code, _, err = edge("build", str(tmp_path / "net.onnx"), "--task", "detect", *words)
    assert code != 0
    assert "detector" in err
    code, _, err = edge("build", str(tmp_path / "net.onnx"), *words, "--resize", "64", "--build-dir", str(tmp_path))
    assert code == 0, err
    with load(tmp_path / "net") as net, pytest.raises(UsageError, match="no detector"):
        net.detect(save_image(tmp_path / "one.png"))
    code, _, err = edge("run", str(tmp_path / "net"), str(tmp_path / "one.png"), "--score", "0.4")
    assert code == 2
    assert "--score 0.4, but net gives no boxes" in err
    assert "leave out --score; -k N" in err


def test_names_of_another_number_of_classes_are_refused(edge: Run, tmp_path: Path) -> None:
    save_detector(tmp_path / "net.onnx")
    (tmp_path / "names.txt").write_text("red\ngreen\n")
    code, _, err = edge("export", "net.onnx", "--task", "detect", "--labels", "names.txt")
    assert code == 1
    assert "names 2 classes, the network has 3" in err


def test_a_head_described_in_the_yaml_is_cut_there(edge: Run, tmp_path: Path) -> None:
    path = save_detector(tmp_path / "net.onnx")
    heads = [node.output[0] for node in onnx.load(path).graph.node if node.op_type == "Conv"][:4]
    rows = [f"    - {{stride: {s}, boxes: {b}, scores: {c}}}" for s, b, c in ((8, *heads[:2]), (16, *heads[2:]))]
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nsources: {onnx: net.onnx}\ntask: detect\nlabels: null\nclasses: null\n"
        "preprocess: {crop: [64, 96], letterbox: center, mean: [0, 0, 0], std: [255, 255, 255]}\n"
        f"detector:\n  family: dfl\n  classes: 3\n  reg_max: {BINS}\n  scales:\n" + "\n".join(rows) + "\n"
    )
    code, _, err = edge("export", "mine.yaml")
    assert code == 0, err
    assert "the boxes of its outputs are those of the whole network" in err


def test_the_bundles_notebook_shows_the_boxes(edge: Run, tmp_path: Path) -> None:
    folder = build(edge, tmp_path)
    code, _, err = edge("bundle", str(folder), "--out", str(tmp_path / "bundle"))
    assert code == 0, err
    image = save_image(tmp_path / "one.png")
    ran = run(
        tmp_path / "bundle" / "test_net.ipynb",
        edit=lambda text: text.replace("IMAGE = None", f"IMAGE = {str(image)!r}"),
    )
    with load(folder) as net:
        found = net.detect(image)
    assert ran.text.count("red  0.") == len(found) > 0
    assert "class" not in ran.text
    _, drawn = ran.images
    assert drawn.shape == (128, 128, 3)
    assert (drawn != decode(image)).any()


def test_a_folder_is_answered_in_its_order(edge: Run, tmp_path: Path) -> None:
    folder = build(edge, tmp_path)
    images = tmp_path / "many"
    images.mkdir()
    for number in range(6):
        save_image(images / f"{number}.png")
    (images / "3.png").write_bytes(b"no image")
    code, out, _ = edge("run", str(folder), str(images), "--json")
    told = json.loads(out)["images"]
    assert code == 1
    assert [Path(one["image"]).name for one in told] == [f"{number}.png" for number in range(6)]
    assert [place for place, one in enumerate(told) if "error" in one] == [3]
