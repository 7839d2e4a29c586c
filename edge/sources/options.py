"""What a user may say of a build: its options, with what the command line shows of each and who reads it."""

# ruff: noqa: RUF009 - _option is attrs' own field with more to it

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args

from attrs import Attribute, field, fields, frozen

from edge.errors import UsageError
from edge.specs.request import Compiler, Weights
from edge.specs.schema import FILL, Color, Interpolation, Letterbox, Level, Task

STRETCH = "stretch"
# Of the fields of Options, those that change nothing of the result.
UNRECORDED = frozenset({"build_dir", "install", "any_memory"})
# What an option was called once -> what it is called now, and its values likewise.
RENAMED = {"mapper": "compiler", "hops": "steps", "k": "top"}
RENAMED_VALUES = {("mapper", "portable"): "onnxruntime"}
# Who reads an option, of the verbs that end at one stage; edge build reads all of them.
EVERY = ("export", "simplify", "check", "calibrate", "rewrite", "equalize", "split", "round", "thresholds",
         "render", "compile", "portable", "verify", "quantize")  # fmt: skip
EXPORT, VERIFY = EVERY[:1], ("verify",)
COMPILED = ("compile", "portable", "verify")
RENDERED, CHECKED = ("render", *COMPILED), ("check", "thresholds", *COMPILED)
BY_RECIPE = ("rewrite", "equalize", "split", "round", *CHECKED[:2], *RENDERED)
CALIBRATED = ("calibrate", "equalize", "split", "round", "thresholds", "quantize", *RENDERED)
_NUMBERS: Mapping[Any, type] = {int: Integral, float: Real}


def flag(name: str) -> str:
    """Return a field of :class:`Options` as the command line spells it."""
    return "--" + name.replace("_", "-")


