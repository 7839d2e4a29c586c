"""What a precision recipe moves to the BPU, of the nodes that the compiler leaves to the CPU by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edge.mapper.patterns import setting
from edge.specs import Precision

# An input type makes the compiler put an operator on the BPU that it would leave to the CPU: Softmax.
_INPUT = re.compile(r"set_([A-Za-z0-9]+)_input_int(8|16)")
_SOFTMAX = ("quantize_softmax", "run_fast")
SOFTMAX_RECIPE = "int8_softmax_int16"


def moves(precision: Precision, name: str, operator: str) -> bool:
    """Tell whether a recipe puts a node on the BPU.

    Args:
        precision: the recipe.
        name: of the node.
        operator: of the node, as the compiler's table has it.
    """
    node = setting(precision, name)
    if node is not None and (node.on or node.inputs):
        return node.on != "CPU"
    items = precision.calibration.optimization
    kinds = {found.group(1) for item in items if (found := _INPUT.fullmatch(item))}
    if any(item in _SOFTMAX for item in items):
        kinds.add("Softmax")
    return operator in kinds


def left_inside(precision: Precision, nodes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the names of CPU nodes inside the network, as (name, operator), that the recipe leaves there."""
    return tuple(name for name, operator in nodes if not moves(precision, name, operator))
