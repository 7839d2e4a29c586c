"""Boxes of float and of the program side by side, for the images that changed most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.accuracy.table import Box, ChangedImage
from edge.detect import Boxes, draw
from edge.errors import ImageError, counted
from edge.images import ImageItem
from edge.report.contents import BoxesShown, Thumbnail
from edge.report.thumbnails import data_uri

SHOWN = 6  # images; two copies of each are embedded
SIDE = 480  # pixels of the longer side: captions of boxes stay readable
_KEPT = (170, 170, 170)  # of boxes that both have

Image = NDArray[np.uint8]


def boxes_shown(changed: Iterable[ChangedImage], names: Sequence[str]) -> tuple[BoxesShown, ...]:
    """Return images with float's boxes and the program's drawn on them, those with a caption that differ.

    Args:
        names: of the classes; empty if unknown.
    """
    return tuple(_shown(one, names) for one in list(changed)[:SHOWN])


def _shown(one: ChangedImage, names: Sequence[str]) -> BoxesShown:
    lost, gained = (
        tuple(f"{_named(boxes[place][5], names)} {boxes[place][4]:.2f}" for place in places)
        for boxes, places in ((one.like, one.lost), (one.boxes, one.gained))
    )
    load = partial(_small, ImageItem(one.image, path=Path(one.path or one.image)))
    sides = []
    for who, boxes, places, what in (
        ("float", one.like, one.lost, f"the program loses {', '.join(lost) or 'none'}"),
        ("program", one.boxes, one.gained, f"float does not have {', '.join(gained) or 'none'}"),
    ):
        alt = f"{one.image}: {counted(len(boxes), 'box')} of {who}, of which {what}"
        try:
            rgb, scale = load()
            image, width, height = data_uri(_drawn(rgb, scale, boxes, places, names), SIDE)
            sides.append(Thumbnail(one.image, alt, image, width=width, height=height))
        except ImageError as error:
            sides.append(Thumbnail(one.image, alt, why_not=error.seen))
    return BoxesShown(sides[0], sides[1], lost, gained)


def _small(item: ImageItem) -> tuple[Image, float]:
    """Return the image, small, and its scale; boxes are drawn afterwards, so that lines stay sharp."""
    rgb = item.load()
    scale = min(1.0, SIDE / max(rgb.shape[:2]))
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    return (np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8) if scale < 1 else rgb), scale


def _drawn(rgb: Image, scale: float, boxes: Sequence[Box], differ: Sequence[int], names: Sequence[str]) -> Image:
    canvas = np.ascontiguousarray(rgb).copy()
    for place, (*corners, _, _) in enumerate(boxes):
        if place not in differ:
            left, top, right, bottom = (round(value * scale) for value in corners)
            cv2.rectangle(canvas, (left, top), (right, bottom), _KEPT, 1)
    those = np.array([boxes[place] for place in differ], np.float32).reshape(-1, 6)
    found = Boxes(those[:, :4] * np.float32(scale), those[:, 4], those[:, 5].astype(np.int64))
    return draw(canvas, found, names or None)


def _named(label: int, names: Sequence[str]) -> str:
    return names[label] if 0 <= label < len(names) else f"class {label}"
