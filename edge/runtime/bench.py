"""Measure a loaded program: the forward pass, preprocessing, and frames on their whole way from a source to answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from attrs import frozen

from edge.errors import ImageError, UsageError, counted
from edge.images.preprocess import Image, decode
from edge.images.video import Video
from edge.runtime.net import Net
from edge.runtime.protocol import Array
from edge.runtime.steps import STEPS, Stopwatch, answer_image, overlap

WARM_UP_FRAMES, WARM_UP_SECONDS = 10, 1.0  # of each thread; at least one frame
PREPROCESS_FRAMES = 50


@frozen
class Latency:
    """Milliseconds per frame; percentiles interpolate linearly between the frames seen."""

    frames: int
    mean: float
    p50: float
    p90: float
    p99: float
    minimum: float
    maximum: float


@frozen
class Throughput:
    """The forward pass with a number of threads."""

    threads: int  #: threads that called ``net.run`` at the same time, each without a pause between frames.
    warm_up: int  #: frames of all threads before the measurement; not counted.
    seconds: float  #: from the common start to the end of the last frame.
    fps: float  #: frames / seconds.
    latency: Latency  #: of one call, including the wait for a free backend.


@frozen
class Preprocessing:
    """Time of one thread from an image file to the program's input."""

    decode: Latency  #: from the file's bytes in memory to RGB.
    nv12: Latency  #: from RGB to NV12: resize, crop, encode.


def measure(
    net: Net, inputs: Sequence[Array], *, threads: int = 1, frames: int = 200, limit: float = 60.0
) -> Throughput:
    """Run the program ``frames`` times from ``threads`` threads, after a warm-up.

    Args:
        net: loaded with at least as many ``threads``, else the threads wait for each other.
        inputs: as for ``net.run``.
        threads: 1 and above.
        limit: seconds after which no further frame starts; ``latency.frames`` says how many were done.

    Raises:
        UsageError: threads or frames below 1; or wrong inputs.
        BackendError: the runtime failed.
    """
    if threads < 1 or frames < 1:
        raise UsageError(f"{counted(threads, 'thread')}, {counted(frames, 'frame')}", expected="1 and above")
    return _Run(net, inputs, threads, frames, limit).measure()


def measure_preprocessing(net: Net, data: bytes, *, frames: int = PREPROCESS_FRAMES) -> Preprocessing:
    """Decode an image file and make its NV12, ``frames`` times each, in one thread, after a warm-up.

    Raises:
        ImageError: it is not an image.
        UsageError: the net does not know its preprocessing.
    """
    rgb = decode(data)
    return Preprocessing(_timed(lambda: decode(data), frames), _timed(lambda: net.nv12(rgb), frames))


@frozen
class Pipeline:
    """Frames on their way from a source to answers."""

    threads: int  #: that work while one more reads and decodes; 0: one thread does all, one step after another.
    frames: int
    seconds: float  #: from the first frame's reading to the last answer.
    fps: float  #: frames / seconds.
    latency: Latency  #: from the beginning of a frame's decoding to its answer.
    steps: Mapping[str, Latency]  #: step -> its time; ``wait`` is for the camera's next frame.
    busy: Mapping[str, float]  #: step -> how many threads it kept busy: its seconds of all frames / seconds.


Taken = tuple[Image, dict[str, float]]  # RGB, and the seconds of the steps up to it


def repeated(data: bytes) -> Iterator[Taken]:
    """Yield an image file's frame for ever, decoded each time."""
    while True:
        watch = Stopwatch()
        rgb = decode(data)
        watch.lap("decode")
        yield rgb, watch.seconds


def filmed(video: Video) -> Iterator[Taken]:
    """Yield a video's frames; of a file again and again, of a camera as long as it gives some."""
    while True:
        for frame in video:
            wait = {"wait": frame.waited} if video.live else {}
            yield frame.rgb, {**wait, "decode": frame.decoded}
        if video.live:
            return


