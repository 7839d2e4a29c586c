"""Fill in the templates of the pages: autoescaped, charts drawn for two widths."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from attrs import frozen

from edge import __version__
from edge.report.svg import Frame
from edge.report.wording import MINUS, MISSING, judged, signed, size

if TYPE_CHECKING:
    import jinja2

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
