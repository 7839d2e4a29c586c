"""Networks whose outputs are no class scores: every output goes through and is compared as numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edge as package
from edge.accuracy.raw import COSINE, LARGEST, NOISE, SIGNAL, figures
from edge.errors import ModelFileError
from edge.pipeline.bundle import notebook
from edge.sources.check import inspect_onnx
from tests.conftest import Run, save_images

WORDS = ("--mean", "127.5", "--std", "127.5", "--resize", "stretch")
SHAPES = {
    "boxes": (1, 6, 16, 24),
    "vec": (1, 7),
    "volume": (1, 2, 3, 16, 24),
    "rows": (1, 384, 6),
    "classes": (1, 1, 32, 48),
}


def save_heads(path: Path, outputs: tuple[str, ...] = ("boxes", "vec"), *, side: int = 64) -> Path:
    """Save a network of 64x96 with outputs of several ranks and types; seeded weights."""
    rng = np.random.default_rng(0)
    stored = {
        "a/w": rng.normal(0, 0.3, (16, 3, 3, 3)),
        "b/w": rng.normal(0, 0.1, (16, 16, 3, 3)),
        "boxes/w": rng.normal(0, 0.4, (6, 16, 1, 1)),
        "m/w": rng.normal(0, 0.4, (5, 16, 1, 1)),
        "vec/w": rng.normal(0, 0.3, (16, 7)),
    }
    ints = {"volume/s": (1, 2, 3, 16, 24), "rows/s": (1, 6, -1)}
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "a/w"], ["ac"], "a/Conv", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        node("Relu", ["ac"], ["a"], "a/Relu"),
        node("Conv", ["a", "b/w"], ["bc"], "b/Conv", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        node("Relu", ["bc"], ["b"], "b/Relu"),
        node("Conv", ["b", "boxes/w"], ["boxes"], "boxes/Conv", kernel_shape=[1, 1]),
        node("GlobalAveragePool", ["b"], ["g"], "gap"),
        node("Flatten", ["g"], ["f"], "flat"),
        node("MatMul", ["f", "vec/w"], ["vec"], "vec/MatMul"),
        node("Reshape", ["boxes", "volume/s"], ["volume"], "volume/Reshape"),
        node("Reshape", ["boxes", "rows/s"], ["r"], "r/Reshape"),
        node("Transpose", ["r"], ["rows"], "rows/Transpose", perm=[0, 2, 1]),
        node("Conv", ["a", "m/w"], ["m"], "m/Conv", kernel_shape=[1, 1]),
        node("ArgMax", ["m"], ["classes"], "classes/ArgMax", axis=1, keepdims=1),
    ]
    needed = set(outputs)
    kept = []
    for one in reversed(nodes):
        if needed & set(one.output):
            kept.append(one)
            needed |= set(one.input)
    tensors = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in stored.items() if k in needed]
    tensors += [numpy_helper.from_array(np.asarray(v, np.int64), k) for k, v in ints.items() if k in needed]
    graph = helper.make_graph(
        kept[::-1],
        "heads",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, side, side * 3 // 2))],
        [
            helper.make_tensor_value_info(n, TensorProto.INT64 if n == "classes" else TensorProto.FLOAT, SHAPES[n])
            for n in outputs
        ],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


@pytest.fixture
def build(edge: Run, tmp_path: Path) -> Path:
    """A build by onnxruntime, which takes seconds."""
    net, images = save_heads(tmp_path / "heads.onnx"), save_images(tmp_path / "images", 24)
    data = ("--images", str(images), "--calib", str(images), "--calib-count", "20")
    code, out, err = edge("build", str(net), "--task", "raw", *WORDS, *data, "--compiler", "onnxruntime")
    assert code == 0, err
    assert "boxes 1x6x16x24: signal to noise" in out
    assert "vec 1x7: signal to noise" in out
    return tmp_path / "build" / "heads"


# --- what the outputs are


def test_every_output_is_kept_with_its_shape_and_type(tmp_path: Path) -> None:
    found = inspect_onnx(save_heads(tmp_path / "net.onnx", tuple(SHAPES)), task="raw")
    assert {output.name: output.shape for output in found.outputs} == SHAPES
    assert [output.dtype for output in found.outputs] == ["float32"] * 4 + ["int64"]
    assert found.classes == 0


def test_outputs_may_be_chosen_by_name_in_their_order(tmp_path: Path) -> None:
    path = save_heads(tmp_path / "net.onnx", ("boxes", "vec", "rows"))
    found = inspect_onnx(path, "rows, b", task="raw")
    assert [(output.name, output.shape) for output in found.outputs] == [
        ("rows", SHAPES["rows"]),
        ("b", (1, 16, 16, 24)),
    ]
    with pytest.raises(ModelFileError, match="no value of that name") as error:
        inspect_onnx(path, "rows,boxe", task="raw")
    assert error.value.remedy == "--output boxes"


def test_a_classifier_asks_for_scores_and_names_the_way_out(tmp_path: Path) -> None:
    path = save_heads(tmp_path / "net.onnx", ("boxes",))
    with pytest.raises(ModelFileError, match="1x6x16x24") as error:
        inspect_onnx(path)
    assert "--task raw" in str(error.value.remedy)


def test_a_head_that_is_no_detectors_is_told_with_the_way_by_hand(edge: Run, tmp_path: Path) -> None:
    code, _, err = edge("export", str(save_heads(tmp_path / "net.onnx")), "--task", "detect", *WORDS)
    assert code == 1
    assert "does not know this head" in err
    assert "detector: {family:" in err


# --- figures


def test_figures_of_known_arrays() -> None:
    like, own = np.array([[3.0, 4.0]], np.float32), np.array([[3.0, 4.5]], np.float32)
    found = figures("y", own, like)
    assert found[SIGNAL] == 25
    assert found[NOISE] == 0.25
    assert found[LARGEST] == 0.5
    assert found[COSINE] == pytest.approx((9 + 18) / (5 * np.hypot(3, 4.5)))
    assert figures("y", like, like)[[COSINE, NOISE]].tolist() == [1, 0]
    assert figures("y", like * 0, like * 0)[COSINE] == 1
    assert figures("y", like * 0, like)[COSINE] == 0
    with pytest.raises(ModelFileError, match="has 1 value"):
        figures("y", own[:, :1], like)


# --- the whole way


def test_a_build_is_published_read_and_run(build: Path, edge: Run, tmp_path: Path) -> None:
    manifest = json.loads((build / "manifest.json").read_text())
    assert manifest["task"] == "raw"
    assert [output["name"] for output in manifest["outputs"]] == ["boxes", "vec"]
    figures_of = {output["name"]: output for output in manifest["accuracy"]["outputs"]}
    assert 10 < figures_of["boxes"]["snr_db"] < 60
    assert figures_of["boxes"]["cosine"] > 0.99
    image = next((tmp_path / "images").rglob("*.png"))
    with package.load(build) as net:
        outputs = net.outputs(image)
        assert {name: values.shape for name, values in outputs.items()} == {n: SHAPES[n] for n in ("boxes", "vec")}
        assert all(values.dtype == np.float32 for values in outputs.values())
        for values, again in zip(outputs.values(), net.run(net.nv12(image)), strict=True):
            np.testing.assert_array_equal(values, again)
        with pytest.raises(package.EdgeError, match="no class scores"):
            net.classify(image)
    code, out, _ = edge("run", str(build), str(image), "--json")
    told = json.loads(out)["images"][0]["outputs"]
    assert code == 0
    assert told[1]["name"] == "vec"
    assert told[1]["max"] == pytest.approx(float(outputs["vec"].max()))
    assert edge("run", str(build), str(image), "--out", "x.png")[0] == 2


def test_eval_compares_every_output_at_every_step(build: Path, edge: Run) -> None:
    code, out, err = edge("eval", str(build))
    assert code == 0, err
    assert "SNR dB" in out
    data = json.loads((build / "eval.json").read_text())
    assert data["task"] == "raw"
    steps = {step["name"]: step for step in data["steps"]}
    assert [output["name"] for output in steps["portable"]["outputs"]] == ["boxes", "vec"]
    assert steps["float"]["outputs"][0]["snr_db"] is None
    assert steps["simplified"]["agreement_with"] == "float"
    assert steps["portable"]["agreement_with"] == "nv12"
    # The kept figures give the same table; a figure of other images does not.
    assert json.loads(edge("eval", str(build), "--json")[1])["steps"][2]["outputs"] == data["steps"][2]["outputs"]
    rows = (build / "answers.csv").read_text().splitlines()
    assert len(rows) == 25
    assert 0.9 < float(rows[1].split(",")[-1]) <= 1


def test_the_gate_is_signal_to_noise(build: Path, edge: Run) -> None:
    worst = min(output["snr_db"] for output in json.loads((build / "manifest.json").read_text())["accuracy"]["outputs"])
    assert edge("eval", str(build), "--min-snr", str(worst - 1))[0] == 0
    code, _, err = edge("eval", str(build), "--min-snr", str(worst + 1))
    assert code == 1
    assert "(--min-snr)" in err
    code, _, err = edge("eval", str(build), "--max-drop", "1")
    assert code == 2
    assert "no class scores" in err


def test_the_report_and_the_bundle_speak_of_outputs(build: Path, edge: Run) -> None:
    page, text = (build / "report.html").read_text(), (build / "report.md").read_text()
    assert "Signal to noise" in page
    assert "same answer as float" not in page + text
    assert "boxes 1x6x16x24" in text
    code, _, err = edge("report", str(build), str(build))
    assert code == 0, err
    code, _, err = edge("bundle", str(build), "--out", "out")
    assert code == 0, err
    assert 'net.outputs("IMAGE.jpg")' in Path("out/README.txt").read_text()
    assert "net.outputs(rgb)" in Path("out/test_heads.ipynb").read_text()


def test_the_notebook_names_no_classes() -> None:
    cells = ["".join(cell["source"]) for cell in json.loads(notebook("net", "raw"))["cells"]]
    assert [cell.partition("\n")[0] for cell in cells if cell.startswith("## ")][-2:] == [
        "## 5. Forward",
        "## 6. Speed",
    ]
    for cell in cells:
        assert "annotate(" not in cell
        assert "probabilities" not in cell


def test_diagnose_and_tune_say_what_they_read(build: Path, edge: Run, tmp_path: Path) -> None:
    code, _, err = edge("diagnose", str(build))
    assert code == 2
    assert "no class scores" in err
    code, _, err = edge("tune", str(tmp_path / "heads.onnx"), "--task", "raw", *WORDS)
    assert code == 2
    assert "neither class scores nor boxes" in err


# --- the vendor's compiler


@pytest.mark.compiler
def test_all_outputs_are_compiled_verified_and_equal_on_every_backend(edge: Run, tmp_path: Path) -> None:
    net, images = save_heads(tmp_path / "heads.onnx", tuple(SHAPES)), save_images(tmp_path / "images", 24)
    data = ("--images", str(images), "--calib", str(images), "--calib-count", "20", "--level", "O0")
    code, _, err = edge("build", str(net), "--task", "raw", *WORDS, *data)
    assert code == 0, err
    manifest = json.loads((tmp_path / "build/heads/manifest.json").read_text())
    assert manifest["verify"]["bit_exact"]
    assert manifest["verify"]["portable_exact"]
    answers = {}
    for backend in ("hbdk_sim", "quantized", "portable"):
        with package.load(tmp_path / "build/heads", backend) as loaded:
            answers[backend] = loaded.outputs(images / "0/000.png")
    for name, shape in SHAPES.items():
        assert answers["portable"][name].shape == shape
        for backend in ("hbdk_sim", "quantized"):
            np.testing.assert_array_equal(answers[backend][name], answers["portable"][name])
    assert len(np.unique(answers["portable"]["classes"])) > 1
