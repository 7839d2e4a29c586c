"""Judge the measurements: which step or layer is at fault, if any, and what would repair it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from attrs import frozen

from edge.compiler.logs import pinned
from edge.diagnose.evidence import LEAST_AP, Measurements
from edge.diagnose.findings import InputCheck, Remedy, names
from edge.diagnose.inputs import LETTERBOXES, SWAPPED, VIDEO_IMAGES, VIDEO_NV12
from edge.diagnose.weights import OUTLIER, WeightTensor
from edge.errors import counted
from edge.folder.built import Built, compiler_settings
from edge.measure.labels import Shift
from edge.measure.layers import Group
from edge.measure.objective import ONE_ANSWER
from edge.measure.scores import Gain
from edge.measure.statistics import may_be_chance, mcnemar
from edge.specs import Calibration

POINTS = 3.0  # a smaller change is not a fault, even if it is significant
SAME_FUNCTION = 0.999  # cosine of the scores before and after a step that must not change the network
NV12_AGREEMENT = 0.9
COARSE = 0.3  # mean rounding error of a channel's small weights against their mean
SINGLE_LAYERS = 3
ROUNDED = "int8_rounded"  # the shipped recipe
ROUNDING = "rounding: {images: 64, damping: 0.01}   # in the recipe"
SPLIT = "int8_split_thresholds"  # the shipped recipe
SPLITTING = "range_split: 2   # in the recipe, with calibration: {method: mix}\nthresholds: {images: 24}"
MIXED = "mixed_thresholds"  # the shipped recipe
MIXING = "thresholds: {images: 24, int16_latency: 2}   # in the recipe, with calibration: {method: mix}"
LEAST_POINTS, LEAST = 0.2, 0.0005  # of agreement and of the cosine; smaller gains are not proposed
NV12_AP = 0.8  # AP counts how exactly a box lies, and so falls further than a share of equal answers
INTEGER_AP = 25.0  # points
Ranked = tuple[tuple[float, float], Remedy]


@frozen
class Fault:
    """An error in the build, as opposed to the normal cost of quantization."""

    #: ``labels``, ``input``, ``simplify``, ``compiler``, ``NV12``, ``weights``, ``calibration`` or ``integers``.
    step: str
    sentence: str  #: for the verdict.
    remedy: Remedy  #: how to repair it.


def faults(evidence: Measurements) -> tuple[Fault, ...]:
    """Return what is at fault, the earliest step first: what comes later can't be judged behind it.

    Where labels do not speak of the float network's answers, that is all there is to say.
    """
    if evidence.shift is not None:
        return (_off_by_one(evidence.shift),)
    judges: tuple[Callable[[Measurements], Fault | None], ...] = (
        _input,
        _program_range,
        _changed_function,
        _nv12,
        _weights,
        _calibration,
        _integers,
    )
    if evidence.at_chance:
        return (_input(evidence) or _chance(evidence),)
    return tuple(fault for judge in judges if (fault := judge(evidence)) is not None)


def _off_by_one(shift: Shift) -> Fault:
    sentence = str(shift)
    remedy = Remedy(
        what=f"Count the labels one class {'higher' if shift.by > 0 else 'lower'}, then look again",
        how=f"--label-offset {shift.by}   # beside --images, wherever these labels are used",
        figure=f"Top-1 {100 * shift.before / shift.n:.1f} → {100 * shift.after / shift.n:.1f} %, float network",
        gain=100 * (shift.after - shift.before) / shift.n,
    )
    return Fault("labels", sentence, remedy)


def _chance(evidence: Measurements) -> Fault:
    if evidence.boxes:
        figure = f"AP {evidence.float_ap:.1f} on {counted(evidence.n, 'image')}"
        return Fault(
            "labels",
            f"the float network itself finds next to none of the labelled objects ({figure}), so nothing can be said "
            "of what quantization costs in AP",
            Remedy(
                what="Check the order of the classes, mean, std, the channel order and the letterbox before anything "
                "else",
                how=rebuild(evidence.built, ("--mean", "MEAN"), ("--std", "STD"), ("--color", "COLOR")),
                figure=f"{figure}, float network",
                gain=0.0,
            ),
        )
    figure = f"Top-1 {100 * (evidence.float_right or 0) / evidence.n:.1f} % of {counted(evidence.n, 'image')}"
    return Fault(
        "labels",
        f"the float network itself is at chance on these labels ({figure}), so nothing can be said of what "
        "quantization costs in Top-1",
        Remedy(
            what="Check the order of the classes, mean, std and the channel order before anything else",
            how=rebuild(evidence.built, ("--mean", "MEAN"), ("--std", "STD"), ("--color", "COLOR")),
            figure=f"{figure}, float network; chance is {100 / evidence.built.metadata.classes:.2g} %",
            gain=0.0,
        ),
    )


def _input(evidence: Measurements) -> Fault | None:
    better = [
        tried
        for tried in evidence.checks
        if tried.check.better and (not evidence.labelled or tried.check.value - tried.check.as_built >= POINTS)
    ]
    if not better:
        return None
    # Without labels take the most varied answers: a very certain network may give one answer only.
    by_value = evidence.labelled or evidence.boxes
    best = max(better, key=lambda tried: tried.check.value if by_value else -tried.usual)
    check, change = best.check, best.change
    figure = f"{_moved(check)} {'on' if check.unit == '' else 'of'} {counted(evidence.n, 'image')}, float network"
    if not evidence.labelled and best.usual_before >= ONE_ANSWER:
        figure += f"; the most frequent answer falls from {100 * best.usual_before:.0f} to {100 * best.usual:.0f} %"
    gain = max(0.0, check.value - check.as_built)
    suggests = "is" if evidence.labelled else "seems"
    if check.change == VIDEO_IMAGES:
        low, high = evidence.pixel_range
        return Fault(
            "input",
            f"the input {suggests} wrong: the images are of video range (pixels {low:.0f}..{high:.0f}); "
            f"expanded to 0..255 they give {figure}",
            Remedy(
                what="Decode the images as video range, so that black is 0 and white 255",
                how="rgb = numpy.clip((rgb - 16.0) * 255 / 219, 0, 255)   # in the code that makes the images",
                figure=figure,
                gain=gain,
            ),
        )
    own = evidence.own_normalisation
    twice = f"; the ONNX normalises its input itself ({own}), so mean and std are applied twice" if own else ""
    applied = {"--mean", "--std"} & {option for option, _ in change.options}
    return Fault(
        "input",
        f"the input {suggests} wrong: {check.change} gives {figure}{twice if applied else ''}",
        Remedy(
            what=_input_sentence(check.change, own if applied else ""),
            how=rebuild(evidence.built, *change.options),
            figure=figure,
            gain=gain,
        ),
    )


def _input_sentence(change: str, own: str) -> str:
    if own:
        return f"Build without mean and std: the ONNX normalises its input itself ({own})"
    if change == SWAPPED:
        return "Build with the other channel order"
    if change in LETTERBOXES:
        return f"Show images as the network was trained: {change}"
    return f"Build with the mean and std that the network was trained with: {change}"


def _moved(check: InputCheck) -> str:
    return f"{check.measure} {check.as_built:.1f} → {check.value:.1f}{check.unit}"


def _program_range(evidence: Measurements) -> Fault | None:
    check = next((c for c in evidence.program_checks if c.change == VIDEO_NV12), None)
    better = check is not None and check.better and check.value - check.as_built >= POINTS
    compiled = evidence.precision is not None and evidence.precision.video_node
    if not compiled and not better:
        return None
    figure = (
        f"{_moved(check)} with video-range NV12 ({counted(evidence.n, 'image')})"
        if check is not None
        else "input_type of the preprocess node: video range"
    )
    gain = max(0.0, check.value - check.as_built) if check is not None else 0.0
    return Fault(
        "NV12",
        f"NV12's range is wrong: the program was compiled for video range (bt601_video), but gets full range; {figure}",
        Remedy(
            what="Compile for full-range NV12, or feed video-range NV12 (cv2.COLOR_RGB2YUV_I420) everywhere",
            how="input_space_and_range: regular   # input_parameters of the mapper YAML",
            figure=figure,
            gain=gain,
        ),
    )


def _changed_function(evidence: Measurements) -> Fault | None:
    for name in ("simplify", "compiler"):
        step = evidence.step(name)
        video = evidence.precision is not None and evidence.precision.video_node
        if step is None or step.cosine >= SAME_FUNCTION or (name == "compiler" and video):
            continue
        tensors = [item.tensor for item in evidence.changed if item.step == name]
        what = f"; weights that differ: {names(tensors)}" if tensors else ""
        agreement = f"AP {100 * step.agreement:.1f}" if evidence.boxes else f"agreement {100 * step.agreement:.1f} %"
        figure = f"{agreement}, cosine {step.cosine:.4f} with the step before"
        return Fault(
            name,
            f"step {name} changed the network ({step.what}): {figure}{what}",
            Remedy(
                what=f"Run the step {name} again: its file was damaged or belongs to another model",
                how=rebuild(evidence.built),
                figure=figure,
                gain=100 * (1 - step.agreement),
            ),
        )
    return None


def _nv12_leads(evidence: Measurements) -> bool:
    """Tell whether NV12 alone changes more answers than all rounding behind it, of equally many the scores further."""
    nv12, both = evidence.share("NV12"), evidence.share("both")
    if nv12 is None or both is None:
        return nv12 is not None and nv12.agreement < _enough(evidence)
    return (nv12.agreement, nv12.cosine) < (both.agreement, both.cosine)


def _nv12(evidence: Measurements) -> Fault | None:
    nv12, both, n = evidence.share("NV12"), evidence.share("both"), evidence.n
    if nv12 is None or not _nv12_leads(evidence):
        return None
    if both is not None and nv12.agreement >= _enough(evidence):
        changed = [round(n * (1 - part.agreement)) for part in (nv12, both)]
        p = evidence.precision.nv12_p if evidence.boxes and evidence.precision is not None else mcnemar(*changed)
        if 100 * (both.agreement - nv12.agreement) < POINTS or may_be_chance(1.0 if p is None else p):
            return None
    figure = _nv12_figure(evidence)
    return Fault(
        "NV12",
        f"NV12 costs most: {figure}",
        Remedy(
            what="Train, or fine-tune, on images that went through NV12: it keeps a quarter of the chroma",
            how="yuv444_to_rgb_float(nv12_to_yuv444(rgb_to_nv12(rgb), size))   # of edge.images.preprocess",
            figure=figure,
            gain=100 * (1 - nv12.agreement),
        ),
    )


def _enough(evidence: Measurements) -> float:
    """Return the agreement behind NV12 that is not remarkable by itself."""
    return NV12_AP if evidence.boxes else NV12_AGREEMENT


def _nv12_figure(evidence: Measurements) -> str:
    """Return what NV12 changes, beside what rounding changes."""
    nv12, both = evidence.share("NV12"), evidence.share("both")
    if nv12 is None:
        return ""
    if evidence.boxes:
        own = evidence.like("float behind NV12", "its own", nv12.agreement)
        return own if both is None else f"{own}, rounded there {100 * both.agreement:.1f}"
    own = f"float agrees with itself on {100 * nv12.agreement:.1f} % of the images behind NV12"
    return own if both is None else f"{own}, with itself rounded there on {100 * both.agreement:.1f} %"


def ruined(evidence: Measurements) -> tuple[tuple[WeightTensor, Gain], ...]:
    """Return the weights that rounding damages most, the worst first."""
    taken = evidence.precision
    if taken is None:
        return ()
    found = [
        (weight, gain)
        for weight in taken.weights
        if (gain := taken.weight_gains.get(weight.quantizer)) is not None
        and (weight.outlier >= OUTLIER or weight.channel_error >= COARSE)
        and gain.sure
        and (gain.points >= POINTS or gain.closer >= 0.01)
    ]
    return tuple(sorted(found, key=lambda pair: -pair[1].cosine_after))


def _weights(evidence: Measurements) -> Fault | None:
    found = ruined(evidence)
    if not found or evidence.precision is None:
        return None
    weight, gain = found[0]
    layer = next((g.name for g in evidence.precision.groups if weight.quantizer in g.weights), weight.node)
    at = ", ".join(str(i) for i in weight.outlier_at)
    one = f"{weight.tensor}[{at}] = {weight.outlier_value:.4g}, {weight.outlier:.0f} times its channel's others"
    return Fault(
        "weights",
        f"a weight of layer {layer} is ruined by rounding: {one}; unrounded: {gain.figure}",
        Remedy(
            what=f"Clip the outlier in {weight.tensor} (layer {layer}) and export again",
            how=f"weight[{at}] = 0   # or clip it to the range of its channel's other weights, then fine-tune",
            figure=f"{one}; with this weight unrounded {gain.figure}",
            gain=gain.points,
        ),
    )


def _calibration(evidence: Measurements) -> Fault | None:
    taken = evidence.precision
    if taken is None or not taken.differences or not taken.refit_gain.sure:
        return None
    gain = taken.refit_gain
    if gain.points < POINTS and gain.closer < 0.01:
        return None
    first = taken.differences[0]
    differ = f"{first.name} {first.calibration:.2f}, in the measured images {first.evaluation:.2f}"
    noise = any(d.name == "neighbour correlation" and d.calibration < 0.5 for d in taken.differences)
    what = "the calibration images are noise" if noise else "the calibration images are of another kind"
    return Fault(
        "calibration",
        f"calibration is at fault: {what} ({differ}); with thresholds of these images: {gain.figure}",
        Remedy(
            what="Calibrate on images like those that the board's camera will take",
            how=rebuild(evidence.built, ("--calib", "DIR")),
            figure=f"thresholds of these images, each half's from the other: {gain.figure}; {differ}",
            gain=gain.points,
        ),
    )


def _integers(evidence: Measurements) -> Fault | None:
    changed = [item for item in evidence.changed if item.step == "quantize"]
    step = evidence.step("program")
    both = evidence.share("both")
    if not changed:
        if step is None or both is None:
            return None
        n = evidence.n
        lost, points = round(n * (both.agreement - step.agreement)), 100 * (both.agreement - step.agreement)
        if points < INTEGER_AP if evidence.boxes else points < 5 or mcnemar(max(lost, 0), 0) >= 0.01:
            return None
    if step is None:
        figure = f"{100 * changed[0].share:.1f} % of its integers differ"
    elif evidence.boxes:
        figure = evidence.like("the program", "the calibrated model's", step.agreement)
    else:
        figure = f"the program agrees with the calibrated model on {100 * step.agreement:.1f} % of the images"
    what = names([f"{i.tensor} ({100 * i.share:.0f} % of its integers)" for i in changed]) if changed else ""
    return Fault(
        "integers",
        f"the quantized model's integers are at fault: {figure}" + (f"; weights that differ: {what}" if what else ""),
        Remedy(
            what=f"Compile again: weights of the quantized model are not the calibrated ones: {what}"
            if what
            else "Compile again; report the model if its integers still differ so much from the calibrated network",
            how=rebuild(evidence.built),
            figure=figure,
            gain=100 * (1 - step.agreement) if step is not None else 100 * changed[0].share,
        ),
    )


def remedies(evidence: Measurements, found: tuple[Fault, ...]) -> tuple[Remedy, ...]:
    """Return the remedies, best first; those of faults before all others, since later steps depend on them."""
    first = sorted((fault.remedy for fault in found), key=lambda remedy: -remedy.gain)
    if evidence.shift is not None or evidence.at_chance:
        return tuple(first)
    others = [*_wider(evidence), *_split(evidence), *_mixed(evidence), *_method(evidence), *_cpu(evidence)]
    others += [*_rounded(evidence, found), *_coarse_weights(evidence, found)]
    return (*first, *(remedy for _, remedy in sorted(others, key=lambda pair: pair[0], reverse=True)))


def _wider(evidence: Measurements) -> list[Ranked]:
    on_cpu = frozenset(node.name for node in evidence.cpu)
    taken = evidence.precision
    if taken is None:
        return []
    kept = _kept_method(evidence)
    found = [
        _ranked(
            gain,
            f"Give layer {group.name} ({group.kind}) 16-bit {'inputs' if group.inputs_only else 'activations'}",
            recipe_lines([group], on_cpu) + kept,
            gain.figure,
        )
        for group, gain in taken.layer_gains[:SINGLE_LAYERS]
        if _helps(gain)
    ]
    sets = [(groups, gain) for groups, gain in taken.set_gains if _helps(gain)]
    if sets:
        # The fewest layers that gain nearly as much as all: each costs speed.
        most = max(_nearer(gain) for _, gain in sets)
        groups, gain = next(pair for pair in sets if _nearer(pair[1]) >= 0.8 * most)
        names = ", ".join(group.name for group in groups)
        if _nearer(gain) - _nearer(taken.layer_gains[0][1]) > LEAST:
            found.append(
                _ranked(
                    gain,
                    f"Give {counted(len(groups), 'layer')} 16-bit activations: {names}",
                    recipe_lines(groups, on_cpu) + kept,
                    gain.figure + _bound(taken.all_gain),
                )
            )
    return found


def _kept_method(evidence: Measurements) -> str:
    """Return the recipe line that keeps the calibration of this build, where the compiler chose it.

    Measured on YOLOX-nano: with two layers at 16 bits its search chose another one, and AP fell from 21 to 4.
    """
    chosen = (evidence.built.manifest.get("calibration") or {}).get("method")
    items = compiler_settings(evidence.built.files).get("calibration_parameters.optimization", "")
    kept = pinned(Calibration(optimization=tuple(filter(None, items.split(";")))), chosen)
    if kept.method == "default":
        return ""
    keys = f"method: {kept.method}"
    if kept.max_percentile is not None:
        keys += f", max_percentile: {kept.max_percentile}"
    keys += ", per_channel: true" * kept.per_channel
    keys += f", optimization: [{', '.join(kept.optimization)}]" * bool(kept.optimization)
    return f"\ncalibration: {{{keys}}}   # as the compiler chose; it may choose otherwise beside 16 bits"


def _bound(gain: Gain) -> str:
    agreement = f"{100 * gain.after:.1f}" if gain.boxes else f"{100 * gain.after:.1f} %, cosine {gain.cosine_after:.4f}"
    return f"; all activations at 16 bits: {agreement}"


def _boxes_lost(evidence: Measurements) -> str:
    """Return the figures that say that a detector loses most by its activations; empty if it does not."""
    weights, activations = evidence.share("weights"), evidence.share("activations")
    if not evidence.boxes or weights is None or activations is None or activations.agreement >= weights.agreement:
        return ""
    return f"activations alone: AP {100 * activations.agreement:.1f}, weights alone: {100 * weights.agreement:.1f}"


def _split(evidence: Measurements) -> list[Ranked]:
    """Propose channels split by range, where the activations around depthwise convolutions cost."""
    taken, about, lost = evidence.precision, evidence.built.manifest, _boxes_lost(evidence)
    gain = taken.split_gain if taken is not None and lost else None
    if gain is None or taken is None or about.get("range_split") or not _helps(gain):
        return []
    plain = about.get("precision") == "int8"
    how = rebuild(evidence.built, ("--precision", SPLIT)) if plain else SPLITTING
    what = (
        f"Split the channels around the {taken.depthwise} depthwise convolutions by range, so that each part has a "
        "threshold of its own, chosen by the boxes: a few wide channels take the steps of all others"
    )
    return [_ranked(gain, what, how, f"{lost}; the most to win, with these activations unrounded: {gain.figure}")]


def _mixed(evidence: Measurements) -> list[Ranked]:
    """Propose 16 bits where they count most, where activations cost and there is nothing to split."""
    taken, about, lost = evidence.precision, evidence.built.manifest, _boxes_lost(evidence)
    if taken is None or not lost or taken.depthwise or about.get("thresholds") or not _helps(taken.all_gain):
        return []
    plain = about.get("precision") == "int8"
    how = rebuild(evidence.built, ("--precision", MIXED)) if plain else MIXING
    what = "Choose thresholds by the boxes, and give 16 bits to the activations that these need most; it costs time"
    return [_ranked(taken.all_gain, what, how, f"{lost}; all activations at 16 bits: {taken.all_gain.figure}")]


def _method(evidence: Measurements) -> list[Ranked]:
    gain = evidence.precision.max_gain if evidence.precision is not None else None
    if gain is None or not _helps(gain) or gain.points < 1:
        return []
    return [
        _ranked(
            gain,
            "Set the thresholds to the largest values seen: the compiler's choice clips too much",
            "calibration: {method: max}",
            gain.figure,
        )
    ]


def _rounded(evidence: Measurements, found: tuple[Fault, ...]) -> list[Ranked]:
    """Propose weights rounded so that errors cancel, where the weights cost most."""
    taken, about = evidence.precision, evidence.built.manifest
    weights, activations = evidence.share("weights"), evidence.share("activations")
    gain = taken.weights_gain if taken is not None else None
    if weights is None or activations is None or gain is None or about.get("rounding"):
        return []
    less = weights.agreement < activations.agreement if evidence.boxes else weights.cosine < activations.cosine
    if not less or not _helps(gain) or any(fault.step == "weights" for fault in found):
        return []
    plain = about.get("precision") == "int8"
    how = rebuild(evidence.built, ("--precision", ROUNDED)) if plain else ROUNDING
    figure = (
        f"weights alone: AP {100 * weights.agreement:.1f}; activations alone: {100 * activations.agreement:.1f}"
        if evidence.boxes
        else f"weights alone: float's answer on {100 * weights.agreement:.1f} %, cosine {weights.cosine:.4f}; "
        f"activations alone: {100 * activations.agreement:.1f} %, {activations.cosine:.4f}"
    )
    figure += f"; the most to win, with no weight rounded: {gain.figure}"
    what = "Round the weights so that their errors cancel, at no cost in speed: they cost most"
    return [_ranked(gain, what, how, figure)]


def _coarse_weights(evidence: Measurements, found: tuple[Fault, ...]) -> list[Ranked]:
    if any(fault.step == "weights" for fault in found):
        return []
    return [
        _ranked(
            gain,
            f"Fine-tune with rounded weights: {weight.tensor} rounds coarsely (channel {weight.channel})",
            rebuild(evidence.built),
            gain.figure,
        )
        for weight, gain in ruined(evidence)[:1]
    ]


def _cpu(evidence: Measurements) -> list[Ranked]:
    found = []
    for node in evidence.cpu:
        if not node.inside:
            continue
        time = f", {node.milliseconds:.2f} ms on this CPU" if node.milliseconds is not None else ""
        figure = f"{node.transfer_bytes:,} bytes between BPU and CPU per frame{time}"
        what = f"Keep {node.op} {node.name} on the BPU; it splits the network"
        found.append(((0.0, 0.0), Remedy(what, f"  {node.name}: {{'on': BPU}}", figure, 0.0)))
    return found


def _helps(gain: Gain) -> bool:
    points = LEAST_AP if gain.boxes else LEAST_POINTS
    return gain.before < 1 and gain.expected >= points and gain.sure and _nearer(gain) > LEAST


def _nearer(gain: Gain) -> float:
    return gain.after - gain.before if gain.boxes else gain.closer


def _ranked(gain: Gain, what: str, how: str, figure: str) -> Ranked:
    """Return a remedy with its rank: its expected gain, then how close the scores come."""
    return (gain.expected, _nearer(gain)), Remedy(what, how, figure, gain.expected)


def rebuild(built: Built, *options: tuple[str, str]) -> str:
    """Return the command that made the build, with options added or replaced."""
    words = shlex.split(str(built.manifest.get("command", ""))) or ["edge", "build", built.metadata.model]
    for option, value in options:
        if option in words[:-1]:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    # Placeholders such as DIR are for the user to fill in; shlex.join quotes none of these.
    return shlex.join(words)


def recipe_lines(groups: Sequence[Group], on_cpu: frozenset[str]) -> str:
    """Return the lines under ``nodes:`` of a precision recipe that give layers 16 bits.

    The last layer's output leaves the BPU unrounded, so only its inputs are set.
    """
    return "\n".join(
        f"  {name}: {{'on': BPU, inputs: int16{'' if group.last or group.inputs_only else ', outputs: int16'}}}"
        for group in groups
        for name in group.nodes
        if name not in on_cpu
    )


def verdict(evidence: Measurements, found: tuple[Fault, ...]) -> str:
    """Return the diagnosis in one line."""
    if found:
        sentence = found[0].sentence
        return sentence[0].upper() + sentence[1:]
    parts = ["No fault found"]
    program = evidence.step("end to end")
    if program is not None and evidence.boxes:
        found_again = evidence.like("the program", "float's", program.agreement)
        parts.append(f"{found_again}, both behind NV12, on {counted(evidence.n, 'image')}")
    elif program is not None:
        share = f"{100 * program.agreement:.1f} % of {counted(evidence.n, 'image')}"
        parts.append(f"the program gives float's answer behind NV12 on {share}")
    if _nv12_leads(evidence):
        parts.append(f"NV12 costs most: {_nv12_figure(evidence)}")
    weights, activations = evidence.share("weights"), evidence.share("activations")
    if weights is not None and activations is not None:
        order = sorted((weights, activations), key=lambda item: item.agreement if evidence.boxes else item.cosine)
        figure = "AP" if evidence.boxes else "cosine"
        parts.append(
            f"{'of the rounding' if _nv12_leads(evidence) else 'rounded'} {order[0].part} cost most "
            f"({figure} {evidence.kept(order[0])} alone, {order[1].part} {evidence.kept(order[1])})"
        )
        between = sorted((s for s in evidence.shares if s.tensors), key=lambda item: item.agreement)
        if between and order[0] is activations:
            most = " and ".join(
                f"{s.part} ({counted(s.tensors or 0, 'tensor')}, AP {evidence.kept(s)} alone)" for s in between[:2]
            )
            parts.append(f"of these the ones between {most}")
    nv12 = evidence.share("NV12")
    if nv12 is not None and nv12.agreement < _enough(evidence):  # and rounding costs more, else it were a fault
        parts.append(f"NV12 costs much, too: {_nv12_figure(evidence)}")
    taken = evidence.precision
    if taken is not None and taken.alone:
        figure = f" (AP {100 * taken.alone[taken.worst][1]:.1f} alone)" if evidence.boxes else ""
        parts.append(f"of all layers {taken.worst} most{figure}")
    noisy = [one for one in taken.outputs if one.snr_db is not None] if taken is not None and evidence.boxes else []
    if noisy:
        last = min(noisy, key=lambda one: one.snr_db or 0.0)
        parts.append(f"the outputs lose most at {last.name} (signal to noise {last.snr_db:.1f} dB)")
    return "; ".join(parts)
