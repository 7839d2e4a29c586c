"""The portable model: exact staircases, layouts, whole networks, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge.errors import ModelFileError
from edge.images.preprocess import network_input_from_nv12, nv12_to_yuv444
from edge.simulate.portable import nv12
from edge.simulate.portable.graph import NHWC, WORTH, Graph, Value, packed
from edge.simulate.portable.requantize import requantize, search, staircase
from edge.simulate.portable.translate import translated
from edge.specs import Preprocess

ALL_T = np.arange(-(1 << 15), 1 << 15, dtype=np.int64)


def run(graph: Graph, output: Value, feed: np.ndarray) -> np.ndarray:
    """Run a graph whose input is float32 ``x`` instead of NV12."""
    model = graph.model("x", feed.shape, [("y", output)])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": feed})[0]


@settings(max_examples=60, deadline=None)
@given(
    scale=st.integers(1, 32767),
    shift=st.integers(0, 30),
    nearest=st.booleans(),
    offset=st.sampled_from([0, 0, 1, -517, 20000]),
)
def test_every_t_of_16_bits_gives_the_vendors_integer(scale: int, shift: int, nearest: bool, offset: int) -> None:
    graph = Graph.empty()
    one = np.array([1], np.int64)
    name = requantize(
        graph,
        "x",
        low=ALL_T[:1],
        high=ALL_T[-1:],
        scale=one * scale,
        shift=one * shift,
        bits=8,
        nearest=nearest,
        channels=(1,),
        offset=one * offset,
    )
    feed = (ALL_T - offset).astype(np.float32)
    got = run(graph, Value(name, feed.shape, (0,)), feed)
    assert np.array_equal(got, staircase(ALL_T, one * scale, one * shift, 8, nearest=nearest))


def test_most_staircases_are_found_in_float32() -> None:
    rng = np.random.default_rng(0)
    scale, shift = rng.integers(16384, 32768, 640), np.full(640, 22)
    ends = np.full(640, -(1 << 15)), np.full(640, (1 << 15) - 1)
    assert search(*ends, scale, shift, np.zeros(640, np.int64), nearest=False) is not None


@pytest.mark.parametrize(("scale", "bits"), [(0, 8), (20000, 16)], ids=["flat", "16 bits"])
def test_what_float32_can_not_do_is_done_in_float64(scale: int, bits: int) -> None:
    graph = Graph.empty()
    one = np.array([1], np.int64)
    low, high = one * -(1 << 20), one * ((1 << 20) - 1)
    name = requantize(
        graph, "x", low=low, high=high, scale=one * scale, shift=one * 14, bits=bits, nearest=True, channels=(1,)
    )
    assert "Floor" in {node.op_type for node in graph.nodes}
    t = np.arange(low[0], high[0] + 1, 7)
    inside = np.clip(t, -(1 << 15), (1 << 15) - 1)  # the vendor saturates to 16 bits first
    got = run(graph, Value(name, t.shape, (0,)), t.astype(np.float32))
    assert np.array_equal(got, staircase(inside, one * scale, one * 14, bits, nearest=True))


def test_a_wrong_divisor_does_not_pass_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself can fail: with scales told one off, the search finds nothing."""
    from edge.simulate.portable import requantize as module

    true = module.staircase

    def off(t: np.ndarray, scale: np.ndarray, *rest: np.ndarray, nearest: bool) -> np.ndarray:
        return true(t, scale + 40, *rest, nearest=nearest)

    monkeypatch.setattr(module, "staircase", off)
    ends = np.array([-(1 << 15)]), np.array([(1 << 15) - 1])
    assert search(*ends, np.array([20000]), np.array([22]), np.array([0]), nearest=False) is None


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    exponents=st.lists(st.integers(-22, 3), min_size=1, max_size=6),
    limit=st.sampled_from([0, 1, 127, 300]),
)
def test_weights_are_stored_small_and_come_back_the_same(seed: int, exponents: list[int], limit: int) -> None:
    size = (len(exponents), -(-WORTH // len(exponents)))
    rows = np.random.default_rng(seed).integers(-limit, limit + 1, size)
    data = (rows * np.exp2(np.array(exponents, np.float64))[:, None]).astype(np.float32)
    nodes, tensors = packed("w", data)
    assert any(tensor.data_type == TensorProto.INT8 for tensor in tensors) == (limit < 300)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, data.shape)
    graph = helper.make_graph([*nodes, helper.make_node("Identity", ["w"], ["y"])], "g", [], [out], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {})[0], data)


