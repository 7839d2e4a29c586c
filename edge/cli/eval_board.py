"""A board as the last hop of ``edge eval``."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.board.infer import CHUNK_FRAMES, describe, run_frames
from edge.board.parse import TensorInfo
from edge.board.transfer import push
from edge.cli.board_reach import connect, make_target, read_facts, refuse_misfit
from edge.errors import UsageError
from edge.evaluate.hops import Hop, Subject, key_of
from edge.evaluate.runners import Logits, Runner
from edge.preprocess import rgb_to_nv12
from edge.runtime.program import locate

if TYPE_CHECKING:
    from edge.board import Connection
    from edge.cli.display import Display

LIMIT = 600.0  # seconds that a chunk of frames may take


def board_hop(
    subject: Subject, folder: Path, host: str, reach: dict[str, Any], display: Display, stack: ExitStack
) -> Hop:
    """Connect to a board and return it as a hop; the connection lives as long as ``stack``.

    Args:
        subject: what is measured.
        folder: the build folder.
        host: of the board.
        reach: port, identity and options of ssh.
        display: told what goes on.
        stack: closes the connection.

    Raises:
        UsageError: the build holds no program for a board.
        BoardError: it can't be reached, or the program does not fit its runtime.
    """
    if "bin" not in subject.files:
        raise UsageError(
            f"--board, but {folder} holds no .bin",
            allowed="a build by the vendor's compiler",
            remedy="edge build MODEL",
        )
    program = locate(folder)
    connection = stack.enter_context(connect(make_target(host, **reach)))
    facts = read_facts(connection)
    refuse_misfit(facts, program, display)
    versions = {"os": facts.os or "", "dnn": facts.versions.dnn or "", "hbrt": facts.versions.hbrt or ""}
    known = ", ".join(f"{name} {value}" for name, value in versions.items() if value and name != "os")

    @contextmanager
    def opened(_workers: int) -> Iterator[Runner]:
        pushed = push(connection, program, None, display)
        outputs = describe(connection, pushed.bin, subject.preprocess.crop)
        with connection.scratch() as scratch:
            yield _Batches(connection, pushed.bin, outputs, f"{scratch}/frames")

    return Hop(
        name="board",
        by=f"the board ({known})" if known else "the board",
        role="bin",
        model=subject.sha256["bin"],
        key=key_of(
            "board", subject.sha256["bin"], subject, ("edge.board.infer", "edge.board.parse"), **versions
        ),
        open=opened,
        in_flight=2 * CHUNK_FRAMES,  # one chunk on the board, the next one being made
    )


@frozen
class _Waiting:
    """A frame, and the promise of its scores."""

    frame: NDArray[np.uint8]
    future: Future[Logits]


class _Batches:
    """Gathers the frames of many threads into chunks: whoever comes first carries those of the others."""

    def __init__(
        self, connection: Connection, program: str, outputs: Sequence[TensorInfo], folder: str
    ) -> None:
        self._connection = connection
        self._program = program
        self._outputs = outputs
        self._folder = folder
        self._queue: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        self._board = threading.Lock()

    def __call__(self, rgb: NDArray[np.uint8]) -> Logits:
        own = _Waiting(rgb_to_nv12(rgb), Future())
        self._queue.put(own)
        while not own.future.done():
            with self._board:
                if not own.future.done():
                    self._carry()
        return own.future.result()

    def _carry(self) -> None:
        chunk: list[_Waiting] = []
        while len(chunk) < CHUNK_FRAMES and not self._queue.empty():
            chunk.append(self._queue.get())
        try:
            found = run_frames(
                self._connection,
                self._program,
                self._outputs,
                [waiting.frame for waiting in chunk],
                folder=self._folder,
                limit=LIMIT,
            )
        except BaseException as error:
            for waiting in chunk:
                waiting.future.set_exception(error)
            raise
        for waiting, outputs in zip(chunk, found, strict=True):
            waiting.future.set_result(outputs[0].reshape(-1))
