"""Frames of videos and cameras: in ``edge run`` and in ``edge bench --pipeline``."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.cli.bench import _limit
from edge.errors import ImageError
from edge.images import video
from edge.images.frames import cores
from edge.images.video import Video, is_live, is_video
from edge.runtime.bench import Latency, Pipeline
from edge.runtime.steps import overlap
from tests.conftest import Run
from tests.fabricated import NAMES, make_build

PORTABLE = ("--backend", "portable")
COLORS = [(230, 20, 20), (20, 230, 20), (20, 20, 230)]  # RGB


def save_video(path: Path, frames: int = 9) -> Path:
    """Write 160x120 frames of one colour each, a third of them of each of ``COLORS``."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (160, 120))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((120, 160, 3), COLORS[number * 3 // frames][::-1], np.uint8))
    writer.release()
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    make_build(tmp_path / "build" / "ConvNeXt_atto")
    return save_video(tmp_path / "clip.avi")


def test_what_is_a_video() -> None:
    assert all(map(is_video, ("a.mp4", "A.AVI", "/dev/video0", "rtsp://user:pw@host/x", "http://host:8080/video")))
    assert not any(map(is_video, ("a.jpg", "photos", "0", "/dev/null", "mp4")))
    assert is_live("/dev/video12")
    assert not is_live("a.mp4")


