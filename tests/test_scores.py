"""What class scores are is read from the network's last operators, never from the values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto

from edge.accuracy.classify import _Mistakes, _Part
from edge.folder.metadata import FILE, read_metadata
from edge.images.items import ImageItem
from edge.runtime import load
from edge.runtime.scores import probabilities
from edge.sources.outputs import score_kind
from tests.conftest import Run, save_images
from tests.heads import CLASSES, classifier, node, sigmoid, softmax

SHAPE = {"shape": np.array([1, CLASSES, 1, 1]), "ax": np.array([1])}


def changed(*ops: str) -> Callable[[str], list[NodeProto]]:
    """Return what puts operators that leave numbers alone behind a value."""

    def make(name: str) -> list[NodeProto]:
        nodes = []
        for i, op in enumerate(ops):
            more = {"Cast": {"to": TensorProto.FLOAT}, "Transpose": {"perm": [1, 0]}, "Squeeze": {"axes": [0]}}
            inputs = [f"{name}_{i - 1}" if i else name, *(["shape"] if op == "Reshape" else [])]
            nodes.append(node(op, inputs, f"{name}_{i}", **more.get(op, {})))
        return nodes

    return make


HEADS: list[tuple[str, list[NodeProto], str]] = [
    ("logits", [], "s"),
    ("logits", [node("LogSoftmax", ["s"], "y", axis=1)], "y"),
    ("logits", [node("Softmax", ["s"], "q", axis=1), node("Log", ["q"], "y")], "y"),
    ("softmax", [node("Softmax", ["s"], "y", axis=1)], "y"),
    ("sigmoid", [node("Sigmoid", ["s"], "y")], "y"),
    ("sigmoid", [node("HardSigmoid", ["s"], "y")], "y"),
    (
        "softmax",
        [node("Exp", ["s"], "e"), node("ReduceSum", ["e"], "t", axes=[1], keepdims=1), node("Div", ["e", "t"], "y")],
        "y",
    ),
    ("logits", [node("ReduceL2", ["s"], "n", axes=[1], keepdims=1), node("Div", ["s", "n"], "y")], "y"),
]


@pytest.mark.parametrize("behind", [(), ("Reshape",), ("Transpose",), ("Squeeze", "Cast"), ("Identity", "Cast")])
@pytest.mark.parametrize(("kind", "tail", "last"), HEADS)
def test_the_kind_is_read_through_what_leaves_numbers_alone(
    tmp_path: Path, kind: str, tail: list[NodeProto], last: str, behind: tuple[str, ...]
) -> None:
    more = changed(*behind)(last)
    name = more[-1].output[0] if more else last
    shape = {"Reshape": (1, CLASSES, 1, 1), "Transpose": (CLASSES, 1), "Cast": (CLASSES,)}.get(
        behind[0] if behind else "", (1, CLASSES)
    )
    shape = (CLASSES,) if "Squeeze" in behind else shape if behind != ("Identity", "Cast") else (1, CLASSES)
    path = classifier(tmp_path / "net.onnx", [*tail, *more], [(name, shape, TensorProto.FLOAT)], SHAPE)
    assert score_kind(onnx.load(path)) == kind


def test_two_classes_by_one_sigmoid_are_probabilities(tmp_path: Path) -> None:
    tail = [node("Sigmoid", ["s"], "p1"), node("Sub", ["one", "p1"], "p0"), node("Concat", ["p0", "p1"], "y", axis=1)]
    outputs = [("y", (1, 2), TensorProto.FLOAT)]
    path = classifier(tmp_path / "net.onnx", tail, outputs, {"one": np.array(1.0)}, classes=1)
    assert score_kind(onnx.load(path)) == "sigmoid"
    tail = [node("Sub", ["one", "s"], "p0"), node("Concat", ["p0", "s"], "y", axis=1)]
    path = classifier(tmp_path / "net.onnx", tail, outputs, {"one": np.array(1.0)}, classes=1)
    assert score_kind(onnx.load(path)) == "logits"


def test_a_class_that_is_left_out_leaves_probabilities(tmp_path: Path) -> None:
    tail = [node("Softmax", ["s"], "q", axis=1), node("Slice", ["q", "one", "end", "one"], "y")]
    constants = {"one": np.array([1]), "end": np.array([CLASSES])}
    path = classifier(tmp_path / "net.onnx", tail, [("y", (1, CLASSES - 1), TensorProto.FLOAT)], constants)
    assert score_kind(onnx.load(path)) == "softmax"


rows = st.lists(st.integers(0, 255), min_size=2, max_size=40).map(lambda q: np.array(q, np.float32) / np.float32(255))


@given(rows, st.sampled_from(["softmax", "sigmoid", None]))
def test_probabilities_stay_whatever_their_sum(values: np.ndarray, kind: str) -> None:
    np.testing.assert_array_equal(probabilities(values, kind), values.astype(np.float64))


@given(rows, st.floats(-1e4, 1e4))
def test_logits_go_through_a_softmax_though_they_look_like_probabilities(values: np.ndarray, shift: float) -> None:
    found = probabilities(values / max(values.sum(), 1), "logits")
    assert found.sum() == pytest.approx(1)
    assert found.min() > 0  # a 0 that is a logit is a chance
    moved = probabilities(values + np.float32(shift), "logits")
    assert np.isfinite(moved).all()
    assert moved.sum() == pytest.approx(1)


def test_rows_are_read_each_by_itself() -> None:
    found = probabilities(np.array([[1000.0, 1000.0], [0.0, np.log(3)]], np.float32), "logits")
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.25, 0.75]], rtol=1e-6)


@pytest.mark.parametrize(("kind", "shown"), [("softmax", 0.6), ("sigmoid", 0.6), ("logits", 0.4392)])
def test_mistakes_are_listed_with_the_kind_of_probability(kind: str, shown: float) -> None:
    there, no, yes = np.array([True]), np.array([False]), np.array([True])
    before = _Part(there, np.array([[0.6, 0.2, 0.1]], np.float32), np.array([0]), yes, yes)
    after = _Part(there, np.array([[0.2, 0.6, 0.1]], np.float32), np.array([1]), no, yes)
    mistakes = _Mistakes(kind)
    mistakes.add([ImageItem("a.png", 0)], before, after, labelled=True)
    (found,) = mistakes.listed()
    assert (found.float_probability, found.probability) == pytest.approx((shown,) * 2, abs=5e-3)


# ----- a whole build


def bounded(path: Path) -> Path:
    """Save a net whose Softmax is kept below 0.7, so that a sure answer's row does not add up to 1."""
    tail = [node("Softmax", ["s"], "q", axis=1), node("Clip", ["q", "low", "high"], "y")]
    constants = {"low": np.array(0.0), "high": np.array(0.7)}
    return classifier(path, tail, [("y", (1, CLASSES), TensorProto.FLOAT)], constants)


