"""Which units get 16 bits: ranked on the calibrated model, cost measured by compiles, then searched.

The search is greedy and a pure function of measured numbers. It adds one unit at a time: the one with the largest gain
per added latency among those within the latency budget. Gains are measured again after each choice, since units act
together: two units that write into one sum gain little each while the other one still rounds. If no single unit helps,
pairs are tried. At the end every unit is tried without, since a later choice may have made an earlier one unnecessary.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from edge.compiler.node_names import NodeNames
from edge.errors import ModelFileError
from edge.graph.files import facts, load_onnx
from edge.images.frames import Frame, cores, spread
from edge.measure.layers import group
from edge.measure.objective import Objective
from edge.pipeline.stage import Inside
from edge.pipeline.stages import CALIBRATE, COMPILE, SIMPLIFY
from edge.prepare.range_split import find_places
from edge.simulate.fakequant import AS_BUILT, FLOAT, INT16, FakeQuant
from edge.specs import NodePrecision, Precision
from edge.tune import spaces
from edge.tune.context import LEAST_LIMIT, Candidate, Context
from edge.tune.journal import Entry
from edge.tune.trials import LEVEL, Answering, Costs

SINGLES_ON = 32  # images on which every unit is tried alone
FEWEST = 8  # images; a ranking on fewer is no ranking
RANKING = 0.4  # share of the time left besides the reserve that one ranking may take
SETS_ON = 96  # images on which sets are compared
SHORTLIST = 12  # units whose cost is measured first
MORE, ROUNDS = 8, 2  # further units in each later round, and number of these rounds
SETTLED = 0.05  # of the divergence at the start; if less is left, another ranking is not worth its time
LEAST = 0.005  # of the divergence at the start; a unit that alone gains less is not considered
# Int16 costs more at the cheap level than at the level that ships, where transfers hide part of it.
LENIENT = 3.0
FINALISTS = 3
MOST = 0.8  # of what all places to split could gain: so much has to be in those that are chosen
# Of the search over sets:
LEAST_GAIN = 0.005  # of the damage at the start; a smaller gain is not worth a unit
NEEDLESS = 0.002  # of the damage at the start; a unit that gains less at the end is dropped
LEAST_COST = 0.002  # of the latency at the start; smaller costs count as equal
PAIRS_OF = 6  # best single units, from which pairs are made
TRIED = 3  # units that may be too slow together with the chosen ones before a round ends

Chosen = frozenset[str]
Ahead = Callable[[Sequence[Chosen], Sequence[Chosen], bool], None]
Damage = Callable[[Chosen], float | None]
Latency = Callable[[Chosen], float | None]


@frozen
class Step:
    """A set of units that the search passed through."""

    units: tuple[str, ...]  #: names of the units at 16 bits, sorted.
    divergence: float  #: mean divergence from float, on the calibrated model.
    latency_us: float  #: at the cheap level, microseconds.


@frozen
class Int16Sets:
    """The result of the search over units."""

    steps: tuple[Step, ...] = ()  #: from the empty set to the best.
    #: name and settings of the sets worth a program, the best first.
    sets: tuple[tuple[str, Mapping[str, NodePrecision]], ...] = ()


def search_int16_units(search: Context, best: Candidate, compiled: Precision, ratio: float) -> Int16Sets:
    """Search units for 16 bits on top of a calibration; ``ratio`` limits the latency relative to plain int8."""
    try:
        units = _Units(search, compiled)
    except ModelFileError as error:
        search.listener.warn(f"no 16-bit units are searched: the calibrated model can't be simulated ({error.seen})")
        return Int16Sets()
    steps = units.search(best.measured.divergence, ratio)
    worth = [step.units for step in finalists(steps, FINALISTS) if step.units]
    return Int16Sets(
        steps,
        tuple((f"{len(names)} unit{'s' if len(names) > 1 else ''} int16", units.settings(names)) for names in worth),
    )


def tightened_budget(cheap: float, shipped: float, expected: float) -> float | None:
    """Return the ratio for another search if the best set was slower than the limit, else None.

    Args:
        cheap: latency of the best set at the cheap level, relative to int8's at that level.
        expected: latency limit relative to plain int8's.
    """
    if shipped <= expected or cheap <= 1:
        return None
    return 1 + (cheap - 1) / (shipped - 1) * (expected - 1) / LENIENT


def with_nodes(best: Candidate, name: str, nodes: Mapping[str, NodePrecision]) -> Candidate:
    """Return a calibration with settings added; its figures are the calibration's until it is measured."""
    return Candidate(f"{best.name} + {name}", evolve(best.precision, nodes=dict(nodes)), best.measured)


