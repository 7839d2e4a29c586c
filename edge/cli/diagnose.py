"""``edge diagnose``: which layer or step costs accuracy, and what to do about it."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import click

from edge.cli.display import Display
from edge.cli.options import typed_arguments
from edge.cli.program import find_program, program_argument
from edge.errors import ModelFileError

EXAMPLES = (
    "edge diagnose ConvNeXt_atto",
    "edge diagnose my_model --images val/ --count 200",
    "edge diagnose build/my_model --images val/ --labels names.txt --json",
)


@click.command("diagnose", epilog="\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES))
@program_argument
@click.option(
    "--images",
    help="Pictures to look at it with: a folder, list file or labels.csv.  [default: those that the build "
    "was measured on, if they were the demo's]",
)
@click.option("--count", type=click.IntRange(min=0), default=64, show_default=True, help="Of them; 0: all.")
@click.option("--labels", help="imagenet, demo, or a text file with a class name a line.  [default: MODEL's]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Show every step.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback on errors.")
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
    seed: int,
    as_json: bool,
    verbose: bool,
) -> None:
    """Find out where MODEL loses accuracy, and what would mend it.

    MODEL is a build folder, or a name: ConvNeXt_atto means build/ConvNeXt_atto. Looks at the input, NV12,
    calibration, weights, every layer and what runs on the CPU. Writes diagnosis.json into the build folder;
    the last lines are remedies, best first, each with the figure that it rests on.
    """
    import cattrs

    from edge.atomic import write_json
    from edge.built import open_built
    from edge.cli.built_pictures import built_pictures
    from edge.cli.diagnose_table import diagnosis_table
    from edge.diagnose.diagnosis import diagnose
    from edge.diagnose.findings import FILE
    from edge.workspace import Workspace

    path = find_program(model, build_dir)
    if not path.is_dir():
        raise ModelFileError(
            f"{path} is a single file",
            allowed="the folder of a finished build",
            remedy=f"edge diagnose {path.parent}",
        )
    built = open_built(path)
    pictures, unlabelled = built_pictures(built, "diagnose", images, labels, count=count, seed=seed)
    started = time.monotonic()
    with Display(verbose=verbose) as display, Workspace(path, display):
        display.begin("diagnose")
        diagnosis = diagnose(
            built,
            pictures,
            unlabelled=unlabelled,
            command=shlex.join(["edge", "diagnose", *typed_arguments(context)]),
            reporter=display,
        )
        write_json(path / FILE, cattrs.unstructure(diagnosis))
        display.end(
            "diagnose",
            time.monotonic() - started,
            cached=False,
            note=f"{diagnosis.n} pictures, {diagnosis.dataset}",
        )
    if as_json:
        click.echo(json.dumps(cattrs.unstructure(diagnosis), indent=2, ensure_ascii=False))
    else:
        click.echo("\n" + diagnosis_table(diagnosis, path / FILE))
