"""Pillow's antialiased resampling, bit for bit, in numpy and OpenCV, for the cropped part only.

torchvision and timm train and evaluate with it; OpenCV's own interpolations differ from it by 1 to 3 grey
levels on photographs, because none of them both antialiases and interpolates.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import Any

import cv2
import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.specs.schema import Interpolation

Image = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

# Pillow keeps the weights of a filter as integers with this many fractional bits (PRECISION_BITS = 32 - 8 - 2).
_FRACTION = 22
# Inputs, outputs of one small matrix product: fewer means more calls, more means more multiplications by 0.
_BLOCK_INPUTS, _BLOCK_OUTPUTS = 16, (4, 10)
# Values turned into floats at a time, so that a huge image is never converted as a whole.
_VALUES = 1 << 20
# With fewer different sets of weights, their denominators are small, and many sums are exact halves.
_PHASES = 64
# Values close to a rounding boundary that are recomputed at a time; a photograph has about a hundred.
_RECOMPUTED = 4096


def resample(
    rgb: Image, resized: tuple[int, int], window: tuple[int, int, int, int], interpolation: Interpolation
) -> Image:
    """Resize an image and return a window of the result.

    Args:
        rgb: uint8, (height, width, channels).
        resized: (height, width) that the whole image would get.
        window: (top, left, height, width) in the resized image; must lie inside it.
        interpolation: Pillow's filter of that name; ``area`` and ``nearest`` are both BOX.

    Returns:
        uint8, (window height, window width, channels), C-contiguous.
    """
    top, left, rows, columns = window
    down = _filter(rgb.shape[0], resized[0], top, rows, interpolation)
    across = _filter(rgb.shape[1], resized[1], left, columns, interpolation)
    used = rgb[down.first : down.last, across.first : across.last]
    # Pillow filters along the rows first and rounds to 8 bits in between; so do we.
    return _filter_rows(_transpose(_filter_rows(_transpose(used), across)), down)


@frozen(eq=False)
class _Filter:
    """The weights of some neighbouring outputs; inputs are counted from the first one that any of them uses.

    ``blocks`` holds them as small matrices, each with the slices of its outputs and inputs, in float64 where
    every sum is exact, or in float32, where a sum is off by less than ``error`` grey levels.
    """

    first: int
    last: int
    taps: Integers  # (outputs, most taps of one): which inputs
    weights: Integers  # the same shape: in units of 2^-22; 0 where an output has fewer taps
    blocks: tuple[tuple[slice, slice, Floats], ...]
    negative: bool
    error: float

    @property
    def dtype(self) -> type[np.floating[Any]]:
        return np.float32 if self.error else np.float64


@lru_cache(maxsize=64)
def _filter(size: int, resized: int, start: int, count: int, interpolation: Interpolation) -> _Filter:
    """Return the weights for outputs ``start:start+count`` of a side resized from ``size`` to ``resized``.

    Pillow's rule: an output's centre lies at (i + 0.5) * scale of the input; the kernel is stretched by the
    scale when shrinking; weights are normalized, then rounded to integers of 22 fractional bits.
    """
    kernel, support = {
        "bilinear": (_triangle, 1.0),
        "bicubic": (_cubic, 2.0),
        "area": (_box, 0.5),
        "nearest": (_box, 0.5),
    }[interpolation]
    scale = size / resized
    stretch = max(scale, 1.0)
    center = (np.arange(start, start + count) + 0.5) * scale
    first = np.maximum((center - support * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((center + support * stretch + 0.5).astype(np.int64), size)
    taps = first[:, None] + np.arange((last - first).max())
    weights = kernel((taps - center[:, None] + 0.5) * (1.0 / stretch))
    weights[taps >= last[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    fixed = np.trunc(weights * 2.0**_FRACTION + np.copysign(0.5, weights)).astype(np.int64)
    low, high = int(first.min()), int(last.max())
    taps = np.minimum(taps, high - 1) - low
    exact = interpolation in ("area", "nearest") or resized // gcd(size, resized) < _PHASES
    fewest, most = _BLOCK_OUTPUTS
    step = min(max(int(_BLOCK_INPUTS / scale), fewest), most)
    blocks = []
    for at in range(0, count, step):
        rows = slice(at, min(at + step, count))
        inputs = slice(int(first[rows].min()) - low, int(last[rows].max()) - low)
        matrix = np.zeros((rows.stop - at, inputs.stop - inputs.start), np.float64 if exact else np.float32)
        output, tap = np.nonzero(fixed[rows])
        matrix[output, taps[rows][output, tap] - inputs.start] = fixed[rows][output, tap] * 2.0**-_FRACTION
        blocks.append((rows, inputs, matrix))
    error = 0.0 if exact else _float32_error(fixed)
    for array in (taps, fixed, *(matrix for _, _, matrix in blocks)):
        array.setflags(write=False)
    return _Filter(low, high, taps, fixed, tuple(blocks), bool((fixed < 0).any()), error)


def _float32_error(weights: Integers) -> float:
    """Bound how far a float32 sum of weighted pixels lies from the exact one, whatever its order.

    Weights and pixels are exact in float32. So n products and their sum are off by at most n u / (1 - n u)
    times the sum of their magnitudes, u = 2^-24, with fused multiplications or without (Higham, "Accuracy and
    Stability of Numerical Algorithms", 3.1); zeros add no error. This takes twice that, and 2^-16 for the
    addition of the bound itself.
    """
    share = weights.shape[1] * 2.0**-24
    magnitude = 255 * float(np.abs(weights).sum(axis=1).max()) * 2.0**-_FRACTION
    return float(2 * share / (1 - share) * magnitude + 2.0**-16)


def _filter_rows(image: Image, by: _Filter) -> Image:
    """Filter (inputs, ...) along axis 0; return (outputs, ...)."""
    flat = image.reshape(len(image), -1)
    out = np.empty((len(by.taps), flat.shape[1]), np.uint8)
    step = max(_VALUES // len(flat), 1)
    for left in range(0, flat.shape[1], step):
        part = flat[:, left : left + step]
        floats = part.astype(by.dtype)
        sums = np.empty((len(out), part.shape[1]), by.dtype)
        for outputs, inputs, matrix in by.blocks:
            np.matmul(matrix, floats[inputs], out=sums[outputs])
        if by.error:
            out[:, left : left + step] = _round_float32(sums, part, by)
        else:
            # OpenCV saturates and rounds halves to even; half a unit of the last bit makes that "halves up".
            half = 2.0 ** -(_FRACTION + 1)
            out[:, left : left + step] = cv2.addWeighted(sums, 1.0, sums, 0.0, half, dtype=cv2.CV_8U)
    return out.reshape(len(out), *image.shape[1:])


def _round_float32(sums: Floats, pixels: Image, by: _Filter) -> Image:
    """Round to 8 bits; recompute in integers, as Pillow does, the values that the error may have changed."""
    if by.negative:
        # convertScaleAbs, OpenCV's fastest rounding, takes the magnitude.
        cv2.threshold(sums, 0.0, 0.0, cv2.THRESH_TOZERO, dst=sums)
    out = np.asarray(cv2.convertScaleAbs(sums, alpha=1.0, beta=by.error), np.uint8)
    doubtful = np.flatnonzero(out != cv2.convertScaleAbs(sums, alpha=1.0, beta=-by.error))
    for at in range(0, len(doubtful), _RECOMPUTED):
        row, column = np.divmod(doubtful[at : at + _RECOMPUTED], sums.shape[1])
        exact = (pixels[by.taps[row], column[:, None]] * by.weights[row]).sum(axis=1)
        out[row, column] = np.clip((exact + (1 << (_FRACTION - 1))) >> _FRACTION, 0, 255)
    return out


def _transpose(image: Image) -> Image:
    return np.asarray(cv2.transpose(image), np.uint8)


def _triangle(x: Doubles) -> Doubles:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: Doubles) -> Doubles:
    # Keys (1981), "Cubic convolution interpolation for digital image processing", with a = -0.5 as in Pillow.
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _box(x: Doubles) -> Doubles:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)
