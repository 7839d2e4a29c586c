"""The size of an image from its first bytes; decoding thousands of images only for it takes minutes."""

from __future__ import annotations

import struct
from pathlib import Path

from edge.images.preprocess import decode

_HEAD = 1 << 18  # bytes; a JPEG's size comes after its metadata, a thumbnail among it
# Start of frame; C4, C8 and CC have other meanings.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image as :func:`edge.images.preprocess.decode` gives it.

    Raises:
        ImageError: it can't be read.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        head = b""  # decode says why
    found = _png(head) or _jpeg(head)
    if found is not None:
        return found
    height, width, _ = decode(path).shape
    return height, width


def declared_size(data: bytes) -> tuple[int, int] | None:
    """Return the two sides of a JPEG or PNG as its header has them, not yet turned; None of anything else."""
    return _png(data, turned=True) or _jpeg(data, turned=True)


def _png(head: bytes, *, turned: bool = False) -> tuple[int, int] | None:
    """Return the size of a PNG, as :func:`_jpeg` does."""
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR" or len(head) < 24:
        return None
    if not turned and b"eXIf" in head:
        return None
    width, height = struct.unpack(">II", head[16:24])
    return height, width


def _jpeg(head: bytes, *, turned: bool = False) -> tuple[int, int] | None:
    """Return the size of a JPEG; None of one with EXIF data, which may turn it, unless that does not matter."""
    if head[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 9 <= len(head) and head[position] == 0xFF:
        marker = head[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if not turned and marker == 0xE1 and head[position + 4 : position + 8] == b"Exif":
            return None
        if marker in _FRAMES:
            height, width = struct.unpack(">HH", head[position + 5 : position + 9])
            return (height, width) if height and width else None
        position += 2 + int.from_bytes(head[position + 2 : position + 4], "big")
    return None
