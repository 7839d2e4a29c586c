"""Pillow's antialiased resampling, bit for bit, in numpy and OpenCV, for the cropped part only.

torchvision and timm train and evaluate with it; OpenCV's own interpolations differ from it by 1 to 3 grey
levels on photographs, because none of them both antialiases and interpolates.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.specs.schema import Interpolation

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

# Pillow keeps the weights of a filter as integers of so many fractional bits (PRECISION_BITS = 32 - 8 - 2).
_FRACTION = 22
# Outputs sharing one small matrix product: fewer means more calls, more means more multiplications by zero.
_BLOCK = 16
# Columns of one product, so that a huge picture is never turned into floats as a whole.
_COLUMNS = 8192


def resample(
    rgb: Image, resized: tuple[int, int], window: tuple[int, int, int, int], interpolation: Interpolation
) -> Image:
    """Resize a picture and return a window of the result.

    Args:
        rgb: uint8, (height, width, channels).
        resized: (height, width) that the whole picture would get.
        window: (top, left, height, width) in the resized picture; must lie inside it.
        interpolation: Pillow's filter of that name; ``area`` and ``nearest`` are both BOX.

    Returns:
        uint8, (window height, window width, channels), C-contiguous.
    """
    top, left, rows, columns = window
    down = _filter(rgb.shape[0], resized[0], top, rows, interpolation)
    across = _filter(rgb.shape[1], resized[1], left, columns, interpolation)
    first, last = down[0].first, max(block.last for block in down)
    # Pillow filters along the rows first and rounds to 8 bits in between; so do we.
    lying = _filter_rows(_transpose(rgb[first:last]), across, 0)
    return _filter_rows(_transpose(lying), down, first)


@frozen(eq=False)
class _Block:
    """Some neighbouring outputs of a filter: ``matrix @ input[first:last]``."""

    first: int
    last: int
    matrix: Floats


@lru_cache(maxsize=64)
def _filter(
    size: int, resized: int, start: int, count: int, interpolation: Interpolation
) -> tuple[_Block, ...]:
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
    inside = taps < last[:, None]
    weights[~inside] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    fixed = np.trunc(weights * 2.0**_FRACTION + np.copysign(0.5, weights)) * 2.0**-_FRACTION
    blocks = []
    for at in range(0, count, _BLOCK):
        rows = slice(at, at + _BLOCK)
        low, high = int(first[rows].min()), int(last[rows].max())
        matrix = np.zeros((len(first[rows]), high - low))
        output, tap = np.nonzero(inside[rows])
        matrix[output, taps[rows][output, tap] - low] = fixed[rows][output, tap]
        matrix.setflags(write=False)
        blocks.append(_Block(low, high, matrix))
    return tuple(blocks)


def _filter_rows(image: Image, blocks: tuple[_Block, ...], offset: int) -> Image:
    """Filter along axis 0; ``image[0]`` is input number ``offset``.

    Weights are multiples of 2^-22 and pixels integers, so every sum is exact in float64: the result does not
    depend on the order of additions, and so not on the machine or its BLAS.
    """
    columns = image.shape[1] * image.shape[2]
    flat = image.reshape(image.shape[0], columns)
    count = sum(len(block.matrix) for block in blocks)
    out = np.empty((count, columns), np.uint8)
    at = 0
    for block in blocks:
        rows = slice(at, at + len(block.matrix))
        for left in range(0, columns, _COLUMNS):
            part = slice(left, left + _COLUMNS)
            pixels = flat[block.first - offset : block.last - offset, part]
            sums = block.matrix @ pixels.astype(np.float64)
            # OpenCV saturates and rounds halves to even; half a unit of the last bit makes that "halves up".
            out[rows, part] = cv2.addWeighted(sums, 1.0, sums, 0.0, 2.0 ** -(_FRACTION + 1), dtype=cv2.CV_8U)
        at = rows.stop
    return out.reshape(count, *image.shape[1:])


def _transpose(image: Image) -> Image:
    return np.asarray(cv2.transpose(image), np.uint8)


def _triangle(x: Floats) -> Floats:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: Floats) -> Floats:
    # Keys (1981), "Cubic convolution interpolation for digital image processing", with a = -0.5 as in Pillow.
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _box(x: Floats) -> Floats:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)
