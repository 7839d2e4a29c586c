"""Hypotheses on the input: the same pictures, made into the network's input in another way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from attrs import evolve, frozen
from numpy.typing import NDArray
from onnx import numpy_helper

from edge.diagnose.findings import InputCheck
from edge.images.frames import Frame, spread
from edge.images.preprocess import Image, rgb_to_nv12
from edge.measure.networks import FloatNet
from edge.measure.scores import Scores
from edge.measure.statistics import mcnemar
from edge.specs import Preprocess
from edge.specs.schema import Color

ALPHA = 0.01  # of the exact test that calls a change better
CONFIDENCE_POINTS = 5.0  # that the mean top probability must gain, where there are no labels
ONE_ANSWER = 0.9  # share of the pictures with one answer from which on a network tells nothing
SWAPPED = "swapped channels"
VIDEO_NV12 = "video-range NV12"
VIDEO_PICTURES = "pictures expanded from video range"
RAW = "no mean and std, 0..255"
UNIT = "no mean and std, 0..1"
IMAGENET = "ImageNet's mean and std"
SYMMETRIC = "scaled to -1..1"

_ONES, _ZEROS = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)


@frozen(eq=False)
class Change:
    """Another way to make the input.

    Attributes:
        name: as reports show it.
        preprocess: of the network in place of the build's.
        picture: what happens to the picture before; None for nothing.
        options: of ``edge build`` that would make it so.
    """

    name: str
    preprocess: Preprocess
    picture: Callable[[Image], Image] | None = None
    options: tuple[tuple[str, str], ...] = ()


@frozen(eq=False)
class Tried:
    """A change of the float network's input, and what came of it.

    Attributes:
        check: the figures.
        change: what was done.
        usual_before: share of the pictures with the commonest answer as built, 0..1.
        usual: the same with the change.
    """

    check: InputCheck
    change: Change
    usual_before: float
    usual: float


def changes(rule: Preprocess) -> tuple[Change, ...]:
    """Return what is tried on the float network; what equals the build's own way is left out."""
    other: Color = "rgb" if rule.color == "bgr" else "bgr"
    imagenet = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    imagenet_here = imagenet if other == "bgr" else (imagenet[0][::-1], imagenet[1][::-1])
    half = (127.5, 127.5, 127.5)
    found = [
        Change(SWAPPED, evolve(rule, color=other), None, (("--color", other),)),
        Change(RAW, evolve(rule, mean=_ZEROS, std=_ONES), None, (("--mean", "0"), ("--std", "1"))),
        Change(UNIT, evolve(rule, mean=_ZEROS, std=(255.0,) * 3), None, (("--mean", "0"), ("--std", "255"))),
        Change(
            IMAGENET,
            evolve(rule, mean=imagenet_here[0], std=imagenet_here[1]),
            None,
            (("--mean", _joined(imagenet_here[0])), ("--std", _joined(imagenet_here[1]))),
        ),
        Change(SYMMETRIC, evolve(rule, mean=half, std=half), None, (("--mean", "127.5"), ("--std", "127.5"))),
        Change(VIDEO_PICTURES, rule, expanded),
    ]
    return tuple(change for change in found if change.preprocess != rule or change.picture is not None)


