"""The search over units and its journal, on numbers that are made up: no compiler."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import CompileError, CompileTimeout, NotEnoughMemory, WorkspaceError
from edge.specs import Precision
from edge.tune import Options
from edge.tune.journal import Journal
from edge.tune.outcome import chosen_of
from edge.tune.rank import compare, divergence
from edge.tune.result import Measured, Point
from edge.tune.search import finalists, greedy
from edge.tune.units import LENIENT, narrowed

BASE = 1000.0


@define
class Net:
    """A network of made-up numbers: what units win alone and in pairs, and what they cost."""

    wins: dict[str, float]
    prices: dict[str, float]
    together: dict[frozenset[str], float] = field(factory=dict)
    slow: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    asked: list[frozenset[str]] = field(factory=list)

    def damage(self, chosen: frozenset[str]) -> float:
        won = sum(self.wins[unit] for unit in chosen)
        won += sum(extra for pair, extra in self.together.items() if pair <= chosen)
        return 1.0 - won

    def latency(self, chosen: frozenset[str]) -> float | None:
        self.asked.append(chosen)
        if chosen & self.broken and len(chosen) > 1:
            return None
        return BASE + sum(self.prices[unit] for unit in chosen) + 500 * len(chosen & self.slow)

    def best(self, budget: float) -> frozenset[str]:
        """Return the least damage within the budget, by trying all."""
        sets = chain.from_iterable(combinations(self.wins, n) for n in range(len(self.wins) + 1))
        fits = [s for s in map(frozenset, sets) if (self.latency(s) or 1e9) <= budget]
        return min(fits, key=lambda s: (round(self.damage(s), 9), len(s)))

    def search(self, budget: float) -> tuple[str, ...]:
        return greedy(self.prices, self.damage, self.latency, budget=budget)[-1].units


def test_units_that_pay_are_added_and_the_others_left() -> None:
    net = Net({"a": 0.5, "b": 0.3, "c": 0.001}, {"a": 10, "b": 20, "c": 1})
    assert net.search(BASE + 100) == ("a", "b")


def test_a_pair_that_helps_only_together_is_found() -> None:
    net = Net(
        {"a": 0.0, "b": 0.0, "c": 0.1, "d": 0.0},
        {"a": 10, "b": 10, "c": 10, "d": 10},
        {frozenset("ab"): 0.6},
    )
    assert net.search(BASE + 40) == ("a", "b", "c")


def test_a_unit_that_a_later_one_makes_needless_is_dropped() -> None:
    net = Net({"a": 0.4, "whole": 0.9}, {"a": 1, "whole": 60}, {frozenset(("a", "whole")): -0.4})
    assert net.search(BASE + 100) == ("whole",)


def test_the_budget_holds_for_the_set_not_for_the_sum_of_its_parts() -> None:
    """Two units that are cheap alone and slow together are not taken together."""
    net = Net({"a": 0.5, "b": 0.4}, {"a": 10, "b": 10})

    def latency(chosen: frozenset[str]) -> float:
        return BASE + 10 * len(chosen) + (300 if len(chosen) == 2 else 0)

    steps = greedy(net.prices, net.damage, latency, budget=BASE + 50)
    assert [step.units for step in steps] == [(), ("a",)]


def test_a_set_that_can_not_be_compiled_is_passed_over() -> None:
    net = Net({"a": 0.5, "b": 0.2, "c": 0.2}, {"a": 10, "b": 10, "c": 11}, broken=frozenset("b"))
    assert net.search(BASE + 100) == ("a", "c")


def test_parts_of_one_unit_are_not_added_to_it() -> None:
    net = Net({"norm": 0.5, "norm: A → B": 0.4}, {"norm": 10, "norm: A → B": 1})
    steps = greedy(
        net.prices,
        net.damage,
        net.latency,
        budget=BASE + 100,
        within=lambda a, b: a.startswith("norm") and b.startswith("norm"),
    )
    assert steps[-1].units == ("norm: A → B",)


def test_no_time_left_ends_the_search_with_what_it_has() -> None:
    net = Net({"a": 0.5, "b": 0.3}, {"a": 10, "b": 10})
    left = iter(range(3))
    steps = greedy(
        net.prices,
        lambda chosen: net.damage(chosen) if next(left, None) is not None else None,
        net.latency,
        budget=BASE + 100,
    )
    assert [step.units for step in steps] == [(), ("a",)]
    assert greedy(net.prices, lambda _: None, net.latency, budget=BASE) == ()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 0.15), min_size=6, max_size=6),
    st.lists(st.floats(1, 60), min_size=6, max_size=6),
    st.floats(0, 250),
)
def test_within_budget_and_near_the_optimum(wins: list[float], prices: list[float], room: float) -> None:
    names = "abcdef"
    net = Net(dict(zip(names, wins, strict=True)), dict(zip(names, prices, strict=True)))
    found = frozenset(net.search(BASE + room))
    assert (net.latency(found) or 1e9) <= BASE + room
    best = net.best(BASE + room)
    # Greedy by gain per cost wins at least what the optimum wins without its one largest unit.
    least = net.damage(best) + max((net.wins[u] for u in best), default=0.0) + 6 * 0.02
    assert net.damage(found) <= least + 1e-9


def test_finalists_are_the_best_then_the_cheaper_ones() -> None:
    net = Net({"a": 0.6, "b": 0.25, "c": 0.1}, {"a": 1, "b": 20, "c": 40})
    steps = greedy(net.prices, net.damage, net.latency, budget=BASE + 100)
    assert [step.units for step in finalists(steps, 4)] == [("a", "b", "c"), ("a", "b"), ("a",), ()]
    assert finalists((), 3) == ()


# The journal.


def trial(journal: Journal, name: str, work: Callable[[], dict[str, Any]] | None = None) -> Any:
    return journal.once("build", name, {"name": name}, work or (lambda: {"value": len(name)}))


def never() -> dict[str, Any]:
    raise AssertionError("a finished trial was repeated")


def test_a_finished_trial_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    first = trial(Journal(path), "a")
    again = Journal(path)
    assert trial(again, "a", never) == first
    assert (again.done, list(again.used.values())) == (0, [first])


def test_the_time_of_earlier_trials_counts(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(
        json.dumps({"key": "k", "kind": "build", "name": "x", "seconds": 90, "values": {}}) + "\n"
    )
    journal = Journal(path)
    assert journal.spent == 0  # not asked for in this search
    journal.used["k"] = journal._known["k"]
    assert journal.spent == 90


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    trial(Journal(path), "a")
    whole = path.read_bytes()
    trial(Journal(path), "b")
    for cut in range(len(whole) + 1, path.stat().st_size, 17):
        data = path.read_bytes()
        path.write_bytes(data[:cut])
        journal = Journal(path)
        assert path.read_bytes() == whole
        trial(journal, "a", never)
        trial(journal, "b")
        assert path.read_bytes().count(b"\n") == 2


def test_a_damaged_line_is_a_trial_to_do_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    trial(Journal(path), "a")
    path.write_bytes(b"\x00\xff garbage\n" + path.read_bytes())
    assert trial(Journal(path), "a", never).values == {"value": 1}


def test_a_failed_compile_is_one_failed_trial(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise CompileError("hbdk-cc", "no")

    path = tmp_path / "j.jsonl"
    assert "hbdk-cc" in trial(Journal(path), "a", fail).failed
    assert trial(Journal(path), "a", never).failed


def test_a_hung_compile_is_tried_again_only_with_more_time(tmp_path: Path) -> None:
    def hang() -> dict[str, Any]:
        raise CompileTimeout("hbdk-cc", "stopped at the time limit")

    path = tmp_path / "j.jsonl"

    def once(limit: float, work: Callable[[], dict[str, Any]]) -> Any:
        return Journal(path).once("ship", "a", {}, work, limit=limit)

    assert once(60, hang).failed
    assert once(60, never).failed
    assert once(120, lambda: {"latency_us": 1.0}).values == {"latency_us": 1.0}
    assert once(300, never).values == {"latency_us": 1.0}


def test_a_full_disk_is_no_result(tmp_path: Path) -> None:
    def full() -> dict[str, Any]:
        raise WorkspaceError("disk full")

    path = tmp_path / "j.jsonl"
    with pytest.raises(WorkspaceError):
        trial(Journal(path), "a", full)
    assert not path.exists()


def test_too_little_free_memory_is_no_result(tmp_path: Path) -> None:
    def refused() -> dict[str, Any]:
        raise NotEnoughMemory("takes 8 GiB, and 4 GiB are free")

    path = tmp_path / "j.jsonl"
    with pytest.raises(NotEnoughMemory):
        trial(Journal(path), "a", refused)
    assert trial(Journal(path), "a", lambda: {"latency_us": 1.0}).values == {"latency_us": 1.0}


class Killed(BaseException):
    """Stands for a kill."""


def searched(path: Path, kill_after: int | None) -> tuple[tuple[str, ...], int]:
    """Search through a journal; the trial behind ``kill_after`` is killed."""
    net = Net(
        {"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.0, "e": 0.0},
        {"a": 30, "b": 10, "c": 50, "d": 5, "e": 5},
        {frozenset("de"): 0.25},
    )
    journal = Journal(path)

    def measured(kind: str, value: Callable[[frozenset[str]], float | None]) -> Any:
        def ask(chosen: frozenset[str]) -> float | None:
            def work() -> dict[str, Any]:
                if journal.done == kill_after:
                    raise Killed
                if chosen == frozenset("ab") and kind == "latency":
                    raise CompileError("hbdk-cc", "fails with these two")
                return {"value": value(chosen)}

            entry = journal.once(kind, "+".join(sorted(chosen)), {"units": sorted(chosen)}, work)
            return None if entry.failed else entry.values["value"]

        return ask

    steps = greedy(
        net.prices, measured("damage", net.damage), measured("latency", net.latency), budget=BASE + 90
    )
    return steps[-1].units, journal.done


def test_killed_at_any_point_and_resumed_it_reaches_the_same_answer(tmp_path: Path) -> None:
    answer, trials = searched(tmp_path / "whole.jsonl", None)
    assert trials > 10
    for point in range(trials):
        path = tmp_path / f"{point}.jsonl"
        with pytest.raises(Killed):
            searched(path, point)
        assert searched(path, None) == (answer, trials - point)
        keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
        assert len(keys) == len(set(keys)) == trials


# The measure of accuracy.


def test_divergence_sees_what_counts_do_not() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(0, 3, (50, 10)).astype(np.float32)
    near = reference + rng.normal(0, 0.01, reference.shape).astype(np.float32)
    far = reference + rng.normal(0, 0.1, reference.shape).astype(np.float32)
    assert divergence(reference, reference) == 0
    assert 0 < divergence(reference, near) < divergence(reference, far)
    # A constant added to all scores changes no probability.
    assert divergence(reference, reference + 5) == pytest.approx(0, abs=1e-9)


def test_divergence_of_probabilities_and_of_their_scores_is_the_same() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 2, (2, 20, 5)).astype(np.float32)

    def softmax(x: Any) -> Any:
        return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)

    assert divergence(softmax(a), softmax(b)) == pytest.approx(divergence(a, b), rel=1e-4)


def test_compare_counts_pairs() -> None:
    reference = np.eye(4, dtype=np.float32)[[0, 1, 2, 3]]
    scores = np.eye(4, dtype=np.float32)[[0, 1, 3, 0]]
    found = compare(reference * 9, scores * 9, [0, 0, 2, 0])
    assert (found.n, found.agreement, found.right, found.float_right) == (4, 2, 2, 2)
    assert (found.lost, found.gained, found.drop) == (1, 1, 0)
    assert compare(reference, scores, [0, None, 2, 0]).top1 is None


def recipes(*rows: tuple[float, float]) -> list[Point]:
    """Recipes by (latency, divergence), plain int8 first."""
    return [
        Point(f"{i}", Precision(f"r{i}"), latency, Measured(100, 90, divergence))
        for i, (latency, divergence) in enumerate(rows)
    ]


def test_of_recipes_that_are_equally_true_the_fastest_is_chosen() -> None:
    options = Options()
    assert chosen_of(recipes((100, 1.0), (109, 0.020), (101, 0.025)), options, 110)[0] == 2
    assert chosen_of(recipes((100, 1.0), (109, 0.020), (101, 0.250)), options, 110)[0] == 1
    assert chosen_of(recipes((100, 1.0), (120, 0.020), (101, 0.250)), options, 110)[0] == 2
    assert chosen_of(recipes((100, 1.0), (92, 1.005)), options, 110)[0] == 1
    assert chosen_of(recipes((100, 1.0), (92, 1.5)), options, 110)[0] == 0


@given(
    cheap=st.floats(1.01, 3.0),
    left=st.floats(0.05, 1.0),
    allowed=st.floats(1.0, 1.5),
)
def test_a_set_that_ships_too_slow_narrows_the_budget_to_what_ships(
    cheap: float, left: float, allowed: float
) -> None:
    shipped = 1 + left * (cheap - 1)  # what is left of the price at the level that ships
    ratio = narrowed(cheap, shipped, allowed)
    if shipped <= allowed:
        assert ratio is None
        return
    assert ratio is not None
    budget = 1 + LENIENT * (ratio - 1)  # what the search lets a set take at the cheap level
    assert budget < cheap
    assert 1 + left * (budget - 1) == pytest.approx(allowed)


def test_a_set_without_a_price_narrows_nothing() -> None:
    assert narrowed(1.0, 1.2, 1.1) is None
