"""One build: runs the rows of :mod:`edge.pipeline.stages`, each once, and holds the values that they share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from attrs import evolve, frozen

from edge.accuracy import StepName, Subject
from edge.errors import UsageError
from edge.folder.code import code_digest
from edge.folder.workspace import Done, FileOf, FileRecord, Workspace
from edge.graph.files import load_onnx
from edge.images import ImageSet, open_images, sample
from edge.images.calibrate import CalibrationSet
from edge.measure.labels import lacks_background
from edge.pipeline.choices import (
    choose_calibration,
    choose_compiler,
    choose_images,
    choose_samples,
    require_readable_sets,
)
from edge.pipeline.stage import Stage
from edge.pipeline.stages import (
    CALIBRATE,
    COMPILE,
    EXPORT,
    PORTABLE,
    PORTABLE_STAGES,
    QUANTIZE,
    REFINED,
    SIMPLIFY,
    STAGES,
    VERIFY,
)
from edge.prepare.range_split import chosen_places
from edge.progress import Listener
from edge.sources.sources import Resolved, choose_weights
from edge.specs.request import Request
from edge.specs.schema import Output
from edge.toolchain.found import Toolchain

T = TypeVar("T")


@frozen(eq=False)
class Given:
    """What another machine has chosen and made for a build."""

    stages: tuple[Done[Any], ...]  #: finished ones, in order.
    calibration_set: CalibrationSet
    #: the images of the calibration set, and those to measure on with why there is no Top-1; None where no stage that
    #: is asked for reads them.
    calibration_images: ImageSet | None = None
    measured_on: tuple[ImageSet, str] | None = None


# Makes a stage of a build elsewhere, and puts its folder into the build's workspace.
Away = Callable[["Build", Stage[Any]], None]


class Build:
    """The stages of one request, each run when it is needed, in the model's locked build folder.

    Args:
        given: what another machine made; the request's paths are then not looked at.
        away: asked to make a stage that is not there yet; it may leave it to this machine.

    Raises:
        EdgeError: a path of the request is wrong; checked now, not after minutes of compiling.
    """

    request: Request

    def __init__(
        self,
        request: Request,
        workspace: Workspace,
        listener: Listener,
        *,
        given: Given | None = None,
        away: Away | None = None,
    ) -> None:
        self.request = request
        self.workspace = workspace
        self.listener = listener
        self._given, self._away = given, away
        self._done: dict[str, Done[Any]] = {}
        self._brought: set[str] = set()  # folders of stages that were made elsewhere just now
        if given is None:
            self.calibration_set = choose_calibration(request)
            require_readable_sets(request, self.calibration_set)
        else:
            self.calibration_set = given.calibration_set
            self._done = {stage.name: stage for stage in given.stages}

    def of(self, request: Request, listener: Listener) -> Build:
        """Return the build of another recipe for the same network, from the same workspace and what was given."""
        return Build(request, self.workspace, listener, given=self._given, away=self._away)

    def run(self) -> None:
        """Run every stage that the request needs, in order, so that progress is shown in order."""
        self._doubt_labels()
        self._tell_unused()
        self._require_places()
        for row in PORTABLE_STAGES if self.toolchain is None else STAGES:
            if row.when(self):
                self.stage(row)

    def _doubt_labels(self) -> None:
        """Warn of missing labels, and of those that leave out a background class, before minutes pass."""
        images, no_top1 = self.measured_on
        if self.request.spec.task != "classify":
            return
        if no_top1:
            self.listener.warn(f"{no_top1}; agreement with the float network is measured instead")
        elif not self.request.label_offset:
            doubt = lacks_background([item.label for item in images], self.stage(EXPORT).result.classes)
            if doubt:
                self.listener.warn(doubt)

    def _tell_unused(self) -> None:
        """Warn of class names that change nothing; only now is it known whose weights these are."""
        labels = self.request.spec.labels
        if self.stage(EXPORT).result.weights.source == "demo" and labels not in (None, "imagenet", "demo"):
            self.listener.warn(f"the class names {labels} are not used: the demo's weights have classes of their own")

    def _require_places(self) -> None:
        """Refuse a recipe that names places which the network lacks, before minutes pass; no stage renames nodes."""
        wanted = self.request.precision.range_split
        if wanted is not None and self.toolchain is not None:
            onnx = self.onnx_after(SIMPLIFY).path
            chosen_places(load_onnx(onnx), wanted.places, onnx.name)

    def stage(self, row: Stage[T]) -> Done[T]:
        """Return a finished stage; run it, and the stages that it needs, if they have not run yet."""
        if row.name not in self._done:
            for need in row.needs:
                if need.when(self):
                    self.stage(need)
            self._done[row.name] = self._run(row)
        return self._done[row.name]

    def lacks(self, row: Stage[Any]) -> bool:
        """Tell whether a stage has yet to be made."""
        code = code_digest(row.work.__module__)
        return self.workspace.finished(row.name, row.inputs(self).key, row.result, code) is None

    def _run(self, row: Stage[T]) -> Done[T]:
        inputs = row.inputs(self)
        taken = inspect.signature(row.work).parameters

        def action(out: Path) -> T:
            standing = {"out": out, "reporter": self.listener}
            return row.work(**inputs.arguments(), **{k: v for k, v in standing.items() if k in taken})

        self.listener.begin(row.name)
        code = code_digest(row.work.__module__)
        if self._away is not None and self.workspace.finished(row.name, inputs.key, row.result, code) is None:
            there = self.workspace.stages()
            self._away(self, row)
            self._brought |= self.workspace.stages() - there
        done = self.workspace.run(row.name, inputs.key, action, row.result, code)
        unchanged = done.cached and done.dir.name not in self._brought
        self.listener.end(row.name, done.seconds, cached=unchanged, note=row.note(self, done.result))
        for warning in row.warnings(self, done.result):
            self.listener.warn(warning)
        return done

    @property
    def done(self) -> tuple[Done[Any], ...]:
        """The stages that ran, in order."""
        return tuple(self._done.values())

    def record(self, path: Path) -> FileRecord:
        """Return size and hash of a file of a finished stage."""
        return next(file for done in self.done for file in done.files if done.path(file.path) == path)

    @cached_property
    def toolchain(self) -> Toolchain | None:
        """The compiler; None with onnxruntime."""
        return choose_compiler(self.request, self.listener)

    def compiler(self) -> Toolchain:
        """Return the compiler.

        Raises:
            UsageError: the compiler is onnxruntime.
        """
        if self.toolchain is None:
            raise UsageError(
                "this stage needs the vendor's compiler, and the compiler is onnxruntime",
                expected="--compiler auto, managed, path or docker",
                remedy="edge toolchain install",
            )
        return self.toolchain

    @cached_property
    def weights(self) -> Resolved:
        """The concrete source of the weights, downloaded if needed."""
        return choose_weights(
            self.request.spec,
            self.request.weights,
            toolchain=lambda: self.toolchain,
            seed=self.request.seed,
            reporter=self.listener,
        )

    @cached_property
    def measured_on(self) -> tuple[ImageSet, str]:
        """The images to measure on, and why there is no Top-1; empty if there is."""
        if self._given is not None and self._given.measured_on is not None:
            return self._given.measured_on
        network = self.stage(EXPORT).result
        if network.inputs:
            return choose_samples(self.request, network.inputs, self.listener.warn), "raw outputs have no labels"
        source, names = network.weights.source, network.names
        return choose_images(self.request, source, network.classes, names, self.listener.warn)

    @property
    def prefix(self) -> str:
        """Start of every file name: model, ``_demo`` or ``_random`` for such weights, input size and type."""
        network = self.stage(EXPORT).result
        if network.inputs and not any(one.image for one in network.inputs):
            return network.name
        height, width = self.request.spec.preprocess.canvas
        return f"{network.name}_{width}x{height}_nv12"

    @property
    def quantized(self) -> FileOf:
        """The compiler's quantized ONNX."""
        return self.stage(COMPILE).file(f"{self.prefix}_quantized_model.onnx")

    @cached_property
    def calibration_images(self) -> ImageSet:
        """The images of the calibration set."""
        chosen = self.calibration_set
        if self._given is not None and self._given.calibration_images is not None:
            return self._given.calibration_images
        return sample(open_images(chosen.images, count=chosen.n, seed=chosen.seed), chosen.n, chosen.seed)

    def calibration_files(self) -> list[Path]:
        """Return the files of the calibration set."""
        made = self.stage(CALIBRATE)
        return [made.path(file.path) for file in made.files if file.path.startswith(made.result.directory)]

    @property
    def shipped(self) -> FileOf:
        """The ONNX that is compiled."""
        return self.onnx_after(REFINED[0])

    def onnx_after(self, last: Stage[Any]) -> FileOf:
        """Return the ONNX after a stage, or after the nearest earlier one that the recipe uses."""
        earlier = REFINED[REFINED.index(last) :] if last in REFINED else ()
        row: Stage[Any] = next((row for row in earlier if row.when(self)), SIMPLIFY)
        made = self.stage(row)
        return made.file(made.result.onnx)

    @property
    def _quantized(self) -> StepName:
        """The quantized step to measure: the portable model if verify found it bit for bit equal."""
        if self.toolchain is None:
            return "portable"
        exact = self.stage(PORTABLE).result.onnx and self.stage(VERIFY).result.portable_exact
        return "portable" if exact else "quantized"

    @property
    def quantized_by(self) -> str:
        """The runtime in which the quantized network was measured."""
        if self.toolchain is None:
            return "onnxruntime, on what its own quantizer made"
        if self._quantized == "portable":
            return "the portable model, bit for bit the compiler's on the verified frames"
        return "the compiler's own runtime"

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The program's outputs: the float network's, a row of scores as the map that simplify made of it."""
        outputs = self.stage(EXPORT).result.outputs
        if not self.stage(SIMPLIFY).result.score_map:
            return outputs
        return tuple(evolve(output, shape=(*output.shape, 1, 1)) for output in outputs)

    @property
    def subject(self) -> tuple[Subject, StepName]:
        """The subject to measure, with the files of the measured steps, and the name of its quantized step."""
        export, graph, quantized = self.stage(EXPORT), self.stage(SIMPLIFY), self._quantized
        if quantized == "portable":
            row: Stage[Any] = QUANTIZE if self.toolchain is None else PORTABLE
            measured = self.stage(row).file(self.stage(row).result.onnx)
        else:
            measured = self.quantized
        files = {
            "float_onnx": export.file(export.result.onnx),
            "bpu_onnx": graph.file(graph.result.onnx),
            f"{quantized}_onnx": measured,
        }
        subject = Subject(
            name=export.result.name,
            preprocess=self.request.spec.preprocess,
            classes=export.result.classes,
            scores=export.result.scores,
            files={role: file.path for role, file in files.items()},
            sha256={role: file.sha256 for role, file in files.items()},
            toolchain=self.toolchain,
            task=self.request.spec.task,
            outputs=self.outputs,
            detector=export.result.detector,
            inputs=export.result.inputs,
        )
        return subject, quantized
