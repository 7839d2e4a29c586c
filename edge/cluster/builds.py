"""``edge build`` and ``edge models`` on a cluster: the stages of each model by a worker, published from here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

from edge.accuracy.answers import NAME as ANSWERS
from edge.cluster.content import FolderOf, folder_of, unpack
from edge.cluster.jobs import Job
from edge.cluster.pool import Cluster
from edge.cluster.sets import files_of, local, with_contents
from edge.cluster.worker import Here, Task
from edge.compiler.footprint import Extent, estimate, extent_of
from edge.errors import EdgeError, ToolchainError
from edge.folder.store import Store
from edge.folder.workspace import Workspace
from edge.images import ImageSet
from edge.images.calibrate import CalibrationSet
from edge.pipeline.build import Away, Build, Given
from edge.pipeline.stage import Stage
from edge.pipeline.stages import CALIBRATE, EXPORT, PORTABLE_STAGES, STAGES
from edge.progress import SILENT, Listener, Quiet
from edge.specs.request import Request

_ROWS: Mapping[str, Stage[Any]] = {row.name: row for row in (*STAGES, *PORTABLE_STAGES)}
_EXPORT_BYTES = 3 << 30  # that a framework takes to export a network of the zoo


class Sent(Exception):  # noqa: N818 - it ends the walk through a build whose stages are made elsewhere
    """The stages of a build are on their way."""


@define(eq=False)
class Elsewhere:
    """Stages of builds that workers make; ask for all of them first, then take one after the other."""

    cluster: Cluster
    goal: Sequence[Stage[Any]] = ()  #: the stages to make; none for the whole build.
    _jobs: dict[Path, Job] = field(factory=dict)
    _asking: bool = False

    def ask(self, requests: Iterable[Request], build_dir: Path) -> None:
        """Send what is not there yet of some models; an error of one is told when its turn comes."""
        self._asking = True
        for request in requests:
            root = build_dir / request.spec.name
            try:
                with Workspace(root, Quiet(), source=request.source, replace=request.replace) as workspace:
                    build = Build(request, workspace, _Told(self.cluster.listener), away=self.away)
                    for row in self.goal:
                        build.stage(row)
                    if not self.goal:
                        build.run()
            except (Sent, EdgeError):
                continue
        self._asking = False

    def away(self, build: Build, row: Stage[Any], /) -> None:
        """Make a stage elsewhere, with all that is asked for; the user's own files are read here."""
        if row is CALIBRATE or (row is EXPORT and not (self.goal and build.weights.source == "random")):
            return
        root = build.workspace.root
        if root not in self._jobs:
            self._jobs[root] = self._send(build)
        if self._asking:
            raise Sent
        job = self._jobs[root]
        try:
            new = job.outcome is None
            outcome = self.cluster.finished(job, root)
            if new:
                self.cluster.tell(job, outcome)
        except EdgeError as error:
            _keep_log(root, error)
            raise
        if answers := outcome.value["answers"]:
            with Store(root, ANSWERS, SILENT.warn) as store:
                for part, entries in answers.items():
                    store.put(part, entries)

    def _send(self, build: Build) -> Job:
        request, goal = build.request, [row.name for row in self.goal]
        files: dict[str, Path | bytes] = {}
        whole = not goal
        calibration = measured = None
        if whole:
            build.stage(EXPORT)
            build.stage(CALIBRATE)
            if not build.stage(EXPORT).result.inputs:
                calibration = with_contents(build.calibration_images)
            measured = (with_contents(build.measured_on[0]), build.measured_on[1])
        images = [one for one in (calibration, measured and measured[0]) if one is not None]
        for done in build.done:
            files |= {sha256: done.dir / name for name, sha256 in folder_of(done.dir).files.items()}
        options = {
            "request": request,
            "calibration_set": build.calibration_set,
            "folders": tuple(folder_of(done.dir) for done in build.done),
            "calibration": calibration,
            "measured_on": measured,
            "goal": goal,
        }
        needed = tuple(files)
        for one in images:
            files |= files_of(one)
        task = Task(request.spec.name, perform_stages, options, needed, _memory(build, whole=whole))
        return self.cluster.submit(task, files)


