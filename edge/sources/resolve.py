"""What the user's words mean: MODEL and its options become a request, and notes for the user to check."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, fields

from edge.errors import LabelError, ToolchainMissing, UsageError
from edge.files import data_dir
from edge.sources.options import Options, flag
from edge.specs import (
    ModelSpec,
    Precision,
    Preprocess,
    Sources,
    available_models,
    is_searched,
    is_shipped,
    load_model,
    load_precision,
    read_model,
)
from edge.specs.request import Request
from edge.specs.schema import CROP_SHARE, OWN_FILES, Compiler, Level

if TYPE_CHECKING:
    from edge.sources.check import ModelFacts
    from edge.sources.declared import Declared
    from edge.toolchain.found import Toolchain

VALUES = "--mean 123.675,116.28,103.53 --std 58.395,57.12,57.375"
IMAGENET = f"{VALUES} --resize 256 --crop 224"
# The model's own recipe: its file in the build folder, and the word that insists on one.
OWN_RECIPE, INSIST = "recipe.yaml", "recipe"
Notes = tuple[str, ...]


def resolve(options: Options) -> tuple[Request, Notes]:
    """Return the request that the options describe, and lines for the user to read.

    Without ``precision`` a recipe of the model's own is taken, and a note says so. timm models are described by the
    compiler's Python, which is started.

    Raises:
        UsageError: options that contradict each other or can't be read, or no recipe where one has to be.
        InputError: a file of the user's is no such model, or its class names can't be read.
        ToolchainMissing: a timm model without a compiler.
    """
    changes = options.changes()
    framework = options.paddle is not None or options.mindspore is not None
    if options.model is None and not framework:
        raise UsageError("no MODEL", expected="a MODEL, --paddle DIR or --mindspore FILE", remedy="edge models")
    if (options.network or options.source_config) and not framework:
        option = "--network" if options.network else "--source-config"
        raise UsageError(f"{option} without a model of a framework", expected="with --paddle or --mindspore")
    if framework:
        spec, notes = _of_framework(options, changes)
    else:
        spec, notes = _of_model(str(options.model), options, changes)
    if options.weights != "auto" and (spec.sources.onnx or spec.sources.torchscript):
        kind = "an ONNX" if spec.sources.onnx else "a TorchScript"
        raise UsageError(
            f"--weights {options.weights} with {kind} file", expected="one of them: the file holds its weights"
        )
    if options.labels is not None:
        # The network of a file has the classes that these name, whatever its configuration says of them.
        own = any(getattr(spec.sources, kind) for kind in OWN_FILES)
        spec = evolve(spec, labels=options.labels, classes=None if own else spec.classes)
    if options.name is not None:
        spec = evolve(spec, name=options.name)
    if options.output is not None:
        spec = evolve(spec, output=options.output)
    if options.featuremap is not None:
        spec = evolve(spec, featuremap=options.featuremap)
    if options.task is not None:
        spec = evolve(spec, task=options.task)
    if spec.task == "raw":  # its outputs are no classes
        spec = evolve(spec, labels=None, classes=None)
    _require_labels(spec)
    precision, note = _recipe(spec, options.precision, options.build_dir)
    if options.level is not None:
        precision = _at(precision, options.level)
    elif precision.evidence is not None and precision.evidence.level is None:
        # Earlier searches left their own level, O1 for a quick answer, in the recipe.
        level = precision.compiler.optimize_level
        precision = _at(precision, Compiler().optimize_level)
        if precision.compiler.optimize_level != level:
            note += (f"! the recipe's {level} is of its search and not used; --level {level} builds so",)
    request = Request(
        spec=spec,
        precision=precision,
        source=_source(options),
        replace=options.name is not None,
        weights=options.weights,
        compiler=options.compiler,
        images=options.images,
        images_count=options.count,
        label_offset=options.label_offset,
        calibration=options.calib,
        calibration_count=options.calib_count,
        seed=options.seed,
        timeout=options.timeout * 60,
        install=options.install,
        any_memory=options.any_memory,
        arguments=options.arguments,
    )
    return request, notes + note + _unused(options)


def _unused(options: Options) -> Notes:
    """Return notes on options that are given and change nothing."""
    notes: Notes = ()
    standing = fields(Options)
    quantized = [
        flag(name)
        for name in ("precision", "level", "timeout", "install", "any_memory")
        if getattr(options, name) != getattr(standing, name).default
    ]
    if options.compiler == "onnxruntime" and quantized:
        notes += (f"! onnxruntime quantizes to plain int8 and does not use {', '.join(quantized)}",)
    rendered = options.images is None or options.images.partition(":")[0] == "demo"
    if options.task == "raw" and (options.labels or options.label_offset):
        notes += ("! --labels and --label-offset change nothing: raw outputs are no classes",)
    elif options.task == "detect" and (options.label_offset or options.output):
        notes += (
            "! --label-offset and --output change nothing of a detector: its head is recognised, or stands in a YAML",
        )
    elif options.label_offset and rendered and not (options.images and Path(options.images).exists()):
        notes += ("! --label-offset changes nothing: the demo's images keep their labels",)
    return notes


def _source(options: Options) -> str:
    """Return what tells this model from another of the same name: where its file lies, or the name itself."""
    path = options.paddle or options.mindspore or Path(str(options.model))
    return str(path.resolve()) if path.is_file() or path == options.paddle else str(options.model).lower()


def _of_model(model: str, options: Options, changes: dict[str, Any]) -> tuple[ModelSpec, Notes]:
    """Return the spec of what MODEL names, and what to show of it."""
    from edge.sources.framework_files import SUFFIXES
    from edge.sources.timm_spec import TIMM

    outside = model.startswith(TIMM) or Path(model).suffix.lower() in (".onnx", *SUFFIXES)
    if outside and options.onnx is not None:
        raise UsageError(f"both {model} and --onnx {options.onnx} are given", expected="one of them")
    if model.startswith(TIMM):
        return _of_timm(model.removeprefix(TIMM), options, changes)
    if outside:
        return _of_file(Path(model), options, changes)
    if model.lower() not in map(str.lower, available_models()):
        _refuse_framework_path(model)
    return _of_yaml(model, options.onnx, changes)


# How the trainers of a family show images to their networks: YOLOX's ``preproc``; ultralytics' ``LetterBox``.
_TRAINED: Mapping[str, Mapping[str, Any]] = {
    "yolox": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "color": "bgr", "resize": None, "letterbox": "corner"},
    "dfl": {
        "mean": (0.0, 0.0, 0.0),
        "std": (255.0, 255.0, 255.0),
        "color": "rgb",
        "resize": None,
        "letterbox": "center",
    },
}


def _of_file(path: Path, options: Options, changes: dict[str, Any]) -> tuple[ModelSpec, Notes]:
    """Return the spec of the user's ONNX or TorchScript; what neither file tells has to be given."""
    from edge.sources.declared import NEEDED, plain, require_stated
    from edge.sources.framework_files import SUFFIXES, require_torchscript

    script = path.suffix.lower() in SUFFIXES
    conventions: list[str] = []
    if script:
        require_torchscript(path)
    else:
        from edge.sources.check import inspect_onnx

        found = inspect_onnx(path, options.output, changes.get("crop"), options.task or "classify", options.featuremap)
        if found.detector is not None:
            usual_of = _TRAINED.get(found.detector.family, _TRAINED["dfl"])
            conventions = [key for key in usual_of if key not in changes]
            changes = {**usual_of, **changes}
        if found.takes_bytes:
            changes = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), **changes}
        if found.inputs and not any(one.image for one in found.inputs):
            return _of_arrays(path, options, found)
    # Asked for once, after a look at whether the file is there and what it is.
    require_stated(
        changes,
        NEEDED if script else NEEDED[:2],
        f"{path.name}: how the network was trained to see images is not in the file",
        f"edge build {path} {IMAGENET if script else VALUES}   (these are ImageNet's; use those of your training)",
    )
    notes = []
    if script:
        crop, layout, sources = changes["crop"], "NCHW", Sources(torchscript=str(path))
    else:
        crop, layout, sources = found.crop, found.layout, Sources(onnx=str(path))
        if changes.get("crop", crop) != crop:
            height, width = changes["crop"]
            raise UsageError(
                f"--crop {height}x{width}, but {path.name} takes {crop[0]}x{crop[1]}",
                remedy="leave --crop out, or export the network at that size",
            )
        if found.names is not None and not options.labels:
            use = "only their order is checked" if found.detector is None else "boxes carry them"
            notes.append(
                f"{len(found.names)} class names are inside the file, the first {found.names[0]!r}: {use}; "
                "--labels FILE names the classes"
            )
    assumed = [key for key in ("color", "resize", "interpolation") if key not in changes] + conventions
    usual = {"resize": round(max(crop) / CROP_SHARE), "interpolation": "bilinear"}
    preprocess = Preprocess(**{**usual, **changes, "crop": crop, "layout": layout})
    spec = ModelSpec(
        plain(path.stem), sources, preprocess, labels=options.labels, classes=None, task=options.task or "classify"
    )
    return spec, described(f"{path.name}, as the file and your options say", spec, notes, assumed=assumed)


