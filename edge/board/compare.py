"""The board's answers, compared with a simulator's on the same bytes, or as a step of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.accuracy.steps import Step, Subject, key_of
from edge.board.connection import Connection, Target
from edge.board.findings import require
from edge.board.infer import CHUNK_FRAMES, BoardRunner, Frame, Outputs, Scores
from edge.board.probe import probe
from edge.board.transfer import push
from edge.errors import BackendError, BoardError, ImageError, InputError, LabelError, UsageError, counted
from edge.images import ImageSet
from edge.images.frames import cores
from edge.images.preprocess import decode, resize_crop, rgb_to_nv12
from edge.measure.labels import Shifts
from edge.measure.networks import Runner
from edge.measure.scores import Score, cosines, score, score_record
from edge.progress import Reporter
from edge.runtime import Info, Net, load
from edge.runtime.program import Program, locate
from edge.specs import Preprocess

Choice = Literal["auto", "portable", "quantized", "none"]
SCALE_DIGITS = 1e-5  # of the largest value of an output
STEP_LIMIT = 600.0  # seconds that a chunk of frames may take in ``edge eval``


@frozen
class Answer:
    """The outputs of the board, and of a simulator if there is one, for one frame; float32."""

    board: Outputs
    simulator: Outputs | None

    @property
    def scores(self) -> Scores:
        """The board's class scores, (classes,), of a classifier."""
        return self.board[0].reshape(-1)

    @property
    def differences(self) -> tuple[float, ...] | None:
        """The largest difference of two values of each output."""
        if self.simulator is None:
            return None
        return tuple(
            float(np.abs(ours.ravel() - theirs.ravel()).max())
            for ours, theirs in zip(self.board, self.simulator, strict=True)
        )

    @property
    def max_abs_diff(self) -> float | None:
        """The largest difference of two values."""
        return None if self.differences is None else max(self.differences)

    @property
    def same_top1(self) -> bool | None:
        """Whether both give the same class, of a classifier."""
        return None if self.simulator is None else int(self.scores.argmax()) == int(self.simulator[0].argmax())

    @property
    def same_values(self) -> bool | None:
        """Whether both give the same values, but for the six digits in which the board's tool prints scales."""
        if self.simulator is None:
            return None
        return all(
            np.allclose(ours.ravel(), theirs.ravel(), rtol=0, atol=SCALE_DIGITS * float(np.abs(theirs).max(initial=0)))
            for ours, theirs in zip(self.board, self.simulator, strict=True)
        )


@frozen
class BoardAccuracy:
    """The accuracy of a set of images on the board and in a simulator."""

    dataset: str  #: description of the images.
    dataset_sha256: str  #: of their names, labels and contents.
    n: int  #: images that were run.
    board: Score | None  #: None without labels.
    simulator: Score | None  #: None without labels or without a simulator.
    agreement: int | None  #: images with the same Top-1 answer from both.
    max_abs_diff: float | None  #: the largest difference of two scores.
    cosine: float | None  #: mean cosine of the two score vectors.
    unreadable: tuple[str, ...]  #: images left out of every figure.
    labels_doubt: str = ""  #: that the labels count the classes otherwise; empty as a rule.

    def record(self, info: Info | None) -> dict[str, Any]:
        """Return it as JSON, shares in percent; ``info`` belongs to the simulator."""
        return {
            "dataset": self.dataset,
            "dataset_sha256": self.dataset_sha256,
            "n": self.n,
            "board": score_record(self.board),
            "simulator": score_record(self.simulator),
            "backend": info.backend if info else None,
            "exact": info.exact if info else None,
            "agreement": None if self.agreement is None else round(100 * self.agreement / self.n, 4),
            "max_abs_diff": self.max_abs_diff,
            "cosine": None if self.cosine is None else round(self.cosine, 6),
            "unreadable": list(self.unreadable),
            "labels_doubt": self.labels_doubt,
        }


def open_simulator(path: Path, choice: Choice, reporter: Reporter) -> Net | None:
    """Open the simulator to compare the board with.

    ``auto`` takes the portable model if it computes the board's integers, else the vendor's quantized model,
    else the portable model as an estimate; if none works it warns.

    Raises:
        BackendError: the simulator asked for can't be opened.
    """
    if choice == "none":
        return None
    if choice != "auto":
        return load(path, backend=choice, threads=cores())
    estimate: Net | None = None
    reasons = []
    for name in ("portable", "quantized"):
        try:
            net = load(path, backend=name, threads=cores())
        except BackendError as error:
            reasons.append(f"{name}: {error.seen}")
            continue
        if net.info.exact:
            if estimate is not None:
                estimate.close()
            return net
        estimate = estimate or net
    if estimate is None:
        reporter.warn(f"there is no simulator to compare the board's answers with: {'; '.join(reasons)}")
    return estimate


def board_step(subject: Subject, folder: Path, target: Target, reporter: Reporter, stack: ExitStack) -> Step:
    """Connect to a board and return it as a step of ``edge eval``; ``stack`` closes the connection.

    Raises:
        UsageError: the build holds no program for a board.
        BoardError: it can't be reached, or the program does not fit its runtime.
    """
    if subject.inputs:
        raise UsageError(
            f"--board, but {folder} takes more than one camera image, or something else",
            expected="a program of one NV12 image: hrt_model_exec is given one file a frame",
            remedy="on the board, in Python: edge.load(folder).outputs({name: array, ...})",
        )
    if "bin" not in subject.files:
        raise UsageError(
            f"--board, but {folder} holds no .bin",
            expected="a build with the vendor's compiler",
            remedy="edge build MODEL",
        )
    program = locate(folder)
    connection = stack.enter_context(Connection(target))
    facts = probe(connection)
    require(facts, program, reporter)
    versions = {"os": facts.os or "", "dnn": facts.versions.dnn or "", "hbrt": facts.versions.hbrt or ""}
    known = ", ".join(f"{name} {value}" for name, value in versions.items() if value and name != "os")

    @contextmanager
    def opened(_workers: int) -> Iterator[Runner]:
        pushed = push(connection, program, None, reporter)
        with BoardRunner(connection, pushed.bin, subject.preprocess.canvas, STEP_LIMIT) as runner:
            yield lambda rgb: runner(rgb_to_nv12(rgb))

    return Step(
        name="board",
        by=f"the board ({known})" if known else "the board",
        role="bin",
        model=subject.sha256["bin"],
        key=key_of("board", subject.sha256["bin"], subject, ("edge.board.infer", "edge.board.parse"), **versions),
        open=opened,
        in_flight=2 * CHUNK_FRAMES,  # one chunk on the board while the next one is made
    )


