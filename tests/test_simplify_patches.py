"""Convolutions over patches in two steps: the same answers, only where it fits, and faster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.prepare import simplify as stage
from edge.prepare.normal_form import tidy
from edge.prepare.patches import first_step, in_two_steps
from edge.prepare.simplify import simplify
from edge.progress import Silent
from edge.toolchain.found import Toolchain
from tests.conftest import Run


def patch_net(
    window: int = 16,
    *,
    outputs: int = 8,
    channels: int = 3,
    height: int = 64,
    width: int = 64,
    bias: bool = True,
    seed: int = 0,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a convolution over patches, and a score of each of its channels."""
    rng = np.random.default_rng(seed)
    group = attributes.get("group", 1)
    constants = {"w": rng.normal(0, 1 / window, (outputs, channels // group, window, window)).astype(np.float32)}
    if bias:
        constants["b"] = rng.normal(0, 0.1, outputs).astype(np.float32)
    attributes = {"kernel_shape": [window] * 2, "strides": [window] * 2, **attributes}
    nodes = [
        helper.make_node("Conv", ["x", *constants], ["c"], "/proj/Conv", **attributes),
        helper.make_node("Relu", ["c"], ["r"], "/act/Relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "/pool"),
        helper.make_node("Flatten", ["p"], ["y"], "/flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "patches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, height, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return tidy(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6))


def answers(model: onnx.ModelProto) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    value = np.random.default_rng(1).uniform(-2, 2, shape).astype(np.float32)
    result: NDArray[np.float32] = session.run(None, {"x": value})[0]
    return result


@given(
    window=st.sampled_from([8, 9, 12, 14, 16, 32]),
    channels=st.integers(1, 4),
    height=st.integers(32, 70),
    width=st.integers(32, 70),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_answers_stay(window: int, channels: int, height: int, width: int, bias: bool, seed: int) -> None:
    """Images need not be whole patches: what is left over is not read, as before."""
    before = patch_net(window, channels=channels, height=height, width=width, bias=bias, seed=seed)
    after, names = in_two_steps(before)
    assert names == ("/proj/Conv",)
    onnx.checker.check_model(after, full_check=True)
    first, second = (node for node in after.graph.node if node.op_type == "Conv")
    assert second.name == "/proj/Conv", "a recipe that names it still finds it"
    step = first_step(window)
    assert step is not None
    sides = [list(a.ints) for node in (first, second) for a in node.attribute if a.name == "kernel_shape"]
    assert sides == [[step] * 2, [window // step] * 2]
    np.testing.assert_allclose(answers(after), answers(before), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("window", "step"), [(8, 4), (9, 3), (14, 7), (16, 4), (32, 8), (7, None), (13, None)])
def test_the_first_step(window: int, step: int | None) -> None:
    assert first_step(window) == step


@pytest.mark.parametrize(
    "changes",
    [
        {"window": 4},  # ConvNeXt's, measured with it as it is
        {"window": 11},
        {"window": 16, "strides": [8, 8]},
        {"window": 16, "pads": [1, 1, 1, 1]},
        {"window": 8, "dilations": [2, 2]},
        {"window": 16, "group": 3, "outputs": 9},
        {"window": 16, "channels": 16},
    ],
)
def test_only_what_fits_changes(changes: dict[str, Any]) -> None:
    before = patch_net(**changes)
    after, names = in_two_steps(before)
    assert after is before
    assert not names


def test_weights_that_another_layer_reads_stay_for_it() -> None:
    before = patch_net()
    before.graph.node.append(helper.make_node("Relu", ["w"], ["seen"], "/seen"))
    before.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, [8, 3, 16, 16]))
    after, names = in_two_steps(tidy(before))
    assert names
    np.testing.assert_allclose(answers(after), answers(before), rtol=0, atol=1e-5)


def test_other_answers_are_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "in_two_steps", lambda model: (patch_net(seed=1), ("/proj/Conv",)))
    onnx.save(patch_net(), tmp_path / "net.onnx")
    reporter = Silent()
    result = simplify(model=tmp_path / "net.onnx", out=tmp_path, name="net_bpu", reporter=reporter)
    assert not result.patches
    assert "the convolution over patches stays as exported" in reporter.warnings[-1]
    shipped = onnx.load(tmp_path / "net_bpu.onnx")
    np.testing.assert_allclose(answers(shipped), answers(patch_net()), rtol=0, atol=1e-6)


def test_the_compiler_makes_it_faster_and_no_less_true(
    tmp_path: Path, toolchain: Toolchain, edge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(patch_net(outputs=64, height=128, width=128), tmp_path / "net.onnx")
    built = {}
    for name in ("whole", "two_steps"):
        if name == "whole":
            monkeypatch.setattr(stage, "in_two_steps", lambda model: (model, ()))
        else:
            monkeypatch.undo()
            monkeypatch.chdir(tmp_path)
        code, out, err = edge(
            "build", "net.onnx", "--crop", "128", "--mean", "127.5", "--std", "60", "--level", "O1",
            "--calib", "demo:calibration", "--images", "demo:test", "--calib-count", "20", "--count", "20",
            "--build-dir", name,
        )  # fmt: skip
        assert code == 0, err
        assert "bit for bit" in out
        built[name] = json.loads((tmp_path / name / "net/manifest.json").read_text())
    assert built["two_steps"]["patches"] == ["/proj/Conv"]
    assert not built["whole"]["patches"]
    latency = {name: manifest["static"]["latency_us"] for name, manifest in built.items()}
    assert latency["whole"] > 2 * latency["two_steps"]
    cosine = {name: manifest["accuracy"]["cosine"] for name, manifest in built.items()}
    assert cosine["two_steps"] > cosine["whole"] - 1e-4, "the first step costs nothing"
