"""The options that the building verbs share, and how they become a request."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from attrs import evolve
from click.core import ParameterSource

from edge.errors import LabelError, UsageError
from edge.files import data_dir
from edge.sources.named import (
    framework_options,
    refuse_framework_path,
    spec_of_file,
    spec_of_framework,
    spec_of_timm,
    spec_of_yaml,
)
from edge.specs import ModelSpec, Precision, available_models, is_searched, load_precision
from edge.specs.request import Request
from edge.specs.schema import OWN_FILES, Level

F = TypeVar("F", bound=Callable[..., Any])

# The model's own recipe: its file in the build folder, and the word that insists on one.
OWN_RECIPE, INSIST = "recipe.yaml", "recipe"
# How a command spoke and where it built change nothing of the result.
NOT_RECORDED = {
    "as_json",
    "verbose",
    "build_dir",
    "install",
    "any_memory",
    "workers",
    "port",
    "identity",
    "ssh_options",
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
    """Add everything that says what to build."""
    weights = click.Choice(["auto", "timm", "vendor", "demo", "random"])
    mapper = click.Choice(["auto", "managed", "path", "docker", "portable"])
    interpolation = click.Choice(["bilinear", "bicubic", "area", "nearest"])
    options = (
        click.argument("model", required=False, shell_complete=complete_models),
        click.option(
            "--weights", type=weights, default="auto", show_default=True, help="Where weights come from."
        ),
        click.option("--onnx", type=click.Path(path_type=Path), help="Your own float ONNX for a zoo model."),
        *framework_options(),
        click.option("--images", help="Pictures to measure on: a folder, list file or labels.csv."),
        click.option(
            "--count", type=click.IntRange(min=0), default=500, show_default=True, help="Of them; 0: all."
        ),
        click.option("--calib", help="Pictures to calibrate on; as --images, or a file in calibration/."),
        click.option(
            "--calib-count", type=click.IntRange(min=1), help="Of them; 100 unless the set says other."
        ),
        click.option(
            "--precision",
            help="A recipe in mapper_yaml/precision, or a path; 'recipe' insists on the model's own.  "
            "[default: the model's own recipe of edge tune, if there is one]",
        ),
        click.option(
            "--level", type=click.Choice(["O0", "O1", "O2", "O3"]), help="Compiler optimisation level."
        ),
        click.option("--mapper", type=mapper, default="auto", show_default=True, help="Which compiler."),
        click.option("--mean", help="Per channel, 0..255, such as 127.5 or 123.675,116.28,103.53."),
        click.option("--std", help="Per channel, 0..255: the network sees (x - mean) / std."),
        click.option("--color", type=click.Choice(["rgb", "bgr"]), help="Channel order of the network."),
        click.option("--resize", help="Shorter side before the centre crop, or 'stretch'."),
        click.option("--crop", help="Input size, such as 224 or 256x320 (height x width)."),
        click.option("--interpolation", type=interpolation, help="How to enlarge."),
        click.option("--labels", help="Text file with a class name a line."),
        click.option("--seed", type=int, default=0, show_default=True, help="Of every random choice."),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0.01),
            default=120.0,
            show_default=True,
            help="Minutes that one run of the compiler may take.",
        ),
        click.option(
            "--install",
            is_flag=True,
            help="First install what is missing: the compiler, or the framework of --paddle and --mindspore.",
        ),
        click.option(
            "--any-memory", is_flag=True, help="Compile even where the free memory is foretold not to do."
        ),
        click.option(
            "--build-dir", type=click.Path(path_type=Path), default=Path("build"), show_default=True
        ),
    )
    for option in reversed(options):
        function = option(function)
    return output_options(function)


def make_request(
    *,
    model: str | None,
    weights: str,
    onnx: Path | None,
    paddle: Path | None = None,
    mindspore: Path | None = None,
    network: str | None = None,
    source_config: Path | None = None,
    images: str | None,
    count: int,
    calib: str | None,
    calib_count: int | None,
    precision: str | None,
    level: str | None,
    mapper: str,
    mean: str | None,
    std: str | None,
    color: str | None,
    resize: str | None,
    crop: str | None,
    interpolation: str | None,
    labels: str | None,
    seed: int,
    timeout: float,
    install: bool,
    any_memory: bool = False,
    arguments: tuple[str, ...] = (),
    build_dir: Path | None = None,
) -> Request:
    """Return the request that the options describe.

    Without ``--precision`` a recipe of the model's own is taken, and told of.

    Raises:
        UsageError: options that contradict each other or can't be read, or no recipe where one has to be.
    """
    given: dict[str, Any] = {
        "mean": _triple("--mean", mean),
        "std": _triple("--std", std),
        "color": color,
        "crop": _crop(crop),
        "interpolation": interpolation,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if resize is not None:
        changes["resize"] = None if resize == "stretch" else _integer("--resize", resize)
    framework = {"mindspore": mindspore, "paddle": paddle}
    if model is None and not any(framework.values()):
        raise UsageError(
            "no MODEL", allowed="a MODEL, --paddle DIR or --mindspore FILE", remedy="edge models"
        )
    if (network or source_config) and not any(framework.values()):
        option = "--network" if network else "--source-config"
        raise UsageError(f"{option} without a model of a framework", allowed="with --paddle or --mindspore")
    if model is None or any(framework.values()):
        spec = spec_of_framework(
            model, changes, **framework, network=network, config=source_config, onnx=onnx, weights=weights
        )
    else:
        spec = _named(model, changes, onnx=onnx, weights=weights, mapper=mapper, install=install)
    if weights != "auto" and (spec.sources.onnx or spec.sources.torchscript):
        kind = "an ONNX" if spec.sources.onnx else "a TorchScript"
        raise UsageError(
            f"--weights {weights} with {kind} file", allowed="one of them: the file holds its weights"
        )
    if labels is not None:
        # The network of a file has the classes that these name, whatever its configuration says of them.
        own = any(getattr(spec.sources, kind) for kind in OWN_FILES)
        spec = evolve(spec, labels=labels, classes=None if own else spec.classes)
    _require_labels(spec)
    recipe = _recipe(spec, precision, build_dir)
    if level is not None:
        recipe = evolve(recipe, compiler=evolve(recipe.compiler, optimize_level=cast("Level", level)))
    return Request(
        spec=spec,
        precision=recipe,
        weights=weights,  # type: ignore[arg-type]
        mapper=mapper,  # type: ignore[arg-type]
        images=images,
        images_count=count,
        calibration=calib,
        calibration_count=calib_count,
        seed=seed,
        timeout=timeout * 60,
        install=install,
        any_memory=any_memory,
        arguments=arguments,
    )


def _named(
    model: str, changes: dict[str, Any], *, onnx: Path | None, weights: str, mapper: str, install: bool
) -> ModelSpec:
    """Return the spec of what MODEL names."""
    from edge.sources.framework_files import SUFFIXES
    from edge.sources.timm_spec import PREFIX

    outside = model.startswith(PREFIX) or Path(model).suffix.lower() in (".onnx", *SUFFIXES)
    if outside and onnx is not None:
        raise UsageError(f"both {model} and --onnx {onnx} are given", allowed="one of them")
    if model.startswith(PREFIX):
        name = model.removeprefix(PREFIX)
        spec = spec_of_timm(name, changes, weights=weights, mapper=mapper, install=install)
    elif outside:
        spec = spec_of_file(Path(model), changes)
    else:
        if model.lower() not in map(str.lower, available_models()):
            refuse_framework_path(model)
        spec = spec_of_yaml(model, changes, onnx)
    return spec


def _require_labels(spec: ModelSpec) -> None:
    """Fail now, not after the compile, where the class names can't be read; the export counts them."""
    from edge.images import class_names

    try:
        class_names(spec.labels)
    except LabelError as error:
        raise LabelError(
            f"the class names of {spec.name}: {error.seen}",
            allowed=error.allowed or "a text file with a class name a line",
            remedy=error.remedy or "--labels FILE, or labels: in the model's YAML, relative to it",
        ) from error


