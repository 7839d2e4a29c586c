"""Where the managed environments lie, and whether each is whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from attrs import frozen
from platformdirs import user_cache_dir

from edge.toolchain.environments import COMPILER, Environment
from edge.toolchain.found import Toolchain
from edge.toolchain.python310 import WANTED

MARKER = "complete.json"
CACHE_VARIABLE = "EDGE_CACHE"

_VERSION = re.compile(r"^__version__\s*=\s*r?[\"']([^\"']+)", re.MULTILINE)


@frozen
class Place:
    """Where this version of edge wants a managed environment.

    Attributes:
        folder: its folder, whether or not it is there.
        digest: 16 hex digits of the lock file and the Python version.
        environment: what it is.
    """

    folder: Path
    digest: str
    environment: Environment = COMPILER

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
    """Return why the environment can't be used; empty when it is whole."""
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
