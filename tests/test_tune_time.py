"""A search and its time: what a ranking may take, what is kept for the finalists, what the next run does."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from attrs import define, evolve

from edge.cli.tune import tune_table
from edge.folder.workspace import STAGES, Workspace
from edge.measure.objective import Classes
from edge.progress import Quiet, Silent
from edge.specs import Precision
from edge.tune import SearchOptions, TuneResult, units
from edge.tune import tune as tune_module
from edge.tune.context import Context
from edge.tune.journal import Entry, Journal
from edge.tune.tune import PLAIN, Search
from edge.tune.units import Int16Sets, answered_in_time
from tests.test_tune_report import result

MODULE = __import__("edge.tune.tune", fromlist=["tune"])


@define
class Clock:
    """The time, as the parts of a search see it."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (units, __import__("edge.tune.context", fromlist=["context"])):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=found.monotonic))
    return found


def ranked(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float, *, each: float = 1.0) -> int:
    """Rank 9 settings of a network that takes ``each`` seconds an image; return on how many of 32 images."""

    def answered(_net: object, settings: Any, frames: Any, _objective: object) -> Any:
        clock.now += each * len(settings) * len(frames) / 2  # two at once
        return np.zeros((len(settings), len(frames), 5), np.float32)

    monkeypatch.setattr(units, "answered", answered)
    monkeypatch.setattr(units, "cores", lambda: 2)
    settings = cast(Any, list(range(9)))
    found = answered_in_time(cast(Any, None), settings, cast(Any, list(range(32))), Classes(None, "logits"), seconds)
    assert found.shape[::2] == (9, 5)
    return int(found.shape[1])


def test_a_ranking_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    assert ranked(monkeypatch, clock, 1000) == 32
    clock.now = 0
    assert ranked(monkeypatch, clock, 100) == 22
    assert clock.now <= 100


