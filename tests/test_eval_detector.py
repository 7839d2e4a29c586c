"""A detector is measured by average precision: in build, eval, its gates and the report."""

from __future__ import annotations

import json
from pathlib import Path

import cattrs
import numpy as np
import onnx
import pytest
from attrs import evolve

from edge.accuracy import Change, Evaluation
from edge.cli.eval import _gate
from edge.errors import GateError, UsageError
from edge.runtime import load
from tests.conftest import Run
from tests.detectors import BINS, VARIANTS, reckoned
from tests.test_detector_build import BLOCK, LEFT, SHARE, save_detector, save_image

NAMES = ("red", "green", "blue")


def save_set(folder: Path, count: int = 4, *, labelled: bool = True, extra: str = "") -> Path:
    """Write images with a planted block, and the boxes that the network gives to it, in YOLO's form."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    net, _ = VARIANTS["dfl"][0]()
    lines = []
    for cell in BLOCK:
        box, _, _ = reckoned(net, "dfl", BINS, cell)
        left, top, right, bottom = np.clip((np.asarray(box) - [LEFT, 0, LEFT, 0]) / SHARE, 0, 128) / 128
        lines.append(f"0 {(left + right) / 2} {(top + bottom) / 2} {right - left} {bottom - top}")
    for number in range(count):
        save_image(folder / "images" / f"planted_{number}.png")
        if labelled:
            (folder / "labels" / f"planted_{number}.txt").write_text("\n".join(lines) + f"\n{extra}")
    if not labelled:
        (folder / "labels").rmdir()
        return folder / "images"
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
    (folder / "data.yaml").write_text(f"path: .\ntrain: images\nval: images\nnames:\n{names}")
    return folder / "data.yaml"


def build(edge: Run, tmp_path: Path, images: Path, *more: str) -> tuple[Path, str, str]:
    save_detector(tmp_path / "net.onnx")
    code, out, err = edge(
        "build",
        str(tmp_path / "net.onnx"),
        *("--task", "detect", "--compiler", "onnxruntime", "--std", "255", "--build-dir", str(tmp_path / "build")),
        *("--calib", str(images if images.is_dir() else images.parent / "images"), "--images", str(images)),
        *more,
    )
    assert code == 0, err
    return tmp_path / "build" / "net", out, err


def test_a_labelled_set_gives_ap_and_the_class_names(edge: Run, tmp_path: Path) -> None:
    folder, out, _ = build(edge, tmp_path, save_set(tmp_path / "set"))
    assert "AP           float " in out
    assert "with the boxes of float behind NV12 as objects" in out
    assert (folder / "labels.txt").read_text().split() == list(NAMES)
    recorded = json.loads((folder / "manifest.json").read_text())["accuracy"]["boxes"]
    assert recorded["float"]["ap"]["ap50"] > 50
    page = (folder / "report.html").read_text()
    assert "AP, quantized" in page
    assert "Average precision of every step" in page
    code, out, err = edge("eval", str(folder), "--steps", "float,nv12,portable")
    assert code == 0, err
    head = next(line for line in out.splitlines() if line.startswith("step"))
    assert head.split()[:3] == ["step", "AP", "AP50"]
    float_ap = next(line for line in out.splitlines() if line.startswith("float")).split()[1]
    assert float(float_ap) == pytest.approx(recorded["float"]["ap"]["ap"], abs=0.05)
    assert (folder / "answers.csv").read_text().splitlines()[1].split(",")[1] == str(len(BLOCK))


def test_without_labels_floats_own_boxes_are_the_objects(edge: Run, tmp_path: Path) -> None:
    folder, out, _ = build(edge, tmp_path, save_set(tmp_path / "set", labelled=False))
    assert "AP           float" not in out
    assert "with the boxes of float behind NV12 as objects" in out
    code, _, err = edge("eval", str(folder), "--max-drop", "1")
    assert code == 2
    assert "there is no AP" in err
    code, out, err = edge("eval", str(folder))
    assert code == 0, err
    assert "agreement with the float network is measured instead" in err
    assert "AP50" not in out
    assert "without labels no more is known" in out


def test_gates_hold_a_detector_to_its_ap_and_to_floats_boxes(edge: Run, tmp_path: Path) -> None:
    folder, _, _ = build(edge, tmp_path, save_set(tmp_path / "set"))
    assert edge("eval", str(folder), "--max-drop", "100", "--min-agreement", "0")[0] == 0
    code, _, err = edge("eval", str(folder), "--min-snr", "10")
    assert code == 2
    assert "--max-drop or --min-agreement" in err
    worse = worsened(folder / "eval.json")
    for limits, word in (((5.0, None), "AP falls by 8.00 points"), ((None, 50.0), "has AP 40.0 with the boxes")):
        with pytest.raises(GateError, match=word):
            _gate(worse, *limits, None, "net")
    _gate(worse, 9.0, 39.0, None, "net")


def worsened(path: Path) -> Evaluation:
    """Return an evaluation whose program loses 8 points of AP, and has AP 40 with float's boxes."""
    found = cattrs.structure(json.loads(path.read_text()), Evaluation)
    last = found.step(found.quantized)
    assert last.boxes is not None
    bad = evolve(last, boxes=evolve(last.boxes, self_ap=40.0))
    return evolve(found, steps=(*found.steps[:-1], bad), total=Change(-8.0, (-9.0, -7.0), 9, 1, 0.001))