def _text(value: object) -> str | None:
    """Return what one types; numbers may be given as such."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return None if value is None else str(value)


def _size(value: object) -> str | None:
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else _text(value)


def _whole(value: object) -> object:
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value  # numpy's too


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


def _option(
    kind: Any,
    text: str,
    value: str | None = None,
    verbs: tuple[str, ...] = EVERY,
    default: object = None,
    *,
    least: float | None = None,
    convert: Any = None,
) -> Any:
    """Return a field with what the command line needs to offer it.

    Args:
        kind: ``Path``, ``str``, ``int``, ``float``, ``bool``, or a Literal of what may be chosen.
        text: the help.
        value: what the help shows for its value; by its kind without it.
        verbs: those of a single stage that offer it.
        convert: makes what one types of a value; the usual one for the kind without it.
    """

    def check(_: object, attribute: Attribute[Any], value: Any) -> None:
        choices, name = get_args(kind), flag(attribute.name)
        if value is None and default is None:
            return
        if choices and value not in choices:
            raise UsageError(f"{name} {value}", expected=", ".join(choices))
        if kind in _NUMBERS and (isinstance(value, bool) or not isinstance(value, _NUMBERS[kind])):
            raise UsageError(f"{name} {value!r}", expected="a whole number" if kind is int else "a number")
        if kind is bool and not isinstance(value, bool):
            raise UsageError(f"{name} {value!r}", expected="True or False")
        if least is not None and not least <= value < math.inf:  # nan is not
            raise UsageError(f"{name} {value}", expected=f"{least:g} and above")

    return field(
        default=default,
        converter=convert or {Path: _path, str: _text, int: _whole}.get(kind),
        validator=check,
        metadata={"kind": kind, "help": text, "verbs": verbs, "value": value, "least": least},
    )


@frozen(kw_only=True)
class Options:
    """Everything that says what to build, as a user gives it; beside each field stands what it is.

    The field names are the command line's options in snake_case, the defaults are its own. Numbers may be
    given as numbers: ``mean=127.5``, ``crop=(256, 320)``.
    """

    #: a zoo name, a model .yaml, ``timm:NAME``, or the user's own .onnx or TorchScript file; None where ``paddle`` or
    #: ``mindspore`` is the model.
    model: str | None = field(default=None, converter=_text)
    task: Task | None = _option(
        Task,
        "What the outputs mean: classify: class scores; raw: arrays, compared as numbers; detect: boxes.  "
        "[default: the model's own, classify]",
    )
    weights: Weights = _option(
        Weights, "Where the weights come from; auto: the first of timm, vendor, demo that can be had.", default="auto"
    )
    onnx: Path | None = _option(Path, "Your float ONNX of the zoo model MODEL, instead of its weights.", "FILE")
    paddle: Path | None = _option(
        Path, "Folder of a PaddlePaddle inference model, instead of MODEL or as its weights.", "DIR", EXPORT
    )
    mindspore: Path | None = _option(
        Path, "MindIR, or MindSpore checkpoint (with --network), instead of MODEL or as its weights.", "FILE", EXPORT
    )
    network: str | None = _option(
        str, "mindcv's name of the MindSpore checkpoint's network, such as convnext_tiny.", "NAME", EXPORT
    )
    source_config: Path | None = _option(
        Path, "YAML of PaddleClas or mindcv that says how the network sees images.", "FILE", EXPORT
    )
    images: str | None = _option(
        str,
        "Images to measure on: a folder, list file or labels.csv; for a detector COCO's .json, data.yaml, or a folder "
        "with labels/ or Annotations/.  [default: the demo's]",
        "PATH",
        VERIFY,
    )
    count: int = _option(int, "Number of images to measure on; 0 means all of them.", "N", VERIFY, 500, least=0)
    label_offset: int = _option(
        int, "Added to each image's label: 1 for a network with a background class 0.", "N", VERIFY, 0
    )
    calib: str | None = _option(
        str,
        "Images to calibrate on: a folder or list file of images like the camera's, or a set in calibration/.  "
        "[default: the demo's]",
        "PATH",
        CALIBRATED,
    )
    calib_count: int | None = _option(
        int, "Number of images to calibrate on.  [default: the set's, 100 for a folder]", "N", CALIBRATED, least=1
    )
    precision: str | None = _option(
        str,
        "Recipe of bits and calibration: a name in mapper_yaml/precision or a .yaml file; 'recipe' requires the "
        "model's own.  [default: the model's own recipe of edge tune, if there is one, else that of its YAML]",
        "RECIPE",
        BY_RECIPE,
    )
    level: Level | None = _option(
        Level, "O0 compiles in seconds, O3 gives the fastest program.  [default: the recipe's, O3]", verbs=RENDERED
    )
    compiler: Compiler = _option(
        Compiler,
        "The vendor's compiler: edge's own (managed), on PATH or in docker; auto: the first that is found. "
        "onnxruntime quantizes without it and makes no .bin.",
        default="auto",
    )
    name: str | None = _option(str, "Name of the build folder and of every file in it.  [default: MODEL's]", "NAME")
    mean: str | None = _option(
        str, "Mean in training, 0..255: one number, or one a channel (123.675,116.28,103.53).", "M[,M,M]"
    )
    std: str | None = _option(
        str, "Standard deviation in training, 0..255; the network sees (x - mean) / std.", "S[,S,S]"
    )
    color: Color | None = _option(Color, "Order of the network's input channels.")
    resize: str | None = _option(  # every verb: --crop may not exceed it
        str, "Pixels of an image's shorter side before the centre crop, or 'stretch'.", "N"
    )
    letterbox: Letterbox | None = _option(
        Letterbox,
        "Scale an image until it fits, and fill the rest: below and right of it (corner), or on both sides (center); "
        "detectors are trained so. Takes the place of --resize.",
    )
    fill: int | None = _option(int, "Grey level that --letterbox fills with.  [default: 114]", "N", CALIBRATED, least=0)
    crop: str | None = _option(str, "Input size in pixels: 224, or 256x320 (height x width).", "N[xN]", convert=_size)
    interpolation: Interpolation | None = _option(Interpolation, "How an image is enlarged.", verbs=CALIBRATED)
    labels: str | None = _option(str, "Class names: imagenet, demo, or a text file with one a line.", "FILE")
    output: str | None = _option(
        str,
        "Name of the class scores where the network's outputs leave it open; any value of its graph. "
        "With --task raw the outputs, with commas.",
        "NAME",
    )
    featuremap: str | None = _option(
        str,
        "Names of the inputs that are arrays of numbers and no camera images, with commas, or 'all'.  "
        "[default: those that can't be an image]",
        "NAMES",
    )
    seed: int = _option(int, "Seed of every random choice: images, random weights, rounding.", "N", default=0, least=0)
    timeout: float = _option(
        float, "Minutes that one run of the compiler may take.", "N", CHECKED, default=120.0, least=0.01
    )
    install: bool = _option(
        bool, "First install the compiler (4.2 GB), or the model's framework, if it is missing.", default=False
    )
    any_memory: bool = _option(
        bool, "Start the compiler even where its estimated memory exceeds what is free.", None, CHECKED, default=False
    )
    build_dir: Path | None = field(default=Path("build"), converter=_path)
    arguments: tuple[str, ...] = ()  #: what is recorded as the command, from :func:`as_typed`.

    def changes(self) -> dict[str, Any]:
        """Return what the user sets of the preprocessing: keys of ``Preprocess``.

        Raises:
            UsageError: a value can't be read.
        """
        given: dict[str, Any] = {
            "mean": _triple("--mean", self.mean),
            "std": _triple("--std", self.std),
            "color": self.color,
            "crop": _crop(self.crop),
            "interpolation": self.interpolation,
            "letterbox": self.letterbox,
            "fill": self.fill,
        }
        if self.letterbox is not None and self.resize is not None:
            raise UsageError(
                f"--letterbox {self.letterbox} with --resize {self.resize}",
                expected="one of both: a letterboxed image is scaled until it fits",
            )
        found = {key: value for key, value in given.items() if value is not None}
        if self.letterbox is not None:
            found["resize"] = None
        if self.resize is not None:  # a model's own letterbox gives way
            found |= {"letterbox": None, "fill": found.get("fill", FILL)}
            found["resize"] = None if self.resize == STRETCH else _integer("--resize", self.resize)
        return found


def as_typed(values: Iterable[tuple[str, object]]) -> tuple[str, ...]:
    """Return options and their values as words of a command line, absolute paths made relative.

    Args:
        values: (option, value); the argument has the option ``""`` and comes first, True is the option alone.
    """
    words: list[str] = []
    for option, value in values:
        text = str(value)
        if Path(text).is_absolute() and option != "--output":
            text = os.path.relpath(text)
        if not option:
            words.insert(0, text)
        else:
            words += [option] if value is True else [option, text]
    return tuple(words)


def stage_command(verb: str, arguments: Sequence[str]) -> str:
    """Return what one types to run a stage of a build.

    Args:
        verb: the stage's; edge build takes the place of eval, which is more than the stage of that name, and of a verb
            that lacks the option with the model's source.
        arguments: the build's, from :func:`as_typed`; those that the verb does not have are left out.
    """
    model, pairs = arguments[: len(arguments) % 2], [iter(arguments[len(arguments) % 2 :])] * 2
    offered = {flag(item.name): item.metadata["verbs"] for item in fields(Options) if "verbs" in item.metadata}
    given = [(option, value, offered[option]) for option, value in zip(*pairs, strict=True)]
    if verb not in EVERY or any("export" in verbs and verb not in verbs for _, _, verbs in given):
        verb = "build"
    kept = [word for option, value, verbs in given if verb in ("build", *verbs) for word in (option, value)]
    return shlex.join(["edge", verb, *model, *kept])


def renamed(name: str, value: Any = "") -> tuple[str, Any]:
    """Return what an option of an earlier edge is called now, with its value; empty if it is none."""
    return RENAMED.get(name, ""), RENAMED_VALUES.get((name, str(value)), value)


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
        raise UsageError(f"{option} {text!r}", expected="one number, or three with commas")
    return values[0], values[1], values[2]


def _crop(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    numbers = [_integer("--crop", part) for part in text.lower().split("x")]
    if len(numbers) not in (1, 2):
        raise UsageError(f"--crop {text!r}", expected="one number, or height x width such as 256x320")
    return numbers[0], numbers[-1]


def _integer(option: str, text: str) -> int:
    if not text.strip().isdigit():
        raise UsageError(f"{option} {text!r}", expected="a whole number of pixels")
    return int(text)
