"""The compiler's console log as data: progress, node table, similarity, static figures, versions.

Pure functions on console text, which may still hold escape codes and progress bars. If a line is missing or broken
they return nothing instead of failing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from edge.progress import Reporter
from edge.specs import Calibration
from edge.toolchain.process import clean


@frozen
class NodeRow:
    """One line of the node table."""

    name: str  #: the whole node name (the log shortens names of more than 50 characters).
    on: str  #: ``BPU`` or ``CPU``.
    subgraph: str  #: such as ``id(0)``; ``--`` on the CPU.
    type: str  #: the compiler's operator, such as ``HzSQuantizedConv``.
    cosine: float | None  #: calibrated against float on the calibration data; None in a check.
    threshold: float | None  #: of the activation; None if there is none.
    dtype: str  #: ``int8``, ``int16`` or ``float``.


@frozen
class OutputRow:
    """How far one model output is from float after calibration, on the calibration data."""

    name: str  #: the output.
    cosine: float | None  #: 1 is perfect; at least 0.99 is the vendor's usual bar.
    l1: float | None  #: L1 distance as the compiler defines it.
    l2: float | None  #: L2 distance.
    chebyshev: float | None  #: largest difference.


@frozen
class StaticPerf:
    """The compiler's own figures for one inference, summed over BPU subgraphs, without CPU nodes."""

    fps: float  #: frames per second; 1e6 / latency_us when there are several subgraphs.
    latency_us: float  #: microseconds.
    ddr_bytes: int  #: memory traffic in bytes.


_STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_STATIC = re.compile(r"FPS\s*=\s*([\d.]+),\s*latency\s*=\s*([\d.]+)\s*us,\s*DDR\s*=\s*(\d+)\s*bytes")
_VERSION = re.compile(r"\b(hbdk|horizon_nn|hb_mapper) version:? (\d[\w.+-]*)")
_METHOD = re.compile(r"Select (\S+) method\.")
_CHOSEN = re.compile(
    r"(max|max-percentile:percentile=(0\.\d+)|kl:num_bin=1024,max_num_bin=16384)((?:[:,](?:per_channel|asymmetric))*)"
)
_NODE_HEAD = "The main quantized node information:"
_OUTPUT_HEAD = "The quantized model output:"
_ELLIPSIS = "..."
_SHOWN = 50  # characters; longer names are shortened


def lines(text: str) -> list[str]:
    r"""Split a log at ``\n`` and ``\r``, escape codes stripped."""
    return clean(text).replace("\r", "\n").split("\n")


def nodes(text: str, quant_info: Mapping[str, Any] | None = None) -> tuple[NodeRow, ...]:
    """Return the node table, names completed from the keys of ``<prefix>_quant_info.json``.

    A shortened name is ``...`` and the last 47 characters of the real one. Equal ends are given out in
    the order of the JSON, which is the graph's; a name without a match stays shortened.
    """
    names = list(quant_info or {})
    rows = []
    taken: set[str] = set()
    for cells in _table(text, _NODE_HEAD, columns=7):
        name, on, subgraph, kind, cosine, threshold, dtype = cells
        if on not in ("BPU", "CPU"):
            continue
        if name.startswith(_ELLIPSIS):
            tail = name[len(_ELLIPSIS) :]
            matches = (full for full in names if full.endswith(tail) and len(full) > _SHOWN)
            name = next((full for full in matches if full not in taken), name)
        taken.add(name)
        rows.append(NodeRow(name, on, subgraph, kind, _number(cosine), _number(threshold), dtype))
    return tuple(rows)


def outputs(text: str) -> tuple[OutputRow, ...]:
    """Return the table of output similarities; empty for a check."""
    table = _table(text, _OUTPUT_HEAD, columns=5)
    return tuple(OutputRow(name, *(_number(cell) for cell in cells)) for name, *cells in table)


def static(text: str) -> StaticPerf | None:
    """Return the static figures, summed over subgraphs; None if nothing runs on the BPU."""
    found = [(float(a), float(b), int(c)) for a, b, c in _STATIC.findall(clean(text))]
    if not found:
        return None
    latency = math.fsum(item[1] for item in found)
    ddr = sum(item[2] for item in found)
    # For a single subgraph take the printed FPS: it comes from a more precise latency than the printed one.
    fps = found[0][0] if len(found) == 1 else (1e6 / latency if latency else 0.0)
    return StaticPerf(fps, latency, ddr)


def calibration_method(text: str) -> str | None:
    """Return the method that the compiler chose, such as ``max`` or ``kl:num_bin=1024,max_num_bin=16384``."""
    found = _METHOD.findall(clean(text))
    return found[-1] if found else None


