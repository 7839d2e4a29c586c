"""What runs on a worker: who it is, pieces of files to and from it, and one task at a time."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attrs import field, frozen

from edge.cluster.content import Contents, KeptStages
from edge.errors import EdgeError, InstallError, NotEnoughMemory, ToolchainMissing, WorkspaceError
from edge.files import data_dir, link_or_copy
from edge.folder.code import ROOT
from edge.images.frames import cores
from edge.progress import SILENT
from edge.scratch import Scratch
from edge.toolchain import managed
from edge.toolchain.find import find
from edge.toolchain.install import install
from edge.toolchain.memory import available
from edge.toolchain.process import while_running

PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxsim", "opencv-python", "opencv-python-headless")
# Failures of a machine, not of the work: another worker may do it.
_OF_THE_MACHINE = (NotEnoughMemory, ToolchainMissing, InstallError, WorkspaceError, OSError, MemoryError)
_LOG_BYTES = 1 << 20
# What a worker of dask does all the time, every 10 ms to 0.5 s, and how often it does here, seconds: looking where its
# tasks are, at its loop and at its processor took 4 % of a core.
_RARELY = {"profile": 60.0, "profile-cycle": 60.0, "tick": 1.0, "monitor": 5.0}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

Piece = tuple[str, int, bytes, bool]  # sha256 of the file, offset, bytes, whether it is the last one
_share = 1  # threads that a task may use; told when the worker is admitted


@frozen
class Identity:
    """What has to agree before a worker gets a task, and what is left to it."""

    edge: str  #: digest of edge's code, templates and rules.
    versions: Mapping[str, str]  #: of Python and the packages that results depend on.
    compiler: str | None = None  #: identity of the compiler; None where the work needs none.
    kind: str = "auto"  #: the compiler's kind.
    install: bool = False  #: whether a worker without the compiler installs it.


@frozen
class Machine:
    """A worker as it presents itself."""

    host: str  #: the machine, the same of all its workers.
    cores: int  #: that it may use.
    memory: int | None  #: bytes that are free; None if unknown.
    refused: str = ""  #: why it gets no task; empty if it may.


@frozen
class Task:
    """A piece of work as content."""

    title: str  #: as shown to the user.
    work: Callable[..., Any]  #: a function of a module; takes :class:`Here` and the options.
    options: Mapping[str, Any] = field(factory=dict)  #: small values.
    files: tuple[str, ...] = ()  #: sha256 of the files that it reads.
    memory: int = 0  #: bytes that it takes at most, as estimated.
    brief: bool = False  #: whether it takes a second or two, so that a worker gets the next ones before it ends.


class Lacks(Exception):  # noqa: N818 - a word to the client, not an error of the user's
    """Files that the work turns out to need and this machine does not have."""

    def __init__(self, hashes: tuple[str, ...]) -> None:
        super().__init__(hashes)
        self.hashes = hashes


@frozen
class Failure:
    """An error on its way to the client."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    state: Mapping[str, Any]
    of_machine: bool  #: whether another machine may succeed.
    trace: str = ""  #: of an error that edge does not know.
    log: bytes = b""  #: of the compiler.

    def error(self) -> BaseException:
        """Return the error itself."""
        made = self.kind.__new__(self.kind, *self.args)
        made.args = self.args
        made.__dict__.update(self.state)
        return made


@frozen
class Outcome:
    """What came of a task."""

    address: str  #: of the worker.
    seconds: float  #: of work.
    value: Any = None  #: what the work returned.
    missing: tuple[str, ...] = ()  #: files that the worker lacks; the task was not begun.
    failure: Failure | None = None  #: why there is no value.


@frozen(eq=False)
class Here:
    """What a task finds on its worker."""

    contents: Contents  #: files by their hash.
    scratch: Path  #: an empty folder, removed when the task ends.
    threads: int  #: how many it may use.

    def file(self, sha256: str, name: str = "") -> Path:
        """Return a file; with ``name`` under that name."""
        found = self.contents.path(sha256)
        if not name:
            return found
        place = self.scratch / "files" / sha256[:12] / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(found, place)
        return place

    @contextmanager
    def workspace(self) -> Iterator[KeptStages]:
        """Open a workspace in the scratch folder."""
        opened = KeptStages(self.scratch / "work", SILENT, self.contents)
        with opened:
            yield opened


def contents() -> Contents:
    """Return this machine's content."""
    return Contents(managed.cache_dir() / "cluster")


