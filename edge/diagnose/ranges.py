"""The values that the float network's activations take, against the thresholds of their quantizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.diagnose.findings import Range
from edge.fakequant import FakeQuant, Quantizer


@frozen(eq=False)
class Seen:
    """Activations by picture and quantizer; a weight's entries are 0.

    Attributes:
        low: (n, quantizers) smallest value.
        high: (n, quantizers) largest value.
        beyond: (n, quantizers) share of the values beyond the threshold, 0..1.
        excess: (n, quantizers) largest magnitude over its channel's threshold.
        channels: quantizer -> (n, channels) largest magnitude of each channel; empty without channels.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    beyond: NDArray[np.float64]
    excess: NDArray[np.float64]
    channels: tuple[NDArray[np.float32], ...]

    @classmethod
    def stacked(cls, parts: Sequence[Seen]) -> Seen:
        """Return the pictures of several together."""
        return cls(
            low=np.concatenate([part.low for part in parts]),
            high=np.concatenate([part.high for part in parts]),
            beyond=np.concatenate([part.beyond for part in parts]),
            excess=np.concatenate([part.excess for part in parts]),
            channels=tuple(
                np.concatenate(column) for column in zip(*(p.channels for p in parts), strict=True)
            ),
        )


def look(net: FakeQuant, values: Mapping[str, NDArray[np.float32]]) -> Seen:
    """Return what one picture's activations show.

    Args:
        net: the network.
        values: tensor -> float32, of the float network.
    """
    count = len(net.quantizers)
    low, high, beyond, excess = (np.zeros((1, count)) for _ in range(4))
    channels: list[NDArray[np.float32]] = []
    for i, item in enumerate(net.quantizers):
        if item.weight:
            channels.append(np.zeros((1, 0), np.float32))
            continue
        data = values[item.tensor]
        magnitude = np.abs(data)
        limit = item.spread(item.thresholds, data.shape)
        low[0, i], high[0, i] = data.min(), data.max()
        largest = magnitude.max(axis=(0, *range(2, data.ndim))) if data.ndim > 2 else np.zeros(0, np.float32)
        channels.append(largest[None].astype(np.float32))
        if item.axis is None or largest.size != item.thresholds.size:
            excess[0, i] = max(abs(low[0, i]), abs(high[0, i])) / float(item.thresholds.max())
        else:
            excess[0, i] = float((largest / item.thresholds).max())
        if excess[0, i] > 1:
            beyond[0, i] = np.count_nonzero(magnitude > limit) / magnitude.size
    return Seen(low, high, beyond, excess, tuple(channels))


def summarize(known: tuple[int, Quantizer] | None, seen: Seen, bounds: tuple[float, float]) -> Range:
    """Return the range of a layer's output over all pictures.

    Args:
        known: index and quantizer of the output; None where it is not rounded.
        seen: by picture.
        bounds: smallest and largest value of the output.
    """
    if known is None:
        return Range(low=bounds[0], high=bounds[1], threshold=None, saturated=0.0)
    index, item = known
    largest = seen.channels[index].max(axis=0) if seen.channels[index].shape[1] > 1 else None
    ratio = channel = None
    if largest is not None and (middle := float(np.median(largest))) > 0:
        channel = int(largest.argmax())
        ratio = float(largest[channel]) / middle
    return Range(
        low=bounds[0],
        high=bounds[1],
        threshold=float(item.thresholds.max()),
        saturated=float(seen.beyond[:, index].mean()),
        outlier_ratio=ratio,
        outlier_channel=channel,
    )
