"""Finished trials, keyed by everything that they depend on, so an interrupted search repeats none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cattrs
from attrs import evolve, field, frozen

from edge.errors import (
    BackendError,
    CompileTimeout,
    GateError,
    ModelFileError,
    NotEnoughMemory,
    SpecError,
    ToolchainError,
)
from edge.files import disk_errors
from edge.folder.store import Store
from edge.folder.workspace import stage_key

FILE = "journal.sqlite"
FORMER = "journal.jsonl"  # of earlier versions
PART = "trials"
LONGER = 1.1  # times the limit at which a trial was stopped: with so much more time it is tried again
# Failures that are a result of a trial: the recipe is at fault, not the machine or the user.
TRIAL_ERRORS = (ToolchainError, GateError, ModelFileError, BackendError, SpecError)


@frozen
class Entry:
    """A finished trial."""

    key: str  #: sha256 of its kind and everything that it depends on.
    kind: str  #: ``build``, ``ship``, ``latency``, ``rank``, ``damage`` or ``report``.
    name: str  #: as shown to the user.
    seconds: float  #: time that it took when it was done.
    failed: str = ""  #: why it gave no figures; empty if it did.
    limit: float = 0.0  #: time limit in seconds, if it was stopped at it; else 0.
    #: its figures: ``latency_us``, ``divergence``, ``measured``, ``bit_exact``, ``compile_s`` and ``versions``, where
    #: the kind has them; of ``rank``, unit -> how far it alone lowers the divergence.
    values: Mapping[str, Any] = field(factory=dict)


class Journal:
    """The trials of one model, each in the file as soon as it is finished.

    Every entry that this search used adds its original seconds to :attr:`spent`, the work in all runs of the search.

    Args:
        code: digest of the code that the figures depend on; if it changes, every trial is repeated.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None], code: str = "") -> None:
        self._folder = folder
        self._warn = warn
        self.code = code
        self.used: dict[str, Entry] = {}  #: entries of this search, in the order in which they were asked for.
        self.done = 0  #: how many of them were computed now.
        former = folder / FORMER
        if former.exists():
            warn(f"{former} was written by an earlier version of edge; its trials are computed again")
            with disk_errors(folder):
                former.unlink()
        self._known = {entry.key: entry for entry in self._read()}

    @property
    def spent(self) -> float:
        """Seconds of work in the entries of this search."""
        return sum(entry.seconds for entry in self.used.values())

    def of_kind(self, kind: str) -> list[Entry]:
        """Return the entries of this search of one kind, in order."""
        return [entry for entry in self.used.values() if entry.kind == kind]

    def once(
        self,
        kind: str,
        name: str,
        inputs: Mapping[str, object],
        work: Callable[[], Mapping[str, Any]],
        *,
        limit: float = 0.0,
        away: Callable[[Entry], Entry] | None = None,
    ) -> Entry:
        """Return a trial's entry, from an earlier run or by doing the work now.

        Args:
            work: returns its figures, as JSON. A failure of the compiler, of verify or of the model is a result.
            away: fills the entry in instead, where others do the work.
            limit: seconds that it may take; a trial that was stopped at a shorter limit is tried again, and so is one
                with ``cut_short`` in its figures.

        Raises:
            EdgeError: the user's data or the machine is at fault; nothing is recorded.
        """
        blank = self.wanted(kind, name, inputs, limit)
        if blank is not None:
            self.keep(tried(blank, work, limit) if away is None else _filled(blank, away))
            self.done += 1
        entry = self._known[self.key(kind, inputs)]
        self.used[entry.key] = entry
        return entry

    def wanted(self, kind: str, name: str, inputs: Mapping[str, object], limit: float = 0.0) -> Entry | None:
        """Return the blank entry of a trial that is to be done; None if its figures are known. See :meth:`once`."""
        key = self.key(kind, inputs)
        entry = self._known.get(key)
        return Entry(key, kind, name, 0.0) if entry is None or 0 < LONGER * entry.limit < limit else None

    def key(self, kind: str, inputs: Mapping[str, object]) -> str:
        """Return the key of a trial."""
        return stage_key(f"tune {kind}", inputs, self.code)

    def keep(self, entry: Entry) -> None:
        """Write a finished trial."""
        with self._store() as store:
            text = json.dumps(cattrs.unstructure(entry), ensure_ascii=False, sort_keys=True)
            store.put(PART, {bytes.fromhex(entry.key): text.encode()})
        self._known[entry.key] = entry

    def _read(self) -> Iterator[Entry]:
        with self._store() as store:
            for _, value in store.items(PART):
                try:
                    yield cattrs.structure(json.loads(value), Entry)
                except (ValueError, TypeError, KeyError, cattrs.BaseValidationError):
                    continue  # a trial whose entry can't be read is repeated

    def _store(self) -> Store:
        return Store(self._folder, FILE, self._warn)


def _filled(blank: Entry, away: Callable[[Entry], Entry]) -> Entry:
    try:
        return away(blank)
    except ModelFileError as error:
        return evolve(blank, failed=" ".join(error.seen.split())[:300])


def tried(entry: Entry, work: Callable[[], Mapping[str, Any]], limit: float) -> Entry:
    """Do the work of a trial and return its entry; a failure of the recipe is a result."""
    started = time.monotonic()
    try:
        values = dict(work())
        entry = evolve(entry, values=values, limit=limit if values.get("cut_short") else 0.0)
    except NotEnoughMemory:
        raise  # a failure of the machine, perhaps temporary: it says nothing about the recipe
    except TRIAL_ERRORS as error:
        stopped = limit if isinstance(error, CompileTimeout) else 0.0
        entry = evolve(entry, failed=" ".join(error.seen.split())[:300], limit=stopped)
    return evolve(entry, seconds=round(time.monotonic() - started, 2))
