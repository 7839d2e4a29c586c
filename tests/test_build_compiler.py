"""``edge build`` with the vendor's real compiler, on small nets and at O0."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from attrs import frozen
from onnx import TensorProto, helper, numpy_helper

from edge.board.transfer import record
from edge.compiler.run import makertbin
from edge.folder.workspace import content_key
from edge.images.preprocess import decode, network_input, resize_crop, rgb_to_nv12
from edge.runtime import load
from edge.toolchain.found import Toolchain
from tests.conftest import save_images

pytestmark = pytest.mark.compiler

NORM = ("--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375", "--resize", "64", "--level", "O0")


def save_small_net(path: Path, seed: int = 0, side: int = 64) -> Path:
    """Two convolutions, ReLU, pooling and a head: 64x64, or another size, to 4 classes."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="/stem/Conv", strides=[4, 4], kernel_shape=[4, 4]),
        helper.make_node("Relu", ["c1"], ["r1"], name="/stem/act/Relu"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="/block/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name="/block/act/Relu"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="/head/pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="/head/Flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], name="/head/fc/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [
            weight("w1", 16, 3, 4, 4), weight("b1", 16), weight("w2", 16, 16, 3, 3), weight("b2", 16),
            weight("w3", 4, 16), weight("b3", 4),
        ],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


@frozen
class Built:
    """One build of the small net, shared by the tests that only look at it."""

    folder: Path
    arguments: tuple[str, ...]
    manifest: dict[str, Any]

    @property
    def root(self) -> Path:
        return self.folder / "build" / "small"


def build(folder: Path, *arguments: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "edge", "build", *arguments, "--json"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain) -> Built:
    folder = tmp_path_factory.mktemp("small")
    net = save_small_net(folder / "small.onnx")
    images = save_images(folder / "images", 24)
    data = ("--images", str(images), "--calib", str(images), "--calib-count", "20")
    arguments = (str(net), *NORM, *data)
    return Built(folder, arguments, build(folder, *arguments))


def test_the_result_on_disk(built: Built, toolchain: Toolchain) -> None:
    manifest, root = built.manifest, built.root
    assert (root / "small_64x64_nv12.bin").stat().st_size > 1000
    names = {path.name for path in root.iterdir()}
    for part in ("original_float", "optimized_float", "calibrated", "quantized"):
        assert f"small_64x64_nv12_{part}_model.onnx" in names
    assert {"small_64x64_nv12.yaml", "hb_mapper_makertbin.log", "hb_mapper_checker.log"} <= names
    assert {"report.html", "report.md", "report.json", "build_eval.json"} <= names

    net = (built.folder / "small.onnx").read_bytes()
    assert manifest["schema_version"] == 1
    assert manifest["model"] == "small"
    assert manifest["weights"]["source"] == "onnx"
    assert manifest["weights"]["sha256"] == hashlib.sha256(net).hexdigest()
    assert manifest["toolchain"]["versions"] == dict(toolchain.versions)
    assert manifest["static"]["fps"] == pytest.approx(1e6 / manifest["static"]["latency_us"], rel=0.01)
    assert manifest["static"]["ddr_bytes"] > 0
    assert (manifest["static"]["march"], manifest["static"]["optimize_level"]) == ("bayes-e", "O0")
    assert manifest["placement"]["bpu"] >= 4
    assert manifest["placement"]["cpu_inside"] == []
    assert manifest["calibration"]["n"] == 20
    assert manifest["accuracy"]["n"] == 24
    for step in ("float", "quantized"):
        assert 0 <= manifest["accuracy"][step]["top1"] <= manifest["accuracy"][step]["top5"] <= 100
    stages = ["export", "simplify", "check", "calibrate", "render", "compile"]
    stages += ["portable", "verify", "eval"]
    assert [stage["name"] for stage in manifest["stages"]] == stages
    assert manifest["stages"][5]["command"] == "hb_mapper makertbin -c small_64x64_nv12.yaml --model-type onnx"
    for artifact in manifest["artifacts"]:
        assert not Path(artifact["path"]).is_absolute()
        assert hashlib.sha256((root / artifact["path"]).read_bytes()).hexdigest() == artifact["sha256"]


def test_the_compiled_program_is_what_was_measured(built: Built) -> None:
    proof = built.manifest["verify"]
    assert proof["frames"] >= 3
    assert (proof["bit_exact"], proof["max_abs_diff"], proof["integers"]) == (True, 0, 4)
    assert "equals the quantized model bit for bit: 3 frames" in (built.root / "report.md").read_text()


def test_the_build_folder_runs_as_it_is(built: Built) -> None:
    """What the runtime reads is there, and the portable model measured the program."""
    assert built.manifest["verify"]["portable_exact"] is True
    assert built.manifest["accuracy"]["quantized_by"].startswith("the portable model")
    image = next(built.folder.rglob("*.png"))
    answers = []
    for backend in ("hbdk_sim", "quantized", "portable"):
        with load(built.root, backend) as net:
            assert net.backend == backend
            assert net.info.exact
            answers.append(net.scores(image))
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[1], answers[2])


