"""``edge models``: what the zoo holds, and what is known of it."""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cattrs
import click

from edge.cli.models_table import NONE, figure, print_table
from edge.cli.options import complete_models, output_options
from edge.errors import UsageError

if TYPE_CHECKING:
    from edge.specs import ModelSpec

COLUMNS = (
    "model", "input", "weights", "Top-1", "Top-5", "int8", "GFLOPs", "M params", "ms", "FPS",
)  # fmt: skip
LEFT = 3  # columns of words, the others are figures
WIDTH = 110
YAMLS = (".yaml", ".yml")


@click.command(
    "models",
    epilog="\b\nExamples:\n  edge models\n  edge models --json\n  edge models --measure ConvNeXt_atto\n"
    "  edge models --check-all\n  edge models --page docs/models.md",
)
@click.argument("names", metavar="[MODEL]...", nargs=-1, shell_complete=complete_models)
@click.option("--measure", is_flag=True, help="Export with random weights; count parameters and MACs.")
@click.option("--check-all", is_flag=True, help="Export, simplify and check; fail unless all is on the BPU.")
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page about all models from what was built; the figures are kept beside it as JSON.",
)
@click.option("--build-dir", type=click.Path(path_type=Path), default=Path("build"), show_default=True)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.01),
    default=60.0,
    show_default=True,
    help="Minutes that one run of the compiler may take.",
)
@click.option("--any-memory", is_flag=True, help="Check even where the free memory is foretold not to do.")
@output_options
def models_command(
    *,
    names: tuple[str, ...],
    measure: bool,
    check_all: bool,
    page: Path | None,
    build_dir: Path,
    timeout: float,
    any_memory: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """List the models of the zoo with their published figures; all of them unless MODELs are named.

    A folder in EDGE_ZOO adds its YAML files to the zoo. With --page, MODELs say whose figures are renewed.
    """
    if measure + check_all + (page is not None) > 1:
        raise UsageError("--measure, --check-all and --page together", allowed="one of them")
    if page is not None and page.suffix.lower() != ".md":
        raise UsageError(
            f"--page {page}",
            allowed="a file that ends in .md: its figures are kept beside it in one that ends in .json",
            remedy=f"edge models --page {page.with_suffix('.md')}",
        )
    typed = named(names)
    if measure or check_all or page is not None:
        from edge.cli.models_survey import Survey

        survey = Survey(
            typed,
            build_dir,
            timeout=timeout * 60,
            any_memory=any_memory,
            as_json=as_json,
            verbose=verbose,
        )
        if measure:
            survey.measure()
        elif check_all:
            survey.check_all()
        elif page is not None:
            survey.page(page, everything=not names)
    elif as_json:
        click.echo(json.dumps([cattrs.unstructure(spec) for spec in typed.values()], indent=2))
    else:
        _list(list(typed.values()), verbose=verbose)


def named(names: Sequence[str]) -> dict[str, ModelSpec]:
    """Return the models by what names them; without names all, families together, small ones first.

    Raises:
        UsageError: no such model, or two of one name.
        SpecError: a YAML breaks the schema.
    """
    from edge.specs import available_models, load_model

    known = available_models()
    found: dict[str, ModelSpec] = {}
    by_name: dict[str, str] = {}
    for typed in dict.fromkeys(names or known):
        own = Path(typed).suffix.lower() in YAMLS
        if not own and typed.lower() not in map(str.lower, known):
            raise _no_model(typed, known)
        spec = load_model(typed)
        if spec.name not in by_name:
            by_name[spec.name] = typed
            found[typed] = spec
        elif spec != found[by_name[spec.name]]:
            raise UsageError(
                f"{by_name[spec.name]} and {typed} are both named {spec.name}",
                allowed="one model of a name: its build folder and its figures go by it",
                remedy=f"give one of them another name, or take one at a time: edge models {typed}",
            )
    return found if names else dict(sorted(found.items(), key=lambda item: _order(item[1])))


def _no_model(typed: str, known: Sequence[str]) -> UsageError:
    allowed = "the names that edge models lists; or a path ending in .yaml"
    path = Path(typed)
    if path.suffix and path.exists():
        return UsageError(
            f"edge models takes models that a YAML describes, and {typed} is none",
            allowed=allowed,
            remedy=f"edge check {typed}   looks at a file of yours",
        )
    lower = {name.lower(): name for name in known}
    close = [lower[name] for name in difflib.get_close_matches(typed.lower(), lower, n=4, cutoff=0.5)]
    return UsageError(
        f"no model is called {typed!r}",
        allowed=allowed + (f"; close ones: {', '.join(close)}" if close else ""),
        remedy=f"edge models {close[0]}" if close else "edge models",
    )


def _order(spec: ModelSpec) -> tuple[str, tuple[int, int], float, str]:
    size = spec.published.params_m if spec.published else None
    return spec.name.partition("_")[0].lower(), spec.preprocess.crop, size or 0.0, spec.name


def _list(specs: Sequence[ModelSpec], *, verbose: bool) -> None:
    from edge.specs import Published
    from edge.specs.schema import OWN_FILES

    rows: list[Sequence[str]] = [COLUMNS]
    others = []
    for spec in specs:
        sources = [name for name in ("timm", "vendor", "demo", *OWN_FILES) if getattr(spec.sources, name)]
        published = spec.published or Published(source="")
        height, width = spec.preprocess.crop
        top1 = figure(published.float_top1, ".2f")
        if published.accuracy_of:
            top1 += "*"
            others.append(f"* {spec.name}: of {published.accuracy_of}")
        rows.append(
            (
                spec.name,
                f"{width}x{height}",
                " ".join(sources) or NONE,
                top1,
                figure(published.float_top5, ".2f"),
                figure(published.int8_top1, ".2f"),
                figure(published.gflops),
                figure(published.params_m),
                figure(published.latency_ms),
                figure(published.fps_4_threads, ".2f"),
            )
        )
    print_table(rows, left=LEFT)
    for line in others:
        glued = line.replace(" %", "\u00a0%")  # a figure and its unit stay on one line
        click.echo(textwrap.fill(glued, WIDTH, subsequent_indent="  ").replace("\u00a0", " "))
    if verbose:
        for spec in specs:
            click.echo(f"{spec.name}: {spec.sources.timm or NONE}; {spec.sources.vendor or NONE}")
    click.echo(
        "Published figures: Top-1, Top-5 of the float network, and int8 Top-1 in %; ms (1 thread) and FPS"
    )
    click.echo("(4 threads) on the board. edge build measures its own.")
