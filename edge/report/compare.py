"""Two builds side by side: recipes, accuracy with paired tests, speed, size, layers."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from edge.built import Built
from edge.errors import LabelError
from edge.report.accuracy import TITLES
from edge.report.answers import Answers, Paired, pair, read_answers
from edge.report.contents import Flag, Layer, Report
from edge.report.gather import evaluation_of, gather
from edge.report.measured import Hop
from edge.report.side_by_side import FactRow, fact, facts_of, static_latency
from edge.report.wording import MISSING, bounds, p_value, signed

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
    programs = pair(
        "the programs", answers[0].hops[first.quantized], answers[1].hops[second.quantized], labels
    )
    return (programs, *_other_pairs(answers, labels, (first.quantized, second.quantized))), ""


def _other_pairs(
    answers: tuple[Answers, Answers], labels: Mapping[str, int | None] | None, programs: tuple[str, str]
) -> list[Paired]:
    one, two = answers
    return [
        pair(title, one.hops[name], two.hops[name], labels)
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
