"""A spec for any timm model, from timm's own configuration of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attrs import frozen

from edge.errors import ToolchainError, ToolchainMissing, UsageError
from edge.images.find import IMAGENET_CLASSES
from edge.sources.convert import last_json
from edge.specs import ModelSpec, Preprocess, Sources
from edge.specs.schema import Interpolation

if TYPE_CHECKING:
    from edge.toolchain.found import Toolchain

TIMM = "timm:"
WORKER = "timm_config.py"
TIMEOUT = 300.0  # seconds; importing torch from a cold disk
_INTERPOLATIONS = ("bilinear", "bicubic")


@frozen
class TimmModel:
    """Timm's facts of a model."""

    tag: str  #: with the tag of its weights, such as ``resnet18.a1_in1k``; without a tag if timm has none.
    timm: str  #: version of timm.
    spec: ModelSpec  #: to build it.
    has_weights: bool  #: whether timm names trained weights.
    notes: tuple[str, ...]  #: on values that are unknown or could not be used unchanged.


def describe_timm(name: str, toolchain: Toolchain, changes: Mapping[str, Any]) -> TimmModel:
    """Ask timm, in the compiler's Python, for the preprocessing of a model.

    Args:
        name: timm's name, with or without the tag of its weights.
        changes: the user's values in place of timm's: ``crop``, ``resize``, ``mean``, ….

    Raises:
        UsageError: timm has no such model (close names are given), it is not a classifier of colour images, or
            its size does not suit the board.
        ToolchainMissing: the compiler's Python has no timm.
        ToolchainError: timm did not answer.
    """
    answer = _ask(name, toolchain)
    if not answer["known"]:
        offered = answer["tags"] or answer["close"]
        raise UsageError(
            f"timm has no model {name!r}",
            expected=("such as " + ", ".join(offered)) if offered else "a name of timm.list_models()",
            remedy=f"edge build {TIMM}{offered[0]}" if offered else None,
        )
    tag = answer["architecture"] + (f".{answer['tag']}" if answer["tag"] else "")
    preprocess, notes = _preprocess(tag, answer, changes)
    classes = int(answer["classes"])
    if classes < 2:
        raise UsageError(
            f"timm's {tag} is not a classifier: it has {classes} classes",
            expected="a model with a head, for example with a tag that ends in in1k",
        )
    imagenet = classes == IMAGENET_CLASSES and "in1k" in answer["tag"]
    if not imagenet:
        reason = f"the tag {answer['tag']!r} does not say in1k" if answer["tag"] else "timm names no tag"
        notes.append(f"{classes} classes, NOT known to be ImageNet's: {reason}; name them with --labels FILE")
    if answer["tag"] and answer["repository"] != f"timm/{tag}":
        notes.append(
            f"its weights are at {answer['repository'] or 'no hub'}, not at timm/{tag}, where edge looks; "
            "--weights random needs none"
        )
    spec = ModelSpec(
        name=re.sub(r"[^A-Za-z0-9_-]+", "_", tag),
        sources=Sources(timm=tag),
        preprocess=preprocess,
        labels="imagenet" if imagenet else None,
        classes=classes,
    )
    return TimmModel(tag, answer["timm"], spec, bool(answer["tag"]), tuple(notes))


def near_names(name: str, toolchain: Toolchain) -> tuple[str, ...] | None:
    """Return timm's names close to an unknown name; None if timm knows the name, or does not answer."""
    try:
        answer = _ask(name, toolchain)
    except ToolchainError:
        return None
    return None if answer["known"] else tuple(answer["tags"] or answer["close"])


def _preprocess(tag: str, answer: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[Preprocess, list[str]]:
    notes = []
    channels, height, width = answer["input_size"]
    if channels != 3:
        raise UsageError(f"timm's {tag} takes {channels} channels", expected="colour images: 3 channels")
    crop = tuple(changes.get("crop", (height, width)))
    if answer["fixed_size"] and crop != (height, width):
        raise UsageError(
            f"--crop {crop[0]}x{crop[1]}, but timm's {tag} is made for {height}x{width} only",
            remedy="leave --crop out, or choose a model of another size",
        )
    resize: int | None = math.floor(max(crop) / answer["crop_pct"])
    if answer["crop_mode"] == "squash":
        resize = None
        if answer["crop_pct"] != 1:
            notes.append(f"timm crops {answer['crop_pct']} of the stretched image; here none is cropped")
    elif answer["crop_mode"] != "center":
        notes.append(f"timm's crop mode {answer['crop_mode']!r} is unknown; the centre is cropped")
    interpolation = answer["interpolation"]
    if interpolation not in _INTERPOLATIONS:
        notes.append(f"timm's interpolation {interpolation!r} is unknown; bicubic is used")
        interpolation = "bicubic"
    own: dict[str, Any] = {
        "crop": crop,
        "resize": resize,
        "interpolation": cast("Interpolation", interpolation),
        "color": "rgb",
        "mean": tuple(round(value * 255, 6) for value in answer["mean"]),
        "std": tuple(round(value * 255, 6) for value in answer["std"]),
        "layout": "NCHW",
    }
    return Preprocess(**{**own, **changes}), notes


def _ask(name: str, toolchain: Toolchain) -> dict[str, Any]:
    done = toolchain.run_python([str(toolchain.worker_path(WORKER)), name], cwd=Path.cwd(), timeout=TIMEOUT)
    answer = last_json(done.tail)
    if done.returncode == 0 and "known" in answer:
        return answer
    if done.timed_out:
        raise ToolchainError(f"timm did not answer for {name} within {TIMEOUT:.0f} s", remedy="run the command again")
    last = (done.tail.splitlines() or [f"exit status {done.returncode}"])[-1]
    if "ModuleNotFoundError" in last:
        raise ToolchainMissing(f"the compiler's Python has no usable timm: {last}", remedy="edge toolchain install")
    raise ToolchainError(f"timm failed on {name}: {last}", remedy="edge toolchain status")
