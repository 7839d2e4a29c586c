"""The images of a diagnosis: cropped once, and the work on them spread over threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from attrs import frozen

from edge.errors import ImageError, InputError, counted
from edge.images import ImageItem, ImageSet
from edge.images.preprocess import Image, nv12_to_yuv444, resize_crop, rgb_to_nv12
from edge.progress import Reporter
from edge.specs import Preprocess

T = TypeVar("T")
R = TypeVar("R")


@frozen(eq=False)
class Frame:
    """An image as the network's input sees it."""

    name: str  #: in its set.
    label: int | None  #: class index; None if unknown.
    rgb: Image  #: uint8, (H, W, 3), cropped.
    size: tuple[int, int] = (0, 0)  #: (height, width) of the image in its file; (0, 0) if unknown.
    item: ImageItem | None = None  #: where it comes from, to crop it otherwise; None if that is gone.

    @property
    def nv12(self) -> Image:
        """Packed full-range NV12, uint8, H * W * 3 / 2."""
        return rgb_to_nv12(self.rgb)

    @property
    def yuv444(self) -> Image:
        """What the preprocess node gets, uint8, (H, W, 3)."""
        return nv12_to_yuv444(self.nv12, (self.rgb.shape[0], self.rgb.shape[1]))


def load_frames(
    images: ImageSet, preprocess: Preprocess, reporter: Reporter
) -> tuple[tuple[Frame, ...], tuple[str, ...]]:
    """Return the images of a set, and the names of those that can't be read.

    Raises:
        InputError: none can be read.
    """

    def load(item: ImageItem) -> Frame | str:
        try:
            image = item.load()
            return Frame(item.name, item.label, resize_crop(image, preprocess), (image.shape[0], image.shape[1]))
        except ImageError:
            return item.name

    found = spread(load, list(images))
    unreadable = tuple(item for item in found if isinstance(item, str))
    for name in unreadable:
        reporter.warn(f"{name} can't be read and is left out")
    frames = tuple(item for item in found if isinstance(item, Frame))
    if not frames:
        raise InputError(
            f"none of the {counted(len(images), 'image')} of {images.description} could be read",
            expected="JPEG, PNG, BMP, WebP, TIFF or PPM",
        )
    return frames, unreadable


def spread(work: Callable[[T], R], items: Sequence[T], done: Callable[[int], None] | None = None) -> list[R]:
    """Map in threads, results in order; onnxruntime and numpy release the interpreter's lock."""
    return list(in_order(work, items, done))


def in_order(work: Callable[[T], R], items: Sequence[T], done: Callable[[int], None] | None = None) -> Iterator[R]:
    """Yield what :func:`spread` returns, each result as soon as those before it are there."""
    with ThreadPoolExecutor(cores()) as pool:
        try:
            for count, result in enumerate(pool.map(work, items), start=1):
                if done is not None:
                    done(count)
                yield result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
