"""The argument MODEL of the verbs that run a finished program, and the options they share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from edge.cli.display import table
from edge.cli.options import build_dir_option, complete_models, option, output_options
from edge.errors import LabelError, ModelFileError, UsageError, counted, shown
from edge.specs import Preprocess, available_models, load_model
from edge.specs.schema import CROP_SHARE, WIDTH_MULTIPLE, ScoreKind

if TYPE_CHECKING:
    from edge.runtime import Net


F = TypeVar("F", bound=Callable[..., Any])
STRETCH = "stretch"


def program_argument(function: F) -> F:
    """Add MODEL and ``--build-dir``."""
    return click.argument("model", shell_complete=complete_models)(build_dir_option(function))


def backend_option(function: F) -> F:
    """Add ``--backend``."""
    return click.option(
        "--backend",
        default="auto",
        show_default=True,
        metavar="NAME",
        help="What runs the program: hbm_runtime, hobot_dnn or bpu_infer_lib on the board; hbdk_sim, "
        "quantized or portable on a PC; auto takes the first that works here.",
        shell_complete=_complete_backends,
    )(function)


def running_options(function: F) -> F:
    """Add what the verbs share that run a program."""
    for add in (
        output_options,
        option(
            "--interpolation",
            "For a program without metadata.json: how an image is enlarged.  [default: bilinear]",
            click.Choice(["bilinear", "bicubic", "area", "nearest"]),
        ),
        option(
            "--resize",
            "For a program without metadata.json: pixels of an image's shorter side before the centre crop, or "
            f"'{STRETCH}' to the input size.  [default: the input size / {CROP_SHARE:g}]",
            value="N",
        ),
        backend_option,
    ):
        function = add(function)
    return function


def find_program(model: str, build_dir: Path) -> Path:
    """Return what MODEL names: a bare name the folder of that name in ``build_dir``, all else an existing path.

    So a bundle that was unpacked here never stands for the build of its name; ``./NAME`` names it.

    Raises:
        ModelFileError: it was not built yet, or does not exist.
        UsageError: no model of that name.
    """
    path = Path(model).expanduser()
    built = build_dir / path
    if model not in ("", ".", "..") and "/" not in model and os.sep not in model and built.is_dir():
        return built
    if path.exists():
        return path
    if len(path.parts) == 1 and built.is_dir():  # NAME/
        return built
    if len(path.parts) != 1 or path.suffix in (".bin", ".onnx"):
        raise ModelFileError(
            f"{path} does not exist",
            expected="a build folder, a bundle, a .bin, a portable ONNX or a model's name",
            remedy="edge build MODEL" if path.suffix != ".bin" else "check the path",
        )
    if path.name not in available_models():
        there = sorted(folder.name for folder in build_dir.glob("*") if (folder / "manifest.json").is_file())
        if not get_close_matches(path.name.lower(), map(str.lower, available_models()), cutoff=0.6):
            raise UsageError(
                f"there is no build {built}",
                expected=", ".join(there) or "a build folder, a bundle, a .bin, a portable ONNX or a model's name",
                remedy="name one of these, or --build-dir DIR" if there else "edge build MODEL",
            )
        load_model(path.name)  # tells the near name
    raise ModelFileError(f"{path} is not built: {built} does not exist", remedy=f"edge build {path}")


def built_folder(model: str, build_dir: Path, verb: str) -> Path:
    """Return the build folder that MODEL names, as :func:`find_program`.

    Raises:
        ModelFileError: it is a single file, was not built yet, or does not exist.
        UsageError: no model of that name.
    """
    path = find_program(model, build_dir)
    if not path.is_dir():
        raise ModelFileError(
            f"{path} is a single file", expected="the folder of a finished build", remedy=f"edge {verb} {path.parent}"
        )
    return path


def open_program(
    path: Path,
    backend: str,
    *,
    threads: int = 1,
    labels: str | None = None,
    scores: ScoreKind | None = None,
    resize: str | None = None,
    interpolation: str | None = None,
    changeable: bool = True,
    restarts: int = 0,
) -> tuple[Net, str]:
    """Load a program; complete the preprocessing of one that comes without ``metadata.json``.

    Mean, std, colour order and input size are inside every program; what happens to an image before is not.

    Args:
        changeable: whether the verb has ``--resize`` and ``--interpolation``, which the note may name then.
        restarts: as of :func:`edge.runtime.load`.

    Returns:
        The net, and a note on what was assumed; empty if nothing was.

    Raises:
        UsageError: options that the program's metadata already answers.
        LabelError: labels of another number of classes.
        EdgeError: as :func:`edge.runtime.load`.
    """
    from edge.runtime import load

    net = load(path, cast("Any", backend), threads=threads, scores=scores, restarts=restarts)
    try:
        _require_unknown(net, path, scores)
        if labels is not None:
            net.labels = _names(labels, net.classes)
        return net, _complete(net, path, resize, interpolation, changeable)
    except BaseException:
        net.close()
        raise


def _require_unknown(net: Net, path: Path, scores: ScoreKind | None) -> None:
    known = net.metadata.scores if net.metadata else None
    if scores and known:
        raise UsageError(
            f"--scores {scores} with {path}, whose metadata.json says: {known}", remedy="leave the option away"
        )


def _names(labels: str, classes: int) -> tuple[str, ...]:
    from edge.images import class_names

    names = class_names(labels, classes)
    if names is None or len(names) != classes:
        raise LabelError(
            f"--labels {labels}, but the program has {counted(classes, 'class')}", expected="the names of its classes"
        )
    return names


def backend_line(net: Net) -> str:
    """Return which backend runs, of which version, and what its results and speed stand for."""
    from edge.runtime.machine import ON_BOARD

    info = net.info
    if info.backend in ON_BOARD:
        means = "on the board's BPU"
    elif info.exact:
        means = "a simulator, the same integers as on the board"
    else:
        means = "an approximation, not a simulator of the board's integers"
    return f"{info.backend} ({info.version}): {means}"


def describe_preprocess(rule: Preprocess) -> str:
    """Return what happens to an image, in a few words."""
    (height, width), canvas = rule.crop, rule.canvas
    filled = "" if rule.crop == canvas else f", its border repeated up to {canvas[1]}x{canvas[0]}"
    if rule.letterbox is not None:
        return f"{rule.fitted(f'{width}x{height}')}{filled}, {rule.interpolation}"
    if rule.resize is None:
        return f"stretched to {width}x{height}{filled}, {rule.interpolation}"
    return f"shorter side to {rule.resize}, centre crop {width}x{height}{filled}, {rule.interpolation}"


def describe_scores(kind: ScoreKind | None) -> str:
    """Return what has to be known of the values that are shown; '' where they are plain probabilities."""
    if kind is None:
        return (
            "the values are the program's scores as they are: whether they are logits or probabilities is not "
            "recorded; edge run --scores logits, softmax or sigmoid says so"
        )
    return "Sigmoid scores: each class is judged by itself, the values do not add up to 100 %" * (kind == "sigmoid")


def output_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return raw outputs as lines of a table, from :func:`edge.runtime.steps.output_record`."""
    rows: list[tuple[str, ...]] = [("output", "shape", "min", "mean", "max")]
    rows += [
        (shown(one["name"]), "x".join(map(str, one["shape"])), *(f"{one[key]:.5g}" for key in ("min", "mean", "max")))
        for one in records
    ]
    return [f"  {line}" for line in table(rows, left=(0, 1))]


