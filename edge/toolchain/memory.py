"""How much memory a program may still take on this machine, its container's limit included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

KIB = 1024
_UNLIMITED = 1 << 60  # version 1 of control groups writes a huge number for "no limit"


def available(root: Path = Path("/")) -> int | None:
    """Return the bytes that can be had before something is killed; None where the system does not tell.

    The smaller of what the kernel calls available (free, or held by caches that it can drop; swap is left
    out) and of what each control group above this process has left.

    Args:
        root: of the file system that holds ``proc`` and ``sys``.
    """
    figures = [_machine(root, "MemAvailable:"), *(left for _, left in _groups(root))]
    return min((figure for figure in figures if figure is not None), default=None)


def total(root: Path = Path("/")) -> int | None:
    """Return the bytes that this machine has, or its container may take; None where nobody tells.

    Args:
        root: as for ``available``.
    """
    figures = [_machine(root, "MemTotal:"), *(most for most, _ in _groups(root))]
    return min((figure for figure in figures if figure is not None), default=None)


def _machine(root: Path, wanted: str) -> int | None:
    """Read one line of proc_meminfo(5)."""
    for name, value in _fields(root / "proc/meminfo"):
        if name == wanted:
            return value * KIB
    return None


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield each limit and what is left of it: kernel documentation, admin-guide/cgroup-v1 and cgroup-v2."""
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
    # A container may see its own group as the top of the tree while its path is that of the host.
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
