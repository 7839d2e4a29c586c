"""Peak memory of a program and its children, as a build records it."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from edge.toolchain import process
from edge.toolchain.found import Toolchain

MIB = 1 << 20
HOLD = "import sys, time; block = bytearray({n}); block[::4096] = b'x' * len(block[::4096]); {then}"


def held(n: int, then: str = "time.sleep(1)") -> str:
    return HOLD.format(n=n, then=then)


def peak_of(code: str) -> float:
    done = process.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == 0, done.tail
    assert done.peak_memory is not None
    return done.peak_memory / MIB


def test_a_programs_memory_is_seen() -> None:
    empty = peak_of("import time; time.sleep(0.6)")
    assert 0 < empty < 60
    assert 140 < peak_of(held(150 * MIB)) - empty < 170


def test_children_count_too() -> None:
    child = f"subprocess.run([sys.executable, '-c', {held(100 * MIB)!r}], check=True)"
    assert 190 < peak_of("import subprocess\n" + held(100 * MIB, child)) < 260


def test_pages_that_a_fork_shares_count_once() -> None:
    fork = "os.fork() or time.sleep(1.5); time.sleep(1)"
    assert 150 < peak_of("import os\n" + held(150 * MIB, fork)) < 230


def test_memory_given_back_still_counts() -> None:
    assert peak_of(held(200 * MIB, "block = None; time.sleep(1)")) > 200


def test_without_proc_there_is_no_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "no"))
    assert process.run([sys.executable, "-c", "pass"], timeout=60).peak_memory is None


def test_a_containers_client_is_not_the_compiler(tmp_path: Path, program: object) -> None:
    program("docker", "sleep 0.5")  # type: ignore[operator]
    done = Toolchain("docker", "image", python=None).run(["hb_mapper"], cwd=tmp_path, timeout=30)
    assert done.returncode == 0
    assert done.peak_memory is None
