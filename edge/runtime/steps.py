"""A frame's way from image to answer, step by step, and the time that each step takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge.errors import ImageError
from edge.images.preprocess import resize_crop, rgb_to_nv12
from edge.runtime.net import Net
from edge.runtime.protocol import Scores

T = TypeVar("T")
R = TypeVar("R")

STEPS = ("decode", "resize", "nv12", "run", "post")


class Stopwatch:
    """Seconds of the steps of one frame; each step lasts from the end of the one before it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, step: str) -> None:
        """End a step."""
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._since
        self._since = now


def program_input(net: Net, rgb: NDArray[np.uint8], watch: Stopwatch) -> NDArray[np.uint8]:
    """Return what :meth:`Net.nv12` does, with the time of its two steps."""
    rule = net.known_preprocess
    small = np.ascontiguousarray(resize_crop(rgb, rule))
    watch.lap("resize")
    nv12 = rgb_to_nv12(small)
    watch.lap("nv12")
    return nv12


def answer_image(net: Net, rgb: NDArray[np.uint8], watch: Stopwatch, k: int = 5, score: float = 0.25) -> dict[str, Any]:
    """Return a decoded image's answer, as :func:`answer` does."""
    nv12 = program_input(net, rgb, watch)
    outputs = net.run(nv12)
    watch.lap("run")
    found = answer(net, outputs, (rgb.shape[0], rgb.shape[1]), k, score)
    watch.lap("post")
    return found


def answer(
    net: Net, outputs: Sequence[Scores], size: tuple[int, int], k: int = 5, score: float = 0.25
) -> dict[str, Any]:
    """Return what outputs say, as JSON values.

    Args:
        outputs: as ``net.run`` gives them.
        size: (height, width) of the image.
        k: classes at most.
        score: least one of a box.

    Returns:
        ``labels`` of a classifier, ``boxes`` of a detector (in the image's pixels), else what is in the ``outputs``.
    """
    about = net.metadata
    if about is not None and about.detector is not None:
        found = net.boxes(outputs, size, score=score)
        names = [net.labels[index] if net.labels else str(index) for index in found.labels.tolist()]
        boxes = [
            {"label": name, "score": sure, "box": [round(side, 1) for side in box]}
            for name, sure, box in zip(names, found.scores.tolist(), found.boxes.tolist(), strict=True)
        ]
        return {"boxes": boxes}
    if about is None or about.task == "classify":
        value = "score" if net.score_kind is None else "probability"
        return {"labels": [{"label": label, value: chance} for label, chance in net.ranked(outputs, k)]}
    return {"outputs": [output_record(*item) for item in zip(net.output_names, outputs, strict=True)]}


def output_record(name: str, values: Scores) -> dict[str, Any]:
    """Return what is shown of a raw output: its shape, smallest, mean and largest value."""
    low, mean, high = float(values.min()), float(values.mean()), float(values.max())
    return {"name": name, "shape": list(values.shape), "min": low, "mean": mean, "max": high}


def overlap(work: Callable[[T], R], frames: Iterable[T], threads: int) -> Iterator[R]:
    """Yield the results of ``work`` in order, while the next frames are read here and ``threads`` threads work.

    No more frames are held than are worked on, so a video of any length may come.

    Raises:
        ImageError: a frame can't be read; the results of those before come first.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for frame in frames:
                waiting.append(pool.submit(work, frame))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except ImageError:  # a video breaks off; the frames before are good
            while waiting:
                yield waiting.popleft().result()
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
