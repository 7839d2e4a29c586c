"""What an evaluation found: one row a hop, and the change from the hop before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import field, frozen

from edge.measure.scores import Score
from edge.measure.statistics import may_be_chance, wilson

FILE = "eval.json"
SCHEMA_VERSION = 1

HopName = Literal["float", "simplified", "nv12", "calibrated", "quantized", "program", "portable", "board"]


@frozen
class Change:
    """A hop against the hop before it, on the same pictures."""

    points: float  #: Top-1 of this hop less that of the hop before, in points; negative is a loss.
    interval: tuple[float, float]  #: 95 % bootstrap interval of ``points`` (percentile, pictures resampled in pairs).
    lost: int  #: pictures that the hop before got right and this one wrong.
    gained: int  #: the reverse.
    p: float  #: of the exact two-sided McNemar test.


@frozen
class HopResult:
    """One hop."""

    hop: HopName  #: its name.
    by: str  #: what executed it, such as ``onnxruntime 1.32.0``.
    n: int  #: pictures that it answered; of a sample fewer than of the other hops.
    score: Score | None  #: None without labels.
    before: HopName | None  #: the hop that it is compared with; None for the first.
    change: Change | None  #: None for the first hop and without labels.
    agreement: int  #: of its n pictures, those with the same Top-1 answer as the float hop.
    cosine: float  #: mean cosine of its scores with the float hop's, -1..1.
    agreement_before: int | None  #: the same with the hop before; None for the first.
    cosine_before: float | None  #: likewise.
    seconds: float  #: wall time of what was computed now.
    computed: int  #: pictures computed now; the others came from an earlier run.
    identical_before: int | None = None  #: of its n pictures, those whose scores are bit for bit the hop before's.

    @property
    def agreement_percent(self) -> float:
        """Share of its pictures with the float hop's Top-1 answer, in percent."""
        return 100 * self.agreement / self.n


@frozen
class Mistake:
    """A picture that float got right (or, without labels, answered otherwise) and the last hop did not."""

    picture: str  #: its name in the set.
    path: str | None  #: where the file is, absolute; None for a rendered one.
    label: int | None  #: class index; None if unknown.
    float_answer: int  #: class index that the float hop gave.
    answer: int  #: class index that the last quantized hop gave.
    float_probability: float  #: softmax of the float hop's own answer, 0..1.
    probability: float  #: softmax of the quantized hop's answer.


@frozen
class Evaluation:
    """A whole evaluation; ``eval.json`` in the build folder is this."""

    name: str  #: of the program, such as ``ConvNeXt_atto_demo``.
    command: str  #: what the user typed.
    #: role -> sha256 of the files that were measured (``float_onnx``, ``bin``, …); the table speaks of these files
    #: only.
    models: Mapping[str, str]
    dataset: str  #: description of the pictures.
    dataset_sha256: str  #: of their names, labels and contents.
    n: int  #: pictures that were read and answered.
    unlabelled: str  #: why there is no Top-1; empty if there is.
    hops: tuple[HopResult, ...]  #: in order.
    #: the hop that stands for the program on all pictures: ``quantized``, or ``portable``; where neither was measured,
    #: the last one that was.
    quantized: HopName
    verdict: str  #: one line.
    explanation: tuple[str, ...]  #: in plain words which step costs what, and which changes are within noise.
    mistakes: tuple[Mistake, ...]  #: at most 48, those first on which float was most sure.
    mistakes_total: int  #: how many there are.
    unreadable: tuple[str, ...]  #: names of pictures that could not be read; they are in no figure.
    versions: Mapping[str, str] = field(factory=dict)  #: of what ran.
    seconds: float = 0.0  #: wall time of the whole command.
    schema_version: int = SCHEMA_VERSION
    total: Change | None = None  #: the change from ``float`` to ``quantized``; None without labels.

    def hop(self, name: HopName) -> HopResult:
        """Return the result of a hop; KeyError if it was not measured."""
        for result in self.hops:
            if result.hop == name:
                return result
        raise KeyError(name)

    @property
    def drop(self) -> float | None:
        """Top-1 lost from float to the program, in points; None without labels."""
        return None if self.total is None else -self.total.points


def explain(
    hops: Sequence[HopResult], quantized: HopName, total: Change | None, unlabelled: str
) -> tuple[str, tuple[str, ...]]:
    """Return the verdict in one line, and sentences about the steps; the first hop is ``float``."""
    last = next(hop for hop in hops if hop.hop == quantized)
    steps = [hop for hop in hops if hop.before is not None]
    sentences = [_step(hop) for hop in steps]
    if unlabelled:
        sentences.append(f"There is no Top-1 ({unlabelled}), so whether a changed answer is a worse one can't be told.")
    else:
        sentences += _largest(steps, total)
    return _verdict(hops[0], last, total), tuple(sentences)


