"""The compiler's logs as data, on samples captured from hb_mapper 1.24.3."""

from __future__ import annotations

import json
from pathlib import Path

import cattrs
import onnx
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from edge.compiler import logs
from edge.compiler.failures import diagnose
from edge.compiler.run import CheckResult, CompileResult
from edge.errors import CompileError
from edge.specs import Calibration
from edge.toolchain.found import Toolchain
from tests.conftest import save_images
from tests.test_build_compiler import build
from tests.test_range_split import place

SAMPLES = Path(__file__).resolve().parent / "fakes" / "logs"


def sample(name: str) -> str:
    return (SAMPLES / f"{name}.txt").read_bytes().decode()


class Recorder:
    def __init__(self) -> None:
        self.seen: list[tuple[str, float | None]] = []

    def update(self, text: str, fraction: float | None = None) -> None:
        self.seen.append((text, fraction))

    def warn(self, message: str) -> None:
        raise AssertionError(message)


def test_a_build_log_becomes_a_table_and_figures() -> None:
    text = sample("makertbin_tiny")
    rows = logs.nodes(text)
    assert [row.name for row in rows] == ["HZ_PREPROCESS_FOR_x", "conv1", "conv2", "pool"]
    assert rows[1] == logs.NodeRow("conv1", "BPU", "id(0)", "HzSQuantizedConv", 0.999943, 5.56709, "int8")
    assert logs.counts(rows) == (4, 0)
    assert logs.static(text) == logs.StaticPerf(fps=67686.48, latency_us=14.8, ddr_bytes=19840)
    assert logs.calibration_method(text) == "max"
    assert logs.versions(text) == {"hbdk": "3.49.15", "horizon_nn": "1.1.0", "hb_mapper": "1.24.3"}
    (output,) = logs.outputs(text)
    assert output.name == "y"
    assert output.cosine == pytest.approx(0.999989)


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ("max", Calibration("max")),
        ("max:asymmetric", Calibration("max", optimization=("asymmetric",))),
        ("max-percentile:percentile=0.99995", Calibration("max", 0.99995)),
        ("max-percentile:percentile=0.99995,asymmetric", Calibration("max", 0.99995, optimization=("asymmetric",))),
        ("kl:num_bin=1024,max_num_bin=16384", Calibration("kl")),
        ("kl:num_bin=1024,max_num_bin=16384,per_channel", Calibration("kl", per_channel=True)),
        ("kl:num_bin=2048,max_num_bin=16384", Calibration()),
        ("new:x=1", Calibration()),
        (None, Calibration()),
    ],
)
def test_what_default_chose_can_be_asked_for(chosen: str | None, wanted: Calibration) -> None:
    assert logs.pinned(Calibration(), chosen) == wanted
    items = ("set_Softmax_input_int16",)
    kept = logs.pinned(Calibration(optimization=items), chosen)
    assert kept == evolve(wanted, optimization=(*items, *wanted.optimization))
    assert logs.pinned(Calibration("mix"), chosen) == Calibration("mix")


def test_a_check_log_has_no_cosines_and_no_outputs() -> None:
    rows = logs.nodes(sample("checker_atto"))
    assert all(row.cosine is None for row in rows)
    assert rows[-1] == logs.NodeRow(
        "/head/fc/Gemm_transpose_output_reshape", "CPU", "--", "Reshape", None, None, "float"
    )
    assert logs.outputs(sample("checker_atto")) == ()


def test_shortened_names_are_completed_from_the_json() -> None:
    full = [f"/stages/stages.{s}/blocks/blocks.{b}/norm/Div_reciprocal" for s in range(4) for b in range(6)]
    rows = logs.nodes(sample("checker_atto"), dict.fromkeys(full))
    names = [row.name for row in rows if "blocks" in row.name]
    assert len(names) == 12
    assert set(names) <= set(full)
    assert names[0] == "/stages/stages.0/blocks/blocks.0/norm/Div_reciprocal"


def test_equal_ends_are_given_out_in_order_and_unknown_names_stay() -> None:
    tail = "x" * 47
    head = "The main quantized node information:\n"
    line = f"...{tail}  BPU  id(0)     HzLut  --                 1.0        int8\n"
    whole = ["first/" + tail, "second/" + tail]
    assert [r.name for r in logs.nodes(head + line * 3, dict.fromkeys(whole))] == [*whole, "..." + tail]
    assert logs.nodes(head + line)[0].name == "..." + tail


def test_several_subgraphs_add_up_and_the_node_between_them_is_found() -> None:
    text = sample("checker_split")
    static = logs.static(text)
    assert static is not None
    assert static.latency_us == pytest.approx(14.7 + 9.6)
    assert static.ddr_bytes == 52928 + 11264
    assert static.fps == pytest.approx(1e6 / 24.3)
    assert [row.name for row in logs.cpu_inside(logs.nodes(text))] == ["extra"]


