"""``edge toolchain``: the vendor's compiler, and the frameworks that models may come from."""

from __future__ import annotations

import json
from pathlib import Path

import cattrs
import click

from edge.cli.display import Display
from edge.cli.options import output_options
from edge.toolchain.managed import COMPILER, ENVIRONMENTS

VERSIONS = "\b\nExamples:\n  edge toolchain status\n  edge toolchain status --json"
INSTALL = """\b
Examples:
  edge toolchain install
  edge toolchain install paddle
  edge toolchain install --python ~/.pyenv/versions/3.10.13/bin/python3.10"""


@click.group("toolchain", epilog="\b\nExamples:\n  edge toolchain install\n  edge toolchain status")
def toolchain_command() -> None:
    """Install the vendor's compiler or a framework to export from, or show which are there."""


@toolchain_command.command("install", epilog=INSTALL)
@click.argument("what", type=click.Choice(list(ENVIRONMENTS)), default=COMPILER.name)
@click.option(
    "--python", type=click.Path(path_type=Path), help="A CPython 3.10 to build the environment with."
)
@output_options
def install_command(*, what: str, python: Path | None, as_json: bool, verbose: bool) -> None:
    """Install WHAT from the Python package index into an environment of its own.

    Without a word it is the compiler (about 4.2 GB). paddle (about 0.9 GB) and mindspore (about 2.5 GB) are
    for --paddle and --mindspore only.
    """
    from edge.toolchain.install import install

    with Display(verbose=verbose) as display:
        display.begin("toolchain")
        toolchain = install(ENVIRONMENTS[what], reporter=display, python=python)
        display.finish()
    if as_json:
        click.echo(json.dumps(cattrs.unstructure(toolchain), indent=2))
        return
    versions = ", ".join(f"{name} {version}" for name, version in sorted(toolchain.versions.items()))
    click.echo(f"{what} ready: {versions}\nin {toolchain.where}")


@toolchain_command.command("status", epilog=VERSIONS)
@output_options
def status_command(*, as_json: bool, verbose: bool) -> None:
    """Show each way to have the compiler, in the order in which it is looked for, and the frameworks."""
    from edge.toolchain.find import status

    found = status()
    if as_json:
        click.echo(json.dumps(cattrs.unstructure(found), indent=2))
        return
    used = next((route.kind for route in found.routes if route.available), None)
    for route in found.routes:
        mark = "✓" if route.available else "-"
        versions = ", ".join(f"{name} {version}" for name, version in sorted(route.versions.items()))
        click.echo(f"{mark} {route.kind:<9} {versions if route.available else route.why_not}")
        if route.available or verbose:
            click.echo(f"  {'':<9} {route.where}")
    for framework in found.frameworks:
        mark = "✓" if framework.available else "-"
        versions = ", ".join(f"{name} {version}" for name, version in sorted(framework.versions.items()))
        next_ = f"{framework.why_not}; if needed: {ENVIRONMENTS[framework.kind].install}"
        click.echo(f"{mark} {framework.kind:<9} {versions if framework.available else next_}")
        if framework.available and verbose:
            click.echo(f"  {'':<9} {framework.where}")
    click.echo(f"Python 3.10: {found.python310}")
    click.echo(f"in use: {used}" if used else "in use: none; next: edge toolchain install")
