"""Foretell how much memory the compiler takes, and refuse a run that would be killed for want of it."""

from __future__ import annotations

import math
from typing import Literal

from edge.errors import NotEnoughMemory

Purpose = Literal["check", "compile"]

GIB = 1 << 30
_FLOAT = 4  # bytes of a weight

# Peak of the process tree <= a base + so many copies of the float weights, by each of two lines: large
# networks hold fewer copies at a time. Upper bounds of what was measured (hb_mapper 1.24.3; the figures are
# in tests/test_footprint.py). The weights decide: 20 or 100 calibration pictures (the compiler takes eight
# at a time), O0 or O3 (hbdk-cc is small beside the Python around it), and 64 or 224 pixels change little.
_MIB = 1 << 20
_BOUNDS: dict[Purpose, tuple[tuple[int, float], ...]] = {
    "check": ((550, 17.0), (1200, 12.5)),
    "compile": ((800, 22.5), (1500, 17.0)),
}
_SIZES = (4, 8, 16, 24, 32, 48, 64, 96, 128)  # GiB, as machines come


def estimate(parameters: int, purpose: Purpose) -> int:
    """Return the bytes that a run of the compiler is foretold to hold at most.

    Args:
        parameters: of the network.
        purpose: ``check`` without calibration, or ``compile``.
    """
    return min(base * _MIB + round(copies * _FLOAT * parameters) for base, copies in _BOUNDS[purpose])


def require(parameters: int, purpose: Purpose, *, free: int | None, name: str) -> None:
    """Refuse a run that does not fit.

    Args:
        parameters: of the network.
        purpose: of the run.
        free: bytes that can be had, see :func:`edge.memory.available`; None where that is unknown.
        name: of the network, for the message.

    Raises:
        NotEnoughMemory: the estimate is above ``free``.
    """
    needed = estimate(parameters, purpose)
    if free is None or needed <= free:
        return
    # The system and edge itself want something beside.
    machine = next((size for size in _SIZES if size * GIB >= needed + 2 * GIB), math.ceil(needed / GIB) + 2)
    raise NotEnoughMemory(
        f"to {purpose} {name} ({parameters / 1e6:.1f} M parameters) takes about {needed / GIB:.1f} GiB of "
        f"memory, and {free / GIB:.1f} GiB are free",
        allowed=f"a machine or container with {machine} GiB; fewer calibration pictures or a lower --level "
        "change little, the weights decide",
        remedy="close other programs, or take a smaller model (edge models); --any-memory tries anyway",
    )
