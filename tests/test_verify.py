"""The verify stage: it passes what belongs together, and fails on anything else."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import cattrs
import numpy as np
import onnx
import pytest
from attrs import evolve
from onnx import numpy_helper

from edge.compiler.run import CompileResult, makertbin
from edge.errors import GateError, ModelFileError, ToolchainError
from edge.images import ImageItem, ImageSet, open_images
from edge.pipeline.stages import COMPILE, STAGES
from edge.pipeline.verify import FRAMES, VerifyResult, candidates, verify
from edge.report.wording import verify_line
from edge.runtime import load
from edge.runtime.answer import read_answer
from edge.simulate import binfile
from edge.simulate.portable import translate
from edge.specs import Preprocess
from edge.toolchain.found import Toolchain
from tests.conftest import FakeCompiler, Run, save_images, save_net
from tests.test_build_compiler import NORM, save_small_net
from tests.test_build_compiler import build as build_net
from tests.test_toolchain_compiler import Job

PREPROCESS = Preprocess(crop=(32, 32), resize=32)


def build(folder: Path, toolchain: Toolchain, change: float = 0.0) -> Path:
    """Compile the tiny net, its second weights moved by ``change``; return the folder with the results."""
    job = Job(folder)
    model = onnx.load(str(job.files["net.onnx"]))
    weight = model.graph.initializer[1]
    moved = numpy_helper.to_array(weight) + np.float32(change)
    weight.CopyFrom(numpy_helper.from_array(moved, weight.name))
    onnx.save(model, str(job.files["net.onnx"]))
    job.compile(toolchain, key=folder.name.rjust(16, "0"))
    return job.out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain) -> Path:
    return build(tmp_path_factory.mktemp("verify") / "tiny", toolchain)


def check(
    toolchain: Toolchain, folder: Path, images: ImageSet | None = None, portable: Path | None = None
) -> VerifyResult:
    return verify(
        toolchain=toolchain,
        program=folder / "tiny.bin",
        quantized=folder / "tiny_quantized_model.onnx",
        portable=portable,
        images=images or candidates(open_images("demo:test", count=20)),
        preprocess=PREPROCESS,
        prefix="tiny",
        out=folder,
    )


@pytest.mark.compiler
def test_what_belongs_together_is_bit_exact(toolchain: Toolchain, tiny: Path) -> None:
    result = check(toolchain, tiny)
    assert (result.frames, result.bit_exact, result.max_abs_diff) == (FRAMES, True, 0)
    assert (result.integers, result.calls, result.outputs_max_diff) == (4, 1, 0.0)
    assert len(set(result.images)) == FRAMES
    assert check(toolchain, tiny).images == result.images


@pytest.mark.compiler
def test_the_portable_model_is_compared_too(toolchain: Toolchain, tiny: Path, tmp_path: Path) -> None:
    made = translate(quantized=tiny / "tiny_quantized_model.onnx", prefix="tiny", out=tmp_path)
    assert made.onnx is not None
    path = tmp_path / made.onnx
    result = check(toolchain, tiny, portable=path)
    assert result.portable_exact is True
    with load(path, "portable") as net:
        answer = read_answer(tiny / result.test, net.info)
        assert answer.exact  # nothing but Dequantize on the CPU
        assert answer.difference(net.run(*answer.given(net.info))) == ""
    assert result.images[0] == "test/000000"  # rendered: no photograph of the user goes to the board
    assert "so does the portable model" in verify_line(cattrs.unstructure(result))
    assert check(toolchain, tiny).portable_exact is None

    model = onnx.load(str(path))
    head = next(node for node in reversed(model.graph.node) if node.op_type == "Mul")
    scale = next(entry for entry in model.graph.initializer if entry.name == head.input[1])
    values = numpy_helper.to_array(scale)
    scale.CopyFrom(numpy_helper.from_array(np.nextafter(values, np.float32(1)), scale.name))
    onnx.save(model, str(path))
    assert check(toolchain, tiny, portable=path).portable_exact is False  # by one bit

    scale.CopyFrom(numpy_helper.from_array(-values, scale.name))
    onnx.save(model, str(path))
    with pytest.raises(GateError, match="the portable model answers"):
        check(toolchain, tiny, portable=path)


def one_weight(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.name == "conv2")
    weight = next(entry for entry in model.graph.initializer if entry.name == node.input[1])
    values = numpy_helper.to_array(weight).copy()
    values.reshape(-1)[0] = -100 if values.reshape(-1)[0] > 0 else 100
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def scale(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "HzDequantize")
    weight = next(entry for entry in model.graph.initializer if entry.name == node.input[1])
    moved = numpy_helper.to_array(weight) * np.float32(1.001)
    weight.CopyFrom(numpy_helper.from_array(moved, weight.name))


def value_name(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "HzDequantize")
    old = node.input[0]
    for other in model.graph.node:
        for names in (other.input, other.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = "another"
    kept = [value for value in model.graph.value_info if value.name != old]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (one_weight, "integers of '.*' differ, by up to"),
        (scale, "the integers are equal but the outputs"),
        (value_name, "has no value"),
    ],
)
def test_a_tampered_quantized_model_fails(
    toolchain: Toolchain, tiny: Path, tmp_path: Path, change: Any, says: str
) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    path = copy / "tiny_quantized_model.onnx"
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))
    with pytest.raises(GateError, match=says) as caught:
        check(toolchain, copy)
    assert "next: " in str(caught.value)


@pytest.mark.compiler
def test_the_bin_of_another_build_fails(toolchain: Toolchain, tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    shutil.copy(build(tmp_path / "other", toolchain, change=0.05) / "tiny.bin", copy / "tiny.bin")
    with pytest.raises(GateError, match="differs from the quantized model"):
        check(toolchain, copy)


@pytest.mark.compiler
def test_broken_files_and_programs_of_other_inputs(toolchain: Toolchain, tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    (copy / "tiny_quantized_model.onnx").write_bytes(b"rubbish")
    with pytest.raises(ModelFileError, match="can't be read"):
        check(toolchain, copy)
    message = binfile._message("Model").FromString((copy / "tiny.bin").read_bytes())
    message.graphs[0].input_type[0] = 1
    (copy / "tiny.bin").write_bytes(message.SerializeToString())
    result = check(toolchain, copy)
    assert (result.frames, result.bit_exact, result.max_abs_diff) == (0, None, None)
    assert "takes S8" in result.why_not
    (copy / "tiny.bin").write_bytes(b"rubbish")
    with pytest.raises(ModelFileError, match="not a program"):
        check(toolchain, copy)


@pytest.mark.compiler
def test_a_failing_simulator_is_no_proof(toolchain: Toolchain, tiny: Path, tmp_path: Path) -> None:
    """Only what can't be simulated passes unverified; a crash does not."""
    copy = shutil.copytree(tiny, tmp_path / "copy")
    message = binfile._message("Model").FromString((copy / "tiny.bin").read_bytes())
    for tensor in message.graphs[0].initializer:
        if tensor.name == binfile.HBM:
            tensor.string_data[0] = tensor.string_data[0][:5000]
    (copy / "tiny.bin").write_bytes(message.SerializeToString())
    with pytest.raises(ToolchainError, match=r"the simulator .* on tiny: hbrtErrorIllegalHBM"):
        check(toolchain, copy)


