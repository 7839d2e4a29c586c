"""Study the layers of the calibrated network: ranges, shares, weights, and the gain of finer precision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from attrs import evolve, frozen
from numpy.typing import NDArray
from onnx import helper

from edge.diagnose.calibration import Difference, calibration_frames, differences, statistics
from edge.diagnose.findings import InputCheck, OutputNoise, Share, share
from edge.diagnose.inputs import Steps, check_program
from edge.diagnose.observed import Done, Observed, Seen, inner_tensors, look_only, observe, scored
from edge.diagnose.weights import (
    OUTLIER,
    ChangedTensor,
    WeightTensor,
    changed_floats,
    changed_integers,
    rounded_weights,
)
from edge.errors import counted
from edge.folder.built import Built
from edge.graph.files import load_onnx
from edge.images.frames import Frame, spread
from edge.images.preprocess import nv12_to_yuv444
from edge.measure.layers import Group, group
from edge.measure.objective import Answers, Detections, Objective, step_effect
from edge.measure.scores import Gain, StepEffect
from edge.progress import Reporter
from edge.simulate.fakequant import AS_BUILT, FLOAT, INT16, FakeQuant, Quantizer, translate

CONVOLUTIONS = ("conv", "depthwise conv", "linear")
CANDIDATES = 12  # layers that are tried at 16 bits
SETS = (2, 4, 8, 12)
SUSPECTS = 6  # weights that are tried unrounded
BETWEEN = 5  # pairs of kinds of layers whose tensors are rounded alone
CALIBRATION = 64  # calibration images that are used


def wider_layers(
    net: FakeQuant,
    groups: Sequence[Group],
    frames: Sequence[Frame],
    observed: Observed,
    damage: dict[str, tuple[float, float]],
    objective: Objective,
    done: Done | None = None,
) -> tuple[tuple[tuple[Group, Gain], ...], tuple[tuple[tuple[Group, ...], Gain], ...], Gain]:
    """Try 16 bits: at each of the worst layers, at the best of these together, at all activations.

    Args:
        damage: layer -> how far its rounding alone moves the answers, the least first.
        done: told how many images are done; there are two passes.

    Returns:
        (layer, gain) of single layers, best first; (layers, gain) of sets, smallest first; the gain of all.
    """
    able = [g for g in groups if g.touching and g.bits < INT16 and _widens(net, g)]
    if objective.boxes:
        able = [g for g in (_apart(net, groups, g) for g in able) if g.touching]
    able.sort(key=lambda g: damage.get(g.name, (0.0, 0.0)), reverse=True)
    able = able[:CANDIDATES]
    activations = [i for i, q in enumerate(net.quantizers) if not q.weight]
    settings = [_wider(net, g.touching) for g in able] + [_wider(net, activations)]
    results = scored(net, settings, frames, done, objective.answer)
    reference, before = observed.float_answers, observed.answers
    single = [(g, objective.gain(g.name, reference, before, result)) for g, result in zip(able, results, strict=False)]
    single.sort(key=lambda pair: (pair[1].after if objective.boxes else 0.0, pair[1].cosine_after), reverse=True)
    everything = objective.gain("every activation", reference, before, results[-1])
    sizes = [size for size in SETS if size <= len(single)]
    chosen = [tuple(g for g, _ in single[:size]) for size in sizes]
    if not chosen:
        return tuple(single), (), everything
    settings = [_wider(net, [i for g in some for i in g.touching]) for some in chosen]
    tell = None if done is None else lambda count: done(len(frames) + count)
    results = scored(net, settings, frames, tell, objective.answer)
    sets = tuple(
        (some, objective.gain(counted(len(some), "layer"), reference, before, result))
        for some, result in zip(chosen, results, strict=True)
    )
    return tuple(single), sets, everything


def _widens(net: FakeQuant, group: Group) -> bool:
    """Tell whether 16 bits at a layer gain as much in the program as in the calibrated model.

    Measured on MobileNetV1 with hb_mapper 1.24.3: 16 bits at its first convolutions raised the calibrated model's
    agreement with float, but lowered the program's from 90 to 75 %, since the integers of 16-bit convolutions keep
    fewer bits. With 16 bits behind the preprocess node, the program no longer equalled the quantized model.
    LayerNorms, pools and sums kept their gain.
    """
    first = {"", *(node.name for node in net.graph.nodes if node.op_type == "HzPreprocess")}
    reads_input = any(net.quantizers[i].producer in first for i in group.touching)
    return group.kind not in CONVOLUTIONS and not reads_input


def _apart(net: FakeQuant, groups: Sequence[Group], group: Group) -> Group:
    """Return a layer without the tensors that a convolution reads.

    Measured on YOLOX-nano with hb_mapper 1.24.3: 16 bits at the activations around its first depthwise convolution
    raised the calibrated model's AP with float's boxes from 38 to 72, but the program's from 39 to 49 only.
    """
    convolutions = {node for item in groups if item.kind in CONVOLUTIONS for node in item.nodes}
    free = tuple(i for i in group.touching if not convolutions & set(net.quantizers[i].consumers))
    own = {i for i in group.own if i in group.touching}
    return evolve(group, touching=free, inputs_only=not own <= set(free))


def _wider(net: FakeQuant, at: Sequence[int]) -> NDArray[np.uint8]:
    return net.bits(INT16, at, rest=AS_BUILT)


def unrounded_weights(
    net: FakeQuant, weights: Sequence[WeightTensor], frames: Sequence[Frame], observed: Observed, objective: Objective
) -> dict[int, Gain]:
    """Leave weights with outliers or large rounding errors unrounded, one at a time: quantizer -> gain."""
    odd = sorted((w for w in weights if w.outlier >= OUTLIER), key=lambda w: -w.outlier)[:SUSPECTS]
    rough = sorted(weights, key=lambda w: -w.channel_error)[:SUSPECTS]
    suspects = list({w.quantizer: w for w in [*odd, *rough]}.values())
    if not suspects:
        return {}
    settings = [net.bits(FLOAT, [w.quantizer], rest=AS_BUILT) for w in suspects]
    results = scored(net, settings, frames, answer=objective.answer)
    return {
        w.quantizer: objective.gain(w.tensor, observed.float_answers, observed.answers, result)
        for w, result in zip(suspects, results, strict=True)
    }


def refitted(net: FakeQuant, frames: Sequence[Frame], observed: Observed, objective: Objective) -> Gain:
    """Try thresholds at the largest values of the measured images: for each half, from the other half."""
    half = np.arange(len(frames)) % 2
    tables = [_thresholds(net, observed.seen, half != part) for part in (0, 1)]
    return _at("thresholds of these images", net, [tables[part] for part in half], frames, observed, objective)


def at_maximum(
    net: FakeQuant, calibration: Seen, frames: Sequence[Frame], observed: Observed, objective: Objective
) -> Gain:
    """Try thresholds at the largest values of the calibration images, as ``method: max`` sets them."""
    table = _thresholds(net, calibration, np.ones(len(calibration.low), bool))
    return _at("method max", net, [table] * len(frames), frames, observed, objective)


def _at(
    what: str,
    net: FakeQuant,
    tables: Sequence[dict[int, NDArray[np.float32]]],
    frames: Sequence[Frame],
    observed: Observed,
    objective: Objective,
) -> Gain:
    """Try other thresholds, a table for each image."""

    def one(pair: tuple[Frame, dict[int, NDArray[np.float32]]]) -> Answers:
        frame, table = pair
        return objective.answer(net.run(frame.yuv444, net.bits(AS_BUILT), None, table), frame)

    answers = np.stack(spread(one, list(zip(frames, tables, strict=True))))
    return objective.gain(what, observed.float_answers, observed.answers, answers)


def _thresholds(net: FakeQuant, seen: Seen, chosen: NDArray[np.bool_]) -> dict[int, NDArray[np.float32]]:
    """Return thresholds scaled to the largest value seen; those of channels stay in proportion."""
    table = {}
    for i, item in enumerate(net.quantizers):
        if item.weight or item.tensor == net.graph.image:
            continue
        factor = float(seen.excess[chosen, i].max())
        if factor > 0:
            table[i] = (item.thresholds * np.float32(factor)).astype(np.float32)
    return table


@frozen(eq=False)
class LayerStudy:
    """Measurements of the calibrated network, layer by layer."""

    quantizers: tuple[Quantizer, ...]
    groups: tuple[Group, ...]
    observed: Observed
    alone: dict[str, tuple[float, float]]  #: layer -> mean cosine and agreement with only this layer rounded.
    worst: str  #: the layer that is the most harmful alone; '' without layers.
    alone_n: int  #: images of that measurement.
    shares: tuple[Share, ...]
    steps: tuple[StepEffect, ...]
    weights: tuple[WeightTensor, ...]
    weight_gains: dict[int, Gain]  #: quantizer of a weight -> gain of leaving it unrounded.
    changed: tuple[ChangedTensor, ...]
    layer_gains: tuple[tuple[Group, Gain], ...]  #: of 16 bits, the best first.
    set_gains: tuple[tuple[tuple[Group, ...], Gain], ...]  #: of 16 bits, the fewest layers first.
    all_gain: Gain  #: of 16 bits at every activation.
    calibration_n: int  #: calibration images that were compared; 0 if they are gone.
    differences: tuple[Difference, ...]  #: between these and the measured images.
    refit_gain: Gain  #: of thresholds from the measured images.
    max_gain: Gain | None  #: of ``method: max``; None without calibration images.
    video_node: bool  #: whether the program decodes video-range NV12.
    program_checks: tuple[InputCheck, ...]
    weights_gain: Gain | None = None  #: of leaving every weight unrounded.
    split_gain: Gain | None = None  #: of leaving the activations around depthwise convolutions unrounded.
    depthwise: int = 0  #: depthwise convolutions behind an ordinary one, whose channels can be split by range.
    nv12_p: float | None = None  #: p that NV12 costs more AP than all rounding by chance; None of a classifier.
    outputs: tuple[OutputNoise, ...] = ()  #: of a detector.


def study(built: Built, frames: Sequence[Frame], objective: Objective, whole: Steps, reporter: Reporter) -> LayerStudy:
    """Measure the calibrated network layer by layer.

    Raises:
        ModelFileError: it holds an operator without a rule.
    """
    path = built.file("calibrated_onnx")
    model = load_onnx(path)
    groups = group(translate(model))
    names = [output.name for output in built.metadata.outputs]
    net = FakeQuant(path, outputs=names)
    # Inner tensors as outputs need memory: a separate network for them keeps all other runs small.
    open_net = FakeQuant(path, inner_tensors(net, groups), outputs=names)

    def stage(text: str, start: float, end: float, total: int) -> Callable[[int], None]:
        reporter.update(text, start)
        return lambda count: reporter.update(f"{text}: {count}/{total}", start + (end - start) * count / total)

    n = len(frames)
    observed = observe(open_net, groups, frames, objective.answer, stage("layers, float and as built", 0.2, 0.3, n))
    reference = observed.float_answers
    of_weights = [i for i, q in enumerate(net.quantizers) if q.weight]
    of_activations = [i for i, q in enumerate(net.quantizers) if not q.weight]
    between = tensors_between(net, groups) if objective.boxes else {}
    chosen = [of_weights, of_activations, *between.values()]
    settings = [net.bits(AS_BUILT, some) for some in chosen]
    text = "weights, activations"
    weights, activations, *parts = scored(net, settings, frames, stage(text, 0.3, 0.4, n), objective.answer)
    few = objective.telling(reference)
    settings = [net.bits(AS_BUILT, item.own) for item in groups]
    text = "each layer alone"
    single = scored(net, settings, [frames[i] for i in few], stage(text, 0.4, 0.65, len(few)), objective.answer)
    own = reference[few]
    alone = {
        item.name: (objective.cosine(own, answers), objective.agreement(own, answers))
        for item, answers in zip(groups, single, strict=True)
    }
    damage = {
        name: (1 - agreement if objective.boxes else 0.0, 1 - cosine) for name, (cosine, agreement) in alone.items()
    }
    text = "16 bits at the worst layers"
    layer_gains, set_gains, all_gain = wider_layers(
        net, groups, frames, observed, damage, objective, stage(text, 0.65, 0.85, 2 * n)
    )
    found = rounded_weights(model, net.quantizers)
    reporter.update("weights", 0.87)
    weight_gains = unrounded_weights(net, found, frames, observed, objective)
    around, depthwise = around_depthwise(net, groups) if objective.boxes else ([], 0)
    split: Gain | None = None
    if around:
        (unrounded,) = scored(net, [net.bits(FLOAT, around, rest=AS_BUILT)], frames, answer=objective.answer)
        split = objective.gain("around depthwise convolutions", reference, observed.answers, unrounded)
    reporter.update("calibration", 0.92)
    refit = refitted(net, frames, observed, objective)
    calibrated_on = calibration_frames(built, CALIBRATION)
    different: tuple[Difference, ...] = ()
    at_most: Gain | None = None
    if calibrated_on:
        different = differences(statistics(calibrated_on), statistics(frames))
        seen = look_only(open_net, calibrated_on)
        at_most = at_maximum(net, seen, frames, observed, objective)
    return LayerStudy(
        quantizers=net.quantizers,
        groups=groups,
        observed=observed,
        alone=alone,
        worst=max(damage, key=lambda name: damage[name], default=""),
        alone_n=len(few),
        shares=(
            share("weights", reference, weights, objective),
            share("activations", reference, activations, objective),
            *(
                evolve(share(name, reference, answers, objective), tensors=len(some))
                for (name, some), answers in zip(between.items(), parts, strict=True)
            ),
            share("both", reference, observed.answers, objective),
        ),
        steps=_steps(whole, observed, objective),
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
        program_checks=_in_its_place(net, frames, whole, observed, objective),
        weights_gain=objective.gain("no weight rounded", reference, observed.answers, activations),
        split_gain=split,
        depthwise=depthwise,
        nv12_p=objective.costs_more(whole.float_rgb, whole.float_nv12, (reference, observed.answers))
        if objective.boxes
        else None,
        outputs=_outputs(objective, reference, observed.answers, weights, activations),
    )


def tensors_between(net: FakeQuant, groups: Sequence[Group]) -> dict[str, list[int]]:
    """Return the quantizers of activations by the kinds of the layers that write and read them, most tensors first."""
    kinds = {node: item.kind for item in groups for node in item.nodes}
    found: dict[str, list[int]] = defaultdict(list)
    for i, item in enumerate(net.quantizers):
        readers = sorted({kinds[node] for node in item.consumers if node in kinds})
        if not item.weight and item.producer in kinds and readers:
            found[f"{kinds[item.producer]} → {readers[0]}"].append(i)
    most = sorted(found.items(), key=lambda pair: -len(pair[1]))
    return {name: some for name, some in most[:BETWEEN] if len(some) > 1}


def around_depthwise(net: FakeQuant, groups: Sequence[Group]) -> tuple[list[int], int]:
    """Return the quantizers of activations between an ordinary convolution and what a depthwise one behind it gives.

    Their channels can be split by range, each group with thresholds of its own.

    Returns:
        (quantizers, number of depthwise convolutions).
    """
    kinds = {node: item.kind for item in groups for node in item.nodes}
    plain = {item.output: item.tensor for item in net.quantizers}
    readers: dict[str, list[str]] = defaultdict(list)
    nodes = {node.name: node for node in net.graph.nodes}
    for node in net.graph.nodes:
        for name in dict.fromkeys(node.input):
            readers[plain.get(name, name)].append(node.name)

    def activated(name: str) -> list[str]:
        """Return a node and the activation that alone reads it."""
        behind = readers[nodes[name].output[0]]
        return [name, *behind] if [kinds[one] for one in behind] == ["activation"] else [name]

    def read(chain: Sequence[str], kind: str) -> list[str]:
        """Return what reads the end of a chain; nothing if it is not all of a kind."""
        behind = readers[nodes[chain[-1]].output[0]]
        return behind if all(kinds[one] == kind for one in behind) else []

    inside: set[str] = set()
    count = 0
    for name in (name for name in nodes if kinds.get(name) == "conv"):
        first = activated(name)
        depthwise = [activated(one) for one in read(first, "depthwise conv")]
        if depthwise and all(read(chain, "conv") for chain in depthwise):
            count += len(depthwise)
            inside.update(first, *depthwise)
    return [i for i, item in enumerate(net.quantizers) if not item.weight and item.producer in inside], count


def _outputs(
    objective: Objective, reference: Answers, both: Answers, weights: Answers, activations: Answers
) -> tuple[OutputNoise, ...]:
    if not isinstance(objective, Detections):
        return ()
    noise = [objective.noise(reference, answers) for answers in (both, weights, activations)]
    return tuple(
        OutputNoise(name, whole[0], whole[1], of_weights[1], of_activations[1])
        for name, whole, of_weights, of_activations in zip(objective.boxer.names, *noise, strict=True)
    )


def _in_its_place(
    net: FakeQuant, frames: Sequence[Frame], whole: Steps, observed: Observed, objective: Objective
) -> tuple[InputCheck, ...]:
    """Run the calibrated network on other inputs, if the program itself can't run here."""
    if whole.program is not None:
        return ()
    setting = net.bits(AS_BUILT)
    return check_program(
        lambda nv12: net.run(nv12_to_yuv444(nv12, net.size), setting),
        frames,
        whole.float_nv12,
        observed.answers,
        objective,
    )


def _steps(whole: Steps, observed: Observed, objective: Objective) -> tuple[StepEffect, ...]:
    what = "the compiler's float model against the simplified ONNX"
    found = [step_effect(objective, "compiler", what, whole.simplified, observed.float_answers)]
    if whole.program is not None:
        what = "the program against the calibrated model"
        found.append(step_effect(objective, "program", what, observed.answers, whole.program))
    return tuple(found)


def _changed(built: Built, calibrated: onnx.ModelProto, quantizers: tuple[Quantizer, ...]) -> tuple[ChangedTensor, ...]:
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