def pinned(calibration: Calibration, chosen: str | None) -> Calibration:
    """Return a calibration with the method that the compiler chose, in place of its ``default``.

    With 16-bit nodes ``default`` chooses again, and often worse: of a small network KL, asymmetric, without them and
    the largest values with them. The thresholds are the same bit for bit. A method that is not known is not pinned.

    Args:
        chosen: as :func:`calibration_method` returns it.
    """
    found = _CHOSEN.fullmatch(chosen or "")
    if found is None or calibration.method != "default":
        return calibration
    method, percentile, flags = found.groups()
    return Calibration(
        "kl" if method.startswith("kl") else "max",
        max_percentile=float(percentile) if percentile else None,
        per_channel="per_channel" in flags,
        optimization=tuple(dict.fromkeys([*calibration.optimization, *re.findall("asymmetric", flags)])),
    )


def versions(text: str) -> dict[str, str]:
    """Return the versions of hbdk, horizon_nn and hb_mapper that the log names."""
    return dict(_VERSION.findall(clean(text)))


def counts(rows: Sequence[NodeRow]) -> tuple[int, int]:
    """Return how many nodes are on the BPU and on the CPU."""
    bpu = sum(row.on == "BPU" for row in rows)
    return bpu, len(rows) - bpu


def cpu_inside(rows: Sequence[NodeRow]) -> tuple[NodeRow, ...]:
    """Return the CPU nodes between BPU nodes: each splits the graph and costs a copy through memory.

    CPU nodes before the first or after the last BPU node (Dequantize, Reshape, Softmax) are harmless.
    """
    bpu = [index for index, row in enumerate(rows) if row.on == "BPU"]
    if not bpu:
        return ()
    return tuple(row for row in rows[bpu[0] : bpu[-1]] if row.on == "CPU")


class Progress:
    """Turn console lines into ``reporter.update(text, fraction)``; the fraction never goes back."""

    # Measured shares of a ConvNeXt_atto O3 build; the end of each is the start of the next.
    _STAGES = (
        ("prepare", 0.02),
        ("optimize", 0.04),
        ("calibrate", 0.06),
        ("quantize", 0.24),
        ("compile", 0.28),
        ("write", 0.99),
    )
    # Of a stage's share to its first bar; how many follow is not known, so each gets half of what is left.
    _FIRST: Mapping[str, float] = {"calibrate": 0.5, "compile": 0.9}
    _START = re.compile(r"Start to (prepare|optimize|calibrate|quantize|compile) the ")
    _BAR = re.compile(r"^\s*\[[=\- ]*\]\s*(\d{1,3})%")
    _TQDM = re.compile(r"calibration in progress:\s*\d+%.*?(\d+)/(\d+)")

    def __init__(self, reporter: Reporter) -> None:
        self.stage = "start"
        self._reporter = reporter
        self._fraction = 0.0
        self._shown: tuple[str, float] = ("", 0.0)
        self._bar, self._within = 1, 0.0  # number of the stage's bar, and how far it is

    def line(self, text: str) -> None:
        """Take one console line or one step of a progress bar."""
        if bar := self._BAR.match(text):
            self._advance(min(100, int(bar[1])) / 100)
            # The bar's own percentage would start again with each subgraph.
            self._show("compile" + (f", part {self._bar}" if self._bar > 1 else ""))
        elif tqdm := self._TQDM.search(text):
            done, total = int(tqdm[1]), int(tqdm[2])
            self._advance(min(1.0, done / total) if total else 0.0)
            self._show("calibrate" + (f", run {self._bar}" if self._bar > 1 else "") + f": batch {done} of {total}")
        elif start := self._START.search(text):
            self._begin(start[1], start[1])
        elif "start convert to *.bin" in text:
            self._begin("write", "write the .bin")

    def _begin(self, stage: str, text: str) -> None:
        self.stage, self._bar, self._within = stage, 1, 0.0
        self._show(text)

    def _advance(self, within: float) -> None:
        """Note how far a bar is; one that falls is the next: of another method of calibration, or subgraph."""
        self._bar += within < self._within
        self._within = within

    def _show(self, text: str) -> None:
        names = [name for name, _ in self._STAGES]
        starts = [*(start for _, start in self._STAGES), 1.0]
        index = names.index(self.stage) if self.stage in names else 0
        first = self._FIRST.get(self.stage, 1.0)
        left = (1 - first) / 2 ** (self._bar - 1)
        before, share = (1 - 2 * left, left) if self._bar > 1 else (0.0, first)
        within = before + share * self._within
        self._fraction = max(self._fraction, starts[index] + within * (starts[index + 1] - starts[index]))
        if (text, self._fraction) != self._shown:
            self._shown = text, self._fraction
            self._reporter.update(text, self._fraction)


def _table(text: str, head: str, *, columns: int) -> list[list[str]]:
    """Return the cells of the last table under ``head``; columns are two or more blanks apart."""
    all_lines = lines(text)
    found = [index for index, line in enumerate(all_lines) if line.rstrip().endswith(head)]
    if not found:
        return []
    rows = []
    for line in all_lines[found[-1] + 1 :]:
        if _STAMP.match(line):
            break
        cells = re.split(r" {2,}", line.strip())
        if len(cells) == columns and cells[0] not in ("Node", "Output"):
            rows.append(cells)
    return rows


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
