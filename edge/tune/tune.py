"""The search from beginning to end.

::

    plain int8, shipped  →  calibration x rounding, quick builds  →  units ranked on the calibrated model
    →  their cost, latency-only compiles  →  greedy, then drop  →  finalists shipped  →  reported once

All that is measured goes through the journal; all that is decided follows from it, so that a search that was
killed decides the same when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import cattrs
from attrs import define, evolve, field, frozen

from edge import __version__
from edge.diagnose.units import group
from edge.errors import GateError, ModelFileError, UsageError
from edge.fakequant import FakeQuant
from edge.pipeline import Build
from edge.progress import Listener
from edge.request import Request
from edge.specs import Evidence, NodePrecision, Precision
from edge.toolchain.found import Toolchain
from edge.tune import pictures as pictures_
from edge.tune import spaces
from edge.tune.cost import LEVEL, Costs
from edge.tune.journal import Entry, Journal
from edge.tune.rank import Ranking
from edge.tune.result import Front, Measured, Point, TuneResult, shares
from edge.tune.search import Step, finalists, greedy
from edge.tune.trials import CODE, Set, Trials, adopt, measured
from edge.workspace import Workspace

TRIALS = ".trials"
JOURNAL = "journal.jsonl"
SHORTLIST = 12  # units whose cost is measured
FINALISTS = 3
LEAST_LIMIT = 30.0  # seconds that a trial gets at least
# Int16 weighs more at the cheap level than at what ships, where transfers hide part of it.
LENIENT = 3.0
SIGNIFICANT = 0.05


@frozen
class Options:
    """What the user asks of a search.

    Attributes:
        max_drop: points of Top-1 that may be lost against float behind NV12.
        max_latency: share of plain int8's latency that a recipe may take, 1 and up; None if in microseconds.
        max_latency_us: microseconds; None if a share.
        min_agreement: percent; None for no bar.
        seconds: for the whole search.
        trial_seconds: for one compile.
        command: what the user typed.
    """

    max_drop: float = 0.3
    max_latency: float | None = 1.10
    max_latency_us: float | None = None
    min_agreement: float | None = None
    seconds: float = 1800.0
    trial_seconds: float = 600.0
    command: str = ""


@frozen(eq=False)
class Candidate:
    """A recipe with what is known of it on the pictures of the search."""

    name: str
    precision: Precision
    measured: Measured


def tune(request: Request, workspace: Workspace, options: Options, listener: Listener) -> TuneResult:
    """Search a recipe for a model.

    Args:
        request: what to build; its precision is what plain int8 is, at the level that ships.
        workspace: the model's build folder, held.
        options: bars and time.
        listener: told of progress; each trial is a stage.

    Returns:
        What was found; the recipe itself is not written.

    Raises:
        UsageError: there is no compiler, or plain int8 is slower than the bar in microseconds allows.
        InputError: too few pictures.
        GateError: plain int8 itself can't be compiled or proved.
        EdgeError: whatever a stage of a build raises before there is anything to try.
    """
    root = workspace.root / TRIALS
    with Workspace(root, listener) as trials:
        adopt(workspace.root, root)
        search = Search(request, trials, options, listener)
        result = search.run()
        adopt(root, workspace.root, search.stages_of(result))
    return result


@define(eq=False)
class Search:
    """One search. Each step writes what it measured into the journal."""

    request: Request
    workspace: Workspace
    options: Options
    listener: Listener
    left_out: list[str] = field(factory=list)
    path: tuple[Front, ...] = ()

    def run(self) -> TuneResult:
        """Return what was found."""
        baseline = self._baseline()
        budget = self._budget(baseline)
        candidates = self._calibrations(baseline)
        candidates.sort(key=lambda item: (item.measured.divergence, item.name))
        finals = [*self._wider(candidates[0], budget / _latency(baseline)), *candidates[:2]]
        points = [_point("plain int8", self.request.precision, baseline)]
        points += self._ship(finals, budget)
        chosen, why = self._choose(points, budget)
        points = self._report(points)
        return self._result(points, chosen, why, budget)

    # What everything rests on.

    @cached_property
    def build(self) -> Build:
        """The build of plain int8: its stages before the compiler are every trial's."""
        return Build(self.request, self.workspace, self.listener)

    @cached_property
    def toolchain(self) -> Toolchain:
        """The compiler."""
        if self.build.toolchain is None:
            raise UsageError(
                "edge tune measures real programs, and the mapper is portable: there is no vendor's compiler",
                allowed="--mapper auto, managed, path or docker",
                remedy="edge toolchain install",
            )
        return self.build.toolchain

    @cached_property
    def journal(self) -> Journal:
        """Of finished trials."""
        return Journal(self.workspace.root / JOURNAL, CODE)

    @cached_property
    def _halves(self) -> tuple[pictures_.Halves, str]:
        images, unlabelled = self.build._pictures
        return pictures_.halves(images, self.request.seed), unlabelled

    def _load(self, part: str) -> Set:
        split, unlabelled = self._halves
        preprocess = self.request.spec.preprocess
        graph = self.build.simplify
        net = pictures_.float_net(graph.path(graph.result.onnx), preprocess)
        return pictures_.load(getattr(split, part), net, preprocess, unlabelled, self.listener)

    @cached_property
    def selection(self) -> Set:
        """The pictures to choose on."""
        return self._load("selection")

    @cached_property
    def trials(self) -> Trials:
        """What compiles and measures recipes."""
        build = self.build
        graph, calibration = build.simplify, build.calibrate
        identity: Mapping[str, object] = {
            "onnx": graph.sha256(graph.result.onnx),
            "calibration": calibration.result.sha256,
            "preprocess": cattrs.unstructure(self.request.spec.preprocess),
            "toolchain": self.toolchain.identity,
            "seed": self.request.seed,
        }
        return Trials(self.request, self.workspace, self.journal, self.listener, identity)

    # Time.

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.options.seconds - self.journal.spent

    def _limit(self) -> float:
        return max(min(self.options.trial_seconds, self.left), LEAST_LIMIT)

    def _try(self, stage: str, work: Callable[[], Entry], note: Callable[[Entry], str]) -> Entry:
        """Do one trial and tell of it."""
        before = self.journal.done
        self.listener.begin(stage)
        self.listener.update(self._headline)
        entry = work()
        text = f"{entry.name}: " + (f"FAILED, {entry.failed}" if entry.failed else note(entry))
        self.listener.end(stage, entry.seconds, cached=self.journal.done == before, note=text)
        return entry

    @property
    def _headline(self) -> str:
        return f"{max(self.left, 0) / 60:.0f} min left"

    # The steps.

    def _baseline(self) -> Entry:
        _ = self.toolchain  # without one nothing is worth waiting for
        halves, unlabelled = self._halves
        for images in (halves.selection, halves.report):
            if len(images) < pictures_.FEW:
                self.listener.warn(
                    f"{images.description}: a difference of one picture is more than a percent"
                )
        if unlabelled:
            self.listener.warn(f"{unlabelled}; agreement with the float network is the target")
        limit = max(self.options.trial_seconds, self.options.seconds)
        work = partial(self.trials.ship, "plain int8", self.request.precision, self.selection, limit)
        entry = self._try("int8", work, self._shipped)
        if entry.failed:
            raise GateError(
                f"plain int8 can't be compiled or proved: {entry.failed}",
                allowed="a network that edge build accepts",
                remedy="edge build with the same options shows the whole story",
            )
        return entry

    def _budget(self, baseline: Entry) -> float:
        now = _latency(baseline)
        if self.options.max_latency_us is None:
            return now * (self.options.max_latency or 1.0)
        if self.options.max_latency_us < now:
            raise UsageError(
                f"--max-latency {self.options.max_latency_us:g}us, but plain int8 takes {now:.1f} us",
                allowed=f"{now:.0f}us and more, or a share such as 1.1x",
            )
        return self.options.max_latency_us

    @property
    def _reserve(self) -> float:
        """Seconds to keep for shipping two finalists and the report."""
        first = self.journal.of_kind("ship")[0]
        return 2.2 * float(first.values["compile_s"]) + 30

    def _calibrations(self, baseline: Entry) -> list[Candidate]:
        """Try calibration methods with and without rounding; the integers of a level are those of all."""
        base, model = self.request.precision, self.request.spec.name
        known = _figures(baseline)
        found = [Candidate("plain int8", spaces.recipe(model, base, base.calibration, None), known)]
        names = {"plain int8": base.calibration, **spaces.CALIBRATIONS}

        def attempt(method: str, *, rounded: bool) -> None:
            rounding = spaces.ROUNDED if rounded else None
            precision = spaces.recipe(model, base, names[method], rounding)
            name = f"{method}, rounded" if rounded else method
            tried = self._quick(name, precision)
            if tried is not None:
                found.append(tried)

        attempt("plain int8", rounded=True)
        for method in spaces.CALIBRATIONS:
            attempt(method, rounded=False)
        plain = [item for item in found if item.precision.rounding is None]
        best = min(plain, key=lambda item: (item.measured.divergence, item.name))
        if best.name != "plain int8":
            attempt(best.name, rounded=True)
        return found

    def _quick(self, name: str, precision: Precision) -> Candidate | None:
        seconds = [entry.seconds for entry in self.journal.of_kind("build")] or [30.0]
        # Half of the time is kept for the units and for what ships.
        if self.left - max(seconds) < max(self._reserve, 0.5 * self.options.seconds):
            self.left_out.append(f"calibration {name}")
            return None
        entry = self._try(
            "calibrate",
            lambda: self.trials.quick(name, precision, self.selection, self._limit()),
            lambda entry: _accuracy(measured(entry)),
        )
        result = measured(entry)
        return None if result is None else Candidate(name, precision, result)

    def _wider(self, best: Candidate, ratio: float) -> list[Candidate]:
        """Search units for 16 bits on top of a calibration; return the sets to ship, the best first."""
        try:
            ranking = self._ranking(best)
        except ModelFileError as error:
            self.left_out.append(f"16-bit units: the calibrated model can't be simulated ({error.seen})")
            return []
        self.listener.begin("rank")
        before = self.journal.done
        total = min(len(self.selection.frames), 32)
        alone = ranking.singles(lambda n: self.listener.update(f"{n} of {total} pictures", n / total))
        shown = ", ".join(
            f"{name} {100 * gain / best.measured.divergence:.0f} %" for name, gain in _top(alone)
        )
        seconds = self.journal.of_kind("rank")[-1].seconds
        self.listener.end(
            "rank",
            seconds,
            cached=self.journal.done == before,
            note=f"{len(alone)} units; of the divergence they remove: {shown}",
        )
        steps = self._greedy(ranking, alone, ratio)
        self.path = tuple(Front(step.units, step.damage, step.latency) for step in steps)
        found = []
        for step in finalists(steps, FINALISTS):
            if step.units:
                chosen = [ranking.units[name] for name in step.units]
                precision = evolve(best.precision, nodes=spaces.combined(chosen))
                found.append(Candidate(_named(best.name, step), precision, best.measured))
        return found

    def _ranking(self, best: Candidate) -> Ranking:
        build = self.trials.build(self._compiled(best), self._limit())
        compiled = build.compile
        name = f"{build.prefix}_calibrated_model.onnx"
        net = FakeQuant(compiled.path(name))
        on_cpu = [row.name for row in compiled.result.nodes if row.on == "CPU"]
        found = spaces.units(net.graph, group(net.graph), on_cpu)
        return Ranking(
            net,
            compiled.sha256(name),
            {unit.name: unit for unit in found},
            self.selection.frames,
            self.selection.reference,
            self.journal,
        )

    def _compiled(self, best: Candidate) -> Precision:
        """Return the recipe under which a candidate was compiled."""
        if best.name == "plain int8":
            return self.request.precision
        return spaces.at_level(best.precision, "O0")

    def _greedy(self, ranking: Ranking, alone: Mapping[str, float], ratio: float) -> tuple[Step, ...]:
        costs = self._costs()
        base = self._cost(costs, "all int8", {})
        if base is None:
            self.left_out.append("16-bit units: no latency without them")
            return ()
        lenient = base * (1 + LENIENT * (ratio - 1))
        prices: dict[str, float] = {}
        least = 0.01 * sum(gain for gain in alone.values() if gain > 0)
        for name in [name for name, gain in alone.items() if gain > least][:SHORTLIST]:
            price = self._cost(costs, name, ranking.units[name].nodes)
            if price is not None and price <= lenient:
                prices[name] = price - base
        units = ranking.units

        def latency(chosen: frozenset[str]) -> float | None:
            if not chosen:
                return base
            names = sorted(chosen)
            return self._cost(costs, " + ".join(names), spaces.combined(units[name] for name in names))

        def damage(chosen: frozenset[str]) -> float | None:
            if self.left < self._reserve:
                return None
            return ranking.damage(chosen)

        self.listener.begin("search")
        steps = greedy(prices, damage, latency, budget=lenient, overlaps=ranking.overlaps)
        seconds = sum(entry.seconds for entry in self.journal.of_kind("damage"))
        if steps:
            first, last = steps[0], steps[-1]
            note = (
                f"{len(last.units)} units at 16 bits: divergence {first.damage:.5f} → {last.damage:.5f}, "
                f"{last.latency / first.latency:.3f} times int8 at {LEVEL}"
            )
        else:
            note = "no time left for it"
            self.left_out.append("16-bit units: no time left")
        self.listener.end("search", seconds, cached=False, note=note)
        return steps

    def _costs(self) -> Costs:
        graph, calibration = self.build.simplify, self.build.calibrate
        return Costs(
            toolchain=self.toolchain,
            onnx=graph.path(graph.result.onnx),
            sha256=graph.sha256(graph.result.onnx),
            calibration=calibration.path(calibration.result.directory),
            preprocess=self.request.spec.preprocess,
            compiler=self.request.precision.compiler,
            journal=self.journal,
            folder=self.workspace.root,
        )

    def _cost(self, costs: Costs, name: str, nodes: Mapping[str, NodePrecision]) -> float | None:
        known = [entry for entry in self.journal.of_kind("latency") if not entry.failed]
        # A set that takes many times longer to compile than int8 is slow, too.
        usual = 6 * known[0].seconds if known else self.options.trial_seconds
        limit = max(min(usual, self.options.trial_seconds), LEAST_LIMIT)
        if self.left - self._reserve < min(limit, 2 * (known[-1].seconds if known else 20.0)):
            self.left_out.append(f"cost of {name}")
            return None
        entry = self._try(
            "cost",
            lambda: costs.measure(name, nodes, limit, self.listener),
            lambda entry: f"{entry.values['latency_us']:.1f} us at {LEVEL}",
        )
        return None if entry.failed else float(entry.values["latency_us"])

    def _ship(self, finals: list[Candidate], budget: float) -> list[Point]:
        """Compile the finalists as they would ship, until the time is over."""
        points: list[Point] = []
        seen: list[object] = []
        expected = 1.2 * float(self.journal.of_kind("ship")[0].values["compile_s"]) + 15
        for item in finals:
            precision = evolve(item.precision, compiler=self.request.precision.compiler)
            if item.name == "plain int8" or precision in seen:
                continue
            good = [point for point in points if not point.failed and (point.latency_us or 0) <= budget]
            if len(good) >= FINALISTS or self.left < expected:
                self.left_out.append(f"a program of {item.name}")
                continue
            seen.append(precision)
            work = partial(self.trials.ship, item.name, precision, self.selection, self._limit())
            points.append(_point(item.name, precision, self._try("ship", work, self._shipped)))
        return points

    def _choose(self, points: list[Point], budget: float) -> tuple[int | None, str]:
        """Return the best that keeps the bars on the pictures of the search, and why."""
        good = []
        for i, point in enumerate(points):
            if point.failed or point.selection is None or (point.latency_us or 0) > budget:
                continue
            if self._passes(point.selection):
                good.append((point.selection.divergence, point.latency_us or 0.0, i))
        if not good:
            return None, "no recipe keeps both bars on the pictures of the search"
        best = min(good)[2]
        if best == 0:
            return 0, "plain int8 is the best of what keeps the bars"
        return best, f"{points[best].name}: the least divergence from float of what keeps the bars"

    def _passes(self, result: Measured) -> bool:
        if self.options.min_agreement is not None and result.agreement_percent < self.options.min_agreement:
            return False
        return result.drop is None or result.drop <= self.options.max_drop or not significant(result)

    def _report(self, points: list[Point]) -> list[Point]:
        """Measure every program on the pictures that were kept back: once, when all is chosen."""
        kept = self._load("report")
        found = []
        for point in points:
            if point.failed:
                found.append(point)
                continue
            work = partial(self.trials.report, point.name, point.precision, kept, self.options.trial_seconds)
            entry = self._try("report", work, lambda entry: _accuracy(measured(entry)))
            found.append(evolve(point, report=measured(entry)))
        return found

    def _result(self, points: list[Point], chosen: int | None, why: str, budget: float) -> TuneResult:
        halves, unlabelled = self._halves
        export = self.build.export
        entries = tuple(self.journal.used.values())
        best = None if chosen is None else points[chosen]
        met = best is not None and best.report is not None and self._passes(best.report)
        if best is not None and not met:
            why += "; on the pictures kept back it misses a bar"
        result = TuneResult(
            model=self.request.spec.name,
            command=self.options.command,
            float_sha256=export.sha256(export.result.onnx),
            seed=self.request.seed,
            level=self.request.precision.compiler.optimize_level,
            cost_level=LEVEL,
            selection=halves.selection.description,
            report=halves.report.description,
            unlabelled=unlabelled,
            max_drop=self.options.max_drop,
            max_latency_us=budget,
            min_agreement=self.options.min_agreement,
            points=tuple(points),
            path=self.path,
            chosen=chosen,
            met=met,
            why=why,
            trials=entries,
            time=shares(entries),
            seconds=round(self.journal.spent, 1),
            left_out=tuple(dict.fromkeys(self.left_out)),
            versions=self._versions(),
        )
        if best is None or chosen is None:
            return result
        precision = evolve(best.precision, evidence=_evidence(result, best))
        return evolve(
            result,
            points=tuple(evolve(p, precision=precision) if i == chosen else p for i, p in enumerate(points)),
        )

    def _versions(self) -> dict[str, str]:
        first = self.journal.of_kind("ship")[0]
        return {
            "edge": __version__,
            "onnxruntime": version("onnxruntime"),
            **{str(key): str(value) for key, value in first.values.get("versions", {}).items()},
        }

    def _shipped(self, entry: Entry) -> str:
        return f"{_latency(entry):.1f} us, {_accuracy(measured(entry))}"

    def stages_of(self, result: TuneResult) -> Callable[[str], bool]:
        """Return whether a stage folder is one that ``edge build`` with the chosen recipe will ask for."""
        if result.best is None:
            return lambda _name: False
        build = self.trials.build(result.best.precision, self.options.trial_seconds)
        _ = build.check, build.verify
        names = {stage.dir.name for stage in build.done}
        return names.__contains__


