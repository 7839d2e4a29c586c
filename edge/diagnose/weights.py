"""Weights: the rounding error of each, outliers that ruin a channel, and tensors that a step changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from attrs import frozen
from numpy.typing import NDArray
from onnx import numpy_helper

from edge.graph.files import load_onnx
from edge.simulate.fakequant import Quantizer

# A weight this many times larger than the others of its channel is an outlier.
OUTLIER = 12.0
NEAR = 1.5  # integers; what rounding and the estimated factor may be off together


@frozen
class WeightTensor:
    """A weight that is rounded."""

    quantizer: int  #: its index.
    node: str  #: the node that reads it.
    tensor: str  #: its name.
    shape: tuple[int, ...]  #: of it.
    #: mean rounding error over the mean magnitude, both without each channel's largest weight; 0..1, 1 if all other
    #: weights are rounded to zero.
    error: float
    channel: int  #: the worst channel.
    channel_error: float  #: its error.
    outlier: float  #: largest weight over the 99th percentile of magnitudes, in the worst channel.
    outlier_at: tuple[int, ...]  #: index of that weight in the tensor.
    outlier_value: float  #: the weight.


@frozen
class ChangedTensor:
    """A weight that a step of the build changed but should not change."""

    step: str  #: such as ``simplify`` or ``quantize``.
    tensor: str  #: its name, or its node's.
    share: float  #: of its elements, 0..1.
    largest: float  #: largest difference; for integers in rounding steps.


def rounded_weights(calibrated: onnx.ModelProto, quantizers: tuple[Quantizer, ...]) -> list[WeightTensor]:
    """Return the rounding errors of each weight, in graph order."""
    constants = {tensor.name: tensor for tensor in calibrated.graph.initializer}
    return [
        _judge(i, item, np.asarray(numpy_helper.to_array(constants[item.tensor]), np.float32))
        for i, item in enumerate(quantizers)
        if item.weight
    ]


def _judge(index: int, item: Quantizer, data: NDArray[np.float32]) -> WeightTensor:
    axis = item.axis if item.axis is not None else 0
    rows = np.moveaxis(data, axis, 0).reshape(data.shape[axis], -1)
    errors = np.moveaxis(item.rounded(data) - data, axis, 0).reshape(rows.shape)
    magnitude = np.abs(rows)
    largest = magnitude.argmax(axis=1)
    rest = np.ones(rows.shape, bool)
    if rows.shape[1] > 1:
        rest[np.arange(len(rows)), largest] = False
    power = np.where(rest, magnitude, 0).astype(np.float64).sum(axis=1)
    lost = np.where(rest, np.abs(errors), 0).astype(np.float64).sum(axis=1)
    each = np.divide(lost, power, out=np.zeros(len(rows)), where=power > 0)
    # A channel that adds nothing to the layer can't damage it.
    weighty = power > 1e-3 * power.max() if power.max() > 0 else power > 0
    usual = np.quantile(magnitude, 0.99, axis=1, method="lower")
    ratios = np.divide(magnitude.max(axis=1), usual, out=np.ones(len(rows)), where=usual > 0)
    ratios = np.where(weighty, ratios, 1.0)
    worst, odd = int(np.where(weighty, each, 0).argmax()), int(ratios.argmax())
    inside = np.unravel_index(int(largest[odd]), [s for a, s in enumerate(data.shape) if a != axis] or [1])
    at = [int(i) for i in inside]
    at.insert(axis, odd)
    at = at[: data.ndim]
    return WeightTensor(
        quantizer=index,
        node=item.consumers[0] if item.consumers else "",
        tensor=item.tensor,
        shape=tuple(data.shape),
        error=float(lost.sum() / power.sum()) if power.sum() > 0 else 0.0,
        channel=worst,
        channel_error=float(each[worst]),
        outlier=float(ratios[odd]),
        outlier_at=tuple(at),
        outlier_value=float(data[tuple(at)]),
    )


def changed_floats(before: Path, after: Path, step: str) -> list[ChangedTensor]:
    """Return the constants of the same name and shape that differ between two float models."""
    first, second = _constants(load_onnx(before)), _constants(load_onnx(after))
    found = []
    for name, data in first.items():
        other = second.get(name)
        if other is None or other.shape != data.shape or data.dtype != other.dtype or data.size < 2:
            continue
        if not np.array_equal(data, other):
            difference = np.abs(data.astype(np.float64) - other.astype(np.float64))
            found.append(ChangedTensor(step, name, float((difference > 0).mean()), float(difference.max())))
    return found


def changed_integers(
    quantized: onnx.ModelProto, calibrated: onnx.ModelProto, quantizers: tuple[Quantizer, ...]
) -> list[ChangedTensor]:
    """Return the weights whose integers in the quantized model are not the calibrated ones.

    The compiler scales a channel's integers down if sums would overflow, and to zero in channels that add nothing.
    So each channel is compared up to a factor. A difference of about one is rounding.
    """
    floats = _constants(calibrated)
    integers = _constants(quantized)
    nodes = {node.name: node for node in quantized.graph.node}
    found = []
    for item in quantizers:
        node = nodes.get(item.consumers[0]) if item.weight and item.consumers else None
        if node is None or item.axis != 0 or len(node.input) < 2 or item.type != "int8":
            continue
        stored = integers.get(node.input[1])
        data = np.asarray(floats[item.tensor], np.float32)
        if stored is None or stored.dtype != np.int8 or data.ndim != 4:
            continue
        wanted = np.clip(np.rint(data / item.spread(item.steps(8), data.shape)), -128, 127)
        wanted = wanted.transpose(0, 2, 3, 1)  # the quantized model's are NHWC
        if stored.shape != wanted.shape:
            continue
        seen = stored.astype(np.float64).reshape(len(stored), -1)
        wanted = wanted.astype(np.float64).reshape(seen.shape)
        square = (wanted**2).sum(axis=1, keepdims=True)
        factor = np.divide((seen * wanted).sum(axis=1, keepdims=True), square, out=square * 0, where=square > 0)
        lost = (factor < 0.01) & (item.thresholds > 1e-3 * item.thresholds.max()).reshape(-1, 1) & (square > 0)
        difference = np.abs(seen - np.where(lost, 1.0, factor) * wanted)
        if (difference > NEAR).any():
            found.append(
                ChangedTensor("quantize", item.tensor, float((difference > NEAR).mean()), float(difference.max()))
            )
    return found


def _constants(model: onnx.ModelProto) -> Mapping[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
