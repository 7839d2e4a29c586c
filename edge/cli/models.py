"""``edge models``: what the zoo holds, and what is known of it."""

from __future__ import annotations

import difflib
import json
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import cattrs
import click

from edge.cli.display import Display, examples, table
from edge.cli.options import (
    FILE,
    Number,
    build_dir_option,
    cluster_option,
    complete_models,
    option,
    output_options,
    switch,
)
from edge.cli.verb import Verb
from edge.errors import EdgeError, GateError, UsageError, WorkspaceError
from edge.specs import ModelSpec, Published, available_models, load_model
from edge.specs.schema import OWN_FILES
from edge.survey import (
    RECORDS,
    Checked,
    Counted,
    Record,
    check_model,
    collect,
    compare,
    keep,
    load_records,
    measure_model,
    page,
    request_of,
)

if TYPE_CHECKING:
    from edge.pipeline.build import Away
    from edge.progress import Listener
    from edge.specs.request import Request


NONE = "-"


def figure(value: float | None, form: str = "g") -> str:
    """Return a figure in a form of Python's, or a dash where there is none."""
    return NONE if value is None else format(value, form)


PAGE_COMMAND = "edge models --page {page}"  # wherever the builds lie
LISTED = (
    "model", "input", "weights", "Top-1", "Top-5", "int8", "GFLOPs", "M params", "ms", "FPS",
)  # fmt: skip
MEASURED = (
    "model", "input", "M params", "published", "%", "GMACs", "published", "%", "attention %", "beside %",
)  # fmt: skip
CHECKED = ("model", "", "ONNX nodes", "BPU", "CPU tail", "moved", "CPU inside", "seconds", "peak GB")
WIDTH = 110
YAMLS = (".yaml", ".yml")
MACS = """\
MACs: multiply-accumulates of convolutions and matrix products, biases included, as one each;
attention: those between two activations; "beside": operations of all else, which published
counts of these families leave out (normalisation, activation functions, softmax, additions)."""
PUBLISHED = """\
Published figures: Top-1, Top-5 of the float network, and int8 Top-1 in %; ms (1 thread) and FPS
(4 threads) on the board. edge build measures its own."""

T = TypeVar("T")


