"""Labels that count the classes otherwise than the network are told of before anything else is said."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge.board.compare import measure_accuracy
from edge.diagnose import faults as judging
from edge.diagnose.evidence import Measurements
from edge.diagnose.faults import faults, remedies, verdict
from edge.errors import LabelError
from edge.images import open_images, sample
from edge.measure.labels import Shift, Shifts, at_chance, lacks_background
from edge.measure.objective import Classes
from edge.specs import Preprocess
from edge.tune.context import Context
from tests.conftest import Run
from tests.heads import classifier

NORM = ("--mean", "0", "--std", "255", "--color", "rgb", "--resize", "32")
ONNXRUNTIME = ("--compiler", "onnxruntime", "--calib", "images", "--calib-count", "8")

# ----- the judgement


@given(st.integers(0, 2**32 - 1), st.integers(0, 90), st.sampled_from([0, 1, -1]))
def test_a_shift_is_found_where_there_is_one_and_nowhere_else(seed: int, mistakes: int, by: int) -> None:
    rng = np.random.default_rng(seed)
    n, classes = 200, 50
    answers = rng.integers(1, classes - 1, n)
    truth = np.where(rng.random(n) < mistakes / 200, rng.integers(0, classes, n), answers)
    found = Shifts().add(answers[:70], (truth - by)[:70]).add(answers[70:], (truth - by)[70:]).better
    if by == 0:
        assert found is None
    else:
        assert found is not None
        assert (found.by, found.n, found.before) == (by, n, int((answers == truth - by).sum()))
        assert found.after == int((answers == truth).sum())


@given(st.integers(0, 2**32 - 1))
def test_chance_and_few_images_call_no_labels_wrong(seed: int) -> None:
    rng = np.random.default_rng(seed)
    few = rng.integers(0, 1000, 9)
    assert Shifts().add(few + 1, few).better is None  # p = 0.004
    answers = np.full(300, 7)  # a network that knows one answer
    assert Shifts().add(answers, np.arange(300) % 10).better is None


def test_a_shift_says_what_to_do() -> None:
    text = str(Shift(-1, 10, 340, 500))
    assert "right on 2.0 % of 500 images, and on 68.0 % if every label counts one class lower" in text
    assert "--label-offset -1" in text


@pytest.mark.parametrize(
    ("right", "n", "classes", "chance"),
    [(0, 64, 1000, True), (2, 64, 1000, True), (12, 64, 10, True), (30, 64, 10, False), (8, 64, 1000, False),
     (32, 64, 2, True), (50, 64, 2, False), (340, 500, 1001, False), (10, 500, 1001, True)],
)  # fmt: skip
def test_what_counts_as_chance(right: int, n: int, classes: int, chance: bool) -> None:
    assert at_chance(right, n, classes) is chance


def test_labels_without_a_background_are_told_of_at_once() -> None:
    assert "--label-offset 1" in lacks_background([0, 999, 4], 1001)
    assert lacks_background([0, 1000], 1001) == ""
    assert lacks_background([0, 999], 1000) == ""
    assert lacks_background([None, None], 1001) == ""
    assert lacks_background([], 1001) == ""


# ----- the option


def colours(folder: Path, n: int = 60) -> Path:
    """Write red, green and blue images, labelled 0, 1, 2."""
    folder.mkdir(parents=True)
    rows = ["filename,class_index"]
    rng = np.random.default_rng(0)
    for i in range(n):
        image = np.zeros((40, 40, 3), np.uint8)
        image[..., 2 - i % 3] = 200 + i % 50
        image += rng.integers(0, 5, image.shape, np.uint8)
        cv2.imwrite(str(folder / f"{i:03}.png"), image)
        rows.append(f"{i:03}.png,{i % 3}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def with_background(path: Path) -> Path:
    """Save a network of four classes: background, red, green, blue."""
    weight = np.zeros((3, 4), np.float32)
    weight[:, 1:] = 9 * np.eye(3)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 32, 32))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


def test_the_offset_holds_for_every_kind_of_source(tmp_path: Path) -> None:
    folder = colours(tmp_path / "images", 6)
    plain, moved = open_images(folder, classes=4), open_images(folder, classes=4, label_offset=1)
    assert [item.label for item in moved] == [(item.label or 0) + 1 for item in plain]
    assert moved.fingerprint != plain.fingerprint
    assert sample(moved, 3).description.startswith(f"{tmp_path.name}/images, labels +1 (3 of 6")
    (tmp_path / "list.txt").write_text("images/000.png 3\nimages/001.png 1\n")
    assert [i.label for i in open_images(tmp_path / "list.txt", classes=3, label_offset=-1)] == [2, 0]
    with pytest.raises(LabelError, match=r"such as -1 of images/001\.png"):
        open_images(tmp_path / "list.txt", classes=3, label_offset=-2)
    for name, source in (("n01440764", "000.png"), ("n01443537", "001.png")):
        (tmp_path / "val" / name).mkdir(parents=True)
        (folder / source).rename(tmp_path / "val" / name / "a.png")
    unknown = open_images(tmp_path / "val", classes=1001)
    assert "--label-offset 1" in unknown.unlabelled
    assert [i.label for i in open_images(tmp_path / "val", classes=1001, label_offset=1)] == [1, 2]
    assert open_images("demo:test", count=3, label_offset=1).items == open_images("demo:test", count=3).items


def test_a_build_says_it_first_and_the_offset_mends_it(edge: Run, tmp_path: Path) -> None:
    with_background(tmp_path / "net.onnx")
    colours(tmp_path / "images")
    arguments = ("build", "net.onnx", *NORM, "--images", "images", *ONNXRUNTIME, "--json")
    code, out, err = edge(*arguments)
    assert code == 0, err
    assert "the labels seem off by one: the network is right on 0.0 % of 60 images, and on 100.0 %" in err
    folder = tmp_path / "build" / "net"
    assert json.loads((folder / "build_eval.json").read_text())["verdict"].startswith("The labels seem off by one")
    assert "The labels seem off by one" in (folder / "report.md").read_text()
    _, _, err = edge(*arguments)
    assert "the labels seem off by one" in err  # of a cached stage, too
    code, out, err = edge(*arguments, "--label-offset", "1")
    assert code == 0, err
    assert "off by one" not in err
    manifest = json.loads(out)
    assert manifest["accuracy"]["float"]["top1"] == 100
    assert manifest["accuracy"]["dataset"].startswith("images, labels +1 (60")
    assert "--label-offset 1" in manifest["command"]


def test_eval_and_diagnose_say_it_too(edge: Run, tmp_path: Path) -> None:
    with_background(tmp_path / "net.onnx")
    colours(tmp_path / "images")
    code, _, err = edge("build", "net.onnx", *NORM, *ONNXRUNTIME)
    assert code == 0, err
    code, out, err = edge("eval", "net", "--images", "images", "--max-drop", "1")
    assert code == 1
    assert "The labels seem off by one" in out
    assert "expected: labels that --max-drop can be judged by" in err
    code, out, _ = edge("eval", "net", "--images", "images", "--max-drop", "1", "--label-offset", "1", "--json")
    told = json.loads(out)
    assert (code, told["labels_doubt"], told["steps"][0]["score"]["top1_right"]) == (0, "", 60)
    assert "--label-offset 1" in told["command"]
    _, out, _ = edge("diagnose", "net", "--images", "images", "--json")
    told = json.loads(out)
    assert told["verdict"].startswith("The labels seem off by one")
    (remedy,) = told["remedies"]
    assert remedy["how"].startswith("--label-offset 1 ")
    _, out, _ = edge("diagnose", "net", "--images", "images", "--label-offset", "1", "--json")
    assert json.loads(out)["verdict"].startswith("No fault found")


def test_1001_classes_are_told_of_before_the_compile(edge: Run, tmp_path: Path) -> None:
    classifier(tmp_path / "net.onnx", classes=1001, outputs=[("s", (1, 1001), TensorProto.FLOAT)])
    colours(tmp_path / "images", 12)
    arguments = ("build", "net.onnx", *NORM, "--images", "images", *ONNXRUNTIME)
    code, _, err = edge(*arguments)
    assert code == 0, err
    assert err.index("1001 classes, and no label above 2") < err.index("quantize ")
    assert "1001 classes, and no label" not in edge(*arguments, "--label-offset", "1")[2]


def test_labels_outside_the_classes_are_told_before_the_compile(edge: Run, tmp_path: Path) -> None:
    classifier(tmp_path / "net.onnx", classes=2, outputs=[("s", (1, 2), TensorProto.FLOAT)])
    colours(tmp_path / "images", 12)
    code, _, err = edge("build", "net.onnx", *NORM, "--images", "images", *ONNXRUNTIME)
    assert code != 0
    assert "labels outside the classes" in err
    assert "quantize" not in err


def test_the_board_s_figures_carry_it(tmp_path: Path) -> None:
    images = open_images(colours(tmp_path / "images"), classes=4)

    class Board:
        def run(self, frames: list[np.ndarray], tell: Any) -> list[np.ndarray]:
            return [[self.scores(np.asarray(frame))] for frame in frames]

        def scores(self, nv12: np.ndarray) -> np.ndarray:
            u, v = (float(plane.mean()) for plane in nv12[32 * 32 :].reshape(-1, 2).T)
            best = 1 if v > 160 else 3 if u > 160 else 2
            return np.eye(4, dtype=np.float32)[best]

    told: list[str] = []
    reporter = SimpleNamespace(warn=told.append, update=lambda *_: None)
    rule = Preprocess(crop=(32, 32), resize=32)
    found = measure_accuracy(Board(), rule, 4, images, simulator=None, reporter=reporter)
    assert found.board is not None
    assert found.board.top1 == 0
    assert found.record(None)["labels_doubt"] == told[0] == found.labels_doubt
    assert "--label-offset 1" in told[0]


def test_tune_says_it_before_it_searches(tmp_path: Path) -> None:
    images = open_images(colours(tmp_path / "images"), classes=4)
    told: list[str] = []
    search = SimpleNamespace(
        halves=(SimpleNamespace(selection=images), ""),
        request=SimpleNamespace(
            spec=SimpleNamespace(preprocess=Preprocess((32, 32), 32, mean=(0,) * 3, std=(255,) * 3))
        ),
        onnx=with_background(tmp_path / "net.onnx"),
        listener=SimpleNamespace(warn=told.append, update=lambda *_: None),
        objective=Classes(None, "logits"),
    )
    assert list(Context.load(search, "selection").truth) == [item.label for item in images]
    assert ["--label-offset 1" in text for text in told] == [True]
    search.halves = (search.halves[0], "no labels")
    Context.load(search, "selection")
    assert len(told) == 1


# ----- diagnose


def evidence(**known: Any) -> Measurements:
    """Return measurements of a build that is fine, but for what is given."""
    built = SimpleNamespace(
        manifest={"command": "edge build net.onnx"}, files={}, metadata=SimpleNamespace(classes=10, model="n")
    )
    usual: dict[str, Any] = {
        "built": built, "n": 64, "labelled": True, "shift": None, "float_right": 50, "checks": (), "program_checks": (),
        "own_normalisation": "", "pixel_range": (0, 255), "steps": (), "shares": (), "changed": (), "cpu": (),
        "precision": None,
    }  # fmt: skip
    return Measurements(**{**usual, **known})


@pytest.fixture
def ruined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the weights look at fault, as noise does where the network knows nothing of the labels."""
    remedy = judging.Remedy("Clip the outlier", "weight[0] = 0", "figure", 9.0)
    monkeypatch.setattr(judging, "_weights", lambda _: judging.Fault("weights", "a weight is ruined", remedy))
    monkeypatch.setattr(judging, "_cpu", lambda _: [((1.0, 1.0), remedy)])


@pytest.mark.usefixtures("ruined")
def test_a_network_at_chance_gets_no_advice_on_its_weights() -> None:
    known = evidence(float_right=6)
    found = faults(known)
    assert "the float network itself is at chance on these labels (Top-1 9.4 % of 64 images)" in found[0].sentence
    (remedy,) = remedies(known, found)
    assert "order of the classes, mean, std and the channel order" in remedy.what
    assert verdict(known, found).startswith("The float network itself is at chance")
    # One that knows its classes gets it.
    assert [fault.step for fault in faults(evidence())] == ["weights"]
    assert [fault.step for fault in faults(evidence(float_right=None, labelled=False))] == ["weights"]


@pytest.mark.usefixtures("ruined")
def test_labels_that_are_off_by_one_are_all_there_is_to_say() -> None:
    known = evidence(shift=Shift(1, 2, 44, 64), float_right=2)
    found = faults(known)
    assert verdict(known, found).startswith("The labels seem off by one")
    (remedy,) = remedies(known, found)
    assert remedy.how.startswith("--label-offset 1 ")
    assert remedy.gain == pytest.approx(100 * 42 / 64)
