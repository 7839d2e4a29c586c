"""edge on the vendor's real Python modules: run by ``scripts/board_rig.sh`` in its emulated root.

Below the modules is the stand-in ``libdnn.c`` of this folder, whose programs are text and whose behaviour the
environment chooses. What is tested is the vendor's bindings and edge on top, not the BPU.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edge.errors import BackendError
from edge.files import sha256_of
from edge.folder.metadata import FILE, FileEntry, Metadata, write_metadata
from edge.runtime import load
from edge.runtime.answer import Answer, write_answer
from edge.runtime.open import BackendName
from edge.specs import Preprocess

BYTES = 64 * 64 * 3 // 2
LIBRARIES: tuple[BackendName, ...] = ("hobot_dnn", "bpu_infer_lib", "hbm_runtime")
STRIDES = ("hbm_runtime",)  # the others give no strides, and one no scales
IMAGE = "in image NV12 2 0 4 1 3 64 64 0"


def have(name: str) -> pytest.MarkDecorator:
    """Skip without a module: hbm_runtime's is a file that the user names."""
    modules = (name, f"{name}_rdkx5")
    return pytest.mark.skipif(
        not any(map(importlib.util.find_spec, modules)), reason=f"no {name}: HBM_RUNTIME=FILE scripts/board_rig.sh"
    )


