"""Imports point one way; the part that runs on the board stays light."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "edge"
MAP = PACKAGE.parent / "docs" / "architecture.md"

# A room may import rooms of a lower number only (and itself); rooms of one number do not know each other.
RANK = {
    "errors": 0, "progress": 0,
    "files": 1, "scratch": 1, "foreign": 1, "toolchain": 1,
    "graph": 2, "specs": 2,
    "detect": 3, "folder": 3, "images": 3,
    "compiler": 4, "heads": 4, "prepare": 4, "simulate": 4,
    "runtime": 5, "sources": 5,
    "measure": 6,
    "accuracy": 7, "diagnose": 7, "refine": 7,
    "pipeline": 8, "report": 8,
    "board": 9, "serve": 9, "survey": 9, "tune": 9,
    "api": 10, "cluster": 10,
    "cli": 11,
}  # fmt: skip
BOARD = ("api", "detect", "serve.model", "errors", "folder.metadata", "specs", "images.preprocess", "images", "runtime")


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "workers" not in path.parts]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "edge":
                names = [f"edge.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("edge.")}
    return found


def wrong_arrows(name: str, source: str) -> list[str]:
    wrong = []
    for other in imported_rooms(source) - {name, "__version__"}:
        if RANK[other] >= RANK[name]:
            wrong.append(f"{name} -> {other}")
    return wrong


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_one_way(path: Path) -> None:
    if room(path) in ("__init__", "__main__"):
        return
    assert wrong_arrows(room(path), path.read_text()) == []


def test_an_arrow_that_turns_back_is_seen() -> None:
    assert wrong_arrows("errors", "from edge.cli import main")
    assert wrong_arrows("prepare", "def f():\n    from edge.sources import export")
    assert not wrong_arrows("cli", "from edge.errors import EdgeError")


def test_every_room_has_a_rank() -> None:
    assert {room(path) for path in modules()} - {"__init__", "__main__"} <= set(RANK)


@pytest.mark.parametrize("name", BOARD)
def test_what_runs_on_the_board_loads_only_light_packages(name: str) -> None:
    """Loaded in a fresh interpreter: no package of the PC's part comes along."""
    code = (
        f"import sys, edge.{name}\n"
        "print(' '.join({name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"onnx", "onnxruntime", "onnxsim", "jinja2", "rich", "click", "torch", "requests", "google"}
    assert not heavy & set(done.stdout.split())


def test_only_the_command_line_prints() -> None:
    printing = [
        f"{path.name}:{node.lineno}"
        for path in modules()
        if room(path) != "cli"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "exit")
    ]
    assert printing == []


def caption(name: str) -> str:
    path = PACKAGE / name / "__init__.py"
    text = ast.get_docstring(ast.parse((path if path.exists() else PACKAGE / f"{name}.py").read_text()))
    assert text, name
    return text.splitlines()[0]


def test_the_map_of_the_rooms_is_the_codes_own() -> None:
    """EDGE_REGENERATE_DOCS=1 writes it anew."""
    rows = [f"| {RANK[name]} | `{name}` | {caption(name)} |" for name in sorted(RANK, key=lambda r: (RANK[r], r))]
    table = "\n".join(["", "| | room | what |", "|---|---|---|", *rows, "", ""])
    text = MAP.read_text()
    start, rest = text.split("<!-- rooms -->\n")
    shown, end = rest.split("<!-- end of rooms -->")
    if os.environ.get("EDGE_REGENERATE_DOCS") == "1":
        MAP.write_text(f"{start}<!-- rooms -->\n{table}<!-- end of rooms -->{end}")
    else:
        assert shown == table
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", text):
        assert (PACKAGE / name).exists() or (PACKAGE.parent / name).exists(), name


def test_a_file_is_one_thought() -> None:
    lengths = {path.relative_to(PACKAGE): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path: lines for path, lines in lengths.items() if lines > 600} == {}
    assert len(lengths) <= 285
    assert sum(lengths.values()) <= 52_180


def beside() -> list[Path]:
    root = PACKAGE.parent
    folders = (root / "benchmarks", root / "scripts", root / "notebooks" / "source")
    return [path for folder in folders for path in sorted(folder.glob("*.py"))]


def missing_names(source: str) -> list[str]:
    """Return what a script takes from the package that the package has not, without running the script."""
    missing = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "edge":
            wanted = [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            wanted = [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "edge"]
        else:
            continue
        for module, name in wanted:
            try:
                found = importlib.import_module(module)
                if name and not hasattr(found, name):
                    importlib.import_module(f"{module}.{name}")
            except ImportError:
                missing.append(f"{module} {name}".strip())
    return missing


@pytest.mark.parametrize("path", beside(), ids=lambda path: path.name)
def test_scripts_beside_the_package_take_what_it_has(path: Path) -> None:
    """Benchmarks run by hand only: a name that moved would be seen when somebody needs the figure."""
    assert missing_names(path.read_text()) == []


def test_a_name_that_moved_is_seen() -> None:
    assert missing_names("def f():\n    import edge.calibrate\n    from edge.tune import Gone\n") == [
        "edge.calibrate",
        "edge.tune Gone",
    ]
    assert missing_names("from edge.images import preprocess, open_images") == []
