"""``comparison.html``, ``comparison.md`` and ``comparison.json``: two builds side by side."""

from __future__ import annotations

from collections.abc import Sequence

from edge.atomic import json_text
from edge.report.charts import Row, dots
from edge.report.compare import Comparison
from edge.report.depth import depths
from edge.report.documents import as_data
from edge.report.html import Pair, pair, render
from edge.report.markdown import code, plain, table
from edge.report.measured import Hop, Interval
from edge.report.side_by_side import FactRow
from edge.report.wording import MISSING, bounds, judged, signed

FURTHEST = 10
VISIBLE = 5e-6  # a change of a cosine that five digits show


def documents(comparison: Comparison) -> dict[str, str]:
    """Return file name -> text. The same comparison gives the same bytes."""
    return {
        "comparison.html": page(comparison),
        "comparison.md": markdown(comparison),
        "comparison.json": json_text(as_data(comparison)),
    }


def page(comparison: Comparison) -> str:
    """Return the page; text that users or files brought is escaped."""
    moved = [row for row in comparison.layers if abs(row.change) >= VISIBLE]
    moved.sort(key=lambda row: (-abs(row.change), row.name))
    return render(
        "comparison.html.j2",
        c=comparison,
        charts=_charts(comparison),
        moved=moved[:FURTHEST],
        labelled=any(hop.top1 is not None for row in comparison.hops for hop in (row.a, row.b) if hop),
    )


def markdown(comparison: Comparison) -> str:
    """Return the Markdown text."""
    a, b = comparison.a, comparison.b
    lines = [
        f"# {plain(a.name)} against {plain(b.name)}",
        "",
        plain(comparison.verdict),
        "",
        f"- A: {code(a.folder)} {plain(a.verdict)}",
        f"- B: {code(b.folder)} {plain(b.verdict)}",
        "",
        "## What they are",
        "",
        *_facts(comparison.facts),
        "",
        "## Settings of the compiler that differ",
        "",
        *(_facts(comparison.recipe) if comparison.recipe else ["None."]),
        "",
        "## Accuracy",
        "",
        *table(("step", "A", "B"), [(row.title, _share(row.a), _share(row.b)) for row in comparison.hops]),
        "",
    ]
    if comparison.paired:
        head = (
            "on the same pictures",
            "n",
            "same answer",
            "right: A, B",
            "change",
            "lost, gained",
            "that is",
        )
        lines += table(head, [_paired_cells(comparison, index) for index in range(len(comparison.paired))])
    else:
        lines.append(f"No paired test: {plain(comparison.why_unpaired)}.")
    lines += ["", "## Layers", "", comparison.layers_note, ""]
    if comparison.layers:
        rows = [
            (code(row.name), f"{row.a.cosine:.5f}", f"{row.b.cosine:.5f}", signed(row.change, 5))
            for row in comparison.layers
        ]
        lines += [*table(("layer", "A", "B", "change"), rows), ""]
    return "\n".join(lines)


def _facts(rows: Sequence[FactRow]) -> list[str]:
    cells = [(row.name, plain(row.a), plain(row.b), row.change) for row in rows]
    return table(("", "A", "B", "B against A"), cells)


def _share(hop: Hop | None) -> str:
    value, interval = _value(hop)
    return MISSING if value is None or interval is None else f"{value:.2f} % {bounds(interval)}"


def _value(hop: Hop | None) -> tuple[float | None, Interval | None]:
    """Return Top-1; agreement with float without labels."""
    if hop is None:
        return None, None
    return (hop.agreement, hop.agreement_interval) if hop.top1 is None else (hop.top1, hop.top1_interval)


def _paired_cells(comparison: Comparison, index: int) -> tuple[str, ...]:
    found = comparison.paired[index]
    change = found.change
    same = f"{100 * found.same / found.n:.2f} %" if found.n else MISSING
    if change is None or change.interval is None:
        return found.title, str(found.n), same, MISSING, MISSING, MISSING, MISSING
    low, high = change.interval
    return (
        found.title,
        str(found.n),
        same,
        f"{found.a_right}, {found.b_right}",
        f"{signed(change.points)} [{signed(low, 1)}, {signed(high, 1)}]",
        f"{change.lost}, {change.gained}",
        judged(change),
    )


def _charts(comparison: Comparison) -> dict[str, Pair]:
    rows = []
    for row in comparison.hops:
        for letter, hop in (("A", row.a), ("B", row.b)):
            value, interval = _value(hop)
            if hop is not None and value is not None:
                rows.append(
                    Row(
                        name=f"{letter} · {row.title}",
                        value=value,
                        interval=interval,
                        start=None,
                        mark="gain" if letter == "A" else "loss",
                        shown=f"{value:.1f} %",
                        aside=f"{hop.n} pictures" if hop.sampled else "",
                        hollow=hop.sampled,
                    )
                )
    charts = {
        "hops": pair(
            lambda frame: dots(rows, frame),
            "hops",
            "Accuracy of every step of A and B",
            "; ".join(f"{row.name} {row.shown}" for row in rows) + ".",
        )
    }
    if comparison.layers:
        first, second = ([getattr(row, side) for row in comparison.layers] for side in ("a", "b"))
        charts["depth"] = pair(
            lambda frame: depths(first, second, frame),
            "layers",
            "Similarity of each layer with float in A and in B, over the depth of the network",
            f"{len(first)} layers; the tables below have all numbers.",
        )
    return charts
