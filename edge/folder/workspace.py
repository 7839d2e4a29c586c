"""The build folder of one model: keyed stage folders, atomic writes, an ownership marker and a lock.

::

    build/ConvNeXt_atto/
        .edge-workspace            marker: edge made this folder and may replace what is in it
        .lock                      one build at a time
        .stages/compile-3f2a91c0/  what a stage wrote, named by the hash of everything it depends on
        .next/                     a complete new set of published files, while it replaces the old set
        failed/compile/            logs of the last failure of a stage
        *.bin, *.onnx, …           the published result: links into .stages, replaced as one set
        manifest.json              what was published, with hashes; written last

A stage folder gets its final name only when the stage has succeeded, so a folder that exists is complete.
A failed or killed build touches nothing that an earlier one published.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import cattrs
from attrs import frozen
from filelock import FileLock, Timeout

from edge.errors import ToolchainError, WorkspaceError, counted
from edge.files import disk_errors, is_plain_name, json_text, read_json, require_no_link, sha256_of, write_json
from edge.folder.publication import NEXT, publish_set, settle
from edge.progress import Reporter

MARKER = ".edge-workspace"
MANIFEST = "manifest.json"
STAGES = ".stages"
RECORD = "stage.json"
SCHEMA = 3  # of the keyed stages; 2 had no digest and trusted the modification time, which anyone can set
_CONTENT = 1  # part of every .bin, through the name of the compiler's working folder, so it must not change

_OURS = re.compile(r"\.?[a-z]+-[0-9a-f]{12}(\.partial)?$")  # names of stage folders, finished or not

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@frozen
class FileRecord:
    """A file of a stage: path relative to the stage folder, size, hash, and when its inode last changed."""

    path: str
    bytes: int
    sha256: str
    ctime_ns: int  #: linking or copying also changes it; then the hash decides.


@frozen
class Done(Generic[T_co]):
    """A finished stage."""

    name: str  #: such as ``compile``.
    key: str  #: sha256 of everything the stage depends on.
    dir: Path
    result: T_co  #: what the stage function returned; its file names are relative to ``dir``.
    files: tuple[FileRecord, ...]
    seconds: float  #: how long the work took when it was done.
    cached: bool  #: whether an earlier run did it.

    def path(self, name: str) -> Path:
        """Return the path of one of the stage's files or folders.

        Raises:
            WorkspaceError: the name, which a file on disk may have given, leads out of the stage.
        """
        if not _inside(self.dir, name):
            raise WorkspaceError(f"{self.dir / RECORD} names {name!r}", expected="a path inside that folder")
        return self.dir / name

    def sha256(self, name: str) -> str:
        """Return the recorded hash of one of the stage's files."""
        return next(record.sha256 for record in self.files if record.path == name)

    def file(self, name: str) -> FileOf:
        """Return one of the stage's files."""
        return FileOf(self, name)


@frozen
class FileOf:
    """A file of a finished stage."""

    stage: Done[Any]
    name: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.stage.path(self.name)

    @property
    def sha256(self) -> str:
        """Its recorded hash."""
        return self.stage.sha256(self.name)


@frozen
class Artifact:
    """A file to publish: its role, where it is, and its name in the build folder."""

    role: str
    source: Path
    name: str


