"""``edge eval`` on a cluster: images in chunks, each through one step by a worker."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, evolve, field
from numpy.typing import NDArray

from edge.accuracy.answers import Work, rows
from edge.accuracy.judge import Row
from edge.accuracy.steps import Step, Subject, step_of
from edge.accuracy.table import StepName
from edge.cluster.jobs import Job
from edge.cluster.pool import Cluster
from edge.cluster.sets import files_of, local, part
from edge.cluster.worker import Here, Task
from edge.errors import EdgeError
from edge.images import ImageSet
from edge.measure.networks import Runner
from edge.scratch import Scratch

_AHEAD = 3  # chunks on their way for each task that can be done at once
_SECONDS = 2.0  # of work in a chunk: sending one takes some 10 ms, and at the end workers wait for the last one
_FIRST, _LARGEST = 8, 64  # images in a chunk before the time of one is known, and at most
_MEMORY = 1 << 29, 8  # bytes that a chunk takes at most: so many, and copies of the model
_HASHED = 256  # objects of a store in one task that reads their hashes
_MOST = 4  # steps that stay open in a worker


def _closed(_workers: int) -> AbstractContextManager[Runner]:
    raise RuntimeError("this step stays with the client: a worker opens its own")


_NO_STEP = Step("float", "", "", "", "", _closed)


class EvalCrew:
    """Workers of a cluster that answer images."""

    def __init__(self, cluster: Cluster, subject: Subject) -> None:
        self._cluster, self._subject = cluster, subject
        self._homes: dict[int, str] = {}  # image -> the worker that was sent it

    def __call__(
        self, work: Work, images: ImageSet, indices: Sequence[int]
    ) -> Generator[tuple[int, Row | None], None, None]:
        """Yield the indices in order, each with its answer; as many chunks are on their way as keep all busy."""
        size = _FIRST if work.step.count is None else 1  # on a sample: seconds an image
        waiting: deque[tuple[Sequence[int], Job]] = deque()
        sent = 0
        try:
            while True:
                while len(waiting) < _AHEAD * self._cluster.size and sent < len(indices):
                    shared = (len(indices) - sent) // (2 * self._cluster.size)  # the last chunks are small
                    chunk = indices[sent : sent + max(1, min(size, shared))]
                    waiting.append((chunk, self._submit(work, images, chunk)))
                    sent += len(chunk)
                if not waiting:
                    return
                chunk, job = waiting.popleft()
                outcome = self._cluster.wait(job)
                size = max(1, min(_LARGEST, round(_SECONDS * len(chunk) / max(outcome.seconds, 1e-3))))
                if job.supplied:
                    self._homes.update(dict.fromkeys(chunk, outcome.address))
                found, there = outcome.value
                yield from ((index, row if has else None) for index, row, has in zip(chunk, found, there, strict=True))
        finally:
            self._cluster.cancel([job for _, job in waiting])

    def _submit(self, work: Work, images: ImageSet, chunk: Sequence[int]) -> Job:
        subject, some = self._subject, part(images, chunk)
        used = {one.role for one in (work.step, work.step.like) if one is not None}
        models = {role: (subject.sha256[role], subject.files[role]) for role in used}
        options = {
            "subject": evolve(
                subject, toolchain=None, files={role: Path(path.name) for role, (_, path) in models.items()}
            ),
            "compiler": None if subject.toolchain is None else subject.toolchain.kind,
            "step": work.step.name,
            "like": None if work.step.like is None else work.step.like.name,
            "key": work.step.key,
            "work": evolve(work, step=_NO_STEP),  # what opens its own can't travel
            "images": some,
        }
        files: dict[str, Path | bytes] = dict(models.values())
        memory = _MEMORY[0] + _MEMORY[1] * sum(path.stat().st_size for _, path in models.values())
        task = Task(
            f"{work.step.name} of {some[0].name} and on", perform_rows, options, tuple(files), memory, brief=True
        )
        near = self._homes.get(chunk[0], "")
        return self._cluster.submit(task, {**files, **files_of(some)}, near=near)


def hash_objects(cluster: Cluster, images: ImageSet) -> None:
    """Let workers read the hashes of images that lie in a store, so that no byte of them comes here."""
    if not len(images) or not images[0].url:
        return
    starts = range(0, len(images), _HASHED)
    pieces = {f"hashes from image {start} on": {"items": images[start : start + _HASHED]} for start in starts}
    jobs = [cluster.submit(Task(title, perform_hashes, options, brief=True)) for title, options in pieces.items()]
    images.__dict__["contents"] = np.concatenate([cluster.wait(job).value for job in jobs])


# --- on the worker


@define(eq=False)
class _Opened:
    runner: Runner
    stack: ExitStack
    users: int = 0


@define(eq=False)
class _Steps:
    """Steps that stay open from one chunk to the next."""

    opened: dict[str, _Opened] = field(factory=dict)
    known: dict[str, Step] = field(factory=dict)
    lock: threading.Lock = field(factory=threading.Lock)
    folder: Scratch | None = None  # holds the models under their names

    @contextmanager
    def use(self, step: Step, threads: int) -> Iterator[Runner]:
        with self.lock:
            key = f"{step.key} {threads}"
            if key not in self.opened:
                for other in [name for name, one in self.opened.items() if not one.users][: -(_MOST - 1)]:
                    self.opened.pop(other).stack.close()
                stack = ExitStack()
                self.opened[key] = _Opened(stack.enter_context(step.open(threads)), stack)
            found = self.opened[key]
            found.users += 1
        try:
            yield found.runner
        finally:
            with self.lock:
                found.users -= 1

    def close(self) -> None:
        for one in self.opened.values():
            one.stack.close()
        self.opened.clear()


_steps = _Steps()
atexit.register(_steps.close)


def _step(here: Here, subject: Subject, names: Mapping[str, Any], compiler: str | None, name: StepName) -> Step:
    """Return a step of a subject whose files are this machine's content."""
    from edge.files import link_or_copy
    from edge.toolchain.find import find

    with _steps.lock:
        _steps.folder = _steps.folder or Scratch("steps")
    files = {}
    for role, file in names.items():
        sha256 = subject.sha256[role]
        files[role] = _steps.folder.path / sha256[:16] / str(file)
        if not files[role].exists():
            files[role].parent.mkdir(exist_ok=True)
            link_or_copy(here.contents.path(sha256), files[role])
    toolchain = None if compiler is None else find(compiler)  # type: ignore[arg-type]
    return step_of(evolve(subject, files=files, toolchain=toolchain), name)