def answers(
    board: BoardRunner, frames: Iterable[Frame], *, simulator: Net | None, count: int, reporter: Reporter
) -> Iterator[Answer]:
    """Run frames (packed NV12, uint8) on the board in chunks, and at the same time in the simulator.

    ``count`` is how many frames there are, for the progress.

    Raises:
        BoardError: the board failed, or gives another number of scores than the simulator.
    """
    left, done = iter(frames), 0
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(cores())
        stack.callback(pool.shutdown, cancel_futures=True)
        while chunk := list(islice(left, CHUNK_FRAMES)):
            references = pool.map(simulator.run, chunk) if simulator else repeat(None)

            def tell(number: int, before: int = done) -> None:
                reporter.update(f"{before + number}/{counted(count, 'frame')} on the board", (before + number) / count)

            for outputs, reference in zip(board.run(chunk, tell), references, strict=False):
                sizes = [output.size for output in outputs]
                wanted = sizes if reference is None else [output.size for output in reference]
                if sizes != wanted:
                    raise BoardError(
                        f"the board gives {_counted(sizes)}, the simulator {_counted(wanted)}",
                        remedy="copy the simulator's program to the board: edge board push HOST MODEL",
                    )
                yield Answer(outputs, reference)
            done += len(chunk)


def _counted(sizes: Sequence[int]) -> str:
    return f"{' + '.join(map(str, sizes))} scores"


def measure_accuracy(
    board: BoardRunner,
    preprocess: Preprocess,
    classes: int,
    images: ImageSet,
    *,
    simulator: Net | None,
    reporter: Reporter,
) -> BoardAccuracy:
    """Run a set of images on the board and in a simulator.

    Labels, if there are any, are class indices below ``classes``, which is the number of scores.

    Raises:
        InputError: no image can be read.
        LabelError: a label outside the classes.
        BoardError: the board failed.
    """
    wrong = [item for item in images if item.label is not None and not 0 <= item.label < classes]
    if images.labelled and wrong:
        raise LabelError(f"{wrong[0].name} has the label {wrong[0].label}", expected=f"0..{classes - 1}")
    labels: list[int] = []
    unreadable: list[str] = []

    def frames() -> Iterator[Frame]:
        for item in images:
            try:
                frame = _frame(item.load(), preprocess)
            except ImageError:
                unreadable.append(item.name)
                reporter.warn(f"{item.name} can't be read and is left out of all figures")
            else:
                labels.append(-1 if item.label is None else item.label)
                yield frame

    found = list(answers(board, frames(), simulator=simulator, count=len(images), reporter=reporter))
    if not found:
        raise InputError(
            f"none of the {counted(len(images), 'image')} of {images.description} could be read",
            expected="JPEG, PNG, BMP, WebP, TIFF or PPM",
        )
    ours = np.stack([answer.scores for answer in found])
    truth = np.array(labels) if images.labelled else None
    if ours.shape[1] != classes:
        raise BoardError(f"the board gives {ours.shape[1]} scores", expected=f"{classes} for this program")
    shift = None if truth is None else Shifts().add(ours.argmax(1), truth).better
    if shift is not None:
        reporter.warn(str(shift))
    other = None if simulator is None else np.stack([a.simulator[0].ravel() for a in found if a.simulator])
    return BoardAccuracy(
        dataset=images.description,
        dataset_sha256=images.fingerprint,
        n=len(found),
        board=None if truth is None else score(ours, truth),
        simulator=None if truth is None or other is None else score(other, truth),
        agreement=None if other is None else int(np.sum(ours.argmax(1) == other.argmax(1))),
        max_abs_diff=None if other is None else float(np.abs(ours - other).max()),
        cosine=None if other is None else float(np.mean(cosines(ours, other))),
        unreadable=tuple(unreadable),
        labels_doubt="" if shift is None else str(shift),
    )


def read_frames(images: Sequence[str], preprocess: Preprocess) -> list[Frame]:
    """Make the board's input from image files; raise ImageError if one can't be read."""
    return [_frame(decode(Path(name).expanduser(), name), preprocess) for name in images]


def require_preprocess(program: Program) -> Preprocess:
    """Return the program's preprocessing; raise UsageError if it has no ``metadata.json``."""
    if program.metadata is not None and program.metadata.inputs:
        raise UsageError(
            f"{program.name} takes more than one camera image, or something else",
            expected="a program of one NV12 image",
            remedy="on the board, in Python: edge.load(folder).outputs({name: array, ...})",
        )
    if program.metadata is None:
        raise UsageError(
            f"{program.name} comes without metadata.json: its preprocessing is not known",
            expected="a build folder or a bundle",
        )
    return program.metadata.preprocess


def _frame(rgb: NDArray[np.uint8], preprocess: Preprocess) -> Frame:
    return rgb_to_nv12(np.ascontiguousarray(resize_crop(rgb, preprocess)))
