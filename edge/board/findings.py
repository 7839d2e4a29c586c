"""Preflight: whether a board, and a program on it, can work, and what to do if not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from attrs import frozen

from edge.board.probe import Facts, State
from edge.board.transfer import require_bin
from edge.errors import BoardError, ModelFileError
from edge.progress import Reporter
from edge.runtime.program import Program
from edge.specs.schema import MARCH

# libdnn -> HBRT, from banners on RDK X5 systems that print both.
HBRT_OF_DNN = {
    "1.23.5": "3.15.47", "1.23.8": "3.15.49", "1.23.9": "3.15.52", "1.23.10": "3.15.54", "1.24.4": "3.15.54",
    "1.24.5": "3.15.55",
}  # fmt: skip
_IN_PROGRAM = re.compile(rb"version: (\d+\.\d+\.\d+); runtime version: (\d+(?:\.\d+)+);")
# Header of each compiled part: march, magic, runtime version.
_HEADER = re.compile(rb"#([A-Z0-9]{2,4})hbm#")
_BUILDER = re.compile(rb"BUILDER_VERSION\x12.(\d+\.\d+\.\d+)")
MARCHES = {"B2E": MARCH}
HOT = 85.0  # degrees Celsius, our own choice: a board that throttles gives uneven figures
LITTLE_DISK = 64 << 20
Mark = Literal["ok", "warn", "bad"]


@frozen
class ProgramVersions:
    """The versions in a ``.bin``; None if unknown."""

    hbdk: str | None  #: version of the compiler's back end.
    hbrt: str | None  #: the BPU runtime that belongs to it.
    builder: str | None  #: version of hb_mapper.
    march: str | None  #: ``bayes-e`` for the RDK X5.


@frozen
class Verdict:
    """Whether a program may run: ``yes``, ``warn`` (with a caveat), ``no`` or ``unknown``; and why."""

    fits: Literal["yes", "warn", "no", "unknown"]
    why: str
    remedy: str = ""


@frozen
class Check:
    """One check: its name, its mark, what was seen, and what to do."""

    name: str
    mark: Mark
    seen: str
    remedy: str = ""


def program_versions(path: Path) -> ProgramVersions:
    """Read the versions out of a ``.bin``.

    Raises:
        ModelFileError: it can't be read, or is not a program of the compiler.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"{path} can't be read: {error.strerror or error}", remedy="check the path and its permissions"
        ) from error
    header = _HEADER.search(data)
    if header is None:
        raise ModelFileError(
            f"{path.name} is not a program of the BPU compiler",
            expected="a .bin of hb_mapper",
            remedy="edge build MODEL",
        )
    versions, builder = _IN_PROGRAM.search(data), _BUILDER.search(data)
    return ProgramVersions(
        hbdk=versions[1].decode() if versions else None,
        hbrt=versions[2].decode() if versions else None,
        builder=builder[1].decode() if builder else None,
        march=MARCHES.get(header[1].decode(), header[1].decode()),
    )


