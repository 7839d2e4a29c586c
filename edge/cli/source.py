"""A spec from what MODEL names outside the zoo: your file, or a timm name; what was taken over is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.errors import ToolchainMissing, UsageError
from edge.specs import ModelSpec, Preprocess, Sources

if TYPE_CHECKING:
    from edge.toolchain.found import Toolchain

# The share of the resized picture that the centre crop keeps; the usual one for ImageNet classifiers.
CROP_SHARE = 0.875


def spec_of_file(path: Path, changes: dict[str, Any]) -> ModelSpec:
    """Derive a spec from the user's ONNX or TorchScript and show it; what neither file tells has to be given.

    Raises:
        UsageError: something is not given, or contradicts the file.
        ModelFileError: the file is no such model.
    """
    from edge.export.declared import plain
    from edge.export.torchscript import SUFFIXES, require_torchscript

    script = path.suffix.lower() in SUFFIXES
    needed = ("mean", "std", "crop") if script else ("mean", "std")
    missing = [f"--{key}" for key in needed if key not in changes]
    if missing:
        raise UsageError(
            f"{path.name}: how the network was trained to see pictures is not in the file: "
            f"{', '.join(missing[:-1])}{' and ' if missing[:-1] else ''}{missing[-1]} missing",
            allowed="values in 0..255, one or one per channel"
            + ("; --crop: the input's size" if script else ""),
            remedy=f"edge build {path} --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375 --color rgb "
            f"--resize 256 --crop 224   (these are ImageNet's; use those of your training)",
        )
    if script:
        require_torchscript(path)
        crop, layout, sources = changes["crop"], "NCHW", Sources(torchscript=str(path))
    else:
        from edge.export import inspect_onnx

        found = inspect_onnx(path)
        crop, layout, sources = found.crop, found.layout, Sources(onnx=str(path))
        if changes.get("crop", crop) != crop:
            height, width = changes["crop"]
            raise UsageError(
                f"--crop {height}x{width}, but {path.name} takes {crop[0]}x{crop[1]}",
                remedy="leave --crop away, or export the network at that size",
            )
    changes.setdefault("resize", round(max(crop) / CROP_SHARE))
    changes.setdefault("interpolation", "bilinear")
    preprocess = Preprocess(**{**changes, "crop": crop, "layout": layout})
    spec = ModelSpec(plain(path.stem), sources, preprocess, labels=None, classes=None)
    show(f"{path.name}, as the file and your options say", spec)
    return spec


def spec_of_timm(
    name: str, changes: dict[str, Any], *, weights: str, mapper: str, install: bool
) -> ModelSpec:
    """Return a spec with timm's own configuration of a model, and show it.

    Args:
        name: timm's name, such as ``resnet18.a1_in1k``.
        changes: what the user sets other than timm does.
        weights: as ``--weights``.
        mapper: which compiler, whose Python has timm.
        install: install the compiler if there is none.

    Raises:
        UsageError: no such model, or weights that it has not.
        ToolchainMissing: no compiler.
    """
    from edge.export.timm_spec import PREFIX, describe_timm

    if weights not in ("auto", "timm", "random"):
        raise UsageError(f"--weights {weights} with {PREFIX}{name}", allowed="auto, timm, random")
    found = describe_timm(name, _exporter(mapper, install=install), changes)
    if not found.has_weights and weights != "random":
        raise UsageError(
            f"timm has no trained weights of {found.tag}",
            remedy=f"edge build {PREFIX}{name} --weights random   (speed only, no Top-1)",
        )
    show(f"{PREFIX}{found.tag}, as timm {found.timm} describes it", found.spec, found.notes)
    return found.spec


def show(title: str, spec: ModelSpec, notes: Sequence[str] = ()) -> None:
    """Print how a network sees pictures, for the user to check, on stderr."""
    pre = spec.preprocess
    size = "x".join(map(str, pre.crop))
    how = (
        f"stretched to {size}, {pre.interpolation}"
        if pre.resize is None
        else f"shorter side to {pre.resize}, {pre.interpolation}, centre crop {size}"
    )
    order = {"imagenet": "in ImageNet's order", None: "named by --labels only"}.get(
        spec.labels, f"named by {spec.labels}"
    )
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (pre.mean, pre.std))
    rows = (
        ("input", f"{size}, {pre.layout}, {pre.color.upper()}"),
        ("picture", how),
        ("values", f"(x - mean) / std of 0..255, mean {mean}, std {std}"),
        ("classes", f"{spec.classes or 'as the file has them'}, {order}"),
    )
    click.echo(f"{title}; check it:", err=True)
    for name, text in rows:
        click.echo(f"  {name:<8} {text}", err=True)
    for note in notes:
        click.echo(f"! {note}", err=True)
    click.echo("  change   --crop --color --resize --interpolation --mean --std --labels", err=True)


def _exporter(mapper: str, *, install: bool) -> Toolchain:
    from edge.toolchain.find import find
    from edge.toolchain.install import install as install_it
    from edge.toolchain.install import require_platform

    try:
        return find("auto" if mapper == "portable" else mapper)  # type: ignore[arg-type]
    except ToolchainMissing as missing:
        if install and mapper in ("auto", "managed"):
            require_platform()
            return install_it()
        raise ToolchainMissing(
            f"timm models are described and exported by the compiler's Python: {missing.seen}",
            allowed=missing.allowed,
            remedy=missing.remedy,
        ) from missing
