"""The whole network after each step of the build, and with its input made in other ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from attrs import evolve, frozen
from onnx import numpy_helper

from edge.diagnose.findings import InputCheck
from edge.folder.built import Built
from edge.images.frames import Frame, spread
from edge.images.preprocess import Image, resize_crop, rgb_to_nv12, yuv444_to_rgb_float
from edge.measure.networks import FloatNet, Outputs, floats_order
from edge.measure.objective import Answers, Judged, Objective, step_effect
from edge.measure.scores import StepEffect
from edge.progress import Reporter
from edge.runtime import Net
from edge.specs import Preprocess
from edge.specs.schema import FILL, Color

SWAPPED = "swapped channels"
VIDEO_NV12 = "video-range NV12"
VIDEO_IMAGES = "images expanded from video range"
RAW = "no mean and std, 0..255"
UNIT = "no mean and std, 0..1"
IMAGENET = "ImageNet's mean and std"
SYMMETRIC = "scaled to -1..1"
CORNER, CENTER, STRETCHED = "letterboxed in the corner", "letterboxed in the center", "stretched"
LETTERBOXES = (CORNER, CENTER, STRETCHED)

_ONES, _ZEROS = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)


@frozen(eq=False)
class InputVariant:
    """Another way to make the input."""

    name: str  #: as reports show it.
    preprocess: Preprocess  #: of the network in place of the build's.
    image: Callable[[Image], Image] | None = None  #: applied to the image first; None for nothing.
    options: tuple[tuple[str, str], ...] = ()  #: options of ``edge build`` that have this effect.


@frozen(eq=False)
class TriedInput:
    """A change of the float network's input, and its result."""

    check: InputCheck  #: the figures.
    change: InputVariant  #: the change.
    #: share of the images with the most frequent answer as built, 0..1; 0 of a detector.
    usual_before: float
    usual: float  #: the same with the change.


def changes(rule: Preprocess, *, whole: bool = False) -> tuple[InputVariant, ...]:
    """Return the variants to try on the float network, without the one that equals the build's own input.

    Args:
        whole: also the other ways to show a whole image.
    """
    other: Color = "rgb" if rule.color == "bgr" else "bgr"
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    if rule.color == "bgr":
        mean, std = mean[::-1], std[::-1]
    normalised = {
        RAW: (_ZEROS, _ONES, "0", "1"),
        UNIT: (_ZEROS, (255.0,) * 3, "0", "255"),
        IMAGENET: (mean, std, _joined(mean), _joined(std)),
        SYMMETRIC: ((127.5,) * 3, (127.5,) * 3, "127.5", "127.5"),
    }
    found = [
        InputVariant(SWAPPED, evolve(rule, color=other), None, (("--color", other),)),
        *(
            InputVariant(name, evolve(rule, mean=less, std=over), None, (("--mean", minus), ("--std", by)))
            for name, (less, over, minus, by) in normalised.items()
        ),
        InputVariant(VIDEO_IMAGES, rule, expanded),
    ]
    if whole:
        corner = evolve(rule, letterbox="corner", resize=None)
        center = evolve(rule, letterbox="center", resize=None)
        stretched = evolve(rule, letterbox=None, fill=FILL, resize=None)
        found += [
            InputVariant(CORNER, corner, None, (("--letterbox", "corner"),)),
            InputVariant(CENTER, center, None, (("--letterbox", "center"),)),
            InputVariant(STRETCHED, stretched, None, (("--resize", "stretch"),)),
        ]
    return tuple(change for change in found if change.preprocess != rule or change.image is not None)


