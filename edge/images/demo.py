"""Draw the demo's labelled images, the same bytes on every machine.

A class is a shape, a colour and a stripe width, chosen so that a wrong input path costs Top-1:

- red and blue, orange and azure mirror each other: swapped channels turn one class into another;
- black and charcoal differ by 18 levels: video-range NV12 read as full range lifts one into the other;
- the stripe widths differ by a quarter: at a wrong scale, wide stripes look narrow;
- the outer 13 pixels, which the right crop (shorter side to 256, centre 224) removes, show another class.

Some colours and stripe widths overlap on purpose, so no network reaches 100 %.

Only raw PCG64 words (whose stream numpy guarantees) and integer arithmetic are used, so neither the numpy nor
the OpenCV version changes a byte. A change here needs ``scripts/train_demo.py`` run again.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge.errors import UsageError

Split = Literal["train", "calibration", "test"]

SIDE = 224
SHAPES = ("disc", "square", "triangle", "ring")
COLORS = ("red", "blue", "orange", "azure", "black", "charcoal")
STRIPES = ("narrow", "wide")
CLASSES: tuple[str, ...] = tuple(f"{c} {t} {s}" for s in SHAPES for c in COLORS for t in STRIPES)

_FRAME = 13  # one pixel less than the crop removes, so that bicubic resampling drags nothing inside
_RGB = {
    "red": (212, 36, 44),
    "blue": (44, 36, 212),
    "orange": (224, 128, 36),
    "azure": (36, 128, 224),
    "black": (7, 7, 7),
    "charcoal": (27, 27, 27),
}
_NEIGHBOUR = {
    "red": "orange",
    "orange": "red",
    "blue": "azure",
    "azure": "blue",
    "black": "charcoal",
    "charcoal": "black",
}
_GREEN_SD = 20  # of red, blue, orange and azure, whose greens lie 92 apart
_DARK_SD = 4  # of black and charcoal, 20 apart
_PERIOD = {"narrow": 9 * 64, "wide": 9 * 64 * 5 // 4}  # 1/64 px
_PERIOD_SD_PERMILLE = 50  # the two periods lie a factor 1.25 apart
_STEP = 29  # coprime to the number of classes: each run of 48 indices shows every class once

_Ints = NDArray[np.int32]
_Color = tuple[int, int, int]


class _Draws:
    """Integers from one raw random stream."""

    def __init__(self, key: list[int]) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def below(self, low: int, high: int) -> int:
        """Return an integer in low..high-1."""
        return low + ((int(self._bits.random_raw()) >> 32) * (high - low) >> 32)

    def bell(self, sd: int) -> int:
        """Return a bell-shaped integer about 0: four uniforms summed, never beyond 3.47 ``sd``."""
        word = int(self._bits.random_raw())
        total = sum((word >> shift) & 0xFFFF for shift in (0, 16, 32, 48)) - 2 * 0xFFFF
        return round(total * sd / 37837)  # 37837 = 65536 * sqrt(4 / 12), the sum's deviation

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """Return ``count`` uniform bytes, in little-endian order on every machine."""
        words = np.asarray(self._bits.random_raw((count + 7) // 8), dtype="<u8")
        return words.view(np.uint8)[:count]


def draw(split: Split, index: int, seed: int = 0) -> tuple[NDArray[np.uint8], int]:
    """Draw one labelled image.

    Args:
        split: ``train``, ``calibration`` or ``test``; they share no random stream.
        index: which image, 0 or more. Any 48 consecutive ones show every class once.
        seed: another seed gives other images of the same classes; the demo weights were trained with 0.

    Returns:
        RGB uint8 (224, 224, 3), and the index of its class in ``CLASSES``.

    Raises:
        UsageError: an unknown split, or a negative index or seed.
    """
    drawn = label(split, index, seed)
    color, stripes, shape = CLASSES[drawn].split()
    draws = _Draws([seed, get_args(Split).index(split), index])

    canvas = _background(draws)
    for _ in range(draws.below(3, 6)):
        _stamp(canvas, draws, draws.below(5, 9), SHAPES[draws.below(0, 4)], _tint(draws, _any_color(draws)))
    _subject(canvas, draws, shape, color, stripes)
    for _ in range(draws.below(0, 3)):
        _bar(canvas, draws)
    _frame(canvas, draws, _NEIGHBOUR[color], "wide" if stripes == "narrow" else "narrow")
    return _expose(canvas, draws), drawn


def label(split: Split, index: int, seed: int = 0) -> int:
    """Return the class that `image` draws, without drawing it; same arguments and errors."""
    if split not in get_args(Split):
        raise UsageError(f"split {split!r}", expected=", ".join(get_args(Split)))
    if index < 0 or seed < 0:
        raise UsageError(f"index {index}, seed {seed}", expected="0 or more")
    return index * _STEP % len(CLASSES)


def _any_color(draws: _Draws) -> str:
    return COLORS[draws.below(0, len(COLORS))]


def _tint(draws: _Draws, name: str) -> _Color:
    """Return the named colour with its class's jitter."""
    red, green, blue = _RGB[name]
    if red == blue:
        level = max(0, red + draws.bell(_DARK_SD))
        return level, level, level
    shift = draws.bell(8)
    return (
        min(255, max(0, red + shift)),
        min(255, max(0, green + draws.bell(_GREEN_SD))),
        min(255, max(0, blue + shift)),
    )


