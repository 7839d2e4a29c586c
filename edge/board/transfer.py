"""Copy a program to the board, each file whole or not at all; record the board's figures in the manifest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import frozen
from filelock import FileLock

from edge.board.connection import Connection
from edge.errors import BoardError, ModelFileError, UsageError, WorkspaceError
from edge.files import disk_errors, read_json, sha256_of, write_json
from edge.folder.metadata import FILE
from edge.folder.workspace import MANIFEST, MARKER
from edge.progress import Reporter
from edge.runtime.program import Program
from edge.toolchain.process import last_line

_CHUNK = 1 << 16
_SLOWEST = 50_000  # bytes per second; a slower connection counts as lost
_SPARE = 4 << 20  # bytes that must stay free on the board

_LOOK = r"""
mkdir -p -- "$1" && cd -- "$1" || exit 3
shift
printf '@edge dir %s\n' "$PWD"
df -Pk . | awk 'NR==2 {print "@edge free_kb " $4}'
for name do
    [ -f "$name" ] && printf '@edge sum %s %s\n' "$(sha256sum <"$name" | cut -c1-64)" "$name"
done
exit 0
"""
# The file is renamed to its final name after the checksum of the stored bytes was checked.
_STORE = r"""
final=$1; want=$2; part="$(dirname -- "$1")/.$(basename -- "$1").edge-$$"
trap 'rm -f -- "$part"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$part" || exit 3
seen=$(sha256sum <"$part" | cut -c1-64)
[ "$seen" = "$want" ] || { echo "@edge seen $seen"; exit 4; }
chmod 644 -- "$part" && mv -f -- "$part" "$final"
"""


@frozen
class Sent:
    """A file on the board: its name, size, and whether it was sent or was there already."""

    name: str
    bytes: int
    state: Literal["sent", "unchanged"]


@frozen
class Pushed:
    """A program on the board."""

    directory: str  #: absolute path on the board.
    bin: str  #: absolute path of the ``.bin`` on the board.
    files: tuple[Sent, ...]  #: of the program.


def push(connection: Connection, program: Program, directory: str | None, reporter: Reporter) -> Pushed:
    """Copy the files that ``metadata.json`` lists, then itself; files that are there already are not sent again.

    ``directory`` is relative to the user's home on the board, or absolute; None means ``edge/<name>``.

    Raises:
        ModelFileError: the program has no ``.bin``.
        BoardError: the disk is full or can't be written, or a file arrived damaged.
    """
    require_bin(program)
    files = sorted({path.name: path for path in program.files.values()}.values())
    if program.metadata is not None:
        files.append(program.folder / FILE)
    sums = {path.name: sha256_of(path) for path in files}
    folder, free, there = _look(connection, _directory(program, directory), list(sums))
    missing = [path for path in files if there.get(path.name) != sums[path.name]]
    total = sum(path.stat().st_size for path in missing)
    if free is not None and total + _SPARE > free:
        raise BoardError(
            f"the board has {free / 1e6:.1f} MB free in {folder}, the program needs {total / 1e6:.1f} MB",
            remedy="free some space there, or choose another disk with --to",
        )
    before = 0
    for path in missing:
        size = path.stat().st_size

        def tell(sent: int, name: str = path.name, before: int = before) -> None:
            share = (before + sent) / total
            reporter.update(f"{name} {(before + sent) / 1e6:.1f} of {total / 1e6:.1f} MB", share)

        _send(connection, path, f"{folder}/{path.name}", sums[path.name], tell)
        before += size
    sent = tuple(Sent(path.name, path.stat().st_size, "sent" if path in missing else "unchanged") for path in files)
    return Pushed(folder, f"{folder}/{program.files['bin'].name}", sent)


def require_bin(program: Program) -> Path:
    """Return the path of the program's ``.bin``; raise ModelFileError if it has none."""
    if "bin" not in program.files:
        raise ModelFileError(
            f"{program.name} has no .bin: only the vendor's compiler makes programs for the board",
            remedy="edge build MODEL --compiler managed",
        )
    return program.files["bin"]


def _directory(program: Program, given: str | None) -> str:
    if given is None:
        name = program.metadata.name if program.metadata else program.path.stem
        return f"edge/{name}"
    if "\n" in given or not given.strip():
        raise UsageError(f"--to {given!r}", expected="a folder on the board")
    return (given.removeprefix("~/") or ".").rstrip("/") or "/"


def _look(connection: Connection, directory: str, names: list[str]) -> tuple[str, int | None, dict[str, str]]:
    limit = 120.0  # for checksums of files there; an SD card reads 20 MB/s and more
    output = connection.run(_LOOK, directory, *names, limit=limit, may_fail=True)
    found = re.search(r"@edge dir (/.*)", output.text)
    if output.status or found is None:
        raise BoardError(
            f"{directory} on the board can't be used: {last_line(output.err) or 'no answer'}",
            remedy="choose another folder with --to",
        )
    free = re.search(r"@edge free_kb (\d+)", output.text)
    sums = {name: digest for digest, name in re.findall(r"@edge sum ([0-9a-f]{64}) (.+)", output.text)}
    return found[1].rstrip("\r"), int(free[1]) * 1024 if free else None, sums


def _send(connection: Connection, path: Path, final: str, want: str, on_sent: Callable[[int], None]) -> None:
    def chunks() -> Iterator[bytes]:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk

    limit = 60 + path.stat().st_size / _SLOWEST
    output = connection.run(_STORE, final, want, limit=limit, data=chunks, on_sent=on_sent, may_fail=True)
    if output.status == 0:
        return
    cause = last_line(output.err) or "no reason given"
    if "No space left" in output.err or "quota" in output.err:
        raise BoardError(
            f"the board's disk is full: {path.name} was not stored",
            remedy="free some space there, or choose another disk with --to",
        )
    if output.status == 4:
        raise BoardError(
            f"{path.name} arrived damaged and was discarded (its sha256 differs on the board)",
            remedy="run the command again; if it happens again, check the board's disk (dmesg)",
        )
    raise BoardError(f"{final} can't be written: {cause}", remedy="choose another folder with --to")


def read_manifest(root: Path) -> dict[str, Any] | None:
    """Return the manifest of a build folder; None if there is none, as in a bundle."""
    path = root / MANIFEST
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise WorkspaceError(f"{path} can't be read: {error}", remedy="edge build MODEL writes it again") from error
    if not isinstance(content, dict):
        raise WorkspaceError(f"{path} holds no manifest", remedy="edge build MODEL writes it again")
    return content


def record(root: Path, sha256: str, entries: Mapping[str, object]) -> bool:
    """Put entries such as ``perf`` under ``board`` in a build's manifest; return whether there is one.

    Figures of a ``.bin`` with another sha256 are removed: they do not apply to this one.

    Raises:
        WorkspaceError: the manifest can't be read or written.
    """
    if not (root / MANIFEST).is_file():
        return False
    if not (root / MARKER).exists():
        return _write(root, sha256, entries)
    with disk_errors(root), FileLock(root / ".lock"):  # an edge build may be publishing
        return _write(root, sha256, entries)


def _write(root: Path, sha256: str, entries: Mapping[str, object]) -> bool:
    manifest = read_manifest(root)
    if manifest is None:
        return False
    old = manifest.get("board")
    kept = old if isinstance(old, dict) and old.get("bin_sha256") == sha256 else {}
    with disk_errors(root):
        write_json(root / MANIFEST, {**manifest, "board": {**kept, "bin_sha256": sha256, **entries}})
    return True
