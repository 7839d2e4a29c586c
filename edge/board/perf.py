"""Speed on the board: ``hrt_model_exec perf`` with one thread and with four."""

from __future__ import annotations

import math

from attrs import frozen

from edge.board.connection import Connection
from edge.board.parse import CODES, PerfRun, Profile, error_code, lines_of, parse_perf, parse_profile
from edge.board.probe import State, read_state
from edge.errors import BoardError, EdgeError
from edge.progress import Reporter

THREADS = (1, 4)
CORE = 0  # any; the X5 has one
_MARK = "@edge profiler"
_PERF = r"""
PATH=$PATH:/usr/hobot/bin
command -v hrt_model_exec >/dev/null || { echo 'hrt_model_exec: not found' >&2; exit 127; }
mkdir -p -- "$4" || exit 3
hrt_model_exec perf --model_file="$1" --core_id=0 --thread_num="$2" --frame_count="$3" \
    --profile_path="$4" 2>&1
status=$?
printf '\n%s\n' '@edge profiler'
cat -- "$4/profiler.log" 2>/dev/null
exit "$status"
"""


@frozen
class Measured:
    """One run of ``perf``: what it said, what its profiler wrote, how the board was before and after."""

    threads: int
    run: PerfRun
    profile: Profile | None
    before: State
    after: State


def measure(
    connection: Connection, program: str, frames: int, limit: float, reporter: Reporter
) -> list[Measured]:
    """Measure a program with each number of threads of ``THREADS``.

    Args:
        connection: to the board.
        program: path of the ``.bin`` there.
        frames: of each run.
        limit: seconds that one run may take.
        reporter: told what goes on.

    Raises:
        BoardError: the tool is missing, failed, took too long, or its output holds no result.
    """
    found = []
    with connection.scratch() as folder:
        before = read_state(connection)
        for number, threads in enumerate(THREADS):
            reporter.update(f"{frames} frames, {threads} thread{'s' * (threads > 1)}", number / len(THREADS))
            output = connection.run(
                _PERF, program, str(threads), str(frames), f"{folder}/{threads}", limit=limit, may_fail=True
            )
            log, _, profiler = output.text.rpartition(_MARK)
            if output.status:
                raise tool_failure("perf", log or output.text, output.err, output.status)
            run = parse_perf(log)
            if run is None or not (math.isfinite(run.fps) and run.fps > 0):
                raise BoardError(
                    f"hrt_model_exec perf gave no result; its last words: {last_words(log)}",
                    remedy="run it on the board by hand: hrt_model_exec perf --model_file=" + program,
                )
            after = read_state(connection)
            found.append(Measured(threads, run, parse_profile(profiler), before, after))
            before = after
    return found


def tool_failure(verb: str, log: str, err: str, status: int) -> EdgeError:
    """Return the error for a failed ``hrt_model_exec``, with libdnn's error code explained."""
    if status == 127:
        return BoardError(
            "the board has no hrt_model_exec",
            allowed="an RDK OS with the package hobot-dnn",
            remedy="apt-get install hobot-dnn on the board",
        )
    code = error_code(log + err)
    said = last_words(log) or last_words(err) or "it said nothing"
    if code is None:
        return BoardError(f"hrt_model_exec {verb} failed with exit status {status}: {said}")
    remedy = {
        -6000014: "edge board check HOST MODEL compares the versions",
        -6000006: "see whether another program holds the BPU, then run the command again",
    }.get(code)
    return BoardError(
        f"hrt_model_exec {verb} failed: {code}, {CODES.get(code, 'an unknown code')} ({said})", remedy=remedy
    )


def last_words(log: str) -> str:
    """Return the last line of a log that says something, shortened."""
    lines = [line for line in lines_of(log) if not line.startswith("@edge")]
    return lines[-1][:200] if lines else ""
