"""Run a client program to its end under a deadline: feed it, hear it, and leave nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from attrs import frozen

from edge.errors import BoardError

_CHUNK = 1 << 18
_News = queue.Queue[tuple[str, bytes | int]]


@frozen
class Output:
    """How a command ended: exit status, standard output, standard error."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """The standard output as text."""
        return self.out.decode("utf-8", "replace")


def communicate(
    argv: Sequence[str],
    host: str,
    limit: float,
    environment: Mapping[str, str],
    *,
    data: Callable[[], Iterator[bytes]] | None = None,
    on_line: Callable[[str], None] | None = None,
    on_sent: Callable[[int], None] | None = None,
) -> Output:
    """Run ``argv``; its standard input stays open to its end, or until ``data`` is through.

    Args:
        argv: program and arguments; no shell.
        host: for messages.
        limit: seconds until it is stopped.
        environment: the whole of it.
        data: gives what it reads.
        on_line: called with each line of its output as it comes.
        on_sent: called with the number of bytes sent so far.

    Raises:
        BoardError: the time is over.
    """
    deadline = time.monotonic() + limit
    news: _News = queue.Queue()
    with subprocess.Popen(
        list(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        start_new_session=True,  # Ctrl-C is ours to handle: it must not end the client first
    ) as process:
        assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 - we asked for pipes
        work: list[tuple[Callable[..., None], tuple[object, ...]]] = [
            (_read, (process.stdout, "out", news)),
            (_read, (process.stderr, "err", news)),
        ]
        if data is not None:
            work.append((_write, (process.stdin, data, news)))
        try:
            for target, arguments in work:
                threading.Thread(target=target, args=arguments, daemon=True).start()
            out, err = _collect(news, deadline, host, on_line, on_sent)
            status = process.wait(timeout=max(1.0, deadline - time.monotonic()))
        finally:
            end(process)
    return Output(status, out, err.decode("utf-8", "replace"))


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a program and its group, if it still runs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)


def _collect(
    news: _News,
    deadline: float,
    host: str,
    on_line: Callable[[str], None] | None,
    on_sent: Callable[[int], None] | None,
) -> tuple[bytes, bytes]:
    out, err, partial = bytearray(), bytearray(), b""
    open_ends = 2
    while open_ends:
        if time.monotonic() > deadline:
            raise BoardError(
                f"{host} stopped answering",
                remedy="look at the board's power and network, then run the command again",
            )
        try:
            kind, item = news.get(timeout=0.25)
        except queue.Empty:
            continue
        if isinstance(item, int):
            if on_sent is not None:
                on_sent(item)
        elif not item:
            open_ends -= 1
        elif kind == "err":
            err += item
        else:
            out += item
            if on_line is not None:
                *lines, partial = (partial + item).split(b"\n")
                for line in lines:
                    on_line(line.decode("utf-8", "replace").rstrip("\r"))
    return bytes(out), bytes(err)


def _read(stream: IO[bytes], kind: str, news: _News) -> None:
    with contextlib.suppress(OSError, ValueError):
        while chunk := os.read(stream.fileno(), _CHUNK):
            news.put((kind, chunk))
    news.put((kind, b""))


def _write(stream: IO[bytes], data: Callable[[], Iterator[bytes]], news: _News) -> None:
    sent = 0
    # The command may end before it has read all; what it says then tells more than our broken pipe.
    with contextlib.suppress(OSError, ValueError):
        for chunk in data():
            stream.write(chunk)
            stream.flush()
            sent += len(chunk)
            news.put(("sent", sent))
    with contextlib.suppress(OSError, ValueError):
        stream.close()
