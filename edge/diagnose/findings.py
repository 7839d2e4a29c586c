"""The result of a diagnosis, as stored in ``diagnosis.json`` in the build folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from edge.measure.layers import UnitKind
from edge.measure.objective import Answers, Objective
from edge.specs.schema import Task

FILE = "diagnosis.json"
SCHEMA_VERSION = 1


def share(part: str, reference: Answers, answers: Answers, objective: Objective) -> Share:
    """Return how far quantizing a part moves the answers from the reference's."""
    right = objective.right(answers)
    return Share(
        part=part,
        agreement=objective.agreement(reference, answers),
        cosine=objective.cosine(reference, answers),
        top1=None if objective.boxes else right,
        ap=right if objective.boxes else None,
    )


def names(items: Sequence[str], most: int = 3) -> str:
    """Return the first of several names, and how many more there are."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


@frozen
class Range:
    """The values of a layer's output on the images, before quantization."""

    low: float  #: smallest value.
    high: float  #: largest value.
    threshold: float | None  #: magnitude at which calibration clips; None if it is not quantized.
    saturated: float  #: share of the values beyond the threshold, 0..1.
    outlier_ratio: float | None = None  #: largest channel's magnitude over the median channel's; None without channels.
    outlier_channel: int | None = None  #: index of that channel.


@frozen
class LayerResult:
    """A layer of the model: a convolution, or all nodes of one LayerNorm or GELU."""

    name: str  #: in the model's own module path, such as ``stages.2.blocks.5.norm``.
    kind: UnitKind  #: what it is.
    nodes: tuple[str, ...]  #: the compiler's node names in it.
    cosine: float  #: of its output with everything quantized, against float, mean over the images.
    #: of the network's scores with only this layer quantized, against float; the mean of a detector's outputs.
    alone_cosine: float
    #: share of images, 0..1, with the same answer when only this layer is quantized; of a detector AP, 0..1, with
    #: float's boxes as objects.
    alone_agreement: float
    bits: int  #: 8 or 16.
    on: str  #: ``BPU`` or ``CPU``.
    range: Range  #: of its output.


@frozen
class Share:
    """How far the network's answers move when only a part of it is quantized."""

    #: ``weights``, ``activations``, ``both``, or ``NV12`` (the float net behind NV12); of a detector also the
    #: activations between two kinds of layers, such as ``conv → activation``.
    part: str
    agreement: float  #: share of the images with the float net's answer, or AP with its boxes as objects, 0..1.
    cosine: float  #: mean cosine with the float net's scores, or mean of a detector's outputs.
    top1: float | None  #: percent right; None without labels, and of a detector.
    ap: float | None = None  #: COCO's, in percent, with the labelled objects; None without, and of a classifier.
    tensors: int | None = None  #: how many are rounded between two kinds of layers; None for the other parts.


@frozen
class OutputNoise:
    """How far an output of a detector is from the float network's, on a sample of its values."""

    name: str  #: of the output.
    cosine: float  #: everything rounded, mean over the images.
    #: signal to noise, everything rounded; the signal is the deviation from the output's mean. None without noise.
    snr_db: float | None
    weights_snr_db: float | None  #: the same with only the weights rounded.
    activations_snr_db: float | None  #: the same with only the activations rounded.


@frozen
class CpuNode:
    """A node that the compiler left to the CPU."""

    name: str  #: of the node.
    op: str  #: its operator.
    inside: bool  #: whether it splits the network into several BPU parts; else it is at an end.
    transfer_bytes: int  #: moved between BPU and CPU for it, per frame.
    milliseconds: float | None  #: its time on this machine's CPU, one thread; None if it was not measured.


@frozen
class InputCheck:
    """The network with its input made in another way: a better result means that the input is wrong."""

    change: str  #: what was changed, such as ``swapped channels`` or ``video-range NV12``.
    target: str  #: the network that ran: ``float`` or ``program``.
    value: float  #: in percent; see ``measure``.
    as_built: float  #: the same figure for the input as the build makes it.
    #: ``Top-1``, ``agreement`` or ``confidence``, the mean top probability; of a detector ``AP``,
    #: ``AP with float's boxes``, or ``confidence``, the mean score of each image's best box.
    measure: str
    #: whether the change is an improvement beyond chance, p < 0.01: exact McNemar; of a detector the
    #: paired bootstrap of AP, or a rise of both AP and confidence.
    better: bool

    @property
    def unit(self) -> str:
        """What stands behind the value."""
        return "" if self.measure.startswith("AP") else " %"


@frozen
class Remedy:
    """Something to do, and why."""

    what: str  #: in a sentence.
    how: str  #: the command or the recipe line.
    figure: str  #: the measurement behind it.
    gain: float  #: expected, in points of agreement with float, or of AP with its boxes; remedies are ranked by it.


@frozen
class Diagnosis:
    """A whole diagnosis."""

    name: str  #: of the program.
    command: str  #: what the user typed.
    models: Mapping[str, str]  #: role -> sha256 of the files that were measured.
    dataset: str  #: description of the images.
    n: int  #: images.
    labelled: bool  #: whether they carry labels.
    verdict: str  #: one line: what is wrong, or that nothing is.
    units: tuple[LayerResult, ...]  #: in graph order.
    shares: tuple[Share, ...]  #: weights-only against activations-only loss, and NV12's own.
    nv12_clipped: float  #: share of the pixels' channels that leave 0..255 behind NV12, 0..1.
    cpu_nodes: tuple[CpuNode, ...]  #: nodes on the CPU.
    input_checks: tuple[InputCheck, ...]  #: results with other inputs.
    remedies: tuple[Remedy, ...]  #: best first.
    notes: tuple[str, ...] = ()  #: further notes for the user, one sentence each.
    versions: Mapping[str, str] = field(factory=dict)  #: of the programs that ran.
    seconds: float = 0.0  #: wall time of the whole command.
    task: Task = "classify"  #: of the network.
    outputs: tuple[OutputNoise, ...] = ()  #: of a detector, with a calibrated model; else empty.
    schema_version: int = SCHEMA_VERSION
