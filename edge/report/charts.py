"""Charts as inline SVG: pure functions from figures to text. Colours are the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import groupby
from typing import Any

from attrs import frozen

from edge.errors import counted
from edge.report.contents import Interval, LayerRow, StepFigures
from edge.report.search import TriedRecipe
from edge.report.wording import signed

Point = tuple[float, float]


@frozen
class Canvas:
    """What a chart is, for those who see it and those who hear it."""

    ident: str  #: prefix of the ids in it, unique on the page.
    width: int  #: of the drawing, in CSS pixels; type keeps its size, so a phone gets a drawing of its own.
    title: str  #: short text alternative.
    description: str  #: what it shows, in a sentence or two.

    @property
    def narrow(self) -> bool:
        """Whether the drawing is for phones."""
        return self.width < 460


def element(name: str, content: str = "", **attributes: object) -> str:
    """Return an element; ``content`` is SVG already, ``class_`` becomes ``class``, ``_`` becomes ``-``."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_value(value))}"' for key, value in attributes.items()
    )
    return f"<{name}{words}>{content}</{name}>" if content else f"<{name}{words}/>"


def text(x: float, y: float, words: str, **attributes: object) -> str:
    """Return a line of text at its baseline."""
    return element("text", escape(words), x=x, y=y, **attributes)


def tick(x: float, y: float, words: str, anchor: str = "middle") -> str:
    """Return what is written at an axis."""
    return text(x, y, words, class_="tick", text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str, **attributes: Any) -> str:
    """Return a rectangle from its upper left corner."""
    return element("rect", x=x, y=y, width=width, height=height, **attributes, class_=class_)


def circle(x: float, y: float, r: float, class_: str) -> str:
    """Return a disc around a point."""
    return element("circle", cx=x, cy=y, r=r, class_=class_)


def group(content: str, title: str) -> str:
    """Return a group with the tooltip of what is in it."""
    return element("g", element("title", escape(title)) + content)


def points_of(places: Iterable[Point]) -> str:
    """Return the ``points`` of a polyline or polygon."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def drawing(canvas: Canvas, height: float, content: str) -> str:
    """Return the whole ``<svg>``, an image with a name and a description."""
    title, description = f"{canvas.ident}-title", f"{canvas.ident}-desc"
    head = element("title", escape(canvas.title), id=title)
    head += element("desc", escape(canvas.description), id=description)
    return element(
        "svg",
        head + content,
        role="img",
        aria_labelledby=title,
        aria_describedby=description,
        class_="chart",
        viewBox=f"0 0 {canvas.width} {_value(height)}",
        width=canvas.width,
        height=height,
    )


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@frozen
class Row:
    """A row of a dot chart."""

    name: str  #: what it is.
    value: float  #: where its dot is.
    interval: Interval | None  #: its whiskers; None for none.
    start: float | None  #: where the bar that ends at the dot starts; None for no bar.
    mark: str  #: class of bar and dot: ``loss``, ``gain``, ``noise`` or ``plain``.
    shown: str  #: the value as text.
    aside: str = ""  #: further text behind it.
    hollow: bool = False  #: whether the dot is open: a figure of fewer images than the others.


@frozen
class Bar:
    """A bar from zero."""

    name: str
    value: float
    shown: str
    mark: str = "plain"


def waterfall(steps: Sequence[StepFigures], canvas: Canvas) -> str:
    """Draw each step's Top-1 with its interval and the step from the step before; agreement without labels."""
    return dots([_step_row(step) for step in steps], canvas)


def dots(rows: Sequence[Row], canvas: Canvas) -> str:
    """Draw rows of dots with whiskers on one percent axis that covers what there is."""
    narrow = canvas.narrow
    left, right = (0, 0) if narrow else (150, 168)
    top, step = 8, 58 if narrow else 42
    # Figures of a few images run out of the drawing rather than squeeze the others.
    ruling = [row for row in rows if not row.hollow] or rows
    bounds = [bound for row in ruling for bound in (row.value, row.start, *(row.interval or ()))]
    low, high, ticks = percent_axis([bound for bound in bounds if bound is not None], 3 if narrow else 5)
    inner = canvas.width - left - right - 16
    bottom = top + step * len(rows) + 4

    def x(value: float) -> float:
        return left + 8 + (value - low) / (high - low) * inner

    parts = []
    for index, value in enumerate(ticks):
        parts.append(line(x(value), top, x(value), bottom, "grid"))
        anchor = "middle"
        if narrow and index in (0, len(ticks) - 1):
            anchor = "start" if index == 0 else "end"
        parts.append(tick(x(value), bottom + 17, f"{value:g} %", anchor))
    y, before = top + (38 if narrow else 21), math.nan
    for row in rows:
        link = ""
        if row.start is not None and abs(row.start - before) < 1e-6:
            link = line(x(row.start), y - step + 6, x(row.start), y, "link")
        tip = f"{row.name}: {row.shown}" + (f", {row.aside.strip(' ·')}" if row.aside else "")
        marks = link + _dot(row, x, y, (low, high)) + _words(row, y, canvas, right)
        parts.append(group(marks, tip))
        y, before = y + step, row.value
    return drawing(canvas, bottom + 26, "".join(parts))


