"""``edge tune``: search the precision recipe of a model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click

from edge.cli.display import Display
from edge.cli.options import make_request, request_options, typed_arguments
from edge.errors import GateError, UsageError

EXAMPLES = (
    "edge tune ConvNeXt_atto",
    "edge tune ConvNeXt_atto --max-latency 1.05x --time 45m",
    "edge tune my.onnx --mean 127.5 --std 127.5 --color rgb --resize 256 --crop 224 "
    "--images val/ --count 0 --calib train/ --max-drop 0.3",
)


@click.command("tune", epilog="\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES))
@request_options
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    default=0.3,
    show_default=True,
    help="Points of Top-1 that may be lost; a loss within chance (p = 0.05) passes.",
)
@click.option(
    "--max-latency",
    default="1.10x",
    show_default=True,
    help="Static latency that it may take: 1.05x plain int8's, 1.5ms or 900us.",
)
@click.option(
    "--min-agreement", type=click.FloatRange(0, 100), help="Percent of answers that have to be float's."
)
@click.option(
    "--time", "duration", default="30m", show_default=True, help="For the whole search: 90s, 45m, 1h."
)
@click.option(
    "--trial-timeout",
    default="10m",
    show_default=True,
    help="For one compile; a longer one is a failed trial.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the recipe goes.  [default: mapper_yaml/precision/MODEL.yaml in a checkout, else the build "
    "folder]",
)
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
    as_json: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Search the recipe with which MODEL loses least accuracy at nearly int8's speed.

    Half of the pictures are searched on, the figures at the end are of the other half. Every trial is a real
    compile; finished ones are kept, and the same command goes on from there. edge build takes the recipe by
    itself.
    """
    import cattrs
    from attrs import evolve

    from edge.atomic import disk_errors, write_json
    from edge.cli.tune_table import tune_table
    from edge.specs import load_precision
    from edge.tune import FILE, Options, tune
    from edge.tune.recipe import place, write
    from edge.tune.spaces import baseline, operator_items
    from edge.workspace import Workspace

    if options["precision"] is not None:
        raise UsageError(
            f"--precision {options['precision']} with edge tune, which searches for it",
            remedy="leave --precision away",
        )
    share, microseconds = parse_latency(max_latency)
    wanted = Options(
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
    target = out or place(request.spec.name, root)
    with Display(verbose=verbose) as display, Workspace(root, display) as workspace:
        result = tune(request, workspace, wanted, display)
        with disk_errors(target.parent):
            if result.met and result.best is not None and result.chosen:
                write(target, result.best.precision)
                result = cattrs.structure({**cattrs.unstructure(result), "recipe": str(target)}, type(result))
            write_json(root / FILE, cattrs.unstructure(result))
    click.echo(
        json.dumps(cattrs.unstructure(result), indent=2, ensure_ascii=False)
        if as_json
        else "\n" + tune_table(result, root, out)
    )
    if not result.met:
        raise GateError(
            result.why,
            allowed=f"a drop of {max_drop:g} points (--max-drop), "
            f"{result.max_latency_us:.1f} us (--max-latency)"
            + (f", agreement {min_agreement:g} % (--min-agreement)" if min_agreement is not None else ""),
            remedy="loosen a bar or give it more --time; what is finished is kept",
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
            f"--max-latency {text!r}", allowed="a share of plain int8's such as 1.05x, or 1.5ms, or 900us"
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
        raise UsageError(f"{option} {text!r}", allowed="a duration such as 90s, 30m or 1h")
    return seconds
