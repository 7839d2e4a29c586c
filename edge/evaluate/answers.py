r"""What a hop answered to each picture, kept in the build folder, so that no picture is computed twice.

One file a hop, ``.outputs/<hop>-<key>/scores``, little-endian::

    header   16 bytes  b"edge outputs 1\n"   32 bytes  key    32 bytes  sha256 of the model
             uint32    classes              uint32    crc32 of all before
    record   32 bytes  sha256 of the picture's content   classes x float32   uint32  crc32 of both
    record   …

It only grows at its end. A killed run leaves at most a torn last record, which is cut off; a record whose
crc32 is wrong counts as not there, and is computed again.
"""

from __future__ import annotations

import os
import shutil
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

import numpy as np
from attrs import define, frozen
from numpy.typing import NDArray

from edge.errors import ImageError, InputError, ModelFileError
from edge.evaluate.hops import Hop
from edge.files import disk_errors
from edge.images import ImageSet
from edge.images.preprocess import resize_crop
from edge.measure.networks import Logits, Runner
from edge.progress import Reporter
from edge.specs import Preprocess

FOLDER = ".outputs"
SCORES = "scores"
DIGEST = 32  # bytes of a sha256

Digests = NDArray[np.uint8]  # (n, 32)
Records = NDArray[np.int32]  # numbers of records, -1 for none
Scores = NDArray[np.float32]

_MAGIC = b"edge outputs 1\n"
_HEADER = struct.Struct("<16s32s32sII")
_CRC = struct.Struct("<I")
_CHUNK = 1 << 20  # bytes that are read at once


class Outputs:
    """The answers of one hop, open for reading and appending; the build folder's lock must be held.

    Args:
        root: the build folder.
        hop: whose answers; only records of its very key are read.
        classes: scores a picture.

    Raises:
        WorkspaceError: the disk is full or the folder can't be written.
    """

    def __init__(self, root: Path, hop: Hop, classes: int) -> None:
        self._root = root
        self._classes = classes
        self._size = DIGEST + 4 * classes + _CRC.size
        folder = root / FOLDER / f"{hop.name}-{hop.key[:12]}"
        with disk_errors(root):
            folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a record is in the file when append returns.
            self._file = (folder / SCORES).open("a+b", buffering=0)
            try:
                self._records = self._mend(_header(hop, classes))
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def find(self, wanted: Digests) -> Records:
        """Return the record of each picture; -1 where there is none.

        Args:
            wanted: sha256 of the pictures' contents, (n, 32).
        """
        order, prefixes = sort_prefixes(prefixes_of(wanted))
        found = np.full(len(wanted), -1, np.int32)
        for first, records in self._chunks():
            # Compared by their first bytes at once; in full, and checked, only where those are the same.
            have = prefixes_of(records)
            low, high = np.searchsorted(prefixes, have), np.searchsorted(prefixes, have, "right")
            for row in np.flatnonzero(high > low).tolist():
                record = records[row].tobytes()
                if _is_whole(record):
                    for place in order[low[row] : high[row]]:
                        if wanted[place].tobytes() == record[:DIGEST]:
                            found[place] = first + row
        return found

    def read(self, records: Records) -> Scores:
        """Return scores, (n, classes), of records that :meth:`find` gave."""
        scores = np.empty((len(records), self._classes), np.dtype("<f4"))
        for row, record in zip(scores, records, strict=True):
            data = os.pread(self._file.fileno(), self._size, _HEADER.size + int(record) * self._size)
            row[:] = np.frombuffer(data, "<f4", self._classes, DIGEST)
        return scores.astype(np.float32, copy=False)

    def append(self, digest: bytes, scores: Scores) -> None:
        """Add a picture's answer.

        Raises:
            WorkspaceError: the disk is full; what was there before stays whole.
        """
        body = digest + np.ascontiguousarray(scores, "<f4").tobytes()
        self._write(body + _CRC.pack(zlib.crc32(body)))
        self._records += 1

    def _write(self, data: bytes) -> None:
        end = self._end()
        with disk_errors(self._root):
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(end)
                raise

    def _end(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _mend(self, header: bytes) -> int:
        """Make the file end with a whole record; return how many there are."""
        if os.pread(self._file.fileno(), _HEADER.size, 0) != header:
            self._file.truncate(0)
            self._write(header)
            return 0
        records, torn = divmod(self._end() - _HEADER.size, self._size)
        if torn:
            self._file.truncate(_HEADER.size + records * self._size)
        return records

    def _chunks(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield the number of the first record and the bytes of some records, (m, record size)."""
        step = max(1, _CHUNK // self._size)
        for first in range(0, self._records, step):
            count = min(step, self._records - first)
            data = os.pread(self._file.fileno(), count * self._size, _HEADER.size + first * self._size)
            yield first, np.frombuffer(data, np.uint8).reshape(-1, self._size)


def discard_stale(root: Path, models: Collection[str]) -> None:
    """Remove the answers of models that are not published any more.

    Args:
        root: the build folder, its lock held.
        models: sha256 of the published files.
    """
    for folder in (root / FOLDER).glob("*-*"):
        if _model_of(folder / SCORES) not in models:
            shutil.rmtree(folder, ignore_errors=True)


def _model_of(path: Path) -> str:
    """Return the sha256 of the model that a file speaks of; empty where that can't be read."""
    try:
        with path.open("rb") as stream:
            magic, _, model, _, crc = _HEADER.unpack(header := stream.read(_HEADER.size))
    except (OSError, struct.error):
        return ""
    whole = magic.rstrip(b"\x00") == _MAGIC and zlib.crc32(header[: -_CRC.size]) == crc
    return model.hex() if whole else ""


def _header(hop: Hop, classes: int) -> bytes:
    fields = (_MAGIC, bytes.fromhex(hop.key), bytes.fromhex(hop.model), classes)
    return _HEADER.pack(*fields, zlib.crc32(_HEADER.pack(*fields, 0)[: -_CRC.size]))


def sort_prefixes(prefixes: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """Return the order, equal ones in their own, and the prefixes in it."""
    order = np.argsort(prefixes, kind="stable").astype(np.int32)
    return order, prefixes[order]


def prefixes_of(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first 8 bytes of each row as a number."""
    return np.ascontiguousarray(rows[:, :8]).view("<u8").reshape(-1)


def _is_whole(record: bytes) -> bool:
    return bool(zlib.crc32(record[: -_CRC.size]) == _CRC.unpack(record[-_CRC.size :])[0])


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
