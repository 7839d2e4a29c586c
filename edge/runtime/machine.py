"""This machine's name, processor and free memory; on the board also its BPU."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from edge.errors import counted

PROC = Path("/proc")
BPU = Path("/sys/devices/system/bpu/bpu0")
# Backends that execute on the board's BPU; all others are simulators.
ON_BOARD = ("hbm_runtime", "hobot_dnn", "bpu_infer_lib")


def machine() -> str:
    """Return the board's name or the processor's, the architecture and the number of cores, on one line."""
    name = _text(PROC / "device-tree" / "model").strip("\0\n ") or _processor() or platform.system()
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return f"{name}, {platform.machine()}, {counted(cores, 'core')}"


def memory() -> list[str]:
    """Return lines on free memory and on the BPU; each says so if there is no figure."""
    found = dict(line.split(":", 1) for line in _text(PROC / "meminfo").splitlines() if ":" in line)
    lines = [
        f"{key:<13} {int(found[key].split()[0]) / 1024:8.0f} MiB"
        for key in ("MemTotal", "MemFree", "MemAvailable", "CmaTotal", "CmaFree")
        if key in found
    ]
    busy = _text(BPU / "ratio").strip()
    return [
        *(lines or [f"memory: {platform.system()} has no /proc/meminfo"]),
        f"BPU           {busy:>8} % busy" if busy else "BPU           none on this machine: it is not the board",
    ]


def _processor() -> str:
    for line in _text(PROC / "cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware"):
            return value.strip()
    return platform.processor()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
