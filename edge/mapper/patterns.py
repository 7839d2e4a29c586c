"""Settings for many nodes at once: a name with ``*`` in a recipe stands for every node that it fits.

So one recipe serves a family whose members differ in depth.
"""

from __future__ import annotations

import re

from attrs import evolve

from edge.errors import SpecError
from edge.mapper.node_names import NodeNames
from edge.specs import NodePrecision, Precision

ANY = "*"


def fits(pattern: str, name: str) -> bool:
    """Tell whether a node's name fits; ``*`` stands for any text, ``/`` included, all else for itself."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split(ANY))), name) is not None


def setting(precision: Precision, name: str) -> NodePrecision | None:
    """Return what a recipe sets for a node: under its own name, else by the last pattern that fits it."""
    if (own := precision.nodes.get(name)) is not None:
        return own
    found = [node for key, node in precision.nodes.items() if ANY in key and fits(key, name)]
    return found[-1] if found else None


def expanded(precision: Precision, names: NodeNames) -> Precision:
    """Return the recipe with the nodes that its patterns stand for, in graph order, in place of these.

    Raises:
        SpecError: a pattern fits no node, so the recipe is another network's.
    """
    patterns = [key for key in precision.nodes if ANY in key]
    if not patterns:
        return precision
    for pattern in patterns:
        if not any(fits(pattern, name) for name in names.known):
            raise SpecError(
                f"recipe {precision.name}: no node of this network fits {pattern!r}",
                allowed=f"names such as {', '.join(names.known[1:4])}",
                remedy="--precision int8, or a recipe made for this network",
            )
    plain = {key: node for key, node in precision.nodes.items() if ANY not in key}
    fitting = {name: node for name in names.known if (node := setting(precision, name)) is not None}
    return evolve(precision, nodes={**fitting, **plain})