def significant(result: Measured) -> bool:
    """Tell whether a change of Top-1 is more than chance, at p = 0.05."""
    from edge.statistics import mcnemar

    return mcnemar(result.lost, result.gained) < SIGNIFICANT


def _evidence(result: TuneResult, best: Point) -> Evidence | None:
    own, int8 = best.report, result.points[0].report
    if own is None or int8 is None:
        return None
    return Evidence(
        float_sha256=result.float_sha256,
        chosen_on=result.selection,
        reported_on=result.report,
        n=own.n,
        agreement=round(own.agreement_percent, 3),
        agreement_int8=round(int8.agreement_percent, 3),
        top1_float=_rounded(own.float_top1),
        top1=_rounded(own.top1),
        top1_int8=_rounded(int8.top1),
        latency_us=best.latency_us,
        latency_us_int8=result.points[0].latency_us,
        seed=result.seed,
        versions=result.versions,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _point(name: str, precision: Precision, entry: Entry) -> Point:
    if entry.failed:
        return Point(name, precision, failed=entry.failed)
    return Point(name, precision, _latency(entry), measured(entry), bit_exact=entry.values["bit_exact"])


def _figures(entry: Entry) -> Measured:
    return cattrs.structure(entry.values["measured"], Measured)


def _latency(entry: Entry) -> float:
    return float(entry.values["latency_us"])


def _accuracy(result: Measured | None) -> str:
    if result is None:
        return "no figures"
    top1 = "" if result.top1 is None else f"Top-1 {result.float_top1:.1f} → {result.top1:.1f} %, "
    return f"{top1}agreement {result.agreement_percent:.1f} %, divergence {result.divergence:.5f}"


def _named(calibration: str, step: Step) -> str:
    count = len(step.units)
    return f"{calibration} + {count} unit{'s' if count > 1 else ''} at 16 bits"


def _top(gains: Mapping[str, float]) -> list[tuple[str, float]]:
    return [pair for pair in gains.items() if pair[1] > 0][:3]


def journal_path(folder: Path) -> Path:
    """Return where the trials of a build folder are written down."""
    return folder / TRIALS / JOURNAL
