"""The float network, the simplified one and the program on the pictures: what needs no calibrated model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.built import Built
from edge.diagnose.evidence import Step, compare
from edge.diagnose.findings import InputCheck
from edge.diagnose.frames import Frame, spread
from edge.diagnose.inputs import Tried, check_float, check_program
from edge.diagnose.networks import FloatNet, Program
from edge.preprocess import yuv444_to_rgb_float
from edge.progress import Reporter

Scores = NDArray[np.float32]


@frozen(eq=False)
class Steps:
    """Scores of the whole networks, (n, classes) each.

    Attributes:
        float_rgb: the float network as the user feeds it.
        float_nv12: the same behind NV12.
        simplified: the simplified network behind NV12.
        program: the program's integers; None where they can't be run here.
        steps: each against the one before.
        checks: of the float network's input.
        program_checks: of the program's.
    """

    float_rgb: Scores
    float_nv12: Scores
    simplified: Scores
    program: Scores | None
    steps: tuple[Step, ...]
    checks: tuple[Tried, ...]
    program_checks: tuple[InputCheck, ...]


def measure(
    built: Built,
    frames: Sequence[Frame],
    labels: NDArray[np.int64] | None,
    program: Program,
    reporter: Reporter,
) -> Steps:
    """Run the whole networks."""
    rule = built.metadata.preprocess
    net = FloatNet(built.file("float_onnx"), rule)
    reporter.update("float network", 0.02)
    rgb = np.stack(spread(lambda frame: net(frame.rgb), frames))
    behind = np.stack(spread(lambda frame: net.behind_nv12(frame.nv12), frames))
    other = FloatNet(built.file("bpu_onnx"), rule)
    simplified = np.stack(spread(lambda frame: other.behind_nv12(frame.nv12), frames))
    reporter.update("input made in other ways", 0.05)
    checks = check_float(net, frames, rgb, labels)
    steps = [
        compare("NV12", "the float network behind NV12, against RGB", rgb, behind),
        compare("simplify", "the simplified ONNX against the float one", behind, simplified),
    ]
    integers: Scores | None = None
    program_checks: tuple[InputCheck, ...] = ()
    if program.net is not None:
        reporter.update("program", 0.12)
        integers = np.stack(spread(lambda frame: program(frame.nv12), frames))
        steps.append(compare("end to end", "the program against the float network", rgb, integers))
        answers = labels if labels is not None else rgb.argmax(1)
        program_checks = check_program(program, frames, answers, integers, labelled=labels is not None)
    return Steps(rgb, behind, simplified, integers, tuple(steps), checks, program_checks)


def clipped(frames: Sequence[Frame]) -> float:
    """Return the share of pixels' channels that leave 0..255 behind NV12, by more than a rounding."""
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
