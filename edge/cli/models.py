"""``edge models``: what the zoo holds."""

from __future__ import annotations

import json

import cattrs
import click

from edge.cli.options import output_options

COLUMNS = ("model", "input", "weights", "Top-1 float", "Top-1 int8", "1 thread", "4 threads", "params")


@click.command("models", epilog="\b\nExamples:\n  edge models\n  edge models --json")
@output_options
def models_command(*, as_json: bool, verbose: bool) -> None:
    """List the models of the zoo, with the figures published for the board."""
    from edge.specs import Published, available_models, load_model

    specs = [load_model(name) for name in available_models()]
    if as_json:
        click.echo(json.dumps([cattrs.unstructure(spec) for spec in specs], indent=2))
        return
    rows = [COLUMNS]
    for spec in specs:
        sources = [name for name in ("timm", "vendor", "demo") if getattr(spec.sources, name)]
        published = spec.published or Published(source="")
        height, width = spec.preprocess.crop
        rows.append(
            (
                spec.name,
                f"{width}x{height}",
                ", ".join(sources),
                _figure(published.float_top1, "%"),
                _figure(published.int8_top1, "%"),
                _figure(published.latency_ms, "ms"),
                _figure(published.fps_4_threads, "FPS"),
                _figure(published.params_m, "M"),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if verbose:
        for spec in specs:
            click.echo(f"{spec.name}: {spec.sources.timm or '-'}; {spec.sources.vendor or '-'}")
    click.echo("Accuracy and speed as the board's vendor publishes them; edge build measures its own.")


def _figure(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:g} {unit}"
