"""``edge tune`` on a cluster: trials, latencies and answers of calibrated models, each by a worker."""

from __future__ import annotations

import json
import pickle
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from edge.cluster.content import FolderOf, WrongContent, digest, folder_of, unpack
from edge.cluster.jobs import Job
from edge.cluster.pool import Cluster
from edge.cluster.sets import files_of, local, with_contents
from edge.cluster.worker import Here, Outcome, Task
from edge.compiler.footprint import estimate, extent_of
from edge.errors import EdgeError
from edge.folder.workspace import Done
from edge.images import ImageSet
from edge.images.calibrate import CalibrationSet
from edge.images.frames import Frame
from edge.measure.objective import Objective
from edge.pipeline.build import Build, Given
from edge.pipeline.stage import Inside, Stage
from edge.pipeline.stages import CALIBRATE, CHECK, COMPILE, EXPORT, PORTABLE, SIMPLIFY, STAGES
from edge.pipeline.verify import few
from edge.progress import SILENT
from edge.simulate.fakequant import FakeQuant
from edge.specs import Precision
from edge.specs.request import Request
from edge.tune.context import Context
from edge.tune.journal import Entry, Journal, tried
from edge.tune.trials import Answering, Costs, Set, Trial, Trials, described
from edge.tune.units import answered

NEEDED, LIKELY, PERHAPS = 30, 20, 0  # priorities of tasks
_BRIEF = 10  # of answers that are perhaps needed: they take a second, the compiles that are perhaps needed ten
_ROWS = {row.name: row for row in STAGES}
_MADE = (EXPORT, SIMPLIFY, CALIBRATE)  # stages that the client makes: all trials share them
_ANSWERING = 1 << 29, 8  # bytes that answers take at most: so many, and copies of the model

_loaded: dict[str, Any] = {}  # of this worker: sets and calibrated models, the last few
_loading = threading.Lock()


@frozen(eq=False)
class Common:
    """What all trials of a search share."""

    request: Request
    calibration_set: CalibrationSet
    calibration_images: ImageSet
    measured_on: tuple[ImageSet, str]
    folders: tuple[FolderOf, ...]
    objective: Objective
    identity: Mapping[str, object]
    code: str  #: of the journal.


