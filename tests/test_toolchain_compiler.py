"""Running the compiler: repeatable, stoppable, and every ending told."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.compiler import sandbox
from edge.compiler.run import CHECK_LOG, COMPILE_LOG, CompileResult, checker, makertbin
from edge.compiler.sandbox import open_sandbox
from edge.errors import CompileError, CompileTimeout, ModelFileError, UsageError, WorkspaceError
from edge.progress import Silent
from edge.toolchain import process
from edge.toolchain.found import Toolchain
from tests.conftest import FakeCompiler, gone, wait_for

YAML = """model_parameters:
  onnx_model: 'net.onnx'
  march: 'bayes-e'
  working_dir: 'model_output'
  output_model_file_prefix: 'tiny'
input_parameters:
  input_type_rt: 'nv12'
  input_type_train: 'rgb'
  input_layout_train: 'NCHW'
  norm_type: 'data_mean_and_scale'
  mean_value: '123.675 116.28 103.53'
  scale_value: '0.01712475 0.017507 0.01742919'
calibration_parameters:
  cal_data_dir: '../calib_f32'
  cal_data_type: 'float32'
  calibration_type: 'default'
compiler_parameters:
  compile_mode: 'latency'
  debug: False
  optimize_level: 'O0'
  jobs: 1
"""


@pytest.fixture(autouse=True)
def own_sandboxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Keep fake compiles out of /tmp; the real ones need the fixed path."""
    if "compiler" not in request.keywords:
        (tmp_path / "root").mkdir()
        monkeypatch.setattr(sandbox, "ROOT", tmp_path / "root")


