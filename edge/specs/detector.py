"""What a detector's outputs mean: the frozen schema that decoders read, from a model's YAML or a program's metadata."""

from __future__ import annotations

from typing import Literal

from attrs import evolve, frozen

from edge.errors import SpecError

#: How a box is coded. ``yolox``: centre and the logarithm of its sides, in strides. ``dfl``: the distances to its
#: four sides, each the mean of a distribution over ``reg_max`` bins. ``anchors``: centre, and sides as a share of an
#: anchor's. ``centernet``: sides in strides, around the peaks of a heat map.
Family = Literal["yolox", "dfl", "anchors", "centernet"]


def _check(condition: bool, seen: str, expected: str) -> None:
    if not condition:
        raise SpecError(seen, expected=expected)


@frozen
class Scale:
    """The outputs of one scale: names of maps (1, channels, height, width) in front of every activation function."""

    stride: int  #: pixels of the network's input per cell of the maps.
    boxes: str  #: 4 channels a box; ``dfl``: 4 x reg_max, side first; ``centernet``: 2, width and height.
    scores: str  #: logits, one channel per class.
    objectness: str | None = None  #: logits, 1 channel; only ``yolox`` and ``anchors``.
    offsets: str | None = None  #: of the centre in its cell, 2 channels, x and y; only ``centernet``.
    #: (width, height) of each anchor in pixels; only ``anchors``, whose maps hold the channels of each in turn.
    anchors: tuple[tuple[float, float], ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, each once."""
        names = (self.boxes, self.scores, self.objectness, self.offsets)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def joint(self) -> bool:
        """Whether one output holds boxes, objectness and scores of each anchor, in this order."""
        return self.boxes == self.scores == self.objectness


@frozen
class Detector:
    """How boxes are read from a network's outputs; see ``edge.detect``."""

    family: Family  #: how a box is coded.
    classes: int  #: number of classes.
    scales: tuple[Scale, ...]  #: in the order of the network's own boxes.
    reg_max: int = 16  #: bins of a side; 1 where the output is the distance itself. Only ``dfl``.
    nms: bool = True  #: whether boxes of one object have to be thinned out; False for one-to-one heads.

    def __attrs_post_init__(self) -> None:
        _check(self.classes >= 1, f"detector: classes {self.classes}", "1 and more")
        _check(self.reg_max >= 1, f"detector: reg_max {self.reg_max}", "1 and more; YOLOv8 to v12 have 16")
        _check(len(self.scales) > 0, "detector: no scales", "one entry per scale, such as those of stride 8, 16, 32")
        strides = [scale.stride for scale in self.scales]
        _check(
            min(strides) >= 1 and len(set(strides)) == len(strides),
            f"detector: strides {', '.join(map(str, strides))}",
            "a different stride per scale, 1 and more, such as 8, 16, 32",
        )
        for scale in self.scales:
            self._check_scale(scale)
        names = [name for scale in self.scales for name in scale.outputs]
        twice = sorted({name for name in names if names.count(name) > 1})
        _check(not twice, f"detector: output {', '.join(twice)} in several scales", "each output in one scale")

    def _check_scale(self, scale: Scale) -> None:
        where = f"detector: {self.family}, stride {scale.stride}:"
        _check(
            (scale.objectness is not None) == (self.family in ("yolox", "anchors")),
            f"{where} objectness {scale.objectness}",
            "an output's name with yolox and anchors, none with others",
        )
        _check(
            scale.offsets is None or self.family == "centernet",
            f"{where} offsets {scale.offsets}",
            "offsets with centernet only",
        )
        _check(
            (len(scale.anchors) > 0) == (self.family == "anchors"),
            f"{where} {len(scale.anchors)} anchors",
            "anchors: [[width, height], ...] in pixels with anchors, none with others",
        )
        _check(
            all(side > 0 for anchor in scale.anchors for side in anchor),
            f"{where} anchors {scale.anchors}",
            "sides above 0, in pixels",
        )
        separate = sum(name is not None for name in (scale.boxes, scale.scores, scale.objectness, scale.offsets))
        _check(
            len(scale.outputs) == separate or (scale.joint and self.family == "anchors"),
            f"{where} one output with two meanings: {', '.join(scale.outputs)}",
            "a different output for each; with anchors, one output may be named for all three: it is split",
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs, in the order of the scales."""
        return tuple(name for scale in self.scales for name in scale.outputs)

    def channels(self, scale: Scale) -> dict[str, int]:
        """Return the number of channels of each output of a scale, by the output's name."""
        anchors = max(1, len(scale.anchors))
        if scale.joint:
            return {scale.boxes: anchors * (5 + self.classes)}
        sides = {"dfl": 4 * self.reg_max, "centernet": 2}.get(self.family, 4)
        found = {scale.boxes: anchors * sides, scale.scores: anchors * self.classes}
        if scale.objectness is not None:
            found[scale.objectness] = anchors
        if scale.offsets is not None:
            found[scale.offsets] = 2
        return found

    def named(self) -> Detector:
        """Return the detector with the outputs' names of a cut network: ``boxes_8``, ``scores_8``, and so on."""

        def named(scale: Scale) -> Scale:
            return evolve(
                scale,
                boxes=f"boxes_{scale.stride}",
                scores=f"scores_{scale.stride}",
                objectness=scale.objectness and f"objectness_{scale.stride}",
                offsets=scale.offsets and f"offsets_{scale.stride}",
            )

        return evolve(self, scales=tuple(map(named, self.scales)))
