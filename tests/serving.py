"""A server in this process, on free ports, with programs that a test scripts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import uvloop
from attrs import frozen

from edge.runtime import Info, Net, Tensor
from edge.serve.model import Model, Models
from edge.serve.queue import Queue
from edge.serve.server import Addresses, Server
from edge.specs import Preprocess

SIZE = 64
NV12 = SIZE * SIZE * 3 // 2


class Scripted:
    """A backend of four scores: the mean of the input's quarters, after what ``action`` does."""

    concurrent = True

    def __init__(self, action: Callable[[], None] = lambda: None) -> None:
        image = Tensor("image", (1, 3, SIZE, SIZE), "uint8", nv12=True)
        self.info = Info("scripted", "net", "1", (image,), (Tensor("scores", (1, 4), "float32"),))
        self.action, self.runs = action, 0

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.runs += 1
        self.action()
        return [inputs[0].reshape(4, -1).mean(axis=1, dtype=np.float32)[None]]

    def close(self) -> None:
        pass


def net_of(backend: Scripted) -> Net:
    return Net([backend], preprocess=Preprocess(crop=(SIZE, SIZE), resize=SIZE), labels=("a", "b", "c", "d"))


@frozen
class Served:
    """A server that runs."""

    http: str  #: host and port
    grpc: str
    stop: Callable[[], None]  #: begins to stop it and returns at once.
    ended: Callable[[], bool]


@contextmanager
def serving(*nets: tuple[str, Net], threads: int = 1, waiting: int = 64, seconds: float = 30.0) -> Iterator[Served]:
    """Serve nets by name until the end of the block."""
    models = Models([Model(name, net, Queue(threads, waiting, seconds)) for name, net in nets])
    server = Server(models, host="127.0.0.1", http_port=0, grpc_port=0)
    there, found = threading.Event(), []

    def started(addresses: Addresses) -> None:
        found.extend([addresses, asyncio.get_running_loop()])
        there.set()

    thread = threading.Thread(target=lambda: uvloop.run(server.run(started)), daemon=True)
    thread.start()
    assert there.wait(30)
    addresses, loop = found

    def stop() -> None:
        if thread.is_alive():
            loop.call_soon_threadsafe(server.stop)

    try:
        yield Served(addresses.http.removeprefix("http://"), addresses.grpc, stop, lambda: not thread.is_alive())
    finally:
        stop()
        thread.join(60)
        assert not thread.is_alive()
        for model in models.values():
            model.queue.close()
