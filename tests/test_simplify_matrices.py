"""Attention in matrices of three axes: the same answers, and integers that the program really computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge.graph.view import View
from edge.prepare import attention as layout
from edge.prepare.attention import lay_out
from edge.prepare.normal_form import tidy
from edge.toolchain.found import Toolchain
from tests.attention_graphs import answers, attention_net, kinds, transformer_net
from tests.conftest import Run

HEADS, TOKENS, KEYS = 2, 64, 16  # of attention_net


def ranks(model: onnx.ModelProto) -> set[int]:
    """Return the numbers of axes of what products of activations and Softmax read and give."""
    view = View(model)
    found = set()
    for node in model.graph.node:
        if node.op_type == "Softmax" or (
            node.op_type == "MatMul" and all(view.rank(name) is None for name in node.input)
        ):
            found |= {len(view.shape(name) or ()) for name in (*node.input, *node.output)}
    return found


@pytest.mark.parametrize("net", [attention_net, transformer_net])
def test_products_and_softmax_have_three_axes_and_no_node_more(net: Callable[[], onnx.ModelProto]) -> None:
    before = net()
    after, done = lay_out(before)
    assert ranks(before) == {4}
    assert ranks(after) == {3}
    assert done.matrices == ("/share/Softmax",)
    assert not done.shares
    wanted = kinds(before).count("Reshape") + 2 * len(done.pools) + 2 * len(done.fused)
    assert kinds(after).count("Reshape") == wanted
    onnx.checker.check_model(after, full_check=True)


def constant(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)


@given(
    kind=st.sampled_from(["Add", "Sub", "Mul", "Div"]),
    shape=st.sampled_from(
        [(), (1,), (KEYS,), (TOKENS, 1), (HEADS, 1, 1), (1, HEADS, TOKENS, KEYS), (1, 1, TOKENS, KEYS)]
    ),
    more=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_what_changes_the_scores_changes_them_as_before(
    kind: str, shape: tuple[int, ...], more: bool, seed: int
) -> None:
    changes = [(kind, constant(*shape, seed=seed))] + ([("Add", constant(HEADS, 1, 1))] if more else [])
    before = attention_net(changes=tuple(changes), seed=seed)
    after, done = lay_out(before)
    assert done.matrices
    assert ranks(after) == {3}
    wanted = answers(before, seed)
    np.testing.assert_allclose(answers(after, seed), wanted, rtol=0, atol=2e-5 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("value", ["q_t", "v_t", "mixed", "joined"])
def test_a_value_that_others_read_keeps_its_axes_for_them(value: str) -> None:
    before = attention_net()
    shape = View(before).shape(value)
    before.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, shape))
    after, done = lay_out(tidy(before))
    assert done.matrices
    assert ranks(after) == {3}
    assert View(after).shape(value) == shape
    np.testing.assert_allclose(answers(after), answers(before), rtol=0, atol=1e-6)


def of_two_images(model: onnx.ModelProto) -> None:
    """Let the batch be 2, with half of the tokens each."""
    for tensor in model.graph.initializer:
        if tensor.name == "to_heads":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([2, -1, HEADS, 4]), "to_heads"))


def over_queries(model: onnx.ModelProto) -> None:
    (node,) = (node for node in model.graph.node if node.op_type == "Softmax")
    node.attribute[0].i = 2


def seen_scores(model: onnx.ModelProto) -> None:
    shape = [1, HEADS, TOKENS, KEYS]
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape))


def changed_by_activations(model: onnx.ModelProto) -> None:
    """Let what is added to the scores be computed of them."""
    (node,) = (node for node in model.graph.node if node.op_type == "Softmax")
    index = list(model.graph.node).index(node)
    tanh = helper.make_node("Tanh", [node.input[0]], ["bent"], name="/bent/Tanh")
    added = helper.make_node("Add", [node.input[0], "bent"], ["sum"], name="/sum/Add")
    node.input[0] = "sum"
    for new in (added, tanh):
        model.graph.node.insert(index, new)


@pytest.mark.parametrize("change", [of_two_images, over_queries, seen_scores, changed_by_activations])
def test_only_what_fits_changes(change: Callable[[onnx.ModelProto], None]) -> None:
    before = attention_net()
    change(before)
    before = tidy(before)
    after, done = lay_out(before)
    assert not done.matrices
    np.testing.assert_allclose(answers(after), answers(before), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("left_out", "right"), [((), True), (("as_matrices",), True), (("as_matrices", "close_shares"), False)]
)
def test_a_program_with_shares_of_odd_numbers_of_keys(
    tmp_path: Path,
    toolchain: Toolchain,
    edge: Run,
    monkeypatch: pytest.MonkeyPatch,
    left_out: tuple[str, ...],
    right: bool,
) -> None:
    """If the last case passes, the compiler has mended it, and ``close_shares`` may go."""
    for name in left_out:
        monkeypatch.setattr(layout, name, lambda model: ())
    onnx.save(attention_net(side=10, heads=6, width=8, window=4, scores=True), tmp_path / "net.onnx")
    code, out, err = edge(
        "build", "net.onnx", "--crop", "32", "--mean", "127.5", "--std", "60", "--level", "O0", "--precision",
        "int8_softmax_int16", "--calib", "demo:calibration", "--images", "demo:test", "--calib-count", "20",
        "--count", "4",
    )  # fmt: skip
    if right:
        assert code == 0, err
        assert "bit for bit" in out
    else:
        assert code == 1
        assert "the compiled program differs from the quantized model" in err
