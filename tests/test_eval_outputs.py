"""The kept answers: nothing computed twice, nothing lost, nothing of another network read."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.accuracy import MeasuredOn, Step, Subject, answers, discard_stale, evaluate
from edge.accuracy.answers import FOLDER, NAME, KeptAnswers
from edge.errors import InputError, WorkspaceError
from edge.folder.store import Store
from edge.images import ImageSet, open_images, sample
from edge.progress import Quiet
from edge.specs import Preprocess

CLASSES = 7
PRE = Preprocess(crop=(32, 32), resize=32, mean=(0, 0, 0), std=(255, 255, 255))


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Counting:
    """A step that answers with means of the image, and counts what it was asked."""

    def __init__(self, name: str = "float", version: str = "1", model: str = "m", shift: float = 0.0) -> None:
        self.opened = 0
        self.answered = 0
        self.shift = shift
        self._lock = threading.Lock()
        self.step = Step(name, "a test", f"{name}_onnx", key(model), key(name + version), self._open)

    @contextmanager
    def _open(self, workers: int) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
        self.opened += 1
        yield lambda rgb: [self._answer(rgb)]

    def _answer(self, rgb: np.ndarray) -> np.ndarray:
        with self._lock:
            self.answered += 1
        slope = np.arange(CLASSES, dtype=np.float32) * self.shift
        return np.resize(rgb.reshape(-1, 3).mean(0), CLASSES).astype(np.float32) + slope


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, no two alike."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(12):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{index:02d}.png"), pixels)
    return tmp_path / "images"


def measure(tmp_path: Path, images: ImageSet, *steps: Counting, listener: Quiet | None = None):
    what = Subject("net", PRE, CLASSES, {}, {}, scores="logits")
    measured_on = MeasuredOn(images, "a test")
    return evaluate(what, [step.step for step in steps], measured_on, root=tmp_path / "build", listener=listener)


def table(result) -> list[tuple]:
    return [(h.name, h.n, h.agreement, h.cosine, h.agreement_before, h.identical_before) for h in result.steps]


# --- what is computed


def test_an_unchanged_run_opens_and_computes_nothing(tmp_path: Path, folder: Path) -> None:
    steps = Counting(), Counting("nv12", shift=9)
    first = measure(tmp_path, open_images(folder), *steps)
    again = measure(tmp_path, open_images(folder), *steps)
    assert [step.computed for step in first.steps] == [12, 12]
    assert [step.computed for step in again.steps] == [0, 0]
    assert [(step.opened, step.answered) for step in steps] == [(1, 12), (1, 12)]
    assert table(first) == table(again)


def test_more_images_cost_only_the_new_ones(tmp_path: Path, folder: Path) -> None:
    step = Counting()
    images = open_images(folder)
    measure(tmp_path, sample(images, 5), step)
    measure(tmp_path, images, step)
    assert step.answered == 12


def test_a_further_step_costs_only_itself(tmp_path: Path, folder: Path) -> None:
    first, second = Counting(), Counting("quantized", shift=9)
    measure(tmp_path, open_images(folder), first)
    result = measure(tmp_path, open_images(folder), first, second)
    assert (first.answered, second.answered) == (12, 12)
    fresh = measure(tmp_path / "fresh", open_images(folder), Counting(), Counting("quantized", shift=9))
    assert table(result) == table(fresh)


def test_equal_images_are_computed_once_and_counted_each(tmp_path: Path, folder: Path) -> None:
    for index in range(3):
        (folder / f"copy{index}.png").write_bytes((folder / "03.png").read_bytes())
    step = Counting()
    result = measure(tmp_path, open_images(folder), step)
    assert (result.n, step.answered) == (15, 12)


def test_a_renamed_image_is_known(tmp_path: Path, folder: Path) -> None:
    step = Counting()
    measure(tmp_path, open_images(folder), step)
    (folder / "00.png").rename(folder / "zz.png")
    measure(tmp_path, open_images(folder), step)
    assert step.answered == 12


def test_a_changed_image_is_computed_again(tmp_path: Path, folder: Path) -> None:
    step = Counting()
    measure(tmp_path, open_images(folder), step)
    cv2.imwrite(str(folder / "00.png"), np.full((40, 40, 3), 9, np.uint8))
    measure(tmp_path, open_images(folder), step)
    assert step.answered == 13


def test_a_image_that_changes_meanwhile_is_an_error(tmp_path: Path, folder: Path) -> None:
    images = open_images(folder)
    assert images.contents.any()
    cv2.imwrite(str(folder / "05.png"), np.full((40, 40, 3), 9, np.uint8))
    with pytest.raises(InputError, match=r"05\.png was changed"):
        measure(tmp_path, images, Counting())


def test_broken_images_start_no_step_again(tmp_path: Path, folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    step = Counting()
    measure(tmp_path, open_images(folder), step)
    again = measure(tmp_path, open_images(folder), step)
    assert (step.opened, again.n, again.unreadable) == (1, 12, ("broken.png",))


def test_answers_of_another_key_are_never_read(tmp_path: Path, folder: Path) -> None:
    measure(tmp_path, open_images(folder), Counting())
    other = Counting(version="2")
    measure(tmp_path, open_images(folder), other)
    assert other.answered == 12


# --- what a kill or a bad disk leaves


def rows(tmp_path: Path) -> list[tuple[int, bytes]]:
    with closing(sqlite3.connect(tmp_path / "build" / NAME)) as database:
        return database.execute("SELECT id, value FROM entries ORDER BY id").fetchall()


@given(st.sets(st.integers(0, 11)))
@settings(max_examples=20, deadline=None)
def test_only_the_lost_is_computed_again(tmp_path_factory: pytest.TempPathFactory, lost: set[int]) -> None:
    base = tmp_path_factory.mktemp("cut")
    (base / "images").mkdir()
    for index in range(12):
        cv2.imwrite(str(base / "images" / f"{index}.png"), np.full((32, 32, 3), index * 20, np.uint8))
    step = Counting(shift=1)
    first = measure(base, open_images(base / "images"), step)
    ids = [row[0] for row in rows(base)]
    with closing(sqlite3.connect(base / "build" / NAME)) as database, database:
        database.executemany("DELETE FROM entries WHERE id = ?", [(ids[place],) for place in lost])
    again = measure(base, open_images(base / "images"), step)
    assert step.answered == 12 + len(lost)
    assert table(first) == table(again)
    assert len(rows(base)) == 12


@pytest.mark.parametrize("column", ["key", "value", "crc"])
def test_a_corrupt_answer_is_computed_again(tmp_path: Path, folder: Path, column: str) -> None:
    """In the image's hash, in the scores, in the checksum."""
    step = Counting()
    first = measure(tmp_path, open_images(folder), step)
    wrong = "crc + 1" if column == "crc" else f"CAST(x'01' || substr({column}, 2) AS BLOB)"
    with closing(sqlite3.connect(tmp_path / "build" / NAME)) as database, database:
        database.execute(f"UPDATE entries SET {column} = {wrong} WHERE id = 4")
    again = measure(tmp_path, open_images(folder), step)
    assert step.answered == 13
    assert table(first) == table(again)
    measure(tmp_path, open_images(folder), step)
    assert step.answered == 13


