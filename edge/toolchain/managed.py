"""The environments that edge installs and keeps: what each is, where it lies, and whether it is complete."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen
from platformdirs import user_cache_dir

from edge.toolchain.found import Toolchain
from edge.toolchain.python310 import WANTED

MARKER = "complete.json"
CACHE_VARIABLE = "EDGE_CACHE"

_VERSION = re.compile(r"^__version__\s*=\s*r?[\"']([^\"']+)", re.MULTILINE)


@frozen
class Environment:
    """One environment, pinned by a lock file, in its own folder of the cache."""

    name: str  #: its name on the command line.
    title: str  #: what messages call it.
    folder: str  #: where it lies in the cache.
    lock: str  #: name of its lock file, beside this module.
    needed_bytes: int  #: free space that an install needs, including downloads.
    size: str  #: its size in words, shown before an install.
    install: str  #: the command that installs it.
    elsewhere: str  #: what to do on a machine that it is not available for.
    #: name in results -> file that states the version, relative to site-packages; empty if :attr:`distributions` say
    #: it.
    version_files: Mapping[str, str] = field(factory=dict)
    distributions: tuple[str, ...] = ()  #: packages whose versions are reported.
    programs: tuple[str, ...] = ()  #: what must be in its bin folder.
    modules: tuple[str, ...] = ()  #: what must be in its site-packages.
    verify: tuple[tuple[str, ...], ...] = ()  #: commands that must end with status 0 before it counts as complete.
    offline: str = ""  #: what to do without a network, besides trying again.


COMPILER = Environment(
    name="compiler",
    title="the vendor's compiler",
    folder="toolchain",
    lock="rdkx5-py310.lock",
    needed_bytes=8 * 10**9,  # measured: 4.2 GB installed and 2.5 GB of downloads
    size="about 4.2 GB",
    install="edge toolchain install",
    elsewhere="use the vendor's Docker image (--compiler docker), a Linux PC, or --compiler onnxruntime",
    # Reading these files saves a start of 5 seconds.
    version_files={
        "hb_mapper": "horizon_tc_ui/version.py",
        "hbdk": "hbdk/__init__.py",
        "horizon_nn": "hmct/version.py",
    },
    programs=("hb_mapper",),
    verify=(
        ("hb_mapper", "--version"),
        ("hbdk-cc", "--version"),
        ("python", "-c", "import horizon_tc_ui, horizon_nn, hmct, hbdk, onnx, onnxruntime, torch, torchvision, timm"),
    ),
    offline="or --compiler onnxruntime, which needs no compiler",
)


def _framework(name: str, *, distributions: tuple[str, ...], imports: str, **told: Any) -> Environment:
    return Environment(
        name=name,
        folder=name,
        lock=f"{name}-py310.lock",
        install=f"edge toolchain install {name}",
        distributions=distributions,
        verify=(("python", "-c", f"import {imports}"),),
        **told,
    )


PADDLE = _framework(
    "paddle",
    title="PaddlePaddle",
    needed_bytes=2 * 10**9,  # measured: 0.9 GB installed and 0.25 GB of downloads
    size="about 0.9 GB, 0.25 GB of it downloaded",
    elsewhere="where Paddle runs: paddle2onnx --model_dir DIR --model_filename inference.json "
    "--params_filename inference.pdiparams --opset_version 11 --save_file model.onnx; "
    "then here: edge build model.onnx",
    distributions=("paddlepaddle", "paddle2onnx"),
    modules=("paddle/__init__.py", "paddle2onnx/__init__.py"),
    imports="paddle, paddle2onnx, onnx",
)

MINDSPORE = _framework(
    "mindspore",
    title="MindSpore",
    needed_bytes=5 * 10**9,  # measured: 2.5 GB installed and 0.85 GB of downloads
    size="about 2.5 GB, 0.85 GB of it downloaded",
    elsewhere='where MindSpore runs: python -c "import mindspore as ms, numpy as np; ms.export(NET, '
    "ms.Tensor(np.zeros((1, 3, 224, 224), np.float32)), file_name='model', file_format='ONNX')\"; "
    "then here: edge build model.onnx",
    distributions=("mindspore", "mindcv"),
    modules=("mindspore/__init__.py", "mindcv/__init__.py"),
    imports="mindspore, mindcv",
)

FRAMEWORKS: Mapping[str, Environment] = {env.name: env for env in (PADDLE, MINDSPORE)}
ENVIRONMENTS: Mapping[str, Environment] = {env.name: env for env in (COMPILER, PADDLE, MINDSPORE)}


@frozen
class Place:
    """Where this version of edge expects a managed environment."""

    folder: Path  #: its folder, whether or not it is there.
    digest: str  #: 16 hex digits of the lock file and the Python version.
    environment: Environment = COMPILER  #: what it is.

    @property
    def bin(self) -> Path:
        """Its programs."""
        return self.folder / "bin"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.bin / "python"

    @property
    def site_packages(self) -> Path:
        """Its packages."""
        return self.folder / "lib" / f"python{WANTED[0]}.{WANTED[1]}" / "site-packages"


def cache_dir() -> Path:
    """Return edge's cache: EDGE_CACHE, else the user's cache folder."""
    value = os.environ.get(CACHE_VARIABLE)
    return Path(value).expanduser().resolve() if value else Path(user_cache_dir("edge"))


def lock_file(environment: Environment = COMPILER) -> Path:
    """Return the list of an environment's pinned packages."""
    return Path(__file__).resolve().parent / environment.lock


def place(environment: Environment = COMPILER) -> Place:
    """Return the folder named after the lock file's content, shared by checkouts that have the same one."""
    digest = hashlib.sha256(lock_file(environment).read_bytes() + f"python{WANTED[0]}.{WANTED[1]}".encode())
    name = digest.hexdigest()[:16]
    return Place(cache_dir() / environment.folder / name, name, environment)


def why_unusable(where: Place) -> str:
    """Return why the environment can't be used; empty when it is complete."""
    if not where.folder.is_dir():
        return "not installed"
    if not (where.folder / MARKER).is_file():
        return f"an install into {where.folder} was interrupted"
    if not where.python.exists():  # follows the link to the Python it was made from
        return "the Python 3.10 that it was made from is gone"
    needed = [where.bin / name for name in where.environment.programs]
    needed += [where.site_packages / name for name in where.environment.modules]
    for path in needed:
        if not path.is_file():
            return f"{path} is gone"
    return ""


def toolchain(where: Place) -> Toolchain:
    """Return the environment at ``where``, ready to run: as a compiler, or just as a Python with packages."""
    try:
        versions = dict(json.loads((where.folder / MARKER).read_text(encoding="utf-8"))["versions"])
    except (OSError, ValueError, KeyError, TypeError):
        versions = read_versions(where)
    said = " ".join(f"{name} {versions[name]}" for name in sorted(versions))
    return Toolchain(
        kind="managed",
        where=str(where.bin),
        versions=versions,
        identity=f"{said} lock {where.digest}",
        python=str(where.python),
    )


def read_versions(where: Place) -> dict[str, str]:
    """Read the versions of what an environment is for from its own files, without starting it."""
    versions = {}
    for name, file in where.environment.version_files.items():
        try:
            text = (where.site_packages / file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if match := _VERSION.search(text):
            versions[name] = match[1]
    for name in where.environment.distributions:
        for folder in sorted(where.site_packages.glob(f"{name}-*.dist-info")):
            versions[name] = folder.name.removesuffix(".dist-info").rpartition("-")[2]
    return versions
