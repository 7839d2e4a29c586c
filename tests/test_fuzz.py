"""Whatever a user gives, edge answers: no traceback, no words of libraries, nothing touched but the build folder.

EDGE_FUZZ=1000 tries more cases of each kind. A case that fails names itself, KIND:NUMBER; again with:
``python -m tests.fuzzing KIND NUMBER 1 FOLDER``, which leaves its files in FOLDER/area.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz_cases import KINDS, damaged_bytes, damaged_text
from tests.fuzzing import Outcome, broken, changes, snapshot

COUNT = int(os.environ.get("EDGE_FUZZ", "100"))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input_is_answered(kind: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.fuzzing", kind, "0", str(COUNT), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(argv, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    *found, last = (json.loads(line) for line in done.stdout.splitlines())
    assert found == []
    assert last == {"done": COUNT}


def test_a_case_is_the_same_on_every_run() -> None:
    data = {"a": [1, {"b": "c"}], "d": 2.0}
    for number in range(20):
        one, two = (damaged_text(data, random.Random(number), as_yaml=True) for _ in range(2))
        assert one == two
        one, two = (damaged_bytes(b"0123456789" * 9, random.Random(number)) for _ in range(2))
        assert one == two


@pytest.mark.parametrize(
    ("outcome", "promise"),
    [
        (Outcome(3, "", "error: unexpected KeyError: 'x'\nnext: see", 1, 1), "exit code 3"),
        (Outcome(-11, "", "", 1, 1), "exit code -11"),
        (Outcome(-14, "", "", 61, 1), "took more than 60 s"),
        (Outcome(1, "", "error: no", 1, 1), "the error has neither next: nor expected:"),
        (Outcome(0, "", "libpng warning: x", 1, 1), "noise: 'libpng'"),
        (Outcome(0, "\x1b[2Jx", "", 1, 1), "noise: '\\x1b[2J'"),
        (Outcome(0, "", "", 1, 2001), "2001 MB of memory"),
    ],
)
def test_a_broken_promise_is_seen(outcome: Outcome, promise: str) -> None:
    assert promise in broken(outcome)


def test_a_kept_promise_is_none_broken() -> None:
    assert broken(Outcome(1, "", "error: no\nexpected: yes\n", 1, 100)) == []
    assert broken(Outcome(0, "fine", "✓ export", 1, 100)) == []


def test_what_is_touched_outside_is_seen(tmp_path: Path) -> None:
    for name in ("outside", "build"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("old")
    before = snapshot(tmp_path, tmp_path / "build")
    (tmp_path / "build" / "file").write_text("new")
    assert changes(before, snapshot(tmp_path, tmp_path / "build")) == []
    (tmp_path / "outside" / "file").write_text("new")
    (tmp_path / "outside" / "more").symlink_to("file")
    touched = changes(before, snapshot(tmp_path, tmp_path / "build"))
    assert touched == [str(tmp_path / "outside" / "file"), str(tmp_path / "outside" / "more")]
