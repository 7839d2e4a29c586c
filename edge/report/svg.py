"""The few SVG elements that the charts are made of; every text and attribute is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from attrs import frozen

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
