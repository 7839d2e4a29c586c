"""docs/reference/cli.md, as the command line itself has it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from edge.cli import cli

HEAD = """# Command line

Every verb with its options, as `edge VERB --help` shows them. Written from the command line itself by
`EDGE_REGENERATE_DOCS=1 pytest tests/test_docs.py`; do not edit. What to use when: the [guides](../README.md).
"""


def commands(group: click.Group = cli, *above: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield each verb, with those of the groups, and its command."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)


def cli_page() -> str:
    """Return the page."""
    parts = [HEAD, f"```text\n{help_of(cli)}\n```\n"]
    for verb, command in commands():
        parts.append(f"## edge {' '.join(verb)}\n\n```text\n{help_of(command, *verb)}\n```\n")
    return "\n".join(parts)


def help_of(command: click.Command, *verb: str) -> str:
    """Return a command's help at a width of 80 columns."""
    context = click.Context(cli, info_name="edge", terminal_width=80, **cli.context_settings)
    for name in verb[:-1]:
        context = click.Context(click.Group(name), info_name=name, parent=context)
    if verb:
        context = click.Context(command, info_name=verb[-1], parent=context, terminal_width=80)
    return command.get_help(context).rstrip()
