"""``edge report``: what a build is and what was measured of it, as a page; or two builds side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.options import complete_models, output_options
from edge.cli.program import find_program
from edge.errors import ModelFileError, UsageError

if TYPE_CHECKING:
    from edge.folder.built import Built

EXAMPLES = (
    "edge report ConvNeXt_atto",
    "edge report build/ConvNeXt_atto --out atto.html",
    "edge report build/ConvNeXt_atto other/ConvNeXt_atto --out comparison.html",
)


@click.command("report", epilog="\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES))
@click.argument("model", shell_complete=complete_models)
@click.argument("other", required=False, shell_complete=complete_models)
@click.option(
    "--build-dir",
    type=click.Path(path_type=Path),
    default=Path("build"),
    show_default=True,
    help="Where a model is looked for by its name.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page; .md and .json go beside it.  [default: report.html in the build folder; of two builds "
    "comparison.html here]",
)
@output_options
def report_command(
    *, model: str, other: str | None, build_dir: Path, out: Path | None, as_json: bool, verbose: bool
) -> None:
    """Write report.html, report.md and report.json of MODEL; with OTHER, compare the two.

    MODEL is a build folder, or a name: ConvNeXt_atto means build/ConvNeXt_atto. The page is one file that
    opens offline. What edge eval and edge diagnose found is in it where it speaks of the same files.
    """
    del verbose  # there is nothing more to tell
    if out is not None and out.suffix != ".html":
        raise UsageError(f"--out {out}", expected="a name ending in .html")
    built, warnings = _open(model, build_dir), []
    if other is not None:
        from edge.report import compare
        from edge.report.write import write_beside

        comparison = compare.compare(built, _open(other, build_dir))
        verdict, texts = comparison.verdict, compare.documents(comparison)
        paths = write_beside(out or Path("comparison.html"), texts)
    else:
        from edge.report.gather import gather
        from edge.report.page import documents
        from edge.report.write import write_beside, write_into

        report = gather(built)
        verdict, texts = f"{report.name}: {report.verdict}", documents(report)
        warnings = [f"{flag.text} {flag.command}" for flag in report.flags if flag.kind == "stale"]
        paths = write_into(built, texts) if out is None else write_beside(out, texts)
    for warning in warnings:
        click.echo(f"! {warning}", err=True)
    if as_json:
        click.echo(next(text for name, text in texts.items() if name.endswith(".json")), nl=False)
    else:
        click.echo(verdict)
        for name, path in zip(("report", "", ""), paths, strict=True):
            click.echo(f"{name:<7} {path}")


def _open(model: str, build_dir: Path) -> Built:
    from edge.folder.built import open_built

    path = find_program(model, build_dir)
    if not path.is_dir():
        raise ModelFileError(
            f"{path} is a single file", expected="the folder of a finished build", remedy=f"edge report {path.parent}"
        )
    return open_built(path)