def compare(program: ProgramVersions, dnn: str | None, hbrt: str | None) -> Verdict:
    """Say whether a program fits a board's runtime; versions of libdnn and HBRT are None if unknown."""
    if program.march != MARCH:
        return Verdict("no", f"the program is for {program.march}, the RDK X5 is bayes-e", "compile it for bayes-e")
    board = hbrt or HBRT_OF_DNN.get(dnn or "")
    if board is None or program.hbrt is None:
        side = "the version of the board's BPU runtime is unknown" if board is None else "the program has no version"
        return Verdict("unknown", side, "edge board run compares its answers with the simulator's")
    ours, theirs = _numbers(program.hbrt), _numbers(board)
    facts = f"program made for HBRT {program.hbrt} (hbdk {program.hbdk}), board has {board}"
    if ours[:3] == theirs[:3]:
        return Verdict("yes", facts)
    if ours[:2] != theirs[:2]:
        return Verdict(
            "no", f"{facts}: another release line", "update RDK OS (apt-get upgrade), or use the compiler of its line"
        )
    newer = "newer" if theirs > ours else "older"
    return Verdict(
        "warn",
        f"{facts}: {newer}, the same release line; programs load, but the vendor warns about their results",
        "edge board run compares its answers with the simulator's"
        + ("" if newer == "newer" else "; apt-get upgrade on the board updates its runtime"),
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def findings(facts: Facts, program: ProgramVersions | None = None) -> list[Check]:
    """Judge a board, and a program on it if one is given."""
    found = [*_system(facts), *_software(facts), *_state(facts.state)]
    if program is not None:
        verdict = compare(program, facts.versions.dnn, facts.versions.hbrt)
        marks: dict[str, Mark] = {"yes": "ok", "warn": "warn", "unknown": "warn", "no": "bad"}
        found.append(Check("program", marks[verdict.fits], verdict.why, verdict.remedy))
    return found


def require(facts: Facts, program: Program, reporter: Reporter) -> None:
    """Refuse a board on which a program can't work; warn of what is doubtful.

    Raises:
        ModelFileError: the program has no ``.bin``.
        BoardError: another architecture, another soc, no tools, or a runtime of another release line.
    """
    for finding in findings(facts, program_versions(require_bin(program))):
        if finding.mark == "bad" and finding.name != "disk":  # copying measures the disk itself
            raise BoardError(f"{finding.name}: {finding.seen}", remedy=finding.remedy)
        if finding.mark == "warn" and finding.name == "program":
            reporter.warn(f"{finding.name}: {finding.seen}")


def _system(facts: Facts) -> Iterator[Check]:
    yield Check(
        "architecture",
        "ok" if facts.arch == "aarch64" else "bad",
        facts.arch,
        "an RDK board is aarch64; is HOST the board?",
    )
    if facts.os is None:
        yield Check("RDK OS", "warn", "no /etc/version", "use the vendor's RDK OS image")
    else:
        yield Check("RDK OS", "ok", facts.os)
    if facts.soc is None:
        yield Check("soc", "warn", "unknown", "programs of edge are for the RDK X5")
    else:
        mark: Mark = "ok" if "x5" in facts.soc.lower() else "bad"
        yield Check("soc", mark, facts.soc, "programs of edge are for the RDK X5 (bayes-e)")
    user = facts.user or "user unknown"
    if facts.denied:
        remedy = f"log in as root, or let a group use it: ls -l {facts.denied[0]}, then usermod -aG GROUP {user}"
        yield Check("rights", "warn", f"{user} may not open {', '.join(facts.denied)}", remedy)
    else:
        yield Check("rights", "ok", user)


def _software(facts: Facts) -> Iterator[Check]:
    if facts.tool is None:
        yield Check("tool", "bad", "no hrt_model_exec", "apt-get install hobot-dnn on the board")
    else:
        yield Check("tool", "ok", facts.tool)
    dnn, hbrt = facts.versions.dnn, facts.versions.hbrt
    known = [f"libdnn {dnn}"] if dnn else []
    if hbrt:
        known.append(f"HBRT {hbrt}")
    elif dnn in HBRT_OF_DNN:
        known.append(f"HBRT {HBRT_OF_DNN[dnn]} (inferred from libdnn)")
    if known:
        yield Check("runtime", "ok", ", ".join(known))
    else:
        yield Check("runtime", "warn", "version unknown", "run hrt_model_exec -v on the board")
    yield _python(facts)
    if facts.disk_free is None:
        yield Check("disk", "warn", "df gives no figure")
    else:
        mark: Mark = "ok" if facts.disk_free >= LITTLE_DISK else "bad"
        yield Check("disk", mark, f"{facts.disk_free / 1e6:,.0f} MB free", "free some space on the board")


def _python(facts: Facts) -> Check:
    if facts.python is None:
        return Check("Python", "warn", "no python3 answers", "only hrt_model_exec can be used there")
    seen = f"{facts.python}; {', '.join(facts.modules) or 'no vendor module'}"
    seen += "".join(f"; fails: {reason}" for reason in facts.broken)
    remedy = ""
    if not facts.modules:
        remedy = "apt-get install hobot-spdev on the board; needed for notebooks there"
    elif not facts.python.startswith("3.10."):
        remedy = "use the system's Python 3.10 of RDK OS; only that one has the vendor's modules"
    return Check("Python", "warn" if remedy else "ok", seen, remedy)


def _state(state: State) -> Iterator[Check]:
    if state.hottest is None:
        yield Check("temperature", "warn", "no sensor can be read")
    else:
        text = ", ".join(f"{name} {value:.1f}" for name, value in state.temperatures.items()) + " °C"
        mark: Mark = "warn" if state.hottest >= HOT else "ok"
        yield Check("temperature", mark, text, "let it cool down before you measure")
    clock = [f"governor {state.governor}"] if state.governor else []
    clock += [f"{state.cpu_mhz:.0f} MHz"] if state.cpu_mhz else []
    clock += [] if state.boost is None else ["boost on" if state.boost else "boost off"]
    yield Check(
        "CPU clock",
        "ok" if state.governor == "performance" else "warn",
        ", ".join(clock) or "unknown",
        "for steady figures, on the board as root: echo performance > "
        "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor",
    )
    bpu = f"{state.bpu_mhz:.0f} MHz" if state.bpu_mhz else "clock unknown"
    bpu += f", {state.bpu_load} % busy" if state.bpu_load is not None else ""
    busy = (state.bpu_load or 0) > 5
    yield Check("BPU", "warn" if busy else "ok", bpu, "stop programs that use the BPU before you measure")
