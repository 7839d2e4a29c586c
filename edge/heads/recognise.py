"""Recognise how a network codes boxes: which outputs of its last convolutions are boxes, scores and objectness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from edge.detect.decode import decode_all
from edge.errors import ModelFileError, SpecError
from edge.heads.tail import Array, Tail
from edge.specs.detector import Detector, Scale

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float32]
#: What the first four columns of a network's boxes are: corners, centre and sides, or the outputs as they are.
Form = Literal["xyxy", "xywh", "raw"]
TOLERANCE = 1e-3  # pixels, or share of a value above 1: float32 in another order differs far less
_BOX = 4
_MOST_ANCHORS = 9  # of a scale


@frozen
class Part:
    """An output of a cut network: a value of the whole one, or some of its channels."""

    value: str
    channels: tuple[int, ...] | None = None  #: None takes all.


@frozen
class Decoded:
    """Where a network holds the decoded boxes of all its candidates."""

    #: one value with a row per candidate: box, objectness where it is apart, classes; or boxes and scores apart.
    values: tuple[str, ...]
    form: Form
    objectness: bool  #: whether it is a column of its own; else it is multiplied into the scores.


@frozen
class Head:
    """What a network's head is."""

    detector: Detector  #: with the outputs' names of the cut network.
    parts: Mapping[str, Part]  #: those names, and what they are in the whole network.
    decoded: Decoded | None  #: None where the network gives undecoded maps only.
    notes: tuple[str, ...] = ()  #: what was assumed.

    def __str__(self) -> str:
        detector = self.detector
        strides = ", ".join(str(scale.stride) for scale in detector.scales)
        kind = {
            "yolox": "YOLOX (centre, sides and objectness)",
            "dfl": f"YOLOv8 to v12 (distances over {detector.reg_max} bins)"
            if detector.reg_max > 1
            else "YOLO26 (distances to the sides)",
            "anchors": f"YOLOv5 and v7 ({len(detector.scales[0].anchors)} anchors a scale)",
            "centernet": "CenterNet (heat map)",
        }[detector.family]
        ends = "" if detector.nms or detector.family == "centernet" else ", one box an object without NMS"
        return f"{kind}{ends}: {detector.classes} classes, strides {strides}"


def recognise(model: onnx.ModelProto, origin: str) -> Head:
    """Return what a network's head is, judged by what it computes.

    Args:
        model: a checked float network with a static input of one image.
        origin: what messages call it.

    Raises:
        ModelFileError: no head that edge knows; the message says what was seen and how to describe it by hand.
    """
    tail = Tail(model, origin)
    found = _with_decoder(tail) or _heat_maps(tail)
    if found is None:
        raise _unknown(tail)
    return found


def given(model: onnx.ModelProto, detector: Detector, origin: str) -> Head:
    """Return a head as a user describes it, with the names of the network's own values.

    Raises:
        ModelFileError: the network has no such values, or their shapes are not the detector's.
    """
    tail = Tail(model, origin)
    made = {name for node in tail.view.nodes for name in node.output if name}
    parts: dict[str, Part] = {}
    named = detector.named()
    for scale, cut in zip(detector.scales, named.scales, strict=True):
        for role in ("boxes", "scores", "objectness", "offsets"):
            name = getattr(scale, role)
            if name is None:
                continue
            if name not in made:
                raise ModelFileError(
                    f"detector: {origin} computes no value {name!r}",
                    expected=f"one of its values, such as {', '.join(tail.heads)}",
                )
            node = tail.view.producer(name)
            logits = node.input[0] if node is not None and node.op_type == "Sigmoid" and role != "boxes" else name
            parts[getattr(cut, role)] = Part(logits, _channels(detector, scale, role) if scale.joint else None)
    _require_shapes(tail, detector, parts, named)
    head = Head(named, parts, None)
    return next(_decoded(tail, head), head)


