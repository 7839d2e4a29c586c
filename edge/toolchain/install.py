"""Install the vendor's compiler into an environment of its own."""

from __future__ import annotations

from pathlib import Path

from edge.progress import Reporter, Silent
from edge.toolchain.found import Toolchain


def install(
    *, reporter: Reporter = Silent(), python: Path | None = None, timeout: float = 3600.0
) -> Toolchain:
    """Install (or reuse) the managed environment.

    Raises:
        ToolchainMissing: this platform can't run the compiler.
        InstallError: no Python 3.10, no network, no disk space.
    """
    raise NotImplementedError
