"""Rules on groups, keys and the types of values: what the mapper's schema refuses or misreads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from edge.mapper.document import Document, Hit, has_type
from edge.mapper.schema import GROUPS, REQUIRED_GROUPS, REQUIRED_KEYS, Key

# Their items may not hold a comma either, but their numbers are separated by one at will.
NUMBER_LISTS = ("mean_value", "scale_value")


def unknown_group(doc: Document) -> Iterator[Hit]:
    """One unknown group fails the whole file."""
    for name in doc.data:
        if name not in GROUPS:
            hint = did_you_mean(str(name), GROUPS)
            yield Hit(f"group {name!r}", hint or ", ".join(GROUPS), doc.line(str(name)))


def missing_group(doc: Document) -> Iterator[Hit]:
    """Two groups have no default."""
    for name in REQUIRED_GROUPS:
        if name not in doc.data:
            yield Hit(f"no group {name}", f"{name}: with {', '.join(REQUIRED_KEYS[name])}")


def group_is_mapping(doc: Document) -> Iterator[Hit]:
    """A group holds keys."""
    for name, value in doc.data.items():
        if name in GROUPS and not isinstance(value, dict):
            yield Hit(f"{name}: {value!r}", "a mapping of keys to values; or leave it out", doc.line(name))


def unknown_key(doc: Document) -> Iterator[Hit]:
    """One unknown key fails the whole file."""
    for group in GROUPS:
        for key in doc.group(group):
            if key in GROUPS[group]:
                continue
            home = next((other for other in GROUPS if key in GROUPS[other]), None)
            hint = f"{key} belongs in {home}" if home else did_you_mean(str(key), GROUPS[group])
            allowed = hint or ", ".join(GROUPS[group])
            yield Hit(f"{group}: unknown key {key!r}", allowed, doc.line(group, str(key)))


def duplicate_key(doc: Document) -> Iterator[Hit]:
    """YAML takes the last of two equal keys without a word."""
    for key, line in doc.duplicates:
        yield Hit(f"{key!r} is given twice", "once", line)


def missing_key(doc: Document) -> Iterator[Hit]:
    """Keys without a default."""
    for group, keys in REQUIRED_KEYS.items():
        if group not in doc.data:
            continue
        for key in keys:
            if key not in doc.group(group):
                yield Hit(f"{group}: no {key}", f"{key}: …", doc.line(group))
    if doc.calibrates() and "cal_data_dir" not in doc.group("calibration_parameters"):
        yield Hit(
            "calibration_parameters: no cal_data_dir",
            "cal_data_dir: a folder of raw files; only calibration_type load and skip do without",
            doc.line("calibration_parameters"),
        )


def value_type(doc: Document) -> Iterator[Hit]:
    """The mapper takes text, a number, true/false or a mapping, each only where it expects it."""
    for group, key, value, rule in _known(doc):
        if value is not None and not has_type(value, rule.types):
            allowed = " or ".join(_type_name(kind) for kind in rule.types)
            hint = f", quoted: {key}: '{value}'" if _quotes_help(value, rule) else ""
            seen = f"{key}: {value!r} is {_type_name(type(value))}"
            yield Hit(seen, allowed + hint, doc.line(group, key))


def empty_value(doc: Document) -> Iterator[Hit]:
    """An empty value fails, or becomes the text 'None'."""
    for group, key, value, _ in _known(doc):
        if value is None or (isinstance(value, str) and not value.strip()):
            yield Hit(f"{key}: has no value", f"a value, or no {key} at all", doc.line(group, key))


def choice(doc: Document) -> Iterator[Hit]:
    """Values from a list."""
    for group, key, _, rule in _known(doc):
        if not rule.choices:
            continue
        items = [doc.text(group, key)] if rule.each == "one" else doc.items(group, key)
        for item in items:
            # A comma has its own rule, which says what is wrong.
            if item and item not in rule.choices and "," not in item:
                yield Hit(f"{key}: {item!r}", ", ".join(rule.choices), doc.line(group, key))


def separator(doc: Document) -> Iterator[Hit]:
    """The mapper splits lists at ';' only, and reads a comma as part of a name, without a word."""
    for group, key, _, rule in _known(doc):
        if rule.each == "one" or key in NUMBER_LISTS:
            continue
        text = doc.text(group, key)
        if "," in text:
            fixed = ";".join(part.strip() for part in text.split(","))
            wanted = text.replace(",", "x") if key == "input_shape" else fixed
            yield Hit(f"{key}: {text!r}", f"'{wanted}'", doc.line(group, key))


def item_count(doc: Document) -> Iterator[Hit]:
    """A list that goes by inputs has an item for each, and no item is empty."""
    for group, key, _, rule in _known(doc):
        if rule.each != "inputs":
            continue
        items = doc.items(group, key)
        if items and len(items) != doc.inputs:
            yield Hit(
                f"{key}: {len(items)} items for {doc.inputs} input(s)",
                f"{doc.inputs}, separated by ';', in the order of input_name",
                doc.line(group, key),
            )
        if "" in items and key not in NUMBER_LISTS:
            yield Hit(f"{key}: an empty item in {doc.text(group, key)!r}", "a value", doc.line(group, key))


def deprecated_key(doc: Document) -> Iterator[Hit]:
    """Keys that the mapper ignores or is about to drop."""
    for group, key, value, rule in _known(doc):
        if rule.use_instead and value is not False:
            yield Hit(f"{key} is deprecated", f"instead: {rule.use_instead}", doc.line(group, key))


def _known(doc: Document) -> Iterator[tuple[str, str, object, Key]]:
    for group, keys in GROUPS.items():
        for key, value in doc.group(group).items():
            if key in keys:
                yield group, key, value, keys[key]


def _quotes_help(value: object, rule: Key) -> bool:
    return str in rule.types and isinstance(value, bool | int | float)


def _type_name(kind: type) -> str:
    names = {str: "text", bool: "true/false", int: "a whole number", float: "a number", dict: "a mapping"}
    return names.get(kind, kind.__name__)


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return 'did you mean …' with the closest known name, or None."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]}?" if close else None
