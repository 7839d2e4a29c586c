"""Charts as inline SVG: pure functions from figures to text. Colours are the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from attrs import frozen

from edge.report.contents import Hop, Interval, Layer
from edge.report.svg import Frame, drawing, element, group, line, text
from edge.report.wording import signed

NARROW = 460  # drawings below this width put the names above the rows
# Cosines that are lines of the layer chart; its scale is logarithmic in 1 - cosine and ends here above.
GRADES = (0.0, 0.9, 0.99, 0.999, 0.9999)
PERFECT = 1e-5


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
    # Wide intervals of small samples run out of the drawing rather than squeeze the rest.
    low, high, ticks = percent_axis(
        [
            bound
            for row in rows
            for bound in (row.value, *(() if row.hollow else row.interval or ()), row.start or row.value)
        ],
        3 if narrow else 5,
    )
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


def depth(layers: Sequence[Layer], marked: Sequence[int], frame: Frame) -> str:
    """Draw each layer's cosine over the network's depth, the marked ones numbered in their order.

    Where there is a figure for the layer alone, it is drawn too, as an open diamond.
    """
    left, right, top, height = 50, 10, 14, 236 if frame.width < NARROW else 268
    inner = frame.width - left - right - 12
    furthest = max(1 - layer.cosine for layer in layers)
    worst = next((limit for limit in (0.01, 0.1) if furthest <= limit), 1.0)

    def x(index: int) -> float:
        return left + 6 + (inner * (index + 0.5) / len(layers))

    def y(cosine: float) -> float:
        error = min(worst, max(PERFECT, 1 - cosine))
        return top + height * math.log(error / PERFECT) / math.log(worst / PERFECT)

    parts = [_bands(layers, x, top, height, frame)]
    for grade in [grade for grade in GRADES if 1 - grade <= worst * 1.001]:
        parts.append(line(left, y(grade), frame.width - right, y(grade), "bar" if grade == 0.99 else "grid"))
        parts.append(text(left - 7, y(grade) + 4, f"{grade:g}", class_="tick", text_anchor="end"))
    parts.append(text(left - 7, y(1.0) + 4, "1", class_="tick", text_anchor="end"))
    path = [(x(index), y(layer.cosine)) for index, layer in enumerate(layers)]
    parts.append(element("polyline", points=_points(path), class_="trace"))
    radius = 2.2 if len(layers) > 120 or frame.width < NARROW else 3.2
    for index, layer in enumerate(layers):
        if layer.alone_cosine is not None:
            parts.append(_diamond(x(index), y(layer.alone_cosine), radius))
    for index, layer in enumerate(layers):
        parts.append(_mark(x(index), y(layer.cosine), radius, layer))
    taken: list[tuple[float, float]] = []
    for number, index in enumerate(marked, start=1):
        taken.append(_free(x(index), y(layers[index].cosine), taken, top + height))
        parts.append(_number(*taken[-1], number))
    return drawing(frame, top + height + 34, "".join(parts))


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


def module_of(name: str) -> str:
    """Return the part of a network that a layer belongs to: ``stages.2`` of ``/stages/stages.2/blocks/…``."""
    parts = [part for part in name.split("/") if part]
    if len(parts) == 1:
        words = parts[0].split(".")
        return ".".join(words[:2]) if len(words) > 1 and words[1].isdecimal() else words[0]
    if len(parts) > 1 and parts[1].startswith(f"{parts[0]}."):
        return (
            parts[1] if parts[1].removeprefix(f"{parts[0]}.").isdecimal() and parts[0] != "stem" else parts[0]
        )
    return parts[0] if parts else ""


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
    if row.start is not None and abs(row.start - row.value) > 1e-9:
        left, far = sorted((x(row.start), x(row.value)))
        width = max(1.0, far - left)
        parts.append(element("rect", x=left, y=y - 4.5, width=width, height=9, class_=f"step {row.mark}"))
    kind = f"dot {row.mark}" + (" hollow" if row.hollow else "")
    parts.append(element("circle", cx=x(row.value), cy=y, r=5, class_=kind))
    words = f"{row.name}: {row.shown}" + (f", {row.aside.strip(' ·')}" if row.aside else "")
    if narrow:
        parts.append(text(0, y - 17, row.name, class_="name"))
        parts.append(
            element(
                "text",
                element("tspan", row.shown, class_="value")
                + (element("tspan", row.aside, class_=f"aside {row.mark}", dx=8) if row.aside else ""),
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
            parts.append(text(start + 62, y + 4.5, row.aside.removeprefix(" · "), class_=f"aside {row.mark}"))
    return group("".join(parts), title=words)


def _bands(
    layers: Sequence[Layer], x: Callable[[int], float], top: float, height: float, frame: Frame
) -> str:
    """Shade every second stage of the network and name those that are wide enough."""
    runs: list[tuple[str, int, int]] = []
    for index, layer in enumerate(layers):
        name = module_of(layer.name)
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1], index)
        else:
            runs.append((name, index, index))
    if len(runs) > max(12, len(layers) // 3):
        return text(
            frame.width / 2, top + height + 24, "layers, in order", class_="tick", text_anchor="middle"
        )
    parts = []
    half = (x(1) - x(0)) / 2 if len(layers) > 1 else 10.0
    for number, (module, first, last) in enumerate(runs):
        name = module
        low, high = x(first) - half, x(last) + half
        if number % 2:
            parts.append(element("rect", x=low, y=top, width=high - low, height=height, class_="band"))
        if high - low <= 6.4 * len(name):
            name = name.rpartition(".")[2]
        if high - low > 6.4 * len(name):
            parts.append(text((low + high) / 2, top + height + 24, name, class_="tick", text_anchor="middle"))
    return "".join(parts)


def _mark(x: float, y: float, r: float, layer: Layer) -> str:
    words = f"{layer.name}: {layer.kind}, {layer.dtype} on the {layer.on}, cosine {layer.cosine:.4f}"
    if layer.alone_cosine is not None:
        words += f", alone {layer.alone_cosine:.4f}"
    if layer.on == "CPU":
        corners = ((x, y - 1.5 * r), (x + 1.4 * r, y + r), (x - 1.4 * r, y + r))
        shape = element("polygon", points=_points(corners), class_="node cpu")
    elif layer.dtype == "int16":
        shape = element("rect", x=x - r, y=y - r, width=2 * r, height=2 * r, class_="node wide")
    else:
        shape = element("circle", cx=x, cy=y, r=r, class_="node")
    return group(shape, title=words)


def _diamond(x: float, y: float, r: float) -> str:
    corners = ((x, y - 1.3 * r), (x + 1.3 * r, y), (x, y + 1.3 * r), (x - 1.3 * r, y))
    return element("polygon", points=_points(corners), class_="alone")


def _points(corners: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


def _free(x: float, y: float, taken: Sequence[tuple[float, float]], floor: float) -> tuple[float, float]:
    """Return a place for a number near a mark, off the numbers that are there already."""
    places = [(x, y + 15), (x, y - 15), (x, y + 32), (x, y - 32), (x - 17, y + 15), (x + 17, y + 15)]
    places = [place for place in places if 10 <= place[1] <= floor - 8] or places
    for place in places:
        if all(math.dist(place, other) >= 16 for other in taken):
            return place
    return places[0]


def _number(x: float, y: float, number: int) -> str:
    disc = element("circle", cx=x, cy=y, r=7.5, class_="badge")
    return disc + text(x, y + 3.6, str(number), class_="badge", text_anchor="middle")
