"""Weights on the compiler's steps: the arithmetic, the layers, and what the real compiler makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.errors import CalibrationError, ModelFileError, SpecError
from edge.images.preprocess import arrange
from edge.prepare import rounding as compensate
from edge.prepare.rounding import (
    TOP,
    LinearLayer,
    RoundResult,
    compensated,
    find_layers,
    nearest,
    output_error,
    round_weights,
)
from edge.specs import Preprocess, Rounding, load_precision
from edge.toolchain.found import Toolchain
from tests.conftest import Run, save_images
from tests.test_build_compiler import NORM, build, save_small_net

PRE = Preprocess(crop=(64, 64), resize=64)


def correlated(columns: int, seed: int) -> NDArray[np.float64]:
    """Moments of inputs that are mixtures of a few sources, as a network's activations are."""
    rng = np.random.default_rng(seed)
    sources = rng.normal(size=(max(1, columns // 3), 400))
    inputs = rng.normal(size=(columns, len(sources))) @ sources + 0.05 * rng.normal(size=(columns, 400))
    return inputs @ inputs.T / 400


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 6), columns=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_rounded_weights_are_what_the_compiler_finds_again(seed: int, rows: int, columns: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(rows, columns))
    result = compensated(weights, correlated(columns, seed), 0.01).astype(np.float32)
    # The compiler's own rule, in float32: thr = max |w| of the row, w_int = rint(w / thr * 127).
    top = np.abs(result).max(axis=1, keepdims=True)
    integers = np.rint(result / top * np.float32(127))
    np.testing.assert_allclose(integers * (top / 127), result, rtol=0, atol=1e-6 * top.max())
    np.testing.assert_allclose(top.ravel(), np.abs(weights).max(axis=1), rtol=1e-6)
    assert np.abs(integers).max() <= TOP


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_without_correlation_nothing_can_be_made_up_for(seed: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(4, 20))
    powers = np.diag(np.random.default_rng(seed + 1).uniform(0.1, 3, 20))
    np.testing.assert_allclose(compensated(weights, powers, 0.01), nearest(weights), atol=1e-12)


def test_correlated_inputs_leave_a_small_part_of_the_error() -> None:
    ratios = []
    for seed in range(20):
        weights = np.random.default_rng(seed).normal(size=(16, 48))
        moments = correlated(48, seed)
        better = output_error(weights - compensated(weights, moments, 0.01), moments)
        ratios.append(better / output_error(weights - nearest(weights), moments))
    assert np.median(ratios) < 0.3
    assert max(ratios) < 1


def test_the_block_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, moments = np.random.default_rng(3).normal(size=(5, 37)), correlated(37, 3)
    whole = compensated(weights, moments, 0.02)
    monkeypatch.setattr(compensate, "BLOCK", 4)
    np.testing.assert_allclose(compensated(weights, moments, 0.02), whole, atol=1e-9)


def test_rows_and_inputs_of_zeros_are_no_accident() -> None:
    weights = np.random.default_rng(0).normal(size=(3, 8))
    weights[1] = 0
    result = compensated(weights, np.zeros((8, 8)), 0.01)
    assert np.all(result[1] == 0)
    np.testing.assert_allclose(result, nearest(weights), atol=1e-12)


CONVS: dict[str, dict[str, Any]] = {
    "plain": {"shape": (6, 4, 3, 3)},
    "strided, padded": {"shape": (6, 4, 3, 3), "strides": [2, 1], "pads": [1, 0, 2, 1]},
    "dilated": {"shape": (6, 4, 3, 2), "dilations": [2, 3]},
    "depthwise": {"shape": (4, 1, 3, 3), "group": 4, "pads": [1, 1, 1, 1]},
    "grouped": {"shape": (6, 2, 1, 1), "group": 2},
}


def one_layer(op: str, shape: tuple[int, ...], inputs: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    weight = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], name="layer", **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def as_columns(model: onnx.ModelProto, x: NDArray[np.float32]) -> tuple[LinearLayer, NDArray[np.float64]]:
    """Compute the one layer from its columns."""
    (layer,), left = find_layers(model)
    assert not left
    weight = numpy_helper.to_array(model.graph.initializer[0])
    seen = layer.inputs(x, 10**9, np.random.default_rng(0))
    return layer, (layer.matrices(weight) @ seen).reshape(layer.shape[0], -1)


def run(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("name", CONVS)
def test_a_convolution_is_its_columns_times_its_matrix(name: str) -> None:
    given_ = dict(CONVS[name])
    model = one_layer("Conv", given_.pop("shape"), (1, 4, 9, 8), **given_)
    x = np.random.default_rng(0).normal(size=(1, 4, 9, 8)).astype(np.float32)
    layer, ours = as_columns(model, x)
    np.testing.assert_allclose(ours, run(model, x)[0].reshape(layer.shape[0], -1), atol=1e-4)
    weight = numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_array_equal(layer.constant(layer.matrices(weight), weight), weight)


@pytest.mark.parametrize(
    ("op", "shape", "attributes"), [("MatMul", (7, 5), {}), ("Gemm", (7, 5), {}), ("Gemm", (5, 7), {"transB": 1})]
)
def test_a_linear_layer_is_too(op: str, shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    model = one_layer(op, shape, (3, 7), **attributes)
    x = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    layer, ours = as_columns(model, x)
    np.testing.assert_allclose(ours, run(model, x).T, atol=1e-5)
    weight = numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_array_equal(layer.constant(layer.matrices(weight), weight), weight)


def chain(*nodes: onnx.NodeProto, **constants: NDArray[np.float32]) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 8, 8))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


W = np.ones((4, 4, 1, 1), np.float32)
GAIN = np.arange(1, 5, dtype=np.float32).reshape(1, 4, 1, 1)
HALF = np.array(0.5, np.float32)


def test_layers_behind_a_gain_are_left_to_the_compiler() -> None:
    gained = chain(
        helper.make_node("Mul", ["x", "g"], ["a"], name="gain"),
        helper.make_node("Add", ["a", "b"], ["c"], name="shift"),
        helper.make_node("Conv", ["c", "w"], ["y"], name="fc1"),
        g=GAIN, b=GAIN, w=W,
    )  # fmt: skip
    assert find_layers(gained) == ([], ["fc1"])


def test_a_factor_for_all_channels_or_behind_the_layer_is_harmless() -> None:
    fine = chain(
        helper.make_node("Mul", ["x", "h"], ["a"], name="half"),
        helper.make_node("Conv", ["a", "w"], ["b"], name="fc2"),
        helper.make_node("Mul", ["b", "g"], ["y"], name="gamma"),
        h=HALF, g=GAIN, w=W,
    )  # fmt: skip
    layers, left = find_layers(fine)
    assert ([layer.name for layer in layers], left) == (["fc2"], [])


def test_a_shared_weight_is_left() -> None:
    shared = chain(
        helper.make_node("Conv", ["x", "w"], ["a"], name="one"),
        helper.make_node("Conv", ["a", "w"], ["y"], name="two"),
        w=W,
    )
    assert find_layers(shared) == ([], ["one", "two"])


def calibration(folder: Path, n: int, size: int = 64) -> list[Path]:
    folder.mkdir(exist_ok=True)
    files = []
    for index in range(n):
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        rgb = np.clip(coarse.repeat(size // 8, 0).repeat(size // 8, 1) + rng.normal(0, 6, (size, size, 3)), 0, 255)
        files.append(folder / f"{index:04d}.bin")
        arrange(rgb.astype(np.uint8).astype(np.float32), PRE).astype("<f4").tofile(files[-1])
    return files


def rounded(tmp_path: Path, name: str = "net_bpu_rounded") -> RoundResult:
    return round_weights(
        model=save_small_net(tmp_path / "net.onnx"),
        calibration=calibration(tmp_path / "cal", 6),
        preprocess=PRE,
        rounding=Rounding(images=5),
        seed=0,
        out=tmp_path,
        name=name,
    )


def test_a_network_keeps_its_graph_and_loses_error(tmp_path: Path) -> None:
    result = rounded(tmp_path)
    before, after = onnx.load(tmp_path / "net.onnx"), onnx.load(tmp_path / result.onnx)
    assert [layer.name for layer in result.layers] == ["/stem/Conv", "/block/Conv", "/head/fc/Gemm"]
    assert result.images == 5
    assert result.error_kept < 0.6
    assert all(layer.compensated <= layer.nearest for layer in result.layers)
    assert any(layer.moved > 0 for layer in result.layers)
    assert list(before.graph.node) == list(after.graph.node)
    for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True):
        a, b = numpy_helper.to_array(old), numpy_helper.to_array(new)
        if a.ndim == 1:
            np.testing.assert_array_equal(a, b)
        else:
            assert 0 < np.abs(a - b).max() < np.abs(a).max() / 10


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = rounded(tmp_path, "one"), rounded(tmp_path, "two")
    assert (tmp_path / one.onnx).read_bytes() == (tmp_path / two.onnx).read_bytes()


def test_layers_in_several_passes_are_rounded_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = rounded(tmp_path, "one")
    monkeypatch.setattr("edge.prepare.rounding.MEMORY", 1.0)
    two = rounded(tmp_path, "two")
    # Positions are drawn anew in each pass, so that layers see other samples, to like effect.
    assert [layer.name for layer in one.layers] == [layer.name for layer in two.layers]
    # What they are measured against is the float network, whatever was rounded before.
    for before, after in zip(one.layers, two.layers, strict=True):
        assert after.nearest == pytest.approx(before.nearest, rel=0.2)
        assert after.compensated < after.nearest
    assert two.error_kept < 0.6


def test_a_network_without_weights_and_a_broken_file_are_told(tmp_path: Path) -> None:
    bare = chain(helper.make_node("Relu", ["x"], ["y"], name="relu"))
    onnx.save(bare, tmp_path / "bare.onnx")
    ask: dict[str, Any] = {"preprocess": PRE, "rounding": Rounding(), "seed": 0, "out": tmp_path, "name": "r"}
    with pytest.raises(ModelFileError, match="no layer whose weights can be rounded"):
        round_weights(model=tmp_path / "bare.onnx", calibration=calibration(tmp_path / "c", 1), **ask)
    (tmp_path / "short.bin").write_bytes(bytes(100))
    net = save_small_net(tmp_path / "net.onnx")
    with pytest.raises(CalibrationError, match="holds 25 values"):
        round_weights(model=net, calibration=[tmp_path / "short.bin"], **ask)
    assert not (tmp_path / "r.onnx").exists()


@pytest.mark.parametrize(
    ("text", "seen"), [("images: 0", "images 0"), ("damping: 0", "damping 0"), ("damping: 2", "damping 2")]
)
def test_a_recipe_that_asks_for_nonsense_is_refused(tmp_path: Path, text: str, seen: str) -> None:
    (tmp_path / "r.yaml").write_text(f"rounding: {{{text}}}\n")
    with pytest.raises(SpecError, match=seen):
        load_precision(str(tmp_path / "r.yaml"))


def test_round_needs_a_recipe_that_asks_for_it(edge: Run, tmp_path: Path) -> None:
    net, images = save_small_net(tmp_path / "net.onnx"), save_images(tmp_path / "images", 24)
    common = (str(net), "--mean", "127.5", "--std", "127.5", "--resize", "64", "--calib", str(images))
    code, _, err = edge("round", *common)
    assert code == 2
    assert "recipe int8 does not round weights" in err
    code, out, err = edge("round", *common, "--precision", "int8_rounded")
    assert code == 0, err
    assert "net_bpu_rounded.onnx" in out
    assert "weights of 3 layers" in err


@pytest.mark.compiler
def test_the_real_compiler_finds_the_integers_that_were_chosen(toolchain: Toolchain, tmp_path: Path) -> None:
    net, images = save_small_net(tmp_path / "small.onnx"), save_images(tmp_path / "images", 24)
    arguments = (str(net), *NORM, "--images", str(images), "--calib", str(images))
    manifest = build(tmp_path, *arguments, "--precision", "int8_rounded")
    root = tmp_path / "build" / "small"
    assert manifest["rounding"]["layers"] == 3
    assert manifest["verify"]["bit_exact"] is True
    files = {entry["role"]: root / entry["path"] for entry in manifest["artifacts"]}
    settings_ = yaml.safe_load(files["mapper_yaml"].read_text())
    assert settings_["model_parameters"]["onnx_model"] == f"./{files['rounded_onnx'].name}"
    chosen = {t.name: numpy_helper.to_array(t) for t in onnx.load(files["rounded_onnx"]).graph.initializer}
    plain = {t.name: numpy_helper.to_array(t) for t in onnx.load(files["bpu_onnx"]).graph.initializer}
    compiled = [
        numpy_helper.to_array(t)
        for t in onnx.load(files["quantized_onnx"]).graph.initializer
        if t.data_type == TensorProto.INT8 and len(t.dims) == 4
    ]
    differing = 0
    for name, weight in chosen.items():
        if weight.ndim < 2:
            continue
        wide = weight.reshape(*weight.shape, *[1] * (4 - weight.ndim)).transpose(0, 2, 3, 1)
        top = np.abs(wide).max(axis=(1, 2, 3), keepdims=True)
        integers = np.rint(wide / top * 127).astype(np.int8)
        assert any(np.array_equal(integers, found) for found in compiled), name
        differing += int((weight != plain[name]).sum())
    assert differing
    again = json.loads((root / "manifest.json").read_text())
    assert "round" in [stage["name"] for stage in again["stages"]]
