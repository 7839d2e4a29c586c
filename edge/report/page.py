"""``report.html``: the report as one page that opens anywhere and asks no network."""

from __future__ import annotations

from functools import partial

from attrs import frozen

from edge.report.charts import Bar, Row, bars, dots, split, waterfall
from edge.report.contents import Report, SpeedRow
from edge.report.depth import depth
from edge.report.front import front
from edge.report.html import Pair, pair, render
from edge.report.wording import p_value, signed, size
from edge.statistics import wilson

NUMBERED = 5  # layers that carry a number in the chart


@frozen
class Figure:
    """A figure of the page's head."""

    name: str
    value: str
    unit: str
    note: str


def page(report: Report) -> str:
    """Return the page; text that users or files brought is escaped."""
    diagnosis, placement = report.diagnosis, report.placement
    nodes = placement.nodes if placement else ()
    same_nodes = diagnosis is not None and len(diagnosis.cpu_nodes) == len(nodes)
    return render(
        "report.html.j2",
        r=report,
        a=report.accuracy,
        d=diagnosis,
        labelled=any(hop.top1 is not None for hop in report.accuracy.hops),
        quantized=report.accuracy.hop(report.accuracy.quantized) or report.accuracy.hops[-1],
        charts=_charts(report),
        figures=_figures(report),
        model_argument=report.model,
        measured_alone=report.layers.alone,
        has_int16=any(layer.dtype == "int16" for layer in report.layers.rows),
        has_cpu=any(layer.on == "CPU" for layer in report.layers.rows),
        cpu_inside=[node for node in nodes if node.inside],
        cpu_costs=diagnosis.cpu_nodes if diagnosis is not None and same_nodes else (),
        longest=max((stage.seconds for stage in report.stages), default=0.0) or 1.0,
        origin=_origin(report),
    )


def _charts(report: Report) -> dict[str, Pair | None]:
    accuracy, placement, diagnosis = report.accuracy, report.placement, report.diagnosis
    measure = "Top-1" if accuracy.hops[0].top1 is not None else "Agreement with float"
    last = accuracy.hop(accuracy.quantized) or accuracy.hops[-1]
    charts: dict[str, Pair | None] = {
        "hops": pair(
            lambda frame: waterfall(accuracy.hops, frame),
            "hops",
            f"{measure} after each step",
            f"{len(accuracy.hops)} steps from float to the program; {last.title} stands at "
            f"{last.agreement if last.top1 is None else last.top1:.1f} percent. "
            "The tables below have all numbers.",
        )
    }
    if diagnosis is not None and diagnosis.shares:
        rows = []
        for share in diagnosis.shares:
            low, high = wilson(round(share.agreement * diagnosis.n), diagnosis.n)
            value = 100 * share.agreement
            rows.append(Row(share.part, value, (100 * low, 100 * high), None, "plain", f"{value:.1f} %"))
        charts["shares"] = pair(
            lambda frame: dots(rows, frame),
            "shares",
            "Agreement with float when only a part is quantized",
            "; ".join(f"{row.name} {row.shown}" for row in rows),
        )
    layers = report.layers.rows
    if layers:
        marked = [index for index, _ in report.layers.worst(NUMBERED)]
        furthest = min(layers, key=lambda layer: layer.cosine)
        worst = layers[marked[0]].name
        charts["depth"] = pair(
            lambda frame: depth(layers, marked, frame),
            "layers",
            "Similarity of each layer with float, over the depth of the network",
            f"{len(layers)} layers; the lowest cosine is {furthest.cosine:.4f}, at {furthest.name}"
            + (f"; the most harmful alone is {worst}" if report.layers.alone else "")
            + ". The tables below have all numbers.",
        )
    if placement is not None:
        charts["placement"] = pair(
            lambda frame: split(placement.bpu, placement.cpu, frame),
            "placement",
            "Nodes on the BPU and on the CPU",
            f"{placement.bpu} nodes on the BPU, {placement.cpu} on the CPU.",
        )
    search = report.search
    if search is not None and search.tried:
        best = next((one for one in search.tried if one.chosen), search.tried[0])
        charts["search"] = pair(
            lambda frame: front(search.tried, search.max_latency_us, frame),
            "search",
            "Agreement with float against static latency, a dot for each recipe",
            f"{len(search.tried)} recipes; {best.name} takes {best.latency_us:.1f} us and gives float's "
            f"answer on {best.agreement:.2f} percent. The table below has all numbers.",
        )
    return {**charts, **_speed_charts(report.speed.rows)}


