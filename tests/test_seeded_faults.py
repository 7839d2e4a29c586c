"""Faults put in where a user would make them: ``edge diagnose`` names the step or layer, and what mends it.

One small trained net, built by the vendor's compiler at O0 where the fault lies behind the calibration.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge.compiler.run import makertbin
from edge.simulate.portable.translate import translate
from edge.toolchain.found import Toolchain
from tests import trained_net
from tests.conftest import Run

pytestmark = pytest.mark.compiler

MEAN, STD = "123.675,116.28,103.53", "58.395,57.12,57.375"
COUNT = 160
Builder = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks and images."""
    root = tmp_path_factory.mktemp("faults")
    weights = trained_net.train()
    onnx.save(trained_net.network(weights), root / "trained.onnx")
    onnx.save(trained_net.network(weights, own_normalisation=True), root / "normalises.onnx")
    onnx.save(trained_net.network(trained_net.with_outlier(weights)), root / "outlier.onnx")
    trained_net.save_images(root / "val", COUNT, seed=11)
    trained_net.save_images(root / "calib", 48, seed=12)
    trained_net.save_noise(root / "noise", 48)
    return root


def build(folder: Path, net: str, name: str, *options: str, calib: str = "calib") -> Path:
    arguments = [
        f"{net}.onnx", "--mean", MEAN, "--std", STD, "--resize", "64", "--images", "val", "--count", "96",
        "--calib", calib, "--calib-count", "48", "--level", "O0", "--build-dir", name, *options,
    ]  # fmt: skip
    argv = [sys.executable, "-m", "edge", "build", *arguments]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / name / net


@pytest.fixture(scope="module")
def compiled(folder: Path, toolchain: Toolchain) -> Iterator[Callable[[str], Path]]:
    """The builds by the vendor's compiler, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        started: dict[str, Future[Path]] = {
            "healthy": pool.submit(build, folder, "trained", "healthy"),
            "noise": pool.submit(build, folder, "trained", "noisy", calib="noise"),
            "outlier": pool.submit(build, folder, "outlier", "odd"),
        }
        yield lambda name: started[name].result()


def diagnose(edge: Run, build: Path, images: Path) -> tuple[dict[str, Any], str]:
    """Return diagnosis.json, and what a person reads."""
    code, out, err = edge("diagnose", str(build), "--images", str(images), "--count", str(COUNT))
    assert code == 0, err
    return json.loads((build / "diagnosis.json").read_text()), re.sub(r"\s+", " ", out)


def explained(edge: Run, build: Path, images: Path, steps: str) -> dict[str, Any]:
    code, out, err = edge(
        "eval", str(build), "--images", str(images), "--count", str(COUNT), "--steps", steps, "--json"
    )
    assert code == 0, err
    return dict(json.loads(out))


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def listed_again(build: Path, without: tuple[str, ...] = ()) -> None:
    """Bring sizes and hashes in manifest.json and metadata.json up to date with the files.

    Args:
        build: its folder.
        without: roles that are no longer listed.
    """
    for name, key in (("metadata.json", "files"), ("manifest.json", "artifacts")):  # the second lists the first
        document = json.loads((build / name).read_text())
        if isinstance(document[key], dict):
            document[key] = {role: entry for role, entry in document[key].items() if role not in without}
        else:
            document[key] = [entry for entry in document[key] if entry["role"] not in without]
        entries = document[key]
        for entry in entries.values() if isinstance(entries, dict) else entries:
            data = (build / entry["path"]).read_bytes()
            entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
        (build / name).write_text(json.dumps(document))


def test_a_healthy_build_raises_no_alarm(compiled: Callable[[str], Path], folder: Path, edge: Run) -> None:
    found, text = diagnose(edge, compiled("healthy"), folder / "val")
    assert found["verdict"].startswith("No fault found")
    assert not any(check["better"] for check in found["input_checks"])
    assert not [remedy for remedy in found["remedies"] if "16-bit" not in remedy["what"]]
    assert not [note for note in found["notes"] if "differ" in note or "normalisation" in note]
    assert "No fault found" in text


def test_swapped_channels(folder: Path, edge: Run) -> None:
    wrong = build(folder, "trained", "swapped", "--color", "bgr", "--compiler", "onnxruntime")
    found, text = diagnose(edge, wrong, folder / "val")
    assert re.search(r"input is wrong: swapped channels gives Top-1 \d+\.\d → 100\.0 %", found["verdict"])
    best = found["remedies"][0]
    assert "--color rgb" in best["how"]
    assert best["gain"] > 30
    assert best["figure"] in text


def test_mean_and_std_applied_twice(folder: Path, edge: Run) -> None:
    wrong = build(folder, "normalises", "twice", "--compiler", "onnxruntime")
    found, _ = diagnose(edge, wrong, folder / "val")
    assert "the ONNX normalises its input itself (Sub 123.7" in found["verdict"]
    assert "applied twice" in found["verdict"]
    best = found["remedies"][0]
    assert "--mean 0 --std 1" in best["how"]
    assert best["gain"] > 30
    bare = folder / "bare"
    bare.mkdir()
    for path in (folder / "val").rglob("*.png"):
        shutil.copy2(path, bare / path.name)
    found, _ = diagnose(edge, wrong, bare)
    assert not found["labelled"]
    assert {check["measure"] for check in found["input_checks"]} == {"confidence", "agreement"}
    assert "input seems wrong: no mean and std, 0..255" in found["verdict"]
    assert "--mean 0 --std 1" in found["remedies"][0]["how"]


def test_images_of_video_range(compiled: Callable[[str], Path], folder: Path, edge: Run) -> None:
    """A camera's video-range NV12, taken for full range, gives washed-out images."""
    washed = folder / "washed"
    for path in (folder / "val").rglob("*.png"):
        target = washed / path.relative_to(folder / "val")
        target.parent.mkdir(parents=True, exist_ok=True)
        image = np.asarray(cv2.imread(str(path)), np.float32)
        cv2.imwrite(str(target), np.rint(image * 219 / 255 + 16).astype(np.uint8))
    found, _ = diagnose(edge, compiled("healthy"), washed)
    assert "the images are of video range (pixels " in found["verdict"]
    assert "Decode the images as video range" in found["remedies"][0]["what"]
    assert found["remedies"][0]["gain"] > 5


