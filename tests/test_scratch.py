"""Temporary folders of killed processes are removed, those of living ones are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge.scratch import Scratch
from tests.conftest import wait_for

HOLD = (
    "import time; from edge.scratch import Scratch; kept = Scratch('sim'); "
    "(kept.path / 'big').write_bytes(b'0'); print(kept.path, flush=True); time.sleep(60)"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def aged(path: Path) -> None:
    os.utime(path, (time.time() - 3600,) * 2)


def test_a_killed_process_s_folder_is_removed_by_the_next(place: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    aged(left)
    with Scratch("simplify"):
        assert (left / "big").exists()  # its process lives
    process.send_signal(signal.SIGKILL)
    process.wait()
    with Scratch("simplify") as mine:
        assert list(place.iterdir()) == [mine]
    assert list(place.iterdir()) == []


def test_an_earlier_edge_s_leftovers_go_and_all_else_stays(place: Path) -> None:
    outside = place / "outside"
    outside.mkdir()
    (place / "edge-simplify-abc").mkdir()
    (place / "edge-mine").mkdir()
    (place / "edge-scratch-link").symlink_to(outside)
    (place / "edge-scratch-fresh").mkdir()
    for name in ("edge-simplify-abc", "edge-mine", "outside"):
        aged(place / name)
    with Scratch("sim"):
        pass
    assert sorted(path.name for path in place.iterdir()) == [
        "edge-mine", "edge-scratch-fresh", "edge-scratch-link", "outside",
    ]  # fmt: skip


def test_it_goes_with_the_interpreter(place: Path) -> None:
    code = "from edge.scratch import Scratch; kept = Scratch('sim'); print(kept.path.is_dir())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert wait_for(lambda: list(place.iterdir()) == [])