def test_a_ranking_for_which_there_is_no_time_is_not_begun(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    assert ranked(monkeypatch, clock, 10) == 0
    assert clock.now <= 1


def test_a_ranking_cut_short_is_done_again_with_more_time(tmp_path: Path) -> None:
    def once(limit: float, values: dict[str, Any]) -> Entry:
        return Journal(tmp_path, Silent().warn).once("rank", "units", {}, lambda: values, limit=limit)

    short, whole = {"images": 8, "cut_short": True}, {"images": 32, "cut_short": False}
    assert once(100, short).values == short
    assert once(105, whole).values == short  # hardly more time
    assert once(200, whole).values == whole
    assert once(900, short).values == whole


# The whole search, on stubs.


class Stub:
    """Trials that take seconds of the clock; plain int8 with rounded weights is the better one."""

    def __init__(self, clock: Clock, journal: Journal) -> None:
        self.clock, self.journal = clock, journal
        self.kept: list[Any] = []

    def _done(self, kind: str, name: str, precision: Precision, seconds: float, limit: float = 0.0) -> Entry:
        def work() -> dict[str, Any]:
            self.clock.now += seconds
            good = precision.rounding is not None
            n, other = 200, 4 if good else 30
            found = {"n": n, "agreement": n - other, "divergence": 0.1 if good else 1.0}
            found |= {"other": [0] * (n - other) + [1] * other}
            return {
                "measured": found,
                "latency_us": 100.0,
                "bit_exact": True,
                "compile_s": 0.8 * seconds,
                "verify_s": 0.1 * seconds,
                "measure_s": 0.1 * seconds,
            }

        return self.journal.once(kind, name, {"name": name}, work, limit=limit)

    def quick(self, name: str, precision: Precision, _images: object, limit: float) -> Entry:
        return self._done("build", name, precision, 20, limit)

    def ship(self, name: str, precision: Precision, _images: object, limit: float) -> Entry:
        return self._done("ship", name, precision, 100, limit)

    def report(self, name: str, precision: Precision, _images: object, _limit: float) -> Entry:
        return self._done("report", name, precision, 5)


@define(eq=False)
class OnStubs(Search):
    """A search without a network."""

    def load(self, part: str) -> Any:
        return part


def search(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, folder: Path, *, ranking: float, seconds: float = 1800
) -> tuple[list[str], str, list[str]]:
    """Return the names of the programs, the chosen one, and what was left out."""
    folder.mkdir(exist_ok=True)
    request = SimpleNamespace(precision=Precision("int8"), spec=SimpleNamespace(name="m"))
    made = OnStubs(cast(Any, request), cast(Any, SimpleNamespace(root=folder)), SearchOptions(seconds=seconds), Quiet())
    given = {
        "toolchain": None,
        "equalizable": False,
        "splittable": False,
        "rewritable": False,
        "selection": None,
        "_started": clock.now,
    }
    halves = SimpleNamespace(selection=range(200), report=range(200))
    for name, value in {**given, "halves": (halves, ""), "trials": Stub(clock, made.journal)}.items():
        setattr(made, name, value)

    def units_ranked(found: Context, *_: object) -> Int16Sets:
        """A ranking as long as it would like, that keeps to the limit it is given."""
        clock.now += min(ranking, max(0.0, units.RANKING * (found.left - found.reserve)))
        return Int16Sets()

    monkeypatch.setattr(MODULE, "search_int16_units", units_ranked)
    monkeypatch.setattr(MODULE, "outcome", lambda _search, points, _path, chosen, why, _budget: (points, chosen, why))
    points, chosen, _ = cast(Any, made.run())
    return [point.name for point in points], points[chosen].name, made.left_out


def test_the_better_recipe_is_compiled_however_long_a_ranking_would_be(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, tmp_path: Path
) -> None:
    names, chosen, _ = search(monkeypatch, clock, tmp_path / "a", ranking=1e6)
    assert names[0] == PLAIN
    assert "plain int8, rounded" in names
    assert chosen == "plain int8, rounded"
    assert clock.now <= 1800


@pytest.mark.parametrize("seconds", [250, 400])
def test_time_is_for_each_run(monkeypatch: pytest.MonkeyPatch, clock: Clock, tmp_path: Path, seconds: float) -> None:
    """The first run has time for plain int8 and little more; the next ones go on."""
    _, chosen, left_out = search(monkeypatch, clock, tmp_path / "a", ranking=10, seconds=seconds)
    assert left_out
    for _run in range(6):
        began = clock.now
        names, chosen, left_out = search(monkeypatch, clock, tmp_path / "a", ranking=10, seconds=seconds)
        assert clock.now - began <= seconds
    assert (chosen, left_out) == ("plain int8, rounded", [])
    assert len(names) >= 3


@pytest.mark.parametrize("left_out", [["a program of mix"], []])
def test_a_search_that_left_work_out_keeps_what_took_minutes(tmp_path: Path, left_out: list[str]) -> None:
    made = {f"{name}-{'0' * 12}" for name in ("calibrate", "compile", "round", "thresholds")}
    for name in made:
        (tmp_path / STAGES / name).mkdir(parents=True)
    done = SimpleNamespace(done=[SimpleNamespace(dir=tmp_path / STAGES / f"calibrate-{'0' * 12}")])
    trials, workspace = SimpleNamespace(kept=[]), SimpleNamespace(root=tmp_path)
    Context.prune(cast(Any, SimpleNamespace(build=done, trials=trials, workspace=workspace, left_out=left_out)))
    gone = {"compile"} if left_out else {"compile", "round", "thresholds"}
    assert {path.name for path in (tmp_path / STAGES).iterdir()} == {x for x in made if x.partition("-")[0] not in gone}


def test_what_was_left_out_and_how_to_go_on_are_told() -> None:
    found: TuneResult = evolve(result("0" * 64), left_out=("a program of kl", "a quick build of mix"))
    shown = tune_table(found, Path("build/m"), None)
    assert "left out     a program of kl and 1 more; all of it in tune.json" in shown
    assert "go on with   edge tune m   (--time is for each run; nothing is repeated)" in shown
    assert "go on with" not in tune_table(result("0" * 64), Path("build/m"), None)


def test_the_build_can_be_read_while_it_is_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder is free during the search; before, edge eval waited for its end."""
    told: list[str] = []

    class Searching:
        def __init__(self, *_: object) -> None: ...

        def run(self) -> None:
            listener = Silent()
            with Workspace(tmp_path / "m", listener):
                told.append("read")
            told.extend(listener.warnings)

        def stages_of(self, _: object) -> frozenset[str]:
            return frozenset()

        def prune(self) -> None: ...

    monkeypatch.setattr(MODULE, "Search", Searching)
    monkeypatch.setattr(MODULE, "choose_compiler", lambda *_: "a compiler")
    started = time.monotonic()
    folder = Workspace(tmp_path / "m", Silent())
    tune_module(cast(Any, SimpleNamespace(spec=SimpleNamespace(task="classify"))), folder, SearchOptions(), Quiet())
    assert told == ["read"]
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("worker", ["w1", ""])
def test_a_trial_that_a_worker_did_ahead_is_shown_as_made(worker: str) -> None:
    shown: list[tuple[bool, str]] = []
    search: Any = SimpleNamespace(
        journal=SimpleNamespace(done=3),
        listener=SimpleNamespace(
            begin=lambda _: None, end=lambda _stage, _seconds, *, cached, note: shown.append((cached, note))
        ),
        crew=SimpleNamespace(by=lambda _: worker and f"worker {worker}"),
    )
    entry = Entry("key", "latency", "head", 1.0)
    assert Context.attempt(search, "cost", lambda: entry, lambda _: "9.0 us") is entry
    assert shown == [(not worker, f"head: 9.0 us{' (worker w1)' if worker else ''}")]
