"""Which of the shipped recipes is recommended: one that the images kept back show to be better than plain int8."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, fields, frozen

from edge.errors import counted
from edge.measure.objective import Measured
from edge.measure.statistics import holm, may_be_chance, mcnemar, p_value
from edge.specs import Calibration, Precision
from edge.tune.context import SearchOptions
from edge.tune.spaces import ROUNDED

TIE = 0.01  # of plain int8's divergence: a faster recipe that is no further from float than this loses nothing
NEAR = 0.1  # of plain int8's divergence: recipes this near to the best are as good, if their answers say so too
FASTER = 0.99  # of a latency; what is above takes as long
SHIPPED = "int8_rounded"


@frozen
class Point:
    """A recipe that was compiled at the shipping level."""

    name: str  #: as shown to the user.
    precision: Precision  #: the recipe.
    latency_us: float | None = None  #: the compiler's static latency, microseconds; None if the trial failed.
    selection: Measured | None = None  #: on the images of the search; None if the trial failed.
    report: Measured | None = None  #: on the images that were kept back; None if there was no time.
    #: whether verify found program and quantized model equal; None if it could not run.
    bit_exact: bool | None = None
    failed: str = ""  #: why there is no program; empty if there is.
    #: that it gives float's answer as often as plain int8 on the images kept back: exact McNemar, adjusted after Holm
    #: for the number of recipes in the table; None for plain int8 itself and if it was not measured.
    p: float | None = None


def compared(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points with their p; plain int8 is the first."""
    base = points[0].report
    measured = [i for i, point in enumerate(points) if i and point.report is not None]
    pairs = [_pair(base, points[i].report) for i in measured]
    found = dict(zip(measured, holm([mcnemar(*pair) for pair in pairs]), strict=True))
    return tuple(evolve(point, p=found.get(i)) for i, point in enumerate(points))


def recommended(points: Sequence[Point], options: SearchOptions, budget: float) -> tuple[int | None, str]:
    """Return the recipe to use, and why in one line.

    A recipe has to keep the bars on the images of the search, and on the images kept back to give float's answer more
    often than plain int8, beyond chance; or to be faster and lose nothing. The best of these is the one nearest to
    float on the images of the search. Of those that are not worse than it beyond chance the fastest is taken, of
    equally fast ones the simplest. If there is none, plain int8 is the answer.

    Args:
        points: plain int8 first, with the p of :func:`compared`.
        budget: microseconds that a program may take.
    """
    base = points[0]
    keep = [i for i, point in enumerate(points) if _keeps(point, options, budget)]
    if not keep:
        return None, "no recipe keeps both bars on the images of the search"
    proved = [i for i in keep if i and (_better(base, points[i]) or _faster(base, points[i]))]
    if not proved:
        return 0, _unproved(points, keep)
    best = min(proved, key=lambda i: (_divergence(points[i].selection), i))
    good = [i for i in proved if not _worse(points[best], points[i], NEAR * _divergence(base.report))]
    quickest = min(points[i].latency_us or 0.0 for i in good)
    fast = [i for i in good if FASTER * (points[i].latency_us or 0.0) <= quickest]
    chosen = min(fast, key=lambda i: (changes(points[i].precision, base.precision), points[i].latency_us or 0.0, i))
    return chosen, _proved(points, chosen, points[best])


def passes(found: Measured, options: SearchOptions) -> bool:
    """Tell whether accuracy keeps the bars. A loss of Top-1 that may be chance does not count."""
    if options.min_agreement is not None and found.agreement_percent < options.min_agreement:
        return False
    return found.drop is None or found.drop <= options.max_drop or may_be_chance(mcnemar(found.lost, found.gained))


