"""The report as documents: a page that opens anywhere and asks no network, Markdown, and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import cattrs

from edge import __version__
from edge.errors import counted
from edge.files import json_text
from edge.measure.statistics import p_value, wilson
from edge.report import wording
from edge.report.charts import Bar, Canvas, Row, bars, depth, dots, front, split, waterfall
from edge.report.contents import JudgedChange, Report, SpeedRow, StepFigures, Thumbnail
from edge.report.wording import MINUS, MISSING, fixed, signed, size, versions

if TYPE_CHECKING:
    import jinja2

WIDE, PHONE = 760, 340  # CSS pixels of a chart: on a desk and on a phone
NUMBERED = 5  # layers that carry a number in the chart

Chart = Mapping[str, str]  # ``wide`` and ``narrow``, both markup: the page shows one of them

_data = cattrs.Converter()
# Of an image, report.json keeps the name and not the bytes.
_data.register_unstructure_hook(Thumbnail, lambda it: {"name": it.name, "why_not": it.why_not})


def documents(report: Report) -> dict[str, str]:
    """Return file name -> text. The same report gives the same bytes."""
    return {"report.md": markdown(report), "report.html": page(report), "report.json": as_json(report)}


def markdown(report: Report) -> str:
    """Return the Markdown text."""
    return render("report.md.j2", r=report)


def page(report: Report) -> str:
    """Return the page; text that users or files brought is escaped."""
    diagnosis, placement = report.diagnosis, report.placement
    nodes = placement["nodes"] if placement else ()
    same_nodes = diagnosis is not None and len(diagnosis.cpu_nodes) == len(nodes)
    return render(
        "report.html.j2",
        r=report,
        a=report.accuracy,
        d=diagnosis,
        labelled=any(step.top1 is not None for step in report.accuracy.steps),
        raw=report.accuracy.raw,
        detector=report.accuracy.detector,
        quantized=report.accuracy.last,
        charts=_charts(report),
        figures=_figures(report),
        model_argument=report.model,
        measured_alone=report.layers.alone,
        has_int16=any(layer.dtype == "int16" for layer in report.layers.rows),
        has_cpu=any(layer.on == "CPU" for layer in report.layers.rows),
        cpu_inside=[node for node in nodes if node["inside"]],
        cpu_costs=diagnosis.cpu_nodes if diagnosis is not None and same_nodes else (),
        longest=max((stage["seconds"] for stage in report.stages), default=0.0) or 1.0,
        origin=_origin(report),
    )


def as_json(document: object) -> str:
    """Return a report or a comparison as JSON text."""
    return json_text(_data.unstructure(document))


def render(template: str, **context: Any) -> str:
    """Return a template of ``templates/`` filled in; on pages every value but a chart's markup is escaped."""
    return _environment().get_template(template).render(context)


def chart(draw: Callable[[Canvas], str], ident: str, title: str, description: str) -> Chart:
    """Draw a chart for wide windows and for phones."""
    from markupsafe import Markup

    return {
        key: Markup(draw(Canvas(f"{ident}-{name}", width, title, description)))  # noqa: S704 - charts escape
        for key, name, width in (("wide", "wide", WIDE), ("narrow", "phone", PHONE))
    }


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edge.report"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for digits, name in enumerate(("whole", "one", "two", "three", "four", "five")):
        environment.filters[name] = partial(fixed, digits=digits)
    for name in ("bounds", "cell", "code", "judged", "plain", "signed", "size", "versions"):
        environment.filters[name] = getattr(wording, name)
    environment.filters["short"] = _short
    environment.globals |= {"version": __version__, "missing": MISSING}
    return environment


def _short(value: float | None) -> str:
    """Return a value of any size in a few digits."""
    return MISSING if value is None else f"{value:.3g}".replace("-", MINUS)


