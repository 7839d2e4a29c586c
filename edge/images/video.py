"""Frames of a video file, a camera or a stream, through OpenCV: decoded once, and no image file in between."""

from __future__ import annotations

import os
import re
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
from attrs import frozen

from edge.errors import ImageError
from edge.images.preprocess import Image, libraries_silent

ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".h264", ".h265", ".mjpeg")
_DEVICE = re.compile(r"/dev/video\d+")
_STREAM = re.compile(r"(rtsps?|rtmps?|https?|udp|tcp|srt)://\S+")
_PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}  # where a URL names none
_SECONDS = 10.0  # that a camera or a stream may take for a frame


@frozen(eq=False)
class VideoFrame:
    """A frame, and what it took."""

    number: int  #: from 0; frames that a camera gave in vain are counted.
    rgb: Image  #: uint8, (height, width, 3).
    waited: float  #: seconds until the camera had it; 0.0 of a file.
    decoded: float  #: seconds of decoding, colours in RGB order included.


def is_video(source: str) -> bool:
    """Return whether a word names a video file, a camera or a stream, judged by the name alone."""
    return is_live(source) or source.lower().endswith(ENDINGS)


def is_live(source: str) -> bool:
    """Return whether frames come at their own pace, so that one that nobody takes is lost."""
    return bool(_DEVICE.fullmatch(source) or _STREAM.fullmatch(source))


class Video:
    """An open video; iterate over its frames, then close it.

    A camera or a stream gives the newest frame: those that come while nobody asks are dropped, so that an answer is
    never about what was long ago. A file gives every frame, from the beginning each time.

    Raises:
        ImageError: it can't be opened, or has no frame; while iterating, a file that breaks off.
    """

    def __init__(self, source: str) -> None:
        self.source, self.live = source, is_live(source)
        self._capture = _opened(source)
        self._closed = False
        self._fresh = threading.Condition()
        self._newest: VideoFrame | None = None
        self._thread: threading.Thread | None = None
        self._number = 0
        self._first = self._read()
        if self._first is None:
            self._capture.release()
            why, remedy = _obstacle(source, Path(source).expanduser())
            raise ImageError(f"{_without_password(source)} gives no frame: {why}", remedy=remedy)
        height, width = self._first.rgb.shape[:2]
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        shown = f", {rate:.3g} FPS" if 0 < rate < 1000 else ""
        name = Path(source).name if not self.live else _without_password(source)
        self.description = f"{name}, {width}x{height}{shown}"

    def __iter__(self) -> Iterator[VideoFrame]:
        first, self._first = self._first, None
        if first is not None:
            yield first
        elif not self.live:
            self._capture.release()
            self._capture, self._number = _opened(self.source), 0
        if self.live and self._thread is None:
            self._thread = threading.Thread(target=self._follow, daemon=True)
            self._thread.start()
        while (frame := self._next()) is not None:
            yield frame
        promised = 0 if self.live else int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        # Some formats are off by a frame or two.
        if promised - self._number > max(2, promised // 50):
            raise ImageError(
                f"{self.source} breaks off: {self._number} of {promised} frames can be read",
                remedy="copy or record it again; the answers so far are of the frames before",
            )

    def close(self) -> None:
        """Free the camera; further calls do nothing."""
        self._closed = True
        if self._thread is not None:
            self._thread.join(_SECONDS)
        self._capture.release()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> VideoFrame | None:
        if not self.live:
            return self._read()
        with self._fresh:
            there = self._fresh.wait_for(lambda: self._newest is not None or self._closed, _SECONDS)
            frame, self._newest = self._newest, None
        if not there:
            raise ImageError(f"{_without_password(self.source)} has given no frame for {_SECONDS:.0f} s")
        return frame

    def _follow(self) -> None:
        """Read on so that nothing piles up in the camera's queue, and keep the newest frame."""
        while not self._closed:
            frame = self._read()
            with self._fresh:
                self._newest, self._closed = frame, self._closed or frame is None
                self._fresh.notify()

    def _read(self) -> VideoFrame | None:
        begun = time.perf_counter()
        if not self._capture.grab():
            return None
        # A camera's grab waits for the sensor; a file's decodes.
        waited = time.perf_counter() - begun if self.live else 0.0
        done, bgr = self._capture.retrieve()
        if not done:
            return None
        rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr), np.uint8)
        number, self._number = self._number, self._number + 1
        return VideoFrame(number, rgb, waited, time.perf_counter() - begun - waited)


def _opened(source: str) -> cv2.VideoCapture:
    device = _DEVICE.fullmatch(source)
    path = Path(source).expanduser()
    if not _STREAM.fullmatch(source) and not path.exists():
        raise ImageError(
            f"{source} does not exist", remedy="ls /dev/video*" if device else "check the path and its permissions"
        )
    milliseconds = int(_SECONDS * 1000)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
    with libraries_silent():
        if device:
            capture = cv2.VideoCapture(source, cv2.CAP_V4L2)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        elif _STREAM.fullmatch(source):
            capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        else:
            capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        why, remedy = _obstacle(source, path)
        raise ImageError(
            f"{_without_password(source)} can't be opened: {why}",
            expected="a video file, a camera such as /dev/video0, or a stream such as rtsp://HOST/PATH",
            remedy=remedy,
        )
    return capture


def _obstacle(source: str, path: Path) -> tuple[str, str]:
    """Return why a video can't be opened, as far as it can be told, and what to do next."""
    named = shlex.quote(_without_password(source))
    if _STREAM.fullmatch(source):
        url = urlsplit(source)
        try:
            port = url.port or _PORTS.get(url.scheme)
            if port:
                socket.create_connection((url.hostname or "", port), _SECONDS).close()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            return f"no connection to {url.hostname}: {reason}", f"ping {url.hostname}   and compare address and port"
        return "its server gives no video", f"ffprobe {named}   with user and password, if it wants them, tells why"
    if not os.access(path, os.R_OK):
        group = "sudo usermod -aG video $USER   and log in again"
        return "permission denied", group if is_live(source) else f"chmod u+r {named}"
    if is_live(source):
        return "it is in use, or no camera", f"fuser -v {source}   names who uses it; v4l2-ctl -d {source} --all"
    if path.is_dir():
        return "it is a folder", f"ls {named}   and name a file in it"
    if not path.stat().st_size:
        return "it is empty", "copy the file again"
    other = shlex.quote(f"{path.stem}_mjpeg.avi")
    return (
        "it is damaged, or of a codec that this OpenCV does not know",
        f"ffprobe {named}   names the codec; ffmpeg -i {named} -c:v mjpeg {other}   makes one that is known",
    )


def _without_password(source: str) -> str:
    return re.sub(r"//[^/@]*@", "//", source)
