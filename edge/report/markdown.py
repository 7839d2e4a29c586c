"""``report.md``: the report as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edge.report.contents import Report
from edge.report.measured import Accuracy, Change, Hop, Interval
from edge.report.wording import MISSING, bounds, judged, signed, size

INTERVAL_NOTE = "Intervals of shares are 95 % Wilson intervals."
WORST = 10


def markdown(report: Report) -> str:
    """Return the Markdown text."""
    return "\n".join(
        [
            f"# {plain(report.name)}",
            "",
            plain(report.verdict),
            "",
            *_flags(report),
            f"Built by {code(report.command)}.",
            "",
            *_origin(report),
            "",
            "## Accuracy",
            "",
            *_accuracy(report.accuracy),
            *([plain(report.published_accuracy), ""] if report.published_accuracy else []),
            *_diagnosis(report),
            *_layers(report),
            *_speed(report),
            *_search(report),
            "## Calibration",
            "",
            f"n = {report.calibration.n}: {plain(report.calibration.images)}. "
            f"Method: {report.calibration.method}.",
            "",
            "## Stages",
            "",
            *table(
                ("stage", "seconds", "command"),
                [(stage.name, f"{stage.seconds:.1f}", code(stage.command)) for stage in report.stages],
            ),
            "",
            "## Files",
            "",
            *table(
                ("role", "file", "size", "sha256"),
                [(file.role, code(file.path), size(file.bytes), code(file.sha256)) for file in report.files],
            ),
            "",
        ]
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows),
    ]


def code(text: str) -> str:
    """Return text as it is typed."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def plain(text: str) -> str:
    """Return text of others with what Markdown or HTML would take for markup made harmless."""
    for mark in ("\\", "<", "*", "[", "`"):
        text = text.replace(mark, f"\\{mark}")
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _flags(report: Report) -> list[str]:
    lines = [
        f"- **{flag.title}**: {plain(flag.text)}" + (f" Type {code(flag.command)}." if flag.command else "")
        for flag in report.flags
    ]
    return [*lines, ""] if lines else []


def _origin(report: Report) -> list[str]:
    weights = report.weights
    versions = ", ".join(f"{name} {version}" for name, version in sorted(report.versions.items()))
    return [
        f"- model: {plain(report.model)}",
        f"- weights: {weights['source']}" + (f", {plain(weights['tag'])}" if weights.get("tag") else ""),
        f"- precision: {plain(report.precision)}",
        *(f"- before the compiler: {plain(line)}" for line in report.prepared),
        f"- mapper: {report.mapper} ({versions})",
        f"- edge: {report.edge}",
        *([f"- verify: {report.verify}"] if report.verify else []),
    ]


def _accuracy(accuracy: Accuracy) -> list[str]:
    lines = []
    if accuracy.hops[0].top1 is not None:
        lines += [
            *table(
                ("step", "n", "Top-1", "Top-5", "change of Top-1", "lost, gained", "that is"),
                [_top_row(hop) for hop in accuracy.hops],
            ),
            "",
        ]
        if accuracy.total is not None:
            lines += [f"From float to {accuracy.quantized}: {_change(accuracy.total)}.", ""]
    lines += [
        *table(
            ("step", "same answer as float", "cosine", "same as the step before", "cosine", "executed by"),
            [
                (
                    hop.title,
                    _share(hop.agreement, hop.agreement_interval),
                    f"{hop.cosine:.4f}",
                    MISSING if hop.agreement_before is None else f"{hop.agreement_before:.2f} %",
                    MISSING if hop.cosine_before is None else f"{hop.cosine_before:.4f}",
                    plain(hop.by),
                )
                for hop in accuracy.hops
            ],
        ),
        "",
        f"Measured on n = {accuracy.n}: {plain(accuracy.dataset)}. {INTERVAL_NOTE}",
        "",
        *(f"- {plain(sentence)}" for sentence in accuracy.explanation),
        *([""] if accuracy.explanation else []),
    ]
    if accuracy.unlabelled:
        lines += [f"No Top-1: {plain(accuracy.unlabelled)}.", ""]
    if accuracy.unreadable:
        lines += [f"Unreadable and left out: {', '.join(map(plain, accuracy.unreadable))}.", ""]
    if accuracy.mistakes:
        rows = [
            (
                plain(one.picture.name),
                plain(one.float_answer),
                f"{one.float_probability:.3f}",
                plain(one.answer),
                f"{one.probability:.3f}",
            )
            for one in accuracy.mistakes
        ]
        title = (
            "Answered otherwise than by float"
            if accuracy.unlabelled
            else "Right in float, wrong in the program"
        )
        lines += [
            f"### {title} ({len(rows)} of {accuracy.mistakes_total})",
            "",
            *table(("picture", "float says", "p", "program says", "p"), rows),
            "",
        ]
    return lines