def places_to_split(search: Context) -> tuple[str, ...]:
    """Return the places of :mod:`edge.prepare.range_split` that lose most, the worst first; empty if unknown.

    A place's loss is what the answers gain on the calibrated model of plain int8 if its tensors are not rounded. The
    fewest places are taken that have :data:`MOST` of the sum.
    """
    build = search.trials.build(search.request.precision, search.limit(), keep=True)
    made = build.stage(COMPILE)
    name = f"{build.prefix}_calibrated_model.onnx"
    try:
        net = FakeQuant(made.path(name), outputs=search.objective.outputs)
    except ModelFileError as error:
        search.listener.warn(f"places to split are not compared: {error.seen}")
        return ()
    tensors: dict[str, list[int]] = {}
    for place in find_places(load_onnx(search.onnx)):
        nodes = {node.name for layer in (place.first, *place.depthwise) for node in layer.nodes}
        own = [i for i, item in enumerate(net.quantizers) if not item.weight and item.producer in nodes]
        if own:
            tensors[place.name] = own
    frames, reference = search.selection.frames[:SINGLES_ON], search.selection.reference[:SINGLES_ON]

    settings = [net.bits(AS_BUILT), *(net.bits(FLOAT, own, rest=AS_BUILT) for own in tensors.values())]

    def values(answers: Iterable[NDArray[np.float32]]) -> dict[str, Any]:
        before, *after = (search.objective.divergence(reference, one) for one in answers)
        return {"gains": {place: before - left for place, left in zip(tensors, after, strict=True)}}

    def work() -> dict[str, Any]:
        return values(answered(net, settings, frames, search.objective))

    def away(blank: Entry) -> Entry:
        assert search.crew is not None  # noqa: S101 - see below
        asked = Answering(
            made.path(name), made.sha256(name), search.objective.outputs, settings, search.selection, len(frames), 4
        )
        answers, seconds = search.crew.answers(asked)
        return evolve(blank, values=values(answers), seconds=seconds)

    search.listener.begin("places")
    earlier = search.journal.done
    inputs = {"model": made.sha256(name), "images": images_digest(frames), "places": list(tensors)}
    entry = search.journal.once(
        "places", f"{len(tensors)} places to split", inputs, work, away=away if search.crew else None
    )
    ranked = sorted(entry.values["gains"].items(), key=lambda pair: (-pair[1], pair[0]))
    gains = [max(gain, 0.0) for _, gain in ranked]
    taken = next((i for i in range(1, len(gains) + 1) if sum(gains[:i]) >= MOST * sum(gains)), 0)
    note = f"{entry.name}, each alone: {taken} of them have {100 * MOST:.0f} % of what they all could gain"
    search.listener.end("places", entry.seconds, cached=search.journal.done == earlier, note=note)
    return tuple(place for place, _ in ranked[:taken])


