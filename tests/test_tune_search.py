"""The search over units and its journal, on numbers that are made up: no compiler."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cattrs
import numpy as np
import pytest
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import CompileError, CompileTimeout, EdgeError, NotEnoughMemory, WorkspaceError
from edge.folder.code import ROOT, code_digest
from edge.folder.store import Store
from edge.measure.objective import Classes, Measured
from edge.measure.scores import divergence
from edge.progress import Quiet, Silent
from edge.specs import Calibration, NodePrecision, Precision
from edge.specs.schema import Rounding
from edge.tune import Point, SearchOptions
from edge.tune.choice import changes, compared, recommended
from edge.tune.context import Candidate, Context
from edge.tune.journal import FILE, FORMER, PART, Journal
from edge.tune.tune import Search
from edge.tune.units import LENIENT, finalists, greedy, tightened_budget

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
    net = Net({"a": 0.0, "b": 0.0, "c": 0.1, "d": 0.0}, {"a": 10, "b": 10, "c": 10, "d": 10}, {frozenset("ab"): 0.6})
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


def journal(folder: Path, listener: Silent | None = None, code: str = "") -> Journal:
    return Journal(folder, (listener or Silent()).warn, code)


def trial(kept: Journal, name: str, work: Callable[[], dict[str, Any]] | None = None) -> Any:
    return kept.once("build", name, {"name": name}, work or (lambda: {"value": len(name)}))


def stored(folder: Path) -> list[dict[str, Any]]:
    with Store(folder, FILE, Silent().warn) as store:
        return [json.loads(value) for _, value in store.items(PART)]


def never() -> dict[str, Any]:
    raise AssertionError("a finished trial was repeated")


def test_a_finished_trial_is_not_repeated(tmp_path: Path) -> None:
    first = trial(journal(tmp_path), "a")
    again = journal(tmp_path)
    assert trial(again, "a", never) == first
    assert (again.done, list(again.used.values())) == (0, [first])


def test_the_time_of_earlier_trials_counts(tmp_path: Path) -> None:
    earlier = journal(tmp_path)
    trial(earlier, "a")
    ((key, entry),) = earlier._known.items()
    with Store(tmp_path, FILE, Silent().warn) as store:
        store.put(PART, {bytes.fromhex(key): json.dumps(cattrs.unstructure(evolve(entry, seconds=90))).encode()})
    again = journal(tmp_path)
    assert again.spent == 0  # not asked for in this search
    trial(again, "a", never)
    assert again.spent == 90


def test_a_journal_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    trial(journal(whole), "a")
    trial(journal(whole), "b")
    data = (whole / FILE).read_bytes()
    for cut in range(1, len(data), 1777):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / FILE).write_bytes(data[:cut])
        listener = Silent()
        again = journal(folder, listener)
        trial(again, "a")
        trial(again, "b")
        assert len(listener.warnings) <= 1
        assert {entry["name"] for entry in stored(folder)} == {"a", "b"}
        trial(journal(folder), "a", never)


def test_a_damaged_entry_is_a_trial_to_do_again(tmp_path: Path) -> None:
    trial(journal(tmp_path), "a")
    trial(journal(tmp_path), "b")
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes().replace(b'"name": "a"', b'"name": "c"'))
    again = journal(tmp_path)
    assert trial(again, "b", never).values == {"value": 1}
    assert trial(again, "a").name == "a"
    assert again.done == 1


def test_a_journal_of_an_earlier_edge_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / FORMER).write_text('{"key": "k", "kind": "build", "name": "x", "seconds": 9, "values": {}}\n')
    listener = Silent()
    trial(journal(tmp_path, listener), "a")
    (told,) = listener.warnings
    assert FORMER in told
    assert "computed again" in told
    assert not (tmp_path / FORMER).exists()
    trial(journal(tmp_path, listener), "a", never)
    assert listener.warnings == [told]


def test_other_code_makes_another_trial(tmp_path: Path) -> None:
    assert trial(journal(tmp_path, code="1"), "a").values == {"value": 1}
    assert trial(journal(tmp_path, code="2"), "a", lambda: {"value": 2}).values == {"value": 2}
    assert trial(journal(tmp_path, code="1"), "a", never).values == {"value": 1}


def test_a_failed_compile_is_one_failed_trial(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise CompileError("hbdk-cc", "no")

    assert "hbdk-cc" in trial(journal(tmp_path), "a", fail).failed
    assert trial(journal(tmp_path), "a", never).failed


def test_a_hung_compile_is_tried_again_only_with_more_time(tmp_path: Path) -> None:
    def hang() -> dict[str, Any]:
        raise CompileTimeout("hbdk-cc", "stopped at the time limit")

    def once(limit: float, work: Callable[[], dict[str, Any]]) -> Any:
        return journal(tmp_path).once("ship", "a", {}, work, limit=limit)

    assert once(60, hang).failed
    assert once(60, never).failed
    assert once(120, lambda: {"latency_us": 1.0}).values == {"latency_us": 1.0}
    assert once(300, never).values == {"latency_us": 1.0}


@pytest.mark.parametrize("error", [WorkspaceError("disk full"), NotEnoughMemory("takes 8 GiB, 4 are free")])
def test_what_the_machine_lacks_is_no_result(tmp_path: Path, error: EdgeError) -> None:
    def lacks() -> dict[str, Any]:
        raise error

    with pytest.raises(type(error)):
        trial(journal(tmp_path), "a", lacks)
    assert stored(tmp_path) == []
    assert trial(journal(tmp_path), "a", lambda: {"latency_us": 1.0}).values == {"latency_us": 1.0}


class Killed(BaseException):
    """Stands for a kill."""


def searched(folder: Path, kill_after: int | None) -> tuple[tuple[str, ...], int]:
    """Search through a journal; the trial behind ``kill_after`` is killed."""
    net = Net(
        {"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.0, "e": 0.0},
        {"a": 30, "b": 10, "c": 50, "d": 5, "e": 5},
        {frozenset("de"): 0.25},
    )
    kept = journal(folder)

    def measured(kind: str, value: Callable[[frozenset[str]], float | None]) -> Any:
        def ask(chosen: frozenset[str]) -> float | None:
            def work() -> dict[str, Any]:
                if kept.done == kill_after:
                    raise Killed
                if chosen == frozenset("ab") and kind == "latency":
                    raise CompileError("hbdk-cc", "fails with these two")
                return {"value": value(chosen)}

            entry = kept.once(kind, "+".join(sorted(chosen)), {"units": sorted(chosen)}, work)
            return None if entry.failed else entry.values["value"]

        return ask

    steps = greedy(net.prices, measured("damage", net.damage), measured("latency", net.latency), budget=BASE + 90)
    return steps[-1].units, kept.done


def test_killed_at_any_point_and_resumed_it_reaches_the_same_answer(tmp_path: Path) -> None:
    answer, trials = searched(tmp_path / "whole", None)
    assert trials > 10
    for point in range(trials):
        folder = tmp_path / str(point)
        with pytest.raises(Killed):
            searched(folder, point)
        assert searched(folder, None) == (answer, trials - point)
        keys = [entry["key"] for entry in stored(folder)]
        assert len(keys) == len(set(keys)) == trials


# What a trial's key depends on.


@pytest.mark.parametrize(
    "module", ["compiler/rules_model", "compiler/node_names", "measure/networks", "runtime/net", "graph/files"]
)
def test_code_that_a_trial_runs_is_part_of_its_key(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "edge"
    shutil.copytree(ROOT, package, ignore=shutil.ignore_patterns("__pycache__", "zoo"))
    monkeypatch.setattr("edge.tune.context.code_digest", partial(code_digest, root=package))

    def key() -> str:
        code_digest.cache_clear()
        search: Any = Context(cast(Any, None), cast(Any, SimpleNamespace(root=tmp_path)), SearchOptions(), Quiet())
        return str(search.journal.once("ship", "a", {}, dict).key)

    before = key()
    assert key() == before
    path = package / f"{module}.py"
    path.write_text(path.read_text() + "\n# changed\n")
    assert key() != before


# The measure of accuracy.


def test_divergence_sees_what_counts_do_not() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(0, 3, (50, 10)).astype(np.float32)
    near = reference + rng.normal(0, 0.01, reference.shape).astype(np.float32)
    far = reference + rng.normal(0, 0.1, reference.shape).astype(np.float32)
    assert divergence(reference, reference, "logits") == 0
    assert 0 < divergence(reference, near, "logits") < divergence(reference, far, "logits")
    # A constant added to all scores changes no probability.
    assert divergence(reference, reference + 5, "logits") == pytest.approx(0, abs=1e-9)


def test_divergence_of_probabilities_and_of_their_scores_is_the_same() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 2, (2, 20, 5)).astype(np.float32)

    def softmax(x: Any) -> Any:
        return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)

    wanted = divergence(a, b, "logits")
    assert divergence(softmax(a), softmax(b), "softmax") == pytest.approx(wanted, rel=1e-4)
    # Quantized probabilities do not add up to 1.
    assert divergence(softmax(a), softmax(b) * 0.98, "softmax") == pytest.approx(wanted, rel=1e-4)


def test_divergence_of_sigmoid_scores_judges_each_class_by_itself() -> None:
    a, b = np.array([[0.9, 0.5]], np.float32), np.array([[0.9, 0.25]], np.float32)
    assert divergence(a, a, "sigmoid") == 0
    assert divergence(a, b, "sigmoid") == pytest.approx(0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75))


def test_answers_are_counted_in_pairs() -> None:
    reference = np.eye(4, dtype=np.float32)[[0, 1, 2, 3]]
    scores = np.eye(4, dtype=np.float32)[[0, 1, 3, 0]]
    found = Classes(None, "logits").measured(reference * 9, scores * 9, [0, 0, 2, 0])
    assert (found.n, found.agreement, found.right, found.float_right) == (4, 2, 2, 2)
    assert (found.lost, found.gained, found.drop) == (1, 1, 0)
    assert found.other == (0, 0, 1, 1)
    assert Classes(None, "logits").measured(reference, scores, [0, None, 2, 0]).figure is None


# The choice.

INT8 = Precision("int8")
ROUNDED_ONLY = Precision("m", rounding=Rounding())


def point(
    name: str,
    other: int,
    *,
    latency: float = 100,
    divergence: float = 1.0,
    precision: Precision = INT8,
    selection: float | None = None,
    lost: int = 0,
) -> Point:
    """A recipe with other answers than float's on the last ``other`` of 500 images kept back, ``lost`` on the first."""
    changed = (1,) * lost + (0,) * (500 - other) + (1,) * (other - lost)
    report = Measured(500, 500 - other, divergence, other=changed)
    chosen_on = Measured(500, 500 - other, divergence if selection is None else selection)
    return Point(name, precision, latency, chosen_on, report)