def _top_row(hop: Hop) -> tuple[str, ...]:
    change = hop.change
    lost = MISSING if change is None or change.lost is None else f"{change.lost}, {change.gained}"
    return (
        hop.title,
        str(hop.n),
        _share(hop.top1, hop.top1_interval),
        _share(hop.top5, hop.top5_interval),
        MISSING if change is None else _points(change),
        lost,
        MISSING if change is None else judged(change),
    )


def _share(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.2f} %" + (f" {bounds(interval)}" if interval else "")


def _points(change: Change) -> str:
    interval = change.interval
    return signed(change.points) + (
        f" [{signed(interval[0], 1)}, {signed(interval[1], 1)}]" if interval else ""
    )


def _change(change: Change) -> str:
    return f"{_points(change)} points, {change.lost} lost, {change.gained} gained: {judged(change)}"


def _search(report: Report) -> list[str]:
    found = report.search
    if found is None:
        return []
    rows = [
        (
            plain(one.name) + (" (chosen)" if one.chosen else ""),
            f"{one.latency_us:.1f} us",
            f"{one.ratio:.3f}",
            MISSING if one.top1 is None else f"{one.top1:.2f} %",
            f"{one.agreement:.2f} %",
        )
        for one in found.tried
    ]
    head = ("recipe", "static latency", "of int8's", "Top-1", "same answer as float behind NV12")
    lines = ["## Precision search", "", plain(found.why) + ".", ""]
    lines += [f"Figures on {plain(found.report)}; searched on {plain(found.selection)}.", ""]
    lines += [*table(head, rows), ""]
    return lines + [line for name, why in found.failed for line in (f"- {plain(name)}: {plain(why)}", "")]


def _diagnosis(report: Report) -> list[str]:
    found = report.diagnosis
    if found is None:
        return []
    lines = ["## Diagnosis", "", plain(found.verdict), "", f"On n = {found.n}: {plain(found.dataset)}.", ""]
    for number, remedy in enumerate(found.remedies, start=1):
        lines.append(f"{number}. {plain(remedy.what)} ({plain(remedy.figure)})")
        if remedy.how:
            lines += ["", *(f"       {line}" for line in remedy.how.splitlines()), ""]
    if found.remedies:
        lines.append("")
    if found.shares:
        rows = [
            (
                share.part,
                f"{100 * share.agreement:.2f} %",
                f"{share.cosine:.4f}",
                MISSING if share.top1 is None else f"{share.top1:.2f} %",
            )
            for share in found.shares
        ]
        lines += [*table(("quantized part", "same answer as float", "cosine", "Top-1"), rows), ""]
    if found.input_checks:
        checks = [
            (
                check.change,
                check.target,
                check.measure,
                f"{check.value:.2f} %",
                f"{check.as_built:.2f} %",
                "better: the input is wrong" if check.better else "not better",
            )
            for check in found.input_checks
        ]
        lines += [*table(("input", "network", "figure", "so changed", "as built", "that is"), checks), ""]
    lines += [f"{100 * found.nv12_clipped:.2f} % of the colour values leave 0..255 behind NV12.", ""]
    return lines + [line for note in found.notes for line in (f"- {plain(note)}", "")]


def _layers(report: Report) -> list[str]:
    if not report.layers.rows:
        return []
    rows = [
        (
            code(layer.name),
            layer.kind,
            layer.dtype,
            f"{layer.cosine:.5f}",
            MISSING if layer.alone_cosine is None else f"{layer.alone_cosine:.5f}",
        )
        for _, layer in report.layers.worst(WORST)
    ]
    return [
        "## Layers most harmful alone" if report.layers.alone else "## Layers furthest from float",
        "",
        report.layers.note,
        "",
        *table(("layer", "kind", "runs as", "cosine", "alone"), rows),
        "",
    ]


def _speed(report: Report) -> list[str]:
    if not report.speed.rows:
        return []
    rows = [
        (
            row.title,
            MISSING if row.threads is None else str(row.threads),
            MISSING if row.latency_ms is None else f"{row.latency_ms:.3f} ms",
            MISSING if row.fps is None else f"{row.fps:.2f}",
            row.note,
        )
        for row in report.speed.rows
    ]
    lines = [
        "## Speed",
        "",
        *table(("figure", "threads", "latency", "frames a second", "what it is"), rows),
        "",
    ]
    lines += [line for note in report.speed.notes for line in (note, "")]
    placement = report.placement
    if placement is not None:
        lines.append(f"Nodes: {placement.bpu} on the BPU, {placement.cpu} on the CPU.")
        for node in placement.nodes:
            where = "inside the network" if node.inside else "at an end"
            lines.append(f"- {code(node.name)} ({node.op}) on the CPU, {where}")
        lines.append("")
    return lines