def built(edge: Run, tmp_path: Path, make: Callable[[Path], Path]) -> tuple[Path, Path]:
    """Build a net with onnxruntime; return the folder and an image."""
    net, images = make(tmp_path / "net.onnx"), save_images(tmp_path / "images", 8)
    code, _, err = edge(
        "build", str(net), "--mean", "127.5", "--std", "127.5", "--color", "rgb", "--resize", "32",
        "--images", "images", "--calib", "images", "--calib-count", "8", "--compiler", "onnxruntime",
    )  # fmt: skip
    assert code == 0, err
    return tmp_path / "build" / "net", next(images.rglob("*.png"))


@pytest.mark.parametrize(("make", "kind"), [(bounded, "softmax"), (sigmoid, "sigmoid"), (classifier, "logits")])
def test_what_a_build_shows_is_what_the_program_says(
    edge: Run, tmp_path: Path, make: Callable[[Path], Path], kind: str
) -> None:
    folder, image = built(edge, tmp_path, make)
    assert read_metadata(folder / FILE).scores == kind
    assert json.loads((folder / "manifest.json").read_text())["scores"] == kind
    with load(folder, "portable") as net:
        raw = net.scores(image).astype(np.float64)
        ranked = net.classify(image, CLASSES)
    if kind != "logits":
        assert abs(raw.sum() - 1) > 1e-3  # what used to be put through a second softmax
    wanted = np.exp(raw) / np.exp(raw).sum() if kind == "logits" else raw
    assert [value for _, value in ranked] == pytest.approx(sorted(wanted, reverse=True), abs=1e-6)
    _, out, _ = edge("run", "net", str(image), "--backend", "portable", "--json")
    told = json.loads(out)
    assert told["scores"] == kind
    assert [item["probability"] for item in told["images"][0]["labels"]] == pytest.approx([v for _, v in ranked[:5]])
    _, out, _ = edge("run", "net", str(image), "--backend", "portable")
    assert f"{100 * ranked[0][1]:6.2f} %" in out
    assert ("each class is judged by itself" in out) == (kind == "sigmoid")
    code, _, err = edge("run", "net", str(image), "--scores", "logits")
    assert code == 2
    assert f"metadata.json says: {kind}" in err


def test_metadata_of_an_earlier_edge_shows_bare_scores_and_says_so(edge: Run, tmp_path: Path) -> None:
    folder, image = built(edge, tmp_path, softmax)
    about = json.loads((folder / FILE).read_text())
    del about["scores"]
    (folder / FILE).write_text(json.dumps(about))
    with load(folder, "portable") as net:
        assert net.score_kind is None
        raw = sorted(net.scores(image).tolist(), reverse=True)
    arguments = ("run", "net", str(image), "--backend", "portable")
    _, out, _ = edge(*arguments)
    assert "whether they are logits or probabilities is not recorded" in out
    assert "%" not in out[out.index(str(image)) :]
    told = json.loads(edge(*arguments, "--json")[1])
    assert told["scores"] is None
    assert [item["score"] for item in told["images"][0]["labels"]] == pytest.approx(raw[:5])
    told = json.loads(edge(*arguments, "--json", "--scores", "softmax")[1])
    assert [item["probability"] for item in told["images"][0]["labels"]] == pytest.approx(raw[:5])
    # What measures has the float network at hand, and asks it.
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["artifacts"] = [item for item in manifest["artifacts"] if item["role"] != "metadata"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = edge("eval", "net", "--images", "images", "--steps", "portable", "--json")
    assert code == 0, err
    assert all(0 < m["float_probability"] <= 1 for m in json.loads(out)["mistakes"])
