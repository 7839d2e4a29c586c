"""Imports point one way; the part that runs on the board stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "edge"

# A room may import rooms of a lower number only (and itself).
RANK = {
    "errors": 0, "progress": 0, "statistics": 0,
    "atomic": 1, "graph": 1, "memory": 1, "reach": 1, "resources": 1,
    "demo": 2, "macs": 2, "download": 2, "specs": 2, "workspace": 2,
    "metadata": 3, "resample": 3,
    "preprocess": 4,
    "built": 5, "images": 5,
    "toolchain": 6,
    "fakequant": 7, "runtime": 7,
    "calibrate": 8, "diagnose": 8, "evaluate": 8, "export": 8,
    "mapper": 8, "portable": 8, "rounding": 8, "simplify": 8, "verify": 8,
    "equalize": 9, "request": 9, "rewrite": 9,
    "choices": 10,
    "pipeline": 11,
    "manifest": 12, "report": 12, "tune": 12,
    "board": 13, "bundle": 13, "publish": 13, "survey": 13,
    "cli": 14,
}  # fmt: skip
STAGES = {
    "calibrate",
    "diagnose",
    "evaluate",
    "export",
    "mapper",
    "portable",
    "rounding",
    "simplify",
    "verify",
}
BOARD = ("errors", "metadata", "specs", "preprocess", "images", "runtime")


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
        if RANK[other] >= RANK[name] or {name, other} <= STAGES:
            wrong.append(f"{name} -> {other}")
    return wrong


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_one_way(path: Path) -> None:
    if room(path) in ("__init__", "__main__"):
        return
    assert wrong_arrows(room(path), path.read_text()) == []


def test_an_arrow_that_turns_back_is_seen() -> None:
    assert wrong_arrows("errors", "from edge.cli import main")
    assert wrong_arrows("simplify", "def f():\n    from edge.sources import export")
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
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("print", "exit")
    ]
    assert printing == []