class SearchCrew:
    """Workers of a cluster as the crew of a search."""

    def __init__(self, cluster: Cluster, search: Context) -> None:
        self._cluster, self._search = cluster, search
        self._jobs: dict[str, Job] = {}
        self._perhaps: dict[str, list[str]] = {}  # kind -> keys of tasks that are perhaps needed
        self._packed: dict[str, tuple[str, Path | bytes]] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="edge-crew-", ignore_cleanup_errors=True)
        self._common: tuple[str, dict[str, Path | bytes], int] | None = None
        self._made_by: dict[str, str] = {}  # recipe -> the worker that compiled it
        self._images: dict[str, Path | bytes] = {}  # which a worker may find at the same paths

    def __enter__(self) -> SearchCrew:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.turn(0.0)  # what has ended meanwhile is kept
        self._cluster.cancel([job for job in self._jobs.values() if not job.over])
        self._scratch.cleanup()

    # --- trials

    def trial(self, trial: Trial, blank: Entry, /) -> Entry:
        """Return the entry of a trial, and bring the program that is to ship."""
        job = self._jobs.get(blank.key) or self._send_trial(trial, blank, NEEDED)
        if blank.kind == "ship":
            outcome = self._cluster.finished(job, self._search.workspace.root)
        else:
            outcome = self._cluster.wait(job)
        entry: Entry = outcome.value["entry"]
        return entry

    def trials_ahead(self, kind: str, asked: Sequence[tuple[Trial, Entry]], *, likely: bool) -> None:
        """Begin trials; those of the kind that were begun earlier on suspicion are taken back."""
        self._drop_stale(kind, [blank.key for _, blank in asked], likely=likely)
        for trial, blank in asked:
            if blank.key not in self._jobs:
                self._send_trial(trial, blank, LIKELY if likely else PERHAPS)

    def _send_trial(self, trial: Trial, blank: Entry, priority: int) -> Job:
        common, files, memory = self._shared()
        images, content = self._set(trial.images)
        folders: tuple[FolderOf, ...] = ()
        files = {**files, images: content}
        if blank.kind == "report":
            build = self._search.trials.build(trial.precision, trial.limit)
            build.stage(PORTABLE)
            folders = tuple(folder_of(done.dir) for done in build.done)
            files |= _files(build.done)
        options = {
            "key": blank.key,
            "kind": blank.kind,
            "name": blank.name,
            "precision": trial.precision,
            "limit": trial.limit,
            "images": images,
            "common": common,
            "folders": folders,
        }
        needed = tuple(sha256 for sha256 in files if sha256 not in self._images)
        task = Task(blank.name, perform_trial, options, needed, memory)
        return self._send(blank, task, files, priority)

    def _send(self, blank: Entry, task: Task, files: Mapping[str, Path | bytes], priority: int) -> Job:
        def then(outcome: Outcome) -> None:
            entry = outcome.value["entry"]
            if (entry.key, entry.kind) != (blank.key, blank.kind):
                raise WrongContent(f"{blank.name} came back under another key")
            self._search.journal.keep(entry)
            if "precision" in task.options:
                self._made_by[_recipe(task.options["precision"])] = outcome.address

        job = self._jobs[blank.key] = self._cluster.submit(task, files, priority=priority, then=then)
        return job

    def by(self, entry: Entry, /) -> str:
        """Return the name of the worker that did a trial."""
        job = self._jobs.get(entry.key)
        return "" if job is None or job.outcome is None else f"worker {self._cluster.name(job.outcome.address)}"

    def _shared(self) -> tuple[str, dict[str, Path | bytes], int]:
        """Return the hash of what all trials share, the files, and the memory that a trial takes."""
        if self._common is None:
            build, search = self._search.build, self._search
            made = [build.stage(row) for row in _MADE]
            measured, unlabelled = build.measured_on
            frames, calibration = with_contents(few(measured)), with_contents(build.calibration_images)
            common = Common(
                search.trials.request,
                build.calibration_set,
                calibration,
                (frames, unlabelled),
                tuple(folder_of(done.dir) for done in made),
                search.objective,
                search.trials.identity,
                search.journal.code,
            )
            data = pickle.dumps(common)
            self._images = {**files_of(calibration), **files_of(frames)}
            onnx = extent_of(search.onnx)
            memory = 0 if search.request.any_memory else estimate(onnx, "compile", made[-1].result.n)
            self._common = digest(data), {digest(data): data, **_files(made), **self._images}, memory
        return self._common

    def _set(self, images: Set) -> tuple[str, Path | bytes]:
        """Return a set of cropped images with their answers as content."""
        if images.fingerprint not in self._packed:
            frames = [evolve(frame, item=None) for frame in images.frames]
            data = pickle.dumps(evolve(images, frames=frames))
            path = Path(self._scratch.name) / digest(data)
            path.write_bytes(data)
            self._packed[images.fingerprint] = (path.name, path)
        return self._packed[images.fingerprint]

    # --- latencies

    def cost(self, costs: Costs, text: str, limit: float, blank: Entry, /) -> Entry:
        """Return the entry of a compile for the latency alone."""
        job = self._jobs.get(blank.key) or self._send_cost(costs, text, limit, blank, NEEDED)
        entry: Entry = self._cluster.wait(job).value["entry"]
        return entry

    def costs_ahead(self, costs: Costs, asked: Sequence[tuple[str, Entry]], limit: float, *, likely: bool) -> None:
        """Begin such compiles; those that were begun earlier on suspicion are taken back."""
        self._drop_stale("cost", [blank.key for _, blank in asked], likely=likely)
        for text, blank in asked:
            if blank.key not in self._jobs:
                self._send_cost(costs, text, limit, blank, LIKELY if likely else PERHAPS)

    def _send_cost(self, costs: Costs, text: str, limit: float, blank: Entry, priority: int) -> Job:
        _, _, memory = self._shared()
        # The journal stays here; the calibration folder has to exist only.
        nobody: Any = None
        plain = evolve(costs, journal=nobody, crew=None, folder=Path(), calibration=Path(costs.calibration.name))
        options = {"costs": plain, "text": text, "limit": limit, "blank": blank}
        task = Task(f"cost of {blank.name}", perform_cost, options, (costs.sha256,), memory)
        return self._send(blank, task, {costs.sha256: costs.onnx}, priority)

    # --- answers of calibrated models

    def answers(self, asked: Answering, seconds: float | None = None) -> tuple[NDArray[np.float32], float]:
        """Return answers, float32 (settings, n, values), and the seconds of work; see :class:`Crew`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        jobs = [self._answer(asked, start, NEEDED) for start in range(0, asked.count, asked.at_once)]
        parts, spent = [], 0.0
        for job in jobs:
            while not job.over and (deadline is None or time.monotonic() < deadline):
                self._cluster.turn(1.0 if deadline is None else max(0.05, min(1.0, deadline - time.monotonic())))
            if not job.over:
                break
            outcome = self._cluster.wait(job)
            parts.append(outcome.value)
            spent += outcome.seconds
        self._cluster.cancel([job for job in jobs if not job.over])
        for start in range(0, asked.count, asked.at_once):  # they are large, and asked for once
            self._jobs.pop(_answer_key(asked, start), None)
        if not parts:
            return np.empty((len(asked.settings), 0, 1), np.float32), spent
        return np.concatenate(parts, axis=1), round(spent, 2)

    def answers_ahead(self, asked: Sequence[Answering], *, likely: bool) -> None:
        """Begin answers; those that were begun earlier on suspicion are taken back."""
        pieces = [(one, start) for one in asked for start in range(0, one.count, one.at_once)]
        self._drop_stale("answers", [_answer_key(*piece) for piece in pieces], likely=likely)
        for piece in pieces:
            self._answer(*piece, LIKELY if likely else _BRIEF)

    def _answer(self, asked: Answering, start: int, priority: int) -> Job:
        key = _answer_key(asked, start)
        if key not in self._jobs:
            images, content = self._set(asked.images)
            options = {
                "model": asked.sha256,
                "outputs": asked.outputs,
                "settings": list(asked.settings),
                "images": images,
                "start": start,
                "stop": min(start + asked.at_once, asked.count),
                "objective": self._search.objective,
            }
            files = {asked.sha256: asked.model, images: content}
            title = f"answers to images {start} to {options['stop']}"
            memory = _ANSWERING[0] + _ANSWERING[1] * asked.model.stat().st_size
            task = Task(title, perform_answers, options, tuple(files), memory, brief=len(asked.settings) == 1)
            self._jobs[key] = self._cluster.submit(task, files, priority=priority)
        return self._jobs[key]

    def _drop_stale(self, kind: str, wanted: Sequence[str], *, likely: bool) -> None:
        """Take back what was begun on suspicion and is not among the wanted."""
        stale = [key for key in self._perhaps.get(kind, ()) if key in self._jobs and key not in wanted]
        self._cluster.cancel([self._jobs.pop(key) for key in stale if not self._jobs[key].over])
        self._perhaps[kind] = [] if likely else list(wanted)

    # --- stages

    def stage_ahead(self, build: Build, row: Stage[Any], /) -> None:
        """Begin a stage that is the same for all recipes and needed at the end."""
        self._jobs[row.name] = self._send_stage(build, row, PERHAPS)

    def away(self, build: Build, row: Stage[Any], /) -> None:
        """Bring a stage of a recipe, and those before it, from a worker that makes them."""
        if row in _MADE:
            return
        job = self._jobs.pop(row.name, None) or self._send_stage(build, row, NEEDED)
        self._cluster.finished(job, build.workspace.root)

    def _send_stage(self, build: Build, row: Stage[Any], priority: int) -> Job:
        goal = row if row is CHECK or STAGES.index(row) > STAGES.index(COMPILE) else COMPILE
        common, files, memory = self._shared()
        mine = [done for done in build.done if done.name not in {made.name for made in _MADE}]
        options = {
            "precision": build.request.precision,
            "limit": build.request.timeout,
            "common": common,
            "folders": tuple(folder_of(done.dir) for done in mine),
            "goal": goal.name,
        }
        files = {**files, **_files(mine)}
        needed = tuple(sha256 for sha256 in files if sha256 not in self._images)
        task = Task(goal.name, perform_stage, options, needed, memory)
        near = self._made_by.get(_recipe(build.request.precision), "")  # its machine has kept the stages
        return self._cluster.submit(task, files, priority=priority, near=near)


def _answer_key(asked: Answering, start: int) -> str:
    bits = digest(b"".join(setting.tobytes() for setting in asked.settings))
    return f"{asked.sha256} {bits} {asked.images.fingerprint} {start} {asked.count} {asked.at_once}"


def _recipe(precision: Precision) -> str:
    return json.dumps(described(precision), sort_keys=True)


def _files(stages: Sequence[Done[Any]]) -> dict[str, Path | bytes]:
    return {sha256: done.dir / name for done in stages for name, sha256 in folder_of(done.dir).files.items()}


# --- on the worker


def _load(key: str, make: Any, most: int = 4) -> Any:
    """Return something that several tasks of this worker use."""
    with _loading:
        if key not in _loaded:
            while len(_loaded) >= most:
                _loaded.pop(next(iter(_loaded)))
            _loaded[key] = make()
        return _loaded[key]


def _trials(here: Here, workspace: Any, common: Common, folders: Sequence[FolderOf]) -> Trials:
    for folder in (*common.folders, *folders):
        unpack(folder, workspace.root, here.contents)
    made = tuple(
        workspace.opened(folder.name, row.name, row.result)
        for folder in common.folders
        for row in (_ROWS[folder.name.rpartition("-")[0]],)
    )
    measured_on = (local(common.measured_on[0], here), common.measured_on[1])
    given = Given(made, common.calibration_set, local(common.calibration_images, here), measured_on)
    journal = Journal(here.scratch / "journal", SILENT.warn, common.code)
    return Trials(common.request, workspace, journal, Inside(SILENT), common.objective, common.identity, given=given)


def _read(here: Here, sha256: str) -> Any:
    return _load(sha256, lambda: pickle.loads(here.file(sha256).read_bytes()))  # noqa: S301 - of our own client


def perform_trial(
    here: Here,
    *,
    key: str,
    kind: str,
    name: str,
    precision: Precision,
    limit: float,
    images: str,
    common: str,
    folders: tuple[FolderOf, ...],
) -> dict[str, Any]:
    """Do a trial as one machine does it; the journal's entry is the answer."""
    with here.workspace() as workspace:
        trials = _trials(here, workspace, _read(here, common), folders)
        work = {"build": trials.quick, "ship": trials.ship, "report": trials.report}[kind]
        entry = work(name, precision, _read(here, images), limit)
        if entry.key != key:
            raise EdgeError(f"{name} has another key here", expected="the same packages and images on all machines")
        kept = [done for build in trials.kept for done in build.done] if kind == "ship" else []
        found = {done.dir.name: workspace.keep(done.dir) for done in kept}
        return {"entry": entry, "folders": tuple(found.values())}