def test_a_program_compiled_for_video_range(
    compiled: Callable[[str], Path], folder: Path, edge: Run, toolchain: Toolchain
) -> None:
    wrong = copied(compiled("healthy"), folder / "video" / "trained")
    (yaml,) = wrong.glob("*.yaml")
    text = yaml.read_text().replace("'regular'", "'bt601_video'", 2)
    assert "input_space_and_range: 'bt601_video'" in text
    yaml.write_text(text)
    prefix = "trained_64x64_nv12"
    names = ("trained_bpu.onnx", "calibration_data_rgb_f32")
    out = folder / "video" / "out"
    out.mkdir()
    makertbin(
        toolchain, yaml=yaml, files={name: wrong / name for name in names}, out=out, prefix=prefix,
        working_dir="model_output", key="seededvideorange",
    )  # fmt: skip
    for path in out.iterdir():
        if (wrong / path.name).is_file():
            shutil.copy2(path, wrong / path.name)
    listed_again(wrong, without=("portable_onnx", "portable"))  # no portable rule for video range
    found, _ = diagnose(edge, wrong, folder / "val")
    assert "NV12's range is wrong: the program was compiled for video range" in found["verdict"]
    best = found["remedies"][0]
    assert best["how"].startswith("input_space_and_range: regular")
    check = next(c for c in found["input_checks"] if c["change"] == "video-range NV12")
    assert check["better"]


def test_calibration_on_noise(compiled: Callable[[str], Path], folder: Path, edge: Run) -> None:
    found, _ = diagnose(edge, compiled("noise"), folder / "val")
    assert "Calibration is at fault: the calibration images are noise" in found["verdict"]
    best = found["remedies"][0]
    assert best["what"].startswith("Calibrate on images like those")
    assert "--calib DIR" in best["how"]
    assert best["gain"] > 0
    assert "agreement with float" in best["figure"]


def test_a_ruined_weight(compiled: Callable[[str], Path], folder: Path, edge: Run) -> None:
    """Outliers that multiply a channel of zeros: nothing in float, a coarse step for all others in int8."""
    found, _ = diagnose(edge, compiled("outlier"), folder / "val")
    assert found["verdict"].startswith("A weight of layer block is ruined by rounding: w2[")
    best = found["remedies"][0]
    assert "Clip the outlier in w2 (layer block)" in best["what"]
    assert best["gain"] > 10
    shares = {share["part"]: share for share in found["shares"]}
    assert shares["weights"]["agreement"] < 0.9 < shares["activations"]["agreement"]
    worst = min(found["units"], key=lambda unit: unit["alone_cosine"])
    assert worst["name"] == "block"
    table = explained(edge, compiled("outlier"), folder / "val", "simplified,nv12,calibrated,portable")
    costs = {step["name"]: step["change"]["points"] for step in table["steps"] if step["change"]}
    assert min(costs, key=lambda name: costs[name]) == "calibrated"


def test_integers_of_a_weight_overwritten(compiled: Callable[[str], Path], folder: Path, edge: Run) -> None:
    wrong = copied(compiled("healthy"), folder / "overwritten" / "trained")
    (quantized,) = wrong.glob("*_quantized_model.onnx")
    model = onnx.load(quantized)
    node = next(node for node in model.graph.node if node.name == "/block/Conv")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    good = numpy_helper.to_array(tensor)
    bad = np.random.default_rng(0).integers(-127, 128, good.shape, np.int8)
    tensor.CopyFrom(numpy_helper.from_array(bad, tensor.name))
    onnx.save(model, quantized)
    translate(quantized=quantized, prefix="trained_64x64_nv12", out=wrong)
    listed_again(wrong)
    found, _ = diagnose(edge, wrong, folder / "val")
    assert found["verdict"].startswith("The quantized model's integers are at fault")
    assert "w2 (" in found["verdict"]
    assert "Compile again" in found["remedies"][0]["what"]
    assert found["remedies"][0]["gain"] > 10
    table = explained(edge, wrong, folder / "val", "simplified,nv12,calibrated,portable")
    costs = {step["name"]: step["change"]["points"] for step in table["steps"] if step["change"]}
    assert min(costs, key=lambda name: costs[name]) == "portable"