def _charts(report: Report) -> dict[str, Chart | None]:
    accuracy, placement, diagnosis = report.accuracy, report.placement, report.diagnosis
    boxes = accuracy.steps[0].boxes
    if boxes is not None:
        measure = (
            "AP" if boxes["ap"] else "AP with the boxes of float (behind NV12, up to that step on RGB) as objects,"
        )
    elif accuracy.steps[0].top1 is not None:
        measure = "Top-1"
    else:
        measure = "Agreement with float (behind NV12, up to that step on RGB)"
    last = accuracy.last
    charts: dict[str, Chart | None] = (
        {"steps": _outputs_chart(last)}
        if accuracy.raw
        else {
            "steps": chart(
                partial(waterfall, accuracy.steps),
                "steps",
                f"{measure} after each step",
                f"{len(accuracy.steps)} steps from float to the program; {last.title} stands at "
                f"{last.figure[0]:.1f} percent. The tables below have all numbers.",
            )
        }
    )
    if diagnosis is not None and diagnosis.shares:
        rows = []
        found_again = diagnosis.task == "detect"
        for share in diagnosis.shares:
            value = 100 * share.agreement
            if found_again:
                rows.append(Row(share.part, value, None, None, "plain", f"{value:.1f}"))
                continue
            low, high = wilson(round(share.agreement * diagnosis.n), diagnosis.n)
            rows.append(Row(share.part, value, (100 * low, 100 * high), None, "plain", f"{value:.1f} %"))
        measure = "AP with the boxes of float" if found_again else "Agreement with float"
        charts["shares"] = chart(
            partial(dots, rows),
            "shares",
            f"{measure} behind NV12 when only a part is quantized",
            "; ".join(f"{row.name} {row.shown}" for row in rows),
        )
    layers = report.layers.rows
    if layers:
        marked = [index for index, _ in report.layers.worst(NUMBERED)]
        furthest = min(layers, key=lambda layer: layer.cosine)
        worst = layers[marked[0]].name
        charts["depth"] = chart(
            partial(depth, layers, marked),
            "layers",
            "Similarity of each layer with float, over the depth of the network",
            f"{counted(len(layers), 'layer')}; the lowest cosine is {furthest.cosine:.4f}, at {furthest.name}"
            + (f"; the most harmful alone is {worst}" if report.layers.alone else "")
            + ". The tables below have all numbers.",
        )
    if placement is not None:
        bpu, cpu = placement["bpu"], placement["cpu"]
        charts["placement"] = chart(
            partial(split, bpu, cpu),
            "placement",
            "Nodes on the BPU and on the CPU",
            f"{counted(bpu, 'node')} on the BPU, {cpu} on the CPU.",
        )
    search = report.search
    if search is not None and search.tried:
        best = next((one for one in search.tried if one.chosen), search.tried[0])
        charts["search"] = chart(
            partial(front, search.tried, search.max_latency_us),
            "search",
            "Agreement with float behind NV12 against static latency, a dot for each recipe",
            f"{counted(len(search.tried), 'recipe')}; {best.name} takes {best.latency_us:.1f} us and gives float's "
            f"answer on {best.agreement:.2f} percent. The table below has all numbers.",
        )
    # The static figure is of the BPU part alone, so it is in no chart beside figures of the whole program.
    whole = [row for row in report.speed.rows if row.source != "static"]
    # With several threads, latency measures the queue.
    alone = [(row, row.latency_ms) for row in whole if (row.threads or 1) == 1]
    charts["latency"] = _speed_chart("latency", "Time of one frame on the board", alone, "{:.2f} ms")
    rates = [(row, row.fps) for row in whole]
    charts["fps"] = _speed_chart("fps", "Frames a second on the board", rates, "{:.0f} FPS")
    return charts


def _outputs_chart(step: StepFigures) -> Chart | None:
    """Draw the signal to noise of each raw output; None where all are exact."""
    rows = [
        Bar(one["name"], max(one["snr_db"], 0.0), f"{one['snr_db']:.1f} dB")
        for one in step.outputs
        if one["snr_db"] is not None
    ]
    if not rows:
        return None
    return chart(
        partial(bars, rows),
        "steps",
        f"Signal to noise of each output, {step.title} against {step.agreement_with}",
        "; ".join(f"{bar.name} {bar.shown}" for bar in rows),
    )


def _speed_chart(ident: str, title: str, figures: list[tuple[SpeedRow, float | None]], shown: str) -> Chart | None:
    """Draw speed figures side by side; None where there is nothing to compare."""
    rows = []
    for row, value in figures:
        if value is not None:
            threads = "" if row.threads is None else f", {counted(row.threads, 'thread')}"
            mark = "quiet" if row.source == "published" else "plain"
            rows.append(Bar(row.title + threads, value, shown.format(value), mark))
    if len(rows) < 2:
        return None
    return chart(partial(bars, rows), ident, title, "; ".join(f"{bar.name} {bar.shown}" for bar in rows))