def test_a_file_that_is_no_database_starts_anew(tmp_path: Path, folder: Path) -> None:
    step = Counting()
    first = measure(tmp_path, open_images(folder), step)
    (tmp_path / "build" / NAME).write_bytes(b"edge outputs 1\n" + bytes(1000))
    listener = Quiet()
    again = measure(tmp_path, open_images(folder), step, listener=listener)
    assert step.answered == 24
    assert table(first) == table(again)
    assert [NAME in text and "computed again" in text for text in listener.warnings] == [True]


def test_answers_of_the_earlier_format_are_told_and_replaced(tmp_path: Path, folder: Path) -> None:
    step = Counting()
    earlier = tmp_path / "build" / FOLDER / f"float-{step.step.key[:12]}"
    earlier.mkdir(parents=True)
    (earlier / "scores").write_bytes(b"edge outputs 1\n" + bytes(1000))
    listener = Quiet()
    measure(tmp_path, open_images(folder), step, listener=listener)
    assert ["another version of edge" in text for text in listener.warnings] == [True]
    assert [path.name for path in (tmp_path / "build" / FOLDER).iterdir()] == [Path(NAME).name]
    measure(tmp_path, open_images(folder), step, listener=listener)
    assert (step.answered, len(listener.warnings)) == (12, 1)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Counting()
    put, room = Store.put, [4]

    def full(store: Store, part: str, entries: dict[bytes, bytes]) -> None:
        if not room[0]:
            pages = store._database.execute("PRAGMA page_count").fetchone()[0]
            store._database.execute(f"PRAGMA max_page_count = {pages}")
            entries = {key: value * 1000 for key, value in entries.items()}
        else:
            room[0] -= 1
        put(store, part, entries)

    with monkeypatch.context() as patch:
        patch.setattr(answers, "_SECONDS", 0.0)  # each answer is written at once
        patch.setattr(Store, "put", full)
        with pytest.raises(WorkspaceError, match="full"):
            measure(tmp_path, open_images(folder), step)
    assert len(rows(tmp_path)) == 4
    before = step.answered
    measure(tmp_path, open_images(folder), step)
    assert step.answered - before == 8


