"""What ``edge board`` measured, as rows for people and as JSON for the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cattrs
import numpy as np

from edge.board.compare import Answer, BoardAccuracy
from edge.board.perf import CORE, Measured
from edge.evaluate import Score
from edge.runtime import Info
from edge.runtime.net import probabilities


def perf_record(runs: Sequence[Measured]) -> dict[str, Any]:
    """Return the runs as JSON."""
    return {
        "core_id": CORE,
        "runs": [
            {
                **cattrs.unstructure(run.run),
                "threads": run.threads,
                "profile": cattrs.unstructure(run.profile),
                "before": cattrs.unstructure(run.before),
                "after": cattrs.unstructure(run.after),
            }
            for run in runs
        ],
    }


def perf_table(
    perf: Mapping[str, Any], static: Mapping[str, Any] | None, published: Mapping[str, Any] | None
) -> str:
    """Return the figures of the board beside the others."""
    runs = perf["runs"]
    rows = [["", *(f"{run['threads']} thread{'s' * (run['threads'] > 1)}" for run in runs)]]
    rows.append(["latency", *(f"{run['latency_ms']:.3f} ms" for run in runs)])
    rows.append(["  fastest, slowest", *(_range(run) for run in runs)])
    rows.append(["  of it BPU, CPU", *(_shares(run["profile"]) for run in runs)])
    rows.append(["throughput", *(f"{run['fps']:.2f} FPS" for run in runs)])
    if published:
        latency, fps = published["latency_ms"], published["fps_4_threads"]
        figures = [f"{latency} ms" if latency else "-", f"{fps} FPS" if fps else "-"]
        rows.append(["published", *figures])
    rows.append(["temperature", *(_temperature(run) for run in runs)])
    rows.append(["BPU clock", *(_clock(run["after"]) for run in runs)])
    rows = [row for row in rows if any(cell != "-" for cell in row[1:])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    if static:
        lines.append(
            f"static: {static['latency_us'] / 1000:.3f} ms, {static['fps']:.2f} FPS "
            "(the compiler's figure for the BPU part alone)"
        )
    if published:
        lines.append(f"published by: {published['source']}")
    return "\n".join(lines)


def answer_record(name: str, answer: Answer, labels: Sequence[str] | None, k: int) -> dict[str, Any]:
    """Return the answer for one picture as JSON."""
    best = [{"class": c, "label": label, "probability": p} for c, label, p in _best(answer, labels, k)]
    return {"picture": name, "best": best, "max_abs_diff": answer.max_abs_diff, "same_top1": answer.same_top1}


def answer_lines(
    name: str, answer: Answer, labels: Sequence[str] | None, k: int, info: Info | None
) -> list[str]:
    """Return the answer for one picture as lines."""
    lines = [name, *(f"  {chance:.4f}  {label}" for _, label, chance in _best(answer, labels, k))]
    if info is not None and answer.max_abs_diff is not None:
        same = "same class" if answer.same_top1 else "another class"
        kind = "the same integers" if info.exact else "an estimate"
        lines.append(f"  {info.backend} ({kind}): {same}, largest difference {answer.max_abs_diff:.3g}")
    return lines


def accuracy_record(result: BoardAccuracy, info: Info | None) -> dict[str, Any]:
    """Return the result as JSON; shares in percent."""
    return {
        "dataset": result.dataset,
        "dataset_sha256": result.dataset_sha256,
        "n": result.n,
        "board": _score(result.board),
        "simulator": _score(result.simulator),
        "backend": info.backend if info else None,
        "exact": info.exact if info else None,
        "agreement": None if result.agreement is None else round(100 * result.agreement / result.n, 4),
        "max_abs_diff": result.max_abs_diff,
        "cosine": None if result.cosine is None else round(result.cosine, 6),
        "unreadable": list(result.unreadable),
    }


def accuracy_table(entry: Mapping[str, Any]) -> str:
    """Return the result as lines, from its record."""
    rows = []
    for title, key in (("Top-1", "top1"), ("Top-5", "top5")):
        cells = [
            f"{side} {entry[side][key]:.2f} % [{entry[side][key + '_interval'][0]:.1f}, "
            f"{entry[side][key + '_interval'][1]:.1f}]"
            for side in ("board", "simulator")
            if entry[side]
        ]
        if cells:
            rows.append((title, ", ".join(cells)))
    if entry["agreement"] is not None:
        kind = "the same integers" if entry["exact"] else "an estimate"
        rows.append(
            (
                "agreement",
                f"{entry['agreement']:.2f} % same class as {entry['backend']} ({kind}), "
                f"largest difference {entry['max_abs_diff']:.3g}",
            )
        )
    rows.append(("measured on", f"n = {entry['n']}, {entry['dataset']}"))
    return "\n".join(f"{name:<12} {text}" for name, text in rows)


def _score(score: Score | None) -> dict[str, Any] | None:
    if score is None:
        return None
    return {
        "top1": round(score.top1, 4),
        "top5": round(score.top5, 4),
        "top1_interval": [round(bound, 2) for bound in score.top1_interval],
        "top5_interval": [round(bound, 2) for bound in score.top5_interval],
    }


def _best(answer: Answer, labels: Sequence[str] | None, k: int) -> list[tuple[int, str, float]]:
    chances = probabilities(answer.board)
    best = [int(index) for index in np.argsort(-chances, kind="stable")[:k]]
    return [(i, labels[i] if labels and i < len(labels) else str(i), float(chances[i])) for i in best]


def _range(run: Mapping[str, Any]) -> str:
    low, high = run["latency_min_ms"], run["latency_max_ms"]
    return "-" if low is None or high is None else f"{low:.3f}, {high:.3f} ms"


def _shares(profile: Mapping[str, Any] | None) -> str:
    if profile is None or profile["bpu_ms"] is None or profile["cpu_ms"] is None:
        return "-"
    return f"{profile['bpu_ms']:.3f}, {profile['cpu_ms']:.3f} ms"


def _temperature(run: Mapping[str, Any]) -> str:
    before, after = (max(run[when]["temperatures"].values(), default=None) for when in ("before", "after"))
    return "-" if before is None or after is None else f"{before:.1f} → {after:.1f} °C"


def _clock(state: Mapping[str, Any]) -> str:
    return f"{state['bpu_mhz']:.0f} MHz" if state["bpu_mhz"] else "-"
