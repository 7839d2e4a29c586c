"""Export, simplify and check one model with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge.errors import EdgeError
from edge.mapper.placement import left_inside
from edge.pipeline import Build
from edge.progress import Listener
from edge.request import Request
from edge.survey.record import Checked
from edge.toolchain.logs import NodeRow
from edge.workspace import Workspace


def check_model(request: Request, build_dir: Path, listener: Listener) -> Checked:
    """Return the placement of one model; a failure is a result too, so that the others get their turn.

    What an earlier run finished is taken from the build folder.
    """
    try:
        with Workspace(build_dir / request.spec.name, listener) as workspace:
            build = Build(request, workspace, listener)
            check = build.check
            seconds = sum(stage.seconds for stage in build.done)
            nodes = build.simplify.result.nodes_after
            weights = build.export.result.weights.source
    except EdgeError as error:
        return Checked(request.weights, failed=error.seen)
    except Exception as error:
        return Checked(request.weights, failed=f"unexpected {type(error).__name__}: {error}")
    tail, inside = split(check.result.nodes)
    left = left_inside(request.precision, [(row.name, row.type) for row in inside])
    return Checked(
        weights=weights,
        nodes=nodes,
        bpu=check.result.bpu,
        cpu=check.result.cpu,
        tail=tuple(row.name for row in tail),
        moved=tuple(row.name for row in inside if row.name not in left),
        inside=left,
        seconds=round(seconds, 1),
        peak_memory=check.result.peak_memory,
        versions=check.result.versions,
    )


def split(rows: Sequence[NodeRow]) -> tuple[tuple[NodeRow, ...], tuple[NodeRow, ...]]:
    """Return the CPU nodes behind the last BPU node, and all other CPU nodes."""
    last = max((index for index, row in enumerate(rows) if row.on == "BPU"), default=-1)
    tail = tuple(row for row in rows[last + 1 :] if row.on == "CPU")
    return tail, tuple(row for row in rows[: last + 1] if row.on == "CPU")