def choice(*points: Point, budget: float = 110, options: SearchOptions | None = None) -> tuple[int | None, str]:
    return recommended(compared(points), options or SearchOptions(), budget)


def test_no_recipe_is_recommended_that_is_not_better_beyond_chance() -> None:
    """15 other answers of 500 become 9: p is 0.03 alone, and nothing after four tries."""
    int8, better = point("plain int8", 15), point("a", 9, divergence=0.5)
    assert choice(int8, better)[0] == 1
    worse = [point(name, 15, divergence=0.9) for name in "bcd"]
    chosen, why = choice(int8, better, *worse)
    assert chosen == 0
    assert why.startswith("plain int8: no recipe gives float's answer more often beyond chance")
    assert "a: float's answer on 485 → 491 of 500 images kept back, p = 0.13 after Holm for 4 recipes" in why


def test_a_recipe_that_loses_answers_is_never_better() -> None:
    assert choice(point("plain int8", 15), point("a", 40, divergence=0.1))[0] == 0


def test_what_is_better_on_the_images_of_the_search_alone_is_not_recommended() -> None:
    assert choice(point("plain int8", 15), point("a", 15, divergence=1.0, selection=0.1))[0] == 0


def test_the_simplest_of_those_that_are_not_worse_is_recommended() -> None:
    int8 = point("plain int8", 60)
    best = point("best", 20, divergence=0.30, precision=Precision("m", Calibration("kl"), rounding=Rounding()))
    simple = point("plain int8, rounded", 24, divergence=0.35, precision=ROUNDED_ONLY)
    chosen, why = choice(int8, best, simple)
    assert chosen == 2
    assert "440 → 476 of 500" in why
    assert why.endswith("fastest and simplest; it is the shipped recipe int8_rounded")
    # Where its scores, or its answers, are clearly worse, the best stays.
    assert choice(int8, best, evolve(simple, report=evolve(simple.report, divergence=0.45)))[0] == 1
    many = point("plain int8, rounded", 34, divergence=0.35, precision=ROUNDED_ONLY)
    assert choice(int8, best, many)[0] == 1


