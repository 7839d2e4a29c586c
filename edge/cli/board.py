"""``edge board``: an RDK X5 over SSH."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from attrs import frozen

from edge.cli.display import Display, examples
from edge.cli.options import (
    FROM_1,
    PATH,
    Number,
    build_dir_option,
    count_option,
    label_offset_option,
    option,
    output_options,
    seed_option,
    top_option,
)
from edge.cli.program import describe_scores, output_lines, value_name
from edge.cli.verb import VerbGroup
from edge.errors import UsageError, counted

if TYPE_CHECKING:
    from edge.board import Connection, Target
    from edge.board.compare import Answer, Choice
    from edge.board.findings import Check
    from edge.board.probe import Facts
    from edge.board.transfer import Pushed
    from edge.runtime import Info, Net
    from edge.runtime.program import Program
    from edge.specs.schema import Output, ScoreKind

F = TypeVar("F", bound=Callable[..., Any])

HOST_HELP = "HOST is user@host, host:port, or an alias of ~/.ssh/config; ssh logs in with your keys and agent."
EXAMPLES = {
    "check": ("edge board check root@192.168.127.10", "edge board check rdk ConvNeXt_atto"),
    "push": ("edge board push rdk ConvNeXt_atto", "edge board push rdk bundle/ --to /userdata/models/atto"),
    "perf": ("edge board perf rdk ConvNeXt_atto", "edge board perf rdk:2222 ConvNeXt_atto --frames 1000 --json"),
    "run": ("edge board run rdk ConvNeXt_atto cheetah.jpg", "edge board run rdk ConvNeXt_atto *.jpg --compare none"),
    "eval": ("edge board eval rdk ConvNeXt_atto --images val/ --count 500",),
}

to_option = option("--to", "Folder on the board to copy to.  [default: edge/NAME in your home there]", value="DIR")
timeout_option = option("--timeout minutes", "Minutes that one command on the board may take.", Number(min=0.01), 10.0)
compare_option = option(
    "--compare",
    "Simulator on this machine to compare with; auto takes the first that works here.",
    click.Choice(["auto", "portable", "quantized", "none"]),
    "auto",
)


def reach_options(function: F) -> F:
    """Add what says how to reach the board, and how to speak."""
    function = output_options(function)
    for add in (
        build_dir_option,
        click.option(
            "--ssh-option", "ssh_options", multiple=True, metavar="KEY=VALUE", help="Option of ssh, as its -o takes it."
        ),
        option("-i --identity", "Private key to log in with.", PATH, value="FILE"),
        option("-p --port", "Port of the board's ssh server.  [default: ssh's, 22]", click.IntRange(1, 65535)),
    ):
        function = add(function)
    return function


def make_target(host: str, *, port: int | None, identity: Path | None, ssh_options: tuple[str, ...]) -> Target:
    """Return where the board is, from the options."""
    from edge.board import Target

    return Target.parse(host, port, identity, ssh_options)


@frozen
class Asked:
    """What every verb is asked: the board, where builds lie, how to speak."""

    host: str
    target: Target
    build_dir: Path
    as_json: bool
    verbose: bool

    def program(self, model: str) -> Program:
        """Return the program that MODEL means: a path, or a name under the build folder."""
        from edge.runtime.program import locate

        path = Path(model).expanduser()
        built = self.build_dir / model
        return locate(path if path.exists() or not built.exists() else built)


def _asked(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of reaching a board as one :class:`Asked`."""

    @functools.wraps(function)
    def call(*, host: str, build_dir: Path, as_json: bool, verbose: bool, **options: Any) -> None:
        reach = {name: options.pop(name) for name in ("port", "identity", "ssh_options")}
        function(Asked(host, make_target(host, **reach), build_dir, as_json, verbose), **options)

    return reach_options(call)


@frozen
class Session:
    """A board that a program was copied to, and the simulator to compare it with, if any."""

    display: Display
    connection: Connection
    facts: Facts
    pushed: Pushed
    simulator: Net | None


