"""The scheduler: one that listens somewhere, or one of this machine's own."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from edge.errors import UsageError
from edge.images.frames import cores

_ANSWER = 10.0  # seconds in which a scheduler answers
_LOOK = 2.0  # seconds between two looks at whether a worker that was asked is still there
_SCHEMES = ("tcp", "tls", "ws", "wss", "ucx", "inproc")  # of dask
# dask's processes look at their loops 50 times a second, which takes 2 % of a core each.
_RARELY = {"distributed.admin.tick.interval": "1s"}
_START = "dask scheduler   starts one; dask worker tcp://HOST:8786 --nthreads 1   adds a machine"


class Scheduler:
    """A scheduler that can be connected to, again after it was lost."""

    def __init__(self, url: str) -> None:
        try:
            import distributed
        except ImportError:
            raise UsageError(
                "--cluster needs dask.distributed, which is not installed", remedy="pip install 'edge[cluster]'"
            ) from None
        self.dask: Any = distributed
        self._url = url
        self._local: Any = None

    def connect(self) -> Any:
        """Return a client; for ``local:N`` workers are started at first.

        Raises:
            UsageError: that is no address, or nothing answers there.
        """
        from dask import config

        count = _of_this_machine(self._url)
        try:
            if not count:
                _reach(self._url)
                return self.dask.Client(self._url, timeout=_ANSWER, name="edge")
            if self._local is None:
                with _deaf_children(), config.set(_RARELY):
                    self._local = self.dask.LocalCluster(
                        n_workers=count, threads_per_worker=1, memory_limit=0, dashboard_address=":0", silence_logs=50
                    )
            return self.dask.Client(self._local, name="edge")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"no scheduler answers at {self._url}: {' '.join(str(error).split())[:200]}",
                expected="tcp://HOST:8786 as dask scheduler shows it, or local:N",
                remedy=_START,
            ) from error

    def close(self) -> None:
        """End the workers that were started."""
        if self._local is not None:
            self._local.close()


def ask(client: Any, workers: Sequence[str], function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Return what a function gives in each worker, or the exception; an OSError for one that went meanwhile.

    dask itself would try for 30 s to reach that one, in which the next may go.
    """

    async def one(address: str) -> Any:
        asked = asyncio.ensure_future(client.run(function, *arguments, workers=[address], on_error="return"))
        try:
            while not (await asyncio.wait([asked], timeout=_LOOK))[0]:
                if address not in (await client.scheduler.identity(n_workers=-1))["workers"]:
                    return OSError(f"worker {address} is gone")
            return asked.result()[address]
        finally:
            asked.cancel()

    async def each() -> list[Any]:
        return await asyncio.gather(*map(one, workers))

    return dict(zip(workers, client.sync(each), strict=True))


def _of_this_machine(url: str) -> int:
    """Return N of ``local:N``, and 0 for the address of a scheduler.

    Raises:
        UsageError: it is neither.
    """
    local, most = re.fullmatch(r"local:(\d{1,6})", url), 2 * cores()
    if local is not None and 1 <= int(local[1]) <= most:
        return int(local[1])
    if not re.fullmatch(rf"({'|'.join(_SCHEMES)})://\S+", url):
        raise UsageError(
            f"--cluster {url!r}",
            expected=f"tcp://HOST:8786 as dask scheduler shows it, or local:N with 1 to {most} workers on this machine",
            remedy=_START,
        )
    return 0


def _reach(url: str) -> None:
    """Raise OSError at once if nothing listens there; dask would try again for long, and not say why."""
    place = urlsplit(url)
    if place.scheme in _SCHEMES[:4] and place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), _ANSWER).close()


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Let processes that are started here not hear Ctrl-C: this one ends them, and they would only print tracebacks."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
