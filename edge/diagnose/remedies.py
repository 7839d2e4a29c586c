"""What to do, ranked by what it is expected to win; every entry was tried on the network."""

from __future__ import annotations

from edge.diagnose.evidence import Evidence
from edge.diagnose.faults import Fault, rebuild, recipe_lines, ruined
from edge.diagnose.findings import Remedy
from edge.measure.scores import Gain

SINGLE_LAYERS = 3
LEAST_POINTS, LEAST = 0.2, 0.0005  # of agreement and of the cosine; less is not worth a recipe line
Ranked = tuple[tuple[float, float], Remedy]


def remedies(evidence: Evidence, found: tuple[Fault, ...]) -> tuple[Remedy, ...]:
    """Return the remedies, best first; those of faults before all others, since later steps hang on them."""
    first = sorted((fault.remedy for fault in found), key=lambda remedy: -remedy.gain)
    others = [*_wider(evidence), *_method(evidence), *_weights(evidence, found), *_cpu(evidence)]
    return (*first, *(remedy for _, remedy in sorted(others, key=lambda pair: pair[0], reverse=True)))


def _wider(evidence: Evidence) -> list[Ranked]:
    on_cpu = frozenset(node.name for node in evidence.cpu)
    taken = evidence.precision
    if taken is None:
        return []
    found = [
        _ranked(
            gain,
            f"Give layer {group.name} ({group.kind}) 16-bit activations",
            recipe_lines([group], on_cpu),
            gain.figure,
        )
        for group, gain in taken.layer_gains[:SINGLE_LAYERS]
        if _helps(gain)
    ]
    sets = [(groups, gain) for groups, gain in taken.set_gains if _helps(gain)]
    if sets:
        # The fewest layers that win nearly as much as the most: each costs speed.
        most = max(_nearer(gain) for _, gain in sets)
        groups, gain = next(pair for pair in sets if _nearer(pair[1]) >= 0.8 * most)
        names = ", ".join(group.name for group in groups)
        if gain.cosine_after - taken.layer_gains[0][1].cosine_after > LEAST:
            found.append(
                _ranked(
                    gain,
                    f"Give {len(groups)} layers 16-bit activations: {names}",
                    recipe_lines(groups, on_cpu),
                    gain.figure + _bound(taken.all_gain),
                )
            )
    return found


def _bound(gain: Gain) -> str:
    return f"; all activations at 16 bits: {100 * gain.after / gain.n:.1f} %, cosine {gain.cosine_after:.4f}"


def _method(evidence: Evidence) -> list[Ranked]:
    gain = evidence.precision.max_gain if evidence.precision is not None else None
    if gain is None or not _helps(gain) or gain.points < 1:
        return []
    return [
        _ranked(
            gain,
            "Set the thresholds at the largest values seen: the compiler's choice clips too much",
            "calibration: {method: max}",
            gain.figure,
        )
    ]


def _weights(evidence: Evidence, found: tuple[Fault, ...]) -> list[Ranked]:
    if any(fault.step == "weights" for fault in found):
        return []
    return [
        _ranked(
            gain,
            f"Fine-tune with rounded weights: {weight.tensor} rounds coarsely (channel {weight.channel})",
            rebuild(evidence.built),
            gain.figure,
        )
        for weight, gain in ruined(evidence)[:1]
    ]


def _cpu(evidence: Evidence) -> list[Ranked]:
    found = []
    for node in evidence.cpu:
        if not node.inside:
            continue
        time = f", {node.milliseconds:.2f} ms on this CPU" if node.milliseconds is not None else ""
        figure = f"{node.transfer_bytes:,} bytes between BPU and CPU a frame{time}"
        what = f"Keep {node.op} {node.name} on the BPU; it cuts the network into parts"
        found.append(((0.0, 0.0), Remedy(what, f"  {node.name}: {{'on': BPU}}", figure, 0.0)))
    return found


def _helps(gain: Gain) -> bool:
    return gain.before < gain.n and gain.expected >= LEAST_POINTS and gain.sure and _nearer(gain) > LEAST


def _nearer(gain: Gain) -> float:
    return gain.cosine_after - gain.cosine_before


def _ranked(gain: Gain, what: str, how: str, figure: str) -> Ranked:
    """Return a remedy with its rank: what it is expected to win, then how near the scores come."""
    return (gain.expected, _nearer(gain)), Remedy(what, how, figure, gain.expected)
