"""The shared context of a search: request, images, time, trials, and listener."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast, get_args

import cattrs
import numpy as np
from attrs import define, evolve, field, frozen

from edge.errors import InputError, UsageError, counted
from edge.folder.code import code_digest
from edge.folder.workspace import STAGES, Workspace
from edge.graph.files import load_onnx
from edge.images import ImageItem, ImageSet, sample
from edge.images.annotations import NOTHING, BoxSet
from edge.images.frames import load_frames, spread
from edge.measure.boxes import Boxer
from edge.measure.labels import Shifts
from edge.measure.networks import FloatNet
from edge.measure.objective import Classes, Detections, Measured, Objective
from edge.pipeline.build import Build
from edge.pipeline.stage import Inside
from edge.pipeline.stages import CALIBRATE, EXPORT, ROUND, SIMPLIFY, THRESHOLDS
from edge.prepare.channel_mean import channel_mean
from edge.prepare.equalize import find_pairs
from edge.prepare.range_split import find_places
from edge.progress import Listener
from edge.specs import Precision
from edge.specs.request import Request, Weights
from edge.toolchain.found import Toolchain
from edge.tune.journal import Entry, Journal
from edge.tune.trials import Crew, Set, Trials, measured

TRIALS = ".trials"
WORK = ("edge.tune.trials", "edge.tune.units")  # the modules that measure: a trial depends on all they run
FEWEST = 16  # images needed, in both parts together
LEAST_LIMIT = 30.0  # seconds that a trial gets at least


@frozen
class Halves:
    """Disjoint parts of a set of images."""

    selection: ImageSet
    report: ImageSet


def halves(images: ImageSet, seed: int) -> Halves:
    """Split a set in two; with labels, each class is split in halves.

    Images with equal content go into the same part.
    """
    if len(images) < FEWEST:
        raise InputError(
            f"{counted(len(images), 'image')} in {images.description}: too few "
            "to choose on one half and report on the other",
            expected=f"{FEWEST} and more; some hundred for meaningful figures",
            remedy="give --images a larger set, or --count 0 for all of it",
        )
    chosen = {item.name for item in sample(images, len(images) // 2, seed)}
    rows = [row.tobytes() for row in images.contents]
    contents = {row for item, row in zip(images, rows, strict=True) if item.name in chosen}
    first = [item for item in images if item.name in chosen]
    second = [item for item, row in zip(images, rows, strict=True) if row not in contents]
    if not second:
        raise InputError(
            f"the images of {images.description} are copies of each other",
            expected="two halves without an image in common",
            remedy="give --images another set",
        )
    return Halves(_part(images, first, f"seed {seed}"), _part(images, second, f"the other half, seed {seed}"))


def _part(images: ImageSet, items: Sequence[ImageItem], which: str) -> ImageSet:
    name = images.source or images.description
    description = f"{name} ({len(items)} of {counted(len(images), 'image')}, {which})"
    return evolve(images, items=tuple(items), description=description, source=name)


@frozen
class SearchOptions:
    """The bars and the time of a search, as the user sets them."""

    max_drop: float = 0.3  #: points of Top-1 that may be lost compared with float behind NV12.
    #: latency bar as a multiple of plain int8's, 1 and up; None if in microseconds.
    max_latency: float | None = 1.10
    max_latency_us: float | None = None  #: latency bar in microseconds; None if a multiple.
    min_agreement: float | None = None  #: percent; None for no bar.
    seconds: float = 1800.0  #: of one run; the next run of the same search goes on where this one stopped.
    trial_seconds: float = 600.0  #: for one compile.
    command: str = ""  #: what the user typed.


@frozen(eq=False)
class Candidate:
    """A recipe and its measurements on the images of the search."""

    name: str
    precision: Precision
    measured: Measured


@define(eq=False)
class Context:
    """One search: its inputs, values that follow from them, and what was left out so far."""

    #: what to build; its precision is plain int8 at the level that ships, see :func:`edge.tune.spaces.baseline`.
    request: Request
    workspace: Workspace  #: folder of the trials, locked.
    options: SearchOptions  #: bars and time.
    listener: Listener  #: told of progress.
    left_out: list[str] = field(factory=list)  #: work that was skipped for lack of time.
    crew: Crew | None = None  #: does the work instead of this process.
    _best: tuple[float, str] | None = None
    _started: float = field(factory=time.monotonic)

    @cached_property
    def build(self) -> Build:
        """The build of plain int8: all trials share its stages before the compiler."""
        return Build(self.request, self.workspace, self.listener)

    @cached_property
    def toolchain(self) -> Toolchain:
        """The compiler."""
        return self.build.compiler()

    @cached_property
    def journal(self) -> Journal:
        """The journal of finished trials."""
        return Journal(self.workspace.root, self.listener.warn, code_digest(*WORK))

    @property
    def onnx(self) -> Path:
        """The BPU-ready float ONNX of plain int8."""
        graph = self.build.stage(SIMPLIFY)
        return graph.path(graph.result.onnx)

    @cached_property
    def equalizable(self) -> bool:
        """Whether the network has convolutions between which channels can be scaled."""
        return bool(find_pairs(load_onnx(self.onnx)))

    @cached_property
    def splittable(self) -> bool:
        """Whether the network has depthwise convolutions around which channels can be split by range."""
        return bool(find_places(load_onnx(self.onnx)))

    @cached_property
    def rewritable(self) -> bool:
        """Whether parts of the network can be rewritten."""
        _, means = channel_mean(load_onnx(self.onnx))
        return bool(means)

    @cached_property
    def halves(self) -> tuple[Halves, str]:
        """The images in two parts, and why there is no Top-1; empty if there is."""
        source = self.build.stage(EXPORT).result.weights.source
        if self.request.images is None and source not in ("demo", "random"):
            raise UsageError(
                "no images to search on: the demo's rendered images tell nothing about this network",
                expected="a folder of images, a list file or labels.csv, labelled or not",
                remedy=f"edge tune {self.request.spec.name} --images DIR",
            )
        images, unlabelled = self.build.measured_on
        return halves(images, self.request.seed), unlabelled

    @cached_property
    def objective(self) -> Objective:
        """What answers are worth."""
        export = self.build.stage(EXPORT).result
        if export.detector is None:
            return Classes(None, export.scores)
        names = tuple(output.name for output in export.outputs)
        return Detections(Boxer(export.detector, names, self.request.spec.preprocess))

    @cached_property
    def selection(self) -> Set:
        """The images to choose on."""
        return self.load("selection")

    @cached_property
    def kept_back(self) -> Set:
        """The images to report on; a search looks at no answer to them before it is over."""
        return self.load("report")

    @cached_property
    def trials(self) -> Trials:
        """Compiles and measures recipes."""
        build = self.build
        graph, calibration = build.stage(SIMPLIFY), build.stage(CALIBRATE)
        identity: Mapping[str, object] = {
            "onnx": graph.sha256(graph.result.onnx),
            "calibration": calibration.result.sha256,
            "preprocess": cattrs.unstructure(self.request.spec.preprocess),
            "toolchain": self.toolchain.identity,
            "seed": self.request.seed,
        }
        # All trials use the weights of the first build, so none of them downloads again.
        source = build.stage(EXPORT).result.weights.source
        named = cast(Weights, source) if source in get_args(Weights) else self.request.weights
        request = evolve(self.request, weights=named)
        listener = Inside(self.listener, self.standing)
        return Trials(request, self.workspace, self.journal, listener, self.objective, identity, crew=self.crew)

    @property
    def left(self) -> float:
        """Remaining seconds of this run."""
        return self.options.seconds - (time.monotonic() - self._started)

    def limit(self) -> float:
        """Return the seconds that one compile gets now."""
        return max(min(self.options.trial_seconds, self.left), LEAST_LIMIT)

    @property
    def program(self) -> float:
        """Seconds that a finalist takes, from plain int8's: compiled, proved and measured."""
        first = self.journal.of_kind("ship")[0].values
        return 1.1 * sum(float(first[key]) for key in ("compile_s", "verify_s", "measure_s")) + 10

    @property
    def reserve(self) -> float:
        """Seconds to keep for two finalists, and for measuring them and plain int8 on the images kept back.

        At most half of a run, so that every run gets on.
        """
        wanted = 2 * self.program + 3 * float(self.journal.of_kind("ship")[0].values["measure_s"]) + 10
        return min(wanted, 0.5 * self.options.seconds)

    def attempt(self, stage: str, work: Callable[[], Entry], note: Callable[[Entry], str]) -> Entry:
        """Do one trial, report it, and remember the best so far."""
        before = self.journal.done
        self.listener.begin(stage)
        entry = work()
        text = f"{entry.name}: " + (f"FAILED, {entry.failed}" if entry.failed else note(entry))
        worker = "" if self.crew is None else self.crew.by(entry)
        text += f" ({worker})" if worker else ""
        self.listener.end(stage, entry.seconds, cached=self.journal.done == before and not worker, note=text)
        found = measured(entry) if entry.kind in ("build", "ship") else None
        if found is not None and (self._best is None or found.divergence < self._best[0]):
            self._best = (found.divergence, f"agreement {found.agreement_percent:.1f} % with {entry.name}")
        return entry

    def standing(self) -> str:
        """Return the state of the search: the best so far and the time left."""
        best = "" if self._best is None else f"best so far {self._best[1]}, "
        left = max(self.left, 0)
        return f" ({best}{f'{left / 60:.0f} min' if left >= 120 else f'{left:.0f} s'} left)"

    def load(self, part: str) -> Set:
        """Return the ``selection`` or the ``report`` half of the images, with the float network's answers."""
        split, unlabelled = self.halves
        images: ImageSet = getattr(split, part)
        preprocess = self.request.spec.preprocess
        net, answer = FloatNet(self.onnx, preprocess), self.objective.answer
        frames, _ = load_frames(images, preprocess, self.listener)
        answers = np.stack(spread(lambda frame: answer(net.outputs_through_nv12(frame.rgb), frame), list(frames)))
        truth: Sequence[object] = [None if unlabelled else frame.label for frame in frames]
        if isinstance(images, BoxSet) and not unlabelled:
            truth = [images.objects.get(frame.name, NOTHING) for frame in frames]
        elif not unlabelled:
            shift = Shifts().add(answers.argmax(1), np.array(truth)).better
            if shift is not None:
                self.listener.warn(str(shift))
        return Set(frames, answers, truth, images.fingerprint)

    def prune(self) -> None:
        """Remove the stages of trials that are not needed again: their figures are in the journal.

        If work was left out, what took minutes before the compiler is kept for the next run's programs.
        """
        kept = {stage.dir.name for build in (self.build, *self.trials.kept) for stage in build.done}
        needed = (f"{ROUND.name}-", f"{THRESHOLDS.name}-") if self.left_out else ()
        for folder in (self.workspace.root / STAGES).glob("*-*"):
            if folder.name not in kept and not folder.name.startswith(needed):
                shutil.rmtree(folder, ignore_errors=True)
