"""``edge board``: an RDK X5 over SSH."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from edge.cli.board_reach import (
    connect,
    find_program,
    folder_of,
    keep,
    make_target,
    now,
    published_figures,
    reach_options,
    read_facts,
    refuse_misfit,
    versions_of,
    where_kept,
    working_options,
)
from edge.cli.display import Display

if TYPE_CHECKING:
    from edge.board.compare import BoardAccuracy, Choice

HOST_HELP = (
    "HOST is user@host, host:port, or an alias of ~/.ssh/config; ssh logs in with your keys and agent."
)
EXAMPLES = {
    "check": ("edge board check root@192.168.127.10", "edge board check rdk ConvNeXt_atto"),
    "push": ("edge board push rdk ConvNeXt_atto", "edge board push rdk bundle/ --to /userdata/models/atto"),
    "perf": (
        "edge board perf rdk ConvNeXt_atto",
        "edge board perf rdk:2222 ConvNeXt_atto --frames 1000 --json",
    ),
    "run": (
        "edge board run rdk ConvNeXt_atto cheetah.jpg",
        "edge board run rdk ConvNeXt_atto *.jpg --compare none",
    ),
    "eval": ("edge board eval rdk ConvNeXt_atto --images val/ --count 500",),
}


def _epilog(verb: str) -> str:
    return f"{HOST_HELP}\n\n\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[verb])


@click.group("board", epilog="\b\nExamples:\n  edge board check rdk\n  edge board perf rdk ConvNeXt_atto")
def board_command() -> None:
    """Check an RDK X5 over SSH, copy programs to it, measure and run them there.

    MODEL is a build folder, a bundle, or a zoo name, which means build/NAME.
    """


@board_command.command(
    "check", short_help="Show what the board is and what it lacks.", epilog=_epilog("check")
)
@click.argument("host")
@click.argument("model", required=False)
@reach_options
def check_command(
    *, host: str, model: str | None, build_dir: Path, as_json: bool, verbose: bool, **reach: Any
) -> None:
    """Look at the board, and whether MODEL fits its runtime; exit with 1 if something can't work."""
    import cattrs

    from edge.board.findings import findings
    from edge.errors import GateError

    target = make_target(host, **reach)
    versions = None if model is None else versions_of(find_program(model, build_dir))
    with Display(verbose=verbose) as display:
        display.begin("check")
        with connect(target) as connection:
            facts = read_facts(connection)
        display.finish()
    found = findings(facts, versions)
    if as_json:
        program = None if versions is None else cattrs.unstructure(versions)
        listed = [cattrs.unstructure(finding) for finding in found]
        click.echo(
            json.dumps({"findings": listed, "board": cattrs.unstructure(facts), "program": program}, indent=2)
        )
    else:
        marks = {"ok": "✓", "warn": "!", "bad": "✗"}
        for finding in found:
            click.echo(f"{marks[finding.mark]} {finding.name:<12} {finding.seen}")
            if finding.remedy and (finding.mark != "ok" or verbose):
                click.echo(f"  {'':<12} next: {finding.remedy}")
    bad = [finding.name for finding in found if finding.mark == "bad"]
    if bad:
        raise GateError(f"{target.host} is not ready: {', '.join(bad)}")


@board_command.command("push", short_help="Copy MODEL there, checked by sha256.", epilog=_epilog("push"))
@click.argument("host")
@click.argument("model")
@click.option("--to", metavar="DIR", help="Folder on the board.  [default: edge/NAME in your home]")
@reach_options
def push_command(
    *, host: str, model: str, to: str | None, build_dir: Path, as_json: bool, verbose: bool, **reach: Any
) -> None:
    """Copy MODEL to the board; each file is checked there by its sha256 before it gets its name."""
    import cattrs

    from edge.board.transfer import push

    target, program = make_target(host, **reach), find_program(model, build_dir)
    with Display(verbose=verbose) as display:
        display.begin("push")
        with connect(target) as connection:
            refuse_misfit(read_facts(connection), program, display)
            pushed = push(connection, program, to, display)
        display.finish()
    if as_json:
        click.echo(json.dumps(cattrs.unstructure(pushed), indent=2))
        return
    for file in pushed.files:
        mark = "✓" if file.state == "sent" else "="
        click.echo(f"{mark} {file.name}  {file.bytes:,} bytes" + (" (unchanged)" if mark == "=" else ""))
    click.echo(f"in {target.host}:{pushed.directory}")


@board_command.command("perf", short_help="Measure speed with 1 and with 4 threads.", epilog=_epilog("perf"))
@click.argument("host")
@click.argument("model")
@click.option("--frames", type=click.IntRange(min=1), default=200, show_default=True, help="Of each run.")
@working_options
@reach_options
def perf_command(
    *,
    host: str,
    model: str,
    frames: int,
    to: str | None,
    timeout: float,
    build_dir: Path,
    as_json: bool,
    verbose: bool,
    **reach: Any,
) -> None:
    """Measure MODEL on the board with 1 and with 4 threads, beside the static and the published figures."""
    from edge.board.perf import measure
    from edge.board.record import read_manifest
    from edge.board.transfer import push
    from edge.cli.board_tables import perf_record, perf_table

    target, program = make_target(host, **reach), find_program(model, build_dir)
    manifest = read_manifest(folder_of(program)) or {}
    with Display(verbose=verbose) as display:
        display.begin("perf")
        with connect(target) as connection:
            facts = read_facts(connection)
            refuse_misfit(facts, program, display)
            pushed = push(connection, program, to, display)
            runs = measure(connection, pushed.bin, frames, timeout * 60, display)
        display.finish()
    entry = {"measured": now(), "frames": frames, **perf_record(runs)}
    kept = keep(program, facts, {"perf": entry})
    published, static = published_figures(program), manifest.get("static")
    if as_json:
        figures = {"perf": entry, "static": static, "published": published, "recorded": kept}
        click.echo(json.dumps(figures, indent=2))
        return
    click.echo(perf_table(entry, static, published))
    click.echo(where_kept(program, kept))


