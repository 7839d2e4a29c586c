"""What the verbs of ``edge board`` share: the options, the program, the record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from edge.cli.display import Display
from edge.cli.options import output_options

if TYPE_CHECKING:
    from edge.board import Connection, Target
    from edge.board.probe import Facts
    from edge.board.versions import ProgramVersions
    from edge.runtime.program import Program

F = TypeVar("F", bound=Callable[..., Any])


def reach_options(function: F) -> F:
    """Add what says how to reach the board, and how to speak."""
    function = output_options(function)
    for option in reversed(
        (
            click.option("-p", "--port", type=int, help="Port of the board's ssh server."),
            click.option("-i", "--identity", type=click.Path(path_type=Path), help="File of a private key."),
            click.option(
                "--ssh-option",
                "ssh_options",
                multiple=True,
                metavar="KEY=VALUE",
                help="Passed on to ssh as -o.",
            ),
            click.option(
                "--build-dir", type=click.Path(path_type=Path), default=Path("build"), show_default=True
            ),
        )
    ):
        function = option(function)
    return function


def working_options(function: F) -> F:
    """Add the options of verbs that run something on the board."""
    for option in reversed(
        (
            click.option(
                "--to", metavar="DIR", help="Folder on the board.  [default: edge/NAME in your home]"
            ),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0.01),
                default=10.0,
                show_default=True,
                help="Minutes that one command on the board may take.",
            ),
        )
    ):
        function = option(function)
    return function


def make_target(
    host: str, *, port: int | None, identity: Path | None, ssh_options: tuple[str, ...]
) -> Target:
    """Return where the board is, from the options."""
    from edge.board import Target

    return Target.parse(host, port, identity, ssh_options)


def connect(target: Target) -> Connection:
    """Return the connection, to be used in a ``with``."""
    from edge.board import Connection

    return Connection(target)


def read_facts(connection: Connection) -> Facts:
    """Ask the board what it is."""
    from edge.board.probe import probe

    return probe(connection)


def find_program(model: str, build_dir: Path) -> Program:
    """Return the program that MODEL means: a path, or a name under the build folder."""
    from edge.runtime.program import locate

    path = Path(model).expanduser()
    return locate(path if path.exists() or not (build_dir / model).exists() else build_dir / model)


def folder_of(program: Program) -> Path:
    """Return the folder that the program lies in."""
    return program.path if program.path.is_dir() else program.path.parent


def versions_of(program: Program) -> ProgramVersions:
    """Return what the program says of its making."""
    from edge.board.transfer import require_bin
    from edge.board.versions import program_versions

    return program_versions(require_bin(program))


def refuse_misfit(facts: Facts, program: Program, display: Display) -> None:
    """Raise where the program can't work on the board."""
    from edge.board.findings import require

    require(facts, versions_of(program), display)


def keep(program: Program, facts: Facts, entries: dict[str, object]) -> bool:
    """Write figures into the manifest, with what the board is; return whether there is one."""
    from edge.board.record import record
    from edge.graph import sha256_of

    versions = facts.versions
    about = {"soc": facts.soc, "os": facts.os, "dnn": versions.dnn, "hbrt": versions.hbrt}
    return record(folder_of(program), sha256_of(program.files["bin"]), {"about": about, **entries})


def published_figures(program: Program) -> dict[str, Any] | None:
    """Return what others published of the same zoo model; None where nobody did."""
    import cattrs

    from edge.errors import UsageError
    from edge.specs import load_model

    if program.metadata is None:
        return None
    try:
        published = load_model(program.metadata.model).published
    except UsageError:  # the user's own model
        return None
    return None if published is None else cast("dict[str, Any]", cattrs.unstructure(published))


def where_kept(program: Program, kept: bool) -> str:
    """Say where the figures went."""
    where = folder_of(program) / "manifest.json"
    return f"recorded in {where}" if kept else f"not recorded: {where.parent} has no manifest.json"


def now() -> str:
    """Return the time, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
