"""Which worker gets which task."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from attrs import evolve

pytest.importorskip("distributed", reason="dask.distributed is not installed")

from edge.cluster.evaluation import EvalCrew
from edge.cluster.jobs import Job, Room, plan
from edge.cluster.worker import Outcome, Task

ONE = Room(1, 100.0)
BRIEF = Task("brief", print, brief=True)
LONG = Task("long", print)


def jobs(*tasks: Task) -> list[Job]:
    return [Job(task, {}, place=(0, n)) for n, task in enumerate(tasks, 1)]


def test_a_worker_gets_one_long_task_and_a_spare() -> None:
    a, b, c, d, _ = waiting = jobs(*[LONG] * 5)
    assert plan({"x": ONE, "y": ONE}, {}, waiting) == [(a, "x"), (b, "y"), (c, "x"), (d, "y")]
    assert plan({"x": ONE, "y": ONE}, {"x": [a, c], "y": [b, d]}, waiting[4:]) == []


def test_a_spare_goes_to_the_worker_that_is_free() -> None:
    a, b = jobs(LONG, LONG)
    assert plan({"x": ONE, "y": ONE}, {"x": [a, b]}, []) == [(b, "y")]


def test_what_comes_first_takes_the_place_of_a_spare() -> None:
    first, a, spare = jobs(LONG, LONG, LONG)
    assert sorted(plan({"x": ONE}, {"x": [a, spare]}, [first]), key=lambda pair: pair[0].place) == [
        (first, "x"),
        (spare, ""),
    ]


def test_brief_tasks_queue_unless_a_long_one_is_before_them() -> None:
    brief = jobs(*[BRIEF] * 5)
    assert plan({"x": ONE}, {}, brief) == [(job, "x") for job in brief[:3]]
    long, *behind = jobs(LONG, *[BRIEF] * 5)
    assert plan({"x": ONE}, {"x": brief[:1]}, [long, *behind]) == []
    assert plan({"x": ONE}, {}, [long, *behind]) == [(long, "x")]


def test_large_tasks_share_no_worker_and_small_ones_do() -> None:
    large = evolve(LONG, memory=60)
    a, b = jobs(large, large)
    both = Room(2, 100.0)
    assert plan({"x": both}, {"x": [a]}, [b]) == []
    c, d = jobs(evolve(LONG, memory=40), evolve(LONG, memory=40))
    assert plan({"x": both}, {"x": [c]}, [d]) == [(d, "x")]


def test_a_task_goes_where_its_files_are_if_there_is_room() -> None:
    a, b = jobs(LONG, LONG)
    a.near = b.near = ["y"]
    assert plan({"x": ONE, "y": ONE}, {}, [a, b]) == [(a, "y"), (b, "x")]


def test_a_chunk_of_images_is_two_seconds_of_work_and_less_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def submit(_crew: Any, _work: Any, _images: Any, chunk: Sequence[int]) -> Job:
        sizes.append(len(chunk))
        rows = np.zeros((len(chunk), 1), np.float32), [True] * len(chunk)
        return Job(BRIEF, {}, outcome=Outcome("x", 0.1 * len(chunk), rows))

    monkeypatch.setattr(EvalCrew, "_submit", submit)
    cluster: Any = SimpleNamespace(size=2, wait=lambda job: job.outcome, cancel=lambda _: None)
    nothing: Any = None
    work: Any = SimpleNamespace(step=SimpleNamespace(count=None))
    assert [index for index, _ in EvalCrew(cluster, nothing)(work, nothing, range(300))] == list(range(300))
    assert sizes[:7] == [8] * 6 + [20]
    assert max(sizes) == 20
    assert sizes[-4:] == [1] * 4
