"""``edge bundle``: what to copy to the board."""

from __future__ import annotations

import json
from pathlib import Path

import cattrs
import click

from edge.cli.display import examples, table
from edge.cli.options import PATH, option, output_options, switch
from edge.cli.program import find_program, program_argument
from edge.cli.verb import Verb

EXAMPLES = ("edge bundle ConvNeXt_atto --cpp", "edge bundle build/ConvNeXt_atto --out ConvNeXt_atto.tar.gz")


@click.command("bundle", cls=Verb, epilog=examples(EXAMPLES))
@program_argument
@option(
    "--out",
    "A folder, or an archive ending in .tar.gz or .tgz.  [default: the folder MODEL_bundle beside the build]",
    PATH,
)
@switch("--cpp", "Add a CMake project that runs MODEL in C++.")
@click.option("--no-wheels", is_flag=True, help="Leave edge itself out, for a board that has it.")
@output_options
def bundle_command(
    *, model: str, build_dir: Path, out: Path | None, cpp: bool, no_wheels: bool, as_json: bool, verbose: bool
) -> None:
    """Gather what the board needs of MODEL: program, test image, portable model, notebook, and edge to install.

    Checksums are compared; the same build gives the same bytes.
    """
    from edge.pipeline.bundle import bundle

    made = bundle(find_program(model, build_dir), out, cpp=cpp, wheels=not no_wheels)
    if as_json:
        click.echo(json.dumps({**cattrs.unstructure(made), "path": str(made.path)}, indent=2))
        return
    rows = [(file.path, f"{file.bytes:>12,} bytes", file.sha256 if verbose else "") for file in made.files]
    click.echo("\n".join(table(rows, left=(0, 2), heading=False)))
    click.echo(f"bundle: the {'archive' if made.path.is_file() else 'folder'} {made.path}")
    if not made.has_bin:
        click.echo("no .bin: this build was made without the vendor's compiler", err=True)
    flag = "" if made.path.is_file() else "-r "
    click.echo(f"copy it:  scp {flag}{made.path} USER@BOARD:   then follow its README.txt")
