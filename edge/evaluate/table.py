"""What an evaluation found: one row a hop, and the change from the hop before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

from edge.statistics import wilson

FILE = "eval.json"
SCHEMA_VERSION = 1

HopName = Literal["float", "simplified", "nv12", "calibrated", "quantized", "program", "portable", "board"]


@frozen
class Score:
    """How many of n pictures were right. Properties are percentages."""

    n: int
    top1_right: int
    top5_right: int

    @property
    def top1(self) -> float:
        """Top-1 in percent."""
        return 100 * self.top1_right / self.n

    @property
    def top5(self) -> float:
        """Top-5 in percent."""
        return 100 * self.top5_right / self.n

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of Top-1, in percent."""
        low, high = wilson(self.top1_right, self.n)
        return 100 * low, 100 * high

    @property
    def top5_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of Top-5, in percent."""
        low, high = wilson(self.top5_right, self.n)
        return 100 * low, 100 * high


@frozen
class Change:
    """A hop against the hop before it, on the same pictures.

    Attributes:
        points: Top-1 of this hop less that of the hop before, in points; negative is a loss.
        interval: 95 % bootstrap interval of ``points`` (percentile, pictures resampled in pairs).
        lost: pictures that the hop before got right and this one wrong.
        gained: the reverse.
        p: of the exact two-sided McNemar test.
    """

    points: float
    interval: tuple[float, float]
    lost: int
    gained: int
    p: float


@frozen
class HopResult:
    """One hop.

    Attributes:
        hop: its name.
        by: what executed it, such as ``onnxruntime 1.32.0``.
        n: pictures that it answered; of a sample fewer than of the other hops.
        score: None without labels.
        before: the hop that it is compared with; None for the first.
        change: None for the first hop and without labels.
        agreement: of its n pictures, those with the same Top-1 answer as the float hop.
        cosine: mean cosine of its scores with the float hop's, -1..1.
        agreement_before: the same with the hop before; None for the first.
        cosine_before: likewise.
        seconds: wall time of what was computed now.
        computed: pictures computed now; the others came from an earlier run.
        identical_before: of its n pictures, those whose scores are bit for bit the hop before's.
    """

    hop: HopName
    by: str
    n: int
    score: Score | None
    before: HopName | None
    change: Change | None
    agreement: int
    cosine: float
    agreement_before: int | None
    cosine_before: float | None
    seconds: float
    computed: int
    identical_before: int | None = None

    @property
    def agreement_percent(self) -> float:
        """Share of its pictures with the float hop's Top-1 answer, in percent."""
        return 100 * self.agreement / self.n


@frozen
class Mistake:
    """A picture that float got right (or, without labels, answered otherwise) and the last hop did not.

    Attributes:
        picture: its name in the set.
        path: where the file is, absolute; None for a rendered one.
        label: class index; None if unknown.
        float_answer: class index that the float hop gave.
        answer: class index that the last quantized hop gave.
        float_probability: softmax of the float hop's own answer, 0..1.
        probability: softmax of the quantized hop's answer.
    """

    picture: str
    path: str | None
    label: int | None
    float_answer: int
    answer: int
    float_probability: float
    probability: float


@frozen
class Evaluation:
    """A whole evaluation; ``eval.json`` in the build folder is this.

    Attributes:
        name: of the program, such as ``ConvNeXt_atto_demo``.
        command: what the user typed.
        models: role -> sha256 of the files that were measured (``float_onnx``, ``bin``, …); the table
            speaks of these files only.
        dataset: description of the pictures.
        dataset_sha256: of their names, labels and contents.
        n: pictures that were read and answered.
        unlabelled: why there is no Top-1; empty if there is.
        hops: in order.
        quantized: the hop that stands for the program on all pictures: ``quantized``, or ``portable``; where
            neither was measured, the last one that was.
        verdict: one line.
        explanation: in plain words which step costs what, and which changes are within noise.
        mistakes: at most 48, those first on which float was most sure.
        mistakes_total: how many there are.
        unreadable: names of pictures that could not be read; they are in no figure.
        versions: of what ran.
        seconds: wall time of the whole command.
        total: the change from ``float`` to ``quantized``; None without labels.
    """

    name: str
    command: str
    models: Mapping[str, str]
    dataset: str
    dataset_sha256: str
    n: int
    unlabelled: str
    hops: tuple[HopResult, ...]
    quantized: HopName
    verdict: str
    explanation: tuple[str, ...]
    mistakes: tuple[Mistake, ...]
    mistakes_total: int
    unreadable: tuple[str, ...]
    versions: Mapping[str, str] = field(factory=dict)
    seconds: float = 0.0
    schema_version: int = SCHEMA_VERSION
    total: Change | None = None

    def hop(self, name: HopName) -> HopResult:
        """Return the result of a hop.

        Raises:
            KeyError: it was not measured.
        """
        for result in self.hops:
            if result.hop == name:
                return result
        raise KeyError(name)

    @property
    def drop(self) -> float | None:
        """Top-1 lost from float to the program, in points; None without labels."""
        return None if self.total is None else -self.total.points
