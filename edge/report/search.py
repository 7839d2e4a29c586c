"""``tune.json`` of a build: the recipes that the precision search compiled, as the report shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from edge.files import read_json
from edge.folder.built import Built

FILE = "tune.json"
SCHEMA_VERSION = 1


@frozen
class TriedRecipe:
    """A recipe that was compiled at the shipping level."""

    name: str  #: as shown.
    latency_us: float  #: static, microseconds.
    ratio: float  #: latency over plain int8's.
    agreement: float  #: with float behind NV12 on the images kept back, percent; of a detector AP with its boxes.
    top1: float | None  #: on the same images, percent; of a detector AP; None without labels.
    divergence: float  #: mean Kullback-Leibler divergence from float behind NV12, nats; of a detector from its boxes.
    chosen: bool  #: whether the search chose it.
    on_front: bool  #: whether no other one is as fast and gives float's answer as often.
    #: that it gives float's answer as often as plain int8, adjusted for their number; None for plain int8.
    p: float | None = None


@frozen
class PrecisionSearch:
    """A precision search."""

    tried: tuple[TriedRecipe, ...]  #: the recipes, in the order in which they were compiled; plain int8 first.
    failed: tuple[tuple[str, str], ...]  #: name and reason of those that gave no program.
    why: str  #: what was chosen, and why.
    report: str  #: images that the figures are for.
    selection: str  #: images that were searched on.
    max_latency_us: float  #: the bar, microseconds.
    detector: bool  #: whether the figures are of boxes.
    trials: int  #: number of all trials.
    time: tuple[tuple[str, int, float], ...]  #: kind of work, times done, seconds.
    seconds: float  #: of the whole search.


def search_of(built: Built) -> PrecisionSearch | None:
    """Return the search for this very float network; None if there was none or it can't be read."""
    try:
        data = read_json(built.folder / FILE)
        if data["schema_version"] != SCHEMA_VERSION or data["float_sha256"] != built.sha256.get("float_onnx"):
            return None
        return _search(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _search(data: Mapping[str, Any]) -> PrecisionSearch:
    points = data["points"]
    base = float(points[0]["latency_us"])
    done = [(i, point) for i, point in enumerate(points) if not point["failed"]]
    good = [(i, point) for i, point in done if point["report"] is not None]
    figures = [(float(point["latency_us"]), _agreement(point["report"])) for _, point in good]
    tried = []
    for (i, point), (latency, agreement) in zip(good, figures, strict=True):
        own = point["report"]
        beaten = any(
            other[0] <= latency and other[1] >= agreement and other != (latency, agreement) for other in figures
        )
        tried.append(
            TriedRecipe(
                name=str(point["name"]),
                latency_us=latency,
                ratio=latency / base,
                agreement=agreement,
                top1=own.get("ap") if own["right"] is None else 100 * int(own["right"]) / int(own["n"]),
                divergence=float(own["divergence"]),
                chosen=i == data["chosen"],
                on_front=not beaten,
                p=None if point.get("p") is None else float(point["p"]),
            )
        )
    return PrecisionSearch(
        tried=tuple(tried),
        failed=tuple((str(point["name"]), str(point["failed"])) for point in points if point["failed"]),
        why=str(data["why"]),
        report=str(data["report"]),
        selection=str(data["selection"]),
        max_latency_us=float(data["max_latency_us"]),
        detector=any(point["report"].get("self_ap") is not None for _, point in good),
        trials=len(data["trials"]),
        time=tuple((str(s["kind"]), int(s["count"]), float(s["seconds"])) for s in data["time"]),
        seconds=float(data["seconds"]),
    )


def _agreement(own: Mapping[str, Any]) -> float:
    if own.get("self_ap") is not None:
        return float(own["self_ap"])
    return 100 * int(own["agreement"]) / int(own["n"])
