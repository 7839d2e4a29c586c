"""The output of the board's tools, in the forms in which it was seen."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from edge.board.findings import ProgramVersions, compare, program_versions
from edge.board.infer import dequantise
from edge.board.parse import TensorInfo, error_code, parse_model_info, parse_perf, parse_profile, parse_versions
from edge.errors import BoardError, ModelFileError
from tests.board_server import PROGRAM
from tests.conftest import FAKES

CAPTURES = FAKES / "board_tools" / "captures"
GLOG = "I0903 08:45:22.591094 626414 main.cpp:233] Average latency is: 9 ms"
MODEL_INFO = """Load model to DDR cost 379.393ms.
This model file has 1 model:
[yolov8n_640x640_nv12]
---------------------------------------------------------------------
[model name]: yolov8n_640x640_nv12

input[0]: \t
name: images
input source: HB_DNN_INPUT_FROM_PYRAMID
valid shape: (1,3,640,640,)
aligned shape: (1,3,640,640,)
aligned byte size: 614400
tensor type: HB_DNN_IMG_TYPE_NV12
tensor layout: HB_DNN_LAYOUT_NCHW
quanti type: NONE
stride: (0,0,0,0,)

output[1]: \t
name: 318
valid shape: (1,80,80,64,)
aligned shape: (1,80,80,64,)
aligned byte size: 1638400
tensor type: HB_DNN_TENSOR_TYPE_S32
tensor layout: HB_DNN_LAYOUT_NHWC
quanti type: SCALE
stride: (1638400,20480,256,4,)
scale data: 7.71352e-05,6.07225e-05,9.01157e-05,
quantizeAxis: 3
"""
BANNER = """[BPU_PLAT]BPU Platform Version(1.3.6)! soc info(x5)
[HBRT] set log level as 0. version = 3.15.55.0
[DNN] Runtime version = 1.24.5_(3.15.55 HBRT)
[A][DNN][packed_model.cpp:247][Model](2026-08-18,01:27:41.818.304) [HorizonRT] The model builder version = 1.23.6
"""


def capture(name: str) -> str:
    return (CAPTURES / name).read_text()


def test_the_capture_with_four_threads() -> None:
    run = parse_perf(capture("perf_4.txt"))
    assert run is not None
    assert (run.threads, run.frames, run.latency_ms, run.fps) == (4, 200, 2.902294, 1356.254026)
    assert (run.latency_min_ms, run.latency_max_ms, run.run_time_ms, run.load_ms) == (2.187, 3.393, 147.465, 24.163)


def test_the_last_progress_line_counts() -> None:
    run = parse_perf(capture("perf_1.txt"))
    assert run is not None
    assert (run.threads, run.frames, run.latency_ms, run.fps) == (1, 400, 12.429, 80.264)
    progress_only = capture("perf_1.txt").partition("Running condition")[0]
    run = parse_perf(progress_only)
    assert run is not None
    assert (run.threads, run.frames, run.latency_ms, run.fps) == (None, 400, 12.429, 80.264)


@pytest.mark.parametrize(
    "noise",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("Average ", "\x1b[0;32mAverage\x1b[0m "),
        lambda text: text.replace("\n", f"\n{GLOG}\n"),
        lambda text: BANNER + text,
        lambda text: text.replace("  ", " "),
    ],
    ids=["crlf", "cr", "ansi", "glog", "banner", "spaces"],
)
def test_noise_changes_nothing(noise: object) -> None:
    assert callable(noise)
    assert parse_perf(noise(capture("perf_4.txt"))) == parse_perf(capture("perf_4.txt"))


@pytest.mark.parametrize("missing", ["Frame      rate", "Average    latency", "Frame totally", "Thread number"])
def test_missing_keys(missing: str) -> None:
    text = "\n".join(line for line in capture("perf_4.txt").splitlines() if missing not in line)
    run = parse_perf(text)
    assert run is not None
    assert run.fps == pytest.approx(1357, abs=2)


@pytest.mark.parametrize("text", ["", "Load model to DDR cost 24.163ms.", "Average latency is: ... ms\nFPS: nan"])
def test_no_result_is_none(text: str) -> None:
    assert parse_perf(text) is None


@given(st.text(max_size=400))
def test_garbage_never_raises(text: str) -> None:
    parse_perf(text)
    parse_model_info("input[0]:\n" + text)
    parse_profile("{" + text)
    parse_versions(text)


def test_profiler_log_of_both_ages() -> None:
    text = capture("profiler.log")
    profile = parse_profile(text)
    assert profile is not None
    assert (profile.bpu_ms, profile.cpu_ms) == (2.53, 0.22)
    assert profile.nodes["Softmax_prob"] == 0.15
    assert parse_profile(text.replace("processor_latency", "chip_latency")) == profile
    nodes_only = parse_profile(text.replace("processor_latency", "other"))
    assert nodes_only is not None
    assert nodes_only.bpu_ms == pytest.approx(2.53)
    assert nodes_only.cpu_ms == pytest.approx(0.22)
    assert parse_profile("1.24.5\n{broken\n***\n") is None


def test_model_info() -> None:
    image, scores = parse_model_info(BANNER + MODEL_INFO)
    assert (image.kind, image.name, image.type) == ("input", "images", "HB_DNN_IMG_TYPE_NV12")
    assert image.valid == (1, 3, 640, 640)
    assert (scores.kind, scores.index, scores.name, scores.layout) == ("output", 1, "318", "NHWC")
    assert scores.stride == (1638400, 20480, 256, 4)
    assert scores.scale == (7.71352e-05, 6.07225e-05, 9.01157e-05)
    assert (scores.quanti, scores.axis, scores.aligned_bytes) == ("SCALE", 3, 1638400)


def test_model_info_with_noise_and_in_the_other_dialect() -> None:
    noisy = MODEL_INFO.replace("\n", "\r\n").replace("name: 318", f"name: 318\r\n{GLOG}")
    assert parse_model_info(noisy) == parse_model_info(MODEL_INFO)
    other = "output[0]:\nname: y\nvalid shape: (1,10)\ntensor type: HB_DNN_TENSOR_TYPE_S8\nquanti type: SCALE\n"
    (tensor,) = parse_model_info(other + "scale data: (0.0177)\nzero_point data: (0)\n")
    assert (tensor.valid, tensor.scale, tensor.zero_point, tensor.axis) == ((1, 10), (0.0177,), (0.0,), None)


def test_versions_from_the_banner_and_from_v() -> None:
    versions = parse_versions(BANNER.replace("\n", "\r\n"))
    assert (versions.dnn, versions.hbrt, versions.platform) == ("1.24.5", "3.15.55.0", "1.3.6")
    assert parse_versions("1.24.5\n").dnn == "1.24.5"
    assert parse_versions("no such command").dnn is None


def test_error_codes() -> None:
    assert error_code("x error code:-6000014, later -6000006\n") == -6000006
    assert error_code("-60000061 -600006") is None


S32 = TensorInfo("output", 0, "y", (1, 2, 1, 3), (1, 2, 1, 4), 32, "HB_DNN_TENSOR_TYPE_S32", "NHWC", "SCALE",
                 (32, 16, 16, 4), (0.5, 0.25, 2.0), (), 3)  # fmt: skip


def test_padding_is_removed_and_each_channel_scaled() -> None:
    padded = struct.pack("<8i", 1, 2, 3, 99, 4, 5, 6, 99)
    expected = [[0.5, 0.5, 6.0], [2.0, 1.25, 12.0]]
    assert dequantise(padded, S32).reshape(2, 3).tolist() == expected
    assert dequantise(struct.pack("<6i", 1, 2, 3, 4, 5, 6), S32).reshape(2, 3).tolist() == expected
    assert dequantise(padded, evolve(S32, stride=())).reshape(2, 3).tolist() == expected
    assert dequantise(padded, evolve(S32, axis=-1)).reshape(2, 3).tolist() == expected
    assert dequantise(padded, evolve(S32, axis=None)).reshape(2, 3).tolist() == expected


@pytest.mark.parametrize(("name", "dtype"), [("S8", "<i1"), ("U8", "<u1"), ("S16", "<i2"), ("S32", "<i4")])
def test_one_scale_and_a_zero_point(name: str, dtype: str) -> None:
    kind = f"HB_DNN_TENSOR_TYPE_{name}"
    tensor = TensorInfo("output", 0, "y", (1, 3), type=kind, quanti="SCALE", scale=(0.1,), zero_point=(2.0,))
    data = np.array([1, 2, 100], dtype).tobytes()
    assert np.allclose(dequantise(data, tensor), [[-0.1, 0, 9.8]])


def test_floats_pass_as_they_are() -> None:
    tensor = TensorInfo("output", 0, "y", (1, 2), type="HB_DNN_TENSOR_TYPE_F32")
    assert dequantise(struct.pack("<2f", 1.5, -2), tensor).tolist() == [[1.5, -2]]


@pytest.mark.parametrize(
    ("tensor", "data"),
    [
        (S32, bytes(28)),
        (evolve(S32, scale=(1.0, 2.0)), bytes(24)),
        (evolve(S32, axis=7), bytes(24)),
        (evolve(S32, quanti="SHIFT"), bytes(24)),
        (evolve(S32, scale=()), bytes(24)),
        (evolve(S32, type="HB_DNN_TENSOR_TYPE_X"), bytes(24)),
        (evolve(S32, stride=(64, 64, 64, 4), aligned=()), bytes(32)),
    ],
    ids=["size", "scales", "axis", "shift", "no scale", "type", "stride beyond the data"],
)
def test_what_does_not_fit_is_refused(tensor: TensorInfo, data: bytes) -> None:
    with pytest.raises(BoardError):
        dequantise(data, tensor)


def test_versions_inside_a_program(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(PROGRAM)
    assert program_versions(tmp_path / "x.bin") == ProgramVersions("3.49.15", "3.15.55.0", "1.24.3", "bayes-e")


def test_versions_inside_a_program_of_the_vendor_s(shared: Path) -> None:
    vendor = program_versions(shared / "models" / "vendor_mobilenetv2_224x224_nv12.bin")
    assert vendor == ProgramVersions("3.49.7", "3.15.47.0", "1.23.5", "bayes-e")


def test_what_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(ModelFileError, match=r"x\.bin is not a program"):
        program_versions(tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("dnn", "hbrt", "fits", "says"),
    [
        ("1.24.5", "3.15.55.0", "yes", "3.15.55"),
        ("1.24.5", None, "yes", "3.15.55"),
        ("1.23.10", "3.15.54.0", "warn", "older"),
        ("1.30.0", "3.15.60.0", "warn", "newer"),
        ("1.23.8", None, "warn", "3.15.49"),
        ("1.23.5", None, "warn", "3.15.47"),
        ("1.24.4", None, "warn", "3.15.54"),
        ("2.0.0", "3.16.1.0", "no", "another release line"),
        ("9.9.9", None, "unknown", "is unknown"),
        (None, None, "unknown", "is unknown"),
    ],
)
def test_the_program_against_the_board(dnn: str | None, hbrt: str | None, fits: str, says: str) -> None:
    verdict = compare(ProgramVersions("3.49.15", "3.15.55.0", "1.24.3", "bayes-e"), dnn, hbrt)
    assert verdict.fits == fits
    assert says in verdict.why


def test_a_program_for_another_bpu() -> None:
    assert compare(ProgramVersions("3.49.15", "3.15.55.0", None, "bayes"), "1.24.5", "3.15.55").fits == "no"
