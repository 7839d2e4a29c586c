"""Recipes compiled for real, through the stages of a build, and measured on pictures."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cattrs
import numpy as np
from attrs import evolve, field, frozen

from edge.compiler.render import render_text
from edge.compiler.run import makertbin
from edge.errors import CompileError, ModelFileError
from edge.files import link_or_copy
from edge.folder.workspace import STAGES, Workspace
from edge.graph.files import facts, load_onnx
from edge.images.frames import Frame, cores, spread
from edge.measure import networks as runners
from edge.pipeline.build import Build
from edge.pipeline.stages import COMPILE, PORTABLE, VERIFY
from edge.progress import Listener, Reporter, Silent
from edge.specs import Calibration, NodePrecision, Precision
from edge.specs import Preprocess as PreprocessSpec
from edge.specs.request import Request
from edge.specs.schema import Compiler, Level
from edge.toolchain.found import Toolchain
from edge.tune.journal import Entry, Journal
from edge.tune.rank import Scores, compare
from edge.tune.result import Measured
from edge.tune.spaces import at_level

LEVEL: Level = "O1"  # compiles in seconds; O0 does not fuse and says nothing of what ships
_WORKING_DIR = "model_output"
_PREFIX = "latency"


@frozen(eq=False)
class Costs:
    """Measures the latency of a network with some nodes at 16 bits.

    Attributes:
        toolchain: the compiler.
        onnx: the BPU-ready ONNX.
        sha256: of it.
        calibration: a calibration folder; its files are not read, but the compiler wants it to be there.
        preprocess: of the network.
        compiler: its settings; the level is replaced by :data:`LEVEL`.
        journal: of finished work.
        folder: for working files.
        optimization: the mapper's items that every program of the search has.
    """

    toolchain: Toolchain
    onnx: Path
    sha256: str
    calibration: Path
    preprocess: PreprocessSpec
    compiler: Compiler
    journal: Journal
    folder: Path
    optimization: tuple[str, ...] = ()

    def measure(
        self,
        name: str,
        nodes: Mapping[str, NodePrecision],
        limit: float,
        reporter: Reporter | None = None,
    ) -> Entry:
        """Return the entry of a compile for the latency alone; ``latency_us`` among its values.

        Args:
            name: for the user.
            nodes: the settings.
            limit: seconds that it may take.
            reporter: told of its progress.
        """
        text = self._yaml(nodes)
        inputs = {
            "onnx": self.sha256,
            "yaml": text,
            "toolchain": self.toolchain.identity,
        }

        def work() -> dict[str, float]:
            with tempfile.TemporaryDirectory(prefix="latency-", dir=self.folder) as out:
                return {"latency_us": self._compile(text, Path(out), limit, reporter or Silent())}

        return self.journal.once("latency", name, inputs, work, limit=limit)

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
        if made.static is None:
            raise CompileError("hbdk-cc", "the compiler gave no latency")
        return made.static.latency_us


QUICK: Level = "O0"  # compiles in the least time; the integers, and so the accuracy, are those of every level

# What the figures of a trial depend on, besides the compiler.
CODE = (
    "edge.images.frames",
    "edge.prepare",
    "edge.simulate.fakequant",
    "edge.compiler.render",
    "edge.simulate.portable",
    "edge.images.preprocess",
    "edge.prepare",
    "edge.prepare",
    "edge.prepare",
    "edge.compiler.run",
    "edge.compiler.logs",
    "edge.tune.rank",
    "edge.pipeline.verify",
)


@frozen(eq=False)
class Set:
    """Pictures with the float network's answers.

    Attributes:
        frames: the pictures, cropped.
        reference: scores of the float network behind NV12, (n, classes).
        labels: class indices; all None where there is no Top-1.
        fingerprint: of names, labels and contents.
    """

    frames: Sequence[Frame]
    reference: Scores
    labels: Sequence[int | None]
    fingerprint: str


@frozen(eq=False)
class Trials:
    """Makes builds of recipes and measures them.

    Attributes:
        request: what is built; its precision is replaced.
        workspace: folder of the trials, held.
        journal: of finished work.
        listener: told of progress.
        identity: what all trials depend on: hashes of network and calibration, the compiler.
        kept: builds whose stages are asked for again.
    """

    request: Request
    workspace: Workspace
    journal: Journal
    listener: Inside
    identity: Mapping[str, object]
    kept: list[Build] = field(factory=list)

    def build(self, precision: Precision, limit: float, *, keep: bool = False) -> Build:
        """Return the build of a recipe; nothing runs yet."""
        request = evolve(self.request, precision=precision, timeout=limit)
        build = Build(request, self.workspace, self.listener)
        if keep:
            self.kept.append(build)
        return build

    def quick(self, name: str, precision: Precision, pictures: Set, limit: float) -> Entry:
        """Compile at the quickest level and measure: accuracy only.

        Args:
            name: for the user.
            precision: the recipe.
            pictures: to measure on.
            limit: seconds for the compiler.
        """
        precision = at_level(precision, QUICK)

        def work() -> dict[str, Any]:
            build = self.build(precision, limit)
            return {
                "measured": cattrs.unstructure(self._measure(build, pictures)),
                "compile_s": build.stage(COMPILE).seconds,
            }

        inputs = {**self.identity, "precision": described(precision), "pictures": pictures.fingerprint}
        return self.journal.once("build", name, inputs, work, limit=limit)

    def ship(self, name: str, precision: Precision, pictures: Set, limit: float) -> Entry:
        """Compile at the shipping level, prove the program, measure latency and accuracy."""

        def work() -> dict[str, Any]:
            build = self.build(precision, limit, keep=True)
            compiled = build.stage(COMPILE)
            if compiled.result.static is None:
                raise CompileError("hbdk-cc", "the compiler gave no latency")
            verified = build.stage(VERIFY).result
            return {
                "measured": cattrs.unstructure(self._measure(build, pictures)),
                "latency_us": compiled.result.static.latency_us,
                "bit_exact": verified.bit_exact,
                "compile_s": compiled.seconds,
                "versions": dict(compiled.result.versions),
            }

        inputs = {**self.identity, "precision": described(precision), "pictures": pictures.fingerprint}
        return self.journal.once("ship", name, inputs, work, limit=limit)

    def report(self, name: str, precision: Precision, pictures: Set, limit: float) -> Entry:
        """Measure a recipe that shipped on the pictures that were kept back."""

        def work() -> dict[str, Any]:
            return {"measured": cattrs.unstructure(self._measure(self.build(precision, limit), pictures))}

        inputs = {**self.identity, "precision": described(precision), "pictures": pictures.fingerprint}
        return self.journal.once("report", name, inputs, work)

    def _measure(self, build: Build, pictures: Set) -> Measured:
        """Answer the pictures with the portable model, the compiler's own integers, or in its runtime."""
        translated = build.stage(PORTABLE).result.onnx
        with ExitStack() as stack:
            if translated:
                run = stack.enter_context(runners.portable(build.stage(PORTABLE).path(translated)))
            elif build.toolchain is not None:
                model = build.stage(COMPILE).path(f"{build.prefix}_quantized_model.onnx")
                run = stack.enter_context(runners.vendor(build.toolchain, model, cores()))
            else:
                raise ModelFileError(build.stage(PORTABLE).result.why_not)
            self.listener.update(f"{len(pictures.frames)} pictures")
            scores = np.stack(spread(lambda frame: run(frame.rgb), list(pictures.frames)))
        return compare(pictures.reference, scores, pictures.labels)