def _require_shapes(tail: Tail, detector: Detector, parts: Mapping[str, Part], named: Detector) -> None:
    from edge.graph.files import open_exposed

    names = list(dict.fromkeys(part.value for part in parts.values()))
    session = open_exposed(tail.model, names)
    shapes = {
        name: found.shape
        for name, found in zip(names, session.run(names, {tail.input: tail.values[tail.input]}), strict=True)
    }
    height, width = _size(tail)
    for scale, cut in zip(detector.scales, named.scales, strict=True):
        joint = sum(named.channels(cut).values()) if scale.joint else None
        for name, channels in named.channels(cut).items():
            part = parts[name]
            wanted = (1, joint or channels, height // scale.stride, width // scale.stride)
            if shapes[part.value] != wanted:
                raise ModelFileError(
                    f"detector: {part.value!r} of {tail.origin} is {_by(shapes[part.value])}",
                    expected=f"{_by(wanted)}: {detector.family}, {detector.classes} classes, stride {scale.stride}",
                )


# Decoders in the graph


def _with_decoder(tail: Tail) -> Head | None:
    """Return the head of a network that decodes its boxes, or at least lists them."""
    sizes = _cells(tail)
    for name in tail.dependents:
        shape = tail.shape(name)
        if len(shape) == 3 and shape[0] == 1 and any(_lists(shape[axis], sizes) for axis in (1, 2)):
            found = _from_table(tail, (name,))
            if found is not None:
                return found
    outputs = [value.name for value in tail.model.graph.output if value.name in tail.values]
    for boxes in outputs:
        for scores in outputs:
            pair = [tail.shape(name) for name in (boxes, scores)]
            if boxes != scores and all(len(shape) == 3 for shape in pair) and _BOX in pair[0]:
                found = _from_table(tail, (boxes, scores))
                if found is not None:
                    return found
    return None


def _cells(tail: Tail) -> set[int]:
    """Return how many candidates the maps of all sizes have together, for every number of anchors."""
    maps = {tail.shape(name)[2:] for name in tail.heads if len(tail.shape(name)) == 4}
    strided = {shape for shape in maps if _stride(tail, shape)}
    total = sum(math.prod(shape) for shape in strided)
    return {anchors * total for anchors in range(1, _MOST_ANCHORS + 1)}


def _lists(length: int, sizes: set[int]) -> bool:
    return length in sizes and length > 0


@frozen
class _Reach:
    """What a head changes in a table of candidates."""

    name: str
    rows: tuple[int, int]  #: first, and one behind the last.
    columns: tuple[int, ...]


def _from_table(tail: Tail, names: tuple[str, ...]) -> Head | None:
    """Return the head whose boxes these values hold, or None."""
    function = tail.function(*names)
    base = _table(function({}))
    if base is None or base.shape[1] < _BOX + 1:
        return None
    rng = np.random.default_rng(1)
    reached = []
    for name in function.heads:
        changed = _table(function({name: rng.normal(0, 1, tail.shape(name)).astype(np.float32)}))
        if changed is None or changed.shape != base.shape:
            return None
        where = changed != base
        rows = np.flatnonzero(where.any(axis=1))
        if len(rows):
            columns = tuple(map(int, np.flatnonzero(where.any(axis=0))))
            reached.append(_Reach(name, (int(rows[0]), int(rows[-1]) + 1), columns))
    groups: dict[tuple[int, int], list[_Reach]] = {}
    for reach in sorted(reached, key=lambda reach: reach.rows):
        groups.setdefault(reach.rows, []).append(reach)
    for build in (_two, _three, _anchors):
        head = build(tail, list(groups.values()), base)
        if head is not None:
            nms = not ("TopK" in tail.below(names[-1]) and "NonMaxSuppression" not in tail.below(names[-1]))
            head = evolve(head, detector=evolve(head.detector, nms=nms))
            for proved in _decoded(tail, head, (names,)):
                return proved
    return None


def _two(tail: Tail, groups: Sequence[Sequence[_Reach]], base: Floats) -> Head | None:
    """Return a head of boxes and scores: distances to the sides."""
    classes = base.shape[1] - _BOX
    scales = []
    for group in groups:
        boxes = [reach.name for reach in group if reach.columns == tuple(range(_BOX))]
        scores = [reach.name for reach in group if reach.columns == tuple(range(_BOX, base.shape[1]))]
        stride = _stride(tail, tail.shape(group[0].name)[2:])
        if len(group) != 2 or len(boxes) != 1 or len(scores) != 1 or stride is None:
            return None
        scales.append(Scale(stride, boxes[0], scores[0]))
    bins = {tail.shape(scale.boxes)[1] // _BOX for scale in scales}
    return _head("dfl", classes, scales, reg_max=bins.pop()) if len(bins) == 1 else None


def _three(tail: Tail, groups: Sequence[Sequence[_Reach]], base: Floats) -> Head | None:
    """Return a head of boxes, objectness and scores: centre and sides."""
    columns = base.shape[1]
    scales, classes = [], 0
    for group in groups:
        boxes = [reach for reach in group if reach.columns == tuple(range(_BOX))]
        others = sorted(
            (reach for reach in group if reach not in boxes), key=lambda r: (tail.shape(r.name)[1], r.columns)
        )
        stride = _stride(tail, tail.shape(group[0].name)[2:])
        if len(boxes) != 1 or len(others) != 2 or stride is None:
            return None
        if others[1].columns == (_BOX,) and others[0].columns == (_BOX + 1,):  # one class: both have one channel
            others.reverse()
        objectness, scores = others
        classes = tail.shape(scores.name)[1]
        scales.append(Scale(stride, boxes[0].name, scores.name, objectness.name))
    return _head("yolox", classes, scales) if columns in (_BOX + classes, _BOX + 1 + classes) else None


def _anchors(tail: Tail, groups: Sequence[Sequence[_Reach]], base: Floats) -> Head | None:
    """Return a head with one output a scale, which holds all channels of each anchor."""
    scales, classes = [], 0
    for group in groups:
        (reach, *others) = group
        shape = tail.shape(reach.name)
        stride = _stride(tail, shape[2:])
        rows = reach.rows[1] - reach.rows[0]
        anchors, rest = divmod(rows, math.prod(shape[2:]))
        if others or stride is None or rest or not anchors or shape[1] % anchors:
            return None
        classes = shape[1] // anchors - _BOX - 1
        # With every logit 0 the sigmoids are 1/2, and a box is as large as its anchor.
        sides = base[reach.rows[0] : reach.rows[1]].reshape(anchors, -1, base.shape[1])[:, 0, :_BOX]
        large = tuple((float(box[2]), float(box[3])) for box in sides)
        if classes < 1 or any(side <= 0 for pair in large for side in pair):
            return None
        scales.append(Scale(stride, reach.name, reach.name, reach.name, anchors=large))
    return _head("anchors", classes, scales)


def _head(family: str, classes: int, scales: Sequence[Scale], **more: int) -> Head | None:
    """Return a head whose detector names the values of the whole network, or None if it is no valid one."""
    try:
        detector = Detector(family, classes, tuple(scales), **more)  # type: ignore[arg-type]
    except SpecError:
        return None
    named = detector.named()
    parts = {
        getattr(cut, role): Part(name, _channels(detector, scale, role) if scale.joint else None)
        for scale, cut in zip(detector.scales, named.scales, strict=True)
        for role in ("boxes", "scores", "objectness", "offsets")
        if (name := getattr(scale, role)) is not None
    }
    return Head(named, parts, None)


def _channels(detector: Detector, scale: Scale, role: str) -> tuple[int, ...]:
    """Return the channels of a joint output that hold boxes, objectness or scores of every anchor."""
    begin, end = {"boxes": (0, 4), "objectness": (4, 5), "scores": (5, 5 + detector.classes)}[role]
    return tuple(
        anchor * (5 + detector.classes) + place for anchor in range(len(scale.anchors)) for place in range(begin, end)
    )


def _decoded(tail: Tail, head: Head, tables: Sequence[tuple[str, ...]] = ()) -> Iterator[Head]:
    """Yield the head with each place of the network that holds just the boxes that its decoder gives."""
    rng = np.random.default_rng(2)
    values = {part.value for part in head.parts.values()}
    if not values <= set(tail.heads):
        return
    drawn = {name: rng.normal(0, 1.5, tail.shape(name)).astype(np.float32) for name in sorted(values)}
    outputs = [_taken(drawn, part) for part in head.parts.values()]
    wanted = expected(outputs, list(head.parts), head.detector, _size(tail))
    if not tables:
        sizes = _cells(tail)
        tables = [
            (name,)
            for name in tail.dependents
            if len(tail.shape(name)) == 3 and any(_lists(side, sizes) for side in tail.shape(name)[1:])
        ]
    for names in tables:
        function = tail.function(*names)
        if set(function.heads) != values:
            continue
        table = _table(function(drawn))
        for decoded, rows in wanted:
            if table is not None and table.shape == rows.shape and error(table, rows) <= TOLERANCE:
                yield evolve(head, decoded=evolve(decoded, values=names))
                break


def expected(
    outputs: Sequence[Floats], names: Sequence[str], detector: Detector, size: tuple[int, int]
) -> Iterator[tuple[Decoded, Floats]]:
    """Yield the tables that a network may make of its outputs, one per form."""
    boxes, scores, objectness = decode_all(outputs, names, detector, size=size)
    middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    forms: dict[Form, Floats] = {"xywh": np.concatenate((middle, sides), axis=1), "xyxy": boxes}
    if detector.family == "yolox":
        maps = dict(zip(names, outputs, strict=True))
        raw = [maps[scale.boxes].reshape(_BOX, -1).T for scale in detector.scales]
        forms["raw"] = np.concatenate(raw)
    for form, columns in forms.items():
        if objectness is None:
            yield Decoded((), form, False), np.concatenate((columns, scores), axis=1)
        else:
            apart = np.concatenate((columns, objectness[:, None], scores), axis=1)
            yield Decoded((), form, True), apart
            yield Decoded((), form, False), np.concatenate((columns, objectness[:, None] * scores), axis=1)


def error(found: Floats, wanted: Floats) -> float:
    """Return the largest difference of two tables: in pixels, or as a share of a value above 1."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(found - wanted) / np.maximum(1, np.abs(wanted))
    return math.inf if not np.isfinite(apart).all() else float(apart.max(initial=0.0))


def table(values: Sequence[Array]) -> Floats | None:
    """Return a row per candidate and a column per number, of one value or of several that have the same rows."""
    return _table(values)


def _table(values: Sequence[Array]) -> Floats | None:
    flat = [value[0] for value in values if value.ndim == 3]
    if len(flat) != len(values):
        return None
    rows = max(max(part.shape) for part in flat)
    if any(rows not in part.shape for part in flat):
        return None
    return np.concatenate([part if part.shape[0] == rows else part.T for part in flat], axis=1)


def _taken(values: Mapping[str, Floats], part: Part) -> Floats:
    value = values[part.value]
    return value if part.channels is None else value[:, list(part.channels)]


def _size(tail: Tail) -> tuple[int, int]:
    """Return (height, width) of the network's input."""
    shape = tail.input_shape
    return (shape[2], shape[3]) if shape[1] == 3 or shape[3] != 3 else (shape[1], shape[2])


def _stride(tail: Tail, shape: Sequence[int]) -> int | None:
    """Return the stride of a map, None if it has none."""
    sides = [divmod(side, cells) for side, cells in zip(_size(tail), shape, strict=True)]
    strides = {stride for stride, rest in sides if not rest and stride > 1}
    return strides.pop() if len(strides) == 1 and not any(rest for _, rest in sides) else None


# Heat maps


def _heat_maps(tail: Tail) -> Head | None:
    """Return the head of a network that gives a heat map, sides and offsets of the centres, or None."""
    outputs = [value.name for value in tail.model.graph.output]
    roots = [_root(tail, name) for name in outputs]
    if len(outputs) not in (2, 3) or any(root is None for root in roots):
        return None
    maps = {name: tail.shape(root) for name, root in zip(outputs, roots, strict=True) if root is not None}
    if len({shape[2:] for shape in maps.values()}) != 1 or any(len(shape) != 4 for shape in maps.values()):
        return None
    return None


def _root(tail: Tail, name: str) -> str | None:
    """Return the head that an output is, seen through a Sigmoid and its limits."""
    while name not in tail.heads:
        node = tail.view.producer(name)
        if node is None or node.op_type not in ("Sigmoid", "Clip", "Identity"):
            return None
        name = tail.view.source(node.input[0])
    return name


def _unknown(tail: Tail) -> ModelFileError:
    raise NotImplementedError


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
