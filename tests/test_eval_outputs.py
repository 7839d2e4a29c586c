"""The kept answers: nothing computed twice, nothing lost, nothing of another network read."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import InputError, WorkspaceError
from edge.evaluate import Hop, Pictures, Subject, discard_stale, evaluate
from edge.evaluate.answers import FOLDER, SCORES, Outputs
from edge.images import ImageSet, open_images, sample
from edge.specs import Preprocess

CLASSES = 7
PRE = Preprocess(crop=(32, 32), resize=32, mean=(0, 0, 0), std=(255, 255, 255))
RECORD = 32 + 4 * CLASSES + 4


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Counting:
    """A hop that answers with means of the picture, and counts what it was asked."""

    def __init__(self, name: str = "float", version: str = "1", model: str = "m", shift: float = 0.0) -> None:
        self.opened = 0
        self.answered = 0
        self.shift = shift
        self._lock = threading.Lock()
        self.hop = Hop(name, "a test", f"{name}_onnx", key(model), key(name + version), self._open)

    @contextmanager
    def _open(self, workers: int) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
        self.opened += 1
        yield self._answer

    def _answer(self, rgb: np.ndarray) -> np.ndarray:
        with self._lock:
            self.answered += 1
        slope = np.arange(CLASSES, dtype=np.float32) * self.shift
        return np.resize(rgb.reshape(-1, 3).mean(0), CLASSES).astype(np.float32) + slope


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures, no two alike."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for index in range(12):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{index:02d}.png"), pixels)
    return tmp_path / "pictures"


def measure(tmp_path: Path, images: ImageSet, *hops: Counting):
    what = Subject("net", PRE, CLASSES, {}, {})
    return evaluate(what, [hop.hop for hop in hops], Pictures(images, "a test"), root=tmp_path / "build")


def scores_of(tmp_path: Path, hop: Counting) -> Path:
    return tmp_path / "build" / FOLDER / f"{hop.hop.name}-{hop.hop.key[:12]}" / SCORES


def table(result) -> list[tuple]:
    return [(h.hop, h.n, h.agreement, h.cosine, h.agreement_before, h.identical_before) for h in result.hops]


# --- what is computed


def test_an_unchanged_run_opens_and_computes_nothing(tmp_path: Path, folder: Path) -> None:
    hops = Counting(), Counting("nv12", shift=9)
    first = measure(tmp_path, open_images(folder), *hops)
    again = measure(tmp_path, open_images(folder), *hops)
    assert [hop.computed for hop in first.hops] == [12, 12]
    assert [hop.computed for hop in again.hops] == [0, 0]
    assert [(hop.opened, hop.answered) for hop in hops] == [(1, 12), (1, 12)]
    assert table(first) == table(again)


def test_more_pictures_cost_only_the_new_ones(tmp_path: Path, folder: Path) -> None:
    hop = Counting()
    images = open_images(folder)
    measure(tmp_path, sample(images, 5), hop)
    measure(tmp_path, images, hop)
    assert hop.answered == 12


def test_a_further_hop_costs_only_itself(tmp_path: Path, folder: Path) -> None:
    first, second = Counting(), Counting("quantized", shift=9)
    measure(tmp_path, open_images(folder), first)
    result = measure(tmp_path, open_images(folder), first, second)
    assert (first.answered, second.answered) == (12, 12)
    fresh = measure(tmp_path / "fresh", open_images(folder), Counting(), Counting("quantized", shift=9))
    assert table(result) == table(fresh)


def test_equal_pictures_are_computed_once_and_counted_each(tmp_path: Path, folder: Path) -> None:
    for index in range(3):
        (folder / f"copy{index}.png").write_bytes((folder / "03.png").read_bytes())
    hop = Counting()
    result = measure(tmp_path, open_images(folder), hop)
    assert (result.n, hop.answered) == (15, 12)


def test_a_renamed_picture_is_known(tmp_path: Path, folder: Path) -> None:
    hop = Counting()
    measure(tmp_path, open_images(folder), hop)
    (folder / "00.png").rename(folder / "zz.png")
    measure(tmp_path, open_images(folder), hop)
    assert hop.answered == 12


def test_a_changed_picture_is_computed_again(tmp_path: Path, folder: Path) -> None:
    hop = Counting()
    measure(tmp_path, open_images(folder), hop)
    cv2.imwrite(str(folder / "00.png"), np.full((40, 40, 3), 9, np.uint8))
    measure(tmp_path, open_images(folder), hop)
    assert hop.answered == 13


def test_a_picture_that_changes_meanwhile_is_an_error(tmp_path: Path, folder: Path) -> None:
    images = open_images(folder)
    assert images.contents.any()
    cv2.imwrite(str(folder / "05.png"), np.full((40, 40, 3), 9, np.uint8))
    with pytest.raises(InputError, match=r"05\.png was changed"):
        measure(tmp_path, images, Counting())


def test_broken_pictures_start_no_hop_again(tmp_path: Path, folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    hop = Counting()
    measure(tmp_path, open_images(folder), hop)
    again = measure(tmp_path, open_images(folder), hop)
    assert (hop.opened, again.n, again.unreadable) == (1, 12, ("broken.png",))


def test_answers_of_another_key_are_never_read(tmp_path: Path, folder: Path) -> None:
    measure(tmp_path, open_images(folder), Counting())
    other = Counting(version="2")
    measure(tmp_path, open_images(folder), other)
    assert other.answered == 12


# --- what a kill or a bad disk leaves


@given(st.integers(0, 12 * RECORD + 88))
@settings(max_examples=30, deadline=None)
def test_cut_anywhere_only_the_lost_is_computed_again(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    base = tmp_path_factory.mktemp("cut")
    (base / "pictures").mkdir()
    for index in range(12):
        cv2.imwrite(str(base / "pictures" / f"{index}.png"), np.full((32, 32, 3), index * 20, np.uint8))
    hop = Counting(shift=1)
    first = measure(base, open_images(base / "pictures"), hop)
    path = scores_of(base, hop)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    kept = max(0, (cut - 88) // RECORD)
    again = measure(base, open_images(base / "pictures"), hop)
    assert hop.answered == 12 + 12 - kept
    assert table(first) == table(again)
    assert path.stat().st_size == len(whole)


@pytest.mark.parametrize("place", [88 + 3 * RECORD + 5, 88 + 3 * RECORD + 40, 88 + 4 * RECORD - 2])
def test_a_corrupt_record_is_computed_again(tmp_path: Path, folder: Path, place: int) -> None:
    """In the picture's hash, in the scores, in the checksum."""
    hop = Counting()
    first = measure(tmp_path, open_images(folder), hop)
    path = scores_of(tmp_path, hop)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)
    again = measure(tmp_path, open_images(folder), hop)
    assert hop.answered == 13
    assert table(first) == table(again)
    measure(tmp_path, open_images(folder), hop)
    assert hop.answered == 13


