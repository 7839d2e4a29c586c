"""How much memory a program may still take on this machine, and how much one took at most."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

KIB = 1024
_UNLIMITED = 1 << 60  # version 1 of control groups writes a huge number for "no limit"
_EVERY = 0.25  # seconds between two looks at running programs; a look takes 2 to 5 ms


def available(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that a program may still take; None if the system does not tell.

    This is the smaller of the kernel's MemAvailable (free or in caches that can be dropped; no swap) and of what each
    control group above this process has left. ``root`` holds ``proc`` and ``sys``.
    """
    return min([*_machine(root, "MemAvailable:"), *(left for _, left in _groups(root))], default=None)


def total(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory of this machine, or the limit of its container; None if unknown."""
    return min([*_machine(root, "MemTotal:"), *(most for most, _ in _groups(root))], default=None)


def _machine(root: Path, wanted: str) -> list[int]:
    """Read one line of proc_meminfo(5); empty if it is missing."""
    return next(([value * KIB] for name, value in _fields(root / "proc/meminfo") if name == wanted), [])


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield each limit and what is left of it; see the kernel's admin-guide/cgroup-v1 and cgroup-v2."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            yield from _left(mount, path, "memory.max", "memory.current", "inactive_file")
            yield from _left(mount / "unified", path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left(mount / "memory", path, *names)


def _left(mount: Path, path: str, limit: str, used: str, cache: str) -> Iterator[tuple[int, int]]:
    # A container may see its own group as the top of the tree while its path is the host's.
    steps = [part for part in path.split("/") if part not in ("", "..")]
    for length in range(len(steps), -1, -1):
        folder = mount.joinpath(*steps[:length])
        most, taken = _number(folder / limit), _number(folder / used)
        if most is None or taken is None or most >= _UNLIMITED:
            continue
        droppable = dict(_fields(folder / "memory.stat")).get(cache, 0)
        yield most, max(0, most - taken + droppable)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _fields(path: Path) -> Iterator[tuple[str, int]]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        name, *rest = line.split()
        if rest and rest[0].isdigit():
            yield name, int(rest[0])


class PeakMemory:
    """The largest memory that all processes of a session held together.

    Shared pages count once where the kernel reports shares; otherwise a process that has just forked would count twice.
    A peak shorter than a quarter of a second may be missed, except that of the largest single process: the kernel keeps
    its high-water mark. A session has the id of the process that leads it.
    """

    def __init__(self, session: int) -> None:
        self._session = session
        self._next = 0.0
        self._most = 0

    @property
    def bytes(self) -> int | None:
        """The peak so far; None on a system without ``/proc``, or without psutil, which the board lacks."""
        return self._most or None

    def look(self) -> None:
        """Measure, unless the last measurement is fresh."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY
        with contextlib.suppress(ImportError, OSError):
            resident = dict(_members(self._session))
            self._most = max([self._most, *map(_high_water, resident)])
            # Shares are slow to read: do it only where they can make a new peak.
            if len(resident) > 1 and sum(resident.values()) > self._most:
                self._most = max(self._most, sum(_share(*member) for member in resident.items()))


def _members(session: int) -> Iterator[tuple[psutil.Process, int]]:
    """Yield the processes of a session with the bytes that each holds."""
    import psutil

    for number in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):  # it has ended
            if os.getsid(number) == session:
                process = psutil.Process(number)
                yield process, process.memory_info().rss


def _high_water(process: psutil.Process) -> int:
    """Read the most that a process ever held from proc_pid_status(5); psutil does not tell it."""
    return dict(_fields(Path(f"/proc/{process.pid}/status"))).get("VmHWM:", 0) * KIB


def _share(process: psutil.Process, resident: int) -> int:
    """Return resident memory with each page divided by its users; undivided where the kernel can't tell."""
    import psutil

    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0
    except (psutil.Error, OSError):
        return resident
