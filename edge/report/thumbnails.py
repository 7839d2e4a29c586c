"""Images as the network sees them, small and embedded: cropped, through NV12, back to RGB, as JPEG."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.accuracy.table import Mistake
from edge.errors import CalibrationError, ImageError
from edge.images import ImageItem
from edge.images.items import Split
from edge.images.preprocess import calibration_image, nv12_to_yuv444, resize_crop, rgb_to_nv12, yuv444_to_rgb_float
from edge.report.contents import MistakeShown, Thumbnail
from edge.specs import Preprocess

SIDE = 224  # pixels of the longer side: sharp at the size of a thumbnail on a phone
QUALITY = 82
_DEMO = re.compile(r"(calibration|test)/(\d+)")
_SEED = re.compile(r"\bseed (\d+)\b")


def behind_nv12(canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image as it comes out of NV12: RGB, uint8, (H, W, 3), clipped to 0..255 for the eye only."""
    yuv = nv12_to_yuv444(rgb_to_nv12(canvas), canvas.shape[:2])
    return np.clip(np.rint(yuv444_to_rgb_float(yuv)), 0, 255).astype(np.uint8)


def data_uri(rgb: NDArray[np.uint8]) -> tuple[str, int, int]:
    """Return a JPEG as ``data:`` URI, and its width and height, at most ``SIDE`` pixels long."""
    scale = SIDE / max(rgb.shape[:2])
    if scale < 1:
        size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    done, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ImageError("an image that OpenCV can't encode as JPEG")
    text = base64.b64encode(data.tobytes()).decode("ascii")
    return f"data:image/jpeg;base64,{text}", rgb.shape[1], rgb.shape[0]


def calibration_images(files: Sequence[tuple[str, Path]], preprocess: Preprocess, count: int) -> tuple[Thumbnail, ...]:
    """Return images of a calibration set, evenly spread over it.

    Args:
        files: (name, raw float32 file) as ``edge.images.calibrate`` writes them.
        preprocess: of the network: size, channel order and layout of the files.
    """
    step = max(1.0, len(files) / count)
    chosen = [files[int(index * step)] for index in range(min(count, len(files)))]
    return tuple(
        _thumbnail(
            name,
            f"calibration image {name}, as the network sees it behind NV12",
            preprocess.crop,
            partial(calibration_image, path, preprocess),
        )
        for name, path in chosen
    )


def mistakes_shown(
    mistakes: Iterable[Mistake], dataset: str, names: Sequence[str], preprocess: Preprocess
) -> tuple[MistakeShown, ...]:
    """Return mistakes with their images and the names of the classes.

    Args:
        dataset: its description, which tells the seed of rendered images.
        names: of the classes; empty if unknown.
        preprocess: of the network.
    """

    def named(index: int | None) -> str:
        if index is None:
            return "unknown"
        return names[index] if 0 <= index < len(names) else f"class {index}"

    shown = []
    for mistake in mistakes:
        label, right, wrong = named(mistake.label), named(mistake.float_answer), named(mistake.answer)
        truth = "" if mistake.label is None else f", an image of {label}"
        alt = f"{mistake.image}{truth}: float says {right}, quantized says {wrong}"
        image = _thumbnail(mistake.image, alt, preprocess.crop, partial(_canvas, mistake, dataset, preprocess))
        shown.append(MistakeShown(image, label, right, mistake.float_probability, wrong, mistake.probability))
    return tuple(shown)


def _canvas(mistake: Mistake, dataset: str, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return the image as the program takes it: from its file, or rendered with the seed that the set names."""
    demo = _DEMO.fullmatch(mistake.image)
    if mistake.path is None and demo is not None and dataset.startswith("demo:"):
        seed = _SEED.findall(dataset)
        drawn = (cast("Split", demo[1]), int(demo[2]), int(seed[-1]) if seed else 0)
        item = ImageItem(mistake.image, mistake.label, demo=drawn)
    else:
        item = ImageItem(mistake.image, mistake.label, path=Path(mistake.path or mistake.image))
    return resize_crop(item.load(), preprocess)


def _thumbnail(name: str, alt: str, own: tuple[int, int], canvas: Callable[[], NDArray[np.uint8]]) -> Thumbnail:
    try:
        image, width, height = data_uri(behind_nv12(canvas())[: own[0], : own[1]])
    except (CalibrationError, ImageError) as error:
        return Thumbnail(name, alt, why_not=error.seen)
    return Thumbnail(name, alt, image, width=width, height=height)
