"""Attention laid out for the BPU: the same answers, only where it fits, and faster as the compiler says."""

from __future__ import annotations

import hashlib
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

from edge.errors import ModelFileError
from edge.progress import Silent
from edge.simplify import simplify, stage
from edge.simplify.attention import Attention, lay_out, layout
from edge.simplify.prepare import tidy
from edge.simplify.view import View
from edge.toolchain.compiler import makertbin
from edge.toolchain.found import Toolchain
from tests.conftest import Run

WHOLE = Attention(
    pools=("/pooled/AveragePool",),
    scales=("/query_scaled/Mul",),
    keys=("/k_t/Transpose",),
)


def attention_net(
    *,
    side: int = 8,
    heads: int = 2,
    width: int = 4,
    window: int = 4,
    scale: float | list[float] = 0.37,
    op: str = "Mul",
    at: str = "query",
    shared: bool = False,
    seen: bool = False,
    scores: bool = False,
    seed: int = 0,
    **pool: Any,
) -> onnx.ModelProto:
    """Return a picture's attention over pooled keys, as torch exports NextViT's, with its number somewhere.

    Args:
        window: tokens that become one key; 1 for no pooling.
        at: query, key, values or scores.
        shared: queries and keys come of the same weights.
        seen: the scaled value is an output too.
        scores: a picture of 3 * side + 2 goes in, a score a channel comes out.
        pool: further attributes of the AveragePool.
    """
    rng = np.random.default_rng(seed)
    channels, tokens, size = heads * width, side * side, 3 * side + 2 if scores else side
    kernel = 5 if scores else 1
    constants: dict[str, NDArray[Any]] = {
        "stem_w": rng.normal(0, 0.3, (channels, 3, kernel, kernel)).astype(np.float32),
        "scale": np.array(scale, np.float32),
        "to_tokens": np.array([1, channels, -1]),
        "to_heads": np.array([1, -1, heads, width]),
        "from_heads": np.array([1, tokens, channels]),
    }
    for name in "qkv":
        constants[f"{name}_w"] = rng.normal(0, 0.5, (channels, channels)).astype(np.float32)
        constants[f"{name}_b"] = rng.normal(0, 0.2, channels).astype(np.float32)
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, output: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [output], name=f"/{output}/{kind}", **attributes))
        return output

    def split(name: str, source: str, perm: list[int]) -> str:
        of = "q" if shared and name == "k" else name
        linear = add("Add", f"{name}_out", add("MatMul", f"{name}_mm", source, f"{of}_w"), f"{of}_b")
        return scaled(
            {"q": "query", "k": "key", "v": "values"}[name],
            add("Transpose", f"{name}_t", add("Reshape", f"{name}_heads", linear, "to_heads"), perm=perm),
        )

    def scaled(place: str, value: str) -> str:
        return add(op, f"{place}_scaled", value, "scale") if at == place else value

    planes = add(
        "Reshape", "planes", add("Conv", "stem", "x", "stem_w", strides=[3 if scores else 1] * 2), "to_tokens"
    )
    all_tokens = add("Transpose", "tokens", planes, perm=[0, 2, 1])
    pooling = {"kernel_shape": [window], "strides": [window], **pool}
    fewer = all_tokens
    if window > 1:
        fewer = add("Transpose", "fewer", add("AveragePool", "pooled", planes, **pooling), perm=[0, 2, 1])
    logits = add("MatMul", "scores", split("q", all_tokens, [0, 2, 1, 3]), split("k", fewer, [0, 2, 3, 1]))
    share = add("Softmax", "share", scaled("scores", logits), axis=3)
    mixed = add("MatMul", "mixed", share, split("v", fewer, [0, 2, 1, 3]))
    joined = add("Transpose", "joined", mixed, perm=[0, 2, 1, 3])
    if scores:
        constants["to_picture"] = np.array([1, channels, side, side])
        turned = add("Transpose", "turned", add("Reshape", "row", joined, "from_heads"), perm=[0, 2, 1])
        shown = add("Relu", "shown", add("Reshape", "back", turned, "to_picture"))
        add("Flatten", "y", add("GlobalAveragePool", "mean", shown))
    else:
        add("Reshape", "y", joined, "from_heads")
    shape = [1, channels] if scores else [1, tokens, channels]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    if seen:
        shape = [1, heads, tokens, width]
        outputs.append(helper.make_tensor_value_info(f"{at}_scaled", TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return tidy(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6))


def answers(model: onnx.ModelProto, seed: int = 0) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    value = np.random.default_rng(seed).uniform(-2, 2, shape).astype(np.float32)
    result: NDArray[np.float32] = session.run(None, {"x": value})[0]
    return result


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


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
    assert (view.shape(turned.output[0]), view.shape("k_t")) == ([1, 8, 16], [1, 2, 4, 16])
    rows = next(node for node in after.graph.node if node.output[0] == pool.input[0])
    assert rows.input[0] == "stem", "the picture itself is cut into rows, not the row of tokens"
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
    before = attention_net(
        side=side, heads=heads, window=window, scale=scale, op=op, at=at, shared=shared, seed=seed
    )
    after, done = lay_out(before)
    assert done.scales == (f"/{at}_scaled/{op}",)
    assert bool(done.pools) == (window > 1 and side * side % window == 0)
    assert bool(done.keys) == (window > 1)  # a picture's own pixels are turned last
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
    assert "attention stays as it was exported" in reporter.warnings[-1]
    shipped = onnx.load(tmp_path / "net_bpu.onnx")
    np.testing.assert_allclose(answers(shipped), answers(attention_net()), rtol=0, atol=1e-6)


def transformer_net(
    *,
    tokens: int = 9,
    heads: int = 2,
    width: int = 4,
    cut: str = "Split",
    bias: bool = True,
    leave: str = "",
    seed: int = 0,
) -> onnx.ModelProto:
    """Return an attention whose queries, keys and values come of one product, as timm's vision transformers'.

    Args:
        cut: Split, with a Squeeze a part, or Gather.
        leave: what makes it unfit: the product or a part is an output too, the axes have another order, one
            part is taken twice.
    """
    rng = np.random.default_rng(seed)
    channels, patch = heads * width, 4
    constants: dict[str, NDArray[Any]] = {
        "patch_w": rng.normal(0, 0.3, (channels, 3, patch, patch)).astype(np.float32),
        "to_tokens": np.array([1, channels, -1]),
        "qkv_w": rng.normal(0, 0.4, (channels, 3 * channels)).astype(np.float32),
        "qkv_b": rng.normal(0, 0.2, 3 * channels).astype(np.float32),
        "scale": np.array(width**-0.5, np.float32),
        "to_parts": np.array([1, tokens, 3, heads, width]),
        "from_heads": np.array([1, tokens, channels]),
        "last": np.array(-1),
        **{str(part): np.array(part) for part in range(2)},
    }
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, output: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [output], name=f"/{output}/{kind}", **attributes))
        return output

    picture = add("Conv", "patch", "x", "patch_w", strides=[patch, patch], kernel_shape=[patch, patch])
    row = add("Transpose", "row", add("Reshape", "planes", picture, "to_tokens"), perm=[0, 2, 1])
    product = add("MatMul", "qkv", add("Tanh", "calm", row), "qkv_w")
    if bias:
        product = add("Add", "biased", "qkv_b", product)
    perm = [2, 0, 1, 3, 4] if leave == "order" else [2, 0, 3, 1, 4]
    parts = add("Transpose", "parts", add("Reshape", "split", product, "to_parts"), perm=perm)
    if cut == "Split":
        names = [f"one{part}" for part in range(3)]
        nodes.append(helper.make_node("Split", [parts], names, name="/Split", axis=0, split=[1, 1, 1]))
        q, k, v = (add("Squeeze", f"part{part}", name, axes=[0]) for part, name in enumerate(names))
    else:
        q, k, v = (
            add("Gather", f"part{i}", parts, name, axis=0) for i, name in enumerate(("0", "1", "last"))
        )
    if leave == "order":
        q, k, v = (add("Transpose", f"{name}_heads", name, perm=[0, 2, 1, 3]) for name in (q, k, v))
    if leave == "twice":
        q = add("Add", "both", q, add("Gather", "again", parts, "last", axis=0))
    scaled = add("Mul", "scaled", q, "scale")
    scores = add("MatMul", "scores", scaled, add("Transpose", "k_t", k, perm=[0, 1, 3, 2]))
    mixed = add("MatMul", "mixed", add("Softmax", "share", scores, axis=3), v)
    joined = add("Transpose", "joined", mixed, perm=[0, 2, 1, 3])
    add("Reshape", "y", joined, "from_heads")
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, tokens, channels])]
    if leave == "product":
        outputs.append(helper.make_tensor_value_info(product, TensorProto.FLOAT, [1, tokens, 3 * channels]))
    if leave == "part":
        outputs.append(helper.make_tensor_value_info(parts, TensorProto.FLOAT, [3, 1, heads, tokens, width]))
    if leave == "split":
        outputs.append(helper.make_tensor_value_info("one1", TensorProto.FLOAT, [1, 1, heads, tokens, width]))
    rows = int(tokens**0.5)
    graph = helper.make_graph(
        nodes,
        "transformer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, patch * rows, patch * rows])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return tidy(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6))


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
    closed = ("/share/Softmax",) if tokens % 4 else ()
    assert done == Attention(("/qkv/MatMul",), (), ("/scaled/Mul",), ("/k_t/Transpose",), closed)
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
  cal_data_dir: './pictures'
  cal_data_type: 'float32'
  calibration_type: 'max'
  optimization: 'set_Softmax_input_int16'
compiler_parameters:
  compile_mode: 'latency'
  optimize_level: 'O1'
"""


@pytest.mark.parametrize("closed", [True, False])
def test_shares_of_odd_numbers_of_keys_are_closed_or_the_program_is_wrong(
    tmp_path: Path, toolchain: Toolchain, edge: Run, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    """If the second case passes, the compiler has mended it, and ``close_shares`` may go."""
    if not closed:
        monkeypatch.setattr(layout, "close_shares", lambda model: ())
    onnx.save(attention_net(side=10, heads=6, width=8, window=4, scores=True), tmp_path / "net.onnx")
    code, out, err = edge(
        "build", "net.onnx", "--crop", "32", "--mean", "127.5", "--std", "60", "--level", "O0", "--precision",
        "int8_softmax_int16", "--calib", "demo:calibration", "--images", "demo:test", "--calib-count", "20",
        "--count", "4",
    )  # fmt: skip
    if closed:
        assert code == 0, err
        assert "bit for bit" in out
    else:
        assert code == 1
        assert "the compiled program is not what was measured" in err


def test_the_compiler_makes_it_faster(tmp_path: Path, toolchain: Toolchain) -> None:
    """Static figures depend on nothing but the graph: the pool alone costs most of this attention's time."""
    plain = attention_net(side=16, heads=2, width=16)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        rng.uniform(-2, 2, (1, 3, 16, 16)).astype(np.float32).tofile(pictures / f"{index}.bin")
    latency = {}
    for name, model in (("exported", plain), ("laid_out", lay_out(plain)[0])):
        folder = tmp_path / name
        (folder / "results").mkdir(parents=True)
        onnx.save(model, folder / "model.onnx")
        (folder / "model.yaml").write_text(YAML)
        done = makertbin(
            toolchain,
            yaml=folder / "model.yaml",
            files={"model.onnx": folder / "model.onnx", "pictures": pictures},
            out=folder / "results",
            prefix="model",
            working_dir="out",
            key=hashlib.sha256(name.encode()).hexdigest(),
        )
        assert done.static is not None
        latency[name] = done.static.latency_us
    assert latency["laid_out"] < latency["exported"] / 2
