"""The board's three runtimes, against fakes with their contracts and hazards."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from edge.errors import BackendError, BackendMissing, UsageError
from edge.runtime import Net, load
from edge.runtime.backends.watch import Watch
from edge.runtime.libdnn import CODES, explained
from tests.fabricated import NAMES
from tests.fake_board import board_build, fake_bin, plug_in

LIBRARIES = ("hbm_runtime", "hobot_dnn", "bpu_infer_lib")
BYTES = 64 * 64 * 3 // 2
F32 = {"name": "scores", "type": "F32", "shape": [1, 4, 1, 1]}
every_library = pytest.mark.parametrize("library", LIBRARIES)


def nv12(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, BYTES).astype(np.uint8)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return board_build(tmp_path / "net")


def open_alone(path: Path, library: str, monkeypatch: pytest.MonkeyPatch, **env: str) -> Net:
    """Load on a machine that has only this library."""
    plug_in(monkeypatch, [library], **env)
    return load(path, backend=library)


def open_bin(
    tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch, *, file: bytes | None = None, **facts: object
) -> Net:
    """Load a program that consists of a ``.bin`` alone."""
    path = tmp_path / "other.bin"
    path.write_bytes(fake_bin(**facts) if file is None else file)
    return open_alone(path, library, monkeypatch)


# Results


@every_library
def test_scores_are_those_of_the_portable_model(build: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(build, backend="portable") as net:
        wanted = [net.run(nv12(seed))[0] for seed in range(3)]
    with open_alone(build, library, monkeypatch) as net:
        assert net.backend == library
        got = [net.run(nv12(seed))[0] for seed in range(3)]
        assert [tensor.elements for tensor in net.info.inputs] == [BYTES]
        assert net.info.outputs[0].elements == len(NAMES)
        assert [scores.shape for scores in got] == [net.info.outputs[0].shape] * 3
    # Kept side by side: a result that were the runtime's own memory would have changed by now.
    np.testing.assert_array_equal([scores.reshape(-1) for scores in got], np.reshape(wanted, (3, -1)))
    assert not np.array_equal(wanted[0], wanted[1])


@every_library
def test_a_image_is_classified_as_by_the_portable_model(
    build: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = np.random.default_rng(5).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    with load(build, backend="portable") as net:
        wanted = net.classify(rgb)
    with open_alone(build, library, monkeypatch) as net:
        assert net.classify(rgb) == wanted


@pytest.mark.parametrize("package", ["hobot_dnn", "hobot_dnn_rdkx5"])
def test_pyeasy_dnn_is_found_in_either_package(build: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, [package])
    with load(build, backend="hobot_dnn") as net:
        assert net.info.version == package
        assert net.run(nv12())[0].shape == (1, 4, 1, 1)


def test_bpu_infer_lib_with_the_older_readers(
    build: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with load(build, backend="portable") as net:
        wanted = net.run(nv12())
    with open_alone(build, "bpu_infer_lib", monkeypatch, FAKE_BPU_INFER_LIB="old") as net:
        assert "bpu_infer_lib is legacy" in caplog.text
        np.testing.assert_array_equal(net.run(nv12()), wanted)


@pytest.mark.parametrize("shape", [[1, 3, 64, 64], [1, 64, 64, 3]])
@pytest.mark.parametrize("library", ["hbm_runtime", "hobot_dnn"])
def test_the_size_of_nv12_is_read_in_either_layout(
    tmp_path: Path, library: str, shape: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [{"name": "x", "type": "NV12", "shape": shape}]
    with open_bin(tmp_path, library, monkeypatch, inputs=inputs) as net:
        assert net.info.inputs[0].size == (64, 64)
        net.run(nv12())


def test_separate_planes_are_one_array_to_pyeasy_dnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for kind in ("NV12", "NV12_SEPARATE"):
        inputs = [{"name": "x", "type": kind, "shape": [1, 3, 64, 64]}]
        with open_bin(tmp_path, "hobot_dnn", monkeypatch, inputs=inputs) as net:
            results += net.run(nv12())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("library", ["hbm_runtime", "hobot_dnn"])
def test_several_inputs_and_outputs_keep_their_order(
    tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [
        {"name": "b", "type": "NV12", "shape": [1, 3, 64, 64]},
        {"name": "a", "type": "Y" if library == "hobot_dnn" else "NV12", "shape": [1, 3, 16, 16]},
    ]
    outputs = [F32 | {"name": "second"}, F32 | {"name": "first", "shape": [1, 2, 1, 1]}]
    gray = np.arange(768 if library == "hobot_dnn" else 384).astype(np.uint8)
    gray = gray.reshape(1, 3, 16, 16) if library == "hobot_dnn" else gray
    with open_bin(tmp_path, library, monkeypatch, inputs=inputs, outputs=outputs) as net:
        first, second = net.run(nv12(), gray)
        assert [tensor.name for tensor in net.info.outputs] == ["second", "first"]
        assert (first.shape, second.shape) == ((1, 4, 1, 1), (1, 2, 1, 1))
        assert not np.array_equal(net.run(nv12(), gray[..., ::-1])[0], first)
        with pytest.raises(UsageError, match="1 input"):
            net.run(nv12())


def test_tensor_inputs_of_hbm_runtime_keep_their_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [{"name": "x", "type": "F32", "shape": [1, 2, 3, 4]}]
    with open_bin(tmp_path, "hbm_runtime", monkeypatch, inputs=inputs) as net:
        assert net.info.inputs[0].dtype == "float32"
        net.run(np.zeros((1, 2, 3, 4), np.float32))
        for wrong in (np.zeros((1, 2, 3, 4), np.uint8), np.zeros(24, np.float32)):
            with pytest.raises(UsageError, match="input 'x' is"):
                net.run(wrong)


# Integer outputs


def integer(kind: str, shape: list[int], **more: object) -> list[dict[str, object]]:
    return [{"name": "q", "type": kind, "shape": shape} | more]


def float_scores(tmp_path: Path, shape: list[int], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    outputs = [{"name": "q", "type": "F32", "shape": shape}]
    with open_bin(tmp_path, "hbm_runtime", monkeypatch, outputs=outputs) as net:
        return net.run(nv12())[0]


@pytest.mark.parametrize("library", ["hbm_runtime", "hobot_dnn"])
@pytest.mark.parametrize(
    ("kind", "shape", "layout", "axis", "scales"),
    [
        ("S32", [1, 1, 1, 4], "NHWC", 3, 1),
        ("S32", [1, 1, 1, 4], "NHWC", -1, 4),
        ("S16", [1, 4, 2, 8], "NCHW", 1, 4),
        ("S8", [1, 4, 4, 16], "NCHW", -3, 4),
    ],
)
def test_integers_become_scores(
    tmp_path: Path,
    library: str,
    kind: str,
    shape: list[int],
    layout: str,
    axis: int,
    scales: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = 0.1
    scale = [step * (i + 1) / scales for i in range(scales)]
    outputs = integer(kind, shape, layout=layout, axis=axis, scale=scale)
    with open_bin(tmp_path, library, monkeypatch, outputs=outputs) as net:
        scores = net.run(nv12())[0]
    wanted = float_scores(tmp_path, shape, monkeypatch)
    assert scores.dtype == np.float32
    assert scores.shape == tuple(shape)
    assert abs(scores - wanted).max() <= step / 2 + 1e-6
    assert len(np.unique(scores)) > 2


@pytest.mark.parametrize("zero_point", [[7], [3, -4, 0, 9]])
def test_zero_points_of_hbm_runtime_are_taken_off(
    tmp_path: Path, zero_point: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = integer("S8", [1, 4, 1, 16], scale=[0.05] * 4, zero_point=zero_point, axis=1)
    with open_bin(tmp_path, "hbm_runtime", monkeypatch, outputs=outputs) as net:
        scores = net.run(nv12())[0]
    wanted = float_scores(tmp_path, [1, 4, 1, 16], monkeypatch)
    assert abs(scores - wanted).max() <= 0.025 + 1e-6


def test_integers_without_scales_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for kind in ("S32", "F32"):
        outputs = integer(kind, [1, 1, 1, 4])
        with open_bin(tmp_path, "hbm_runtime", monkeypatch, outputs=outputs, gain=100) as net:
            results += net.run(nv12())
    np.testing.assert_array_equal(results[0], np.trunc(results[1]))
    assert results[0].all()


def test_padded_integers_are_read_right_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = integer("S8", [1, 3, 5, 21], layout="NHWC", scale=[0.05], row_bytes=32)
    with open_bin(tmp_path, "hbm_runtime", monkeypatch, outputs=outputs) as net:
        wanted = net.run(nv12())[0]
    # The hazard is real: what pyeasy_dnn's buffer holds is not what the program computed.
    plug_in(monkeypatch, ["hobot_dnn"])
    model = importlib.import_module("hobot_dnn.pyeasy_dnn").load(str(tmp_path / "other.bin"))[0]
    misread = model.forward(nv12())[0].buffer
    assert not np.array_equal(misread.astype(np.float32) * np.float32(0.05), wanted)
    with pytest.raises(BackendError, match="rows are padded") as refusal:
        load(tmp_path / "other.bin", backend="hobot_dnn")
    assert "hbm_runtime" in str(refusal.value.remedy)


def test_padding_behind_a_single_row_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = integer("S32", [1, 1, 1, 21], layout="NHWC", scale=[0.05], row_bytes=128)
    results = []
    for library in ("hbm_runtime", "hobot_dnn"):
        with open_bin(tmp_path, library, monkeypatch, outputs=outputs) as net:
            results += net.run(nv12())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        (integer("F16", [1, 1, 1, 4]), "reads it as int8"),
        (integer("U8", [1, 1, 1, 4]), "reads it as int8"),
        (integer("S32", [1, 1, 4, 4], layout="NONE", scale=[0.1] * 4), "their axis is not known"),
        (integer("S32", [1, 1, 1, 4], layout="NCHW", scale=[0.1] * 4, axis=3), "4 scales on axis 1"),
    ],
)
def test_outputs_that_pyeasy_dnn_does_not_tell_enough_about(
    tmp_path: Path, outputs: list[dict[str, object]], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendError, match=match):
        open_bin(tmp_path, "hobot_dnn", monkeypatch, outputs=outputs)


def test_scales_that_fit_one_axis_need_no_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = integer("S32", [1, 1, 1, 4], layout="NONE", scale=[0.1, 0.2, 0.3, 0.4])
    with open_bin(tmp_path, "hobot_dnn", monkeypatch, outputs=outputs) as net:
        assert net.run(nv12())[0].shape == (1, 1, 1, 4)


# Inputs that a runtime would take and misread


@every_library
@pytest.mark.parametrize(
    "wrong",
    [
        nv12().astype(np.float32),
        nv12().astype(np.int8),
        nv12()[:-1],
        np.concatenate([nv12(), nv12()]),
        np.zeros((1, 3, 64, 64), np.uint8),
        np.zeros(0, np.uint8),
        nv12().tolist(),
        None,
    ],
    ids=["float32", "int8", "short", "long", "logical-shape", "empty", "list", "none"],
)
def test_wrong_buffers_never_reach_the_runtime(
    build: Path, library: str, wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_alone(build, library, monkeypatch) as net:
        good = net.run(nv12())
        fake = sys.modules["fake_libdnn"]
        monkeypatch.setattr(fake, "overwrite", lambda *_: pytest.fail("it reached the runtime"))
        with pytest.raises(UsageError, match=r"^input ") as refusal:
            net.run(wrong)
        assert f"{BYTES} bytes of NV12" in str(refusal.value.expected)
        with pytest.raises(UsageError, match="2 inputs"):
            net.run(nv12(), nv12())
        monkeypatch.undo()
        np.testing.assert_array_equal(net.run(nv12()), good)


@every_library
@pytest.mark.parametrize("shape", [(BYTES,), (96, 64), (1, 96, 64, 1)])
def test_nv12_may_have_any_shape(
    build: Path, library: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_alone(build, library, monkeypatch) as net:
        np.testing.assert_array_equal(net.run(nv12().reshape(shape)), net.run(nv12()))


@every_library
def test_a_view_with_gaps_counts_as_its_values(build: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = np.zeros(2 * BYTES, np.uint8)[::2]
    gaps[:] = nv12()
    turned = np.asfortranarray(nv12().reshape(96, 64))
    with open_alone(build, library, monkeypatch) as net:
        wanted = net.run(nv12())
        np.testing.assert_array_equal(net.run(gaps), wanted)
        np.testing.assert_array_equal(net.run(turned), wanted)
        np.testing.assert_array_equal(gaps, nv12())  # and the caller's array is as it was


def test_the_fakes_have_the_hazards_that_the_checks_are_for(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the checks of edge these calls give wrong results and no error."""
    path = str(next(build.glob("*.bin")))
    plug_in(monkeypatch)
    forward = importlib.import_module("hobot_dnn.pyeasy_dnn").load(path)[0].forward
    wanted = forward(nv12())[0].buffer
    assert not np.array_equal(forward(nv12().astype(np.float32))[0].buffer, wanted)  # cut to a quarter
    gaps = np.zeros(2 * BYTES, np.uint8)[::2]
    gaps[:] = nv12()
    assert not np.array_equal(forward(gaps)[0].buffer, wanted)  # strides are ignored
    forward(nv12(1))
    assert not np.array_equal(forward(nv12()[:100])[0].buffer, wanted)  # old bytes stay
    (tmp_path / "rgb.bin").write_bytes(fake_bin(inputs=[{"name": "x", "type": "RGB", "shape": [1, 3, 8, 32]}]))
    rgb = np.full(768, 100, np.uint8)
    importlib.import_module("hobot_dnn.pyeasy_dnn").load(str(tmp_path / "rgb.bin"))[0].forward(rgb)
    assert not rgb.any()  # changed in place
    runtime = importlib.import_module("hbm_runtime").HB_HBMRuntime(path)
    first = runtime.run(nv12())["fake"]["scores"]
    kept = first.copy()
    runtime.run(nv12(1))
    assert not np.array_equal(first, kept)  # the runtime's own memory
    infer = importlib.import_module("bpu_infer_lib").Infer(False)
    assert infer.load_model(path) is True
    assert infer.read_input(nv12()[:100], 0) is True  # sizes pass


