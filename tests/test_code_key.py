"""The ``code`` part of a cache key is found from imports, not kept by hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from edge.folder.code import ROOT, closure, code_digest
from edge.pipeline.build import Build
from edge.pipeline.stage import Stage
from tests.conftest import Run, save_images
from tests.test_equalize import bumpy

WORKS = (
    "edge.sources.stage",
    "edge.prepare.simplify",
    "edge.prepare.channel_mean",
    "edge.prepare.equalize",
    "edge.prepare.range_split",
    "edge.prepare.rounding",
    "edge.refine.thresholds",
    "edge.images.calibrate",
    "edge.compiler.render",
    "edge.compiler.run",
    "edge.simulate.portable.quantize",
    "edge.simulate.portable.translate",
    "edge.pipeline.verify",
    "edge.accuracy.evaluation",
    "edge.tune.trials",
)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def names(root: Path, *modules: str) -> set[str]:
    return {path.as_posix() for path in closure(*modules, root=root)}


@pytest.mark.parametrize("work", WORKS)
def test_every_module_that_runs_is_in_the_closure(work: str) -> None:
    """What a fresh interpreter loads for the work, seen from outside, is found from the imports."""
    code = (
        f"import sys, {work}\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.startswith('edge.') and not module.__file__.endswith('__init__.py'):\n"
        "        print(module.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {Path(line).resolve().relative_to(ROOT) for line in done.stdout.splitlines()}
    assert loaded
    # Of a package that a module lies in, only what is imported from it counts.
    packages = {path for path in loaded if path not in closure(work)}
    for path in packages:
        assert path in closure(*(f"edge.{room}" for room in rooms_above(work)))


def rooms_above(work: str) -> list[str]:
    """Return the packages whose ``__init__`` runs as well when any module of the closure is imported."""
    above = {parent for path in closure(work) for parent in path.parents} - {Path()}
    return [".".join(path.parts) for path in above if (ROOT / path / "__init__.py").is_file()]


@pytest.mark.parametrize("work", WORKS)
def test_touching_any_module_of_the_closure_changes_the_key(work: str, tmp_path: Path) -> None:
    root = Path(shutil.copytree(ROOT, tmp_path / "edge", ignore=shutil.ignore_patterns("__pycache__", "zoo")))
    before = code_digest(work, root=root)
    for path in closure(work, root=root):
        code_digest.cache_clear()
        content = (root / path).read_bytes()
        (root / path).write_bytes(content + b"\n")
        assert code_digest(work, root=root) != before, path
        (root / path).write_bytes(content)
    code_digest.cache_clear()
    (root / "a_new_module.py").write_text("")
    assert code_digest(work, root=root) == before


def test_what_counts_as_an_import(tmp_path: Path) -> None:
    work = (
        '"""edge.docstring"""\nimport edge.plain\nfrom edge.room import thing, module\n'
        "def f():\n    from edge import inside\n"
        "    import_module('edge.by_name')\n    import_module(f'edge.many.{f}')\n    run('worker.py')\n"
        "if TYPE_CHECKING:\n    from edge import types\n"
    )
    empty = (
        "deeper", "room/definition", "room/module", "room/unused", "inside", "by_name",
        "many/__init__", "many/one", "many/two", "docstring", "types", "unused",
    )  # fmt: skip
    root = write(
        tmp_path,
        dict.fromkeys(empty, "")
        | {
            "work": work,
            "plain": "from edge import deeper",
            "room/__init__": "from edge.room.definition import thing",
            "toolchain/workers/worker": "import edge.unused",
        },
    )
    assert names(root, "edge.work") == {
        "work.py", "plain.py", "deeper.py", "room/__init__.py", "room/definition.py", "room/module.py",
        "inside.py", "by_name.py", "many/__init__.py", "many/one.py", "many/two.py",
        "toolchain/workers/worker.py",
    }  # fmt: skip


def test_a_module_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=r"edge\.nowhere"):
        closure("edge.nowhere", root=tmp_path)


@pytest.mark.parametrize("compiler", ["onnxruntime", "path"])
@pytest.mark.parametrize("precision", ["int8", "int8_rounded", "int8_equalized", "int8_split"])
def test_a_stage_reads_only_what_its_row_says_it_needs(
    compiler: str, precision: str, edge: Run, tmp_path: Path, fake_compiler: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a row's inputs read has run before them, since the row needs it."""
    row: list[Stage[Any]] = []
    run, stage = Build._run, Build.stage
    asked: set[str] = set()

    def strict_run(self: Build, asking: Stage[Any]) -> object:
        row.append(asking)
        done = run(self, asking)
        row.pop()
        return done

    def strict_stage(self: Build, read: Stage[Any]) -> object:
        asked.add(read.name)
        if row:
            assert read in row[-1].needs, f"{row[-1].name} reads {read.name}"
        return stage(self, read)

    monkeypatch.setattr(Build, "_run", strict_run)
    monkeypatch.setattr(Build, "stage", strict_stage)
    images = str(save_images(tmp_path / "images", 20))
    net = str(tmp_path / "net.onnx")
    onnx.save(bumpy().model(), net)
    norm = ("--mean", "127.5", "--std", "127.5", "--resize", "64", "--compiler", compiler, "--precision", precision)
    data = ("--calib", images, "--calib-count", "20", "--images", images)
    code, _, err = edge("build" if compiler == "onnxruntime" else "verify", net, *norm, *data, "--precision", precision)
    assert code == 0, err
    assert {"export", "simplify", "calibrate"} <= asked


def test_no_list_of_modules_is_kept_by_hand() -> None:
    """A cache key names the module of a function; a list of dotted names would have to be looked after."""
    for path in ROOT.rglob("*.py"):
        quoted = [line for line in path.read_text().splitlines() if line.strip().startswith('"edge.')]
        assert len(quoted) < 2 or path.match("cli/__init__.py"), f"{path}: {quoted}"
