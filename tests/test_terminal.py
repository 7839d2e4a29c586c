"""What reaches the terminal is edge's own, and does nothing to it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import EdgeError, ImageError, counted, shown
from edge.images.preprocess import decode


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def noisy_images() -> dict[str, bytes]:
    """Images of which libpng, libjpeg or OpenCV speak; the first two are whole."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    png, jpeg, bmp = (cv2.imencode(ending, image)[1].tobytes() for ending in (".png", ".jpg", ".bmp"))
    return {
        "libpng": png[:33] + chunk(b"sRGB", b"12") + png[33:],
        "libjpeg": jpeg[:700] + b"\xff\xd0\x12\x34" + jpeg[704:],
        "opencv": bmp[:900],
    }


def test_libraries_say_nothing_of_an_image(capfd: pytest.CaptureFixture[str]) -> None:
    images = noisy_images()
    assert decode(images["libpng"]).shape == decode(images["libjpeg"]).shape == (64, 64, 3)
    with pytest.raises(ImageError, match="not a complete image"):
        decode(images["opencv"])
    os.write(2, b"mine\n")  # the terminal is back
    assert capfd.readouterr().err == "mine\n"


def test_they_say_nothing_where_stderr_is_a_terminal_s(tmp_path: Path) -> None:
    """The command's own errors still come through."""
    for name, data in noisy_images().items():
        (tmp_path / f"{name}.png").write_bytes(data)
    code = (
        "import sys; from pathlib import Path; from edge.cli import _own_stderr; _own_stderr()\n"
        "from edge.errors import ImageError; from edge.images.preprocess import decode\n"
        "for path in sorted(Path().glob('*.png')):\n"
        "    try: decode(path)\n"
        "    except ImageError as error: print(error.seen, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == "opencv.png is not a complete image that OpenCV can read\n"


def test_stderr_of_python_is_never_lost() -> None:
    """Where it is descriptor 2 itself, as in a user's own script, libraries may speak."""
    code = (
        "import sys; from edge.images.preprocess import libraries_silent\n"
        "with libraries_silent(): print('mine', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "mine\n"


def test_a_few_bytes_do_not_take_gigabytes(tmp_path: Path) -> None:
    """OpenCV's limit is set where edge is imported before it, as by the command."""
    side = 30_000
    packer = zlib.compressobj(1)
    rows = b"\0" * (1 + side // 8) * 100
    packed = b"".join(packer.compress(rows) for _ in range(side // 100)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(data)
    code = "from pathlib import Path; from edge.images.preprocess import decode; decode(Path('bomb.png'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "ImageError: bomb.png is too large\nexpected: at most 200 million pixels" in done.stderr


@pytest.mark.parametrize(
    "data", [b"GIF89a" + b"\1" * 99, b"#?RADIANCE\n\n-Y 9 +X 9\n", b"Pf\n3 3\n-1.0\n" + b"\0" * 36]
)
def test_formats_beyond_those_listed_are_refused_by_every_opencv(data: bytes) -> None:
    with pytest.raises(ImageError, match="not a complete image"):
        decode(data)


def test_names_from_files_do_nothing_to_the_terminal() -> None:
    assert shown("a\x1b[31mb\0c\u202ed\ud800") == r"a\x1b[31mb\x00c\u202ed\ud800"
    assert shown("ü 雪 🙂\tx") == "ü 雪 🙂\tx"
    text = str(EdgeError("x" * 5000, expected="y\x1b]0;title\x07"))
    assert len(text) < 2100
    assert text.endswith(r"expected: y\x1b]0;title\x07")


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [(0, "image", "0 images"), (1, "box", "1 box"), (2, "box", "2 boxes"), (1, "class", "1 class")],
)
def test_numbers_are_counted_in_words(number: int, noun: str, words: str) -> None:
    assert counted(number, noun) == words
