"""Run a program so that nothing of it outlives us: own process group, time limit, live output."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from attrs import frozen

from edge.toolchain.memory import PeakMemory

# CSI sequences (colours, cursor moves) and OSC titles: ECMA-48, sections 5.4 and 8.3.89.
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
_TAIL_LINES = 80
_LONGEST_LINE = 4000  # characters; garbage without line ends must not fill the memory
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_DRAIN = 2.0  # seconds that output may still come after the program itself has ended

#: Called several times a second while a program runs; what it raises ends the program.
while_running: ContextVar[Callable[[], None]] = ContextVar("while_running", default=lambda: None)

# Kills the group when our end of the pipe closes without a message: we were killed, perhaps by SIGKILL.
_GUARD = 'trap "" INT TERM HUP; read -r word || { kill -s KILL -- "-$1"; eval "$2"; } >/dev/null 2>&1'


@frozen
class Completed:
    """How a program ended."""

    returncode: int  #: exit status; negative is the signal that ended it.
    seconds: float  #: wall time.
    tail: str  #: the last lines of its output, clean of escape codes and progress bars.
    timed_out: bool = False  #: it was stopped at its time limit.
    #: bytes that it and its children held at most, see :class:`PeakMemory`; None if unknown.
    peak_memory: int | None = None


@frozen
class CommandOutput:
    """How a program ended whose two outputs were kept apart; ``timed_out``: stopped at its time limit."""

    status: int
    out: bytes
    err: str
    timed_out: bool = False

    @property
    def text(self) -> str:
        """The standard output as text."""
        return self.out.decode("utf-8", "replace")


def clean(text: str) -> str:
    """Strip terminal escape codes and NUL bytes."""
    return _ANSI.sub("", text).replace("\x00", "")


def last_line(text: str) -> str:
    """Return the last line that says something; empty if none does."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def quick(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float
) -> subprocess.CompletedProcess[str] | None:
    """Run a short command; None when it does not start or does not end in time (seconds)."""
    try:
        return subprocess.run(
            list(argv),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env=env,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float,
    on_line: Callable[[str], None] | None = None,
    log: Path | None = None,
    cleanup: Sequence[str] = (),
) -> Completed:
    r"""Run ``argv`` in a new process group and stream its merged output.

    Args:
        argv: program and arguments; no shell.
        env: the whole environment; None takes ours.
        timeout: seconds until the whole group is stopped (SIGTERM, then SIGKILL).
        on_line: called with each piece of output, split at ``\n`` and ``\r``, escape codes stripped.
        log: file that receives the output; pieces ended by ``\r`` (progress bars) are left out.
        cleanup: command to run once the group had to be killed (a container outlives its client).

    Raises:
        OSError: the program can't be started.
    """
    started = time.monotonic()
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with (
        log.open("w", encoding="utf-8") if log else contextlib.nullcontext() as sink,
        _started(argv, cleanup, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process,
    ):

        def emit(text: str, end: str) -> None:
            line = clean(text).rstrip()
            if end == "\n":
                if line:
                    tail.append(line)
                if sink is not None:
                    sink.write(line + "\n")
            if line and on_line is not None:
                on_line(line)

        peak = PeakMemory(process.pid)
        in_time = _pump(process, _Lines(emit).feed, deadline=started + timeout, look=peak.look)
    return Completed(
        process.returncode, time.monotonic() - started, "\n".join(tail), not in_time, peak_memory=peak.bytes
    )


def communicate(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float,
    data: Callable[[], Iterator[bytes]] | None = None,
    on_line: Callable[[str], None] | None = None,
    on_sent: Callable[[int], None] | None = None,
) -> CommandOutput:
    r"""Run ``argv`` as :func:`run` does, feed its standard input, and return both outputs whole.

    Args:
        argv: program and arguments; no shell.
        timeout: seconds until the whole group is stopped.
        data: yields its standard input; if None, that stays open and empty until the program ends.
        on_line: called with each piece of its standard output, split at ``\n`` and ``\r``, as it comes.
        on_sent: called with the number of bytes sent so far.
    """
    deadline = time.monotonic() + timeout
    out, err = bytearray(), bytearray()
    lines = _Lines(lambda text, _: None if on_line is None else on_line(text))

    def hear(piece: bytes) -> None:
        out.extend(piece)
        lines.feed(piece)

    with _started(argv, env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        feed = None if data is None else _feeder(process, data(), on_sent)
        in_time = _pump(process, hear, err.extend, deadline=deadline, feed=feed)
    return CommandOutput(process.returncode, bytes(out), err.decode("utf-8", "replace"), not in_time)


def end(process: subprocess.Popen[bytes], cleanup: Sequence[str] = ()) -> None:
    """Stop a program and its group: SIGTERM, then SIGKILL; then run ``cleanup``."""
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    if cleanup:
        quick(cleanup, timeout=20)


@contextlib.contextmanager
def _started(
    argv: Sequence[str], cleanup: Sequence[str] = (), *, env: Mapping[str, str] | None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program in a new process group; at the end nothing of that group is left."""
    environment = None if env is None else dict(env)
    with (
        subprocess.Popen(
            list(argv), env=environment, stdout=subprocess.PIPE, start_new_session=True, **options
        ) as process,
        _guarded(process.pid, cleanup),
    ):
        try:
            yield process
        except BaseException:
            end(process, cleanup)
            raise
        if process.poll() is None:
            end(process, cleanup)
        else:
            _signal_group(process.pid, signal.SIGKILL)  # children that it left behind


@contextlib.contextmanager
def _guarded(group: int, cleanup: Sequence[str]) -> Iterator[None]:
    """Keep a tiny shell beside us that kills the group if we die without cleaning up."""
    reader, writer = os.pipe()
    try:
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "sh", str(group), shlex.join(cleanup) or ":"],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        os.close(writer)
        raise
    finally:
        os.close(reader)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.write(writer, b"done\n")
        os.close(writer)
        guard.wait()


def _pump(
    process: subprocess.Popen[bytes],
    *sinks: Callable[[bytes], None],
    deadline: float,
    feed: Callable[[], bool] | None = None,
    look: Callable[[], None] = lambda: None,
) -> bool:
    """Pass the output on until it ends; return False when the deadline (of ``time.monotonic``) came first.

    The sinks take the standard output, and the standard error if it has a pipe; empty at its end. ``feed`` writes to
    the standard input, and returns whether there is more.
    """
    ended: float | None = None
    with selectors.DefaultSelector() as selector:
        pipes = (process.stdout, process.stderr)
        reading = {pipe: sink for pipe, sink in zip(pipes, sinks, strict=False) if pipe}
        for pipe in reading:
            selector.register(pipe, selectors.EVENT_READ, pipe)
        if feed is not None and process.stdin is not None:
            selector.register(process.stdin, selectors.EVENT_WRITE, process.stdin)
        while reading:
            now = time.monotonic()
            look()
            while_running.get()()
            if now >= deadline:
                return False
            events = selector.select(min(0.25, deadline - now))
            for key, event in events:
                if event == selectors.EVENT_READ:
                    piece = os.read(key.fd, 1 << 16)
                    reading[key.data](piece)
                    if piece:
                        continue
                    del reading[key.data]
                elif feed is not None and feed():
                    continue
                selector.unregister(key.data)
                key.data.close()
            # A grandchild may hold a pipe open after the program itself is gone.
            if not events and process.poll() is not None:
                ended = ended or now
                if now - ended > _DRAIN:
                    break
    for sink in reading.values():
        sink(b"")
    while process.poll() is None:  # it closed its output but still runs
        if time.monotonic() >= deadline:
            return False
        look()
        while_running.get()()
        time.sleep(0.05)
    return True


def _feeder(
    process: subprocess.Popen[bytes], chunks: Iterator[bytes], on_sent: Callable[[int], None] | None
) -> Callable[[], bool]:
    assert process.stdin is not None  # noqa: S101 - we asked for a pipe
    descriptor = process.stdin.fileno()
    os.set_blocking(descriptor, False)
    left, sent = memoryview(b""), 0

    def go_on() -> bool:
        nonlocal left, sent
        # The program may end before it has read everything; its own message is then better than our broken pipe.
        try:
            left = left or memoryview(next(chunks, b""))
            written = os.write(descriptor, left) if left else 0
        except BlockingIOError:
            return True
        except OSError:
            return False
        left, sent = left[written:], sent + written
        if written and on_sent is not None:
            on_sent(sent)
        return bool(written)

    return go_on


class _Lines:
    r"""Splits output at ``\n``, ``\r`` and ``\r\n``, and gives each piece and which of the two ended it."""

    def __init__(self, emit: Callable[[str, str], None]) -> None:
        self._emit = emit
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take more data; empty data is the end."""
        if not data:
            if self._rest:
                self._emit(self._rest.decode("utf-8", "replace"), "\n")
            self._rest = b""
            return
        pieces = re.split(rb"(\r\n|\n|\r)", self._rest + data)
        self._rest = pieces.pop()
        # A lone \r at the very end may be half of \r\n.
        if pieces and pieces[-1] == b"\r" and not self._rest:
            self._rest = pieces.pop(-2) + pieces.pop()
        for text, end in zip(pieces[::2], pieces[1::2], strict=True):
            self._emit(text.decode("utf-8", "replace")[:_LONGEST_LINE], "\r" if end == b"\r" else "\n")
        if len(self._rest) > 4 * _LONGEST_LINE:
            self._emit(self._rest.decode("utf-8", "replace")[:_LONGEST_LINE], "\n")
            self._rest = b""


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
