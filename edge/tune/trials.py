"""Compile recipes and measure them: accuracy on images, or the latency alone."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cattrs
import numpy as np
from attrs import evolve, field, frozen
from numpy.typing import NDArray

from edge.compiler.render import render_text
from edge.compiler.run import CompileResult, makertbin
from edge.errors import CompileError, ModelFileError, counted
from edge.files import link_or_copy
from edge.folder.workspace import STAGES, Workspace
from edge.graph.files import facts, load_onnx
from edge.images.frames import Frame, cores, spread
from edge.measure import networks as runners
from edge.measure.objective import Answers, Measured, Objective
from edge.pipeline.build import Build, Given
from edge.pipeline.stage import Inside, Stage
from edge.pipeline.stages import COMPILE, EXPORT, PORTABLE, VERIFY
from edge.progress import SILENT, Reporter
from edge.specs import Calibration, NodePrecision, Precision
from edge.specs import Preprocess as PreprocessSpec
from edge.specs.request import Request
from edge.specs.schema import Compiler, Level
from edge.toolchain.found import Toolchain
from edge.tune.journal import Entry, Journal
from edge.tune.spaces import at_level

LEVEL: Level = "O1"  # for costs: compiles in seconds; O0 does not fuse, so its latency does not predict O3's
QUICK: Level = "O0"  # for accuracy: compiles fastest; the integers are the same at every level
_WORKING_DIR = "model_output"
_PREFIX = "latency"


@frozen(eq=False)
class Costs:
    """Measures the latency of a network with some nodes at 16 bits."""

    toolchain: Toolchain  #: the compiler.
    onnx: Path  #: the BPU-ready ONNX.
    sha256: str  #: of it.
    calibration: Path  #: a calibration folder; it must exist, but the compiler does not read its files.
    preprocess: PreprocessSpec  #: of the network.
    compiler: Compiler  #: its settings; the level is replaced by :data:`LEVEL`.
    journal: Journal  #: of finished work.
    folder: Path  #: for working files.
    optimization: tuple[str, ...] = ()  #: the compiler's optimization items of every program of the search.
    crew: Crew | None = None  #: compiles instead of this process.

    def measure(
        self, name: str, nodes: Mapping[str, NodePrecision], limit: float, reporter: Reporter = SILENT
    ) -> Entry:
        """Compile within ``limit`` seconds for the latency alone; return the entry: ``latency_us`` in its values."""
        text = self._yaml(nodes)
        away = None if self.crew is None else partial(self.crew.cost, self, text, limit)
        return self.journal.once(
            "latency", name, self._inputs(text), lambda: self.compiled(text, limit, reporter), limit=limit, away=away
        )

    def ahead(self, asked: Mapping[str, Mapping[str, NodePrecision]], limit: float, *, likely: bool) -> None:
        """Let the crew begin measurements that come next."""
        if self.crew is None:
            return
        wanted = []
        for name, nodes in asked.items():
            text = self._yaml(nodes)
            blank = self.journal.wanted("latency", name, self._inputs(text), limit)
            wanted += [] if blank is None else [(text, blank)]
        self.crew.costs_ahead(self, wanted, limit, likely=likely)

    def compiled(self, text: str, limit: float, reporter: Reporter = SILENT) -> dict[str, float]:
        """Compile a YAML and return the latency."""
        with tempfile.TemporaryDirectory(prefix="latency-", dir=self.folder) as out:
            return {"latency_us": self._compile(text, Path(out), limit, reporter)}

    def _inputs(self, text: str) -> dict[str, object]:
        return {"onnx": self.sha256, "yaml": text, "toolchain": self.toolchain.identity}

    def _yaml(self, nodes: Mapping[str, NodePrecision]) -> str:
        compiler = evolve(self.compiler, optimize_level=LEVEL)
        text = render_text(
            preprocess=self.preprocess,
            precision=Precision(
                "latency",
                calibration=Calibration(optimization=self.optimization),
                nodes=dict(sorted(nodes.items())),
                compiler=compiler,
            ),
            graph=facts(load_onnx(self.onnx), origin=str(self.onnx)),
            prefix=_PREFIX,
            onnx_model=f"./{self.onnx.name}",
            cal_data_dir=f"./{self.calibration.name}",
            working_dir=f"./{_WORKING_DIR}",
        )
        return re.sub(r"calibration_type: '\w+'", "calibration_type: 'skip'", text)

    def _compile(self, text: str, out: Path, limit: float, reporter: Reporter) -> float:
        yaml = out / f"{_PREFIX}.yaml"
        yaml.write_text(text, encoding="utf-8")
        made = makertbin(
            self.toolchain,
            yaml=yaml,
            files={self.onnx.name: self.onnx, self.calibration.name: self.calibration},
            out=out,
            prefix=_PREFIX,
            working_dir=_WORKING_DIR,
            key=hashlib.sha256(f"{self.sha256} {text}".encode()).hexdigest(),
            timeout=limit,
            reporter=reporter,
        )
        return _latency(made)


@frozen(eq=False)
class Set:
    """Images with the float network's answers."""

    frames: Sequence[Frame]  #: the images, cropped.
    reference: Answers  #: answers of the float network behind NV12.
    truth: Sequence[Any]  #: the label or the objects of each image; None where they are not known.
    fingerprint: str  #: of names, labels and contents.


