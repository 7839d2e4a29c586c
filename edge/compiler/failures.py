"""Why the compiler failed: its log and exit status as stage, cause and remedy.

The messages were captured from hb_mapper 1.24.3; for an unknown failure the last error line is shown.
"""

from __future__ import annotations

import re
import signal

from attrs import frozen

from edge.compiler.logs import lines
from edge.compiler.refusals import refusal
from edge.errors import CompileError

_LONGEST = 400  # characters of a cause


@frozen
class _Rule:
    """What to say when ``pattern`` is in the log; its first group, if any, is the cause."""

    pattern: str
    stage: str
    remedy: str
    cause: str = "{0}"


# First match wins, so root causes come first.
_RULES = (
    _Rule(
        r"No space left on device|Errno 28",
        "write files",
        "free some space there, in /tmp and in the build folder",
        "the disk is full (no space left on device)",
    ),
    _Rule(
        r"MemoryError|std::bad_alloc|[Cc]annot allocate memory|Unable to allocate [^\n]*",
        "memory",
        "close other programs, or use a machine with more memory",
        "the machine ran out of memory",
    ),
    _Rule(
        r"can not find hbdk library|No module named 'pkg_resources'",
        "start hbdk",
        "edge toolchain install (it installs a setuptools below 81)",
        "hbdk can't start: its Python has a setuptools without pkg_resources",
    ),
    _Rule(
        r"(Parse '\w+' failed!)[^\n]*\n(?:[^\n]*yaml file parse failed[^\n]*\n)?(?:\S+ \S+ ERROR )?([^\n]+)",
        "parse yaml",
        "correct the mapper YAML or the files it names; `edge render` writes one that passes the lint",
        "{1}",
    ),
    _Rule(
        r"yaml file parse failed[^\n]*\n(?:\S+ \S+ ERROR )?((?:[^\n]+\n?){1,3})",
        "parse yaml",
        "correct the mapper YAML; `edge render` writes one that passes the lint",
    ),
    _Rule(
        r"(cannot reshape array of size \d+ into shape \([\d, ]+\))",
        "calibrate",
        "the raw files do not fit the input's shape or cal_data_type: run `edge calibrate` again",
        "calibration data: {0}",
    ),
    _Rule(
        r"Directory (\S+) is empty",
        "calibrate",
        "run `edge calibrate` again; check that its image folder is not empty",
        "the calibration folder {0} is empty",
    ),
    _Rule(
        r"load cal data for input '[^']*' error\n(?:\S+ \S+ ERROR )?([^\n]+)",
        "calibrate",
        "run `edge calibrate` again",
        "calibration data: {0}",
    ),
    _Rule(
        r"((?:unsupported model: )?BAYES-E not support execute one model on 2 core[^\n]*)",
        "hbdk-cc",
        "set core_num: 1 in compiler_parameters; the X5 runs a model on one core",
    ),
    _Rule(
        r"The optimization parameter: (\S+) is not supported",
        "parse yaml",
        "correct `optimization` in calibration_parameters; items are separated by ';'",
        "unknown optimization '{0}'",
    ),
    _Rule(
        r"The onnx model is invalid[^\n]*",
        "prepare",
        "the model has an operator or a shape that the compiler does not know: "
        "export with opset 11 and standard operators only",
    ),
    _Rule(
        r"ERROR-OCCUR-DURING \{[^}]*\}[^\n]*?((?:[Uu]nsupported|not support|No schema)[^\n]*)",
        "{occurred}",
        "write this part of the network with other operators, or export with opset 11",
    ),
)

_OCCURRED = re.compile(r"ERROR-OCCUR-DURING \{([^}]*)\} \*\*\*,?\s*,?\s*error message:\s*([^\n]+)")
_STARTED = re.compile(r"Start to (\w+) the ")
_ERROR_LINE = re.compile(r"^\S+ \S+ (?:ERROR|CRITICAL) (.+)$")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)(?::.*)?$")
_KNOWN = re.compile(r"Start hb_mapper|hb_mapper version|Usage: hb_mapper|Start to Horizon")


def diagnose(text: str, returncode: int, *, log: str | None = None) -> CompileError:
    """Return what to tell the user.

    Args:
        returncode: exit status as from subprocess (negative: ended by a signal); 0 means that it claimed
            success but the ``.bin`` or the table is missing.
    """
    rows = [row.rstrip() for row in lines(text)]
    plain = "\n".join(rows)
    stage = _stage(plain)
    if refused := refusal(plain):
        return _error(stage, refused.cause, refused.remedy, log)
    for rule in _RULES:
        if match := re.search(rule.pattern, plain):
            groups = match.groups() or (match[0],)
            cause = rule.cause.format(*groups)
            return _error(rule.stage.format(occurred=stage), cause, rule.remedy, log)
    if number := _signal(returncode):
        return _signalled(number, stage, log)
    if occurred := _OCCURRED.search(plain):
        return _error(stage, occurred[2], "read the log: its last lines name the part that failed", log)
    if returncode == 0:
        return _error(
            stage if stage != "start" else "write the .bin",
            "it ended with status 0 but left no complete result",
            "read the log: its last lines say how far it came",
            log,
        )
    if last := next((row for row in reversed(rows) if _EXCEPTION.match(row)), None):
        return _error(stage, last, "read the log; `edge toolchain status` shows the compiler's versions", log)
    errors = [match[1] for row in rows if (match := _ERROR_LINE.match(row))]
    if errors:
        return _error(stage, errors[-1], "read the log", log)
    if not _KNOWN.search(plain):
        shown = re.sub(r"[^\x20-\x7e]+", "?", plain)[-120:].strip()
        return _error(
            "start",
            f"exit status {returncode} with unknown output: {shown!r}",
            "edge toolchain install (then --compiler managed)",
            log,
        )
    return _error(stage, f"exit status {returncode} without a message", "read the log", log)


def _stage(plain: str) -> str:
    if occurred := re.search(r"ERROR-OCCUR-DURING \{([^}]*)\}", plain):
        return occurred[1].removeprefix("hbdk.")
    started = _STARTED.findall(plain)
    return started[-1] if started else "start"


def _signal(returncode: int) -> int:
    """Return the signal's number; a shell or a container says 128 + number."""
    if returncode < 0:
        return -returncode
    # hb_mapper's own failures end with 255; there is no signal above the real-time signals.
    return returncode - 128 if 128 < returncode <= 128 + 64 else 0


def _signalled(number: int, stage: str, log: str | None) -> CompileError:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL:
        return _error(
            stage,
            "it was killed (SIGKILL), most often because the machine ran out of memory",
            "close other programs, or use a machine with more memory",
            log,
        )
    if number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE):
        return _error(
            stage,
            f"the compiler crashed ({name})",
            "an operator that it does not know can do this: export with opset 11 and standard operators only",
            log,
        )
    return _error(
        stage, f"it was stopped by {name}", "find what stopped it: a time limit, a shutdown or another program", log
    )


def _error(stage: str, cause: str, remedy: str, log: str | None) -> CompileError:
    cause = " ".join(cause.split())
    if len(cause) > _LONGEST:
        cause = cause[: _LONGEST - 3] + "..."
    return CompileError(stage, cause, remedy=remedy, log=log)
