"""No package that edge uses records or sends anything about the user, unless the user asks for it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper, save

ROOT = Path(__file__).resolve().parent.parent
RUN = """
import sys
import edge
import onnxruntime
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"]).run(None, {"x": [1.0]})
"""


def left_behind(tmp_path: Path, program: str) -> list[str]:
    """Run a program with an empty home; return the files that it left there."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), tmp_path / "net.onnx")
    home = tmp_path / "home"
    home.mkdir()
    env = {name: text for name, text in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    env |= {"HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", program, tmp_path / "net.onnx"], env=env, check=True, cwd=tmp_path)
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


def test_onnxruntime_records_nothing(tmp_path: Path) -> None:
    assert left_behind(tmp_path, RUN) == []


def test_without_the_variable_it_would_be_seen(tmp_path: Path) -> None:
    found = left_behind(tmp_path, RUN.replace("import edge\n", ""))
    if not found:
        import onnxruntime

        pytest.skip(f"onnxruntime {onnxruntime.__version__} records nothing by itself")
    assert any("onnxruntime" in name for name in found)


def test_a_users_own_variable_wins() -> None:
    program = "import os, edge; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for value in ("0", "1"):
        env = os.environ | {"ORT_DISABLE_TELEMETRY": value, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True, text=True)
        assert done.stdout.strip() == value


@pytest.mark.parametrize(
    "script",
    [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "notebooks/source").glob("*.py")],
    ids=lambda path: path.name,
)
def test_scripts_import_onnxruntime_after_edge(script: Path) -> None:
    names: list[str] = []
    for node in ast.parse(script.read_text()).body:
        if isinstance(node, ast.Import):
            names += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append((node.module or "").split(".")[0])
    assert "onnxruntime" not in names or names.index("edge") < names.index("onnxruntime")
