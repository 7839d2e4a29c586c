"""Charts as inline SVG: pure functions from figures to text. Colours are the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

from attrs import frozen

from edge.report.contents import Hop, Interval
from edge.report.search import Tried
from edge.report.wording import signed

Point = tuple[float, float]

NARROW = 460  # drawings below this width are for phones


@frozen
class Frame:
    """What a chart is, for those who see it and those who hear it.

    Attributes:
        ident: prefix of the ids in it, unique on the page.
        width: of the drawing, in CSS pixels; type keeps its size, so a phone gets a drawing of its own.
        title: short text alternative.
        description: what it shows, in a sentence or two.
    """

    ident: str
    width: int
    title: str
    description: str


def element(name: str, content: str = "", **attributes: object) -> str:
    """Return an element; ``content`` is SVG already, ``class_`` becomes ``class``, ``_`` becomes ``-``."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_value(value))}"' for key, value in attributes.items()
    )
    return f"<{name}{words}>{content}</{name}>" if content else f"<{name}{words}/>"


def text(x: float, y: float, words: str, **attributes: object) -> str:
    """Return a line of text at its baseline."""
    return element("text", escape(words), x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def group(content: str, *, title: str = "", class_: str = "") -> str:
    """Return a group; its title is the tooltip of what is in it."""
    inner = element("title", escape(title)) + content if title else content
    return element("g", inner, **({"class_": class_} if class_ else {}))


def points_of(places: Iterable[Point]) -> str:
    """Return the ``points`` of a polyline or polygon."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def drawing(frame: Frame, height: float, content: str) -> str:
    """Return the whole ``<svg>``, an image with a name and a description."""
    title, description = f"{frame.ident}-title", f"{frame.ident}-desc"
    head = element("title", escape(frame.title), id=title)
    head += element("desc", escape(frame.description), id=description)
    return element(
        "svg",
        head + content,
        role="img",
        aria_labelledby=title,
        aria_describedby=description,
        class_="chart",
        viewBox=f"0 0 {frame.width} {_value(height)}",
        width=frame.width,
        height=height,
    )


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@frozen
class Row:
    """A row of a dot chart.

    Attributes:
        name: what it is.
        value: where its dot is.
        interval: its whiskers; None for none.
        start: where the bar that ends at the dot starts; None for no bar.
        mark: class of bar and dot: ``loss``, ``gain``, ``noise`` or ``plain``.
        shown: the value as text.
        aside: further text behind it.
        hollow: whether the dot is open: a figure of fewer pictures than the others.
    """

    name: str
    value: float
    interval: Interval | None
    start: float | None
    mark: str
    shown: str
    aside: str = ""
    hollow: bool = False


@frozen
class Bar:
    """A bar from zero."""

    name: str
    value: float
    shown: str
    mark: str = "plain"


def waterfall(hops: Sequence[Hop], frame: Frame) -> str:
    """Draw each hop's Top-1 with its interval and the step from the hop before; agreement without labels."""
    return dots([_hop_row(hop) for hop in hops], frame)


def dots(rows: Sequence[Row], frame: Frame) -> str:
    """Draw rows of dots with whiskers on one percent axis that covers what there is."""
    narrow = frame.width < NARROW
    left, right = (0, 0) if narrow else (150, 168)
    top, step = 8, 58 if narrow else 42
    # Figures of a few pictures run out of the drawing rather than squeeze the others.
    ruling = [row for row in rows if not row.hollow] or rows
    bounds = [bound for row in ruling for bound in (row.value, row.start, *(row.interval or ()))]
    low, high, ticks = percent_axis([bound for bound in bounds if bound is not None], 3 if narrow else 5)
    inner = frame.width - left - right - 16
    bottom = top + step * len(rows) + 4

    def x(value: float) -> float:
        return left + 8 + (value - low) / (high - low) * inner

    parts = []
    for index, tick in enumerate(ticks):
        parts.append(line(x(tick), top, x(tick), bottom, "grid"))
        anchor = "middle"
        if narrow and index in (0, len(ticks) - 1):
            anchor = "start" if index == 0 else "end"
        parts.append(text(x(tick), bottom + 17, f"{tick:g} %", class_="tick", text_anchor=anchor))
    before: tuple[float, float] | None = None
    for index, row in enumerate(rows):
        y = top + step * index + (38 if narrow else 21)
        parts.append(_row(row, x, y, (low, high), before, frame, right))
        before = (row.value, y)
    return drawing(frame, bottom + 26, "".join(parts))


def bars(rows: Sequence[Bar], frame: Frame) -> str:
    """Draw bars from zero, a row each."""
    narrow = frame.width < NARROW
    left, right, step = (0, 78, 46) if narrow else (190, 96, 32)
    most = max((row.value for row in rows), default=0.0) or 1.0
    inner = frame.width - left - right
    parts = []
    for index, row in enumerate(rows):
        y = step * index + (24 if narrow else 8)
        parts.append(text(0, y - 7 if narrow else y + 12.5, row.name, class_="name"))
        length = max(1.0, inner * row.value / most)
        parts.append(element("rect", x=left, y=y, width=length, height=16, rx=2, class_=f"fill {row.mark}"))
        parts.append(text(left + length + 8, y + 12.5, row.shown, class_="value"))
    return drawing(frame, step * len(rows) + 6, "".join(parts))


def split(first: int, second: int, frame: Frame) -> str:
    """Draw two counts as the parts of one bar; a part that is not empty stays visible."""
    total = max(1, first + second)
    width = frame.width - 2
    least = 6.0
    share = width * first / total
    if second:
        share = min(share, width - least)
    if first:
        share = max(share, least)
    content = element("rect", x=1, y=1, width=share, height=18, class_="fill plain") if first else ""
    if second:
        gap = 2 if first else 0
        content += element(
            "rect", x=1 + share + gap, y=1, width=width - share - gap, height=18, class_="fill loss"
        )
    return drawing(frame, 20, content)


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


def _hop_row(hop: Hop) -> Row:
    value = hop.agreement if hop.top1 is None else hop.top1
    interval = hop.agreement_interval if hop.top1 is None else hop.top1_interval
    change = hop.change
    marks = {"loss": "loss", "gain": "gain", "noise": "noise", "untested": "noise", "none": "plain"}
    first = hop.name == "float"
    return Row(
        name=hop.title,
        value=value,
        interval=None if hop.top1 is None and first else interval,
        start=None if change is None else value - change.points,
        mark="plain" if change is None else marks[change.judgement],
        shown=f"{value:.1f} %",
        aside=("" if change is None else signed(change.points, 1))
        + (f" · {hop.n} pictures" if hop.sampled else ""),
        hollow=hop.sampled,
    )


def _row(
    row: Row,
    x: Callable[[float], float],
    y: float,
    axis: Interval,
    before: tuple[float, float] | None,
    frame: Frame,
    right: int,
) -> str:
    parts, narrow = [], frame.width < NARROW
    if before is not None and row.start is not None and abs(row.start - before[0]) < 1e-6:
        parts.append(line(x(row.start), before[1] + 6, x(row.start), y, "link"))
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
        width = max(1.0, far - left)
        parts.append(element("rect", x=left, y=y - 4.5, width=width, height=9, class_=f"step {row.mark}"))
    kind = f"dot {row.mark}" + (" hollow" if row.hollow else "")
    if axis[0] <= row.value <= axis[1]:
        parts.append(element("circle", cx=x(row.value), cy=y, r=5, class_=kind))
    tone = f"aside {row.mark}" if row.start is not None else "aside"
    words = f"{row.name}: {row.shown}" + (f", {row.aside.strip(' ·')}" if row.aside else "")
    if narrow:
        parts.append(text(0, y - 17, row.name, class_="name"))
        parts.append(
            element(
                "text",
                element("tspan", row.shown, class_="value")
                + (element("tspan", row.aside, class_=tone, dx=8) if row.aside else ""),
                x=frame.width,
                y=y - 17,
                text_anchor="end",
            )
        )
    else:
        parts.append(text(0, y + 4.5, row.name, class_="name"))
        start = frame.width - right + 8
        parts.append(text(start, y + 4.5, row.shown, class_="value"))
        if row.aside:
            parts.append(text(start + 70, y + 4.5, row.aside.removeprefix(" · "), class_=tone))
    return group("".join(parts), title=words)


def front(tried: Sequence[Tried], bar_us: float, frame: Frame) -> str:
    """Draw every recipe as a dot, numbered as in the table; those that none beats are joined.

    Args:
        tried: the recipes.
        bar_us: latency that a recipe may take, microseconds; a dotted line.
        frame: of the drawing.
    """
    narrow = frame.width < NARROW
    left, top, height = 52, 14, 220
    right = frame.width - 24
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
    for tick in ticks:
        parts.append(line(left, y(tick), right, y(tick), "grid"))
        parts.append(text(left - 8, y(tick) + 4, f"{tick:g} %", class_="tick", text_anchor="end"))
    parts.append(line(x(bar_us), top, x(bar_us), bottom, "link"))
    parts.append(text(x(bar_us), bottom + 17, f"{bar_us:.0f} us", class_="tick", text_anchor="middle"))
    fastest = min(tried, key=lambda one: one.latency_us)
    if abs(x(fastest.latency_us) - x(bar_us)) > 60:
        parts.append(
            text(
                x(fastest.latency_us),
                bottom + 17,
                f"{fastest.latency_us:.0f} us",
                class_="tick",
                text_anchor="middle",
            )
        )
    joined = sorted((one for one in tried if one.on_front), key=lambda one: one.latency_us)
    if len(joined) > 1:
        places = points_of((x(one.latency_us), y(one.agreement)) for one in joined)
        parts.append(element("polyline", points=places, class_="link", fill="none"))
    for number, one in enumerate(tried, start=1):
        mark = "gain" if one.chosen else "plain" if one.on_front else "noise"
        words = f"{one.name}: {one.latency_us:.1f} us, {one.agreement:.2f} %"
        dot = element("circle", cx=x(one.latency_us), cy=y(one.agreement), r=6, class_=f"dot {mark}")
        tag = text(x(one.latency_us) + 9, y(one.agreement) - 7, str(number), class_="value")
        parts.append(group(dot + tag, title=words))
    return drawing(frame, bottom + 26, "".join(parts))