def test_every_frame_of_a_file_in_rgb_and_again_from_the_beginning(clip: Path) -> None:
    with Video(str(clip)) as opened:
        assert opened.description == "clip.avi, 160x120, 25 FPS"
        for _ in range(2):
            frames = list(opened)
            assert [frame.number for frame in frames] == list(range(9))
            for frame in frames:
                assert np.abs(frame.rgb.mean(axis=(0, 1)) - COLORS[frame.number // 3]).max() < 8
                assert frame.waited == 0 < frame.decoded


class Camera:
    """OpenCV's capture of a camera: a frame every 10 ms, each of the brightness of its number; it ends after 60."""

    def __init__(self) -> None:
        self.count, self.released = 0, False

    def grab(self) -> bool:
        assert not self.released
        time.sleep(0.01)
        self.count += 1
        return self.count <= 60

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((12, 16, 3), self.count, np.uint8)

    def get(self, _: int) -> float:
        return 100.0

    def release(self) -> None:
        self.released = True


def test_a_file_that_breaks_off_is_an_error_after_its_frames(edge: Run, clip: Path) -> None:
    data = bytearray(save_video(clip, frames=60).read_bytes())
    middle = len(data) // 3
    data[middle : 2 * middle] = np.random.default_rng(0).bytes(middle)
    clip.write_bytes(data)
    code, out, err = edge("run", "ConvNeXt_atto", str(clip), *PORTABLE)
    assert code != 0
    assert "clip.avi breaks off: " in err
    read = int(re.search(r"breaks off: (\d+) of 60 frames can be read", err)[1])
    assert len(re.findall(r"^frame +\d+", out, re.MULTILINE)) == read > 0  # what was read was answered


def test_a_camera_gives_its_newest_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera()
    monkeypatch.setattr(video, "_opened", lambda _: camera)
    seen = []
    with Video("/dev/video0") as opened:
        for frame in opened:
            assert frame.rgb[0, 0, 0] == frame.number + 1
            behind = camera.count - frame.rgb[0, 0, 0]
            seen.append((frame.number, frame.waited, behind))
            time.sleep(0.05)
    assert camera.released
    assert 5 < len(seen) < 25  # of 60: the others came while nobody asked
    assert all(waited > 0.005 for _, waited, _ in seen)
    assert max(behind for _, _, behind in seen[2:]) <= 3


def test_a_camera_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera()
    monkeypatch.setattr(video, "_opened", lambda _: camera)
    monkeypatch.setattr(video, "_SECONDS", 0.2)
    with Video("rtsp://me:secret@host/x") as opened:
        assert "secret" not in opened.description
        frames = iter(opened)
        next(frames)
        camera.grab = lambda: time.sleep(1) or False  # type: ignore[method-assign]
        with pytest.raises(ImageError, match="rtsp://host/x has given no frame for 0 s"):
            list(frames)


class Stream(BaseHTTPRequestHandler):
    """A network camera: JPEGs in one endless answer, each of a colour of ``COLORS``."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        with suppress(OSError):
            for number in range(300):
                image = np.full((120, 160, 3), COLORS[number % 3][::-1], np.uint8)
                data = cv2.imencode(".jpg", image)[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        pass


def test_a_stream_over_the_network(edge: Run, clip: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = f"http://127.0.0.1:{server.server_port}/video"
    try:
        with Video(source) as opened:
            for frame, _ in zip(opened, range(5), strict=False):
                assert frame.rgb.shape == (120, 160, 3)
                assert min(np.abs(frame.rgb.mean(axis=(0, 1)) - color).max() for color in COLORS) < 12
        code, out, err = edge("bench", "ConvNeXt_atto", "--pipeline", "--image", source, "--frames", "20", *PORTABLE)
        assert code == 0, err
        assert "wait for the camera" in out
        assert "limit       the camera" in out
    finally:
        server.shutdown()


def test_overlapped_work_holds_few_frames_and_keeps_their_order() -> None:
    begun = []

    def frames() -> list[int]:
        for number in range(20):
            begun.append(number)
            yield number

    found = []
    for result in overlap(lambda number: number * 2, frames(), 3):
        found.append(result)
        assert len(begun) - len(found) <= 3
    assert found == [number * 2 for number in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(overlap(lambda number: 1 // number, iter([1, 0, 1]), 2))


# The commands


def test_run_answers_each_frame(edge: Run, clip: Path) -> None:
    code, out, _ = edge("run", "ConvNeXt_atto", "clip.avi", "-k", "1", *PORTABLE)
    assert code == 0
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("frame")] == [f"frame {number}" for number in range(9)]
    assert lines[-1].startswith("9 frames, ")
    code, out, _ = edge("run", "ConvNeXt_atto", "clip.avi", "--frames", "4", "--json", *PORTABLE)
    images = json.loads(out)["images"]
    assert [one["image"] for one in images] == [f"frame {number}" for number in range(4)]
    assert {one["labels"][0]["label"] for one in images} <= set(NAMES)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "ConvNeXt_atto", "gone.mp4"), 1, "gone.mp4 does not exist"),
        (("run", "ConvNeXt_atto", "/dev/video63"), 1, "ls /dev/video*"),
        (("run", "ConvNeXt_atto", "junk.mp4"), 1, "ffprobe junk.mp4"),
        (("run", "ConvNeXt_atto", "empty.mp4"), 1, "empty.mp4 can't be opened: it is empty"),
        (("run", "ConvNeXt_atto", "folder.mp4"), 1, "it is a folder"),
        (("run", "ConvNeXt_atto", "rtsp://me:secret@127.0.0.1:9/x"), 1, "127.0.0.1:9/x can't be opened: no connection"),
        (("run", "ConvNeXt_atto", "clip.avi", "a.jpg"), 2, "one video alone"),
        (("run", "ConvNeXt_atto", "clip.avi", "--out", "x.png"), 2, "--out with the video"),
        (("run", "ConvNeXt_atto", "a.jpg", "--frames", "3"), 2, "there is no video"),
        (("run", "ConvNeXt_atto", "/dev/video0", "--json"), 2, "add --frames N"),
        (("bench", "ConvNeXt_atto", "--image", "clip.avi"), 2, "add --pipeline"),
        (("bench", "ConvNeXt_atto", "--pipeline", "--image", "gone.mp4"), 1, "gone.mp4 does not exist"),
    ],
)
def test_wrong_input_gives_one_clear_error(
    edge: Run, clip: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    (tmp_path / "junk.mp4").write_bytes(b"no video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    seen, _, err = edge(*arguments, *PORTABLE)
    assert seen == code
    assert says in err
    assert "secret" not in err


@pytest.mark.parametrize("source", ["clip.avi", None], ids=["video", "image"])
def test_bench_says_where_the_time_goes(edge: Run, clip: Path, source: str | None) -> None:
    given = ("--image", source) if source else ()
    arguments = ("bench", "ConvNeXt_atto", "--pipeline", "--threads", "1,2", "--frames", "30", *given, *PORTABLE)
    code, out, _ = edge(*arguments)
    assert code == 0
    lines = out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("step "))
    names = [line.split("  ")[0] for line in lines[at + 1 : at + 7]]
    assert names == ["decode", "resize, crop", "NV12", "run", "post", "image to answer"]
    assert [line.split()[0] for line in lines[at + 8 : at + 11]] == ["in", "overlapped", "limit"]
    told = json.loads(edge(*arguments, "--json")[1])
    turn, overlapped = told["pipeline"]
    assert (turn["threads"], overlapped["threads"]) == (0, 2)
    for one in (turn, overlapped):
        assert one["frames"] == 30
        assert one["fps"] == pytest.approx(30 / one["seconds"])
        assert list(one["steps"]) == ["decode", "resize", "nv12", "run", "post"]
    assert 0.5 < sum(turn["busy"].values()) < 1.01  # one thread, which also opens the video again and again
    whole = sum(step["mean"] for step in turn["steps"].values())
    assert turn["latency"]["mean"] == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize(
    ("busy", "threads", "says"),
    [
        ({"wait": 0.95, "decode": 0.02, "run": 0.3}, 2, "the camera: the program waits 95 %"),
        ({"decode": 0.99, "run": 0.3}, 2, "decoding"),
        ({"decode": 0.01, "nv12": 0.3, "run": 0.65}, 1, "run: the longest"),
        ({"decode": 0.01, "nv12": 0.6, "run": 0.35}, 1, "NV12: the longest"),
        ({"decode": 0.5, "run": 0.8 * cores()}, 64, "cores"),
        ({"decode": 0.1, "run": 0.1}, 4, "no thread is busy"),
    ],
)
def test_the_limit_is_what_has_no_more_to_give(busy: dict[str, float], threads: int, says: str) -> None:
    assert cores() >= 2
    none = Latency(1, 1, 1, 1, 1, 1, 1)
    seen = Pipeline(threads, 1, 1.0, 1.0, none, dict.fromkeys(busy, none), busy)
    assert says in _limit(seen, on_board=False)
    if says == "cores":  # a run on the board takes none of the processor
        assert "no thread is busy" in _limit(seen, on_board=True)
