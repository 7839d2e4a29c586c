"""Load specs by name, from a YAML, or derive one from the user's ONNX."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cattrs
from attrs import evolve, fields, frozen
from cattrs import transform_error

from edge.errors import SpecError, UsageError
from edge.files import data_dir, read_yaml, write_text
from edge.foreign import foreign
from edge.specs.schema import OWN_FILES, Compiler, ModelSpec, Precision, Preprocess

if TYPE_CHECKING:
    import yaml

T = TypeVar("T")

_converter = cattrs.Converter(forbid_extra_keys=True)
_LITERAL = re.compile(r"unknown error \((.+) not in literal typing\.Literal\[(.+)\]\)")
# How to write values that the schema's types do not explain.
_FORMS = {
    "preprocess.crop": "crop: two whole numbers, [height, width], such as [224, 224]",
    "preprocess.resize": "resize: a whole number of pixels, or null, which stretches",
    "preprocess.letterbox": "letterbox: corner, center, or null",
    "preprocess.fill": "fill: a grey level, 0..255",
    "preprocess.mean": "mean: three numbers in 0..255, such as [123.675, 116.28, 103.53]",
    "preprocess.std": "std: three numbers in 0..255 above 0, such as [58.395, 57.12, 57.375]",
}
_YAML = (".yaml", ".yml")
SEARCHED = "recipe.yaml"  # a recipe found outside a checkout, in the model's build folder
_NAMED_LABELS = ("imagenet", "demo")


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


@frozen
class ModelFile:
    """A model and where it was read."""

    spec: ModelSpec  #: the model; its paths are resolved.
    path: Path  #: its YAML.
    shipped: bool  #: whether it is one of edge's own zoo.
    #: keys that the YAML leaves to the schema's defaults: those of ``preprocess``, in order, ``labels``, ``classes``.
    assumed: tuple[str, ...]


def zoo_dir() -> Path:
    """Return the folder of the model YAMLs."""
    return Path(__file__).resolve().parent.parent / "zoo"


def _files() -> dict[str, Path]:
    """Return name -> YAML of every model: ours, and those of the folders in EDGE_ZOO, which come first."""
    own = [Path(folder).expanduser() for folder in os.environ.get("EDGE_ZOO", "").split(os.pathsep) if folder]
    for folder in own:
        if not folder.is_dir():
            raise UsageError(
                f"EDGE_ZOO names {folder}, which is not a folder",
                expected=f"folders of model YAMLs, separated by '{os.pathsep}'",
            )
    return {path.stem: path for folder in (zoo_dir(), *reversed(own)) for path in sorted(folder.glob("*.yaml"))}


def available_models() -> list[str]:
    """Return the names of the zoo's models and of those in EDGE_ZOO, sorted.

    Raises:
        UsageError: EDGE_ZOO names something that is not a folder.
    """
    return sorted(_files())


def is_shipped(name: str) -> bool:
    """Tell whether a model of edge's own zoo has this name, in upper or lower case."""
    return name.lower() in {path.stem.lower() for path in zoo_dir().glob("*.yaml")}


def beside(spec: ModelSpec, folder: Path) -> ModelSpec:
    """Return a spec with its paths resolved; its YAML in ``folder`` names files relative to that folder.

    These are the user's own network, a file of class names, and a recipe given by its path.
    """

    def found(value: str) -> str:
        return str(folder / Path(value).expanduser())

    named = {kind: value for kind in OWN_FILES if (value := getattr(spec.sources, kind)) is not None}
    changes: dict[str, Any] = {}
    if named:
        changes["sources"] = evolve(spec.sources, **{kind: found(value) for kind, value in named.items()})
    if spec.labels is not None and spec.labels not in _NAMED_LABELS:
        changes["labels"] = found(spec.labels)
    if Path(spec.precision).suffix in _YAML:
        changes["precision"] = found(spec.precision)
    return evolve(spec, **changes) if changes else spec


def load_model(name: str) -> ModelSpec:
    """Return the spec of :func:`read_model`, with the same errors."""
    return read_model(name).spec


