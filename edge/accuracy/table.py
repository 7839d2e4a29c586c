"""The result of an evaluation: one row per step, and the change from the step before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import field, frozen

from edge.errors import counted
from edge.measure.average_precision import AveragePrecision
from edge.measure.scores import Score
from edge.measure.statistics import may_be_chance, p_value, wilson
from edge.specs.schema import Task

FILE = "eval.json"
SCHEMA_VERSION = 3

StepName = Literal["float", "simplified", "nv12", "calibrated", "quantized", "program", "portable", "board"]


# How the float network saw the images that a step's agreement is with.
REFERENCES: Mapping[str, str] = {"nv12": "behind NV12", "float": "on RGB"}


@frozen
class Change:
    """A step compared with the step before it, on the same images."""

    points: float  #: Top-1 of this step minus Top-1 of the step before, in points; negative is a loss. Or AP.
    #: 95 % interval of ``points``: :func:`edge.measure.statistics.paired_interval`, of AP
    #: :func:`edge.measure.average_precision.change`.
    interval: tuple[float, float]
    lost: int  #: images that the step before got right and this one wrong; of a detector objects, found and not found.
    gained: int  #: the reverse.
    p: float  #: of the exact two-sided McNemar test; of AP of the paired bootstrap.


@frozen
class OutputResult:
    """One output at one step of a network with raw outputs, compared as numbers with ``agreement_with``."""

    name: str  #: in the float network.
    shape: tuple[int, ...]  #: batch first.
    cosine: float  #: mean over the images, -1..1.
    #: signal to noise in dB: float's squares over those of the error, summed over all images; None without any error.
    snr_db: float | None
    largest_error: float  #: absolute, of all values of all images.
    low: float  #: smallest value of what it is compared with.
    high: float  #: largest value of that.
    identical: int  #: images with bit for bit the same values.


@frozen
class BoxResult:
    """A detector's boxes at one step."""

    ap: AveragePrecision | None  #: with the labelled objects; None without labels.
    #: AP in percent with float's boxes from a score of 0.25 on as the objects, those of ``agreement_with``.
    self_ap: float | None
    lost: int  #: of those boxes of float, the ones that no box from a score of 0.25 on covers half (IoU 0.50).
    gained: int  #: boxes from that score on that no such box of float covers.


#: left, top, right, bottom in pixels of the image, score, class index.
Box = tuple[float, float, float, float, float, int]


@frozen
class ChangedImage:
    """An image whose boxes the last step changed; all boxes from a score of 0.25 on."""

    image: str  #: its name in the set.
    path: str | None  #: where the file is, absolute; None for a rendered one.
    like: tuple[Box, ...]  #: float's, of the step that the last one is compared with.
    boxes: tuple[Box, ...]  #: of the last step.
    lost: tuple[int, ...]  #: places in ``like`` of the boxes that have no counterpart.
    gained: tuple[int, ...]  #: places in ``boxes`` likewise.


@frozen
class StepResult:
    """One step."""

    name: StepName  #: of the step.
    by: str  #: what executed it, such as ``onnxruntime 1.32.0``.
    n: int  #: images that it answered; fewer if it is measured on a sample.
    score: Score | None  #: None without labels.
    before: StepName | None  #: the step that it is compared with; None for the first.
    change: Change | None  #: None for the first step and without labels.
    #: of its n images, those with float's Top-1 answer behind NV12. Up to ``nv12`` itself: with float's on RGB. Of raw
    #: outputs: those with bit for bit the same values. Of a detector: those on which no box is lost or gained.
    agreement: int
    #: mean cosine of its scores with float's, likewise, -1..1; of raw outputs the lowest one's; of a detector AP with
    #: float's boxes as the objects, 0..1.
    cosine: float
    agreement_before: int | None  #: the same with the step before; None for the first.
    cosine_before: float | None  #: mean cosine with the step before; None for the first.
    seconds: float  #: wall time of the images computed now.
    computed: int  #: images computed now; the others came from an earlier run.
    identical_before: int | None = None  #: of its n images, those with bit for bit the scores of the step before.
    #: the step that ``agreement`` and ``cosine`` are with: ``nv12`` behind it, ``float`` up to it.
    agreement_with: StepName = "float"
    outputs: tuple[OutputResult, ...] = ()  #: figures of raw outputs; empty for class scores.
    boxes: BoxResult | None = None  #: figures of a detector; None for others.

    @property
    def worst(self) -> OutputResult:
        """The raw output with the lowest signal to noise."""
        return min(self.outputs, key=lambda output: math.inf if output.snr_db is None else output.snr_db)

    @property
    def agreement_percent(self) -> float:
        """``agreement`` in percent of its images."""
        return 100 * self.agreement / self.n


