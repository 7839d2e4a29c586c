"""From a model's name to the BPU-ready ONNX, and where the compiler puts its nodes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from edge.choices import choose_framework
from edge.export import ExportResult, Resolved, choose, export
from edge.graph import sha256_of
from edge.mapper.placement import SOFTMAX_RECIPE, left_inside
from edge.memory import available
from edge.pipeline.stages import COMPILER_CODE, Stages, versions
from edge.simplify import SimplifyResult, simplify
from edge.toolchain import managed
from edge.toolchain.compiler import CheckResult, checker
from edge.toolchain.environments import FRAMEWORKS
from edge.toolchain.footprint import Purpose, extent_of, require
from edge.toolchain.logs import cpu_inside
from edge.workspace import Stage


class SourceStages(Stages):
    """Export to check: properties that run the stages they need, once."""

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
            code=("edge.export", "edge.graph", "edge.demo.weights", "edge.images.find"),
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
            code=("edge.simplify", "edge.graph"),
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
