"""Small detectors whose tails are those of real exports, with boxes that an image's pixels plant.

A head is a convolution that sees one pixel of each cell, another one for each scale: the colour of that pixel decides
what the cell says, so the boxes of an image follow from the weights by a pencil.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = (64, 96)
STRIDES = (8, 16)
CLASSES = 3
BINS = 4
ANCHORS = {8: ((10.0, 13.0), (16.0, 30.0)), 16: ((30.0, 61.0), (62.0, 45.0))}


class Net:
    """Builds a graph operator by operator."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def const(self, values: Any) -> str:
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64)
        name = f"const_{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: Any, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        names = [value if isinstance(value, str) else self.const(value) for value in inputs]
        made = [f"{name or f'{kind}_{len(self.nodes)}'}{f'_{i}' if outputs > 1 else ''}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, made, name=f"/{made[0]}", **attributes))
        return made[0] if outputs == 1 else made

    def head(self, name: str, stride: int, weights: np.ndarray, bias: np.ndarray) -> str:
        """Add a convolution of one pixel a cell; the weights are (channels, 3)."""
        self.weights[name] = weights, bias
        side = STRIDES.index(stride) + 1
        kernel = np.zeros((*weights.shape, side, side))
        kernel[:, :, -1, -1] = weights
        return str(self.op("Conv", "images", kernel, bias, name=name, strides=[stride] * 2))

    def model(self, outputs: Sequence[str], *, batch: int = 1, opset: int = 13) -> onnx.ModelProto:
        shape: list[Any] = [batch, 3, *SIZE]
        graph = helper.make_graph(
            self.nodes,
            "detector",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.stored,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for value in model.graph.output:
            if not value.type.tensor_type.HasField("shape"):  # it comes of Shape operators: a table of open sizes
                value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [None] * 3))
        onnx.checker.check_model(model)
        return model


