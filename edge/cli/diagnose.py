"""``edge diagnose``: which layer or step costs accuracy, and what to do about it."""

from __future__ import annotations

import json
import shlex
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.display import Display, examples, table
from edge.cli.options import (
    FROM_0,
    label_offset_option,
    labels_option,
    option,
    output_options,
    seed_option,
    typed_arguments,
)
from edge.cli.program import built_folder, program_argument
from edge.cli.verb import Verb
from edge.errors import counted

if TYPE_CHECKING:
    from edge.diagnose.findings import Diagnosis, InputCheck, LayerResult, OutputNoise, Remedy

WORST = 12
WIDTH = 100
NEAR = 3.0  # points: an input check that comes so near to the build's own is worth a line
HOW_LINES = 3


def diagnosis_table(diagnosis: Diagnosis, file: Path) -> str:
    """Return what to print."""
    lines = textwrap.wrap(diagnosis.verdict, WIDTH)
    lines = [click.style(line, bold=True) for line in lines]
    if diagnosis.units:
        lines += ["", *_units(diagnosis.units, boxes=diagnosis.task == "detect")]
    lines += ["", *_shares(diagnosis)]
    if diagnosis.outputs:
        lines += ["", *_outputs(diagnosis.outputs)]
    if diagnosis.cpu_nodes:
        lines += ["", *_cpu(diagnosis)]
    if shown := [check for check in diagnosis.input_checks if _matters(check)]:
        lines += ["", *_checks(shown)]
    if diagnosis.notes:
        lines += ["", *(line for note in diagnosis.notes for line in _item(note, "note  "))]
    lines += ["", f"all of it: {file}", ""]
    if not diagnosis.remedies:
        won = "boxes" if diagnosis.task == "detect" else "answers"
        lines.append(click.style(f"No remedy: no change that was tried wins {won}.", bold=True))
        return "\n".join(lines)
    lines.append(click.style("Remedies, best first", bold=True))
    for number, remedy in enumerate(diagnosis.remedies, start=1):
        lines += _remedy(number, remedy, file)
    return "\n".join(lines)


def _units(units: Sequence[LayerResult], *, boxes: bool) -> list[str]:
    worst = sorted(units, key=lambda unit: (unit.alone_agreement if boxes else 0.0, unit.alone_cosine))[:WORST]
    alone = ("AP", "outputs") if boxes else ("alone", "answers")
    rows = [("layer", "kind", "bits", "cosine", *alone, "range", "threshold", "clipped", "outlier")]
    for unit in worst:
        seen = unit.range
        rows.append(
            (
                unit.name,
                unit.kind,
                str(unit.bits) if unit.on == "BPU" else unit.on,
                f"{unit.cosine:.4f}",
                *(
                    (f"{100 * unit.alone_agreement:.1f}", f"{unit.alone_cosine:.4f}")
                    if boxes
                    else (f"{unit.alone_cosine:.4f}", f"{100 * unit.alone_agreement:.0f} %")
                ),
                f"{seen.low:.4g} .. {seen.high:.4g}",
                "-" if seen.threshold is None else f"{seen.threshold:.4g}",
                "-" if seen.threshold is None else f"{100 * seen.saturated:.3g} %",
                "-" if seen.outlier_ratio is None else f"{seen.outlier_ratio:.1f}x",
            )
        )
    title = f"{len(worst)} of {counted(len(units), 'layer')}, the most harmful alone first"
    return [
        click.style(title, bold=True),
        *table(rows, left={0, 1}),
        *(
            (
                "cosine: of its output, everything rounded; AP, outputs: with only this layer rounded, AP with float's",
                "boxes as objects, mean cosine of the outputs; outlier: its largest channel over the median one",
            )
            if boxes
            else (
                "cosine: of its output, everything rounded; alone, answers: the network's, only this layer rounded;",
                "outlier: its largest channel over the median one",
            )
        ),
    ]


def _shares(diagnosis: Diagnosis) -> list[str]:
    boxes = diagnosis.task == "detect"
    figures = ("AP with float's boxes", "cosine", "AP") if boxes else ("answers as float", "cosine", "Top-1")
    rows: list[tuple[str, ...]] = [("rounded", *(figures if diagnosis.labelled else figures[:2]))]
    unit = "" if boxes else " %"
    for share in diagnosis.shares:
        part = "nothing, behind NV12" if share.part == "NV12" else share.part
        if share.tensors is not None:
            part = f"  {part}, {counted(share.tensors, 'tensor')}"
        right = share.ap if boxes else share.top1
        known = (f"{right:.1f}{unit}",) if right is not None else ()
        rows.append((part, f"{100 * share.agreement:.1f}{unit}", f"{share.cosine:.4f}", *known))
    return [
        *table(rows, left={0}),
        "against the float network behind NV12; the last row against the same on RGB",
        f"NV12 puts {100 * diagnosis.nv12_clipped:.2g} % of the pixels' channels outside 0..255",
    ]


