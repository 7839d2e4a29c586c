"""PaddlePaddle and MindSpore models to ONNX and on to a program: real networks, then frameworks that fail."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from attrs import evolve
from onnx import TensorProto, helper, numpy_helper

from edge.errors import InputError, ModelFileError, ToolchainError, ToolchainMissing, WorkspaceError
from edge.graph.files import open_session
from edge.sources import mindcv
from edge.sources.convert import Converted, compare, convert, normal_form
from edge.specs import Preprocess
from edge.toolchain import managed
from edge.toolchain.found import Toolchain
from edge.toolchain.install import install, require_platform
from edge.toolchain.managed import FRAMEWORKS
from tests.conftest import save_net

Run = Callable[..., tuple[int, str, str]]
PREPROCESS = Preprocess(crop=(64, 64), resize=73, mean=(127.5,) * 3, std=(127.5,) * 3)
SMALL = evolve(PREPROCESS, crop=(32, 32), resize=37)  # convnext_tiny is no small network
STATED = ("--mean", "127.5", "--std", "127.5", "--crop")


def environment(name: str) -> Toolchain:
    """Return a framework's managed environment, installed when it is not there yet."""
    if os.environ.get("EDGE_SKIP_FRAMEWORKS"):
        pytest.skip("EDGE_SKIP_FRAMEWORKS is set")
    wanted = FRAMEWORKS[name]
    where = managed.place(wanted)
    if not managed.why_unusable(where):
        return managed.toolchain(where)
    try:
        require_platform(wanted)
    except ToolchainMissing as error:
        pytest.skip(error.seen)
    return install(wanted)  # on a platform that can, a failing install is a failing test


def models(name: str, tool: Toolchain, folder: Path) -> Path:
    script = Path(__file__).with_name("framework_nets.py")
    done = tool.run_python([str(script), name, str(folder)], cwd=folder, timeout=600)
    assert done.returncode in (0, -6, -11), done.tail  # MindSpore may fall over while it is taken apart
    assert any(folder.iterdir()), done.tail
    return folder


@pytest.fixture(scope="session")
def paddle() -> Toolchain:
    return environment("paddle")


@pytest.fixture(scope="session")
def mindspore() -> Toolchain:
    return environment("mindspore")