def images_digest(frames: Sequence[Frame]) -> str:
    """Return a sha256 of the images' pixels."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.rgb.tobytes())
    return digest.hexdigest()


class _Units:
    """The units of a calibrated model: their gains on images of the search, and their costs."""

    def __init__(self, search: Context, compiled: Precision) -> None:
        self._search = search
        build = search.trials.build(compiled, search.limit(), keep=True)
        made = build.stage(COMPILE)
        name = f"{build.prefix}_calibrated_model.onnx"
        self._path, self._model = made.path(name), made.sha256(name)
        self._net = FakeQuant(self._path, outputs=search.objective.outputs)
        graph, model = self._net.graph, load_onnx(search.onnx)
        names = NodeNames.of(facts(model, origin=search.onnx.name), model)
        fixed = [row.name for row in made.result.nodes if row.on == "CPU"]
        # The compiler's own nodes, which no recipe can name.
        fixed += [node.name for node in graph.nodes if node.name not in names or node.name in names.heirs]
        self._units = {unit.name: unit for unit in spaces.units(graph, group(graph), fixed)}
        simplified, calibration = search.build.stage(SIMPLIFY), search.build.stage(CALIBRATE)
        self._objective = search.objective
        self._costs = Costs(
            toolchain=search.toolchain,
            onnx=search.onnx,
            sha256=simplified.sha256(simplified.result.onnx),
            calibration=calibration.path(calibration.result.directory),
            preprocess=search.request.spec.preprocess,
            compiler=search.request.precision.compiler,
            journal=search.journal,
            folder=search.workspace.root,
            optimization=spaces.operator_items(search.request.precision),
            crew=search.crew,
        )

    def settings(self, names: Iterable[str]) -> dict[str, NodePrecision]:
        """Return the settings of a recipe that give units 16 bits."""
        return spaces.combined(self._units[name] for name in names)

    def search(self, start: float, ratio: float) -> tuple[Step, ...]:
        """Return the sets from the empty one to the best; none if there was no time.

        Units are first ranked alone. Once a set is found, the others are ranked again on top of it, since the worst
        units hide the effect of others. This is repeated until little can be gained.

        Args:
            start: divergence without any unit, nats.
            ratio: latency limit relative to plain int8's.
        """
        search = self._search
        self._costs_ahead(["all int8"], [()])
        self._ranking_ahead()  # while the latency is compiled
        base = self._cost("all int8", ())
        if base is None:
            return ()
        budget = base * (1 + LENIENT * (ratio - 1))
        prices: dict[str, float] = {}

        def latency(chosen: Chosen) -> float | None:
            return self._cost(" + ".join(sorted(chosen)), sorted(chosen)) if chosen else base

        steps: tuple[Step, ...] = ()
        seen: set[str] = set()
        for count in (SHORTLIST, *[MORE] * ROUNDS):
            if steps and steps[-1].divergence <= SETTLED * steps[0].divergence:
                break
            gains = self._gains(frozenset(steps[-1].units) if steps else frozenset())
            fresh = [name for name, gain in gains.items() if gain > LEAST * start and name not in seen]
            picked = self._picked(fresh, count)
            seen.update(picked)
            alone = [frozenset((name,)) for name in picked]
            self._ahead([frozenset(), *alone], alone, True)
            found = {name: self._cost(name, [name]) for name in picked}
            new = {name: price - base for name, price in found.items() if price is not None and price <= budget}
            if not picked:
                break
            if steps and not new:
                continue
            prices |= new
            search.listener.begin("search")
            before = search.journal.spent
            steps = (
                greedy(prices, self._damage, latency, budget=budget, within=self._within, ahead=self._ahead) or steps
            )
            seconds = search.journal.spent - before
            search.listener.end("search", seconds, cached=False, note=self._note(steps))
        return steps

    def _picked(self, fresh: list[str], count: int) -> list[str]:
        """Return the first of the units, half of them families, which gain most but also cost most."""
        large = [name for name in fresh if self._units[name].kind == spaces.FAMILY][: count // 2]
        small = [name for name in fresh if self._units[name].kind != spaces.FAMILY][: count - len(large)]
        return [*small, *large]

    def _gains(self, chosen: Chosen) -> dict[str, float]:
        """Return the gain of each unit on top of a set, in nats, the largest first, and report it.

        Empty if there is no time for it.
        """
        search = self._search
        limit = RANKING * (search.left - search.reserve)
        frames, reference = self._images(SINGLES_ON)
        names, settings, inputs = self._ranking(chosen)

        def done(n: int) -> None:
            search.listener.update(f"{n} of {len(frames)} images{search.standing()}", n / len(frames))

        def work() -> dict[str, Any]:
            return values(answered_in_time(self._net, settings, frames, self._objective, limit, done))

        def away(blank: Entry) -> Entry:
            assert search.crew is not None  # noqa: S101 - see below
            results, seconds = search.crew.answers(self._answering(settings, len(frames), 4), max(limit, 1.0))
            kept = values(results if results.shape[1] >= min(FEWEST, len(frames)) else results[:, :0])
            return evolve(blank, values=kept, seconds=seconds, limit=max(limit, 1.0) if kept["cut_short"] else 0.0)

        def values(results: NDArray[np.float32]) -> dict[str, Any]:
            n = results.shape[1]
            kept = {"images": n, "cut_short": n < len(frames)}
            if not n:
                return {**kept, "before": 0.0, "gains": {}}
            before, *after = (self._objective.divergence(reference[:n], result) for result in results)
            gains = {name: before - left for name, left in zip(names, after, strict=True)}
            return {**kept, "before": before, "gains": gains}

        search.listener.begin("rank")
        earlier = search.journal.done
        behind = f", behind {len(chosen)} chosen" if chosen else ", each alone"
        title = f"{len(names)} units{behind}"
        limited = max(limit, 1.0)
        entry = search.journal.once(
            "rank", title, inputs, work, limit=limited, away=away if search.crew is not None else None
        )
        n, before = int(entry.values["images"]), float(entry.values["before"])
        gains: dict[str, float] = dict(sorted(entry.values["gains"].items(), key=lambda pair: (-pair[1], pair[0])))
        if n < len(frames):
            on = f"only on {n} of {len(frames)} images" if n else "not at all"
            search.left_out.append(f"a ranking of {entry.name}: done {on}")
        top = [(name, gain) for name, gain in gains.items() if gain > 0][:3]
        # Shares of what was measured on the same images: what is left is never below 0.
        shown = ", ".join(f"{name} {100 * gain / before:.0f} %" for name, gain in top)
        first = f"the first remove of the divergence: {shown or 'nothing'}" if n else "no time left for it"
        note = f"{entry.name}{f' on {n} images' if 0 < n < len(frames) else ''}; {first}"
        search.listener.end("rank", entry.seconds, cached=search.journal.done == earlier, note=note)
        return gains

    def _ranking(self, chosen: Chosen) -> tuple[list[str], list[NDArray[np.uint8]], dict[str, object]]:
        """Return the units that a set lacks, the settings with and without each of them, and the ranking's inputs."""
        have = {i for name in chosen for i in self._units[name].widened}
        names = [name for name, unit in self._units.items() if not unit.widened <= have]
        settings = [self._bits(chosen), *(self._bits([*chosen, name]) for name in names)]
        return names, settings, {**self._identity(self._images(SINGLES_ON)[0], names), "chosen": sorted(have)}

    def _ranking_ahead(self) -> None:
        """Let a crew begin the answers of the first ranking."""
        search = self._search
        _, settings, inputs = self._ranking(frozenset())
        if search.crew is not None and search.left > search.reserve and search.journal.wanted("rank", "", inputs):
            count = len(self._images(SINGLES_ON)[0])
            search.crew.answers_ahead([self._answering(settings, count, 4)], likely=True)

    def _damage(self, chosen: Chosen) -> float | None:
        """Return the divergence with units at 16 bits; None if there is no time or it can't be measured."""
        search = self._search
        known = search.journal.of_kind("damage")
        if search.left < search.reserve + (known[-1].seconds if known else 0.0):
            search.left_out.append("more sets of 16-bit units")
            return None
        frames, reference = self._images(SETS_ON)
        names = sorted(chosen)

        def work() -> dict[str, float]:
            (result,) = answered(self._net, [self._bits(names)], frames, self._objective)
            return {"divergence": self._objective.divergence(reference, result)}

        def away(blank: Entry) -> Entry:
            assert search.crew is not None  # noqa: S101 - see below
            (result,), seconds = search.crew.answers(self._answering([self._bits(names)], len(frames), len(frames)))
            return evolve(blank, values={"divergence": self._objective.divergence(reference, result)}, seconds=seconds)

        search.listener.update(f"{len(names)} unit{'s' * (len(names) != 1)} at 16 bits{search.standing()}")
        inputs = self._identity(frames, names)
        entry = search.journal.once(
            "damage", " + ".join(names) or "no unit", inputs, work, away=away if search.crew is not None else None
        )
        return None if entry.failed else float(entry.values["divergence"])

    def _answering(self, settings: Sequence[NDArray[np.uint8]], count: int, at_once: int) -> Answering:
        selection = self._search.selection
        return Answering(self._path, self._model, self._objective.outputs, settings, selection, count, at_once)

    def _ahead(self, sets: Sequence[Chosen], costs: Sequence[Chosen], likely: bool) -> None:
        """Let a crew begin what the search over sets asks for next: damages, and latencies."""
        search = self._search
        if search.crew is None or search.left < search.reserve:
            return
        frames, _ = self._images(SETS_ON)
        asked = []
        for names in map(sorted, sets):
            inputs = self._identity(frames, names)
            if search.journal.wanted("damage", "", inputs) is not None:
                asked.append(self._answering([self._bits(names)], len(frames), len(frames)))
        search.crew.answers_ahead(asked, likely=likely)  # a second each, so before compiles
        self._costs_ahead([" + ".join(sorted(chosen)) for chosen in costs], costs, likely=likely)

    def _costs_ahead(
        self, names: Sequence[str], sets: Sequence[Iterable[str]] | None = None, *, likely: bool = True
    ) -> None:
        sets = [[name] for name in names] if sets is None else [sorted(chosen) for chosen in sets]
        limit = self._cost_limit()
        if self._search.left - self._search.reserve >= limit:
            asked = {name: self.settings(units) for name, units in zip(names, sets, strict=True)}
            self._costs.ahead(asked, limit, likely=likely)

    def _cost_limit(self) -> float:
        search = self._search
        known = [entry for entry in search.journal.of_kind("latency") if not entry.failed]
        # A set that takes many times longer to compile than int8 is also slow to run.
        usual = 6 * known[0].seconds if known else search.options.trial_seconds
        return max(min(usual, search.options.trial_seconds), LEAST_LIMIT)

    def _cost(self, name: str, units: Iterable[str]) -> float | None:
        """Return the latency with units at 16 bits, microseconds; None if there is no time or no program."""
        search = self._search
        known = [entry for entry in search.journal.of_kind("latency") if not entry.failed]
        limit = self._cost_limit()
        if search.left - search.reserve < min(limit, 2 * (known[-1].seconds if known else 20.0)):
            search.left_out.append(f"cost of {name}")
            return None
        reporter = Inside(search.listener, search.standing)
        entry = search.attempt(
            "cost",
            lambda: self._costs.measure(name, self.settings(units), limit, reporter),
            lambda entry: f"{entry.values['latency_us']:.1f} us at {LEVEL}",
        )
        return None if entry.failed else float(entry.values["latency_us"])

    def _within(self, a: str, b: str) -> bool:
        """Tell whether one unit is part of another, so that it adds nothing to it."""
        return self._units[a].widened <= self._units[b].widened

    def _images(self, count: int) -> tuple[Sequence[Frame], NDArray[np.float32]]:
        selection = self._search.selection
        return selection.frames[:count], selection.reference[:count]

    def _bits(self, names: Iterable[str]) -> NDArray[np.uint8]:
        widened = {i for name in names for i in self._units[name].widened}
        return self._net.bits(INT16, sorted(widened), rest=AS_BUILT)

    def _identity(self, frames: Sequence[Frame], names: Iterable[str]) -> dict[str, object]:
        units = [sorted(self._units[name].widened) for name in names]
        return {"model": self._model, "images": images_digest(frames), "units": units}

    def _note(self, steps: tuple[Step, ...]) -> str:
        if not steps:
            self._search.left_out.append("16-bit units: no time left")
            return "no time left for it"
        first, last = steps[0], steps[-1]
        return (
            f"16 bits at {len(last.units)} units ({', '.join(last.units) or 'none'}): divergence "
            f"{first.divergence:.5f} → {last.divergence:.5f}, "
            f"{last.latency_us / first.latency_us:.3f} times int8 at {LEVEL}"
        )


