"""Tables of ``edge models``: aligned columns of words and figures."""

from __future__ import annotations

from collections.abc import Sequence

import click

NONE = "-"


def print_table(rows: Sequence[Sequence[str]], *, left: int) -> None:
    """Print rows with aligned columns: the first ``left`` ones are words, the others figures."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def figure(value: float | None, form: str = "g") -> str:
    """Return a figure in a form of Python's, or a dash where there is none."""
    return NONE if value is None else format(value, form)