def _of_arrays(path: Path, options: Options, found: ModelFacts) -> tuple[ModelSpec, Notes]:
    """Return the spec of the user's ONNX that takes arrays of numbers, and no image."""
    from edge.sources.declared import plain

    listed = ", ".join(f"{one.name} {'x'.join(map(str, one.shape))}" for one in found.inputs)
    spec = ModelSpec(
        plain(path.stem), Sources(onnx=str(path)), labels=None, classes=None, task="raw", featuremap=options.featuremap
    )
    return spec, (
        f"{path.name}, as the file and your options say; check it:",
        f"  inputs   {listed}: float32 as they are, no camera images",
        f"  outputs  {options.output or 'as the file has them'}, compared as numbers",
    )


def _of_timm(name: str, options: Options, changes: Mapping[str, Any]) -> tuple[ModelSpec, Notes]:
    """Return a spec with timm's own configuration of a model, such as ``resnet18.a1_in1k``."""
    from edge.sources.timm_spec import TIMM, describe_timm

    if options.weights not in ("auto", "timm", "random"):
        raise UsageError(f"--weights {options.weights} with {TIMM}{name}", expected="auto, timm, random")
    found = describe_timm(name, _exporter(options), changes)
    if not found.has_weights and options.weights != "random":
        raise UsageError(
            f"timm has no trained weights of {found.tag}",
            remedy=f"edge build {TIMM}{name} --weights random   (speed only, no Top-1)",
        )
    title = f"{TIMM}{found.tag}, as timm {found.timm} describes it"
    return found.spec, described(title, found.spec, found.notes)


