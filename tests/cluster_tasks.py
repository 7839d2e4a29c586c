"""Tasks of ``test_cluster.py``: workers import them."""

from __future__ import annotations

import errno
import os
import resource
import time
from pathlib import Path

import numpy as np

from edge.cluster.worker import Here
from edge.errors import ModelFileError
from edge.toolchain.process import run


def nap(_here: Here, *, seconds: float, what: int) -> int:
    time.sleep(seconds)
    return what


def slow_at_first(_here: Here, *, mark: str) -> int:
    """Hang in the first worker that takes it, whose process it names."""
    place = Path(mark)
    if not place.exists():
        place.write_text(str(os.getpid()))
        time.sleep(60)
    return os.getpid()


def sleeps(_here: Here, *, mark: str) -> None:
    """Run a program for a minute, and say who it is."""
    run(["sh", "-c", f"echo $$ > {mark}; exec sleep 60"], timeout=90)
    Path(mark).with_name("ended").touch()


def environment(_here: Here) -> dict[str, str]:
    """Return the environment, and the page faults of making a large array again and again."""
    np.ones(1 << 19)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(200):
        np.ones(1 << 19)
    return {**os.environ, "faults": str((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 200)}


def full_disk_at_first(_here: Here, *, mark: str) -> int:
    place = Path(mark)
    if not place.exists():
        place.write_text("")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
    return 1


def refuses(_here: Here) -> None:
    raise ModelFileError("the network is broken", expected="a whole one", remedy="edge build it again")


def reads(here: Here, *, sha256: str) -> bytes:
    return here.file(sha256, "name.txt").read_bytes()


def spans(_here: Here, *, seconds: float) -> tuple[float, float]:
    started = time.time()
    time.sleep(seconds)
    return started, time.time()
