"""One function an operator of the vendor's: the integers that it computes, in standard ONNX.

Each rule was found by experiment and is compared with the vendor's runtime in
``tests/test_portable_rules.py``. A rule takes the graph to add to and the vendor's node, and gives a
:class:`Value` for each of its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge.simulate.portable.graph import Graph, Source, Value

Rule = Callable[[Graph, Source], Sequence[Value]]

_RULES: dict[tuple[str, str], Rule] = {}


def rule(*operators: str, domain: str = "horizon") -> Callable[[Rule], Rule]:
    """Register a function as the rule of one or more operators."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            _RULES[domain, operator] = function
        return function

    return register


def rules() -> dict[tuple[str, str], Rule]:
    """Return every rule by (domain, operator)."""
    from edge.simulate.portable.rules import (
        activation,
        arrange,
        convolution,
        elementwise,
        floating,
        lut,
        lut2,
        matmul,
        pool,
        preprocess,
        quantize,
        reduce,
        resize,
        shape,
        transposed,
    )

    del (
        activation,
        arrange,
        convolution,
        elementwise,
        floating,
        lut,
        lut2,
        matmul,
        pool,
        preprocess,
        quantize,
        reduce,
        resize,
        shape,
        transposed,
    )
    return dict(_RULES)