def read_model(name: str) -> ModelFile:
    """Load a model by zoo name or by path of a YAML with the same schema.

    A YAML that names a user's model file must state mean and std, which no such file holds. Its classes and their
    names are unknown unless it states them; a model of the zoo has ImageNet's.

    Args:
        name: such as ``ConvNeXt_atto`` or ``my/model.yaml``.

    Raises:
        UsageError: no such model; the message names close ones.
        SpecError: the YAML breaks the schema.
    """
    path = Path(name)
    if path.suffix in _YAML:
        return _read_model(path)
    files = _files()
    known = {model.lower(): model for model in files}
    if name.lower() in known:
        path = files[known[name.lower()]]
        found = _read_model(path)
        if found.spec.name != path.stem:
            raise SpecError(f"{path}: name {found.spec.name!r}", expected=f"{path.stem!r}, the name of the file")
        return found
    import difflib

    if Path(name).is_file() and (other := foreign(Path(name))):
        raise UsageError(
            f"{name} {other.what}",
            expected="an .onnx, a TorchScript .pt, or a model's .yaml",
            remedy=other.remedy or None,
        )
    close = difflib.get_close_matches(name.lower(), known, n=4, cutoff=0.5)
    hint = f"edge build {known[close[0]]}" if close else "edge models"
    names = ", ".join(known[match] for match in close)
    listed = f"the names that edge models lists{f' ({names}, …)' if close else ''}"
    raise UsageError(f"unknown model {name!r}", expected=f"{listed}; or a path ending in .onnx or .yaml", remedy=hint)


def load_precision(name: str) -> Precision:
    """Load a precision recipe by name (``mapper_yaml/precision``) or by path.

    Raises:
        SpecError: no such recipe, or it breaks the schema.
    """
    path = Path(name)
    if path.suffix not in _YAML:
        folder = data_dir("mapper_yaml") / "precision"
        path = folder / f"{name}.yaml"
        if not path.is_file():
            names = sorted(p.stem for p in folder.glob("*.yaml"))
            raise SpecError(
                f"there is no precision recipe {name!r}", expected=", ".join(names) + "; or a path of a YAML"
            )
    data = _mapping(path)
    if type(groups := data.get("range_split")) is int:
        data["range_split"] = {"groups": groups}
    return _structured(data, path, Precision)


def is_searched(path: Path) -> bool:
    """Tell whether a file is a recipe that ``edge tune`` found: only those carry evidence.

    Raises:
        SpecError: the file exists and breaks the schema.
    """
    return path.is_file() and load_precision(str(path)).evidence is not None


def recipe_place(model: str, folder: Path) -> Path:
    """Return where a model's own recipe belongs: in a checkout beside the others, else in its build folder.

    A shared recipe that happens to have the model's name, such as ``convnext``, is left alone.

    Raises:
        SpecError: a file of that name breaks the schema.
    """
    recipes = data_dir("mapper_yaml") / "precision"
    in_checkout = (recipes.parent.parent / "pyproject.toml").is_file()
    shared = recipes / f"{model}.yaml"
    if in_checkout and os.access(recipes, os.W_OK) and (not shared.exists() or is_searched(shared)):
        return shared
    return folder / SEARCHED


