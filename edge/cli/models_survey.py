"""``edge models --measure``, ``--check-all`` and ``--page``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import cattrs
import click

from edge.cli.display import Display
from edge.cli.models_table import NONE, figure, print_table
from edge.errors import EdgeError, GateError, WorkspaceError
from edge.progress import Listener
from edge.request import Request
from edge.specs import ModelSpec
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

PAGE_COMMAND = "edge models --page {page}"  # wherever the builds lie
MEASURED = (
    "model", "input", "M params", "published", "%", "GMACs", "published", "%", "attention %", "beside %",
)  # fmt: skip
CHECKED = ("model", "", "ONNX nodes", "BPU", "CPU tail", "moved", "CPU inside", "seconds", "peak GB")

T = TypeVar("T")


class Survey:
    """One run over several models. What fails of one model is told, and the others get their turn.

    Args:
        typed: the models by what the user typed.
        build_dir: folder of the builds.
        timeout: seconds for one run of the compiler.
        any_memory: check even where the memory is foretold not to do.
        as_json: print JSON on stdout.
        verbose: show every step.
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
    ) -> None:
        self._typed = typed
        self._specs = list(typed.values())
        self._build_dir = build_dir
        self._limits = {"timeout": timeout, "any_memory": any_memory}
        self._as_json = as_json
        self._verbose = verbose
        self._failed: dict[str, EdgeError] = {}
        self._unexpected: list[Exception] = []

    def measure(self) -> None:
        """Count every model, print the counts beside what was published, and fail where they differ.

        Raises:
            EdgeError: a model could not be counted, or its figures differ from those published.
        """
        load_records(self._build_dir / RECORDS)  # what can't be added to is told now
        found: list[tuple[ModelSpec, Counted]] = []
        for number, spec in enumerate(self._specs, start=1):
            counted = self._try(
                spec, number, lambda request, display: measure_model(request, self._build_dir, display)
            )
            if counted is not None:
                found.append((spec, counted))
                keep(self._build_dir / RECORDS, {spec.name: Record(counted=counted)})
        compared = {spec.name: compare(counted, spec.published) for spec, counted in found}
        if self._as_json:
            result: dict[str, object] = {
                spec.name: {
                    "counted": cattrs.unstructure(counted),
                    "compared": cattrs.unstructure(compared[spec.name]),
                }
                for spec, counted in found
            }
            result |= {name: {"failed": error.seen} for name, error in self._failed.items()}
            click.echo(json.dumps(result, indent=2))
        elif found:
            _print_counts(found)
        for name, error in self._failed.items():
            click.echo(f"{name}: not measured: {error.seen}", err=self._as_json)
        self._raise_unexpected()
        if len(self._failed) == len(self._specs) == 1:
            raise next(iter(self._failed.values()))
        unexplained = [name for name, told in compared.items() if not told.explained]
        seen = []
        if self._failed:
            seen.append(f"{', '.join(self._failed)}: not measured")
        if unexplained:
            names = ", ".join(unexplained)
            seen.append(f"{names}: measured and published figures differ without a known reason")
        if seen:
            first = next(iter(self._failed.values()), None)
            raise GateError(
                "; ".join(seen),
                allowed="a difference of 2 %, or one that a count explains" if unexplained else None,
                remedy=(first.remedy or f"edge models --measure {self._word(next(iter(self._failed)))}")
                if first
                else "look at the model's tag and its published figures in its YAML",
            )

    def check_all(self) -> None:
        """Check every model, print where its nodes are, and fail unless all of them are on the BPU.

        Raises:
            GateError: a model could not be checked, or has a node on the CPU inside the network.
        """
        load_records(self._build_dir / RECORDS)  # what can't be added to is told now
        found: dict[str, Checked] = {}
        started = time.monotonic()
        for number, spec in enumerate(self._specs, start=1):
            checked = self._try(
                spec, number, lambda request, display: check_model(request, self._build_dir, display, found)
            )
            if checked is None:
                error = self._failed[spec.name]
                checked = Checked("", failed=error.seen, remedy=error.remedy or "")
            elif checked.failed:
                click.echo(f"✗ {checked.failed}", err=True)
            found[spec.name] = checked
            keep(self._build_dir / RECORDS, {spec.name: Record(checked=checked)})
        if self._as_json:
            result = {name: cattrs.unstructure(checked) for name, checked in found.items()}
            click.echo(json.dumps(result, indent=2))
        else:
            _print_checks(found, time.monotonic() - started)
        self._raise_unexpected()
        failed = [name for name, checked in found.items() if checked.failed]
        inside = [name for name, checked in found.items() if not (checked.failed or checked.passed)]
        seen = []
        if failed:
            seen.append(f"{', '.join(failed)}: not checked, for the reason above")
        if inside:
            seen.append(f"{', '.join(inside)}: not on the BPU from end to end")
        if seen:
            first = (failed or inside)[0]
            raise GateError(
                "; ".join(seen),
                allowed="every model exported and checked, with CPU nodes behind the last BPU node only",
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
        from edge.atomic import disk_errors, write_text
        from edge.cli.models import named

        kept = target.with_suffix(".json")
        new = collect(self._build_dir, self._specs, load_records(kept))
        asked = {spec.name: spec for spec in self._specs}
        try:
            records = keep(kept, new.records)
            specs = [asked.pop(spec.name, spec) for spec in named(()).values()]
            specs = [
                spec
                for spec in (*specs, *asked.values())
                if everything or spec.name in records or spec in self._specs
            ]
            with disk_errors(target.parent):
                write_text(target, page(specs, records, command=PAGE_COMMAND.format(page=target)))
        except WorkspaceError as error:
            raise WorkspaceError(error.seen, remedy="make room there, or name another folder") from error
        for name, why in new.left_out.items():
            click.echo(f"! {name}: no compile in {self._build_dir} counts: {why}", err=True)
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

    def _try(self, spec: ModelSpec, number: int, work: Callable[[Request, Listener], T]) -> T | None:
        """Return what comes of one model; None, told and remembered, where it fails."""
        click.echo(f"{spec.name} ({number} of {len(self._specs)})", err=True)
        try:
            request = request_of(spec, **self._limits)  # type: ignore[arg-type]
            with Display(verbose=self._verbose) as display:
                result = work(request, display)
                display.finish()
        except EdgeError as error:
            self._failed[spec.name] = error
        except Exception as error:
            self._unexpected.append(error)
            self._failed[spec.name] = EdgeError(f"unexpected {type(error).__name__}: {error}")
        else:
            return result
        click.echo(f"✗ {self._failed[spec.name].seen}", err=True)
        return None

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


def _print_counts(found: Sequence[tuple[ModelSpec, Counted]]) -> None:
    rows: list[Sequence[str]] = [MEASURED]
    reasons = []
    for spec, counted in found:
        published, told = spec.published, compare(counted, spec.published)
        rows.append(
            (
                spec.name,
                f"{counted.width}x{counted.height}",
                f"{counted.parameters / 1e6:.3f}",
                figure(published.params_m if published else None),
                figure(told.parameters, "+.2f"),
                f"{counted.macs / 1e9:.3f}",
                figure(published.gflops if published else None),
                figure(told.macs, "+.2f"),
                f"{100 * counted.attention / counted.macs:.2f}",
                f"{100 * counted.other / counted.macs:.2f}",
            )
        )
        if told.why:
            reasons.append(f"{spec.name}: {told.why}")
    print_table(rows, left=2)
    for reason in reasons:
        click.echo(reason)
    click.echo(
        "MACs: multiply-accumulates of convolutions and matrix products, biases included, as one each;"
    )
    click.echo('attention: those between two activations; "beside": operations of all else, which published')
    click.echo(
        "counts of these families leave out (normalisation, activation functions, softmax, additions)."
    )


def _print_checks(found: Mapping[str, Checked], seconds: float) -> None:
    rows: list[Sequence[str]] = [CHECKED]
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
    for name, checked in found.items():
        if not checked.passed:
            where = f"on the CPU inside the network: {', '.join(checked.inside)}"
            click.echo(f"{name}: {checked.failed or where}")
    passed = sum(checked.passed for checked in found.values())
    click.echo(f"{passed} of {len(found)} passed in {seconds:.0f} s")