def _speed_charts(rows: tuple[SpeedRow, ...]) -> dict[str, Pair | None]:
    charts: dict[str, Pair | None] = {"latency": None, "fps": None}
    for key, title, unit, digits in (
        ("latency", "Time of one frame", "ms", 2),
        ("fps", "Frames a second", "FPS", 0),
    ):
        shown = []
        for row in rows:
            value = row.latency_ms if key == "latency" else row.fps
            # With several threads, latency measures the queue.
            if value is None or (key == "latency" and (row.threads or 1) > 1):
                continue
            threads = "" if row.threads is None else f", {row.threads} thread" + "s" * (row.threads > 1)
            mark = "quiet" if row.source == "published" else "plain"
            shown.append(Bar(row.title + threads, value, f"{value:.{digits}f} {unit}", mark))
        if len(shown) > 1:
            words = "; ".join(f"{bar.name} {bar.shown}" for bar in shown)
            charts[key] = pair(partial(bars, shown), key, title, words)
    return charts


def _figures(report: Report) -> list[Figure]:
    accuracy = report.accuracy
    reference, quantized = accuracy.hop("float"), accuracy.hop(accuracy.quantized)
    found = []
    if reference is not None and quantized is not None:
        if reference.top1 is not None and quantized.top1 is not None:
            change = signed(quantized.top1 - reference.top1, 1)
            total = accuracy.total
            tested = (
                ""
                if total is None or total.p is None
                else f", {p_value(total.p)}".replace("p ", "p\N{NO-BREAK SPACE}")
            )
            note = f"float {reference.top1:.1f} %, {change} points{tested}"
            found.append(Figure("Top-1, quantized", f"{quantized.top1:.1f}", "%", note))
        note = f"cosine of the scores {quantized.cosine:.4f}"
        found.append(Figure("Same answer as float", f"{quantized.agreement:.1f}", "%", note))
    static = next((row for row in report.speed.rows if row.source == "static"), None)
    if static is not None and static.latency_ms is not None and static.fps is not None:
        note = f"{static.fps:.0f} FPS, {static.note.partition(';')[0]}"
        found.append(Figure("Static latency", f"{static.latency_ms:.2f}", "ms", note))
    measured = next((row for row in report.speed.rows if row.source == "board"), None)
    if measured is not None and measured.latency_ms is not None:
        note = f"{measured.fps:.0f} FPS, {measured.threads} thread" if measured.fps else ""
        found.append(Figure("On your board", f"{measured.latency_ms:.2f}", "ms", note))
    program = report.files[0] if report.files else None
    if program is not None:
        value, unit = size(program.bytes).split()
        proof = {True: "verified bit for bit", False: "not verified", None: "not the board's"}[
            report.verified
        ]
        kind = "Program" if program.role == "bin" else "int8 ONNX"
        found.append(Figure(kind, value, unit, proof))
    return found


def _origin(report: Report) -> list[tuple[str, str]]:
    weights, rule = report.weights, report.preprocess
    height, width = rule["crop"]
    resize = "stretched" if rule["resize"] is None else f"shorter side {rule['resize']}, centre crop"
    rows = [
        ("edge", report.edge),
        (
            "compiler",
            f"{report.mapper}: " + ", ".join(f"{k} {v}" for k, v in sorted(report.versions.items())),
        ),
        ("weights", " ".join(str(weights[key]) for key in ("source", "tag", "sha256") if weights.get(key))),
        ("exported by", report.exporter),
        ("precision recipe", report.precision),
        ("before the compiler", "; ".join(report.prepared)),
        (
            "picture to input",
            f"{resize} {width} x {height}, {rule['interpolation']}, {rule['color']}, "
            f"mean {_list(rule['mean'])}, std {_list(rule['std'])}, {rule['layout']}",
        ),
        ("calibration sha256", report.calibration.sha256),
        ("pictures measured sha256", report.accuracy.dataset_sha256),
    ]
    if report.accuracy.source != "manifest.json":
        rows.append(("measured by", report.accuracy.command))
        ran = report.accuracy.versions
        rows.append(("measured with", ", ".join(f"{name} {v}" for name, v in sorted(ran.items()))))
        rows.append(("measured in", f"{report.accuracy.seconds or 0:.0f} s"))
    if report.diagnosis is not None:
        rows.append(("diagnosed by", report.diagnosis.command))
        rows.append(("diagnosed in", f"{report.diagnosis.seconds:.0f} s"))
    return [(name, value) for name, value in rows if value]


def _list(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
