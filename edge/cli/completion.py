"""``edge completion``: the shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

EXAMPLES = """\b
Examples:
  eval "$(edge completion bash)"
  edge completion zsh >> ~/.zshrc
  edge completion fish > ~/.config/fish/completions/edge.fish"""


@click.command("completion", epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback on errors.")
def completion_command(shell: str) -> None:
    """Print the completion script of SHELL."""
    from edge.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the three that click brings
    click.echo(kind(cli, {}, "edge", "_EDGE_COMPLETE").source())
