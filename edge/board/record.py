"""Keep what was measured on a board in the build's ``manifest.json``, under ``board``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from edge.atomic import disk_errors, write_json
from edge.errors import WorkspaceError
from edge.workspace import MANIFEST, MARKER


def read_manifest(root: Path) -> dict[str, Any] | None:
    """Return the manifest of a build folder; None where there is none, as in a bundle.

    Raises:
        WorkspaceError: it is there and can't be read.
    """
    path = root / MANIFEST
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkspaceError(f"{path} can't be read: {error}", remedy="edge build writes it anew") from error
    if not isinstance(content, dict):
        raise WorkspaceError(f"{path} holds no manifest", remedy="edge build writes it anew")
    return content


def record(root: Path, sha256: str, entries: Mapping[str, object]) -> bool:
    """Put entries under ``board``, and leave everything else as it is.

    Figures of another ``.bin`` under ``board`` are dropped: they say nothing about this one.

    Args:
        root: the build folder.
        sha256: of the ``.bin`` that was measured.
        entries: such as ``perf`` or ``accuracy``.

    Returns:
        Whether there is a manifest to write into.

    Raises:
        WorkspaceError: the manifest can't be read or written.
    """
    if not (root / MANIFEST).is_file():
        return False
    if not (root / MARKER).exists():
        return _write(root, sha256, entries)
    with disk_errors(root), FileLock(root / ".lock"):  # an edge build may be publishing
        return _write(root, sha256, entries)


def _write(root: Path, sha256: str, entries: Mapping[str, object]) -> bool:
    manifest = read_manifest(root)
    if manifest is None:
        return False
    old = manifest.get("board")
    kept = old if isinstance(old, dict) and old.get("bin_sha256") == sha256 else {}
    with disk_errors(root):
        write_json(root / MANIFEST, {**manifest, "board": {**kept, "bin_sha256": sha256, **entries}})
    return True
