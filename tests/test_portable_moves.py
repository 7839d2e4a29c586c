"""The portable model's other rules against the vendor's runtime, and what it says where it has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from onnx import TensorProto

from edge.errors import ModelFileError
from edge.simulate.portable.rules import RULES
from tests.one_operator import Case, Random, anything, many, out_type, portable, same
from tests.one_operator import vendor as vendor
from tests.test_portable_rules import convolution, elementwise, lut2
from tests.vendor_runtime import VendorRuntime

pytestmark = pytest.mark.compiler

TYPES = [np.int8, np.int16]
IMAGE = (1, 8, 10, 12)


def kind(dtype: Any) -> int:
    return out_type(np.iinfo(dtype).bits)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("dtype", TYPES)
def test_requantize(vendor: VendorRuntime, dtype: Any, bits: int) -> None:
    for seed, count in enumerate((12, 1, 12)):
        random = np.random.default_rng(seed)
        attributes = {"axis": 3, "bits": bits, "method": "Rescale"}
        scale = {"output_scale": many(random, 1, 32768, count), "output_right_shift": many(random, 4, 24, count)}
        x = anything(random, dtype, *IMAGE)
        same(vendor, Case("HzRequantize", {"x": x}, attributes | scale, IMAGE, out_type(bits)))


@pytest.mark.parametrize("slopes", [1, 12], ids=["one slope", "a slope each"])
@pytest.mark.parametrize("dtype", TYPES)
def test_prelu(vendor: VendorRuntime, dtype: Any, slopes: int) -> None:
    for seed in range(4):
        random = np.random.default_rng(seed)
        attributes = {
            "positive_scale": many(random, 1, 32768, 1) if seed else [1],
            "positive_right_shift": many(random, 8, 16, 1) if seed else [0],
            "accu_right_shift": many(random, 0, 16, 1),
            "negative_scale": many(random, 1, 32768, 1),
            "negative_right_shift": many(random, 10, 23, 1),
            "data_format": "NHWC",
        }
        slope = {"s": np.broadcast_to(anything(random, np.int16, 1, 1, 1, slopes), (1, 1, 1, 12)).copy()}
        x = anything(random, dtype, *IMAGE)
        same(vendor, Case("HzSPRelu", {"x": x}, attributes, IMAGE, kind(dtype), slope))


@pytest.mark.parametrize("rounding", ["ROUND", "FLOOR"])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_matmul(vendor: VendorRuntime, bits: int, rounding: str) -> None:
    forms = [((1, 2, 9, 200), (1, 2, 200, 7)), ((2, 9, 20), (2, 20, 7)), ((1, 1, 9, 20), (1, 2, 20, 7))]
    forms += [((5, 2500), (2500, 6))]
    for seed, (one, two) in enumerate(forms[: 3 if bits == 32 else 4]):
        random = np.random.default_rng(seed)
        given = {"a": anything(random, np.int8, *one), "b": anything(random, np.int8, *two)}
        attributes: dict[str, Any] = {"output_bit": bits}
        if bits != 32:
            attributes |= {"rounding_method": rounding, "out_shift": many(random, 12, 23, 1)}
            attributes |= {"right_shift": many(random, 0, 8, 1), "scale": many(random, 1, 32768, 1)}
        shape = (given["a"].astype(np.int64) @ given["b"]).shape
        same(vendor, Case("HzSQuantizedMatmul", given, attributes, shape, out_type(bits)))


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("dtype", TYPES)
def test_max_pool(vendor: VendorRuntime, dtype: Any, ceil_mode: int) -> None:
    forms = [([3, 3], [2, 2], [1, 1, 1, 1]), ([2, 3], [1, 2], [0, 1, 1, 0]), ([3, 3], [2, 2], [0, 0, 0, 0])]
    for seed, (kernel, strides, pads) in enumerate(forms):
        x = -np.abs(anything(np.random.default_rng(seed), dtype, 1, 12, 11, 8) // 2)
        free = [x.shape[1 + i] + pads[i] + pads[2 + i] - kernel[i] for i in (0, 1)]
        sides = [(-(-f // s) if ceil_mode else f // s) + 1 for f, s in zip(free, strides, strict=True)]
        attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": ceil_mode}
        attributes |= {"output_bit": np.iinfo(dtype).bits, "data_format": "NHWC"}
        same(vendor, Case("HzQuantizedMaxPool", {"x": x}, attributes, (1, *sides, 8), kind(dtype)))


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("dtype", TYPES)
def test_reduce_max(vendor: VendorRuntime, dtype: Any, axis: int) -> None:
    x = anything(np.random.default_rng(0), dtype, *IMAGE)
    shape = [1 if i == axis else n for i, n in enumerate(IMAGE)]
    attributes = {"axis": axis, "output_bit": np.iinfo(dtype).bits}
    same(vendor, Case("HzQuantizedReduceMax", {"x": x}, attributes, shape, kind(dtype)))


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("dtype", TYPES)
def test_place_of_the_largest(vendor: VendorRuntime, dtype: Any, axis: int) -> None:
    """Of equal values, which few numbers bring, the first."""
    random = np.random.default_rng(0)
    shape = [1 if i == axis else n for i, n in enumerate(IMAGE)]
    for x in (anything(random, dtype, *IMAGE), random.integers(-2, 3, IMAGE).astype(dtype)):
        same(vendor, Case("HzQuantizedArgMax", {"x": x}, {"axis": axis, "output_bit": 8}, shape, kind(dtype)))


@pytest.mark.parametrize("to", [TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64])
def test_cast(vendor: VendorRuntime, to: int) -> None:
    x = anything(np.random.default_rng(0), np.int8, *IMAGE)
    same(vendor, Case("Cast", {"x": x}, {"to": to}, IMAGE, to, domain=""))


def test_global_max_pool(vendor: VendorRuntime) -> None:
    x = anything(np.random.default_rng(0), np.int8, *IMAGE)
    attributes = {"data_format": "NHWC"}
    same(vendor, Case("HzQuantizedGlobalMaxPool", {"x": x}, attributes, (1, 1, 1, 12)))


@pytest.mark.parametrize("size", [(16, 20), (8, 10), (32, 30), (19, 13), (3, 7), (1, 1), (40, 41)], ids=str)
def test_bilinear_resize(vendor: VendorRuntime, size: tuple[int, int]) -> None:
    x = anything(np.random.default_rng(0), np.int8, *IMAGE)
    attributes = {
        "align_mode": "center",
        "sizes": list(size),
        "pad_mode": "boundary",
        "step_decimal_bit": 16,
        "is_interpolate_twice": 0,
        "data_format": "NHWC",
    }
    same(vendor, Case("HzQuantizedRoiResize", {"x": x}, attributes, (1, *size, 12)))


def test_nearest_resize(vendor: VendorRuntime) -> None:
    x = anything(np.random.default_rng(0), np.int8, *IMAGE)
    attributes = {"mode": "nearest", "scale": [3, 2], "data_format": "NHWC"}
    same(vendor, Case("HzQuantizedResizeUpsample", {"x": x}, attributes, (1, 24, 20, 12)))


@pytest.mark.parametrize("size", [(7, 7), (16, 20), (3, 30), (24, 9), (5, 21)], ids=str)
def test_nearest_resize_on_the_cpu(vendor: VendorRuntime, size: tuple[int, int]) -> None:
    x = real(np.random.default_rng(0), 1, 3, 20, 21)
    none = np.zeros(0, np.float32)
    constants = {"roi": none, "factors": none, "sizes": np.array([1, 3, *size])}
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    shape = (1, 3, *size)
    same(vendor, Case("Resize", {"x": x}, attributes, shape, TensorProto.FLOAT, constants, domain=""))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
@pytest.mark.parametrize("dtype", TYPES)
def test_pad(vendor: VendorRuntime, dtype: Any, mode: str) -> None:
    x = anything(np.random.default_rng(0), dtype, *IMAGE)
    attributes = {"pads": [0, 1, 2, 0, 0, 3, 0, 0], "mode": mode, "data_format": "NHWC"}
    fill = {"fill": np.array([-77], dtype)}
    same(vendor, Case("HzPad", {"x": x}, attributes, (1, 12, 12, 12), kind(dtype), fill))


MOVES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "shuffle": ("HzChannelShuffle", {"group": 3, "data_format": "NHWC"}, IMAGE),
    "depth CRD": ("HzDepthToSpace", {"blocksize": 2, "mode": "CRD", "data_format": "NHWC"}, (1, 16, 20, 3)),
    "depth DCR": ("HzDepthToSpace", {"blocksize": 2, "mode": "DCR", "data_format": "NHWC"}, (1, 16, 20, 3)),
    "split": ("Split", {"axis": 3, "split": [5, 7]}, [(1, 8, 10, 5), (1, 8, 10, 7)]),
    "reshape": ("Reshape", {}, (1, 5, 16, 12)),
    "transpose": ("Transpose", {"perm": [0, 3, 1, 2]}, (1, 12, 8, 10)),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("move", MOVES)
def test_moves(vendor: VendorRuntime, move: str, dtype: Any) -> None:
    operator, attributes, shape = MOVES[move]
    x = anything(np.random.default_rng(0), dtype, *IMAGE)
    domain = "horizon" if operator.startswith("Hz") else ""
    constants = {"to": np.array([0, -1, 16, 12])} if operator == "Reshape" else {}
    same(vendor, Case(operator, {"x": x}, attributes, shape, kind(dtype), constants, domain=domain))


@pytest.mark.parametrize("dtype", TYPES)
def test_joins_and_cuts(vendor: VendorRuntime, dtype: Any) -> None:
    random = np.random.default_rng(0)
    x, y = anything(random, dtype, *IMAGE), anything(random, dtype, 1, 8, 10, 5)
    same(vendor, Case("Concat", {"x": x, "y": y}, {"axis": 3}, (1, 8, 10, 17), kind(dtype), domain=""))
    ends = {"s": [1, -9], "e": [-1, 12], "a": [1, 3], "t": [2, 1]}
    constants = {key: np.array(value) for key, value in ends.items()}
    same(vendor, Case("Slice", {"x": x}, {}, (1, 3, 10, 9), kind(dtype), constants, domain=""))
    places = {"i": np.array([3, 0, -1])}
    same(vendor, Case("Gather", {"x": x}, {"axis": 1}, (1, 3, 10, 12), kind(dtype), places, domain=""))
    place = {"i": np.array(2)}
    same(vendor, Case("Gather", {"x": x}, {"axis": 3}, (1, 8, 10), kind(dtype), place, domain=""))


def real(random: Random, *shape: int) -> Any:
    return random.normal(0, 4, shape).astype(np.float32)


@pytest.mark.parametrize("attributes", [{}, {"axis": 0}])
@pytest.mark.parametrize("bits", [8, 16])
def test_quantize(vendor: VendorRuntime, bits: int, attributes: dict[str, int]) -> None:
    random = np.random.default_rng(0)
    halves = np.arange(-40000, 40000, dtype=np.float32) * 0.5
    for scale in (1.0, 0.013, 1 / 3):
        s = np.array([scale], np.float32)
        x = np.concatenate([halves * s, real(random, 20000) * s * 30, np.float32([2e9, -2e9]) * s])
        given = {"bits": bits, **attributes}
        case = Case("HzQuantize", {"x": x}, given, x.shape, out_type(bits), {"s": s})
        same(vendor, case)


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("axis", [None, 1])
def test_dequantize(vendor: VendorRuntime, axis: int | None, dtype: Any) -> None:
    random = np.random.default_rng(0)
    x = anything(random, dtype, 1, 12, 8, 10)
    attributes = {} if axis is None else {"axis": axis}
    for count in (1, 12):
        scale = {"s": np.abs(real(random, count))}
        same(vendor, Case("HzDequantize", {"x": x}, attributes, x.shape, TensorProto.FLOAT, scale))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7, 16, 64, 196])
def test_softmax_has_the_vendors_bits(vendor: VendorRuntime, count: int) -> None:
    x = real(np.random.default_rng(0), 1, 4, 20, count)
    same(vendor, Case("Softmax", {"x": x}, {"axis": 3}, x.shape, TensorProto.FLOAT, domain=""))


@pytest.mark.parametrize("operator", ["Neg", "Abs", "Relu", "Add", "Sub", "Mul", "Div", "Max", "Min", "ReduceMax"])
def test_float_operators(vendor: VendorRuntime, operator: str) -> None:
    random = np.random.default_rng(0)
    given = {"x": real(random, 1, 6, 7, 8)}
    shape: tuple[int, ...] = (1, 6, 7, 8)
    attributes: dict[str, Any] = {}
    constants = {}
    if operator == "ReduceMax":
        attributes, shape = {"axes": [2, 3], "keepdims": 0}, (1, 6)
    elif operator not in ("Neg", "Abs", "Relu"):
        constants = {"c": real(random, 6, 1, 1)}
    same(vendor, Case(operator, given, attributes, shape, TensorProto.FLOAT, constants, domain=""))


def test_an_unknown_operator_is_named() -> None:
    x = anything(np.random.default_rng(0), np.int8, *IMAGE)
    case = Case("HzGridSample", {"x": x}, {}, IMAGE)
    with pytest.raises(ModelFileError, match=r"HzGridSample 'the_node'.*does not know"):
        portable(case.model(), case.inputs)


def test_an_attribute_that_no_rule_reads_is_named() -> None:
    case = _requantize(np.random.default_rng(0))
    case = evolve(case, attributes=dict(case.attributes) | {"leak": 3})
    with pytest.raises(ModelFileError, match=r"HzRequantize 'the_node': attribute leak is not known"):
        portable(case.model(), case.inputs)


def _matmul(random: Random) -> Case:
    given = {"a": anything(random, np.int8, 9, 20), "b": anything(random, np.int8, 20, 7)}
    attributes = {"right_shift": [2], "scale": [30000], "out_shift": [23], "output_bit": 8}
    return Case("HzSQuantizedMatmul", given, attributes | {"rounding_method": "ROUND"}, (9, 7))


def _requantize(random: Random) -> Case:
    attributes = {"axis": 3, "bits": 8, "method": "Rescale", "output_scale": [20001], "output_right_shift": [15]}
    return Case("HzRequantize", {"x": anything(random, np.int8, *IMAGE)}, attributes, IMAGE)


def _sum(random: Random) -> Case:
    case = elementwise(random, "HzSElementwiseAdd", (np.int8, np.int8), 8, (IMAGE, IMAGE))
    settled = {"accu_right_shift": [9], "output_scale": [32671], "output_right_shift": [22]}
    return evolve(case, attributes=dict(case.attributes) | settled | {"x_shift": [16], "e_scale": [25531]})


@pytest.mark.parametrize(
    ("make", "attribute", "value"),
    [
        (_matmul, "rounding_method", "TRUNCATE"),
        (_requantize, "method", "Other"),
        (lambda random: convolution(random), "activation", "relu6"),
        (lambda random: lut2(random, "NONE", 16), "symmetry_mode", "X_SYMMETRIC"),
        (_sum, "output_bit", 32),
    ],
)
def test_an_unknown_attribute_is_named(make: Callable[[Random], Case], attribute: str, value: Any) -> None:
    case = make(np.random.default_rng(0))
    case = evolve(case, attributes=dict(case.attributes) | {attribute: value})
    with pytest.raises(ModelFileError, match=f"{case.operator} 'the_node'.*{attribute} is {value!r}"):
        portable(case.model(), case.inputs)


def _thin(random: Random) -> Case:
    case = convolution(random, outputs=1, biggest=1)
    return evolve(case, attributes=dict(case.attributes) | {"right_shift": [3], "scale": [30001], "out_shift": [19]})


@pytest.mark.parametrize(
    ("make", "attribute"),
    [
        (_matmul, "scale"),
        (_matmul, "right_shift"),
        (_requantize, "output_scale"),
        (_sum, "x_shift"),
        (_sum, "e_scale"),
        (_sum, "accu_right_shift"),
        (_sum, "output_right_shift"),
        (_thin, "scale"),
        (_thin, "right_shift"),
        (_thin, "out_shift"),
    ],
)
def test_a_wrong_number_is_caught(vendor: VendorRuntime, make: Callable[[Random], Case], attribute: str) -> None:
    case = make(np.random.default_rng(0))
    same(vendor, case)
    value = case.attributes[attribute][0]
    wrong = [value + (1 if "shift" in attribute else max(1, value // 100))]
    seen = portable(evolve(case, attributes=dict(case.attributes) | {attribute: wrong}).model(), case.inputs)
    wanted = vendor.run(case.model(), case.inputs)["y0"]
    assert (seen["y0"] != wanted).any()


def test_a_wrong_rounding_is_caught(vendor: VendorRuntime) -> None:
    case = _matmul(np.random.default_rng(0))
    other = evolve(case, attributes=dict(case.attributes) | {"rounding_method": "FLOOR"})
    wanted = vendor.run(case.model(), case.inputs)["y0"]
    assert (portable(other.model(), case.inputs)["y0"] != wanted).any()


def test_every_rule_has_a_test() -> None:
    """A rule that nothing here runs is not proved."""
    here = Path(__file__)
    text = here.read_text() + here.with_name("test_portable_rules.py").read_text()
    assert sorted(name for _, name in RULES if f'"{name}"' not in text) == []
