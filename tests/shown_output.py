"""Output that a page shows against output that is seen here: what a machine decides is known by its kind.

All else is compared as it stands: labels, words, units, marks and counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from attrs import field, frozen


@frozen
class Kind:
    """A part of a line that differs from machine to machine, or from run to run.

    Attributes:
        name: what stands for it, in ``<>``; whatever group 1 of the pattern matched stays before it.
        pattern: matches it in a statement whose blanks are single.
        why: it differs.
        free: whether it is anybody's text, so that nothing inside it is compared.
    """

    name: str
    pattern: re.Pattern[str] = field(converter=re.compile)
    why: str
    free: bool = False


BLOCK = re.compile(r"```console\n(.*?)```\n", re.DOTALL)
NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
LAYER_KINDS = "conv|depthwise conv|linear|LayerNorm|GELU|activation|add|matmul|softmax|pool|other"

# Lines that are there or not.
PROGRESS = Kind("progress", r"^  \w+ +\d+%", "only where a stage takes longer than ten seconds")
COME_AND_GO = (PROGRESS, Kind("set-up", r"^setting up \S+ with Python ", "only where the environment is not there yet"))

# In this order: what has numbers in it comes before the numbers.
KINDS = (
    Kind(
        "processor",
        r"^(machine )\S.*, \S+, \d+ cores?(?:, [\d.]+ GiB of memory)?$",
        "any processor's or board's name, architecture and number of cores; memory where the system tells it",
        free=True,
    ),
    Kind("platform", r"(?<= on )(?:Linux|Darwin) \w+$", "the system and its architecture"),
    Kind("path", r"^(?:~|/).+/bin$", "where the user's cache lies", free=True),
    Kind(
        "route",
        r"^[✓-] ((?:path|docker|paddle|mindspore) ).+$",
        "whether there is another compiler, a container engine or a framework, and what it says",
        free=True,
    ),
    Kind("interpreter", r"^(Python )3\.10: .+$", "how, and whether, a Python 3.10 came there", free=True),
    Kind(
        "network",
        r"^(! (?:timm|vendor) weights: no network: ).+(?=; trying \w+$)",
        "how a machine without a network fails to reach it",
        free=True,
    ),
    Kind(
        "memory",
        r"^([✓✗] memory )(?:\d+\.\d GB available|not known on this system)$",
        "free memory, where the system tells it",
        free=True,
    ),
    Kind("disk", r"^([✓✗] disk )\d+\.\d(?= GB free for builds$)", "free space"),
    Kind("hash", r"\b[0-9a-f]{12,64}\b", "of what was made: versions and the last digits of floats are in it"),
    Kind("version", r"\bv?\d+(?:\.\d+){2,}(?:[.+-]?[a-z]\w*|\+)?", "each Python has its own pinned packages"),
    Kind(
        "error",
        rf"((?:max abs error|within) ){NUMBER}(?=,| of \w+'s scores)",
        "floats are summed in another order by another processor's kernels; it may be 0",
    ),
    Kind(
        "layer",
        rf"^\S+ (?:{LAYER_KINDS}) (?:8|16|CPU) {NUMBER} {NUMBER} \d+ % {NUMBER} \.\. {NUMBER} "
        rf"(?:- -|{NUMBER} {NUMBER} %) (?:-|{NUMBER}x)$",
        "which layers come first is decided by last digits where many cost next to nothing",
    ),
    Kind("layer", r"(?<=; of all layers )\S+(?= most$)", "likewise"),
    Kind(
        "within noise",
        rf"(?:(?:costs|gains) {NUMBER} points?|leaves Top-1 as it is) \(95 % {NUMBER} to {NUMBER}\), "
        rf"within noise \(p = {NUMBER}\)(?:(?=:)|; \d+ answers? changed, \d+ to wrong and \d+ to right)"
        r"|changes no answer on \d+ images"
        r"|(?<=^- The simplifier )gives the scores of float bit for bit on all \d+ images",
        "last digits of float scores turn an answer or two, either way; beyond noise is another verdict",
    ),
    Kind("time", r"\b\d[\d,]*\.\d+(?= (?:s|ms|us)\b)", "the machine's speed; the static one: see figure"),
    Kind("speed", r"\b\d[\d,]*(?:\.\d+)?(?= FPS\b)", "likewise"),
    Kind("size", r"\b\d[\d,]*(?= (?:DDR )?bytes\b)", "logs hold times and paths; calibration: see figure"),
    Kind("share", rf"(?<![\w.-]){NUMBER}(?= %)", "measured on float scores: see figure"),
    Kind(
        "figure",
        r"(?<![\w.-])[+-]?\d[\d,]*\.\d+(?:e[+-]?\d+)?(?![\w.]*\w)",
        "measured, or calibrated, in floats whose last digits are the processor's kernels'",
    ),
)

# What is printed filled to a width: where it breaks depends on its figures.
FILLED = re.compile(r"^([-*] |note  |No fault found)")


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """Return (command, shown output) of each console block of a page."""
    found = []
    for match in BLOCK.finditer(text):
        first, *shown = match.group(1).splitlines()
        assert first.startswith("$ ")
        found.append((first.removeprefix("$ "), shown))
    return found


def statements(lines: Sequence[str]) -> list[str]:
    """Return the lines with single blanks, filled text as one, without those that come and go."""
    found: list[str] = []
    grows = False
    for line in lines:
        if any(kind.pattern.search(line) for kind in COME_AND_GO):
            continue
        if grows and line.strip() and (line.startswith("  ") or found[-1].startswith("No fault found")):
            found[-1] += " " + " ".join(line.split())
            continue
        grows = FILLED.match(line) is not None
        found.append(" ".join(line.split()))
    return [statement for statement in found if statement]


def shape(statement: str) -> str:
    """Return a statement with the name of its kind in place of whatever a machine decides."""
    for kind in KINDS:
        before = r"\1" if kind.pattern.groups else ""
        statement = kind.pattern.sub(f"{before}<{kind.name}>", statement)
    return statement


def missing(shown: Sequence[str], seen: Sequence[str]) -> list[str]:
    """Return the statements that are shown and have none of the same shape among those seen, each its own."""
    there = Counter(map(shape, statements(seen)))
    lost = []
    for statement in statements(shown):
        if there[shape(statement)]:
            there[shape(statement)] -= 1
        else:
            lost.append(statement)
    return lost
