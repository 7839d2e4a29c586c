"""The steps from the float network to the program, and how each is opened.

::

    float       the source ONNX, fed with RGB
    simplified  the BPU-ready ONNX, fed with RGB
    nv12        the same, with its input through NV12
    calibrated  the compiler's model with simulated int8 values, in the compiler's runtime
    quantized   the compiler's integer model, in the compiler's runtime
    program     the .bin, instruction by instruction, on a sample of the images
    portable    the integers as standard ONNX, in stock onnxruntime
    board       the .bin on a board; the caller adds this step
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import cattrs
import cv2
from attrs import field, frozen

from edge.accuracy.table import StepName
from edge.errors import EdgeError, ModelFileError, UsageError
from edge.files import sha256_of
from edge.folder.built import Built
from edge.folder.code import code_digest
from edge.folder.workspace import stage_key
from edge.measure import networks
from edge.measure.networks import FloatNet, Runner, scores_of
from edge.simulate.hbdk import Simulator
from edge.specs import Detector, Preprocess
from edge.specs.schema import Input, Output, ScoreKind, Task
from edge.toolchain.found import Toolchain

NAMES: tuple[StepName, ...] = get_args(StepName)
PROGRAM_COUNT = 10
# The files that steps execute.
ROLES = ("float_onnx", "bpu_onnx", "calibrated_onnx", "quantized_onnx", "bin", "portable_onnx")

# Modules that compute a step's answers; with their imports they are the code part of its key.
_CODE, _BOXES = "edge.measure.networks", "edge.measure.boxes"


@frozen
class Subject:
    """The network that is measured: its files from float to program."""

    name: str  #: of the program, such as ``ConvNeXt_atto_demo``.
    preprocess: Preprocess  #: from an image to the network's input.
    classes: int  #: number of scores; 0 where the outputs are no class scores.
    scores: ScoreKind = field(kw_only=True)  #: what a classifier's scores are.
    files: Mapping[str, Path]  #: role -> file, with the roles of :class:`edge.folder.built.Built`.
    sha256: Mapping[str, str]  #: role -> hash.
    toolchain: Toolchain | None = None  #: the compiler; None without one.
    no_toolchain: str = "no compiler"  #: why there is none.
    task: Task = "classify"  #: what the outputs mean.
    outputs: tuple[Output, ...] = ()  #: of the float network, in every file's order.
    detector: Detector | None = None  #: how boxes are read from the outputs; None but for a detector.
    inputs: tuple[Input, ...] = ()  #: where it takes more than one camera image, or something else.

    @property
    def takes_images(self) -> bool:
        """Whether an input is a camera image."""
        return not self.inputs or any(one.image for one in self.inputs)


Opened = Callable[[int], AbstractContextManager[Runner]]


@frozen
class Step:
    """One step, closed."""

    name: StepName  #: its name.
    by: str  #: what executes it, such as ``onnxruntime 1.32.0``.
    role: str  #: role of the file that it executes.
    model: str  #: sha256 of that file.
    key: str  #: sha256 over everything that decides its answers to an image.
    #: takes the number of images computed at once, returns a context manager of a runner.
    open: Opened = field(eq=False)
    count: int | None = None  #: how many images it is measured on; None for all.
    in_flight: int | None = None  #: images handed to it at once; None for as many as are computed at once.
    #: the step whose outputs its own are compared with, where a task keeps how far they are apart.
    like: Step | None = field(default=None, eq=False)


@frozen
class Missing:
    """A step that can't be measured here, and why."""

    name: StepName
    why: str


def subject_of(built: Built, toolchain: Toolchain | None, no_toolchain: str = "") -> Subject:
    """Return a finished build as a subject.

    Raises:
        ModelFileError: a file was changed after the build.
    """
    about = built.metadata
    for role in ROLES:
        if role in built.files and sha256_of(built.files[role]) != built.sha256[role]:
            raise ModelFileError(
                f"{built.files[role]} was changed after the build",
                expected=f"sha256 {built.sha256[role]}",
                remedy=f"edge build {about.model}",
            )
    return Subject(
        name=about.name,
        preprocess=about.preprocess,
        classes=about.classes,
        scores=scores_of(built) if about.task == "classify" else "logits",
        files=built.files,
        sha256=built.sha256,
        toolchain=toolchain,
        no_toolchain=no_toolchain or "no compiler",
        task=about.task,
        outputs=about.outputs,
        detector=about.detector,
        inputs=about.inputs,
    )


def find_steps(subject: Subject, program_count: int = PROGRAM_COUNT) -> tuple[list[Step], list[Missing]]:
    """Return the steps that can be measured on this machine, in order, and those that can't."""
    found: list[Step] = []
    missing: list[Missing] = []
    for name in _WAYS:
        try:
            found.append(step_of(subject, name, program_count))
        except EdgeError as error:
            missing.append(Missing(name, error.seen))
    return found, missing


