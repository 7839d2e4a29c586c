"""Split the convolution over patches of the image, the first layer of a vision transformer, into two.

The compiler runs a convolution with 3 channels and a large window as slowly as one with many channels. So first a
convolution with ones turns each p x p patch into channels; then a window of k/p does the rest on 3 p^2 channels. One
layer of 224x224 pixels, hb_mapper 1.24.3, O2, in us:

    window  outputs  whole    p = 2    4       7       8
    8       192      364.1    91.6     86.7
    14      384      3307.4   1554.8           1031.4
    16      192      1711.0   282.7    136.1           396.4
    16      768      6611.5            399.7
    32      384      11527.6           734.3           612.9

A SpaceToDepth, which needs no multiplication, took 14943.9 us. All weights of the first convolution are equal, so 8
bits hold them and its results exactly: on a random image all integers were the input's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.graph.files import copied
from edge.graph.view import View, add_constant, insert, unused
from edge.prepare.normal_form import has_branches, tidy

if TYPE_CHECKING:
    import onnx

SMALLEST = 8  # pixels; ConvNeXt's 4 would gain some 30 us
CHANNELS = 4  # at most; an image has 3, and the first convolution multiplies their number
_PLAIN = {"auto_pad": b"NOTSET", "group": 1}


def in_two_steps(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model with its patch convolutions in two steps, and their names; the model itself if it has none.

    Args:
        model: a checked model of opset 10 or 11 whose shapes are inferred.
    """
    if has_branches(model.graph):
        return model, ()
    changed = copied(model)
    view, graph = View(changed), changed.graph
    names = []
    for node in view.nodes:
        window = _window(view, node)
        step = first_step(window) if window else None
        if window is None or step is None:
            continue
        _cut(view, graph, node, step, window // step)
        names.append(node.name)
    return (tidy(changed), tuple(names)) if names else (model, ())


def first_step(window: int) -> int | None:
    """Return p: the smallest divisor of the window whose square is at least the window; None if there is none.

    Args:
        window: side of a patch in pixels.
    """
    fits = (step for step in range(2, window) if window % step == 0 and step * step >= window)
    return next(fits, None)


def _window(view: View, node: onnx.NodeProto) -> int | None:
    """Return the side of the patches of a convolution that reads each pixel of an image once."""
    weights = view.tensor(node.input[1]) if node.op_type == "Conv" else None
    if weights is None or weights.ndim != 4:
        return None
    plain = all(view.attribute(node, name, usual) == usual for name, usual in _PLAIN.items())
    rows, columns = weights.shape[2:]
    once = view.attribute(node, "strides", [1, 1]) == [rows, columns]
    moved = any(view.attribute(node, "pads", [])) or set(view.attribute(node, "dilations", [1])) != {1}
    if not (plain and once) or moved or rows != columns or rows < SMALLEST or weights.shape[1] > CHANNELS:
        return None
    return int(rows)


def _cut(view: View, graph: onnx.GraphProto, node: onnx.NodeProto, step: int, rest: int) -> None:
    from onnx import helper

    weights = view.tensor(node.input[1])
    outputs, channels = weights.shape[:2]
    ones = np.tile(np.eye(step * step, dtype=weights.dtype), (channels, 1)).reshape(-1, 1, step, step)
    # [outputs, channel, row / step, row % step, column / step, column % step]
    apart = weights.reshape(outputs, channels, rest, step, rest, step).transpose(0, 1, 3, 5, 2, 4)
    pixels = unused(graph, f"{node.output[0]}/pixels")
    new = helper.make_node(
        "Conv",
        [node.input[0], add_constant(graph, f"{pixels}/ones", ones)],
        [pixels],
        f"{node.name}/Pixels",
        group=channels,
        kernel_shape=[step, step],
        strides=[step, step],
    )
    insert(graph, node, new)
    node.input[0] = pixels
    node.input[1] = add_constant(
        graph, f"{node.input[1]}/apart", apart.reshape(outputs, channels * step * step, rest, rest)
    )
    for attribute in node.attribute:
        if attribute.name in ("kernel_shape", "strides"):
            attribute.ints[:] = [rest, rest]
