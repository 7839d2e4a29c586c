"""``edge eval``: what each step from the float network to the program costs."""

from __future__ import annotations

import json
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from edge.cli.board_reach import reach_options
from edge.cli.built_pictures import built_pictures
from edge.cli.display import Display
from edge.cli.options import complete_models, typed_arguments
from edge.cli.program import find_program
from edge.errors import GateError, ModelFileError, ToolchainMissing, UsageError

if TYPE_CHECKING:
    from edge.built import Built
    from edge.evaluate import Evaluation, Hop, Missing, Pictures
    from edge.toolchain.found import Toolchain

EXAMPLES = (
    "edge eval ConvNeXt_atto",
    "edge eval ConvNeXt_atto --images val/ --count 0 --max-drop 1.0",
    "edge eval build/ConvNeXt_atto --images val/ --hops nv12,quantized",
    "edge eval ConvNeXt_atto --images val/ --board rdk",
)


@click.command("eval", epilog="\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES))
@click.argument("model", shell_complete=complete_models)
@click.option(
    "--images",
    help="Pictures to measure on: a folder, list file or labels.csv.  [default: those that the build was "
    "measured on, if they were the demo's]",
)
@click.option("--count", type=click.IntRange(min=0), default=500, show_default=True, help="Of them; 0: all.")
@click.option(
    "--hops",
    help="Which, with commas: float, simplified, nv12, calibrated, quantized, program, portable, board. "
    "float is always measured.  [default: all that can be]",
)
@click.option(
    "--program-count",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Pictures for the hop program: seconds each.",
)
@click.option(
    "--max-drop", type=click.FloatRange(min=0), metavar="POINTS", help="Exit with 1 if Top-1 falls by more."
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Exit with 1 if fewer answers are the float network's.",
)
@click.option("--labels", help="imagenet, demo, or a text file with a class name a line.  [default: MODEL's]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of every random choice.")
@click.option("--workers", type=click.IntRange(min=1), help="Pictures at once.  [default: the cores]")
@click.option("--board", metavar="HOST", help="Measure on this board too, over SSH; see edge board --help.")
@reach_options
@click.pass_context
def eval_command(
    context: click.Context,
    /,
    *,
    model: str,
    images: str | None,
    count: int,
    hops: str | None,
    program_count: int,
    max_drop: float | None,
    min_agreement: float | None,
    labels: str | None,
    seed: int,
    workers: int | None,
    board: str | None,
    build_dir: Path,
    as_json: bool,
    verbose: bool,
    **reach: Any,
) -> None:
    """Measure MODEL after each step from float to program, on the same pictures.

    MODEL is a build folder, or a name: ConvNeXt_atto means build/ConvNeXt_atto. Writes eval.json and
    answers.csv (every answer to every picture) into it. What was answered before is not computed again.
    """
    import cattrs

    from edge.built import open_built
    from edge.cli.eval_table import eval_table
    from edge.evaluate import (
        ANSWERS,
        FILE,
        choose,
        discard_stale,
        evaluate,
        find_hops,
        subject_of,
        write_evaluation,
    )
    from edge.workspace import Workspace

    path = find_program(model, build_dir)
    if not path.is_dir():
        raise ModelFileError(
            f"{path} is a single file",
            allowed="the folder of a finished build",
            remedy=f"edge eval {path.parent}",
        )
    open_built(path)  # a wrong folder is told before anything waits
    with ExitStack() as stack:
        display = stack.enter_context(Display(verbose=verbose))
        stack.enter_context(Workspace(path, display))
        built = open_built(path)  # from here on no build replaces it
        pictures = _pictures(built, images, labels, count=count, seed=seed)
        subject = subject_of(built, *_toolchain(built))
        found, missing = find_hops(subject, program_count)
        if board is not None:
            from edge.cli.eval_board import board_hop

            found.append(board_hop(subject, path, board, reach, display, stack))
        if hops is None:
            chosen = found
            _tell_missing(missing, display)
        else:
            chosen = choose(found, missing, [name.strip() for name in hops.split(",") if name.strip()])
        _check_gates(pictures, chosen, max_drop, min_agreement)
        if pictures.unlabelled:
            display.warn(f"{pictures.unlabelled}; agreement with the float network is measured instead")
        evaluation = evaluate(
            subject,
            chosen,
            pictures,
            root=path,
            command=shlex.join(["edge", "eval", *typed_arguments(context)]),
            answers=path / ANSWERS,
            workers=workers,
            listener=display,
        )
        write_evaluation(path / FILE, evaluation)
        discard_stale(path, built.sha256.values())
    if as_json:
        click.echo(json.dumps(cattrs.unstructure(evaluation), indent=2, ensure_ascii=False))
    else:
        click.echo("\n" + eval_table(evaluation, path))
    _gate(evaluation, max_drop, min_agreement, model)


def _pictures(built: Built, images: str | None, labels: str | None, *, count: int, seed: int) -> Pictures:
    from edge.evaluate import Pictures

    found, unlabelled = built_pictures(built, "eval", images, labels, count=count, seed=seed)
    return Pictures(found, unlabelled, seed)


def _toolchain(built: Built) -> tuple[Toolchain | None, str]:
    """Return the compiler that made the build, or another one; or why there is none."""
    from edge.toolchain.find import find

    kind = built.manifest.get("mapper")
    if kind == "portable":
        return None, "built without the vendor's compiler (--mapper portable)"
    why = "no compiler"
    for choice in (kind, "auto"):
        try:
            return find(cast("Any", choice)), ""
        except ToolchainMissing as error:
            why = error.seen
    return None, why


def _tell_missing(missing: list[Missing], display: Display) -> None:
    reasons: dict[str, list[str]] = {}
    for entry in missing:
        reasons.setdefault(entry.why, []).append(entry.name)
    for why, names in reasons.items():
        display.warn(f"left out: {', '.join(names)} ({why})")


def _check_gates(
    pictures: Pictures, hops: list[Hop], max_drop: float | None, min_agreement: float | None
) -> None:
    """Refuse a gate that nothing could be told by, before anything is measured."""
    if max_drop is not None and pictures.unlabelled:
        raise UsageError(
            f"--max-drop, but there is no Top-1: {pictures.unlabelled}",
            allowed="--max-drop with labelled pictures",
            remedy="use --min-agreement 95 instead",
        )
    option = "--max-drop" if max_drop is not None else "--min-agreement" if min_agreement is not None else ""
    if option and not {"quantized", "portable"} & {hop.name for hop in hops}:
        raise UsageError(
            f"{option} without the quantized network",
            allowed="quantized or portable among the hops",
            remedy="add quantized to --hops",
        )


def _gate(evaluation: Evaluation, max_drop: float | None, min_agreement: float | None, model: str) -> None:
    """Raise where the program is worse than allowed; all results are written by now.

    Raises:
        GateError: Top-1 or agreement is beyond its limit.
    """
    remedy = f"edge diagnose {model}   names the layers that cost most"
    drop, last = evaluation.drop, evaluation.hop(evaluation.quantized)
    if max_drop is not None and drop is not None and drop > max_drop:
        raise GateError(
            f"Top-1 falls by {drop:.2f} points from float to {last.hop}, on {last.n} pictures",
            allowed=f"at most {max_drop:g} (--max-drop)",
            remedy=remedy,
        )
    if min_agreement is not None and last.agreement_percent < min_agreement:
        raise GateError(
            f"{last.hop} gives float's answer on {last.agreement_percent:.2f} % of {last.n} pictures",
            allowed=f"at least {min_agreement:g} % (--min-agreement)",
            remedy=remedy,
        )
