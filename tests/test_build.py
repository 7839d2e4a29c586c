"""``edge build`` from end to end, without the vendor's compiler: onnxruntime and a scripted fake."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper
from onnxruntime import quantization

from edge.pipeline.stage import Inside
from edge.progress import Quiet
from tests.conftest import FakeCompiler, Run, gone, save_images, save_net, wait_for

NORM = ("--mean", "127.5", "--std", "127.5", "--resize", "64")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_net(tmp_path / "net.onnx")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_images(tmp_path / "images", 24)


def portable(net: Path, images: Path, *more: str) -> tuple[str, ...]:
    calib = ("--calib", str(images), "--calib-count", "20", "--images", str(images))
    return ("build", str(net), *NORM, *calib, "--compiler", "onnxruntime", "--json", *more)


def manifest_of(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "build/net/manifest.json").read_text())


def check_hashes(tmp_path: Path) -> None:
    for artifact in manifest_of(tmp_path)["artifacts"]:
        data = (tmp_path / "build/net" / artifact["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == artifact["sha256"], artifact["path"]
        assert len(data) == artifact["bytes"]


def test_a_portable_build_never_makes_a_bin(edge: Run, tmp_path: Path, net: Path, images: Path) -> None:
    code, out, err = edge(*portable(net, images))
    assert code == 0, err
    manifest = json.loads(out)
    assert manifest == manifest_of(tmp_path)
    assert not list(tmp_path.rglob("*.bin.*")) + list((tmp_path / "build/net").glob("*.bin"))
    assert manifest["toolchain"]["kind"] == "onnxruntime"
    assert manifest["artifacts"][0]["path"].endswith("_portable_int8.onnx")
    assert manifest["accuracy"]["n"] == 24
    assert manifest["accuracy"]["float"]["top1"] is not None
    report = (tmp_path / "build/net/report.md").read_text()
    assert "**portable**" in report
    top1 = manifest["accuracy"]["quantized"]["top1"]
    assert f"| portable model | 24 | {top1:.2f} % [" in report
    assert manifest["command"] in report
    check_hashes(tmp_path)


def test_only_onnxruntimes_own_lines_are_silenced(
    edge: Run, net: Path, images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = quantization.quantize_static

    def talkative(*arguments: Any, **options: Any) -> None:
        logging.warning("a bias is widened")
        logging.getLogger("edge.other").warning("a warning of another thread")
        real(*arguments, **options)

    monkeypatch.setattr(quantization, "quantize_static", talkative)
    assert edge(*portable(net, images))[0] == 0
    assert "another thread" in caplog.text
    assert "is widened" not in caplog.text
    logging.warning("after it")
    assert "after it" in caplog.text


def test_nothing_changed_means_nothing_is_done_again(edge: Run, tmp_path: Path, net: Path, images: Path) -> None:
    edge(*portable(net, images))
    _, out, _ = edge(*portable(net, images))
    assert all(stage["cached"] for stage in json.loads(out)["stages"])


def test_a_change_runs_only_what_depends_on_it(edge: Run, tmp_path: Path, net: Path, images: Path) -> None:
    edge(*portable(net, images))
    save_images(images, 28)
    _, out, _ = edge(*portable(net, images, "--seed", "1"))
    again = {stage["name"]: not stage["cached"] for stage in json.loads(out)["stages"]}
    assert again == {"export": False, "simplify": False, "calibrate": True, "quantize": True, "eval": True}


def test_other_weights_under_the_same_name_are_another_network(
    edge: Run, tmp_path: Path, net: Path, images: Path
) -> None:
    edge(*portable(net, images))
    before = {stage["name"]: stage["key"] for stage in manifest_of(tmp_path)["stages"]}
    model = onnx.load(net)
    weight = next(tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 0.5, weight.name))
    onnx.save(model, net)
    _, out, _ = edge(*portable(net, images))
    again = {stage["name"]: not stage["cached"] for stage in json.loads(out)["stages"]}
    assert again == {"export": True, "simplify": True, "calibrate": False, "quantize": True, "eval": True}
    after = {stage["name"]: stage["key"] for stage in manifest_of(tmp_path)["stages"]}
    assert [name for name in after if after[name] == before[name]] == ["calibrate"]


def test_another_normalisation_quantizes_again(edge: Run, tmp_path: Path, net: Path, images: Path) -> None:
    """The calibration files hold raw pixels, so they alone do not tell what the network sees."""
    edge(*portable(net, images))
    _, out, _ = edge(*portable(net, images, "--std", "60"))
    again = {stage["name"] for stage in json.loads(out)["stages"] if not stage["cached"]}
    assert {"quantize", "eval"} <= again


def test_a_folder_called_demo_is_not_taken_for_the_demos_images(
    edge: Run, tmp_path: Path, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    code, out, err = edge("calibrate", str(net), *NORM, "--calib-count", "2", "--json")
    assert code == 0, err
    assert json.loads(out)["result"]["source"].startswith("demo:calibration")
    code, _, err = edge("calibrate", str(net), *NORM, "--calib", "demo")
    assert code == 1
    assert "demo holds no images" in err


def test_paths_in_the_manifest_are_relative(edge: Run, tmp_path: Path, net: Path, images: Path) -> None:
    _, out, _ = edge(*portable(net, images))
    assert str(tmp_path) not in json.dumps(json.loads(out)["artifacts"])


def fake(net: Path, images: Path, *more: str) -> tuple[str, ...]:
    calib = ("--calib", str(images), "--calib-count", "20")
    return ("compile", str(net), *NORM, *calib, "--compiler", "path", *more)


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("no-bin", ".bin"),
        ("empty-bin", ".bin"),
        ("garbage", "stage"),
        ("killed", "memory"),
        ("disk-full", "space"),
        ("traceback", "stage"),
    ],
)
def test_a_failing_compiler_leaves_nothing_and_loses_nothing(
    edge: Run, tmp_path: Path, net: Path, images: Path, fake_compiler: FakeCompiler, mode: str, says: str
) -> None:
    code, _, err = edge(*portable(net, images))
    assert code == 0, err
    before = manifest_of(tmp_path)
    fake_compiler.mode(mode)
    code, out, err = edge(*fake(net, images))
    assert code == 1
    assert out == ""
    assert "error: " in err
    assert says in err
    assert manifest_of(tmp_path) == before
    check_hashes(tmp_path)
    assert not list((tmp_path / "build/net/.stages").glob("compile-*"))
    assert not list((tmp_path / "build/net/.stages").glob(".*"))


def test_a_hanging_compiler_is_stopped_with_its_children(
    edge: Run, net: Path, images: Path, fake_compiler: FakeCompiler
) -> None:
    fake_compiler.mode("ok")
    assert edge("render", *fake(net, images)[1:])[0] == 0
    fake_compiler.mode("hang")
    code, _, err = edge(*fake(net, images, "--timeout", "0.05"))
    assert code == 1
    assert "time limit" in err
    assert "--timeout" in err
    assert fake_compiler.pids()
    assert wait_for(lambda: all(map(gone, fake_compiler.pids())))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_resumes(
    edge: Run, net: Path, images: Path, fake_compiler: FakeCompiler, number: int
) -> None:
    fake_compiler.mode("ok")
    assert edge("render", *fake(net, images)[1:])[0] == 0
    fake_compiler.mode("hang")
    process = subprocess.Popen([sys.executable, "-m", "edge", *fake(net, images)], stderr=subprocess.PIPE)
    try:
        assert wait_for(fake_compiler.pids)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in err
    last = "interrupted; finished stages are kept, and the same command continues from there"
    assert err.decode().splitlines()[-1] == last
    assert "failed" not in err.decode()
    fake_compiler.mode("ok")
    code, out, err_text = edge(*fake(net, images, "--json"))
    assert code == 0, err_text
    assert json.loads(out)["cached"] is False
    assert err_text.count("unchanged") == 4  # export, simplify, calibrate, render


def test_without_a_compiler_the_next_step_is_told(
    edge: Run, net: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "empty-cache"))
    code, _, err = edge("compile", str(net), *NORM, "--calib", str(images))
    assert code == 1
    assert "edge toolchain install" in err


def test_where_none_can_be_had_onnxruntime_is_taken_loudly(
    edge: Run, net: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "empty-cache"))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    arguments = [a for a in portable(net, images) if a not in ("--compiler", "onnxruntime")]
    code, out, err = edge(*arguments)
    assert code == 0, err
    assert "NO COMPILER" in err
    assert json.loads(out)["toolchain"]["kind"] == "onnxruntime"


def test_labels_of_other_classes_are_named(edge: Run, net: Path, images: Path) -> None:
    names = "\n".join(f"{path.relative_to(images)},9" for path in sorted(images.rglob("*.png")))
    (images / "labels.csv").write_text("filename,class_index\n" + names + "\n")
    code, _, err = edge(*portable(net, images))
    assert code == 1
    assert "9" in err
    assert "0..3" in err


def test_a_foreign_build_folder_is_left_alone(edge: Run, tmp_path: Path, net: Path, images: Path) -> None:
    (tmp_path / "build/net").mkdir(parents=True)
    (tmp_path / "build/net/mine.txt").write_text("mine")
    code, _, err = edge(*portable(net, images))
    assert code == 1
    assert "mine.txt" in err
    assert [path.name for path in (tmp_path / "build/net").iterdir()] == ["mine.txt"]


def test_two_builds_at_once_both_end_well(tmp_path: Path, net: Path, images: Path) -> None:
    argv = [sys.executable, "-m", "edge", *portable(net, images)]
    both = [subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in "ab"]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()
    check_hashes(tmp_path)


def test_another_source_of_the_same_name_replaces_nothing_unasked(
    edge: Run, tmp_path: Path, net: Path, images: Path
) -> None:
    code, _, err = edge(*portable(net, images))
    assert code == 0, err
    before = manifest_of(tmp_path)
    (tmp_path / "runB").mkdir()
    other = save_net(tmp_path / "runB" / "net.onnx", weight=2.0)
    code, _, err = edge(*portable(other, images))
    assert code == 1
    assert "build/net was built from net.onnx, and this is runB/net.onnx" in err
    assert manifest_of(tmp_path) == before
    # Both remedies that it names work.
    assert edge(*portable(other, images, "--name", "net_2"))[0] == 0
    assert manifest_of(tmp_path) == before
    assert edge(*portable(other, images, "--name", "net"))[0] == 0
    assert manifest_of(tmp_path)["artifacts"][0]["sha256"] != before["artifacts"][0]["sha256"]


def test_the_same_file_with_other_weights_is_built_again(edge: Run, tmp_path: Path, net: Path, images: Path) -> None:
    assert edge(*portable(net, images))[0] == 0
    before = manifest_of(tmp_path)
    save_net(net, weight=2.0)
    assert edge(*portable(net, images))[0] == 0
    assert manifest_of(tmp_path)["artifacts"][0]["sha256"] != before["artifacts"][0]["sha256"]


def test_names_keep_letters_of_any_script(edge: Run, tmp_path: Path, images: Path) -> None:
    for name in ("模型", "网络", "модель"):
        code, _, err = edge(*portable(save_net(tmp_path / f"{name}.onnx"), images))
        assert code == 0, err
        assert list((tmp_path / "build" / name).glob(f"{name}_*_portable_int8.onnx"))


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b"])
def test_a_name_that_is_none(edge: Run, tmp_path: Path, net: Path, images: Path, name: str) -> None:
    code, _, err = edge(*portable(net, images, "--name", name))
    assert code == 2
    assert "it names files" in err
    assert not (tmp_path / "build").exists()


def test_the_steps_of_an_evaluation_share_one_bar() -> None:
    class Seen(Quiet):
        def __init__(self) -> None:
            super().__init__()
            self.fractions: list[float | None] = []

        def update(self, text: str, fraction: float | None = None) -> None:
            self.fractions.append(fraction)

    seen = Seen()
    inside = Inside(seen, steps=4)
    for step in ("float", "nv12", "calibrated", "portable"):
        inside.begin(step)
        inside.update("half", 0.5)
        inside.update("done", 1.0)
    assert seen.fractions == [number / 8 for number in range(1, 9)]
    alone = Inside(seen)  # how many there are is not known
    alone.begin("float")
    alone.update("half", 0.5)
    assert seen.fractions[-1] == 0.5