@frozen
class Mistake:
    """An image that float got right and the last step wrong; without labels, one with another answer behind NV12."""

    image: str  #: its name in the set.
    path: str | None  #: where the file is, absolute; None for a rendered one.
    label: int | None  #: class index; None if unknown.
    float_answer: int  #: class index that float gave; without labels, behind NV12.
    answer: int  #: class index that the last quantized step gave.
    float_probability: float  #: of float's own answer, 0..1.
    probability: float  #: of the quantized step's answer.


@frozen
class Evaluation:
    """A whole evaluation; ``eval.json`` in the build folder is this."""

    name: str  #: of the program, such as ``ConvNeXt_atto_demo``.
    command: str  #: what the user typed.
    #: role -> sha256 of the files that were measured (``float_onnx``, ``bin``, …); the table holds for these only.
    models: Mapping[str, str]
    dataset: str  #: description of the images.
    dataset_sha256: str  #: of their names, labels and contents.
    n: int  #: images that were read and answered.
    unlabelled: str  #: why there is no Top-1; empty if there is.
    steps: tuple[StepResult, ...]  #: in order.
    #: the step that represents the program on all images: ``quantized`` or ``portable``, else the last measured one.
    quantized: StepName
    verdict: str  #: one line.
    explanation: tuple[str, ...]  #: sentences: what each step costs, and which changes are within noise.
    mistakes: tuple[Mistake, ...]  #: at most 48, the ones on which float was most certain first.
    mistakes_total: int  #: how many there are.
    unreadable: tuple[str, ...]  #: names of images that could not be read; they are in no figure.
    versions: Mapping[str, str] = field(factory=dict)  #: of the programs that ran.
    seconds: float = 0.0  #: wall time of the whole command.
    schema_version: int = SCHEMA_VERSION
    total: Change | None = None  #: the change from ``float`` to ``quantized``; None without labels.
    task: Task = "classify"  #: what the outputs mean.
    #: of a detector, the images whose boxes the quantized step changed most, at most 12.
    changed: tuple[ChangedImage, ...] = ()
    labels_doubt: str = ""  #: that the labels count the classes otherwise than the float network; empty as a rule.

    def step(self, name: StepName) -> StepResult:
        """Return the result of a step; KeyError if it was not measured."""
        for result in self.steps:
            if result.name == name:
                return result
        raise KeyError(name)

    @property
    def drop(self) -> float | None:
        """Top-1 lost from float to the program, of a detector AP, in points; None without labels."""
        return None if self.total is None else -self.total.points


def explain(
    steps: Sequence[StepResult], quantized: StepName, total: Change | None, unlabelled: str
) -> tuple[str, tuple[str, ...]]:
    """Return the verdict in one line, and sentences about the steps; the first step is ``float``."""
    last = next(step for step in steps if step.name == quantized)
    later = [step for step in steps if step.before is not None]
    sentences = [_step(step) for step in later]
    if unlabelled:
        sentences.append(f"There is no Top-1 ({unlabelled}), so it is not known whether a changed answer is worse.")
    else:
        sentences += largest(later, total)
    return _verdict(steps[0], last, total), tuple(sentences)


def raw_line(step: StepResult) -> str:
    """Return how far raw outputs are from float's, in a few words: those of the worst output."""
    worst = step.worst
    like = f" {REFERENCES['nv12']}" if step.agreement_with == "nv12" else ""
    if worst.snr_db is None:
        return f"outputs bit for bit float's{like}"
    where = f", worst {worst.name}" if len(step.outputs) > 1 else ""
    return f"signal to noise {worst.snr_db:.1f} dB, cosine {step.cosine:.4f} with float{like}{where}"


def boxes_line(first: StepResult, last: StepResult) -> str:
    """Return what a detector loses from one step to another, in a few words: its AP, without labels its boxes."""
    own, whole = (None if step.boxes is None else step.boxes.ap for step in (first, last))
    if own is None or whole is None:
        return agreement_line(last)
    return f"AP {own.ap:.1f} → {whole.ap:.1f}, AP50 {own.ap50:.1f} → {whole.ap50:.1f}"


def agreement_line(step: StepResult) -> str:
    """Return how far a step's boxes are from float's, in a few words."""
    assert step.boxes is not None  # noqa: S101 - of a detector
    like = REFERENCES[step.agreement_with]
    if step.boxes.self_ap is None:
        return f"float {like} sees nothing on any image"
    return (
        f"AP {step.boxes.self_ap:.1f} with the boxes of float {like} as objects, {step.boxes.lost} of them lost, "
        f"{step.boxes.gained} others gained"
    )