def _muted(draws: _Draws) -> _Color:
    grey = draws.below(80, 190)
    return grey + draws.below(-28, 29), grey + draws.below(-28, 29), grey + draws.below(-28, 29)


def _turn(degrees: int) -> tuple[int, int]:
    """Return cosine and sine in 1/4096."""
    angle = math.radians(degrees)
    return round(4096 * math.cos(angle)), round(4096 * math.sin(angle))


def _grid(x: int, y: int, reach: int) -> tuple[_Ints, _Ints, tuple[slice, slice]]:
    """Return coordinates about (x, y), of the pixels of the canvas up to ``reach`` away."""
    rows = slice(max(0, y - reach), min(SIDE, y + reach + 1))
    columns = slice(max(0, x - reach), min(SIDE, x + reach + 1))
    v, u = np.ogrid[rows, columns]
    return (u - x).astype(np.int32), (v - y).astype(np.int32), (rows, columns)


def _inside(shape: str, u: _Ints, v: _Ints, radius: int, hole: int) -> NDArray[np.bool_]:
    """Return where (u, v), in 1/4096 px, lies in the shape.

    The four shapes of one radius are of similar area. ``hole`` is the ring's inner radius, in px.
    """
    if shape == "square":
        half = radius * 3600  # 0.88 of the radius: the disc's area
        return (abs(u) <= half) & (abs(v) <= half)
    if shape == "triangle":
        half = radius * 2867  # the inner circle's radius: 0.7 of the radius; 887 / 1024 is sin 60 degrees
        return (v <= half) & (abs(u) * 887 // 1024 - v // 2 <= half)
    square = (u >> 8) ** 2 + (v >> 8) ** 2
    disc: NDArray[np.bool_] = square <= (radius * 16) ** 2
    return disc & (square >= (hole * 16) ** 2) if shape == "ring" else disc


def _stripes(u: _Ints, v: _Ints, degrees: int, period: int) -> _Ints:
    """Return the share of the first paint, 0..256, of stripes across ``degrees``; period in 1/64 px."""
    cosine, sine = _turn(degrees)
    phase = (4 * (cosine * u + sine * v) // period) & 255
    share: _Ints = np.clip((abs(phase - 128) - 64) * 6 + 128, 0, 256)
    return share


def _mix(share: _Ints, first: _Color, second: _Color) -> _Ints:
    a, b = np.array(first, np.int32), np.array(second, np.int32)
    mixed: _Ints = (share[..., None] * (a - b) + 256 * b) >> 8
    return mixed


def _background(draws: _Draws) -> _Ints:
    """Return a gradient strewn with muted shapes, half of them striped."""
    u, v, _ = _grid(SIDE // 2, SIDE // 2, SIDE)
    cosine, sine = _turn(draws.below(0, 360))
    slope = np.clip(128 + (cosine * u + sine * v) // 4096, 0, 256)
    canvas = _mix(slope, _muted(draws), _muted(draws))
    for _ in range(draws.below(6, 11)):
        _stamp(canvas, draws, draws.below(8, 30), SHAPES[draws.below(0, 4)], _muted(draws))
    return canvas


def _stamp(canvas: _Ints, draws: _Draws, radius: int, shape: str, paint: _Color) -> None:
    u, v, where = _grid(draws.below(0, SIDE), draws.below(0, SIDE), radius * 3 // 2)
    cosine, sine = _turn(draws.below(0, 360))
    mask = _inside(shape, cosine * u + sine * v, cosine * v - sine * u, radius, radius // 2)
    share = (
        _stripes(u, v, draws.below(0, 180), draws.below(5, 17) * 64)
        if draws.below(0, 2)
        else np.full(mask.shape, 256, np.int32)
    )
    canvas[where][mask] = _mix(share[mask], paint, _muted(draws))


def _period(draws: _Draws, stripes: str) -> int:
    base = _PERIOD[stripes]
    return base + base * draws.bell(_PERIOD_SD_PERMILLE) // 1000


def _subject(canvas: _Ints, draws: _Draws, shape: str, color: str, stripes: str) -> None:
    """Draw what the label names: 32..40 px in radius, up to 10 px off the centre."""
    radius = draws.below(32, 41)
    middle = SIDE // 2
    u, v, where = _grid(middle + draws.below(-10, 11), middle + draws.below(-10, 11), radius * 3 // 2)
    cosine, sine = _turn(draws.below(-25, 26))
    hole = radius * draws.below(40, 56) // 100
    mask = _inside(shape, cosine * u + sine * v, cosine * v - sine * u, radius, hole)
    grey = draws.below(125, 206)
    share = _stripes(u, v, draws.below(60, 121), _period(draws, stripes))
    canvas[where][mask] = _mix(share[mask], _tint(draws, color), (grey, grey, grey))


def _bar(canvas: _Ints, draws: _Draws) -> None:
    """Draw a thin bar that hides a part of the subject."""
    middle = SIDE // 2
    u, v, where = _grid(middle + draws.below(-45, 46), middle + draws.below(-45, 46), 70)
    cosine, sine = _turn(draws.below(0, 180))
    mask = abs(cosine * u + sine * v) <= draws.below(2, 5) * 4096
    canvas[where][mask] = _muted(draws)


def _frame(canvas: _Ints, draws: _Draws, color: str, stripes: str) -> None:
    """Draw another class's paint where the right crop never looks."""
    u, v, _ = _grid(0, 0, SIDE)
    share = _stripes(u, v, draws.below(30, 60), _period(draws, stripes))
    mask = np.ones((SIDE, SIDE), np.bool_)
    mask[_FRAME:-_FRAME, _FRAME:-_FRAME] = False
    grey = draws.below(125, 206)
    canvas[mask] = _mix(share[mask], _tint(draws, color), (grey, grey, grey))


def _expose(canvas: _Ints, draws: _Draws) -> NDArray[np.uint8]:
    """Soften edges with (1, 2, 1) / 4 both ways and add noise."""
    soft = np.pad(canvas, ((1, 1), (1, 1), (0, 0)), mode="edge")
    soft = soft[:-2] + 2 * soft[1:-1] + soft[2:]
    soft = (soft[:, :-2] + 2 * soft[:, 1:-1] + soft[:, 2:] + 8) >> 4
    grain = draws.bytes(SIDE * SIDE * 3).astype(np.int32).reshape(SIDE, SIDE, 3)
    noise = ((grain & 15) + (grain >> 4) - 15) * draws.below(6, 25) >> 4
    return np.clip(soft + noise, 0, 255).astype(np.uint8)
