"""The Python API behind ``import edge``: build, load, evaluate; the command line uses it too."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attrs import evolve, field, fields_dict, frozen

from edge.errors import ModelFileError, ToolchainMissing, UsageError
from edge.progress import SILENT, Listener
from edge.sources.options import UNRECORDED, Options, as_typed, flag, renamed
from edge.sources.resolve import resolve

if TYPE_CHECKING:
    from edge.accuracy import Away as Answering
    from edge.accuracy import Evaluation, MeasuredOn, Missing, Step, Subject
    from edge.folder.built import Built
    from edge.images import ImageSet
    from edge.pipeline.build import Away
    from edge.runtime import Net
    from edge.runtime.open import BackendName
    from edge.specs.request import Request
    from edge.toolchain.found import Toolchain

DEMO = "demo:test"


@frozen
class BuildResult:
    """A finished build. It is also a path: ``edge.load(built)`` opens its program."""

    folder: Path  #: the build folder, such as ``build/ConvNeXt_atto``.
    manifest: Mapping[str, Any] = field(repr=False)  #: the content of ``manifest.json``, as JSON values.

    def __fspath__(self) -> str:
        return str(self.folder)

    def file(self, role: str) -> Path | None:
        """Return the file of a role, such as ``bin`` or ``float_onnx``; None if this build has none."""
        found = (entry["path"] for entry in self.manifest["artifacts"] if entry["role"] == role)
        return next((self.folder / path for path in found), None)

    @property
    def program(self) -> Path | None:
        """The ``.bin`` for the board; None after ``compiler="onnxruntime"``."""
        return self.file("bin")

    @property
    def portable(self) -> Path | None:
        """The quantized network in standard ONNX, for any PC."""
        return self.file("portable_onnx")

    @property
    def report(self) -> Path:
        """The report, a page for a browser."""
        return self.folder / "report.html"

    @property
    def n(self) -> int:
        """Number of images behind the figures of accuracy."""
        return int(self.manifest["accuracy"]["n"])

    @property
    def float_top1(self) -> float | None:
        """Top-1 of the float network in percent; None without labels."""
        return self._top1("float")

    @property
    def top1(self) -> float | None:
        """Top-1 of the quantized network in percent; None without labels."""
        return self._top1("quantized")

    @property
    def agreement(self) -> float:
        """Share of the images with the float network's answer behind NV12, in percent; of raw outputs, bit for bit."""
        return float(self.manifest["accuracy"]["agreement"])

    @property
    def cosine(self) -> float:
        """Mean cosine of the quantized scores with the float ones behind NV12, -1..1; of raw outputs the lowest."""
        return float(self.manifest["accuracy"]["cosine"])

    @property
    def latency_us(self) -> float | None:
        """The compiler's own estimate for one frame on the BPU, in microseconds; None without a compiler."""
        return self._static("latency_us")

    @property
    def fps(self) -> float | None:
        """The compiler's own estimate in frames per second; None without a compiler."""
        return self._static("fps")

    @property
    def bit_exact(self) -> bool | None:
        """Whether the ``.bin`` gives the quantized network's integers in the simulator; None if not verified."""
        verify = self.manifest["verify"]
        return None if verify is None else verify["bit_exact"]

    def _top1(self, network: str) -> float | None:
        score = self.manifest["accuracy"][network]
        return None if score is None else float(score["top1"])

    def _static(self, key: str) -> float | None:
        static = self.manifest["static"]
        return None if static is None else float(static[key])


def load(path: str | Path | BuildResult, backend: BackendName = "auto", threads: int = 1) -> Net:
    """Open a program: on the board, or on a PC through a simulator; see :func:`edge.runtime.load`.

    Args:
        path: a build folder, a bundle, a ``.bin``, an ONNX that a build made, or a result of :func:`build`.
        backend: ``auto`` takes the first that works on this machine.
        threads: how many callers compute at once.

    Returns:
        The net; use it in a ``with``, or close it.

    Raises:
        ModelFileError: there is no program.
        BackendError: it can't run on this machine.
    """
    from edge import runtime

    return runtime.load(Path(path), backend, threads=threads)