def test_of_recipes_that_are_equally_good_the_fastest_is_chosen() -> None:
    int8 = point("plain int8", 60)
    slow, fast = (point("slow", 20, latency=109, divergence=0.30), point("fast", 20, latency=101, divergence=0.31))
    assert choice(int8, slow, fast)[0] == 2
    assert choice(int8, slow, evolve(fast, latency_us=120))[0] == 1


def test_a_faster_recipe_that_loses_nothing_is_recommended() -> None:
    int8 = point("plain int8", 15)
    chosen, why = choice(int8, point("means", 15, latency=92, divergence=1.005))
    assert (chosen, "faster than plain int8" in why) == (1, True)
    assert choice(int8, point("means", 15, latency=92, divergence=1.5))[0] == 0
    assert choice(int8, point("means", 40, latency=92, lost=25))[0] == 0


def test_without_a_recipe_that_keeps_the_bars_there_is_none() -> None:
    assert choice(point("plain int8", 15), options=SearchOptions(min_agreement=99.0))[0] is None


def test_simpler_is_what_changes_fewer_settings() -> None:
    assert changes(INT8, INT8) == 0
    assert changes(ROUNDED_ONLY, INT8) == 1
    assert changes(evolve(ROUNDED_ONLY, rounding=Rounding(damping=0.1)), INT8) == 2
    assert changes(evolve(ROUNDED_ONLY, nodes={"/a": NodePrecision("BPU", outputs="int16")}), INT8) == 2
    assert changes(Precision("m", Calibration("max", max_percentile=0.9999)), INT8) == 2


