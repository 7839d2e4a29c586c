"""What a report says, as data: ``report.json`` is this, and the page and the Markdown are views of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen

from edge.diagnose.findings import Diagnosis
from edge.report.search import PrecisionSearch

SCHEMA_VERSION = 1

Interval = tuple[float, float]  # in percent or points
Judgement = Literal["loss", "gain", "noise", "none", "untested"]
FlagKind = Literal["weights", "approximate", "unverified", "stale"]
Fact = Mapping[str, Any]  # a row that is only shown


@frozen
class JudgedChange:
    """A step against the step before it."""

    before: str  #: title of that step.
    points: float  #: change of Top-1 or AP in points; negative is a loss.
    interval: Interval | None  #: 95 % interval of ``points``; None where images were not compared in pairs.
    lost: int | None  #: images that became wrong, objects no longer found; None like ``interval``.
    gained: int | None  #: the reverse; None like ``interval``.
    p: float | None  #: as ``Change.p`` of :mod:`edge.accuracy.table`, 0..1; None like ``interval``.
    #: beyond noise a loss or a gain, within noise, nothing changed, or not tested.
    judgement: Judgement


@frozen
class StepFigures:
    """One step from the float network to the program. All shares are percentages, their intervals Wilson's."""

    name: str  #: such as ``quantized``.
    title: str  #: as shown.
    by: str  #: what executed it.
    n: int  #: images that it answered.
    top1: float | None  #: None without labels, as are the next three.
    top1_interval: Interval | None  #: 95 %, Wilson.
    top5: float | None  #: percent.
    top5_interval: Interval | None  #: 95 %, Wilson.
    agreement: float  #: same Top-1 answer as ``agreement_with``.
    agreement_interval: Interval  #: 95 %, Wilson.
    cosine: float  #: mean cosine of the scores with those of ``agreement_with``.
    agreement_before: float | None = None  #: same answer as the step before; None for the first or if unknown.
    cosine_before: float | None = None  #: likewise.
    change: JudgedChange | None = None  #: None for the first and without labels.
    seconds: float | None = None  #: wall time of the images computed then; None if unknown.
    sampled: bool = False  #: whether it answered only a part of the images.
    agreement_with: str = "float on RGB"  #: or ``float behind NV12``, for what comes after NV12.
    #: of raw outputs, as ``outputs`` of a step in ``eval.json``; empty for class scores.
    outputs: tuple[Fact, ...] = ()
    boxes: Fact | None = None  #: of a detector, as ``boxes`` of a step in ``eval.json``.

    @property
    def figure(self) -> tuple[float, Interval | None]:
        """Top-1 and its interval, or a detector's AP; without labels, agreement with float."""
        if self.boxes is not None:
            known = self.boxes["ap"]
            return (known["ap"] if known else self.boxes["self_ap"] or 0.0), None
        if self.top1 is None:
            return self.agreement, self.agreement_interval
        return self.top1, self.top1_interval

    @property
    def worst(self) -> Fact:
        """The raw output with the lowest signal to noise."""
        return min(self.outputs, key=lambda one: math.inf if one["snr_db"] is None else one["snr_db"])


@frozen
class Thumbnail:
    """An image as the network sees it: cropped, then through NV12."""

    name: str  #: in its set.
    alt: str  #: text alternative.
    image: str = ""  #: data URI; empty where the image is missing. Not in ``report.json``.
    why_not: str = ""  #: why there is no image; empty if there is.
    width: int = 0  #: of the image in pixels.
    height: int = 0  #: of the image in pixels.


@frozen
class MistakeShown:
    """An image that float got right and the program wrong, with both answers; probabilities are 0..1."""

    image: Thumbnail  #: as the network sees it.
    label: str  #: name of the right class.
    float_answer: str  #: name of float's class.
    float_probability: float  #: that float gives it, 0..1.
    answer: str  #: name of the program's class.
    probability: float  #: that the program gives it, 0..1.


@frozen
class BoxesShown:
    """An image whose boxes the program changed; those that both have are grey, the others have a caption."""

    like: Thumbnail  #: with the boxes of float behind NV12.
    program: Thumbnail  #: with the program's.
    lost: tuple[str, ...]  #: class and score of float's boxes without a counterpart.
    gained: tuple[str, ...]  #: likewise of the program's.


