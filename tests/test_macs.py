"""Parameters and multiply-accumulates of an ONNX network, and how they compare with published figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge.errors import ModelFileError
from edge.graph.count import count
from edge.specs import Published
from edge.survey import Counted, compare
from tests.conftest import save_net

COUNTED = Counted(height=224, width=224, parameters=1_000_000, macs=10**9, attention=10**8, other=5 * 10**7)


def save(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: list[int]) -> Path:
    """Save a net whose output's sizes are left open."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(
                "y", TensorProto.FLOAT, ["n", "c", "h", "w"][: 2 if "s" in weights else len(shape)]
            )
        ],
        [
            numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
            for name, value in weights.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


@settings(max_examples=30, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.sampled_from([1, 3, 7]),
    stride=st.sampled_from([1, 2]),
    width=st.integers(1, 3),
    biased=st.booleans(),
)
def test_convolutions(
    tmp_path_factory: pytest.TempPathFactory, groups: int, kernel: int, stride: int, width: int, biased: bool
) -> None:
    taken, made, size = 4, 4 * width, 32
    weights = {"w": np.ones((made, taken // groups, kernel, kernel))}
    if biased:
        weights["b"] = np.ones(made)
    pads = [kernel // 2] * 4
    node = helper.make_node("Conv", ["x", *weights], ["y"], name="c", group=groups, pads=pads, strides=[stride] * 2)
    work = count(save(tmp_path_factory.mktemp("net") / "net.onnx", [node], weights, [1, taken, size, size]))
    pixels = (size // stride) ** 2 * made
    assert work.macs == pixels * (taken // groups) * kernel**2 + biased * pixels
    assert work.parameters == sum(value.size for value in weights.values())
    assert work.attention == 0
    assert work.activations == pixels


def test_products_of_two_activations_are_told_apart(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["q"], name="q"),
        helper.make_node("Transpose", ["q"], ["k"], name="t", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k"], ["a"], name="qk"),
        helper.make_node("Softmax", ["a"], ["y"], name="s", axis=2),
    ]
    work = count(save(tmp_path / "net.onnx", nodes, {"w": np.ones((16, 8))}, [1, 10, 16]))
    assert work.macs == 10 * 16 * 8 + 10 * 8 * 10
    assert work.attention == 10 * 8 * 10
    assert work.other > 0
    assert work.by_operator["MatMul"] == work.macs


def test_another_input_size(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="c")
    path = save(tmp_path / "net.onnx", [node], {"w": np.ones((5, 3, 1, 1))}, [1, 3, 64, 64])
    assert count(path).macs == 4 * count(path, input_shape=(1, 3, 32, 32)).macs == 64 * 64 * 15


def test_what_is_no_network_or_fits_no_such_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no")
    with pytest.raises(ModelFileError, match="not a valid ONNX"):
        count(tmp_path / "bad.onnx")
    node = helper.make_node("Reshape", ["x", "s"], ["y"], name="r")
    path = save(tmp_path / "net.onnx", [node], {"s": np.array([1, 192])}, [1, 3, 8, 8])
    assert count(path).macs == 0
    with pytest.raises(ModelFileError, match="can't be counted at input 1x3x8x7"):
        count(path, input_shape=(1, 3, 8, 7))


def test_the_shared_reader_of_graphs_agrees(tmp_path: Path) -> None:
    from edge.sources.check import inspect_onnx

    path = save_net(tmp_path / "net.onnx")
    assert count(path).parameters == inspect_onnx(path).parameters


@pytest.mark.parametrize(
    ("published", "macs", "explained", "why"),
    [
        (None, None, True, ""),
        (Published("x"), None, True, ""),
        (Published("x", params_m=1.0, gflops=1.0), 0.0, True, ""),
        (Published("x", gflops=0.99), 1.01, True, ""),
        (Published("x", gflops=2.0), -50.0, True, "counted separately"),
        (Published("x", gflops=0.9), 11.11, True, "attention"),
        (Published("x", gflops=1.05), -4.76, True, "all other operations"),
        (Published("x", gflops=7.0), -85.71, False, "no known convention"),
        (Published("x", params_m=2.0), None, False, "parameters"),
    ],
)
def test_a_difference_is_explained_by_a_count_or_not_at_all(
    published: Published | None, macs: float | None, explained: bool, why: str
) -> None:
    told = compare(COUNTED, published)
    assert told.macs == (None if macs is None else pytest.approx(macs, abs=0.01))
    assert told.explained is explained
    assert why in told.why
    assert bool(told.why) == bool(why)


def test_another_input_size_explains_only_what_it_gives() -> None:
    published = Published("x", gflops=0.77, gflops_input=196)
    there = evolve(COUNTED, published_at=196, macs_published_at=766_000_000)
    told = compare(there, published)
    assert told.explained
    assert "196x196" in told.why
    told = compare(evolve(there, macs_published_at=900_000_000), published)
    assert not told.explained


def test_weights_among_the_inputs_are_no_image(tmp_path: Path) -> None:
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Gemm", ["x", "s"], ["y"], name="fc")],
        {"s": np.ones((4, 5), np.float32)},
        [1, 4],
    )
    plain = count(path)
    model = onnx.load(path)
    weight = helper.make_tensor_value_info("s", TensorProto.FLOAT, [4, 5])
    model.graph.input.insert(0, weight)  # as files of IR version 3 have them
    onnx.save(model, path)
    assert count(path) == plain
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="batch"):
        count(path)
