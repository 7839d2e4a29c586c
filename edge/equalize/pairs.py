"""Pairs of convolutions between which a channel can be multiplied and divided again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from attrs import frozen

from edge.simplify.view import View

if TYPE_CHECKING:
    import onnx

# Positively homogeneous in each channel: f(s x) = s f(x) for s > 0.
_ACTIVATIONS = ("Relu", "LeakyRelu", "Clip")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


@frozen
class Convolution:
    """A convolution with constants of its own.

    Attributes:
        name: of its node.
        input: name of the tensor that it reads.
        weight: name of its constant, (output channels, input channels / groups, ...).
        bias: name of its constant; empty if it has none.
        inputs: number of input channels.
        outputs: number of output channels.
        groups: 1, or as many as there are input channels: depthwise.
    """

    name: str
    input: str
    weight: str
    bias: str
    inputs: int
    outputs: int
    groups: int

    @property
    def depthwise(self) -> bool:
        """Whether each output sees one input channel only."""
        return self.groups == self.inputs and self.groups > 1


@frozen
class Pair:
    """Two convolutions with nothing between them that minds a factor on a channel.

    Attributes:
        producer: its rows are multiplied.
        consumer: what reads the channels is divided.
        tensor: between them, behind the activation, before a pool: what its ranges are taken of.
        ceiling: what the activation lets pass at most; None if anything.
    """

    producer: Convolution
    consumer: Convolution
    tensor: str
    ceiling: float | None

    @property
    def name(self) -> str:
        """As the user reads it."""
        return f"{self.producer.name} → {self.consumer.name}"


def find_pairs(model: onnx.ModelProto) -> tuple[Pair, ...]:
    """Return the pairs of a simplified graph, in graph order.

    Between the two may stand one Relu, LeakyRelu or Clip from 0, then pools. No other node may read what
    lies between, and the constants belong to these two alone. A Clip lets a factor pass as long as the
    channel stays below its upper bound.
    """
    view = View(model)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    found = []
    for node in view.nodes:
        producer = _convolution(view, node, shapes, uses)
        if producer is None:
            continue
        tensor, ceiling = node.output[0], None
        reader = view.only_reader(node)
        if reader is not None and reader.op_type in _ACTIVATIONS:
            if reader.op_type == "Clip":
                low, ceiling = view.clip_range(reader)
                if low != 0 or (ceiling is not None and ceiling <= 0):
                    continue
            tensor = reader.output[0]
            reader = view.only_reader(reader)
        while reader is not None and reader.op_type in _POOLS and len(reader.output) == 1:
            reader = view.only_reader(reader)
        consumer = None if reader is None else _convolution(view, reader, shapes, uses)
        if consumer is None or consumer.inputs != producer.outputs:
            continue
        if consumer.depthwise or consumer.groups == 1:
            found.append(Pair(producer, consumer, tensor, ceiling))
    return tuple(found)


def _convolution(
    view: View, node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], uses: Counter[str]
) -> Convolution | None:
    """Return a convolution whose constants only it reads."""
    if node.op_type != "Conv" or len(node.input) < 2:
        return None
    weight, bias = node.input[1], node.input[2] if len(node.input) > 2 else ""
    constants = [weight, *([bias] if bias else [])]
    if any(name not in shapes or uses[name] != 1 for name in constants):
        return None
    outputs, share = shapes[weight][:2]
    groups = int(view.attribute(node, "group", 1))
    return Convolution(node.name, node.input[0], weight, bias, share * groups, outputs, groups)
