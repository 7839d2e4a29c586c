"""Attention laid out for the BPU: the same answers, only where it fits, and faster as the compiler says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge.compiler.run import makertbin
from edge.errors import ModelFileError
from edge.graph.view import View
from edge.prepare import simplify as stage
from edge.prepare.attention import Attention, lay_out
from edge.prepare.normal_form import tidy
from edge.prepare.simplify import simplify
from edge.progress import Silent
from edge.toolchain.found import Toolchain
from tests.attention_graphs import answers, attention_net, kinds, transformer_net

WHOLE = Attention(
    pools=("/pooled/AveragePool",),
    scales=("/query_scaled/Mul",),
    keys=("/k_t/Transpose",),
    matrices=("/share/Softmax",),
)


def test_the_pool_becomes_rows_and_the_number_goes_into_the_weights() -> None:
    before = attention_net()
    after, done = lay_out(before)
    assert done == WHOLE
    assert "Mul" not in kinds(after)
    assert kinds(after).count("Softmax") == 1
    (pool,) = (node for node in after.graph.node if node.op_type == "AveragePool")
    view = View(after)
    assert pool.name == "/pooled/AveragePool"
    assert view.shape(pool.input[0]) == [1, 8, 16, 4]
    assert view.shape("pooled") == [1, 8, 16]
    turned = next(node for node in after.graph.node if node.name == "/k_t/Transpose")
    assert (view.shape(turned.output[0]), view.shape("k_t")) == ([1, 8, 16], [2, 4, 16])
    rows = next(node for node in after.graph.node if node.output[0] == pool.input[0])
    assert rows.input[0] == "stem", "the image itself is cut into rows, not the row of tokens"
    np.testing.assert_allclose(answers(after), answers(before), rtol=0, atol=1e-6)
    onnx.checker.check_model(after, full_check=True)


@given(
    side=st.sampled_from([4, 6, 12]),
    heads=st.integers(1, 3),
    window=st.sampled_from([1, 2, 4, 12]),
    scale=st.floats(0.05, 3),
    op=st.sampled_from(["Mul", "Div"]),
    at=st.sampled_from(["query", "key", "scores"]),
    shared=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_answers_stay_wherever_the_number_stands(
    side: int, heads: int, window: int, scale: float, op: str, at: str, shared: bool, seed: int
) -> None:
    before = attention_net(side=side, heads=heads, window=window, scale=scale, op=op, at=at, shared=shared, seed=seed)
    after, done = lay_out(before)
    assert done.scales == (f"/{at}_scaled/{op}",)
    assert bool(done.pools) == (window > 1 and side * side % window == 0)
    assert bool(done.keys) == (window > 1)  # an image's own pixels are turned last
    assert not done.fused
    wanted = answers(before, seed)
    np.testing.assert_allclose(answers(after, seed), wanted, rtol=0, atol=2e-5 * float(np.abs(wanted).max()))


def test_weights_that_others_read_stay_as_they_are_for_them() -> None:
    before = attention_net(shared=True, scale=5.0)
    after, done = lay_out(before)
    assert done.scales
    np.testing.assert_allclose(answers(after), answers(before), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "pools", "scales"),
    [
        ({"at": "values"}, 1, 1),  # it feeds the second MatMul, and goes the same way
        ({"scale": [0.5, 1.0, 2.0, 4.0]}, 1, 0),  # one a channel
        ({"scale": 0.0, "op": "Div"}, 1, 0),
        ({"seen": True}, 1, 0),
        ({"window": 5}, 0, 1),
        ({"pads": [2, 2]}, 0, 1),
        ({"strides": [2]}, 0, 1),
        ({"ceil_mode": 1}, 0, 1),
    ],
)
def test_only_what_fits_changes(changes: dict[str, Any], pools: int, scales: int) -> None:
    before = attention_net(**changes)
    after, done = lay_out(before)
    assert (len(done.pools), len(done.scales)) == (pools, scales)
    np.testing.assert_allclose(answers(after), answers(before), rtol=0, atol=1e-6)


def test_a_model_without_attention_is_returned_itself() -> None:
    weights = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="/c"),
        helper.make_node("Mul", ["c", "half"], ["m"], name="/m"),
        helper.make_node("Relu", ["m"], ["y"], name="/r"),
    ]
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [weights, half],
    )
    model = tidy(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6))
    after, done = lay_out(model)
    assert after is model
    assert not done


def test_simplify_ships_it_and_says_so(tmp_path: Path) -> None:
    onnx.save(attention_net(), tmp_path / "net.onnx")
    results = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        results.append(simplify(model=tmp_path / "net.onnx", out=tmp_path / place, name="net_bpu"))
    assert results[0] == results[1]
    assert results[0].attention == WHOLE
    assert results[0].form == "simplified"
    assert results[0].max_abs_error < 1e-5
    first, second = ((tmp_path / place / "net_bpu.onnx").read_bytes() for place in ("a", "b"))
    assert first == second


def test_a_layout_with_other_answers_is_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Attention]:
        return lay_out(attention_net(scale=0.38))

    monkeypatch.setattr(stage, "lay_out", wrong)
    onnx.save(attention_net(), tmp_path / "net.onnx")
    reporter = Silent()
    result = simplify(model=tmp_path / "net.onnx", out=tmp_path, name="net_bpu", reporter=reporter)
    assert not result.attention
    assert "attention stays as exported" in reporter.warnings[-1]
    shipped = onnx.load(tmp_path / "net_bpu.onnx")
    np.testing.assert_allclose(answers(shipped), answers(attention_net()), rtol=0, atol=1e-6)


@given(
    tokens=st.sampled_from([4, 9, 16]),
    heads=st.integers(1, 3),
    cut=st.sampled_from(["Split", "Gather"]),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_one_product_becomes_three(tokens: int, heads: int, cut: str, bias: bool, seed: int) -> None:
    before = transformer_net(tokens=tokens, heads=heads, cut=cut, bias=bias, seed=seed)
    after, done = lay_out(before)
    assert done == Attention(
        fused=("/qkv/MatMul",), scales=("/scaled/Mul",), keys=("/k_t/Transpose",), matrices=("/share/Softmax",)
    )
    found = kinds(after)
    assert found.count("MatMul") == 5
    assert not {"Split", "Squeeze", "Gather", "Mul"} & set(found)
    assert found.count("Add") == (3 if bias else 0)
    wanted = answers(before, seed)
    np.testing.assert_allclose(answers(after, seed), wanted, rtol=0, atol=2e-5 * float(np.abs(wanted).max()))
    onnx.checker.check_model(after, full_check=True)


@pytest.mark.parametrize(
    ("cut", "leave"),
    [
        *((cut, leave) for cut in ("Split", "Gather") for leave in ("product", "part", "order")),
        ("Split", "split"),
        ("Gather", "twice"),
    ],
)
def test_a_product_that_is_needed_whole_stays(cut: str, leave: str) -> None:
    before = transformer_net(leave=leave, cut=cut)
    after, done = lay_out(before)
    assert not done.fused
    assert kinds(after).count("MatMul") == 3
    np.testing.assert_allclose(answers(after), answers(before), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "k_t/shape", "k_t/turned", "/pooled/AveragePool/rows", "/pooled/AveragePool/rows/shape",
        "/pooled/AveragePool/pooled", "pooled/shape", "q_w/times /query_scaled/Mul",
    ],
)  # fmt: skip
def test_names_that_a_model_has_already_are_not_taken_again(name: str) -> None:
    before = attention_net()
    renamed(before, "from_heads", name)
    after, done = lay_out(before)
    assert done == WHOLE
    onnx.checker.check_model(after, full_check=True)
    np.testing.assert_allclose(answers(after), answers(before), rtol=0, atol=1e-6)


@pytest.mark.parametrize("ending", ["weight", "bias", "shape", "product", "sum", "heads"])
def test_nor_those_of_a_product(ending: str) -> None:
    before = transformer_net()
    renamed(before, "from_heads", f"/qkv/MatMul/0/{ending}")
    after, done = lay_out(before)
    assert done.fused
    onnx.checker.check_model(after, full_check=True)
    np.testing.assert_allclose(answers(after), answers(before), rtol=0, atol=1e-6)


def renamed(model: onnx.ModelProto, old: str, new: str) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == old:
            tensor.name = new
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


@pytest.mark.parametrize("name", ["qkv_w", "qkv_b"])
def test_weights_that_are_an_output_too(name: str) -> None:
    before = transformer_net()
    (weights,) = (tensor for tensor in before.graph.initializer if tensor.name == name)
    renamed(before, name, "seen")
    weights.name = name
    before.graph.node.insert(0, helper.make_node("Identity", [name], ["seen"], name="/seen"))
    before.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, weights.dims))
    after, done = lay_out(tidy(before))
    assert done.fused
    np.testing.assert_allclose(answers(after), answers(before), rtol=0, atol=1e-6)


def test_a_model_with_branches_stays() -> None:
    """A branch may read what would be gone, such as the queries before their number."""
    before = attention_net()
    value = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [1, 2, 64, 4])
    branch = helper.make_graph([helper.make_node("Identity", ["q_t"], ["chosen"])], "branch", [], [value])
    before.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    before.graph.node.append(
        helper.make_node("If", ["always"], ["taken"], name="/If", then_branch=branch, else_branch=branch)
    )
    before.graph.output.append(helper.make_tensor_value_info("taken", TensorProto.FLOAT, [1, 2, 64, 4]))
    after, done = lay_out(before)
    assert after is before
    assert not done


@pytest.mark.parametrize(("op", "scale"), [("Mul", 3.3e38), ("Div", 1e-39)])
def test_a_number_that_leaves_float32_stays_where_it_is(op: str, scale: float) -> None:
    _, done = lay_out(attention_net(op=op, scale=scale))
    assert not done.scales


def test_a_refused_layout_loses_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Attention]:
        raise ModelFileError("its shapes contradict each other")

    monkeypatch.setattr(stage, "lay_out", broken)
    onnx.save(attention_net(), tmp_path / "net.onnx")
    reporter = Silent()
    result = simplify(model=tmp_path / "net.onnx", out=tmp_path, name="net_bpu", reporter=reporter)
    assert not result.attention
    assert "contradict" in reporter.warnings[-1]


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
  calibration_type: 'max'
  optimization: 'set_Softmax_input_int16'
compiler_parameters:
  compile_mode: 'latency'
  optimize_level: 'O1'
"""


def test_the_compiler_makes_it_faster(tmp_path: Path, toolchain: Toolchain) -> None:
    """Static figures depend on nothing but the graph: the pool alone costs most of this attention's time."""
    plain = attention_net(side=16, heads=2, width=16)
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        rng.uniform(-2, 2, (1, 3, 16, 16)).astype(np.float32).tofile(images / f"{index}.bin")
    latency = {}
    for name, model in (("exported", plain), ("laid_out", lay_out(plain)[0])):
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
            key=hashlib.sha256(name.encode()).hexdigest(),
        )
        assert done.static is not None
        latency[name] = done.static.latency_us
    assert latency["laid_out"] < latency["exported"] / 2
