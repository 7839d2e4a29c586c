"""The options that the building verbs share; what they mean is decided by ``edge.sources.resolve``."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from attrs import fields
from click.core import ParameterSource

from edge.sources.resolve import UNRECORDED, Options, as_typed, flag, resolve
from edge.specs import available_models
from edge.specs.request import Request

F = TypeVar("F", bound=Callable[..., Any])

# How a command spoke and where it built change nothing of the result.
NOT_RECORDED = {*UNRECORDED, "as_json", "verbose", "workers", "port", "identity", "ssh_options"}


class Number(click.FloatRange):
    """A number within bounds; nan, which passes every comparison unseen, and infinity are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number in the range {self._describe_range()}.", param, ctx)
        return number


def output_options(function: F) -> F:
    """Add ``--json``, ``--verbose`` and ``--debug``."""
    for option in reversed(
        (
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout."),
            click.option("-v", "--verbose", is_flag=True, help="Show every step, the compiler's log lines too."),
            click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback on errors."),
        )
    ):
        function = option(function)
    return function


def label_offset_option(function: F) -> F:
    """Add ``--label-offset`` as the building verbs have it."""
    text = fields(Options).label_offset.metadata["help"]
    return click.option("--label-offset", type=int, default=0, show_default=True, help=text)(function)


def request_options(function: F) -> F:
    """Add everything that says what to build: MODEL and an option for each field of ``Options``."""
    for option in reversed([item for item in fields(Options) if "kind" in item.metadata]):
        shown = option.default is not None and option.metadata["kind"] is not bool
        function = click.option(
            flag(option.name),
            type=_type(option.metadata["kind"], option.metadata["least"]),
            is_flag=option.metadata["kind"] is bool,
            default=option.default,
            show_default=shown,
            help=option.metadata["help"],
        )(function)
    function = click.argument("model", required=False, shell_complete=complete_models)(function)
    return output_options(function)


def _type(kind: Any, least: float | None) -> Any:
    """Return click's type for a field's."""
    if kind is Path:
        return click.Path(path_type=Path)
    if choices := get_args(kind):
        return click.Choice(choices)
    if least is None:
        return kind
    return click.IntRange(min=int(least)) if kind is int else Number(min=least)


def make_request(**options: Any) -> Request:
    """Return the request that the options describe, and show the notes on it on stderr.

    Raises:
        EdgeError: as :func:`edge.sources.resolve.resolve`.
    """
    request, notes = resolve(Options(**options))
    for note in notes:
        click.echo(note, err=True)
    return request


def typed_arguments(context: click.Context) -> tuple[str, ...]:
    """Return the model and the options that the user gave, absolute paths made relative."""
    return as_typed(
        ("" if isinstance(parameter, click.Argument) else parameter.opts[0], value)
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        and parameter.name not in NOT_RECORDED
        and (value := context.params.get(parameter.name or "")) is not None
    )


def complete_models(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the zoo's names that begin so, for the shell."""
    return [name for name in available_models() if name.lower().startswith(incomplete.lower())]
