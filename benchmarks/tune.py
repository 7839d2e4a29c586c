"""The gain of ``edge tune`` over plain int8 and over hand-made lists of nodes.

    python benchmarks/tune.py --rival vendor_ConvNeXt_atto -- ConvNeXt_atto --max-latency 1.10x --time 45m
    python benchmarks/tune.py --outside more/ -- net.onnx --mean 0 --std 255 --images val/ --calib train/

Everything behind ``--`` is for ``edge tune``, which resumes where it stopped and repeats no trial. A rival is a recipe;
it is compiled at the same level and measured on the same images, which the search kept back. With ``--outside`` the
recommended recipe and plain int8 are compared image by image on images that are in neither half: the paired test that
a recommendation has to pass.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import click
from attrs import evolve

from edge.cli.display import Display
from edge.cli.options import make_request
from edge.cli.tune import parse_duration, parse_latency, tune_command
from edge.folder.workspace import Workspace
from edge.measure.objective import Measured
from edge.measure.statistics import mcnemar, p_value
from edge.pipeline.choices import image_set
from edge.pipeline.stages import EXPORT
from edge.specs import load_precision
from edge.tune import Point, SearchOptions, tune
from edge.tune.context import TRIALS, Halves
from edge.tune.spaces import at_level
from edge.tune.tune import Search

HALF = 0.5  # share of plain int8's changed answers that must be removed
SIGNIFICANT = 0.05


def search(
    words: list[str], rivals: list[str], outside: str | None
) -> tuple[list[Point], int | None, float, list[Measured]]:
    """Return plain int8, the search's programs and the rivals; the index of the chosen one; the seconds.

    The last are plain int8 and the chosen one on images outside both halves; empty without ``outside``.
    """
    with click.Context(tune_command) as context:
        tune_command.parse_args(context, words)
        options: dict[str, Any] = dict(context.params)
    own = {key: options.pop(key) for key in ("max_drop", "max_latency", "min_agreement", "duration", "trial_timeout")}
    build_dir = options.pop("build_dir")
    for key in ("out", "as_json", "verbose"):
        options.pop(key)
    share, microseconds = parse_latency(own["max_latency"])
    wanted = SearchOptions(
        max_drop=own["max_drop"],
        max_latency=share,
        max_latency_us=microseconds,
        min_agreement=own["min_agreement"],
        seconds=parse_duration("--time", own["duration"]),
        trial_seconds=parse_duration("--trial-timeout", own["trial_timeout"]),
    )
    request = make_request(**{**options, "precision": "int8"})
    root: Path = build_dir / request.spec.name
    with Display() as display, Workspace(root, display) as workspace:
        result = tune(request, workspace, wanted, display)
        points, elsewhere = list(result.points), list[Measured]()
        with Workspace(root / TRIALS, display) as trials:
            side = Search(request, trials, wanted, display)
            for rival in rivals:
                precision = at_level(load_precision(rival), request.precision.compiler.optimize_level)
                points.append(side.measure(rival, precision))
            if outside is not None and result.chosen:
                elsewhere = on_others(side, outside, [points[0], points[result.chosen]])
    return points, result.chosen, result.seconds, elsewhere


def on_others(search: Search, path: str, points: list[Point]) -> list[Measured]:
    """Measure recipes on the images of a folder that are in neither half of the search."""
    halves, _ = search.halves
    used = {row.tobytes() for part in (halves.selection, halves.report) for row in part.contents}
    net, request = search.build.stage(EXPORT).result, search.request
    labels = "demo" if net.weights.source == "demo" else request.spec.labels
    offset = request.label_offset
    found, unlabelled = image_set(path, labels, net.weights.source, net.classes, count=0, seed=0, label_offset=offset)
    items = [item for item, row in zip(found, found.contents, strict=True) if row.tobytes() not in used]
    others = evolve(found, items=tuple(items), description=f"{path} ({len(items)} images outside both halves)")
    side = Search(request, search.workspace, search.options, search.listener)
    side.halves = (Halves(others, others), unlabelled)
    return [point.report for point in side._report(points) if point.report is not None]


def main() -> None:
    """Measure and print."""
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", action="append", default=[], help="a recipe: a name or a path")
    parser.add_argument("--outside", help="images for the paired test of the recommended recipe, none of the halves'")
    arguments = parser.parse_args(words[:at])
    points, chosen, seconds, elsewhere = search(words[at + 1 :], arguments.rival, arguments.outside)
    base = points[0]
    wide = max(len(point.name) for point in points)
    print(f"{'recipe':<{wide + 2}} {'us':>8} {'ratio':>6} {'agree':>7} {'other':>5} {'Top-1':>6} {'drop':>5} {'p':>5}")
    for i, point in enumerate(points):
        mark = "→" if i == chosen else " "
        print(f"{mark} {point.name:<{wide}} {row(point, base)}")
    print(f"search: {seconds / 60:.1f} minutes of work")
    if len(elsewhere) == 2:
        print(paired(*elsewhere))
    if chosen is not None and base.report is not None and points[chosen].report is not None:
        judge(points[chosen], base)
        own = [point for point in points[1:] if point.name not in arguments.rival]
        for rival in [base, *(point for point in points if point.name in arguments.rival)]:
            compare(own, rival)


def paired(int8: Measured, own: Measured) -> str:
    """Return the paired test of the recommended recipe against plain int8, on agreement with float behind NV12."""
    both = list(zip(int8.other, own.other, strict=True))
    spoiled, mended = sum(a < b for a, b in both), sum(a > b for a, b in both)
    test = f"{mended} images mended, {spoiled} spoiled, {p_value(mcnemar(spoiled, mended))}"
    return f"outside both halves: other answers {_other(int8)} → {_other(own)} of {own.n} images, {test}"


def row(point: Point, base: Point) -> str:
    """Return the figures of a recipe."""
    found = point.report
    if found is None or point.latency_us is None or base.latency_us is None:
        return f"failed: {point.failed}"
    p, top1 = mcnemar(found.lost, found.gained), found.figure
    accuracy = f"{top1:>6.2f} {found.drop:>5.2f} {p:>5.2f}" if top1 is not None else ""
    ratio = point.latency_us / base.latency_us
    other = _other(found)
    return f"{point.latency_us:>8.1f} {ratio:>6.3f} {found.agreement_percent:>6.2f}% {other:>5} {accuracy}"


def judge(best: Point, base: Point) -> None:
    """Print which bars the chosen recipe meets."""
    own, int8 = best.report, base.report
    if own is None or int8 is None or best.latency_us is None or base.latency_us is None:
        return
    removed = 1 - _other(own) / _other(int8) if _other(int8) else 0.0
    passes = own.drop is None or own.drop <= 0.3 or mcnemar(own.lost, own.gained) >= SIGNIFICANT
    print(f"other answers removed: {100 * removed:.0f} % ({_word(removed >= HALF)}: half)")
    print(f"Top-1: {_word(passes)}; latency {best.latency_us / base.latency_us:.3f} times plain int8's")


def compare(found: list[Point], rival: Point) -> None:
    """Print whether the front has a recipe that is no slower than a rival and at least as accurate."""
    if rival.report is None or rival.latency_us is None:
        print(f"against {rival.name}: it gave no program")
        return
    quick = [p for p in found if p.report and p.latency_us is not None and p.latency_us <= rival.latency_us]
    best = max(quick, key=lambda p: p.report.agreement if p.report else 0, default=None)
    if best is None or best.report is None:
        print(f"against {rival.name}: MISSED, nothing found is as fast")
        return
    met = _word(best.report.agreement >= rival.report.agreement)
    print(
        f"against {rival.name} ({rival.latency_us:.1f} us, {rival.report.agreement_percent:.2f} %): {met} by "
        f"{best.name} ({best.latency_us:.1f} us, {best.report.agreement_percent:.2f} %)"
    )


def _other(found: Measured) -> int:
    return found.n - found.agreement


def _word(met: bool) -> str:
    return "met" if met else "MISSED"


if __name__ == "__main__":
    main()