def within_noise(change: Change) -> bool:
    """Say whether a change may be chance, by its p; its interval agrees."""
    return may_be_chance(change.p)


def _verdict(first: StepResult, last: StepResult, total: Change | None) -> str:
    if first is last:
        if first.score is None:
            return f"Only the float network was measured, on {counted(first.n, 'image')} without labels."
        return f"The float network is right on {first.score.top1:.2f} % of {counted(first.n, 'image')}."
    subject = WHOLE.get(last.name, f"The way up to {last.name}")
    if total is None or first.score is None or last.score is None:
        low, high = wilson(last.agreement, last.n)
        share = 100 * last.agreement / last.n
        what = "The program" if last.name in WHOLE else f"The {last.name} network"
        return (
            f"{what} gives the float network's answer {REFERENCES[last.agreement_with]} on {share:.1f} % of "
            f"{counted(last.n, 'image')} "
            f"(95 % {100 * low:.1f} to {100 * high:.1f}); without labels no more is known."
        )
    where = f"Top-1 {first.score.top1:.2f} → {last.score.top1:.2f} %, n = {last.n}"
    if first.n != last.n:
        where = f"on {last.n} of {counted(first.n, 'image')}"
    return f"{subject} {effect(total)}: {where}."


def _step(step: StepResult) -> str:
    """Return a sentence on one step against the step before it."""
    subject = subject_of_step(step)
    images = counted(step.n, "image")
    sample = f" on the {images} it was tried on" if step.name == "program" else ""
    if step.identical_before == step.n:
        return f"{subject} gives the scores of {step.before} bit for bit{sample or f' on all {images}'}."
    changed = step.n - (step.agreement_before or 0)
    if changed == 0:
        return f"{subject} changes no answer{sample or f' on {images}'}."
    if step.change is None:
        share = 100 * changed / step.n
        return f"{subject} changes the answer on {changed} of {images} ({share:.1f} %)."
    answers = f"{counted(changed, 'answer')} changed"
    turned = f"{step.change.lost} to wrong and {step.change.gained} to right"
    return f"{subject} {effect(step.change)}{sample}; {answers}, {turned}."


def subject_of_step(step: StepResult) -> str:
    """Return the subject of a sentence on a step: what it does."""
    if step.name == "quantized" and step.before != "calibrated":
        return "Quantization"
    if step.name == "portable" and step.before not in ("quantized", "program"):
        return "Quantization"
    return _STEPS[step.name]


def effect(change: Change, what: str = "Top-1") -> str:
    """Return such as ``costs 0.4 points (95 % -0.2 to 1.0), within noise (p = 0.31)``."""
    low, high = change.interval
    if change.points < 0:
        size = f"costs {_points(-change.points)} (95 % {_bounds(-high, -low)})"
    elif change.points > 0:
        size = f"gains {_points(change.points)} (95 % {_bounds(low, high)})"
    else:
        size = f"leaves {what} as it is (95 % {_bounds(low, high)})"
    return f"{size}, {'within' if within_noise(change) else 'beyond'} noise ({p_value(change.p)})"


def largest(later: Sequence[StepResult], total: Change | None) -> list[str]:
    """Say where the loss comes from, if it is beyond noise."""
    if total is None or not later:
        return []
    real = [step for step in later if step.change and step.change.points < 0 and not within_noise(step.change)]
    if not real:
        if total.points < 0 and not within_noise(total):
            return ["The whole loss is beyond noise, but no single step is: more images would show which step."]
        return ["No step costs more than noise does; more images would narrow the intervals."]
    worst = min(real, key=lambda step: step.change.points if step.change else 0.0)
    assert worst.change is not None  # noqa: S101 - real holds such only
    return [f"The largest cost is at {worst.name}: {_points(-worst.change.points)}."]


def _points(value: float) -> str:
    """One decimal, two where one would hide the change."""
    text = f"{value:.1f}" if round(value, 1) else f"{value:.2f}"
    return f"{text} point{'' if text == '1.0' else 's'}"


def _bounds(low: float, high: float) -> str:
    return f"{low + 0.0:.1f} to {high + 0.0:.1f}".replace("-0.0", "0.0")


_STEPS: dict[StepName, str] = {
    "float": "The float network",
    "simplified": "The simplifier",
    "nv12": "NV12",
    "calibrated": "Rounding to the calibrated int8 steps (simulated in float)",
    "quantized": "Integer arithmetic",
    "program": "The compiled program",
    "portable": "The portable model",
    "board": "The board",
}
WHOLE: Mapping[StepName, str] = {
    "quantized": "Quantization, NV12 included,",
    "portable": "Quantization, NV12 included,",
}
