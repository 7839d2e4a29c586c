"""Facts of two reports side by side: what the builds are made of, how fast and how large they are."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from edge.report.contents import Report, SpeedRow
from edge.report.wording import MISSING, signed


@frozen
class FactRow:
    """A fact of both; whether it differs, and how, where it is a number."""

    name: str
    a: str
    b: str
    differs: bool
    change: str = ""


def facts_of(a: Report, b: Report) -> tuple[FactRow, ...]:
    """Return the facts of both."""
    both = (a, b)
    return (
        fact("model", a.model, b.model),
        fact("weights", *map(_weights, both)),
        fact("precision recipe", a.precision, b.precision),
        fact("compiler", *map(_tools, both)),
        fact("calibration", *map(_calibration, both)),
        _numbers("static latency", both, static_latency, "ms", 3),
        _numbers("static frames a second", both, _static_fps, "FPS", 1),
        _numbers("memory traffic a frame", both, lambda r: _mega(r.speed.ddr_bytes), "MB", 2),
        *_board_rows(a, b),
        _numbers("nodes on the CPU", both, lambda r: r.placement.cpu if r.placement else None, "", 0),
        _numbers("program size", both, lambda r: _mega(r.files[0].bytes if r.files else None), "MB", 3),
        fact("verify", a.verify or MISSING, b.verify or MISSING),
    )


def fact(name: str, a: str, b: str) -> FactRow:
    """Return a fact in words."""
    return FactRow(name, a, b, a != b)


def static_latency(report: Report) -> float | None:
    """Return the compiler's figure in ms; None where nothing was compiled."""
    row = _static(report)
    return None if row is None else row.latency_ms


def _static_fps(report: Report) -> float | None:
    row = _static(report)
    return None if row is None else row.fps


def _static(report: Report) -> SpeedRow | None:
    return next((row for row in report.speed.rows if row.source == "static"), None)


def _numbers(
    name: str,
    reports: tuple[Report, Report],
    value: Callable[[Report], float | None],
    unit: str,
    digits: int,
) -> FactRow:
    a, b = map(value, reports)
    return _number(name, a, b, unit, digits)


def _number(name: str, a: float | None, b: float | None, unit: str, digits: int) -> FactRow:
    one, two = (MISSING if value is None else f"{value:.{digits}f} {unit}".rstrip() for value in (a, b))
    change = f"{signed(100 * (b - a) / a, 1)} %" if a and b is not None and one != two else ""
    return FactRow(name, one, two, one != two, change)


def _board_rows(a: Report, b: Report) -> list[FactRow]:
    found = [{row.threads or 1: row for row in r.speed.rows if row.source == "board"} for r in (a, b)]
    rows = []
    for threads in sorted({*found[0], *found[1]}):
        one, two = (side.get(threads) for side in found)
        name = f"on the board, {threads} thread" + "s" * (threads > 1)
        latency_a, latency_b = (row.latency_ms if row else None for row in (one, two))
        fps_a, fps_b = (row.fps if row else None for row in (one, two))
        rows.append(_number(f"{name}: latency", latency_a, latency_b, "ms", 3))
        rows.append(_number(f"{name}: frames a second", fps_a, fps_b, "FPS", 1))
    return rows


def _weights(report: Report) -> str:
    weights = report.weights
    words = [str(weights[key]) for key in ("source", "tag") if weights.get(key)]
    return " ".join([*words, *([str(weights["sha256"])[:12]] if weights.get("sha256") else [])])


def _tools(report: Report) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(report.versions.items()))


def _calibration(report: Report) -> str:
    found = report.calibration
    return f"n = {found.n}, {found.images}, {found.method}"


def _mega(count: int | None) -> float | None:
    return None if count is None else count / 1e6
