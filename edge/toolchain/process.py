"""Run a program so that nothing of it outlives us: own process group, time limit, merged live output."""

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
from pathlib import Path
from typing import IO

from attrs import frozen

from edge.toolchain.peak import PeakMemory

# CSI sequences (colours, cursor moves) and OSC titles: ECMA-48, sections 5.4 and 8.3.89.
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
_TAIL_LINES = 80
_LONGEST_LINE = 4000  # characters; garbage without line ends must not fill the memory
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_DRAIN = 2.0  # seconds that output may still come after the program itself has ended

# Ends the group when our end of the pipe closes without a word: we were killed, even by SIGKILL.
_GUARD = 'trap "" INT TERM HUP; read -r word || { kill -s KILL -- "-$1"; eval "$2"; } >/dev/null 2>&1'


@frozen
class Completed:
    """How a program ended.

    Attributes:
        returncode: exit status; negative is the signal that ended it.
        seconds: wall time.
        tail: the last lines of its output, clean of escape codes and progress bars.
        timed_out: it was stopped at its time limit.
        peak_memory: bytes that it and its children held at most, see :class:`PeakMemory`; None if unknown.
    """

    returncode: int
    seconds: float
    tail: str
    timed_out: bool = False
    peak_memory: int | None = None


def clean(text: str) -> str:
    """Strip terminal escape codes and NUL bytes."""
    return _ANSI.sub("", text).replace("\x00", "")


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
    r"""Run ``argv`` in a process group of its own and stream its merged output.

    Args:
        argv: program and arguments; no shell.
        cwd: folder to start in.
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
    timed_out = False
    with (
        log.open("w", encoding="utf-8") if log else contextlib.nullcontext() as sink,
        subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
        _guarded(process.pid, cleanup),
    ):
        peak = PeakMemory(process.pid)
        try:

            def emit(text: str, end: str) -> None:
                _emit(text, end, on_line, sink, tail)

            timed_out = not _pump(process, started + timeout, emit, peak)
        except BaseException:
            _kill(process, cleanup)
            raise
        if timed_out:
            _kill(process, cleanup)
        else:
            process.wait()
            _signal_group(process.pid, signal.SIGKILL)  # children that it left behind
    return Completed(
        process.returncode, time.monotonic() - started, "\n".join(tail), timed_out, peak_memory=peak.bytes
    )


def _emit(
    text: str, end: str, on_line: Callable[[str], None] | None, sink: IO[str] | None, tail: deque[str]
) -> None:
    line = clean(text).rstrip()
    if end == "\n":
        if line:
            tail.append(line)
        if sink is not None:
            sink.write(line + "\n")
    if line and on_line is not None:
        on_line(line)


def _pump(
    process: subprocess.Popen[bytes], deadline: float, emit: Callable[[str, str], None], peak: PeakMemory
) -> bool:
    """Read until the output ends; return False when the deadline came first."""
    assert process.stdout is not None  # noqa: S101 - we asked for a pipe
    fd = process.stdout.fileno()
    rest = b""
    ended: float | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            peak.look()
            if now >= deadline:
                return False
            if selector.select(min(0.25, deadline - now)):
                data = os.read(fd, 65536)
                if not data:
                    break
                rest = _split(rest + data, emit)
            # A grandchild may hold the pipe open after the program itself is gone.
            elif process.poll() is not None:
                ended = ended or now
                if now - ended > _DRAIN:
                    break
    if rest:
        emit(rest.decode("utf-8", "replace"), "\n")
    while process.poll() is None:  # it closed its output and goes on
        if time.monotonic() >= deadline:
            return False
        peak.look()
        time.sleep(0.05)
    return True


def _split(data: bytes, emit: Callable[[str, str], None]) -> bytes:
    pieces = re.split(rb"(\r\n|\n|\r)", data)
    # A lone \r at the very end may be half of \r\n.
    rest = pieces.pop()
    if pieces and pieces[-1] == b"\r" and not rest:
        rest = pieces.pop(-2) + pieces.pop()
    for text, end in zip(pieces[::2], pieces[1::2], strict=True):
        emit(text.decode("utf-8", "replace")[:_LONGEST_LINE], "\r" if end == b"\r" else "\n")
    if len(rest) > 4 * _LONGEST_LINE:
        emit(rest.decode("utf-8", "replace")[:_LONGEST_LINE], "\n")
        return b""
    return rest


@contextlib.contextmanager
def _guarded(group: int, cleanup: Sequence[str]) -> Iterator[None]:
    """Keep a tiny shell beside us that kills the group should we die without cleaning up."""
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


def _kill(process: subprocess.Popen[bytes], cleanup: Sequence[str]) -> None:
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    if cleanup:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(list(cleanup), capture_output=True, timeout=20, check=False)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