def ahead(cluster: Cluster, requests: Sequence[Request], build_dir: Path, *stages: str) -> Away:
    """Let a cluster make stages of all models, first the ones before the last; return what takes them.

    Of models that turn out to be the same network only the first one's last stage is made: that is told by the ONNX
    before it.
    """
    *before, last = [_ROWS[name] for name in stages]
    first = Elsewhere(cluster, before)
    first.ask(requests, build_dir)
    seen, distinct = set[tuple[str, str]](), list[Request]()
    for request in requests:
        try:
            with Workspace(build_dir / request.spec.name, Quiet()) as workspace:
                build = Build(request, workspace, Quiet(), away=first.away)
                made = [build.stage(row) for row in before][-1]
        except EdgeError:
            continue
        network = (made.sha256(made.result.onnx), request.precision.name)
        if network not in seen:
            seen.add(network)
            distinct.append(request)
    then = Elsewhere(cluster, [last])
    then.ask(distinct, build_dir)

    def away(build: Build, row: Stage[Any], /) -> None:
        (then if row is last else first).away(build, row)

    return away


class _Told(Quiet):
    """Passes nothing on but that something takes time; warnings come when the build is published."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def update(self, text: str, fraction: float | None = None) -> None:
        """Show the step."""
        self._listener.update(text, fraction)


def _memory(build: Build, *, whole: bool) -> int:
    """Return the bytes that the stages take at most."""
    if build.request.any_memory:
        return 0
    made = {done.name: done for done in build.done}
    if (done := made.get("simplify") or made.get("export")) is not None:
        extent = extent_of(done.path(done.result.onnx))
    else:
        published = build.request.spec.published
        extent = Extent(round((published.params_m or 0) * 1e6) if published else 0)
    images = build.calibration_set.n
    needed = estimate(extent, "compile" if whole else "check", images) if build.toolchain is not None else 1 << 30
    return needed if "export" in made else max(needed, _EXPORT_BYTES)


def _keep_log(root: Path, error: EdgeError) -> None:
    """Write the compiler's log where a build of this machine leaves it."""
    log = error.__dict__.pop("cluster_log", b"")
    if log and isinstance(error, ToolchainError):
        place = root / "failed" / "cluster" / Path(error.log or "compiler.log").name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(log)
        error.log = str(place)


def perform_stages(
    here: Here,
    *,
    request: Request,
    calibration_set: CalibrationSet,
    folders: tuple[FolderOf, ...],
    calibration: ImageSet | None,
    measured_on: tuple[ImageSet, str] | None,
    goal: Sequence[str],
) -> dict[str, Any]:
    """Make stages of a build from what another machine made."""
    with here.workspace() as workspace:
        for folder in folders:
            unpack(folder, workspace.root, here.contents)
        rows = [_ROWS[folder.name.rpartition("-")[0]] for folder in folders]
        made = tuple(
            workspace.opened(folder.name, row.name, row.result) for folder, row in zip(folders, rows, strict=True)
        )
        taken = None if measured_on is None else (local(measured_on[0], here), measured_on[1])
        images = None if calibration is None else local(calibration, here)
        build = Build(request, workspace, Quiet(), given=Given(made, calibration_set, images, taken))
        for name in goal:
            build.stage(_ROWS[name])
        if not goal:
            build.run()
        answers: dict[str, dict[bytes, bytes]] = {}
        if (workspace.root / ANSWERS).exists():
            with Store(workspace.root, ANSWERS, SILENT.warn) as store:
                answers = {part: dict(store.items(part)) for part in store.parts()}
        return {"folders": tuple(workspace.keep(done.dir) for done in build.done), "answers": answers}
