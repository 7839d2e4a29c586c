"""``edge lint``: check a mapper YAML before hours go into it."""

from __future__ import annotations

import json
from pathlib import Path

import cattrs
import click

from edge.cli.display import examples
from edge.cli.options import debug_option, json_option, option
from edge.cli.verb import Verb
from edge.errors import counted

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXAMPLES = (
    "edge lint convnext_config.yaml",
    "edge lint vendor/*.yaml --model build/ConvNeXt_atto/ConvNeXt_atto_bpu.onnx",
    "edge lint convnext_config.yaml --json",
)


@click.command("lint", cls=Verb, epilog=examples(EXAMPLES))
@click.argument("files", metavar="FILE.yaml...", nargs=-1, required=True, type=FILE)
@option("--model model_file", "ONNX to compare names and shapes with.  [default: the YAML's]", FILE)
@json_option
@debug_option
def lint_command(*, files: tuple[Path, ...], model_file: Path | None, as_json: bool) -> None:
    """Check mapper YAMLs, whoever wrote them, for what hb_mapper refuses or silently misreads.

    Exits with 1 where anything is an error: the compiler would refuse the file, or compile something else than it
    says. A warning can stay.
    """
    from edge.compiler.lint import lint_file

    linted = [lint_file(file, model_file) for file in files]
    if as_json:
        click.echo(json.dumps(cattrs.unstructure(linted), indent=2, default=str))
    else:
        for result in linted:
            for finding in result.findings:
                level = "warning" if finding.harmless else "error"
                where = f"{result.file}:{finding.line}" if finding.line else f"{result.file}"
                click.echo(f"{where}: {level}: {finding.seen}; expected: {finding.expected} [{finding.rule}]")
            if result.why_not:
                click.echo(f"{result.file}: names and shapes are not compared: {result.why_not}")
            warnings = len(result.findings) - result.errors
            click.echo(f"{result.file}: {counted(result.errors, 'error')}, {counted(warnings, 'warning')}")
            if result.foreign:
                click.echo(f"next: edge import {result.file}   builds it with edge", err=True)
    if any(result.errors for result in linted):
        raise SystemExit(1)
