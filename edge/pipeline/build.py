"""The order of the stages: the only place that knows it.

::

    export → simplify → check → calibrate → rewrite → equalize → round → render → compile → portable → verify
    → eval
    export → simplify → calibrate → quantize → eval                  with ``--mapper portable``

``rewrite``, ``equalize`` and ``round`` are there for recipes that ask for them only.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import cattrs
import cv2
from attrs import evolve

from edge.choices import choose_pictures
from edge.errors import ModelFileError
from edge.evaluate import Evaluation, HopName, Pictures, Subject, choose, evaluate, find_hops
from edge.images import ImageSet
from edge.memory import total
from edge.pipeline.network import NetworkStages
from edge.pipeline.stages import COMPILER_CODE, WORKING_DIR, versions
from edge.portable import PortableResult, TranslateResult, quantize, translate
from edge.progress import Listener
from edge.runtime.machine import machine
from edge.toolchain.compiler import CompileResult, makertbin
from edge.toolchain.hbdk_sim import why_unusable
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

STAGES = (
    "export",
    "simplify",
    "check",
    "calibrate",
    "rewrite",
    "equalize",
    "round",
    "render",
    "compile",
    "portable",
    "verify",
    "eval",
)
PORTABLE_STAGES = ("export", "simplify", "calibrate", "quantize", "eval")


class Build(NetworkStages):
    """One build. Each stage is a property that runs the stages it needs, once."""

    @cached_property
    def compile(self) -> Stage[CompileResult]:
        """The program for the board."""
        calibration, text = self.calibrate, self.render
        graph, onnx = self.shipped
        toolchain = self._compiler()
        inputs = {
            "yaml": text.sha256(text.result.yaml),
            "onnx": graph.sha256(onnx),
            "calibration": calibration.result.sha256,
            "toolchain": toolchain.identity,
            # The hashes above hold these too; edge models --page reads them.
            "level": self.request.precision.compiler.optimize_level,
            "recipe": self.request.precision.name,
            "weights": self.export.result.weights.source,
        }

        def action(out: Path) -> CompileResult:
            self._require_memory("compile", graph.path(onnx), calibration.result.n)
            made = makertbin(
                toolchain,
                yaml=text.path(text.result.yaml),
                files={
                    onnx: graph.path(onnx),
                    calibration.result.directory: calibration.path(calibration.result.directory),
                },
                out=out,
                prefix=self.prefix,
                working_dir=WORKING_DIR,
                key=stage_key("compile", inputs),
                timeout=self.request.timeout,
                reporter=self._listener,
            )
            return evolve(made, machine=_this_machine())  # what its seconds and its memory are of

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
    def eval(self) -> Stage[Evaluation]:
        """Float, float behind NV12, and quantized on the same pictures."""
        images, no_top1 = self._pictures
        if no_top1:
            self._listener.warn(f"{no_top1}; agreement with the float network is measured instead")
        subject, quantized = self._subject
        found, missing = find_hops(subject)
        hops = choose(found, missing, ["float", "nv12", quantized])
        root = self.workspace.root

        def action(_out: Path) -> Evaluation:
            return evaluate(
                subject,
                hops,
                Pictures(images, no_top1, self.request.seed),
                root=root,
                listener=_Inside(self._listener),
            )

        return self._stage(
            "eval",
            {
                "hops": {hop.name: hop.key for hop in hops},
                "name": subject.name,
                "images": images.fingerprint,
                "description": images.description,
                "unlabelled": no_top1,
                "seed": self.request.seed,
            },
            action,
            Evaluation,
            code=("edge.evaluate", "edge.images", "edge.statistics"),
            note=_eval_note,
        )

    @property
    def quantized_by(self) -> str:
        """What ran the quantized network to measure it."""
        if self.toolchain is None:
            return "onnxruntime, on what its own quantizer made"
        if self._quantized == "portable":
            return "the portable model, bit for bit the compiler's on the verified frames"
        return "the compiler's own runtime"

    @property
    def _quantized(self) -> HopName:
        """The quantized network to measure: the portable model where it was seen to be the compiler's own."""
        if self.toolchain is None or (self.portable.result.onnx and self.verify.result.portable_exact):
            return "portable"
        return "quantized"

    @property
    def _subject(self) -> tuple[Subject, HopName]:
        """What to measure, with the files that the measured hops need, and which of them is the quantized."""
        export, graph, quantized = self.export, self.simplify, self._quantized
        files = {"float_onnx": (export, export.result.onnx), "bpu_onnx": (graph, graph.result.onnx)}
        made: tuple[Stage[object], str]
        if self.toolchain is None:
            made = (self.quantize, self.quantize.result.onnx)
        elif quantized == "portable":
            made = (self.portable, self.portable.result.onnx or "")
        else:
            made = (self.compile, f"{self.prefix}_quantized_model.onnx")
        files[f"{quantized}_onnx"] = made
        subject = Subject(
            name=export.result.name,
            preprocess=self.request.spec.preprocess,
            classes=export.result.classes,
            files={role: stage.path(name) for role, (stage, name) in files.items()},
            sha256={role: stage.sha256(name) for role, (stage, name) in files.items()},
            toolchain=self.toolchain,
        )
        return subject, quantized

    @cached_property
    def _pictures(self) -> tuple[ImageSet, str]:
        """The pictures to measure on, and why there is no Top-1; empty if there is."""
        network = self.export.result
        return choose_pictures(self.request, network.weights.source, network.classes)

    def run(self) -> None:
        """Run every stage in order, so that progress reads in order."""
        portable = self.toolchain is None
        precision = self.request.precision
        asked = {
            "rewrite": bool(precision.rewrites),
            "equalize": precision.equalization is not None,
            "round": precision.rounding is not None,
        }
        for stage in PORTABLE_STAGES if portable else STAGES:
            if asked.get(stage, True):
                getattr(self, stage)


def _this_machine() -> str:
    memory = total()
    return machine() + (f", {memory / 2**30:.1f} GiB of memory" if memory else "")


def _verify_note(result: VerifyResult) -> str:
    if result.why_not:
        return "not verified"
    part = f", first of its {result.calls} BPU parts" if result.calls > 1 else ""
    return f"program equals quantized model bit for bit on {result.frames} frames{part}"


def _eval_note(result: Evaluation) -> str:
    first, last = result.hop("float"), result.hop(result.quantized)
    agreement = f"agreement {last.agreement_percent:.1f} % on {result.n} pictures"
    if first.score is None or last.score is None:
        return agreement
    return f"Top-1 {first.score.top1:.2f} → {last.score.top1:.2f} %, {agreement}"


class _Inside:
    """Shows the hops of one stage as its steps."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._hop = ""

    def begin(self, stage: str) -> None:
        self._hop = stage

    def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
        """A step ends without a word."""

    def update(self, text: str, fraction: float | None = None) -> None:
        self._listener.update(f"{self._hop}: {text}" if self._hop else text, fraction)

    def warn(self, message: str) -> None:
        self._listener.warn(message)
