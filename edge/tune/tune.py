"""The search from beginning to end.

::

    plain int8, shipped  →  calibration x split x rounding x equalization, quick builds
    →  units ranked on the calibrated model  →  their cost, latency-only compiles  →  greedy, then drop
    →  the best set with other calibrations, quick builds  →  finalists shipped, also with means over
    channels as convolutions  →  measured once on the images kept back  →  recommended if better there

All measurements go through the journal, and all decisions follow from them and from the time that is left. So the next
run of the same search repeats nothing, and goes on with what was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from attrs import define, evolve

from edge.compiler.logs import pinned
from edge.errors import GateError, UsageError, counted
from edge.folder.workspace import Workspace
from edge.pipeline.choices import choose_compiler
from edge.pipeline.stages import CHECK, COMPILE, VERIFY
from edge.progress import Listener
from edge.specs import Precision
from edge.specs.request import Request
from edge.specs.schema import RangeSplit
from edge.tune import spaces
from edge.tune.choice import Point, compared, is_simplest, recommended
from edge.tune.context import TRIALS, Candidate, Context, SearchOptions
from edge.tune.journal import Entry
from edge.tune.result import TuneResult, outcome, point_of
from edge.tune.trials import QUICK, Crew, adopt, figures, latency, measured
from edge.tune.units import FINALISTS, LENIENT, Step, places_to_split, search_int16_units, tightened_budget, with_nodes

PLAIN = "plain int8"
FEW = 100  # images in a part; fewer give uncertain figures
SPLIT_IN_2 = ", split in 2"
INT16_WITHIN = ", int16 within "
PROGRAMS = 4  # to compile at the level that ships, besides plain int8


def tune(
    request: Request,
    workspace: Workspace,
    options: SearchOptions,
    listener: Listener,
    crew: Callable[[Context], AbstractContextManager[Crew]] | None = None,
) -> TuneResult:
    """Search a recipe for a model; it is returned, not written. The listener sees each trial as a stage.

    Args:
        request: what to build; its precision is plain int8 at the level that ships.
        workspace: the model's build folder. It is locked only while stages are linked from it and to it, so that
            other verbs can use the build in the meantime.
        crew: gathers others that do the work; None does it in this process.

    Raises:
        ToolchainMissing: no compiler is installed.
        UsageError: the compiler is onnxruntime, or plain int8 is slower than the latency bar in microseconds.
        InputError: too few images.
        GateError: plain int8 itself can't be compiled or verified.
    """
    if request.spec.task == "raw":
        raise UsageError(
            f"the outputs of {request.spec.name} are neither class scores nor boxes",
            expected="a classifier or a detector: recipes are ranked by its answers",
            remedy="edge build MODEL --precision RECIPE   builds with a recipe of yours",
        )
    if choose_compiler(request, listener) is None:  # known before the folder's lock is waited for
        raise UsageError(
            "edge tune measures real programs, and the compiler is onnxruntime: there is no vendor's compiler",
            expected="--compiler auto, managed, path or docker",
            remedy="edge toolchain install",
        )
    root = workspace.root / TRIALS
    with workspace:  # claimed before anything lies in it
        root.mkdir(exist_ok=True)
    with Workspace(root, listener) as trials:
        with workspace:
            adopt(workspace.root, root)
        search = Search(request, trials, options, listener)
        with nullcontext() if crew is None else crew(search) as search.crew:
            result = search.run()
            needed = search.stages_of(result)
        with workspace:
            adopt(root, workspace.root, needed.__contains__)
        search.prune()
    return result


@define(eq=False)
class Search(Context):
    """One search. Each part writes its measurements into the journal."""

    path: tuple[Step, ...] = ()

    def run(self) -> TuneResult:
        """Run the search and return its result."""
        baseline = self._baseline()
        budget = self._budget(baseline)
        ratio = budget / latency(baseline)
        calibrations = sorted(self._calibrations(baseline, ratio), key=_order)
        points = [point_of(PLAIN, self.request.precision, baseline)]
        finals = self._candidates_to_ship(calibrations, ratio)
        self._ship(self._with_simplest(self._rewritten(finals), calibrations), budget, points, PROGRAMS)
        if finals[0].precision.nodes and (narrower := self._tightened(points, ratio)) is not None:
            found = self._candidates_to_ship(calibrations, narrower)
            again = [evolve(item, name=f"{item.name}, narrower") for item in found if item.precision.nodes]
            self._ship(again[:2], budget, points, PROGRAMS + 2)
        if (less := self._with_less_int16(points, ratio)) is not None:
            self._ship([less], budget, points, PROGRAMS + 2)
        measured = compared(self._report(points))
        chosen, why = recommended(measured, self.options, budget)
        return outcome(self, measured, self.path, chosen, why, budget)

    def measure(self, name: str, precision: Precision) -> Point:
        """Compile and measure a recipe from outside the search in the same way."""
        work = partial(self.trials.ship, name, precision, self.selection, self.options.trial_seconds)
        return self._report([point_of(name, precision, self.attempt("ship", work, _shipped))])[0]

    def stages_of(self, result: TuneResult) -> frozenset[str]:
        """Return the stage folders that ``edge build`` with the chosen recipe will need."""
        if result.best is None:
            return frozenset()
        build = self.trials.build(result.best.precision, self.options.trial_seconds, keep=True)
        build.stage(CHECK)
        build.stage(VERIFY)
        return frozenset(stage.dir.name for stage in build.done)

    def _baseline(self) -> Entry:
        halves, unlabelled = self.halves
        for images in (halves.selection, halves.report):
            if len(images) < FEW:
                self.listener.warn(f"{images.description}: a difference of one image is more than a percent")
        if unlabelled:
            self.listener.warn(f"{unlabelled}; agreement with the float network is the target")
        limit = max(self.options.trial_seconds, self.options.seconds)
        work = partial(self.trials.ship, PLAIN, self.request.precision, self.selection, limit)
        if self.crew is not None:
            self.trials.ahead("ship", [(PLAIN, self.request.precision)], self.selection, limit, likely=True)
            if self.build.lacks(CHECK):
                self.crew.stage_ahead(self.build, CHECK)
            self._ahead("build", self._first(self._plain))
            # Without a split they are needed only where none can be made, or it is worse.
            self._ahead("build", _but_mix(self._methods(None)), likely=not self.splittable)
        entry = self.attempt("int8", work, _shipped)
        if entry.failed:
            raise GateError(
                f"plain int8 can't be compiled or verified: {entry.failed}",
                expected="a network that edge build accepts",
                remedy="run edge build with the same options to see the full error",
            )
        return entry

    def _budget(self, baseline: Entry) -> float:
        now = latency(baseline)
        if self.options.max_latency_us is None:
            return now * (self.options.max_latency or 1.0)
        if self.options.max_latency_us < now:
            raise UsageError(
                f"--max-latency {self.options.max_latency_us:g}us, but plain int8 takes {now:.1f} us",
                expected=f"{now:.0f}us and more, or a share such as 1.1x",
            )
        return self.options.max_latency_us

    def _calibrations(self, baseline: Entry, ratio: float) -> list[Candidate]:
        """Try calibration methods, rounding, equalization and chosen thresholds.

        The integers are the same at every level. ``ratio`` is the latency limit relative to plain int8's.
        """
        plain = self._plain
        found = [Candidate(PLAIN, plain, figures(baseline))]
        # Half of the time is kept for the units and for the final programs.
        kept = 0.5 * self.options.seconds

        def attempt(name: str, precision: Precision, into: list[Candidate] = found) -> None:
            tried = self._quick(name, precision, kept)
            if tried is not None:
                into.append(tried)

        learned: list[Candidate] = []

        def attempt_thresholds() -> None:
            best = min(found, key=_order)
            asked = spaces.with_thresholds(best.precision)
            if asked is not None and asked not in [item.precision for item in learned]:
                attempt(f"{best.name}, thresholds chosen", asked, learned)

        for name, precision in self._first(plain):
            attempt(name, precision)

        def whole() -> Candidate:
            return min((item for item in found if item.precision.rounding is None), key=_order)

        nearest, split = min(found, key=_order), whole().precision.range_split
        methods = self._methods(split)
        asked = spaces.with_thresholds(nearest.precision)
        self._ahead("build", [*([(f"{nearest.name}, thresholds chosen", asked)] if asked else []), *_but_mix(methods)])
        attempt_thresholds()  # often the largest gain, so before time runs out
        self._ahead("build", methods)
        # Where channels are split, another calibration may be best than where they are not.
        for name, precision in methods:
            self._guess(whole())
            attempt(name, precision)
        if split is not None:
            best = min((item for item in found if item.precision.range_split), key=_order)
            attempt(f"{best.name[:-1]}4", evolve(best.precision, range_split=spaces.FINER))
            best = min(found, key=_order)
            if places := places_to_split(self):
                some = evolve(best.precision.range_split or split, places=places)
                attempt(f"{best.name} at {counted(len(places), 'place')}", evolve(best.precision, range_split=some))
        best = whole()
        self._guess(best, likely=True)
        if best.name != PLAIN:
            attempt(f"{best.name}, rounded", evolve(best.precision, rounding=spaces.ROUNDED))
        best = min(found, key=_order)
        if self.equalizable:
            attempt(f"{best.name}, equalized", evolve(best.precision, equalization=spaces.EQUALIZED))
            best = min(found, key=_order)
        finer = _rounded(best) if best.precision.rounding is not None else []
        self._ahead("build", finer)
        if finer and (asked := spaces.with_thresholds(best.precision)) is not None:
            self._ahead("build", [(f"{best.name}, thresholds chosen", asked)], likely=False)
        for name, precision in finer:
            attempt(name, precision)
        attempt_thresholds()
        if learned and ratio > 1:
            best = min(learned, key=_order)
            attempt(*_with_int16(best.name, best.precision, ratio), learned)
        return [*found, *learned]

    @property
    def _plain(self) -> Precision:
        """Plain int8 as a recipe of the search."""
        base = self.request.precision
        return spaces.recipe(self.request.spec.name, base, base.calibration, None)

    def _first(self, plain: Precision) -> list[tuple[str, Precision]]:
        """Return what is tried first on plain int8."""
        found = [(f"{PLAIN}, rounded", evolve(plain, rounding=spaces.ROUNDED))]
        if self.splittable:
            found.append((f"{PLAIN}{SPLIT_IN_2}", evolve(plain, range_split=spaces.SPLIT)))
        return found

    def _methods(self, split: RangeSplit | None) -> list[tuple[str, Precision]]:
        """Return the calibrations to try, with or without channels split."""
        model, base = self.request.spec.name, self.request.precision
        return [
            (
                f"{method}{SPLIT_IN_2 if split else ''}",
                evolve(spaces.recipe(model, base, calibration, None), range_split=split),
            )
            for method, calibration in spaces.CALIBRATIONS.items()
        ]

    def _ahead(self, kind: str, asked: Iterable[tuple[str, Precision]], *, likely: bool = True) -> None:
        """Let a crew begin trials that come next; without one nothing happens."""
        if self.crew is not None and self.left > 0:
            limit = self.limit() if self.journal.of_kind("ship") else self.options.trial_seconds
            self.trials.ahead(kind, asked, self.selection, limit, likely=likely)

    def _guess(self, best: Candidate, *, likely: bool = False) -> None:
        """Let a crew begin what follows if this is the best calibration: it with weights rounded, and its variants."""
        rounded = evolve(best, name=f"{best.name}, rounded", precision=evolve(best.precision, rounding=spaces.ROUNDED))
        asked = [(rounded.name, rounded.precision)] if best.name != PLAIN and best.precision.rounding is None else []
        if likely:
            self._ahead("build", asked)
            asked = _rounded(rounded)
            if self.equalizable:
                equalized = evolve(rounded.precision, equalization=spaces.EQUALIZED)
                follow = evolve(rounded, name=f"{rounded.name}, equalized", precision=equalized)
                asked = [(follow.name, follow.precision), *asked, *_rounded(follow)]
        self._ahead("build", asked, likely=False)

    def _quick(self, name: str, precision: Precision, kept: float) -> Candidate | None:
        seconds = [entry.seconds for entry in self.journal.of_kind("build")] or [30.0]
        if self.left - max(seconds) < max(self.reserve, kept):
            self.left_out.append(f"a quick build of {name}")
            return None
        work = partial(self.trials.quick, name, precision, self.selection, self.limit())
        entry = self.attempt("quick", work, _told)
        found = measured(entry)
        return None if found is None else Candidate(name, precision, found)

    def _candidates_to_ship(self, calibrations: list[Candidate], ratio: float) -> list[Candidate]:
        """Return the candidates to ship, the most promising first."""
        best = calibrations[0]
        if best.precision.thresholds is not None:  # which have 16 bits where the time for them is granted
            return calibrations[: 2 * FINALISTS]
        compiled = self.request.precision if best.name == PLAIN else spaces.at_level(best.precision, QUICK)
        found = search_int16_units(self, best, compiled, ratio)
        self.path = found.steps or self.path  # a second search may have had no time
        if not found.sets:
            return calibrations[:FINALISTS]
        name, nodes = found.sets[0]
        # The best calibration without 16 bits may not be the best with them.
        variants = [with_nodes(self._pinned(item), name, nodes) for item in (best, *_neighbours(best, calibrations))]
        self._ahead("build", [(item.name, item.precision) for item in variants])
        self._ahead("ship", [self._shipped(variants[0])], likely=False)
        tried = [
            done for item in variants if (done := self._quick(item.name, item.precision, self.reserve)) is not None
        ]
        tried = sorted(tried, key=_order) or variants[:1]
        base = tried[0].name.partition(" + ")[0]
        cheaper = [
            Candidate(f"{base} + {other}", evolve(tried[0].precision, nodes=dict(set_)), best.measured)
            for other, set_ in found.sets[1:]
        ]
        return [tried[0], *cheaper[:1], *tried[1:2], *cheaper[1:], *calibrations[:2]]

    def _pinned(self, item: Candidate) -> Candidate:
        """Return a candidate with the method that the compiler chose for it: beside 16 bits it would choose again."""
        precision = item.precision
        if precision.calibration.method != "default":
            return item
        compiled = self.request.precision if item.name == PLAIN else spaces.at_level(precision, QUICK)
        chosen = self.trials.build(compiled, self.limit(), keep=True).stage(COMPILE).result.calibration_method
        return evolve(item, precision=evolve(precision, calibration=pinned(precision.calibration, chosen)))

    def _rewritten(self, finals: list[Candidate]) -> list[Candidate]:
        """Return the finalists; the first and an int8 one also in a form that may be faster, if there is one.

        Which form is faster depends on the sizes; only a compile at the level that ships shows it.
        """
        if not self.rewritable:
            return finals
        plain = Candidate(PLAIN, self.request.precision, figures(self.journal.of_kind("ship")[0]))
        first, other = (
            evolve(
                item,
                name=f"{item.name}, means by convolution",
                precision=evolve(item.precision, rewrites=spaces.REWRITES),
            )
            for item in (finals[0], next((one for one in finals if not one.precision.nodes), plain))
        )
        return [finals[0], first, other, *finals[1:]]

    def _with_simplest(self, finals: list[Candidate], calibrations: list[Candidate]) -> list[Candidate]:
        """Return the finalists, plain int8 with rounded weights second: often nothing better is found.

        It is left out if it is further from float than plain int8 on the images of the search.
        """
        base = self.request.precision
        plain = next(item for item in calibrations if item.name == PLAIN)
        simple = next((item for item in calibrations if is_simplest(item.precision, base)), None)
        if simple is None or _order(simple) >= _order(plain):
            return finals
        return [finals[0], simple, *finals[1:]]

    def _tightened(self, points: list[Point], ratio: float) -> float | None:
        """Return the budget for another search if the best set was too slow; None if it was not.

        How much of a cost at the cheap level remains at the level that ships is known only from a program.
        """
        base, best = points[0].latency_us, next((p.latency_us for p in points[1:] if p.precision.nodes), None)
        if base is None or best is None or len(self.path) < 2:
            return None
        return tightened_budget(self.path[-1].latency_us / self.path[0].latency_us, best / base, ratio)

    def _with_less_int16(self, points: list[Point], ratio: float) -> Candidate | None:
        """Return the recipe that grants time to 16 bits with less of it if its program was too slow, else None."""
        base, granted = points[0].latency_us, [p for p in points[1:] if _granted(p.precision) > 1 and p.latency_us]
        if not granted or base is None:
            return None
        slow = min(granted, key=lambda point: point.latency_us or 0.0)
        within = tightened_budget(_granted(slow.precision), (slow.latency_us or 0.0) / base, ratio)
        if within is None:
            return None
        name, precision = _with_int16(slow.name.partition(INT16_WITHIN)[0], slow.precision, within)
        return self._quick(name, precision, 0)

    def _shipped(self, item: Candidate) -> tuple[str, Precision]:
        """Return a candidate's name and its recipe at the level that ships."""
        return item.name, evolve(item.precision, compiler=self.request.precision.compiler)

    def _ship(self, finals: list[Candidate], budget: float, points: list[Point], most: int) -> None:
        """Compile the finalists at the level that ships, until enough are within the budget or the time is over.

        Args:
            finals: the most promising first.
            points: programs so far; new ones are added.
            most: number of programs within the budget, besides plain int8, after which to stop.
        """
        seen = [point.precision for point in points]
        shipped = [self._shipped(item) for item in finals if item.name != PLAIN]
        for item in finals:
            _, precision = self._shipped(item)
            if item.name == PLAIN or precision in seen:
                continue
            room = most - sum(not point.failed and (point.latency_us or 0) <= budget for point in points[1:])
            if room <= 0:
                return
            if self.left < self.program:
                self.left_out.append(f"a program of {item.name}")
                continue
            self._ahead("ship", [(name, other) for name, other in shipped if other not in seen][:room])
            self._reports_ahead(points)  # a worker that has no program to compile measures these
            seen.append(precision)
            work = partial(self.trials.ship, item.name, precision, self.selection, self.limit())
            points.append(point_of(item.name, precision, self.attempt("ship", work, _shipped)))

    def _reports_ahead(self, points: list[Point]) -> None:
        """Let a crew begin to measure programs on the images that were kept back; nothing is decided by it before."""
        if self.crew is not None:
            asked = [(point.name, point.precision) for point in points if not point.failed]
            self.trials.ahead("report", asked, self.kept_back, self.options.trial_seconds, likely=False)

    def _report(self, points: list[Point]) -> list[Point]:
        """Measure every program on the images that were kept back: once, when the search is over."""
        self._reports_ahead(points)
        kept = self.kept_back
        found = []
        for point in points:
            if point.failed:
                found.append(point)
                continue
            work = partial(self.trials.report, point.name, point.precision, kept, self.options.trial_seconds)
            entry = self.attempt("report", work, _told)
            found.append(evolve(point, report=measured(entry)))
        return found


