"""The portable model's arithmetic against the vendor's runtime, one operator at a time, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edge.errors import ModelFileError
from tests.one_operator import Array, Case, Random, anything, many, out_dtype, out_type, portable, same
from tests.one_operator import vendor as vendor
from tests.vendor_runtime import VendorRuntime

pytestmark = pytest.mark.compiler


def convolution(
    random: Random,
    dtype: Any = np.int8,
    bits: int = 8,
    *,
    inputs: int = 8,
    outputs: int = 12,
    kernel: Sequence[int] = (1, 1),
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    relu: bool = False,
    residual: bool = False,
    biggest: int = 1 << 20,
    bias_scale: int = 0,
    e_shift: tuple[int, int] = (-8, 2),
    bias: bool = True,
) -> Case:
    x = anything(random, dtype, 1, 9, 10, inputs)
    sides = [
        (x.shape[1 + i] + pads[i] + pads[2 + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(2)
    ]
    shape = (1, *sides, outputs)
    constants = {
        "w": anything(random, np.int8, outputs, *kernel, inputs // group),
        "b": random.integers(-biggest, biggest, outputs).astype(np.int32),
        "s": random.integers(-bias_scale, bias_scale + 1, outputs).astype(np.int8),
    }
    attributes: dict[str, Any] = {
        "kernel_shape": list(kernel),
        "strides": list(strides),
        "pads": list(pads),
        "dilations": list(dilations),
        "group": group,
        "use_bias": 1,
        "weight_thresholds": [1.0] * outputs,
        "output_bit": bits,
        "high_precision_output": int(bits == 32),
        "data_format": "NHWC",
    }
    if bits != 32:
        deep = 6 if dtype == np.int16 else 0
        attributes["right_shift"] = many(random, deep, 12 + deep, outputs)
        attributes["scale"] = many(random, 1, 32768, outputs)
        attributes["out_shift"] = many(random, 8, 23, outputs)
    if relu:
        attributes["activation"] = "relu"
    given = {"x": x}
    if residual:
        given["e"] = anything(random, np.int8, *shape)
        attributes |= {
            "use_sumin": 1,
            "e_shift": many(random, *e_shift, outputs),
            "e_scale": many(random, 1, 32768, outputs),
        }
    order = ["x", "w", "b", "s", *(["e"] if residual else [])]
    if not bias:
        attributes["use_bias"] = 0
        order, constants = order[:2], {"w": constants["w"]}
    return Case("HzSQuantizedConv", given, attributes, shape, out_type(bits), constants, order)


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_convolution(vendor: VendorRuntime, dtype: Any, bits: int, relu: bool) -> None:
    for seed in range(3):
        same(vendor, convolution(np.random.default_rng(seed), dtype, bits, relu=relu, bias=seed < 2))


GEOMETRIES: dict[str, dict[str, Any]] = {
    "padded": {"kernel": (3, 3), "pads": (1, 1, 1, 1)},
    "strided": {"kernel": (3, 2), "strides": (2, 1), "pads": (0, 1, 1, 0)},
    "dilated": {"kernel": (3, 3), "dilations": (2, 3), "pads": (2, 2, 2, 2)},
    "grouped": {"kernel": (3, 3), "group": 4, "pads": (1, 1, 1, 1)},
    "depthwise": {"kernel": (3, 3), "group": 12, "inputs": 12},
    "without bias": {"bias": False},
    "bias scaled": {"bias_scale": 9, "biggest": 1 << 14},
    "bias at the end of int32": {"biggest": 1 << 31},
    "residual": {"residual": True},
    "residual, relu": {"residual": True, "relu": True},
    "residual, wrapped": {"residual": True, "e_shift": (6, 14)},
    "many channels": {"inputs": 2400, "outputs": 5},
    "many channels, residual": {"inputs": 2400, "outputs": 5, "residual": True},
}


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution_of_any_form(vendor: VendorRuntime, geometry: str, dtype: Any) -> None:
    for seed, bits in enumerate((8, 16)):
        same(vendor, convolution(np.random.default_rng(seed), dtype, bits, **GEOMETRIES[geometry]))


def test_sums_beyond_int32_wrap(vendor: VendorRuntime) -> None:
    for bits in (16, 32):
        case = convolution(np.random.default_rng(0), np.int16, bits, inputs=2400, outputs=6)
        case.inputs["x"][...] = np.sign(case.inputs["x"]) * 32767
        case.constants["w"][...] = 127
        case.inputs["x"][:, :5] = 32767
        same(vendor, case)


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolution(vendor: VendorRuntime, group: int, relu: bool) -> None:
    forms: list[tuple[list[int], list[int], list[int], list[int]]] = [
        ([3, 3], [2, 2], [1, 1, 1, 1], [1, 1]),
        ([2, 2], [2, 2], [0, 0, 0, 0], [0, 0]),
        ([4, 3], [2, 1], [0, 1, 1, 0], [0, 0]),
    ]
    for seed, (kernel, strides, pads, extra) in enumerate(forms):
        random = np.random.default_rng(seed)
        x, outputs = anything(random, np.int8, 1, 7, 8, 8), 12
        sides = [(x.shape[1 + i] - 1) * strides[i] + kernel[i] + extra[i] - pads[i] - pads[2 + i] for i in (0, 1)]
        attributes = {
            "kernel_shape": kernel,
            "strides": strides,
            "pads": pads,
            "dilations": [1, 1],
            "group": group,
            "use_bias": 1,
            "accu_right_shift": many(random, 0, 6, outputs),
            "y_quant_scale": many(random, 1, 32768, outputs),
            "y_right_shift": many(random, 12, 23, outputs),
            "b_left_shift": many(random, 0, 5, outputs),
            "data_format": "NHWC",
        }
        attributes |= {"output_padding": extra} if any(extra) else {}
        attributes |= {"activation": "relu"} if relu else {}
        constants = {
            "w": anything(random, np.int8, 8, *kernel, outputs // group),
            "b": random.integers(-(1 << 16), 1 << 16, outputs).astype(np.int32),
        }
        shape = (1, *sides, outputs)
        same(vendor, Case("HzSQuantizedConvTranspose", {"x": x}, attributes, shape, constants=constants))


@pytest.mark.parametrize("bits", [8, 16])
def test_preprocess(vendor: VendorRuntime, bits: int) -> None:
    for seed in range(4):
        random = np.random.default_rng(seed)
        constants = {
            "w": anything(random, np.int8, 3, 1, 1, 3),
            "b": random.integers(-9000, 9000, 3).astype(np.int32),
            "s": np.zeros(3, np.int8),
        }
        attributes = {
            "data_format": "NHWC",
            "input_type": "YUV_BT601_FULL_RANGE_128",
            "channel_group": 1,
            "weight_thresholds": [1.0] * 3,
            "output_bit": bits,
            "right_shift": many(random, 0, 4, 3),
            "scale": many(random, 16384, 32768, 3),
            "out_shift": many(random, 12, 23, 3),
            "high_precision_output": 0,
        }
        x = {"x": anything(random, np.int8, 1, 32, 32, 3)}
        case = Case("HzSQuantizedPreprocess", x, attributes, (1, 32, 32, 3), out_type(bits), constants)
        same(vendor, case)


def elementwise(
    random: Random, operator: str, types: Sequence[Any], bits: int, shapes: Sequence[Sequence[int]], wrap: int = 0
) -> Case:
    a, b = (anything(random, dtype, *shape) for dtype, shape in zip(types, shapes, strict=True))
    wide = np.int16 in types
    attributes: dict[str, Any] = {
        "accu_right_shift": many(random, 8 if wide else 0, 17 if wide else 9, 1),
        "output_scale": many(random, -32768 if wrap else 1, 32768, 1),
        "output_right_shift": many(random, 12, 23, 1),
        "rounding_method": "ROUND",
        "output_bit": bits,
        "data_format": "NHWC",
    }
    if operator != "HzSElementwiseMul":
        attributes["x_shift"] = many(random, 8 + wrap, (15 if wide else 20) + wrap, 1)
        attributes["e_scale"] = many(random, 1, 32768, 1)
    if operator == "HzSElementwiseAdd":
        attributes["e_shift"] = many(random, 0, 1 + wrap, 1)
    shape = np.broadcast_shapes(a.shape, b.shape)
    return Case(operator, {"a": a, "b": b}, attributes, shape, out_type(bits))


IMAGE = (1, 12, 13, 8)


@pytest.mark.parametrize("wrap", [0, 3], ids=["", "wrapped"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("types", [(np.int8, np.int8), (np.int16, np.int16), (np.int8, np.int16)], ids=str)
@pytest.mark.parametrize("operator", ["HzSElementwiseAdd", "HzSElementwiseSub", "HzSElementwiseMul"])
def test_elementwise(vendor: VendorRuntime, operator: str, types: Any, bits: int, wrap: int) -> None:
    shapes = [(IMAGE, IMAGE), (IMAGE, (1, 12, 13, 1)), (IMAGE, (1, 1, 1, 8))]
    for seed, pair in enumerate(shapes):
        same(vendor, elementwise(np.random.default_rng(seed), operator, types, bits, pair, wrap))


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("operator", ["HzSQuantizedReduceMean", "HzSQuantizedReduceSum"])
def test_sums_over_an_axis(vendor: VendorRuntime, operator: str, bits: int, axis: int) -> None:
    for seed in range(4):
        random = np.random.default_rng(seed)
        x = anything(random, out_dtype(bits), *IMAGE)
        count = x.shape[axis]
        attributes = {"axis": axis, "output_bit": bits}
        for key, low, high in (("accu_right_shift", 0, 7), ("scale", 1, 32768), ("out_shift", 12, 20)):
            attributes[key] = many(random, low, high, 1) * count
        shape = [1 if i == axis else n for i, n in enumerate(x.shape)]
        same(vendor, Case(operator, {"x": x}, attributes, shape, out_type(bits)))


@pytest.mark.parametrize("axis", [1, 3])
def test_a_sum_beyond_what_float32_holds(vendor: VendorRuntime, axis: int) -> None:
    """Means over the channels of a LayerNorm in 16 bits: 2^24 is reached with 513 of them."""
    for seed, right in enumerate((10, 0, 5, 11)):
        random = np.random.default_rng(seed)
        x = anything(random, np.int16, *((1, 700, 2, 3) if axis == 1 else (1, 2, 3, 700)))
        rows = np.moveaxis(x, axis, -1)
        rows[0, 0] = 32767 - random.integers(0, 3, rows[0, 0].shape)
        rows[0, 0, :, -1] -= ((rows[0, 0].sum(-1, dtype=np.int64) + 1) % 1024).astype(np.int16)
        # These sums are of 25 bits and just below a step, where float32's nearest number is on it.
        assert (rows[0, 0].sum(-1, dtype=np.int64) % 1024 == 1023).all()
        constants = {"accu_right_shift": right, "scale": 32767, "out_shift": 15}
        attributes = {"axis": axis, "output_bit": 16} | {key: [value] * 700 for key, value in constants.items()}
        shape = [1 if i == axis else n for i, n in enumerate(x.shape)]
        same(vendor, Case("HzSQuantizedReduceMean", {"x": x}, attributes, shape, out_type(16)))


@pytest.mark.parametrize("rounding", ["ROUND", "FLOOR"])
def test_global_average_pool(vendor: VendorRuntime, rounding: str) -> None:
    for seed, bits in enumerate((8, 16)):
        random = np.random.default_rng(seed)
        x = anything(random, np.int8, 1, 9, 9, 40)
        attributes = {
            "accu_right_shift": many(random, 0, 6, 40),
            "output_scale": many(random, 1, 32768, 40),
            "output_right_shift": many(random, 12, 23, 40),
            "rounding_method": rounding,
            "output_bit": bits,
            "data_format": "NHWC",
        }
        case = Case("HzSQuantizedGlobalAveragePool", {"x": x}, attributes, (1, 1, 1, 40), out_type(bits))
        same(vendor, case)


def every(dtype: Any) -> Array:
    """Every number of the type, as an image."""
    limits = np.iinfo(dtype)
    return np.arange(limits.min, limits.max + 1).astype(dtype).reshape(1, 16, -1, 1)


def test_lut(vendor: VendorRuntime) -> None:
    table = {"t": anything(np.random.default_rng(0), np.int8, 256)}
    x = every(np.int8)
    attributes = {"lut_type": "gelu", "data_format": "NHWC"}
    same(vendor, Case("HzLut", {"x": x}, attributes, x.shape, constants=table))


def lut2(random: Random, symmetry: str, bits: int) -> Case:
    """Bounds, slopes and smooth tables at random; places in the tables stay inside them."""
    low = -32768 if symmetry == "NONE" else 0
    bound = np.sort(random.integers(low, 32768, 7))
    scale, bias = random.integers(-32768, 32768, 8), random.integers(-32768, 32768, 8)
    left, right = random.integers(0, 16, 8), random.integers(0, 17, 8)
    for i in range(1, 7):
        right[i] = random.integers(8, 14)
        scale[i] = min(32767, 16128 * 2 ** right[i] // max(1, bound[i] - bound[i - 1]))
        left[i] = np.clip(int(np.ceil(np.log2(max(1, abs(bound[i - 1] * scale[i]) / 32767)))), 0, 15)
        bias[i] = np.clip(-bound[i - 1] * scale[i] >> left[i], -32768, 32767)
    limit = 1 << (bits - 1)
    table = np.clip(np.cumsum(random.integers(-limit // 8, limit // 8 + 1, 384)), -limit, limit - 1)
    values = {"scale": scale, "bias": bias, "left_shift": left, "right_shift": right}
    attributes = {key: [int(n) for n in value] for key, value in values.items()}
    attributes |= {"bound": [*map(int, bound), int(bound[-1])], "table_param": [int(n) for n in table]}
    more = {"lut_type": "exp", "symmetry_mode": symmetry, "output_bit": bits, "rounding_method": "ROUND"}
    x = every(np.int16)
    return Case("HzLut2Layer", {"x": x}, attributes | more | {"data_format": "NHWC"}, x.shape, out_type(bits))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("symmetry", ["NONE", "Y_SYMMETRIC", "ORIGIN_SYMMETRIC"])
def test_lut_of_segments(vendor: VendorRuntime, symmetry: str, bits: int) -> None:
    for seed in range(5):
        same(vendor, lut2(np.random.default_rng(seed), symmetry, bits))


@pytest.mark.parametrize(
    ("attribute", "change", "why"),
    [("right_shift", -2, "beyond its table"), ("table_param", 40000, "more than 16 bits hold")],
)
def test_segments_beyond_the_rule_are_refused(attribute: str, change: int, why: str) -> None:
    case = lut2(np.random.default_rng(0), "NONE", 16)
    case.attributes[attribute][3] += change
    with pytest.raises(ModelFileError, match=why):
        portable(case.model(), case.inputs)
