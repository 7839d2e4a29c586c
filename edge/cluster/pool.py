"""The cluster as the client sees it: workers that may work, tasks sent and brought back, faults counted."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, evolve, frozen

from edge.cluster.content import PIECE, Contents, FolderOf, WrongContent, unpack
from edge.cluster.jobs import Job, Room, plan, spares
from edge.cluster.scheduler import Scheduler, ask
from edge.cluster.worker import (
    Failure,
    Identity,
    Machine,
    Outcome,
    Piece,
    Task,
    admit,
    contents,
    get,
    hello,
    perform,
    put,
)
from edge.errors import EdgeError, InputError, NotEnoughMemory, UsageError, counted
from edge.files import sha256_of
from edge.folder.workspace import STAGES
from edge.progress import Listener
from edge.toolchain.found import Toolchain

ATTEMPTS = 6  # of a task, each on another worker where there is one
_LOST = 0.25  # of an attempt: a worker that is gone may have had another reason than its task
FIRST = 99  # priority of what is waited for
GIB = 1 << 30
_LOOK = 2.0  # seconds between two looks at the workers
_JOIN = 60.0  # seconds until the first worker has to be there
_BACK = 300.0  # seconds that a lost scheduler, or the last worker, has to come back in
_OURS = "edge-memory"  # a resource that says that MEMORY was given by edge and not by the user


class ClusterError(EdgeError):
    """The cluster can't do the work: no worker may, or a task failed on every one."""


@frozen
class _Worker:
    name: str
    machine: Machine
    room: Room | None = None  #: when it is admitted.


@define
class Counts:
    """What happened, for the last line."""

    tasks: int = 0
    again: int = 0  #: tasks sent another time.
    lost: int = 0  #: workers that went away while the client waited.
    dropped: int = 0  #: tasks that were begun ahead and not needed.
    seconds: float = 0.0  #: of work, on all workers together.


def open_cluster(url: str, listener: Listener, *, compiler: Toolchain | None = None, install: bool = False) -> Cluster:
    """Connect to a dask.distributed scheduler, or start one with ``local:N``.

    Args:
        compiler: that the workers need to have, too; None where the work needs none.
        install: whether workers without it install it.

    Raises:
        UsageError: dask.distributed is not installed, or nothing answers at that address.
    """
    from edge.cluster.worker import identity

    kind = "auto" if compiler is None else compiler.kind
    asked = identity(None if compiler is None else compiler.identity, kind, install=install)
    return Cluster(url, listener, asked)


