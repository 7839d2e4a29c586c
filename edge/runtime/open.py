"""``load``: open a program with the backend that fits this machine."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from edge.errors import BackendMissing, EdgeError, UsageError
from edge.runtime.answer import require_answer
from edge.runtime.machine import ON_BOARD
from edge.runtime.net import Net, PassedOver
from edge.runtime.program import Program, locate
from edge.runtime.protocol import Backend
from edge.specs import Preprocess
from edge.specs.schema import ScoreKind

BackendName = Literal["auto", "hbm_runtime", "hobot_dnn", "bpu_infer_lib", "hbdk_sim", "quantized", "portable"]
# In the order in which ``auto`` tries them: the board's own runtimes, then the most exact simulators.
BACKENDS: tuple[BackendName, ...] = ("hbm_runtime", "hobot_dnn", "bpu_infer_lib", "hbdk_sim", "quantized", "portable")
_log = logging.getLogger("edge.runtime")


def load(
    path: str | Path,
    backend: BackendName = "auto",
    *,
    threads: int = 1,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    scores: ScoreKind | None = None,
    restarts: int = 0,
) -> Net:
    """Open a program.

    Args:
        path: a build folder, a bundle, a ``.bin``, or an ONNX that a build made.
        backend: a name of ``BACKENDS``; ``auto`` takes the first of them that works here and logs (logger
            ``edge.runtime``) why others were passed over.
        threads: how many callers compute at once; a backend that serves one caller is opened this many times,
            on the board each in a process of its own.
        preprocess: for a single file that comes without ``metadata.json``.
        labels: class names in index order, where the program brings none.
        scores: what the scores are, where ``metadata.json`` does not say so.
        restarts: on the board, how often in a row a runtime's process that ended is started again; the run that
            ended it fails.

    Returns:
        The net; use it in a ``with``, or close it.

    Raises:
        ModelFileError: there is no program.
        BackendMissing: this machine lacks what the backend needs.
        BackendError: the backend refuses the program, or a board answers the program's own test image wrongly.
        UsageError: no such backend, or the preprocessing makes images of another size than the program takes.
        LabelError: not one label per score.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise UsageError(f"there is no backend {backend!r}", expected="auto, " + ", ".join(BACKENDS))
    if threads < 1:
        raise UsageError(f"threads = {threads}", expected="1 and above")
    program = locate(path)
    metadata = program.metadata
    class_names = program.class_names() if labels is None else labels
    passed_over: list[PassedOver] = []
    if backend == "auto":
        backends = _first_that_works(program, threads, restarts, passed_over)
    else:
        backends = _open(backend, program, threads, restarts)
    try:
        return Net(
            backends,
            preprocess=preprocess or (metadata.preprocess if metadata else None),
            labels=class_names,
            metadata=metadata,
            score_kind=scores or (metadata.scores if metadata else None),
            passed_over=passed_over,
        )
    except BaseException:
        for opened in backends:
            opened.close()
        raise


def _first_that_works(program: Program, threads: int, restarts: int, passed_over: list[PassedOver]) -> list[Backend]:
    for name in BACKENDS:
        try:
            backends = _open(name, program, threads, restarts)
        except EdgeError as error:  # the next backend may work
            level = logging.DEBUG if isinstance(error, BackendMissing) else logging.WARNING
            _log.log(level, "%s: backend %s passed over: %s", program.name, name, error.seen)
            passed_over.append(PassedOver(name, error.seen))
        else:
            _log.info("%s: backend %s", program.name, name)
            return backends
    reasons = "; ".join(f"{entry.backend}: {entry.why}" for entry in passed_over)
    raise BackendMissing(
        f"nothing on this machine can run {program.name}: {reasons}",
        remedy="use the whole build folder or a bundle, or edge toolchain install"
        if "portable" not in program.files
        else "copy the file again, or build it again"
        if importlib.util.find_spec("onnxruntime")
        else "pip install onnxruntime",
    )


def isolated(name: str, program: Program) -> bool:
    """Return whether a backend gets a process of its own: one of the board's, if its module is installed."""
    if name not in ON_BOARD or "bin" not in program.files:
        return False
    return any(importlib.util.find_spec(module) for module in (name, f"{name}_rdkx5"))


def _open(name: str, program: Program, threads: int, restarts: int) -> list[Backend]:
    open_backend: Callable[[Program], Backend]
    if isolated(name, program):
        from edge.runtime.worker import Restarting, Worker

        open_backend = functools.partial(Restarting, name, restarts) if restarts else functools.partial(Worker, name)
    else:
        open_backend = importlib.import_module(f"edge.runtime.backends.{name}").open_backend
    backends = _opened(open_backend, program, threads)
    if name in ON_BOARD:
        try:
            require_answer(backends, program)
        except BaseException:
            for opened in backends:
                opened.close()
            raise
    return backends


def _opened(open_backend: Callable[[Program], Backend], program: Program, threads: int) -> list[Backend]:
    first = open_backend(program)
    if first.concurrent or threads == 1:
        return [first]
    with ThreadPoolExecutor(threads - 1) as pool:  # a process takes a second to start
        openings = [pool.submit(open_backend, program) for _ in range(threads - 1)]
    errors = [error for opening in openings if (error := opening.exception())]
    backends = [first, *(opening.result() for opening in openings if not opening.exception())]
    if errors:
        for opened in backends:
            opened.close()
        raise errors[0]
    return backends