def perform_stage(
    here: Here, *, precision: Precision, limit: float, common: str, folders: tuple[FolderOf, ...], goal: str
) -> dict[str, Any]:
    """Make a stage of a recipe, and those before it."""
    with here.workspace() as workspace:
        build = _trials(here, workspace, _read(here, common), folders).build(precision, limit)
        build.stage(_ROWS[goal])
        return {"folders": tuple(workspace.keep(done.dir) for done in build.done)}


def perform_cost(here: Here, *, costs: Costs, text: str, limit: float, blank: Entry) -> dict[str, Any]:
    """Compile for the latency alone."""
    from edge.toolchain.find import find

    folder = here.scratch / costs.calibration
    folder.mkdir()
    onnx = here.file(costs.sha256, costs.onnx.name)
    mine = evolve(costs, toolchain=find(costs.toolchain.kind), onnx=onnx, calibration=folder, folder=here.scratch)
    return {"entry": tried(blank, lambda: mine.compiled(text, limit), limit)}


def perform_answers(
    here: Here,
    *,
    model: str,
    outputs: tuple[str, ...],
    settings: Sequence[NDArray[np.uint8]],
    images: str,
    start: int,
    stop: int,
    objective: Objective,
) -> NDArray[np.float32]:
    """Run images through a calibrated model under some settings."""
    net = _load(f"{model} {outputs}", lambda: FakeQuant(here.file(model), outputs=outputs))
    frames: Sequence[Frame] = _read(here, images).frames[start:stop]
    return answered(net, settings, frames, objective)