def _exporter(options: Options) -> Toolchain:
    from edge.toolchain.find import find
    from edge.toolchain.install import install, require_platform

    try:
        return find("auto" if options.compiler == "onnxruntime" else options.compiler)
    except ToolchainMissing as missing:
        if options.install and options.compiler in ("auto", "managed"):
            require_platform()
            return install()
        raise ToolchainMissing(
            f"timm models are described and exported by the compiler's Python: {missing.seen}",
            expected=missing.expected,
            remedy=missing.remedy,
        ) from missing


def _of_yaml(name: str, onnx: Path | None, changes: Mapping[str, Any]) -> tuple[ModelSpec, Notes]:
    """Return the model of the zoo, or of a YAML of the user's, which is shown.

    ``onnx`` is the user's own file of this network, instead of the YAML's sources; it may have other classes.
    """
    found = read_model(name)
    spec = evolve(found.spec, preprocess=evolve(found.spec.preprocess, **changes))
    if onnx is not None:
        spec = evolve(spec, sources=Sources(onnx=str(onnx)), labels=None, classes=None)
    if found.shipped:
        return spec, ()
    assumed = [key for key in found.assumed if key not in changes]
    return spec, described(f"{spec.name}, as {found.path} and your options say", spec, assumed=assumed)


def _of_framework(options: Options, changes: Mapping[str, Any]) -> tuple[ModelSpec, Notes]:
    """Return the spec of a PaddlePaddle or MindSpore model.

    MODEL is the zoo's name of it, if it is one; its preprocessing is taken where the source states none.
    """
    from edge.sources.declared import spec_of

    paddle = options.paddle is not None
    option, path = ("--paddle", options.paddle) if paddle else ("--mindspore", options.mindspore)
    assert path is not None  # noqa: S101 - the caller's condition
    if paddle and options.mindspore is not None:
        raise UsageError("both --paddle and --mindspore are given", expected="one of them")
    if options.onnx is not None or options.weights != "auto":
        other = f"--onnx {options.onnx}" if options.onnx is not None else f"--weights {options.weights}"
        raise UsageError(f"{other} with {option}", expected="one of them: the model holds its weights")
    base = load_model(options.model) if options.model is not None else None
    read, otherwise = (
        (_paddle, "--source-config with PaddleClas's YAML")
        if paddle
        else (_mindspore, "--network with mindcv's name of it")
    )
    declared, sources, name = read(path, options.network, options.source_config)
    spec, notes = spec_of(
        declared,
        sources,
        changes,
        name=name,
        base=base,
        example=f"edge build {option} {path} {IMAGENET}   (these are ImageNet's; use those of your "
        f"training), or {otherwise}",
    )
    by = [name for name in (declared.origin, f"the zoo's {base.name}" if base else "") if name]
    describe = "describe" if len(by) > 1 else "describes"
    title = f"{path}, as {' and '.join(by)} {describe} it" if by else f"{path}, as you describe it"
    known = {**declared.values, **changes}
    assumed = [] if base else [item.name for item in fields(Preprocess) if item.name not in known]
    return spec, described(title, spec, notes, assumed=assumed, of_zoo=base is not None)


