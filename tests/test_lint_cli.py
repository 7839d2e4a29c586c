"""``edge lint``: a user's mapper YAML, or the vendor's, as it lies there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnx
import pytest

from tests.conftest import Run
from tests.test_mapper_lint import GOOD, net, project

__all__ = ["project"]  # a fixture


@pytest.fixture
def yaml(project: Path) -> Path:
    path = project / "net.yaml"
    path.write_text(GOOD)
    for file in (project / "cal").iterdir():
        file.unlink()
    return path


def test_a_good_file_is_clean(edge: Run, yaml: Path) -> None:
    code, out, _ = edge("lint", str(yaml))
    assert (code, out) == (0, f"{yaml}: 0 errors, 0 warnings\n")


def test_an_error_has_its_line_and_what_is_expected(edge: Run, yaml: Path) -> None:
    yaml.write_text(GOOD.replace("'O0'", "'O4'"))
    line = 1 + GOOD.splitlines().index("  optimize_level: 'O0'")
    code, out, _ = edge("lint", str(yaml))
    assert code == 1
    assert out.splitlines() == [
        f"{yaml}:{line}: error: optimize_level: 'O4'; expected: O0, O1, O2, O3 [choice]",
        f"{yaml}: 1 error, 0 warnings",
    ]


def test_a_warning_can_stay(edge: Run, yaml: Path) -> None:
    """Empty text as the vendor's own files have it: the compiler takes it as not there."""
    yaml.write_text(GOOD.replace("input_shape: '1x3x32x64'", "input_shape: ''").replace("  debug: False\n", ""))
    code, out, _ = edge("lint", str(yaml), "--json")
    assert code == 0
    (found,) = json.loads(out)
    assert [(item["rule"], item["harmless"]) for item in found["findings"]] == [
        ("empty_value", True),
        ("debug_off", True),
    ]


def test_names_are_compared_with_the_model_that_the_file_names(edge: Run, yaml: Path) -> None:
    yaml.write_text(GOOD.replace("/norm/Div_mul", "/norm/Dvi_mul"))
    code, out, _ = edge("lint", str(yaml))
    assert code == 1
    assert "[unknown_node]" in out


def test_names_are_compared_with_a_model_of_the_users(edge: Run, yaml: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    onnx.save(net(), other)
    yaml.write_text(GOOD.replace("./net.onnx", "./gone.onnx").replace("/norm/Div_mul", "/norm/Dvi_mul"))
    code, out, _ = edge("lint", str(yaml))
    assert code == 1
    assert "names and shapes are not compared: the YAML names no existing ONNX" in out
    assert "[unknown_node]" not in out
    code, out, _ = edge("lint", str(yaml), "--model", str(other))
    assert "[unknown_node]" in out
    assert "not compared" not in out
    assert "does not exist" not in out


def test_a_model_that_is_none_is_an_error(edge: Run, yaml: Path) -> None:
    (yaml.parent / "net.onnx").write_text("<html>")
    line = 1 + GOOD.splitlines().index("  onnx_model: './net.onnx'")
    code, out, _ = edge("lint", str(yaml))
    assert code == 1
    assert f"{yaml}:{line}: error: " in out
    assert "names and shapes are not compared: " in out
    code, _, err = edge("lint", str(yaml), "--model", str(yaml.parent / "net.onnx"))
    assert code == 1
    assert "next:" in err or "expected:" in err


def nested(levels: int) -> str:
    return "a: " + "[" * levels + "]" * levels


def laughs() -> str:
    lines = ["model_parameters: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a",
        "a: [",
        nested(5000),
        laughs(),
        "a: &a [*a]",
        "\x00",
        "model_parameters: {onnx_model: 3}",
        GOOD.replace("'bayes-e'", "2020-99-99"),
        GOOD.replace("'bayes-e'", "!!int x"),
        GOOD.replace("'bayes-e'", "!!timestamp x"),
        GOOD.replace("'bayes-e'", "9" * 5000),
        GOOD.replace("./net.onnx", f"./{'n' * 5000}.onnx"),
        GOOD.replace("./cal_f32", f"./{'n' * 5000}_f32"),
        GOOD.replace("'latency'", "'latency,bandwidth'"),
        GOOD.replace("'1x3x32x64'", "' '"),
    ],
    ids=[
        "empty", "list", "broken", "deep", "laughs", "holds itself", "control", "number", "date", "int", "timestamp",
        "digits", "long path", "long folder", "two choices", "blank",
    ],
)  # fmt: skip
def test_bad_files_are_findings(edge: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    code, out, err = edge("lint", str(path))
    assert code == 1, err
    assert "error: " in out
    assert len(out) < 30_000


def test_files_that_are_no_text_do_not_hide_the_others(edge: Run, yaml: Path, tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00a")
    (tmp_path / "large.yaml").write_text("a: 1\n" * 300_000)
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, word in (("bytes.yaml", "not UTF-8"), ("large.yaml", "bytes"), ("pipe.yaml", "not a regular file")):
        code, out, _ = edge("lint", name, str(yaml))
        assert code == 1
        assert word in out
        assert f"{yaml}: 0 errors" in out
    code, out, _ = edge("lint", "/dev/zero")
    assert (code, "not a regular file" in out) == (1, True)
    code, _, _ = edge("lint", "missing.yaml")
    assert code == 2


def test_the_same_value_twice_can_stay(edge: Run, yaml: Path) -> None:
    yaml.write_text(GOOD.replace("  jobs: 2\n", "  jobs: 2\n  jobs: 2\n"))
    assert edge("lint", str(yaml))[0] == 0
    yaml.write_text(GOOD.replace("  jobs: 2\n", "  jobs: 2\n  jobs: 3\n"))
    assert edge("lint", str(yaml))[0] == 1


def test_a_vendors_flow(edge: Run, shared: Path) -> None:
    """A configuration of the vendor's flow: what is missing is missing, the rest can stay."""
    code, out, _ = edge("lint", str(shared / "cases/vendor_yaml.yaml"), "--json")
    assert code == 1
    (found,) = json.loads(out)
    assert {item["rule"] for item in found["findings"] if not item["harmless"]} == {"model_file", "data_folder"}