def bars(rows: Sequence[Bar], canvas: Canvas) -> str:
    """Draw bars from zero, a row each."""
    narrow = canvas.narrow
    left, right, step = (0, 78, 46) if narrow else (190, 96, 32)
    most = max((row.value for row in rows), default=0.0) or 1.0
    inner = canvas.width - left - right
    parts = []
    for index, row in enumerate(rows):
        y = step * index + (24 if narrow else 8)
        parts.append(text(0, y - 7 if narrow else y + 12.5, row.name, class_="name"))
        length = max(1.0, inner * row.value / most)
        parts.append(rect(left, y, length, 16, f"fill {row.mark}", rx=2))
        parts.append(text(left + length + 8, y + 12.5, row.shown, class_="value"))
    return drawing(canvas, step * len(rows) + 6, "".join(parts))


def split(first: int, second: int, canvas: Canvas) -> str:
    """Draw two counts as the parts of one bar; a part that is not empty stays visible."""
    total = max(1, first + second)
    width = canvas.width - 2
    least = 6.0
    share = width * first / total
    if second:
        share = min(share, width - least)
    if first:
        share = max(share, least)
    content = rect(1, 1, share, 18, "fill plain") if first else ""
    if second:
        gap = 2 if first else 0
        content += rect(1 + share + gap, 1, width - share - gap, 18, "fill loss")
    return drawing(canvas, 20, content)


def percent_axis(values: Sequence[float], most: int) -> tuple[float, float, tuple[float, ...]]:
    """Return the ends and the ticks of an axis of percentages: round steps, hardly more than ``most``."""
    low, high = min(values), max(values)
    span = max(high - low, 1.0)
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 25) if span / s <= most or s == 25)
    start = max(0.0, math.floor(low / step) * step)
    end = min(100.0, math.ceil(high / step) * step)
    if end - start < step:
        start = max(0.0, end - step)
    if end - start < step:
        end = start + step
    count = round((end - start) / step)
    return start, end, tuple(start + step * index for index in range(count + 1))


def _step_row(step: StepFigures) -> Row:
    (value, interval), change = step.figure, step.change
    marks = {"untested": "noise", "none": "plain"}
    return Row(
        name=step.title,
        value=value,
        interval=None if step.top1 is None and step.name == "float" else interval,
        start=None if change is None else value - change.points,
        mark="plain" if change is None else marks.get(change.judgement, change.judgement),
        shown=f"{value:.1f} %",
        aside=("" if change is None else signed(change.points, 1))
        + (f" · {counted(step.n, 'image')}" if step.sampled else ""),
        hollow=step.sampled,
    )


def _dot(row: Row, x: Callable[[float], float], y: float, axis: Interval) -> str:
    """Draw whiskers, the step that ends at the dot, and the dot; what is off the axis is cut or left out."""
    parts = []
    if row.interval is not None:
        ends = [min(max(bound, axis[0]), axis[1]) for bound in row.interval]
        parts.append(line(x(ends[0]), y, x(ends[1]), y, "whisker"))
        parts += [
            line(x(end), y - 5, x(end), y + 5, "whisker")
            for end, bound in zip(ends, row.interval, strict=True)
            if end == bound
        ]
    if row.start is not None and abs(row.start - row.value) > 1e-9 and not row.hollow:
        left, far = sorted((x(row.start), x(row.value)))
        parts.append(rect(left, y - 4.5, max(1.0, far - left), 9, f"step {row.mark}"))
    if axis[0] <= row.value <= axis[1]:
        parts.append(circle(x(row.value), y, 5, f"dot {row.mark}" + (" hollow" if row.hollow else "")))
    return "".join(parts)


def _words(row: Row, y: float, canvas: Canvas, right: int) -> str:
    """Write a row's name and figures: above it on a phone, else on its left and right."""
    tone = f"aside {row.mark}" if row.start is not None else "aside"
    if canvas.narrow:
        spans = element("tspan", row.shown, class_="value")
        spans += element("tspan", row.aside, class_=tone, dx=8) if row.aside else ""
        shown = element("text", spans, x=canvas.width, y=y - 17, text_anchor="end")
        return text(0, y - 17, row.name, class_="name") + shown
    start = canvas.width - right + 8
    shown = text(start, y + 4.5, row.shown, class_="value")
    if row.aside:
        shown += text(start + 70, y + 4.5, row.aside.removeprefix(" · "), class_=tone)
    return text(0, y + 4.5, row.name, class_="name") + shown


