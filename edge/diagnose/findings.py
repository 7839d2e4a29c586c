"""What a diagnosis found; ``diagnosis.json`` in the build folder is this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from edge.measure.layers import UnitKind
from edge.measure.scores import Scores, cosines


def share(part: str, reference: Scores, scores: Scores, labels: NDArray[np.int64] | None) -> Share:
    """Return how far a part moves the scores from the reference's."""
    return Share(
        part=part,
        agreement=float((reference.argmax(1) == scores.argmax(1)).mean()),
        cosine=float(cosines(reference, scores).mean()),
        top1=None if labels is None else 100 * float((scores.argmax(1) == labels).mean()),
    )


def names(items: Sequence[str], most: int = 3) -> str:
    """Return the first of several names, and how many more there are."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


FILE = "diagnosis.json"
SCHEMA_VERSION = 1


@frozen
class Range:
    """The values of a unit's output on the pictures, before quantisation.

    Attributes:
        low: smallest value.
        high: largest value.
        threshold: where the calibration clips, as a magnitude; None where it is not quantized.
        saturated: share of the values beyond the threshold, 0..1.
        outlier_ratio: largest channel's magnitude over the median channel's; None without channels.
        outlier_channel: index of that channel.
    """

    low: float
    high: float
    threshold: float | None
    saturated: float
    outlier_ratio: float | None = None
    outlier_channel: int | None = None


@frozen
class LayerResult:
    """A layer as a person sees it: a convolution, or all the nodes of one LayerNorm or GELU.

    Attributes:
        name: in the model's own module path, such as ``stages.2.blocks.5.norm``.
        kind: what it is.
        nodes: the compiler's node names in it.
        cosine: of its output with everything quantized, against float, mean over the pictures.
        alone_cosine: of the network's scores with only this unit quantized, against float.
        alone_agreement: share of pictures, 0..1, whose answer stays with only this unit quantized.
        bits: 8 or 16.
        on: ``BPU`` or ``CPU``.
        range: of its output.
    """

    name: str
    kind: UnitKind
    nodes: tuple[str, ...]
    cosine: float
    alone_cosine: float
    alone_agreement: float
    bits: int
    on: str
    range: Range


@frozen
class Share:
    """How far the network's scores move when only a part of it is quantized.

    Attributes:
        part: ``weights``, ``activations``, ``both``, or ``NV12`` (the float net behind NV12).
        agreement: share of the pictures with the float net's answer, 0..1.
        cosine: mean cosine with the float net's scores.
        top1: percent right; None without labels.
    """

    part: str
    agreement: float
    cosine: float
    top1: float | None


@frozen
class CpuNode:
    """A node that the compiler left to the CPU.

    Attributes:
        name: of the node.
        op: its operator.
        inside: whether it cuts the network into several BPU parts; else it is at an end of it.
        transfer_bytes: moved between BPU and CPU for it, a frame.
        milliseconds: its time on this machine's CPU, one thread; None where it was not measured.
    """

    name: str
    op: str
    inside: bool
    transfer_bytes: int
    milliseconds: float | None


@frozen
class InputCheck:
    """The network with its input made in another way: a better result tells that the input is wrong.

    Attributes:
        change: what was changed, such as ``swapped channels`` or ``video-range NV12``.
        target: the network that was fed: ``float`` or ``program``.
        value: Top-1 in percent, agreement in percent, or mean top probability in percent; see ``measure``.
        as_built: the same figure for the input as the build makes it.
        measure: ``Top-1``, ``agreement`` or ``confidence``.
        better: whether the change is an improvement beyond chance (exact McNemar p < 0.01).
    """

    change: str
    target: str
    value: float
    as_built: float
    measure: str
    better: bool


@frozen
class Remedy:
    """Something to do, and why.

    Attributes:
        what: in a sentence.
        how: the command or the recipe line.
        figure: the measured figure that it rests on.
        gain: expected, in points of agreement with float; what remedies are ranked by.
    """

    what: str
    how: str
    figure: str
    gain: float


@frozen
class Diagnosis:
    """A whole diagnosis.

    Attributes:
        name: of the program.
        command: what the user typed.
        models: role -> sha256 of the files that were looked at.
        dataset: description of the pictures.
        n: pictures.
        labelled: whether they carry labels.
        verdict: one line: what is wrong, or that nothing is.
        units: in graph order.
        shares: weights-only against activations-only loss, and NV12's own.
        nv12_clipped: share of the pixels' channels that leave 0..255 behind NV12, 0..1.
        cpu_nodes: what runs on the CPU.
        input_checks: what other inputs give.
        remedies: best first.
        notes: anything else that a user should know, a sentence each.
    """

    name: str
    command: str
    models: Mapping[str, str]
    dataset: str
    n: int
    labelled: bool
    verdict: str
    units: tuple[LayerResult, ...]
    shares: tuple[Share, ...]
    nv12_clipped: float
    cpu_nodes: tuple[CpuNode, ...]
    input_checks: tuple[InputCheck, ...]
    remedies: tuple[Remedy, ...]
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(factory=dict)
    seconds: float = 0.0
    schema_version: int = SCHEMA_VERSION