@given(st.permutations([0, 1, 2, 3]), st.permutations([0, 1, 2, 3]), st.sampled_from([(2, 3, 4, 5), (1, 1, 4, 5)]))
@settings(max_examples=60, deadline=None)
def test_moving_axes_moves_the_numbers(before: list[int], after: list[int], shape: tuple[int, int, int, int]) -> None:
    logical = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    value = Value("x", shape, tuple(before))
    stored = np.transpose(logical, np.argsort(before))
    assert stored.shape == value.stored
    graph = Graph.empty()
    moved = graph.transposed(value, tuple(after))
    name = graph.add("Identity", moved.name)
    got = run(graph, Value(name, moved.stored, (0, 1, 2, 3)), stored)
    assert np.array_equal(got, np.transpose(logical, np.argsort(after)))


def test_nv12_is_decoded_as_everywhere_else() -> None:
    frame = np.random.default_rng(1).integers(0, 256, 8 * 6 * 3 // 2, dtype=np.uint8)
    graph = Graph.empty()
    value = nv12.decode(graph, (8, 6))
    model = graph.model(nv12.INPUT, [frame.size], [("y", graph.plain(value))])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {nv12.INPUT: frame})[0]
    assert np.array_equal(got[0], nv12_to_yuv444(frame, (8, 6)).astype(np.float32) - 128)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_a_float_network_behind_nv12_sees_the_usual_input(color: str, layout: str) -> None:
    pre = Preprocess(crop=(64, 32), resize=None, color=color, layout=layout)  # type: ignore[arg-type]
    info = helper.make_tensor_value_info("t0", TensorProto.FLOAT, pre.input_shape)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, pre.input_shape)
    graph = helper.make_graph([helper.make_node("Identity", ["t0"], ["y"])], "g", [info], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    nv12.put_before(model, pre)
    onnx.checker.check_model(model)
    frame = np.random.default_rng(2).integers(0, 256, 64 * 32 * 3 // 2, dtype=np.uint8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {nv12.INPUT: frame})[0]
    assert np.allclose(got, network_input_from_nv12(frame, pre), atol=2e-5)
    assert {p.key: p.value for p in model.metadata_props} == {"edge.exact": "0", "edge.size": "64x32"}


def quantized_net(
    op: str = "HzDequantize", shape: tuple[int, ...] = (1, 4, 4, 3), **attributes: object
) -> onnx.ModelProto:
    scale = numpy_helper.from_array(np.ones(1, np.float32), "s")
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "s"], ["y"], name="n", domain="horizon", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [scale],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("horizon", 1)])


def test_same_model_same_bytes() -> None:
    assert translated(quantized_net()).SerializeToString() == translated(quantized_net()).SerializeToString()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (quantized_net("HzDreamt"), "HzDreamt 'n'"),
        (quantized_net(shape=(1, 4, 4, 4)), "one NV12 image"),
        (quantized_net(shape=(2, 4, 4, 3)), "one NV12 image"),
        (quantized_net("HzSQuantizedReduceMean", axis=3), "is missing"),
    ],
    ids=["operator", "channels", "batch", "attribute"],
)
def test_what_has_no_rule_is_named(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        translated(model)


def test_stored_shape_follows_the_axes() -> None:
    assert Value("x", (1, 5, 7, 3), NHWC).stored == (1, 3, 5, 7)