def build(model: str | Path | None = None, *, listener: Listener = SILENT, **options: Any) -> BuildResult:
    """Build a checked program for the board, as ``edge build`` does; unchanged stages are reused.

    Args:
        model: a zoo name, a model .yaml, ``timm:NAME``, or the path of an .onnx or TorchScript file.
        listener: hears of the stages, of progress, and of what the user should know; it may print.
        options: fields of :class:`edge.sources.options.Options`: those of ``edge build``, in snake_case.
            Numbers may be numbers: ``mean=127.5``, ``crop=(256, 320)``.

    Raises:
        UsageError: no such option, options that contradict each other, or no such model.
        EdgeError: another known failure, as the command line would print it. Finished stages are kept.
    """
    _refuse_unknown(options, fields_dict(Options).keys() - {"arguments"})
    read, given = Options(model=model, **options), {"model": model, **options}
    words = [
        ("" if name == "model" else flag(name), getattr(read, name))
        for name in fields_dict(Options)
        if given.get(name) is not None and name not in UNRECORDED
    ]
    request, notes = resolve(evolve(read, arguments=as_typed(words)))
    if notes:
        listener.warn("\n".join(notes))
    root = (read.build_dir or Path("build")) / request.spec.name
    manifest = run_build(request, root, listener)
    return BuildResult(root, json.loads(json.dumps(manifest)))


def run_build(request: Request, root: Path, listener: Listener, away: Away | None = None) -> dict[str, Any]:
    """Run all stages, publish the results in the build folder, and return its manifest.

    Args:
        away: makes stages instead of this process.

    Raises:
        EdgeError: a known failure; finished stages are kept.
    """
    from edge.folder.workspace import Workspace
    from edge.pipeline.build import Build
    from edge.pipeline.publish import publish
    from edge.report import report_of_build

    with Workspace(root, listener, source=request.source, replace=request.replace) as workspace:
        stages = Build(request, workspace, listener, away=away)
        stages.run()
        return publish(stages, workspace, report_of_build)


