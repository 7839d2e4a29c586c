"""Average pools over the edge: the same answers, only where it fits, and exact in the compiler's integers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.compiler.run import makertbin
from edge.graph.files import load_onnx
from edge.prepare.normal_form import tidy
from edge.prepare.pools import whole_windows
from edge.prepare.simplify import simplify
from edge.toolchain.found import Toolchain
from tests.vendor_runtime import VendorRuntime

CHANNELS = 3


def pool_net(*, height: int = 16, width: int = 16, opset: int = 11, last: bool = True, **pool: Any) -> onnx.ModelProto:
    """Return an average pool, and a 1x1 convolution that gives its values as they are."""
    nodes = [helper.make_node("AveragePool", ["x"], ["z" if last else "y"], "/pool", **pool)]
    if last:
        nodes.append(helper.make_node("Conv", ["z", "eye"], ["y"], "/eye"))
    graph = helper.make_graph(
        nodes,
        "pools",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, height, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.eye(CHANNELS, dtype=np.float32)[:, :, None, None], "eye")] if last else [],
    )
    return tidy(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6))


def answers(model: onnx.ModelProto, seed: int = 1) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    value = np.random.default_rng(seed).uniform(0, 2, session.get_inputs()[0].shape).astype(np.float32)
    result: NDArray[np.float32] = session.run(None, {"x": value})[0]
    return result


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def attributes(model: onnx.ModelProto) -> dict[str, Any]:
    (pool,) = (node for node in model.graph.node if node.op_type == "AveragePool")
    assert pool.name == "/pool", "a recipe that names it still finds it"
    return {item.name: helper.get_attribute_value(item) for item in pool.attribute}


@given(
    sides=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    automatic=st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    ceil=st.integers(0, 1),
    counted=st.integers(0, 1),
    opset=st.sampled_from([10, 11]),
    last=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_answers_stay(
    sides: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, ...],
    automatic: str,
    ceil: int,
    counted: int,
    opset: int,
    last: bool,
) -> None:
    assume(all(pad < size for pad, size in zip(pads, (*window, *window), strict=True)))
    given: dict[str, Any] = {"auto_pad": automatic} if automatic != "NOTSET" else {"pads": pads, "ceil_mode": ceil}
    before = pool_net(
        height=sides[0], width=sides[1], opset=opset, last=last,
        kernel_shape=window, strides=strides, count_include_pad=counted, **given,
    )  # fmt: skip
    try:
        wanted = answers(before)
    except Exception:  # onnxruntime and the checker disagree on a geometry: no network has it
        assume(False)
    after, names = whole_windows(before)
    onnx.checker.check_model(after, full_check=True)
    np.testing.assert_allclose(answers(after), wanted, rtol=0, atol=1e-5)
    if names:
        left = attributes(after)
        assert left["count_include_pad"] == 1
        assert not left.get("ceil_mode")
        assert left["pads"][:2] == left["pads"][2:]
        again, more = whole_windows(after)
        assert again is after
        assert not more


@pytest.mark.parametrize(
    "pool",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},  # NextViT and ResNet-D, even sides
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [16, 16]},
        {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1},  # Inception of torchvision
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "count_include_pad": 1},
    ],
)
def test_what_the_compiler_computes_exactly_stays(pool: dict[str, Any]) -> None:
    before = pool_net(**pool)
    after, names = whole_windows(before)
    assert after is before
    assert not names


@pytest.mark.parametrize(
    ("pool", "form"),
    [
        ({"strides": [2, 2], "pads": [1] * 4}, ["AveragePool", "Mul"]),
        ({"strides": [1, 1], "pads": [1] * 4}, ["AveragePool", "Mul"]),  # Inception v4, PoolFormer
        ({"strides": [2, 2], "ceil_mode": 1}, ["Pad", "AveragePool", "Mul"]),
        ({"strides": [2, 2], "ceil_mode": 1, "pads": [1] * 4, "count_include_pad": 1}, ["Pad", "AveragePool", "Mul"]),
        ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, ["Pad", "AveragePool", "Mul"]),  # TensorFlow
        ({"strides": [1, 1], "auto_pad": "SAME_UPPER"}, ["AveragePool", "Mul"]),
        ({"strides": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1}, ["Pad", "AveragePool"]),
    ],
)
def test_what_int8_gets_wrong_changes(pool: dict[str, Any], form: list[str], tmp_path: Path) -> None:
    """Through the stage, whose guard compares the answers."""
    before = pool_net(height=32, width=32, kernel_shape=[3, 3], **pool)
    onnx.save(before, tmp_path / "net.onnx")
    result = simplify(model=tmp_path / "net.onnx", out=tmp_path, name="net_bpu")
    assert result.pools == ("/pool",)
    after = load_onnx(tmp_path / "net_bpu.onnx")
    assert kinds(after) == [*form, "Conv"]
    np.testing.assert_allclose(answers(after), answers(before), rtol=0, atol=1e-5)


YAML = """\
model_parameters:
  onnx_model: './model.onnx'
  march: 'bayes-e'
  working_dir: './out'
  output_model_file_prefix: 'model'