@contextmanager
def _at_work(verb: str, asked: Asked, program: Program, to: str | None, compare: Choice = "none") -> Iterator[Session]:
    """Connect, refuse a board that the program can't work on, and copy the program there."""
    from edge.board import Connection
    from edge.board.compare import open_simulator
    from edge.board.findings import require
    from edge.board.probe import probe
    from edge.board.transfer import push

    with Display(verbose=asked.verbose) as display:
        display.begin(verb)
        with ExitStack() as stack:
            simulator = open_simulator(program.path, compare, display)
            if simulator is not None:
                stack.enter_context(simulator)
            connection = stack.enter_context(Connection(asked.target))
            facts = probe(connection)
            require(facts, program, display)
            yield Session(display, connection, facts, push(connection, program, to, display), simulator)
        display.finish()


def _epilog(verb: str) -> str:
    return f"{HOST_HELP}\n\n{examples(EXAMPLES[verb])}"


@click.group("board", cls=VerbGroup, epilog=examples(["edge board check rdk", "edge board perf rdk ConvNeXt_atto"]))
def board_command() -> None:
    """Check an RDK X5 over SSH, copy programs to it, measure and run them there.

    MODEL is a build folder, a bundle, or a zoo name, which means build/NAME.
    """


@board_command.command("check", short_help="Show what the board is and what it lacks.", epilog=_epilog("check"))
@click.argument("host")
@click.argument("model", required=False)
@_asked
def check_command(asked: Asked, *, model: str | None) -> None:
    """Check the board, whether MODEL fits its runtime, and run it once; exit with 1 if something can't work."""
    import cattrs

    from edge.board import Connection
    from edge.board.findings import findings, program_versions
    from edge.board.probe import probe
    from edge.board.transfer import require_bin
    from edge.board.trial import try_program, try_sample
    from edge.errors import GateError

    program = None if model is None else asked.program(model)
    versions = None if program is None else program_versions(require_bin(program))
    with Display(verbose=asked.verbose) as display:
        display.begin("check")
        with Connection(asked.target) as connection:
            facts = probe(connection)
            found = findings(facts, versions)
            if all(finding.mark != "bad" for finding in found):
                found.append(try_program(connection, program, display) if program else try_sample(connection))
        display.finish()
    if asked.as_json:
        told = {"findings": found, "board": facts, "program": versions}
        click.echo(json.dumps(cattrs.unstructure(told), indent=2))
    else:
        show_checks(found, verbose=asked.verbose)
    bad = [finding.name for finding in found if finding.mark == "bad"]
    if bad:
        raise GateError(f"{asked.target.host} is not ready: {', '.join(bad)}")


def show_checks(found: Sequence[Check], *, verbose: bool) -> None:
    """Print checks, and what to do about what is not as it should be."""
    marks = {"ok": "✓", "warn": "!", "bad": "✗"}
    for finding in found:
        click.echo(f"{marks[finding.mark]} {finding.name:<12} {finding.seen}")
        if finding.remedy and (finding.mark != "ok" or verbose):
            click.echo(f"  {'':<12} next: {finding.remedy}")


@board_command.command("push", short_help="Copy MODEL there, checked by sha256.", epilog=_epilog("push"))
@click.argument("host")
@click.argument("model")
@to_option
@_asked
def push_command(asked: Asked, *, model: str, to: str | None) -> None:
    """Copy MODEL to the board; each file is checked there by its sha256 before it gets its name."""
    import cattrs

    with _at_work("push", asked, asked.program(model), to) as work:
        pushed = work.pushed
    if asked.as_json:
        click.echo(json.dumps(cattrs.unstructure(pushed), indent=2))
        return
    for file in pushed.files:
        mark, note = ("✓", "") if file.state == "sent" else ("=", " (unchanged)")
        click.echo(f"{mark} {file.name}  {file.bytes:,} bytes{note}")
    click.echo(f"in {asked.target.host}:{pushed.directory}")


@board_command.command("perf", short_help="Measure speed with 1 and with 4 threads.", epilog=_epilog("perf"))
@click.argument("host")
@click.argument("model")
@option("--frames", "Frames for each number of threads.", FROM_1, 200)
@to_option
@timeout_option
@_asked
def perf_command(asked: Asked, *, model: str, frames: int, to: str | None, minutes: float) -> None:
    """Measure MODEL on the board with 1 and with 4 threads, beside the static and the published figures."""
    from edge.board.infer import measure, perf_record
    from edge.board.transfer import read_manifest

    program = asked.program(model)
    manifest = read_manifest(program.folder) or {}
    with _at_work("perf", asked, program, to) as work:
        runs = measure(work.connection, work.pushed.bin, frames, minutes * 60, work.display)
    entry = {"measured": _now(), "frames": frames, **perf_record(runs)}
    kept = _keep(program, work.facts, {"perf": entry})
    published, static = _published_figures(program), manifest.get("static")
    if asked.as_json:
        figures = {"perf": entry, "static": static, "published": published, "recorded": kept}
        click.echo(json.dumps(figures, indent=2))
        return
    click.echo(perf_table(entry, static, published))
    click.echo(_where_kept(program, kept))


