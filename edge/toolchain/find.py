"""Find a compiler: installed by edge, on PATH, or the vendor's Docker image."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from edge.toolchain.found import Toolchain

Which = Literal["auto", "managed", "path", "docker"]


@frozen
class Route:
    """One way to have the compiler.

    Attributes:
        kind: ``managed``, ``path`` or ``docker``.
        available: it can be used now.
        where: bin folder or image, where there is one.
        versions: of hb_mapper, hbdk, horizon_nn.
        why_not: why it was passed over; empty when available.
    """

    kind: str
    available: bool
    where: str
    versions: dict[str, str]
    why_not: str = ""


@frozen
class ToolchainStatus:
    """What ``edge toolchain status`` shows: each route, in the order ``auto`` takes them."""

    routes: tuple[Route, ...]
    python310: str


def find(which: Which = "auto") -> Toolchain:
    """Return the compiler to use.

    Raises:
        ToolchainMissing: none was found; says why each route was passed over.
    """
    raise NotImplementedError


def status() -> ToolchainStatus:
    """Look at every route without stopping at the first."""
    raise NotImplementedError
