"""Tasks of ``test_cluster.py``: workers import them."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from edge.cluster.worker import Here
from edge.errors import ModelFileError


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
