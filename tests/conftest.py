"""Fixtures that several tests share."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import psutil
import pytest
from attrs import frozen
from filelock import FileLock
from onnx import TensorProto, helper

from edge.cli import main
from edge.errors import ToolchainMissing
from edge.toolchain.find import find
from edge.toolchain.found import Toolchain
from edge.toolchain.install import install, require_platform

Run = Callable[..., tuple[int, str, str]]

FAKES = Path(__file__).resolve().parent / "fakes"


LONGEST = ("test_readme.py", "test_frameworks.py", "test_tune.py")  # minutes each


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that several workers end at about the same time."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


BROWSER = (
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, closed before the next module: while Playwright is open the thread can run no other event loop."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")
    arguments = [*BROWSER, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Undo an ignored Ctrl-C, which a suite started in the background and its children inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_wheels_are_fetched() -> Iterator[None]:
    """Give bundles a stand-in for the board's Python packages; ``test_wheels.py`` is about the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge.pipeline.bundle.wheels_zip", lambda: b"wheels")
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Data beside the checkout, too large for the repository."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip(f"no data folder at {path.name}/ beside the checkout")
    return path


@pytest.fixture(scope="session")
def toolchain() -> Toolchain:
    """The vendor's real compiler, installed when it is not there yet."""
    if os.environ.get("EDGE_SKIP_COMPILER"):
        pytest.skip("EDGE_SKIP_COMPILER is set")
    try:
        return find("managed")
    except ToolchainMissing:
        pass
    try:
        require_platform()
    except ToolchainMissing as error:
        pytest.skip(error.seen)
    return install()  # on a platform that can, a failing install is a failing test


@pytest.fixture(scope="session")
def mobilenet(tmp_path_factory: pytest.TempPathFactory, shared: Path, toolchain: Toolchain) -> Path:
    """The build folder of a trained MobileNet, measured on 500 photographs; takes a minute or two, once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "mobilenet"
    argv = [
        sys.executable, "-m", "edge", "build", str(shared / "models/mobilenet_v1_0.75_224_float.onnx"),
        "--mean", "127.5", "--std", "127.5", "--color", "rgb", "--resize", "256", "--crop", "224",
        "--images", str(shared / "data/imagenet_val_500"), "--calib", str(shared / "data/imagenet_train_128"),
        "--level", "O0", "--build-dir", str(folder),
    ]  # fmt: skip
    with FileLock(folder.with_suffix(".lock")):  # several workers may ask for it
        if not (folder / "complete").exists():
            folder.mkdir(exist_ok=True)
            done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            (folder / "complete").touch()
    return folder / "mobilenet_v1_0.75_224_float"


@frozen
class FakeCompiler:
    """A scripted hb_mapper, first on PATH."""

    bin: Path
    script: Path

    @property
    def toolchain(self) -> Toolchain:
        return find("path")

    def mode(self, mode: str) -> None:
        self.script.write_text(mode + "\n")

    def pids(self) -> list[int]:
        """Process ids of a hanging fake and its child."""
        file = Path(f"{self.script}.pids")
        return [int(item) for item in file.read_text().split()] if file.exists() else []


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return a function that puts a shell script of that name first on PATH."""
    folder = tmp_path / "fake-bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(name: str, body: str) -> Path:
        path = folder / name
        path.write_text("#!/bin/sh\n" + body + "\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


@pytest.fixture
def fake_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Callable[[str, str], Path]) -> FakeCompiler:
    """A fake hb_mapper, and no managed install; set its behaviour with ``mode(...)``."""
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "no-cache"))
    script = tmp_path / "fake-mode"
    monkeypatch.setenv("FAKE_HB_MAPPER", str(script))
    path = program("hb_mapper", f'exec "{sys.executable}" "{FAKES}/fake_hb_mapper.py" "$@"')
    fake = FakeCompiler(path.parent, script)
    fake.mode("ok")
    return fake


@pytest.fixture
def edge(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in an empty folder; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(stop.value.code or 0), out, err

    return run


def save_net(
    path: Path, shape: tuple[int | str, ...] = (1, 3, 64, 64), dtype: int = TensorProto.FLOAT, weight: float = 1.0
) -> Path:
    """Save a small classifier with the given input shape."""
    channel = 1 if shape[1] == 3 else len(shape) - 1
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="head"),
    ]
    size = shape[channel] if isinstance(shape[channel], int) else 3
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (shape[0], 4))],
        [onnx.numpy_helper.from_array(np.full((size, 4), weight, np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


def save_images(folder: Path, n: int, size: int = 80, seed: int = 0) -> Path:
    """Save n coloured noise images in class folders 0..3."""
    rng = np.random.default_rng(seed)
    for index in range(n):
        path = folder / str(index % 4) / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        base = rng.integers(0, 256, 3)
        noise = rng.integers(-40, 40, (size, size, 3))
        cv2.imwrite(str(path), np.clip(base + noise, 0, 255).astype(np.uint8))
    return folder


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())
