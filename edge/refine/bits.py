"""Which activations get 16 bits: those that the answers need most for the time that they cost.

One activation at 16 bits hardly shows while the others round at 8, so looking for the best one, then the next, finds
nothing in networks that lose a little everywhere. The search goes the other way: all activations have 16 bits, each
alone is tried at 8, and those that are missed least for the time that they cost lose their 16 bits, until the program
is fast enough.

16 bits cost most in convolutions, and depthwise ones most of all. How much is measured: the compiler gives the latency
of programs in which only what one kind of operator reads has 16 bits, and each activation has its share of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import onnx
from attrs import frozen

from edge.graph.count import PRODUCTS, profile
from edge.progress import Reporter
from edge.simulate.fakequant import FakeQuant

LEAST_PRICE = 1e-4  # of the time of int8; the price of an activation that costs nothing
PRODUCT, GROUPED, OTHER = "product", "grouped convolution", "other"  # kinds of operators, by what 16 bits cost there
FINE = 32  # the search for the number of activations ends within so small a part of them

Wide = frozenset[int]
"""Quantizers with 16 bits."""


@frozen
class Program:
    """What the compiler says of a program."""

    latency_us: float
    on_cpu: frozenset[str]  #: its nodes on the CPU.
    narrow: Wide = frozenset()  #: quantizers that the compiler left at 8 bits, though it was told 16.


def shares(net: FakeQuant, groups: Sequence[Sequence[int]], network: Path) -> dict[str, list[float]]:
    """Return for each kind of operator each group's share of what 16 bits cost there; 0 where none reads it.

    A share is the multiply-accumulates of the products that read it, or the number of its elements.

    Args:
        groups: quantizers whose bits are equal.
        network: the float network, whose nodes have the same names.

    Raises:
        ModelFileError: its shapes can't be told.
    """
    graph, nodes = profile(network), {node.name: node for node in net.graph.nodes}
    found: dict[str, list[float]] = {}
    for place, group in enumerate(groups):
        for item in (net.quantizers[i] for i in group):
            tensor = graph.tensormap.get(item.tensor)
            elements = math.prod(tensor.get_shape()) if tensor is not None else 1
            for name in item.consumers:
                kind = _kind(nodes[name])
                counted = graph.nodemap.get(name)
                share = float(counted.macs[0]) if counted is not None and kind != OTHER else float(elements)
                found.setdefault(kind, [0.0] * len(groups))[place] += share
    return found


def _kind(node: onnx.NodeProto) -> str:
    if node.op_type not in PRODUCTS:
        return OTHER
    return GROUPED if any(item.name == "group" and item.i > 1 for item in node.attribute) else PRODUCT


def choose(
    groups: Sequence[Sequence[int]],
    ends: Sequence[frozenset[str]],
    costs: Mapping[str, Sequence[float]],
    damage: Callable[[Wide], float],
    compiled: Callable[[Wide], Program],
    within: float,
    reporter: Reporter,
) -> Wide:
    """Return the quantizers that get 16 bits.

    Args:
        groups: quantizers whose bits have to be equal.
        ends: the nodes that write or read each group.
        costs: what 16 bits cost, see :func:`shares`.
        damage: what the outputs lose with these at 16 bits.
        compiled: the program with these at 16 bits.
        within: time that the program may take, relative to all at 8 bits.
    """
    base = compiled(frozenset())
    left = list(range(len(groups)))
    while True:  # what the BPU or the compiler can't do at 16 bits is left out
        whole = compiled(_members(groups, left))
        moved = whole.on_cpu - base.on_cpu
        fewer = [i for i in left if not moved & ends[i] and not whole.narrow & set(groups[i])]
        if len(fewer) == len(left):
            break
        left = fewer
    if moved or whole.narrow:
        return frozenset()
    price = dict.fromkeys(left, 0.0)
    for parts in costs.values():
        own = [i for i in left if parts[i] > 0]
        if not own:
            continue
        added = compiled(_members(groups, own)).latency_us - base.latency_us
        total = sum(parts[i] for i in own)
        for i in own:
            price[i] += max(added, 0.0) * parts[i] / total
    missed = {}
    for place, i in enumerate(left):
        reporter.update(f"8 bits for activation {place + 1} of {len(left)}", place / len(left))
        missed[i] = damage(_members(groups, [other for other in left if other != i]))
    least = min(missed.values(), default=0.0)
    floor = LEAST_PRICE * base.latency_us
    order = sorted(left, key=lambda i: ((missed[i] - least) / max(price[i], floor), -price[i], i))
    limit = within * base.latency_us
    fast, slow = len(order), -1  # numbers of activations that lose 16 bits
    while fast - slow > max(1, len(order) // FINE):
        middle = (fast + slow + 1) // 2
        if compiled(_members(groups, order[middle:])).latency_us <= limit:
            fast = middle
        else:
            slow = middle
    return _members(groups, order[fast:])


def _members(groups: Sequence[Sequence[int]], chosen: Iterable[int]) -> Wide:
    return frozenset(i for place in chosen for i in groups[place])