def _outputs(outputs: Sequence[OutputNoise]) -> list[str]:
    rows: list[tuple[str, ...]] = [("output", "cosine", "signal to noise", "weights alone", "activations alone")]
    for one in outputs:
        noise = (one.snr_db, one.weights_snr_db, one.activations_snr_db)
        rows.append((one.name, f"{one.cosine:.4f}", *("-" if db is None else f"{db:.1f} dB" for db in noise)))
    return table(rows, left={0})


def _cpu(diagnosis: Diagnosis) -> list[str]:
    rows = [("on the CPU", "operator", "where", "moved", "here")]
    for node in diagnosis.cpu_nodes:
        time = "-" if node.milliseconds is None else f"{node.milliseconds:.3f} ms"
        where = "INSIDE" if node.inside else "at an end"
        rows.append((node.name, node.op, where, f"{node.transfer_bytes:,} bytes", time))
    return table(rows, left={0, 1, 2})


def _checks(checks: Sequence[InputCheck]) -> list[str]:
    rows = [("input made otherwise", "network", "measure", "as built", "so")]
    for check in checks:
        mark = "  BETTER" if check.better else ""
        rows.append(
            (
                check.change,
                check.target,
                check.measure,
                f"{check.as_built:.1f}{check.unit}",
                f"{check.value:.1f}{check.unit}{mark}",
            )
        )
    return table(rows, left={0, 1, 2})


def _matters(check: InputCheck) -> bool:
    return check.better or check.value >= check.as_built - NEAR


def _remedy(number: int, remedy: Remedy, file: Path) -> list[str]:
    how = remedy.how.splitlines()
    if len(how) > HOW_LINES:
        rest = len(how) - HOW_LINES + 1
        how = [*how[: HOW_LINES - 1], f"  … and {rest} more lines: remedies[{number - 1}].how in {file.name}"]
    return [
        *_item(f"{remedy.what}  ({remedy.gain:+.1f} points)", f"{number}. "),
        *(f"     {line}" for line in how),
        *_item(remedy.figure, "   figure: "),
    ]


def _item(text: str, bullet: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))


EXAMPLES = (
    "edge diagnose ConvNeXt_atto",
    "edge diagnose my_model --images val/ --count 200",
    "edge diagnose build/my_model --images val/ --labels names.txt --json",
)


@click.command("diagnose", cls=Verb, epilog=examples(EXAMPLES))
@program_argument
@option(
    "--images",
    "Images to diagnose with: a folder, list file or labels.csv.  [default: those that the build was measured on]",
    value="PATH",
)
@option("--count", "Number of images to diagnose with; 0 means all of them.", FROM_0, 64)
@label_offset_option
@labels_option
@seed_option
@output_options
@click.pass_context
def diagnose_command(
    context: click.Context,
    /,
    *,
    model: str,
    build_dir: Path,
    images: str | None,
    count: int,
    labels: str | None,
    label_offset: int,
    seed: int,
    as_json: bool,
    verbose: bool,
) -> None:
    """Find out where MODEL loses accuracy, and what would help.

    MODEL is a build folder, or a name: ConvNeXt_atto means build/ConvNeXt_atto, and ./ConvNeXt_atto a folder
    here. Looks at the input, NV12, calibration, weights, every layer and what runs on the CPU. Writes
    diagnosis.json into the build folder. The last lines are remedies, best first, each with the figure that
    supports it.
    """
    import cattrs

    from edge.api import built_images
    from edge.diagnose.diagnosis import diagnose
    from edge.diagnose.findings import FILE
    from edge.files import write_json
    from edge.folder.built import open_built
    from edge.folder.workspace import Workspace

    path = built_folder(model, build_dir, "diagnose")
    built = open_built(path)
    dataset, unlabelled = built_images(
        built,
        "diagnose",
        images,
        labels,
        count=count,
        seed=seed,
        label_offset=label_offset,
        tell=lambda text: click.echo(text, err=True),
    )
    started = time.monotonic()
    with Display(verbose=verbose) as display, Workspace(path, display):
        display.begin("diagnose")
        diagnosis = diagnose(
            built,
            dataset,
            unlabelled=unlabelled,
            command=shlex.join(["edge", "diagnose", *typed_arguments(context)]),
            reporter=display,
        )
        write_json(path / FILE, cattrs.unstructure(diagnosis))
        display.end(
            "diagnose",
            time.monotonic() - started,
            cached=False,
            note=f"{counted(diagnosis.n, 'image')}, {diagnosis.dataset}",
        )
    if as_json:
        click.echo(json.dumps(cattrs.unstructure(diagnosis), indent=2, ensure_ascii=False))
    else:
        click.echo("\n" + diagnosis_table(diagnosis, path / FILE))