@frozen(eq=False)
class Trial:
    """A recipe to be compiled and measured."""

    precision: Precision
    images: Set
    limit: float  #: seconds for one compile.


class Crew(Protocol):
    """Others that do the work of a search. Each entry is the one that this process would write.

    What is asked for ``ahead`` is begun before it is needed; what is not ``likely`` only where somebody is idle, and it
    is taken back by the next such call of its kind that does not ask for it.
    """

    def by(self, entry: Entry, /) -> str:
        """Return who did a trial; empty if nobody did it now."""

    def trial(self, trial: Trial, blank: Entry, /) -> Entry:
        """Return the entry of a trial."""

    def trials_ahead(self, kind: str, asked: Sequence[tuple[Trial, Entry]], *, likely: bool) -> None:
        """Begin trials."""

    def cost(self, costs: Costs, text: str, limit: float, blank: Entry, /) -> Entry:
        """Return the entry of a compile for the latency alone."""

    def costs_ahead(self, costs: Costs, asked: Sequence[tuple[str, Entry]], limit: float, *, likely: bool) -> None:
        """Begin such compiles."""

    def answers(self, asked: Answering, seconds: float | None = None) -> tuple[NDArray[np.float32], float]:
        """Return answers, float32 (settings, n, values), and the seconds of work.

        With a limit in ``seconds`` to the first n images for which there was time.
        """

    def answers_ahead(self, asked: Sequence[Answering], *, likely: bool) -> None:
        """Begin answers."""

    def stage_ahead(self, build: Build, row: Stage[Any], /) -> None:
        """Begin a stage that is needed at the end."""

    def away(self, build: Build, row: Stage[Any], /) -> None:
        """Bring a stage of a build into its workspace."""


@frozen(eq=False)
class Answering:
    """Images to run through a calibrated model under some settings."""

    model: Path
    sha256: str  #: of the model.
    outputs: tuple[str, ...]  #: whose values make an answer.
    settings: Sequence[NDArray[np.uint8]]
    images: Set
    count: int  #: of the first images.
    at_once: int  #: images in one task.