def perform_rows(
    here: Here,
    *,
    subject: Subject,
    compiler: str | None,
    step: StepName,
    like: StepName | None,
    key: str,
    work: Work,
    images: ImageSet,
) -> tuple[NDArray[np.float32], list[bool]]:
    """Return the answers of a step to some images, and which of them could be read."""
    mine = local(images, here)
    if key not in _steps.known:
        own = _step(here, subject, subject.files, compiler, step)
        if like is not None:
            other = own if like == step else _step(here, subject, subject.files, compiler, like)
            own = evolve(own, like=other, key=f"{own.key}-{other.key[:16]}")
        if own.key != key:
            raise EdgeError(f"step {step} has another key here", expected="the same packages on all machines")
        _steps.known[key] = own
    own = _steps.known[key]
    with ExitStack() as stack:
        open_ = {one.name: stack.enter_context(_steps.use(one, here.threads)) for one in (own, own.like) if one}
        found = [
            row
            for _, row in rows(
                evolve(work, step=own), mine, range(len(mine)), here.threads, lambda one: open_[one.name]
            )
        ]
    there = [row is not None for row in found]
    empty = np.zeros(work.judge.width, np.float32)
    return np.stack([empty if row is None else row for row in found]), there


def perform_hashes(_here: Here, *, items: Sequence[Any]) -> NDArray[np.uint8]:
    """Return the sha256 of each image's content; zeros where it can't be read."""
    return ImageSet(tuple(items), "").contents
