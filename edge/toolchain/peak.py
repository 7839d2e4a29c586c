"""How much memory a program and its children hold at most, seen from outside while they run."""

from __future__ import annotations

import os
import time
from pathlib import Path

_PROC = Path("/proc")
_EVERY = 0.25  # seconds between two looks; a look reads some hundred small files, 2 to 5 ms
# Fields of /proc/<pid>/stat after the name in brackets: proc_pid_stat(5).
_SESSION, _RSS = 3, 21


class PeakMemory:
    """The largest memory that all processes of a session held together.

    Pages that several processes share count once where the kernel tells their shares: a process that has
    just forked would count twice else. A peak shorter than a quarter of a second may be missed but for the
    largest single process, whose own high-water mark the kernel keeps.

    Args:
        session: id of the session, that of the process which leads it.
    """

    def __init__(self, session: int) -> None:
        self._session = session
        self._next = 0.0
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._most = 0

    @property
    def bytes(self) -> int | None:
        """The peak so far; None on a system without ``/proc``."""
        return self._most or None

    def look(self) -> None:
        """Measure, unless the last measurement is fresh."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY
        resident = {folder: size for folder in _PROC.glob("[0-9]*") if (size := self._resident(folder))}
        self._most = max([self._most, *map(_high_water, resident)])
        # Shares take the kernel some time to add up: asked for only where they can make a new peak.
        if len(resident) > 1 and sum(resident.values()) > self._most:
            self._most = max(self._most, sum(_share(folder, size) for folder, size in resident.items()))

    def _resident(self, process: Path) -> int:
        """Return the bytes that a process holds; 0 if it is not of this session or gone."""
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            return int(fields[_RSS]) * self._page if int(fields[_SESSION]) == self._session else 0
        except (OSError, ValueError, IndexError):
            return 0


def _high_water(process: Path) -> int:
    try:
        status = (process / "status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0


def _share(process: Path, resident: int) -> int:
    """Return resident memory with each page divided by its users; as it is where the kernel can't tell."""
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except FileNotFoundError:  # an old kernel, or the process has ended
        return resident if process.exists() else 0
    except (OSError, ValueError, IndexError, StopIteration):
        return resident
