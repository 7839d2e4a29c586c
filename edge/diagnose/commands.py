"""The command and the recipe lines that a remedy tells to type."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from edge.built import Built
from edge.diagnose.units import Group


def rebuild(built: Built, *options: tuple[str, str]) -> str:
    """Return the command that made the build, with options put in or replaced."""
    words = shlex.split(str(built.manifest.get("command", ""))) or ["edge", "build", built.metadata.model]
    for option, value in options:
        if option in words[:-1]:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    # Placeholders such as DIR are for the user to fill in; shlex.join quotes none of these.
    return shlex.join(words)


def recipe_lines(groups: Sequence[Group], on_cpu: frozenset[str]) -> str:
    """Return the lines under ``nodes:`` of a precision recipe that give layers 16 bits.

    What the network's last layer computes leaves the BPU unrounded, so that only its inputs are set.
    """
    return "\n".join(
        f"  {name}: {{'on': BPU, inputs: int16{'' if group.last else ', outputs: int16'}}}"
        for group in groups
        for name in group.nodes
        if name not in on_cpu
    )
