"""The options that the building verbs share; what they mean is decided by ``edge.sources``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from attrs import fields
from click.core import ParameterSource

from edge.sources.options import EVERY, UNRECORDED, Options, as_typed, flag
from edge.sources.resolve import resolve
from edge.specs import available_models
from edge.specs.request import Request

F = TypeVar("F", bound=Callable[..., Any])

# How a command spoke and where it built change nothing of the result.
NOT_RECORDED = {*UNRECORDED, "as_json", "verbose", "workers", "port", "identity", "ssh_options", "cluster"}


class Number(click.FloatRange):
    """A number within bounds; nan, which passes every comparison unseen, and infinity are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number in the range {self._describe_range()}.", param, ctx)
        return number


class Whole(click.IntRange):
    """A whole number, whose help tells a range only where there is one."""

    def _describe_range(self) -> str:
        return "" if self.min is None else super()._describe_range()


FROM_0, FROM_1 = click.IntRange(min=0), click.IntRange(min=1)
PATH, FILE = click.Path(path_type=Path), click.Path(path_type=Path, dir_okay=False)


def option(
    names: str, text: str, kind: Any = str, default: object = None, value: str | None = None
) -> Callable[[F], F]:
    """Return what adds an option.

    Args:
        names: as click takes them, blanks between them.
        value: what the help shows for its value; N for a number, by its type without it.
    """
    value = value or ("N" if isinstance(kind, (click.IntRange, click.FloatRange)) else None)
    shown = default is not None
    return click.option(*names.split(), type=kind, default=default, show_default=shown, metavar=value, help=text)


def switch(names: str, text: str, **more: Any) -> Callable[[F], F]:
    """Return what adds an option that is there or not."""
    return click.option(*names.split(), is_flag=True, help=text, **more)


json_option = switch("--json as_json", "Print one JSON document on stdout.")
debug_option = switch("--debug", "Show a traceback on errors.", expose_value=False)
verbose_option = switch("-v --verbose", "Show more of what is done and found.")
count_option = option("--count", "Number of images to measure on; 0 means all of them.", FROM_0, 500)
seed_option = option("--seed", "Seed of the choice of images.", FROM_0, 0)
labels_option = option(
    "--labels",
    "Names of the classes: imagenet, demo, or a text file with one a line.  [default: MODEL's own]",
    value="FILE",
)
top_option = option("-k --top", "Classes to show of each image.", FROM_1, 5)
cluster_option = option(
    "--cluster", "Work on the workers of this dask.distributed scheduler; local:N starts one with N.", value="URL"
)
build_dir_option = option("--build-dir", "Folder of all builds.", PATH, Path("build"), "DIR")


def output_options(function: F) -> F:
    """Add ``--json``, ``--verbose`` and ``--debug``."""
    return json_option(verbose_option(debug_option(function)))


def label_offset_option(function: F) -> F:
    """Add ``--label-offset`` as the building verbs have it."""
    about = fields(Options).label_offset.metadata
    return option("--label-offset", about["help"], Whole(), 0, about["value"])(function)


def request_options(verb: str, without: Collection[str] = (), *, several: bool = False) -> Callable[[F], F]:
    """Return what adds everything that says what to build: MODEL and those options of ``Options`` that a verb reads.

    Args:
        verb: that of a stage, which reads some; another one reads all.
        without: names of options that it refuses.
        several: whether it takes more than one MODEL.
    """

    def add(function: F) -> F:
        for item in reversed(fields(Options)):
            about = item.metadata
            if "verbs" not in about or (verb in EVERY and verb not in about["verbs"]) or item.name in without:
                continue
            if about["kind"] is bool:
                function = switch(flag(item.name), about["help"])(function)
            else:
                kind = _type(about["kind"], about["least"])
                function = option(flag(item.name), about["help"], kind, item.default, about["value"])(function)
        many: dict[str, Any] = {"nargs": -1, "metavar": "[MODEL]..."} if several else {"required": False}
        function = click.argument("model", shell_complete=complete_models, **many)(function)
        return build_dir_option(output_options(function))

    return add


def _type(kind: Any, least: float | None) -> Any:
    """Return click's type for a field's."""
    if kind is Path:
        return PATH
    if choices := get_args(kind):
        return click.Choice(choices)
    if kind is int:
        return Whole(min=None if least is None else int(least))
    return kind if least is None else Number(min=least)


def make_request(**options: Any) -> Request:
    """Return the request that the options describe, and show the notes on it on stderr.

    Raises:
        EdgeError: as :func:`edge.sources.resolve.resolve`.
    """
    request, notes = resolve(Options(**options))
    for note in notes:
        absent = [word for word in re.findall(r"--[a-z-]+", note) if word[2:].replace("-", "_") not in options]
        if note.lstrip().startswith("change"):
            for word in absent:
                note = note.replace(f" {word}", "")
        elif absent:  # of no account to a verb that does not have the option
            continue
        click.echo(note, err=True)
    return request


def typed_arguments(context: click.Context, model: str | None = None) -> tuple[str, ...]:
    """Return the model and the options that the user gave, absolute paths made relative.

    Args:
        model: the one that is meant, where several were given.
    """
    given = {
        parameter: context.params.get(parameter.name or "") if model is None or parameter.name != "model" else model
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        and parameter.name not in NOT_RECORDED
    }
    return as_typed(
        ("" if isinstance(parameter, click.Argument) else parameter.opts[0], value)
        for parameter, value in given.items()
        if value not in (None, ())
    )


def complete_models(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the zoo's names that begin so, for the shell."""
    return [name for name in available_models() if name.lower().startswith(incomplete.lower())]
