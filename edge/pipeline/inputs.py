"""The inputs of a stage, and the part of its cache key that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import cattrs
import cv2
from attrs import frozen

from edge.folder.workspace import FileOf
from edge.images import ImageSet
from edge.toolchain.found import Toolchain


@frozen
class Inputs:
    """The inputs of a stage."""

    #: everything that its result depends on, as JSON: parameters, hashes of files, versions of packages.
    key: Mapping[str, object]
    #: makes the keyword arguments of its work; called only if the work must be done.
    arguments: Callable[[], Mapping[str, Any]]


@frozen
class Keyed:
    """An argument with another value in the key; with None it is not in the key."""

    value: Any
    key: object = None


def given(*packages: str, also: Mapping[str, object] | None = None, **arguments: Any) -> Inputs:
    """Return arguments with the key that follows from them.

    A file of a stage counts as its hash, a compiler as its identity, images as their fingerprint.
    """
    key = {name: _key_of(value) for name, value in arguments.items()}
    kept = {name: value for name, value in key.items() if value is not None}
    values = {name: _value_of(value) for name, value in arguments.items()}
    return Inputs({**kept, **(also or {}), **versions(*packages)}, lambda: values)


def _key_of(value: Any) -> object:
    if isinstance(value, Keyed):
        return value.key
    if isinstance(value, FileOf):
        return value.sha256
    if isinstance(value, Toolchain):
        return value.identity
    if isinstance(value, ImageSet):
        return value.fingerprint
    return cattrs.unstructure(value)


def _value_of(value: Any) -> Any:
    if isinstance(value, Keyed):
        return value.value
    return value.path if isinstance(value, FileOf) else value


def versions(*packages: str) -> dict[str, dict[str, str]]:
    """Return the installed version of each package, for cache keys.

    They are nested under one key, since an input may also be called ``onnx``.
    """
    # OpenCV has several packages: take the installed one.
    found = {name: cv2.__version__ if name == "opencv" else version(name) for name in packages}
    return {"versions": found} if found else {}
