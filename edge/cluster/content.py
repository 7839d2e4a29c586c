"""Content on its way between machines: files by their sha256, stage folders as lists of such files."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cattrs
from attrs import frozen

from edge.errors import EdgeError
from edge.files import disk_errors, is_plain_name, link_or_copy, read_json, sha256_of
from edge.folder.workspace import RECORD, STAGES, FileRecord, Workspace, stage_key

PIECE = 4 << 20  # bytes of a file in one message, so that neither end nor the scheduler holds a whole one
KEPT_SECONDS = 3 * 24 * 3600.0  # content that no task asked for so long is removed
_SHA256 = re.compile(r"[0-9a-f]{64}")


class WrongContent(EdgeError):  # noqa: N818 - reads as what it says
    """Bytes arrived that do not have the promised hash."""


@frozen
class FolderOf:
    """A finished stage on its way: the name of its folder, and path -> sha256 of its files, the record among them."""

    name: str
    files: Mapping[str, str]


class Contents:
    """A folder of files named by their hash, shared by all processes of a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with disk_errors(root, "EDGE_CACHE"):
            root.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Return where the file of a hash is, or would be."""
        if not _SHA256.fullmatch(sha256):
            raise WrongContent(f"{sha256[:80]!r} is no sha256")
        return self.root / sha256[:2] / sha256

    def missing(self, hashes: Iterable[str]) -> tuple[str, ...]:
        """Return those that are not here, and keep the others from being removed."""
        found = []
        for sha256 in dict.fromkeys(hashes):
            try:
                os.utime(self.path(sha256))
            except OSError:
                found.append(sha256)
        return tuple(found)

    def add(self, path: Path, sha256: str) -> None:
        """Add a file whose hash is known."""
        target = self.path(sha256)
        if not target.exists():
            with disk_errors(self.root, "EDGE_CACHE"):
                target.parent.mkdir(exist_ok=True)
                link_or_copy(path, target)

    def write(self, sha256: str, offset: int, data: bytes, *, last: bool, sender: str = "") -> None:
        """Write a piece; the last one proves the hash and gives the file its name. Senders do not disturb each other.

        Raises:
            WrongContent: the bytes are others; nothing is kept.
        """
        target = self.path(sha256)
        partial = target.with_name(f".{sha256}.{os.getpid()}.{sender}.partial")
        with disk_errors(self.root, "EDGE_CACHE"):
            partial.parent.mkdir(exist_ok=True)
            with partial.open("r+b" if offset else "wb") as stream:
                stream.seek(offset)
                stream.write(data)
        if last:
            found = sha256_of(partial)
            if found != sha256:
                partial.unlink()
                raise WrongContent(f"{sha256[:12]} arrived as {found[:12]}", expected="the bytes of that sha256")
            partial.replace(target)

    def read(self, sha256: str, offset: int) -> bytes:
        """Return a piece of a file; empty behind its end."""
        with self.path(sha256).open("rb") as stream:
            stream.seek(offset)
            return stream.read(PIECE)

    def sweep(self) -> None:
        """Remove what was not asked for in days, and half-written files of killed processes."""
        for path in [*self.root.glob("*/*"), *self.root.glob("*/.*.partial")]:
            try:
                old = time.time() - path.stat().st_mtime > KEPT_SECONDS
                if old and path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif old:
                    path.unlink()
            except OSError:
                continue


def folder_of(stage: Path) -> FolderOf:
    """Return a finished stage folder as content; the hashes are those of its record."""
    records = cattrs.structure(read_json(stage / RECORD)["files"], tuple[FileRecord, ...])
    return FolderOf(stage.name, {RECORD: sha256_of(stage / RECORD), **{one.path: one.sha256 for one in records}})


def unpack(folder: FolderOf, root: Path, contents: Contents) -> None:
    """Make a stage folder of a workspace from content; what reads it checks the hashes of its record."""
    if not is_plain_name(folder.name):
        raise WrongContent(f"a stage folder named {folder.name!r}", expected="a plain name")
    final = root / STAGES / folder.name
    if final.exists():
        return
    partial = final.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with disk_errors(root):
        for name, sha256 in folder.files.items():
            place = partial / name
            if not place.resolve().is_relative_to(partial.resolve()):
                raise WrongContent(f"a stage folder with a file {name!r}", expected="paths inside it")
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(contents.path(sha256), place)
        partial.replace(final)


class KeptStages(Workspace):
    """A workspace of one task, whose finished stages outlive it: another task of this machine finds them."""

    def __init__(self, root: Path, reporter: Any, contents: Contents) -> None:
        super().__init__(root, reporter)
        self._contents = contents
        self._shelf = contents.root / "stages"

    def run(self, name: str, inputs: Any, action: Any, result_type: Any, code: str = "") -> Any:
        """Run a stage as any workspace does, with what an earlier task left."""
        place = f"{name}-{stage_key(name, inputs, code)[:12]}"
        kept = self._shelf / f"{place}.json"
        if kept.exists() and not (self.root / STAGES / place).exists():
            found = cattrs.structure(read_json(kept), FolderOf)
            if not self._contents.missing(found.files.values()):
                unpack(found, self.root, self._contents)
        done = super().run(name, inputs, action, result_type, code)
        self.keep(done.dir)
        return done

    def keep(self, stage: Path) -> FolderOf:
        """Put a finished stage among the machine's content."""
        from edge.files import write_json

        folder = folder_of(stage)
        for name, sha256 in folder.files.items():
            self._contents.add(stage / name, sha256)
        self._shelf.mkdir(exist_ok=True)
        write_json(self._shelf / f"{folder.name}.json", cattrs.unstructure(folder))
        return folder


def digest(data: bytes) -> str:
    """Return the sha256 of bytes, as hex."""
    return hashlib.sha256(data).hexdigest()
