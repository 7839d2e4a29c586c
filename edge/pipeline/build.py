"""The order of the stages: the only place that knows it.

::

    export → simplify → check → calibrate → render → compile → portable → verify → eval → build folder
    export → simplify → calibrate → quantize → eval                  with ``--mapper portable``
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import cattrs
import cv2

from edge.choices import choose_pictures
from edge.errors import ModelFileError
from edge.evaluate import EvalResult, NetRunner, OnnxRunner, Runner, evaluate, usable_cores
from edge.images import ImageSet
from edge.pipeline.network import NetworkStages
from edge.pipeline.stages import COMPILER_CODE, WORKING_DIR, versions
from edge.portable import PortableResult, TranslateResult, quantize, translate
from edge.portable.translate import SUFFIX
from edge.runtime import load
from edge.toolchain.compiler import CompileResult, makertbin
from edge.toolchain.hbdk_sim import why_unusable
from edge.toolchain.quantized import QuantizedPool
from edge.verify import FRAMES, VerifyResult, candidates, verify
from edge.workspace import Stage, stage_key

# What decides whether two results are equal, besides the compiler.
VERIFY_CODE = (
    "edge.verify",
    "edge.preprocess",
    "edge.resample",
    "edge.runtime",
    "edge.toolchain.binfile",
    "edge.toolchain.hbdk_sim",
    "edge.toolchain.quantized",
    "edge.toolchain.tail",
    "edge.toolchain.workers.quantized",
)

STAGES = ("export", "simplify", "check", "calibrate", "render", "compile", "portable", "verify", "eval")
PORTABLE_STAGES = ("export", "simplify", "calibrate", "quantize", "eval")


class Build(NetworkStages):
    """One build. Each stage is a property that runs the stages it needs, once."""

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
                **versions("numpy", "onnx", "onnxruntime"),
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
            {"quantized": compiled.sha256(name), "prefix": self.prefix, **versions("numpy", "onnx")},
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
                **versions("numpy", "onnxruntime"),
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
                **versions("numpy", "onnxruntime"),
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
    def quantized_by(self) -> str:
        """What ran the quantized network to measure it."""
        if self.toolchain is None:
            return "onnxruntime, on what its own quantizer made"
        if self._quantized[0].name == "portable":
            return "the portable model, bit for bit the compiler's on the verified frames"
        return "the compiler's own runtime"

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

    def run(self) -> None:
        """Run every stage in order, so that progress reads in order."""
        portable = self.toolchain is None
        for stage in PORTABLE_STAGES if portable else STAGES:
            getattr(self, stage)


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
