"""docs/reference/build-folder.md: written from the classes whose objects become JSON, and read as a schema of it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from edge.accuracy.table import Evaluation
from edge.board.parse import Profile
from edge.board.probe import State
from edge.diagnose.findings import Diagnosis
from edge.folder.metadata import Metadata
from edge.images.calibrate import CalibrationResult
from edge.prepare.attention import Attention
from edge.prepare.equalize import EqualizedPair
from edge.prepare.range_split import SplitPlace
from edge.report.compare import Comparison
from edge.report.contents import Report, Thumbnail
from edge.sources.stage import Weights
from edge.tune.result import TuneResult

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "build-folder.md"
COMMAND = "EDGE_REGENERATE_DOCS=1 pytest tests/test_build_folder_page.py"
MARK = f"<!-- From here on written by {COMMAND}, from the classes in edge/ -->\n"

DOCUMENTS: dict[str, tuple[type, str]] = {
    "metadata.json": (Metadata, "What the runtime must know about a program. It travels with it, in a bundle too."),
    "calibration.json": (CalibrationResult, "The images that the ranges were taken from."),
    "eval.json": (Evaluation, "Of `edge eval`. `build_eval.json` is the same, measured by the build itself."),
    "diagnosis.json": (Diagnosis, "Of `edge diagnose`."),
    "tune.json": (TuneResult, "Of `edge tune`."),
    "report.json": (Report, "Everything that `report.html` shows, as data."),
    "comparison.json": (
        Comparison,
        "Everything that `comparison.html` shows, as data. `edge report` of two builds, A and B, writes both where you "
        "start it, or at `--out`; they are in no build folder.",
    ),
}
IN_THE_MANIFEST = (Weights, Attention, EqualizedPair, SplitPlace, Profile, State)
# Of a thumbnail, report.json keeps the name and not the bytes; see edge/report/page.py.
NOT_WRITTEN = {Thumbnail: ("alt", "image", "width", "height")}
VERSION = "version of the file's form."

JSON_NAMES: dict[Any, str] = {
    str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Any: "object"
}  # fmt: skip


def link(kind: type) -> str:
    """Return a link to the table of a class."""
    title = next((name for name, (top, _) in DOCUMENTS.items() if top is kind), kind.__name__)
    return f"[{title}](#{title.lower().replace('.', '')})"


def form(hint: Any) -> str:
    """Return a Python type as the page names what JSON holds of it."""
    parts = get_args(hint)
    if hint in JSON_NAMES:
        return JSON_NAMES[hint]
    if attrs.has(hint):
        return link(hint)
    origin = get_origin(hint)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in parts)
    if origin in (Union, types.UnionType):
        assert parts[-1] is type(None)
        return " or ".join(form(part) for part in parts)
    assert not any(type(None) in get_args(part) for part in parts), hint  # "list of X or null" is a list or null
    if origin is tuple:
        return f"list of {form(parts[0])}" if parts[-1] is ... else f"[{', '.join(map(form, parts))}]"
    assert issubclass(origin, Mapping), hint
    return "object" if parts[1] is Any else f"object of {form(parts[1])}"


def meanings(kind: type) -> dict[str, tuple[str, str]]:
    """Return field -> (type, meaning) of an attrs class, from the ``#:`` beside or above each field."""
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    hints = get_type_hints(kind)
    found = {}
    for node in ast.parse("\n".join(lines)).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        assert node.end_lineno is not None
        told = [text for line in lines[node.lineno - 1 : node.end_lineno] for text in re.findall(r"#: (.*)$", line)]
        at = node.lineno - 2
        while not told or lines[at].lstrip().startswith("#:"):
            if at < 0 or not lines[at].lstrip().startswith("#:"):
                break
            told.insert(0, lines[at].lstrip().removeprefix("#:").strip())
            at -= 1
        name = node.target.id
        if name in NOT_WRITTEN.get(kind, ()):
            continue
        found[name] = form(hints[name]), " ".join(told) or (VERSION if name == "schema_version" else "")
    return found


def nested(hint: Any) -> Iterator[type]:
    """Yield the attrs classes in a type, however deep."""
    if isinstance(hint, type) and attrs.has(hint):
        yield hint
    for part in get_args(hint):
        yield from nested(part)


def classes() -> list[type]:
    """Return every class with a table on the page."""
    found: list[type] = []
    waiting = [*(kind for kind, _ in DOCUMENTS.values()), *IN_THE_MANIFEST]
    while waiting:
        kind = waiting.pop(0)
        if kind not in found:
            found.append(kind)
            waiting += [one for hint in get_type_hints(kind).values() for one in nested(hint)]
    assert len({kind.__name__ for kind in found}) == len(found), "two tables of one name"
    return found