class Cluster:
    """Workers of a scheduler that were found to agree with this machine; others get no task."""

    def __init__(self, url: str, listener: Listener, asked: Identity) -> None:
        self._scheduler = Scheduler(url)
        self._url, self.listener, self._asked = url, listener, asked
        self._workers: dict[str, _Worker] = {}
        self._refused: dict[str, str] = {}
        self._names: dict[str, str] = {}  # of all that ever were
        self._missed: set[str] = set()
        self._open: dict[str, Job] = {}  # at workers, by dask's key
        self._waiting: list[Job] = []  # for a worker, in order
        self._since, self._looked, self._sent = time.monotonic(), 0.0, 0
        self._alone: float | None = None  # since when there is no worker
        self.counts = Counts()
        self._client = self._scheduler.connect()

    def __enter__(self) -> Cluster:
        try:
            self._first_workers()
        except BaseException:
            self.__exit__(ClusterError)
            raise
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        if kind is None and self.counts.tasks:
            self.listener.begin("cluster")
            self.listener.end("cluster", time.monotonic() - self._since, cached=False, note=self.summary())
        jobs, self._open, self._waiting = list(self._open.values()), {}, []
        with contextlib.suppress(Exception):
            if self._client.status == "running":
                self._client.cancel([job.future for job in jobs if job.future is not None])
        with contextlib.suppress(Exception):
            self._client.close()
        with contextlib.suppress(Exception):
            self._scheduler.close()

    # --- workers

    def _first_workers(self) -> None:
        self.listener.begin("cluster")
        started, told = time.monotonic(), False
        while not self._workers:
            with contextlib.suppress(OSError, TimeoutError):
                self._look()
            if self._workers:
                break
            waited = time.monotonic() - started
            if waited > _JOIN or (self._refused and waited > 2 * _LOOK):
                why = "; ".join(f"{name}: {why}" for name, why in self._refused.items())
                raise ClusterError(
                    f"no worker of {self._url} may work" + (f": {why}" if why else ": none has joined"),
                    expected="workers with the same edge, packages and compiler as here",
                    remedy=f"dask worker {self._url} --nthreads 1   on each machine, in an environment with this edge",
                )
            if not told and waited > 2 * _LOOK:
                self.listener.warn(f"no worker has joined {self._url} yet; waiting for one up to {_JOIN:g} s")
                told = True
            time.sleep(0.2)
        hosts = {one.machine.host for one in self._workers.values()}
        link = getattr(self._client, "dashboard_link", "")
        note = f"{counted(len(self._workers), 'worker')} on {counted(len(hosts), 'machine')}"
        self.listener.end(
            "cluster", time.monotonic() - started, cached=False, note=note + (f", dashboard {link}" if link else "")
        )

    def _look(self) -> None:
        """See which workers have come and gone; admit the new ones."""
        self._looked = time.monotonic()
        known = self._known()
        threads = {address: int(about.get("nthreads", 1)) for address, about in known.items()}
        given = {address: dict(about.get("resources") or {}) for address, about in known.items()}
        missing = {address for address in self._workers if address not in known}
        gone, self._missed = missing & self._missed, missing  # one look may come too early
        for address in gone:
            self.counts.lost += 1
            worker = self._workers.pop(address)
            self.listener.warn(f"worker {worker.name} is gone")
            begun = worker.room.threads if worker.room else 0
            for place, job in enumerate(self._given(address)):
                self._take_back(job)
                if place < begun:
                    self._again(job, f"worker {worker.name} is gone", attempts=_LOST)
                else:
                    self._send(job)
        new = [address for address in known if address not in self._workers and address not in self._refused]
        if new:
            self._admit(new, {address: str(known[address].get("id", address)) for address in new})
        if new or gone or not all(one.room for one in self._workers.values()):
            self._share(threads, given)
        self._fill()
        self._alone = None if self._workers else self._alone or self._looked
        if self._alone is not None and self._looked - self._alone > _BACK:
            why = "; ".join(self._refused.values())
            raise ClusterError(
                f"no worker of {self._url} is left" + (f": {why}" if why else ""),
                remedy="start workers and run it again; what is finished is kept",
            )

    def _known(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what the scheduler says of each worker."""
        workers: Mapping[str, Mapping[str, Any]] = self._client.sync(self._client.scheduler.identity, n_workers=-1)[
            "workers"
        ]
        return workers

    def _admit(self, new: Sequence[str], names: Mapping[str, str]) -> None:
        for address, machine in ask(self._client, new, hello, self._asked).items():
            name = names[address]
            if isinstance(machine, ModuleNotFoundError):
                machine = Machine("", 1, None, "edge is not installed there")
            elif not isinstance(machine, Machine):
                if isinstance(machine, OSError):
                    continue  # it left meanwhile
                machine = Machine("", 1, None, f"it can't present itself: {type(machine).__name__}: {machine}"[:300])
            if machine.refused:
                self._refused[address] = machine.refused
                self.listener.warn(f"worker {name} is left out: {machine.refused}")
            else:
                if name in self._names.values():
                    self.listener.warn(f"worker {name} is back")
                self._workers[address] = _Worker(name, machine)
                self._names[address] = name

    def _share(self, threads: Mapping[str, int], given: Mapping[str, Mapping[str, float]]) -> None:
        """Share each machine's cores and memory among its workers."""
        there = {address: one for address, one in self._workers.items() if address in threads}
        for host in {one.machine.host for one in there.values()}:
            mine = [address for address, one in there.items() if one.machine.host == host]
            machine = self._workers[mine[0]].machine
            every = sum(threads[address] for address in mine)
            for address in mine:
                share = max(1, machine.cores // max(every, 1))
                theirs = given.get(address, {})
                told = 0.0 if theirs.get(_OURS) else theirs.get("MEMORY", 0.0)  # of an earlier client, or the user's
                memory = told or (machine.memory or 1 << 60) / len(mine)
                room = Room(threads[address], memory)
                if self._workers[address].room != room:
                    resources = {"MEMORY": float(memory), _OURS: float(not told)}
                    if not isinstance(ask(self._client, [address], admit, share, resources)[address], Exception):
                        self._workers[address] = evolve(self._workers[address], room=room)

    def _drop(self, address: str, why: str) -> None:
        """Give a worker no further task."""
        worker = self._workers.pop(address, None)
        if worker is not None:
            self._refused[address] = why
            self.listener.warn(f"worker {worker.name} gets no further task: {why}")
            for job in self._given(address):
                self._take_back(job)
                self._send(job)

    @property
    def size(self) -> int:
        """How many tasks can be done at once."""
        return max(1, sum(one.room.threads for one in self._workers.values() if one.room))

    def name(self, address: str) -> str:
        """Return what a worker is called."""
        return self._names.get(address, address)

    # --- tasks

    def submit(
        self,
        task: Task,
        files: Mapping[str, Path | bytes] | None = None,
        *,
        priority: int = 0,
        near: str = "",
        then: Callable[[Outcome], None] | None = None,
    ) -> Job:
        """Send a task; of several with room for one the highest priority comes first."""
        job = Job(task, files or {}, priority, self._beside(near), then=then)
        most = max((one.room.memory for one in self._workers.values() if one.room), default=0.0)
        if most and task.memory > most:
            job.error = NotEnoughMemory(
                f"{task.title} takes about {task.memory / GIB:.1f} GiB of memory, and the largest worker has "
                f"{most / GIB:.1f} GiB",
                expected="a worker with that much: fewer workers on a machine, or a larger machine",
                remedy="--any-memory tries anyway",
            )
        else:
            self._send(job)
        return job

    def _send(self, job: Job) -> None:
        """Let a job wait for a worker; one that has waited before has its place again."""
        self._sent += 1
        job.place = (-job.priority, job.place[1] or self._sent)
        self._waiting.append(job)
        self._fill()

    def _fill(self) -> None:
        """Give jobs to workers with room for them."""
        rooms = {address: worker.room for address, worker in self._workers.items() if worker.room is not None}
        given: dict[str, list[Job]] = {address: [] for address in rooms}
        for job in self._open.values():
            given.get(job.where, []).append(job)
        for job, address in plan(rooms, given, self._waiting):
            if job.where:
                self._take_back(job)
            else:
                self._waiting.remove(job)
            if address:
                self._give(job, address)
            else:
                self._waiting.append(job)

    def _given(self, address: str) -> list[Job]:
        return [job for job in self._open.values() if job.where == address]

    def _beside(self, address: str) -> list[str]:
        """Return a worker and the others of its machine, which share its cache."""
        hosts = {one: worker.machine.host for one, worker in self._workers.items()}
        return sorted((one for one in hosts if hosts[one] == hosts.get(address)), key=lambda one: one != address)

    def _take_back(self, job: Job) -> None:
        """Take a job from its worker, which stops it."""
        self._open = {key: one for key, one in self._open.items() if one is not job}
        if job.future is not None:
            with contextlib.suppress(Exception):
                job.future.cancel()
        job.future, job.where = None, ""

    def _give(self, job: Job, address: str) -> None:
        key = f"{job.task.work.__name__}-{uuid.uuid4().hex}"
        self._open[key], job.where = job, address
        try:
            job.future = self._client.submit(
                perform,
                job.task,
                key=key,
                resources={"MEMORY": job.task.memory},  # other clients may use the worker, too
                workers=[address],
                pure=False,
            )
        except (OSError, RuntimeError):
            job.future = None  # the scheduler is gone: sent again when it is back

    def wait(self, job: Job) -> Outcome:
        """Return what comes of a job, which now is the next to get a worker; others are brought back meanwhile.

        Raises:
            EdgeError: as the work raised it, or no worker could do it.
        """
        if not job.over:
            job.priority = FIRST
            job.place = (-FIRST, job.place[1])
            self._fill()
        while not job.over:
            self.turn()
        if job.error is not None:
            raise job.error
        assert job.outcome is not None  # noqa: S101 - one of the two
        return job.outcome

    def turn(self, seconds: float = 1.0) -> None:
        """Take what has ended; wait at most so long for something to end."""
        if time.monotonic() - self._looked > _LOOK:
            with contextlib.suppress(OSError, RuntimeError, TimeoutError):
                self._look()
        there = {key: job for key, job in self._open.items() if job.future is not None}
        lost = self._client.status != "running" or any(job.future is None for job in self._open.values())
        ended = [key for key, job in there.items() if job.future.status != "pending"]
        if not ended and there and not lost:
            with contextlib.suppress(
                TimeoutError, self._scheduler.dask.TimeoutError, self._scheduler.dask.CancelledError
            ):
                futures = [job.future for job in there.values()]
                self._scheduler.dask.wait(futures, timeout=seconds, return_when="FIRST_COMPLETED")
            ended = [key for key, job in there.items() if job.future.status != "pending"]
        elif not there:
            time.sleep(0.05)
        for key in ended:
            if key in self._open:  # a worker that lies loses all that it was given
                self._take(self._open.pop(key))
        self._fill()
        if lost:
            self._renew()

    def _take(self, job: Job) -> None:
        future, job.future, address, job.where = job.future, None, job.where, ""
        try:
            outcome = self._result(future, address)
        except Exception as error:
            if future.status == "cancelled" or isinstance(error, (OSError, TimeoutError)):
                why = str(error) if type(error) is OSError else "the connection was lost"
                self._again(job, why, attempts=_LOST)
            else:  # of dask: a worker died in it, again and again
                self._again(job, f"{type(error).__name__}: {error}")
            return
        finally:
            future.release()
        if outcome.missing:
            self._supply(job, outcome)
        elif outcome.failure is not None:
            self._failed(job, outcome, outcome.failure)
        else:
            try:
                if job.then is not None:
                    job.then(outcome)
            except WrongContent as error:
                self._drop(outcome.address, error.seen)
                self._again(job, error.seen)
                return
            job.outcome = outcome
            self.counts.tasks += 1
            self.counts.seconds += outcome.seconds
            self.listener.update(f"{job.task.title}: {outcome.seconds:.1f} s on {self.name(outcome.address)}")

    def _result(self, future: Any, address: str) -> Outcome:
        """Return what a worker keeps for us; if it goes now, dask would wait for one with its address."""
        seconds = _LOOK
        while True:
            try:
                outcome: Outcome = future.result(timeout=seconds)
            except (TimeoutError, self._scheduler.dask.TimeoutError):
                if address not in self._known() or seconds > _BACK:
                    raise OSError(f"worker {self.name(address)} is gone") from None
                seconds *= 2  # a large result takes its time
            else:
                return outcome

    def _supply(self, job: Job, outcome: Outcome) -> None:
        """Send a worker the files that it lacks, and the task again."""
        job.near, job.supplied = self._beside(outcome.address), True
        try:
            self._put(outcome.address, {sha256: job.files[sha256] for sha256 in outcome.missing})
        except (OSError, TimeoutError):
            self._again(job, f"worker {self.name(outcome.address)} could not be reached")
            return
        except EdgeError as error:
            if changed := _changed({sha256: job.files[sha256] for sha256 in outcome.missing}):
                job.error = InputError(f"{changed} was changed while it was sent", remedy="run it again")
                return
            self._drop(outcome.address, error.seen)
            self._again(job, error.seen)
            return
        self._send(job)

    def _put(self, address: str, files: Mapping[str, Path | bytes]) -> None:
        """Send files in pieces; small ones share a message."""
        sender, waiting, size = uuid.uuid4().hex[:8], list[Piece](), 0
        for sha256, source in files.items():
            total = len(source) if isinstance(source, bytes) else source.stat().st_size
            for offset in range(0, max(total, 1), PIECE):
                if isinstance(source, bytes):
                    data = source[offset : offset + PIECE]
                else:
                    with source.open("rb") as stream:
                        stream.seek(offset)
                        data = stream.read(PIECE)
                waiting.append((sha256, offset, data, offset + PIECE >= total))
                size += len(data)
                if size >= PIECE:
                    self._ask(address, put, waiting, sender)
                    waiting, size = [], 0
        if waiting:
            self._ask(address, put, waiting, sender)

    def _ask(self, address: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function gives in a worker, or raise what it raised; OSError for a worker that went."""
        answer = ask(self._client, [address], function, *arguments)[address]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _failed(self, job: Job, outcome: Outcome, failure: Failure) -> None:
        error = failure.error()
        seen = error.seen if isinstance(error, EdgeError) else f"{failure.kind.__name__}: {error}"
        if failure.of_machine:
            if not isinstance(error, NotEnoughMemory):  # that may be another program's, for a while
                self._drop(outcome.address, seen)
            self._again(job, seen, error)
            return
        if failure.trace:
            self.listener.warn(f"on worker {self.name(outcome.address)}:\n{failure.trace}")
        if failure.log:
            error.__dict__["cluster_log"] = failure.log
        job.error = error

    def _again(self, job: Job, why: str, error: BaseException | None = None, attempts: float = 1.0) -> None:
        job.attempts += attempts
        job.first, job.near = job.first or why, ()
        self.counts.again += 1
        if job.attempts >= ATTEMPTS or not (self._workers or isinstance(error, type(None))):
            job.error = error or ClusterError(
                f"{job.task.title} was tried again and again, on every worker in vain: {job.first}",
                remedy="look at the workers' logs; what is finished is kept",
            )
            return
        self.listener.warn(f"{job.task.title} is sent again: {why}")
        self._send(job)

    def _renew(self) -> None:
        """Connect again after the scheduler was lost, and send all again that was on its way."""
        if self._client.status != "running":
            self.listener.warn(f"the scheduler {self._url} is lost; waiting for it to come back")
            deadline = time.monotonic() + _BACK
            while True:
                with contextlib.suppress(Exception):
                    self._client.close(timeout=2)
                try:
                    self._client = self._scheduler.connect()
                    break
                except UsageError as error:
                    if time.monotonic() > deadline:
                        raise ClusterError(
                            f"the scheduler {self._url} did not come back within {_BACK:g} s",
                            remedy="run it again when it is there; what is finished is kept",
                        ) from error
                    time.sleep(1.0)
            self._workers.clear()
            self._refused.clear()
            self._missed.clear()
        jobs, self._open = list(self._open.values()), {}
        for job in jobs:
            job.future, job.where = None, ""
            self._send(job)
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            self._look()

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Take jobs back that are not needed; a compiler that runs for one is stopped."""
        stale = set(jobs)
        self._waiting = [job for job in self._waiting if job not in stale]
        for job in [job for job in self._open.values() if job in stale]:
            room = self._workers[job.where].room if job.where in self._workers else None
            self.counts.dropped += room is None or job not in spares(room, self._given(job.where))
            self._take_back(job)
        self._fill()

    # --- results

    def bring(self, address: str, folders: Iterable[FolderOf], root: Path) -> None:
        """Bring finished stages from a worker into a workspace.

        Raises:
            WrongContent: bytes of another hash came; the worker gets no further task.
            OSError: the worker is gone.
        """
        store = Contents(root / STAGES / ".incoming")
        try:
            for folder in folders:
                if (root / STAGES / folder.name).exists():
                    continue
                for sha256 in store.missing(folder.files.values()):
                    self._fetch(address, sha256, store)
                unpack(folder, root, store)
        except WrongContent as error:
            self._drop(address, f"it sent wrong bytes: {error.seen}")
            raise
        finally:
            shutil.rmtree(store.root, ignore_errors=True)

    def _fetch(self, address: str, sha256: str, store: Contents) -> None:
        if contents().path(sha256).is_file():  # a worker of this machine made it
            with contextlib.suppress(WrongContent):
                _copy(sha256, lambda offset: contents().read(sha256, offset), store)
                return
        _copy(sha256, lambda offset: self._ask(address, get, sha256, offset), store)

    def finished(self, job: Job, root: Path) -> Outcome:
        """Wait for a job whose value holds stage folders, and bring these; done again where that fails."""
        while True:
            outcome = self.wait(job)
            try:
                self.bring(outcome.address, outcome.value["folders"], root)
            except (OSError, WrongContent) as error:
                job.outcome = None
                self._again(job, str(error).splitlines()[0])
            else:
                return outcome

    def tell(self, job: Job, outcome: Outcome) -> None:
        """Show a task and who did it, as a line."""
        self.listener.begin("worker")
        note = f"{job.task.title} on {self.name(outcome.address)}"
        self.listener.end("worker", outcome.seconds, cached=False, note=note)

    def summary(self) -> str:
        """Return what was done, in a line."""
        counts = self.counts
        parts = [f"{counted(counts.tasks, 'task')} done, {counts.seconds:.1f} s of work"]
        parts += [f"{counts.again} sent again"] if counts.again else []
        parts += [f"{counted(counts.lost, 'worker')} lost"] if counts.lost else []
        parts += [f"{counts.dropped} begun ahead and not needed"] if counts.dropped else []
        return ", ".join(parts)


def _copy(sha256: str, read: Callable[[int], bytes], store: Contents) -> None:
    sender, offset, data = uuid.uuid4().hex[:8], 0, bytes(PIECE)
    while len(data) == PIECE:
        data = read(offset)
        store.write(sha256, offset, data, last=len(data) < PIECE, sender=sender)
        offset += len(data)


def _changed(files: Mapping[str, Path | bytes]) -> str:
    """Return the first file that no longer has its hash; empty if all have."""
    for sha256, source in files.items():
        if isinstance(source, Path) and sha256_of(source) != sha256:
            return str(source)
    return ""
