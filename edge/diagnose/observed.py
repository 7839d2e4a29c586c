"""Runs of the calibrated network: its values in float, and how far rounding moves layers and answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.diagnose.findings import Range
from edge.images.frames import Frame, spread
from edge.measure.layers import Group
from edge.measure.objective import Answer, Answers, class_scores
from edge.measure.scores import cosines
from edge.simulate.fakequant import AS_BUILT, FLOAT, FakeQuant, Quantizer

Done = Callable[[int], None]  # told how many images are done


@frozen(eq=False)
class Seen:
    """Statistics of activations by image and quantizer; a weight's entries are 0."""

    low: NDArray[np.float64]  #: (n, quantizers) smallest value.
    high: NDArray[np.float64]  #: (n, quantizers) largest value.
    beyond: NDArray[np.float64]  #: (n, quantizers) share of the values beyond the threshold, 0..1.
    excess: NDArray[np.float64]  #: (n, quantizers) largest magnitude over its channel's threshold.
    #: quantizer -> (n, channels) largest magnitude of each channel; empty without channels.
    channels: tuple[NDArray[np.float32], ...]

    @classmethod
    def stacked(cls, parts: Sequence[Seen]) -> Seen:
        """Return the images of several together."""
        return cls(
            low=np.concatenate([part.low for part in parts]),
            high=np.concatenate([part.high for part in parts]),
            beyond=np.concatenate([part.beyond for part in parts]),
            excess=np.concatenate([part.excess for part in parts]),
            channels=tuple(np.concatenate(column) for column in zip(*(p.channels for p in parts), strict=True)),
        )


def look(net: FakeQuant, values: Mapping[str, NDArray[np.float32]]) -> Seen:
    """Return the statistics of one image's activations, from the float network's tensors."""
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
    """Return the range of a layer's output over all images.

    Args:
        known: index and quantizer of the output; None if it is not rounded.
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


@frozen(eq=False)
class Observed:
    """The results of one pass over the images, in float and as built."""

    float_answers: Answers  #: (n, width), every quantizer off.
    answers: Answers  #: (n, width), every quantizer as built.
    cosine: NDArray[np.float64]  #: (n, layers) between each layer's output as built and in float.
    low: NDArray[np.float64]  #: (n, layers) smallest value of each layer's output in the float network.
    high: NDArray[np.float64]  #: (n, layers) largest.
    seen: Seen  #: statistics of each activation in the float network.

    def bounds(self, layer: int) -> tuple[float, float]:
        """Return the smallest and the largest value of a layer's output."""
        return float(self.low[:, layer].min()), float(self.high[:, layer].max())


def inner_tensors(net: FakeQuant, groups: Sequence[Group]) -> list[str]:
    """Return every tensor that :func:`observe` needs as an output."""
    wanted = [*_activations(net), *_rounded(net, groups), *(item.output for item in groups)]
    return [name for name in dict.fromkeys(wanted) if name not in net.graph.outputs]


def observe(
    net: FakeQuant, groups: Sequence[Group], frames: Sequence[Frame], answer: Answer, done: Done | None = None
) -> Observed:
    """Compare the float and the calibrated network layer by layer; open ``net`` with :func:`inner_tensors`."""
    outputs, before, after = net.graph.outputs, [item.output for item in groups], _rounded(net, groups)
    wanted = list(dict.fromkeys([*outputs, *before, *_activations(net)]))

    def one(frame: Frame) -> tuple[Any, ...]:
        values = _float_values(net, frame, wanted)
        found = net.run(frame.yuv444, net.bits(AS_BUILT), [*outputs, *after])
        inner, built = [values[name] for name in before], found[len(outputs) :]
        cosine = [cosines(x.reshape(1, -1), y.reshape(1, -1))[0] for x, y in zip(inner, built, strict=True)]
        low, high = [float(x.min()) for x in inner], [float(x.max()) for x in inner]
        rows = (answer(part, frame) for part in ([values[name] for name in outputs], found[: len(outputs)]))
        return *rows, cosine, low, high, look(net, values)

    *columns, seen = zip(*spread(one, frames, done), strict=True)
    float_answers, answers, cosine, low, high = map(np.array, columns)
    return Observed(float_answers, answers, cosine, low, high, Seen.stacked(seen))


def look_only(net: FakeQuant, frames: Sequence[Frame]) -> Seen:
    """Return the float network's activations on images."""
    wanted = _activations(net)
    return Seen.stacked(spread(lambda frame: look(net, _float_values(net, frame, wanted)), frames))


def scored(
    net: FakeQuant,
    bits: Sequence[NDArray[np.uint8]],
    frames: Sequence[Frame],
    done: Done | None = None,
    answer: Answer = class_scores,
) -> NDArray[np.float32]:
    """Return the answers under each setting, float32 (settings, n, width); class scores if nothing else is said."""

    def one(frame: Frame) -> list[Answers]:
        yuv = frame.yuv444
        return [answer(net.run(yuv, setting), frame) for setting in bits]

    return np.stack([np.stack(row) for row in spread(one, frames, done)], axis=1)


def _float_values(net: FakeQuant, frame: Frame, wanted: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Return tensors of the float network, and its image as the first quantizer sees it."""
    yuv = frame.yuv444
    values = dict(zip(wanted, net.run(yuv, net.bits(FLOAT), wanted), strict=True))
    values[net.graph.image] = yuv.transpose(2, 0, 1)[None].astype(np.float32) - 128
    return values


def _activations(net: FakeQuant) -> list[str]:
    """Return the tensors that are rounded as activations, without the image."""
    tensors = [q.tensor for q in net.quantizers if not q.weight and q.tensor != net.graph.image]
    return list(dict.fromkeys(tensors))


def _rounded(net: FakeQuant, groups: Sequence[Group]) -> list[str]:
    """Return the tensor to compare for each layer: the rounded one if it is rounded."""
    found: dict[str, str] = {}
    for item in net.quantizers:
        if not item.weight and item.gain is None:  # channels multiplied by a gain can't be compared with float
            found.setdefault(item.tensor, item.output)
    return [found.get(item.output, item.output) for item in groups]
