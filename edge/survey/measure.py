"""Size and work of one model, counted on what is exported."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from edge import __version__
from edge.macs import count
from edge.pipeline import Build
from edge.progress import Listener
from edge.request import Request
from edge.survey.record import Counted
from edge.workspace import Workspace


def measure_model(request: Request, build_dir: Path, listener: Listener) -> Counted:
    """Export a model, simplify it as proof that it can be built, and count the exported network.

    Raises:
        EdgeError: whatever stopped the export, the simplification or the count.
    """
    with Workspace(build_dir / request.spec.name, listener) as workspace:
        build = Build(request, workspace, listener)
        exported = build.export
        build.simplify  # noqa: B018 - a stage is a property that does its work when it is asked for
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
        versions={
            "edge": __version__,
            "exporter": exported.result.exporter,
            "onnx-tool": version("onnx-tool"),
        },
        max_error=exported.result.max_error,
    )
