"""Finished trials, one JSON line each, keyed by all they depend on: a search that was killed repeats none."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cattrs
from attrs import evolve, field, frozen

from edge.errors import (
    BackendError,
    CompileTimeout,
    EdgeError,
    GateError,
    ModelFileError,
    NotEnoughMemory,
    SpecError,
    ToolchainError,
)
from edge.files import disk_errors
from edge.folder.code import code_digest
from edge.folder.workspace import stage_key

# What a trial may fail with and still be a result: the recipe is at fault, not the machine or the user.
TRIAL_ERRORS = (ToolchainError, GateError, ModelFileError, BackendError, SpecError)


@frozen
class Entry:
    """A finished trial.

    Attributes:
        key: sha256 of its kind and all it depends on.
        kind: ``build``, ``ship``, ``latency``, ``rank``, ``damage`` or ``report``.
        name: as the user reads it.
        seconds: that it took when it was done.
        failed: why it gave no figures; empty if it did.
        limit: seconds that it was allowed, where it was stopped at a time limit; else 0.
        values: its figures.
    """

    key: str
    kind: str
    name: str
    seconds: float
    failed: str = ""
    limit: float = 0.0
    values: Mapping[str, Any] = field(factory=dict)


class Journal:
    """The trials of one model.

    A line that a killed search left half written is cut off. Every entry that this search used counts into
    :attr:`spent` with the seconds that it took when it was done, so that a search that goes on decides as one
    that was never interrupted.

    Args:
        path: the file; made with the first entry.
        code: modules whose source the figures depend on; a change of theirs makes every trial a new one.

    Attributes:
        used: entries of this search, in the order in which they were asked for.
        done: how many of them were computed now.
    """

    def __init__(self, path: Path, code: Sequence[str] = ()) -> None:
        self.path = path
        self._code = tuple(code)
        self.used: dict[str, Entry] = {}
        self.done = 0
        self._known = self._read()

    @property
    def spent(self) -> float:
        """Seconds of work in the entries of this search."""
        return sum(entry.seconds for entry in self.used.values())

    def of_kind(self, kind: str) -> list[Entry]:
        """Return the entries of this search of one kind, in order."""
        return [entry for entry in self.used.values() if entry.kind == kind]

    def finished(self, kind: str, inputs: Mapping[str, object]) -> bool:
        """Tell whether a trial is known already."""
        return stage_key(f"tune {kind}", inputs, code_digest(*self._code)) in self._known

    def once(
        self,
        kind: str,
        name: str,
        inputs: Mapping[str, object],
        work: Callable[[], Mapping[str, Any]],
        *,
        limit: float = 0.0,
        share: float = 1.0,
    ) -> Entry:
        """Return a trial's entry, from an earlier run or by doing the work now.

        Args:
            kind: of the trial.
            name: for the user.
            inputs: all it depends on, as JSON.
            work: gives its figures, as JSON. A failure of the compiler, the proof or the model is a result.
            limit: seconds that it may take; one that was stopped at a shorter limit is tried again.
            share: of the machine that it has, for work that is done side by side.

        Raises:
            EdgeError: the user's data or the machine is at fault; nothing is written down.
        """
        key = stage_key(f"tune {kind}", inputs, code_digest(*self._code))
        entry = self._known.get(key)
        if entry is None or 0 < entry.limit < limit:
            entry = self._do(key, kind, name, work, limit, share)
        self.used[key] = entry
        return entry

    def _do(
        self,
        key: str,
        kind: str,
        name: str,
        work: Callable[[], Mapping[str, Any]],
        limit: float,
        share: float,
    ) -> Entry:
        started = time.monotonic()
        entry = Entry(key, kind, name, 0.0)
        try:
            entry = evolve(entry, values=dict(work()))
        except NotEnoughMemory:
            raise  # the machine's, and perhaps only now: no word on the recipe
        except TRIAL_ERRORS as error:
            stopped = limit if isinstance(error, CompileTimeout) else 0.0
            entry = evolve(entry, failed=_why(error), limit=stopped)
        entry = evolve(entry, seconds=round(share * (time.monotonic() - started), 2))
        self._append(entry)
        self._known[key] = entry
        self.done += 1
        return entry

    def _append(self, entry: Entry) -> None:
        with disk_errors(self.path.parent), self.path.open("ab") as stream:
            line = json.dumps(cattrs.unstructure(entry), ensure_ascii=False, sort_keys=True)
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self) -> dict[str, Entry]:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            with disk_errors(self.path.parent), self.path.open("r+b") as stream:
                stream.truncate(len(data) - len(torn))
        found: dict[str, Entry] = {}
        for line in whole.split(b"\n"):
            try:
                entry = cattrs.structure(json.loads(line), Entry)
            except (ValueError, TypeError, KeyError, cattrs.BaseValidationError):
                continue  # a damaged line is a trial that has to be done again
            found[entry.key] = entry
        return found


def _why(error: EdgeError) -> str:
    return " ".join(error.seen.split())[:300]
