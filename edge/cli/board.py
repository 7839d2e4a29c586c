"""``edge board``: an RDK X5 over SSH."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from edge.cli.display import Display
from edge.cli.options import output_options

if TYPE_CHECKING:
    from edge.board import Connection, Target
    from edge.board.compare import Answer
    from edge.board.findings import ProgramVersions
    from edge.board.probe import Facts
    from edge.evaluate import Score
    from edge.runtime import Info
    from edge.runtime.program import Program
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cattrs
import numpy as np

from edge.board.compare import BoardAccuracy
from edge.board.infer import CORE, Measured
from edge.runtime.net import probabilities

if TYPE_CHECKING:
    from edge.board.compare import BoardAccuracy, Choice


F = TypeVar("F", bound=Callable[..., Any])


def reach_options(function: F) -> F:
    """Add what says how to reach the board, and how to speak."""
    function = output_options(function)
    for option in reversed(
        (
            click.option("-p", "--port", type=int, help="Port of the board's ssh server."),
            click.option("-i", "--identity", type=click.Path(path_type=Path), help="File of a private key."),
            click.option(
                "--ssh-option",
                "ssh_options",
                multiple=True,
                metavar="KEY=VALUE",
                help="Passed on to ssh as -o.",
            ),
            click.option(
                "--build-dir", type=click.Path(path_type=Path), default=Path("build"), show_default=True
            ),
        )
    ):
        function = option(function)
    return function


def working_options(function: F) -> F:
    """Add the options of verbs that run something on the board."""
    for option in reversed(
        (
            click.option(
                "--to", metavar="DIR", help="Folder on the board.  [default: edge/NAME in your home]"
            ),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0.01),
                default=10.0,
                show_default=True,
                help="Minutes that one command on the board may take.",
            ),
        )
    ):
        function = option(function)
    return function


def make_target(
    host: str, *, port: int | None, identity: Path | None, ssh_options: tuple[str, ...]
) -> Target:
    """Return where the board is, from the options."""
    from edge.board import Target

    return Target.parse(host, port, identity, ssh_options)


def connect(target: Target) -> Connection:
    """Return the connection, to be used in a ``with``."""
    from edge.board import Connection

    return Connection(target)


def read_facts(connection: Connection) -> Facts:
    """Ask the board what it is."""
    from edge.board.probe import probe

    return probe(connection)


def find_program(model: str, build_dir: Path) -> Program:
    """Return the program that MODEL means: a path, or a name under the build folder."""
    from edge.runtime.program import locate

    path = Path(model).expanduser()
    return locate(path if path.exists() or not (build_dir / model).exists() else build_dir / model)


def folder_of(program: Program) -> Path:
    """Return the folder that the program lies in."""
    return program.path if program.path.is_dir() else program.path.parent


def versions_of(program: Program) -> ProgramVersions:
    """Return what the program says of its making."""
    from edge.board.findings import program_versions
    from edge.board.transfer import require_bin

    return program_versions(require_bin(program))


def refuse_misfit(facts: Facts, program: Program, display: Display) -> None:
    """Raise where the program can't work on the board."""
    from edge.board.findings import require

    require(facts, versions_of(program), display)


def keep(program: Program, facts: Facts, entries: dict[str, object]) -> bool:
    """Write figures into the manifest, with what the board is; return whether there is one."""
    from edge.board.transfer import record
    from edge.files import sha256_of

    versions = facts.versions
    about = {"soc": facts.soc, "os": facts.os, "dnn": versions.dnn, "hbrt": versions.hbrt}
    return record(folder_of(program), sha256_of(program.files["bin"]), {"about": about, **entries})


def published_figures(program: Program) -> dict[str, Any] | None:
    """Return what others published of the same zoo model; None where nobody did."""
    import cattrs

    from edge.errors import UsageError
    from edge.specs import load_model

    if program.metadata is None:
        return None
    try:
        published = load_model(program.metadata.model).published
    except UsageError:  # the user's own model
        return None
    return None if published is None else cast("dict[str, Any]", cattrs.unstructure(published))


def where_kept(program: Program, kept: bool) -> str:
    """Say where the figures went."""
    where = folder_of(program) / "manifest.json"
    return f"recorded in {where}" if kept else f"not recorded: {where.parent} has no manifest.json"


