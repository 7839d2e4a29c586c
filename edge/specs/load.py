"""Load specs by name, from a YAML, or derive one from the user's ONNX."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import cattrs
from attrs import evolve
from cattrs import transform_error

from edge.errors import SpecError, UsageError
from edge.resources import data_dir
from edge.specs.schema import OWN_FILES, ModelSpec, Precision

if TYPE_CHECKING:
    import yaml

T = TypeVar("T")

_converter = cattrs.Converter(forbid_extra_keys=True)
_LITERAL = re.compile(r"unknown error \((.+) not in literal typing\.Literal\[(.+)\]\)")


def _strict(kind: type) -> Callable[[object, type], object]:
    def structure(value: object, _: type) -> object:
        # bool is an int to Python; `jobs: true` is still a mistake.
        good = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not good:
            raise TypeError(f"{value!r} is not of type {kind.__name__}")
        return value

    return structure


for _kind in (str, int, float, bool):
    _converter.register_structure_hook(_kind, _strict(_kind))


def zoo_dir() -> Path:
    """Return the folder of the model YAMLs."""
    return Path(__file__).resolve().parent.parent / "zoo"


def _files() -> dict[str, Path]:
    """Return name -> YAML of every model: ours, and those of the folders in EDGE_ZOO, which come first."""
    own = [Path(folder).expanduser() for folder in os.environ.get("EDGE_ZOO", "").split(os.pathsep) if folder]
    for folder in own:
        if not folder.is_dir():
            raise UsageError(
                f"EDGE_ZOO names {folder}, which is no folder",
                allowed=f"folders of model YAMLs, separated by '{os.pathsep}'",
            )
    return {
        path.stem: path for folder in (zoo_dir(), *reversed(own)) for path in sorted(folder.glob("*.yaml"))
    }


def available_models() -> list[str]:
    """Return the names of the zoo's models and of those in EDGE_ZOO, sorted.

    Raises:
        UsageError: EDGE_ZOO names something that is no folder.
    """
    return sorted(_files())


def beside(spec: ModelSpec, folder: Path) -> ModelSpec:
    """Return a spec whose own files are found: its YAML names them relative to the folder it lies in."""
    found = {
        kind: str(folder / value) for kind in OWN_FILES if (value := getattr(spec.sources, kind)) is not None
    }
    return evolve(spec, sources=evolve(spec.sources, **found)) if found else spec


def load_model(name: str) -> ModelSpec:
    """Load a model by zoo name or by path of a YAML with the same schema.

    Args:
        name: such as ``ConvNeXt_atto`` or ``my/model.yaml``.

    Raises:
        UsageError: no such model; the message names close ones.
        SpecError: the YAML breaks the schema.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        return _from_yaml(path, ModelSpec)
    files = _files()
    known = {model.lower(): model for model in files}
    if name.lower() in known:
        path = files[known[name.lower()]]
        spec = _from_yaml(path, ModelSpec)
        if spec.name != path.stem:
            raise SpecError(f"{path}: name {spec.name!r}", allowed=f"{path.stem!r}, as the file is called")
        # Asked for by name, from whatever folder: its files lie beside the YAML.
        return beside(spec, path.parent.resolve())
    import difflib

    close = difflib.get_close_matches(name.lower(), known, n=4, cutoff=0.5)
    hint = f"edge build {known[close[0]]}" if close else "edge models"
    names = ", ".join(known[match] for match in close)
    listed = f"the names that edge models lists{f' ({names}, …)' if close else ''}"
    raise UsageError(
        f"no model is called {name!r}",
        allowed=f"{listed}; or a path ending in .onnx or .yaml",
        remedy=hint,
    )


def load_precision(name: str) -> Precision:
    """Load a precision recipe by name (``mapper_yaml/precision``) or by path.

    Raises:
        SpecError: no such recipe, or it breaks the schema.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        folder = data_dir("mapper_yaml") / "precision"
        path = folder / f"{name}.yaml"
        if not path.is_file():
            names = sorted(p.stem for p in folder.glob("*.yaml"))
            raise SpecError(
                f"no precision recipe is called {name!r}", allowed=", ".join(names) + "; or a path of a YAML"
            )
    return _from_yaml(path, Precision)


def is_searched(path: Path) -> bool:
    """Tell whether a file is a recipe that ``edge tune`` found: those carry evidence, the shared ones none.

    Raises:
        SpecError: it is there and breaks the schema.
    """
    return path.is_file() and load_precision(str(path)).evidence is not None


def _from_yaml(path: Path, kind: type[T]) -> T:
    import yaml  # not at import: a board that runs a program reads none

    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _loader())  # noqa: S506 - a safe loader
    except FileNotFoundError:
        raise SpecError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} can't be read: {error}") from error
    except yaml.YAMLError as error:
        raise SpecError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise SpecError(f"{path} holds {type(data).__name__}", allowed="a mapping of keys to values")
    data.setdefault("name", path.stem)
    try:
        return _converter.structure(data, kind)
    except cattrs.BaseValidationError as error:
        for spec_error in _leaves(error):
            raise SpecError(f"{path.name}: {spec_error.seen}", allowed=spec_error.allowed) from None
        problems = "; ".join(transform_error(error, path=path.name))
        problems = _LITERAL.sub(r"\1 is none of \2", problems)
        raise SpecError(
            f"{path} breaks the schema: {problems}",
            remedy="compare with a file in edge/zoo or mapper_yaml/precision",
        ) from None


@cache
def _loader() -> type[yaml.SafeLoader]:
    """Return a safe loader to which only true and false are truth values: ``on`` is a key of recipes."""
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.1, but for its other truth values."""

    Loader.yaml_implicit_resolvers = {
        first: [
            (tag, re.compile("true|false", re.IGNORECASE) if tag.endswith(":bool") else pattern)
            for tag, pattern in resolvers
            if not tag.endswith(":bool") or first in "tTfF"
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader


def _leaves(error: BaseException) -> list[SpecError]:
    if isinstance(error, SpecError):
        return [error]
    return [leaf for child in getattr(error, "exceptions", ()) for leaf in _leaves(child)]
