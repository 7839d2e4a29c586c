"""Whether a network's classes are ImageNet's, in ImageNet's order; with a wrong order Top-1 is meaningless."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge.errors import counted
from edge.images.find import IMAGENET_CLASSES, class_names, imagenet

if TYPE_CHECKING:
    import onnx

KEYS = ("names", "classes", "class_names", "labels", "categories")  # of an ONNX's metadata
# Spellings differ between lists of the same classes, so a part of the names need not match.
_SAME, _KNOWN = 0.95, 0.8
_SYNSET = re.compile(r"n\d{8}\b")


def names_in(model: onnx.ModelProto) -> tuple[str, ...] | None:
    """Return the class names in an ONNX's metadata, in index order; None if there are none.

    Known forms: a list or a mapping of index to name, as JSON or Python, and one name per line.
    """
    found = {entry.key.lower(): entry.value for entry in model.metadata_props}
    text = next((found[key] for key in KEYS if found.get(key)), None)
    if text is None:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(value, dict):
        try:
            value = [value[key] for key in sorted(value, key=int)]
        except (TypeError, ValueError):
            return None
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) and value else None


def notes_on_classes(model: onnx.ModelProto, classes: int, labels: str | None) -> tuple[str, ...]:
    """Return notes for the user on the order of a network's classes; reads the file of names, if any.

    Args:
        model: the float network, whose metadata may name its classes.
        classes: number of scores.
        labels: the spec's labels: ``imagenet``, ``demo``, a path, or None.

    Raises:
        LabelError: the file of names can't be read, or has another number of names.
    """
    if labels == "demo":
        return ()
    given = () if labels in (None, "imagenet") else class_names(labels, classes) or ()
    if classes != IMAGENET_CLASSES:
        return ()
    if not given:
        inside = names_in(model)
        if inside is not None:
            verdict = against_imagenet(inside)
            return (f"class names inside the file: {verdict}",) if verdict else ()
        if labels is None:
            return (
                "1000 classes without names: whether they are in ImageNet's order is not known; "
                "name them with --labels FILE, or labels in the model's YAML (imagenet if they are)",
            )
        return ()
    verdict = against_imagenet(given)
    return (f"class names of {labels}: {verdict}",) if verdict else ()


def against_imagenet(names: Sequence[str]) -> str:
    """Return how a list of 1000 class names differs from ImageNet's; '' if it does not."""
    known = [(synset, _spellings(text)) for synset, text in imagenet().items()]
    if len(names) != len(known):
        return f"{counted(len(names), 'name')} for {counted(len(known), 'class')}"
    own = [(_synset(name), _spellings(name)) for name in names]
    same = [s == k or bool(mine & words) for (s, mine), (k, words) in zip(own, known, strict=True)]
    if sum(same) >= _SAME * len(known):
        return ""
    synsets = {synset for synset, _ in known}
    words = {word for _, spellings in known for word in spellings}
    recognised = sum(s in synsets or bool(mine & words) for s, mine in own)
    if recognised < _KNOWN * len(known):
        return f"1000 classes that are NOT ImageNet's: class 0 is {names[0]!r}"
    first = same.index(False)
    theirs = list(imagenet().values())[first]
    return (
        f"ImageNet's classes, but NOT in ImageNet's order: class {first} is {names[first]!r}, "
        f"ImageNet's is {theirs.split(', ')[0]!r}; labels of images must use this network's order"
    )


def _synset(name: str) -> str | None:
    found = _SYNSET.match(name.strip())
    return found.group() if found else None


def _spellings(text: str) -> frozenset[str]:
    text = _SYNSET.sub("", text.lower())
    parts = (re.sub(r"[^a-z0-9]+", " ", part).strip() for part in text.split(","))
    return frozenset(part for part in parts if part)
