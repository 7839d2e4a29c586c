"""The worker processes: their protocol, and what happens when one fails."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from edge.errors import ToolchainError
from edge.simulate import vendor as quantized
from edge.simulate.vendor import QuantizedPool
from edge.toolchain.found import Toolchain

HELLO = """import json, sys
outputs = [{"name": "y", "shape": [1, 2], "dtype": "float32"}]
print(json.dumps({"input": "x", "height": 4, "width": 4, "outputs": outputs}), flush=True)
"""
ECHO = """import array
while True:
    data = sys.stdin.buffer.read(24)
    if not data:
        break
    sys.stdout.buffer.write(array.array("f", [data[0], data[16]]).tobytes())
    sys.stdout.buffer.flush()
"""
RGB = np.full((4, 4, 3), 200, np.uint8)


def worker(tmp_path: Path, code: str) -> Toolchain:
    """A compiler whose Python runs ``code`` whatever script it is given."""
    (tmp_path / "worker.py").write_text(code)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/worker.py"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return Toolchain("path", str(tmp_path), python=str(python))


def test_images_go_out_as_nv12_and_scores_come_back(tmp_path: Path) -> None:
    with QuantizedPool(worker(tmp_path, HELLO + ECHO), tmp_path / "m.onnx", 2) as pool:
        for _ in range(5):
            assert pool(RGB).tolist() == [200, 128]  # grey: luma as it is, chroma in the middle


def test_a_image_of_another_size_is_refused(tmp_path: Path) -> None:
    large = np.zeros((8, 8, 3), np.uint8)
    toolchain = worker(tmp_path, HELLO + ECHO)
    with QuantizedPool(toolchain, tmp_path / "m.onnx", 1) as pool, pytest.raises(ToolchainError, match="bytes"):
        pool(large)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys\nsys.exit('no such library')\n", "no such library"),
        ('print(\'{"error": "ValueError: bad model"}\')\n', "bad model"),
        (HELLO + "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "-9"),
        (HELLO + "sys.stdin.buffer.read(24)\nsys.stdout.buffer.write(b'abc')\n", "ended"),
        ("print('Welcome!')\n", "Welcome!"),
    ],
)
def test_a_failing_worker_is_told(tmp_path: Path, code: str, says: str) -> None:
    toolchain = worker(tmp_path, code)
    with pytest.raises(ToolchainError) as caught, QuantizedPool(toolchain, tmp_path / "m.onnx", 1) as pool:
        pool(RGB)
    assert says in str(caught.value)


def test_a_silent_worker_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "ANSWER_SECONDS", 0.5)
    toolchain = worker(tmp_path, HELLO + "import time\ntime.sleep(600)\n")
    stopped = pytest.raises(ToolchainError, match="stopped answering")
    with stopped, QuantizedPool(toolchain, tmp_path / "m.onnx", 1) as pool:
        pool(RGB)


def test_without_the_compilers_python_the_remedy_is_told(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="not known") as caught:
        QuantizedPool(Toolchain("path", str(tmp_path)), tmp_path / "m.onnx", 1)
    assert "edge toolchain install" in str(caught.value)


def test_scores_that_were_left_as_integers_are_refused(tmp_path: Path) -> None:
    toolchain = worker(tmp_path, HELLO.replace("float32", "int32") + ECHO)
    with pytest.raises(ToolchainError, match="its Dequantize nodes were removed"):
        QuantizedPool(toolchain, tmp_path / "m.onnx", 2)
