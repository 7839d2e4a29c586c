"""Recognise how a network codes boxes: which outputs of its last convolutions are boxes, scores and objectness."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from attrs import evolve, frozen

from edge.errors import ModelFileError, SpecError, counted
from edge.graph.files import open_exposed
from edge.heads.head import BOX, TOLERANCE, Decoded, Floats, Head, Part, error, expected, heat_error, table, table_error
from edge.heads.tail import Tail
from edge.specs.detector import Detector, Scale

# Operators that leave numbers as they are.
_MOVING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose", "Cast", "Split", "Slice"})
_MOST_ANCHORS = 9  # of a scale
# What ultralytics' exporter calls a task -> its head, and what it gives besides boxes and classes.
_FURTHER = {
    "segment": "segmentation head, which gives masks",
    "pose": "pose head, which gives keypoints",
    "obb": "head of turned boxes (OBB), which gives angles",
}


def recognise(tail: Tail) -> Head:
    """Return what a network's head is, judged by what it computes.

    Raises:
        ModelFileError: no head that edge knows; the message says what was seen and how to describe it by hand.
    """
    if found := _with_decoder(tail) or _heat_maps(tail):
        return found
    raise _unknown(tail)


def given(tail: Tail, detector: Detector) -> Head:
    """Return a head as a user describes it, by the names of the network's own values.

    Raises:
        ModelFileError: the network has no such values, or their shapes are not the detector's.
    """
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
                    f"detector: {tail.origin} computes no value {name!r}",
                    expected=f"one of its values, such as {', '.join(tail.heads)}",
                )
            node = tail.view.producer(name)
            logits = node.input[0] if node is not None and node.op_type == "Sigmoid" and role != "boxes" else name
            parts[getattr(cut, role)] = Part(logits, _channels(detector, scale, role) if scale.joint else None)
    _require_shapes(tail, detector, parts, named)
    head = Head(named, parts)
    return _decoded(tail, head, _tables(tail)) or head


def _require_shapes(tail: Tail, detector: Detector, parts: Mapping[str, Part], named: Detector) -> None:
    names = list(dict.fromkeys(part.value for part in parts.values()))
    session = open_exposed(tail.model, names)
    shapes = {
        name: found.shape
        for name, found in zip(names, session.run(names, {tail.input: tail.values[tail.input]}), strict=True)
    }
    height, width = tail.size
    for scale, cut in zip(detector.scales, named.scales, strict=True):
        joint = sum(named.channels(cut).values()) if scale.joint else None
        for name, channels in named.channels(cut).items():
            part = parts[name]
            wanted = (1, joint or channels, height // scale.stride, width // scale.stride)
            if shapes[part.value] != wanted:
                raise ModelFileError(
                    f"detector: {part.value!r} of {tail.origin} is {_by(shapes[part.value])}",
                    expected=f"{_by(wanted)}: {detector.family}, {counted(detector.classes, 'class')}, "
                    f"stride {scale.stride}",
                )


# Decoders in the graph


def _with_decoder(tail: Tail) -> Head | None:
    """Return the head of a network that decodes its boxes, or at least lists them."""
    return next(filter(None, (_from_table(tail, names) for names in _tables(tail))), None)


def _tables(tail: Tail) -> Iterator[tuple[str, ...]]:
    """Yield values with as many rows as the maps have candidates, from the outputs up; then boxes and scores apart."""
    maps = {tail.shape(name)[2:] for name in tail.heads}
    totals = {0}
    for cells in (math.prod(shape) for shape in maps if _stride(tail, shape)):
        totals |= {total + cells for total in totals}  # other maps, such as those of masks, hold no candidates
    counts = {anchors * total for anchors in range(1, _MOST_ANCHORS + 1) for total in totals} - {0}
    for name in tail.dependents:
        shape = tail.shape(name)
        if len(shape) == 3 and shape[0] == 1 and counts & set(shape[1:]) and tail.runs((name,)):
            yield (name,)
    outputs = [value.name for value in tail.model.graph.output if value.name in tail.values]
    for boxes in outputs:
        for scores in outputs:
            tables = boxes != scores and all(len(tail.shape(name)) == 3 for name in (boxes, scores))
            if tables and tail.runs((boxes, scores)):
                yield boxes, scores


@frozen
class _Reach:
    """What a head changes in a table of candidates."""

    name: str
    rows: tuple[int, int]  #: first, and one behind the last.
    columns: tuple[int, ...]


def _from_table(tail: Tail, names: tuple[str, ...]) -> Head | None:
    """Return the head whose boxes these values hold, or None."""
    base = table(tail.run(names, {}))
    if base is None or base.shape[1] < BOX + 1:
        return None
    rng = np.random.default_rng(1)
    reached = []
    for name in tail.heads_of(names):
        changed = table(tail.run(names, {name: rng.normal(0, 1, tail.shape(name)).astype(np.float32)}))
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
            if proved := _decoded(tail, head, [names]):
                return proved
    return None


def _two(tail: Tail, groups: Sequence[Sequence[_Reach]], base: Floats) -> Head | None:
    """Return a head of boxes and scores: distances to the sides."""
    classes = base.shape[1] - BOX
    scales = []
    for group in groups:
        boxes = [reach.name for reach in group if reach.columns == tuple(range(BOX))]
        scores = [reach.name for reach in group if reach.columns == tuple(range(BOX, base.shape[1]))]
        stride = _stride(tail, tail.shape(group[0].name)[2:])
        if len(group) != 2 or len(boxes) != 1 or len(scores) != 1 or stride is None:
            return None
        scales.append(Scale(stride, boxes[0], scores[0]))
    bins = {tail.shape(scale.boxes)[1] // BOX for scale in scales}
    return _head(tail, "dfl", classes, scales, reg_max=bins.pop()) if len(bins) == 1 else None


def _three(tail: Tail, groups: Sequence[Sequence[_Reach]], base: Floats) -> Head | None:
    """Return a head of boxes, objectness and scores: centre and sides."""
    columns = base.shape[1]
    scales, classes = [], 0
    for group in groups:
        boxes = [reach for reach in group if reach.columns == tuple(range(BOX))]
        others = sorted(
            (reach for reach in group if reach not in boxes), key=lambda r: (tail.shape(r.name)[1], r.columns)
        )
        stride = _stride(tail, tail.shape(group[0].name)[2:])
        if len(boxes) != 1 or len(others) != 2 or stride is None:
            return None
        if others[1].columns == (BOX,) and others[0].columns == (BOX + 1,):  # one class: both have one channel
            others.reverse()
        objectness, scores = others
        classes = tail.shape(scores.name)[1]
        scales.append(Scale(stride, boxes[0].name, scores.name, objectness.name))
    return _head(tail, "yolox", classes, scales) if columns in (BOX + classes, BOX + 1 + classes) else None


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
        classes = shape[1] // anchors - BOX - 1
        # With every logit 0 the sigmoids are 1/2, and a box is as large as its anchor.
        sides = base[reach.rows[0] : reach.rows[1]].reshape(anchors, -1, base.shape[1])[:, 0, :BOX]
        large = tuple((float(box[2]), float(box[3])) for box in sides)
        if classes < 1 or any(side <= 0 for pair in large for side in pair):
            return None
        scales.append(Scale(stride, reach.name, reach.name, reach.name, anchors=large))
    return _head(tail, "anchors", classes, scales)


def _head(tail: Tail, family: str, classes: int, scales: Sequence[Scale], **more: int) -> Head | None:
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
    for scale in named.scales:
        for name, channels in named.channels(scale).items():
            part = parts[name]
            if part.channels is None and tail.shape(part.value)[1] != channels:
                return None
    return Head(named, parts)


def _channels(detector: Detector, scale: Scale, role: str) -> tuple[int, ...]:
    """Return the channels of a joint output that hold boxes, objectness or scores of every anchor."""
    begin, end = {"boxes": (0, 4), "objectness": (4, 5), "scores": (5, 5 + detector.classes)}[role]
    return tuple(
        anchor * (5 + detector.classes) + place for anchor in range(len(scale.anchors)) for place in range(begin, end)
    )


def _decoded(tail: Tail, head: Head, tables: Iterable[tuple[str, ...]]) -> Head | None:
    """Return the head with the place where the network holds just the boxes that its decoder gives; None without."""
    rng = np.random.default_rng(2)
    values = {part.value for part in head.parts.values()}
    if not values <= set(tail.heads):
        return None
    drawn = {name: rng.normal(0, 1.5, tail.shape(name)).astype(np.float32) for name in sorted(values)}
    outputs = [part.of(drawn) for part in head.parts.values()]
    wanted = list(expected(outputs, list(head.parts), head.detector, tail.size))
    for names in tables:
        found = table(tail.run(names, drawn)) if values <= set(tail.heads_of(names)) else None
        for decoded, rows in wanted:
            if decoded.form == "raw" and not tail.below(names[0]) <= _MOVING:  # a decoder comes behind it
                continue
            if found is not None and table_error(found, rows) <= TOLERANCE:
                return evolve(head, decoded=evolve(decoded, values=names))
    return None


def _stride(tail: Tail, shape: Sequence[int]) -> int | None:
    """Return the stride of a map (height, width), None if it has none."""
    if len(shape) != 2:
        return None
    strides = {side / cells for side, cells in zip(tail.size, shape, strict=True)}
    stride = strides.pop()
    return int(stride) if not strides and stride > 1 and stride == int(stride) else None


# Heat maps


def _heat_maps(tail: Tail) -> Head | None:
    """Return the head of a network whose outputs are a heat map, sides, and offsets of the centres; or None."""
    outputs = [value.name for value in tail.model.graph.output]
    if len(outputs) not in (2, 3) or any(name not in tail.values or tail.values[name].ndim != 4 for name in outputs):
        return None
    size = tail.shape(outputs[0])[2:]
    stride = _stride(tail, size)
    if stride is None or any(tail.shape(name)[2:] != size for name in outputs):
        return None
    plain: list[tuple[str, str]] = []
    heats: list[tuple[str, str]] = []
    for name in outputs:
        root, same = _source(tail, name)
        if root is None:
            return None
        (plain if same and tail.shape(name)[1] == 2 else heats).append((name, root))
    if len(heats) == 0 and len(plain) == len(outputs):  # two classes, and logits: the order has to tell
        heats.append(plain.pop(0))
    if len(heats) != 1 or len(plain) not in (1, 2):
        return None
    heat = heats[0]
    plain.sort(key=lambda item: any(word in item[0].lower() for word in ("off", "reg")))
    offsets = plain[1] if len(plain) == 2 else None
    scale = Scale(stride, plain[0][1], heat[1], offsets=None if offsets is None else offsets[1])
    head = _head(tail, "centernet", tail.shape(heat[0])[1], [scale], nms=False)
    if head is None:
        return None
    said = f"{heat[0]} is the heat map, {plain[0][0]} the sides" + (f", {offsets[0]} the offsets" if offsets else "")
    values = tuple(item[0] for item in (plain[0], heat, offsets) if item is not None)
    return evolve(head, decoded=Decoded(values, "maps"), notes=(f"{said}, in cells of {stride} pixels",))


def _source(tail: Tail, name: str) -> tuple[str | None, bool]:
    """Return the one head that a map comes of cell by cell, and whether it is that head as it is.

    It may be seen through a Sigmoid, and cells that are no peak may be 0. None if it comes of anything else.
    """
    heads = tail.heads_of((name,)) if tail.runs((name,)) else ()
    if len(heads) != 1:
        return None, False
    (root,) = heads
    drawn = np.random.default_rng(3).normal(0, 1.5, tail.shape(root)).astype(np.float32)
    (found, *_) = tail.run((name,), {root: drawn}) or [np.empty(0)]
    if found.shape != drawn.shape:
        return None, False
    same = error(found, drawn) <= TOLERANCE
    return (root if same or heat_error(found, drawn) <= TOLERANCE else None), same


def _unknown(tail: Tail) -> ModelFileError:
    """Return the error for a head that is not known: what was seen, and a detector to fill in."""
    outputs = [value.name for value in tail.model.graph.output]
    listed = ", ".join(f"{name} {_by(tail.values[name].shape)}" for name in outputs if name in tail.values)
    by_stride: dict[int, list[str]] = {}
    for name in tail.heads:
        stride = _stride(tail, tail.shape(name)[2:]) if name in tail.values else None
        if stride is not None:
            by_stride.setdefault(stride, []).append(name)
    last = "; ".join(
        f"stride {stride}: " + ", ".join(f"{name} {_by(tail.shape(name))}" for name in names[:6])
        for stride, names in sorted(by_stride.items())[:6]
    )
    if task := _ultralytics_task(tail):
        # Of prototypes of masks the output is one map as it is.
        maps = {tail.heads_of((name,)): name for name in outputs if len(tail.shape(name)) == len("NCHW")}
        names = [maps.get((name,), name) for names in by_stride.values() for name in names]
        return ModelFileError(
            f"{tail.origin} has a {_FURTHER[task]} besides boxes and classes: {listed}",
            expected="a detector that gives boxes and classes alone; edge decodes no others",
            remedy=f"--task raw --output {shlex.quote(','.join(names))}   builds it up to its last convolutions, each "
            "an output with an int8 range of its own; your code decodes them",
        )
    joint = bool(by_stride) and all(len(names) == 1 for names in by_stride.values())
    scales = ", ".join(
        f"{{stride: {stride}, boxes: {name}, scores: {name}, objectness: {name}, anchors: [[WIDTH, HEIGHT], ...]}}"
        if joint
        else f"{{stride: {stride}, boxes: NAME, scores: NAME}}"
        for stride, (name, *_) in sorted(by_stride.items())[:4]
    )
    family = "anchors, classes: 80" if joint else "dfl, classes: 80, reg_max: 16"
    more = "" if joint else "; yolox and anchors need objectness: NAME too"
    return ModelFileError(
        f"{tail.origin}: edge does not know this head. Its outputs: {listed or ', '.join(outputs)}. "
        f"Its last convolutions: {last or 'none that makes a map of the image'}",
        expected="a detector of the YOLOX, YOLOv5, YOLOv7, YOLOv8 to v12, YOLO26 or CenterNet type, which gives boxes "
        "and classes alone (no masks, keypoints or angles)",
        remedy=f"say in the model's YAML which values are what: detector: {{family: {family}, scales: [{scales}]}}   "
        f"family is yolox, dfl, anchors or centernet{more}",
    )


def _ultralytics_task(tail: Tail) -> str:
    """Return the task of a head that gives more than boxes: as the file says, or masks by their prototypes' map."""
    said = next((entry.value for entry in tail.model.metadata_props if entry.key == "task"), "")
    ranks = sorted(tail.values[value.name].ndim for value in tail.model.graph.output if value.name in tail.values)
    return said if said in _FURTHER else "segment" if not said and ranks == [3, 4] else ""


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