def _paddle(folder: Path, network: str | None, config: Path | None) -> tuple[Declared, Sources, str]:
    """Return what the model's configuration says, its sources, and its name."""
    from edge.sources.declared import Declared
    from edge.sources.framework_files import paddle_files
    from edge.sources.paddleclas import find_config, read_config

    if network is not None:
        raise UsageError("--network with --paddle", expected="--network names a network of mindcv's")
    graph = paddle_files(folder).main
    own = config or find_config(graph.parent)
    declared = read_config(own) if own else Declared()
    usual = graph.stem in ("inference", "model")
    name = declared.model or (graph.parent.resolve().name if usual else graph.stem)
    return declared, Sources(paddle=str(folder)), name


def _mindspore(path: Path, network: str | None, config: Path | None) -> tuple[Declared, Sources, str]:
    """Return what mindcv or its configuration says, the model's sources, and its name."""
    from edge.sources import mindcv
    from edge.sources.declared import Declared
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
    return declared, Sources(mindspore=str(path), network=network), network or path.stem


def _refuse_framework_path(text: str) -> None:
    """Fail where MODEL is a model of PaddlePaddle's or MindSpore's, which an option names."""
    path = Path(text)
    suffix = path.suffix.lower()
    if (path / "saved_model.pb").is_file():
        raise UsageError(
            f"MODEL {text} is a SavedModel of TensorFlow",
            expected="an ONNX file",
            remedy=f"pip install tf2onnx, python -m tf2onnx.convert --opset 11 --saved-model {text} --output net.onnx",
        )
    if suffix in (".mindir", ".ckpt"):
        option, kind = "--mindspore", "a file of MindSpore's"
        network = " --network NAME" if suffix == ".ckpt" else ""
    elif path.is_dir() or suffix in (".pdmodel", ".pdiparams") or path.with_suffix(".pdiparams").is_file():
        option, kind, network = "--paddle", "a folder" if path.is_dir() else "a file of PaddlePaddle's", ""
    else:
        return
    raise UsageError(
        f"MODEL {text} is {kind}",
        expected="a name that edge models lists, a path ending in .onnx or .yaml, or a framework's model after "
        "its option",
        remedy=f"{option} {text}{network}   instead of MODEL",
    )