def within_noise(change: Change) -> bool:
    """Say whether a change may well be chance, by its p and its interval."""
    return may_be_chance(change.p, change.interval)


def _verdict(first: HopResult, last: HopResult, total: Change | None) -> str:
    if first is last:
        if first.score is None:
            return f"Only the float network was measured, on {first.n} pictures without labels."
        return f"The float network is right on {first.score.top1:.2f} % of {first.n} pictures."
    subject = _WHOLE.get(last.hop, f"The way up to {last.hop}")
    if total is None or first.score is None or last.score is None:
        low, high = wilson(last.agreement, last.n)
        share = 100 * last.agreement / last.n
        what = "The program" if last.hop in _WHOLE else f"The {last.hop} network"
        return (
            f"{what} gives the float network's answer on {share:.1f} % of {_pictures(last.n)} "
            f"(95 % {100 * low:.1f} to {100 * high:.1f}); without labels that is all that can be said."
        )
    where = f"Top-1 {first.score.top1:.2f} → {last.score.top1:.2f} %, n = {last.n}"
    if first.n != last.n:
        where = f"on {last.n} of {first.n} pictures"
    return f"{subject} {_effect(total)}: {where}."


def _step(hop: HopResult) -> str:
    """Return a sentence on one hop against the hop before it."""
    subject = _subject(hop)
    sample = f" on the {_pictures(hop.n)} it was tried on" if hop.hop == "program" else ""
    if hop.identical_before == hop.n:
        return f"{subject} gives the scores of {hop.before} bit for bit{sample or f' on all {hop.n} pictures'}."
    changed = hop.n - (hop.agreement_before or 0)
    if changed == 0:
        return f"{subject} changes no answer{sample or f' on {_pictures(hop.n)}'}."
    if hop.change is None:
        share = 100 * changed / hop.n
        return f"{subject} changes the answer on {changed} of {_pictures(hop.n)} ({share:.1f} %)."
    answers = f"{changed} answer{'s' * (changed != 1)} changed"
    turned = f"{hop.change.lost} to wrong and {hop.change.gained} to right"
    return f"{subject} {_effect(hop.change)}{sample}; {answers}, {turned}."


def _subject(hop: HopResult) -> str:
    if hop.hop == "quantized" and hop.before != "calibrated":
        return "Quantization"
    if hop.hop == "portable" and hop.before not in ("quantized", "program"):
        return "Quantization"
    return _STEPS[hop.hop]


def _effect(change: Change) -> str:
    """Return such as ``costs 0.4 points (95 % -0.2 to 1.0), within noise (p = 0.31)``."""
    low, high = change.interval
    if change.points < 0:
        size = f"costs {_points(-change.points)} (95 % {_bounds(-high, -low)})"
    elif change.points > 0:
        size = f"gains {_points(change.points)} (95 % {_bounds(low, high)})"
    else:
        size = f"leaves Top-1 as it is (95 % {_bounds(low, high)})"
    return f"{size}, {'within' if within_noise(change) else 'beyond'} noise ({_p(change.p)})"


def _largest(steps: Sequence[HopResult], total: Change | None) -> list[str]:
    """Say where the loss comes from, as far as that can be told from noise."""
    if total is None or not steps:
        return []
    real = [hop for hop in steps if hop.change and hop.change.points < 0 and not within_noise(hop.change)]
    if not real:
        if total.points < 0 and not within_noise(total):
            return ["The whole loss is beyond noise, but no single step is: more pictures would tell."]
        return ["No step costs more than noise does; more pictures would narrow the intervals."]
    worst = min(real, key=lambda hop: hop.change.points if hop.change else 0.0)
    assert worst.change is not None  # noqa: S101 - real holds such only
    return [f"The largest cost is at {worst.hop}: {_points(-worst.change.points)}."]


def _points(value: float) -> str:
    """One decimal, two where one would hide the change."""
    text = f"{value:.1f}" if round(value, 1) else f"{value:.2f}"
    return f"{text} point{'' if text == '1.0' else 's'}"


def _bounds(low: float, high: float) -> str:
    return f"{low + 0.0:.1f} to {high + 0.0:.1f}".replace("-0.0", "0.0")


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2f}" if value >= 0.1 else f"p = {value:.3f}"


def _pictures(n: int) -> str:
    return f"{n} picture{'s' * (n != 1)}"


_STEPS: dict[HopName, str] = {
    "float": "The float network",
    "simplified": "The simplifier",
    "nv12": "NV12",
    "calibrated": "Rounding to the calibrated int8 steps (simulated in float)",
    "quantized": "Integer arithmetic",
    "program": "The compiled program",
    "portable": "The portable model",
    "board": "The board",
}
_WHOLE: dict[HopName, str] = {"quantized": "Quantization, NV12 included,", "portable": "Quantization, NV12 included,"}
