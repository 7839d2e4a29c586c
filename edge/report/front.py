"""The front of a precision search as inline SVG: latency to the right, agreement upwards."""

from __future__ import annotations

from collections.abc import Sequence

from edge.report.charts import percent_axis
from edge.report.search import Tried
from edge.report.svg import NARROW, Frame, drawing, element, group, line, points_of, text


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