def test_cpu_nodes_at_either_end_are_harmless() -> None:
    assert logs.cpu_inside(logs.nodes(sample("checker_atto"))) == ()
    cpu = logs.NodeRow("c", "CPU", "--", "Cast", None, None, "float")
    bpu = logs.NodeRow("b", "BPU", "id(0)", "HzLut", None, 1.0, "int8")
    assert logs.cpu_inside((cpu, bpu, cpu)) == ()
    assert logs.cpu_inside((cpu, bpu, cpu, bpu, cpu)) == (cpu,)
    assert logs.cpu_inside((cpu, cpu)) == ()


def test_progress_names_each_stage_and_ends_whole() -> None:
    recorder = Recorder()
    progress = logs.Progress(recorder)
    for line in logs.lines(sample("makertbin_tiny")):
        progress.line(line)
    texts = [text for text, _ in recorder.seen]
    fractions = [fraction for _, fraction in recorder.seen if fraction is not None]
    for stage in ("prepare", "optimize", "calibrate", "quantize", "compile", "write the .bin"):
        assert stage in texts
    assert max(fraction for text, fraction in recorder.seen if text == "compile") == pytest.approx(0.28 + 0.9 * 0.71)
    assert "calibrate: batch 1 of 1" in texts
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.1
    assert fractions[-1] == pytest.approx(0.99)


@given(st.text(max_size=400))
def test_garbage_is_taken_without_failing(text: str) -> None:
    progress = logs.Progress(Recorder())
    for line in logs.lines(text):
        progress.line(line)
    assert isinstance(logs.nodes("The main quantized node information:\n" + text), tuple)
    assert isinstance(diagnose(text, 1), CompileError)


STARTS = [f"Start to {stage} the model." for stage in ("prepare", "optimize", "calibrate", "quantize", "compile")]
BARS = st.integers(0, 130).map(lambda percent: f"[====-     ]  {percent}%")
BATCHES = st.tuples(st.integers(0, 13), st.integers(0, 13)).map(
    lambda batch: f"calibration in progress:  15%|#  | {batch[0]}/{batch[1]} [00:00<00:00, 9it/s]"
)
LINES = st.one_of(BARS, BATCHES, st.sampled_from([*STARTS, "Compile submodel: x_subgraph_1", "start convert to *.bin"]))


@given(st.lists(LINES, max_size=40))
def test_the_fraction_never_goes_back(text: list[str]) -> None:
    recorder = Recorder()
    progress = logs.Progress(recorder)
    for line in text:
        progress.line(line)
    fractions = [fraction for _, fraction in recorder.seen if fraction is not None]
    assert fractions == sorted(fractions)
    assert all(0 <= fraction <= 1 for fraction in fractions)


def test_several_runs_and_subgraphs_read_forward() -> None:
    """The compiler's bars start again; what is shown counts the runs, and moves with every line."""
    recorder = Recorder()
    progress = logs.Progress(recorder)
    runs = [f"calibration in progress: 1%|# | {batch}/3 [0" for _ in range(3) for batch in range(1, 4)]
    parts = [f"[==  ]  {percent}%" for _ in range(3) for percent in (0, 50, 100)]
    for line in (STARTS[2], *runs, STARTS[4], *parts, "start convert to *.bin file...."):
        progress.line(line)
    texts = list(dict.fromkeys(text for text, _ in recorder.seen))
    batches = [f"calibrate{run}: batch {batch} of 3" for run in ("", ", run 2", ", run 3") for batch in (1, 2, 3)]
    assert texts == ["calibrate", *batches, "compile", "compile, part 2", "compile, part 3", "write the .bin"]
    fractions = [fraction for _, fraction in recorder.seen if fraction is not None]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) >= len(runs) + len(parts) - 4  # a bar begins where the one before it ended


@pytest.mark.parametrize(
    ("name", "status", "stage", "cause"),
    [
        ("wrongkey", 255, "parse yaml", "Wrong key 'no_such'"),
        ("broken", 255, "parse yaml", "while parsing a flow node"),
        ("odd", 255, "parse yaml", "nv12 type does not support odd size"),
        ("nocal", 255, "parse yaml", "Cal_data_dir does not exist: /home/user/build/nowhere"),
        ("noonnx", 255, "parse yaml", "Can not find onnx_model file given"),
        ("garbage", 255, "parse yaml", "Error parsing message with type 'onnx.ModelProto'"),
        ("opt", 255, "parse yaml", "unknown optimization 'set_foo'"),
        ("calsize", 255, "calibrate", "cannot reshape array of size 100 into shape (1,3,32,32)"),
        ("calempty", 255, "calibrate", "the calibration folder /home/user/build/calempty is empty"),
        ("nosuch", 255, "prepare", "The onnx model is invalid"),
        ("core2", 255, "hbdk-cc", "not support execute one model on 2 core"),
        ("unsup", -11, "prepare", "crashed (SIGSEGV)"),
        ("unsup", 139, "prepare", "crashed (SIGSEGV)"),
        ("unsup", -9, "prepare", "ran out of memory"),
        ("unsup", -15, "prepare", "stopped by SIGTERM"),
        ("unsup", 0, "prepare", "left no complete result"),
    ],
)
def test_captured_failures_are_told(name: str, status: int, stage: str, cause: str) -> None:
    error = diagnose(sample(name), status, log="x.log")
    assert error.stage == stage
    assert cause in error.cause
    assert error.remedy
    assert error.log == "x.log"
    assert "\x1b" not in str(error)