class Survey:
    """One run over several models. What fails of one model is told, and the others get their turn.

    Args:
        timeout: seconds for one run of the compiler.
        any_memory: check even where the estimated memory exceeds what is free.
    """

    def __init__(
        self,
        typed: Mapping[str, ModelSpec],
        build_dir: Path,
        *,
        timeout: float,
        any_memory: bool,
        as_json: bool,
        verbose: bool,
        cluster: str | None = None,
    ) -> None:
        self._typed = typed
        self._specs = list(typed.values())
        self._build_dir = build_dir
        self._timeout, self._any_memory = timeout, any_memory
        self._as_json = as_json
        self._verbose = verbose
        self._cluster = cluster
        self._failed: dict[str, EdgeError] = {}
        self._unexpected: list[Exception] = []

    def measure(self) -> None:
        """Count every model, print the counts beside what was published, and fail where they differ.

        Raises:
            EdgeError: a model could not be counted, or its figures differ from those published.
        """
        found: dict[str, Counted] = {}
        with self._elsewhere() as make:
            away = make("export", "simplify")
            for spec, counted in self._each(partial(measure_model, away=away)):
                if counted is not None:
                    found[spec.name] = counted
                    keep(self._build_dir / RECORDS, {spec.name: Record(counted=counted)})
        specs = [spec for spec in self._specs if spec.name in found]
        compared = {spec.name: compare(found[spec.name], spec.published) for spec in specs}
        if self._as_json:
            result: dict[str, object] = {
                name: {"counted": cattrs.unstructure(found[name]), "compared": cattrs.unstructure(told)}
                for name, told in compared.items()
            }
            result |= {name: {"failed": error.seen} for name, error in self._failed.items()}
            click.echo(json.dumps(result, indent=2))
        elif found:
            _print_counts([(spec, found[spec.name]) for spec in specs])
        for name, error in self._failed.items():
            click.echo(f"{name}: not measured: {error.seen}", err=self._as_json)
        self._raise_unexpected()
        if len(self._failed) == len(self._specs) == 1:
            raise next(iter(self._failed.values()))
        remedy = "look at the model's tag and its published figures in its YAML"
        for name, error in list(self._failed.items())[:1]:
            remedy = error.remedy or f"edge models --measure {self._word(name)}"
        unexplained = [name for name, told in compared.items() if not told.explained]
        _refuse(
            {"not measured": self._failed, "measured and published figures differ without a known reason": unexplained},
            expected="a difference of at most 2 %, or one that a count explains" if unexplained else None,
            remedy=remedy,
        )

    def check_all(self) -> None:
        """Check every model, print where its nodes are, and fail unless all of them are on the BPU.

        Raises:
            GateError: a model could not be checked, or has a node on the CPU inside the network.
        """
        found: dict[str, Checked] = {}
        started = time.monotonic()
        with self._elsewhere() as make:
            away = make("simplify", "check")
            for spec, checked in self._each(partial(check_model, earlier=found, away=away)):
                if checked is None:
                    error = self._failed[spec.name]
                    checked = Checked("", failed=error.seen, remedy=error.remedy or "")
                elif checked.failed:
                    click.echo(f"✗ {checked.failed}", err=True)
                found[spec.name] = checked
                keep(self._build_dir / RECORDS, {spec.name: Record(checked=checked)})
        if self._as_json:
            click.echo(json.dumps(cattrs.unstructure(found), indent=2))
        else:
            _print_checks(found, time.monotonic() - started)
        self._raise_unexpected()
        failed = [name for name, checked in found.items() if checked.failed]
        inside = [name for name, checked in found.items() if not (checked.failed or checked.passed)]
        for first in (failed or inside)[:1]:
            _refuse(
                {"not checked, for the reason above": failed, "not on the BPU from end to end": inside},
                expected="every model exported and checked, with CPU nodes only after the last BPU node",
                remedy=found[first].remedy or self._check_command(first),
            )

    def page(self, target: Path, *, everything: bool) -> None:
        """Renew the figures of the models from their builds, and write the page of all that are known.

        Args:
            target: the page; its figures are kept beside it, with the ending ``.json``.
            everything: whether models of the zoo without any figures are listed, too.

        Raises:
            InputError: the kept figures can't be read.
            WorkspaceError: the page can't be written.
        """
        from edge.files import disk_errors, require_ours, write_text

        require_ours(target, "Written by `edge models --page")
        kept = target.with_suffix(".json")
        new = collect(self._build_dir, self._specs, load_records(kept))
        asked = {spec.name: spec for spec in self._specs}
        try:
            records = keep(kept, new.records)
            specs = [asked.pop(spec.name, spec) for spec in named(()).values()]
            specs = [
                spec for spec in (*specs, *asked.values()) if everything or spec.name in records or spec in self._specs
            ]
            with disk_errors(target.parent):
                write_text(target, page(specs, records, command=PAGE_COMMAND.format(page=target)))
        except WorkspaceError as error:
            raise WorkspaceError(error.seen, remedy="make room there, or name another folder") from error
        for name, why in new.left_out.items():
            click.echo(f"! {name}: no compile in {self._build_dir} can be used: {why}", err=True)
        listed = {spec.name for spec in specs} | set(records)
        compiled = sum(record.compiled is not None for record in records.values())
        if self._as_json:
            result = {
                "page": str(target),
                "records": str(kept),
                "models": len(listed),
                "compiled": compiled,
                "found": sorted(new.records),
                "left_out": dict(new.left_out),
            }
            click.echo(json.dumps(result, indent=2))
        else:
            click.echo(
                f"{target}: {len(listed)} models, {compiled} of them compiled; "
                f"{len(new.records)} found in {self._build_dir}"
            )

    @contextmanager
    def _elsewhere(self) -> Iterator[Callable[..., Away | None]]:
        """Give what lets a cluster make stages of all models ahead of their turns; without one it gives None."""
        if self._cluster is None:
            yield lambda *_stages: None
            return
        from edge.cluster import open_cluster
        from edge.cluster.builds import ahead
        from edge.toolchain.find import find

        with (
            Display(verbose=self._verbose) as display,
            open_cluster(self._cluster, display, compiler=find("auto")) as workers,
        ):
            requests = [request_of(spec, timeout=self._timeout, any_memory=self._any_memory) for spec in self._specs]
            yield partial(ahead, workers, requests, self._build_dir)

    def _each(self, work: Callable[[Request, Path, Listener], T]) -> Iterator[tuple[ModelSpec, T | None]]:
        """Yield each model and what comes of it; None, told and remembered, where it fails."""
        load_records(self._build_dir / RECORDS)  # what can't be added to is told now
        for number, spec in enumerate(self._specs, start=1):
            click.echo(f"{spec.name} ({number} of {len(self._specs)})", err=True)
            result = None
            try:
                request = request_of(spec, timeout=self._timeout, any_memory=self._any_memory)
                with Display(verbose=self._verbose) as display:
                    result = work(request, self._build_dir, display)
                    display.finish()
            except EdgeError as error:
                self._failed[spec.name] = error
            except Exception as error:
                self._unexpected.append(error)
                self._failed[spec.name] = EdgeError(f"unexpected {type(error).__name__}: {error}")
            if result is None:
                click.echo(f"✗ {self._failed[spec.name].seen}", err=True)
            yield spec, result

    def _raise_unexpected(self) -> None:
        """Let the first unexpected error end the run, once the others had their turn."""
        if self._unexpected:
            raise self._unexpected[0]

    def _word(self, name: str) -> str:
        """Return what the user typed for a model."""
        return next(typed for typed, spec in self._typed.items() if spec.name == name)

    def _check_command(self, name: str) -> str:
        word = self._word(name)
        request = request_of(self._typed[word], timeout=1)
        weights = "" if request.weights == "auto" else f" --weights {request.weights}"
        return f"edge check {word}{weights} --verbose"


