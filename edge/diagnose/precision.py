"""The calibrated network taken apart: layers, ranges, shares, weights, and what finer precision would win."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from attrs import frozen
from numpy.typing import NDArray
from onnx import helper

from edge.built import Built
from edge.diagnose import gains, layers
from edge.diagnose.calibration import Difference, calibration_frames, differences, statistics
from edge.diagnose.evidence import Gain, Step, compare, share
from edge.diagnose.findings import InputCheck, Share
from edge.diagnose.frames import Frame, cosines
from edge.diagnose.inputs import check_program
from edge.diagnose.steps import Steps
from edge.diagnose.units import Group, group
from edge.diagnose.weights import (
    ChangedTensor,
    WeightTensor,
    changed_floats,
    changed_integers,
    rounded_weights,
)
from edge.fakequant import AS_BUILT, FakeQuant, Quantizer, translate
from edge.graph import load_onnx
from edge.preprocess import nv12_to_yuv444
from edge.progress import Reporter

ALONE = 16  # pictures for each layer alone
CALIBRATION = 64  # calibration pictures that are looked at


@frozen(eq=False)
class Precision:
    """What the calibrated network shows; the fields are those of :class:`edge.diagnose.evidence.Evidence`."""

    quantizers: tuple[Quantizer, ...]
    groups: tuple[Group, ...]
    observed: layers.Observed
    alone: dict[str, tuple[float, float]]
    alone_n: int
    shares: tuple[Share, ...]
    steps: tuple[Step, ...]
    weights: tuple[WeightTensor, ...]
    weight_gains: dict[int, Gain]
    changed: tuple[ChangedTensor, ...]
    layer_gains: tuple[tuple[Group, Gain], ...]
    set_gains: tuple[tuple[tuple[Group, ...], Gain], ...]
    all_gain: Gain
    calibration_n: int
    differences: tuple[Difference, ...]
    refit_gain: Gain
    max_gain: Gain | None
    video_node: bool
    program_checks: tuple[InputCheck, ...]


def measure(
    built: Built,
    frames: Sequence[Frame],
    labels: NDArray[np.int64] | None,
    whole: Steps,
    reporter: Reporter,
) -> Precision:
    """Take the calibrated network apart.

    Raises:
        ModelFileError: it holds an operator without a rule.
    """
    path = built.file("calibrated_onnx")
    model = load_onnx(path)
    groups = group(translate(model))
    net = FakeQuant(path)
    # Tensors that may be asked for keep their memory: a network of its own, so that all other runs are lean.
    open_net = FakeQuant(path, layers.inner_tensors(net, groups))

    def stage(text: str, start: float, end: float, total: int) -> Callable[[int], None]:
        reporter.update(text, start)
        return lambda count: reporter.update(
            f"{text}: {count}/{total}", start + (end - start) * count / total
        )

    n = len(frames)
    observed = layers.observe(open_net, groups, frames, stage("layers, float and as built", 0.2, 0.3, n))
    reference = observed.float_scores
    of_weights = [i for i, q in enumerate(net.quantizers) if q.weight]
    of_activations = [i for i, q in enumerate(net.quantizers) if not q.weight]
    parts = layers.alone(
        net, (of_weights, of_activations), frames, stage("weights, activations", 0.3, 0.4, n)
    )
    few = list(frames[:ALONE])
    single = layers.alone(
        net, [item.own for item in groups], few, stage("each layer alone", 0.4, 0.65, len(few))
    )
    alone = {
        item.name: (
            float(cosines(reference[: len(few)], scores).mean()),
            float((reference[: len(few)].argmax(1) == scores.argmax(1)).mean()),
        )
        for item, scores in zip(groups, single, strict=True)
    }
    damage = {name: 1 - cosine for name, (cosine, _) in alone.items()}
    layer_gains, set_gains, all_gain = gains.wider_layers(
        net, groups, frames, observed, damage, stage("16 bits at the worst layers", 0.65, 0.85, 2 * n)
    )
    found = rounded_weights(model, net.quantizers)
    reporter.update("weights", 0.87)
    weight_gains = gains.unrounded_weights(net, found, frames, observed)
    reporter.update("calibration", 0.92)
    refit = gains.refitted(net, frames, observed)
    calibrated_on = calibration_frames(built, CALIBRATION)
    different: tuple[Difference, ...] = ()
    at_most: Gain | None = None
    if calibrated_on:
        different = differences(statistics(calibrated_on), statistics(frames))
        seen = layers.look_only(open_net, calibrated_on)
        at_most = gains.at_maximum(net, seen, frames, observed)
    return Precision(
        quantizers=net.quantizers,
        groups=groups,
        observed=observed,
        alone=alone,
        alone_n=len(few),
        shares=(
            share("weights", reference, parts[0], labels),
            share("activations", reference, parts[1], labels),
            share("both", reference, observed.scores, labels),
        ),
        steps=_steps(whole, observed),
        weights=tuple(found),
        weight_gains=weight_gains,
        changed=_changed(built, model, net.quantizers),
        layer_gains=layer_gains,
        set_gains=set_gains,
        all_gain=all_gain,
        calibration_n=len(calibrated_on),
        differences=different,
        refit_gain=refit,
        max_gain=at_most,
        video_node=_video(model),
        program_checks=_in_its_place(net, frames, labels, whole, observed),
    )


def _in_its_place(
    net: FakeQuant,
    frames: Sequence[Frame],
    labels: NDArray[np.int64] | None,
    whole: Steps,
    observed: layers.Observed,
) -> tuple[InputCheck, ...]:
    """Feed the calibrated network in other ways, where the program itself can't be run here."""
    if whole.program is not None:
        return ()
    setting = net.bits(AS_BUILT)
    return check_program(
        lambda nv12: net.scores(nv12_to_yuv444(nv12, net.size), setting),
        frames,
        labels if labels is not None else whole.float_rgb.argmax(1),
        observed.scores,
        labelled=labels is not None,
    )


def _steps(whole: Steps, observed: layers.Observed) -> tuple[Step, ...]:
    found = [
        compare(
            "compiler",
            "the compiler's float model against the simplified ONNX",
            whole.simplified,
            observed.float_scores,
        )
    ]
    if whole.program is not None:
        found.append(
            compare("program", "the program against the calibrated model", observed.scores, whole.program)
        )
    return tuple(found)


def _changed(
    built: Built, calibrated: onnx.ModelProto, quantizers: tuple[Quantizer, ...]
) -> tuple[ChangedTensor, ...]:
    found: list[ChangedTensor] = []
    if "original_float_onnx" in built.files:
        found += changed_floats(built.file("bpu_onnx"), built.file("original_float_onnx"), "compiler")
    if "quantized_onnx" in built.files:
        found += changed_integers(load_onnx(built.file("quantized_onnx")), calibrated, quantizers)
    return tuple(found)


def _video(model: onnx.ModelProto) -> bool:
    """Tell whether the preprocess node decodes video-range NV12."""
    kinds = [
        helper.get_attribute_value(attribute)
        for node in model.graph.node
        if node.op_type == "HzPreprocess"
        for attribute in node.attribute
        if attribute.name == "input_type"
    ]
    return any(b"VIDEO" in kind for kind in kinds)
