"""A click group whose verbs are imported when they are used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click


class LazyGroup(click.Group):
    """Look a verb up in a table of modules.

    Args:
        verbs: verb -> module; the module holds the command under the verb's name plus ``_command``.
    """

    def __init__(self, *args: object, verbs: Mapping[str, str], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the verbs in the order in which a user meets them."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the verb's module and return its command."""
        if cmd_name not in self._verbs:
            return None
        module = importlib.import_module(self._verbs[cmd_name])
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)  # noqa: S101 - our own table
        return command