@frozen
class Accuracy:
    """What was measured on images."""

    source: str  #: the file that the figures are from: ``eval.json`` or ``manifest.json``.
    command: str  #: the command that measured it.
    dataset: str  #: description of the images.
    dataset_sha256: str  #: of their names, labels and contents.
    n: int  #: images.
    unlabelled: str  #: why there is no Top-1 or AP; empty if there is.
    steps: tuple[StepFigures, ...]  #: in order; the first is float.
    quantized: str  #: the step that stands for the program.
    verdict: str = ""  #: one line; empty if there is none.
    explanation: tuple[str, ...] = ()  #: sentences on each step.
    mistakes: tuple[MistakeShown, ...] = ()  #: the ones that are shown.
    mistakes_total: int | None = None  #: number of all mistakes; None if unknown.
    changed: tuple[BoxesShown, ...] = ()  #: of a detector, some images whose boxes changed most.
    unreadable: tuple[str, ...] = ()  #: names of images that could not be read; they are in no figure.
    seconds: float | None = None  #: wall time; None if unknown.
    versions: Mapping[str, str] = field(factory=dict)  #: of the programs that ran.
    #: the change from float to ``quantized``; None without labels or if it was not tested.
    total: JudgedChange | None = None

    @property
    def through_nv12(self) -> bool:
        """Whether a step feeds the float network through NV12: an input is a camera image."""
        return any(step.name == "nv12" for step in self.steps)

    @property
    def raw(self) -> bool:
        """Whether the outputs are compared as numbers: they are no class scores."""
        return any(step.outputs for step in self.steps)

    @property
    def detector(self) -> bool:
        """Whether the answers are boxes."""
        return any(step.boxes for step in self.steps)

    def step(self, name: str) -> StepFigures | None:
        """Return the step of that name; None if it was not measured."""
        return next((step for step in self.steps if step.name == name), None)

    @property
    def last(self) -> StepFigures:
        """The step that stands for the program, or the last that was measured."""
        return self.step(self.quantized) or self.steps[-1]


@frozen
class Flag:
    """Something that a reader must know before believing a figure; a command to type where that helps."""

    kind: FlagKind  #: what is in doubt.
    title: str  #: in two words.
    text: str  #: one or two sentences.
    command: str = ""  #: the command that changes it; empty if none does.


@frozen
class LayerRow:
    """How far one layer's output is from float."""

    name: str  #: in the model's own module path.
    kind: str  #: such as ``conv`` or ``LayerNorm``; the compiler's operator where there is no diagnosis.
    on: str  #: ``BPU`` or ``CPU``.
    dtype: str  #: ``int8``, ``int16`` or ``float``.
    cosine: float  #: with everything quantized, -1..1.
    #: of the network's scores, or of a detector's outputs, with only this layer quantized; None without a diagnosis.
    alone_cosine: float | None = None
    #: percent of images whose answer stays then, or a detector's AP with float's boxes as objects; None without a
    #: diagnosis.
    alone_agreement: float | None = None
    low: float | None = None  #: smallest value of its output; None if unknown.
    high: float | None = None  #: largest value; None if unknown.
    threshold: float | None = None  #: magnitude at which calibration clips; None where it is not quantized.
    saturated: float | None = None  #: share of the values beyond the threshold, 0..1; None if unknown.
    #: largest channel's magnitude over the median channel's; None if unknown.
    outlier_ratio: float | None = None


@frozen
class Layers:
    """Similarity over the depth of the network."""

    source: str  #: ``diagnosis``, ``compile log``, or empty where nothing says it.
    note: str  #: what the figures are measured on.
    rows: tuple[LayerRow, ...] = ()  #: in graph order.
    boxes: bool = False  #: whether ``alone_agreement`` is an AP, by which the layers of a detector are ranked.

    @property
    def alone(self) -> bool:
        """Whether each layer was measured alone, too."""
        return any(layer.alone_cosine is not None for layer in self.rows)

    def worst(self, count: int = 10) -> tuple[tuple[int, LayerRow], ...]:
        """Return (index in ``rows``, layer) of the worst: most harmful alone, else furthest from float."""

        def badness(index: int) -> tuple[float, float, float, int]:
            layer = self.rows[index]
            alone = layer.cosine if layer.alone_cosine is None else layer.alone_cosine
            return (layer.alone_agreement or 0.0) if self.boxes else 0.0, alone, layer.cosine, index

        order = sorted(range(len(self.rows)), key=badness)
        return tuple((index, self.rows[index]) for index in order[:count])