def front(tried: Sequence[TriedRecipe], bar_us: float, canvas: Canvas) -> str:
    """Draw every recipe as a dot, numbered as in the table; those that none beats are joined.

    Args:
        bar_us: latency that a recipe may take, microseconds; a dotted line.
    """
    narrow = canvas.narrow
    left, top, height = 52, 14, 220
    right = canvas.width - 24
    low, high, ticks = percent_axis([one.agreement for one in tried], 3 if narrow else 5)
    times = [one.latency_us for one in tried] + [bar_us]
    first, last = min(times), max(times)
    room = 0.08 * (last - first or last or 1.0)
    first, last = first - room, last + room

    def x(latency: float) -> float:
        return left + (latency - first) / (last - first) * (right - left)

    def y(agreement: float) -> float:
        return top + (high - agreement) / (high - low) * height

    bottom = top + height
    parts = []
    for value in ticks:
        parts.append(line(left, y(value), right, y(value), "grid"))
        parts.append(tick(left - 8, y(value) + 4, f"{value:g} %", "end"))
    parts.append(line(x(bar_us), top, x(bar_us), bottom, "link"))
    parts.append(tick(x(bar_us), bottom + 17, f"{bar_us:.0f} us"))
    fastest = min(one.latency_us for one in tried)
    if abs(x(fastest) - x(bar_us)) > 60:
        parts.append(tick(x(fastest), bottom + 17, f"{fastest:.0f} us"))
    joined = sorted((one for one in tried if one.on_front), key=lambda one: one.latency_us)
    if len(joined) > 1:
        places = points_of((x(one.latency_us), y(one.agreement)) for one in joined)
        parts.append(element("polyline", points=places, class_="link", fill="none"))
    for number, one in enumerate(tried, start=1):
        mark = "gain" if one.chosen else "plain" if one.on_front else "noise"
        words = f"{one.name}: {one.latency_us:.1f} us, {one.agreement:.2f} %"
        dot = circle(x(one.latency_us), y(one.agreement), 6, f"dot {mark}")
        tag = text(x(one.latency_us) + 9, y(one.agreement) - 7, str(number), class_="value")
        parts.append(group(dot + tag, words))
    return drawing(canvas, bottom + 26, "".join(parts))


# Cosines that are lines of the chart; its scale is logarithmic in 1 - cosine and ends here above.
GRADES = (0.0, 0.7, 0.9, 0.99, 0.999, 0.9999)
PERFECT = 1e-5
LEFT, RIGHT, TOP = 50, 10, 14


def depth(layers: Sequence[LayerRow], marked: Sequence[int], canvas: Canvas) -> str:
    """Draw each layer's cosine over the network's depth, the marked ones numbered in their order.

    Where there is a figure for the layer alone, it is drawn too, as an open diamond, and carries the number.
    """
    plot = _Plot(len(layers), max(1 - layer.cosine for layer in layers), canvas)
    places = [plot.point(index, layer.cosine) for index, layer in enumerate(layers)]
    parts = [_bands(layers, plot), plot.grid(), element("polyline", points=points_of(places), class_="trace")]
    for index, layer in enumerate(layers):
        if layer.alone_cosine is not None:
            parts.append(_diamond(plot.point(index, layer.alone_cosine), plot.radius))
    parts += [_mark(place, plot.radius, layer) for place, layer in zip(places, layers, strict=True)]
    taken: list[Point] = []
    for number, index in enumerate(marked, start=1):
        alone = layers[index].alone_cosine
        mark = places[index] if alone is None else plot.point(index, alone)
        taken.append(_free(mark, taken, plot.bottom))
        parts.append(_number(taken[-1], number))
    return drawing(canvas, plot.bottom + 34, "".join(parts))


def depths(first: Sequence[LayerRow], second: Sequence[LayerRow], canvas: Canvas) -> str:
    """Draw the same layers of two builds: A filled, B open."""
    plot = _Plot(len(first), max(1 - layer.cosine for layer in (*first, *second)), canvas)
    parts = [_bands(first, plot), plot.grid()]
    for layers, kind in ((first, "first"), (second, "second")):
        places = [plot.point(index, layer.cosine) for index, layer in enumerate(layers)]
        parts.append(element("polyline", points=points_of(places), class_=f"trace {kind}"))
        for (x, y), layer in zip(places, layers, strict=True):
            words = f"{layer.name}: {layer.dtype}, cosine {layer.cosine:.4f}"
            parts.append(group(circle(x, y, plot.radius, f"node {kind}"), words))
    return drawing(canvas, plot.bottom + 34, "".join(parts))


