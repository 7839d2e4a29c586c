"""Find the data folders that users read: ``mapper_yaml/``, ``calibration/`` and ``notebooks/``."""

from __future__ import annotations

from pathlib import Path

from edge.errors import EdgeError


def data_dir(name: str) -> Path:
    """Return the folder ``name``, in the checkout or, once installed, inside the wheel.

    Args:
        name: ``mapper_yaml``, ``calibration`` or ``notebooks``.

    Raises:
        EdgeError: neither place holds it (a broken installation).
    """
    package = Path(__file__).resolve().parent
    for candidate in (package.parent / name, package / "_data" / name):
        if candidate.is_dir():
            return candidate
    raise EdgeError(
        f"the data folder {name}/ is missing from this installation",
        remedy="reinstall edge: pip install --force-reinstall edge",
    )
