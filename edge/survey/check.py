"""Export, simplify and check one model with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from edge import __version__
from edge.compiler.logs import NodeRow
from edge.compiler.node_names import left_inside
from edge.errors import EdgeError, NotEnoughMemory, ToolchainMissing
from edge.folder.workspace import Workspace
from edge.progress import Listener
from edge.specs import ModelSpec, load_precision
from edge.specs.request import Request
from edge.specs.schema import OWN_FILES
from edge.survey.record import Checked, Counted

if TYPE_CHECKING:
    from edge.pipeline.build import Away, Build


def measure_model(request: Request, build_dir: Path, listener: Listener, away: Away | None = None) -> Counted:
    """Export a model, simplify it to prove that it can be built, and count the exported network.

    Args:
        away: makes the stages instead of this process.
    """
    from edge.graph.count import count
    from edge.pipeline.build import Build
    from edge.pipeline.stages import EXPORT, SIMPLIFY

    with Workspace(build_dir / request.spec.name, listener) as workspace:
        build = Build(request, workspace, listener, away=away)
        exported = build.stage(EXPORT)
        build.stage(SIMPLIFY)
        path = exported.path(exported.result.onnx)
        listener.begin("count")
        work = count(path)
        published = request.spec.published
        other = published.gflops_input if published else None
        elsewhere = None
        if other is not None:
            elsewhere = count(path, input_shape=(*work.input_shape[:2], other, other)).macs
        listener.end("count", 0.0, cached=False, note=f"{work.macs / 1e9:.3f} G multiply-accumulates")
    height, width = request.spec.preprocess.crop
    return Counted(
        height=height,
        width=width,
        parameters=work.parameters,
        macs=work.macs,
        attention=work.attention,
        other=work.other,
        published_at=other,
        macs_published_at=elsewhere,
        versions={"edge": __version__, "exporter": exported.result.exporter, "onnx-tool": version("onnx-tool")},
        max_error=exported.result.max_error,
    )


def request_of(spec: ModelSpec, *, timeout: float, any_memory: bool = False) -> Request:
    """Return the request of one model.

    Weights are random, from seed 0: shapes, placement and speed do not depend on them, and no download is needed.
    A model that is a file keeps its own weights. One run of the compiler may take ``timeout`` seconds.
    """
    own = any(getattr(spec.sources, kind) for kind in OWN_FILES)
    return Request(
        spec=spec,
        precision=load_precision(spec.precision),
        weights="random" if spec.sources.timm and not own else "auto",
        timeout=timeout,
        any_memory=any_memory,
        arguments=(spec.name,),
    )


def check_model(
    request: Request,
    build_dir: Path,
    listener: Listener,
    earlier: Mapping[str, Checked] | None = None,
    away: Away | None = None,
) -> Checked:
    """Return the placement of one model; a known failure is a result too, so the other models are still checked.

    Stages of an earlier run are reused from the build folder. Models of one architecture are the same network without
    their weights, which is checked once: ``earlier`` holds the results of this run so far. ``away`` makes the stages
    instead of this process.
    """
    from edge.pipeline.build import Build
    from edge.pipeline.stages import CHECK, EXPORT, SIMPLIFY

    try:
        with Workspace(build_dir / request.spec.name, listener) as workspace:
            build = Build(request, workspace, listener, away=away)
            simplified = build.stage(SIMPLIFY)
            network = f"{simplified.sha256(simplified.result.onnx)} {request.precision.name}"
            twin = _twin(network, earlier or {})
            if twin is not None:
                listener.begin("check")
                listener.end("check", 0.0, cached=True, note=f"the same network as {twin.same_as}")
                return evolve(twin, seconds=_seconds(build))
            check = build.stage(CHECK)
            nodes = simplified.result.nodes_after
            exported = build.stage(EXPORT).result
    except EdgeError as error:
        machine = isinstance(error, (NotEnoughMemory, ToolchainMissing))
        return Checked(request.weights, failed=error.seen, remedy=error.remedy or "", machine=machine)
    tail, inside = split(check.result.nodes)
    left = left_inside(request.precision, [(row.name, row.type) for row in inside])
    return Checked(
        weights=exported.weights.source,
        nodes=nodes,
        bpu=check.result.bpu,
        cpu=check.result.cpu,
        tail=tuple(row.name for row in tail),
        moved=tuple(row.name for row in inside if row.name not in left),
        inside=left,
        seconds=_seconds(build),
        peak_memory=check.result.peak_memory,
        versions=check.result.versions,
        network=network,
        max_error=exported.max_error,
    )


def _twin(network: str, earlier: Mapping[str, Checked]) -> Checked | None:
    """Return the result of the same network under another name."""
    for name, checked in earlier.items():
        if checked.network == network and not checked.failed:
            return evolve(checked, same_as=checked.same_as or name)
    return None


def _seconds(build: Build) -> float:
    return round(sum(stage.seconds for stage in build.done), 1)


def split(rows: Sequence[NodeRow]) -> tuple[tuple[NodeRow, ...], tuple[NodeRow, ...]]:
    """Return the CPU nodes behind the last BPU node, and all other CPU nodes."""
    last = max((index for index, row in enumerate(rows) if row.on == "BPU"), default=-1)
    tail = tuple(row for row in rows[last + 1 :] if row.on == "CPU")
    return tail, tuple(row for row in rows[: last + 1] if row.on == "CPU")
