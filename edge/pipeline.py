"""The order of the stages: the only place that knows it.

::

    export → simplify → check → calibrate → render → compile → portable → verify → eval → build folder
    export → simplify → calibrate → quantize → eval                  with ``--mapper portable``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import cattrs
import cv2

from edge.calibrate import CalibrationResult, calibrate
from edge.choices import choose_calibration, choose_compiler, choose_pictures
from edge.errors import ModelFileError, UsageError
from edge.evaluate import EvalResult, NetRunner, OnnxRunner, Runner, evaluate, usable_cores
from edge.export import ExportResult, Resolved, choose, export
from edge.images import ImageSet, open_images, sample
from edge.mapper.render import RenderResult, render, template_sha256
from edge.portable import PortableResult, TranslateResult, quantize, translate
from edge.portable.translate import SUFFIX
from edge.request import Listener, Request
from edge.runtime import load
from edge.simplify import SimplifyResult, simplify
from edge.toolchain.compiler import CheckResult, CompileResult, checker, makertbin
from edge.toolchain.found import Toolchain
from edge.toolchain.hbdk_sim import why_unusable
from edge.toolchain.quantized import QuantizedPool
from edge.verify import FRAMES, VerifyResult, candidates, verify
from edge.workspace import FileRecord, Stage, Workspace, stage_key

T = TypeVar("T")

WORKING_DIR = "model_output"  # of the vendor's own choice, for a compile by hand beside the YAML

# What shapes the vendor's output and how it is read, besides the compiler itself.
COMPILER_CODE = (
    "edge.toolchain.compiler",
    "edge.toolchain.logs",
    "edge.toolchain.sandbox",
    "edge.toolchain.workers.hb_mapper",
)

# What decides whether two results are equal, besides the compiler.
VERIFY_CODE = (
    "edge.verify",
    "edge.preprocess",
    "edge.resample",
    "edge.toolchain.binfile",
    "edge.toolchain.hbdk_sim",
    "edge.toolchain.quantized",
    "edge.toolchain.tail",
    "edge.toolchain.workers.quantized",
)

STAGES = ("export", "simplify", "check", "calibrate", "render", "compile", "portable", "verify", "eval")
PORTABLE_STAGES = ("export", "simplify", "calibrate", "quantize", "eval")


class Build:
    """One build. Each stage is a property that runs the stages it needs, once.

    Args:
        request: what to build.
        workspace: the model's build folder, held.
        listener: learns of progress.
    """

    def __init__(self, request: Request, workspace: Workspace, listener: Listener) -> None:
        self.request = request
        self.workspace = workspace
        self.done: list[Stage[object]] = []
        self._listener = listener
        self._calibration_set = choose_calibration(request)
        # Wrong paths are told now, not after minutes of compiling.
        for source in (request.images, self._calibration_set.images):
            if source is not None:
                open_images(source)

    @cached_property
    def toolchain(self) -> Toolchain | None:
        """The compiler; None with the portable mapper."""
        return choose_compiler(self.request, self._listener)

    @cached_property
    def weights(self) -> Resolved:
        """The concrete source of the weights, downloaded where need be."""
        request = self.request
        return choose(
            request.spec,
            request.weights,
            toolchain=lambda: self.toolchain,
            seed=request.seed,
            reporter=self._listener,
        )

    @cached_property
    def export(self) -> Stage[ExportResult]:
        """The float ONNX."""
        self._listener.begin("export")  # choosing may download
        spec = self.request.spec

        def action(out: Path) -> ExportResult:
            toolchain = self.toolchain if self.weights.needs_toolchain else None
            return export(
                resolved=self.weights, spec=spec, toolchain=toolchain, out=out, reporter=self._listener
            )

        identity = self.toolchain.identity if self.weights.needs_toolchain and self.toolchain else ""
        stage = self._stage(
            "export",
            {"source": self.weights.identity(), "shape": spec.preprocess.input_shape, "toolchain": identity},
            action,
            ExportResult,
            code=("edge.export", "edge.graph", "edge.demo.weights", "edge.toolchain.workers.export_timm"),
            note=lambda r: f"{r.onnx}, {r.parameters / 1e6:.2f} M parameters",
        )
        for note in stage.result.notes:
            self._listener.warn(note)
        return stage

    @cached_property
    def simplify(self) -> Stage[SimplifyResult]:
        """The BPU-ready ONNX."""
        source = self.export

        def action(out: Path) -> SimplifyResult:
            name = f"{source.result.name}_bpu"
            return simplify(
                model=source.path(source.result.onnx), out=out, name=name, reporter=self._listener
            )

        return self._stage(
            "simplify",
            {
                "onnx": source.sha256(source.result.onnx),
                "name": source.result.name,
                **_versions("onnx", "onnxsim"),
            },
            action,
            SimplifyResult,
            code=("edge.simplify", "edge.graph"),
            note=lambda r: (
                f"{r.nodes_before} → {r.nodes_after} nodes, max abs error {r.max_abs_error:.2g}, {r.form}"
            ),
        )

    @cached_property
    def check(self) -> Stage[CheckResult]:
        """Where the compiler puts each node."""
        graph = self.simplify
        toolchain = self._compiler()

        def action(out: Path) -> CheckResult:
            return checker(
                toolchain,
                onnx=graph.path(graph.result.onnx),
                out=out,
                timeout=self.request.timeout,
                reporter=self._listener,
            )

        return self._stage(
            "check",
            {"onnx": graph.sha256(graph.result.onnx), "toolchain": toolchain.identity},
            action,
            CheckResult,
            code=COMPILER_CODE,
            note=lambda r: (
                f"{r.bpu} nodes on the BPU, {r.cpu} on the CPU"
                + (f"; INSIDE the network: {', '.join(r.cpu_inside[:3])}" if r.cpu_inside else "")
            ),
        )

    @cached_property
    def calibrate(self) -> Stage[CalibrationResult]:
        """The calibration set, as the mapper reads it."""
        request = self.request
        demo_network = self.export.result.weights.source in ("demo", "random")
        if request.calibration is None and not demo_network:
            self._listener.warn(
                "calibrating on the project's demo pictures, which this network was not trained for; "
                "give --calib DIR with pictures like the camera's"
            )
        chosen = self._calibration_set
        images = sample(open_images(chosen.images, count=chosen.n, seed=chosen.seed), chosen.n, chosen.seed)

        def action(out: Path) -> CalibrationResult:
            return calibrate(
                images=images,
                preprocess=request.spec.preprocess,
                n=chosen.n,
                seed=chosen.seed,
                out=out,
                reporter=self._listener,
            )

        return self._stage(
            "calibrate",
            {
                "images": images.fingerprint,
                "preprocess": cattrs.unstructure(request.spec.preprocess),
                "n": chosen.n,
                "seed": chosen.seed,
                **_versions("numpy"),
                "opencv": cv2.__version__,  # whichever of its packages is installed
            },
            action,
            CalibrationResult,
            code=("edge.calibrate", "edge.images", "edge.preprocess", "edge.resample", "edge.demo.render"),
            note=lambda r: r.source + (f", {len(r.unreadable)} left out" if r.unreadable else ""),
        )

    @cached_property
    def render(self) -> Stage[RenderResult]:
        """The mapper YAML, linted."""
        graph, calibration = self.simplify, self.calibrate
        request = self.request

        def action(out: Path) -> RenderResult:
            return render(
                spec=request.spec,
                precision=request.precision,
                model=graph.path(graph.result.onnx),
                calibration_files=[
                    (Path(file.path).name, file.bytes)
                    for file in calibration.files
                    if file.path.startswith(calibration.result.directory)
                ],
                prefix=self.prefix,
                onnx_model=f"./{graph.result.onnx}",
                cal_data_dir=f"./{calibration.result.directory}",
                working_dir=f"./{WORKING_DIR}",
                out=out,
            )

        return self._stage(
            "render",
            {
                "spec": cattrs.unstructure(request.spec),
                "precision": cattrs.unstructure(request.precision),
                "onnx": graph.sha256(graph.result.onnx),
                "prefix": self.prefix,
                "calibration": calibration.result.directory,
                "template": template_sha256(),
            },
            action,
            RenderResult,
            code=("edge.mapper",),
            note=lambda r: f"{r.yaml}, precision {request.precision.name}",
        )

    @cached_property
    def compile(self) -> Stage[CompileResult]:
        """The program for the board."""
        graph, calibration, text = self.simplify, self.calibrate, self.render
        toolchain = self._compiler()
        inputs = {
            "yaml": text.sha256(text.result.yaml),
            "onnx": graph.sha256(graph.result.onnx),
            "calibration": calibration.result.sha256,
            "toolchain": toolchain.identity,
        }

        def action(out: Path) -> CompileResult:
            return makertbin(
                toolchain,
                yaml=text.path(text.result.yaml),
                files={
                    graph.result.onnx: graph.path(graph.result.onnx),
                    calibration.result.directory: calibration.path(calibration.result.directory),
                },
                out=out,
                prefix=self.prefix,
                working_dir=WORKING_DIR,
                key=stage_key("compile", inputs),
                timeout=self.request.timeout,
                reporter=self._listener,
            )

        return self._stage(
            "compile",
            inputs,
            action,
            CompileResult,
            code=COMPILER_CODE,
            note=lambda r: f"{r.bin}" + (f", {r.static.latency_us:.1f} us static" if r.static else ""),
        )

    @cached_property
    def quantize(self) -> Stage[PortableResult]:
        """The int8 ONNX of the portable mapper."""
        graph, calibration = self.simplify, self.calibrate

        def action(out: Path) -> PortableResult:
            return quantize(
                model=graph.path(graph.result.onnx),
                calibration=calibration.path(calibration.result.directory),
                preprocess=self.request.spec.preprocess,
                prefix=self.prefix,
                out=out,
                reporter=self._listener,
            )

        return self._stage(
            "quantize",
            {
                "onnx": graph.sha256(graph.result.onnx),
                "calibration": calibration.result.sha256,
                "preprocess": cattrs.unstructure(self.request.spec.preprocess),
                "prefix": self.prefix,
                **_versions("numpy", "onnx", "onnxruntime"),
            },
            action,
            PortableResult,
            code=("edge.portable", "edge.preprocess"),
            note=lambda r: f"{r.onnx}, by onnxruntime",
        )

    @cached_property
    def portable(self) -> Stage[TranslateResult]:
        """The program's integers in standard ONNX, for machines without the vendor's software."""
        compiled = self.compile
        name = f"{self.prefix}_quantized_model.onnx"

        def action(out: Path) -> TranslateResult:
            try:
                return translate(quantized=compiled.path(name), prefix=self.prefix, out=out)
            except ModelFileError as error:
                return TranslateResult(None, 0, error.seen)

        stage = self._stage(
            "portable",
            {"quantized": compiled.sha256(name), "prefix": self.prefix, **_versions("numpy", "onnx")},
            action,
            TranslateResult,
            code=("edge.portable",),
            note=lambda r: f"{r.onnx}, {r.nodes} operators translated" if r.onnx else "none",
        )
        if stage.result.why_not:
            self._listener.warn(f"no portable model: {stage.result.why_not}")
        return stage

    @cached_property
    def verify(self) -> Stage[VerifyResult]:
        """The proof that the program computes what the quantized model does."""
        compiled, portable, toolchain = self.compile, self.portable, self._compiler()
        quantized = f"{self.prefix}_quantized_model.onnx"
        preprocess = self.request.spec.preprocess
        images = candidates(self._pictures[0])
        translated = portable.result.onnx

        def action(_out: Path) -> VerifyResult:
            return verify(
                toolchain=toolchain,
                program=compiled.path(compiled.result.bin),
                quantized=compiled.path(quantized),
                portable=portable.path(translated) if translated else None,
                images=images,
                preprocess=preprocess,
                reporter=self._listener,
            )

        stage = self._stage(
            "verify",
            {
                "bin": compiled.sha256(compiled.result.bin),
                "quantized": compiled.sha256(quantized),
                "portable": portable.sha256(translated) if translated else None,
                "images": images.fingerprint,
                "frames": FRAMES,
                "preprocess": cattrs.unstructure(preprocess),
                "toolchain": toolchain.identity,
                "simulator": why_unusable(toolchain),
                **_versions("numpy", "onnxruntime"),
                "opencv": cv2.__version__,
            },
            action,
            VerifyResult,
            code=VERIFY_CODE,
            note=_verify_note,
        )
        if stage.result.why_not:
            self._listener.warn(f"NOT VERIFIED against the compiled program: {stage.result.why_not}")
        return stage

    @cached_property
    def eval(self) -> Stage[EvalResult]:
        """Float against quantized on the same pictures."""
        request, source = self.request, self.export
        quantized, name = self._quantized
        portable = name.endswith(SUFFIX)
        images, no_top1 = self._pictures
        if no_top1:
            self._listener.warn(f"{no_top1}; agreement with the float network is measured instead")
        preprocess = request.spec.preprocess

        def action(out: Path) -> EvalResult:
            workers = usable_cores()
            with ExitStack() as stack:
                runner: Runner
                if portable:
                    runner = NetRunner(stack.enter_context(load(quantized.path(name), "portable")))
                else:
                    pool = QuantizedPool(self._compiler(), quantized.path(name), workers)
                    runner = stack.enter_context(pool)
                return evaluate(
                    images=images,
                    preprocess=preprocess,
                    float_runner=OnnxRunner(source.path(source.result.onnx), preprocess),
                    quantized_runner=runner,
                    classes=source.result.classes,
                    labelled=not no_top1,
                    out=out,
                    workers=workers,
                    reporter=self._listener,
                )

        return self._stage(
            "eval",
            {
                "float": source.sha256(source.result.onnx),
                "quantized": quantized.sha256(name),
                "images": images.fingerprint,
                "labelled": not no_top1,
                "preprocess": cattrs.unstructure(preprocess),
                "toolchain": "portable" if portable else self._compiler().identity,
                **_versions("numpy", "onnxruntime"),
                "opencv": cv2.__version__,
            },
            action,
            EvalResult,
            code=(
                "edge.evaluate",
                "edge.images",
                "edge.preprocess",
                "edge.resample",
                "edge.runtime",
                "edge.toolchain.quantized",
            ),
            note=_eval_note,
        )

    @property
    def _quantized(self) -> tuple[Stage[object], str]:
        """The quantized network to measure: the portable model where it was seen to be the compiler's own."""
        if self.toolchain is None:
            return self.quantize, self.quantize.result.onnx
        if self.portable.result.onnx and self.verify.result.portable_exact:
            return self.portable, self.portable.result.onnx
        return self.compile, f"{self.prefix}_quantized_model.onnx"

    @cached_property
    def _pictures(self) -> tuple[ImageSet, str]:
        """The pictures to measure on, and why there is no Top-1; empty if there is."""
        network = self.export.result
        return choose_pictures(self.request, network.weights.source, network.classes)

    @property
    def prefix(self) -> str:
        """Start of every file name: model, weights when they are not the real ones, input size and type."""
        height, width = self.request.spec.preprocess.crop
        return f"{self.export.result.name}_{width}x{height}_nv12"

    def record(self, path: Path) -> FileRecord:
        """Return size and hash of a file of a finished stage."""
        return next(file for stage in self.done for file in stage.files if stage.path(file.path) == path)

    def run(self) -> None:
        """Run every stage in order, so that progress reads in order."""
        portable = self.toolchain is None
        for stage in PORTABLE_STAGES if portable else STAGES:
            getattr(self, stage)

    def _compiler(self) -> Toolchain:
        if self.toolchain is None:
            raise UsageError(
                "this stage needs the vendor's compiler, and the mapper is portable",
                allowed="--mapper auto, managed, path or docker",
                remedy="edge toolchain install",
            )
        return self.toolchain

    def _stage(
        self,
        name: str,
        inputs: Mapping[str, object],
        action: Callable[[Path], T],
        result_type: type[T],
        *,
        code: tuple[str, ...],
        note: Callable[[T], str],
    ) -> Stage[T]:
        self._listener.begin(name)
        stage = self.workspace.run(name, inputs, action, result_type, code)
        self._listener.end(name, stage.seconds, cached=stage.cached, note=note(stage.result))
        self.done.append(stage)
        return stage


def _versions(*packages: str) -> dict[str, str]:
    return {package: version(package) for package in packages}


def _verify_note(result: VerifyResult) -> str:
    if result.why_not:
        return "not verified"
    part = f", first of its {result.calls} BPU parts" if result.calls > 1 else ""
    return f"program equals quantized model bit for bit on {result.frames} frames{part}"


def _eval_note(result: EvalResult) -> str:
    agreement = f"agreement {result.agreement_percent:.1f} % on {result.n} pictures"
    if result.float_score is None or result.quantized_score is None:
        return agreement
    return f"Top-1 {result.float_score.top1:.2f} → {result.quantized_score.top1:.2f} %, {agreement}"