def measure_pipeline(
    net: Net, source: Iterable[Taken], *, threads: int, frames: int = 200, limit: float = 60.0
) -> Pipeline:
    """Answer ``frames`` frames, after a warm-up.

    Args:
        threads: 0: one step after another, as a simple loop does; else reading and decoding of the next frame goes on
            while so many threads do the other steps.
        limit: seconds after which no further frame begins; ``frames`` of the result says how many were done.

    Raises:
        ImageError: the source ends before a frame was measured.
        BackendError: the runtime failed.
    """

    def work(taken: Taken) -> tuple[dict[str, float], float]:
        rgb, seconds = taken
        begun = time.perf_counter() - seconds["decode"]
        watch = Stopwatch()
        answer_image(net, rgb, watch)
        return {**seconds, **watch.seconds}, time.perf_counter() - begun

    frame = iter(source)
    begun = time.perf_counter()
    for _, taken in zip(range(WARM_UP_FRAMES), frame, strict=False):
        work(taken)
        if time.perf_counter() - begun > WARM_UP_SECONDS:
            break
    begun = time.perf_counter()

    def counted() -> Iterator[Taken]:
        for number, taken in zip(range(frames), frame, strict=False):
            yield taken
            if number + 1 == frames or time.perf_counter() - begun > limit:
                return

    done = list(overlap(work, counted(), threads) if threads else map(work, counted()))
    seconds = time.perf_counter() - begun
    if not done:
        raise ImageError("the source ended before a frame was measured", expected="a longer video")
    order = [step for step in ("wait", *STEPS) if step in done[0][0]]
    columns = {step: [times[step] for times, _ in done] for step in order}
    return Pipeline(
        threads,
        len(done),
        seconds,
        len(done) / seconds,
        _latency([latency for _, latency in done]),
        {step: _latency(column) for step, column in columns.items()},
        {step: sum(column) / seconds for step, column in columns.items()},
    )


class _Run:
    """One measurement; the threads share its counters."""

    def __init__(self, net: Net, inputs: Sequence[Array], threads: int, frames: int, limit: float) -> None:
        self._net, self._inputs = net, inputs
        self._threads, self._frames, self._limit = threads, frames, limit
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(threads + 1)
        self._stop = threading.Event()
        self._begun = self._warmed = 0
        self._deadline = float("inf")
        self._seconds: list[float] = []
        self._end = 0.0
        self._errors: list[BaseException] = []

    def measure(self) -> Throughput:
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(self._threads)]
        for worker in workers:
            worker.start()
        start = 0.0
        try:
            self._barrier.wait()  # all are warm
            start = time.perf_counter()
            self._deadline = start + self._limit
            self._barrier.wait()
            for worker in workers:
                worker.join()
        except threading.BrokenBarrierError:
            pass  # a worker failed; its error is raised below
        finally:
            # Also after Ctrl-C, no thread may be inside the backend when it is closed.
            self._halt()
            for worker in workers:
                worker.join()
        if self._errors:
            raise self._errors[0]
        seconds = self._end - start
        done = len(self._seconds)
        return Throughput(self._threads, self._warmed, seconds, done / seconds, _latency(self._seconds))

    def _halt(self) -> None:
        self._stop.set()
        self._barrier.abort()

    def _work(self) -> None:
        try:
            warmed = self._warm_up()
            with self._lock:
                self._warmed += warmed
            self._barrier.wait()
            self._barrier.wait()
            while self._next():
                begin = time.perf_counter()
                self._net.run(*self._inputs)
                end = time.perf_counter()
                with self._lock:
                    self._seconds.append(end - begin)
                    self._end = max(self._end, end)
        except threading.BrokenBarrierError:
            return
        except BaseException as error:  # raised again by the thread that measures
            self._errors.append(error)
            self._halt()

    def _warm_up(self) -> int:
        begin, count = time.perf_counter(), 0
        while count < WARM_UP_FRAMES and not self._stop.is_set():
            self._net.run(*self._inputs)
            count += 1
            if time.perf_counter() - begin > WARM_UP_SECONDS:
                break
        return count

    def _next(self) -> bool:
        """Take a frame; the first one always starts."""
        with self._lock:
            late = self._begun > 0 and time.perf_counter() > self._deadline
            if self._stop.is_set() or late or self._begun >= self._frames:
                return False
            self._begun += 1
            return True


def _timed(action: Callable[[], object], frames: int) -> Latency:
    action()
    seconds = []
    for _ in range(frames):
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return _latency(seconds)


def _latency(seconds: Sequence[float]) -> Latency:
    values = np.asarray(seconds) * 1e3
    p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
    return Latency(len(values), float(values.mean()), p50, p90, p99, float(values.min()), float(values.max()))