def value_name(kind: ScoreKind | None) -> str:
    """Return what the values of classes are called in JSON."""
    return "score" if kind is None else "probability"


def _complete(net: Net, path: Path, resize: str | None, interpolation: str | None, changeable: bool) -> str:
    if net.preprocess is not None:
        if resize or interpolation:
            raise UsageError(
                f"--resize or --interpolation with {path}, whose metadata.json says: "
                f"{describe_preprocess(net.preprocess)}",
                remedy="leave these options out",
            )
        return ""
    size = next((tensor.size for tensor in net.info.inputs if tensor.nv12), None)
    if size is None:
        return ""
    if size != Preprocess(crop=size, resize=None).canvas:
        raise UsageError(
            f"{path.name} takes images of {size[0]}x{size[1]}",
            expected=f"an even height and a width that is a multiple of {WIDTH_MULTIPLE}: the board's runtimes treat "
            "others differently",
            remedy="edge build NET.onnx   makes a program of such a size of a network of any",
        )
    shorter: int | None = round(max(size) / CROP_SHARE)
    if resize == STRETCH:
        shorter = None
    elif resize is not None:
        if not resize.isdigit():
            raise UsageError(f"--resize {resize!r}", expected=f"a whole number of pixels, or {STRETCH}")
        shorter = int(resize)
    net.preprocess = Preprocess(crop=size, resize=shorter, interpolation=cast("Any", interpolation or "bilinear"))
    assumed = "assumed; --resize and --interpolation change it" if changeable else "assumed"
    source = "as given" if resize and interpolation else assumed
    return f"{path.name} comes without metadata.json; images: {describe_preprocess(net.preprocess)} ({source})"


def _complete_backends(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from edge.runtime import BACKENDS

    return [name for name in ("auto", *BACKENDS) if name.startswith(incomplete)]