def _but_mix(methods: list[tuple[str, Precision]]) -> list[tuple[str, Precision]]:
    """Return calibrations for several workers, slow ones first; without mix, which chosen thresholds make as well."""
    slow_first = sorted(methods, key=lambda item: not item[0].startswith(spaces.SLOW))
    return [item for item in slow_first if not item[0].startswith("mix")]


def _granted(precision: Precision) -> float:
    """Return the time that a recipe grants to 16 bits, relative to int8's."""
    return precision.thresholds.int16_latency if precision.thresholds else 1.0


def _with_int16(name: str, precision: Precision, ratio: float) -> tuple[str, Precision]:
    """Return the name and the recipe of chosen thresholds with time for 16 bits, for a latency limit."""
    within = 1 + LENIENT * (ratio - 1)
    return f"{name}{INT16_WITHIN}{within:.3g}x", spaces.with_int16(precision, within)


def _rounded(best: Candidate) -> list[tuple[str, Precision]]:
    """Return a recipe with its weights rounded in other ways."""
    return [
        (f"{best.name}, {change}", evolve(best.precision, rounding=rounding))
        for change, rounding in spaces.ROUNDINGS.items()
    ]


def _order(item: Candidate) -> tuple[float, str]:
    return item.measured.divergence, item.name


def _neighbours(best: Candidate, calibrations: list[Candidate]) -> list[Candidate]:
    """Return the same calibration with and without rounding swapped, and the next best method of another kind."""
    same = [
        item for item in calibrations if item is not best and item.precision.calibration == best.precision.calibration
    ]
    other = [item for item in calibrations if item.precision.calibration.method != best.precision.calibration.method]
    return [*same[:1], *other[:1]]


def _told(entry: Entry) -> str:
    return str(figures(entry))


def _shipped(entry: Entry) -> str:
    return f"{latency(entry):.1f} us, {figures(entry)}"
