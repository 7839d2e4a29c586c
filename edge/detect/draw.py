"""Draw boxes with their classes' names on an image, with OpenCV alone."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.detect.decode import Boxes

Image = NDArray[np.uint8]

FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK = (255, 255, 255)
_GOLDEN = 0.618034  # of the circle of hues, between a class and the next: neighbours look different


def draw(rgb: Image, boxes: Boxes, labels: Sequence[str] | None) -> Image:
    """Return the image with boxes drawn on it, the best on top, each with class and score.

    Args:
        rgb: uint8, (height, width, 3), RGB; it is left as it is.
        boxes: in pixels of this image.
        labels: class names in index order; None shows the index.
    """
    canvas = np.ascontiguousarray(rgb).copy()
    height, width = canvas.shape[:2]
    thick = max(1, round(min(height, width) / 300))
    scale = max(0.4, min(height, width) / 1000)
    limits = np.asarray([width, height, width, height], np.float32)
    for box, score, label in zip(boxes.boxes[::-1], boxes.scores[::-1], boxes.labels[::-1], strict=True):
        if not np.isfinite(box).all():
            continue
        left, top, right, bottom = (int(side) for side in np.clip(box, -limits, 2 * limits).round())
        color = _color(int(label))
        cv2.rectangle(canvas, (left, top), (right, bottom), color, thick)
        name = str(label) if labels is None or label >= len(labels) else ascii_only(labels[label])
        _caption(canvas, f"{name} {score:.2f}", (left, top), color, scale, thick)
    return canvas


def ascii_only(text: str) -> str:
    """Return text as OpenCV can draw it: accents are left out, other letters become ``?``."""
    plain = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(plain).encode("ascii", "replace").decode()


def _caption(
    canvas: Image, text: str, corner: tuple[int, int], color: tuple[int, int, int], scale: float, thick: int
) -> None:
    """Write above a box's corner, or below it at the image's edge."""
    (wide, high), under = cv2.getTextSize(text, FONT, scale, thick)
    left = max(0, min(corner[0], canvas.shape[1] - wide))
    top = corner[1] - high - under
    top = max(0, corner[1]) if top < 0 else top
    cv2.rectangle(canvas, (left, top), (left + wide, top + high + under), color, cv2.FILLED)
    cv2.putText(canvas, text, (left, top + high + under // 2), FONT, scale, _INK, thick, cv2.LINE_AA)


def _color(label: int) -> tuple[int, int, int]:
    """Return a class's colour, RGB: dark enough for white text."""
    hue = np.asarray([[[int(180 * (label * _GOLDEN % 1)), 210, 170]]], np.uint8)
    red, green, blue = (int(value) for value in cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0])
    return red, green, blue