@pytest.mark.parametrize("place", [0, 20, 50, 81, 86])
def test_a_corrupt_header_starts_anew(tmp_path: Path, folder: Path, place: int) -> None:
    hop = Counting()
    measure(tmp_path, open_images(folder), hop)
    path = scores_of(tmp_path, hop)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)
    measure(tmp_path, open_images(folder), hop)
    assert hop.answered == 24


class Full:
    """A file on a disk that takes some bytes more."""

    def __init__(self, file, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: memoryview) -> int:
        if not self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = bytes(data[: self._room])
        self._room -= len(part)
        return self._file.write(part)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def test_a_full_disk_is_told_and_loses_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hop = Counting()
    ready = Outputs._mend

    def mend(self: Outputs, header: bytes) -> int:
        records = ready(self, header)
        self._file = Full(self._file, 4 * RECORD + 10)
        return records

    with monkeypatch.context() as patch:
        patch.setattr(Outputs, "_mend", mend)
        with pytest.raises(WorkspaceError, match="full"):
            measure(tmp_path, open_images(folder), hop)
    assert scores_of(tmp_path, hop).stat().st_size == 88 + 4 * RECORD
    before = hop.answered
    measure(tmp_path, open_images(folder), hop)
    assert hop.answered - before == 8


# --- the file itself


digests = st.binary(min_size=32, max_size=32)


@given(st.dictionaries(digests, st.integers(0, 1000), max_size=40), st.lists(digests, max_size=10))
@settings(deadline=None, max_examples=50)
def test_what_is_put_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, put: dict[bytes, int], others: list[bytes]
) -> None:
    root = tmp_path_factory.mktemp("outputs")
    hop = Counting().hop
    with Outputs(root, hop, CLASSES) as outputs:
        for digest, value in put.items():
            outputs.append(digest, np.full(CLASSES, value, np.float32))
    asked = [*others, *put, *put]  # twice, as two equal pictures ask
    with Outputs(root, hop, CLASSES) as outputs:
        rows = np.frombuffer(b"".join(asked), np.uint8).reshape(-1, 32)
        records = outputs.find(rows)
        for digest, record in zip(asked, records, strict=True):
            assert (record >= 0) == (digest in put)
        there = records >= 0
        found = outputs.read(records[there])
    wanted = [put[digest] for digest in asked if digest in put]
    assert found[:, 0].tolist() == wanted
    assert (found == found[:, :1]).all()


def test_pictures_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    """Searching goes by the first 8 bytes."""
    one, other = b"12345678" + bytes(24), b"12345678" + bytes(23) + b"x"
    with Outputs(tmp_path, Counting().hop, CLASSES) as outputs:
        outputs.append(one, np.zeros(CLASSES, np.float32))
        outputs.append(other, np.ones(CLASSES, np.float32))
        records = outputs.find(np.frombuffer(other + one, np.uint8).reshape(2, 32))
        assert outputs.read(records)[:, 0].tolist() == [1, 0]


def test_answers_of_models_that_are_gone_are_removed(tmp_path: Path, folder: Path) -> None:
    kept, gone = Counting(), Counting("nv12", model="old")
    measure(tmp_path, open_images(folder), kept, gone)
    (tmp_path / "build" / FOLDER / "nv12-broken").mkdir()
    discard_stale(tmp_path / "build", {key("m")})
    assert [path.name for path in (tmp_path / "build" / FOLDER).iterdir()] == [f"float-{kept.hop.key[:12]}"]