def identity(compiler: str | None = None, kind: str = "auto", *, install: bool = False) -> Identity:
    """Return this machine's identity."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in PACKAGES:
        try:
            found[package.removesuffix("-headless")] = version(package)
        except PackageNotFoundError:
            continue
    return Identity(_code(), found, compiler, kind, install)


def _code() -> str:
    digest = hashlib.sha256()
    for root in (ROOT, data_dir("mapper_yaml")):
        for path in sorted(root.rglob("*")):
            if path.suffix in (".py", ".yaml", ".lock", ".j2", ".sh") and "_data" not in path.parts:
                digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


async def hello(asked: Identity) -> Machine:
    """Say who this worker is, and whether it may work; install the compiler if that is asked for and lacks."""
    return await asyncio.to_thread(_hello, asked)


def _hello(asked: Identity) -> Machine:
    contents().sweep()
    return Machine(_host(), cores(), available(), _refused(asked))


def _refused(asked: Identity) -> str:
    mine = identity()
    if mine.edge != asked.edge:
        return "another version of edge's code: install the same one there"
    names = sorted({*mine.versions, *asked.versions})
    other = [
        f"{name} {mine.versions.get(name, 'missing')} instead of {asked.versions.get(name, 'none')}"
        for name in names
        if mine.versions.get(name) != asked.versions.get(name)
    ]
    if other:
        return ", ".join(other)
    if asked.compiler is None:
        return ""
    try:
        found = find("auto" if asked.kind not in ("managed", "path", "docker") else asked.kind)  # type: ignore[arg-type]
    except ToolchainMissing as missing:
        if not asked.install or asked.kind not in ("auto", "managed"):
            return "no compiler: edge toolchain install there, or --install here"
        try:
            found = install()
        except EdgeError as error:
            return f"the compiler could not be installed: {error.seen or missing.seen}"
    return "" if found.identity == asked.compiler else f"another compiler: {found.identity or 'unknown'}"


def _host() -> str:
    """Return what tells machines apart: name and boot; containers on one machine have their own caches and names."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{platform.node()} {boot.read_text().strip() if boot.exists() else ''} {managed.cache_dir()}"


async def admit(share: int, resources: Mapping[str, float], dask_worker: Any = None) -> None:
    """Let the scheduler give tasks to this worker; without resources, none any more."""
    global _share
    _share = share
    if dask_worker.nanny:
        _undo_nanny(share)
    for name, seconds in _RARELY.items():
        if name in dask_worker.periodic_callbacks:
            dask_worker.periodic_callbacks[name].callback_time = 1000 * seconds
    await dask_worker.set_resources(**resources)


def _undo_nanny(threads: int) -> None:
    """Undo what dask's nanny sets for tasks that are not edge's: for a compiler it starts, too.

    It makes malloc give back every large array, which costs page faults (``edge eval`` of float and NV12 takes 1.4
    times as long), and tells BLAS to use one thread, however many cores the worker has. Here malloc gets what glibc
    would arrive at: M_MMAP_THRESHOLD's dynamic maximum, 32 MiB, and twice that for M_TRIM_THRESHOLD; see mallopt(3).
    """
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)))
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


async def put(pieces: list[Piece], sender: str) -> None:
    """Take pieces of files."""

    def write() -> None:
        store = contents()
        for sha256, offset, data, last in pieces:
            store.write(sha256, offset, data, last=last, sender=sender)

    await asyncio.to_thread(write)


async def get(sha256: str, offset: int) -> bytes:
    """Return a piece of a file."""
    return await asyncio.to_thread(contents().read, sha256, offset)


class NotNeeded(BaseException):  # no handler of errors shall see it
    """The client took the task back, or is gone."""


def perform(task: Task) -> Outcome:
    """Do a task. What it lacks and how it fails is an outcome, too.

    A compiler that runs for it is stopped as soon as nobody waits for the task any more.
    """
    from distributed import get_worker

    worker = get_worker()
    address, started, key = str(worker.address), time.monotonic(), worker.get_current_task()

    def needed() -> None:
        state = worker.state.tasks.get(key)
        if state is None or state.state == "cancelled":
            raise NotNeeded

    while_running.set(needed)
    try:
        store = contents()
        if missing := store.missing(task.files):
            return Outcome(address, 0.0, missing=missing)
        with Scratch("task") as scratch:
            try:
                value = task.work(Here(store, scratch, _share), **task.options)
            except Lacks as lacks:
                return Outcome(address, 0.0, missing=lacks.hashes)
            except EdgeError as error:  # with its log, while there is one
                return Outcome(address, time.monotonic() - started, failure=_failure(error))
        return Outcome(address, time.monotonic() - started, value)
    except NotNeeded:
        return Outcome(address, time.monotonic() - started)
    except Exception as error:
        return Outcome(address, time.monotonic() - started, failure=_failure(error))


def _failure(error: Exception) -> Failure:
    state, log = dict(error.__dict__), b""
    path = state.get("log")
    if path and Path(path).is_file():
        log = Path(path).read_bytes()[-_LOG_BYTES:]
    trace = "" if isinstance(error, EdgeError) else "".join(traceback.format_exception(error))
    return Failure(type(error), error.args, state, isinstance(error, _OF_THE_MACHINE), trace, log)
