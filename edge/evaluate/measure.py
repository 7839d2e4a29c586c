"""Compute what a hop has not answered yet, on several pictures at once, and keep each answer."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing

import numpy as np
from attrs import define, frozen
from numpy.typing import NDArray

from edge.errors import ImageError, InputError, ModelFileError
from edge.evaluate.hops import Hop
from edge.evaluate.outputs import Outputs, Records, prefixes_of, sort_prefixes
from edge.evaluate.runners import Logits, Runner
from edge.images import ImageSet
from edge.preprocess import resize_crop
from edge.progress import Reporter
from edge.specs import Preprocess

Indices = NDArray[np.int32]  # of pictures in their set


@frozen
class Measured:
    """What one hop has now.

    Attributes:
        records: of each picture of the set, for :meth:`Outputs.read`; -1 where it has no answer.
        computed: pictures that were computed now.
        seconds: that took.
    """

    records: Records
    computed: int
    seconds: float


def measure(
    hop: Hop,
    outputs: Outputs,
    *,
    images: ImageSet,
    wanted: Indices,
    preprocess: Preprocess,
    classes: int,
    workers: int,
    reporter: Reporter,
) -> Measured:
    """Let a hop answer the pictures that it has no record of.

    Pictures of equal content are computed once. A picture that can't be read has no answer.

    Args:
        hop: closed; opened only if there is something to compute.
        outputs: its records; grows.
        images: the set.
        wanted: indices of the pictures to answer, readable as files.
        preprocess: of the network.
        classes: scores that it has to give.
        workers: pictures that are computed at once.
        reporter: told count, rate and the time left.

    Raises:
        ModelFileError: it gives another number of scores, or scores that are no numbers.
        InputError: a picture was changed while it was measured.
        EdgeError: whatever its runner raises.
    """
    started = time.monotonic()
    contents = images.contents
    asked = contents if len(wanted) == len(contents) else contents[wanted]
    records = np.full(len(images), -1, np.int32)
    records[wanted] = outputs.find(asked)
    missing = _first_of_each(contents, wanted[records[wanted] < 0])
    if not len(missing):
        return Measured(records, 0, 0.0)
    computed = 0
    with ExitStack() as stack:
        runner = _OpenedLate(hop, workers, stack)

        def answer(index: int) -> Logits | None:
            item = images[index]
            try:
                rgb, content = item.open()
                rgb = np.ascontiguousarray(resize_crop(rgb, preprocess))
            except ImageError:
                return None
            if item.demo is None and bytes.fromhex(content) != contents[index].tobytes():
                raise InputError(f"{item.name} was changed while it was measured", remedy="run it again")
            return runner.get()(rgb)

        pace = _Pace(len(missing))
        # No more threads than that: measured, further ones only take turns with those.
        threads = hop.in_flight or workers
        answers = stack.enter_context(closing(_in_order(answer, map(int, missing), threads)))
        for index, scores in answers:
            if scores is not None:
                _check(hop, images[index].name, scores, classes)
                outputs.append(contents[index].tobytes(), scores)
                computed += 1
            reporter.update(*pace.tick())
    records[wanted] = outputs.find(asked)
    return Measured(records, computed, time.monotonic() - started)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _OpenedLate:
    """A runner that opens when the first picture is there: broken files alone start no process."""

    def __init__(self, hop: Hop, workers: int, stack: ExitStack) -> None:
        self._hop = hop
        self._workers = workers
        self._stack = stack
        self._lock = threading.Lock()
        self._runner: Runner | None = None

    def get(self) -> Runner:
        with self._lock:
            if self._runner is None:
                self._runner = self._stack.enter_context(self._hop.open(self._workers))
            return self._runner


@define
class _Pace:
    """Counts pictures and tells rate and time left, both from the first answer on: opening is no picture."""

    total: int
    done: int = 0
    first: float = 0.0

    def tick(self) -> tuple[str, float]:
        now = time.monotonic()
        self.done += 1
        text = f"{self.done}/{self.total} pictures"
        if self.done == 1:
            self.first = now
        elif now > self.first:
            rate = (self.done - 1) / (now - self.first)
            text += f", {rate:.1f}/s, {clock((self.total - self.done) / rate)} left"
        return text, self.done / self.total


def clock(seconds: float) -> str:
    """Return a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _first_of_each(contents: NDArray[np.uint8], indices: Indices) -> Indices:
    """Return those of the indices that are the first of their content."""
    kept = np.ones(len(indices), bool)
    order, prefixes = sort_prefixes(prefixes_of(contents)[indices])
    for place in np.flatnonzero(prefixes[1:] == prefixes[:-1]).tolist():
        one, next_one = order[place], order[place + 1]
        if np.array_equal(contents[indices[one]], contents[indices[next_one]]):
            kept[next_one] = False
    return indices[kept]


def _check(hop: Hop, name: str, scores: Logits, classes: int) -> None:
    if scores.shape != (classes,):
        raise ModelFileError(f"the {hop.name} network gives {scores.size} scores", allowed=f"{classes}")
    if not np.isfinite(scores).all():
        raise ModelFileError(
            f"the {hop.name} network answers {name} with nan or infinity", remedy="check its weights"
        )


def _in_order(
    work: Callable[[int], Logits | None], indices: Iterable[int], workers: int
) -> Generator[tuple[int, Logits | None], None, None]:
    """Map in threads, in order, with a bounded number in flight so that memory does not grow with n."""
    waiting: deque[tuple[int, Future[Logits | None]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for index in indices:
                waiting.append((index, pool.submit(work, index)))
                if len(waiting) > 2 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
