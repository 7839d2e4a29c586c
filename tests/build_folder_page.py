"""docs/reference/build-folder.md: files and JSON keys, from the classes that are written there."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs

from edge.accuracy.table import Evaluation
from edge.diagnose.findings import Diagnosis
from edge.folder.metadata import Metadata
from edge.report.contents import Report
from edge.tune.result import TuneResult

HEAD = Path(__file__).with_name("build_folder_head.md")
DOCUMENTS: dict[str, tuple[type, str]] = {
    "metadata.json": (Metadata, "What the runtime must know of a program. It travels with it, in a bundle too."),
    "eval.json": (Evaluation, "Written by `edge eval`; `build_eval.json` is the same of the build's own measurement."),
    "diagnosis.json": (Diagnosis, "Written by `edge diagnose`."),
    "tune.json": (TuneResult, "Written by `edge tune`."),
    "report.json": (Report, "What `report.html` shows, as data."),
}


def meanings(kind: type) -> dict[str, tuple[str, str]]:
    """Return field -> (type, meaning) of an attrs class, from the ``#:`` beside or above each field."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        assert node.end_lineno is not None
        beside = [text for line in lines[node.lineno - 1 : node.end_lineno] for text in re.findall(r"#: (.*)$", line)]
        above, at = [], node.lineno - 2
        while at >= 0 and lines[at].lstrip().startswith("#:"):
            above.insert(0, lines[at].lstrip().removeprefix("#:").strip())
            at -= 1
        found[node.target.id] = (ast.unparse(node.annotation), " ".join(beside or above))
    return found


def nested(kind: type) -> Iterator[type]:
    """Yield the attrs classes of this project that the fields of a class hold, however deep in their types."""

    def inside(hint: Any) -> Iterator[type]:
        if isinstance(hint, type) and attrs.has(hint) and hint.__module__.startswith("edge."):
            yield hint
        for part in get_args(hint):
            yield from inside(part)

    for hint in get_type_hints(kind).values():
        yield from inside(hint)


def classes() -> list[type]:
    """Return every class of the page, in the order of its tables."""
    found: list[type] = []
    waiting = [kind for kind, _ in DOCUMENTS.values()]
    while waiting:
        kind = waiting.pop(0)
        if kind not in found:
            found.append(kind)
            waiting += list(nested(kind))
    return found


def shown_type(text: str) -> str:
    """Return a Python type as JSON has it."""
    text = text.replace(" | None", " or null").replace("None", "null")
    for python, json in (
        (r"\btuple\[(\w+), \.\.\.\]", r"list of \1"),
        (r"\btuple\[([^\[\]]+)\]", r"list \1"),
        (r"\b(?:Mapping|dict)\[[^,]+, ([^\[\]]+)\]", r"object of \1"),
        (r"\bstr\b", "text"),
        (r"\bfloat\b", "number"),
        (r"\bint\b", "integer"),
        (r"\bbool\b", "true or false"),
    ):
        text = re.sub(python, json, text)
    return text.replace("|", "\\|")


def table(kind: type) -> str:
    rows = [
        f"| `{name}` | {shown_type(form)} | {meaning.replace('``', '`').replace('|', chr(92) + '|')} |"
        for name, (form, meaning) in meanings(kind).items()
    ]
    return "\n".join(["| key | type | meaning |", "|---|---|---|", *rows])


def page() -> str:
    """Return the page."""
    parts = [HEAD.read_text(encoding="utf-8").rstrip()]
    for name, (kind, about) in DOCUMENTS.items():
        parts.append(f"## {name}\n\n{about}\n\n{table(kind)}")
    parts.append("## Objects inside\n\nThe types with a capital letter above, in alphabetical order.")
    top = {kind for kind, _ in DOCUMENTS.values()}
    for kind in sorted(set(classes()) - top, key=lambda kind: kind.__name__):
        about = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")
        parts.append(f"### {kind.__name__}\n\n{about}\n\n{table(kind)}")
    return "\n\n".join(parts) + "\n"
