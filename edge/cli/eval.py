"""``edge eval``: what each step from the float network to the program costs."""

from __future__ import annotations

import json
import shlex
import textwrap
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.cli.board import make_target, reach_options
from edge.cli.display import Display, examples, table
from edge.cli.options import (
    FROM_1,
    Number,
    cluster_option,
    complete_models,
    count_option,
    label_offset_option,
    labels_option,
    option,
    seed_option,
    typed_arguments,
)
from edge.cli.program import find_program
from edge.cli.verb import Verb
from edge.errors import GateError, UsageError, counted, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.accuracy import Away, Change, Evaluation, MeasuredOn, Step, Subject
    from edge.accuracy.table import StepResult


HEAD = ("step", "Top-1 %", "Top-5 %", "change in points", "p", "agreement %", "cosine", "n", "by")
LEFT = {0, 8}  # columns that are text
RAW_HEAD = ("step", "output", "cosine", "SNR dB", "largest error", "of a range", "n", "by")
RAW_LEFT = {0, 1, 5, 7}
BOX_HEAD = (
    "step",
    "AP",
    "AP50",
    "small",
    "medium",
    "large",
    "change in points",
    "p",
    "AP float's",
    "lost",
    "gained",
    "n",
    "by",
)
BOX_LEFT = {0, 12}
TEXT = 100  # columns of the sentences


def eval_table(evaluation: Evaluation, root: Path) -> str:
    """Return the table, what it means in words, and where more is."""
    from edge.accuracy import ANSWERS, FILE

    raw, detector = any(step.outputs for step in evaluation.steps), any(step.boxes for step in evaluation.steps)
    if detector:
        rows, lefts = [BOX_HEAD, *(_box_row(step) for step in evaluation.steps)], BOX_LEFT
    elif raw:
        rows, lefts = [RAW_HEAD, *(row for step in evaluation.steps for row in _raw_rows(step))], RAW_LEFT
    else:
        rows, lefts = [HEAD, *(_row(step) for step in evaluation.steps)], LEFT
    # Without labels the columns of Top-1 and AP would be empty.
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    left = [place for place, i in enumerate(kept) if i in lefts]
    lines = table([[row[i] for i in kept] for row in rows], left=left)
    figures = "cosine, SNR (signal to noise), largest error" if raw else "agreement, cosine"
    if detector:
        figures = "AP float's, lost, gained"
    through = any(step.name == "nv12" for step in evaluation.steps)
    like = "float behind NV12; of the steps up to nv12, with float on RGB" if through or not raw else "float"
    lines.append(f"{figures}: {'the boxes from a score of 0.25 on of' if detector else 'with'} {like}")
    lines += ["", click.style(evaluation.verdict, bold=True)]
    for sentence in evaluation.explanation:
        lines += textwrap.wrap(sentence, TEXT, initial_indent="- ", subsequent_indent="  ")
    lines += ["", f"images    {evaluation.dataset}, {evaluation.n} answered"]
    if evaluation.unreadable:
        lines.append(f"unreadable  {len(evaluation.unreadable)}: {shown(_some(evaluation.unreadable))}")
    if detector and not evaluation.unlabelled:
        lines.append(
            "AP          COCO's, in percent, boxes from a score of 0.01 on; intervals 95 % and p: paired bootstrap"
        )
    elif not raw and not detector:
        lines.append(
            "intervals   95 %: Wilson for Top-1, bootstrap for changes (with 0 where p >= 0.05); p: exact McNemar"
        )
    each = (
        "the lowest cosine of every image"
        if raw
        else "the number of boxes on every image"
        if detector
        else "every answer"
    )
    lines.append(f"details     {root / FILE}, {each} in {root / ANSWERS}")
    return "\n".join(lines)


def _raw_rows(step: StepResult) -> list[tuple[str, ...]]:
    """Return a row an output; the step's name and what executed it stand in the first."""
    return [
        (
            "" if place else step.name,
            shown(output.name),
            f"{output.cosine:.5f}",
            "exact" if output.snr_db is None else f"{output.snr_db:.1f}",
            f"{output.largest_error:.3g}",
            f"{output.low:.3g} to {output.high:.3g}",
            "" if place else str(step.n),
            "" if place else step.by,
        )
        for place, output in enumerate(step.outputs)
    ]


