"""The preprocessing and classes that a model's source declares, and the spec made from them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from edge.errors import InputError, UsageError, WorkspaceError
from edge.files import write_text
from edge.images.find import IMAGENET_CLASSES
from edge.sources.class_order import against_imagenet
from edge.specs import ModelSpec, Preprocess, Sources, load_precision
from edge.specs.schema import CROP_SHARE
from edge.toolchain.managed import CACHE_VARIABLE, cache_dir

NEEDED = ("mean", "std", "crop")
_KEYS = ("crop", "resize", "interpolation", "color", "mean", "std", "layout", "letterbox", "fill")
_INDEX = re.compile(r"(\d+)\s*[:,\s]\s*(.+)")


@frozen
class Declared:
    """The values that a configuration states; others are left out."""

    origin: str = ""  #: its name in messages, such as ``inference.yml``; empty if there is none.
    values: Mapping[str, Any] = field(factory=dict)  #: of :class:`edge.specs.Preprocess`, in its units.
    classes: int | None = None  #: number of classes.
    names: tuple[str, ...] | None = None  #: of the classes, in index order.
    model: str | None = None  #: the network's name.
    notes: tuple[str, ...] = ()  #: on values that could not be used unchanged.


def spec_of(
    declared: Declared,
    sources: Sources,
    changes: Mapping[str, Any],
    *,
    name: str,
    base: ModelSpec | None = None,
    example: str,
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return a spec from the source's values and the user's, and notes on it.

    Args:
        changes: keys of ``Preprocess`` that the user sets; they win.
        name: of the model, unless ``base`` has one.
        base: the zoo's model that it is meant to be; its preprocessing fills values that nobody states, and its
            recipe is used unless it names nodes.
        example: a command that states everything, for the message.

    Raises:
        UsageError: mean, std or size are stated nowhere.
        SpecError: a value is out of its range.
    """
    notes = list(declared.notes)
    notes += [
        f"--{key}: {_text(changes[key])} as you say, not {_text(own)} as {declared.origin} says"
        for key, own in sorted(declared.values.items())
        if key in changes and not _same(changes[key], own)
    ]
    stated = {**declared.values, **changes}
    resize, crop = declared.values.get("resize"), declared.values.get("crop")
    if resize and crop and "resize" not in changes and not _same(stated["crop"], crop):
        stated["resize"] = max(*stated["crop"], round(resize * max(stated["crop"]) / max(crop)))
        notes.append(f"--resize: {stated['resize']}, so that the crop keeps its share of the image")
    if base is not None:
        for key in sorted(declared.values.keys() - changes.keys()):
            own = getattr(base.preprocess, key)
            if not _same(own, declared.values[key]):
                notes.append(
                    f"{key}: {_text(declared.values[key])} as {declared.origin} says, not {_text(own)} as "
                    f"the zoo's {base.name}"
                )
        stated = {key: getattr(base.preprocess, key) for key in _KEYS} | stated
    unknown = f"{declared.origin} does not state it" if declared.origin else "it comes with no configuration"
    where = f"{name}: the preprocessing of its training is not known ({unknown})"
    require_stated(stated, NEEDED, where, example)
    stated.setdefault("resize", round(max(stated["crop"]) / CROP_SHARE))
    stated.setdefault("interpolation", "bilinear")
    labels, classes = None, declared.classes
    if declared.names is not None:
        labels = _labels(declared.names)
        classes = len(declared.names)
    precision = base.precision if base is not None else "int8"
    if load_precision(precision).nodes:
        notes.append(f"precision int8, not {precision}: that recipe names nodes, and this export has other names")
        precision = "int8"
    name = base.name if base is not None else plain(name)
    return (
        ModelSpec(
            name,
            sources,
            Preprocess(**stated),
            labels=labels,
            classes=classes,
            precision=precision,
            published=base.published if base is not None else None,
        ),
        tuple(notes),
    )


def require_stated(stated: Mapping[str, Any], needed: Sequence[str], seen: str, example: str) -> None:
    """Fail if keys of the preprocessing are stated nowhere.

    Args:
        needed: of ``NEEDED``.

    Raises:
        UsageError: one is missing.
    """
    missing = [f"--{key}" for key in needed if key not in stated]
    if missing:
        listed = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
        raise UsageError(
            f"{seen}: {listed} missing",
            expected="values in 0..255, one or one per channel"
            + ("; --crop: the input's size" if "crop" in needed else ""),
            remedy=example,
        )


def plain(name: str) -> str:
    """Return a name that can name files."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip("._-") or "model"


def names_of(text: str, origin: str) -> tuple[str, ...]:
    """Return class names in index order from lines of names, or of index and name.

    Raises:
        InputError: the indices are not 0 to n - 1.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [_INDEX.fullmatch(line) for line in lines]
    if not lines or any(match is None for match in found):
        return tuple(lines)
    by_index = {int(match[1]): match[2].strip() for match in found if match}
    if sorted(by_index) != list(range(len(lines))):
        raise InputError(
            f"{origin}: the class indices are not 0 to {len(lines) - 1}",
            expected="one line per class: its index and its name",
        )
    return tuple(by_index[index] for index in range(len(lines)))


def numbers(value: object, count: int, what: str, origin: str) -> tuple[float, ...]:
    """Return ``count`` numbers of a configuration; a single number stands for all.

    Raises:
        InputError: not one or ``count`` finite numbers.
    """
    items = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if len(items) == 1:
        items *= count
    try:
        found = tuple(number(item) for item in items)
    except (TypeError, ValueError, ZeroDivisionError):
        found = ()
    if len(found) != count or not all(map(math.isfinite, found)):
        raise InputError(f"{origin}: {what} is {value!r}", expected=f"one number or {count}")
    return found


def number(value: object) -> float:
    """Return a number, also one written as a quotient or a product, such as ``1.0/255.0``."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"{value!r} is not a number")
    if not isinstance(value, str):
        return float(value)
    first, *rest = re.split(r"([*/])", value)
    result = float(first)
    for sign, part in zip(rest[::2], rest[1::2], strict=True):
        result = result / float(part) if sign == "/" else result * float(part)
    return result


def _labels(names: tuple[str, ...]) -> str:
    """Return the spec's ``labels`` for these names: ``imagenet`` if they are ImageNet's, else a file of them."""
    if len(names) == IMAGENET_CLASSES and not against_imagenet(names):
        return "imagenet"
    text = "".join(f"{' '.join(name.split())}\n" for name in names)
    path = cache_dir() / "labels" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    except OSError as error:
        raise WorkspaceError(
            f"can't write the class names to {path}: {error.strerror}",
            remedy=f"free some space, or set {CACHE_VARIABLE} to a folder that you can write to",
        ) from error
    return str(path)


def _same(one: object, other: object) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(abs(a - b) <= 1e-3 for a, b in zip(one, other, strict=True))
    return one == other


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{item:g}" for item in value)
    return "stretch" if value is None else str(value)
