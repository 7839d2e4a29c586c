"""Means over channels as 1x1 convolutions.

A LayerNorm over the channels of an image is exported as Transpose to channels last, two ReduceMean, and
Transpose back. A ReduceMean over channels is a 1x1 convolution with one output and weights 1/C, which the
compiler quantizes without loss, since all are equal. Whether that is faster depends on the sizes:
ConvNeXt_atto at 224 took 1130.6 instead of 1231.6 us (hb_mapper 1.24.3, O3), but at 64 it took 724.4
instead of 718.0 us. So a recipe decides it, and ``edge tune`` compiles both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from edge.errors import ModelFileError
from edge.graph.files import load_onnx
from edge.graph.view import View, constants
from edge.prepare.guard import Guard, reference, refused
from edge.prepare.normal_form import tidy
from edge.progress import Reporter, Silent
from edge.specs.schema import Rewrite

if TYPE_CHECKING:
    import onnx

_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_MEAN = "ReduceMean"
# Element-wise operators: the position of the channel axis does not matter to them.
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Abs", "Neg", "Exp", "Log")


@frozen
class _Region:
    """Nodes between a Transpose to channels last and the one back."""

    first: onnx.NodeProto
    nodes: tuple[onnx.NodeProto, ...]
    last: onnx.NodeProto
    channels: int


def channel_mean(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model with its means over channels as convolutions, and the names of these nodes.

    A node keeps its name, so recipes that name it still work. Other forms of LayerNorm stay as they are.

    Args:
        model: a checked model with a static input, opset 10 or 11.
    """
    import onnx

    changed = onnx.shape_inference.infer_shapes(model)
    view = View(changed)
    names: list[str] = []
    for first in [node for node in view.nodes if _perm(node) == _TO_LAST]:
        region = _region(changed.graph, first, view.shape(first.input[0]) or [])
        if region is not None:
            names += _moved(changed.graph, region)
    return (tidy(changed), tuple(names)) if names else (model, ())


def _region(graph: onnx.GraphProto, first: onnx.NodeProto, shape: list[int]) -> _Region | None:
    """Return the nodes between a Transpose and the one back, if all can be moved and one is a mean."""
    fixed = constants(graph)
    outputs = {value.name for value in graph.output}
    if len(shape) != 4 or first.output[0] in outputs:
        return None
    channels = shape[1]
    inside = {first.output[0]}
    nodes: list[onnx.NodeProto] = []
    last: onnx.NodeProto | None = None
    for node in graph.node:  # in the order of computation
        if not inside & set(node.input):
            continue
        if _perm(node) == _TO_FIRST and last is None:
            last = node
            continue
        given = [name for name in node.input if name not in inside]
        if not all(name in fixed and _fits(fixed[name], channels) for name in given):
            return None
        if not (node.op_type in _ELEMENTWISE or _is_mean(node)) or outputs & set(node.output):
            return None
        inside.update(node.output)
        nodes.append(node)
    if last is None or last.input[0] == first.output[0] or not any(_is_mean(node) for node in nodes):
        return None
    return _Region(first, tuple(nodes), last, channels)


def _moved(graph: onnx.GraphProto, region: _Region) -> list[str]:
    """Move a region to channels first and return the names of its means."""
    from onnx import helper, numpy_helper

    fixed = constants(graph)
    # Remove the Transposes; their readers read the Transposes' inputs.
    renamed = {region.first.output[0]: region.first.input[0], region.last.input[0]: region.last.output[0]}
    names = []
    for node in region.nodes:
        for i, name in enumerate(node.input):
            if name in fixed and list(fixed[name].dims) == [region.channels] and region.channels > 1:
                first = f"{name}/channels_first"
                if first not in fixed:
                    values = numpy_helper.to_array(fixed[name]).reshape(region.channels, 1, 1)
                    graph.initializer.append(numpy_helper.from_array(values, first))
                    fixed[first] = graph.initializer[-1]
                node.input[i] = first
            else:
                node.input[i] = renamed.get(name, name)
        node.output[0] = renamed.get(node.output[0], node.output[0])
        if node.op_type == _MEAN:
            weight = f"{node.name}/weight"
            values = np.full((1, region.channels, 1, 1), 1 / region.channels, np.float32)
            graph.initializer.append(numpy_helper.from_array(values, weight))
            node.CopyFrom(
                helper.make_node(
                    "Conv", [node.input[0], weight], list(node.output), name=node.name, kernel_shape=[1, 1]
                )
            )
            names.append(node.name)
    graph.node.remove(region.first)
    graph.node.remove(region.last)
    return names


def _perm(node: onnx.NodeProto) -> list[int] | None:
    return View.attribute(node, "perm", None) if node.op_type == "Transpose" else None


def _is_mean(node: onnx.NodeProto) -> bool:
    """Tell whether a node is the mean over the last axis of four, which it keeps."""
    axes, keeps = View.attribute(node, "axes", None), View.attribute(node, "keepdims", 1)
    return node.op_type == _MEAN and axes in ([-1], [3]) and keeps == 1


def _fits(tensor: onnx.TensorProto, channels: int) -> bool:
    """Tell whether a constant is one number, or one per channel."""
    return list(tensor.dims) == [channels] or int(np.prod(tensor.dims)) == 1


REWRITES: Mapping[Rewrite, Callable[[onnx.ModelProto], tuple[onnx.ModelProto, tuple[str, ...]]]] = {
    "channel_mean": channel_mean
}


@frozen
class RewriteResult:
    """A float ONNX with some parts rewritten."""

    onnx: str  #: file name.
    nodes: Mapping[str, tuple[str, ...]]  #: rewrite -> names of the nodes that it changed.
    max_abs_error: float  #: largest difference of an output from before, over seeded random inputs.


def rewrite(
    *, model: Path, rewrites: Sequence[Rewrite], out: Path, name: str, reporter: Reporter | None = None
) -> RewriteResult:
    """Write ``<name>.onnx``; inputs, outputs and answers stay.

    Raises:
        ModelFileError: a rewrite finds nothing in this model, or changes its outputs.
    """
    import onnx

    reporter = reporter or Silent()
    source = changed = load_onnx(model)
    nodes: dict[str, tuple[str, ...]] = {}
    for key in rewrites:
        reporter.update(key)
        changed, nodes[key] = REWRITES[key](changed)
        if not nodes[key]:
            raise ModelFileError(
                f"the rewrite {key} finds nothing in {model.name}",
                expected="a LayerNorm over channels between two Transposes, as in ConvNeXt",
                remedy=f"use a recipe without {key!r} in 'rewrites'",
            )
    reporter.update("compare the outputs")
    with refused(
        f"{model.name} computes something else after the rewrite",
        expected="the same outputs on random inputs",
        remedy="use a recipe without 'rewrites', and report the model",
    ):
        error = Guard(source, reference(source, model), baseline=source).prove(changed)
    onnx.save(changed, out / f"{name}.onnx")
    return RewriteResult(f"{name}.onnx", nodes, error)
