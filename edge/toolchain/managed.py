"""Where the managed environment lies, and whether it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from attrs import frozen
from platformdirs import user_cache_dir

from edge.toolchain.found import Toolchain
from edge.toolchain.python310 import WANTED

MARKER = "complete.json"
LOCK_FILE = "rdkx5-py310.lock"
CACHE_VARIABLE = "EDGE_CACHE"

# Name in results -> the file that states it, relative to site-packages; reading it beats a 5-second start.
VERSION_FILES = {
    "hb_mapper": "horizon_tc_ui/version.py",
    "hbdk": "hbdk/__init__.py",
    "horizon_nn": "hmct/version.py",
}
_VERSION = re.compile(r"^__version__\s*=\s*r?[\"']([^\"']+)", re.MULTILINE)


@frozen
class Place:
    """The managed environment that this version of edge wants.

    Attributes:
        folder: its folder, whether or not it is there.
        digest: 16 hex digits of the lock file and the Python version.
    """

    folder: Path
    digest: str

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


def lock_file() -> Path:
    """Return the list of pinned packages."""
    return Path(__file__).resolve().parent / LOCK_FILE


def place() -> Place:
    """Return the folder named after the lock file's content, shared by checkouts that have the same one."""
    digest = hashlib.sha256(lock_file().read_bytes() + f"python{WANTED[0]}.{WANTED[1]}".encode())
    name = digest.hexdigest()[:16]
    return Place(cache_dir() / "toolchain" / name, name)


def why_unusable(where: Place) -> str:
    """Return why the environment can't be used; empty when it is whole."""
    if not where.folder.is_dir():
        return "not installed"
    if not (where.folder / MARKER).is_file():
        return f"an install into {where.folder} was interrupted"
    if not where.python.exists():  # follows the link to the Python it was made from
        return "the Python 3.10 that it was made from is gone"
    if not (where.bin / "hb_mapper").is_file():
        return f"{where.bin}/hb_mapper is gone"
    return ""


def toolchain(where: Place) -> Toolchain:
    """Return the environment at ``where`` as a compiler."""
    try:
        versions = dict(json.loads((where.folder / MARKER).read_text(encoding="utf-8"))["versions"])
    except (OSError, ValueError, KeyError, TypeError):
        versions = read_versions(where.site_packages)
    said = " ".join(f"{name} {versions[name]}" for name in sorted(versions))
    return Toolchain(
        kind="managed",
        where=str(where.bin),
        versions=versions,
        identity=f"{said} lock {where.digest}",
        python=str(where.python),
    )


def read_versions(site_packages: Path) -> dict[str, str]:
    """Read the tools' versions from their own files, without starting them."""
    versions = {}
    for name, file in VERSION_FILES.items():
        try:
            text = (site_packages / file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if match := _VERSION.search(text):
            versions[name] = match[1]
    return versions
