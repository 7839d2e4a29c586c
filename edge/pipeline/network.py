"""From the BPU-ready ONNX to what the compiler takes: calibration, the recipe's own ONNX, YAML."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import cattrs
import cv2

from edge.calibrate import CalibrationResult, calibrate
from edge.equalize import EqualizeResult, equalize
from edge.errors import UsageError
from edge.images import open_images, sample
from edge.mapper.render import RenderResult, render, template_sha256
from edge.pipeline.source import SourceStages
from edge.pipeline.stages import WORKING_DIR, versions
from edge.rewrite import RewriteResult, rewrite
from edge.rounding import RoundResult, round_weights
from edge.workspace import Stage


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
            code=("edge.calibrate", "edge.images", "edge.preprocess", "edge.resample", "edge.demo.render"),
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
            code=("edge.rewrite", "edge.simplify"),
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
            code=("edge.equalize", "edge.graph", "edge.preprocess", "edge.simplify"),
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
            code=("edge.rounding", "edge.graph", "edge.preprocess"),
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
            code=("edge.mapper",),
            note=lambda r: f"{r.yaml}, precision {request.precision.name}",
        )

    @property
    def prefix(self) -> str:
        """Start of every file name: model, weights when they are not the real ones, input size and type."""
        height, width = self.request.spec.preprocess.crop
        return f"{self.export.result.name}_{width}x{height}_nv12"
