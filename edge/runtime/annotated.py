"""Draw a classifier's answer under its image, with OpenCV alone: Jupyter on the board needs no more."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.detect.draw import FONT, ascii_only
from edge.errors import ImageError, UsageError
from edge.files import disk_errors, require_ours

Image = NDArray[np.uint8]

MARK = "made by edge run"  # behind the image's end, where no reader looks
FORMATS = (".png", ".jpg", ".jpeg")
SHORTEST, LONGEST = 448, 960  # pixels of the drawn image's longer side
NARROWEST = 360  # pixels that a row of text needs
ROW, MARGIN = 30, 10  # pixels
SCALE = 0.5
PAPER, INK, BAR = (250, 250, 250), (25, 25, 25), (176, 208, 240)  # RGB


def annotate(rgb: Image, ranked: Sequence[tuple[str, float]], *, bars: bool = True) -> Image:
    """Return the image with a row a class below it: label, probability and a bar of its length.

    Nothing is drawn on the image itself; it is only resized for display.

    Args:
        rgb: uint8, (height, width, 3), RGB.
        ranked: (label, probability in 0..1), best first, as ``Net.classify`` gives it. OpenCV draws ASCII
            only: accents are left out, other letters become ``?``.
        bars: False where the values are scores of unknown kind, shown as they are.

    Returns:
        uint8, (height, width, 3), RGB.
    """
    shown = _sized(rgb)
    height, width = shown.shape[:2]
    across = max(width, NARROWEST)
    canvas = np.full((height + ROW * len(ranked), across, 3), PAPER, np.uint8)
    left = (across - width) // 2
    canvas[:height, left : left + width] = shown
    for index, (label, probability) in enumerate(ranked):
        _row(canvas, height + ROW * index, label, probability, bar=bars)
    return canvas


def png(rgb: Image) -> bytes:
    """Return an image (uint8, RGB) as the bytes of a PNG file, for ``IPython.display.Image``."""
    return _encode(rgb, ".png")


def save_image(path: Path, rgb: Image) -> None:
    """Write an image (uint8, RGB) whole or not at all; the name's ending says the format: see ``check_format``.

    Raises:
        WorkspaceError: a file of that name is there that was not written by this function.
    """
    check_format(path)
    require_ours(path, MARK)
    data = _encode(rgb, path.suffix.lower()) + MARK.encode()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path.parent):
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def check_format(path: Path) -> None:
    """Raise UsageError for a name that :func:`save_image` can't write: its suffix is not in ``FORMATS``."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path} has no suffix of an image", expected="a name ending in " + ", ".join(FORMATS))


def _encode(rgb: Image, ending: str) -> bytes:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ImageError(f"an array of {rgb.dtype} {rgb.shape}", expected="uint8 (height, width, 3), RGB")
    done, data = cv2.imencode(ending, np.ascontiguousarray(rgb[..., ::-1]))
    if not done:
        raise ImageError(f"OpenCV can't write {ending}", remedy="choose a name ending in .png")
    return data.tobytes()


def _sized(rgb: Image) -> Image:
    longer = max(rgb.shape[:2])
    factor = min(max(longer, SHORTEST), LONGEST) / longer
    if factor == 1:
        return rgb
    height, width = (max(1, round(side * factor)) for side in rgb.shape[:2])
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=how), np.uint8)


def _row(canvas: Image, top: int, label: str, value: float, *, bar: bool) -> None:
    width = canvas.shape[1]
    if bar:
        canvas[top + 2 : top + ROW - 2, : round(width * value)] = BAR
    share = f"{100 * value:.1f} %" if bar else f"{value:.4g}"
    right = width - MARGIN - _width(share)
    base = top + ROW // 2 + 5
    _write(canvas, _fitted(ascii_only(label), right - 2 * MARGIN), (MARGIN, base))
    _write(canvas, share, (right, base))


def _write(canvas: Image, text: str, origin: tuple[int, int]) -> None:
    cv2.putText(canvas, text, origin, FONT, SCALE, INK, 1, cv2.LINE_AA)


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, FONT, SCALE, 1)[0][0])


def _fitted(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while text and _width(text + "...") > width:
        text = text[:-1]
    return text.rstrip(" ,") + "..."
