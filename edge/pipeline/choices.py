"""Decide what a request leaves open: the compiler, the calibration set, the images to measure on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

from edge.errors import InputError, SpecError, ToolchainMissing, UsageError
from edge.folder.built import Built
from edge.images import ImageSet, class_names, open_images, sample
from edge.images.annotations import open_boxes
from edge.images.calibrate import CalibrationSet, load_set
from edge.images.samples import holds_samples, open_samples, require_samples
from edge.progress import SILENT, Listener
from edge.specs.request import Request
from edge.specs.schema import Input, Task
from edge.toolchain import managed
from edge.toolchain.find import find
from edge.toolchain.found import Toolchain
from edge.toolchain.install import install, require_platform
from edge.toolchain.managed import COMPILER, FRAMEWORKS, Environment

DEMO_CALIBRATION = "demo"  # calibration/demo.yaml
DEMO_TEST = "demo:test"


def choose_compiler(request: Request, listener: Listener) -> Toolchain | None:
    """Return the compiler; None if onnxruntime must quantize instead.

    Raises:
        ToolchainMissing: none is installed, but there is one for this platform.
    """
    wish = request.compiler
    if wish == "onnxruntime":
        return None
    try:
        return find(wish)
    except ToolchainMissing as missing:
        try:
            require_platform()
        except ToolchainMissing as unsupported:
            if wish != "auto":
                raise missing from None
            listener.warn(
                f"NO COMPILER: {unsupported.seen}. Going on with --compiler onnxruntime: onnxruntime quantizes "
                "instead of the vendor's compiler, no .bin is made, accuracy is an estimate"
            )
            return None
        if request.install and wish in ("auto", "managed"):
            return _install(listener)
        raise


def choose_framework(name: str, request: Request, listener: Listener) -> Toolchain:
    """Return the managed environment of a framework; install it first if the user asked for that.

    Raises:
        ToolchainMissing: it is not installed, or not available for this platform.
        InstallError: it could not be installed.
    """
    environment = FRAMEWORKS[name]
    where = managed.place(environment)
    why = managed.why_unusable(where)
    if not why:
        return managed.toolchain(where)
    require_platform(environment)
    if not request.install:
        raise ToolchainMissing(
            f"{environment.title} must export this model, but its environment can't be used: {why}",
            remedy=f"{environment.install} ({environment.size}), or the same command with --install",
        )
    return _install(listener, environment)


def choose_calibration(request: Request) -> CalibrationSet:
    """Return the user's set, a set of ``calibration/`` by name, or the demo's.

    Raises:
        UsageError: it is neither a source of images nor a set.
    """
    source = request.calibration
    if source is None:
        # The default set by name, even if a folder with this name exists here.
        found = load_set(DEMO_CALIBRATION)
    elif Path(source).exists() and Path(source).suffix not in (".yaml", ".yml"):
        found = CalibrationSet(Path(source).name, source, seed=request.seed)
    elif ":" in source:
        found = CalibrationSet(source.replace(":", "_"), source, seed=request.seed)
    else:
        try:
            found = load_set(source)
        except SpecError as error:
            raise UsageError(
                f"--calib {source}: {error.seen}",
                expected="a folder of images, a list file, or a set: " + (error.expected or ""),
                remedy=error.remedy,
            ) from error
    return evolve(found, n=request.calibration_count or found.n)


def choose_samples(request: Request, inputs: Sequence[Input], tell: Callable[[str], None]) -> ImageSet:
    """Return the samples to measure a network on that takes more than one camera image, or something else.

    Raises:
        InputError: the source holds none.
    """
    source = request.images
    if source is None:
        source = calibration_samples(request, inputs)
        tell(f"no --images: it is measured on the calibration samples, {source}")
    require_samples(source, inputs)
    found = open_samples(source)
    return sample(found, request.images_count, request.seed) if request.images_count else found


def calibration_samples(request: Request, inputs: Sequence[Input]) -> str:
    """Return the source of the samples to calibrate on; there are none to take by default.

    Raises:
        InputError: none is given, or it holds no samples.
    """
    if request.calibration is None:
        listed = ", ".join(one.name for one in inputs)
        raise InputError(
            f"no --calib, and no demo image fits the inputs {listed}",
            expected="a folder of .npz files, one a sample, with an array an input",
            remedy="--calib DIR",
        )
    require_samples(request.calibration, inputs)
    return request.calibration


def require_readable_sets(request: Request, calibration: CalibrationSet) -> None:
    """Fail before minutes of work where a set of images or samples is not there or holds none."""
    for source in (request.images, calibration.images):
        if source is None or holds_samples(source):
            continue
        if request.spec.task == "detect" and source == request.images:
            open_boxes(source)
        else:
            open_images(source)


def choose_images(
    request: Request, source: str, classes: int, names: Sequence[str], tell: Callable[[str], None]
) -> tuple[ImageSet, str]:
    """Return the images to measure on, and why there is no Top-1 or AP; see :func:`image_set`."""
    labels = "demo" if source == "demo" else request.spec.labels
    return image_set(
        request.images,
        labels,
        source,
        classes,
        task=request.spec.task,
        count=request.images_count,
        seed=request.seed,
        label_offset=request.label_offset,
        names=names,
        tell=tell,
    )


def image_set(
    images: str | None,
    labels: str | None,
    source: str,
    classes: int,
    *,
    count: int,
    seed: int,
    label_offset: int = 0,
    task: Task = "classify",
    inputs: Sequence[Input] = (),
    names: Sequence[str] = (),
    tell: Callable[[str], None] = SILENT.warn,
) -> tuple[ImageSet, str]:
    """Return the images to measure a network on, and why there is no Top-1 or AP; empty if there is.

    Args:
        images: a source of images; None takes the demo's.
        labels: the source of the class names, as for :func:`edge.images.class_names`.
        source: of the weights, such as ``timm``, ``demo`` or ``random``.
        count: at most so many images; 0 takes all.
        seed: of the choice; rendered images are taken from the first on.
        label_offset: added to every label of files.
        task: what the outputs mean; labels of images are nothing to raw outputs.
        inputs: of a network that takes more than one camera image, or something else: then samples are opened.
        names: of a detector's classes, where ``labels`` gives none; empty if unknown.
        tell: told what was corrected in the labels of a detection set, or left out.
    """
    if inputs:
        require_samples(str(images), inputs)
        taken = open_samples(str(images))
        return sample(taken, count, seed=seed) if count else taken, "raw outputs have no labels"
    rendered = images is None or (images.partition(":")[0] == "demo" and not Path(images).exists())
    if rendered:
        found = open_images(images or DEMO_TEST, count=count or None)
    elif task == "detect":
        found = boxes = open_boxes(str(images), classes=class_names(labels, classes) or names or classes)
        for doubt in boxes.doubts:
            tell(doubt)
    elif task == "raw":
        found = open_images(str(images))
    else:
        found = open_images(str(images), classes=class_names(labels, classes) or classes, label_offset=label_offset)
    if count and not rendered:
        found = sample(found, count, seed=seed)
    if task == "detect":
        return found, "the demo's images show no labelled objects" if rendered else found.unlabelled
    if task == "raw":
        return found, "raw outputs have no labels"
    if source == "random":
        return found, "random weights have no Top-1"
    if images is None and source != "demo":
        return found, "no labelled images given (--images DIR)"
    if rendered and classes != len(class_names("demo") or ()):
        return found, "the labels of the demo's images are not this network's classes"
    return found, found.unlabelled


def images_of_build(
    built: Built, own: str | None, labels: str | None, label_offset: int
) -> tuple[ImageSet, str] | None:
    """Return the user's images that a build was measured on, and why there is no Top-1.

    None if they are not known, are gone, or are no longer the same: names, labels and contents.

    Args:
        own: the source of the build's class names, as for :func:`edge.images.class_names`.
        labels: the source of the class names to use.
        label_offset: added to every label; 0 takes the build's own.
    """
    accuracy, about = built.manifest.get("accuracy", {}), built.metadata
    known = accuracy.get("source")
    if not known:
        return None
    chosen: dict[str, Any] = {key: int(known[key]) for key in ("count", "seed", "label_offset")}
    chosen |= {"task": about.task, "inputs": about.inputs}
    try:
        place = os.path.relpath((built.folder / str(known["images"])).resolve())
        found, unlabelled = image_set(place, own, about.weights, about.classes, **chosen)
    except (InputError, UsageError):
        return None
    if found.fingerprint != accuracy["dataset_sha256"]:
        return None
    if labels == own and not label_offset:
        return found, unlabelled
    chosen["label_offset"] = label_offset or chosen["label_offset"]
    return image_set(place, labels, about.weights, about.classes, **chosen)


def _install(listener: Listener, environment: Environment = COMPILER) -> Toolchain:
    listener.begin("toolchain")
    started = time.monotonic()
    toolchain = install(environment, reporter=listener)
    shown = ("hb_mapper",) if environment is COMPILER else environment.distributions
    versions = ", ".join(f"{name} {toolchain.versions.get(name, '')}" for name in shown)
    note = f"{versions}, shared by all checkouts"
    listener.end("toolchain", time.monotonic() - started, cached=False, note=note)
    return toolchain
