"""``edge report``: what a build is and what was measured of it, as a page; or two builds side by side."""

from __future__ import annotations

from pathlib import Path

import click

from edge.cli.display import examples
from edge.cli.options import FILE, build_dir_option, complete_models, debug_option, json_option, option
from edge.cli.program import built_folder
from edge.cli.verb import Verb
from edge.errors import UsageError

EXAMPLES = (
    "edge report ConvNeXt_atto",
    "edge report build/ConvNeXt_atto --out atto.html",
    "edge report build/ConvNeXt_atto other/ConvNeXt_atto --out comparison.html",
)


@click.command("report", cls=Verb, epilog=examples(EXAMPLES))
@click.argument("model", shell_complete=complete_models)
@click.argument("other", required=False, shell_complete=complete_models)
@build_dir_option
@option(
    "--out", "The page (.html).  [default: report.html in the build folder; of two builds comparison.html here]", FILE
)
@json_option
@debug_option
def report_command(*, model: str, other: str | None, build_dir: Path, out: Path | None, as_json: bool) -> None:
    """Write report.html, report.md and report.json of MODEL; with OTHER, compare the two.

    MODEL is a build folder, or a name: ConvNeXt_atto means build/ConvNeXt_atto, and ./ConvNeXt_atto a folder
    here. The page is one file that opens offline. What edge eval and edge diagnose found of the same files is
    in it.
    """
    from edge.folder.built import as_written, open_built

    if out is not None and out.suffix != ".html":
        raise UsageError(f"--out {out}", expected="a name ending in .html")
    built, warnings = open_built(built_folder(model, build_dir, "report")), []
    if other is not None:
        from edge.report import compare
        from edge.report.write import write_beside

        second = open_built(built_folder(other, build_dir, "report"))
        with as_written(built.folder, second.folder):
            comparison = compare.compare(built, second)
            verdict, texts = comparison.verdict, compare.documents(comparison)
        paths = write_beside(out or Path("comparison.html"), texts)
    else:
        from edge.report.gather import gather
        from edge.report.page import documents
        from edge.report.write import write_beside, write_into

        with as_written(built.folder):
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
