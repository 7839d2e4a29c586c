"""Estimate how much memory the compiler takes, and refuse a run that would be killed for lack of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from attrs import frozen

from edge.errors import NotEnoughMemory, counted
from edge.graph.files import load_onnx

Purpose = Literal["check", "compile"]

GIB = 1 << 30
_MIB = 1 << 20
_FLOAT = 4  # bytes of a weight, and of an activation while calibrating

# Upper bounds of what was measured (hb_mapper 1.24.3; the figures are in tests/test_footprint.py).
_BASE = 500 * _MIB
# Copies of the float weights, by number of weights: this many of the first 12 M, ... Larger networks hold fewer.
_Slopes = tuple[tuple[float, float], ...]
_WEIGHTS_ALONE: _Slopes = ((12e6, 31.0), (32e6, 22.0), (math.inf, 15.0))
_WEIGHTS_BESIDE: _Slopes = ((60e6, 17.0), (math.inf, 5.0))
_BATCH = 8  # calibration images that the compiler takes at a time
_LEAST = 3  # images that count at least: with one or two, the steps after calibration take more
_LARGEST = 4.7  # copies of the largest activation of a batch
_ACTIVATIONS = 1.9  # copies of every activation of one image
_INPUT = 1.2  # copies of every calibration image
_CHECK: tuple[tuple[int, float], ...] = ((550, 17.0), (1200, 12.5))  # MiB, copies of the weights

_SIZES = (4, 8, 16, 24, 32, 48, 64, 96, 128)  # GiB, usual sizes of machines
_FEW = 20  # calibration images that still give steady ranges


@frozen
class Extent:
    """How large the tensors of a network are, in elements for one image."""

    parameters: int  #: of all weights, biases and statistics.
    activations: int = 0  #: of the outputs of all operators together.
    largest: int = 0  #: of the largest of them.
    input: int = 0  #: of the input.


def extent_of(onnx_file: Path) -> Extent:
    """Add up the tensors of a network; shapes are those that ONNX infers.

    A tensor of unknown shape counts as much as the largest input of its operator.

    Args:
        onnx_file: float network with static inputs.

    Raises:
        ModelFileError: the file can't be read.
    """
    import onnx

    model = load_onnx(onnx_file)
    graph = model.graph
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    # Shapes do not depend on the values of large weights; without these, inference is fast and small.
    for index in reversed(range(len(graph.initializer))):
        tensor = graph.initializer[index]
        if math.prod(tensor.dims) > 1024:
            if all(value.name != tensor.name for value in graph.input):
                graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            del graph.initializer[index]
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = value.type.tensor_type
        if shape.HasField("shape") and all(axis.HasField("dim_value") for axis in shape.shape.dim):
            sizes[value.name] = math.prod(axis.dim_value for axis in shape.shape.dim)
    outputs: list[int] = []
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        largest = max((sizes.get(name, 0) for name in node.input if name not in weights), default=0)
        outputs += [sizes.setdefault(name, largest) for name in node.output if name]
    return Extent(
        parameters=sum(weights.values()),
        activations=sum(outputs),
        largest=max(outputs, default=0),
        input=sum(sizes.get(value.name, 0) for value in graph.input if value.name not in weights),
    )


def estimate(extent: Extent, purpose: Purpose, images: int = 100) -> int:
    """Return the estimated peak memory of a run of the compiler, in bytes.

    A compile peaks either when it turns the weights into integers, or when it runs the calibration images
    through the network, so the larger of two sums counts:

    - weights: 500 MiB (a network of 29 k weights at 64x64 takes 449) and 31 copies of the first 12 M float
      weights (ResNet18 at 64x64), 22 of the next 20 M (ConvNeXt_tiny at 64x64 with the recipe ``int8``,
      NextViT_small_224), 15 of the rest (NextViT_large_224, ConvNeXt_large_224);
    - activations: 500 MiB; 4.7 copies of the largest activation of a batch of 8 images (2 and 4
      convolutions of 8 to 128 channels at 512x512 and 1024x1024; 4 images take less than 16, and one as
      much as 4, so no fewer than 3 count); 1.9 copies of all activations of one image (12 convolutions
      beside 4 add 58 MiB for each tensor of 32 MiB, so do additions and pooling); 1.2 copies of every
      image's input (100 images beside 16); 17 copies of the first 60 M weights and 5 of the rest
      (NextViT and ConvNeXt_large at 384x384).

    The factors lie at least 5 % above everything measured. Operators that the compiler fuses, such as a swish, still
    count, so such a network may take up to 1.65 times less. Level and 16-bit outputs change nothing (2 MiB between O2
    and O0, 3 between int16 and int8 outputs). The checker does not calibrate: it takes the same at every input size
    (455 MiB at 1024x1024). That is at most the smaller of 550 MiB + 17 copies of the weights and 1200 MiB + 12.5.

    Args:
        extent: of the network.
        purpose: ``check`` without calibration, or ``compile``.
    """
    if purpose == "check":
        return min(base * _MIB + round(copies * _FLOAT * extent.parameters) for base, copies in _CHECK)
    return max(_by_weights(extent), _by_activations(extent, images))


def _by_weights(extent: Extent) -> int:
    return _BASE + _FLOAT * _copies(extent.parameters, _WEIGHTS_ALONE)


def _by_activations(extent: Extent, images: int) -> int:
    elements = (
        _LARGEST * max(_LEAST, min(images, _BATCH)) * extent.largest
        + _ACTIVATIONS * extent.activations
        + _INPUT * images * extent.input
    )
    return _BASE + _FLOAT * (round(elements) + _copies(extent.parameters, _WEIGHTS_BESIDE))


def _copies(parameters: int, slopes: _Slopes) -> int:
    total, below = 0.0, 0.0
    for up_to, copies in slopes:
        total += copies * max(0.0, min(parameters, up_to) - below)
        below = up_to
    return round(total)


def require(extent: Extent, purpose: Purpose, *, free: int | None, name: str, images: int = 100) -> None:
    """Refuse a run that does not fit.

    Args:
        extent: of the network.
        free: free bytes, see :func:`edge.toolchain.memory.available`; None if unknown.
        name: of the network, for the message.

    Raises:
        NotEnoughMemory: the estimate is above ``free``.
    """
    needed = estimate(extent, purpose, images)
    if free is None or needed <= free:
        return
    # The system and edge itself need some memory too.
    machine = next((size for size in _SIZES if size * GIB >= needed + 2 * GIB), math.ceil(needed / GIB) + 2)
    size = f"{extent.parameters / 1e6:.1f} M parameters"
    why = "most of it is for the weights: fewer calibration images or a lower --level change little"
    less = "use a smaller model (edge models)"
    if purpose == "compile" and _by_activations(extent, images) > _by_weights(extent):
        size += f", {extent.activations / 1e6:.1f} M activations, {counted(images, 'calibration image')}"
        why = "most of it is for the activations: a lower --level changes nothing"
        less = "use a smaller input or a smaller model"
        fewer = estimate(extent, purpose, _FEW)
        if images > _FEW and fewer <= free:
            less = f"use --calib-count {_FEW}, which takes {fewer / GIB:.1f} GiB"
    raise NotEnoughMemory(
        f"to {purpose} {name} ({size}) takes about {needed / GIB:.1f} GiB of memory, and {free / GIB:.1f} GiB are free",
        expected=f"a machine or container with {machine} GiB; {why}",
        remedy=f"close other programs, or {less}; --any-memory tries anyway",
    )
