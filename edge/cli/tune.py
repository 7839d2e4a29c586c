"""``edge tune``: search the precision recipe of a model."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.cli.display import Display, examples
from edge.cli.options import FILE, Number, cluster_option, make_request, option, request_options, typed_arguments
from edge.cli.verb import Verb
from edge.errors import GateError, UsageError, counted

if TYPE_CHECKING:
    from edge.specs import Precision
    from edge.tune import Measured, Point, TuneResult

WIDTH = 100  # of a line of words
SHOWN = 6  # nodes of the recipe; the file has all
_KINDS = {
    "ship": "programs at the level that ships",
    "build": "calibrations, quick builds",
    "rank": "rankings of all units",
    "places": "places to split compared",
    "damage": "sets of units compared",
    "latency": "latency-only compiles",
    "report": "figures on the images kept back",
}


def tune_table(result: TuneResult, root: Path, out: Path | None) -> str:
    """Return the tables.

    Args:
        out: the recipe's place, if the user gave one.
    """
    base = result.baseline
    detector = base.report is not None and base.report.self_ap is not None
    named = "AP" if detector else "Top-1"
    lines = [f"{'recipe':<44} {'latency':>10} {'':>7} {named:>7} {'agreement':>9} {'divergence':>10} {'p':>6}"]
    for i, point in enumerate(result.points):
        lines.append(_row(point, base, chosen=i == result.chosen))
    kept = base.report
    if kept is not None and kept.float_figure is not None:
        lines.insert(1, f"  {'float behind NV12':<42} {'':>10} {'':>7} {kept.float_figure:>6.2f}%")
    lines += ["", f"figures on   {result.report}; searched on {result.selection}"]
    like = (
        "AP with float's boxes behind NV12; p: that it is plain int8's, sign test"
        if detector
        else ("with float behind NV12; p: that it is plain int8's, McNemar")
    )
    lines.append(f"             agreement: {like}, after Holm")
    if result.unlabelled:
        lines.append(f"{f'no {named}':<12} {result.unlabelled}")
    best = result.best
    if best is not None:
        lines += ["", *(click.style(line, bold=True) for line in textwrap.wrap(result.why, WIDTH))]
        if result.chosen:
            lines += _recipe(best.precision)
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
        lines.append(f"go on with   {result.command}   (--time is for each run; nothing is repeated)")
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
    top1 = f"{found.figure:>6.2f}%" if found.figure is not None else f"{'':>7}"
    p = "" if point.p is None else "<0.001" if point.p < 0.001 else f"{point.p:.3f}"
    return f"{row} {top1} {found.agreement_percent:>8.2f}% {found.divergence:>10.5f} {p:>6}".rstrip()


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
    if precision.range_split:
        places = precision.range_split.places
        where = f" at {counted(len(places), 'place')}" if places else ""
        lines.append(f"  channels     in {precision.range_split.groups} groups by range{where}")
    lines.append(f"  weights      {'rounded so that errors cancel' if precision.rounding else 'to the nearest step'}")
    if precision.thresholds:
        lines.append("  thresholds   chosen by the network's answers")
        if (granted := precision.thresholds.int16_latency) > 1:
            lines.append(f"  int16        what the answers need most, within {granted:g} times int8's latency")
    for name, node in list(precision.nodes.items())[:SHOWN]:
        sides = [side for side, bits in (("in", node.inputs), ("out", node.outputs)) if bits]
        lines.append(f"  int16        {name} ({', '.join(sides)})")
    if len(precision.nodes) > SHOWN:
        lines.append(f"               … and {len(precision.nodes) - SHOWN} more nodes")
    return lines


def _gain(int8: Measured, own: Measured) -> list[str]:
    from edge.measure.statistics import may_be_chance, mcnemar, p_value

    before, after = int8.n - int8.agreement, own.n - own.agreement
    what, name = ("other answers than float's behind NV12", "Top-1")
    if own.self_ap is not None:
        what, name = "boxes lost or gained against float behind NV12", "AP"
        before, after = sum(int8.other), sum(own.other)
    lines = []
    if own is not int8:
        fewer = f", {100 * (before - after) / before:.0f} % of them removed" if before > after else ""
        of = f" of {own.n}" if own.self_ap is None else f" on {counted(own.n, 'image')}"
        lines.append(f"  {what}: {before} → {after}{of}{fewer}")
    if own.drop is not None:
        p = mcnemar(own.lost, own.gained)
        word = "as float's" if not own.drop else f"{abs(own.drop):.2f} points {'below' if own.drop > 0 else 'above'}"
        noise = "within" if may_be_chance(p) else "beyond"
        end = "" if not own.drop else f" float's, {noise} noise ({p_value(p)})"
        lines.append(f"  {name}, both behind NV12: {word}{end}")
    return lines


def _build(command: str) -> str:
    """Return the build command with the options that say what to build."""
    words, kept = shlex.split(command)[2:], ["edge", "build"]
    own = {"--max-drop", "--max-latency", "--min-agreement", "--time", "--trial-timeout", "--out"}
    skip = False
    for word in words:
        if skip or word in own:
            skip = word in own
            continue
        kept.append(word)
    return shlex.join(kept)


EXAMPLES = (
    "edge tune ConvNeXt_atto",
    "edge tune ConvNeXt_atto --max-latency 1.05x --time 45m",
    "edge tune my.onnx --mean 127.5 --std 127.5 --color rgb --resize 256 --crop 224 "
    "--images val/ --count 0 --calib train/ --max-drop 0.3",
    "edge tune ConvNeXt_atto --cluster tcp://lab:8786",
)


@click.command("tune", cls=Verb, epilog=examples(EXAMPLES))
@request_options("tune", without=("precision", "timeout"))
@option("--max-drop", "Top-1 that may be lost; a loss within chance (p = 0.05) passes.", Number(min=0), 0.3, "POINTS")
@option("--max-latency", "Static latency: a multiple of int8's (1.05x), 1.5ms or 900us.", default="1.10x", value="TIME")
@option("--min-agreement", "Share of the answers that have to be float's behind NV12.", Number(0, 100), value="PERCENT")
@option("--time duration", "Time for each run (90s, 45m, 1h); the next one goes on.", default="30m", value="TIME")
@option("--trial-timeout", "Time for one compile (90s, 10m); a longer one has failed.", default="10m", value="TIME")
@option(
    "--out", "Recipe to write.  [default: mapper_yaml/precision/MODEL.yaml in a checkout, else the build folder]", FILE
)
@cluster_option
@click.pass_context
def tune_command(
    context: click.Context,
    /,
    *,
    build_dir: Path,
    max_drop: float,
    max_latency: str,
    min_agreement: float | None,
    duration: str,
    trial_timeout: str,
    out: Path | None,
    cluster: str | None,
    as_json: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Search the precision recipe with which MODEL loses least accuracy at nearly int8's speed.

    One half of the images is searched on; the figures at the end are of the other half. Every trial is a real
    compile. Finished trials are kept, and the same command goes on from there. edge build then uses the recipe.
    """
    import cattrs
    from attrs import evolve

    from edge.files import disk_errors, require_ours, write_json
    from edge.folder.workspace import Workspace
    from edge.specs import is_searched, load_precision, recipe_place, save_precision
    from edge.specs.schema import Compiler
    from edge.tune import FILE, SearchOptions, tune
    from edge.tune.spaces import baseline, operator_items

    share, microseconds = parse_latency(max_latency)
    wanted = SearchOptions(
        max_drop=max_drop,
        max_latency=share,
        max_latency_us=microseconds,
        min_agreement=min_agreement,
        seconds=parse_duration("--time", duration),
        trial_seconds=parse_duration("--trial-timeout", trial_timeout),
        command=shlex.join(["edge", "tune", *typed_arguments(context)]),
    )
    request = make_request(**{**options, "precision": "int8"}, arguments=typed_arguments(context))
    plain = baseline(request.precision, load_precision(request.spec.precision))
    if items := operator_items(plain):
        click.echo(f"every recipe keeps {', '.join(items)}, of {request.spec.precision}", err=True)
    request = evolve(request, precision=plain)
    root = build_dir / request.spec.name
    target = out or recipe_place(request.spec.name, root)
    held = Workspace(root, display := Display(verbose=verbose), source=request.source, replace=request.replace)
    if out is not None:
        require_ours(out, "evidence:")
    with display, ExitStack() as stack:
        crew = None
        if cluster is not None:
            from edge.cluster import open_cluster
            from edge.cluster.search import SearchCrew
            from edge.pipeline.choices import choose_compiler

            compiler = choose_compiler(request, display)
            workers = stack.enter_context(open_cluster(cluster, display, compiler=compiler, install=request.install))
            crew = partial(SearchCrew, workers)
        result = tune(request, held, wanted, display, crew)
        with held, disk_errors(target.parent):
            if result.met and result.best is not None and result.chosen:
                # A search at O1 is for a quick answer; builds with its recipe are at the level that ships.
                save_precision(target, evolve(result.best.precision, compiler=Compiler()))
                result = cattrs.structure({**cattrs.unstructure(result), "recipe": str(target)}, type(result))
            write_json(root / FILE, cattrs.unstructure(result))
        if not result.recipe and is_searched(target):
            display.warn(f"{target} is of an earlier search; edge build takes it until you remove it")
    click.echo(
        json.dumps(cattrs.unstructure(result), indent=2, ensure_ascii=False)
        if as_json
        else "\n" + tune_table(result, root, out)
    )
    if not result.met:
        raise GateError(
            result.why,
            expected=f"a drop of {max_drop:g} points (--max-drop), "
            f"{result.max_latency_us:.1f} us (--max-latency)"
            + (f", agreement {min_agreement:g} % (--min-agreement)" if min_agreement is not None else ""),
            remedy="loosen a bar, or run it again for more time; what is finished is kept",
        )


def parse_latency(text: str) -> tuple[float | None, float | None]:
    """Return (share of plain int8, None) or (None, microseconds).

    Raises:
        UsageError: it is neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(x|ms|us)", text.strip().lower())
    value = float(match.group(1)) if match else 0.0
    if match is None or value <= 0 or (match.group(2) == "x" and value < 1):
        raise UsageError(
            f"--max-latency {text!r}", expected="a multiple of plain int8's such as 1.05x, or 1.5ms, or 900us"
        )
    unit = match.group(2)
    return (value, None) if unit == "x" else (None, value * (1000 if unit == "ms" else 1))


def parse_duration(option: str, text: str) -> float:
    """Return seconds.

    Raises:
        UsageError: it is no duration above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h)", text.strip().lower())
    seconds = float(match.group(1)) * {"s": 1, "m": 60, "h": 3600}[match.group(2)] if match else 0.0
    if seconds <= 0:
        raise UsageError(f"{option} {text!r}", expected="a duration such as 90s, 30m or 1h")
    return seconds