@pytest.mark.parametrize(
    ("library", "kind", "match"),
    [
        ("hobot_dnn", "RGB", "changes RGB images"),
        ("hobot_dnn", "F32", "turns numbers other than bytes into bytes"),
        ("hobot_dnn", "S8", "turns numbers"),
        *(
            ("hbm_runtime", kind, f"type {kind}, which hbm_runtime may misread")
            for kind in ("NV12_SEPARATE", "Y", "YUV444", "RGB", "BGR", "S8", "S4")
        ),
    ],
)
def test_inputs_that_a_runtime_spoils_are_refused(
    tmp_path: Path, library: str, kind: str, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [{"name": "x", "type": kind, "shape": [1, 3, 64, 64]}]
    with pytest.raises(BackendError, match=match):
        open_bin(tmp_path, library, monkeypatch, inputs=inputs)


def test_a_padded_input_is_refused_by_hbm_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [{"name": "x", "type": "F32", "shape": [1, 2, 4, 5], "row_bytes": 32}]
    with pytest.raises(BackendError, match="input 'x' has padded rows") as refusal:
        open_bin(tmp_path, "hbm_runtime", monkeypatch, inputs=inputs)
    assert refusal.value.expected == "strides of [160, 80, 20, 4] bytes, not [256, 128, 32, 4]"


def test_bpu_infer_lib_wants_metadata_and_plain_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"without metadata\.json"):
        open_bin(tmp_path, "bpu_infer_lib", monkeypatch)
    outputs = integer("S32", [1, 1, 1, 4], scale=[0.1])
    build = board_build(tmp_path / "integers", fake_bin(outputs))
    with pytest.raises(BackendError, match="HB_DNN_TENSOR_TYPE_S32"):
        load(build, backend="bpu_infer_lib")


