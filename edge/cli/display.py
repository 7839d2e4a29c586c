"""What verbs show: tables, and live progress on stderr, a line a stage, with the compiler's percentage."""

from __future__ import annotations

import io
import textwrap
import time
from collections.abc import Collection, Sequence
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from edge.errors import shown

NAME_WIDTH = 10
QUIET_SECONDS = 10.0  # without a terminal progress is a line now and then, so that logs stay short
UNBOUNDED = 10_000  # columns of a table's console: a line is as long as its words, whatever the terminal


def table(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,), heading: bool = True) -> list[str]:
    """Return the lines of a table, two spaces between its columns, none at the ends of lines.

    Args:
        rows: cells as they are shown; each row has as many as the first.
        left: numbers of the columns of words; the others hold figures and keep to the right.
        heading: whether the first row is a heading: bold, where the output is a terminal.
    """
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for column in range(len(rows[0])):
        grid.add_column(justify="left" if column in left else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=UNBOUNDED, color_system=None)
    with console.capture() as captured:
        console.print(grid)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return [click.style(lines[0], bold=True), *lines[1:]] if heading else lines


def examples(lines: Sequence[str]) -> str:
    """Return the end of a verb's help, as click leaves it: a command a line, a long one over several."""
    fold = textwrap.TextWrapper(
        74, initial_indent="  ", subsequent_indent="      ", break_long_words=False, break_on_hyphens=False
    )
    shown = (" \\\n".join(fold.wrap(line)) for line in lines)
    return "\b\nExamples:\n" + "\n".join(shown)


class Display:
    """A pipeline listener that shows stages as they go."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._verbose = verbose
        self._stage = ""
        self._started = 0.0
        self._last_text = ""
        self._last_shown = 0.0
        self._task: TaskID | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[stage]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        self._progress.stop()
        # Of an interruption one line tells, and that is the command's.
        if error is not None and self._stage and not isinstance(error, KeyboardInterrupt):
            self._print("✗", self._stage, time.monotonic() - self._started, "failed", "red")

    def begin(self, stage: str) -> None:
        """Start the line of a stage."""
        self._clear()
        self._stage, self._started = stage, time.monotonic()
        self._last_text, self._last_shown = "", self._started
        self._task = self._progress.add_task("", total=None, stage=f"{stage:<{NAME_WIDTH}}")

    def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
        """Replace the stage's live line by what came of it."""
        self._clear()
        self._stage = ""
        mark, style = ("=", "dim") if cached else ("✓", "green")
        self._print(mark, stage, seconds, note + (" (unchanged)" if cached else ""), style)

    def finish(self) -> None:
        """Take the live line away without a word."""
        self._clear()
        self._stage = ""

    def update(self, text: str, fraction: float | None = None) -> None:
        """Show a step."""
        if self._task is not None:
            total = None if fraction is None else 1.0
            self._progress.update(self._task, description=text, total=total, completed=fraction or 0.0)
        if self._verbose and text != self._last_text:
            self._console.print(Text(f"  {self._stage or 'edge'}: {text}", style="dim"))
        elif not self._console.is_terminal and fraction is not None:
            now = time.monotonic()
            if now - self._last_shown >= QUIET_SECONDS:
                self._last_shown = now
                self._console.print(f"  {self._stage or 'edge':<{NAME_WIDTH}} {fraction:4.0%}  {text}")
        self._last_text = text

    def warn(self, message: str) -> None:
        """Show a warning that stays."""
        self._console.print(Text(f"! {shown(message)}", style="yellow"))

    def _clear(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def _print(self, mark: str, stage: str, seconds: float, note: str, style: str) -> None:
        line = Text(f"{mark} {stage:<{NAME_WIDTH}} {seconds:7.1f} s  ", style=style)
        self._console.print(line + Text(note, style="" if style != "dim" else "dim"))
