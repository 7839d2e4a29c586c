"""From integers to scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge.errors import BackendError
from edge.runtime.quantization import channel_axis, dequantizer

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)
KINDS = st.sampled_from(["int8", "int16", "int32", "uint8"])


@given(st.data(), SHAPES, KINDS)
def test_the_rule_holds_on_every_axis(data: st.DataObject, shape: tuple[int, ...], kind: str) -> None:
    limits = np.iinfo(kind)
    values = data.draw(hnp.arrays(kind, shape, elements=st.integers(limits.min // 2, limits.max // 2)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    count = data.draw(st.sampled_from([1, shape[axis]]))
    scale = data.draw(hnp.arrays(np.float32, count, elements=st.floats(0.0009765625, 4, width=32)))
    zero = data.draw(hnp.arrays(np.int32, st.sampled_from([0, 1, count]), elements=st.integers(-100, 100)))
    got = dequantizer("y", shape, kind, scale=scale, zero_point=zero, axis=axis)(values.reshape(-1))
    wanted = np.moveaxis(values.astype(np.float64), axis, -1)
    wanted = np.moveaxis((wanted - (zero if zero.size else 0)) * scale.astype(np.float64), -1, axis)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_allclose(got, wanted, rtol=3e-7, atol=1e-30)


@given(hnp.arrays(np.float32, SHAPES, elements=st.floats(-1e6, 1e6, width=32)))
def test_floats_stay_whatever_the_scales_say(values: np.ndarray) -> None:
    got = dequantizer("y", values.shape, "float32", scale=[2.0])(values)
    np.testing.assert_array_equal(got, values)
    assert not np.shares_memory(got, values)


def test_scales_are_copied_from_the_runtimes_memory() -> None:
    scale = np.array([2.0], np.float32)
    rule = dequantizer("y", (2,), "int8", scale=scale)
    scale[0] = 99
    np.testing.assert_array_equal(rule(np.array([1, -3], np.int8)), [2, -6])


def test_a_uint8_below_its_zero_point_does_not_wrap() -> None:
    rule = dequantizer("y", (1,), "uint8", scale=[0.5], zero_point=[10])
    np.testing.assert_array_equal(rule(np.array([4], np.uint8)), [-3])


@pytest.mark.parametrize(
    ("shape", "scales", "zeros", "axis"),
    [((1, 3, 4), 4, 0, 1), ((1, 3, 4), 3, 2, 1), ((1, 3, 4), 3, 0, 5), ((1, 3, 4), 3, 0, -4)],
)
def test_scales_that_fit_no_axis(shape: tuple[int, ...], scales: int, zeros: int, axis: int) -> None:
    with pytest.raises(BackendError, match=f"on axis {axis}"):
        dequantizer("y", shape, "int8", scale=np.ones(scales), zero_point=np.ones(zeros), axis=axis)


def test_another_number_of_values() -> None:
    with pytest.raises(BackendError, match="'y' has 5 values"):
        dequantizer("y", (1, 4), "float32")(np.zeros(5, np.float32))


@pytest.mark.parametrize(
    ("shape", "layout", "scales", "axis"),
    [
        ((1, 2, 2, 8), "NHWC", 8, -1),
        ((1, 8, 2, 2), "NCHW", 8, 1),
        ((1, 8, 2, 2), "NONE", 8, 1),
        ((1, 8, 8, 8), "NONE", 1, -1),
    ],
)
def test_the_axis_of_the_channels(shape: tuple[int, ...], layout: str, scales: int, axis: int) -> None:
    assert channel_axis("y", shape, layout, scales) == axis


@pytest.mark.parametrize("shape", [(1, 8, 8, 2), (1, 2, 2, 2)])
def test_an_axis_that_is_not_known(shape: tuple[int, ...]) -> None:
    with pytest.raises(BackendError, match="their axis is not known"):
        channel_axis("y", shape, "UNKNOWN", 8)