def test_doubts_of_the_labels_are_told(edge: Run, tmp_path: Path) -> None:
    images = save_set(tmp_path / "set", extra="1 1.05 0.5 0.3 0.2\n")
    _, _, err = build(edge, tmp_path, images)
    assert "4 boxes cut at the image's border" in err


@pytest.mark.parametrize("name", ["green", "a\nb"])
def test_class_names_inside_the_file_are_the_boxes(edge: Run, tmp_path: Path, name: str) -> None:
    images = save_set(tmp_path / "set", labelled=False)
    save_detector(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    model.metadata_props.add(key="names", value=str({0: "red", 1: name, 2: "blue"}))
    onnx.save(model, tmp_path / "named.onnx")
    words = ("--task", "detect", "--compiler", "onnxruntime", "--std", "255", "--images", str(images))
    given = ("--calib", str(images), "--build-dir", str(tmp_path / "build"))
    code, _, err = edge("build", str(tmp_path / "named.onnx"), *words, *given)
    assert code == 0, err
    labels = tmp_path / "build" / "named" / "labels.txt"
    if name == "green":
        assert "3 class names are inside the file" in err
        assert labels.read_text().split() == ["red", "green", "blue"]
    else:  # a name that breaks a line names nothing
        assert not labels.exists()


def test_an_open_size_is_asked_for_with_the_one_inside_the_file(edge: Run, tmp_path: Path) -> None:
    save_detector(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    model.metadata_props.add(key="imgsz", value="[64, 96]")
    for place, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_param = name
    onnx.save(model, tmp_path / "open.onnx")
    code, _, err = edge("build", str(tmp_path / "open.onnx"), "--task", "detect")
    assert code == 1
    assert "next: add --crop 64x96, the imgsz in the file" in err
    code, _, err = edge("build", str(tmp_path / "opn.onnx"), "--task", "detect")
    assert code == 1
    assert f"next: edge build {tmp_path / 'open.onnx'}" in err


def test_two_detectors_are_compared_by_ap_on_the_same_images_only(edge: Run, tmp_path: Path) -> None:
    images = save_set(tmp_path / "set")
    one, _, _ = build(edge, tmp_path, images)
    two, _, err = build(edge, tmp_path, images, "--name", "other", "--label-offset", "1")
    two = two.with_name("other")
    assert "--label-offset and --output change nothing" in err
    code, _, err = edge("report", str(one), str(two), "--out", str(tmp_path / "both.html"))
    assert code == 0, err
    text = (tmp_path / "both.md").read_text()
    assert "AP is " in text
    assert " | AP " in text
    assert edge("eval", str(two), "--images", str(save_set(tmp_path / "more", 5)))[0] == 0
    assert edge("report", str(one), str(two), "--out", str(tmp_path / "both.html"))[0] == 0
    assert "measured on different images" in (tmp_path / "both.md").read_text()
    with load(one) as net, pytest.raises(UsageError) as caught:
        net.classify(np.zeros((8, 8, 3), np.uint8))
    assert "net.detect(image)" in str(caught.value.remedy)