@pytest.mark.compiler
def test_unreadable_images_are_passed_over(toolchain: Toolchain, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = ImageItem("broken.png", path=tmp_path / "broken.png")
    images = candidates(ImageSet((broken,), "one"))
    assert check(toolchain, tiny, images).images == ("test/000000", "test/000001", "test/000002")


def test_candidates_are_the_same_each_time_and_enough() -> None:
    images = open_images("demo:test", count=200)
    once, again = candidates(images), candidates(images)
    assert once.items == again.items
    assert once.fingerprint == again.fingerprint
    assert len(candidates(ImageSet(images.items[:1], "one"))) >= FRAMES


@pytest.mark.compiler
def test_a_mismatch_fails_the_build_and_nothing_is_published(
    edge: Run, tmp_path: Path, toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    @functools.wraps(makertbin)
    def tampered(*arguments: Any, **named: Any) -> CompileResult:
        result = makertbin(*arguments, **named)
        path = named["out"] / f"{named['prefix']}_quantized_model.onnx"
        model = onnx.load(str(path))
        weight = max(model.graph.initializer, key=lambda entry: np.prod(entry.dims))
        values = numpy_helper.to_array(weight).copy()
        values[...] = values[::-1]
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        onnx.save(model, str(path))
        return result

    images = str(save_images(tmp_path / "images", 20))
    net = str(save_small_net(tmp_path / "small.onnx"))
    data = ("--calib", images, "--calib-count", "20", "--images", images)
    arguments = ("build", net, "--mean", "127.5", "--std", "60", "--resize", "64", "--level", "O0", *data)
    rows = tuple(evolve(row, work=tampered) if row is COMPILE else row for row in STAGES)
    monkeypatch.setattr("edge.pipeline.build.STAGES", rows)
    code, _, err = edge(*arguments)
    assert code == 1
    assert "the compiled program differs from the quantized model" in err
    assert "integers of" in err
    root = tmp_path / "build/small"
    assert not (root / "manifest.json").exists()
    assert not list(root.glob("*.bin"))
    assert not list((root / ".stages").glob("verify-*"))


def test_a_compiler_without_a_simulator_is_told_and_recorded(
    edge: Run, tmp_path: Path, fake_compiler: FakeCompiler
) -> None:
    images = str(save_images(tmp_path / "images", 20))
    net = str(save_net(tmp_path / "net.onnx"))
    norm = ("--mean", "127.5", "--std", "127.5", "--resize", "64", "--compiler", "path")
    arguments = ("verify", net, *norm, "--calib", images, "--calib-count", "20", "--json")
    for _ in range(2):  # a cached stage warns too
        code, out, err = edge(*arguments)
        assert code == 0, err
        assert "NOT VERIFIED against the compiled program: no hbdk-sim" in err
    result = json.loads(out)["result"]
    assert (result["frames"], result["bit_exact"], result["max_abs_diff"]) == (0, None, None)
    assert verify_line(result).startswith("not verified: no hbdk-sim beside hb_mapper")


def test_onnxruntime_has_nothing_to_verify(edge: Run, tmp_path: Path) -> None:
    net = str(save_net(tmp_path / "net.onnx"))
    code, _, err = edge(
        "verify", net, "--mean", "127.5", "--std", "127.5", "--resize", "64", "--compiler", "onnxruntime"
    )
    assert code == 2
    assert "--compiler" in err


ENGINE = """#!/bin/sh
[ "$1" = run ] || exit 0
while [ "$1" != image ]; do
    case "$1" in
        --workdir) cd "$2" ;;
        --mount) echo "$2" >> "$(dirname "$0")/mounts" ;;
    esac
    shift
done
shift
PATH="{bin}:$PATH"
exec "$@"
"""


@pytest.mark.compiler
def test_a_docker_compiler_verifies_too(toolchain: Toolchain, tiny: Path, tmp_path: Path) -> None:
    """A stand-in engine that runs the command here; what it is asked to mount is what both tools need."""
    engine = tmp_path / "docker"
    engine.write_text(ENGINE.format(bin=toolchain.where))
    engine.chmod(0o755)
    result = check(Toolchain("docker", "image", engine=str(engine)), tiny)
    assert (result.frames, result.bit_exact) == (FRAMES, True)
    mounts = (tmp_path / "mounts").read_text()
    assert f"type=bind,source={tiny},target={tiny}" in mounts
    assert mounts.count("edge-scratch-sim-") == 2 * FRAMES  # source and target, a frame


@pytest.mark.compiler
def test_a_head_with_int16_scores_verifies(toolchain: Toolchain, tmp_path: Path) -> None:
    """The simulator gives its scores with more axes of one than the program does."""
    recipe = tmp_path / "wide_head.yaml"
    recipe.write_text("nodes: {/head/fc/Gemm: {'on': BPU, outputs: int16}}\n")
    net, images = save_small_net(tmp_path / "small.onnx"), save_images(tmp_path / "images", 24)
    arguments = (str(net), *NORM, "--images", str(images), "--calib", str(images))
    manifest = build_net(tmp_path, *arguments, "--precision", str(recipe))
    assert manifest["verify"]["bit_exact"] is True
