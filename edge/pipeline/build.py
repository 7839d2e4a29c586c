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

from edge.compiler.footprint import Purpose, extent_of, require
from edge.compiler.logs import cpu_inside
from edge.compiler.node_names import SOFTMAX_RECIPE, left_inside
from edge.compiler.render import RenderResult, render, template_sha256
from edge.compiler.run import CheckResult, CompileResult, checker, makertbin
from edge.errors import ModelFileError, UsageError
from edge.evaluate import Evaluation, HopName, Pictures, Subject, choose, evaluate, find_hops
from edge.files import sha256_of
from edge.folder.workspace import Stage, stage_key
from edge.images import ImageSet, open_images, sample
from edge.images.calibrate import CalibrationResult, calibrate
from edge.pipeline.choices import choose_framework, choose_pictures
from edge.pipeline.stages import COMPILER_CODE, WORKING_DIR, Stages, versions
from edge.pipeline.verify import FRAMES, VerifyResult, candidates, verify
from edge.prepare.channel_mean import RewriteResult, rewrite
from edge.prepare.equalize import EqualizeResult, equalize
from edge.prepare.rounding import RoundResult, round_weights
from edge.prepare.simplify import SimplifyResult, simplify
from edge.progress import Listener
from edge.runtime.machine import machine
from edge.simulate.hbdk import why_unusable
from edge.simulate.portable import PortableResult, TranslateResult, quantize, translate
from edge.sources.sources import Resolved, choose_weights
from edge.sources.stage import ExportResult, export
from edge.toolchain import managed
from edge.toolchain.environments import FRAMEWORKS
from edge.toolchain.memory import available, total


class SourceStages(Stages):
    """Export to check: properties that run the stages they need, once."""

    @cached_property
    def weights(self) -> Resolved:
        """The concrete source of the weights, downloaded where need be."""
        request = self.request
        return choose_weights(
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
            source = self.weights.framework
            return export(
                resolved=self.weights,
                spec=spec,
                toolchain=toolchain,
                framework=choose_framework(source, self.request, self._listener) if source else None,
                out=out,
                reporter=self._listener,
            )

        if self.weights.framework is not None:
            # Known without the environment, so what it exported once is reused where it is not installed.
            identity = managed.place(FRAMEWORKS[self.weights.framework]).digest
        else:
            identity = self.toolchain.identity if self.weights.needs_toolchain and self.toolchain else ""
        stage = self._stage(
            "export",
            {
                "source": self.weights.identity(),  # the worker's own code is in it
                "shape": spec.preprocess.input_shape,
                # The noise on which ONNX and framework are compared covers what pixels become.
                "values": (spec.preprocess.mean, spec.preprocess.std),
                "labels": _identity_of(spec.labels),
                "toolchain": identity,
                **versions("onnx", "onnxruntime"),
            },
            action,
            ExportResult,
            code=("edge.sources", "edge.graph.files", "edge.sources.demo_weights", "edge.images.find"),
            note=lambda r: (
                f"{r.onnx}, {r.parameters / 1e6:.2f} M parameters"
                + ("" if r.max_error is None else f", within {r.max_error:.1g} of {_of(r)}'s scores")
            ),
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
                **versions("onnx", "onnxsim"),
            },
            action,
            SimplifyResult,
            code=("edge.prepare", "edge.graph.files"),
            note=lambda r: (
                f"{r.nodes_before} → {r.nodes_after} nodes, max abs error {r.max_abs_error:.2g}, {r.form}"
                + (", attention laid out for the BPU" if r.attention else "")
                + (", patches in two steps" if r.patches else "")
            ),
        )

    def _require_memory(self, purpose: Purpose, onnx: Path, pictures: int = 0) -> None:
        """Refuse to start the compiler where it is foretold to be killed for want of memory."""
        free = available()
        if not self.request.any_memory and free is not None:
            name = self.export.result.name
            require(extent_of(onnx), purpose, free=free, name=name, pictures=pictures)

    @cached_property
    def check(self) -> Stage[CheckResult]:
        """Where the compiler puts each node."""
        graph = self.simplify
        toolchain = self._compiler()
        precision = self.request.precision

        def left(result: CheckResult) -> tuple[str, ...]:
            rows = cpu_inside(result.nodes)
            return left_inside(precision, [(row.name, row.type) for row in rows])

        def placed(result: CheckResult) -> str:
            inside, moved = left(result), len(result.cpu_inside) - len(left(result))
            text = f"{result.bpu + moved} nodes on the BPU, {result.cpu - moved} on the CPU"
            if moved:
                text += f", with the {moved} that the recipe moves"
            return text + (f"; INSIDE the network: {', '.join(inside[:3])}" if inside else "")

        def action(out: Path) -> CheckResult:
            self._require_memory("check", graph.path(graph.result.onnx))
            return checker(
                toolchain,
                onnx=graph.path(graph.result.onnx),
                out=out,
                timeout=self.request.timeout,
                reporter=self._listener,
            )

        stage = self._stage(
            "check",
            {"onnx": graph.sha256(graph.result.onnx), "toolchain": toolchain.identity},
            action,
            CheckResult,
            code=COMPILER_CODE,
            note=placed,
        )
        if any(row.type == "Softmax" for row in stage.result.nodes if row.name in left(stage.result)):
            self._listener.warn(
                f"Softmax inside the network runs on the CPU and splits it; --precision {SOFTMAX_RECIPE} "
                "moves it to the BPU"
            )
        return stage