@board_command.command("run", short_help="Compare answers with the simulator's.", epilog=_epilog("run"))
@click.argument("host")
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@top_option
@compare_option
@to_option
@timeout_option
@_asked
def run_command(
    asked: Asked, *, model: str, images: tuple[str, ...], top: int, compare: Choice, to: str | None, minutes: float
) -> None:
    """Run images on the board and compare its answers with the simulator's.

    Exits with 1 if a simulator that computes the board's integers answers otherwise.
    """
    from edge.board.compare import answers, read_frames, require_preprocess
    from edge.board.infer import BoardRunner
    from edge.errors import GateError

    program = asked.program(model)
    preprocess = require_preprocess(program)
    frames, labels = read_frames(images, preprocess), program.class_names()
    about = program.metadata
    kind = about.scores if about else None
    raw = about.outputs if about and about.task != "classify" else ()
    with (
        _at_work("run", asked, program, to, compare) as work,
        BoardRunner(work.connection, work.pushed.bin, preprocess.canvas, minutes * 60) as board,
    ):
        found = list(answers(board, frames, simulator=work.simulator, count=len(frames), reporter=work.display))
    info = work.simulator.info if work.simulator else None
    if asked.as_json:
        records = [
            _outputs_record(name, answer, raw) if raw else _answer_record(name, answer, labels, top, kind)
            for name, answer in zip(images, found, strict=True)
        ]
        backend = {"backend": info.backend, "exact": info.exact} if info else None
        scores = {} if raw else {"scores": kind}
        click.echo(json.dumps({"simulator": backend, **scores, "images": records}, indent=2))
    else:
        if not raw and (note := describe_scores(kind)):
            click.echo(f"note: {note}")
        for name, answer in zip(images, found, strict=True):
            lines = (
                _outputs_lines(name, answer, raw, info) if raw else _answer_lines(name, answer, labels, top, kind, info)
            )
            click.echo("\n".join(lines))
    differing = [
        name
        for name, answer in zip(images, found, strict=True)
        if (answer.same_values if raw else answer.same_top1) is False
    ]
    if info is not None and info.exact and differing:
        raise GateError(
            f"the board and the simulator give other {'values' if raw else 'classes'} for {len(differing)} of "
            f"{counted(len(images), 'image')}, such as {differing[0]}",
            remedy=f"edge board check {asked.host} {model}   compares the versions",
        )


@board_command.command("eval", short_help="Measure Top-1 there and in the simulator.", epilog=_epilog("eval"))
@click.argument("host")
@click.argument("model")
@click.option(
    "--images",
    required=True,
    metavar="PATH",
    help="Images to measure on: a folder, list file, labels.csv or demo:test (rendered images).",
)
@count_option
@label_offset_option
@seed_option
@compare_option
@to_option
@timeout_option
@_asked
def eval_command(
    asked: Asked,
    *,
    model: str,
    images: str,
    count: int,
    label_offset: int,
    seed: int,
    compare: Choice,
    to: str | None,
    minutes: float,
) -> None:
    """Measure Top-1 on the board, and in the simulator on the same images."""
    from edge.board.compare import measure_accuracy, require_preprocess
    from edge.board.infer import BoardRunner
    from edge.images import open_images, sample

    program = asked.program(model)
    preprocess = require_preprocess(program)
    assert program.metadata is not None  # noqa: S101 - require_preprocess looked
    if program.metadata.task != "classify":
        raise UsageError(
            f"the outputs of {model} are no class scores",
            expected="a classifier: Top-1 is counted",
            remedy=f"edge eval {model} --board {asked.host}   compares the outputs as numbers",
        )
    classes = program.metadata.classes
    names = program.class_names() or classes
    dataset = open_images(images, classes=names, count=count or None, seed=seed, label_offset=label_offset)
    if count:
        dataset = sample(dataset, count, seed)
    with (
        _at_work("eval", asked, program, to, compare) as work,
        BoardRunner(work.connection, work.pushed.bin, preprocess.canvas, minutes * 60) as board,
    ):
        result = measure_accuracy(board, preprocess, classes, dataset, simulator=work.simulator, reporter=work.display)
    entry = {"measured": _now(), **result.record(work.simulator.info if work.simulator else None)}
    kept = _keep(program, work.facts, {"accuracy": entry})
    if asked.as_json:
        click.echo(json.dumps({"accuracy": entry, "recorded": kept}, indent=2))
        return
    click.echo(accuracy_table(entry))
    click.echo(_where_kept(program, kept))


