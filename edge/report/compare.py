"""Two builds side by side: recipes, accuracy with paired tests, speed, size, layers."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from attrs import frozen

from edge.accuracy.table import Change, Evaluation
from edge.errors import LabelError, counted
from edge.folder.built import Built
from edge.measure.statistics import mcnemar, p_value, paired_interval
from edge.report.charts import Row, depths, dots
from edge.report.contents import Fact, JudgedChange, LayerRow, Report, StepFigures
from edge.report.gather import TITLES, evaluation_of, gather, judged_change
from edge.report.page import Chart, as_json, chart, render
from edge.report.wording import MISSING, bounds, fixed, signed, versions

FILE = "answers.csv"
SCHEMA_VERSION = 1
FURTHEST = 10
VISIBLE = 5e-6  # a change of a cosine that five digits show


@frozen
class Answers:
    """What each step answered."""

    labels: Mapping[str, int | None]  #: image -> class index; None without one.
    steps: Mapping[str, Mapping[str, int]]  #: step -> image -> answered class index.


@frozen
class Paired:
    """Two networks on the same images."""

    title: str  #: what is compared.
    n: int  #: images that both answered.
    same: int  #: of them, those with the same answer.
    a_right: int | None = None  #: of them, those that the first got right; None without labels.
    b_right: int | None = None  #: the same of the second.
    change: JudgedChange | None = None  #: from the first to the second; None without labels.


@frozen
class FactRow:
    """A fact of both; whether it differs, and how, where it is a number."""

    name: str  #: of the fact.
    a: str  #: as the first build has it.
    b: str  #: as the second has it.
    differs: bool  #: whether they are not the same.
    change: str = ""  #: from the first to the second; empty where it is no number.


@frozen
class LayerPair:
    """One layer of both."""

    name: str  #: of the layer.
    kind: str  #: its operator.
    a: LayerRow  #: in the first build.
    b: LayerRow  #: in the second.
    change: float  #: of the cosine, from the first to the second.


@frozen
class Comparison:
    """Two builds side by side."""

    verdict: str  #: what B is against A, in one line.
    a: Fact  #: ``letter``, ``name``, ``folder``, ``verdict`` and ``flags`` of the first build.
    b: Fact  #: ``letter``, ``name``, ``folder``, ``verdict`` and ``flags`` of the second.
    facts: tuple[FactRow, ...]  #: what they are made of, how fast and how large they are.
    recipe: tuple[FactRow, ...]  #: settings of the compiler that differ.
    recipe_same: int  #: how many settings are the same.
    #: every step of either: ``title``, and ``a`` and ``b``, its figures; None where not measured.
    steps: tuple[Fact, ...]
    paired: tuple[Paired, ...]  #: tests on the same images; the first is of the programs. Empty where there is none.
    why_unpaired: str  #: why there is none; empty if there is.
    layers: tuple[LayerPair, ...]  #: the layers of both, in the order of A.
    layers_note: str  #: what the figures are, or why there are none.
    schema_version: int = SCHEMA_VERSION


def compare(one: Built, two: Built) -> Comparison:
    """Compare two finished builds.

    Raises:
        ModelFileError: a manifest lacks what a report needs.
    """
    a, b = gather(one), gather(two)
    tests, why_unpaired = _paired(one, two)
    layers, layers_note = _layers(one, two, a, b)
    settings = [
        fact(key, a.recipe.get(key, MISSING), b.recipe.get(key, MISSING))
        for key in dict.fromkeys((*a.recipe, *b.recipe))
    ]
    steps = [{"title": title, "a": a.accuracy.step(name), "b": b.accuracy.step(name)} for name, title in TITLES.items()]
    return Comparison(
        verdict=" ".join(filter(None, (_accuracy_verdict(a, b, tests), _speed_verdict(a, b)))),
        a=_side("A", a, one),
        b=_side("B", b, two),
        facts=facts_of(a, b),
        recipe=tuple(row for row in settings if row.differs),
        recipe_same=sum(not row.differs for row in settings),
        steps=tuple(row for row in steps if row["a"] or row["b"]),
        paired=tests,
        why_unpaired=why_unpaired,
        layers=layers,
        layers_note=layers_note,
    )


def _side(letter: str, report: Report, built: Built) -> Fact:
    return {
        "letter": letter,
        "name": report.name,
        "folder": str(built.folder),
        "verdict": report.verdict,
        "flags": report.flags,
    }


def read_answers(built: Built, evaluation: Evaluation) -> Answers:
    """Read the answers that belong to an evaluation.

    Raises:
        LabelError: the file is missing, broken, or of another evaluation.
    """
    path = built.folder / FILE
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        labels = {row["image"]: int(row["label"]) if row["label"] else None for row in rows}
        steps: dict[str, dict[str, int]] = {
            step.name: {row["image"]: int(row[step.name]) for row in rows if row[step.name]}
            for step in evaluation.steps
        }
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise _unusable(path, type(error).__name__, built) from error
    for step in evaluation.steps:
        right = sum(labels[image] == answer for image, answer in steps[step.name].items())
        if len(steps[step.name]) != step.n or (step.score is not None and right != step.score.top1_right):
            raise _unusable(path, f"its column {step.name} is not what eval.json counted", built)
    return Answers(labels, steps)


def paired(title: str, a: Mapping[str, int], b: Mapping[str, int], labels: Mapping[str, int | None] | None) -> Paired:
    """Compare two networks image by image.

    Args:
        a: image -> answer of the first.
        b: the same of the second.
        labels: image -> class index; None if right and wrong are not known.
    """
    both = sorted(a.keys() & b.keys())
    n, same = len(both), sum(a[image] == b[image] for image in both)
    if labels is None or not both:
        return Paired(title, n, same)
    right = [(a[image] == labels[image], b[image] == labels[image]) for image in both]
    lost = sum(one and not two for one, two in right)
    gained = sum(two and not one for one, two in right)
    low, high = paired_interval(lost, gained, n)
    change = Change(100 * (gained - lost) / n, (100 * low, 100 * high), lost, gained, mcnemar(lost, gained))
    a_right, b_right = (sum(side) for side in zip(*right, strict=True))
    return Paired(title, n, same, a_right, b_right, judged_change(change, "A"))


def _unusable(path: Path, why: str, built: Built) -> LabelError:
    return LabelError(f"{path} can't be used: {why}", remedy=f"edge eval {built.folder.name}")


def _paired(one: Built, two: Built) -> tuple[tuple[Paired, ...], str]:
    first, second = (evaluation_of(built)[0] for built in (one, two))
    if first is None or second is None:
        missing = [built.folder for built, found in ((one, first), (two, second)) if found is None]
        commands = " and ".join(f"edge eval {folder}" for folder in missing)
        return (), f"the answers to single images are not known; measure both on the same ones: {commands}"
    if {first.task, second.task} != {"classify"}:
        boxes = any(step.boxes for step in (*first.steps, *second.steps))
        return (), "of boxes, AP is compared as a whole" if boxes else "the outputs are no class scores, right or wrong"
    if first.dataset_sha256 != second.dataset_sha256:
        return (), (
            f"they were measured on different images ({first.dataset}; {second.dataset}), so the figures "
            "cannot be paired; measure both on the same ones with edge eval"
        )
    try:
        a, b = read_answers(one, first), read_answers(two, second)
    except LabelError as error:
        return (), f"{error.seen}; {error.remedy}"
    labels = None if first.unlabelled or second.unlabelled else a.labels
    programs = (first.quantized, second.quantized)
    steps: list[tuple[str, str, str]] = [("the programs", *programs)]
    steps += [
        (title, name, name)
        for name, title in TITLES.items()
        if name in a.steps and name in b.steps and (name, name) != programs
    ]
    return tuple(paired(title, a.steps[of_a], b.steps[of_b], labels) for title, of_a, of_b in steps), ""


def facts_of(a: Report, b: Report) -> tuple[FactRow, ...]:
    """Return the facts of both."""
    threads = sorted({row.threads or 1 for r in (a, b) for row in r.speed.rows if row.source == "board"})
    both = zip(_facts(a, threads), _facts(b, threads), strict=True)
    return tuple(fact(name, one, two, (of_a, of_b)) for (name, one, of_a), (_, two, of_b) in both)


def fact(name: str, a: str, b: str, numbers: tuple[float | None, float | None] = (None, None)) -> FactRow:
    """Return a fact as shown of both, and its relative change where it is a number."""
    one, two = numbers
    change = f"{signed(100 * (two - one) / one, 1)} %" if one and two is not None and a != b else ""
    return FactRow(name, a, b, a != b, change)


def _facts(report: Report, threads: Sequence[int]) -> Iterator[tuple[str, str, float | None]]:
    """Yield name, text and, where it is one, number of what is known of a build; ``threads`` of the board."""

    def number(name: str, value: float | None, digits: int, unit: str = "") -> tuple[str, str, float | None]:
        return name, fixed(value, unit, digits=digits), value

    weights, found, speed = report.weights, report.calibration, report.speed
    words = [str(weights[key]) for key in ("source", "tag") if weights.get(key)]
    words += [str(weights["sha256"])[:12]] if weights.get("sha256") else []
    yield "model", report.model, None
    yield "weights", " ".join(words), None
    yield "precision recipe", report.precision or MISSING, None
    yield "compiler", versions(report.versions), None
    yield "calibration", f"n = {found.n}, {found.source}, {found.method}", None
    static = speed.first("static")
    yield number("static latency", static.latency_ms if static else None, 3, " ms")
    yield number("static frames a second", static.fps if static else None, 1, " FPS")
    traffic = None if speed.ddr_bytes is None else speed.ddr_bytes / 1e6
    yield number("memory traffic a frame", traffic, 2, " MB")
    board = {row.threads or 1: row for row in speed.rows if row.source == "board"}
    for count in threads:
        row, name = board.get(count), f"on the board, {counted(count, 'thread')}"
        yield number(f"{name}: latency", row.latency_ms if row else None, 3, " ms")
        yield number(f"{name}: frames a second", row.fps if row else None, 1, " FPS")
    yield number("nodes on the CPU", report.placement["cpu"] if report.placement else None, 0)
    yield number("program size", report.files[0]["bytes"] / 1e6 if report.files else None, 3, " MB")
    yield "verify", report.verify or MISSING, None


def _layers(one: Built, two: Built, a: Report, b: Report) -> tuple[tuple[LayerPair, ...], str]:
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
        LayerPair(layer.name, layer.kind, layer, others[layer.name], others[layer.name].cosine - layer.cosine)
        for layer in a.layers.rows
        if layer.name in others
    )
    if not rows:
        return (), "The two networks have no layer in common."
    rest = max(len(a.layers.rows), len(b.layers.rows)) - len(rows)
    note = f"{a.layers.note}" + (f" {counted(rest, 'layer')} in one build only." if rest else "")
    return rows, note


def _accuracy_verdict(a: Report, b: Report, paired: tuple[Paired, ...]) -> str:
    if paired and paired[0].n:
        return _paired_verdict(paired[0])
    one, two = (r.accuracy.step(r.accuracy.quantized) for r in (a, b))
    if one is not None and two is not None and one.outputs and two.outputs:
        lowest = ["exact" if (db := step.worst["snr_db"]) is None else f"{db:.1f} dB" for step in (one, two)]
        return f"The worst output's signal to noise is {lowest[0]} of A and {lowest[1]} of B."
    if one is not None and two is not None and one.boxes and two.boxes:
        if a.accuracy.dataset_sha256 != b.accuracy.dataset_sha256:
            return "AP can't be compared: they were measured on different images."
        if {one.name, two.name} & {"float", "simplified", "nv12"}:
            return "AP can't be compared: not both programs were measured."
        what = "AP" if one.boxes["ap"] else "AP with float's boxes"
        return f"{what} is {one.figure[0]:.1f} of A and {two.figure[0]:.1f} of B, not compared image by image."
    shown = [
        f"{step.top1:.1f} % {bounds(step.top1_interval)}"
        for step in (one, two)
        if step is not None and step.top1 is not None and step.top1_interval is not None
    ]
    if len(shown) < 2:
        return "Accuracy can't be compared."
    return f"Top-1 is {shown[0]} of A and {shown[1]} of B, not compared image by image."


def _paired_verdict(found: Paired) -> str:
    n, change = found.n, found.change
    if change is None or change.interval is None or change.p is None:
        return f"A and B give the same answer on {100 * found.same / n:.1f} % of the same {counted(n, 'image')}."
    if change.judgement == "none":
        return f"B is right and wrong on the same images as A, all {n} of them."
    right = [f"{100 * (count or 0) / n:.1f} %" for count in (found.a_right, found.b_right)]
    low, high = (signed(bound, 1) for bound in change.interval)
    beyond = "within" if change.judgement == "noise" else "beyond"
    return (
        f"B is right on {right[1]} of the same {counted(n, 'image')}, A on {right[0]}: "
        f"{signed(change.points, 1)} points (95 % {low} to {high}), {beyond} noise ({p_value(change.p)})."
    )


def _speed_verdict(a: Report, b: Report) -> str:
    one, two = (row.latency_ms if row else None for row in (a.speed.first("static"), b.speed.first("static")))
    if not one or not two:
        return ""
    if abs(two - one) < 0.0005:
        return f"Both take {one:.2f} ms on the BPU by the compiler's figure."
    word = "faster" if two < one else "slower"
    return (
        f"B is {word} by the compiler's figure: {two:.2f} ms a frame against {one:.2f} ms "
        f"({signed(100 * (two - one) / one, 1)} %)."
    )


def documents(comparison: Comparison) -> dict[str, str]:
    """Return file name -> text. The same comparison gives the same bytes."""
    return {
        "comparison.html": page(comparison),
        "comparison.md": render("comparison.md.j2", c=comparison),
        "comparison.json": as_json(comparison),
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
        labelled=any(step.top1 is not None for row in comparison.steps for step in (row["a"], row["b"]) if step),
        detector=any(step.boxes for row in comparison.steps for step in (row["a"], row["b"]) if step),
    )


def _charts(comparison: Comparison) -> dict[str, Chart]:
    rows = [
        _row(letter, row["title"], step)
        for row in comparison.steps
        for letter, step in (("A", row["a"]), ("B", row["b"]))
        if step is not None and not step.outputs
    ]
    charts = {}
    if rows:
        charts["steps"] = chart(
            partial(dots, rows),
            "steps",
            "Accuracy of every step of A and B",
            "; ".join(f"{row.name} {row.shown}" for row in rows) + ".",
        )
    if comparison.layers:
        first, second = [row.a for row in comparison.layers], [row.b for row in comparison.layers]
        charts["depth"] = chart(
            partial(depths, first, second),
            "layers",
            "Similarity of each layer with float in A and in B, over the depth of the network",
            f"{counted(len(first), 'layer')}; the tables below have all numbers.",
        )
    return charts


def _row(letter: str, title: str, step: StepFigures) -> Row:
    value, interval = step.figure
    return Row(
        name=f"{letter} · {title}",
        value=value,
        interval=interval,
        start=None,
        mark="gain" if letter == "A" else "loss",
        shown=f"{value:.1f} %",
        aside=counted(step.n, "image") if step.sampled else "",
        hollow=step.sampled,
    )