class _Plot:
    """Where a layer's mark goes."""

    def __init__(self, count: int, furthest: float, canvas: Canvas) -> None:
        self.canvas = canvas
        self.bottom = TOP + (236 if canvas.narrow else 268)
        self.step = (canvas.width - LEFT - RIGHT - 12) / count
        self.radius = 2.2 if count > 120 or canvas.narrow else 3.2
        self._worst = next((limit for limit in (0.01, 0.1, 0.3) if furthest <= limit), 1.0)

    def point(self, index: int, cosine: float) -> Point:
        return LEFT + 6 + self.step * (index + 0.5), self.y(cosine)

    def y(self, cosine: float) -> float:
        error = min(self._worst, max(PERFECT, 1 - cosine))
        return TOP + (self.bottom - TOP) * math.log(error / PERFECT) / math.log(self._worst / PERFECT)

    def grid(self) -> str:
        parts = [tick(LEFT - 7, self.y(1.0) + 4, "1", "end")]
        for grade in GRADES:
            if 1 - grade <= self._worst * 1.001:
                y = self.y(grade)
                parts.append(line(LEFT, y, self.canvas.width - RIGHT, y, "bar" if grade == 0.99 else "grid"))
                parts.append(tick(LEFT - 7, y + 4, f"{grade:g}", "end"))
        return "".join(parts)


def module_of(name: str) -> str:
    """Return the part of a network that a layer belongs to: ``stages.2`` of ``/stages/stages.2/blocks/…``."""
    parts = [part for part in name.split("/") if part] or [""]
    if len(parts) == 1:
        words = parts[0].split(".")
        parts = [words[0], ".".join(words[:2])]
    whole, numbered = parts[:2]
    head, _, number = numbered.rpartition(".")
    return numbered if head == whole != "stem" and number.isdecimal() else whole


def _bands(layers: Sequence[LayerRow], plot: _Plot) -> str:
    """Shade every second part of the network and name those that are wide enough."""
    runs = [(name, len(list(run))) for name, run in groupby(module_of(layer.name) for layer in layers)]
    below = plot.bottom + 24
    if len(runs) > max(12, len(layers) // 3):
        return tick(plot.canvas.width / 2, below, "layers, in order")
    parts, first = [], 0
    for number, (name, count) in enumerate(runs):
        left, width = LEFT + 6 + plot.step * first, plot.step * count
        first += count
        if number % 2:
            parts.append(rect(left, TOP, width, plot.bottom - TOP, "band"))
        shown = next((word for word in (name, name.rpartition(".")[2]) if width > 6.6 * len(word)), "")
        if shown:
            parts.append(tick(left + width / 2, below, shown))
    return "".join(parts)


def _mark(place: Point, r: float, layer: LayerRow) -> str:
    x, y = place
    words = f"{layer.name}: {layer.kind}, {layer.dtype} on the {layer.on}, cosine {layer.cosine:.4f}"
    if layer.alone_cosine is not None:
        words += f", alone {layer.alone_cosine:.4f}"
    if layer.on == "CPU":
        corners = ((x, y - 1.5 * r), (x + 1.4 * r, y + r), (x - 1.4 * r, y + r))
        shape = element("polygon", points=points_of(corners), class_="node cpu")
    elif layer.dtype == "int16":
        shape = rect(x - r, y - r, 2 * r, 2 * r, "node wide")
    else:
        shape = circle(x, y, r, "node")
    return group(shape, words)


def _diamond(place: Point, r: float) -> str:
    x, y = place
    corners = ((x, y - 1.3 * r), (x + 1.3 * r, y), (x, y + 1.3 * r), (x - 1.3 * r, y))
    return element("polygon", points=points_of(corners), class_="alone")


def _free(mark: Point, taken: Sequence[Point], bottom: float) -> Point:
    """Return a place for a number near a mark, off the numbers that are there already."""
    x, y = mark
    places = [(x, y + 15), (x, y - 15), (x, y + 32), (x, y - 32), (x - 17, y + 15), (x + 17, y + 15)]
    places = [place for place in places if 10 <= place[1] <= bottom - 8] or places
    for place in places:
        if all(math.dist(place, other) >= 16 for other in taken):
            return place
    return places[0]


def _number(place: Point, number: int) -> str:
    disc = circle(*place, 7.5, "badge")
    return disc + text(place[0], place[1] + 3.6, str(number), class_="badge", text_anchor="middle")