def evaluate(
    built: str | Path | BuildResult,
    *,
    images: str | Path | None = None,
    count: int = 500,
    steps: str | Sequence[str] | None = None,
    program_count: int = 10,
    labels: str | Path | None = None,
    label_offset: int = 0,
    seed: int = 0,
    workers: int | None = None,
    listener: Listener = SILENT,
    command: str | None = None,
    board: Callable[[Subject], Step] | None = None,
    check: Callable[[Subject, MeasuredOn, Sequence[Step]], None] | None = None,
    crew: Callable[[Subject, MeasuredOn], Answering] | None = None,
    **unknown: object,
) -> Evaluation:
    """Measure a build after each step from float to program, as ``edge eval`` does; it writes ``eval.json``.

    Args:
        built: a finished build, or its folder.
        images: images to measure on: a folder, list file or labels.csv; None takes those that the build was
            measured on, if they are still there.
        count: number of them; 0 means all.
        steps: which steps, as a sequence or separated by commas; None takes all that can be measured on this
            machine. ``float`` is always measured.
        program_count: images for the step ``program``, which takes seconds each.
        labels: ``imagenet``, ``demo``, or a text file with a class name a line; None takes the build's.
        label_offset: added to every image's label, for a network that numbers the same classes from elsewhere.
        seed: of the choice of images.
        workers: images at once; None takes the number of cores.
        listener: told of progress and of steps that are left out.
        command: recorded as the user's command; None records the verb that does the same.
        board: connects to a board and returns it as a step.
        check: may refuse images and steps before anything is measured.
        crew: gathers others that answer images instead of this process.
        unknown: refused with the closest known name.

    Returns:
        One row per step, Top-1 and agreement in percent, changes in points.

    Raises:
        UsageError: no such step or option, or no images.
        EdgeError: another known failure. Every answer so far is kept.
    """
    path = Path(built)
    given = {"images": images, "count": count, "steps": steps, "program_count": program_count, "labels": labels}
    given["label_offset"] = label_offset
    _refuse_unknown(unknown, (*given, "seed", "workers", "listener"))
    if steps is not None:
        steps = steps.split(",") if isinstance(steps, str) else steps
        steps = [name.strip() for name in steps if name.strip()]
        given["steps"] = ",".join(steps)
    for name, value, least in (("count", count, 0), ("program_count", program_count, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name}={value!r}", expected=f"a whole number, {least} and above")
    if command is None:
        usual = {"count": 500, "program_count": 10, "label_offset": 0, "seed": 0}
        typed = {name: value for name, value in {**given, "seed": seed}.items() if value is not None}
        words = [(flag(name), value) for name, value in typed.items() if value != usual.get(name)]
        command = shlex.join(["edge", "eval", *as_typed([("", path), *words])])
    from edge.accuracy import ANSWERS, FILE, MeasuredOn, choose, discard_stale, find_steps, subject_of, write_evaluation
    from edge.accuracy import evaluate as measure
    from edge.folder.built import open_built
    from edge.folder.workspace import Workspace

    if path.exists() and not path.is_dir():
        raise ModelFileError(
            f"{path} is a single file", expected="the folder of a finished build", remedy=f"edge eval {path.parent}"
        )
    open_built(path)  # report a wrong folder before waiting for the lock
    with Workspace(path, listener):
        finished = open_built(path)  # from here on no build replaces it
        found, unlabelled = built_images(
            finished, "eval", images, labels, count=count, seed=seed, label_offset=label_offset, tell=listener.warn
        )
        measured_on = MeasuredOn(found, unlabelled, seed)
        subject = subject_of(finished, *_compiler_of(finished))
        if label_offset and subject.task != "classify":
            listener.warn("label_offset changes nothing: the outputs are no class scores")
        chosen, missing = find_steps(subject, program_count)
        if board is not None:
            chosen.append(board(subject))
        if steps is None:
            _tell_missing(missing, listener)
        else:
            chosen = choose(chosen, missing, steps)
        if check is not None:
            check(subject, measured_on, chosen)
        if unlabelled and subject.task != "raw":
            listener.warn(f"{unlabelled}; agreement with the float network is measured instead")
        evaluation = measure(
            subject,
            chosen,
            measured_on,
            root=path,
            command=command,
            answers=path / ANSWERS,
            workers=workers,
            listener=listener,
            away=None if crew is None else crew(subject, measured_on),
        )
        write_evaluation(path / FILE, evaluation)
        discard_stale(path, finished.sha256.values())
    return evaluation


def built_images(
    built: Built,
    verb: str,
    images: str | Path | None,
    labels: str | Path | None,
    *,
    count: int,
    seed: int,
    label_offset: int = 0,
    tell: Callable[[str], None] = SILENT.warn,
) -> tuple[ImageSet, str]:
    """Return the images to measure a build on, and why there is no Top-1 or AP; empty if there is.

    Args:
        built: the build.
        verb: for the remedy, such as ``diagnose``.
        images: a source of images; None takes those that the build was measured on, if they are still there.
        labels: source of the class names, as for :func:`edge.images.class_names`; None takes the build's own.
        count: at most this many images; 0 takes all.
        seed: of the choice.
        label_offset: added to every label of files.
        tell: told which images of the user's are taken, if none are given.

    Raises:
        UsageError: no images are given, and those that the build was measured on are gone or were changed.
        EdgeError: as :func:`edge.images.open_images`.
    """
    from edge.images import sample
    from edge.pipeline import choices

    about = built.metadata
    own = "demo" if about.weights == "demo" else None
    if own is None and "labels" in about.files:
        own = str(built.folder / about.files["labels"].path)
    names = own if labels is None else str(labels)
    images = None if images is None else str(images)
    accuracy = built.manifest.get("accuracy", {})
    measured = str(accuracy.get("dataset", "other images"))
    if images is None and not measured.startswith(DEMO):
        found = choices.images_of_build(built, own, names, label_offset)
        if found is None:
            raise UsageError(
                f"no --images, and {about.model} was measured on {measured}, which have moved or were changed",
                expected="a folder of images, a list file or labels.csv",
                remedy=f"edge {verb} {built.folder.name} --images DIR",
            )
        kept, unlabelled = found
        tell(f"no --images: those that the build was measured on are taken, {measured}")
        return (sample(kept, count, seed) if count else kept), unlabelled
    return choices.image_set(
        images,
        names,
        about.weights,
        about.classes,
        count=count,
        seed=seed,
        label_offset=label_offset,
        task=about.task,
        inputs=about.inputs,
        tell=tell,
    )


def _compiler_of(built: Built) -> tuple[Toolchain | None, str]:
    """Return the compiler that made the build, else another one; or why there is none."""
    from edge.toolchain.find import find

    kind = built.manifest.get("toolchain", {}).get("kind")
    if kind == "onnxruntime":
        return None, "built without the vendor's compiler (--compiler onnxruntime)"
    why = "no compiler"
    for choice in (kind, "auto"):
        try:
            return find(cast("Any", choice)), ""
        except ToolchainMissing as error:
            why = error.seen
    return None, why


def _tell_missing(missing: Iterable[Missing], listener: Listener) -> None:
    reasons: dict[str, list[str]] = {}
    for entry in missing:
        reasons.setdefault(entry.why, []).append(entry.name)
    for why, names in reasons.items():
        listener.warn(f"left out: {', '.join(names)} ({why})")


def _refuse_unknown(given: Mapping[str, object], known: Iterable[str]) -> None:
    names = sorted(known)
    for name in given:
        new, value = renamed(name, given[name])
        if new in names:
            raise UsageError(f"{name} is an old name", expected=f"its new one, {new}", remedy=f"{new}={value!r}")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            raise UsageError(
                f"there is no option {name!r}",
                expected=", ".join(names),
                remedy=f"{near[0]}=… is the nearest" if near else None,
            )