def changes(precision: Precision, int8: Precision) -> int:
    """Return in how many settings a recipe differs from plain int8: the fewer, the simpler."""
    found = len(precision.nodes) + len(precision.rewrites) + (precision.equalization is not None)
    found += (precision.range_split is not None) + (precision.thresholds is not None)
    if precision.rounding is not None:
        found += 1 + (precision.rounding != ROUNDED)
    keys = (item.name for item in fields(Calibration))
    return found + len([key for key in keys if getattr(precision.calibration, key) != getattr(int8.calibration, key)])


def is_simplest(precision: Precision, int8: Precision) -> bool:
    """Tell whether a recipe is plain int8 with rounded weights and nothing else, as the shipped ``int8_rounded`` is."""
    return precision.rounding == ROUNDED and changes(precision, int8) == 1


def _keeps(point: Point, options: SearchOptions, budget: float) -> bool:
    found, latency = point.selection, point.latency_us
    return found is not None and latency is not None and latency <= budget and passes(found, options)


def _better(base: Point, point: Point) -> bool:
    lost, gained = _pair(base.report, point.report)
    return gained > lost and point.p is not None and not may_be_chance(point.p)


def _faster(base: Point, point: Point) -> bool:
    quick = (point.latency_us or 0.0) <= FASTER * (base.latency_us or 0.0)
    near = _divergence(point.selection) <= (1 + TIE) * _divergence(base.selection)
    return quick and near and point.report is not None and not _worse(base, point, TIE * _divergence(base.report))


def _worse(best: Point, other: Point, margin: float) -> bool:
    """Tell whether a recipe is worse than another one on the images kept back: in its answers, or in its scores."""
    lost, gained = _pair(best.report, other.report)
    fewer = lost > gained and not may_be_chance(mcnemar(lost, gained))
    return fewer or _divergence(other.report) > _divergence(best.report) + margin


def _pair(before: Measured | None, after: Measured | None) -> tuple[int, int]:
    """Return the images on which the answer is further from float's than before, and on which it is nearer.

    So the exact McNemar test of the two is a sign test over the images, for any number of boxes.
    """
    if before is None or after is None:
        return 0, 0
    both = list(zip(before.other, after.other, strict=True))
    return sum(a < b for a, b in both), sum(a > b for a, b in both)


def _divergence(found: Measured | None) -> float:
    return float("inf") if found is None else found.divergence


def _proved(points: Sequence[Point], chosen: int, best: Point) -> str:
    base, own = points[0], points[chosen]
    if _better(base, own):
        what = f"{_counts(base, own)}, {p_value(own.p or 0.0)}{_of(points)}"
    else:
        what = "faster than plain int8, and no worse on the images kept back"
    if own is not best:
        what += "; of the recipes that are no worse beyond chance the fastest and simplest"
    if is_simplest(own.precision, base.precision):
        what += f"; it is the shipped recipe {SHIPPED}"
    return f"{own.name}: {what}"


def _unproved(points: Sequence[Point], keep: Sequence[int]) -> str:
    found = [points[i] for i in keep if points[i].p is not None]
    if not found:
        return "plain int8: no other program was measured that keeps the bars"
    most = max(found, key=lambda point: point.report.agreement_percent if point.report is not None else 0)
    return (
        "plain int8: no recipe gives float's answer more often beyond chance "
        f"(the nearest, {most.name}: {_counts(points[0], most)}, {p_value(most.p or 0.0)}{_of(points)})"
    )


def _counts(base: Point, own: Point) -> str:
    if base.report is None or own.report is None:
        return "not measured"
    if own.report.self_ap is not None:
        lost, gained = _pair(base.report, own.report)
        return (
            f"AP with float's boxes {base.report.agreement_percent:.1f} → {own.report.agreement_percent:.1f}, "
            f"nearer to float on {gained} and further on {lost} of {counted(own.report.n, 'image')} kept back"
        )
    images = counted(own.report.n, "image")
    return f"float's answer on {base.report.agreement} → {own.report.agreement} of {images} kept back"


def _of(points: Sequence[Point]) -> str:
    count = sum(point.p is not None for point in points)
    return f" after Holm for {count} recipes" if count > 1 else ""
