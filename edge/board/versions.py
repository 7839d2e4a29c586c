"""Does a program fit the board's runtime: what is compared, and what is known about it.

A program records the version of the BPU runtime (HBRT) that its compiler belongs to. The board's runtime
compares that with its own when it loads the program. Other versions of the same 3.15 line load with a
warning, in both directions (public logs of boards show 3.15.47 on 3.15.55, 3.15.54 on 3.15.49 and 3.15.55 on
3.15.54); the vendor then no longer vouches for correct results. What another line does is not known, so it is
refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from attrs import frozen

from edge.errors import ModelFileError

# libdnn -> HBRT as their own banners print them together on RDK X5 systems.
HBRT_OF_DNN = {"1.23.8": "3.15.49", "1.23.9": "3.15.52", "1.23.10": "3.15.54", "1.24.5": "3.15.55"}
_IN_PROGRAM = re.compile(rb"version: (\d+\.\d+\.\d+); runtime version: (\d+(?:\.\d+)+);")
# Header of each compiled part: march, magic, runtime version.
_HEADER = re.compile(rb"#([A-Z0-9]{2,4})hbm#")
_BUILDER = re.compile(rb"BUILDER_VERSION\x12.(\d+\.\d+\.\d+)")
MARCHES = {"B2E": "bayes-e"}


@frozen
class ProgramVersions:
    """What a ``.bin`` says of its making; None where it does not.

    Attributes:
        hbdk: version of the compiler's back end.
        hbrt: the BPU runtime that belongs to it.
        builder: version of hb_mapper.
        march: ``bayes-e`` is the RDK X5's.
    """

    hbdk: str | None
    hbrt: str | None
    builder: str | None
    march: str | None


@frozen
class Verdict:
    """Whether a program may run: ``yes``, ``warn`` (with a caveat), ``no`` or ``unknown``; and why."""

    fits: Literal["yes", "warn", "no", "unknown"]
    why: str
    remedy: str = ""


def program_versions(path: Path) -> ProgramVersions:
    """Read the versions out of a ``.bin``.

    Raises:
        ModelFileError: it can't be read, or is no program of the compiler's.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} can't be read: {error.strerror or error}") from error
    header = _HEADER.search(data)
    if header is None:
        raise ModelFileError(
            f"{path.name} is no program of the BPU compiler",
            allowed="a .bin of hb_mapper",
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
    """Say whether a program fits a board's runtime.

    Args:
        program: from :func:`program_versions`.
        dnn: version of the board's libdnn; None if unknown.
        hbrt: version of the board's BPU runtime; None if unknown.
    """
    if program.march != "bayes-e":
        return Verdict(
            "no", f"the program is for {program.march}, the RDK X5 is bayes-e", "compile it for bayes-e"
        )
    board = hbrt or HBRT_OF_DNN.get(dnn or "")
    if board is None or program.hbrt is None:
        side = (
            "the board does not tell its BPU runtime's version"
            if board is None
            else "the program tells no version"
        )
        return Verdict("unknown", side, "edge board run compares its answers with the simulator's")
    ours, theirs = _numbers(program.hbrt), _numbers(board)
    facts = f"program made for HBRT {program.hbrt} (hbdk {program.hbdk}), board has {board}"
    if ours[:3] == theirs[:3]:
        return Verdict("yes", facts)
    if ours[:2] != theirs[:2]:
        return Verdict(
            "no", f"{facts}: another line", "update RDK OS (apt-get upgrade), or use the compiler of its line"
        )
    newer = "newer" if theirs > ours else "older"
    return Verdict(
        "warn",
        f"{facts}: {newer}, the same line; programs load, the vendor warns about their results",
        "edge board run compares its answers with the simulator's"
        + ("" if newer == "newer" else "; apt-get upgrade on the board brings its runtime up to date"),
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