@pytest.fixture(scope="session")
def paddle_nets(paddle: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models("paddle", paddle, tmp_path_factory.mktemp("paddle"))


@pytest.fixture(scope="session")
def mindspore_nets(mindspore: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models("mindspore", mindspore, tmp_path_factory.mktemp("mindspore"))


def converted(source: str, file: Path, tool: Toolchain, out: Path, **changes: Any) -> Converted:
    arguments: dict[str, Any] = {
        "source": source,
        "file": file,
        "network": None,
        "classes": None,
        "preprocess": PREPROCESS,
        "environment": tool,
        "target": out / "net.onnx",
        "log": out / "export.log",
        "seed": 0,
        "timeout": 300.0,
    }
    return convert(**{**arguments, **changes})


# PaddlePaddle -----------------------------------------------------------------------------------------------


@pytest.mark.compiler
def test_a_paddle_network_becomes_a_program(edge: Run, toolchain: Toolchain, paddle_nets: Path, tmp_path: Path) -> None:
    config = {
        "Global": {"model_name": "mobilenet"},
        "PreProcess": {
            "transform_ops": [
                {"ResizeImage": {"resize_short": 73}},
                {"CropImage": {"size": 64}},
                {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}},
                {"ToCHWImage": None},
            ]
        },
        "PostProcess": {"Topk": {"topk": 5, "label_list": [f"class {i}" for i in range(10)]}},
    }
    (paddle_nets / "open" / "inference.yml").write_text(json.dumps(config))
    words = ("--paddle", str(paddle_nets / "open"), "--level", "O0", "--calib-count", "20", "--count", "20")
    code, out, err = edge("build", *words)
    assert code == 0, err
    assert "mean 127.5 127.5 127.5" in err
    assert "of PaddlePaddle's scores" in err
    root = tmp_path / "build" / "mobilenet"
    assert (root / "mobilenet_64x64_nv12.bin").is_file(), out
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["weights"]["source"] == "paddle"
    assert manifest["exporter"] == "paddlepaddle 3.3.1, paddle2onnx 2.1.0"
    assert manifest["export_max_error"] <= 1e-3
    assert manifest["verify"]["bit_exact"] is True
    assert (root / "labels.txt").read_text().splitlines()[9] == "class 9"


def test_a_fixed_input_gives_the_same_bytes_twice(paddle: Toolchain, paddle_nets: Path, tmp_path: Path) -> None:
    file = paddle_nets / "fixed" / "inference.json"
    assert converted("paddle", file, paddle, tmp_path).max_error <= 1e-3
    first = (tmp_path / "net.onnx").read_bytes()
    assert converted("paddle", file, paddle, tmp_path).max_error <= 1e-3
    assert (tmp_path / "net.onnx").read_bytes() == first


@pytest.mark.parametrize(
    ("name", "changes", "seen", "remedy"),
    [
        ("two", {}, "has 2 inputs", "one InputSpec"),
        ("batch8", {}, "8x3x64x64", "None or 1 as the batch"),
        ("fixed", {"crop": (96, 96)}, "1x3x64x64, but 1x3x96x96", "--crop 64x64"),
    ],
)
def test_a_paddle_model_that_does_not_fit_is_told(
    paddle: Toolchain, paddle_nets: Path, tmp_path: Path, name: str, changes: dict[str, Any], seen: str, remedy: str
) -> None:
    pre = evolve(PREPROCESS, **{**changes, "resize": None})
    with pytest.raises(InputError, match=seen) as caught:
        converted("paddle", paddle_nets / name / "inference.json", paddle, tmp_path, preprocess=pre)
    assert remedy in str(caught.value.remedy)
    assert not (tmp_path / "net.onnx").exists()


def test_corrupt_paddle_files_are_told_and_leave_nothing(
    edge: Run, paddle: Toolchain, paddle_nets: Path, tmp_path: Path
) -> None:
    good = paddle_nets / "fixed"
    for broken in ("inference.json", "inference.pdiparams"):
        folder = tmp_path / broken.partition(".")[2]
        folder.mkdir()
        for name in ("inference.json", "inference.pdiparams"):
            data = (good / name).read_bytes()
            (folder / name).write_bytes(data[:1000] if name == broken else data)
        code, _, err = edge("export", "--paddle", str(folder), *STATED, "64")
        assert (code, "Paddle can't load it" in err) == (1, True), err
        assert not list((tmp_path / "build").rglob("*.onnx"))


# MindSpore --------------------------------------------------------------------------------------------------


@pytest.mark.compiler
@pytest.mark.slow
def test_a_mindir_becomes_a_program(
    edge: Run, toolchain: Toolchain, mindspore: Toolchain, mindspore_nets: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "max.yaml"
    recipe.write_text("calibration: {method: max}\n")  # default would calibrate 28 M parameters several times
    words = ("--mindspore", str(mindspore_nets / "net.mindir"), *STATED, "32", "--precision", str(recipe))
    code, _, err = edge("build", *words, "--level", "O0", "--calib-count", "20", "--count", "20")
    assert code == 0, err
    assert "of MindSpore's scores" in err
    assert "INSIDE the network" not in err  # nothing of a LayerNorm is left on the CPU
    assert list((tmp_path / "build" / "net").rglob("net_32x32_nv12.bin"))


def test_a_checkpoint_and_the_mindir_of_the_same_network_agree(
    mindspore: Toolchain, mindspore_nets: Path, tmp_path: Path
) -> None:
    found = []
    for name, network in (("net.ckpt", "convnext_tiny"), ("net.mindir", None)):
        result = converted("mindspore", mindspore_nets / name, mindspore, tmp_path, network=network, preprocess=SMALL)
        assert result.max_error <= 1e-3
        assert result.exporter == "mindspore 2.7.2, mindcv 0.3.0"
        session = open_session(tmp_path / "net.onnx")
        image = np.random.default_rng(1).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
        found.append(session.run(None, {session.get_inputs()[0].name: image})[0])
        operators = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
        assert "ReduceSumSquare" not in operators
    assert np.abs(found[0] - found[1]).max() <= 1e-4 * np.ptp(found[0])


@pytest.mark.parametrize(
    ("network", "classes", "seen"),
    [
        ("resnet18", None, r"does not fit resnet18 with 10 classes: it lacks \d+ of \d+ weights: conv1"),
        ("convnext_tiny", 7, "2 have another shape: classifier.weight 10x768 for 7x768"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_told_with_its_keys(
    mindspore: Toolchain, mindspore_nets: Path, tmp_path: Path, network: str, classes: int | None, seen: str
) -> None:
    file = mindspore_nets / "net.ckpt"
    with pytest.raises(InputError, match=seen):
        converted("mindspore", file, mindspore, tmp_path, network=network, classes=classes, preprocess=SMALL)


@pytest.mark.parametrize(
    ("name", "seen"), [("net.mindir", "not a MindIR file, or it is encrypted"), ("net.ckpt", "can't read it as a")]
)
def test_garbage_is_no_mindspore_model(mindspore: Toolchain, tmp_path: Path, name: str, seen: str) -> None:
    file = tmp_path / name
    file.write_bytes(bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8)))
    network = "convnext_tiny" if name.endswith("ckpt") else None
    with pytest.raises(InputError, match=seen):
        converted("mindspore", file, mindspore, tmp_path, network=network)


def test_a_mindir_of_another_size_is_told(mindspore: Toolchain, mindspore_nets: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1x3x32x32, but 1x3x64x64 was asked for") as caught:
        converted("mindspore", mindspore_nets / "net.mindir", mindspore, tmp_path)
    assert caught.value.remedy == "--crop 32x32"


def test_the_table_of_networks_is_mindcvs_own(mindspore: Toolchain, tmp_path: Path) -> None:
    script = """
import inspect, json, sys
import mindcv
from mindcv.data.transforms_factory import transforms_imagenet_eval
from mindcv.models.registry import model_entrypoint
networks = {}
for name in sorted(mindcv.list_models()):
    config = getattr(sys.modules[model_entrypoint(name).__module__], "default_cfgs", {}).get(name, {})
    keys = ("mean", "std", "crop_pct", "interpolation", "input_size")
    networks[name] = {key: config[key] for key in keys if config.get(key) is not None}
defaults = {n: p.default for n, p in inspect.signature(transforms_imagenet_eval).parameters.items()}
with open(sys.argv[1], "w") as file:
    json.dump({"mindcv": mindcv.__version__, "defaults": defaults, "networks": networks}, file)
"""
    (tmp_path / "table.py").write_text(script)
    found = tmp_path / "table.json"
    done = mindspore.run_python([str(tmp_path / "table.py"), str(found)], cwd=tmp_path, timeout=300)
    assert found.is_file(), done.tail
    assert json.loads(found.read_text()) == mindcv.table()


# no framework needed ----------------------------------------------------------------------------------------


def fake(tmp_path: Path, body: str) -> Toolchain:
    """An environment whose Python is a shell script; $2 is the job."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return Toolchain("managed", str(tmp_path), {}, "fake", str(path))


@pytest.mark.parametrize(
    ("body", "error", "seen"),
    [
        ("exit 7", ToolchainError, "exit status 7"),
        ("kill -SEGV $$", ToolchainError, "signal 11"),
        ("echo what is this; exit 0", ToolchainError, "what is this"),
        ("echo 'No space left on device'; exit 1", ToolchainError, "disk is full"),
        ("echo '[1, 2]'; exit 0", ToolchainError, "exit status 0"),
        ("echo '{\"versions\": {}}'", ToolchainError, "wrote no ONNX"),
        ('echo \'{"error": "it is broken", "remedy": "mend it"}\'; exit 1', InputError, "it is broken"),
        ("sleep 60", ToolchainError, "within 1 s"),
    ],
)
def test_a_framework_that_fails_is_told(tmp_path: Path, body: str, error: type[Exception], seen: str) -> None:
    with pytest.raises(error, match=seen):
        converted("paddle", tmp_path / "inference.json", fake(tmp_path, body), tmp_path, timeout=1.0)
    assert not (tmp_path / "net.onnx").exists()
    assert not list(tmp_path.glob("edge-export-*"))


def answering(tmp_path: Path, shift: float) -> Toolchain:
    """A framework whose scores are ``shift`` of their range away from the ONNX that it writes."""
    net = save_net(tmp_path / "own.onnx")
    script = tmp_path / "answer.py"
    script.write_text(
        f"""
import json, shutil, sys
import numpy as np, onnxruntime
job = json.loads(sys.argv[1])
shutil.copy({str(net)!r}, job["out"])
x = np.random.default_rng(0).uniform(*job["range"], (2, 1, 3, 64, 64)).astype(np.float32)
x[0] += 1
y = np.stack([onnxruntime.InferenceSession({str(net)!r}).run(None, {{"x": p}})[0] for p in x])
np.savez(job["scores"], inputs=x, outputs=(y + {shift} * (y.max() - y.min())).astype(np.float32))
print(json.dumps({{"versions": {{"fake": "1"}}, "notes": ["a note"]}}))
"""
    )
    return fake(tmp_path, f'exec "{sys.executable}" "{script}" "$2"')


def test_the_gate_on_the_numbers_holds_and_fails(tmp_path: Path) -> None:
    file = tmp_path / "inference.json"
    good = converted("paddle", file, answering(tmp_path, 1e-4), tmp_path, timeout=60.0)
    assert (good.exporter, good.notes) == ("fake 1", ("a note",))
    assert 5e-5 < good.max_error < 2e-4
    with pytest.raises(ModelFileError, match=r"other scores than PaddlePaddle: up to .* apart, 0\.002"):
        converted("paddle", file, answering(tmp_path, 2e-3), tmp_path, timeout=60.0)


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    net = save_net(tmp_path / "n.onnx")
    inputs = np.zeros((1, 1, 3, 64, 64), np.float32)
    with pytest.raises(ModelFileError, match="nan or infinity"):
        compare(net, inputs, np.full((1, 1, 4), np.nan, np.float32), "n: ", "MindSpore")
    with pytest.raises(ModelFileError, match="inf of the range"):
        compare(net, inputs, np.zeros((1, 1, 5), np.float32), "n: ", "MindSpore")


def layer_norm(divisor: float) -> onnx.ModelProto:
    """A variance as MindSpore writes it, over the last axis of 8, divided by ``divisor``."""
    nodes = [
        helper.make_node("Constant", [], ["n"], value=helper.make_tensor("v", TensorProto.FLOAT, (), [divisor])),
        helper.make_node("ReduceSumSquare", ["x"], ["s"], name="sq", axes=[3], keepdims=1),
        helper.make_node("Div", ["s", "n"], ["y"], name="div"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("b", 2, 4, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


@pytest.mark.parametrize(("divisor", "expected"), [(8.0, ["Pow", "ReduceMean"]), (7.0, ["ReduceSumSquare", "Div"])])
def test_mindspores_variance_gets_the_form_of_the_bpu_only_where_it_is_one(
    tmp_path: Path, divisor: float, expected: list[str]
) -> None:
    model = layer_norm(divisor)
    image = np.random.default_rng(0).normal(size=(1, 2, 4, 8)).astype(np.float32)
    normal_form(model, (1, 2, 4, 8), (1, 2, 4, 1))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == expected
    onnx.save(model, tmp_path / "m.onnx")
    found = open_session(tmp_path / "m.onnx").run(None, {"x": image})[0]
    np.testing.assert_allclose(found, (image**2).sum(3, keepdims=True) / divisor, rtol=1e-5)


def test_weights_in_constant_nodes_become_initializers() -> None:
    weight = numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    normal_form(model, (1, 3), (1, 4))
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    assert [node.op_type for node in model.graph.node] == ["MatMul"]


@pytest.mark.parametrize("name", list(FRAMEWORKS))
def test_a_lock_file_pins_everything_by_hash(name: str) -> None:
    text = managed.lock_file(FRAMEWORKS[name]).read_text()
    pins = [line.split("==")[0] for line in text.splitlines() if "==" in line]
    assert set(FRAMEWORKS[name].distributions) <= set(pins)
    assert text.count("--hash=sha256:") >= len(pins)
    assert "://" not in text


def test_a_half_installed_environment_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    where = managed.place(FRAMEWORKS["paddle"])
    assert managed.why_unusable(where) == "not installed"
    where.bin.mkdir(parents=True)
    assert "interrupted" in managed.why_unusable(where)
    (where.folder / managed.MARKER).write_text("{}")
    (where.bin / "python").symlink_to(sys.executable)
    assert "paddle/__init__.py is gone" in managed.why_unusable(where)


def test_a_managed_install_of_a_framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared install, with a fake uv, verifies what the framework's description says."""
    from edge.toolchain import install as module
    from edge.toolchain.python310 import Python310

    uv = tmp_path / "uv"
    uv.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = venv ]; then for last; do :; done; echo "$last" > "$0.venv"\n'
        'mkdir -p "$last/bin"; printf "#!/bin/sh\\nexit 0\\n" > "$last/bin/python"\n'
        'chmod +x "$last/bin/python"\n'
        'else site="$(cat "$0.venv")/lib/python3.10/site-packages"\n'
        'mkdir -p "$site/paddle" "$site/paddle2onnx" "$site/paddlepaddle-9.1.dist-info"\n'
        'touch "$site/paddle/__init__.py" "$site/paddle2onnx/__init__.py"; fi\n'
    )
    uv.chmod(0o755)
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "uv_program", lambda: str(uv))
    monkeypatch.setattr(module, "_pip_config", dict)
    monkeypatch.setattr(module, "require_platform", lambda _: None)
    monkeypatch.setattr(module, "find_python310", lambda given, say: Python310(Path(sys.executable), "3.10.0", "test"))
    environment = evolve(FRAMEWORKS["paddle"], needed_bytes=1)
    tool = install(environment)
    assert tool.versions == {"paddlepaddle": "9.1"}
    assert "paddlepaddle 9.1 lock" in tool.identity
    full = evolve(environment, lock="mindspore-py310.lock", needed_bytes=10**18)
    with pytest.raises(ToolchainError, match="GB free"):
        install(full)


def test_a_full_disk_while_it_is_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.toolchain import process

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(process, "run", full)
    with pytest.raises(WorkspaceError, match="disk is full"):
        converted("paddle", tmp_path / "inference.json", fake(tmp_path, "exit 0"), tmp_path)
