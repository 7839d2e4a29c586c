"""What ``edge eval`` measured, as a table and sentences."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click

from edge.evaluate.evaluation import ANSWERS
from edge.evaluate.table import FILE, Change, Evaluation, HopResult

HEAD = ("hop", "Top-1 %", "Top-5 %", "change in points", "p", "agreement %", "cosine", "n", "by")
LEFT = {0, 8}  # columns that are text
TEXT = 100  # columns of the sentences


def eval_table(evaluation: Evaluation, root: Path) -> str:
    """Return the table, what it means in words, and where more is.

    Args:
        evaluation: what was measured.
        root: the build folder.
    """
    rows = [HEAD, *(_row(hop) for hop in evaluation.hops)]
    # Without labels the columns of Top-1 would be empty.
    kept = [i for i in range(len(HEAD)) if any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in kept}
    lines = []
    for row in rows:
        cells = (row[i].ljust(widths[i]) if i in LEFT else row[i].rjust(widths[i]) for i in kept)
        lines.append("  ".join(cells).rstrip())
    lines[0] = click.style(lines[0], bold=True)
    lines += ["", click.style(evaluation.verdict, bold=True)]
    for sentence in evaluation.explanation:
        lines += textwrap.wrap(sentence, TEXT, initial_indent="- ", subsequent_indent="  ")
    lines += ["", f"pictures    {evaluation.dataset}, {evaluation.n} answered"]
    if evaluation.unreadable:
        lines.append(f"unreadable  {len(evaluation.unreadable)}: {_some(evaluation.unreadable)}")
    lines.append("intervals   95 %: Wilson for Top-1, bootstrap for changes; p: exact McNemar")
    lines.append(f"details     {root / FILE}, every answer in {root / ANSWERS}")
    return "\n".join(lines)


def _row(hop: HopResult) -> tuple[str, ...]:
    score = hop.score
    return (
        hop.hop,
        "" if score is None else f"{score.top1:.2f} {_interval(score.top1_interval)}",
        "" if score is None else f"{score.top5:.2f}",
        "" if hop.change is None else _change(hop.change),
        "" if hop.change is None else f"{hop.change.p:.3f}" if hop.change.p >= 0.001 else "<0.001",
        f"{hop.agreement_percent:.2f}",
        f"{hop.cosine:.4f}",
        str(hop.n),
        hop.by,
    )


def _change(change: Change) -> str:
    return f"{change.points:+.2f} {_interval(change.interval)}"


def _interval(bounds: tuple[float, float]) -> str:
    low, high = (f"{bound:.1f}".replace("-0.0", "0.0") for bound in bounds)
    return f"[{low}, {high}]"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
