"""The store: what was put is there, whole, whatever happened to the process or to the disk."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import WorkspaceError
from edge.folder.store import Store
from edge.progress import Silent

NAME = "kept/results.sqlite"


def opened(root: Path, told: Silent | None = None) -> Store:
    return Store(root, NAME, (told or Silent()).warn)


def filled(root: Path, count: int = 40) -> dict[bytes, bytes]:
    entries = {bytes([index]) * 32: bytes([255 - index]) * 4000 for index in range(count)}
    with opened(root) as store:
        store.put("a", entries)
    return entries


def test_what_is_put_comes_back_in_its_order(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put("a", {b"2": b"two", b"1": b"one"})
        store.put("b", {b"2": b"other"})
        store.put("a", {b"2": b"again"})
    with opened(tmp_path) as store:
        assert list(store.items("a")) == [(b"1", b"one"), (b"2", b"again")]
        assert (store.get("a", b"1"), store.get("b", b"1"), store.get("c", b"1")) == (b"one", None, None)
        assert sorted(store.parts()) == ["a", "b"]


def test_a_removed_part_leaves_the_disk(tmp_path: Path) -> None:
    filled(tmp_path)
    before = (tmp_path / NAME).stat().st_size
    with opened(tmp_path) as store:
        store.put("b", {b"k": b"v"})
        store.remove(["a"])
        assert store.parts() == ["b"]
        assert list(store.items("b")) == [(b"k", b"v")]
    assert (tmp_path / NAME).stat().st_size < before / 4


def _put_for_ever(root: Path, ready: multiprocessing.synchronize.Event) -> None:
    with opened(root) as store:
        for index in range(1_000_000):
            batch = {index.to_bytes(4, "big") + bytes([part]): os.urandom(4) * 1000 for part in range(8)}
            store.put("a", batch)
            ready.set()


@pytest.mark.parametrize("wait", [0, 0.01, 0.037, 0.1])
def test_a_kill_leaves_whole_transactions(tmp_path: Path, wait: float) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=_put_for_ever, args=(tmp_path, ready))
    child.start()
    assert ready.wait(60)
    time.sleep(wait)
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    told = Silent()
    with opened(tmp_path, told) as store:
        found = dict(store.items("a"))
        assert len(found) % 8 == 0
        assert found
        assert all(value == value[:4] * 1000 for value in found.values())
        store.put("a", {b"after": b"wards"})
        assert store.get("a", b"after") == b"wards"
    assert told.warnings == []


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_damaged_file_gives_no_wrong_value(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("store")
    entries = filled(root, 12)
    path = root / NAME
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with opened(root) as store:
        for key, value in entries.items():
            assert store.get("a", key) in (value, None)
        assert dict(store.items("a")).items() <= entries.items()
        store.put("a", {key: value for key, value in entries.items() if store.get("a", key) is None})
        assert all(store.get("a", key) == value for key, value in entries.items())
        store.remove(store.parts())


@pytest.mark.parametrize("content", [b"edge outputs 1\n" + bytes(200), b'{"key": "value"}\n' * 100])
def test_a_file_of_another_format_is_told_and_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_bytes(content)
    told = Silent()
    with opened(tmp_path, told) as store:
        store.put("a", {b"k": b"v"})
        assert list(store.items("a")) == [(b"k", b"v")]
    assert [NAME in text and "computed again" in text for text in told.warnings] == [True]


def test_a_database_of_another_format_is_told_and_replaced(tmp_path: Path) -> None:
    filled(tmp_path)
    database = sqlite3.connect(tmp_path / NAME)
    database.execute("PRAGMA user_version = 99")
    database.close()
    told = Silent()
    with opened(tmp_path, told) as store:
        assert store.parts() == []
    assert len(told.warnings) == 1


@pytest.mark.parametrize("place", range(36, 40))
def test_pages_that_only_the_header_calls_unused_are_told_at_once(tmp_path: Path, place: int) -> None:
    """Found by hypothesis: sqlite noticed it in the middle of a later write, and earlier writes were lost with it."""
    entries = filled(tmp_path, 12)
    content = bytearray((tmp_path / NAME).read_bytes())
    content[place] ^= 0x20
    (tmp_path / NAME).write_bytes(content)
    told = Silent()
    with opened(tmp_path, told) as store:
        assert [NAME in text and "computed again" in text for text in told.warnings] == [True]
        for key, value in entries.items():
            store.put("a", {key: value})
        assert dict(store.items("a")) == entries
    with opened(tmp_path, told) as store:
        assert dict(store.items("a")) == entries
        assert len(told.warnings) == 1


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    entries = filled(tmp_path)
    with opened(tmp_path) as store:
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        store._database.execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(WorkspaceError, match="is full"):
            store.put("b", {bytes([index]): bytes(4000) for index in range(10)})
        assert dict(store.items("a")) == entries
        assert store.parts() == ["a"]


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    filled(tmp_path)
    with opened(tmp_path) as store:
        store._database.execute("PRAGMA query_only = 1")
        with pytest.raises(WorkspaceError, match="can't be written"):
            store.put("a", {b"k": b"v"})


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(WorkspaceError, match="can't be written"):
        opened(tmp_path / "file")