@frozen
class SpeedRow:
    """A speed figure, who says so, and what it covers; None where a number is unknown or has no meaning."""

    source: Literal["static", "published", "board"]  #: the compiler, others, or your board.
    title: str  #: as shown.
    threads: int | None  #: threads that submit frames; None if it does not apply.
    latency_ms: float | None  #: milliseconds a frame.
    fps: float | None  #: frames a second.
    note: str  #: what it covers, and where it was measured.


@frozen
class Speed:
    """Speed figures side by side."""

    rows: tuple[SpeedRow, ...]  #: the figures.
    notes: tuple[str, ...]  #: what they cover.
    ddr_bytes: int | None = None  #: memory traffic of the BPU part, bytes a frame; None without a program.

    def first(self, source: Literal["static", "published", "board"]) -> SpeedRow | None:
        """Return the first figure of a source; None if it has none."""
        return next((row for row in self.rows if row.source == source), None)


@frozen
class CalibrationShown:
    """The calibration set, and some of its images."""

    n: int  #: number of images.
    source: str  #: where they came from.
    method: str  #: how ranges were chosen, as the compiler names it.
    seed: int  #: of the choice of images.
    sha256: str  #: over the names and hashes of all files.
    images: tuple[Thumbnail, ...] = ()  #: some of them.
    why_no_images: str = ""  #: empty if there are some.


@frozen
class Report:
    """Everything that a report says."""

    name: str  #: of the program, such as ``ConvNeXt_atto_demo``.
    model: str  #: the zoo's name, or the user's.
    verdict: str  #: what it is, what it costs, how fast it is, in one line.
    flags: tuple[Flag, ...]  #: what a reader must know first.
    command: str  #: the command that built it.
    edge: str  #: version of edge that built it.
    weights: Mapping[str, Any]  #: where they came from, as in ``manifest.json``.
    precision: str  #: name of the recipe; empty if onnxruntime quantized, which reads none.
    recipe: Mapping[str, str]  #: the compiler's settings: flat key -> value.
    compiler: str  #: which one: ``managed``, ``path``, ``docker`` or ``onnxruntime``.
    versions: Mapping[str, str]  #: of the compiler's tools.
    exporter: str  #: versions of what exported the float network; empty if unknown.
    preprocess: Mapping[str, Any]  #: from an image to the network's input, as in ``manifest.json``.
    accuracy: Accuracy  #: of each step.
    diagnosis: Diagnosis | None  #: None if there is no ``diagnosis.json`` of these files.
    layers: Layers  #: how similar each layer is to float's.
    #: ``bpu`` and ``cpu``, numbers of nodes, and ``nodes``, a list of those on the CPU: ``name``, ``op``, ``inside``
    #: (true between two BPU parts, false at an end of the network). None without the vendor's compiler.
    placement: Fact | None
    speed: Speed  #: the figures side by side.
    board: Mapping[str, Any] | None  #: what ``edge board`` recorded, as in ``manifest.json``; None if nothing.
    board_facts: tuple[tuple[str, str], ...]  #: the rest of that for people, without the speed: name and value.
    published_accuracy: str  #: what others published, as a sentence; empty if nothing.
    calibration: CalibrationShown  #: the images that ranges were taken from.
    verify: str  #: whether the program computes what was measured, one line; empty without the vendor's compiler.
    #: whether all integers were equal; false too where verify could not run; None without the vendor's compiler.
    verified: bool | None
    #: ``name``, ``seconds``, ``cached`` and ``command`` of each, as in ``manifest.json``.
    stages: tuple[Fact, ...]
    files: tuple[Fact, ...]  #: the published files, as ``artifacts`` in ``manifest.json``.
    schema_version: int = SCHEMA_VERSION
    search: PrecisionSearch | None = None  #: None if ``edge tune`` was not run for this float network.
    prepared: tuple[str, ...] = ()  #: what the stages changed in the float network, as sentences.
