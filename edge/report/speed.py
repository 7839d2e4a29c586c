"""Speed figures side by side: the compiler's, those that others published, those of the board."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.report.contents import Speed, SpeedRow
from edge.specs import Published

STATIC_NOTE = (
    "The static figure is the compiler's own, for the BPU part of one frame. It counts neither the nodes "
    "left to the CPU nor the driver."
)
PUBLISHED_NOTE = (
    "Published figures are measured on the board: latency with 1 thread and frames a second with 4, the "
    "whole program, compiled by others with a precision recipe of their own."
)


def speed_of(
    static: Mapping[str, Any] | None, published: Published | None, board: Mapping[str, Any] | None
) -> Speed:
    """Return the figures.

    Args:
        static: of the manifest; None where nothing was compiled.
        published: of the same model; None where nobody did.
        board: of the manifest: what ``edge board`` recorded of this program.
    """
    rows, notes = [], []
    if static is not None:
        level = f"{static['march']}, {static['optimize_level']}"
        rows.append(
            SpeedRow(
                "static",
                "compiler's static figure",
                None,
                static["latency_us"] / 1000,
                static["fps"],
                f"BPU part only; {level}",
            )
        )
        notes.append(STATIC_NOTE)
        if static["optimize_level"] != "O3":
            notes.append(
                f"This program is compiled at {static['optimize_level']}: quickly made, slow to run; "
                "O3 is what ships."
            )
    if published is not None and (published.latency_ms or published.fps_4_threads):
        if published.latency_ms:
            rows.append(SpeedRow("published", "published", 1, published.latency_ms, None, published.source))
        if published.fps_4_threads:
            rows.append(
                SpeedRow("published", "published", 4, None, published.fps_4_threads, published.source)
            )
        notes.append(PUBLISHED_NOTE)
    about = (board or {}).get("about") or {}
    for run in ((board or {}).get("perf") or {}).get("runs", ()):
        where = ", ".join(str(about[key]) for key in ("soc", "os") if about.get(key))
        rows.append(
            SpeedRow(
                "board", "your board", run["threads"], run["latency_ms"], run["fps"], where or "measured"
            )
        )
    return Speed(tuple(rows), tuple(notes), static["ddr_bytes"] if static else None)


def board_facts(board: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """Return what ``edge board`` recorded besides speed, as names and values."""
    if not board:
        return ()
    rows = [(name, str(value)) for name, value in (board.get("about") or {}).items() if value]
    accuracy = board.get("accuracy")
    if accuracy:
        for key, title in (("top1", "Top-1"), ("top5", "Top-5")):
            if accuracy["board"]:
                low, high = accuracy["board"][f"{key}_interval"]
                rows.append(
                    (f"{title} on the board", f"{accuracy['board'][key]:.2f} % [{low:.1f}, {high:.1f}]")
                )
        if accuracy["agreement"] is not None:
            rows.append((f"same answer as {accuracy['backend']}", f"{accuracy['agreement']:.2f} %"))
        rows.append(("measured on", f"n = {accuracy['n']}: {accuracy['dataset']}"))
    return tuple(rows)
