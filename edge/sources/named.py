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
from attrs import fields

from edge.specs import load_model

if TYPE_CHECKING:
    from edge.sources.declared import Declared


# The share of the resized picture that the centre crop keeps; the usual one for ImageNet classifiers.
CROP_SHARE = 0.875


def spec_of_file(path: Path, changes: dict[str, Any]) -> ModelSpec:
    """Derive a spec from the user's ONNX or TorchScript and show it; what neither file tells has to be given.

    Raises:
        UsageError: something is not given, or contradicts the file.
        ModelFileError: the file is no such model.
    """
    from edge.sources.declared import NEEDED, plain
    from edge.sources.framework_files import SUFFIXES, require_torchscript

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
        from edge.sources.check import inspect_onnx

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
    from edge.sources.timm_spec import PREFIX, describe_timm

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


IMAGENET = "--mean 123.675,116.28,103.53 --std 58.395,57.12,57.375 --resize 256 --crop 224"


def spec_of_framework(
    model: str | None,
    changes: Mapping[str, Any],
    *,
    paddle: Path | None,
    mindspore: Path | None,
    network: str | None,
    config: Path | None,
    onnx: Path | None,
    weights: str,
) -> ModelSpec:
    """Return the spec of a PaddlePaddle or MindSpore model and show it.

    Args:
        model: the zoo's name of it, if it is one; its preprocessing is taken where the source states none.
        changes: what the user sets: keys of ``Preprocess``.
        paddle: folder of an inference model; exactly one of this and ``mindspore``.
        mindspore: a MindIR or a checkpoint.
        network: mindcv's name of the network.
        config: the framework's own YAML, where it does not lie beside the model.
        onnx: as ``--onnx``.
        weights: as ``--weights``.

    Raises:
        UsageError: options that contradict each other, or mean, std or size are stated nowhere.
        InputError: no such model, or its configuration can't be read.
    """
    option, path = ("--paddle", paddle) if paddle is not None else ("--mindspore", mindspore)
    if paddle is not None and mindspore is not None:
        raise UsageError("both --paddle and --mindspore are given", allowed="one of them")
    if onnx is not None or weights != "auto":
        other = f"--onnx {onnx}" if onnx is not None else f"--weights {weights}"
        raise UsageError(f"{other} with {option}", allowed="one of them: the model holds its weights")
    assert path is not None  # noqa: S101 - the caller's condition
    base = None
    if model is not None:
        base = load_model(model)
    if paddle is not None:
        return _paddle(paddle, base, changes, network, config)
    return _mindspore(path, base, changes, network, config)


def _paddle(
    folder: Path, base: ModelSpec | None, changes: Mapping[str, Any], network: str | None, config: Path | None
) -> ModelSpec:
    from edge.sources.declared import Declared, spec_of
    from edge.sources.framework_files import paddle_files
    from edge.sources.paddleclas import find_config, read_config

    if network is not None:
        raise UsageError("--network with --paddle", allowed="--network names a network of mindcv's")
    files = paddle_files(folder)
    own = config or find_config(files.main.parent)
    declared = read_config(own) if own else Declared()
    place = files.main.parent.resolve()
    name = declared.model or (place.name if files.main.stem in ("inference", "model") else files.main.stem)
    spec, notes = spec_of(
        declared,
        Sources(paddle=str(folder)),
        changes,
        name=name,
        base=base,
        crop_share=CROP_SHARE,
        example=f"edge build --paddle {folder} {IMAGENET}   (these are ImageNet's; use those of your "
        "training), or --source-config with PaddleClas's YAML",
    )
    show(
        f"{folder}, {_by(declared.origin, base)}",
        spec,
        notes,
        assumed=_assumed(declared, base, changes),
        of_zoo=base is not None,
    )
    return spec


def _mindspore(
    path: Path, base: ModelSpec | None, changes: Mapping[str, Any], network: str | None, config: Path | None
) -> ModelSpec:
    from edge.sources import mindcv
    from edge.sources.declared import Declared, spec_of
    from edge.sources.framework_files import mindspore_file

    known = mindcv.of_network(network) if network is not None else None  # a misspelt name is told first
    mindspore_file(path, network)
    declared = known or Declared()
    if config is not None:
        declared = mindcv.read_config(config)
        if network is not None and declared.model not in (None, network):
            raise UsageError(
                f"--network {network}, but {config.name} is of {declared.model}",
                remedy=f"--network {declared.model}, or another --source-config",
            )
    spec, notes = spec_of(
        declared,
        Sources(mindspore=str(path), network=network),
        changes,
        name=network or path.stem,
        base=base,
        crop_share=CROP_SHARE,
        example=f"edge build --mindspore {path} {IMAGENET}   (these are ImageNet's; use those of your "
        "training), or --network with mindcv's name of it",
    )
    show(
        f"{path}, {_by(declared.origin, base)}",
        spec,
        notes,
        assumed=_assumed(declared, base, changes),
        of_zoo=base is not None,
    )
    return spec


def refuse_framework_path(text: str) -> None:
    """Fail where MODEL is a model of PaddlePaddle's or MindSpore's, which an option names.

    Raises:
        UsageError: it is one.
    """
    path = Path(text)
    suffix = path.suffix.lower()
    if suffix in (".mindir", ".ckpt"):
        option, kind = "--mindspore", "a file of MindSpore's"
        network = " --network NAME" if suffix == ".ckpt" else ""
    elif path.is_dir() or suffix in (".pdmodel", ".pdiparams") or path.with_suffix(".pdiparams").is_file():
        option, kind, network = "--paddle", "a folder" if path.is_dir() else "a file of PaddlePaddle's", ""
    else:
        return
    raise UsageError(
        f"MODEL {text} is {kind}",
        allowed="a name that edge models lists, a path ending in .onnx or .yaml, or a model of a framework "
        "behind its option",
        remedy=f"{option} {text}{network}   instead of MODEL",
    )


def _assumed(declared: Declared, base: ModelSpec | None, changes: Mapping[str, Any]) -> list[str]:
    """Return the keys of the preprocessing that nobody states."""
    if base is not None:
        return []
    return [item.name for item in fields(Preprocess) if item.name not in {**declared.values, **changes}]


def _by(origin: str, base: ModelSpec | None) -> str:
    sources = [name for name in (origin, f"the zoo's {base.name}" if base else "") if name]
    if not sources:
        return "as you describe it"
    return f"as {' and '.join(sources)} {'describe' if len(sources) > 1 else 'describes'} it"


def framework_options() -> tuple[Any, ...]:
    """Return the options that name a framework's model."""
    return (
        click.option(
            "--paddle",
            type=click.Path(path_type=Path),
            help="Folder of a PaddlePaddle inference model, instead of MODEL or as its weights.",
        ),
        click.option(
            "--mindspore",
            type=click.Path(path_type=Path),
            help="A MindIR, or a MindSpore checkpoint with --network; likewise.",
        ),
        click.option("--network", help="mindcv's name of the checkpoint's network, such as convnext_tiny."),
        click.option(
            "--source-config",
            type=click.Path(path_type=Path),
            help="PaddleClas's or mindcv's YAML that says how the network sees pictures.",
        ),
    )
