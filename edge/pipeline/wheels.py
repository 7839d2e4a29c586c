"""edge itself for the board, as one ``wheels.zip``: its own wheel and those that it needs beside numpy and OpenCV."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from io import BytesIO
from pathlib import Path

import edge
from edge.errors import DownloadError, InstallError
from edge.files import data_dir, disk_errors
from edge.toolchain.managed import cache_dir
from edge.toolchain.process import last_line

PYTHON = "3.10"  # of the board's image
REQUIREMENTS = "requirements.txt"
DATA = ("mapper_yaml", "calibration", "notebooks")
LOCK = Path(__file__).with_name("board.lock")  # requirements/README.md says how it is made
LEFT_OUT = (".pyc", ".onnx")  # the demo's weights are 7 MB, and nothing is built on a board
_EPOCH = (1980, 1, 1, 0, 0, 0)  # so that the same edge gives the same bytes


def wheels_zip(python: str = PYTHON) -> bytes:
    """Return the archive; ``requirements.txt`` in it names each wheel with its sha256.

    Raises:
        DownloadError: the package index can't be reached, or lacks a wheel.
        InstallError: this Python has no pip, or edge was not installed.
    """
    lock = LOCK.read_text(encoding="utf-8")
    files = _fetched(lock, python)
    name, data = own_wheel()
    version = name.split("-")[1]
    text = f"edge=={version} --hash=sha256:{hashlib.sha256(data).hexdigest()}\n{lock}"
    return _zip({name: data, **files, REQUIREMENTS: text.encode()}, zipfile.ZIP_STORED)


def own_wheel() -> tuple[str, bytes]:
    """Return name and content of edge's own wheel, made of the files that run now; nothing is built or fetched."""
    package = Path(edge.__file__).resolve().parent
    try:
        installed = distribution("edge")
        about = {name: installed.read_text(name) or "" for name in ("METADATA", "entry_points.txt")}
        version = installed.version
    except PackageNotFoundError:
        raise InstallError(
            "edge runs from a folder without being installed", remedy="scripts/setup.sh, or pip install DIR"
        ) from None
    files = _tree(package, "edge")
    for name in DATA:
        files |= _tree(data_dir(name), f"edge/_data/{name}")
    info = f"edge-{version}.dist-info"
    wheel = "Wheel-Version: 1.0\nGenerator: edge\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files |= {f"{info}/{name}": text.encode() for name, text in {**about, "WHEEL": wheel}.items()}
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in sorted(files.items()))
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return f"edge-{version}-py3-none-any.whl", _zip(files, zipfile.ZIP_DEFLATED)


def _tree(folder: Path, under: str) -> dict[str, bytes]:
    return {
        f"{under}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in LEFT_OUT
    }


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _zip(files: Mapping[str, bytes], method: int) -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type, entry.external_attr = method, 0o644 << 16
            archive.writestr(entry, data)
    return packed.getvalue()


def _fetched(lock: str, python: str) -> dict[str, bytes]:
    """Return the wheels that a lock file names, from the cache or by pip, which compares their hashes."""
    folder = cache_dir() / "board_wheels" / f"{hashlib.sha256(lock.encode()).hexdigest()[:12]}-{python}"
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        with disk_errors(cache_dir(), "EDGE_CACHE"):
            partial.mkdir(parents=True, exist_ok=True)
        try:
            _download(partial, python)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.replace(folder)
    return {path.name: path.read_bytes() for path in folder.glob("*.whl")}


def _download(folder: Path, python: str) -> None:
    options = [
        "--require-hashes",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={python}",
    ]
    platforms = [f"--platform=manylinux{glibc}_aarch64" for glibc in ("2014", "_2_17", "_2_28")]
    argv = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", *options, *platforms]
    argv += ["-r", str(data_dir("requirements") / LOCK), "-d", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL)
    if "No module named pip" in done.stderr:
        raise InstallError(f"{sys.executable} has no pip", remedy=f"{sys.executable} -m ensurepip, then edge bundle")
    if done.returncode:
        raise DownloadError(
            f"the board's Python packages can't be fetched: {last_line(done.stderr)}",
            expected="a package index within reach, once; later bundles take them from the cache",
            remedy="check the network and pip's index settings (pip config list), or edge bundle MODEL --no-wheels",
        )
