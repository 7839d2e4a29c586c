"""Average pools whose windows reach over the edge, as a pool of whole windows and a factor for each position.

If a pool leaves padding out of the mean, or its last windows are cut off (ceil_mode), the compiler divides by the
whole window everywhere and rounds down. So its integers are too low at the edges; with ceil_mode and padding the
vendor's simulator even aborts. A pool that counts its padding becomes a convolution, which rounds to nearest, and a
product with window / pixels puts the means right. The integers against the float pool, in steps of int8, and us at O0
and O2, hb_mapper 1.24.3, 32x32x32 values, a 3x3 window:

    stride, pads    as exported                             whole windows and factors
                    inside     edge                         inside     edge
    2, 1            0.75       5.24       43.8    14.1      0.33       0.53       61.5    17.6
    1, 1            0.72       4.53       93.3    30.8      0.29       0.53       127.7   34.5
    2, ceil         0.73       5.52       43.8    14.1      0.29       0.52       61.4
    2, 1, ceil      0.75       2.94       57.0              0.33       0.36       83.1

The figures of steps are root mean squares. Other exact forms cost more: padding that holds the means of the edge (20.0
and 50.9 us at O2 for the first two), or a pool for each of the nine parts (65.1 us for the second).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from edge.graph.files import copied, opset_of
from edge.graph.view import View, add_constant, insert, unused
from edge.prepare.normal_form import has_branches, tidy

if TYPE_CHECKING:
    import onnx


@frozen
class _Side:
    """The windows of a pool along one side of an image."""

    before: int  #: pixels of padding in front.
    after: int  #: the same behind, so that all windows lie within them.
    counts: tuple[int, ...]  #: pixels that each window takes the mean of.


def whole_windows(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model with exact average pools, and the names of those that changed; the model itself if none did.

    Pools whose windows all lie inside the image stay, and so do those that count equal padding on both ends.

    Args:
        model: a checked model of opset 10 or 11 whose shapes are inferred.
    """
    if has_branches(model.graph):
        return model, ()
    changed = copied(model)
    view, graph, opset = View(changed), changed.graph, opset_of(changed)
    names = []
    for node in view.nodes:
        sides = _sides(view, node)
        if sides is None:
            continue
        _rewrite(view, graph, node, sides, opset)
        names.append(node.name)
    return (tidy(changed), tuple(names)) if names else (model, ())


def _sides(view: View, node: onnx.NodeProto) -> tuple[_Side, _Side] | None:
    """Return height and width of a pool that has to change."""
    if node.op_type != "AveragePool":
        return None
    before, after = view.shape(node.input[0]), view.shape(node.output[0])
    if before is None or after is None or len(before) != 4:
        return None
    windows = view.attribute(node, "kernel_shape", [])
    height, width = (_side(view, node, axis, before[2 + axis], after[2 + axis]) for axis in (0, 1))
    if height is None or width is None:
        return None
    sides = (height, width)
    whole = all(set(side.counts) == {window} for side, window in zip(sides, windows, strict=True))
    padded = any(side.before or side.after for side in sides)
    equal = all(side.before == side.after for side in sides)
    if whole and equal and not (padded and view.attribute(node, "ceil_mode", 0)):
        return None
    return sides


def _side(view: View, node: onnx.NodeProto, axis: int, length: int, count: int) -> _Side | None:
    """Return the ``count`` windows along a side of ``length`` pixels; None if they are not as ONNX has them."""
    window = view.attribute(node, "kernel_shape", [])[axis]
    stride = view.attribute(node, "strides", [1, 1])[axis]
    pads = view.attribute(node, "pads", [0] * 4)
    start, end = pads[axis], pads[2 + axis]
    automatic = view.attribute(node, "auto_pad", b"NOTSET")
    if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
        missing = max((-(-length // stride) - 1) * stride + window - length, 0)
        smaller, larger = missing // 2, missing - missing // 2
        start, end = (smaller, larger) if automatic == b"SAME_UPPER" else (larger, smaller)
    counted = bool(view.attribute(node, "count_include_pad", 0))
    first, last = (-start, length + end) if counted else (0, length)
    starts = [place * stride - start for place in range(count)]
    counts = tuple(min(place + window, last) - max(place, first) for place in starts)
    reached = max(starts[-1] + window - length, 0)
    if min(counts) < 1 or starts[-1] >= length:  # a window of padding alone, which onnxruntime leaves out
        return None
    enough = reached <= end and (length + start + end - window) // stride + 1 == count
    return _Side(start, end if enough else reached, counts)


def _rewrite(view: View, graph: onnx.GraphProto, node: onnx.NodeProto, sides: tuple[_Side, _Side], opset: int) -> None:
    from onnx import helper

    windows = view.attribute(node, "kernel_shape", [])
    strides = view.attribute(node, "strides", [1, 1])
    pads = [*(side.before for side in sides), *(side.after for side in sides)]
    value, output = node.input[0], node.output[0]
    if pads[:2] != pads[2:]:
        # As a node of its own: the compiler's onnxruntime takes another mean where an attribute has unequal ends.
        value = unused(graph, f"{output}/padded")
        full = [0, 0, *pads[:2], 0, 0, *pads[2:]]
        if opset < 11:
            pad = helper.make_node("Pad", [node.input[0]], [value], f"{node.name}/Pad", pads=full)
        else:
            stored = add_constant(graph, f"{value}/pads", full)
            pad = helper.make_node("Pad", [node.input[0], stored], [value], f"{node.name}/Pad")
        insert(graph, node, pad)
        pads = [0] * 4
    heights, widths = (window / np.array(side.counts, np.float64) for side, window in zip(sides, windows, strict=True))
    factors = np.outer(heights, widths).astype(np.float32)[None, None]
    scaled = bool((factors != 1).any())
    pooled = unused(graph, f"{output}/whole") if scaled else output
    pool = helper.make_node(
        "AveragePool",
        [value],
        [pooled],
        node.name,
        kernel_shape=windows,
        strides=strides,
        pads=pads,
        count_include_pad=1,
    )
    if scaled:
        stored = add_constant(graph, f"{pooled}/factors", factors)
        place = list(graph.node).index(node)
        graph.node.insert(place + 1, helper.make_node("Mul", [pooled, stored], [output], f"{node.name}/Mul"))
    node.CopyFrom(pool)
