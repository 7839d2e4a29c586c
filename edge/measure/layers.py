"""Group the compiler's nodes into the layers of the model's source."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import onnx
from attrs import frozen
from onnx import helper

from edge.simulate.fakequant import Translated

UnitKind = Literal[
    "conv", "depthwise conv", "linear", "LayerNorm", "GELU", "activation", "add", "matmul", "softmax", "pool", "other"
]

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_ACTIVATIONS = {
    "Clip", "Elu", "HardSigmoid", "HardSwish", "HzHardSwish", "HzMish", "HzSwish", "LeakyRelu", "PRelu",
    "Relu", "Sigmoid", "Softplus", "Tanh",
}  # fmt: skip
_MOVES = {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_POOLS = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean"}
_KINDS: dict[str, UnitKind] = {
    "Add": "add", "Sub": "add", "Erf": "GELU", "HzGelu": "GELU", "Gemm": "linear", "MatMul": "matmul",
    "Softmax": "softmax", "HzSoftmax": "softmax",
}  # fmt: skip


@frozen
class Group:
    """The nodes of one layer."""

    name: str  #: the model's module path if the node names have one, else the first node's name.
    kind: UnitKind  #: what it is.
    nodes: tuple[str, ...]  #: names, in graph order.
    output: str  #: tensor that it computes, before rounding.
    own: tuple[int, ...]  #: indices of the quantizers of its weights and of the tensors that it computes.
    weights: tuple[int, ...]  #: indices of the quantizers of its weights.
    touching: tuple[int, ...]  #: quantizers of activations that it reads or computes.
    bits: int  #: 16 if one of its tensors is rounded to 16 bits.
    last: bool  #: whether it computes an output of the network.
    inputs_only: bool = False  #: whether 16 bits are for its inputs alone, since a convolution reads its output.


def group(graph: Translated) -> tuple[Group, ...]:
    """Return the layers of a calibrated model, in graph order."""
    net = _Net(graph)
    members = net.grouped()
    names = _unique([net.name(indices) for indices in members])
    return tuple(net.group(name, indices) for name, indices in zip(names, members, strict=True))


def module_path(node: str) -> str:
    """Return the module path in an exporter's node name, '' if it has none.

    ``/stages/stages.2/blocks/blocks.5/norm/ReduceMean_1`` gives ``stages.2.blocks.5.norm``.
    """
    parts = [part for part in node.split("/")[:-1] if part]
    if not node.startswith("/") or not parts:
        return ""
    kept: list[str] = []
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        # Exporters write a list's name before the name of its element: stages, stages.2.
        if not following.startswith(part + "."):
            kept.append(part)
    return ".".join(kept)


class _Net:
    """The graph without its quantizers."""

    def __init__(self, graph: Translated) -> None:
        self._graph = graph
        self._nodes = graph.nodes
        self._sources = {item.output: item.tensor for item in graph.quantizers}
        self._quantized = {item.tensor for item in graph.quantizers}
        self._writer = {name: i for i, node in enumerate(self._nodes) for name in node.output}
        self._readers: dict[str, list[int]] = defaultdict(list)
        for i, node in enumerate(self._nodes):
            for name in node.input:
                self._readers[self.source(name)].append(i)

    def source(self, name: str) -> str:
        """Return the tensor behind its quantizers."""
        while name in self._sources:
            name = self._sources[name]
        return name

    def grouped(self) -> list[list[int]]:
        """Return the node indices of each layer."""
        leader = list(range(len(self._nodes)))

        def join(indices: Iterable[int]) -> None:
            wanted = sorted(indices)
            first = min(leader[i] for i in wanted)
            old = {leader[i] for i in wanted}
            for i, value in enumerate(leader):
                if value in old:
                    leader[i] = first

        for i, node in enumerate(self._nodes):
            if node.op_type in ("HzRsqrt", "Sqrt"):
                join(self._layer_norm(i))
            elif node.op_type == "Erf":
                join(self._gelu(i))
        for i, node in enumerate(self._nodes):
            before = self._before(i)
            if before is None:
                continue
            straight = self._nodes[before].output[0] not in self._quantized
            follows = self._nodes[before].op_type in _CONVOLUTIONS | {"Gemm", "MatMul", "Add", "HzPreprocess"}
            if node.op_type in _MOVES or (
                node.op_type in _ACTIVATIONS and straight and follows and self._only(before) == i
            ):
                join((before, i))
        found: dict[int, list[int]] = defaultdict(list)
        for i, value in enumerate(leader):
            found[value].append(i)
        return [found[value] for value in sorted(found)]

    def name(self, indices: list[int]) -> str:
        """Return the name of a layer."""
        first = self._nodes[indices[0]]
        if first.op_type == "HzPreprocess":
            return "input"
        path = next((found for i in indices if (found := module_path(str(self._nodes[i].name)))), "")
        if not path:
            return str(first.name).strip("/") or str(first.output[0])
        bare = self.kind(indices) in ("add", "matmul", "softmax")
        return f"{path}.{first.op_type!s}" if bare else path

    def kind(self, indices: list[int]) -> UnitKind:
        """Return the kind of a layer."""
        ops = [self._nodes[i].op_type for i in indices]
        if len(indices) > 3 and {"HzRsqrt", "Sqrt"} & set(ops):
            return "LayerNorm"
        for i, op in zip(indices, ops, strict=True):
            node = self._nodes[i]
            if op in _CONVOLUTIONS:
                if re.search(r"(Gemm|MatMul)(_\d+)?$", node.name):
                    return "linear"
                return "depthwise conv" if self._depthwise(node) else "conv"
            if op == "MatMul" and any(self.source(name) in self._graph.constants for name in node.input):
                return "linear"
            if op in _KINDS:
                return _KINDS[op]
            if op in _POOLS:
                return "pool"
            if op in _ACTIVATIONS:
                return "activation"
        return "other"

    def group(self, name: str, indices: list[int]) -> Group:
        """Return a layer."""
        nodes = [self._nodes[i] for i in indices]
        names = {node.name for node in nodes}
        own, weights, touching = [], [], []
        for i, item in enumerate(self._graph.quantizers):
            reads = bool(names & set(item.consumers))
            if item.weight and reads:
                weights.append(i)
                own.append(i)
            elif not item.weight and (
                item.producer in names or (reads and not item.producer and nodes[0] is self._nodes[0])
            ):
                own.append(i)
            if not item.weight and (reads or item.producer in names):
                touching.append(i)
        quantizers = self._graph.quantizers
        return Group(
            name=name,
            kind=self.kind(indices),
            nodes=tuple(node.name for node in nodes),
            output=self._result(indices),
            own=tuple(own),
            weights=tuple(weights),
            touching=tuple(touching),
            bits=max((quantizers[i].bits for i in own if not quantizers[i].weight), default=8),
            last=any(name in self._graph.outputs for node in nodes for name in node.output),
        )

    def _result(self, indices: list[int]) -> str:
        """Return the output of a layer: its last tensor that others read or that is rounded."""
        inside = set(indices)
        final = set(self._graph.outputs)
        for i in reversed(indices):
            out = self._nodes[i].output[0]
            if out in self._quantized or out in final or set(self._readers[out]) - inside:
                return str(out)
        return str(self._nodes[indices[-1]].output[0])

    def _layer_norm(self, root: int) -> list[int]:
        """Return the nodes of the LayerNorm around a square root; only the root if it is not a LayerNorm."""
        found = [root]
        at = self._before(root)
        while at is not None and self._nodes[at].op_type in ("Add", "Reshape") and self._before(at) is not None:
            found.append(at)
            at = self._before(at)
        if at is None or self._nodes[at].op_type != "ReduceMean":
            return [root]
        square = self._before(at)
        if square is None or self._nodes[square].op_type not in ("Pow", "Mul"):
            return [root]
        centred = self._before(square)
        if centred is None or self._nodes[centred].op_type != "Sub":
            return [root]
        means = [i for i in self._writers_of(centred) if self._nodes[i].op_type == "ReduceMean"]
        found += [at, square, centred, *means]
        last = root
        while (after := self._only(last)) is not None and self._nodes[after].op_type in ("Reciprocal", "Mul", "Div"):
            found.append(after)
            last = after
            if centred in self._writers_of(after):
                break
        else:
            return [root]
        path = module_path(self._nodes[centred].name)
        while (
            (after := self._only(last)) is not None
            and self._affine(after)
            and (module_path(self._nodes[after].name) == path)
        ):
            found.append(after)
            last = after
        return found

    def _gelu(self, erf: int) -> list[int]:
        """Return the nodes of x / sqrt 2, Erf, + 1, * x, * 0.5."""
        found = [erf]
        before = self._before(erf)
        if before is not None and self._nodes[before].op_type in ("Mul", "Div"):
            found.append(before)
        last = erf
        for _ in range(3):
            after = self._only(last)
            if after is None or self._nodes[after].op_type not in ("Add", "Mul", "Div"):
                break
            found.append(after)
            last = after
        return found

    def _affine(self, index: int) -> bool:
        """Tell whether a node scales or shifts each channel by a constant."""
        node = self._nodes[index]
        if node.op_type in _CONVOLUTIONS:
            return self._depthwise(node) and all(side == 1 for side in _attribute(node, "kernel_shape", [0]))
        return node.op_type in ("Add", "Mul") and any(self.source(name) in self._graph.constants for name in node.input)

    def _depthwise(self, node: onnx.NodeProto) -> bool:
        groups = int(_attribute(node, "group", 1))
        weight = next((q for q in self._graph.quantizers if q.weight and node.name in q.consumers), None)
        return groups > 1 and (weight is None or weight.thresholds.size == groups)

    def _before(self, index: int) -> int | None:
        """Return the node that computes the first input of a node."""
        node = self._nodes[index]
        return self._writer.get(self.source(node.input[0])) if node.input else None

    def _writers_of(self, index: int) -> list[int]:
        names = (self.source(name) for name in self._nodes[index].input)
        return [self._writer[name] for name in names if name in self._writer]

    def _only(self, index: int) -> int | None:
        """Return the one node that reads a node's result; None if there are more."""
        readers = set(self._readers[self._nodes[index].output[0]])
        return readers.pop() if len(readers) == 1 else None


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _unique(names: list[str]) -> Iterator[str]:
    seen: dict[str, int] = defaultdict(int)
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} ({seen[name]})"
