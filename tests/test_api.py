"""``import edge``: light, and the same answers, files and errors as the command line's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import edge as package
from edge.cli.build import build_command
from edge.errors import ModelFileError, UsageError
from edge.progress import Quiet
from edge.sources.resolve import Options
from tests.conftest import Run, save_images, save_net

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "guides" / "python.md"
GIVEN: dict[str, Any] = {
    "mean": 127.5,
    "std": (127.5, 127.5, 127.5),
    "resize": 64,
    "calib_count": 20,
    "compiler": "onnxruntime",
    "count": 0,
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network and images, the current one."""
    monkeypatch.chdir(tmp_path)
    save_net(tmp_path / "net.onnx")
    save_images(tmp_path / "images", 24)
    return tmp_path


def test_import_is_light() -> None:
    code = "import sys, edge\nprint(*{name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "cv2", "onnx", "onnxruntime", "attrs", "attr", "click", "rich"} & set(done.stdout.split())
    assert set(package.__all__) <= set(dir(package))
    assert all(hasattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'bulid'"):
        package.bulid  # noqa: B018


def test_the_package_tells_that_it_is_typed() -> None:
    assert (Path(package.__file__).parent / "py.typed").exists()


def test_every_option_of_the_command_line_is_one_of_the_library() -> None:
    names = [option.name for option in build_command.params]
    of_the_command = {"as_json", "verbose", "debug", "cluster"}
    assert {*names, "arguments"} == {*(field.name for field in attrs.fields(Options)), *of_the_command}


def test_a_build_is_that_of_the_command_line(edge: Run, place: Path) -> None:
    built = package.build("net.onnx", images="images", calib="images", build_dir=place / "a", **GIVEN)
    options = [word for name in ("mean", "std") for word in (f"--{name}", "127.5")]
    code, out, err = edge(
        "build", "net.onnx", "--images", "images", "--calib", "images", "--calib-count", "20", *options,
        "--resize", "64", "--compiler", "onnxruntime", "--count", "0", "--build-dir", "b", "--json",
    )  # fmt: skip
    assert code == 0, err
    typed = json.loads(out)
    assert built.manifest == json.loads((built.folder / "manifest.json").read_text())
    for key in ("accuracy", "calibration", "preprocess", "weights"):
        assert built.manifest[key] == typed[key]
    assert built.manifest["command"] == (
        "edge build net.onnx --images images --count 0 --calib images --calib-count 20 --compiler onnxruntime "
        "--mean 127.5 --std 127.5,127.5,127.5 --resize 64"
    )
    assert built.manifest["artifacts"][0] == typed["artifacts"][0]
    assert (built.folder, built.program, built.latency_us, built.bit_exact) == (place / "a" / "net", None, None, None)
    assert built.portable == place / "a" / "net" / "net_64x64_nv12_portable_int8.onnx"
    assert built.report.is_file()
    assert (built.n, built.top1, built.agreement) == (
        24, typed["accuracy"]["quantized"]["top1"], typed["accuracy"]["agreement"],
    )  # fmt: skip
    with package.load(built) as net:
        assert net.backend == "portable"


def test_an_evaluation_is_that_of_the_command_line(edge: Run, place: Path) -> None:
    built = package.build("net.onnx", images="images", calib="images", **GIVEN)
    found = package.evaluate(built, images="images", steps=["nv12", "portable"])
    written = json.loads((built.folder / "eval.json").read_text())
    assert written["command"] == "edge eval build/net --images images --steps nv12,portable"
    code, out, err = edge("eval", "net", "--images", "images", "--steps", "nv12, portable", "--json")
    assert code == 0, err
    typed = json.loads(out)
    assert (
        [step.name for step in found.steps]
        == [step["name"] for step in typed["steps"]]
        == ["float", "nv12", "portable"]
    )
    assert (found.n, found.verdict) == (typed["n"], typed["verdict"])


def test_what_the_command_line_tells_the_listener_hears(place: Path) -> None:
    class Ends(Quiet):
        def __init__(self) -> None:
            super().__init__()
            self.stages: list[str] = []

        def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
            self.stages.append(stage)

    listener = Ends()
    package.build("net.onnx", images="images", calib="images", listener=listener, **GIVEN)
    assert listener.warnings[0].startswith("net.onnx, as the file and your options say; check it:\n  input")
    assert listener.stages[0] == "export"


def test_nothing_is_printed(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    package.build("net.onnx", images="images", calib="images", **GIVEN)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message", "remedy"),
    [
        ({"calib_cuont": 3}, "there is no option 'calib_cuont'", "calib_count"),
        ({"arguments": ()}, "there is no option 'arguments'", ""),
        ({"weights": "tim"}, "--weights tim", ""),
        ({"calib_count": 0}, "--calib-count 0", ""),
        ({"timeout": 0}, "--timeout 0", ""),
        ({"crop": (1, 2, 3)}, "--crop '1x2x3'", ""),
    ],
)
def test_a_wrong_option_is_a_usage_error(options: dict[str, Any], message: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        package.build("ConvNeXt_atto", **options)
    assert remedy in str(caught.value.remedy)
    assert issubclass(UsageError, package.EdgeError)


def test_an_evaluation_refuses_what_it_can_not_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no option 'step'") as caught:
        package.evaluate(tmp_path, step="nv12")
    assert "steps" in str(caught.value.remedy)
    with pytest.raises(ModelFileError, match=r"holds no manifest\.json"):
        package.evaluate(tmp_path)


def test_the_guides_examples_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_images(place / "val", 24)
    save_images(place / "train", 24, seed=1)
    (place / "net.onnx").rename(place / "my.onnx")
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    exec(compile("\n".join(blocks), str(GUIDE), "exec"), {})
    out = capsys.readouterr().out
    assert "Top-1" in out
    assert "\nportable 24 " in out


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("count", 20.5), ("count", "20"), ("count", True), ("calib_count", float("nan")), ("seed", -1), ("seed", None),
        ("timeout", None), ("timeout", "5"), ("timeout", float("nan")), ("any_memory", "no"), ("color", "grey"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_a_usage_error_before_anything_runs(place: Path, option: str, value: object) -> None:
    with pytest.raises(package.EdgeError, match=f"--{option.replace('_', '-')}"):
        package.build("net.onnx", **{option: value})


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    assert Options(model="x", count=np.int64(20), seed=np.int64(1)).seed == 1
    for count in (20.5, "20", True, -1):
        with pytest.raises(package.EdgeError, match="count="):
            package.evaluate("nowhere", count=count)
