"""How far each layer's output is from float: with everything rounded, and with this layer alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.diagnose.findings import Range
from edge.images.frames import Frame, spread
from edge.measure.layers import Group
from edge.measure.scores import cosines
from edge.simulate.fakequant import AS_BUILT, FLOAT, FakeQuant, Quantizer


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


Scores = NDArray[np.float32]
Done = Callable[[int], None]


@frozen(eq=False)
class Observed:
    """One pass over the pictures, float and as built.

    Attributes:
        float_scores: (n, classes), every quantizer off.
        scores: (n, classes), every quantizer as built.
        cosine: (n, layers): of each layer's output as built with float's.
        low: (n, layers) smallest value of each layer's output in the float network.
        high: (n, layers) largest.
        seen: (n, quantizers) of each activation's values in the float network; see :mod:`.ranges`.
    """

    float_scores: Scores
    scores: Scores
    cosine: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    seen: Seen

    def bounds(self, layer: int) -> tuple[float, float]:
        """Return the smallest and the largest value of a layer's output."""
        return float(self.low[:, layer].min()), float(self.high[:, layer].max())


def observed_tensors(net_groups: Sequence[Group], quantized: dict[str, str]) -> list[str]:
    """Return the tensor of each layer to look at: after rounding where it is rounded."""
    return [quantized.get(item.output, item.output) for item in net_groups]


def inner_tensors(net: FakeQuant, groups: Sequence[Group]) -> list[str]:
    """Return every tensor that :func:`observe` wants as an output."""
    wanted = [q.tensor for q in net.quantizers if not q.weight and q.tensor != net.graph.picture]
    wanted += observed_tensors(groups, rounded_names(net)) + [item.output for item in groups]
    return [name for name in dict.fromkeys(wanted) if name not in net.graph.outputs]


def rounded_names(net: FakeQuant) -> dict[str, str]:
    """Return tensor -> its rounded form; none for channels that come out multiplied."""
    found: dict[str, str] = {}
    for item in net.quantizers:
        if not item.weight and item.gain is None:
            found.setdefault(item.tensor, item.output)
    return found


def observe(
    net: FakeQuant, groups: Sequence[Group], frames: Sequence[Frame], done: Done | None = None
) -> Observed:
    """Run every picture through the float and the calibrated network and compare layer by layer.

    Args:
        net: opened with :func:`inner_tensors`.
        groups: its layers.
        frames: the pictures.
        done: told how many are done.
    """
    after = observed_tensors(groups, rounded_names(net))
    before = [item.output for item in groups]
    activations = [i for i, q in enumerate(net.quantizers) if not q.weight]
    tensors = [net.quantizers[i].tensor for i in activations]
    wanted = list(
        dict.fromkeys([*net.graph.outputs[:1], *before, *(t for t in tensors if t != net.graph.picture)])
    )

    def one(frame: Frame) -> tuple[Scores, Scores, NDArray[np.float64], list[tuple[float, float]], Seen]:
        yuv = frame.yuv444
        float_run = dict(zip(wanted, net.run(yuv, net.bits(FLOAT), wanted), strict=True))
        names = [net.graph.outputs[0], *after]
        built = net.run(yuv, net.bits(AS_BUILT), names)
        each = np.array(
            [
                cosines(float_run[x].reshape(1, -1), y.reshape(1, -1))[0]
                for x, y in zip(before, built[1:], strict=True)
            ]
        )
        float_run[net.graph.picture] = yuv.transpose(2, 0, 1)[None].astype(np.float32) - 128
        ends = [(float(float_run[x].min()), float(float_run[x].max())) for x in before]
        return float_run[net.graph.outputs[0]].ravel(), built[0].ravel(), each, ends, look(net, float_run)

    results = spread(one, frames, done)
    return Observed(
        float_scores=np.stack([r[0] for r in results]),
        scores=np.stack([r[1] for r in results]),
        cosine=np.stack([r[2] for r in results]),
        low=np.array([[low for low, _ in r[3]] for r in results]),
        high=np.array([[high for _, high in r[3]] for r in results]),
        seen=Seen.stacked([r[4] for r in results]),
    )


def alone(
    net: FakeQuant, settings: Sequence[Sequence[int]], frames: Sequence[Frame], done: Done | None = None
) -> NDArray[np.float32]:
    """Return the scores with only some quantizers on, float32 (settings, n, classes).

    Args:
        net: the network.
        settings: for each, the quantizers that are as built; all others are off.
        frames: the pictures.
        done: told how many are done.
    """
    return scored(net, [net.bits(AS_BUILT, chosen) for chosen in settings], frames, done)


def scored(
    net: FakeQuant, bits: Sequence[NDArray[np.uint8]], frames: Sequence[Frame], done: Done | None = None
) -> NDArray[np.float32]:
    """Return the scores under each setting, float32 (settings, n, classes)."""

    def one(frame: Frame) -> list[Scores]:
        yuv = frame.yuv444
        return [net.scores(yuv, setting) for setting in bits]

    return np.stack([np.stack(row) for row in spread(one, frames, done)], axis=1)


def look_only(net: FakeQuant, frames: Sequence[Frame]) -> Seen:
    """Return the float network's activations on pictures; see :mod:`.ranges`."""
    tensors = [q.tensor for q in net.quantizers if not q.weight and q.tensor != net.graph.picture]
    wanted = list(dict.fromkeys(tensors))

    def one(frame: Frame) -> Seen:
        yuv = frame.yuv444
        values = dict(zip(wanted, net.run(yuv, net.bits(FLOAT), wanted), strict=True))
        values[net.graph.picture] = yuv.transpose(2, 0, 1)[None].astype(np.float32) - 128
        return look(net, values)

    return Seen.stacked(spread(one, frames))