def own_recipes(model: str, build_dir: Path | None) -> list[Path]:
    """Return where a model's own recipe may be, the first to be taken first; not all need exist."""
    found = [data_dir("mapper_yaml") / "precision" / f"{model}.yaml"]
    return found if build_dir is None else [*found, build_dir / model / OWN_RECIPE]


def _recipe(spec: ModelSpec, wish: str | None, build_dir: Path | None) -> Precision:
    if wish not in (None, INSIST):
        return load_precision(wish)
    places = own_recipes(spec.name, build_dir)
    shared, own = places[0], places[1:]
    # A shared recipe may happen to have the model's name: convnext, for one's own convnext.onnx.
    path = shared if is_searched(shared) else next((place for place in own if place.is_file()), None)
    if path is None and wish == INSIST:
        raise UsageError(
            f"{spec.name} has no recipe of its own",
            allowed="a file at " + " or ".join(os.path.relpath(place) for place in places),
            remedy=f"edge tune {spec.name}   searches one",
        )
    if path is None:
        return load_precision(spec.precision)
    if wish is None:
        shown = os.path.relpath(path)
        click.echo(
            f"precision recipe {shown}, the model's own; --precision {spec.precision} goes without", err=True
        )
    return load_precision(str(path))


def typed_arguments(context: click.Context) -> tuple[str, ...]:
    """Return the model and the options that the user gave, absolute paths made relative."""
    words: list[str] = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        value = context.params.get(parameter.name or "")
        if source is not ParameterSource.COMMANDLINE or parameter.name in NOT_RECORDED or value is None:
            continue
        text = str(value)
        if Path(text).is_absolute():
            text = os.path.relpath(text)
        if isinstance(parameter, click.Argument):
            words.insert(0, text)
        else:
            words += [parameter.opts[0]] if value is True else [parameter.opts[0], text]
    return tuple(words)


def _triple(option: str, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        values = [float(part) for part in re.split(r"[,\s]+", text.strip())]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise UsageError(f"{option} {text!r}", allowed="one number, or three with commas")
    return values[0], values[1], values[2]


def _crop(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    numbers = [_integer("--crop", part) for part in parts]
    if len(numbers) not in (1, 2):
        raise UsageError(f"--crop {text!r}", allowed="one number, or height x width such as 256x320")
    return numbers[0], numbers[-1]


def _integer(option: str, text: str) -> int:
    if not text.strip().isdigit():
        raise UsageError(f"{option} {text!r}", allowed="a whole number of pixels")
    return int(text)


def complete_models(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the zoo's names that begin so, for the shell."""
    return [name for name in available_models() if name.lower().startswith(incomplete.lower())]
