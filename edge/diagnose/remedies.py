"""What to do, ranked by what it is expected to win; every entry was tried on the network."""

from __future__ import annotations

from edge.diagnose.commands import rebuild, recipe_lines
from edge.diagnose.evidence import Evidence, Gain
from edge.diagnose.faults import Fault, ruined
from edge.diagnose.findings import Remedy

SINGLE_LAYERS = 3


def remedies(evidence: Evidence, found: tuple[Fault, ...]) -> tuple[Remedy, ...]:
    """Return the remedies, best first; those of faults before all others, since later steps hang on them."""
    first = sorted((fault.remedy for fault in found), key=lambda remedy: -remedy.gain)
    others = [*_wider(evidence), *_method(evidence), *_weights(evidence, found), *_cpu(evidence)]
    return (*first, *sorted(others, key=lambda remedy: -remedy.gain))


def _wider(evidence: Evidence) -> list[Remedy]:
    on_cpu = frozenset(node.name for node in evidence.cpu)
    taken = evidence.precision
    if taken is None:
        return []
    found = []
    for group, gain in taken.layer_gains[:SINGLE_LAYERS]:
        if _helps(gain):
            found.append(
                Remedy(
                    what=f"Give layer {group.name} ({group.kind}) 16-bit activations",
                    how=recipe_lines([group], on_cpu),
                    figure=gain.figure,
                    gain=gain.points,
                )
            )
    sets = [(groups, gain) for groups, gain in taken.set_gains if _helps(gain)]
    if sets:
        # The fewest layers that win nearly as much as the most: each costs speed.
        most = max(gain.cosine_after - gain.cosine_before for _, gain in sets)
        groups, gain = next(
            pair for pair in sets if pair[1].cosine_after - pair[1].cosine_before >= 0.8 * most
        )
        names = ", ".join(group.name for group in groups)
        found.append(
            Remedy(
                what=f"Give {len(groups)} layers 16-bit activations: {names}",
                how=recipe_lines(groups, on_cpu),
                figure=gain.figure + _bound(taken.all_gain),
                gain=gain.points,
            )
        )
    return found


def _bound(gain: Gain) -> str:
    return f"; all activations at 16 bits: {100 * gain.after / gain.n:.1f} %, cosine {gain.cosine_after:.4f}"


def _method(evidence: Evidence) -> list[Remedy]:
    gain = evidence.precision.max_gain if evidence.precision is not None else None
    if gain is None or not _helps(gain) or gain.points < 1:
        return []
    return [
        Remedy(
            what="Set the thresholds at the largest values seen: the compiler's choice clips too much",
            how="calibration: {method: max}",
            figure=gain.figure,
            gain=gain.points,
        )
    ]


def _weights(evidence: Evidence, found: tuple[Fault, ...]) -> list[Remedy]:
    if any(fault.step == "weights" for fault in found):
        return []
    return [
        Remedy(
            what=f"Fine-tune with rounded weights: {weight.tensor} rounds coarsely (channel {weight.channel})",
            how=rebuild(evidence.built),
            figure=gain.figure,
            gain=gain.points,
        )
        for weight, gain in ruined(evidence)[:1]
    ]


def _cpu(evidence: Evidence) -> list[Remedy]:
    found = []
    for node in evidence.cpu:
        if not node.inside:
            continue
        time = f", {node.milliseconds:.2f} ms on this CPU" if node.milliseconds is not None else ""
        figure = f"{node.transfer_bytes:,} bytes between BPU and CPU a frame{time}"
        found.append(
            Remedy(
                what=f"Keep {node.op} {node.name} on the BPU; it cuts the network into parts",
                how=f"  {node.name}: {{'on': BPU}}",
                figure=figure,
                gain=0.0,
            )
        )
    return found


def _helps(gain: Gain) -> bool:
    return gain.points >= 0 and gain.sure and gain.cosine_after - gain.cosine_before > 0.0005
