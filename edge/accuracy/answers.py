"""The steps' answers to each image, kept in the build folder, so that no image is computed twice."""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attrs import define, frozen
from numpy.typing import NDArray

from edge.accuracy.steps import Step
from edge.errors import ImageError, InputError, ModelFileError, WorkspaceError, counted
from edge.folder.store import Store
from edge.images import ImageSet
from edge.images.preprocess import resize_crop
from edge.images.samples import read_sample
from edge.measure.networks import Frame, Runner
from edge.measure.scores import Scores
from edge.progress import SILENT, Reporter
from edge.specs import Preprocess
from edge.specs.schema import Input

if TYPE_CHECKING:
    from edge.accuracy.judge import Judge, Row

FOLDER = ".outputs"
NAME = f"{FOLDER}/answers.sqlite"

Digests = NDArray[np.uint8]  # sha256 of images' contents, (n, 32)
Indices = NDArray[np.int32]  # of images in their set

_SECONDS = 1.0  # after which answers are written: a kill loses at most this
_CHUNK = 256  # answers that are read, or wait to be written, at once: 1 MB with a thousand classes


class KeptAnswers:
    """The answers of all steps of a build, each under the step's key and the sha256 of the image's content.

    The lock of the build folder ``root`` is held.
    """

    def __init__(self, root: Path, width: int, warn: Callable[[str], None]) -> None:
        earlier = [path for path in (root / FOLDER).glob("*") if path.is_dir()]
        if earlier:
            warn(f"{root / FOLDER} holds answers of another version of edge; they are computed again")
        for path in earlier:
            shutil.rmtree(path, ignore_errors=True)
        self._store = Store(root, NAME, warn)
        self._width = width
        self._new: dict[str, dict[bytes, bytes]] = {}
        self._written = time.monotonic()

    def __enter__(self) -> KeptAnswers:
        return self

    def __exit__(self, *_: object) -> None:
        with closing(self._store):
            self.write()

    def known(self, step: Step, contents: Digests) -> NDArray[np.bool_]:
        """Tell for each image whether there is an answer, (n,)."""
        found = np.zeros(len(contents), bool)
        for start in range(0, len(contents), _CHUNK):
            rows = [row.tobytes() for row in contents[start : start + _CHUNK]]
            have = self._find(step, rows)
            found[start : start + _CHUNK] = [row in have for row in rows]
        return found

    def read(self, step: Step, contents: Digests) -> Scores:
        """Return the answers to images that have one, (n, width)."""
        rows = [row.tobytes() for row in contents]
        have = self._find(step, rows)
        if len(have) < len(set(rows)):
            raise WorkspaceError(f"{NAME} was damaged while it was read", remedy="run it again")
        scores = np.empty((len(rows), self._width), np.float32)
        for row, content in enumerate(rows):
            scores[row] = np.frombuffer(have[content], "<f4")
        return scores

    def add(self, step: Step, content: bytes, scores: Scores) -> None:
        """Add an answer; it is in the file after a second, or after :meth:`write`."""
        waiting = self._new.setdefault(_part(step), {})
        waiting[content] = np.ascontiguousarray(scores, "<f4").tobytes()
        if len(waiting) >= _CHUNK or time.monotonic() - self._written > _SECONDS:
            self.write()

    def write(self) -> None:
        """Write the answers added since the last write."""
        new, self._new = self._new, {}
        for part, entries in new.items():
            self._store.put(part, entries)
        self._written = time.monotonic()

    def _find(self, step: Step, contents: list[bytes]) -> dict[bytes, bytes]:
        found = self._store.find(_part(step), contents)
        return {content: data for content, data in found.items() if len(data) == 4 * self._width}


def _part(step: Step) -> str:
    return f"{step.name} {step.model} {step.key}"


def discard_stale(root: Path, models: Collection[str]) -> None:
    """Remove the answers of all models except those with these sha256."""
    if (root / NAME).exists():
        with Store(root, NAME, SILENT.warn) as store:
            store.remove([part for part in store.parts() if part.split(" ")[1] not in models])


@frozen
class Answered:
    """The state of one step after :func:`measure`."""

    known: NDArray[np.bool_]  #: for each image of the set, whether it has an answer.
    computed: int  #: images computed now.
    seconds: float  #: time that this took.


