"""The calibrated model in stock onnxruntime: the vendor's rounding, switched from run to run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.errors import ModelFileError
from edge.simulate.fakequant import AS_BUILT, FLOAT, INT8, INT16, FakeQuant, translate
from edge.toolchain.found import Toolchain
from tests.vendor_runtime import VendorRuntime

Array = NDArray[Any]
SIDE = 4
RANGES = {"int8": (-128, 127, 127), "uint8": (0, 255, 255), "int16": (-32768, 32767, 32767)}


def calibration(name: str, x: str, y: str, qtype: str, thresholds: list[float], **more: Any) -> onnx.NodeProto:
    attributes = {"switch": "ON", "constant": 1, "quant_attrs": 0x11111, **more}
    return helper.make_node(
        "HzCalibration", [x], [y], name, domain="horizon", qtype=qtype, thresholds=thresholds, **attributes
    )


def model(
    nodes: list[onnx.NodeProto], constants: dict[str, Array] | None = None, out: tuple[int, ...] = (1, 3, SIDE, SIDE)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "calibrated",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, SIDE, SIDE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 11), helper.make_opsetid("horizon", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=6)


def opened(built: onnx.ModelProto, folder: Path, *inner: str) -> FakeQuant:
    onnx.save(built, folder / "n_calibrated_model.onnx")
    return FakeQuant(folder / "n_calibrated_model.onnx", inner)


def image(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def tensor(yuv: NDArray[np.uint8]) -> NDArray[np.float32]:
    return yuv.transpose(2, 0, 1)[None].astype(np.float32) - 128


def rounded(x: Array, qtype: str, threshold: float) -> Array:
    low, high, top = RANGES[qtype]
    step = np.float32(threshold) / np.float32(top)
    result: Array = np.clip(np.rint(x.astype(np.float32) / step), low, high) * step
    return result


def conv_net() -> onnx.ModelProto:
    """x, rounded → Conv with a rounded weight → Relu, rounded to uint8 → Conv with a float weight."""
    rng = np.random.default_rng(1)
    weights = {name: rng.standard_normal((3, 3, 3, 3)).astype(np.float32) for name in ("w", "v")}
    return model(
        [
            calibration("qx", "x", "xq", "int8", [90.0]),
            calibration("qw", "w", "wq", "int8", [1.0, 2.0, 3.0], axis=0, group=1, quant_attrs=0x22111),
            helper.make_node("Conv", ["xq", "wq"], ["c"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            calibration("qr", "r", "rq", "uint8", [400.0]),
            helper.make_node("Conv", ["rq", "v"], ["y"], "last", pads=[1, 1, 1, 1]),
        ],
        weights,
    )


@settings(max_examples=40, deadline=None)
@given(qtype=st.sampled_from(sorted(RANGES)), threshold=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_an_activation_is_rounded_as_stated(qtype: str, threshold: float, seed: int) -> None:
    built = model([calibration("q", "x", "y", qtype, [threshold])])
    translated = translate(built)
    import onnxruntime

    session = onnxruntime.InferenceSession(translated.model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = tensor(image(seed))
    (item,) = translated.quantizers
    feeds = {
        "x": x,
        "edge_int8": np.array([qtype != "int16"]),
        "edge_int16": np.array([qtype == "int16"]),
        "edge_steps": item.steps(item.bits),
    }
    np.testing.assert_array_equal(session.run(None, feeds)[0], rounded(x, qtype, threshold))


def test_every_quantizer_is_switched_alone(tmp_path: Path) -> None:
    net = opened(conv_net(), tmp_path, "xq", "rq", "r", "c")
    assert [(q.name, q.producer, q.consumers, q.weight) for q in net.quantizers] == [
        ("qx", "", ("conv",), False),
        ("qw", "", ("conv",), True),
        ("qr", "relu", ("last",), False),
    ]
    yuv = image()
    x = tensor(yuv)
    off = dict(zip(["xq", "r", "rq"], net.run(yuv, net.bits(FLOAT), ["xq", "r", "rq"]), strict=True))
    np.testing.assert_array_equal(off["xq"], x)
    np.testing.assert_array_equal(off["r"], off["rq"])
    (xq,) = net.run(yuv, net.bits(AS_BUILT, [0]), ["xq"])
    np.testing.assert_array_equal(xq, rounded(x, "int8", 90))
    (xq16,) = net.run(yuv, net.bits(INT16, [0]), ["xq"])
    np.testing.assert_array_equal(xq16, rounded(x, "int16", 90))
    r, rq = net.run(yuv, net.bits(AS_BUILT, [2]), ["r", "rq"])
    np.testing.assert_array_equal(r, off["r"])
    np.testing.assert_array_equal(rq, rounded(r, "uint8", 400))
    (c_weight,) = net.run(yuv, net.bits(INT8, [1]), ["c"])
    (c_float,) = net.run(yuv, net.bits(FLOAT), ["c"])
    assert not np.array_equal(c_weight, c_float)
    (again,) = net.run(yuv, net.bits(INT16, [1]), ["c"])
    np.testing.assert_array_equal(again, c_weight)  # a weight has no 16-bit form


def test_a_weight_is_rounded_a_channel(tmp_path: Path) -> None:
    built = conv_net()
    weight = numpy_helper.to_array(next(t for t in built.graph.initializer if t.name == "w"))
    other = conv_net()
    stepped = np.stack([rounded(w, "int8", t) for w, t in zip(weight, (1.0, 2.0, 3.0), strict=True)])
    next(t for t in other.graph.initializer if t.name == "w").CopyFrom(
        numpy_helper.from_array(stepped.astype(np.float32), "w")
    )
    net, expected = opened(built, tmp_path, "c"), opened(other, tmp_path, "c")
    yuv = image()
    np.testing.assert_array_equal(
        net.run(yuv, net.bits(INT8, [1]), ["c"])[0], expected.run(yuv, expected.bits(FLOAT), ["c"])[0]
    )


def test_other_thresholds_for_a_run(tmp_path: Path) -> None:
    net = opened(conv_net(), tmp_path, "xq")
    yuv = image()
    (xq,) = net.run(yuv, net.bits(), ["xq"], {0: np.array([33.0], np.float32)})
    np.testing.assert_array_equal(xq, rounded(tensor(yuv), "int8", 33))


def test_a_quantizer_that_is_switched_off_passes_on(tmp_path: Path) -> None:
    net = opened(
        model(
            [calibration("q", "x", "xq", "int8", [1.0], switch="OFF"), helper.make_node("Relu", ["xq"], ["y"], "relu")]
        ),
        tmp_path,
        "xq",
    )
    yuv = image()
    assert net.quantizers == ()
    y, xq = net.run(yuv, net.bits(), ["y", "xq"])
    np.testing.assert_array_equal(y, np.maximum(tensor(yuv), 0))
    np.testing.assert_array_equal(xq, tensor(yuv))


def test_rescaled_channels_come_out_multiplied(tmp_path: Path) -> None:
    gains = [2.0, 4.0, 8.0]
    net = opened(
        model(
            [calibration("q", "x", "y", "int8", [64.0, 32.0, 16.0], axis=1, channel_scales=gains, dequantize_scale=1.0)]
        ),
        tmp_path,
    )
    yuv = image()
    gain = np.array(gains, np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_array_equal(net.run(yuv, net.bits(FLOAT))[0], tensor(yuv) * gain)
    each = [rounded(tensor(yuv)[:, c], "int8", t) for c, t in enumerate((64.0, 32.0, 16.0))]
    np.testing.assert_allclose(net.run(yuv, net.bits())[0], np.stack(each, 1) * gain, rtol=1e-6)


def test_a_tensor_rounded_twice_has_one_producer(tmp_path: Path) -> None:
    net = opened(
        model(
            [
                helper.make_node("Relu", ["x"], ["r"], "relu"),
                calibration("q8", "r", "a", "int8", [9.0]),
                calibration("q16", "a", "b", "int16", [7.0]),
                helper.make_node("Relu", ["b"], ["y"], "next"),
            ]
        ),
        tmp_path,
    )
    assert [(q.producer, q.consumers) for q in net.quantizers] == [("relu", ("next",))] * 2


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (helper.make_node("HzWarp", ["x"], ["y"], "strange", domain="horizon"), "HzWarp 'strange'"),
        (helper.make_node("HzGelu", ["x"], ["y"], "g", domain="horizon", approximate="rough"), "rough"),
        (helper.make_node("HzRsqrt", ["x"], ["y"], "r", domain="horizon", power=3), "power"),
        (helper.make_node("Foo", ["x"], ["y"], "f", domain="other"), "other"),
        (calibration("q", "x", "y", "int4", [1.0]), "int4"),
        (calibration("q", "x", "y", "int8", [0.0]), "above 0"),
        (calibration("q", "x", "y", "int8", [1.0], zero_point=3), "zero_point"),
        (calibration("q", "x", "y", "int8", [1.0], quant_attrs=7), "quant_attrs 7"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_rule_covers_is_named(node: onnx.NodeProto, named: str) -> None:
    with pytest.raises(ModelFileError, match=named):
        translate(model([node]))


def test_a_wrong_setting_is_refused(tmp_path: Path) -> None:
    net = opened(conv_net(), tmp_path)
    for setting in (np.zeros(2, np.uint8), np.full(3, 4, np.uint8)):
        with pytest.raises(ValueError, match="setting"):
            net.run(image(), setting)
    with pytest.raises(ValueError, match="image"):
        net.run(image()[:2], net.bits())
    with pytest.raises(ModelFileError, match="no tensor 'nothing'"):
        translate(conv_net(), ["nothing"])


@pytest.mark.compiler
def test_a_transposed_convolutions_weight_has_its_channels_over_the_groups(
    vendor: VendorRuntime, tmp_path: Path
) -> None:
    weight = np.random.default_rng(2).standard_normal((3, 2, 1, 1)).astype(np.float32)
    thresholds = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    built = model(
        [
            calibration("q", "w", "wq", "int8", thresholds, axis=1, group=3, quant_attrs=0x22111),
            helper.make_node("ConvTranspose", ["x", "wq"], ["y"], "up", group=3),
        ],
        {"w": weight},
        (1, 6, SIDE, SIDE),
    )
    net = opened(built, tmp_path)
    expected = np.asarray(vendor.run(built, {"x": tensor(image())})["y"], np.float32)
    np.testing.assert_allclose(np.asarray(net.run(image(), net.bits())[0]), expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def vendor(toolchain: Toolchain) -> Iterator[VendorRuntime]:
    runtime = VendorRuntime(toolchain)
    yield runtime
    runtime.close()


def vendor_forms() -> dict[str, tuple[list[onnx.NodeProto], float]]:
    """Name -> (nodes from x to y, allowed difference)."""

    def one(op: str, **attributes: Any) -> list[onnx.NodeProto]:
        return [helper.make_node(op, ["x"], ["y"], "n", domain="horizon", **attributes)]

    square = helper.make_node("Mul", ["x", "x"], ["s"], "square")

    small = helper.make_node("Mul", ["x", "k"], ["s"], "small")  # exp(89) is no float32

    def root(**attributes: Any) -> list[onnx.NodeProto]:
        return [square, helper.make_node("HzRsqrt", ["s"], ["y"], "n", domain="horizon", **attributes)]

    channels = {"channel_scales": [2.0, 4.0, 8.0]}
    return {
        "int8": ([calibration("q", "x", "y", "int8", [77.7])], 0),
        "uint8": ([calibration("q", "x", "y", "uint8", [77.7])], 0),
        "int16": ([calibration("q", "x", "y", "int16", [77.7])], 0),
        "channels": ([calibration("q", "x", "y", "int8", [9.9, 55.5, 88.8], **channels)], 0),
        "axis": ([calibration("q", "x", "y", "int8", [9.9, 55.5, 88.8], axis=1)], 0),
        "rescaled": (
            [calibration("q", "x", "y", "int8", [64.4, 32.2, 16.1], axis=1, dequantize_scale=1.0141732, **channels)],
            2e-4,
        ),
        "off": ([calibration("q", "x", "y", "int8", [1.0], switch="OFF")], 0),
        "without constant": ([calibration("q", "x", "y", "int8", [1.0], constant=0)], 0),
        "gelu": (one("HzGelu", approximate="none"), 1e-5),
        "gelu tanh": (one("HzGelu", approximate="tanh"), 1e-5),
        "swish": (one("HzSwish"), 1e-5),
        "mish": ([small, helper.make_node("HzMish", ["s"], ["y"], "n", domain="horizon")], 1e-5),
        "hard swish": (one("HzHardSwish"), 1e-5),
        "softmax": (one("HzSoftmax", axis=1), 1e-6),
        "softmax of rows": (one("HzSoftmax", axis=3), 1e-6),
        "rsqrt": (root(epsilon=0.5, is_sqrt_add_reciprocal=0), 1e-6),
        "rsqrt, epsilon outside": (root(epsilon=0.5, is_sqrt_add_reciprocal=1), 1e-6),
    }


@pytest.mark.compiler
@pytest.mark.parametrize("form", list(vendor_forms()))
def test_the_vendors_runtime_gives_the_same(form: str, vendor: VendorRuntime, tmp_path: Path) -> None:
    nodes, tolerance = vendor_forms()[form]
    built = model(nodes, {"k": np.array(0.1, np.float32)})
    net = opened(built, tmp_path)
    yuv = image()
    expected = np.asarray(vendor.run(built, {"x": tensor(yuv)})["y"], np.float32)
    seen = np.asarray(net.run(yuv, net.bits())[0])
    assert math.isfinite(float(np.abs(seen).max()))
    np.testing.assert_allclose(seen, expected, rtol=0, atol=tolerance)


@pytest.mark.compiler
def test_the_vendors_runtime_gives_the_same_for_convolutions(vendor: VendorRuntime, tmp_path: Path) -> None:
    built = conv_net()
    net = opened(built, tmp_path)
    for seed in range(3):
        expected = np.asarray(vendor.run(built, {"x": tensor(image(seed))})["y"], np.float32)
        seen = np.asarray(net.run(image(seed), net.bits())[0])
        np.testing.assert_allclose(seen, expected, rtol=0, atol=2e-3)
