"""The runtime on a bare board: Python 3.10 with the base dependencies alone, oldest and newest."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.errors import InstallError
from edge.runtime import load
from edge.toolchain.python310 import find_python310, uv_program
from tests.fabricated import save_photo
from tests.fake_board import FOLDER, board_build, fake_bin, plug_in, store_answer

ROOT = Path(__file__).resolve().parent.parent
# What `import edge.runtime` and a run on the board may load beyond the standard library.
LIGHT = {"attr", "attrs", "cattrs", "cv2", "edge", "numpy", "exceptiongroup", "typing_extensions"}
RUN = """
import json, sys
import edge.runtime
at_import = sorted({name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
with edge.runtime.load(sys.argv[1]) as net:
    best = net.classify(sys.argv[2])
after = sorted({name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
print(json.dumps({"backend": net.backend, "best": best, "at_import": at_import, "after": after}))
"""


@pytest.fixture(scope="module", params=["lowest-direct", "highest"])
def bare_python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python 3.10 with the base dependencies: the oldest that are allowed, or the newest."""
    uv = uv_program()
    if uv is None:
        pytest.skip("uv is not installed")
    try:
        python = find_python310(download=False).path
    except InstallError as error:
        pytest.skip(error.seen.splitlines()[0])
    folder = tmp_path_factory.mktemp("bare") / "venv"
    needs = [line for line in importlib.metadata.requires("edge") or [] if "extra ==" not in line]
    assert any(line.startswith("numpy") for line in needs)
    subprocess.run([uv, "venv", "--quiet", "--python", str(python), str(folder)], check=True)
    bare = folder / "bin" / "python"
    done = subprocess.run(
        [uv, "pip", "install", "--quiet", "--resolution", request.param, "--python", str(bare), *needs],
        capture_output=True,
        text=True,
        env={"UV_HTTP_TIMEOUT": "20", "UV_HTTP_RETRIES": "1", **os.environ},
        check=False,
    )
    if done.returncode:
        pytest.skip(f"the base dependencies can't be installed: {done.stderr.strip().splitlines()[-1]}")
    return bare


def on_the_board(python: Path, tmp_path: Path, *arguments: str | Path, code: str = RUN, fakes: bool = True) -> str:
    """Run ``code`` with every warning an error, in an empty folder, with no compiler in reach."""
    path = os.pathsep.join([str(ROOT), *([str(FOLDER)] if fakes else [])])
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "EDGE_CACHE": str(tmp_path), "PYTHONPATH": path}
    done = subprocess.run(
        [str(python), "-W", "error", "-B", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
        check=False,
    )
    return done.stdout if done.returncode == 0 else done.stderr


def heavy(packages: list[str]) -> set[str]:
    """Those that are not light; numpy's Cython registers names of its own."""
    return {name for name in packages if "cython" not in name} - LIGHT - {"__main__", "__mp_main__"}


def test_a_image_is_classified_with_the_base_dependencies_alone(
    bare_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = board_build(tmp_path / "net", fake_bin())
    store_answer(build)
    photo = save_photo(tmp_path / "p.png")
    said = json.loads(on_the_board(bare_python, tmp_path, build, photo))
    assert said["backend"] == "hbm_runtime"
    assert heavy(said["at_import"]) == set()
    assert heavy(said["after"]) == set()  # the vendor's modules are in a process of their own
    plug_in(monkeypatch, ["hbm_runtime"])
    with load(build, backend="hbm_runtime") as net:
        wanted = net.classify(photo)
    assert [label for label, _ in said["best"]] == [label for label, _ in wanted]
    assert [chance for _, chance in said["best"]] == pytest.approx([chance for _, chance in wanted])


def test_a_uint8_below_its_zero_point_does_not_wrap(bare_python: Path, tmp_path: Path) -> None:
    code = """
import numpy as np
from edge.runtime.quantization import dequantizer
print(dequantizer("y", (1,), "uint8", scale=[0.5], zero_point=[10])(np.array([4], np.uint8)).tolist())
"""
    assert on_the_board(bare_python, tmp_path, code=code) == "[-3.0]\n"


def test_a_bare_machine_is_told_what_each_backend_lacks(bare_python: Path, tmp_path: Path) -> None:
    build = board_build(tmp_path / "net", fake_bin())
    said = on_the_board(bare_python, tmp_path, build, "p.png", fakes=False)
    assert "edge.errors.BackendMissing: nothing on this machine can run net" in said
    assert "hbm_runtime: no Python module hbm_runtime" in said
    assert "portable: onnxruntime is not installed" in said


def test_a_heavy_package_is_seen(tmp_path: Path) -> None:
    """The gate can fail: with the portable model, onnxruntime comes along when the program is opened."""
    build = board_build(tmp_path / "net", fake_bin())
    photo = save_photo(tmp_path / "p.png")
    said = json.loads(on_the_board(Path(sys.executable), tmp_path, build, photo, fakes=False))
    assert said["backend"] == "portable"
    assert "onnxruntime" in heavy(said["after"])
    assert "onnxruntime" not in heavy(said["at_import"])