def _refuse(found: Mapping[str, Iterable[str]], *, expected: str | None, remedy: str) -> None:
    """Raise where something was found: what it is -> names of the models."""
    seen = [f"{', '.join(names)}: {what}" for what, names in found.items() if names]
    if seen:
        raise GateError("; ".join(seen), expected=expected, remedy=remedy)


def _print_counts(found: Sequence[tuple[ModelSpec, Counted]]) -> None:
    rows: list[Sequence[str]] = [MEASURED]
    reasons = []
    for spec, counted in found:
        published, told = spec.published or Published(source=""), compare(counted, spec.published)
        rows.append(
            (
                spec.name,
                f"{counted.width}x{counted.height}",
                f"{counted.parameters / 1e6:.3f}",
                figure(published.params_m),
                figure(told.parameters, "+.2f"),
                f"{counted.macs / 1e9:.3f}",
                figure(published.gflops),
                figure(told.macs, "+.2f"),
                f"{100 * counted.attention / counted.macs:.2f}",
                f"{100 * counted.other / counted.macs:.2f}",
            )
        )
        if told.why:
            reasons.append(f"{spec.name}: {told.why}")
    click.echo("\n".join(table(rows, left=(0, 1))))
    for line in (*reasons, MACS):
        click.echo(line)


def _print_checks(found: Mapping[str, Checked], seconds: float) -> None:
    rows: list[Sequence[str]] = [CHECKED]
    for name, checked in found.items():
        peak = None if checked.peak_memory is None else checked.peak_memory / 1e9
        counts = (checked.nodes, checked.bpu, *map(len, (checked.tail, checked.moved, checked.inside)))
        figures = (*map(str, counts), f"{checked.seconds:.0f}", figure(peak, ".2f"))
        if checked.failed:
            figures = (NONE,) * len(figures)
        rows.append((name, "✓" if checked.passed else "✗", *figures))
    click.echo("\n".join(table(rows, left=(0, 1))))
    if any(checked.moved for checked in found.values()):
        click.echo("moved: to the BPU by the model's recipe; the checker does not know of it, a compile does")
    for name, checked in found.items():
        if not checked.passed:
            where = f"on the CPU inside the network: {', '.join(checked.inside)}"
            click.echo(f"{name}: {checked.failed or where}")
    passed = sum(checked.passed for checked in found.values())
    click.echo(f"{passed} of {len(found)} passed in {seconds:.0f} s")


