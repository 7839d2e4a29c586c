"""``edge selftest``: one verdict, on the machine where the program runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.fake_board import board_build, plug_in, store_answer


@pytest.fixture
def on_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle's folder on a machine that looks like a board."""
    root = tmp_path / "system"
    for path, text in (("etc/version", "3.5.0"), ("sys/class/boardinfo/soc_name", "x5")):
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text(text)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uname").write_text("#!/bin/sh\necho aarch64\n")
    (tmp_path / "bin/uname").chmod(0o755)
    monkeypatch.setenv("EDGE_BOARD_ROOT", str(root))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr("edge.board.findings.program_versions", lambda _: None)
    return board_build(tmp_path / "net")


def test_pass(edge: Run, on_a_board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_answer(on_a_board)
    plug_in(monkeypatch)
    code, out, err = edge("selftest", str(on_a_board))
    assert code == 0, err
    assert "✓ architecture aarch64" in out
    assert "✓ backend      hbm_runtime (libdnn 1.24.5" in out
    assert "✓ answer       the stored answer, in " in out
    assert out.splitlines()[-1] == "PASS: net runs on this board's BPU and gives the answer that was built with it"
    _, out, _ = edge("selftest", str(on_a_board), "--json")
    assert json.loads(out)["passed"] is True


def test_a_wrong_answer_fails(edge: Run, on_a_board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_answer(on_a_board, change=1e-6)
    plug_in(monkeypatch, ["hobot_dnn"])
    code, out, err = edge("selftest", str(on_a_board))
    assert code == 1
    assert "✗ backend      no BPU: " in out
    assert "hobot_dnn (hobot_dnn) answers the test image of net wrongly: 1 of 4 values" in out
    assert err == "error: FAIL: net: backend\n"
    monkeypatch.setenv("EDGE_ANY_ANSWER", "1")  # the way out is none for the verdict
    code, out, _ = edge("selftest", str(on_a_board))
    assert code == 1
    assert "✗ answer       1 of 4 values of output 0 differ" in out


def test_a_pc_is_no_board(edge: Run, on_a_board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_answer(on_a_board)
    plug_in(monkeypatch, [])
    (on_a_board.parent / "bin/uname").unlink()
    code, out, err = edge("selftest", str(on_a_board), "--json")
    assert code == 1
    told = json.loads(out)
    assert told["passed"] is False
    assert "FAIL: net: architecture, backend" in err
    assert "no Python module hbm_runtime" in next(one["seen"] for one in told["findings"] if one["name"] == "backend")


def test_nothing_to_compare_with_is_no_pass(edge: Run, on_a_board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, ["hobot_dnn"])
    monkeypatch.setattr("edge.runtime.answer._from_portable", lambda _: None)
    code, out, _ = edge("selftest", str(on_a_board))
    assert code == 1
    assert "no answer to compare with" in out
