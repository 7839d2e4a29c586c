"""What was measured on pictures, as data: hops, changes between them, and mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

Interval = tuple[float, float]
# What a change is: beyond noise a loss or a gain; within noise; nothing changed; not tested.
Judgement = Literal["loss", "gain", "noise", "none", "untested"]


@frozen
class Change:
    """A hop against the hop before it.

    Attributes:
        before: title of the hop before.
        points: change of Top-1 in points; negative is a loss.
        interval: 95 % interval of ``points``; None where pictures were not compared in pairs.
        lost: pictures that became wrong; None as above.
        gained: pictures that became right; None as above.
        p: of the exact two-sided McNemar test; None as above.
        judgement: what that means.
    """

    before: str
    points: float
    interval: Interval | None
    lost: int | None
    gained: int | None
    p: float | None
    judgement: Judgement


@frozen
class Hop:
    """One step from the float network to the program. All shares are percentages.

    Attributes:
        name: such as ``quantized``.
        title: for people.
        by: what executed it.
        n: pictures.
        top1: None without labels; ``top5`` likewise.
        top1_interval: 95 % Wilson interval; ``top5_interval`` likewise.
        agreement: same Top-1 answer as float.
        agreement_interval: 95 % Wilson interval.
        cosine: mean cosine of the scores with float's.
        agreement_before: same answer as the hop before; None for the first or if unknown.
        cosine_before: likewise.
        change: None for the first and without labels.
        seconds: wall time; None if unknown.
        sampled: whether it answered only a part of the pictures.
    """

    name: str
    title: str
    by: str
    n: int
    top1: float | None
    top1_interval: Interval | None
    top5: float | None
    top5_interval: Interval | None
    agreement: float
    agreement_interval: Interval
    cosine: float
    agreement_before: float | None
    cosine_before: float | None
    change: Change | None
    seconds: float | None
    sampled: bool


@frozen
class Picture:
    """A picture as the network sees it: cropped, then through NV12.

    Attributes:
        name: in its set.
        alt: text alternative.
        image: data URI; empty where the picture has gone. Not in ``report.json``.
        why_not: why there is no image.
        width: of the image in pixels.
        height: likewise.
    """

    name: str
    alt: str
    image: str = ""
    why_not: str = ""
    width: int = 0
    height: int = 0


@frozen
class MistakeShown:
    """A picture that float got right and the program wrong, with both answers; probabilities are 0..1."""

    picture: Picture
    label: str
    float_answer: str
    float_probability: float
    answer: str
    probability: float


@frozen
class Accuracy:
    """What was measured on pictures.

    Attributes:
        source: the file that it is from: ``eval.json`` or ``manifest.json``.
        command: that measured it.
        dataset: the pictures.
        dataset_sha256: of them.
        n: how many.
        unlabelled: why there is no Top-1; empty if there is.
        hops: in order; the first is float.
        quantized: the hop that stands for the program.
        verdict: one line; empty if there is none.
        explanation: sentences.
        mistakes: shown pictures.
        mistakes_total: how many there are; None if unknown.
        unreadable: names of pictures in no figure.
        seconds: wall time; None if unknown.
        versions: of what ran.
        total: the change from float to ``quantized``; None without labels or if it was not tested.
    """

    source: str
    command: str
    dataset: str
    dataset_sha256: str
    n: int
    unlabelled: str
    hops: tuple[Hop, ...]
    quantized: str
    verdict: str = ""
    explanation: tuple[str, ...] = ()
    mistakes: tuple[MistakeShown, ...] = ()
    mistakes_total: int | None = None
    unreadable: tuple[str, ...] = ()
    seconds: float | None = None
    versions: Mapping[str, str] = field(factory=dict)
    total: Change | None = None

    def hop(self, name: str) -> Hop | None:
        """Return the hop of that name; None if it was not measured."""
        return next((hop for hop in self.hops if hop.name == name), None)
