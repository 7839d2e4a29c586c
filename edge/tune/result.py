"""The result of a search and the chosen recipe, as stored in ``tune.json`` in the build folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from attrs import evolve, field, frozen

from edge import __version__
from edge.pipeline.stages import EXPORT
from edge.specs import Evidence, Precision
from edge.tune.choice import Point, passes
from edge.tune.context import Context
from edge.tune.journal import Entry
from edge.tune.trials import LEVEL, latency, measured
from edge.tune.units import Step

FILE = "tune.json"
SCHEMA_VERSION = 1


@frozen
class TimeShare:
    """Time of one kind of work, and how often it was done."""

    kind: str  #: of work.
    count: int  #: how often.
    seconds: float  #: wall time.
    failed: int = 0  #: how many of them failed.


@frozen
class TuneResult:
    """A whole search."""

    model: str  #: name of the model.
    command: str  #: what the user typed.
    float_sha256: str  #: of the float ONNX.
    seed: int  #: of the split of the images.
    level: str  #: optimisation level that ships.
    cost_level: str  #: optimisation level at which the cost of a unit was measured.
    selection: str  #: description of the images of the search.
    report: str  #: description of the images of the final figures.
    unlabelled: str  #: why there is no Top-1; empty if there is.
    max_drop: float  #: points of Top-1 that may be lost.
    max_latency_us: float  #: microseconds that the program may take.
    min_agreement: float | None  #: percent that the program must reach; None for no bar.
    points: tuple[Point, ...]  #: recipes at the shipping level, the baseline first.
    path: tuple[Step, ...]  #: the front of the search in the calibrated model.
    chosen: int | None  #: index in ``points``; None if no recipe met the bars.
    met: bool  #: whether the chosen one meets the bars on the report images.
    why: str  #: why no recipe was chosen, or what was chosen and why, one line.
    trials: tuple[Entry, ...]  #: all trials, failures included.
    time: tuple[TimeShare, ...]  #: time of each kind of work.
    seconds: float  #: total, including an interrupted search before.
    left_out: tuple[str, ...] = ()  #: work that was skipped for lack of time.
    versions: Mapping[str, str] = field(factory=dict)  #: of the programs that ran.
    recipe: str = ""  #: path of the recipe that was written; empty if none was.
    schema_version: int = SCHEMA_VERSION

    @property
    def baseline(self) -> Point:
        """Plain int8."""
        return self.points[0]

    @property
    def best(self) -> Point | None:
        """The chosen recipe."""
        return None if self.chosen is None else self.points[self.chosen]


def outcome(
    search: Context, points: Sequence[Point], path: Sequence[Step], chosen: int | None, why: str, budget: float
) -> TuneResult:
    """Return the whole result; the chosen recipe carries its evidence."""
    halves, unlabelled = search.halves
    export = search.build.stage(EXPORT)
    entries = tuple(search.journal.used.values())
    best = None if chosen is None else points[chosen]
    if search.left_out and not search.journal.done:
        search.left_out.insert(0, "all that is new: nothing of it fits into --time, give more")
    met = best is not None and best.report is not None and passes(best.report, search.options)
    if best is not None and not met:
        why += "; on the images kept back it misses a bar"
    result = TuneResult(
        model=search.request.spec.name,
        command=search.options.command,
        float_sha256=export.sha256(export.result.onnx),
        seed=search.request.seed,
        level=search.request.precision.compiler.optimize_level,
        cost_level=LEVEL,
        selection=halves.selection.description,
        report=halves.report.description,
        unlabelled=unlabelled,
        max_drop=search.options.max_drop,
        max_latency_us=budget,
        min_agreement=search.options.min_agreement,
        points=tuple(points),
        path=tuple(path),
        chosen=chosen,
        met=met,
        why=why,
        trials=entries,
        time=shares(entries),
        seconds=round(search.journal.spent, 1),
        left_out=tuple(dict.fromkeys(search.left_out)),
        versions=_versions(search),
    )
    if best is None:
        return result
    told = evolve(best, precision=evolve(best.precision, evidence=_evidence(result, best)))
    return evolve(result, points=tuple(told if point is best else point for point in points))


def point_of(name: str, precision: Precision, entry: Entry) -> Point:
    """Return a shipping trial as a point."""
    if entry.failed:
        return Point(name, precision, failed=entry.failed)
    return Point(name, precision, latency(entry), measured(entry), bit_exact=entry.values["bit_exact"])


def _versions(search: Context) -> dict[str, str]:
    first = search.journal.of_kind("ship")[0]
    return {
        "edge": __version__,
        "onnxruntime": version("onnxruntime"),
        **{str(key): str(value) for key, value in first.values.get("versions", {}).items()},
    }


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
        top1_float=_rounded(own.float_figure),
        top1=_rounded(own.figure),
        top1_int8=_rounded(int8.figure),
        latency_us=best.latency_us,
        latency_us_int8=result.points[0].latency_us,
        level=best.precision.compiler.optimize_level,
        seed=result.seed,
        versions=result.versions,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def shares(entries: tuple[Entry, ...]) -> tuple[TimeShare, ...]:
    """Return the time of each kind of work, the longest first."""
    found = []
    for kind in dict.fromkeys(entry.kind for entry in entries):
        own = [entry for entry in entries if entry.kind == kind]
        failed = sum(1 for entry in own if entry.failed)
        found.append(TimeShare(kind, len(own), round(sum(entry.seconds for entry in own), 1), failed))
    return tuple(sorted(found, key=lambda share: -share.seconds))
