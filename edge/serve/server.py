"""Start the server and stop it: what runs is finished, and nothing new is taken."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator

import grpc
import uvicorn
from attrs import frozen

from edge.errors import UsageError
from edge.serve.grpc_service import handler
from edge.serve.http import application
from edge.serve.metrics import Metrics
from edge.serve.model import Models

_KEPT = 75  # seconds that a connection may rest between two requests
_WINDOW = 4 << 20  # bytes of a gRPC request that come without being asked for
_FURTHER_CALLS = 64  # of gRPC at once, beside those that wait in queues


@frozen
class Addresses:
    """Where the server listens."""

    http: str
    grpc: str


class Server:
    """Both protocols in one event loop.

    Raises:
        UsageError: a port is in use, or the host is not of this machine.
    """

    def __init__(self, models: Models, *, host: str, http_port: int, grpc_port: int) -> None:
        self._models, self._host, self._grpc_port = models, host, grpc_port
        self._metrics = Metrics(models)
        self._socket = _listening(host, http_port)
        seconds = max(model.queue.seconds for model in models.values())
        self._grace = seconds + 1
        self._http = _Uvicorn(
            uvicorn.Config(
                application(models, self._metrics),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                loop="none",
                server_header=False,
                timeout_keep_alive=_KEPT,
                timeout_graceful_shutdown=int(self._grace) + 1,
            )
        )
        self._stopping, self._at_once = asyncio.Event(), asyncio.Event()

    async def run(self, started: Callable[[Addresses], None]) -> None:
        """Serve until :meth:`stop`, or a SIGTERM or Ctrl-C, and call ``started`` when requests are taken.

        Raises:
            UsageError: the port of gRPC is in use.
        """
        most = self._models.largest
        calls = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # a second server would take half of the calls
                # A whole image may come at once: no waiting for the window to open, and no probing for its size.
                ("grpc.http2.lookahead_bytes", _WINDOW),
                ("grpc.http2.bdp_probe", 0),
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", -1),
            ],
            maximum_concurrent_rpcs=_FURTHER_CALLS + sum(model.queue.most for model in self._models.values()),
        )
        calls.add_generic_rpc_handlers((handler(self._models, self._metrics),))
        shown = f"[{self._host}]" if ":" in self._host else self._host
        try:
            port = calls.add_insecure_port(f"{shown}:{self._grpc_port}")
        except RuntimeError:
            self._socket.close()
            raise _in_use(self._host, self._grpc_port, "--grpc-port") from None
        await calls.start()
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ValueError, RuntimeError):  # a thread other than the main one gets no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.stop)
        web = asyncio.ensure_future(self._http.serve(sockets=[self._socket]))
        started(Addresses(f"http://{shown}:{self._socket.getsockname()[1]}", f"{shown}:{port}"))
        await _first(web, self._stopping.wait())
        await _first(calls.stop(self._grace), self._at_once.wait())
        await calls.stop(0)
        await web

    def stop(self) -> None:
        """Refuse what is new and end when what was taken is answered; a second call waits for no client."""
        for model in self._models.values():
            model.queue.stop()
        if self._stopping.is_set():
            self._http.force_exit = True
            self._at_once.set()
        self._http.should_exit = True
        self._stopping.set()


async def _first(*waits: Awaitable[object]) -> None:
    """Wait until one of several has ended, and leave the others alone."""
    await asyncio.wait([asyncio.ensure_future(one) for one in waits], return_when=asyncio.FIRST_COMPLETED)


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the server of both protocols."""
        yield


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio sends small pieces without delay on sockets whose protocol is named, and on no others.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1024)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(
                f"--host {host}: {error.strerror or error}", expected="an address of this machine", remedy="ip addr"
            ) from error
        raise _in_use(host, port, "--http-port") from error
    return listening


def _in_use(host: str, port: int, option: str) -> UsageError:
    return UsageError(f"{host}:{port} can't be listened on", expected="a free port", remedy=f"{option} N")
