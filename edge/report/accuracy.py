"""The table of hops: from ``eval.json``, or in short from what the build itself measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge.evaluate.table import Change as MeasuredChange
from edge.evaluate.table import Evaluation, HopResult
from edge.report.measured import Accuracy, Change, Hop, Interval, Judgement
from edge.report.pictures import mistakes_shown
from edge.specs import Preprocess
from edge.statistics import wilson

SIGNIFICANT = 0.05
TITLES = {
    "float": "float",
    "simplified": "simplified ONNX",
    "nv12": "float behind NV12",
    "calibrated": "calibrated",
    "quantized": "quantized",
    "program": "compiled program",
    "portable": "portable model",
    "board": "on the board",
}


def from_evaluation(
    evaluation: Evaluation, source: str, names: Sequence[str], preprocess: Preprocess
) -> Accuracy:
    """Return what an evaluation says, with pictures.

    Args:
        evaluation: of this build.
        source: name of the file that it is from.
        names: of the classes; empty if unknown.
        preprocess: of the network, for the pictures.
    """
    most = max((hop.n for hop in evaluation.hops), default=0)
    return Accuracy(
        source=source,
        command=evaluation.command,
        dataset=evaluation.dataset,
        dataset_sha256=evaluation.dataset_sha256,
        n=evaluation.n,
        unlabelled=evaluation.unlabelled,
        hops=tuple(_hop(result, most) for result in evaluation.hops),
        quantized=evaluation.quantized,
        verdict=evaluation.verdict,
        explanation=evaluation.explanation,
        mistakes=mistakes_shown(evaluation.mistakes, evaluation.dataset, names, preprocess),
        mistakes_total=evaluation.mistakes_total,
        unreadable=evaluation.unreadable,
        seconds=evaluation.seconds,
        versions=evaluation.versions,
        total=None if evaluation.total is None else _change(evaluation.total, "float"),
    )


def from_manifest(accuracy: Mapping[str, Any], command: str) -> Accuracy:
    """Return what the build measured: float and quantized, not compared in pairs."""
    n, quantized = accuracy["n"], accuracy["quantized"]
    same = round(accuracy["agreement"] * n / 100)
    change = None
    if accuracy["float"] and quantized:
        points = quantized["top1"] - accuracy["float"]["top1"]
        change = Change("float", points, None, None, None, None, "untested")
    hops = (
        _short("float", "onnxruntime", accuracy["float"], n, n, 1.0, None),
        _short("quantized", accuracy["quantized_by"], quantized, n, same, accuracy["cosine"], change),
    )
    return Accuracy(
        source="manifest.json",
        command=command,
        dataset=accuracy["dataset"],
        dataset_sha256=accuracy["dataset_sha256"],
        n=n,
        unlabelled="" if quantized else "the pictures carry no usable labels",
        hops=hops,
        quantized="quantized",
        unreadable=tuple(accuracy["unreadable"]),
    )


def judge(points: float, interval: Interval, p: float) -> Judgement:
    """Say what a change of Top-1 is: noise unless exact McNemar test and interval both say otherwise."""
    if p >= SIGNIFICANT or interval[0] <= 0 <= interval[1]:
        return "noise"
    return "loss" if points < 0 else "gain"


def _hop(result: HopResult, most: int) -> Hop:
    n, score = result.n, result.score
    before = result.before
    return Hop(
        name=result.hop,
        title=TITLES[result.hop],
        by=result.by,
        n=n,
        top1=score.top1 if score else None,
        top1_interval=score.top1_interval if score else None,
        top5=score.top5 if score else None,
        top5_interval=score.top5_interval if score else None,
        agreement=100 * result.agreement / n,
        agreement_interval=_wilson(result.agreement, n),
        cosine=result.cosine,
        agreement_before=None if result.agreement_before is None else 100 * result.agreement_before / n,
        cosine_before=result.cosine_before,
        change=_change(result.change, before) if result.change is not None and before else None,
        seconds=result.seconds,
        sampled=n < most,
    )


def _change(change: MeasuredChange, before: str) -> Change:
    judgement = judge(change.points, change.interval, change.p) if change.lost or change.gained else "none"
    return Change(
        before=TITLES[before],
        points=change.points,
        interval=change.interval,
        lost=change.lost,
        gained=change.gained,
        p=change.p,
        judgement=judgement,
    )


def _short(
    name: str,
    by: str,
    score: Mapping[str, Any] | None,
    n: int,
    same: int,
    cosine: float,
    change: Change | None,
) -> Hop:
    return Hop(
        name=name,
        title=TITLES[name],
        by=by,
        n=n,
        top1=score["top1"] if score else None,
        top1_interval=_pair(score["top1_interval"]) if score else None,
        top5=score["top5"] if score else None,
        top5_interval=_pair(score["top5_interval"]) if score else None,
        agreement=100 * same / n,
        agreement_interval=_wilson(same, n),
        cosine=cosine,
        agreement_before=None,
        cosine_before=None,
        change=change,
        seconds=None,
        sampled=False,
    )


def _wilson(count: int, n: int) -> Interval:
    low, high = wilson(count, n)
    return 100 * low, 100 * high


def _pair(values: Sequence[float]) -> Interval:
    low, high = values
    return low, high