@pytest.mark.parametrize(
    ("text", "status", "stage", "cause"),
    [
        ("OSError: [Errno 28] No space left on device", 255, "write files", "the disk is full"),
        ("Start to calibrate the model.\nMemoryError", 255, "memory", "out of memory"),
        ("ERROR can not find hbdk library", 255, "start hbdk", "setuptools"),
        ("Start hb_mapper....\nTraceback (most recent call last):\nKeyError: 'march'", 1, "start", "KeyError: 'march'"),
        ("\x00\x01\x02 ???", 3, "start", "with unknown output"),
        ("", 0, "write the .bin", "left no complete result"),
        ("Start hb_mapper....", 7, "start", "exit status 7 without a message"),
        (
            "Start to compile the\n*** ERROR-OCCUR-DURING {hbdk.hbdk-cc} ***, error message: no such thing",
            255,
            "hbdk-cc",
            "no such thing",
        ),
    ],
)
def test_other_failures_are_told(text: str, status: int, stage: str, cause: str) -> None:
    error = diagnose(text, status)
    assert (error.stage, cause in error.cause) == (stage, True), error
    assert error.remedy


@pytest.mark.parametrize(
    ("name", "cause", "remedy"),
    [
        ("no_hardmax", "neither the BPU nor its CPU runtime has Hardmax (node '/stage/Hardmax_2')", "the largest is"),
        ("cumsum_int64", "CumSum of node 'CumSum_2': CumSum currently only support FLOAT but gives INT64", "as int32"),
        ("conv_3d", "its pass quantize_conv fails at Conv of node '/stage/Conv_3'", "number of axes"),
        ("loop", "the network holds a loop or a branch", "torch.onnx.export"),
    ],
)
def test_refused_nodes_are_named_with_what_to_write_instead(name: str, cause: str, remedy: str) -> None:
    error = diagnose(sample(name), 255)
    assert error.cause.startswith(cause)
    assert error.remedy
    assert remedy in error.remedy


@pytest.mark.parametrize("name", sorted(path.stem for path in SAMPLES.glob("*.txt")))
@pytest.mark.parametrize("status", [0, 1, 139, -15, 255])
def test_no_remedy_is_what_was_just_run(name: str, status: int) -> None:
    """These logs are of `edge check`, `edge compile` and a build."""
    remedy = diagnose(sample(name), status).remedy
    assert remedy
    for again in ("edge check", "edge compile", "edge build", "edge simplify", "run the same command"):
        assert again not in remedy


def test_results_survive_json() -> None:
    rows = logs.nodes(sample("makertbin_tiny"))
    result = CompileResult(
        "a.bin", ("b.onnx",), "c.log", logs.static(sample("makertbin_tiny")), rows, 4, 0, None, "max", 1.5, ("x",), {}
    )
    again = cattrs.structure(json.loads(json.dumps(cattrs.unstructure(result))), CompileResult)
    assert again == result
    check = CheckResult(rows, 4, 0, (), (), "c.log", None, 1.0, ("x",), {"hbdk": "3"})
    assert cattrs.structure(json.loads(json.dumps(cattrs.unstructure(check))), CheckResult) == check


@pytest.mark.compiler
def test_the_method_that_default_chose_gives_the_same_integers(toolchain: Toolchain, tmp_path: Path) -> None:
    onnx.save(place().model(), tmp_path / "net.onnx")
    images = str(save_images(tmp_path / "images", 24))
    norm = ("--mean", "127.5", "--std", "127.5", "--color", "rgb", "--resize", "64", "--level", "O0")

    def built(name: str, recipe: str) -> tuple[str | None, str]:
        (tmp_path / f"{name}.yaml").write_text(recipe)
        (tmp_path / name).mkdir()
        given = ("--images", images, "--calib", images, "--precision", str(tmp_path / f"{name}.yaml"))
        made = build(tmp_path / name, str(tmp_path / "net.onnx"), *norm, *given)
        (integers,) = (entry["sha256"] for entry in made["artifacts"] if entry["role"] == "quantized_onnx")
        return made["calibration"]["method"], integers

    chosen, plain = built("plain", "calibration: {method: default}\n")
    kept = logs.pinned(Calibration(), chosen)
    assert kept == Calibration("kl", optimization=("asymmetric",))
    assert built("pinned", "calibration: {method: kl, optimization: [asymmetric]}\n") == (None, plain)
    # Why it is pinned: beside 16 bits default chooses again.
    wide = "nodes: {n2: {'on': BPU, inputs: int16, outputs: int16}}\n"
    assert built("wide", f"calibration: {{method: default}}\n{wide}")[0] == "max"
