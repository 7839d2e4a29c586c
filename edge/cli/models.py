"""``edge models``: what the zoo holds, and what is known of it."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cattrs
import click

from edge.cli.display import Display
from edge.cli.options import complete_models, output_options
from edge.errors import GateError, UsageError

if TYPE_CHECKING:
    from edge.specs import ModelSpec
    from edge.survey import Checked, Counted

COLUMNS = (
    "model", "input", "weights", "Top-1", "Top-5", "int8", "GFLOPs", "M params", "ms", "FPS",
)  # fmt: skip
LEFT = 3  # columns of words, the others are figures
NONE = "-"
WIDTH = 110
PAGE_COMMAND = "edge models --page {page}"  # wherever the builds lie


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
@output_options
def models_command(
    *,
    names: tuple[str, ...],
    measure: bool,
    check_all: bool,
    page: Path | None,
    build_dir: Path,
    timeout: float,
    as_json: bool,
    verbose: bool,
) -> None:
    """List the models of the zoo with their published figures; all of them unless MODELs are named.

    A folder in EDGE_ZOO adds its YAML files to the zoo.
    """
    if measure + check_all + (page is not None) > 1:
        raise UsageError("--measure, --check-all and --page together", allowed="one of them")
    specs = chosen(names)
    if measure:
        _measure(specs, build_dir, timeout, as_json=as_json, verbose=verbose)
    elif check_all:
        _check_all(specs, build_dir, timeout, as_json=as_json, verbose=verbose)
    elif page is not None:
        _page(specs, page, build_dir)
    elif as_json:
        click.echo(json.dumps([cattrs.unstructure(spec) for spec in specs], indent=2))
    else:
        _list(specs, verbose=verbose)


def chosen(names: Sequence[str]) -> list[ModelSpec]:
    """Return the named models, or all; families together, small ones first."""
    from edge.specs import available_models, load_model

    specs = [load_model(name) for name in dict.fromkeys(names or available_models())]
    return specs if names else sorted(specs, key=_order)


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
        top1 = _figure(published.float_top1, ".2f")
        if published.accuracy_of:
            top1 += "*"
            others.append(f"* {spec.name}: of {published.accuracy_of}")
        rows.append(
            (
                spec.name,
                f"{width}x{height}",
                " ".join(sources) or NONE,
                top1,
                _figure(published.float_top5, ".2f"),
                _figure(published.int8_top1, ".2f"),
                _figure(published.gflops),
                _figure(published.params_m),
                _figure(published.latency_ms),
                _figure(published.fps_4_threads, ".2f"),
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


def _measure(
    specs: Sequence[ModelSpec], build_dir: Path, timeout: float, *, as_json: bool, verbose: bool
) -> None:
    from edge.survey import RECORDS, Record, compare, keep, load_records, measure_model, request_of

    load_records(build_dir / RECORDS)  # what can't be added to is told now
    found: list[tuple[ModelSpec, Counted]] = []
    for spec in specs:
        click.echo(f"{spec.name}", err=True)
        with Display(verbose=verbose) as display:
            counted = measure_model(request_of(spec, timeout=timeout * 60), build_dir, display)
        found.append((spec, counted))
        keep(build_dir / RECORDS, spec.name, Record(counted=counted))
    compared = {spec.name: compare(counted, spec.published) for spec, counted in found}
    if as_json:
        result = {
            spec.name: {
                "counted": cattrs.unstructure(counted),
                "compared": cattrs.unstructure(compared[spec.name]),
            }
            for spec, counted in found
        }
        click.echo(json.dumps(result, indent=2))
    else:
        rows: list[Sequence[str]] = [
            (
                "model",
                "input",
                "M params",
                "published",
                "%",
                "GMACs",
                "published",
                "%",
                "attention %",
                "beside %",
            )
        ]
        for spec, counted in found:
            published, told = spec.published, compared[spec.name]
            rows.append(
                (
                    spec.name,
                    f"{counted.width}x{counted.height}",
                    f"{counted.parameters / 1e6:.3f}",
                    _figure(published.params_m if published else None),
                    _figure(told.parameters, "+.2f"),
                    f"{counted.macs / 1e9:.3f}",
                    _figure(published.gflops if published else None),
                    _figure(told.macs, "+.2f"),
                    f"{100 * counted.attention / counted.macs:.2f}",
                    f"{100 * counted.other / counted.macs:.2f}",
                )
            )
        print_table(rows, left=2)
        for name, told in compared.items():
            if told.why:
                click.echo(f"{name}: {told.why}")
        click.echo(
            "MACs: multiply-accumulates of convolutions and matrix products, biases included, as one each;"
        )
        click.echo(
            'attention: those between two activations; "beside": operations of all else, which published'
        )
        click.echo(
            "counts of these families leave out (normalisation, activation functions, softmax, additions)."
        )
    unexplained = [name for name, told in compared.items() if not told.explained]
    if unexplained:
        raise GateError(
            f"{', '.join(unexplained)}: measured and published figures differ without a known reason",
            allowed="a difference of 2 %, or one that a count explains",
            remedy="look at the model's tag and its published figures in edge/zoo",
        )


def _check_all(
    specs: Sequence[ModelSpec], build_dir: Path, timeout: float, *, as_json: bool, verbose: bool
) -> None:
    from edge.survey import RECORDS, Record, check_model, keep, load_records, request_of

    load_records(build_dir / RECORDS)  # what can't be added to is told now
    found: dict[str, Checked] = {}
    started = time.monotonic()
    for number, spec in enumerate(specs, start=1):
        click.echo(f"{spec.name} ({number} of {len(specs)})", err=True)
        with Display(verbose=verbose) as display:
            checked = check_model(request_of(spec, timeout=timeout * 60), build_dir, display, found)
            display.finish()
        if checked.failed:
            click.echo(f"✗ {checked.failed}", err=True)
        found[spec.name] = checked
        keep(build_dir / RECORDS, spec.name, Record(checked=checked))
    bad = [name for name, checked in found.items() if not checked.passed]
    if as_json:
        click.echo(
            json.dumps({name: cattrs.unstructure(checked) for name, checked in found.items()}, indent=2)
        )
    else:
        rows: list[Sequence[str]] = [
            ("model", "", "ONNX nodes", "BPU", "CPU tail", "moved", "CPU inside", "seconds", "peak GB")
        ]
        for name, checked in found.items():
            figures = (NONE,) * 7
            if not checked.failed:
                figures = (
                    str(checked.nodes),
                    str(checked.bpu),
                    str(len(checked.tail)),
                    str(len(checked.moved)),
                    str(len(checked.inside)),
                    f"{checked.seconds:.0f}",
                    NONE if checked.peak_memory is None else f"{checked.peak_memory / 1e9:.2f}",
                )
            rows.append((name, "✓" if checked.passed else "✗", *figures))
        print_table(rows, left=2)
        if any(checked.moved for checked in found.values()):
            click.echo(
                "moved: by the model's recipe to the BPU; the checker is not told of it, a compile shows it"
            )
        for name in bad:
            checked = found[name]
            where = f"on the CPU inside the network: {', '.join(checked.inside)}"
            click.echo(f"{name}: {checked.failed or where}")
        click.echo(f"{len(found) - len(bad)} of {len(found)} passed in {time.monotonic() - started:.0f} s")
    if bad:
        raise GateError(
            f"{', '.join(bad)}: not on the BPU from end to end",
            allowed="every model exported and checked, with CPU nodes behind the last BPU node only",
            remedy=f"edge check {bad[0]} --weights random --verbose",
        )


def _page(specs: Sequence[ModelSpec], target: Path, build_dir: Path) -> None:
    from edge.atomic import disk_errors, write_text
    from edge.survey import Record, collect, load_records, page, save_records

    kept = target.with_suffix(".json")
    new = collect(build_dir, specs)
    records = load_records(kept)
    for name, record in new.items():
        records[name] = records.get(name, Record()).update(record)
    save_records(kept, records)
    with disk_errors(target.parent):
        write_text(target, page(specs, records, command=PAGE_COMMAND.format(page=target)))
    compiled = sum(records.get(spec.name, Record()).compiled is not None for spec in specs)
    click.echo(f"{target}: {len(specs)} models, {compiled} of them compiled; {len(new)} found in {build_dir}")


def print_table(rows: Sequence[Sequence[str]], *, left: int) -> None:
    """Print rows with aligned columns: the first ``left`` ones are words, the others figures."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _figure(value: float | None, form: str = "g") -> str:
    return NONE if value is None else format(value, form)