each = pytest.mark.parametrize("library", [pytest.param(name, marks=have(name)) for name in LIBRARIES])
scaled = pytest.mark.parametrize(
    "library", [pytest.param(name, marks=have(name)) for name in ("hobot_dnn", "hbm_runtime")]
)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in this process: one of its own takes seconds to start under emulation."""
    monkeypatch.setattr("edge.runtime.open.isolated", lambda *_: False)


def frame(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, BYTES).astype(np.uint8)


def values(image: np.ndarray, count: int, output: int = 0) -> np.ndarray:
    """Return what the stand-in computes, -128 to 127; see hash() and value() there."""
    seed = 2166136261
    for byte in image.tobytes():
        seed = ((seed ^ byte) * 16777619) & 0xFFFFFFFF
    seed = (seed + output) & 0xFFFFFFFF
    return np.array([(((seed ^ (k * 2654435761 & 0xFFFFFFFF)) >> 13) & 0xFF) - 128 for k in range(count)])


def build(folder: Path, *outputs: str, shape: tuple[int, ...] = (1, 4)) -> Path:
    """Write a build folder; by default of four float32 scores, as classifiers of edge have them."""
    lines = ["# #B2Ehbm#", "model net", IMAGE, *(outputs or ["out scores F32 2 0 4 1 4 1 1 0"])]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.bin").write_text("\n".join(lines) + "\n")
    rule = Preprocess(crop=(64, 64), resize=64)
    files = {"bin": entry(folder / "net.bin")}
    write_metadata(folder / FILE, Metadata("net", "net", "random", rule, shape[-1], files, scores="logits"))
    return folder


def entry(path: Path) -> FileEntry:
    return FileEntry(path.name, path.stat().st_size, sha256_of(path))


def store_answer(folder: Path, change: float = 0) -> Path:
    image = frame(99)
    scores = (values(image, 4) / 8 + change).astype(np.float32)
    write_answer(folder / "test.npz", Answer({"": image}, (scores,), exact=True))
    files = {"bin": entry(folder / "net.bin"), "test": entry(folder / "test.npz")}
    rule = Preprocess(crop=(64, 64), resize=64)
    write_metadata(folder / FILE, Metadata("net", "net", "random", rule, 4, files, scores="logits"))
    return folder


@each
def test_a_process_keeps_stdout_clean_and_takes_its_memory_with_it(
    library: BackendName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DNN_BANNER", "1")
    with load(build(tmp_path), library) as net:
        worker = net._backends[0]._process  # type: ignore[attr-defined]
        found = [net.run(frame(seed))[0].reshape(-1) for seed in range(3)]
    np.testing.assert_array_equal(found, [values(frame(seed), 4) / 8 for seed in range(3)])
    out, err = capfd.readouterr()
    assert out == ""
    assert "[BPU_PLAT]" in err
    assert worker.poll() == 0


@pytest.mark.usefixtures("here")
@each
def test_a_wrong_answer_is_refused_when_the_program_is_opened(
    library: BackendName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_answer(build(tmp_path))
    load(tmp_path, library).close()
    store_answer(tmp_path, change=2**-14)  # half a step of the integers is 2**-4, float32's last bits 2**-20
    with pytest.raises(BackendError, match="answers the test image of net wrongly: 4 of 4 values"):
        load(tmp_path, library)


@pytest.mark.usefixtures("here")
@each
def test_a_first_run_that_times_out_over_other_finite_numbers_is_refused(
    library: BackendName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_answer(build(tmp_path))
    monkeypatch.setenv("DNN_FAIL", "wait")
    monkeypatch.setenv("DNN_MEMORY", "numbers")
    says = "hobot_dnn failed" if library == "hobot_dnn" else "answers the test image of net wrongly: 4 of 4 values"
    with pytest.raises(BackendError, match=says):
        load(tmp_path, library)


@each
@pytest.mark.parametrize("call", ["infer", "wait"])
def test_a_later_run_that_fails_is_an_error(
    library: BackendName, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (library, call) != ("hbm_runtime", "infer"):  # which ends the process
        monkeypatch.setattr("edge.runtime.open.isolated", lambda *_: False)
    monkeypatch.setenv("DNN_FAIL", call)
    monkeypatch.setenv("DNN_AFTER", "1")
    with load(build(tmp_path), library) as net:
        net.run(frame(0))
        with pytest.raises(BackendError) as failure:
            net.run(frame(1))
    says = {"hobot_dnn": "hobot_dnn failed", "bpu_infer_lib": "failed without an error"}
    says["hbm_runtime"] = "process of hbm_runtime ended: SIGABRT" if call == "infer" else "failed without an error"
    assert says[library] in failure.value.seen


@pytest.mark.usefixtures("here")
@each
def test_a_program_that_does_not_load(library: BackendName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNN_FAIL", "load")
    with pytest.raises(BackendError, match=f"{library} can't load net.bin"):
        load(build(tmp_path), library)


@each
def test_two_runs_are_in_flight(library: BackendName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNN_US", "2000000")
    with load(build(tmp_path), library, threads=2) as net, ThreadPoolExecutor(2) as pool:
        begin = time.perf_counter()
        list(pool.map(net.run, map(frame, range(4))))
        assert time.perf_counter() - begin < 7  # 8 s and more one after the other


@pytest.mark.usefixtures("here")
@scaled
@pytest.mark.parametrize(
    ("output", "unit", "scales"),
    [
        ("out q S32 0 0 4 1 1 1 4 1 0.5", 1000, [0.5]),
        ("out q S16 0 0 4 1 1 1 4 4 0.5 0.25 2 1", 100, [0.5, 0.25, 2, 1]),
        ("out q S8 2 0 4 1 2 2 16 2 0.5 0.25", 1, [[0.5], [0.25]]),
    ],
    ids=["S32", "S16 per channel", "S8 in NCHW"],
)
def test_integers_become_scores(
    library: BackendName, output: str, unit: int, scales: list[float], tmp_path: Path
) -> None:
    with load(build(tmp_path, output) / "net.bin", library) as net:
        (found,) = net.run(frame(0))
    wanted = values(frame(0), found.size).reshape(len(scales) if isinstance(scales[0], list) else 1, -1) * unit
    np.testing.assert_array_equal(found.reshape(wanted.shape), wanted * np.array(scales, np.float32))


@pytest.mark.usefixtures("here")
@scaled
def test_padded_rows_are_read_right_or_refused(library: BackendName, tmp_path: Path) -> None:
    path = build(tmp_path, "out q S8 0 32 4 1 3 5 21 1 0.5") / "net.bin"
    if library not in STRIDES:
        with pytest.raises(BackendError, match="rows are padded"):
            load(path, library)
        return
    with load(path, library) as net:
        (found,) = net.run(frame(0))
    np.testing.assert_array_equal(found.reshape(-1), values(frame(0), 315) / 2)


@pytest.mark.usefixtures("here")
@scaled
def test_two_outputs(library: BackendName, tmp_path: Path) -> None:
    path = build(tmp_path, "out a F32 2 0 4 1 4 1 1 0", "out b F32 2 0 4 1 2 1 1 0") / "net.bin"
    with load(path, library) as net:
        first, second = net.run(frame(0))
    np.testing.assert_array_equal(first.reshape(-1), values(frame(0), 4) / 8)
    np.testing.assert_array_equal(second.reshape(-1), values(frame(0), 2, output=1) / 8)


@have("hobot_dnn")
def test_selftest_gives_one_verdict(tmp_path: Path) -> None:
    """The root looks like no RDK, which is a warning; the answer decides."""
    store_answer(build(tmp_path))
    argv = [sys.executable, "-m", "edge", "selftest", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("PASS: net runs on this board's BPU")
