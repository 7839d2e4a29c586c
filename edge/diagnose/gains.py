"""What changes of the precision would win, each tried on the calibrated model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.diagnose.evidence import Gain, gain
from edge.diagnose.frames import Frame, spread
from edge.diagnose.layers import Done, Observed, scored
from edge.diagnose.ranges import Seen
from edge.diagnose.units import Group
from edge.diagnose.weights import OUTLIER, WeightTensor
from edge.fakequant import AS_BUILT, FLOAT, INT16, FakeQuant

CONVOLUTIONS = ("conv", "depthwise conv", "linear")
CANDIDATES = 12  # layers that are tried at 16 bits
SETS = (2, 4, 8, 12)
SUSPECTS = 6  # weights that are tried unrounded


def wider_layers(
    net: FakeQuant,
    groups: Sequence[Group],
    frames: Sequence[Frame],
    observed: Observed,
    damage: dict[str, float],
    done: Done | None = None,
) -> tuple[tuple[tuple[Group, Gain], ...], tuple[tuple[tuple[Group, ...], Gain], ...], Gain]:
    """Try 16 bits: at each of the worst layers, at the best of those together, at all activations.

    Args:
        net: the calibrated network.
        groups: its layers.
        frames: the pictures.
        observed: of them.
        damage: layer -> how far its rounding alone moves the scores.
        done: told how many pictures are done; there are two passes.

    Returns:
        (layer, gain) with the best first; (layers, gain) with the fewest first; gain of all.
    """
    able = [g for g in groups if g.touching and g.bits < INT16 and _widens(net, g)]
    able.sort(key=lambda g: -damage.get(g.name, 0.0))
    able = able[:CANDIDATES]
    activations = [i for i, q in enumerate(net.quantizers) if not q.weight]
    settings = [_wider(net, g.touching) for g in able] + [_wider(net, activations)]
    results = scored(net, settings, frames, done)
    reference, before = observed.float_scores, observed.scores
    single = [(g, gain(g.name, reference, before, result)) for g, result in zip(able, results, strict=False)]
    single.sort(key=lambda pair: -pair[1].cosine_after)
    everything = gain("every activation", reference, before, results[-1])
    sizes = [size for size in SETS if size <= len(single)]
    chosen = [tuple(g for g, _ in single[:size]) for size in sizes]
    if not chosen:
        return tuple(single), (), everything
    settings = [_wider(net, [i for g in some for i in g.touching]) for some in chosen]
    results = scored(net, settings, frames, lambda count: done(len(frames) + count) if done else None)
    sets = tuple(
        (some, gain(f"{len(some)} layers", reference, before, result))
        for some, result in zip(chosen, results, strict=True)
    )
    return tuple(single), sets, everything


def _widens(net: FakeQuant, group: Group) -> bool:
    """Tell whether 16 bits at a layer win in the program what they win in the calibrated model.

    Measured on MobileNetV1 with hb_mapper 1.24.3: 16 bits at its first convolutions raised the calibrated
    model's agreement with float and brought the program's down from 90 to 75 %, since the integers of 16-bit
    convolutions keep fewer bits; and with 16 bits behind the preprocess node the compiled program no longer
    equalled the quantized model. LayerNorms, pools and sums kept what they won.
    """
    first = {"", *(node.name for node in net.graph.nodes if node.op_type == "HzPreprocess")}
    reads_input = any(net.quantizers[i].producer in first for i in group.touching)
    return group.kind not in CONVOLUTIONS and not reads_input


def _wider(net: FakeQuant, at: Sequence[int]) -> NDArray[np.uint8]:
    return net.bits(INT16, at, rest=AS_BUILT)


def unrounded_weights(
    net: FakeQuant, weights: Sequence[WeightTensor], frames: Sequence[Frame], observed: Observed
) -> dict[int, Gain]:
    """Try the weights with outliers, or with the largest rounding errors, unrounded.

    Returns:
        Quantizer of the weight -> gain.
    """
    odd = sorted((w for w in weights if w.outlier >= OUTLIER), key=lambda w: -w.outlier)[:SUSPECTS]
    rough = sorted(weights, key=lambda w: -w.channel_error)[:SUSPECTS]
    suspects = list({w.quantizer: w for w in [*odd, *rough]}.values())
    if not suspects:
        return {}
    settings = [net.bits(FLOAT, [w.quantizer], rest=AS_BUILT) for w in suspects]
    results = scored(net, settings, frames)
    return {
        w.quantizer: gain(w.tensor, observed.float_scores, observed.scores, result)
        for w, result in zip(suspects, results, strict=True)
    }


def refitted(net: FakeQuant, frames: Sequence[Frame], observed: Observed) -> Gain:
    """Try thresholds at the largest values of the pictures themselves: each half's from the other half."""
    half = np.arange(len(frames)) % 2
    tables = [_thresholds(net, observed.seen, half != part) for part in (0, 1)]
    scores = spread(
        lambda numbered: net.scores(numbered[1].yuv444, net.bits(AS_BUILT), tables[half[numbered[0]]]),
        list(enumerate(frames)),
    )
    return gain("thresholds of these pictures", observed.float_scores, observed.scores, np.stack(scores))


def at_maximum(net: FakeQuant, calibration: Seen, frames: Sequence[Frame], observed: Observed) -> Gain:
    """Try thresholds at the largest values of the calibration pictures, as ``method: max`` sets them."""
    table = _thresholds(net, calibration, np.ones(len(calibration.low), bool))
    scores = spread(lambda frame: net.scores(frame.yuv444, net.bits(AS_BUILT), table), frames)
    return gain("method max", observed.float_scores, observed.scores, np.stack(scores))


def _thresholds(net: FakeQuant, seen: Seen, chosen: NDArray[np.bool_]) -> dict[int, NDArray[np.float32]]:
    """Return thresholds stretched or shrunk to the largest value seen; a channel's stay in proportion."""
    table = {}
    for i, item in enumerate(net.quantizers):
        if item.weight or item.tensor == net.graph.picture:
            continue
        factor = float(seen.excess[chosen, i].max())
        if factor > 0:
            table[i] = (item.thresholds * np.float32(factor)).astype(np.float32)
    return table