def described(
    title: str, spec: ModelSpec, notes: Sequence[str] = (), *, assumed: Sequence[str] = (), of_zoo: bool = False
) -> Notes:
    """Return how a network sees images, in lines for the user to check.

    Args:
        assumed: keys of its preprocessing that nobody stated; they are marked.
        of_zoo: whether it is meant to be the zoo's model of its name.
    """
    pre = spec.preprocess

    def text(key: str, value: str) -> str:
        return f"{value} (assumed)" if key in assumed else value

    size = "x".join(map(str, pre.crop))
    enlarged = text("interpolation", pre.interpolation)
    if pre.letterbox is not None:
        how = f"{text('letterbox', pre.fitted(size))}, {enlarged}"
    elif pre.resize is None:
        how = f"{text('resize', f'stretched to {size}')}, {enlarged}"
    else:
        how = f"{text('resize', f'shorter side to {pre.resize}')}, {enlarged}, centre crop {size}"
    order = {"imagenet": "in ImageNet's order", None: "named by --labels FILE, or not at all"}.get(
        spec.labels, f"named by {spec.labels}"
    )
    classes = str(spec.classes or "as the file has them")
    mean, std = (
        text(key, " ".join(f"{value:g}" for value in values)) for key, values in (("mean", pre.mean), ("std", pre.std))
    )
    meaning = f"  classes  {text('classes', classes)}, {text('labels', order)}"
    if spec.task == "detect":
        meaning = f"  boxes    of the head, cut off and decoded after the program; classes {order}"
    if spec.task == "raw":
        meaning = f"  outputs  {spec.output or 'as the file has them'}, compared as numbers"
    lines = [
        f"{title}; check it:",
        f"  input    {text('crop', size)}, {text('layout', pre.layout)}, {text('color', pre.color.upper())}",
        f"  image    {how}",
        f"  values   (x - mean) / std of 0..255, mean {mean}, std {std}",
        meaning,
        *(f"! {note}" for note in notes),
    ]
    if is_shipped(spec.name) and not of_zoo:
        lines.append(
            f"! the zoo has a {spec.name}, too: reports compare with its published figures; --name keeps them apart"
        )
    crop = "" if spec.sources.onnx else "--crop "  # an ONNX has one size
    change = f"  change   {crop}--color --resize --letterbox --interpolation --mean --std"
    return *lines, change + (" --labels" if spec.task != "raw" else "; --featuremap all if it takes no camera image")


def _require_labels(spec: ModelSpec) -> None:
    """Fail now, not after the compile, where the class names can't be read; the export counts them."""
    from edge.images import class_names

    try:
        class_names(spec.labels)
    except LabelError as error:
        raise LabelError(
            f"the class names of {spec.name}: {error.seen}",
            expected=error.expected or "a text file with a class name a line",
            remedy=error.remedy or "--labels FILE, or labels: in the model's YAML, relative to it",
        ) from error


def _at(precision: Precision, level: Level) -> Precision:
    return evolve(precision, compiler=evolve(precision.compiler, optimize_level=level))


def _recipe(spec: ModelSpec, wish: str | None, build_dir: Path | None) -> tuple[Precision, Notes]:
    if wish not in (None, INSIST):
        return load_precision(wish), ()
    shared = data_dir("mapper_yaml") / "precision" / f"{spec.name}.yaml"
    own = [] if build_dir is None else [build_dir / spec.name / OWN_RECIPE]
    # A shared recipe may happen to have the model's name: convnext, for one's own convnext.onnx.
    path = shared if is_searched(shared) else next((place for place in own if place.is_file()), None)
    if path is None and wish == INSIST:
        raise UsageError(
            f"{spec.name} has no recipe of its own",
            expected="a file at " + " or ".join(os.path.relpath(place) for place in (shared, *own)),
            remedy=f"edge tune {spec.name}   searches one",
        )
    if path is None:
        return load_precision(spec.precision), ()
    shown = os.path.relpath(path)
    note = f"precision recipe {shown}, the model's own; --precision {spec.precision} builds without it"
    return load_precision(str(path)), (note,) if wish is None else ()
