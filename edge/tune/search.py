"""Which units get 16 bits: a greedy search on measured numbers, a pure function of them.

Units are added one after the other, each time the one with the largest gain for its time among those that
still fit into the latency budget. Gains are measured anew behind each pick, since units act together: two
that write into one sum win little each while the other still rounds. Where no single unit helps, pairs are
tried. At the end every unit is tried without, since a later pick may have made an earlier one needless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from attrs import frozen

Chosen = frozenset[str]
Damage = Callable[[Chosen], float | None]
Latency = Callable[[Chosen], float | None]

LEAST_GAIN = 0.005  # of the damage at the start; less is not worth a unit
NEEDLESS = 0.002  # of it; a unit that wins less than this in the end is dropped
LEAST_COST = 0.002  # of the latency at the start; below it all costs are alike
PAIRS_OF = 6  # best single units, from which pairs are made
TRIED = 3  # units that may turn out too slow in company before a round ends


@frozen
class Step:
    """A set of units on the way.

    Attributes:
        units: names of those at 16 bits, sorted.
        divergence: mean divergence from float, on the calibrated model.
        latency_us: at the cheap level, microseconds.
    """

    units: tuple[str, ...]
    divergence: float
    latency_us: float


def greedy(
    costs: Mapping[str, float],
    damage: Damage,
    latency: Latency,
    *,
    budget: float,
    within: Callable[[str, str], bool] = lambda _a, _b: False,
) -> tuple[Step, ...]:
    """Return the sets on the way from none to the best, then the best without what is not needed.

    Args:
        costs: unit -> microseconds that it adds alone; negative is possible. Units that can't be compiled
            or are too slow are left out by the caller.
        damage: measures a set; None where there is no time left for it, which ends the search.
        latency: measures a set; None where it can't be compiled or there is no time.
        budget: microseconds that a set may take.
        within: whether the first unit is part of the second, and so adds nothing to it.

    Returns:
        The first step is the empty set, the last one the best; none if the empty set can't be measured.
    """
    none: Chosen = frozenset()
    first_damage, first_latency = damage(none), latency(none)
    if first_damage is None or first_latency is None:
        return ()
    steps = [Step((), first_damage, first_latency)]
    least, floor = LEAST_GAIN * first_damage, LEAST_COST * first_latency
    chosen, banned = none, set[str]()

    def next_step() -> Step | None:
        now = steps[-1]
        free = [
            unit
            for unit in costs
            if unit not in chosen and unit not in banned and not any(within(unit, one) for one in chosen)
        ]
        for size in (1, 2):
            groups = _groups(free, size, damage, chosen, within)
            ranked = []
            for group in groups:
                cost = sum(costs[unit] for unit in group)
                if now.latency_us + cost > budget:
                    continue
                after = damage(chosen | group)
                if after is None:
                    return None
                gain = now.divergence - after
                if gain >= least * size:
                    ranked.append((gain / max(cost, floor), gain, sorted(group), after))
            ranked.sort(key=lambda row: (-row[0], -row[1], row[2]))
            for _, _, names, after in ranked[:TRIED]:
                measured = latency(chosen | set(names))
                if measured is not None and measured <= budget:
                    return Step(tuple(sorted(chosen | set(names))), after, measured)
                if size == 1:
                    banned.update(names)
        return None

    while (step := next_step()) is not None:
        steps.append(step)
        chosen = frozenset(step.units)
    return (*steps, *_without_needless(steps[-1], first_damage, damage, latency, budget))


def _groups(
    free: Sequence[str], size: int, damage: Damage, chosen: Chosen, within: Callable[[str, str], bool]
) -> list[Chosen]:
    if size == 1:
        return [frozenset((unit,)) for unit in free]
    alone = [(found, unit) for unit in free if (found := damage(chosen | {unit})) is not None]
    best = [unit for _, unit in sorted(alone)[:PAIRS_OF]]
    return [
        frozenset(pair) for pair in combinations(best, 2) if not (within(*pair) or within(*reversed(pair)))
    ]


def _without_needless(
    last: Step, first: float, damage: Damage, latency: Latency, budget: float
) -> tuple[Step, ...]:
    """Return the last set without the units that it does not need, if there are such."""
    chosen, value = frozenset(last.units), last.divergence
    for unit in last.units:
        if len(chosen) == 1:
            break
        fewer = chosen - {unit}
        after = damage(fewer)
        if after is not None and after <= last.divergence + NEEDLESS * first:
            chosen, value = fewer, after
    if len(chosen) == len(last.units):
        return ()
    measured = latency(chosen)
    if measured is None or measured > budget:
        return ()
    return (Step(tuple(sorted(chosen)), value, measured),)


def finalists(steps: Sequence[Step], count: int) -> tuple[Step, ...]:
    """Return the sets to compile for real, the best first.

    The best one, then those on the way that win most of what it wins with less time, and last the empty set.
    """
    if not steps:
        return ()
    first, best = steps[0], steps[-1]
    found = [best]
    for share in (0.8, 0.5):
        wanted = first.divergence - share * (first.divergence - best.divergence)
        step = next((step for step in steps[1:] if step.divergence <= wanted), None)
        if step is not None and step not in found:
            found.append(step)
    if first not in found:
        found.append(first)
    return tuple(found[: max(count, 1)])