@click.command(
    "models",
    cls=Verb,
    epilog=examples(
        (
            "edge models",
            "edge models ConvNeXt_atto --json",
            "edge models --measure ConvNeXt_atto",
            "edge models --check-all",
            "edge models --check-all --cluster tcp://lab:8786",
            "edge models --page docs/reference/models.md",
        )
    ),
)
@click.argument("names", metavar="[MODEL]...", nargs=-1, shell_complete=complete_models)
@switch("--measure", "Export with random weights, and count parameters and MACs.")
@switch("--check-all", "Export, simplify and check; exit with 1 unless all of it runs on the BPU.")
@option("--page", "Write this .md about all models, from their builds; its figures go beside it as .json.", FILE)
@build_dir_option
@option("--timeout", "Minutes that one run of the compiler may take, with --check-all.", Number(min=0.01), 60.0)
@switch("--any-memory", "Start the checker even where its estimated memory exceeds what is free.")
@cluster_option
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
    cluster: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """List the models of the zoo with their published figures: all of them, or those that MODEL names.

    The environment variable EDGE_ZOO names a folder whose YAML files are added to the zoo. With --page, MODEL
    says whose figures are renewed.
    """
    if measure + check_all + (page is not None) > 1:
        raise UsageError("--measure, --check-all and --page together", expected="one of them")
    if page is not None and page.suffix.lower() != ".md":
        raise UsageError(
            f"--page {page}",
            expected="a file that ends in .md: its figures are kept beside it in one that ends in .json",
            remedy=f"edge models --page {page.with_suffix('.md')}",
        )
    typed = named(names)
    if measure or check_all or page is not None:
        survey = Survey(
            typed,
            build_dir,
            timeout=timeout * 60,
            any_memory=any_memory,
            as_json=as_json,
            verbose=verbose,
            cluster=cluster,
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
                expected="one model for each name: its build folder and its figures are kept under it",
                remedy=f"give one of them another name, or take one at a time: edge models {typed}",
            )
    return found if names else dict(sorted(found.items(), key=lambda item: _order(item[1])))


def _no_model(typed: str, known: Sequence[str]) -> UsageError:
    expected = "a name that edge models lists, or a path ending in .yaml"
    path = Path(typed)
    if path.suffix and path.exists():
        return UsageError(
            f"edge models lists models that a YAML describes, and {typed} is not one",
            expected=expected,
            remedy=f"edge check {typed}   checks your own file",
        )
    lower = {name.lower(): name for name in known}
    close = [lower[name] for name in difflib.get_close_matches(typed.lower(), lower, n=4, cutoff=0.5)]
    return UsageError(
        f"no model is called {typed!r}",
        expected=expected + (f"; close ones: {', '.join(close)}" if close else ""),
        remedy=f"edge models {close[0]}" if close else "edge models",
    )


def _order(spec: ModelSpec) -> tuple[str, tuple[int, int], float, str]:
    size = spec.published.params_m if spec.published else None
    return spec.name.partition("_")[0].lower(), spec.preprocess.crop, size or 0.0, spec.name


def _list(specs: Sequence[ModelSpec], *, verbose: bool) -> None:
    rows: list[Sequence[str]] = [LISTED]
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
    click.echo("\n".join(table(rows, left=(0, 1, 2))))
    for line in others:
        glued = line.replace(" %", "\u00a0%")  # a figure and its unit stay on one line
        click.echo(textwrap.fill(glued, WIDTH, subsequent_indent="  ").replace("\u00a0", " "))
    if verbose:
        for spec in specs:
            click.echo(f"{spec.name}: {spec.sources.timm or NONE}; {spec.sources.vendor or NONE}")
    click.echo(PUBLISHED)
