"""The code that a function depends on, found from its imports: the ``code`` part of every cache key."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "edge"
ROOT = Path(__file__).resolve().parents[1]
WORKERS = Path("toolchain", "workers")  # run by another Python, so named by a string and never imported
_DOTTED = re.compile(rf"{PACKAGE}(\.\w+)+")


@cache
def code_digest(*modules: str, root: Path = ROOT) -> str:
    """Return the sha256 of all that can change what these modules compute, as hex.

    The names are dotted, such as ``edge.prepare.simplify``, usually the ``__module__`` of a function.
    """
    digest = hashlib.sha256()
    for path in sorted(closure(*modules, root=root)):
        digest.update(path.as_posix().encode() + b"\0" + hashlib.sha256((root / path).read_bytes()).digest())
    return digest.hexdigest()


def closure(*modules: str, root: Path = ROOT) -> frozenset[Path]:
    """Return the files that these modules reach, relative to the package's folder.

    Every import counts, also inside a function, but not under ``if TYPE_CHECKING``. A string counts too if it names a
    module of the package (for ``importlib.import_module``; all modules of a package if the last part is computed), a
    file beside the module, or a worker. The package's own ``__init__`` imports all rooms, so it is not followed.

    Raises:
        LookupError: no such module.
    """
    found: set[Path] = set()
    open_ = [_file(module, root) for module in modules]
    if None in open_:
        raise LookupError(f"no module {modules[open_.index(None)]} under {root}")
    while open_:
        path = open_.pop()
        if path is not None and path not in found:
            found.add(path)
            if path.suffix == ".py" and WORKERS not in path.parents:
                open_ += _reached(path, root)
    return frozenset(found)


@cache
def _reached(path: Path, root: Path) -> tuple[Path, ...]:
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    return tuple(_referred(tree, path, root))


def _referred(tree: ast.Module, path: Path, root: Path) -> Iterator[Path]:
    for node in _running(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # ``from edge.room import module`` as well as ``from edge.room.module import name``
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _named(node.value, path, root)
            continue
        else:
            continue
        for name in names:
            file = _file(name, root)
            if file is not None:
                yield file


def _named(text: str, path: Path, root: Path) -> Iterator[Path]:
    """Yield the files that a string names."""
    if _DOTTED.fullmatch(text.rstrip(".")):
        file = _file(text.rstrip("."), root)
        if file is not None:
            yield file
            if text.endswith(".") and file.name == "__init__.py":
                yield from (other.relative_to(root) for other in (root / file).parent.glob("*.py"))
    elif re.fullmatch(r"[\w-]+\.\w+", text):
        for file in (path.with_name(text), WORKERS / text):
            if (root / file).is_file():
                yield file


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs: neither the branch for type checkers nor docstrings."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        yield node
        yield from _running(node)


def _file(module: str, root: Path) -> Path | None:
    """Return the file of a module of the package; None for the package itself and for other packages."""
    first, *parts = module.split(".")
    if first != PACKAGE or not parts:
        return None
    path = Path(*parts)
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if (root / file).is_file():
            return file
    return None
