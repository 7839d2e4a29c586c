"""The options that the building verbs share; what they mean is decided by ``edge.sources.resolve``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from attrs import fields_dict
from click.core import ParameterSource

from edge.sources.resolve import UNRECORDED, Options, as_typed, flag, resolve
from edge.specs import available_models
from edge.specs.request import Mapper, Request, Weights
from edge.specs.schema import Color, Interpolation, Level

F = TypeVar("F", bound=Callable[..., Any])

# How a command spoke and where it built change nothing of the result.
NOT_RECORDED = {*UNRECORDED, "as_json", "verbose", "workers", "port", "identity", "ssh_options"}
PATH = click.Path(path_type=Path)
# Field of Options -> type, help; the defaults are that class's own.
REQUEST: dict[str, tuple[Any, str | None]] = {
    "weights": (click.Choice(get_args(Weights)), "Where weights come from."),
    "onnx": (PATH, "Your own float ONNX for a zoo model."),
    "paddle": (PATH, "Folder of a PaddlePaddle inference model, instead of MODEL or as its weights."),
    "mindspore": (PATH, "A MindIR, or a MindSpore checkpoint with --network; likewise."),
    "network": (str, "mindcv's name of the checkpoint's network, such as convnext_tiny."),
    "source_config": (PATH, "PaddleClas's or mindcv's YAML that says how the network sees pictures."),
    "images": (str, "Pictures to measure on: a folder, list file or labels.csv."),
    "count": (click.IntRange(min=0), "Number of images; 0 means all."),
    "calib": (str, "Pictures to calibrate on; as --images, or a file in calibration/."),
    "calib_count": (click.IntRange(min=1), "Number of images; 100 unless the set says other."),
    "precision": (
        str,
        "A recipe in mapper_yaml/precision, or a path; 'recipe' insists on the model's own.  "
        "[default: the model's own recipe of edge tune, if there is one]",
    ),
    "level": (click.Choice(get_args(Level)), "Compiler optimisation level."),
    "mapper": (click.Choice(get_args(Mapper)), "Which compiler."),
    "mean": (str, "Per channel, 0..255, such as 127.5 or 123.675,116.28,103.53."),
    "std": (str, "Per channel, 0..255: the network sees (x - mean) / std."),
    "color": (click.Choice(get_args(Color)), "Channel order of the network."),
    "resize": (str, "Shorter side before the centre crop, or 'stretch'."),
    "crop": (str, "Input size, such as 224 or 256x320 (height x width)."),
    "interpolation": (click.Choice(get_args(Interpolation)), "Interpolation when enlarging."),
    "labels": (str, "Text file with a class name a line."),
    "seed": (int, "Random seed."),
    "timeout": (click.FloatRange(min=0.01), "Minutes that one run of the compiler may take."),
    "install": (
        bool,
        "First install what is missing: the compiler, or the framework of --paddle and --mindspore.",
    ),
    "any_memory": (bool, "Compile even if the memory estimate exceeds what is free."),
    "build_dir": (PATH, None),
}


def output_options(function: F) -> F:
    """Add ``--json``, ``--verbose`` and ``--debug``."""
    for option in reversed(
        (
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout."),
            click.option(
                "-v", "--verbose", is_flag=True, help="Show every step, the compiler's log lines too."
            ),
            click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback on errors."),
        )
    ):
        function = option(function)
    return function


def request_options(function: F) -> F:
    """Add everything that says what to build: MODEL and an option for each field of ``Options``."""
    for name, (kind, text) in reversed(REQUEST.items()):
        default = fields_dict(Options)[name].default
        if kind is bool:
            option = click.option(flag(name), is_flag=True, help=text)
        else:
            shown = default is not None
            option = click.option(flag(name), type=kind, default=default, show_default=shown, help=text)
        function = option(function)
    function = click.argument("model", required=False, shell_complete=complete_models)(function)
    return output_options(function)


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
