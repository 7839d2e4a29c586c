"""The chosen recipe as a YAML, with what it rests on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cattrs

from edge.atomic import write_text
from edge.resources import data_dir
from edge.specs import Precision, is_searched

IN_BUILD = "recipe.yaml"


def place(model: str, folder: Path) -> Path:
    """Return where a model's recipe belongs: with the others in a checkout, else in its build folder.

    A shared recipe that happens to have the model's name, such as ``convnext``, is left alone.

    Raises:
        SpecError: a file of that name breaks the schema.
    """
    recipes = data_dir("mapper_yaml") / "precision"
    in_checkout = (recipes.parent.parent / "pyproject.toml").is_file()
    shared = recipes / f"{model}.yaml"
    if in_checkout and os.access(recipes, os.W_OK) and (not shared.exists() or is_searched(shared)):
        return shared
    return folder / IN_BUILD


def write(path: Path, precision: Precision) -> None:
    """Write a recipe, whole or not at all; :func:`edge.specs.load_precision` reads it back as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text(precision))


def text(precision: Precision) -> str:
    """Return a recipe as YAML, defaults left out."""
    data = {key: value for key, value in _plain(precision).items() if value not in ("", None, [])}
    lines = []
    for key, value in data.items():
        if key == "nodes" and value:
            lines.append("nodes:")
            lines += [f"  {_flow(node)}: {_flow(setting)}" for node, setting in value.items()]
        elif key == "evidence":
            lines.append("evidence:")
            lines += [f"  {name}: {_flow(item)}" for name, item in value.items() if item is not None]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _plain(precision: Precision) -> dict[str, Any]:
    data: dict[str, Any] = cattrs.unstructure(precision)
    data["rewrites"] = list(precision.rewrites)
    data["nodes"] = {
        node: {key: value for key, value in setting.items() if value is not None}
        for node, setting in data["nodes"].items()
    }
    data["calibration"] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in data["calibration"].items()
        if value not in (None, (), [], False)
    }
    return data


def _flow(value: object) -> str:
    """Return a value as YAML on one line. ``on`` is quoted, since YAML 1.1 has it for true."""
    import yaml

    text: str = yaml.safe_dump(
        value, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")
