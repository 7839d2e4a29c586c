"""``wheels.zip`` of a bundle: edge's own wheel, those that it needs on the board, and their hashes."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge.errors import DownloadError, InstallError
from edge.pipeline import wheels
from edge.pipeline.wheels import LOCK, own_wheel, wheels_zip


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A pip that finds two wheels; the list holds its calls."""
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    calls: list[list[str]] = []

    def run(argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(argv)
        folder = Path(argv[argv.index("-d") + 1])
        for name in ("attrs-1-py3-none-any.whl", "pyyaml-1-cp310-cp310-manylinux2014_aarch64.whl"):
            (folder / name).write_bytes(name.encode())
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(wheels.subprocess, "run", run)
    return calls


def test_the_archive_holds_the_wheels_and_their_hashes(index: list[list[str]]) -> None:
    data = wheels_zip()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert files["attrs-1-py3-none-any.whl"] == b"attrs-1-py3-none-any.whl"
    lines = files["requirements.txt"].decode()
    (own,) = (name for name in files if name.startswith("edge-"))
    assert f"--hash=sha256:{hashlib.sha256(files[own]).hexdigest()}" in lines.splitlines()[0]
    assert lines.endswith(LOCK.read_text())
    assert {"--require-hashes", "--no-deps", "--python-version=3.10", "--only-binary=:all:"} <= set(index[0])
    assert wheels_zip() == data
    assert len(index) == 1  # the second comes from the cache


def test_the_lock_has_hashes_and_neither_numpy_nor_opencv() -> None:
    names = re.findall(r"^([\w.-]+)==", LOCK.read_text(), re.MULTILINE)
    assert {"attrs", "cattrs", "click", "exceptiongroup", "filelock", "platformdirs", "pyyaml", "rich"} <= set(names)
    assert not {"numpy", "opencv-python"} & set(names)
    assert LOCK.read_text().count("--hash=sha256:") >= len(names)


@pytest.mark.parametrize(
    ("said", "error", "remedy"),
    [
        ("ERROR: Could not find a version that satisfies the requirement attrs==26.1.0", DownloadError, "--no-wheels"),
        ("/usr/bin/python3: No module named pip", InstallError, "ensurepip"),
    ],
)
def test_no_index_within_reach(
    index: list[list[str]], monkeypatch: pytest.MonkeyPatch, said: str, error: type[Exception], remedy: str
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", f"WARNING: retrying\n{said}\n")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(error) as caught:
        wheels_zip()
    assert remedy in str(caught.value)
    monkeypatch.undo()


def test_a_failed_download_leaves_nothing_that_counts(index: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setattr(wheels.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "no route"))
        with pytest.raises(DownloadError, match="no route"):
            wheels_zip()
    wheels_zip()
    assert len(index) == 1


def test_edges_own_wheel_is_installed_by_pip_and_runs(tmp_path: Path) -> None:
    name, data = own_wheel()
    assert own_wheel()[1] == data
    (tmp_path / name).write_bytes(data)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(tmp_path / "lib")]
    subprocess.run([*pip, str(tmp_path / name)], check=True, capture_output=True)
    code = (
        "import edge, edge.cli; from edge.files import data_dir; print(edge.__file__); print(data_dir('mapper_yaml'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "lib")},
        capture_output=True,
        text=True,
    )
    lib = str(tmp_path / "lib" / "edge")
    assert done.stdout.splitlines() == [f"{lib}/__init__.py", f"{lib}/_data/mapper_yaml"], done.stderr
    (info,) = (tmp_path / "lib").glob("edge-*.dist-info")
    assert "edge = edge.cli:main" in (info / "entry_points.txt").read_text()
    assert "Requires-Dist: attrs" in (info / "METADATA").read_text()
