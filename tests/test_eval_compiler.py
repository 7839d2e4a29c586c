"""``edge eval`` on a trained network, a real program, and photographs."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest

from edge.accuracy import NAMES
from edge.simulate.vendor import QuantizedModel
from edge.toolchain.found import Toolchain
from tests.conftest import save_images
from tests.test_build_compiler import NORM, save_small_net

pytestmark = [pytest.mark.compiler]


def edge_eval(build: Path, *options: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "edge", "eval", str(build), *options, "--json"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def triangle(size: int, out: int) -> np.ndarray:
    """Weights, (out, size), of a linear filter that widens as it shrinks."""
    scale = size / out
    centre = (np.arange(out) + 0.5) * scale
    distance = np.abs(np.arange(size)[None] + 0.5 - centre[:, None]) / max(scale, 1.0)
    weights = np.maximum(0.0, 1.0 - distance)
    return weights / weights.sum(axis=1, keepdims=True)


def float_top1(model: Path, images: Path) -> float:
    """Top-1 in percent, by nothing of edge's: OpenCV decodes, matrices resize, onnxruntime answers."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    rows = list(csv.DictReader((images / "labels.csv").open()))
    right = 0
    for row in rows:
        rgb = cv2.imread(str(images / row["filename"]))[..., ::-1].astype(np.float64)
        height, width = rgb.shape[:2]
        longer = int(256 * max(height, width) / min(height, width))
        size = (longer, 256) if width <= height else (256, longer)
        rgb = np.einsum("oh,hwc->owc", triangle(height, size[0]), rgb, optimize=True)
        rgb = np.einsum("pw,owc->opc", triangle(width, size[1]), rgb, optimize=True)
        top, left = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
        crop = np.clip(np.rint(rgb[top : top + 224, left : left + 224]), 0, 255)
        data = ((crop - 127.5) / 127.5).astype(np.float32).transpose(2, 0, 1)[None]
        answer = session.run(None, {session.get_inputs()[0].name: data})[0].argmax()
        right += int(answer) == int(row["class_index"])
    return 100 * right / len(rows)


@pytest.mark.slow
def test_the_float_row_is_an_independent_evaluations(mobilenet: Path, shared: Path) -> None:
    images = shared / "data/imagenet_val_500"
    found = edge_eval(mobilenet, "--images", str(images), "--steps", "float")
    score = found["steps"][0]["score"]
    ours = 100 * score["top1_right"] / score["n"]
    assert score["n"] == 500
    independent = float_top1(shared / "models/mobilenet_v1_0.75_224_float.onnx", images)
    assert ours == pytest.approx(independent, abs=0.5)
    assert found["steps"][0]["computed"] == 0  # the build had measured it


@pytest.mark.slow
def test_program_quantized_and_portable_answer_alike(mobilenet: Path, shared: Path) -> None:
    images = str(shared / "data/imagenet_val_500")
    found = edge_eval(mobilenet, "--images", images, "--count", "60", "--program-count", "6")
    steps = {step["name"]: step for step in found["steps"]}
    assert list(steps) == [name for name in NAMES if name != "board"]
    assert steps["program"]["n"] == steps["program"]["identical_before"] == 6
    assert steps["portable"]["n"] == steps["portable"]["identical_before"] == 60
    assert (steps["program"]["before"], steps["portable"]["before"]) == ("quantized", "quantized")
    rows = list(csv.DictReader((mobilenet / "answers.csv").open()))
    sampled = [row for row in rows if row["program"]]
    assert (len(rows), len(sampled)) == (60, 6)
    assert all(row["quantized"] == row["program"] == row["portable"] for row in sampled)
    assert all(row["quantized"] == row["portable"] for row in rows)
    # int8 keeps most answers, and the simulation in float foretells the integers.
    assert steps["quantized"]["agreement"] >= 48
    assert steps["quantized"]["cosine_before"] > 0.99
    assert "bit for bit on the 6 images it was tried on" in " ".join(found["explanation"])


def test_the_compilers_float_models_answer_like_onnxruntime(toolchain: Toolchain, tmp_path: Path) -> None:
    """The worker feeds them YUV444 as the vendor's runtime wants it."""
    from edge.folder.built import open_built
    from edge.images.preprocess import decode, resize_crop, rgb_to_nv12
    from edge.measure.networks import FloatNet

    net = save_small_net(tmp_path / "small.onnx")
    images = save_images(tmp_path / "images", 24)
    argv = [sys.executable, "-m", "edge", "build", str(net), *NORM, "--calib", str(images)]
    argv += ["--calib-count", "20", "--images", str(images), "--build-dir", str(tmp_path / "build")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = open_built(tmp_path / "build" / "small")
    rule = built.metadata.preprocess
    runner = FloatNet(built.file("bpu_onnx"), rule)
    models = {role: QuantizedModel(toolchain, built.file(role)) for role in ("original_float_onnx", "calibrated_onnx")}
    try:
        for model in models.values():
            model.wait_ready()
        for path in sorted(images.rglob("*.png"))[:5]:
            rgb = np.ascontiguousarray(resize_crop(decode(path), rule))
            scores = {role: model.run(rgb_to_nv12(rgb))[0].ravel() for role, model in models.items()}
            expected = runner.behind_nv12(rgb_to_nv12(rgb))
            assert scores["original_float_onnx"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
            near = float(scores["calibrated_onnx"] @ expected)
            near /= float(np.linalg.norm(scores["calibrated_onnx"]) * np.linalg.norm(expected))
            assert 0.98 < near < 1 - 1e-9
    finally:
        for model in models.values():
            model.close()
