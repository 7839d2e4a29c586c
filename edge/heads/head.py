"""What a head is, and the tables of candidates that a network may make of its outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.detect.decode import decode_all
from edge.errors import counted
from edge.specs.detector import Detector

Floats = NDArray[np.float32]
#: What the first four columns of a network's candidates are: corners, centre and sides, or the outputs as they are;
#: ``maps`` where it lists no candidates.
Form = Literal["xyxy", "xywh", "raw", "maps"]
TOLERANCE = 1e-3  # pixels, or share of a value above 1: float32 in another order differs far less
BOX = 4  # numbers of a box


@frozen
class Part:
    """An output of a cut network: a value of the whole one, or some of its channels."""

    value: str
    channels: tuple[int, ...] | None = None  #: None takes all.

    def of(self, values: Mapping[str, Floats]) -> Floats:
        """Return the output, of values of the whole network."""
        value = values[self.value]
        return value if self.channels is None else value[:, list(self.channels)]


@frozen
class Decoded:
    """Where a network holds the boxes of all its candidates."""

    #: one value with a row per candidate: box, objectness where it is apart, classes; or boxes and scores apart. Of
    #: ``maps``: sides, heat map, and offsets where there are some.
    values: tuple[str, ...]
    form: Form
    objectness: bool = False  #: whether it is a column of its own; else it is multiplied into the scores.


@frozen
class Head:
    """What a network's head is."""

    detector: Detector  #: with the outputs' names of the cut network.
    parts: Mapping[str, Part]  #: those names, and what they are in the whole network.
    decoded: Decoded | None = None  #: None where the network holds no boxes to compare with.
    notes: tuple[str, ...] = ()  #: what was assumed.

    def __str__(self) -> str:
        detector = self.detector
        strides = ", ".join(str(scale.stride) for scale in detector.scales)
        title = "YOLOv8 type" if detector.nms else "YOLOv10 type"
        kind = {
            "yolox": "YOLOX type (centre, sides, objectness)",
            "dfl": f"{title} (distances to the sides, {detector.reg_max} bins each)"
            if detector.reg_max > 1
            else "YOLO26 type (distances to the sides)",
            "anchors": f"YOLOv5 type ({len(detector.scales[0].anchors)} anchors a cell)",
            "centernet": "CenterNet type (heat map)",
        }[detector.family]
        ends = "" if detector.nms or detector.family == "centernet" else ", one box per object without NMS"
        return f"{kind}{ends}: {counted(detector.classes, 'class')}, stride{'s' * (len(detector.scales) > 1)} {strides}"


def expected(
    outputs: Sequence[Floats], names: Sequence[str], detector: Detector, size: tuple[int, int]
) -> Iterator[tuple[Decoded, Floats]]:
    """Yield the tables that a network may make of its outputs, one per form."""
    boxes, scores, objectness = decode_all(outputs, names, detector, size=size)
    middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    forms: dict[Form, Floats] = {"xywh": np.concatenate((middle, sides), axis=1), "xyxy": boxes}
    if detector.family == "yolox":
        maps = dict(zip(names, outputs, strict=True))
        raw = [maps[scale.boxes].reshape(BOX, -1).T for scale in detector.scales]
        forms["raw"] = np.concatenate(raw)
    for form, columns in forms.items():
        if objectness is None:
            yield Decoded((), form), np.concatenate((columns, scores), axis=1)
        else:
            apart = np.concatenate((columns, objectness[:, None], scores), axis=1)
            yield Decoded((), form, True), apart
            yield Decoded((), form), np.concatenate((columns, objectness[:, None] * scores), axis=1)


def error(found: Floats, wanted: Floats) -> float:
    """Return the largest difference of two tables: in pixels, or as a share of a value above 1."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(found - wanted) / np.maximum(1, np.abs(wanted))
    return math.inf if not np.isfinite(apart).all() else float(apart.max(initial=0.0))


def table_error(found: Floats, wanted: Floats) -> float:
    """Return the error of a network's table of candidates; columns behind those wanted, such as masks, do not count."""
    if len(found) != len(wanted) or found.shape[1] < wanted.shape[1]:
        return math.inf
    return error(found[:, : wanted.shape[1]], wanted)


def table(values: Sequence[NDArray[Any]]) -> Floats | None:
    """Return a row per candidate and a column per number, of one value or of several that have the same rows."""
    flat = [value[0] for value in values if value.ndim == 3]
    if not flat or len(flat) != len(values):
        return None
    rows = max(max(part.shape) for part in flat)
    if any(rows not in part.shape for part in flat):
        return None
    return np.concatenate([part if part.shape[0] == rows else part.T for part in flat], axis=1)


def heat_error(found: Floats, logits: Floats) -> float:
    """Return the largest difference of a heat map from its logits' probabilities, where it is not 0."""
    with np.errstate(over="ignore"):
        wanted = 1 / (1 + np.exp(-logits))
    peaks = found != 0  # CenterNet's own limits of 1e-4 and 1 - 1e-4 are within the tolerance
    return error(found[peaks], wanted[peaks]) if peaks.any() else math.inf