def now() -> str:
    """Return the time, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def perf_record(runs: Sequence[Measured]) -> dict[str, Any]:
    """Return the runs as JSON."""
    return {
        "core_id": CORE,
        "runs": [
            {
                **cattrs.unstructure(run.run),
                "threads": run.threads,
                "profile": cattrs.unstructure(run.profile),
                "before": cattrs.unstructure(run.before),
                "after": cattrs.unstructure(run.after),
            }
            for run in runs
        ],
    }


def perf_table(
    perf: Mapping[str, Any], static: Mapping[str, Any] | None, published: Mapping[str, Any] | None
) -> str:
    """Return the figures of the board beside the others."""
    runs = perf["runs"]
    rows = [["", *(f"{run['threads']} thread{'s' * (run['threads'] > 1)}" for run in runs)]]
    rows.append(["latency", *(f"{run['latency_ms']:.3f} ms" for run in runs)])
    rows.append(["  fastest, slowest", *(_range(run) for run in runs)])
    rows.append(["  of it BPU, CPU", *(_shares(run["profile"]) for run in runs)])
    rows.append(["throughput", *(f"{run['fps']:.2f} FPS" for run in runs)])
    if published:
        latency, fps = published["latency_ms"], published["fps_4_threads"]
        figures = [f"{latency} ms" if latency else "-", f"{fps} FPS" if fps else "-"]
        rows.append(["published", *figures])
    rows.append(["temperature", *(_temperature(run) for run in runs)])
    rows.append(["BPU clock", *(_clock(run["after"]) for run in runs)])
    rows = [row for row in rows if any(cell != "-" for cell in row[1:])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    if static:
        lines.append(
            f"static: {static['latency_us'] / 1000:.3f} ms, {static['fps']:.2f} FPS "
            "(the compiler's figure for the BPU part alone)"
        )
    if published:
        lines.append(f"published by: {published['source']}")
    return "\n".join(lines)


def answer_record(name: str, answer: Answer, labels: Sequence[str] | None, k: int) -> dict[str, Any]:
    """Return the answer for one picture as JSON."""
    best = [{"class": c, "label": label, "probability": p} for c, label, p in _best(answer, labels, k)]
    return {"picture": name, "best": best, "max_abs_diff": answer.max_abs_diff, "same_top1": answer.same_top1}


def answer_lines(
    name: str, answer: Answer, labels: Sequence[str] | None, k: int, info: Info | None
) -> list[str]:
    """Return the answer for one picture as lines."""
    lines = [name, *(f"  {chance:.4f}  {label}" for _, label, chance in _best(answer, labels, k))]
    if info is not None and answer.max_abs_diff is not None:
        same = "same class" if answer.same_top1 else "another class"
        kind = "the same integers" if info.exact else "an estimate"
        lines.append(f"  {info.backend} ({kind}): {same}, largest difference {answer.max_abs_diff:.3g}")
    return lines


def accuracy_record(result: BoardAccuracy, info: Info | None) -> dict[str, Any]:
    """Return the result as JSON; shares in percent."""
    return {
        "dataset": result.dataset,
        "dataset_sha256": result.dataset_sha256,
        "n": result.n,
        "board": _score(result.board),
        "simulator": _score(result.simulator),
        "backend": info.backend if info else None,
        "exact": info.exact if info else None,
        "agreement": None if result.agreement is None else round(100 * result.agreement / result.n, 4),
        "max_abs_diff": result.max_abs_diff,
        "cosine": None if result.cosine is None else round(result.cosine, 6),
        "unreadable": list(result.unreadable),
    }


def accuracy_table(entry: Mapping[str, Any]) -> str:
    """Return the result as lines, from its record."""
    rows = []
    for title, key in (("Top-1", "top1"), ("Top-5", "top5")):
        cells = [
            f"{side} {entry[side][key]:.2f} % [{entry[side][key + '_interval'][0]:.1f}, "
            f"{entry[side][key + '_interval'][1]:.1f}]"
            for side in ("board", "simulator")
            if entry[side]
        ]
        if cells:
            rows.append((title, ", ".join(cells)))
    if entry["agreement"] is not None:
        kind = "the same integers" if entry["exact"] else "an estimate"
        rows.append(
            (
                "agreement",
                f"{entry['agreement']:.2f} % same class as {entry['backend']} ({kind}), "
                f"largest difference {entry['max_abs_diff']:.3g}",
            )
        )
    rows.append(("measured on", f"n = {entry['n']}, {entry['dataset']}"))
    return "\n".join(f"{name:<12} {text}" for name, text in rows)


def _score(score: Score | None) -> dict[str, Any] | None:
    if score is None:
        return None
    return {
        "top1": round(score.top1, 4),
        "top5": round(score.top5, 4),
        "top1_interval": [round(bound, 2) for bound in score.top1_interval],
        "top5_interval": [round(bound, 2) for bound in score.top5_interval],
    }


def _best(answer: Answer, labels: Sequence[str] | None, k: int) -> list[tuple[int, str, float]]:
    chances = probabilities(answer.board)
    best = [int(index) for index in np.argsort(-chances, kind="stable")[:k]]
    return [(i, labels[i] if labels and i < len(labels) else str(i), float(chances[i])) for i in best]


def _range(run: Mapping[str, Any]) -> str:
    low, high = run["latency_min_ms"], run["latency_max_ms"]
    return "-" if low is None or high is None else f"{low:.3f}, {high:.3f} ms"


def _shares(profile: Mapping[str, Any] | None) -> str:
    if profile is None or profile["bpu_ms"] is None or profile["cpu_ms"] is None:
        return "-"
    return f"{profile['bpu_ms']:.3f}, {profile['cpu_ms']:.3f} ms"


def _temperature(run: Mapping[str, Any]) -> str:
    before, after = (max(run[when]["temperatures"].values(), default=None) for when in ("before", "after"))
    return "-" if before is None or after is None else f"{before:.1f} → {after:.1f} °C"


def _clock(state: Mapping[str, Any]) -> str:
    return f"{state['bpu_mhz']:.0f} MHz" if state["bpu_mhz"] else "-"


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
    from edge.board.infer import measure
    from edge.board.transfer import push, read_manifest

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
