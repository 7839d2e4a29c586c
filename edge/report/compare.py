"""Two builds side by side: recipes, accuracy with paired tests, speed, size, layers."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from edge.errors import LabelError
from edge.evaluate.table import Evaluation
from edge.files import json_text
from edge.folder.built import Built
from edge.measure.statistics import mcnemar, paired_bootstrap
from edge.report.charts import Row, dots
from edge.report.contents import Change, Flag, Hop, Interval, Layer, Report, SpeedRow
from edge.report.depth import depths
from edge.report.gather import TITLES, evaluation_of, gather, judge
from edge.report.page import Pair, as_data, code, pair, plain, render, table
from edge.report.wording import MISSING, bounds, judged, p_value, signed

FILE = "answers.csv"


@frozen
class Answers:
    """What each hop answered.

    Attributes:
        labels: picture -> class index; None without one.
        hops: hop -> picture -> answered class index.
    """

    labels: Mapping[str, int | None]
    hops: Mapping[str, Mapping[str, int]]


@frozen
class Paired:
    """Two networks on the same pictures.

    Attributes:
        title: what is compared.
        n: pictures that both answered.
        same: of them, those with the same answer.
        a_right: of them, those that the first got right; None without labels.
        b_right: the same of the second.
        change: from the first to the second; None without labels.
    """

    title: str
    n: int
    same: int
    a_right: int | None
    b_right: int | None
    change: Change | None


def read_answers(built: Built, evaluation: Evaluation) -> Answers:
    """Read the answers that belong to an evaluation.

    Raises:
        LabelError: the file is missing, broken, or of another evaluation.
    """
    path = built.folder / FILE
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        labels = {row["picture"]: int(row["label"]) if row["label"] else None for row in rows}
        hops: dict[str, dict[str, int]] = {
            hop.hop: {row["picture"]: int(row[hop.hop]) for row in rows if row[hop.hop]}
            for hop in evaluation.hops
        }
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise _unusable(path, type(error).__name__, built) from error
    for hop in evaluation.hops:
        right = sum(labels[picture] == answer for picture, answer in hops[hop.hop].items())
        if len(hops[hop.hop]) != hop.n or (hop.score is not None and right != hop.score.top1_right):
            raise _unusable(path, f"its column {hop.hop} is not what eval.json counted", built)
    return Answers(labels, hops)


def paired(
    title: str, a: Mapping[str, int], b: Mapping[str, int], labels: Mapping[str, int | None] | None
) -> Paired:
    """Compare two networks picture by picture.

    Args:
        title: what is compared.
        a: picture -> answer of the first.
        b: the same of the second.
        labels: picture -> class index; None if right and wrong are not known.
    """
    both = sorted(a.keys() & b.keys())
    same = sum(a[picture] == b[picture] for picture in both)
    if labels is None or not both:
        return Paired(title, len(both), same, None, None, None)
    right = [(a[picture] == labels[picture], b[picture] == labels[picture]) for picture in both]
    lost = sum(one and not two for one, two in right)
    gained = sum(two and not one for one, two in right)
    n, p = len(both), mcnemar(lost, gained)
    points = 100 * (gained - lost) / n
    low, high = paired_bootstrap(lost, gained, n)
    interval = (100 * low, 100 * high)
    judgement = judge(points, interval, p) if lost or gained else "none"
    return Paired(
        title=title,
        n=n,
        same=same,
        a_right=sum(one for one, _ in right),
        b_right=sum(two for _, two in right),
        change=Change("A", points, interval, lost, gained, p, judgement),
    )


def _unusable(path: Path, why: str, built: Built) -> LabelError:
    return LabelError(f"{path} can't be used: {why}", remedy=f"edge eval {built.folder.name}")


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


SCHEMA_VERSION = 1


@frozen
class Side:
    """One of the two builds."""

    letter: str
    name: str
    folder: str
    verdict: str
    flags: tuple[Flag, ...]


@frozen
class HopRow:
    """One hop of both; None where it was not measured."""

    title: str
    a: Hop | None
    b: Hop | None


@frozen
class LayerRow:
    """One layer of both; ``change`` is of its cosine."""

    name: str
    kind: str
    a: Layer
    b: Layer
    change: float


@frozen
class Comparison:
    """Two builds side by side.

    Attributes:
        verdict: what B is against A, in one line.
        a: the first build.
        b: the second.
        facts: what they are made of, how fast and how large they are.
        recipe: settings of the compiler that differ.
        recipe_same: how many settings are the same.
        hops: accuracy of every step of either.
        paired: tests on the same pictures; the first is of the programs. Empty where there is none.
        why_unpaired: why there is none; empty if there is.
        layers: the layers of both, in the order of A.
        layers_note: what the figures are, or why there are none.
    """

    verdict: str
    a: Side
    b: Side
    facts: tuple[FactRow, ...]
    recipe: tuple[FactRow, ...]
    recipe_same: int
    hops: tuple[HopRow, ...]
    paired: tuple[Paired, ...]
    why_unpaired: str
    layers: tuple[LayerRow, ...]
    layers_note: str
    schema_version: int = SCHEMA_VERSION


def compare(one: Built, two: Built) -> Comparison:
    """Compare two finished builds.

    Raises:
        ModelFileError: a manifest lacks what a report needs.
    """
    a, b = gather(one), gather(two)
    paired, why_unpaired = _paired(one, two)
    layers, layers_note = _layers(one, two, a, b)
    settings = [
        fact(key, a.recipe.get(key, MISSING), b.recipe.get(key, MISSING))
        for key in dict.fromkeys((*a.recipe, *b.recipe))
    ]
    return Comparison(
        verdict=_verdict(a, b, paired),
        a=Side("A", a.name, str(one.folder), a.verdict, a.flags),
        b=Side("B", b.name, str(two.folder), b.verdict, b.flags),
        facts=facts_of(a, b),
        recipe=tuple(row for row in settings if row.differs),
        recipe_same=sum(not row.differs for row in settings),
        hops=tuple(
            HopRow(title, a.accuracy.hop(name), b.accuracy.hop(name))
            for name, title in TITLES.items()
            if a.accuracy.hop(name) or b.accuracy.hop(name)
        ),
        paired=paired,
        why_unpaired=why_unpaired,
        layers=layers,
        layers_note=layers_note,
    )


def _paired(one: Built, two: Built) -> tuple[tuple[Paired, ...], str]:
    found = [evaluation_of(built)[0] for built in (one, two)]
    missing = [
        built.folder for built, evaluation in zip((one, two), found, strict=True) if evaluation is None
    ]
    if missing:
        commands = " and ".join(f"edge eval {folder}" for folder in missing)
        return (), f"the answers to single pictures are not known; measure both on the same ones: {commands}"
    first, second = found
    assert first is not None and second is not None  # noqa: S101, PT018 - see missing
    if first.dataset_sha256 != second.dataset_sha256:
        return (), (
            f"they were measured on different pictures ({first.dataset}; {second.dataset}), so the figures "
            "cannot be paired; measure both on the same ones with edge eval"
        )
    try:
        answers = (read_answers(one, first), read_answers(two, second))
    except LabelError as error:
        return (), f"{error.seen}; {error.remedy}"
    labels = None if first.unlabelled or second.unlabelled else answers[0].labels
    programs = paired(
        "the programs", answers[0].hops[first.quantized], answers[1].hops[second.quantized], labels
    )
    return (programs, *_other_pairs(answers, labels, (first.quantized, second.quantized))), ""


def _other_pairs(
    answers: tuple[Answers, Answers], labels: Mapping[str, int | None] | None, programs: tuple[str, str]
) -> list[Paired]:
    one, two = answers
    return [
        paired(title, one.hops[name], two.hops[name], labels)
        for name, title in TITLES.items()
        if name in one.hops and name in two.hops and (name, name) != programs
    ]


def _layers(one: Built, two: Built, a: Report, b: Report) -> tuple[tuple[LayerRow, ...], str]:
    if not a.layers.rows or not b.layers.rows:
        return (), "Not both builds say how similar their layers are."
    if a.layers.source != b.layers.source:
        lacking = one if a.layers.source != "diagnosis" else two
        return (), (
            f"A's figures are of its {a.layers.source}, B's of its {b.layers.source}; with "
            f"edge diagnose {lacking.folder} they can be compared."
        )
    others = {layer.name: layer for layer in b.layers.rows}
    rows = tuple(
        LayerRow(layer.name, layer.kind, layer, others[layer.name], others[layer.name].cosine - layer.cosine)
        for layer in a.layers.rows
        if layer.name in others
    )
    if not rows:
        return (), "The two networks have no layer in common."
    rest = max(len(a.layers.rows), len(b.layers.rows)) - len(rows)
    note = f"{a.layers.note}" + (f" {rest} layers are in one build only." if rest else "")
    return rows, note


def _verdict(a: Report, b: Report, paired: tuple[Paired, ...]) -> str:
    return " ".join(filter(None, (_accuracy_verdict(a, b, paired), _speed_verdict(a, b))))


def _accuracy_verdict(a: Report, b: Report, paired: tuple[Paired, ...]) -> str:
    if paired and paired[0].n:
        return _paired_verdict(paired[0])
    one, two = (r.accuracy.hop(r.accuracy.quantized) for r in (a, b))
    shown = [
        f"{hop.top1:.1f} % {bounds(hop.top1_interval)}"
        for hop in (one, two)
        if hop is not None and hop.top1 is not None and hop.top1_interval is not None
    ]
    if len(shown) < 2:
        return "Accuracy can't be compared."
    return f"Top-1 is {shown[0]} of A and {shown[1]} of B, not compared picture by picture."


def _paired_verdict(found: Paired) -> str:
    n, change = found.n, found.change
    if change is None or change.interval is None or change.p is None:
        return f"A and B give the same answer on {100 * found.same / n:.1f} % of the same {n} pictures."
    if change.judgement == "none":
        return f"B is right and wrong on the same pictures as A, all {n} of them."
    right = [f"{100 * (count or 0) / n:.1f} %" for count in (found.a_right, found.b_right)]
    low, high = (signed(bound, 1) for bound in change.interval)
    beyond = "within" if change.judgement == "noise" else "beyond"
    return (
        f"B is right on {right[1]} of the same {n} pictures, A on {right[0]}: "
        f"{signed(change.points, 1)} points (95 % {low} to {high}), {beyond} noise ({p_value(change.p)})."
    )


def _speed_verdict(a: Report, b: Report) -> str:
    one, two = static_latency(a), static_latency(b)
    if not one or not two:
        return ""
    if abs(two - one) < 0.0005:
        return f"Both take {one:.2f} ms on the BPU by the compiler's figure."
    word = "faster" if two < one else "slower"
    return (
        f"B is {word} by the compiler's figure: {two:.2f} ms a frame against {one:.2f} ms "
        f"({signed(100 * (two - one) / one, 1)} %)."
    )


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