def role(net: Net, name: str, channels: int, *, low: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (channels, 3) and bias: of boxes, or of logits that are low where the image is black."""
    weights = net.rng.normal(0, 0.7, (channels, 3))
    bias = net.rng.normal(0, 0.3, channels)
    if low:  # the colour of a pixel is its class
        weights = np.full((channels, 3), 9.0) if name.startswith("objectness") else 10 * np.eye(channels, 3) - 1
        bias = np.full(channels, -6.0)
    return weights, bias


def grid(stride: int) -> np.ndarray:
    """Return x and y of the cells of a map, (cells, 2)."""
    y, x = np.indices((SIZE[0] // stride, SIZE[1] // stride))
    return np.stack((x.ravel(), y.ravel()), axis=1).astype(np.float64)


def heads(net: Net, stride: int, channels: dict[str, int]) -> dict[str, str]:
    return {
        name: net.head(f"{name}.{stride}", stride, *role(net, name, count, low=name != "boxes"))
        for name, count in channels.items()
    }


# YOLOX


def yolox(
    *, decode: bool = True, classes: int = CLASSES, offset: float = 0.0, product: bool = False
) -> tuple[Net, list[str]]:
    """Concatenated over channels, then over scales; decoded as with decode_in_inference, or not."""
    net = Net()
    maps = []
    for stride in STRIDES:
        made = heads(net, stride, {"scores": classes, "boxes": 4, "objectness": 1})
        objectness, scores = net.op("Sigmoid", made["objectness"]), net.op("Sigmoid", made["scores"])
        if product:
            maps.append(net.op("Concat", made["boxes"], net.op("Mul", objectness, scores), axis=1))
        else:
            maps.append(net.op("Concat", made["boxes"], objectness, scores, axis=1))
    columns = 4 + classes + (not product)
    flat = [net.op("Reshape", part, [1, columns, -1]) for part in maps]
    rows = net.op("Transpose", net.op("Concat", *flat, axis=2), perm=[0, 2, 1])
    if not decode:
        return net, [rows]
    grids = np.concatenate([grid(s) + offset for s in STRIDES])[None]
    strides = np.concatenate([np.full((len(grid(s)), 1), float(s)) for s in STRIDES])[None]
    middle, sides, rest = (net.op("Slice", rows, [a], [b], [2]) for a, b in ((0, 2), (2, 4), (4, columns)))
    middle = net.op("Mul", net.op("Add", middle, grids), strides)
    sides = net.op("Mul", net.op("Exp", sides), strides)
    return net, [net.op("Concat", middle, sides, rest, axis=2)]


# YOLOv8 and what came after it


def dfl(
    *,
    bins: int = BINS,
    tail: str = "",
    joint: bool = False,
    dynamic: bool = False,
    corners: bool = False,
    half: float = 0.5,
    extra: int = 0,
) -> tuple[Net, list[str]]:
    """Boxes and scores flattened and concatenated over scales; means over bins; ltrb to xywh or corners.

    Args:
        bins: of a side; 1 as in YOLO26.
        tail: ``nms`` or ``topk`` behind it.
        joint: boxes and scores of a scale are concatenated first and split behind the scales.
        dynamic: shapes and grids come of Shape operators.
        corners: corners instead of centre and sides.
        half: the middle of a cell; another value is a decoder that edge does not know.
        extra: further columns, such as those of masks.
    """
    net = Net()
    channels = {"boxes": 4 * bins, "scores": CLASSES} | ({"extra": extra} if extra else {})
    made = [heads(net, stride, channels) for stride in STRIDES]

    def flat(name: str, count: int) -> str:
        target: Any = [1, count, -1]
        if dynamic:
            first = net.op("Slice", net.op("Shape", name), [0], [1], [0])
            target = net.op("Concat", first, [count], [-1], axis=0)
        return str(net.op("Reshape", name, target))

    if joint:
        both = [net.op("Concat", scale["boxes"], scale["scores"], axis=1) for scale in made]
        rows = net.op("Concat", *(flat(name, 4 * bins + CLASSES) for name in both), axis=2)
        boxes, scores = net.op("Split", rows, [4 * bins, CLASSES], outputs=2, axis=1)
    else:
        boxes = net.op("Concat", *(flat(scale["boxes"], 4 * bins) for scale in made), axis=2)
        scores = net.op("Concat", *(flat(scale["scores"], CLASSES) for scale in made), axis=2)
    if bins > 1:
        shares = net.op("Reshape", boxes, [1, 4, bins, -1])
        shares = net.op("Softmax", net.op("Transpose", shares, perm=[0, 2, 1, 3]), axis=1)
        means = net.op("Conv", shares, np.arange(float(bins)).reshape(1, bins, 1, 1))
        boxes = net.op("Reshape", means, [1, 4, -1])
    near, far = (net.op("Slice", boxes, [a], [b], [1]) for a, b in ((0, 2), (2, 4)))
    if dynamic:
        parts = []
        for scale in made:
            shape = net.op("Shape", scale["boxes"])
            h, w = (net.op("Gather", shape, at, axis=0) for at in (2, 3))
            x, y = (net.op("Add", net.op("Cast", net.op("Range", 0, n, 1), to=1), half) for n in (w, h))
            size = net.op("Concat", net.op("Unsqueeze", h, [0]), net.op("Unsqueeze", w, [0]), axis=0)
            x = net.op("Expand", net.op("Reshape", x, [1, -1]), size)
            y = net.op("Expand", net.op("Reshape", y, [-1, 1]), size)
            parts.append(net.op("Concat", *(net.op("Reshape", part, [1, 1, -1]) for part in (x, y)), axis=1))
        middles = net.op("Concat", *parts, axis=2)
    else:
        middles = np.concatenate([grid(s) + half for s in STRIDES]).T[None]
    low, high = net.op("Sub", middles, near), net.op("Add", middles, far)
    if corners:
        box = net.op("Concat", low, high, axis=1)
    else:
        box = net.op("Concat", net.op("Div", net.op("Add", low, high), 2.0), net.op("Sub", high, low), axis=1)
    box = net.op("Mul", box, np.concatenate([np.full(len(grid(s)), float(s)) for s in STRIDES])[None])
    more = [net.op("Concat", *(flat(scale["extra"], extra) for scale in made), axis=2)] if extra else []
    rows = net.op("Concat", box, net.op("Sigmoid", scores), *more, axis=1)
    return (net, [rows]) if not tail else (net, {"nms": _nms, "topk": _topk}[tail](net, rows))


def _nms(net: Net, rows: str) -> list[str]:
    """NonMaxSuppression and the rows that it picks, filled up to as many as a scale has cells.

    Without a box above the threshold it fails, as real exports do.
    """
    box, scores = net.op("Slice", rows, [0], [4], [1]), net.op("Slice", rows, [4], [4 + CLASSES], [1])
    box = net.op("Transpose", box, perm=[0, 2, 1])
    picked = net.op("NonMaxSuppression", box, scores, 20, 0.65, 0.6, center_point_box=1)
    places = net.op("Squeeze", net.op("Slice", picked, [2], [3], [1]), [1])
    picks = net.op("Gather", net.op("Transpose", rows, perm=[0, 2, 1]), places, axis=1)
    whole = net.op("Mul", picks, net.op("Gather", picks, [0], axis=1))
    cells = len(grid(STRIDES[-1]))
    filled = net.op("Concat", whole, np.zeros((1, cells, 4 + CLASSES)), axis=1)
    return [net.op("Slice", filled, [0], [cells], [1])]


def _topk(net: Net, rows: str) -> list[str]:
    """The best candidates by their best class, as the one-to-one heads end."""
    table = net.op("Transpose", rows, perm=[0, 2, 1])
    box, scores = net.op("Split", table, [4, CLASSES], outputs=2, axis=2)
    best, place = net.op("TopK", net.op("ReduceMax", scores, axes=[2], keepdims=0), [10], outputs=2, axis=1)
    wide = net.op("Expand", net.op("Unsqueeze", place, [2]), [1, 10, 4])
    taken = net.op("GatherElements", box, wide, axis=1)
    return [net.op("Concat", taken, net.op("Unsqueeze", best, [2]), axis=2)]


# YOLOv5 and v7


def anchors(*, form: str = "v5", implicit: bool = False, decode: bool = True) -> tuple[Net, list[str]]:
    """One convolution a scale; sigmoid, grid and anchors per scale, then concatenated.

    Args:
        form: ``v5``; ``v7`` multiplies in another order and gives the maps too; ``convert`` gives corners, and
            scores apart.
        implicit: a factor per channel behind the convolution.
        decode: False gives the maps alone.
    """
    net = Net()
    width = 5 + CLASSES
    rows, maps = [], []
    for stride in STRIDES:
        parts = []
        for _ in ANCHORS[stride]:
            for name, count in (("boxes", 4), ("objectness", 1), ("scores", CLASSES)):
                parts.append(role(net, name, count, low=name != "boxes"))
        weights, bias = (np.concatenate(values) for values in zip(*parts, strict=True))
        name = net.head(f"joint.{stride}", stride, weights, bias)
        if implicit:
            factor = net.rng.uniform(0.9, 1.1, len(bias))
            net.weights[f"joint.{stride}"] = weights * factor[:, None], bias * factor
            name = net.op("Mul", factor.reshape(1, -1, 1, 1), name)
        h, w = SIZE[0] // stride, SIZE[1] // stride
        map_ = net.op("Transpose", net.op("Reshape", name, [1, 2, width, h, w]), perm=[0, 1, 3, 4, 2])
        maps.append(map_)
        if not decode:
            continue
        xy, wh, rest = net.op("Split", net.op("Sigmoid", map_), [2, 2, 1 + CLASSES], outputs=3, axis=4)
        cells = grid(stride).reshape(1, 1, h, w, 2)
        large = np.asarray(ANCHORS[stride]).reshape(1, 2, 1, 1, 2)
        if form == "v7":
            xy = net.op("Add", net.op("Mul", xy, 2.0 * stride), stride * (cells - 0.5))
            wh = net.op("Mul", net.op("Pow", wh, 2.0), 4 * large)
        else:
            xy = net.op("Mul", net.op("Add", net.op("Mul", xy, 2.0), cells - 0.5), float(stride))
            wh = net.op("Mul", net.op("Pow", net.op("Mul", wh, 2.0), 2.0), large)
        rows.append(net.op("Reshape", net.op("Concat", xy, wh, rest, axis=4), [1, -1, width]))
    if not decode:
        return net, maps
    table = net.op("Concat", *rows, axis=1)
    if form == "v7":
        return net, [table, *maps]
    if form == "convert":
        box, objectness, scores = net.op("Split", table, [4, 1, CLASSES], outputs=3, axis=2)
        corners = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]])
        return net, [net.op("MatMul", box, corners), net.op("Mul", scores, objectness)]
    return net, [table]


# CenterNet


def centernet(*, heat: str = "sigmoid", names: Sequence[str] = ("hm", "wh", "reg")) -> tuple[Net, list[str]]:
    """Heat map, sides and offsets of one scale; ``heat`` may be ``logits`` or ``peaks``."""
    net = Net()
    made = heads(net, 8, {"scores": CLASSES, "boxes": 2})
    offsets = net.head("offsets.8", 8, net.rng.normal(0, 0.2, (2, 3)), np.full(2, 0.4))
    weights, bias = net.weights["boxes.8"]
    weights += 2.0 - weights.min()  # sides are positive
    net.nodes = [node for node in net.nodes if node.output[0] != "boxes.8"]
    boxes = net.head("boxes.8", 8, weights, np.abs(bias))
    score = made["scores"]
    if heat != "logits":
        score = net.op("Sigmoid", score)
    if heat == "peaks":
        highest = net.op("MaxPool", score, kernel_shape=[3, 3], pads=[1] * 4)
        score = net.op("Mul", score, net.op("Cast", net.op("Equal", score, highest), to=1))
    outputs = [net.op("Identity", value, name=name) for value, name in zip((score, boxes, offsets), names, strict=True)]
    return net, outputs


# name -> the network, its outputs; what edge should see; how a cell's box is reckoned
Make = Callable[[], tuple[Net, list[str]]]
VARIANTS: dict[str, tuple[Make, str, bool]] = {
    "yolox": (yolox, "yolox", True),
    "yolox_undecoded": (lambda: yolox(decode=False), "yolox", True),
    "yolox_one_class": (lambda: yolox(classes=1), "yolox", True),
    "yolox_one_class_undecoded": (lambda: yolox(decode=False, classes=1), "yolox", True),
    "yolox_four_classes": (lambda: yolox(classes=4), "yolox", True),
    "yolox_product": (lambda: yolox(product=True), "yolox", True),
    "dfl": (dfl, "dfl", True),
    "dfl_joint": (lambda: dfl(joint=True), "dfl", True),
    "dfl_dynamic": (lambda: dfl(dynamic=True), "dfl", True),
    "dfl_nms": (lambda: dfl(tail="nms"), "dfl", True),
    "dfl_one_to_one": (lambda: dfl(tail="topk", corners=True), "dfl", False),
    "ltrb": (lambda: dfl(bins=1), "dfl", True),
    "ltrb_one_to_one": (lambda: dfl(bins=1, tail="topk", corners=True), "dfl", False),
    "anchors": (anchors, "anchors", True),
    "anchors_v7": (lambda: anchors(form="v7"), "anchors", True),
    "anchors_implicit": (lambda: anchors(implicit=True), "anchors", True),
    "anchors_apart": (lambda: anchors(form="convert"), "anchors", True),
    "centernet": (centernet, "centernet", False),
    "centernet_logits": (lambda: centernet(heat="logits"), "centernet", False),
    "centernet_peaks": (lambda: centernet(heat="peaks"), "centernet", False),
}

Planted = tuple[int, tuple[int, int], tuple[float, float, float]]  # stride, cell (x, y), colour


def image(planted: Sequence[Planted]) -> np.ndarray:
    """Return a black image with a pixel of colour in each cell, where the cell's scale sees it."""
    pixels = np.zeros((1, 3, *SIZE), np.float32)
    for stride, (x, y), colour in planted:
        place = STRIDES.index(stride)
        pixels[0, :, y * stride + place, x * stride + place] = colour
    return pixels


def reckoned(net: Net, family: str, bins: int, planted: Planted, anchor: int = 0) -> tuple[list[float], float, int]:
    """Return box, score and label of a planted cell, reckoned from the weights in plain numbers."""
    stride, (x, y), colour = planted
    logits = {name: weights @ np.asarray(colour) + bias for name, (weights, bias) in net.weights.items()}
    if family == "anchors":
        own = logits[f"joint.{stride}"].reshape(len(ANCHORS[stride]), -1)[anchor]
        box, objectness, scores = own[:4], own[4], own[5:]
    else:
        box, scores = logits[f"boxes.{stride}"], logits[f"scores.{stride}"]
        objectness = logits[f"objectness.{stride}"][0] if family == "yolox" else math.inf
    label = int(scores.argmax())
    score = sigmoid(scores[label]) * sigmoid(objectness)
    if family == "dfl":
        if bins > 1:
            shares = [np.exp(side) / np.exp(side).sum() for side in box.reshape(4, bins)]
            box = np.asarray([share @ np.arange(bins) for share in shares])
        left, top, right, bottom = box
        return [stride * v for v in (x + 0.5 - left, y + 0.5 - top, x + 0.5 + right, y + 0.5 + bottom)], score, label
    if family == "anchors":
        wide, high = ANCHORS[stride][anchor]
        cx, cy = ((2 * sigmoid(box[i]) - 0.5 + (x, y)[i]) * stride for i in (0, 1))
        w, h = (2 * sigmoid(box[2])) ** 2 * wide, (2 * sigmoid(box[3])) ** 2 * high
    elif family == "yolox":
        cx, cy = (x + box[0]) * stride, (y + box[1]) * stride
        w, h = math.exp(box[2]) * stride, math.exp(box[3]) * stride
    else:
        dx, dy = logits[f"offsets.{stride}"]
        cx, cy, w, h = ((x + dx) * stride, (y + dy) * stride, box[0] * stride, box[1] * stride)
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], score, label


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