def json_words(text: str) -> str:
    """Return a comment of the code as the page says it."""
    text = re.sub(r"\bNone\b", "null", text).replace("``", "`").replace(" -> ", " → ")
    text = re.sub(r":\w+:(?=`)", "", text)
    return text.replace("|", "\\|").removesuffix(".")


def table(kind: type) -> str:
    rows = [f"| `{name}` | {shown} | {json_words(meaning)} |" for name, (shown, meaning) in meanings(kind).items()]
    return "\n".join(["| key | type | meaning |", "|---|---|---|", *rows])


def generated() -> str:
    """Return the part of the page that is behind its mark."""
    parts = [f"## {name}\n\n{about}\n\n{table(kind)}" for name, (kind, about) in DOCUMENTS.items()]
    parts.append("## Objects inside\n\nThe linked types, in alphabetical order.")
    top = {kind for kind, _ in DOCUMENTS.values()}
    for kind in sorted(set(classes()) - top, key=lambda kind: kind.__name__):
        about = json_words((inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "))
        parts.append(f"### {kind.__name__}\n\n{about}\n\n{table(kind)}")
    return "\n\n".join(parts) + "\n"


Table = dict[str, list[str]]  # first column, without backticks -> the other columns


class Schema:
    """The page's tables, and what of them was seen in JSON.

    Args:
        text: of the page.
    """

    def __init__(self, text: str) -> None:
        self.tables: dict[str, Table] = {}
        for section in re.split(r"^##+ ", text, flags=re.MULTILINE)[1:]:
            rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| `")]
            self.tables[section.splitlines()[0]] = {
                row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in rows
            }

    def faults(self, document: str, data: Mapping[str, Any]) -> list[str]:
        """Return what a JSON object holds otherwise than the table of its document says."""
        return list(self._object(document, data, self.tables[document], ""))

    def _object(self, where: str, data: Mapping[str, Any], rows: Table, prefix: str) -> Iterator[str]:
        for key, value in data.items():
            if prefix + key in rows:
                yield from self._value(f"{where}: {prefix}{key}", value, rows, prefix + key)
            else:
                yield f"{where}: {prefix}{key} is not on the page"

    def _value(self, where: str, value: Any, rows: Table, key: str) -> Iterator[str]:
        shown = rows[key][0]
        if other := re.fullmatch(r"as `(.+)`", shown):
            key, shown = other[1], rows[other[1]][0]
        if shown.endswith(" or null"):
            if value is None:
                return
            shown = shown.removesuffix(" or null")
        yield from self._of(where, value, shown, rows, key, rows[key][1])

    def _of(self, where: str, value: Any, shown: str, rows: Table, key: str, meaning: str) -> Iterator[str]:
        if shown.startswith("list of ") and isinstance(value, list):
            for one in value:
                yield from self._of(where, one, shown.removeprefix("list of "), rows, f"{key}[]", meaning)
        elif shown.startswith("object of ") and isinstance(value, dict):
            for one in value.values():
                yield from self._of(where, one, shown.removeprefix("object of "), rows, key, meaning)
        elif (linked := re.fullmatch(r"\[([\w.]+)\]\(#\w+\)", shown)) and isinstance(value, dict):
            yield from self._object(f"{where}: {linked[1]}", value, self.tables[linked[1]], "")
        elif shown.startswith("[") and isinstance(value, list) and len(value) == shown.count(",") + 1:
            for one, part in zip(value, shown[1:-1].split(", "), strict=True):
                yield from self._of(where, one, part, rows, key, meaning)
        elif shown == "object" and isinstance(value, dict):
            yield from self._free(where, value, rows, key, meaning)
        elif not fits(value, shown):
            yield f"{where} is {value!r}, not {shown}"

    def _free(self, where: str, value: dict[str, Any], rows: Table, key: str, meaning: str) -> Iterator[str]:
        """An object whose keys stand in rows of their own, in ``manifest.json``, or in the meaning."""
        if any(row.startswith(f"{key}.") for row in rows):
            yield from self._object(where, value, rows, f"{key}.")
        elif same := re.search(r"as (?:`(\w+)` )?in `(\w+\.json)`", meaning):
            rows, name = self.tables[same[2]], same[1] or key.removesuffix("[]")
            if key.endswith("[]"):
                yield from self._object(where, value, rows, f"{name}[].")
            else:
                yield from self._value(where, value, rows, name)
        elif "→" not in meaning:  # else names are data
            named = set(re.findall(r"`(\w+)`", meaning))
            yield from (f"{where}: {name} is not on the page" for name in value if name not in named)


def fits(value: object, shown: str) -> bool:
    """Tell whether a plain value is of the type."""
    if isinstance(value, bool) or shown == "true or false":
        return isinstance(value, bool) and shown == "true or false"
    kinds: dict[str, tuple[type, ...]] = {"text": (str,), "integer": (int,), "number": (int, float)}
    return isinstance(value, kinds[shown]) if shown in kinds else f"`{value}`" in shown.split(" or ")