def test_bpu_infer_lib_refuses_results_of_another_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = board_build(tmp_path / "five", fake_bin([F32 | {"shape": [1, 5, 1, 1]}]))
    with pytest.raises(BackendError, match=r"a tensor of shape \(1, 5, 1, 1\)") as refusal:
        open_alone(build, "bpu_infer_lib", monkeypatch)
    assert refusal.value.expected == "(1, 4), as metadata.json says"
    with pytest.raises(BackendError, match="has 5 values"):  # the older one gives no shapes
        open_alone(build, "bpu_infer_lib", monkeypatch, FAKE_BPU_INFER_LIB="old")


# Threads


@every_library
@pytest.mark.parametrize("threads", [1, 4])
def test_threads_that_share_a_net(build: Path, library: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, [library])
    frames = [nv12(seed) for seed in range(8)] * 5
    with load(build, backend=library, threads=threads) as net:
        alone = [net.run(frame)[0] for frame in frames]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda frame: net.run(frame)[0], frames))
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("library", ["hbm_runtime", "hobot_dnn"])
def test_a_runtime_that_is_entered_twice_fails(build: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate can fail: without the queue of the net the fakes notice a second caller."""
    frames = [nv12(seed) for seed in range(8)] * 5
    net = open_alone(build, library, monkeypatch)
    net._backends[0].concurrent = True
    with ThreadPoolExecutor(4) as pool, pytest.raises(BackendError, match=r"already in use|failed"):
        list(pool.map(net.run, frames))


# Missing, broken and mismatched


@every_library
def test_a_machine_without_the_library(build: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, [])
    with pytest.raises(BackendMissing, match=f"no Python module {library}") as missing:
        load(build, backend=library)
    assert "/usr/bin/python3" in str(missing.value.remedy)
    assert "pip" not in f"{missing.value.expected} {missing.value.remedy}"  # the package index has none for the X5


def test_a_library_check_that_fails_counts_as_missing(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendMissing, match=r"libdnn\.so"):
        open_alone(build, "hbm_runtime", monkeypatch, FAKE_NO_LIBDNN="1")


def test_another_platforms_module_of_that_name(build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, [])
    monkeypatch.delitem(sys.modules, "hbm_runtime")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "hbm_runtime.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(BackendMissing, match=r"lacks HB_HBMRuntime \(/.*/site/hbm_runtime\.py\)") as missing:
        load(build, backend="hbm_runtime")
    assert "pip uninstall hbm_runtime" in str(missing.value.remedy)


@every_library
def test_a_program_without_a_bin(build: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch)
    with pytest.raises(BackendMissing, match=r"without its \.bin"):
        load(next(build.glob("*_portable_int8.onnx")), backend=library)


@every_library
def test_a_file_that_is_no_program(tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build = board_build(tmp_path / "broken", b"\x00not a program")
    with pytest.raises(BackendError, match=r"can't load broken_64x64_nv12\.bin: .") as refusal:
        open_alone(build, library, monkeypatch)
    assert not isinstance(refusal.value, BackendMissing)
    if library == "hbm_runtime":  # the others print their code on the console only
        assert "invalid model" in refusal.value.seen


def test_a_run_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = board_build(tmp_path / "fails", fails=-6000012, healthy=1)
    net = open_alone(build, "hobot_dnn", monkeypatch)  # runs the known input
    with pytest.raises(BackendError, match=r"^hobot_dnn failed: forward execution failed\."):
        net.run(nv12())


@pytest.mark.parametrize("library", ["hbm_runtime", "bpu_infer_lib"])
@pytest.mark.parametrize(
    ("healthy", "odd"), [(0, "all its scores are equal"), (2, "it gave the scores of the image before again")]
)
def test_a_run_that_fails_without_an_error(
    tmp_path: Path, library: str, healthy: int, odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = board_build(tmp_path / "fails", fails=-6000012, healthy=healthy)
    with pytest.raises(BackendError, match=f"^{library} failed without an error: {odd}") as failure:  # noqa: PT012
        net = open_alone(build, library, monkeypatch)  # runs the known input
        net.run(nv12(0))
        net.run(nv12(9))
    assert "hobot_dnn" in str(failure.value.remedy)


def test_odd_scores_that_were_computed_pass() -> None:
    def same_for_dark(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.full(4, float(inputs[0].mean() > 100), np.float32)]

    watch = Watch("x", same_for_dark, [True])
    dark = [np.full(8, level, np.uint8) for level in (0, 1)]
    assert [watch([image])[0].tolist() for image in (dark[0], dark[1], dark[1])] == [[0.0] * 4] * 3
    classes = Watch("x", lambda _: [np.zeros(4, np.float32)], [False])  # class numbers: nothing but the first class
    assert classes([dark[0]])[0].tolist() == [0.0] * 4


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    watch = Watch("x", lambda inputs: [np.array([inputs[0][0], value], np.float32)], [True])
    with pytest.raises(BackendError, match="x failed without an error: its scores are not all finite"):
        watch([np.zeros(8, np.float32)])


@pytest.mark.parametrize(
    ("module", "kind", "member", "library"),
    [
        ("hbm_runtime", "HB_HBMRuntime", "output_quants", "hbm_runtime"),
        ("fake_pyeasy_dnn", "Model", "outputs", "hobot_dnn"),
        ("bpu_infer_lib", "_Infer", "load_model", "bpu_infer_lib"),
    ],
)
def test_a_runtime_of_another_interface(
    build: Path, module: str, kind: str, member: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(monkeypatch, [library])
    monkeypatch.delattr(getattr(importlib.import_module(module), kind), member)
    with pytest.raises(BackendError, match=f"{library} has another interface .*{member}"):
        load(build, backend=library)


def test_a_quantization_rule_that_is_not_known(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, ["hbm_runtime"])
    module = importlib.import_module("hbm_runtime")
    monkeypatch.setattr(module, "hbDNNQuantiType", Enum("hbDNNQuantiType", {"SHIFT": 1, "NONE": 1}))
    with pytest.raises(BackendError, match="quantization type SHIFT"):
        load(build, backend="hbm_runtime")


def test_a_runtime_older_than_the_compiler_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build = board_build(tmp_path / "net", builder=(1, 20), hb_mapper="1.24.3")
    caplog.set_level(logging.WARNING, "edge.runtime")
    with open_alone(build, "hbm_runtime", monkeypatch, FAKE_LIBDNN="1.23.6_(3.15.40 HBRT)") as net:
        assert net.info.version == "libdnn 1.23.6_(3.15.40 HBRT)"
    assert "libdnn 1.23.6_(3.15.40 HBRT) is older than the compiler of net, hb_mapper 1.24.3" in caplog.text


@pytest.mark.parametrize("version", ["1.24.5_(3.15.55 HBRT)", "1.24.0", "2.0.1", "unheard of"])
def test_a_runtime_that_is_no_older_is_not_mentioned(
    build: Path, version: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plug_in(monkeypatch, ["hbm_runtime"])
    module = importlib.import_module("hbm_runtime")
    monkeypatch.setattr(module.HB_HBMRuntime, "version", staticmethod(lambda: version))  # the other form
    with load(build, backend="hbm_runtime") as net:
        assert net.info.version == f"libdnn {version}"
    assert caplog.text == ""


def test_a_refusal_for_an_old_runtime_names_both_versions(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="by a newer compiler") as refusal:
        open_alone(build, "hbm_runtime", monkeypatch, FAKE_LIBDNN="1.22.1")
    assert "1.22.1 is older than the compiler of net, hb_mapper 1.24.3" in refusal.value.seen
    assert "apt" in str(refusal.value.remedy)


def test_codes_are_put_into_words() -> None:
    assert explained(-6000014).startswith("the model does not fit this runtime")
    assert explained(-1) == "not in the vendor's list of codes"
    assert len(set(CODES.values())) == len(CODES) == 19