def measure(
    step: Step,
    answers: KeptAnswers,
    *,
    images: ImageSet,
    wanted: Indices,
    preprocess: Preprocess,
    judge: Judge,
    inputs: Sequence[Input] = (),
    workers: int,
    reporter: Reporter,
    away: Away | None = None,
) -> Answered:
    """Let a step answer the images that it has not answered yet.

    Images of equal content are computed once. An image that can't be read has no answer.

    Args:
        step: closed; opened only if there is something to compute.
        answers: known ones; grows.
        wanted: indices of the images to answer, readable as files.
        judge: makes the answer of the network's outputs.
        inputs: of a network that takes more than one camera image, or something else: then the images are samples.
        away: answers instead of this process.

    Raises:
        ModelFileError: it gives a wrong number of values, or nan or infinity.
        InputError: an image was changed while it was measured.
    """
    started = time.monotonic()
    asked = images.contents[wanted].view(f"V{images.contents.shape[1]}").ravel()
    _, first, place = np.unique(asked, return_index=True, return_inverse=True)
    contents = images.contents[wanted[first]]
    known = answers.known(step, contents)
    missing = np.sort(wanted[first[~known]])
    computed = 0
    if len(missing):
        pace, work, indices = _Pace(len(missing)), Work(step, judge, preprocess, inputs), missing.tolist()
        with closing((away or partial(rows, workers=workers))(work, images, indices)) as found:
            for index, scores in found:
                if scores is not None:
                    _check(step, images[index].name, scores, judge.width)
                    answers.add(step, images.contents[index].tobytes(), scores)
                    computed += 1
                reporter.update(*pace.tick())
        answers.write()
        known = answers.known(step, contents)
    of_set = np.zeros(len(images), bool)
    of_set[wanted] = known[place]
    return Answered(of_set, computed, time.monotonic() - started if len(missing) else 0.0)


@frozen(eq=False)
class Work:
    """What makes an answer of an image."""

    step: Step
    judge: Judge
    preprocess: Preprocess
    inputs: Sequence[Input] = ()


# Answers images of a set elsewhere: yields their indices in order, each with its answer.
Away = Callable[[Work, ImageSet, Sequence[int]], "Generator[tuple[int, Row | None], None, None]"]


def rows(
    work: Work, images: ImageSet, indices: Sequence[int], workers: int, runner: Callable[[Step], Runner] | None = None
) -> Generator[tuple[int, Row | None], None, None]:
    """Yield the answers to images of a set in order; None for one that can't be read.

    Args:
        runner: opens a step; it stays open. By default a step is opened when the first image was read, and closed.

    Raises:
        InputError: an image was changed since its set was made.
    """
    step, like = work.step, work.step.like
    with ExitStack() as stack:
        lazy = {one.name: LazyRunner(one, workers, stack) for one in (step, like) if one is not None}

        def opened(one: Step) -> Runner:
            return lazy[one.name].get() if runner is None else runner(one)

        def answer(index: int) -> Row | None:
            item = images[index]
            frame: Frame
            try:
                if work.inputs:
                    (frame, content), size = read_sample(item, work.inputs, work.preprocess), (0, 0)
                else:
                    rgb, content = item.open()
                    size = rgb.shape[0], rgb.shape[1]
                    frame = np.ascontiguousarray(resize_crop(rgb, work.preprocess))
            except ImageError:
                return None
            if item.demo is None and bytes.fromhex(content) != images.contents[index].tobytes():
                raise InputError(f"{item.name} was changed while it was measured", remedy="run it again")
            other = None if like is None else opened(like)(frame)
            return work.judge.row(opened(step)(frame), other, size)

        # No more threads: measured, further ones only wait for these.
        yield from stack.enter_context(closing(_in_order(answer, indices, step.in_flight or workers)))


class LazyRunner:
    """A runner that opens when the first image is read: if all files are broken, no process starts."""

    def __init__(self, step: Step, workers: int, stack: ExitStack) -> None:
        self._step = step
        self._workers = workers
        self._stack = stack
        self._lock = threading.Lock()
        self._runner: Runner | None = None

    def get(self) -> Runner:
        """Return the runner, opened by the first call."""
        with self._lock:
            if self._runner is None:
                self._runner = self._stack.enter_context(self._step.open(self._workers))
            return self._runner


@define
class _Pace:
    """Counts images and estimates rate and time left, both from the first answer on, without the opening."""

    total: int
    done: int = 0
    first: float = 0.0

    def tick(self) -> tuple[str, float]:
        now = time.monotonic()
        self.done += 1
        text = f"{self.done}/{counted(self.total, 'image')}"
        if self.done == 1:
            self.first = now
        elif now > self.first:
            rate = (self.done - 1) / (now - self.first)
            text += f", {rate:.1f}/s, {_clock((self.total - self.done) / rate)} left"
        return text, self.done / self.total


def _clock(seconds: float) -> str:
    """Return a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _check(step: Step, name: str, scores: Row, width: int) -> None:
    if scores.shape != (width,):
        raise ModelFileError(f"the {step.name} network gives {scores.size} scores", expected=f"{width}")
    if not np.isfinite(scores).all():
        raise ModelFileError(f"the {step.name} network answers {name} with nan or infinity", remedy="check its weights")


def _in_order(
    work: Callable[[int], Row | None], indices: Iterable[int], workers: int
) -> Generator[tuple[int, Row | None], None, None]:
    """Map in threads, in order, with a bounded number in flight so that memory does not grow with n."""
    waiting: deque[tuple[int, Future[Row | None]]] = deque()
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
