"""Measuring: the figures are those of a known clock, and the command says what they stand for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from edge.errors import BackendError, ImageError, UsageError
from edge.runtime import Info, Net, Tensor, machine
from edge.runtime.bench import WARM_UP_FRAMES, measure, measure_preprocessing
from edge.specs import Preprocess
from tests.conftest import Run
from tests.fabricated import make_build, save_photo
from tests.fake_board import board_build, plug_in

PORTABLE = ("--backend", "portable")
FRAME = np.zeros(64 * 64 * 3 // 2, np.uint8)
IMAGE = Tensor("nv12", (1, 3, 64, 64), "uint8", nv12=True)


class Scripted:
    """A backend that does what ``action`` says, given the number of the run."""

    concurrent = True

    def __init__(self, action: Callable[[int], None], inputs: tuple[Tensor, ...] = (IMAGE,)) -> None:
        self.info = Info("scripted", "net", "1", inputs, (Tensor("y", (1, 4), "float32"),))
        self._action, self._lock, self.runs, self.closed = action, threading.Lock(), 0, False

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with self._lock:
            number, self.runs = self.runs, self.runs + 1
        self._action(number)
        return [np.zeros((1, 4), np.float32)]

    def close(self) -> None:
        self.closed = True


def net(backend: Scripted) -> Net:
    return Net([backend], preprocess=Preprocess(crop=(64, 64), resize=64), labels=None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the measurement sees, in seconds; moved by the test."""
    now = [100.0]
    monkeypatch.setattr("edge.runtime.bench.time.perf_counter", lambda: now[0])
    return now


def test_figures_are_those_of_the_clock(clock: list[float]) -> None:
    """1, 2, … 100 ms a frame, after a warm-up of other times."""

    def work(number: int) -> None:
        frame = number - WARM_UP_FRAMES
        clock[0] += 0.05 if frame < 0 else (frame * 37 % 100 + 1) / 1e3  # every duration once, mixed

    run = measure(net(Scripted(work)), [FRAME], threads=1, frames=100)
    assert run.latency.frames == 100
    assert run.warm_up == WARM_UP_FRAMES
    assert run.seconds == pytest.approx(5.05)
    assert run.fps == pytest.approx(100 / 5.05)
    assert run.latency.mean == pytest.approx(50.5)
    assert run.latency.p50 == pytest.approx(50.5)
    assert run.latency.p90 == pytest.approx(90.1)
    assert run.latency.p99 == pytest.approx(99.01)
    assert (run.latency.minimum, run.latency.maximum) == (pytest.approx(1), pytest.approx(100))


def test_a_slow_program_is_stopped_at_the_limit(clock: list[float]) -> None:
    def work(_: int) -> None:
        clock[0] += 2

    backend = Scripted(work)
    run = measure(net(backend), [FRAME], threads=1, frames=200, limit=9)
    assert run.warm_up == 1  # one warm frame already took a second and more
    assert run.latency.frames == 5  # begun at 0, 2, 4, 6 and 8 s
    assert run.fps == pytest.approx(0.5)
    assert backend.runs == 6
    assert measure(net(backend), [FRAME], threads=1, frames=200, limit=0).latency.frames == 1


def test_so_many_threads_are_in_the_backend_at_once() -> None:
    together = threading.Barrier(3)

    def work(_: int) -> None:
        together.wait(timeout=60)  # passes only when three threads are inside

    backend = Scripted(work)
    run = measure(net(backend), [FRAME], threads=3, frames=30)
    assert run.threads == 3
    assert run.latency.frames == 30
    assert run.warm_up == 3 * WARM_UP_FRAMES
    assert backend.runs == 60


@pytest.mark.parametrize("fails_at", [0, WARM_UP_FRAMES + 3], ids=["warming up", "measuring"])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_failing_run_is_told_and_ends_every_thread(threads: int, fails_at: int) -> None:
    def work(number: int) -> None:
        if number >= fails_at:
            raise BackendError("libdnn gave up")

    before = threading.active_count()
    with pytest.raises(BackendError, match="libdnn gave up"):
        measure(net(Scripted(work)), [FRAME], threads=threads, frames=500)
    assert threading.active_count() == before


