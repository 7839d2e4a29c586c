"""``eval.json`` and ``diagnosis.json`` of a build: read, and left out where they speak of other files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import cattrs

from edge.built import Built
from edge.report.contents import Flag

T = TypeVar("T")


def read_sidecar(
    path: Path, built: Built, kind: type[T], version: int, command: str
) -> tuple[T | None, Flag | None]:
    """Read one of the files.

    Args:
        path: of the file.
        built: the build folder that it has to speak of.
        kind: the class that it holds; it has ``models``, role -> sha256 of what was measured.
        version: its schema.
        command: that makes the file anew.

    Returns:
        What it holds, None if it is not there or not to be used; and why not, None if nothing is to be said.
    """
    name = path.name
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema_version"] != version:
            return None, _stale(name, f"is of schema {data['schema_version']}, not {version}", command)
        found = cattrs.structure(data, kind)
        changed = _changed(data["models"], built)
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, cattrs.BaseValidationError) as error:
        return None, _stale(name, f"can't be read ({type(error).__name__})", command)
    if changed:
        return None, _stale(name, f"speaks of another {', '.join(changed)} than this build holds", command)
    return found, None


def _changed(models: Mapping[str, Any], built: Built) -> list[str]:
    """Return the roles whose file is not the one that was measured."""
    if not models:
        return ["program"]
    return sorted(role for role, digest in models.items() if built.sha256.get(role) != digest)


def _stale(name: str, why: str, command: str) -> Flag:
    return Flag("stale", f"{name} is left out", f"{name} {why}.", command)
