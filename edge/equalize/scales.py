"""What each channel is multiplied by.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
from which this differs in that it looks at the ranges of activations: the compiler's weights have a step for
each output channel, so that a producer's rows lose nothing.
"""

from __future__ import annotations

from collections.abc import MutableMapping

import numpy as np
from numpy.typing import NDArray

from edge.equalize.pairs import Pair

LIMIT = 64.0  # the largest factor: a channel that is smaller still means next to nothing
# The share of a channel's factor (in logarithms) where the consumer's rows mix channels: finer steps for the
# activation are coarser ones for the weights there. Measured on MobileNetV1: 0.25 wins less, 1 no more.
MIXED = 0.5

Array = NDArray[np.float32]
Ranges = NDArray[np.float64]
"""(channels,): the largest magnitude of each that was seen."""


def factors(ranges: Ranges, ceiling: float | None, *, depthwise: bool) -> Ranges:
    """Return what each channel between two convolutions is multiplied by, (channels,), 1 and above.

    Args:
        ranges: of the channels.
        ceiling: what the activation lets pass; no channel is brought above it.
        depthwise: whether the consumer keeps channels apart, so that each can fill the tensor's range.
    """
    top = float(ranges.max(initial=0.0)) if ceiling is None else ceiling
    if top <= 0:
        return np.ones_like(ranges)
    found = top / np.clip(ranges, top / LIMIT, top)
    found[ranges <= 0] = 1.0
    result: Ranges = found if depthwise else found**MIXED
    return result


def multiply(constants: MutableMapping[str, Array], pair: Pair, by: Ranges) -> None:
    """Multiply the channels between two convolutions; what the consumer computes stays."""
    producer, consumer = pair.producer, pair.consumer
    _scale(constants, producer.weight, by, axis=0)
    if producer.bias:
        _scale(constants, producer.bias, by, axis=0)
    if consumer.depthwise:
        _scale(constants, consumer.weight, 1 / by.repeat(consumer.outputs // consumer.inputs), axis=0)
    else:
        _scale(constants, consumer.weight, 1 / by, axis=1)


def _scale(constants: MutableMapping[str, Array], name: str, by: Ranges, axis: int) -> None:
    data = constants[name]
    shape = [1] * data.ndim
    shape[axis] = -1
    constants[name] = np.ascontiguousarray(data * by.reshape(shape), np.float32)