def test_board_figures_outlive_a_rebuild_of_the_same_program(built: Built) -> None:
    sha256 = built.manifest["artifacts"][0]["sha256"]
    assert record(built.root, sha256, {"perf": {"runs": []}})
    assert build(built.folder, *built.arguments)["board"] == {"bin_sha256": sha256, "perf": {"runs": []}}
    assert record(built.root, "another", {"perf": {"runs": []}})
    assert "board" not in build(built.folder, *built.arguments)


def test_no_path_of_this_machine_leaks(built: Built) -> None:
    for name in ("manifest.json", "report.md", "small_64x64_nv12.yaml", "small_64x64_nv12.bin"):
        assert str(built.folder).encode() not in (built.root / name).read_bytes(), name


def test_int8_answers_like_float(built: Built) -> None:
    assert built.manifest["accuracy"]["cosine"] > 0.98


def test_an_unchanged_build_reuses_every_stage(built: Built) -> None:
    assert all(stage["cached"] for stage in build(built.folder, *built.arguments)["stages"])


def test_the_same_inputs_give_the_same_bytes_elsewhere(built: Built, tmp_path: Path) -> None:
    place = str(tmp_path / "quite" / "another" / "place")
    elsewhere = build(built.folder, *built.arguments, "--build-dir", place)
    assert not any(stage["cached"] for stage in elsewhere["stages"])
    assert elsewhere["artifacts"][0] == built.manifest["artifacts"][0]
    assert elsewhere["artifacts"][0]["role"] == "bin"