def _keep(program: Program, facts: Facts, entries: dict[str, object]) -> bool:
    """Write figures into the manifest, with what the board is; return whether there is one."""
    from edge.board.transfer import record
    from edge.files import sha256_of

    versions = facts.versions
    about = {"soc": facts.soc, "os": facts.os, "dnn": versions.dnn, "hbrt": versions.hbrt}
    return record(program.folder, sha256_of(program.files["bin"]), {"about": about, **entries})


def _where_kept(program: Program, kept: bool) -> str:
    where = program.folder / "manifest.json"
    return f"recorded in {where}" if kept else f"not recorded: {where.parent} has no manifest.json"


def _published_figures(program: Program) -> dict[str, Any] | None:
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
    return None if published is None else dict(cattrs.unstructure(published))


def _now() -> str:
    """Return the time, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def perf_table(perf: Mapping[str, Any], static: Mapping[str, Any] | None, published: Mapping[str, Any] | None) -> str:
    """Return the figures of the board beside the others."""
    runs = perf["runs"]
    rows = [["", *(counted(run["threads"], "thread") for run in runs)]]
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
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if static:
        lines.append(
            f"static: {static['latency_us'] / 1000:.3f} ms, {static['fps']:.2f} FPS "
            "(the compiler's figure for the BPU part alone)"
        )
    if published:
        lines.append(f"published by: {published['source']}")
    return "\n".join(lines)


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


def _answer_record(
    name: str, answer: Answer, labels: Sequence[str] | None, k: int, kind: ScoreKind | None
) -> dict[str, Any]:
    """Return the answer for one image as JSON."""
    best = [{"class": c, "label": label, value_name(kind): p} for c, label, p in _best(answer, labels, k, kind)]
    return {"image": name, "best": best, "max_abs_diff": answer.max_abs_diff, "same_top1": answer.same_top1}


def _answer_lines(
    name: str, answer: Answer, labels: Sequence[str] | None, k: int, kind: ScoreKind | None, info: Info | None
) -> list[str]:
    """Return the answer for one image as lines."""
    lines = [name, *(f"  {chance:.4f}  {label}" for _, label, chance in _best(answer, labels, k, kind))]
    if info is not None and answer.max_abs_diff is not None:
        same = "same class" if answer.same_top1 else "another class"
        integers = "the same integers" if info.exact else "an estimate"
        lines.append(f"  {info.backend} ({integers}): {same}, largest difference {answer.max_abs_diff:.3g}")
    return lines


def _outputs_record(name: str, answer: Answer, outputs: Sequence[Output]) -> dict[str, Any]:
    """Return raw outputs for one image as JSON."""
    from edge.runtime.steps import output_record

    rows = [
        {**output_record(output.name, values), "max_abs_diff": answer.differences and answer.differences[i]}
        for i, (output, values) in enumerate(zip(outputs, answer.board, strict=True))
    ]
    return {"image": name, "outputs": rows, "same_values": answer.same_values}


def _outputs_lines(name: str, answer: Answer, outputs: Sequence[Output], info: Info | None) -> list[str]:
    """Return raw outputs for one image as lines."""
    from edge.runtime.steps import output_record

    records = [output_record(output.name, values) for output, values in zip(outputs, answer.board, strict=True)]
    lines = [name, *output_lines(records)]
    if info is not None and answer.max_abs_diff is not None:
        same = "the same values" if answer.same_values else "other values"
        integers = "the same integers" if info.exact else "an estimate"
        lines.append(f"  {info.backend} ({integers}): {same}, largest difference {answer.max_abs_diff:.3g}")
    return lines


def _best(answer: Answer, labels: Sequence[str] | None, k: int, kind: ScoreKind | None) -> list[tuple[int, str, float]]:
    import numpy as np

    from edge.runtime.scores import probabilities

    chances = probabilities(answer.scores, kind)
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
