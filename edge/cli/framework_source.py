"""A spec from ``--paddle DIR`` or ``--mindspore FILE``; what its own configuration says is shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import fields

from edge.cli.source import CROP_SHARE, show
from edge.errors import UsageError
from edge.specs import ModelSpec, Preprocess, Sources, load_model

if TYPE_CHECKING:
    from edge.export.declared import Declared

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
    from edge.export.declared import Declared, spec_of
    from edge.export.framework_files import paddle_files
    from edge.export.paddleclas import find_config, read_config

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
    from edge.export import mindcv
    from edge.export.declared import Declared, spec_of
    from edge.export.framework_files import mindspore_file

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