@pytest.mark.parametrize(
    ("variables", "cores"),
    [
        pytest.param({"HARMLESS": "x"}, 2, id="a variable"),
        pytest.param({"HARMLESS": "x" * 3001}, 2, id="a long variable"),
        pytest.param({"USER": "someone", "LOGNAME": "someone", "HOME": "/nowhere"}, 2, id="another user"),
        pytest.param({"PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}, 2, id="hash seed and threads"),
        pytest.param({"HARMLESS": "x" * 17}, 1, id="one core"),
    ],
)
def test_the_same_inputs_give_the_same_bytes_in_any_environment(
    variables: dict[str, str],
    cores: int,
    built: Built,
    toolchain: Toolchain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The length of a variable shifts addresses, and the compiler keeps sets that hash by address."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stage = next((built.root / ".stages").glob("compile-*"))
    config = built.root / "small_64x64_nv12.yaml"
    onnx_name = yaml_value(config, "onnx_model")
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(every)[:cores]))
    try:
        made = makertbin(
            toolchain,
            yaml=config,
            files={
                onnx_name: built.root / onnx_name,
                yaml_value(config, "cal_data_dir"): built.root / yaml_value(config, "cal_data_dir"),
            },
            out=tmp_path,
            prefix="small_64x64_nv12",
            working_dir=yaml_value(config, "working_dir"),
            key=content_key("compile", json.loads((stage / "stage.json").read_text())["inputs"]),
        )
    finally:
        os.sched_setaffinity(0, every)
    digest = hashlib.sha256((tmp_path / made.bin).read_bytes()).hexdigest()
    assert digest == built.manifest["artifacts"][0]["sha256"]


def yaml_value(path: Path, key: str) -> str:
    """Return a value of a mapper YAML, whichever group it stands in."""
    groups = yaml.safe_load(path.read_text())
    return next(str(group[key]) for group in groups.values() if key in group)


def test_the_published_yaml_compiles_by_hand(built: Built, tmp_path: Path, toolchain: Toolchain) -> None:
    copy = shutil.copytree(built.root, tmp_path / "copy", symlinks=False)
    command = ["hb_mapper", "makertbin", "-c", "small_64x64_nv12.yaml", "--model-type", "onnx"]
    done = toolchain.run(command, cwd=copy, timeout=300)
    assert done.returncode == 0, done.tail
    assert (copy / "model_output" / "small_64x64_nv12.bin").stat().st_size > 1000


@pytest.mark.parametrize(("side", "canvas"), [(112, (112, 128)), (225, (226, 256)), (299, (300, 320))])
def test_a_network_of_any_size_is_built(
    side: int, canvas: tuple[int, int], tmp_path: Path, toolchain: Toolchain
) -> None:
    net, images = save_small_net(tmp_path / "odd.onnx", side=side), save_images(tmp_path / "images", 24)
    arguments = (
        *NORM[:4],
        "--resize",
        str(side + 10),
        "--level",
        "O0",
        "--images",
        str(images),
        "--calib",
        str(images),
    )
    manifest = build(tmp_path, str(net), *arguments)
    proof, placed = manifest["verify"], manifest["placement"]
    assert (proof["bit_exact"], proof["max_abs_diff"], proof["integers"]) == (True, 0, 4)
    assert proof["portable_exact"] is True
    assert placed["cpu_inside"] == []
    assert placed["bpu"] == 6, "the preprocessing, the Slice, two convolutions, the pooling, the head"
    assert manifest["preprocess"]["crop"] == [side, side]
    assert (tmp_path / "build" / "odd" / f"odd_{canvas[1]}x{canvas[0]}_nv12.bin").is_file()
    with load(tmp_path / "build" / "odd") as made:
        assert made.info.inputs[0].size == canvas
        assert made.preprocess is not None
        rgb = resize_crop(decode(min(images.rglob("*.*"))), made.preprocess)
        scores = made.run(rgb_to_nv12(rgb))[0]
        # What is beside the network's own pixels changes nothing.
        rgb[side:], rgb[:, side:] = 255, 0
        np.testing.assert_array_equal(made.run(rgb_to_nv12(rgb))[0], scores)
    (exported,) = tmp_path.glob("build/odd/.stages/export-*/odd.onnx")
    own = onnxruntime.InferenceSession(net, providers=["CPUExecutionProvider"])
    whole = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    seen = network_input(rgb, made.preprocess)
    np.testing.assert_array_equal(
        own.run(None, {"x": np.ascontiguousarray(seen[:, :, :side, :side])})[0], whole.run(None, {"x": seen})[0]
    )
    spread = np.ptp(whole.run(None, {"x": seen})[0])
    np.testing.assert_allclose(scores.reshape(1, -1), whole.run(None, {"x": seen})[0], atol=0.1 * spread)


@pytest.mark.slow
def test_a_trained_mobilenet_keeps_its_accuracy(mobilenet: Path) -> None:
    accuracy = json.loads((mobilenet / "manifest.json").read_text())["accuracy"]
    assert accuracy["n"] == 500
    assert 66 <= accuracy["float"]["top1"] <= 72
    assert accuracy["drop"] <= 1.5
