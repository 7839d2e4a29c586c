"""``report.html``: the report as one page that opens anywhere and asks no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from attrs import frozen

from edge import __version__
from edge.report.charts import Frame
from edge.report.contents import Accuracy, Change, Hop, Interval, Report
from edge.report.wording import MINUS, MISSING, bounds, judged, signed, size

if TYPE_CHECKING:
    import jinja2
import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import cattrs
from attrs import fields, has
from filelock import FileLock

from edge.errors import ModelFileError, WorkspaceError
from edge.files import disk_errors, json_text, write_json, write_text
from edge.folder.built import MANIFEST, Built
from edge.folder.workspace import MARKER
from edge.measure.statistics import wilson
from edge.report.charts import Bar, Row, bars, dots, front, split, waterfall
from edge.report.contents import Picture, SpeedRow
from edge.report.depth import depth
from edge.report.gather import OWN_ROLES
from edge.report.wording import p_value

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
            *_origin_lines(report),
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


def _origin_lines(report: Report) -> list[str]:
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


WIDE, PHONE = 760, 340  # CSS pixels of a chart: on a desk and on a phone


@frozen
class Pair:
    """A chart twice: for wide windows and for phones; the page shows one. Both are markup."""

    wide: str
    narrow: str


def render(template: str, **context: Any) -> str:
    """Return a template of ``templates/`` filled in; every value is escaped but markup that a chart made."""
    return _environment().get_template(template).render(version=__version__, **context)


def pair(draw: Callable[[Frame], str], ident: str, title: str, description: str) -> Pair:
    """Draw a chart for both widths."""
    from markupsafe import Markup

    wide, narrow = (
        Markup(draw(Frame(f"{ident}-{name}", width, title, description)))  # noqa: S704 - svg.py escapes
        for name, width in (("wide", WIDE), ("phone", PHONE))
    )
    return Pair(wide, narrow)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edge.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for digits, name in enumerate(("whole", "one", "two", "three", "four", "five")):
        environment.filters[name] = _fixed(digits)
    environment.filters |= {"signed": signed, "size": size, "judged": judged, "short": _short}
    return environment


def _fixed(digits: int) -> Callable[[float | None], str]:
    def fixed(value: float | None) -> str:
        return MISSING if value is None else f"{value:.{digits}f}"

    return fixed


def _short(value: float | None) -> str:
    """Return a value of any size in a few digits."""
    if value is None:
        return MISSING
    return f"{value:.3g}".replace("-", MINUS)


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


NAMES = {"report": "report.md", "report_html": "report.html", "report_json": "report.json"}


def documents(report: Report) -> dict[str, str]:
    """Return file name -> text. The same report gives the same bytes."""
    return {
        "report.md": markdown(report),
        "report.html": page(report),
        "report.json": json_text(as_data(report)),
    }


def as_data(value: object) -> Any:
    """Return a result as JSON data; pictures keep their names and lose their bytes."""
    if isinstance(value, Picture):
        value = {"name": value.name, "why_not": value.why_not}
    if has(type(value)):
        names = [field.name for field in fields(type(value))]  # type: ignore[arg-type]
        return {name: as_data(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): as_data(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(inner) for inner in value]
    return cattrs.unstructure(value)


def write_beside(page_path: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write the texts under the page's name with their own endings; return the paths, the page's first.

    Args:
        page_path: of the page, such as ``comparison.html``.
        texts: file name -> text; of the names only the endings count.

    Raises:
        WorkspaceError: the folder can't be written.
        ModelFileError: the folder does not exist.
    """
    if not page_path.parent.is_dir():
        raise ModelFileError(f"{page_path.parent} is no folder", remedy=f"mkdir -p {page_path.parent}")
    paths = []
    with disk_errors(page_path.parent):
        for name, text in sorted(texts.items(), key=lambda item: not item[0].endswith(".html")):
            ending = Path(name).suffix
            path = page_path if ending == ".html" else page_path.with_suffix(ending)
            write_text(path, text)
            paths.append(path)
    return paths


def write_into(built: Built, texts: Mapping[str, str]) -> None:
    """Write the texts into the build folder, and their sizes and hashes into its manifest.

    A kill in between leaves a manifest that lists none of them, never one that lists other bytes.

    Args:
        built: the build folder.
        texts: file name -> text, of ``NAMES``.

    Raises:
        WorkspaceError: the folder can't be written, or holds another build by now.
    """
    with disk_errors(built.folder):
        if (built.folder / MARKER).exists():
            with FileLock(built.folder / ".lock"):  # an edge build may be publishing
                _write(built, texts)
        else:
            _write(built, texts)


def _write(built: Built, texts: Mapping[str, str]) -> None:
    folder = built.folder
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    others = _others(manifest)
    if others != _others(built.manifest):
        raise WorkspaceError(f"{folder} was built anew meanwhile", remedy=f"edge report {folder}")
    listed = [*others, *(_entry(role, name, texts[name]) for role, name in NAMES.items())]
    same = all(_holds(folder / name, text) for name, text in texts.items())
    if same and listed == manifest["artifacts"]:
        return
    write_json(folder / MANIFEST, {**manifest, "artifacts": others})
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / MANIFEST, {**manifest, "artifacts": listed})


def _others(manifest: Mapping[str, Any]) -> list[Any]:
    return [entry for entry in manifest["artifacts"] if entry["role"] not in OWN_ROLES]


def _entry(role: str, name: str, text: str) -> dict[str, object]:
    data = text.encode()
    return {"role": role, "path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False