def test_a_failing_step_keeps_its_answers(tmp_path: Path, folder: Path) -> None:
    images = open_images(folder)
    assert images.contents.any()
    (folder / "11.png").write_bytes((folder / "00.png").read_bytes())
    step = Counting()
    with pytest.raises(InputError, match=r"11\.png was changed"):
        measure(tmp_path, images, step)
    measure(tmp_path, open_images(folder), step)
    assert step.answered == 11


# --- the file itself


digests = st.binary(min_size=32, max_size=32)


@given(st.dictionaries(digests, st.integers(0, 1000), max_size=40), st.lists(digests, max_size=10))
@settings(deadline=None, max_examples=50)
def test_what_is_put_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, put: dict[bytes, int], others: list[bytes]
) -> None:
    root = tmp_path_factory.mktemp("outputs")
    step = Counting().step
    with KeptAnswers(root, CLASSES, pytest.fail) as kept:
        for digest, value in put.items():
            kept.add(step, digest, np.full(CLASSES, value, np.float32))
    asked = [*others, *put, *put]  # twice, as two equal images ask
    with KeptAnswers(root, CLASSES, pytest.fail) as kept:
        contents = np.frombuffer(b"".join(asked), np.uint8).reshape(-1, 32)
        known = kept.known(step, contents)
        assert known.tolist() == [digest in put for digest in asked]
        found = kept.read(step, contents[known])
    wanted = [put[digest] for digest in asked if digest in put]
    assert found[:, 0].tolist() == wanted
    assert (found == found[:, :1]).all()


def test_answers_of_another_width_are_not_known(tmp_path: Path) -> None:
    step = Counting().step
    with KeptAnswers(tmp_path, CLASSES, pytest.fail) as kept:
        kept.add(step, bytes(32), np.zeros(CLASSES, np.float32))
    with KeptAnswers(tmp_path, CLASSES + 1, pytest.fail) as kept:
        assert kept.known(step, np.zeros((1, 32), np.uint8)).tolist() == [False]


def test_answers_of_models_that_are_gone_are_removed(tmp_path: Path, folder: Path) -> None:
    kept, gone = Counting(), Counting("nv12", model="old")
    measure(tmp_path, open_images(folder), kept, gone)
    discard_stale(tmp_path / "build", {key("m")})
    measure(tmp_path, open_images(folder), kept, gone)
    assert (kept.answered, gone.answered) == (12, 24)


def test_nothing_is_made_where_there_are_no_answers(tmp_path: Path) -> None:
    discard_stale(tmp_path, {key("m")})
    assert list(tmp_path.iterdir()) == []
