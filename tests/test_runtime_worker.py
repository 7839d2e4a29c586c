"""The board's runtimes in processes of their own, as on a board."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edge.errors import BackendError
from edge.runtime import load
from tests.fabricated import save_photo
from tests.fake_board import FOLDER, board_build, fake_bin, plug_in

LIBRARIES = ("hbm_runtime", "hobot_dnn", "bpu_infer_lib")


def nv12(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, 64 * 64 * 3 // 2).astype(np.uint8)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return board_build(tmp_path / "net")


@pytest.mark.parametrize("library", LIBRARIES)
def test_scores_are_those_of_the_portable_model(build: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, workers=True)
    frames = [nv12(seed) for seed in range(6)]
    with load(build, "portable") as net:
        wanted = [net.run(frame)[0].reshape(-1) for frame in frames]
    with load(build, library, threads=2) as net, ThreadPoolExecutor(3) as pool:
        assert net.backend == library
        got = [scores[0].reshape(-1) for scores in pool.map(net.run, frames)]  # kept: no view of the shared memory
    np.testing.assert_array_equal(got, wanted)


def test_several_inputs_and_outputs_have_places_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [
        {"name": "x", "type": "F32", "shape": [1, 1, 3, 5]},
        {"name": "image", "type": "NV12", "shape": [1, 3, 64, 64]},
    ]
    outputs = [{"name": name, "type": "F32", "shape": shape} for name, shape in (("a", [1, 7]), ("b", [1, 2, 3]))]
    (tmp_path / "two.bin").write_bytes(fake_bin(outputs, inputs))
    numbers = np.linspace(-1, 1, 15, dtype=np.float32).reshape(1, 1, 3, 5)
    results = []
    for workers in (False, True):
        with monkeypatch.context() as context:
            plug_in(context, workers=workers)
            with load(tmp_path / "two.bin", "hbm_runtime") as net:
                results.append(net.run(numbers, nv12()))
    assert [values.shape for values in results[1]] == [(1, 7), (1, 2, 3)]
    for here, there in zip(*results, strict=True):
        np.testing.assert_array_equal(here, there)


def test_threads_compute_at_once_though_the_runtime_holds_the_lock(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(monkeypatch, workers=True, FAKE_SECONDS="0.3")
    with load(build, "hbm_runtime", threads=4) as net, ThreadPoolExecutor(4) as pool:
        begin = time.perf_counter()
        list(pool.map(net.run, [nv12(seed) for seed in range(8)]))
        assert time.perf_counter() - begin < 1.6  # 2.4 s one after the other


def test_a_runtime_that_ends_its_process_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, workers=True)
    build = board_build(tmp_path / "net", fails=-6000001, healthy=2)
    with load(build, "hbm_runtime") as net:
        net.run(nv12())
        for _ in range(2):
            with pytest.raises(BackendError, match="the process of hbm_runtime ended: SIGABRT") as failure:
                net.run(nv12(1))
    assert "hrt_model_exec" in str(failure.value.remedy)


def test_a_process_that_ended_is_started_again_where_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plug_in(monkeypatch, workers=True)
    build = board_build(tmp_path / "net")
    with load(build, "portable") as net:
        wanted = net.run(nv12())[0]
    with load(build, "hbm_runtime", threads=2, restarts=1) as net:
        for backend in net._backends:
            os.kill(backend._worker._process.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(BackendError, match="the process of hbm_runtime ended: SIGKILL"):
                net.run(nv12())
        assert (net.restarts, net.ended) == (2, False)
        assert "was started again" in caplog.text
        for _ in range(2):
            np.testing.assert_array_equal(net.run(nv12())[0].reshape(-1), wanted.reshape(-1))
        monkeypatch.setattr(sys, "executable", "/no/python3")
        os.kill(net._backends[0]._worker._process.pid, signal.SIGKILL)
        with pytest.raises(BackendError, match="SIGKILL"):
            net.run(nv12())
        assert (net.restarts, net.ended) == (2, True)
        assert "can't be started again" in caplog.text


def test_an_answer_that_ctrl_c_left_is_not_the_next_ones(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, workers=True, FAKE_SECONDS="0.5")
    with load(build, "hbm_runtime") as net:
        wanted = net.run(nv12(1))[0]
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            net.run(nv12())
        timer.join()
        np.testing.assert_array_equal(net.run(nv12(1))[0], wanted)


def test_a_runtime_that_hangs_is_ended(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, workers=True)
    with load(build, "hbm_runtime") as net:
        (worker,) = net._backends
        monkeypatch.setattr("edge.runtime.worker.HANGS", 0.3)
        os.kill(worker._process.pid, signal.SIGSTOP)
        with pytest.raises(BackendError, match=r"no answer within 0\.3 s; its process was ended"):
            net.run(nv12())
        with pytest.raises(BackendError, match="SIGKILL"):
            net.run(nv12())


def test_a_process_that_can_not_be_started_is_an_error(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, workers=True)
    monkeypatch.setattr(sys, "executable", "/no/python3")
    with pytest.raises(BackendError, match=r"hbm_runtime gets no process of its own: .*/no/python3"):
        load(build, "hbm_runtime")


def test_a_run_that_times_out_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, workers=True)
    build = board_build(tmp_path / "net", fails=-6000012, healthy=2)
    with load(build, "hbm_runtime") as net:
        net.run(nv12())
        with pytest.raises(BackendError, match="failed without an error") as failure:
            net.run(nv12(1))
    assert "hobot_dnn" in str(failure.value.remedy)


def test_errors_and_warnings_of_loading_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plug_in(monkeypatch, workers=True, FAKE_LIBDNN="1.23.6")
    caplog.set_level(logging.WARNING, "edge.runtime")
    board_build(tmp_path / "old", builder=(1, 20), hb_mapper="1.24.3")
    load(tmp_path / "old", "hbm_runtime").close()
    assert "libdnn 1.23.6 is older than the compiler" in caplog.text
    board_build(tmp_path / "new")
    with pytest.raises(BackendError, match="by a newer compiler") as refusal:
        load(tmp_path / "new", "hbm_runtime")
    assert "apt" in str(refusal.value.remedy)
    with load(tmp_path / "new") as net:
        assert net.backend not in LIBRARIES
        assert {entry.backend for entry in net.passed_over} >= set(LIBRARIES)


@pytest.mark.parametrize("library", LIBRARIES)
def test_close_ends_the_process_and_so_frees_all_memory(
    build: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real hobot_dnn keeps its program in BPU memory otherwise."""
    plug_in(monkeypatch, workers=True)
    gc.collect()  # so that what earlier tests left hides nothing
    before = open_files()
    for _ in range(3):
        with load(build, library) as net:
            net.run(nv12())
            process = net._backends[0]._process
            assert process.poll() is None
        assert process.poll() == 0
    assert open_files() <= before  # fewer where a thread of an earlier test ends meanwhile


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_json_is_alone_on_stdout(build: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge", "run", str(build), str(save_photo(tmp_path / "p.png")), "--json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(FOLDER)])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["backend"] == "hbm_runtime"
    assert "[BPU_PLAT]" in done.stderr