def test_an_interrupt_leaves_nobody_in_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = threading.Event()
    wait = threading.Barrier.wait

    def interrupted(barrier: threading.Barrier, timeout: float | None = None) -> int:
        if threading.current_thread() is threading.main_thread() and inside.wait(60):
            raise KeyboardInterrupt
        return wait(barrier, timeout)

    monkeypatch.setattr(threading.Barrier, "wait", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        measure(net(Scripted(lambda _: inside.set())), [FRAME], threads=2, frames=500)
    assert threading.active_count() == before


def test_preprocessing_is_measured_in_its_two_parts(tmp_path: Path) -> None:
    seen = measure_preprocessing(net(Scripted(lambda _: None)), save_photo(tmp_path / "p.jpg").read_bytes(), frames=7)
    assert seen.decode.frames == seen.nv12.frames == 7
    assert 0 < seen.decode.minimum <= seen.decode.p50 <= seen.decode.maximum
    with pytest.raises(ImageError):
        measure_preprocessing(net(Scripted(lambda _: None)), b"no image")


def test_nonsense_is_refused() -> None:
    for threads, frames in ((0, 1), (1, 0)):
        with pytest.raises(UsageError, match="1 and above"):
            measure(net(Scripted(lambda _: None)), [FRAME], threads=threads, frames=frames)
    with pytest.raises(UsageError, match="input 'nv12'"):
        measure(net(Scripted(lambda _: None)), [FRAME[:-1]])


# The command


def test_a_simulators_speed_is_called_this_machines(edge: Run, tmp_path: Path) -> None:
    make_build(tmp_path / "build" / "ConvNeXt_atto")
    code, out, _ = edge("bench", "ConvNeXt_atto", "--threads", "1,2", "--frames", "5", *PORTABLE)
    assert code == 0
    lines = out.splitlines()
    header = next(i for i, line in enumerate(lines) if line.split()[:3] == ["threads", "frames", "FPS"])
    assert [line.split()[:2] for line in lines[header + 1 : header + 3]] == [["1", "5"], ["2", "5"]]
    assert "backend    portable (onnxruntime" in out
    assert f"machine    {machine.machine()}" in out
    assert "image      rendered, 640x480 JPEG" in out
    assert "decode" in out
    assert "static      1231.6 us, 811.95 FPS" in out
    assert "this machine's speed, not the board's" in out


def test_json_holds_every_figure(edge: Run, tmp_path: Path) -> None:
    build = make_build(tmp_path / "build" / "ConvNeXt_atto")
    (build / "manifest.json").unlink()
    save_photo(tmp_path / "photo.jpg")
    code, out, _ = edge(
        "bench", str(build), "--image", "photo.jpg", "--threads", "2,1,2", "--frames", "4", "--json", *PORTABLE
    )
    assert code == 0
    told = json.loads(out)
    assert [run["threads"] for run in told["forward"]] == [2, 1]
    for run in told["forward"]:
        latency = run["latency"]
        assert latency["frames"] == 4
        assert run["fps"] == pytest.approx(4 / run["seconds"])
        assert latency["minimum"] <= latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["maximum"]
    assert told["simulator"] is True
    assert told["static"] is None
    assert told["image"] == "photo.jpg, 160x120"
    assert told["preprocessing"]["threads"] == 1


def test_a_board_is_no_simulator(edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board_build(tmp_path / "build" / "ConvNeXt_atto")
    plug_in(monkeypatch, ["hbm_runtime"])
    code, out, _ = edge("bench", "ConvNeXt_atto", "--threads", "1,2", "--frames", "3")
    assert code == 0
    assert "backend    hbm_runtime" in out
    assert "on the board's BPU" in out
    assert "this machine's speed" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--threads", "0"), 2, ("--threads 0", "such as 1,4")),
        (("--threads", "many"), 2, ("--threads many",)),
        (("--threads", "1,,2"), 2, ("--threads 1,,2",)),
        (("--frames", "0"), 2, ("--frames",)),
        (("--image", "gone.jpg"), 1, ("gone.jpg can't be read",)),
        (("--image", "junk.jpg"), 1, ("junk.jpg is not a complete image",)),
        (("--backend", "tpu"), 2, ("'tpu'",)),
        (("--resize", "80"), 2, ("metadata.json says",)),
    ],
)
def test_wrong_input_gives_one_clear_error(
    edge: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, says: tuple[str, ...]
) -> None:
    make_build(tmp_path / "build" / "ConvNeXt_atto")
    (tmp_path / "junk.jpg").write_bytes(b"no image")
    chosen = arguments if "--backend" in arguments else (*arguments, *PORTABLE)
    seen, out, err = edge("bench", "ConvNeXt_atto", *chosen)
    assert seen == code
    assert out == ""
    for text in says:
        assert text in err


def test_a_program_that_takes_no_image_is_refused(edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_build(tmp_path / "build" / "ConvNeXt_atto")
    backend = Scripted(lambda _: None, inputs=(IMAGE, Tensor("features", (1, 8), "float32")))
    monkeypatch.setattr("edge.runtime.backends.portable.open_backend", lambda _: backend)
    code, _, err = edge("bench", "ConvNeXt_atto", *PORTABLE)
    assert code == 2
    assert "takes 2 inputs, not one NV12 image" in err
    assert backend.closed


# The machine


def test_a_board_is_described_by_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "device-tree").mkdir()
    (tmp_path / "device-tree" / "model").write_bytes(b"D-Robotics RDK X5 V1.0\0")
    (tmp_path / "meminfo").write_text("MemTotal:        3304416 kB\nMemAvailable:    1522288 kB\nHugePages_Total:  0\n")
    (tmp_path / "ratio").write_text("37\n")
    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.setattr(machine, "BPU", tmp_path)
    assert machine.machine().startswith("D-Robotics RDK X5 V1.0, ")
    assert machine.memory() == [
        "MemTotal          3227 MiB",
        "MemAvailable      1487 MiB",
        "BPU                 37 % busy",
    ]


def test_a_machine_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.setattr(machine, "BPU", tmp_path)
    lines = machine.memory()
    assert "has no /proc/meminfo" in lines[0]
    assert "not the board" in lines[1]
    assert "core" in machine.machine()