@frozen(eq=False)
class Trials:
    """Builds recipes and measures them."""

    request: Request  #: what to build; its precision is replaced.
    workspace: Workspace  #: folder of the trials, locked.
    journal: Journal  #: of finished work.
    listener: Inside  #: told of progress.
    objective: Objective  #: what answers are worth.
    identity: Mapping[str, object]  #: common part of all keys: hashes of network and calibration, the compiler.
    kept: list[Build] = field(factory=list)  #: builds whose stages are needed again.
    crew: Crew | None = None  #: does the trials instead of this process.
    given: Given | None = None  #: what another machine made and chose, where this one is of a crew.

    def build(self, precision: Precision, limit: float, *, keep: bool = False) -> Build:
        """Return the build of a recipe without running it."""
        request = evolve(self.request, precision=precision, timeout=limit)
        away = None if self.crew is None else self.crew.away
        build = Build(request, self.workspace, self.listener, given=self.given, away=away)
        if keep:
            self.kept.append(build)
        return build

    def quick(self, name: str, precision: Precision, images: Set, limit: float) -> Entry:
        """Compile at the fastest level, within ``limit`` seconds, and measure accuracy only."""
        precision = at_level(precision, QUICK)

        def work() -> dict[str, Any]:
            build = self.build(precision, limit)
            return {**self._measure(build, images), "compile_s": build.stage(COMPILE).seconds}

        return self._once("build", name, precision, images, work, limit)

    def ahead(
        self, kind: str, asked: Iterable[tuple[str, Precision]], images: Set, limit: float, *, likely: bool
    ) -> None:
        """Let the crew begin trials that come next: ``build``, ``ship`` or ``report``."""
        if self.crew is None:
            return
        wanted = []
        for name, recipe in asked:
            precision = at_level(recipe, QUICK) if kind == "build" else recipe
            blank = self.journal.wanted(kind, name, self._inputs(precision, images), limit)
            wanted += [] if blank is None else [(Trial(precision, images, limit), blank)]
        self.crew.trials_ahead(kind, wanted, likely=likely)

    def ship(self, name: str, precision: Precision, images: Set, limit: float) -> Entry:
        """Compile at the shipping level, verify the program, measure latency and accuracy."""

        def work() -> dict[str, Any]:
            build = self.build(precision, limit, keep=True)
            compiled = build.stage(COMPILE)
            latency_us = _latency(compiled.result)
            verified = build.stage(VERIFY)
            started = time.monotonic()
            found = self._measure(build, images)
            return {
                **found,
                "latency_us": latency_us,
                "bit_exact": verified.result.bit_exact,
                "compile_s": compiled.seconds,
                "verify_s": verified.seconds,
                "measure_s": round(time.monotonic() - started, 2),
                "versions": dict(compiled.result.versions),
            }

        return self._once("ship", name, precision, images, work, limit)

    def report(self, name: str, precision: Precision, images: Set, limit: float) -> Entry:
        """Measure a shipped recipe on the images that were kept back."""

        def work() -> dict[str, Any]:
            return self._measure(self.build(precision, limit), images)

        return self._once("report", name, precision, images, work)

    def _once(
        self,
        kind: str,
        name: str,
        precision: Precision,
        images: Set,
        work: Callable[[], Mapping[str, Any]],
        limit: float = 0.0,
    ) -> Entry:
        away = None if self.crew is None else partial(self.crew.trial, Trial(precision, images, limit))
        return self.journal.once(kind, name, self._inputs(precision, images), work, limit=limit, away=away)

    def _inputs(self, precision: Precision, images: Set) -> dict[str, object]:
        return {**self.identity, "precision": described(precision), "images": images.fingerprint}

    def _measure(self, build: Build, images: Set) -> dict[str, Any]:
        """Run the images through the portable model if it is exact, else through the compiler's runtime."""
        portable = build.stage(PORTABLE)
        translated = portable.result.onnx
        outputs = build.stage(EXPORT).result.outputs
        with ExitStack() as stack:
            if translated:
                run = stack.enter_context(runners.portable(portable.path(translated), outputs))
            elif build.toolchain is not None:
                model = build.stage(COMPILE).path(f"{build.prefix}_quantized_model.onnx")
                run = stack.enter_context(runners.vendor(build.toolchain, model, cores(), outputs))
            else:
                raise ModelFileError(portable.result.why_not)
            self.listener.update(counted(len(images.frames), "image"))
            answer = self.objective.answer
            answers = np.stack(spread(lambda frame: answer(run(frame.rgb), frame), list(images.frames)))
        found = self.objective.measured(images.reference, answers, images.truth)
        return {"measured": cattrs.unstructure(found)}


def _latency(compiled: CompileResult) -> float:
    if compiled.static is None:
        raise CompileError("hbdk-cc", "the compiler gave no latency")
    return compiled.static.latency_us


def measured(entry: Entry) -> Measured | None:
    """Return the accuracy in an entry; None if the trial failed."""
    return None if entry.failed else figures(entry)


def figures(entry: Entry) -> Measured:
    """Return the accuracy in an entry that did not fail."""
    return cattrs.structure(entry.values["measured"], Measured)


def latency(entry: Entry) -> float:
    """Return the latency in an entry that did not fail, microseconds."""
    return float(entry.values["latency_us"])


def described(precision: Precision) -> dict[str, Any]:
    """Return a recipe's content without its name and evidence."""
    known: dict[str, Any] = cattrs.unstructure(precision)
    return {key: value for key, value in known.items() if key not in ("name", "note", "evidence")}


def adopt(source: Path, target: Path, names: Callable[[str], bool] = lambda _name: True) -> None:
    """Link the finished stages of one build folder into another, so that it reuses them."""
    for folder in sorted((source / STAGES).glob("*-*")) if (source / STAGES).is_dir() else ():
        final = target / STAGES / folder.name
        if folder.name.startswith(".") or final.exists() or not names(folder.name):
            continue
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for path in sorted(folder.rglob("*")):
            place = partial / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                link_or_copy(path, place)
        partial.replace(final)
