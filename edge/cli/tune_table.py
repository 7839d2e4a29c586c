"""The end of ``edge tune``: the front, what was chosen, where the time went."""

from __future__ import annotations

from pathlib import Path

import click

from edge.specs import Precision
from edge.statistics import mcnemar
from edge.tune.result import Measured, Point, TuneResult

SHOWN = 6  # nodes of the recipe; the file has all
_KINDS = {
    "ship": "programs at the level that ships",
    "build": "calibrations, quick builds",
    "rank": "rankings of all units",
    "damage": "sets of units compared",
    "latency": "latency-only compiles",
    "report": "figures on the pictures kept back",
}


def tune_table(result: TuneResult, root: Path, out: Path | None) -> str:
    """Return the tables.

    Args:
        result: of the search.
        root: the build folder.
        out: the recipe's place, if the user gave one.
    """
    lines = [f"{'recipe':<44} {'latency':>10} {'':>7} {'Top-1':>7} {'agreement':>9} {'divergence':>10}"]
    base = result.baseline
    for i, point in enumerate(result.points):
        lines.append(_row(point, base, chosen=i == result.chosen))
    kept = base.report
    if kept is not None and kept.float_top1 is not None:
        lines.insert(1, f"  {'float behind NV12':<42} {'':>10} {'':>7} {kept.float_top1:>6.2f}%")
    lines += ["", f"figures on   {result.report}; searched on {result.selection}"]
    if result.unlabelled:
        lines.append(f"no Top-1     {result.unlabelled}")
    best = result.best
    if best is not None:
        lines += ["", click.style(result.why, bold=True), *_recipe(best.precision)]
        if best.report is not None and kept is not None:
            lines += _gain(kept, best.report)
    lines += ["", f"time         {result.seconds / 60:.1f} min of work:"]
    for share in result.time:
        failed = f", {share.failed} of them failed" if share.failed else ""
        title = _KINDS.get(share.kind, share.kind)
        lines.append(f"  {share.seconds:>7.1f} s  {share.count:>4} {title}{failed}")
    if result.left_out:
        more = f" and {len(result.left_out) - 1} more" if len(result.left_out) > 1 else ""
        lines.append(f"left out     {result.left_out[0]}{more}; all of it in tune.json")
    lines.append(f"all trials   {root / 'tune.json'}")
    if result.recipe:
        lines.append(f"recipe       {result.recipe}")
        given = f" --precision {result.recipe}" if out is not None else ""
        lines.append(f"next         {_build(result.command)}{given}")
    return "\n".join(lines)


def _row(point: Point, base: Point, *, chosen: bool) -> str:
    mark = click.style("→ ", fg="green") if chosen else "  "
    # What sets a recipe apart stands at the end of its name.
    name = point.name if len(point.name) <= 42 else f"{point.name[:12]}…{point.name[-29:]}"
    if point.failed or point.latency_us is None:
        return f"{mark}{name:<42} failed: {point.failed}"
    ratio = f"{point.latency_us / (base.latency_us or 1):.3f}x"
    row = f"{mark}{name:<42} {point.latency_us:>7.1f} us {ratio:>7}"
    found = point.report
    if found is None:
        return row
    top1 = f"{found.top1:>6.2f}%" if found.top1 is not None else f"{'':>7}"
    return f"{row} {top1} {found.agreement_percent:>8.2f}% {found.divergence:>10.5f}"


def _recipe(precision: Precision) -> list[str]:
    calibration = precision.calibration
    parts: list[str] = [calibration.method]
    if calibration.max_percentile is not None:
        parts.append(f"percentile {calibration.max_percentile:g}")
    parts += ["per channel"] if calibration.per_channel else []
    parts += list(calibration.optimization)
    lines = [f"  calibration  {', '.join(parts)}"]
    if precision.rewrites:
        lines.append(f"  graph        {', '.join(precision.rewrites)}: the same answers in another form")
    if precision.equalization:
        lines.append("  channels     scaled so that the steps fit each")
    lines.append(
        f"  weights      {'rounded so that errors cancel' if precision.rounding else 'to the nearest step'}"
    )
    for name, node in list(precision.nodes.items())[:SHOWN]:
        sides = [side for side, bits in (("in", node.inputs), ("out", node.outputs)) if bits]
        lines.append(f"  int16        {name} ({', '.join(sides)})")
    if len(precision.nodes) > SHOWN:
        lines.append(f"               … and {len(precision.nodes) - SHOWN} more nodes")
    return lines


def _gain(int8: Measured, own: Measured) -> list[str]:
    before, after = int8.n - int8.agreement, own.n - own.agreement
    removed = f", {100 * (before - after) / before:.0f} % of them removed" if before else ""
    lines = [f"  other answers than float's: {before} → {after} of {own.n}{removed}"]
    if own.drop is not None:
        p = mcnemar(own.lost, own.gained)
        lines.append(f"  Top-1 lost to float behind NV12: {own.drop:.2f} points (p = {p:.2f})")
    return lines


def _build(command: str) -> str:
    """Return the build command with the options that say what to build."""
    import shlex

    words, kept = shlex.split(command)[2:], ["edge", "build"]
    own = {"--max-drop", "--max-latency", "--min-agreement", "--time", "--trial-timeout", "--out"}
    skip = False
    for word in words:
        if skip or word in own:
            skip = word in own
            continue
        kept.append(word)
    return shlex.join(kept)