@given(cheap=st.floats(1.01, 3.0), left=st.floats(0.05, 1.0), expected=st.floats(1.0, 1.5))
def test_a_set_that_ships_too_slow_narrows_the_budget_to_what_ships(cheap: float, left: float, expected: float) -> None:
    shipped = 1 + left * (cheap - 1)  # what is left of the price at the level that ships
    ratio = tightened_budget(cheap, shipped, expected)
    if shipped <= expected:
        assert ratio is None
        return
    assert ratio is not None
    budget = 1 + LENIENT * (ratio - 1)  # what the search lets a set take at the cheap level
    assert budget < cheap
    assert 1 + left * (budget - 1) == pytest.approx(expected)


def test_a_set_without_a_price_narrows_nothing() -> None:
    assert tightened_budget(1.0, 1.2, 1.1) is None


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        (Calibration(), Calibration("max", optimization=("asymmetric",))),
        (
            Calibration(optimization=("bias_correction",)),
            Calibration("max", optimization=("bias_correction", "asymmetric")),
        ),
        (Calibration("mix"), Calibration("mix")),
    ],
)
def test_beside_16_bits_the_compiler_does_not_choose_again(own: Calibration, wanted: Calibration) -> None:
    built: list[Precision] = []

    def build(precision: Precision, _limit: float, *, keep: bool) -> SimpleNamespace:
        built.append(precision)
        done = SimpleNamespace(result=SimpleNamespace(calibration_method="max:asymmetric"))
        return SimpleNamespace(stage=lambda _: done)

    search = SimpleNamespace(trials=SimpleNamespace(build=build), limit=lambda: 1.0)
    found = Search._pinned(
        cast(Any, search), Candidate("any", Precision("p", calibration=own), Measured(n=1, agreement=1, divergence=0.0))
    )
    assert found.precision.calibration == wanted
    # What was chosen is known from the quick build that measured the candidate.
    assert [one.compiler.optimize_level for one in built] == ["O0"] * (own.method == "default")