@board_command.command("run", short_help="Compare answers with the simulator's.", epilog=_epilog("run"))
@click.argument("host")
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("-k", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to show.")
@click.option(
    "--compare",
    type=click.Choice(["auto", "portable", "quantized", "none"]),
    default="auto",
    show_default=True,
    help="Simulator to compare with.",
)
@working_options
@reach_options
def run_command(
    *,
    host: str,
    model: str,
    images: tuple[str, ...],
    k: int,
    compare: str,
    to: str | None,
    timeout: float,
    build_dir: Path,
    as_json: bool,
    verbose: bool,
    **reach: Any,
) -> None:
    """Run pictures on the board and compare its answers with the simulator's.

    Exits with 1 if a simulator that computes the board's integers answers otherwise.
    """
    from edge.board.compare import answers, open_simulator, read_frames, require_preprocess
    from edge.board.transfer import push
    from edge.cli.board_tables import answer_lines, answer_record
    from edge.errors import GateError
    from edge.images import class_names

    target, program = make_target(host, **reach), find_program(model, build_dir)
    preprocess = require_preprocess(program)
    frames = read_frames(images, preprocess)
    labels = class_names(str(program.files["labels"])) if "labels" in program.files else None
    with Display(verbose=verbose) as display:
        display.begin("run")
        simulator = open_simulator(program.path, cast("Choice", compare), display)
        with connect(target) as connection:
            refuse_misfit(read_facts(connection), program, display)
            pushed = push(connection, program, to, display)
            found = list(
                answers(
                    connection,
                    pushed.bin,
                    preprocess.crop,
                    frames,
                    simulator=simulator,
                    count=len(frames),
                    limit=timeout * 60,
                    reporter=display,
                )
            )
        display.finish()
    info = simulator.info if simulator else None
    if simulator is not None:
        simulator.close()
    if as_json:
        records = [answer_record(name, found[i], labels, k) for i, name in enumerate(images)]
        backend = {"backend": info.backend, "exact": info.exact} if info else None
        click.echo(json.dumps({"simulator": backend, "pictures": records}, indent=2))
    else:
        for name, answer in zip(images, found, strict=True):
            click.echo("\n".join(answer_lines(name, answer, labels, k, info)))
    differing = [name for name, answer in zip(images, found, strict=True) if answer.same_top1 is False]
    if info is not None and info.exact and differing:
        raise GateError(
            f"the board and the simulator give other classes for {len(differing)} of {len(images)} pictures, "
            f"such as {differing[0]}",
            remedy=f"edge board check {host} {model}   compares the versions",
        )


@board_command.command("eval", short_help="Measure Top-1 there and in the simulator.", epilog=_epilog("eval"))
@click.argument("host")
@click.argument("model")
@click.option("--images", required=True, help="Pictures: a folder, list file, labels.csv or demo:test.")
@click.option("--count", type=click.IntRange(min=0), default=500, show_default=True, help="Of them; 0: all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of pictures.")
@click.option(
    "--compare",
    type=click.Choice(["auto", "portable", "quantized", "none"]),
    default="auto",
    show_default=True,
    help="Simulator to compare with.",
)
@working_options
@reach_options
def eval_command(
    *,
    host: str,
    model: str,
    images: str,
    count: int,
    seed: int,
    compare: str,
    to: str | None,
    timeout: float,
    build_dir: Path,
    as_json: bool,
    verbose: bool,
    **reach: Any,
) -> None:
    """Measure Top-1 on the board, and in the simulator on the same pictures."""
    from edge.board.compare import measure_accuracy, open_simulator, require_preprocess
    from edge.board.transfer import push
    from edge.cli.board_tables import accuracy_record, accuracy_table
    from edge.images import class_names, open_images, sample

    target, program = make_target(host, **reach), find_program(model, build_dir)
    preprocess = require_preprocess(program)
    assert program.metadata is not None  # noqa: S101 - require_preprocess looked
    classes = program.metadata.classes
    labels = class_names(str(program.files["labels"])) if "labels" in program.files else None
    pictures = open_images(images, classes=labels or classes, count=count or None, seed=seed)
    if count:
        pictures = sample(pictures, count, seed)
    with Display(verbose=verbose) as display:
        display.begin("eval")
        simulator = open_simulator(program.path, cast("Choice", compare), display)
        with connect(target) as connection:
            facts = read_facts(connection)
            refuse_misfit(facts, program, display)
            pushed = push(connection, program, to, display)
            result: BoardAccuracy = measure_accuracy(
                connection,
                pushed.bin,
                preprocess,
                classes,
                pictures,
                simulator=simulator,
                limit=timeout * 60,
                reporter=display,
            )
        display.finish()
    info = simulator.info if simulator else None
    if simulator is not None:
        simulator.close()
    entry = {"measured": now(), **accuracy_record(result, info)}
    kept = keep(program, facts, {"accuracy": entry})
    if as_json:
        click.echo(json.dumps({"accuracy": entry, "recorded": kept}, indent=2))
        return
    click.echo(accuracy_table(entry))
    click.echo(where_kept(program, kept))
