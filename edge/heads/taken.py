"""From a whole detector to the network that is built: recognise its head, cut it off, prove the cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from edge.heads.cut import cut, prove
from edge.heads.recognise import given, recognise
from edge.heads.tail import Tail
from edge.specs.detector import Detector

if TYPE_CHECKING:
    import onnx


@frozen
class Taken:
    """A detector cut at its head."""

    model: onnx.ModelProto  #: up to the outputs that the detector names.
    detector: Detector  #: what they mean.
    #: largest difference of the boxes from the network's own, in pixels or as a share of a value above 1.
    max_error: float
    notes: tuple[str, ...]  #: what was recognised, and what was assumed.


def take(
    model: onnx.ModelProto, origin: str, detector: Detector | None = None, value_range: tuple[float, float] = (0.0, 1.0)
) -> Taken:
    """Return the network up to its head, and what its outputs mean.

    Args:
        model: a checked float network with a static input.
        origin: what messages call it.
        detector: its outputs as the user describes them, by names of the network's values; None recognises them.
        value_range: lowest and highest input value, for the proof.

    Raises:
        ModelFileError: the head is not known, the description does not fit, or the cut network gives other boxes.
    """
    tail = Tail(model, origin)
    head = recognise(tail) if detector is None else given(tail, detector)
    part = cut(model, head, tail.size)
    worst = prove(model, part, head, origin, size=tail.size, value_range=value_range)
    said = [f"detector: {head}", *head.notes]
    if head.decoded is None:
        said.append("the network holds no decoded boxes: how the YAML says that they are coded is not checked")
    elif head.decoded.form == "raw":
        said.append("the network gives its boxes as they are coded; they are decoded as YOLOX does it")
    return Taken(part, head.detector, worst, tuple(said))
