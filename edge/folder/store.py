"""Results in one sqlite file, so that finished work is not repeated."""

from __future__ import annotations

import errno
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge.files import disk_errors, require_no_link

FORMAT = 1  # of the file; a file of another format is replaced
_TABLE = (
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, part TEXT NOT NULL, key BLOB NOT NULL, "
    "value BLOB NOT NULL, crc INTEGER NOT NULL, UNIQUE (part, key))"
)
_GET = "SELECT key, value, crc FROM entries WHERE part = ?"
_PUT = "INSERT OR REPLACE INTO entries (part, key, value, crc) VALUES (?, ?, ?, ?)"
_AT_ONCE = 256  # keys in one statement; every sqlite takes 999 variables
# sqlite quotes a damaged schema in its message, which then may not be text.
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
# Disk errors by sqlite's text: its error codes can't be read before Python 3.11.
_DISK = {
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EACCES,
    "unable to open database file": errno.EACCES,
    "disk I/O error": errno.EIO,
}


class Store:
    """Bytes under keys, in parts; for one process and one thread at a time.

    A transaction is in the file whole or not at all, so a kill at any moment loses at most the entries not put yet.
    sqlite trusts the disk, so each entry has a checksum; an entry that fails it counts as missing. A file of another
    format, or one too damaged to open, is replaced by an empty one, and ``warn`` is told.
    """

    def __init__(self, root: Path, name: str, warn: Callable[[str], None]) -> None:
        self._root = root
        self._path = root / name
        self._warn = warn
        for path in (self._path.parent, self._path, self._path.with_name(f"{name.rpartition('/')[2]}-journal")):
            if path != root:
                require_no_link(path)
        with self._disk_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._open()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def get(self, part: str, key: bytes) -> bytes | None:
        """Return the value of a key; None if there is none."""
        return self.find(part, [key]).get(key)

    def find(self, part: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that have one."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            rows = self._do(f"{_GET} AND key IN ({', '.join('?' * len(some))})", [(part, *some)])
            wanted = set(some)  # a damaged index may give other keys
            found |= {key: value for key, value in _sound(part, rows) if key in wanted}
        return found

    def items(self, part: str) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values of a part in the order in which they were put."""
        return _sound(part, self._do(f"{_GET} ORDER BY id", [(part,)]))

    def put(self, part: str, entries: Mapping[bytes, bytes]) -> None:
        """Write entries in one transaction; each replaces an earlier entry of its key."""
        self._do(_PUT, [(part, key, value, _crc(part, key, value)) for key, value in entries.items()])

    def parts(self) -> list[str]:
        """Return the names of all parts."""
        return [part for (part,) in self._do("SELECT DISTINCT part FROM entries", [()])]

    def remove(self, parts: Iterable[str]) -> None:
        """Remove parts and give their space back to the disk."""
        self._do("DELETE FROM entries WHERE part = ?", [(part,) for part in parts])

    def _do(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Execute a statement for each row in one transaction; return the rows found."""
        with self._disk_errors():
            try:
                return self._transaction(statement, rows)
            except _DAMAGE as error:
                if self._of_the_disk(error):
                    raise
                self._database.close()
                self._database = self._replace("damaged")
                return self._transaction(statement, rows)

    def _transaction(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        with self._database:
            for row in rows:
                found += self._database.execute(statement, row)
        return found

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path)
        database.text_factory = lambda text: text.decode(errors="replace")  # a damaged name is no error
        try:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            (unused,) = database.execute("PRAGMA freelist_count").fetchone()
            if version == FORMAT and not unused:
                return database
            # With auto_vacuum no page stays unused. Where the header claims some, sqlite gives up at a later write, and
            # with the file all that was put meanwhile would be gone.
            if not unused and not database.execute("SELECT * FROM sqlite_master").fetchone():
                database.execute("PRAGMA auto_vacuum = FULL")  # removed entries give their space back
                with database:
                    database.execute("BEGIN")
                    database.execute(_TABLE)
                    database.execute(f"PRAGMA user_version = {FORMAT}")
                return database
        except _DAMAGE as error:
            if self._of_the_disk(error):
                database.close()
                raise
        database.close()
        return self._replace("of another version of edge, or damaged")

    def _of_the_disk(self, error: Exception) -> bool:
        """Tell whether the disk refuses. A damaged header, too, makes sqlite say that a file can't be written."""
        if "readonly" in str(error):
            with self._path.open("rb") as file:
                versions = file.read(20)[18:]  # of the format, for writing and for reading: 1 or 2
            return set(versions) <= {1, 2}
        return str(error) in _DISK

    def _replace(self, why: str) -> sqlite3.Connection:
        self._warn(f"{self._path} is {why}; its results are computed again")
        self._path.with_name(f"{self._path.name}-journal").unlink(missing_ok=True)
        self._path.unlink()
        return self._open()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        with disk_errors(self._root):
            try:
                yield
            except sqlite3.OperationalError as error:
                if not (number := _DISK.get(str(error))):
                    raise
                raise OSError(number, os.strerror(number), str(self._path)) from error


def _sound(part: str, rows: Iterable[tuple[bytes, bytes, int]]) -> Iterator[tuple[bytes, bytes]]:
    for key, value, crc in rows:
        # A damaged row may hold another type too.
        if isinstance(key, bytes) and isinstance(value, bytes) and crc == _crc(part, key, value):
            yield key, value


def _crc(part: str, key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key, zlib.crc32(part.encode())))
