"""Cut the part out of a graph that makes some of its values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edge.graph.files import copied

if TYPE_CHECKING:
    import onnx


def cut_to(model: onnx.ModelProto, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """Return the part of a network that makes some of its values, which become its only outputs."""
    wanted = {value.name for value in outputs}
    made = {name: i for i, node in enumerate(model.graph.node) for name in node.output if name}
    kept: set[int] = set()
    read, left = set(wanted), list(wanted)
    while left:
        place = made.get(left.pop())
        if place is None or place in kept:
            continue
        kept.add(place)
        names = list(reads(model.graph.node[place]))
        read.update(names)
        left += names
    cut = copied(model)
    graph = cut.graph
    stored = {tensor.name for tensor in graph.initializer}
    for part, items in (
        (graph.node, [node for i, node in enumerate(model.graph.node) if i in kept]),
        (graph.initializer, [tensor for tensor in model.graph.initializer if tensor.name in read]),
        (graph.input, [item for item in model.graph.input if item.name in read or item.name not in stored]),
        (graph.value_info, [item for item in model.graph.value_info if item.name in read - wanted]),
    ):
        del part[:]
        part.extend(items)
    del graph.output[:]
    graph.output.extend(outputs)
    return cut


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of values that a node reads, its subgraphs' included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from reads(inner)
            yield from (output.name for output in graph.output)
