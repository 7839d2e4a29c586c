"""How a stage tells what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Listener for live progress. Only the command line prints; stages call this."""

    def update(self, text: str, fraction: float | None = None) -> None:
        """Say what is being done; ``fraction`` in 0..1 where it is known."""

    def warn(self, message: str) -> None:
        """Tell the user something that does not stop the work."""


class Listener(Reporter, Protocol):
    """A reporter that also learns where a stage begins and ends."""

    def begin(self, stage: str) -> None:
        """Say that a stage begins."""

    def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
        """Say that a stage ended, how long its work took, and in a few words what came out."""


class Silent:
    """A reporter that keeps warnings and shows nothing; the default, and what tests use."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def update(self, text: str, fraction: float | None = None) -> None:
        """Ignore progress."""

    def warn(self, message: str) -> None:
        """Keep the warning."""
        self.warnings.append(message)


class Quiet(Silent):
    """A silent listener."""

    def begin(self, stage: str) -> None:
        """Ignore it."""

    def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
        """Ignore it."""


class _Deaf(Quiet):
    def warn(self, message: str) -> None:
        """Ignore it."""


SILENT: Listener = _Deaf()  # the default where a caller does not listen
