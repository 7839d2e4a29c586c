"""A spec from what MODEL names outside the zoo: your file or YAML, a timm name; it is shown to be checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import evolve

from edge.errors import ToolchainMissing, UsageError
from edge.specs import ModelSpec, Preprocess, Sources, is_shipped, read_model

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
    from edge.export.declared import NEEDED, plain
    from edge.export.torchscript import SUFFIXES, require_torchscript

    script = path.suffix.lower() in SUFFIXES
    needed = NEEDED if script else NEEDED[:2]
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
    notes = []
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
        if found.names is not None:
            notes.append(
                f"{len(found.names)} class names are inside the file, the first {found.names[0]!r}: only "
                "their order is checked; --labels FILE names the classes"
            )
    assumed = [key for key in ("color", "resize", "interpolation") if key not in changes]
    changes.setdefault("resize", round(max(crop) / CROP_SHARE))
    changes.setdefault("interpolation", "bilinear")
    preprocess = Preprocess(**{**changes, "crop": crop, "layout": layout})
    spec = ModelSpec(plain(path.stem), sources, preprocess, labels=None, classes=None)
    show(f"{path.name}, as the file and your options say", spec, notes, assumed=assumed)
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


def spec_of_yaml(name: str, changes: Mapping[str, Any], onnx: Path | None) -> ModelSpec:
    """Return the model of the zoo, or of a YAML of the user's, which is shown.

    Args:
        name: of the model, or the path of its YAML.
        changes: what the user sets other than the YAML does.
        onnx: the user's own file of this network, instead of the YAML's sources; it may have other classes.

    Raises:
        UsageError: no such model, or the YAML breaks the schema.
    """
    found = read_model(name)
    spec = evolve(found.spec, preprocess=evolve(found.spec.preprocess, **changes))
    if onnx is not None:
        spec = evolve(spec, sources=Sources(onnx=str(onnx)), labels=None, classes=None)
    if not found.shipped:
        assumed = [key for key in found.assumed if key not in changes]
        show(f"{spec.name}, as {found.path} and your options say", spec, assumed=assumed)
    return spec


def show(
    title: str,
    spec: ModelSpec,
    notes: Sequence[str] = (),
    *,
    assumed: Sequence[str] = (),
    of_zoo: bool = False,
) -> None:
    """Print how a network sees pictures, for the user to check, on stderr.

    Args:
        title: what it is, and who says so.
        spec: the model.
        notes: what else the user should know.
        assumed: keys of its preprocessing that nobody stated; they are marked.
        of_zoo: whether it is meant to be the zoo's model of its name.
    """
    pre = spec.preprocess

    def text(key: str, value: str) -> str:
        return f"{value} (assumed)" if key in assumed else value

    size = "x".join(map(str, pre.crop))
    enlarged = text("interpolation", pre.interpolation)
    how = (
        f"{text('resize', f'stretched to {size}')}, {enlarged}"
        if pre.resize is None
        else f"{text('resize', f'shorter side to {pre.resize}')}, {enlarged}, centre crop {size}"
    )
    order = {"imagenet": "in ImageNet's order", None: "named by --labels FILE, or not at all"}.get(
        spec.labels, f"named by {spec.labels}"
    )
    classes = str(spec.classes or "as the file has them")
    mean, std = (
        text(key, " ".join(f"{value:g}" for value in values))
        for key, values in (("mean", pre.mean), ("std", pre.std))
    )
    rows = (
        ("input", f"{text('crop', size)}, {text('layout', pre.layout)}, {text('color', pre.color.upper())}"),
        ("picture", how),
        ("values", f"(x - mean) / std of 0..255, mean {mean}, std {std}"),
        ("classes", f"{text('classes', classes)}, {text('labels', order)}"),
    )
    click.echo(f"{title}; check it:", err=True)
    for name, row in rows:
        click.echo(f"  {name:<8} {row}", err=True)
    for note in notes:
        click.echo(f"! {note}", err=True)
    if is_shipped(spec.name) and not of_zoo:
        click.echo(
            f"! the zoo has a {spec.name}, too: both build into one folder, and reports compare with the "
            "zoo's published figures; another name keeps them apart",
            err=True,
        )
    # An ONNX has one size.
    crop = "" if spec.sources.onnx else "--crop "
    click.echo(f"  change   {crop}--color --resize --interpolation --mean --std --labels", err=True)


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