input_parameters:
  input_type_rt: 'featuremap'
  input_layout_rt: 'NCHW'
  input_type_train: 'featuremap'
  input_layout_train: 'NCHW'
  norm_type: 'no_preprocess'
calibration_parameters:
  cal_data_dir: './images'
  cal_data_type: 'float32'
  calibration_type: 'default'
compiler_parameters:
  compile_mode: 'latency'
  optimize_level: 'O0'
"""


@pytest.mark.compiler
@pytest.mark.parametrize(
    "pool",
    [{"pads": [1] * 4}, {"ceil_mode": 1, "pads": [1] * 4, "count_include_pad": 1}],
    ids=["padding left out", "ceil_mode with padding"],
)
def test_the_compilers_integers_are_right_at_the_edge(
    pool: dict[str, Any], tmp_path: Path, toolchain: Toolchain
) -> None:
    """Within a step of int8 on average; as exported they are several steps too low."""
    before = pool_net(kernel_shape=[3, 3], strides=[2, 2], **pool)
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        rng.uniform(0, 2, (1, CHANNELS, 16, 16)).astype(np.float32).tofile(images / f"{index}.bin")
    wanted, worst = answers(before, 5), {}
    value = np.random.default_rng(5).uniform(0, 2, (1, CHANNELS, 16, 16)).astype(np.float32)
    for name, model in (("exported", before), ("whole", whole_windows(before)[0])):
        folder = tmp_path / name
        (folder / "results").mkdir(parents=True)
        onnx.save(model, folder / "model.onnx")
        (folder / "model.yaml").write_text(YAML)
        done = makertbin(
            toolchain,
            yaml=folder / "model.yaml",
            files={"model.onnx": folder / "model.onnx", "images": images},
            out=folder / "results",
            prefix="model",
            working_dir="out",
            key=hashlib.sha256(f"{name}{pool}".encode()).hexdigest(),
        )
        assert not [row.name for row in done.nodes if row.on == "CPU" and row.name.startswith("/pool")]
        runtime = VendorRuntime(toolchain)
        try:
            quantized = load_onnx(folder / "results/model_quantized_model.onnx")
            (seen,) = runtime.run(quantized, {quantized.graph.input[0].name: value}).values()
        finally:
            runtime.close()
        error = (np.asarray(seen, np.float32).reshape(wanted.shape) - wanted) / (wanted.max() / 127)
        edge = np.ones(wanted.shape, bool)
        edge[..., 1:-1, 1:-1] = False
        worst[name] = float(np.sqrt((error[edge] ** 2).mean()))
    assert worst["whole"] < 1.5 < 3 < worst["exported"]