class Workspace:
    """The build folder of one model, such as ``build/ConvNeXt_atto``, locked during a ``with`` block.

    Args:
        source: what is built, as ``Request.source`` says it; empty where that does not matter.
        replace: whether the folder may be of another source until now.

    Raises:
        WorkspaceError: the folder has files but not our marker, is of another source, or can't be written.
    """

    def __init__(self, root: Path, reporter: Reporter, *, source: str = "", replace: bool = False) -> None:
        self.root = root
        self._source = os.path.relpath(source, root.parent.resolve()) if Path(source).is_absolute() else source
        self._replace = replace
        self._reporter = reporter
        self._lock = FileLock(root / ".lock")

    def __enter__(self) -> Workspace:
        with disk_errors(self.root):
            self._claim()
        for name in (STAGES, "failed", NEXT, ".lock"):
            require_no_link(self.root / name)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            self._reporter.warn(f"another edge is building in {self.root}; waiting for it to end")
            self._lock.acquire()
        try:
            settle(self.root)
            if self._source:
                with disk_errors(self.root):
                    self._claim_source()
        except BaseException:
            self._lock.release()
            raise
        if old := self._of_earlier_edge():
            self._reporter.warn(f"{counted(old, 'stage')} in {self.root} made by an earlier edge and not reused")
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _claim(self) -> None:
        marker = self.root / MARKER
        if self.root.exists() and not marker.exists():
            if not self.root.is_dir():
                raise WorkspaceError(f"{self.root} is a file", expected="a folder", remedy="choose another --build-dir")
            # Another edge may be making this very folder, its marker half written.
            names = [path.name for path in self.root.iterdir()]
            strangers = [name for name in names if name != ".lock" and MARKER not in name]
            if strangers:
                raise WorkspaceError(
                    f"{self.root} holds files that edge did not make ({strangers[0]}, …)",
                    expected=f"a new folder or one with the marker {MARKER}",
                    remedy="move it away, or choose another --build-dir",
                )
        self.root.mkdir(parents=True, exist_ok=True)
        if not marker.exists():
            write_json(marker, {"schema_version": SCHEMA, "model": self.root.name})

    def _claim_source(self) -> None:
        """Remember what is built here; another source of the same name must not replace it unasked."""
        marker = self.root / MARKER
        try:
            known = dict(read_json(marker))
        except (OSError, ValueError, TypeError):
            known = {"schema_version": SCHEMA, "model": self.root.name}
        before = str(known.get("source", ""))
        if before == self._source:
            return
        if before and not self._replace and (self.root / MANIFEST).exists():
            name = self.root.name
            old, new = (
                os.path.relpath(self.root.parent / text) if "/" in text else text for text in (before, self._source)
            )
            raise WorkspaceError(
                f"{self.root} was built from {old}, and this is {new}",
                expected="one build folder for each source",
                remedy=f"add --name {name}_2, or --name {name} to replace what is there",
            )
        write_json(marker, {**known, "source": self._source})

    def _of_earlier_edge(self) -> int:
        """Count the stages whose keys were made in another way; none of them is reused."""
        found = 0
        for path in (self.root / STAGES).glob(f"*/{RECORD}"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found += read_json(path)["schema_version"] < SCHEMA
        return found

    def run(
        self, name: str, inputs: Mapping[str, object], action: Callable[[Path], T], result_type: type[T], code: str = ""
    ) -> Done[T]:
        """Return the stage's result, from an earlier run if everything that it depends on is the same.

        Args:
            name: of the stage, such as ``compile``.
            inputs: all it depends on, as JSON: parameters, hashes of input files, tool versions.
            action: does the work in the empty folder it is given.
            result_type: the class that ``action`` returns.
            code: digest of the code that the result depends on, see :func:`edge.folder.code.code_digest`.
        """
        key = stage_key(name, inputs, code)
        final = self.root / STAGES / f"{name}-{key[:12]}"
        if (found := _load(final, name, key, result_type)) is not None:
            return found
        partial = final.with_name(f".{final.name}.partial")
        with disk_errors(self.root):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            started = time.monotonic()
            try:
                result = action(partial)
            except BaseException as error:
                self._keep_logs(name, partial, error)
                shutil.rmtree(partial, ignore_errors=True)
                raise
            seconds = time.monotonic() - started
            files = tuple(_records(partial))
            record = {
                "schema_version": SCHEMA,
                "stage": name,
                "key": key,
                "seconds": round(seconds, 3),
                "inputs": inputs,
                "result": cattrs.unstructure(result),
                "files": cattrs.unstructure(files),
            }
            write_json(partial / RECORD, {**record, "digest": _sha256(record)})
            if final.is_symlink():
                final.unlink()
            shutil.rmtree(final, ignore_errors=True)
            partial.replace(final)
        return Done(name, key, final, result, files, round(seconds, 3), cached=False)

    def finished(self, name: str, inputs: Mapping[str, object], result_type: type[T], code: str = "") -> Done[T] | None:
        """Return a stage's result if it is there already; see :meth:`run`."""
        key = stage_key(name, inputs, code)
        return _load(self.root / STAGES / f"{name}-{key[:12]}", name, key, result_type)

    def stages(self) -> set[str]:
        """Return the names of the stage folders that are there."""
        return {path.name for path in (self.root / STAGES).glob("*-*")}

    def opened(self, folder: str, name: str, result_type: type[T]) -> Done[T]:
        """Return a finished stage that another machine made, by the name of its folder.

        Raises:
            WorkspaceError: it is not whole.
        """
        place = self.root / STAGES / folder
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            key = str(read_json(place / RECORD)["key"])
            if (found := _load(place, name, key, result_type)) is not None:
                return found
        raise WorkspaceError(f"{folder} is not a finished stage {name}", remedy="run it again")

    def _keep_logs(self, name: str, partial: Path, error: BaseException) -> None:
        kept = self.root / "failed" / name
        shutil.rmtree(kept, ignore_errors=True)
        for log in partial.glob("*.log"):
            kept.mkdir(parents=True, exist_ok=True)
            shutil.move(log, kept / log.name)
            if isinstance(error, ToolchainError):
                error.log = str(kept / log.name)

    def publish(
        self,
        artifacts: Iterable[Artifact],
        manifest: Mapping[str, object],
        texts: Mapping[str, str] | None = None,
        folders: Mapping[str, Path] | None = None,
        stale: Iterable[str] = (),
    ) -> None:
        """Replace the published set of files, ``manifest.json`` among them, as one.

        Files that the last manifest names and the new set lacks are removed. Artifacts are hard links into the stage
        folders where the file system has them, copies elsewhere.

        Args:
            manifest: what to write; its ``artifacts`` name the files.
            texts: further files, name -> content.
            folders: name -> stage folder to show under that name, as a symbolic link.
            stale: names of further files to remove: results about the files that are replaced.
        """
        files = {artifact.name: artifact.source for artifact in artifacts}
        texts, folders = {**(texts or {}), MANIFEST: json_text(manifest)}, folders or {}
        gone = {*self.published(), *stale}.difference(files, texts, folders)
        with disk_errors(self.root):
            publish_set(self.root, files, texts, folders, sorted(gone))

    def published(self) -> list[str]:
        """Return the names of the files that the last manifest lists; only plain names can be edge's."""
        try:
            return list(filter(is_plain_name, (str(artifact["path"]) for artifact in self.manifest()["artifacts"])))
        except (KeyError, TypeError):
            return []

    def manifest(self) -> dict[str, Any]:
        """Return the last manifest; empty if there is none that can be read."""
        try:
            found = read_json(self.root / MANIFEST)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def discard_all_but(self, stages: Iterable[Done[Any]]) -> None:
        """Remove stage folders that the result just published does not depend on."""
        keep = {stage.dir.name for stage in stages}
        for folder in (self.root / STAGES).iterdir():
            if folder.name not in keep and _OURS.match(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.root / "failed", ignore_errors=True)


def stage_key(name: str, inputs: Mapping[str, object], code: str = "") -> str:
    """Return the sha256 of a stage's name, inputs and code, independent of the order of keys."""
    return _sha256([SCHEMA, name, inputs, code])


def content_key(name: str, inputs: Mapping[str, object]) -> str:
    """Return the sha256 of a stage's name and inputs alone: the same for every version of edge."""
    return _sha256([_CONTENT, name, inputs, {}])


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _inside(folder: Path, name: str) -> bool:
    return (folder / name).resolve().is_relative_to(folder.resolve())


def _load(folder: Path, name: str, key: str, result_type: type[T]) -> Done[T] | None:
    try:
        record = dict(read_json(folder / RECORD))
        digest = record.pop("digest")
        if record["key"] != key or record["schema_version"] != SCHEMA or digest != _sha256(record):
            return None
        files = cattrs.structure(record["files"], tuple[FileRecord, ...])
        if not all(_inside(folder, file.path) and _unchanged(folder / file.path, file) for file in files):
            return None
        result = cattrs.structure(record["result"], result_type)
    except (OSError, ValueError, KeyError, TypeError, cattrs.BaseValidationError):
        return None
    return Done(name, key, folder, result, files, float(record["seconds"]), cached=True)


def _unchanged(path: Path, record: FileRecord) -> bool:
    status = path.stat()
    return status.st_size == record.bytes and (
        status.st_ctime_ns == record.ctime_ns or sha256_of(path) == record.sha256
    )


def _records(folder: Path) -> Iterator[FileRecord]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            name = path.relative_to(folder).as_posix()
            yield FileRecord(name, status.st_size, sha256_of(path), status.st_ctime_ns)
