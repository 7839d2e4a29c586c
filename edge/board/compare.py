"""The board's answers beside a simulator's, on the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.board.connection import Connection
from edge.board.infer import CHUNK_FRAMES, describe, run_frames
from edge.errors import BackendError, BoardError, ImageError, InputError, LabelError, UsageError
from edge.evaluate import Score, cosine, score, usable_cores
from edge.images import ImageItem, ImageSet
from edge.images.preprocess import decode, resize_crop, rgb_to_nv12
from edge.progress import Reporter
from edge.runtime import Net, load
from edge.runtime.program import Program
from edge.specs import Preprocess

Choice = Literal["auto", "portable", "quantized", "none"]
Frame = NDArray[np.uint8]
Scores = NDArray[np.float32]


@frozen
class Answer:
    """What the board, and a simulator if there is one, gave for one frame; float32, (classes,)."""

    board: Scores
    simulator: Scores | None

    @property
    def max_abs_diff(self) -> float | None:
        """The largest difference of two scores."""
        return None if self.simulator is None else float(np.abs(self.board - self.simulator).max())

    @property
    def same_top1(self) -> bool | None:
        """Whether both give the same class."""
        return None if self.simulator is None else int(self.board.argmax()) == int(self.simulator.argmax())


@frozen
class BoardAccuracy:
    """What a set of pictures gave on the board and in a simulator.

    Attributes:
        dataset: description of the pictures.
        dataset_sha256: of their names, labels and contents.
        n: pictures that were run.
        board: None where the pictures carry no labels.
        simulator: likewise, and None without a simulator.
        agreement: pictures with the same Top-1 answer from both.
        max_abs_diff: the largest difference of two scores.
        cosine: mean cosine of the two score vectors.
        unreadable: pictures left out of every figure.
    """

    dataset: str
    dataset_sha256: str
    n: int
    board: Score | None
    simulator: Score | None
    agreement: int | None
    max_abs_diff: float | None
    cosine: float | None
    unreadable: tuple[str, ...]


def open_simulator(path: Path, choice: Choice, reporter: Reporter) -> Net | None:
    """Open what to compare the board with.

    ``auto`` takes the portable model if it computes the board's integers, else the vendor's quantized model,
    else the portable model as an estimate; without any it warns.

    Raises:
        BackendError: the simulator asked for can't be opened.
    """
    if choice == "none":
        return None
    if choice != "auto":
        return load(path, backend=choice, threads=usable_cores())
    estimate: Net | None = None
    reasons = []
    for name in ("portable", "quantized"):
        try:
            net = load(path, backend=name, threads=usable_cores())
        except BackendError as error:
            reasons.append(f"{name}: {error.seen}")
            continue
        if net.info.exact:
            if estimate is not None:
                estimate.close()
            return net
        estimate = estimate or net
    if estimate is None:
        reporter.warn(f"the board's answers are compared with nothing: {'; '.join(reasons)}")
    return estimate


def answers(
    connection: Connection,
    program: str,
    size: tuple[int, int],
    frames: Iterator[Frame] | Sequence[Frame],
    *,
    simulator: Net | None,
    count: int,
    limit: float,
    reporter: Reporter,
) -> Iterator[Answer]:
    """Run frames on the board in chunks, and in the simulator meanwhile.

    Args:
        connection: to the board.
        program: path of the ``.bin`` there.
        size: (height, width) of the frames.
        frames: packed NV12, uint8.
        simulator: None to compare with nothing.
        count: how many frames there are, for the progress.
        limit: seconds that a chunk may take.
        reporter: told the count as it grows.

    Raises:
        BoardError: the board failed, or gives another number of scores than the simulator.
    """
    outputs = describe(connection, program, size)
    with ExitStack() as stack:
        folder = stack.enter_context(connection.scratch())
        pool = stack.enter_context(ThreadPoolExecutor(usable_cores()))
        done = 0
        for chunk in _chunks(frames):
            futures = [pool.submit(simulator.run, frame) for frame in chunk] if simulator else []

            def tell(number: int, before: int = done) -> None:
                reporter.update(f"{before + number}/{count} frames on the board", (before + number) / count)

            try:
                results = run_frames(
                    connection, program, outputs, chunk, folder=f"{folder}/frames", limit=limit, on_frame=tell
                )
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
            for number, result in enumerate(results):
                board = result[0].reshape(-1)
                reference = futures[number].result()[0].reshape(-1) if futures else None
                if reference is not None and reference.shape != board.shape:
                    raise BoardError(
                        f"the board gives {board.size} scores, the simulator {reference.size}",
                        remedy="push the program that the simulator belongs to: edge board push HOST MODEL",
                    )
                yield Answer(board, reference)
            done += len(chunk)


def measure_accuracy(
    connection: Connection,
    program: str,
    preprocess: Preprocess,
    classes: int,
    images: ImageSet,
    *,
    simulator: Net | None,
    limit: float,
    reporter: Reporter,
) -> BoardAccuracy:
    """Run a set of pictures on the board and in a simulator.

    Args:
        connection: to the board.
        program: path of the ``.bin`` there.
        preprocess: of the program.
        classes: number of scores.
        images: labels, if there are any, are class indices below ``classes``.
        simulator: None to compare with nothing.
        limit: seconds that a chunk of frames may take.
        reporter: told the count as it grows.

    Raises:
        InputError: no picture can be read.
        LabelError: a label outside the classes.
        BoardError: the board failed.
    """
    wrong = [item for item in images if item.label is not None and not 0 <= item.label < classes]
    if images.labelled and wrong:
        raise LabelError(f"{wrong[0].name} has the label {wrong[0].label}", allowed=f"0..{classes - 1}")
    labels: list[int] = []
    unreadable: list[str] = []

    def frames() -> Iterator[Frame]:
        for item in images:
            frame = _frame(item, preprocess)
            if frame is None:
                unreadable.append(item.name)
                reporter.warn(f"{item.name} can't be read; it is left out of every figure")
            else:
                labels.append(-1 if item.label is None else item.label)
                yield frame

    found = list(
        answers(
            connection,
            program,
            preprocess.crop,
            frames(),
            simulator=simulator,
            count=len(images),
            limit=limit,
            reporter=reporter,
        )
    )
    if not found:
        raise InputError(f"none of the {len(images)} pictures of {images.description} could be read")
    board = np.stack([answer.board for answer in found])
    truth = np.array(labels) if images.labelled else None
    if board.shape[1] != classes:
        raise BoardError(f"the board gives {board.shape[1]} scores", allowed=f"{classes} for this program")
    other = None if simulator is None else np.stack([a.simulator for a in found if a.simulator is not None])
    return BoardAccuracy(
        dataset=images.description,
        dataset_sha256=images.fingerprint,
        n=len(found),
        board=None if truth is None else score(board, truth),
        simulator=None if truth is None or other is None else score(other, truth),
        agreement=None if other is None else int(np.sum(board.argmax(1) == other.argmax(1))),
        max_abs_diff=None if other is None else float(np.abs(board - other).max()),
        cosine=None if other is None else float(np.mean(cosine(board, other))),
        unreadable=tuple(unreadable),
    )


def read_frames(pictures: Sequence[str], preprocess: Preprocess) -> list[Frame]:
    """Make the board's input from picture files.

    Raises:
        ImageError: one is missing or can't be read.
    """
    return [
        rgb_to_nv12(np.ascontiguousarray(resize_crop(decode(Path(name).expanduser(), name), preprocess)))
        for name in pictures
    ]


def require_preprocess(program: Program) -> Preprocess:
    """Return how pictures become the program's input.

    Raises:
        UsageError: it came without ``metadata.json``.
    """
    if program.metadata is None:
        raise UsageError(
            f"{program.name} comes without metadata.json: how pictures become its input is not known",
            allowed="a build folder or a bundle",
        )
    return program.metadata.preprocess


def _frame(item: ImageItem, preprocess: Preprocess) -> Frame | None:
    try:
        return rgb_to_nv12(np.ascontiguousarray(resize_crop(item.load(), preprocess)))
    except ImageError:
        return None


def _chunks(frames: Iterator[Frame] | Sequence[Frame]) -> Iterator[list[Frame]]:
    chunk: list[Frame] = []
    for frame in frames:
        chunk.append(frame)
        if len(chunk) == CHUNK_FRAMES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