def expanded(rgb: Image) -> Image:
    """Return an image with 16..235 expanded to 0..255, as its decoder should have done."""
    values = (rgb.astype(np.float32) - 16) * np.float32(255 / 219)
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def video_nv12(rgb: Image) -> Image:
    """Encode as BT.601 NV12 of video range (Y 16..235), as OpenCV's I420 and many cameras do.

    It uses the compiler's constants for ``bt601_video``: three decimals, chroma of the top-left pixel of each 2x2.
    """
    height, width = rgb.shape[:2]
    red, green, blue = (rgb[..., c].astype(np.float64) for c in range(3))
    luma = 0.257 * red + 0.504 * green + 0.098 * blue + 16
    red, green, blue = (plane[::2, ::2] for plane in (red, green, blue))
    chroma = np.stack(
        [-0.148 * red - 0.291 * green + 0.439 * blue + 128, 0.439 * red - 0.368 * green - 0.071 * blue + 128], axis=-1
    )
    flat = np.empty(height * width * 3 // 2, np.uint8)
    flat[: height * width] = np.rint(luma).astype(np.uint8).ravel()
    flat[height * width :] = np.rint(chroma).astype(np.uint8).ravel()
    return flat


def check_float(
    net: FloatNet, frames: Sequence[Frame], as_built: Answers, objective: Objective
) -> tuple[TriedInput, ...]:
    """Run the float network on every variant of its input; ``as_built`` are its answers to the build's own."""
    tried = changes(net.preprocess, whole=objective.boxes)

    def one(frame: Frame) -> list[Answers]:
        rows = []
        for change in tried:
            rgb = change.image(frame.rgb) if change.image else frame.rgb
            if change.name in LETTERBOXES and frame.item is not None:
                rgb = resize_crop(frame.item.load(), change.preprocess)
            rows.append(objective.answer(net.outputs(rgb, change.preprocess), frame, change.preprocess))
        return rows

    rows = spread(one, frames)
    found = []
    for i, change in enumerate(tried):
        answers = np.stack([row[i] for row in rows])
        check = _check(change.name, "float", objective.judged(answers, as_built))
        found.append(TriedInput(check, change, objective.usual(as_built), objective.usual(answers)))
    return tuple(found)


def check_program(
    program: Callable[[Image], Outputs],
    frames: Sequence[Frame],
    reference: Answers,
    as_built: Answers,
    objective: Objective,
) -> tuple[InputCheck, ...]:
    """Run the program with swapped channels and with NV12 of the other range.

    Args:
        program: NV12 to outputs.
        reference: the float network's answers, which are the right ones where there are no labels.
        as_built: with the NV12 that edge makes.
    """
    made: tuple[tuple[str, Callable[[Image], Image]], ...] = (
        (SWAPPED, lambda rgb: rgb_to_nv12(np.ascontiguousarray(rgb[..., ::-1]))),
        (VIDEO_NV12, video_nv12),
    )

    def one(frame: Frame) -> list[Answers]:
        return [objective.answer(program(make(frame.rgb)), frame) for _, make in made]

    rows = spread(one, frames)
    return tuple(
        _check(name, "program", objective.judged(np.stack([row[i] for row in rows]), as_built, reference))
        for i, (name, _) in enumerate(made)
    )


def _check(change: str, target: str, judged: Judged) -> InputCheck:
    return InputCheck(change, target, judged.value, judged.as_built, judged.measure, judged.better)


def _joined(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def own_normalisation(model: onnx.ModelProto) -> str:
    """Return in a few words how a network itself normalises its input at its beginning; '' if it does not.

    These operators count: Sub, Add, Mul or Div by one value or three, and BatchNormalization of three channels, before
    the first operator of another kind.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    constants[node.output[0]] = numpy_helper.to_array(attribute.t)
    name = next(value.name for value in model.graph.input if value.name not in constants)
    found: list[str] = []
    while True:
        readers = [node for node in model.graph.node if name in node.input]
        if len(readers) != 1:
            break
        node = readers[0]
        if node.op_type in ("Cast", "Identity", "Transpose"):
            name = node.output[0]
            continue
        others = [constants[i] for i in node.input if i != name and i in constants]
        small = len(node.input) == 2 and len(others) == 1 and others[0].size in (1, 3)
        if node.op_type in ("Sub", "Add", "Mul", "Div") and small:
            values = ", ".join(f"{value:.4g}" for value in np.ravel(others[0]))
            found.append(f"{node.op_type} {values}")
        elif node.op_type == "BatchNormalization" and others and others[0].size == 3:
            found.append("BatchNormalization of 3 channels")
        else:
            break
        name = node.output[0]
    return ", then ".join(found)


@frozen(eq=False)
class Steps:
    """Answers of the whole networks, (n, width) each."""

    float_rgb: Answers  #: the float network as the user feeds it.
    float_nv12: Answers  #: the same behind NV12.
    simplified: Answers  #: the simplified network behind NV12.
    program: Answers | None  #: the program; None if it can't run here.
    steps: tuple[StepEffect, ...]  #: each compared with the one before.
    checks: tuple[TriedInput, ...]  #: of the float network's input.
    program_checks: tuple[InputCheck, ...]  #: of the program's.


def measure_steps(
    built: Built, frames: Sequence[Frame], objective: Objective, program: Net | None, reporter: Reporter
) -> Steps:
    """Run the whole networks; ``program`` is None if it can't run here."""
    rule = built.metadata.preprocess

    def answers(run: Callable[[Image], Outputs]) -> Answers:
        return np.stack(spread(lambda frame: objective.answer(run(frame.rgb), frame), frames))

    net = FloatNet(built.file("float_onnx"), rule)
    reporter.update("float network", 0.02)
    rgb, behind = answers(net.outputs), answers(net.outputs_through_nv12)
    simplified = answers(FloatNet(built.file("bpu_onnx"), rule).outputs_through_nv12)
    reporter.update("input made in other ways", 0.05)
    checks = check_float(net, frames, rgb, objective)
    steps = [
        step_effect(objective, "NV12", "the float network behind NV12, against RGB", rgb, behind),
        step_effect(objective, "simplify", "the simplified ONNX against the float one", behind, simplified),
    ]
    integers: Answers | None = None
    program_checks: tuple[InputCheck, ...] = ()
    if program is not None:
        reporter.update("program", 0.12)
        run = floats_order(built.metadata.outputs, [tensor.name for tensor in program.info.outputs], program.run)
        integers = answers(lambda image: run(rgb_to_nv12(image)))
        what = "the program against the float network behind NV12"
        steps.append(step_effect(objective, "end to end", what, behind, integers))
        program_checks = check_program(run, frames, behind, integers, objective)
    return Steps(rgb, behind, simplified, integers, tuple(steps), checks, program_checks)


def clipped(frames: Sequence[Frame]) -> float:
    """Return the share of pixels' channels that leave 0..255 behind NV12 by more than rounding."""
    out = total = 0
    for frame in frames:
        rgb = yuv444_to_rgb_float(frame.yuv444)
        out += int(np.count_nonzero((rgb < -0.5) | (rgb > 255.5)))
        total += rgb.size
    return out / total


def pixel_range(frames: Sequence[Frame]) -> tuple[float, float]:
    """Return the 0.1 % and 99.9 % quantiles of all pixels, 0..255."""
    counts = np.zeros(256, np.int64)
    for frame in frames:
        counts += np.bincount(frame.rgb.ravel(), minlength=256)
    below = np.cumsum(counts) / counts.sum()
    return float(np.searchsorted(below, 0.001)), float(np.searchsorted(below, 0.999))
