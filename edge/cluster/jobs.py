"""Tasks on their way, and which worker gets which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, frozen

from edge.cluster.worker import Outcome, Task

QUEUED = 2  # brief tasks that a worker gets for each of its threads, besides those that it does


@define(eq=False)
class Job:
    """A task on its way."""

    task: Task
    files: Mapping[str, Path | bytes]  #: sha256 -> where the client has it.
    priority: int = 0
    near: Sequence[str] = ()  #: addresses of workers on the machine that has most of it.
    place: tuple[int, int] = (0, 0)  #: among those that wait for a worker; the smallest is next.
    where: str = ""  #: address of the worker that was given it; empty if none was.
    attempts: float = 0.0
    future: Any = None
    outcome: Outcome | None = None  #: when it has ended well.
    error: BaseException | None = None  #: when it has not.
    first: str = ""  #: what went wrong first, for the message when it is given up.
    supplied: bool = False  #: whether a worker lacked files of it.
    then: Callable[[Outcome], None] | None = None  #: told of the outcome as soon as it is there.

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.outcome is not None or self.error is not None


@frozen
class Room:
    """What a worker can do at once."""

    threads: int  #: tasks.
    memory: float  #: bytes that they take together.


def spares(room: Room, given: Sequence[Job]) -> list[Job]:
    """Return the jobs that a worker was given and has not begun, and that another may have instead."""
    return [job for job in given[room.threads :] if not job.task.brief]


def plan(
    rooms: Mapping[str, Room], given: Mapping[str, Sequence[Job]], waiting: Sequence[Job]
) -> list[tuple[Job, str]]:
    """Return the jobs that change their place, each with its worker's address; empty if it is to wait again.

    dask would bind each task to a worker as soon as it is sent, however long what that worker does takes. So a task is
    sent when a worker has room for it. Only brief ones may queue there, and one other as a spare: it shows dask that
    more workers would have work, for clusters that adapt, and begins at once when what is before it ends.

    Args:
        rooms: of each worker that may work.
        given: the jobs at each, in the order in which they were sent.
        waiting: the other jobs.
    """
    spare = {job: address for address, jobs in given.items() for job in spares(rooms[address], jobs)}
    held = {address: [job for job in given.get(address, ()) if job not in spare] for address in rooms}
    queued, left, found = QUEUED, list[Job](), dict[Job, str]()
    for job in sorted([*waiting, *spare], key=lambda one: one.place):
        free = {address: _free(rooms[address], jobs, job, queued) for address, jobs in held.items()}
        most = max(free.values(), default=0)
        if most <= 0:
            queued = 0  # else brief ones behind it would keep it from ever getting a worker
            left.append(job)
            continue
        wished = [address for address in (*job.near, spare.get(job, "")) if free.get(address, 0) > 0]
        found[job] = [*wished, *(address for address, room in free.items() if room == most)][0]
        held[found[job]].append(job)
    full = [
        address
        for address, jobs in held.items()
        if len(jobs) == rooms[address].threads and not any(job.task.brief for job in jobs)
    ]
    for job in left if full else ():
        fits = [address for address in full if not job.task.brief and job.task.memory <= rooms[address].memory]
        if fits:
            found[job] = spare[job] if spare.get(job) in fits else fits[0]
            full.remove(found[job])
    moved = {**dict.fromkeys(spare, ""), **found}
    return [(job, address) for job, address in moved.items() if address != spare.get(job)]


def _free(room: Room, held: Sequence[Job], job: Job, queued: int) -> int:
    """Return how many jobs like this one a worker may get besides those that it has."""
    if sum(one.task.memory for one in held if not one.task.brief) + job.task.memory > room.memory:
        return 0
    brief = job.task.brief and all(one.task.brief for one in held)
    return room.threads * (1 + queued * brief) - len(held)
