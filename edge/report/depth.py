"""The chart of layer similarity over a network's depth, of one build or of two."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edge.report.charts import NARROW, Frame, Point, drawing, element, group, line, points_of, text
from edge.report.contents import Layer

# Cosines that are lines of the chart; its scale is logarithmic in 1 - cosine and ends here above.
GRADES = (0.0, 0.7, 0.9, 0.99, 0.999, 0.9999)
PERFECT = 1e-5
LEFT, RIGHT, TOP = 50, 10, 14


def depth(layers: Sequence[Layer], marked: Sequence[int], frame: Frame) -> str:
    """Draw each layer's cosine over the network's depth, the marked ones numbered in their order.

    Where there is a figure for the layer alone, it is drawn too, as an open diamond, and carries the number.
    """
    plot = _Plot(len(layers), max(1 - layer.cosine for layer in layers), frame)
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
    return drawing(frame, plot.bottom + 34, "".join(parts))


def depths(first: Sequence[Layer], second: Sequence[Layer], frame: Frame) -> str:
    """Draw the same layers of two builds: A filled, B open."""
    plot = _Plot(len(first), max(1 - layer.cosine for layer in (*first, *second)), frame)
    parts = [_bands(first, plot), plot.grid()]
    for layers, kind in ((first, "first"), (second, "second")):
        places = [plot.point(index, layer.cosine) for index, layer in enumerate(layers)]
        parts.append(element("polyline", points=points_of(places), class_=f"trace {kind}"))
        for (x, y), layer in zip(places, layers, strict=True):
            dot = element("circle", cx=x, cy=y, r=plot.radius, class_=f"node {kind}")
            parts.append(group(dot, title=f"{layer.name}: {layer.dtype}, cosine {layer.cosine:.4f}"))
    return drawing(frame, plot.bottom + 34, "".join(parts))


class _Plot:
    """Where a layer's mark goes."""

    def __init__(self, count: int, furthest: float, frame: Frame) -> None:
        self.frame = frame
        self.bottom = TOP + (236 if frame.width < NARROW else 268)
        self.step = (frame.width - LEFT - RIGHT - 12) / count
        self.radius = 2.2 if count > 120 or frame.width < NARROW else 3.2
        self._worst = next((limit for limit in (0.01, 0.1, 0.3) if furthest <= limit), 1.0)

    def point(self, index: int, cosine: float) -> Point:
        return LEFT + 6 + self.step * (index + 0.5), self.y(cosine)

    def y(self, cosine: float) -> float:
        error = min(self._worst, max(PERFECT, 1 - cosine))
        return TOP + (self.bottom - TOP) * math.log(error / PERFECT) / math.log(self._worst / PERFECT)

    def grid(self) -> str:
        parts = [text(LEFT - 7, self.y(1.0) + 4, "1", class_="tick", text_anchor="end")]
        for grade in GRADES:
            if 1 - grade <= self._worst * 1.001:
                y = self.y(grade)
                parts.append(line(LEFT, y, self.frame.width - RIGHT, y, "bar" if grade == 0.99 else "grid"))
                parts.append(text(LEFT - 7, y + 4, f"{grade:g}", class_="tick", text_anchor="end"))
        return "".join(parts)


def module_of(name: str) -> str:
    """Return the part of a network that a layer belongs to: ``stages.2`` of ``/stages/stages.2/blocks/…``."""
    parts = [part for part in name.split("/") if part]
    if len(parts) == 1:
        words = parts[0].split(".")
        numbered = len(words) > 1 and words[1].isdecimal() and words[0] != "stem"
        return ".".join(words[:2]) if numbered else words[0]
    if len(parts) > 1 and parts[1].startswith(f"{parts[0]}."):
        return (
            parts[1] if parts[1].removeprefix(f"{parts[0]}.").isdecimal() and parts[0] != "stem" else parts[0]
        )
    return parts[0] if parts else ""


def _bands(layers: Sequence[Layer], plot: _Plot) -> str:
    """Shade every second part of the network and name those that are wide enough."""
    runs: list[tuple[str, int, int]] = []
    for index, layer in enumerate(layers):
        name = module_of(layer.name)
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1], index)
        else:
            runs.append((name, index, index))
    below = plot.bottom + 24
    if len(runs) > max(12, len(layers) // 3):
        return text(plot.frame.width / 2, below, "layers, in order", class_="tick", text_anchor="middle")
    parts = []
    for number, (name, first, last) in enumerate(runs):
        left, width = LEFT + 6 + plot.step * first, plot.step * (last - first + 1)
        if number % 2:
            height = plot.bottom - TOP
            parts.append(element("rect", x=left, y=TOP, width=width, height=height, class_="band"))
        shown = next((word for word in (name, name.rpartition(".")[2]) if width > 6.6 * len(word)), "")
        if shown:
            parts.append(text(left + width / 2, below, shown, class_="tick", text_anchor="middle"))
    return "".join(parts)


def _mark(place: Point, r: float, layer: Layer) -> str:
    x, y = place
    words = f"{layer.name}: {layer.kind}, {layer.dtype} on the {layer.on}, cosine {layer.cosine:.4f}"
    if layer.alone_cosine is not None:
        words += f", alone {layer.alone_cosine:.4f}"
    if layer.on == "CPU":
        corners = ((x, y - 1.5 * r), (x + 1.4 * r, y + r), (x - 1.4 * r, y + r))
        shape = element("polygon", points=points_of(corners), class_="node cpu")
    elif layer.dtype == "int16":
        shape = element("rect", x=x - r, y=y - r, width=2 * r, height=2 * r, class_="node wide")
    else:
        shape = element("circle", cx=x, cy=y, r=r, class_="node")
    return group(shape, title=words)


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
    disc = element("circle", cx=place[0], cy=place[1], r=7.5, class_="badge")
    return disc + text(place[0], place[1] + 3.6, str(number), class_="badge", text_anchor="middle")
