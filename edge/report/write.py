"""Put the documents of a report where they belong: into the build folder, or beside a page elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from edge.errors import ModelFileError, WorkspaceError
from edge.files import disk_errors, read_json, require_no_link, require_ours, write_json, write_text
from edge.folder.built import MANIFEST, Built
from edge.folder.workspace import MARKER
from edge.report.gather import OWN_FILES


def write_beside(page_path: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write the texts under the page's name with their own endings; return the paths, the page's first.

    Args:
        page_path: of the page, such as ``comparison.html``.
        texts: file name -> text; of the names only the endings count.

    Raises:
        WorkspaceError: the folder can't be written.
        ModelFileError: the folder does not exist.
    """
    if not page_path.parent.is_dir():
        raise ModelFileError(f"{page_path.parent} is no folder", remedy=f"mkdir -p {page_path.parent}")
    paths = {name: page_path.with_suffix(Path(name).suffix) for name in _page_first(texts)}
    # Of Markdown and JSON the page tells whose they are.
    for path in paths.values() if not page_path.exists() else (page_path,):
        require_ours(path, '<meta name="generator" content="edge ')
    with disk_errors(page_path.parent):
        for name, path in paths.items():
            write_text(path, texts[name])
    return list(paths.values())


def write_into(built: Built, texts: Mapping[str, str]) -> list[Path]:
    """Write the texts into the build folder, and their sizes and hashes into its manifest; return the paths.

    A kill in between leaves a manifest that lists none of them, never one that lists other bytes.

    Args:
        texts: file name -> text, of ``OWN_FILES``.

    Raises:
        WorkspaceError: the folder can't be written, or holds another build by now.
    """
    with disk_errors(built.folder):
        if (built.folder / MARKER).exists():
            require_no_link(built.folder / ".lock")
            with FileLock(built.folder / ".lock"):  # an edge build may be publishing
                _write(built, texts)
        else:
            _write(built, texts)
    return [built.folder / name for name in _page_first(texts)]


def _page_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: not name.endswith(".html"))


def _write(built: Built, texts: Mapping[str, str]) -> None:
    folder = built.folder
    manifest = read_json(folder / MANIFEST)
    others = _others(manifest)
    if others != _others(built.manifest):
        raise WorkspaceError(f"{folder} was built anew meanwhile", remedy=f"edge report {folder}")
    listed = [*others, *(_entry(role, name, texts[name]) for role, name in OWN_FILES.items())]
    same = all(_holds(folder / name, text) for name, text in texts.items())
    if same and listed == manifest["artifacts"]:
        return
    write_json(folder / MANIFEST, {**manifest, "artifacts": others})
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / MANIFEST, {**manifest, "artifacts": listed})


def _others(manifest: Mapping[str, Any]) -> list[Any]:
    return [entry for entry in manifest["artifacts"] if entry["role"] not in OWN_FILES]


def _entry(role: str, name: str, text: str) -> dict[str, object]:
    data = text.encode()
    return {"role": role, "path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False