def measured(entry: Entry) -> Measured | None:
    """Return the accuracy in an entry; None if the trial failed."""
    return None if entry.failed else cattrs.structure(entry.values["measured"], Measured)


def described(precision: Precision) -> dict[str, Any]:
    """Return what a recipe changes of the program, without its name and its evidence."""
    known: dict[str, Any] = cattrs.unstructure(precision)
    return {key: value for key, value in known.items() if key not in ("name", "note", "evidence")}


def adopt(source: Path, target: Path, names: Callable[[str], bool] = lambda _name: True) -> None:
    """Link the finished stages of one build folder into another, so that neither does them again.

    Args:
        source: a build folder.
        target: another.
        names: which of the stage folders.
    """
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


class Inside:
    """Shows the stages of a trial as its steps, with how the search stands; each warning once.

    Args:
        listener: told of it.
        standing: gives what to put behind every step.
    """

    def __init__(self, listener: Listener, standing: Callable[[], str] = str) -> None:
        self._listener = listener
        self._standing = standing
        self._warned: set[str] = set()
        self._stage = ""

    def begin(self, stage: str) -> None:
        """Note the step."""
        self._stage = stage

    def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
        """A step ends without a word."""

    def update(self, text: str, fraction: float | None = None) -> None:
        """Show the step."""
        step = f"{self._stage}: {text}" if self._stage else text
        self._listener.update(step + self._standing(), fraction)

    def warn(self, message: str) -> None:
        """Pass a warning on, once."""
        if message not in self._warned:
            self._warned.add(message)
            self._listener.warn(message)