def write_net(path: Path, middle: str = "Relu") -> Path:
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((8, 3, 3, 3), (4, 8, 1, 1))]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="conv1", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node(middle, ["a"], ["b"], name="middle"),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="conv2"),
        helper.make_node("GlobalAveragePool", ["c"], ["y"], name="pool"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 1, 1])],
        [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.save(model, str(path))
    return path


class Job:
    """Inputs in a folder of their own, under names of their own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.out = folder / "out"
        self.out.mkdir()
        self.yaml = folder / "tiny.yaml"
        self.yaml.write_text(YAML)
        images = folder / "images"
        images.mkdir()
        for index in range(4):
            data = np.random.default_rng(index).uniform(0, 255, (3, 32, 32)).astype(np.float32)
            data.tofile(images / f"{index:03}.bin")
        self.files = {"net.onnx": write_net(folder / "model.onnx"), "../calib_f32": images}

    def compile(self, toolchain: Toolchain, *, key: str = "0123456789abcdef", timeout: float = 300) -> CompileResult:
        return makertbin(
            toolchain,
            yaml=self.yaml,
            files=self.files,
            out=self.out,
            prefix="tiny",
            working_dir="model_output",
            key=key,
            timeout=timeout,
        )


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "job")


def nothing_left(job: Job) -> bool:
    return not list(sandbox.ROOT.iterdir()) and not list(job.out.glob(".scratch*"))


@pytest.mark.compiler
def test_two_folders_give_the_same_bytes(toolchain: Toolchain, tmp_path: Path) -> None:
    first, second = Job(tmp_path / "a"), Job(tmp_path / "somewhere" / "else")
    result = first.compile(toolchain, key="edgetestsamebytes0")
    again = second.compile(toolchain, key="edgetestsamebytes0")
    assert result.bin == "tiny.bin"
    assert [row.name for row in result.nodes] == ["HZ_PREPROCESS_FOR_x", "conv1", "conv2", "pool"]
    assert (result.bpu, result.cpu) == (4, 0)
    assert result.output_cosine is not None
    assert result.output_cosine > 0.99
    assert result.static is not None
    assert result.static.latency_us > 0
    assert result.static == again.static
    assert result.versions["hb_mapper"]
    for name in (result.bin, *result.intermediates):
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes(), name
    assert {f"tiny_{part}_model.onnx" for part in ("original_float", "optimized_float", "calibrated", "quantized")} < {
        *result.intermediates
    }
    assert "tiny_quant_info.json" in result.intermediates
    assert (first.out / result.log).stat().st_size
    assert str(tmp_path).encode() not in (first.out / result.bin).read_bytes()
    assert not list(Path("/tmp").glob("edge-edgetestsamebyte*"))


@pytest.mark.compiler
def test_the_checker_finds_the_softmax_that_splits_the_graph(toolchain: Toolchain, tmp_path: Path) -> None:
    result = checker(toolchain, onnx=write_net(tmp_path / "net.onnx", "Softmax"), out=tmp_path)
    assert result.cpu_nodes == result.cpu_inside == ("middle",)
    assert result.bpu == 3
    assert (tmp_path / result.log).stat().st_size
    assert result.command == (
        *("hb_mapper", "checker", "--model-type", "onnx", "--march", "bayes-e", "--model"),
        "net.onnx",
    )


@pytest.mark.compiler
def test_the_real_compiler_refuses_a_short_calibration_file(toolchain: Toolchain, job: Job) -> None:
    next(job.files["../calib_f32"].iterdir()).write_bytes(b"\0" * 400)
    with pytest.raises(CompileError, match="cannot reshape array of size 100") as caught:
        job.compile(toolchain)
    assert caught.value.stage == "calibrate"
    assert "cannot reshape" in (job.out / COMPILE_LOG).read_text()


@pytest.mark.parametrize("mode", ["ok", "plots"])
def test_a_good_compile_leaves_the_results_and_nothing_else(fake_compiler: FakeCompiler, job: Job, mode: str) -> None:
    fake_compiler.mode(mode)
    result = job.compile(fake_compiler.toolchain)
    assert sorted(item.name for item in job.out.iterdir()) == sorted([result.bin, *result.intermediates, result.log])
    assert (job.out / result.log).read_text() == "vendor's own log\n"
    assert result.command == ("hb_mapper", "makertbin", "-c", "tiny.yaml", "--model-type", "onnx")
    assert nothing_left(job)


def test_the_checker_parses_and_takes_a_shape(fake_compiler: FakeCompiler, tmp_path: Path) -> None:
    result = checker(
        fake_compiler.toolchain,
        onnx=write_net(tmp_path / "n.onnx"),
        input_name="x",
        input_shape=(1, 3, 32, 32),
        out=tmp_path,
    )
    assert result.cpu_nodes == ("/head/fc/Gemm_transpose_output_reshape",)
    assert result.cpu_inside == ()
    assert result.command[-3:] == ("--input-shape", "x", "1x3x32x32")
    assert (tmp_path / CHECK_LOG).exists()


@pytest.mark.parametrize(
    ("mode", "stage", "cause"),
    [
        ("no-bin", "compile", "left no complete result"),
        ("empty-bin", "compile", "left no complete result"),
        ("garbage", "start", "with unknown output"),
        ("flood", "start", "with unknown output"),
        ("killed", "prepare", "ran out of memory"),
        ("crash", "prepare", "SIGSEGV"),
        ("disk-full", "write files", "the disk is full"),
        ("memory", "memory", "out of memory"),
        ("traceback", "start", "KeyError: 'march'"),
        ("log:core2:255", "hbdk-cc", "2 core"),
        ("log:wrongkey:255", "parse yaml", "no_such"),
    ],
)
def test_each_failure_is_told_and_leaves_its_log(
    fake_compiler: FakeCompiler, job: Job, mode: str, stage: str, cause: str
) -> None:
    fake_compiler.mode(mode)
    with pytest.raises(CompileError) as caught:
        job.compile(fake_compiler.toolchain)
    assert caught.value.stage == stage
    assert cause in caught.value.cause
    assert caught.value.remedy
    assert caught.value.log == str(job.out / COMPILE_LOG)
    assert (job.out / COMPILE_LOG).exists()
    assert nothing_left(job)


@pytest.mark.parametrize("mode", ["hang", "hang-hard"])
def test_a_hanging_compiler_is_stopped_with_its_children(
    fake_compiler: FakeCompiler, job: Job, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_GRACE", 0.5)
    fake_compiler.mode(mode)
    with pytest.raises(CompileTimeout) as caught:
        job.compile(fake_compiler.toolchain, timeout=4)
    assert caught.value.stage == "prepare"
    assert "time limit" in caught.value.cause
    pids = fake_compiler.pids()
    assert len(pids) == 2
    assert wait_for(lambda: all(map(gone, pids)))
    assert nothing_left(job)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_compiler_outlives_us(fake_compiler: FakeCompiler, job: Job, tmp_path: Path, number: int) -> None:
    fake_compiler.mode("hang")
    code = (
        "import sys; from pathlib import Path; from edge.toolchain import process\n"
        f"process.run([{str(fake_compiler.bin / 'hb_mapper')!r}, 'makertbin'], timeout=600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        assert wait_for(lambda: len(fake_compiler.pids()) == 2)
        parent.send_signal(number)
        parent.wait(30)
        assert wait_for(lambda: all(map(gone, fake_compiler.pids())))
    finally:
        parent.kill()
        parent.wait()


def test_output_is_split_cleaned_and_logged(tmp_path: Path) -> None:
    lines: list[str] = []
    text = r"\033[92mone\033[0m\r\n[=  ]  1%%\r[== ]  2%%\r\ntwo\nlast"
    done = process.run(["/bin/sh", "-c", f"printf '{text}'"], timeout=30, on_line=lines.append, log=tmp_path / "x.log")
    assert lines == ["one", "[=  ]  1%", "[== ]  2%", "two", "last"]
    assert (tmp_path / "x.log").read_text() == "one\n[== ]  2%\ntwo\nlast\n"
    assert done.tail.endswith("last")
    assert done.returncode == 0


def test_a_child_that_keeps_the_pipe_open_does_not_hold_us(tmp_path: Path) -> None:
    done = process.run(["/bin/sh", "-c", f"sleep 300 & echo $! > {tmp_path}/pid; exit 5"], timeout=60)
    assert (done.returncode, done.timed_out) == (5, False)
    assert wait_for(lambda: gone(int((tmp_path / "pid").read_text())))


def test_the_environment_is_clean(fake_compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", "/leak")
    tool = fake_compiler.toolchain
    (fake_compiler.bin / "show").write_text('#!/bin/sh\necho "$PYTHONHASHSEED|$PYTHONPATH|${PATH%%:*}|$EXTRA"\n')
    (fake_compiler.bin / "show").chmod(0o755)
    done = tool.run(["show"], cwd=tmp_path, timeout=30, env={"EXTRA": "yes"})
    assert done.tail == f"0||{fake_compiler.bin}|yes"


def hold(path: Path, out: Path, **options: object) -> object:
    return open_sandbox(
        "0123456789abcdef",
        files={},
        working_dir="w",
        out=out,
        reporter=options.pop("reporter", Silent()),
        timeout=options.pop("timeout", 10.0),
    )


def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    stale = sandbox.ROOT / "edge-0123456789abcdef"
    (stale / "w" / "old").mkdir(parents=True)
    stale.chmod(0o700)
    with hold(sandbox.ROOT, tmp_path) as box:
        assert box.fixed
        assert not (box.path / "w" / "old").exists()
    assert not stale.exists()


def test_a_held_sandbox_is_waited_for(tmp_path: Path) -> None:
    with (
        hold(sandbox.ROOT, tmp_path),
        pytest.raises(CompileError, match="another compile of the same inputs"),
        hold(sandbox.ROOT, tmp_path, timeout=0.3),
    ):
        raise AssertionError("two compiles hold one folder")


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_folder_that_is_not_ours_alone_is_left_alone(tmp_path: Path, kind: str) -> None:
    foreign = sandbox.ROOT / "edge-0123456789abcdef"
    if kind == "open":
        foreign.mkdir()
        foreign.chmod(0o777)
    elif kind == "link":
        foreign.symlink_to(tmp_path)
    else:
        foreign.write_text("x")
    reporter = Silent()
    with hold(sandbox.ROOT, tmp_path, reporter=reporter) as box:
        assert not box.fixed
        assert box.path != foreign
        assert "may differ in bytes" in reporter.warnings[0]
    assert foreign.exists()
    assert not box.path.exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "..", "a/../.."])
def test_names_must_be_relative(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(UsageError),
        open_sandbox("0" * 16, files={name: tmp_path}, working_dir="w", out=tmp_path, timeout=1, reporter=Silent()),
    ):
        raise AssertionError


def test_missing_inputs_are_told(fake_compiler: FakeCompiler, job: Job, tmp_path: Path) -> None:
    job.files["net.onnx"].unlink()
    with pytest.raises(WorkspaceError, match=r"model\.onnx"):
        job.compile(fake_compiler.toolchain)
    with pytest.raises(ModelFileError, match=r"gone\.onnx"):
        checker(fake_compiler.toolchain, onnx=tmp_path / "gone.onnx", out=tmp_path)
    assert nothing_left(job)


def test_an_unwritable_results_folder_is_told(fake_compiler: FakeCompiler, job: Job) -> None:
    job.out.rmdir()
    with pytest.raises(WorkspaceError, match="working folder"):
        job.compile(fake_compiler.toolchain)
    assert not list(sandbox.ROOT.iterdir())