def _box_row(step: StepResult) -> tuple[str, ...]:
    boxes = step.boxes
    assert boxes is not None  # noqa: S101 - of a detector
    ap = boxes.ap
    sizes = ("",) * 5 if ap is None else tuple(map(_percent, (ap.ap, ap.ap50, ap.small, ap.medium, ap.large)))
    return (
        step.name,
        *sizes,
        "" if step.change is None else _change(step.change),
        "" if step.change is None else _p(step.change),
        _percent(boxes.self_ap),
        str(boxes.lost),
        str(boxes.gained),
        str(step.n),
        step.by,
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _p(change: Change) -> str:
    return f"{change.p:.3f}" if change.p >= 0.001 else "<0.001"


def _row(step: StepResult) -> tuple[str, ...]:
    score = step.score
    return (
        step.name,
        "" if score is None else f"{score.top1:.2f} {_interval(score.top1_interval)}",
        "" if score is None else f"{score.top5:.2f}",
        "" if step.change is None else _change(step.change),
        "" if step.change is None else _p(step.change),
        f"{step.agreement_percent:.2f}",
        f"{step.cosine:.4f}",
        str(step.n),
        step.by,
    )


def _change(change: Change) -> str:
    return f"{change.points:+.2f} {_interval(change.interval)}"


def _interval(bounds: tuple[float, float]) -> str:
    low, high = (f"{bound:.1f}".replace("-0.0", "0.0") for bound in bounds)
    return f"[{low}, {high}]"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


EXAMPLES = (
    "edge eval ConvNeXt_atto",
    "edge eval ConvNeXt_atto --images val/ --count 0 --max-drop 1.0",
    "edge eval build/ConvNeXt_atto --images val/ --steps nv12,quantized",
    "edge eval ConvNeXt_atto --images val/ --board rdk",
)


@click.command("eval", cls=Verb, epilog=examples(EXAMPLES))
@click.argument("model", shell_complete=complete_models)
@option(
    "--images",
    "Images to measure on: a folder, s3://BUCKET/PREFIX, list file or labels.csv; for a detector COCO's .json, "
    "data.yaml, or a folder with labels/ or Annotations/.  [default: those that the build was measured on]",
    value="PATH",
)
@count_option
@option(
    "--steps",
    "Steps to measure, with commas: float, simplified, nv12, calibrated, quantized, program, portable, board. "
    "float is always measured, nv12 before later ones.  [default: all that can be measured here]",
    value="NAMES",
)
@option("--program-count", "Number of images for the step 'program': the simulator takes seconds for each.", FROM_1, 10)
@option(
    "--max-drop",
    "Exit with 1 if quantization loses more points of Top-1, or of a detector's AP.",
    Number(min=0),
    value="POINTS",
)
@option(
    "--min-agreement",
    "Exit with 1 if fewer of the quantized answers are float's behind NV12; of a detector, if its AP with the boxes of "
    "float as objects is lower.",
    Number(0, 100),
    value="PERCENT",
)
@option(
    "--min-snr",
    "Exit with 1 if a raw output of the quantized network has a lower signal to noise.",
    Number(min=0),
    value="DB",
)
@label_offset_option
@labels_option
@seed_option
@option("--workers", "Number of images computed at once.  [default: one a processor core]", FROM_1)
@option("--board", "Measure on this board, too: user@host, or an alias of ~/.ssh/config.", value="HOST")
@reach_options
@cluster_option
@click.pass_context
def eval_command(
    context: click.Context,
    /,
    *,
    model: str,
    images: str | None,
    count: int,
    steps: str | None,
    program_count: int,
    max_drop: float | None,
    min_agreement: float | None,
    min_snr: float | None,
    labels: str | None,
    label_offset: int,
    seed: int,
    workers: int | None,
    board: str | None,
    cluster: str | None,
    build_dir: Path,
    as_json: bool,
    verbose: bool,
    **reach: Any,
) -> None:
    """Measure the accuracy of MODEL after each step from float to program, on the same images.

    MODEL is a build folder, or a name: ConvNeXt_atto means build/ConvNeXt_atto, and ./ConvNeXt_atto a folder
    here. Writes eval.json and answers.csv (every answer to every image) into it. Answers of an earlier run
    are reused.
    """
    import cattrs

    from edge.api import evaluate

    path = find_program(model, build_dir)
    with ExitStack() as stack:
        display = stack.enter_context(Display(verbose=verbose))
        from edge.board.compare import board_step

        def connected(subject: Subject) -> Step:
            return board_step(subject, path, make_target(str(board), **reach), display, stack)

        def gathered(subject: Subject, measured_on: MeasuredOn) -> Away:
            from edge.cluster import open_cluster
            from edge.cluster.evaluation import EvalCrew, hash_objects

            workers = stack.enter_context(open_cluster(str(cluster), display, compiler=subject.toolchain))
            hash_objects(workers, measured_on.images)
            return EvalCrew(workers, subject)

        evaluation = evaluate(
            path,
            images=images,
            count=count,
            steps=steps,
            program_count=program_count,
            labels=labels,
            label_offset=label_offset,
            seed=seed,
            workers=workers,
            command=shlex.join(["edge", "eval", *typed_arguments(context)]),
            listener=display,
            board=None if board is None else connected,
            crew=None if cluster is None else gathered,
            check=lambda subject, measured_on, chosen: _check_gates(
                subject, measured_on, chosen, max_drop=max_drop, min_agreement=min_agreement, min_snr=min_snr
            ),
        )
    if as_json:
        click.echo(json.dumps(cattrs.unstructure(evaluation), indent=2, ensure_ascii=False))
    else:
        click.echo("\n" + eval_table(evaluation, path))
    _gate(evaluation, max_drop, min_agreement, min_snr, model)


def _check_gates(
    subject: Subject,
    measured_on: MeasuredOn,
    steps: Sequence[Step],
    *,
    max_drop: float | None,
    min_agreement: float | None,
    min_snr: float | None,
) -> None:
    """Refuse a gate that nothing could be told by, before anything is measured."""
    raw = subject.task != "classify" and subject.detector is None
    given = {"--max-drop": max_drop, "--min-agreement": min_agreement, "--min-snr": min_snr}
    option = next((name for name, value in given.items() if value is not None), "")
    if option and raw != (option == "--min-snr"):
        raise UsageError(
            f"{option}, but the outputs are {'no class scores' if raw else 'class scores or boxes'}",
            expected="--min-snr with raw outputs" if raw else "--min-snr with raw outputs only",
            remedy="--min-snr 20 instead" if raw else "--max-drop or --min-agreement instead",
        )
    if max_drop is not None and measured_on.unlabelled:
        raise UsageError(
            f"--max-drop, but there is no {'Top-1' if subject.detector is None else 'AP'}: {measured_on.unlabelled}",
            expected="--max-drop with labelled images",
            remedy=f"--min-agreement {95 if subject.detector is None else 80} instead, or --images with labels",
        )
    if option and not {"quantized", "portable"} & {step.name for step in steps}:
        raise UsageError(
            f"{option} without the quantized network",
            expected="quantized or portable among the steps",
            remedy="add quantized to --steps",
        )


def _gate(
    evaluation: Evaluation, max_drop: float | None, min_agreement: float | None, min_snr: float | None, model: str
) -> None:
    """Raise where the program is worse than allowed; all results are written by now.

    Raises:
        GateError: Top-1, agreement or signal to noise is beyond its limit.
    """
    remedy = f"edge diagnose {model}   names the layers that cost most"
    if max_drop is not None and evaluation.labels_doubt:
        raise GateError(evaluation.labels_doubt, expected="labels that --max-drop can be judged by")
    drop, last = evaluation.drop, evaluation.step(evaluation.quantized)
    for output in last.outputs:
        if min_snr is not None and output.snr_db is not None and output.snr_db < min_snr:
            raise GateError(
                f"{output.name} of {last.name} has a signal to noise of {output.snr_db:.1f} dB "
                f"on {counted(last.n, 'image')}",
                expected=f"at least {min_snr:g} dB (--min-snr)",
                remedy="calibrate on images like these: edge build MODEL --calib DIR; or a recipe with more bits",
            )
    if max_drop is not None and drop is not None and drop > max_drop:
        raise GateError(
            f"{'Top-1' if last.boxes is None else 'AP'} falls by {drop:.2f} points from float to {last.name}, "
            f"on {counted(last.n, 'image')}",
            expected=f"at most {max_drop:g} (--max-drop)",
            remedy=remedy,
        )
    if min_agreement is not None and last.boxes is not None:
        if last.boxes.self_ap is not None and last.boxes.self_ap < min_agreement:
            raise GateError(
                f"{last.name} has AP {last.boxes.self_ap:.1f} with the boxes of float behind NV12 as the objects, "
                f"on {counted(last.n, 'image')}",
                expected=f"at least {min_agreement:g} (--min-agreement)",
                remedy=remedy,
            )
        return
    if min_agreement is not None and last.agreement_percent < min_agreement:
        raise GateError(
            f"{last.name} gives float's answer behind NV12 "
            f"on {last.agreement_percent:.2f} % of {counted(last.n, 'image')}",
            expected=f"at least {min_agreement:g} % (--min-agreement)",
            remedy=remedy,
        )