def _identity_of(labels: str | None) -> str | None:
    """Return what the notes on a network's classes depend on: a file's content, not its path alone."""
    path = Path(labels or "")
    return f"{labels} {sha256_of(path)}" if path.is_file() else labels


def _of(result: ExportResult) -> str:
    environment = FRAMEWORKS.get(result.weights.source)
    return environment.title if environment else "torch"


class NetworkStages(SourceStages):
    """Calibrate to render: properties that run the stages they need, once."""

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
                **versions("numpy"),
                "opencv": cv2.__version__,  # whichever of its packages is installed
            },
            action,
            CalibrationResult,
            code=(
                "edge.images.calibrate",
                "edge.images",
                "edge.images.preprocess",
                "edge.images.resample",
                "edge.images.demo",
            ),
            note=lambda r: r.source + (f", {len(r.unreadable)} left out" if r.unreadable else ""),
        )

    @cached_property
    def rewrite(self) -> Stage[RewriteResult]:
        """The BPU-ready ONNX with parts in another form; only where the recipe asks for it."""
        rewrites = self.request.precision.rewrites
        if not rewrites:
            raise UsageError(
                f"recipe {self.request.precision.name} rewrites nothing",
                allowed="a recipe with the key 'rewrites'",
                remedy="--precision int8_channel_mean",
            )
        graph = self.simplify

        def action(out: Path) -> RewriteResult:
            return rewrite(
                model=graph.path(graph.result.onnx),
                rewrites=rewrites,
                out=out,
                name=f"{self.export.result.name}_bpu_rewritten",
                reporter=self._listener,
            )

        return self._stage(
            "rewrite",
            {"onnx": graph.sha256(graph.result.onnx), "rewrites": rewrites, **versions("onnx")},
            action,
            RewriteResult,
            code=("edge.prepare", "edge.prepare"),
            note=lambda r: (
                ", ".join(f"{name} at {len(nodes)} nodes" for name, nodes in r.nodes.items())
                + f", max abs error {r.max_abs_error:.2g}"
            ),
        )

    @cached_property
    def equalize(self) -> Stage[EqualizeResult]:
        """The BPU-ready ONNX with its channels scaled; only where the recipe asks for it."""
        request, equalization = self.request, self.request.precision.equalization
        if equalization is None:
            raise UsageError(
                f"recipe {request.precision.name} does not equalize channels",
                allowed="a recipe with the key 'equalization'",
                remedy="--precision int8_equalized",
            )
        calibration = self.calibrate
        graph, onnx = self._unequalized

        def action(out: Path) -> EqualizeResult:
            return equalize(
                model=graph.path(onnx),
                calibration=self._calibration_files(),
                preprocess=request.spec.preprocess,
                equalization=equalization,
                out=out,
                name=f"{self.export.result.name}_bpu_equalized",
                reporter=self._listener,
            )

        return self._stage(
            "equalize",
            {
                "onnx": graph.sha256(onnx),
                "calibration": calibration.result.sha256,
                "preprocess": cattrs.unstructure(request.spec.preprocess),
                "equalization": cattrs.unstructure(equalization),
                **versions("numpy", "onnx", "onnxruntime"),
            },
            action,
            EqualizeResult,
            code=("edge.prepare", "edge.graph.files", "edge.images.preprocess", "edge.prepare"),
            note=lambda r: f"channels of {len(r.pairs)} pairs scaled, max abs error {r.max_abs_error:.2g}",
        )

    @cached_property
    def round(self) -> Stage[RoundResult]:
        """The BPU-ready ONNX with its weights on int8 steps; only where the recipe asks for it."""
        request, rounding = self.request, self.request.precision.rounding
        if rounding is None:
            raise UsageError(
                f"recipe {request.precision.name} does not round weights",
                allowed="a recipe with the key 'rounding'",
                remedy="--precision int8_rounded",
            )
        calibration = self.calibrate
        graph, onnx = self._unrounded

        def action(out: Path) -> RoundResult:
            return round_weights(
                model=graph.path(onnx),
                calibration=self._calibration_files(),
                preprocess=request.spec.preprocess,
                rounding=rounding,
                seed=request.seed,
                out=out,
                name=f"{self.export.result.name}_bpu_rounded",
                reporter=self._listener,
            )

        return self._stage(
            "round",
            {
                "onnx": graph.sha256(onnx),
                "calibration": calibration.result.sha256,
                "preprocess": cattrs.unstructure(request.spec.preprocess),
                "rounding": cattrs.unstructure(rounding),
                "seed": request.seed,
                **versions("numpy", "onnx", "onnxruntime"),
            },
            action,
            RoundResult,
            code=("edge.prepare", "edge.graph.files", "edge.images.preprocess"),
            note=lambda r: (
                f"weights of {len(r.layers)} layers, {100 * r.error_kept:.0f} % of the nearest steps' error"
                + (f"; {len(r.left)} left as they are" if r.left else "")
            ),
        )

    @property
    def shipped(self) -> tuple[Stage[object], str]:
        """The ONNX that is compiled, as a stage and the name of its file."""
        if self.request.precision.rounding is None:
            return self._unrounded
        return self.round, self.round.result.onnx

    @property
    def _unrounded(self) -> tuple[Stage[object], str]:
        if self.request.precision.equalization is None:
            return self._unequalized
        return self.equalize, self.equalize.result.onnx

    @property
    def _unequalized(self) -> tuple[Stage[object], str]:
        if not self.request.precision.rewrites:
            return self.simplify, self.simplify.result.onnx
        return self.rewrite, self.rewrite.result.onnx

    def _other_weights(self) -> str | None:
        """Return the warning of a recipe that was found for other weights; None if it was not."""
        recipe, exported = self.request.precision, self.export
        if recipe.evidence is None:
            return None
        if recipe.evidence.float_sha256 == exported.sha256(exported.result.onnx):
            return None
        return (
            f"precision recipe {recipe.name} was searched for other weights than these: its figures do not "
            f"hold here; edge tune searches anew, --precision {self.request.spec.precision} goes without"
        )

    def _calibration_files(self) -> list[Path]:
        made = self.calibrate
        return [made.path(file.path) for file in made.files if file.path.startswith(made.result.directory)]

    @cached_property
    def render(self) -> Stage[RenderResult]:
        """The mapper YAML, linted."""
        calibration = self.calibrate
        graph, onnx = self.shipped
        request = self.request
        if (why := self._other_weights()) is not None:
            self._listener.warn(why)

        def action(out: Path) -> RenderResult:
            return render(
                spec=request.spec,
                precision=request.precision,
                model=graph.path(onnx),
                calibration_files=[
                    (Path(file.path).name, file.bytes)
                    for file in calibration.files
                    if file.path.startswith(calibration.result.directory)
                ],
                prefix=self.prefix,
                onnx_model=f"./{onnx}",
                cal_data_dir=f"./{calibration.result.directory}",
                working_dir=f"./{WORKING_DIR}",
                out=out,
            )

        return self._stage(
            "render",
            {
                "spec": cattrs.unstructure(request.spec),
                "precision": cattrs.unstructure(request.precision),
                "onnx": graph.sha256(onnx),
                "prefix": self.prefix,
                "calibration": calibration.result.directory,
                "template": template_sha256(),
            },
            action,
            RenderResult,
            code=("edge.compiler",),
            note=lambda r: f"{r.yaml}, precision {request.precision.name}",
        )

    @property
    def prefix(self) -> str:
        """Start of every file name: model, weights when they are not the real ones, input size and type."""
        height, width = self.request.spec.preprocess.crop
        return f"{self.export.result.name}_{width}x{height}_nv12"


# What decides whether two results are equal, besides the compiler.
VERIFY_CODE = (
    "edge.pipeline.verify",
    "edge.images.preprocess",
    "edge.images.resample",
    "edge.runtime",
    "edge.simulate.binfile",
    "edge.simulate.hbdk",
    "edge.simulate.vendor",
    "edge.simulate.tail",
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
            code=("edge.simulate.portable", "edge.images.preprocess"),
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
            code=("edge.simulate.portable",),
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
            code=("edge.evaluate", "edge.images", "edge.measure.statistics"),
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
