"""Which units get 16 bits: ranked on the calibrated model, priced by compiles, searched."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve, frozen

from edge.compiler.node_names import NodeNames
from edge.errors import ModelFileError
from edge.graph.files import facts, load_onnx
from edge.measure.layers import group
from edge.pipeline.stages import CALIBRATE, COMPILE, SIMPLIFY
from edge.simulate.fakequant import FakeQuant
from edge.specs import NodePrecision, Precision
from edge.tune import spaces
from edge.tune.context import LEAST_LIMIT, Candidate, Context
from edge.tune.rank import SINGLES_ON, Ranking
from edge.tune.search import Step, finalists, greedy
from edge.tune.trials import LEVEL, Costs, Inside

SHORTLIST = 12  # units whose cost is measured at first
MORE, ROUNDS = 8, 2  # further ones in each round behind that, and rounds
SETTLED = 0.05  # of the divergence at the start; where no more is left, another ranking is not worth its time
LEAST = 0.005  # of the divergence at the start; a unit that wins less alone is not looked at
# Int16 weighs more at the cheap level than at what ships, where transfers hide part of it.
LENIENT = 3.0
FINALISTS = 3


@frozen
class Wider:
    """What the search over units found.

    Attributes:
        steps: from the empty set to the best.
        sets: name and settings of the sets worth a program, the best first.
    """

    steps: tuple[Step, ...] = ()
    sets: tuple[tuple[str, Mapping[str, NodePrecision]], ...] = ()


def wider(search: Context, best: Candidate, compiled: Precision, ratio: float) -> Wider:
    """Search units for 16 bits on top of a calibration.

    Args:
        search: the search.
        best: the calibration.
        compiled: the recipe under which it was compiled.
        ratio: of plain int8's latency that a program may take.
    """
    try:
        ranking = _ranking(search, compiled)
    except ModelFileError as error:
        search.left_out.append(f"16-bit units: the calibrated model can't be simulated ({error.seen})")
        return Wider()
    steps = _Units(search, ranking).search(best.measured.divergence, ratio)
    units = ranking.units
    return Wider(
        steps,
        tuple(
            (_named(step), spaces.combined(units[name] for name in step.units))
            for step in finalists(steps, FINALISTS)
            if step.units
        ),
    )


def narrowed(cheap: float, shipped: float, allowed: float) -> float | None:
    """Return the ratio to search under where the best set came out slower than allowed, else None.

    Args:
        cheap: latency of that set at the cheap level, as a share of int8's there.
        shipped: the same at the level that ships.
        allowed: share of plain int8's latency that a program may take.
    """
    if shipped <= allowed or cheap <= 1:
        return None
    return 1 + (cheap - 1) / (shipped - 1) * (allowed - 1) / LENIENT


def _ranking(search: Context, compiled: Precision) -> Ranking:
    build = search.trials.build(compiled, search.limit(), keep=True)
    made = build.stage(COMPILE)
    name = f"{build.prefix}_calibrated_model.onnx"
    net = FakeQuant(made.path(name))
    fixed = [row.name for row in made.result.nodes if row.on == "CPU"]
    found = spaces.units(net.graph, group(net.graph), [*fixed, *_nameless(search, net)])
    return Ranking(
        net,
        made.sha256(name),
        {unit.name: unit for unit in found},
        search.selection.frames,
        search.selection.reference,
        search.journal,
    )


def _nameless(search: Context, net: FakeQuant) -> list[str]:
    """Return the compiler's nodes that no recipe can name."""
    graph = search.build.stage(SIMPLIFY)
    model = load_onnx(graph.path(graph.result.onnx))
    names = NodeNames.of(facts(model, origin=graph.result.onnx), model)
    return [node.name for node in net.graph.nodes if node.name not in names or node.name in names.heirs]


