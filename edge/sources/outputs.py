"""What a classifier's outputs are: which operators give the scores, and so how they are to be read."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from edge.graph.view import View
from edge.specs.schema import ScoreKind

if TYPE_CHECKING:
    import onnx

# Operators that leave the scores as they are, and those that pick some of them or keep them within bounds.
SHAPE_ONLY = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose", "Cast"})
PICKING = frozenset({"Slice", "Gather", "Clip", "Dropout"})
_KINDS: dict[str, ScoreKind] = {"Softmax": "softmax", "Sigmoid": "sigmoid", "HardSigmoid": "sigmoid"}


def above(view: View, name: str, past: Collection[str] = SHAPE_ONLY) -> tuple[str, onnx.NodeProto | None]:
    """Return what a value comes of, and its node, past operators that leave the numbers as they are."""
    node = view.producer(name)
    while node is not None and node.op_type in past:
        name = node.input[0]
        node = view.producer(name)
    return name, node


def score_kind(model: onnx.ModelProto, name: str | None = None) -> ScoreKind:
    """Return what a network's scores are, from the operators that make them; ``name`` is the first output's if None.

    Log-probabilities count as logits: their softmax gives the probabilities back.
    """
    view = View(model)
    node = above(view, name or model.graph.output[0].name, SHAPE_ONLY | PICKING)[1]
    if node is None:
        return "logits"
    return "softmax" if _divides_exponentials(view, node) else _KINDS.get(node.op_type, "logits")


def _divides_exponentials(view: View, node: onnx.NodeProto) -> bool:
    """Tell whether a node is the end of a softmax in single operators: exp(x) / sum(exp(x))."""
    if node.op_type != "Div":
        return False
    power, total = (view.producer(name) for name in node.input)
    return (
        power is not None
        and total is not None
        and (power.op_type, total.op_type) == ("Exp", "ReduceSum")
        and view.producer(total.input[0]) == power
    )
