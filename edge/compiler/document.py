"""A mapper YAML as the rules see it: values read the compiler's way, and the line of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from attrs import frozen

from edge.compiler.schema import GROUPS, NO_DATA
from edge.files import MOST_YAML_VALUES, unfolded
from edge.graph.files import GraphFacts

if TYPE_CHECKING:
    import onnx

# group / key / node or input / setting
DEEPEST = 4


class Hit(NamedTuple):
    """What a rule found: the text seen, what would be right, the line from 1, and whether it can stay."""

    seen: str
    expected: str
    line: int | None = None
    harmless: bool = False


class Duplicate(NamedTuple):
    """A key given twice in one mapping: the line of the second, and whether both values are the same."""

    key: str
    line: int
    same: bool


@frozen(eq=False)
class Document:
    """A parsed YAML with the facts that the rules compare it with."""

    data: Mapping[str, Any]  #: group -> key -> value, as YAML gives them; nothing is checked yet.
    lines: Mapping[tuple[str, ...], int]  #: path of keys -> line, from 1.
    duplicates: Sequence[Duplicate]  #: keys given twice in one mapping.
    graph: GraphFacts | None = None  #: facts of the model, if known.
    model: onnx.ModelProto | None = None  #: the model, if at hand.
    calibration_files: Sequence[tuple[str, int]] | None = None  #: name and bytes, if known.
    base: Path | None = None  #: folder that relative paths start from; None looks up no path.

    def group(self, group: str) -> Mapping[Any, Any]:
        """Return a group; empty if it is missing or not a mapping."""
        value = self.data.get(group)
        return value if isinstance(value, dict) else {}

    def line(self, *path: str) -> int | None:
        """Return the line of a key, or of the nearest key above it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def value(self, group: str, key: str) -> Any:
        """Return a value of a type that the compiler takes; None if it is missing or of another type."""
        value = self.group(group).get(key)
        types = GROUPS[group][key].types
        return value if has_type(value, types) else None

    def text(self, group: str, key: str) -> str:
        """Return a value as text, '' if there is none."""
        value = self.value(group, key)
        return "" if value is None or isinstance(value, dict) else str(value)

    def items(self, group: str, key: str) -> list[str]:
        """Return the items of a ``;`` list as the compiler splits it; an item 'None' is empty."""
        text = self.text(group, key).replace("'", " ").replace('"', " ").strip()
        if not text:
            return []
        items = [item.strip() for item in text.removesuffix(";").split(";")]
        return ["" if item == "None" else item for item in items]

    @property
    def inputs(self) -> int:
        """Number of inputs: the model's, else what most of the lists say."""
        if self.graph is not None:
            return len(self.graph.all_inputs)
        return max(
            len(self.items("input_parameters", "input_name")), len(self.items("input_parameters", "input_type_rt")), 1
        )

    def item(self, group: str, key: str, index: int) -> str:
        """Return one item of a list, '' where the list is shorter."""
        items = self.items(group, key)
        return items[index] if index < len(items) else ""

    def shape(self, index: int) -> tuple[int, ...] | None:
        """Return the shape of an input: the YAML's, else the model's; None if neither can be read."""
        text = self.item("input_parameters", "input_shape", index)
        if text:
            return parse_shape(text)
        known = self.graph.all_inputs if self.graph is not None else ()
        return known[index][1] if index < len(known) else None

    def calibrates(self) -> bool:
        """Tell whether the compiler will read calibration data."""
        return self.text("calibration_parameters", "calibration_type") not in NO_DATA


def parse_shape(text: str) -> tuple[int, ...] | None:
    """Return the numbers of a text such as ``1x3x224x224``; None for any other text."""
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        return None


def has_type(value: object, types: tuple[type, ...]) -> bool:
    """Tell whether a value is of one of the types; a bool does not count as an int."""
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types)


def read(text: str) -> tuple[dict[Any, Any], dict[tuple[str, ...], int], list[Duplicate]]:
    """Parse a YAML text.

    Returns:
        The data, the line of every key, and the keys given twice.

    Raises:
        yaml.YAMLError: the text is not YAML.
        TypeError: it is YAML but not a mapping, or its aliases unfold to more than any configuration holds.
        RecursionError: it is nested too deeply.
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if unfolded(node) > MOST_YAML_VALUES:
        raise TypeError(f"aliases that unfold to more than {MOST_YAML_VALUES} values")
    data = yaml.safe_load(text)
    if not isinstance(node, yaml.MappingNode) or not isinstance(data, dict):
        raise TypeError(type(data).__name__)
    lines: dict[tuple[str, ...], int] = {}
    duplicates: list[Duplicate] = []
    _walk(node, (), lines, duplicates)
    return data, lines, duplicates


def _walk(
    node: yaml.MappingNode, path: tuple[str, ...], lines: dict[tuple[str, ...], int], duplicates: list[Duplicate]
) -> None:
    first: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = str(key.value)
        here, line = (*path, name), key.start_mark.line + 1  # yaml counts from 0
        if name in first:
            duplicates.append(Duplicate(name, line, yaml.serialize(first[name]) == yaml.serialize(value)))
        first.setdefault(name, value)
        lines[here] = line
        if isinstance(value, yaml.MappingNode) and len(here) < DEEPEST:
            _walk(value, here, lines, duplicates)