def answered(
    net: FakeQuant, settings: Sequence[NDArray[np.uint8]], frames: Sequence[Frame], objective: Objective
) -> NDArray[np.float32]:
    """Return the answers under each setting, float32 (settings, n, values)."""

    def one(frame: Frame) -> list[NDArray[np.float32]]:
        yuv = frame.yuv444
        return [objective.answer(net.run(yuv, setting), frame) for setting in settings]

    return np.stack([np.stack(row) for row in spread(one, frames)], axis=1)


def answered_in_time(
    net: FakeQuant,
    settings: Sequence[NDArray[np.uint8]],
    frames: Sequence[Frame],
    objective: Objective,
    seconds: float,
    done: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return answers, float32 (settings, n, values), to the first n images for which there is time.

    n is 0 if one run of the network tells that fewer than :data:`FEWEST` images would be done.
    """
    started, at_once = time.monotonic(), cores()
    answered(net, settings[:1], frames[:1], objective)  # the first run of a network is slower
    warm = time.monotonic()
    first = answered(net, settings[:1], frames[:1], objective)
    rounds = -(-min(FEWEST, len(frames)) // at_once)
    if warm - started + (time.monotonic() - warm) * len(settings) * rounds > seconds:
        return np.empty((len(settings), 0, first.shape[2]), np.float32)
    parts: list[NDArray[np.float32]] = []
    n, slowest = 0, 0.0
    while n < len(frames) and (not parts or time.monotonic() - started + slowest <= seconds):
        before, some = time.monotonic(), frames[n : n + at_once]
        parts.append(answered(net, settings, some, objective))
        n += len(some)
        slowest = max(slowest, time.monotonic() - before)
        if done is not None:
            done(n)
    return np.concatenate(parts, axis=1)


def greedy(
    costs: Mapping[str, float],
    damage: Damage,
    latency: Latency,
    *,
    budget: float,
    within: Callable[[str, str], bool] = lambda _a, _b: False,
    ahead: Ahead = lambda _sets, _costs, _likely: None,
) -> tuple[Step, ...]:
    """Return the sets from the empty one to the best, then the best without unnecessary units.

    Args:
        costs: unit -> microseconds that it adds alone; negative is possible. Units that can't be compiled
            or are too slow are left out by the caller.
        damage: measures a set; None if there is no time left, which ends the search.
        latency: measures a set; None if it can't be compiled or there is no time.
        budget: microseconds that a set may take.
        within: whether the first unit is part of the second, so that it adds nothing to it.
        ahead: told what will be measured next: sets, latencies, and whether that is likely.

    Returns:
        The first step is the empty set, the last one the best; none if the empty set can't be measured.
    """
    none: Chosen = frozenset()
    first_damage, first_latency = damage(none), latency(none)
    if first_damage is None or first_latency is None:
        return ()
    steps = [Step((), first_damage, first_latency)]
    least, floor = LEAST_GAIN * first_damage, LEAST_COST * first_latency
    chosen, banned = none, set[str]()

    def next_step() -> Step | None:
        now = steps[-1]
        free = [
            unit
            for unit in costs
            if unit not in chosen and unit not in banned and not any(within(unit, one) for one in chosen)
        ]
        for size in (1, 2):
            ranked = []
            groups = [
                added
                for added in _groups(free, size, damage, chosen, within)
                if now.latency_us + sum(costs[unit] for unit in added) <= budget
            ]
            ahead([chosen | added for added in groups], (), True)
            for added in groups:
                cost = sum(costs[unit] for unit in added)
                after = damage(chosen | added)
                if after is None:
                    return None
                gain = now.divergence - after
                if gain >= least * size:
                    ranked.append((gain / max(cost, floor), gain, sorted(added), after))
            ranked.sort(key=lambda row: (-row[0], -row[1], row[2]))
            for place, (_, _, names, after) in enumerate(ranked[:TRIED]):
                if not place:
                    # While it is compiled: the next one in case it is too slow, and what comes after it if it is not.
                    likely = chosen | set(names)
                    ahead((), [likely], True)
                    after_it = [likely | {unit} for unit in free if unit not in likely]
                    ahead(after_it, [chosen | set(row[2]) for row in ranked[1:TRIED]], False)
                measured = latency(chosen | set(names))
                if measured is not None and measured <= budget:
                    return Step(tuple(sorted(chosen | set(names))), after, measured)
                if size == 1:
                    banned.update(names)
        return None

    while (step := next_step()) is not None:
        steps.append(step)
        chosen = frozenset(step.units)
    return (*steps, *_without_needless(steps[-1], first_damage, damage, latency, budget, ahead))


def _groups(
    free: Sequence[str], size: int, damage: Damage, chosen: Chosen, within: Callable[[str, str], bool]
) -> list[Chosen]:
    if size == 1:
        return [frozenset((unit,)) for unit in free]
    alone = [(found, unit) for unit in free if (found := damage(chosen | {unit})) is not None]
    best = [unit for _, unit in sorted(alone)[:PAIRS_OF]]
    return [frozenset(pair) for pair in combinations(best, 2) if not (within(*pair) or within(*reversed(pair)))]


def _without_needless(
    last: Step, first: float, damage: Damage, latency: Latency, budget: float, ahead: Ahead
) -> tuple[Step, ...]:
    """Return the last set without unnecessary units, if it has any."""
    chosen, value = frozenset(last.units), last.divergence
    ahead([chosen - {unit} for unit in last.units] if len(chosen) > 1 else [], (), True)
    for unit in last.units:
        if len(chosen) == 1:
            break
        fewer = chosen - {unit}
        after = damage(fewer)
        if after is not None and after <= last.divergence + NEEDLESS * first:
            chosen, value = fewer, after
    if len(chosen) == len(last.units):
        return ()
    measured = latency(chosen)
    if measured is None or measured > budget:
        return ()
    return (Step(tuple(sorted(chosen)), value, measured),)


def finalists(steps: Sequence[Step], count: int) -> tuple[Step, ...]:
    """Return the sets to compile for real, the best first.

    The best one, then earlier sets with most of its gain and less latency, and last the empty set.
    """
    if not steps:
        return ()
    first, best = steps[0], steps[-1]
    found = [best]
    for share in (0.8, 0.5):
        wanted = first.divergence - share * (first.divergence - best.divergence)
        step = next((step for step in steps[1:] if step.divergence <= wanted), None)
        if step is not None and step not in found:
            found.append(step)
    if first not in found:
        found.append(first)
    return tuple(found[: max(count, 1)])