def save_precision(path: Path, precision: Precision) -> None:
    """Write a recipe, whole or not at all; :func:`load_precision` reads it back as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, precision_text(precision))


def precision_text(precision: Precision) -> str:
    """Return a recipe as YAML, defaults left out: a line for each node and each figure of its evidence."""
    data: dict[str, Any] = cattrs.unstructure(precision)
    data["rewrites"] = list(precision.rewrites)
    if precision.range_split:
        data["range_split"]["places"] = list(precision.range_split.places)
    data["nodes"] = {node: _said(setting, None) for node, setting in data["nodes"].items()}
    data["calibration"] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in _said(data["calibration"], None, (), [], False).items()
    }
    if precision.compiler == Compiler():
        del data["compiler"]
    data["evidence"] = data["evidence"] and _said(data["evidence"], None)
    return "".join(
        _dumped({key: value}, None)
        if value and key in ("nodes", "evidence")
        else f"{key}: {_dumped(value, True)}"  # quoted where YAML 1.1 needs it: a bare ``on`` is true
        for key, value in _said(data, "", None, []).items()
    )


def _dumped(value: object, flow: bool | None) -> str:
    """Return YAML, on one line if ``flow``; if it is None, only collections without nested ones are on one line."""
    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=flow, width=10**9, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n")


def _said(data: Mapping[str, Any], *defaults: object) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value not in defaults}


def _read_model(path: Path) -> ModelFile:
    data = _mapping(path)
    sources = data.get("sources")
    own = isinstance(sources, dict) and any(sources.get(kind) is not None for kind in OWN_FILES)
    if own:
        data = {"labels": None, "classes": None, **data}
    spec = _structured(data, path, ModelSpec)
    stated = data.get("preprocess", {})
    assumed = tuple(item.name for item in fields(Preprocess) if item.name not in stated)
    missing = [key for key in ("mean", "std") if key in assumed]
    if own and missing:
        raise SpecError(
            f"{path.name}: preprocess lacks {' and '.join(missing)}, which the network's file does not tell",
            expected="values in 0..255, one per channel: the network sees (x - mean) / std",
            remedy="under preprocess: mean: [123.675, 116.28, 103.53] and std: [58.395, 57.12, 57.375]   "
            "(these are ImageNet's; use those of your training)",
        )
    assumed += tuple(key for key in ("labels", "classes") if key not in data)
    folder = path.parent.resolve()
    return ModelFile(beside(spec, folder), path, folder == zoo_dir(), assumed)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        data = read_yaml(path, _loader())
    except FileNotFoundError:
        raise SpecError(f"{path} does not exist", expected="a path of a YAML") from None
    except (OSError, ValueError) as error:
        raise SpecError(
            f"{path} can't be read: {error}", expected="YAML in UTF-8: a mapping of keys, each given once"
        ) from error
    if not isinstance(data, dict):
        raise SpecError(f"{path} holds {type(data).__name__}", expected="a mapping of keys to values")
    if strange := next(_no_text(data), None):
        raise SpecError(f"{path}: the key {strange[0]!r} is not text", expected=f"'{strange[0]}', in quotes")
    if {"model_parameters", "input_parameters"} <= data.keys():
        raise SpecError(
            f"{path} is hb_mapper's own YAML",
            expected="a model YAML or a precision recipe of edge",
            remedy=f"edge import {path}   writes them from it",
        )
    data.setdefault("name", path.stem)
    return data


def _no_text(data: object) -> Iterator[tuple[object]]:
    """Yield the keys that YAML takes for numbers, dates or nothing, at any depth."""
    if isinstance(data, dict):
        for key, value in data.items():
            if not isinstance(key, str):
                yield (key,)
            yield from _no_text(value)
    elif isinstance(data, list):
        for value in data:
            yield from _no_text(value)


def _structured(data: dict[str, Any], path: Path, kind: type[T]) -> T:
    try:
        return _converter.structure(data, kind)
    except cattrs.BaseValidationError as error:
        for spec_error in _leaves(error):
            raise SpecError(f"{path.name}: {spec_error.seen}", expected=spec_error.expected) from None
        problems = "; ".join(transform_error(error, path=path.name))
        problems = _LITERAL.sub(r"\1 is none of \2", problems)
        forms = [form for key, form in _FORMS.items() if f"@ {path.name}.{key}" in problems]
        raise SpecError(
            f"{path} breaks the schema: {problems}",
            expected="; ".join(forms) or None,
            remedy=f"compare with a file in {'mapper_yaml/precision' if kind is Precision else 'edge/zoo'}",
        ) from None


@cache
def _loader() -> type[yaml.SafeLoader]:
    """Return a safe loader whose only booleans are true and false: ``on`` is a key of recipes."""
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.1 without its other booleans."""

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