def step_of(subject: Subject, name: StepName, program_count: int = PROGRAM_COUNT) -> Step:
    """Return a step of a subject.

    Raises:
        EdgeError: it can't be measured on this machine.
    """
    role, way = _WAYS[name]
    if role not in subject.files:
        raise UsageError(f"the build has no {role}")
    by, versions, opened = way(subject, subject.files[role])
    model, count = subject.sha256[role], program_count if name == "program" else None
    return Step(name, by, role, model, key_of(name, model, subject, (), **versions), opened, count)


def choose(steps: Sequence[Step], missing: Sequence[Missing], names: Sequence[str]) -> list[Step]:
    """Return the steps of these names, in order; ``float`` is always among them, and ``nv12`` where later ones are.

    Raises:
        UsageError: no step has that name, or it can't be measured here.
    """
    reasons = {entry.name: entry.why for entry in missing}
    have = [step.name for step in steps]
    for name in names:
        if name not in NAMES:
            raise UsageError(f"there is no step {name!r}", expected=", ".join(NAMES))
        if name not in have:
            why = reasons.get(name, "no board is given")
            raise UsageError(
                f"step {name} can't be measured: {why}",
                expected=", ".join(have),
                remedy="give --board HOST" if name == "board" else "leave it out of --steps",
            )
    later = any(NAMES.index(name) > NAMES.index("nv12") for name in names)
    always = ("float", "nv12") if later else ("float",)  # what the others are compared with
    return [step for step in steps if step.name in always or step.name in names]


def key_of(name: StepName, model: str, subject: Subject, code: tuple[str, ...], **versions: str) -> str:
    """Return the key of a step: the same key means the same answers.

    Args:
        model: sha256 of the file that it executes.
        code: further modules of edge that compute its answers.
    """
    inputs = {
        "model": model,
        "preprocess": cattrs.unstructure(subject.preprocess),
        "detector": cattrs.unstructure(subject.detector),
        "outputs": [cattrs.unstructure(output) for output in subject.outputs] or subject.classes,
        "numpy": version("numpy"),
        "opencv": cv2.__version__,
        **versions,
    }
    boxes = () if subject.detector is None else (_BOXES,)
    return stage_key(f"step {name}", inputs, code_digest(_CODE, *boxes, *code))


_Way = tuple[str, dict[str, str], Opened]  # what executes it in words, versions for the key, how to open it


def _float(subject: Subject, path: Path) -> _Way:
    by, versions = _onnxruntime()
    return by, versions, lambda _workers: nullcontext(FloatNet(path, subject.preprocess).outputs)


def _nv12(subject: Subject, path: Path) -> _Way:
    by, versions = _onnxruntime()

    def opened(_workers: int) -> AbstractContextManager[Runner]:
        return nullcontext(FloatNet(path, subject.preprocess).outputs_through_nv12)

    if not subject.takes_images:
        raise UsageError("no input is a camera image")
    return by, versions, opened


def _vendor(subject: Subject, path: Path) -> _Way:
    toolchain = _toolchain(subject)
    if toolchain.python_argv() is None:
        raise UsageError(f"the Python behind {toolchain.where}/hb_mapper is not known")
    by = f"the compiler's runtime (hb_mapper {toolchain.versions.get('hb_mapper', 'unknown')})"
    return by, {"toolchain": toolchain.identity}, partial(networks.vendor, toolchain, path, outputs=subject.outputs)


def _program(subject: Subject, path: Path) -> _Way:
    toolchain = _toolchain(subject)
    with Simulator(toolchain, path) as simulator:
        simulator.require_whole()
        by = f"hbdk-sim {simulator.version}"
    return by, {"toolchain": toolchain.identity}, lambda _workers: networks.program(toolchain, path, subject.outputs)


def _portable(subject: Subject, path: Path) -> _Way:
    by, versions = _onnxruntime()
    return by, versions, lambda _workers: networks.portable(path, subject.outputs)


_WAYS: dict[StepName, tuple[str, Callable[[Subject, Path], _Way]]] = {
    "float": ("float_onnx", _float),
    "simplified": ("bpu_onnx", _float),
    "nv12": ("bpu_onnx", _nv12),
    "calibrated": ("calibrated_onnx", _vendor),
    "quantized": ("quantized_onnx", _vendor),
    "program": ("bin", _program),
    "portable": ("portable_onnx", _portable),
}


def _toolchain(subject: Subject) -> Toolchain:
    if subject.toolchain is None:
        raise UsageError(subject.no_toolchain)
    return subject.toolchain


def _onnxruntime() -> tuple[str, dict[str, str]]:
    try:
        found = version("onnxruntime")
    except PackageNotFoundError:
        raise UsageError("onnxruntime is not installed", remedy="pip install onnxruntime") from None
    return f"onnxruntime {found}", {"onnxruntime": found}