class _Units:
    """The greedy search with its two measures."""

    def __init__(self, search: Context, ranking: Ranking) -> None:
        self._search = search
        self._ranking = ranking
        graph, calibration = search.build.stage(SIMPLIFY), search.build.stage(CALIBRATE)
        self._costs = Costs(
            toolchain=search.toolchain,
            onnx=graph.path(graph.result.onnx),
            sha256=graph.sha256(graph.result.onnx),
            calibration=calibration.path(calibration.result.directory),
            preprocess=search.request.spec.preprocess,
            compiler=search.request.precision.compiler,
            journal=search.journal,
            folder=search.workspace.root,
            optimization=spaces.operator_items(search.request.precision),
        )

    def search(self, start: float, ratio: float) -> tuple[Step, ...]:
        """Return the sets on the way to the best; none if there was no time.

        Units are ranked alone; once a set is found the others are ranked anew on top of it, since what the
        worst unit hid shows only then. The search goes on with what turns up, until little is left to win.

        Args:
            start: divergence without any unit, nats.
            ratio: of plain int8's latency that a program may take.
        """
        search, units = self._search, self._ranking.units
        base = self._cost("all int8", {})
        if base is None:
            search.left_out.append("16-bit units: no latency without them")
            return ()
        budget = base * (1 + LENIENT * (ratio - 1))
        prices: dict[str, float] = {}

        def latency(chosen: frozenset[str]) -> float | None:
            names = sorted(chosen)
            if not names:
                return base
            return self._cost(" + ".join(names), spaces.combined(units[name] for name in names))

        def damage(chosen: frozenset[str]) -> float | None:
            if search.left < search.reserve:
                return None
            return self._ranking.damage(chosen)

        steps: tuple[Step, ...] = ()
        seen: set[str] = set()
        for count in (SHORTLIST, *[MORE] * ROUNDS):
            if steps and steps[-1].damage <= SETTLED * steps[0].damage:
                break
            chosen = frozenset(steps[-1].units) if steps else frozenset()
            gains = self._gains(chosen, start)
            fresh = [name for name, gain in gains.items() if gain > LEAST * start and name not in seen]
            picked = self._picked(fresh, count)
            seen.update(picked)
            found = {name: self._cost(name, units[name].nodes) for name in picked}
            new = {
                name: price - base for name, price in found.items() if price is not None and price <= budget
            }
            if not picked:
                break
            if steps and not new:
                continue
            prices |= new
            search.listener.begin("search")
            before = search.journal.spent
            steps = greedy(prices, damage, latency, budget=budget, within=self._ranking.within) or steps
            seconds = search.journal.spent - before
            search.listener.end("search", seconds, cached=False, note=self._note(steps))
        return steps

    def _picked(self, fresh: list[str], count: int) -> list[str]:
        """Return the first of the units, half of them families, which win most but cost most, too."""
        units = self._ranking.units
        large = [name for name in fresh if units[name].kind == spaces.FAMILY][: count // 2]
        small = [name for name in fresh if units[name].kind != spaces.FAMILY][: count - len(large)]
        return [*small, *large]

    def _gains(self, chosen: frozenset[str], start: float) -> dict[str, float]:
        """Return what each unit wins on top of a set, and tell of it; nothing if there is no time for it."""
        search = self._search
        known = search.journal.of_kind("rank")
        if search.left < search.reserve + (known[0].seconds if known else 0.0):
            search.left_out.append("another ranking of the units")
            return {}
        search.listener.begin("rank")
        before = search.journal.done
        total = min(len(self._ranking.frames), SINGLES_ON)

        def done(n: int) -> None:
            search.listener.update(f"{n} of {total} pictures{search.standing()}", n / total)

        gains = self._ranking.singles(chosen, done)
        top = [(name, gain) for name, gain in gains.items() if gain > 0][:3]
        shown = ", ".join(f"{name} {100 * gain / start:.0f} %" for name, gain in top)
        entry = search.journal.of_kind("rank")[-1]
        note = f"{entry.name}; the first remove of the divergence: {shown or 'nothing'}"
        search.listener.end("rank", entry.seconds, cached=search.journal.done == before, note=note)
        return gains

    def _note(self, steps: tuple[Step, ...]) -> str:
        if not steps:
            self._search.left_out.append("16-bit units: no time left")
            return "no time left for it"
        first, last = steps[0], steps[-1]
        return (
            f"16 bits at {len(last.units)} units ({', '.join(last.units) or 'none'}): divergence "
            f"{first.damage:.5f} → {last.damage:.5f}, "
            f"{last.latency / first.latency:.3f} times int8 at {LEVEL}"
        )

    def _cost(self, name: str, nodes: Mapping[str, NodePrecision]) -> float | None:
        search = self._search
        known = [entry for entry in search.journal.of_kind("latency") if not entry.failed]
        # A set that takes many times longer to compile than int8 is slow, too.
        usual = 6 * known[0].seconds if known else search.options.trial_seconds
        limit = max(min(usual, search.options.trial_seconds), LEAST_LIMIT)
        if search.left - search.reserve < min(limit, 2 * (known[-1].seconds if known else 20.0)):
            search.left_out.append(f"cost of {name}")
            return None
        reporter = Inside(search.listener, search.standing)
        entry = search.attempt(
            "cost",
            lambda: self._costs.measure(name, nodes, limit, reporter),
            lambda entry: f"{entry.values['latency_us']:.1f} us at {LEVEL}",
        )
        return None if entry.failed else float(entry.values["latency_us"])


def _named(step: Step) -> str:
    count = len(step.units)
    return f"{count} unit{'s' if count > 1 else ''} int16"


def with_nodes(best: Candidate, name: str, nodes: Mapping[str, NodePrecision]) -> Candidate:
    """Return a calibration with settings added; not measured yet, so its figures are the calibration's."""
    return Candidate(f"{best.name} + {name}", evolve(best.precision, nodes=dict(nodes)), best.measured)
