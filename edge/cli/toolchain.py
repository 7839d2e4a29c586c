"""``edge toolchain``: the vendor's compiler, and the frameworks that models may come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cattrs
import click

from edge.cli.display import Display, examples
from edge.cli.options import PATH, option, output_options
from edge.cli.verb import VerbGroup
from edge.toolchain.managed import COMPILER, ENVIRONMENTS

if TYPE_CHECKING:
    from edge.toolchain.find import Route

VERSIONS = ("edge toolchain status", "edge toolchain status --json")
INSTALL = (
    "edge toolchain install",
    "edge toolchain install paddle",
    "edge toolchain install --python ~/.pyenv/versions/3.10.13/bin/python3.10",
)


@click.group("toolchain", cls=VerbGroup, epilog=examples([INSTALL[0], VERSIONS[0]]))
def toolchain_command() -> None:
    """Install the vendor's compiler or a framework to export from, or show which are there."""


@toolchain_command.command("install", short_help="Install the compiler, or a framework.", epilog=examples(INSTALL))
@click.argument("what", metavar="[WHAT]", type=click.Choice(list(ENVIRONMENTS)), default=COMPILER.name)
@option("--python", "CPython 3.10 for the environment.  [default: one found here, else downloaded]", PATH, value="FILE")
@output_options
def install_command(*, what: str, python: Path | None, as_json: bool, verbose: bool) -> None:
    """Install WHAT from the Python package index into an environment of its own.

    WHAT is compiler, the default (about 4.2 GB), or paddle (about 0.9 GB) or mindspore (about 2.5 GB), which models
    of these frameworks need.
    """
    from edge.toolchain.install import install

    with Display(verbose=verbose) as display:
        display.begin("toolchain")
        toolchain = install(ENVIRONMENTS[what], reporter=display, python=python)
        display.finish()
    if as_json:
        click.echo(json.dumps(cattrs.unstructure(toolchain), indent=2))
        return
    click.echo(f"{what} ready: {versions_line(toolchain.versions)}\nin {toolchain.where}")


@toolchain_command.command("status", short_help="Show what is installed, and which is used.", epilog=examples(VERSIONS))
@output_options
def status_command(*, as_json: bool, verbose: bool) -> None:
    """Show where the compiler is looked for, in that order, and the frameworks."""
    from edge.toolchain.find import status

    found = status()
    if as_json:
        click.echo(json.dumps(cattrs.unstructure(found), indent=2))
        return
    used = next((route.kind for route in found.routes if route.available), None)
    for route in found.routes:
        _show(route, route.why_not, where=route.available or verbose)
    for framework in found.frameworks:
        install = ENVIRONMENTS[framework.kind].install
        why_not = f"{framework.why_not}; if needed: {install}"
        _show(framework, why_not, where=framework.available and verbose)
    click.echo(f"Python 3.10: {found.python310}")
    click.echo(f"in use: {used}" if used else "in use: none; next: edge toolchain install")


def versions_line(versions: Mapping[str, str]) -> str:
    """Return packages and their versions on one line, by name."""
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _show(route: Route, why_not: str | None, *, where: bool) -> None:
    mark = "✓" if route.available else "-"
    click.echo(f"{mark} {route.kind:<9} {versions_line(route.versions) if route.available else why_not}")
    if where:
        click.echo(f"  {'':<9} {route.where}")
