"""``edge import``: go on with edge where somebody began with hb_mapper."""

from __future__ import annotations

import json
from pathlib import Path

import cattrs
import click

from edge.cli.display import examples
from edge.cli.options import FILE, debug_option, json_option, option
from edge.cli.verb import Verb

EXAMPLES = ("edge import convnext_config.yaml", "edge import vendor/convnext_config.yaml --out my_models/Mine.yaml")


@click.command("import", cls=Verb, epilog=examples(EXAMPLES))
@click.argument("file", metavar="FILE.yaml", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@option("--out", "The model YAML.  [default: here, named by the mapper YAML's prefix]", FILE)
@json_option
@debug_option
def import_command(*, file: Path, out: Path | None, as_json: bool) -> None:
    """Write a model YAML that says what a mapper YAML says, and a precision recipe beside it where one is needed.

    What edge does in another way is told line by line. A line that edge can't follow without another result stops it,
    and nothing is written.
    """
    from edge.compiler.importing import import_mapper

    done = import_mapper(file, out)
    if as_json:
        click.echo(json.dumps(cattrs.unstructure(done), indent=2, default=str))
        return
    click.echo(f"model   {done.model}")
    if done.recipe:
        click.echo(f"recipe  {done.recipe}")
    for item in done.changed:
        where = f"{file}:{item.line}" if item.line else str(file)
        click.echo(f"{where}: {item.seen}; {item.expected}")
    click.echo(f"next: edge build {done.model} --images val/ --calib train/")