def _figures(report: Report) -> list[tuple[str, str, str, str]]:
    """Return the figures of the page's head: name, value, unit, note."""
    accuracy = report.accuracy
    reference, quantized = accuracy.step("float"), accuracy.step(accuracy.quantized)
    found = []
    if accuracy.raw:
        worst = accuracy.last.worst
        exact = worst["snr_db"] is None
        note = f"{worst['name']}, the worst output; cosine {worst['cosine']:.4f} with {accuracy.last.agreement_with}"
        found.append(("Signal to noise", "exact" if exact else f"{worst['snr_db']:.1f}", "" if exact else "dB", note))
    elif reference is not None and quantized is not None and quantized.boxes is not None:
        found += _boxes_figures(reference, quantized, accuracy.total)
    elif reference is not None and quantized is not None:
        if reference.top1 is not None and quantized.top1 is not None:
            change = signed(quantized.top1 - reference.top1, 1)
            total = accuracy.total
            tested = "" if total is None or total.p is None else f", {p_value(total.p)}"
            note = f"float {reference.top1:.1f} %, {change} points" + tested.replace("p ", "p\N{NO-BREAK SPACE}")
            found.append(("Top-1, quantized", f"{quantized.top1:.1f}", "%", note))
        note = f"cosine of the scores {quantized.cosine:.4f}"
        found.append((f"Same answer as {quantized.agreement_with}", f"{quantized.agreement:.1f}", "%", note))
    static, measured = report.speed.first("static"), report.speed.first("board")
    if static is not None and static.latency_ms is not None and static.fps is not None:
        note = f"{static.fps:.0f} FPS, {static.note.partition(';')[0]}"
        found.append(("Static latency", f"{static.latency_ms:.2f}", "ms", note))
    if measured is not None and measured.latency_ms is not None:
        note = f"{measured.fps:.0f} FPS, {measured.threads} thread" if measured.fps else ""
        found.append(("On your board", f"{measured.latency_ms:.2f}", "ms", note))
    if report.files:
        program = report.files[0]
        value, unit = size(program["bytes"]).split()
        proofs = {True: "verified bit for bit", False: "not verified", None: "not the board's"}
        kind = "Program" if program["role"] == "bin" else "int8 ONNX"
        found.append((kind, value, unit, proofs[report.verified]))
    return found


def _boxes_figures(
    reference: StepFigures, quantized: StepFigures, total: JudgedChange | None
) -> list[tuple[str, str, str, str]]:
    assert quantized.boxes is not None and reference.boxes is not None  # noqa: S101, PT018 - of a detector
    found, float_ap, ap = [], reference.boxes["ap"], quantized.boxes["ap"]
    if float_ap and ap:
        tested = "" if total is None or total.p is None else f", {p_value(total.p)}"
        note = f"float {float_ap['ap']:.1f} %, {signed(ap['ap'] - float_ap['ap'], 1)} points" + tested
        found.append(("AP, quantized", f"{ap['ap']:.1f}", "%", note))
    own = quantized.boxes["self_ap"]
    if own is not None:
        note = f"{quantized.boxes['lost']} of its boxes lost, {quantized.boxes['gained']} others gained"
        found.append((f"AP with the boxes of {quantized.agreement_with}", f"{own:.1f}", "%", note))
    return found


def _origin(report: Report) -> list[tuple[str, str]]:
    weights, rule, accuracy, diagnosis = report.weights, report.preprocess, report.accuracy, report.diagnosis
    height, width = rule["crop"]
    resize = "stretched" if rule["resize"] is None else f"shorter side {rule['resize']}, centre crop"
    if rule.get("letterbox"):
        resize = f"letterboxed ({rule['letterbox']}, filled with {rule['fill']})"
    mean, std = (", ".join(f"{value:g}" for value in rule[key]) for key in ("mean", "std"))
    rows = [
        ("edge", report.edge),
        ("compiler", f"{report.compiler}: {versions(report.versions)}"),
        ("weights", " ".join(str(weights[key]) for key in ("source", "tag", "sha256") if weights.get(key))),
        ("exported by", report.exporter),
        ("precision recipe", report.precision),
        ("before the compiler", "; ".join(report.prepared)),
        (
            "image to input" if accuracy.through_nv12 or not accuracy.raw else "",
            f"{resize} {width} x {height}, {rule['interpolation']}, {rule['color']}, "
            f"mean {mean}, std {std}, {rule['layout']}",
        ),
        ("calibration sha256", report.calibration.sha256),
        ("images measured sha256", accuracy.dataset_sha256),
    ]
    if accuracy.source != "manifest.json":
        rows += [
            ("measured by", accuracy.command),
            ("measured with", versions(accuracy.versions)),
            ("measured in", f"{accuracy.seconds or 0:.0f} s"),
        ]
    if diagnosis is not None:
        rows += [("diagnosed by", diagnosis.command), ("diagnosed in", f"{diagnosis.seconds:.0f} s")]
    return [(name, value) for name, value in rows if name and value]