def expanded(rgb: Image) -> Image:
    """Return a picture whose 16..235 is spread over 0..255, as a decoder should have done."""
    values = (rgb.astype(np.float32) - 16) * np.float32(255 / 219)
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def video_nv12(rgb: Image) -> Image:
    """Encode as BT.601 NV12 of video range (Y 16..235), as OpenCV's I420 and many cameras do.

    The compiler's constants for ``bt601_video``: three decimals, chroma of the top-left pixel of each 2x2.
    """
    height, width = rgb.shape[:2]
    red, green, blue = (rgb[..., c].astype(np.float64) for c in range(3))
    luma = 0.257 * red + 0.504 * green + 0.098 * blue + 16
    red, green, blue = (plane[::2, ::2] for plane in (red, green, blue))
    chroma = np.stack(
        [
            -0.148 * red - 0.291 * green + 0.439 * blue + 128,
            0.439 * red - 0.368 * green - 0.071 * blue + 128,
        ],
        axis=-1,
    )
    flat = np.empty(height * width * 3 // 2, np.uint8)
    flat[: height * width] = np.rint(luma).astype(np.uint8).ravel()
    flat[height * width :] = np.rint(chroma).astype(np.uint8).ravel()
    return flat


def check_float(
    net: FloatNet, frames: Sequence[Frame], as_built: Scores, labels: NDArray[np.int64] | None
) -> tuple[Tried, ...]:
    """Feed the float network in every other way.

    Args:
        net: the user's float network.
        frames: the pictures.
        as_built: (n, classes) with the build's own input.
        labels: (n,) class indices; None without.
    """
    tried = changes(net.preprocess)

    def one(frame: Frame) -> list[Scores]:
        return [net(c.picture(frame.rgb) if c.picture else frame.rgb, c.preprocess) for c in tried]

    rows = spread(one, frames)
    found = []
    for i, change in enumerate(tried):
        scores = np.stack([row[i] for row in rows])
        check = _judged(change.name, "float", scores, as_built, labels)
        found.append(Tried(check, change, usual_answer(as_built), usual_answer(scores)))
    return tuple(found)


def check_program(
    program: Callable[[Image], Scores],
    frames: Sequence[Frame],
    answers: NDArray[np.int64],
    as_built: Scores,
    *,
    labelled: bool,
) -> tuple[InputCheck, ...]:
    """Feed the program with swapped channels and with NV12 of the other range.

    Args:
        program: NV12 to scores.
        frames: the pictures.
        answers: (n,) the right answers: labels, or the float network's own.
        as_built: (n, classes) with the NV12 that edge makes.
        labelled: whether ``answers`` are labels.
    """
    made: tuple[tuple[str, Callable[[Image], Image]], ...] = (
        (SWAPPED, lambda rgb: rgb_to_nv12(np.ascontiguousarray(rgb[..., ::-1]))),
        (VIDEO_NV12, video_nv12),
    )

    def one(frame: Frame) -> list[Scores]:
        return [program(make(frame.rgb)) for _, make in made]

    rows = spread(one, frames)
    found = []
    for i, (name, _) in enumerate(made):
        scores = np.stack([row[i] for row in rows])
        found.append(
            _compared(name, "program", scores, as_built, answers, "Top-1" if labelled else "agreement")
        )
    return tuple(found)


def _judged(
    name: str, target: str, scores: Scores, as_built: Scores, labels: NDArray[np.int64] | None
) -> InputCheck:
    if labels is not None:
        return _compared(name, target, scores, as_built, labels, "Top-1")
    # Without labels a network's own certainty is all there is: a wrong input makes it unsure, or sure of
    # one and the same answer for every picture.
    before, after = confidence(as_built), confidence(scores)
    up, down = int((after > before).sum()), int((after < before).sum())
    value, old = 100 * float(after.mean()), 100 * float(before.mean())
    varied = usual_answer(scores) <= usual_answer(as_built) + 0.1
    surer = value - old >= CONFIDENCE_POINTS and up > down and varied and mcnemar(down, up) < ALPHA
    freed = usual_answer(as_built) >= ONE_ANSWER and usual_answer(scores) <= ONE_ANSWER / 2
    better = surer or (freed and value >= old - CONFIDENCE_POINTS)
    return InputCheck(name, target, value, old, "confidence", better)


def _compared(
    name: str, target: str, scores: Scores, as_built: Scores, answers: NDArray[np.int64], measure: str
) -> InputCheck:
    right, before = scores.argmax(1) == answers, as_built.argmax(1) == answers
    lost, gained = int((before & ~right).sum()), int((right & ~before).sum())
    return InputCheck(
        change=name,
        target=target,
        value=100 * float(right.mean()),
        as_built=100 * float(before.mean()),
        measure=measure,
        better=gained > lost and mcnemar(lost, gained) < ALPHA,
    )


def confidence(scores: Scores) -> NDArray[np.float64]:
    """Return the probability of each row's first answer; scores that already are probabilities stay."""
    values = scores.astype(np.float64)
    if values.min() >= 0 and np.allclose(values.sum(axis=1), 1, atol=1e-3):
        return np.asarray(values.max(axis=1))
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(1 / powers.sum(axis=1))


def usual_answer(scores: Scores) -> float:
    """Return the share of the pictures that get the commonest answer, 0..1."""
    return float(np.bincount(scores.argmax(1)).max() / len(scores))


def own_normalisation(model: onnx.ModelProto) -> str:
    """Return how a network begins by normalising its input itself, in a few words; '' if it does not.

    Such are a Sub, Add, Mul or Div by one value or three, and a BatchNormalization of three channels, before
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


def _joined(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
