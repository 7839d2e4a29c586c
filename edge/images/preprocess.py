"""The one definition of how an image becomes the network's input.

::

    bytes --decode--> RGB --resize_crop--> RGB of the input's size --rgb_to_nv12--> the board's input
                                                |                        |
                                          network_input      network_input_from_nv12     (float, on a PC)

Calibration, float reference, simulator and board all go through here, so they see the same bytes. Resizing is
Pillow's, bit for bit, because torchvision and timm train and evaluate with it; Pillow itself is not needed.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.errors import CalibrationError, ImageError, counted
from edge.images.resample import resample
from edge.specs import Preprocess

Image = NDArray[np.uint8]
Tensor = NDArray[np.float32]

# Y, U, V less 128 to R, G, B less 128; read from the weights of the compiler's own preprocess node.
YUV_TO_RGB = ((1.0, 0.0, 1.40170), (1.0, -0.34370, -0.71420), (1.0, 1.77220, 0.0))
# First bytes of the formats that are read, whatever else this OpenCV was built with.
_HEAD = re.compile(rb"\xff\xd8|\x89PNG|BM|RIFF....WEBP|II[*+]\0|MM\0[*+]|P[1-6]\s", re.DOTALL)
FORMATS = "JPEG, PNG, BMP, WebP, TIFF or PPM"
# In a JPEG's image data, FF before anything but 00, FF and D0..D7 starts the next segment.
_SEGMENT = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def decode(data: bytes | Path, name: str | None = None) -> Image:
    """Decode an image file.

    EXIF orientation is applied; grayscale becomes three equal channels; alpha and bits beyond 8 are dropped.

    Args:
        data: the file's bytes, or its path.
        name: what to call it in errors; the path by default.

    Returns:
        RGB, uint8, shape (height, width, 3).

    Raises:
        ImageError: it can't be read, is empty, is not an image, or is incomplete.
    """
    name = name or (str(data) if isinstance(data, Path) else "the image")
    if isinstance(data, Path):
        try:
            data = data.read_bytes()
        except OSError as error:
            raise ImageError(
                f"{name} can't be read: {error.strerror or error}", remedy="check the path and its permissions"
            ) from error
    if not data:
        raise ImageError(f"{name} is empty", remedy="copy the file again, or leave it out")
    if data[:2] == b"\xff\xd8" and not _jpeg_is_whole(data):
        # Older OpenCV fills the missing part with grey and says nothing.
        raise ImageError(f"{name} is incomplete", remedy="copy the file again, or leave it out")
    try:
        with libraries_silent():
            bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if _HEAD.match(data) else None
    except cv2.error as error:
        if "MAX_IMAGE" in error.err:
            raise ImageError(f"{name} is too large", expected="at most 200 million pixels") from error
        raise ImageError(f"{name} can't be decoded: {error.err}", expected=FORMATS) from error
    if bgr is None:
        raise ImageError(
            f"{name} is not a complete image that OpenCV can read",
            expected=FORMATS,
            remedy="convert it to one of these, or leave it out",
        )
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr), np.uint8)


class _Depth:
    """How many threads decode just now, and where the terminal is meanwhile."""

    lock = threading.Lock()
    threads = 0
    kept = -1


@contextmanager
def libraries_silent() -> Iterator[None]:
    """Keep away what libjpeg, libpng and OpenCV write to descriptor 2 by themselves, without an image's name.

    Python's own stderr must not suffer, so nothing is done where it is descriptor 2; the command line's is not.
    """
    try:
        own = sys.stderr is not None and sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):  # it is no file: a notebook's, a test's
        own = False
    if own:
        yield
        return
    with _Depth.lock:
        _Depth.threads += 1
        if _Depth.threads == 1:
            _Depth.kept = _moved()
    try:
        yield
    finally:
        with _Depth.lock:
            _Depth.threads -= 1
            if _Depth.threads == 0 and _Depth.kept >= 0:
                os.dup2(_Depth.kept, 2)
                os.close(_Depth.kept)


def _moved() -> int:
    """Let descriptor 2 lead nowhere; return a copy of what it was, -1 if it is closed."""
    try:
        kept = os.dup(2)
    except OSError:
        return -1
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return kept


def _jpeg_is_whole(data: bytes) -> bool:
    """Walk the segments to the end marker; the end marker of an embedded thumbnail must not count."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return True  # not a JPEG we understand; let the decoder judge
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0xD9:
            return True
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:
            found = _SEGMENT.search(data, position)
            if found is None:
                return False
            position = found.start()
    return data[position : position + 2] == b"\xff\xd9"


@frozen
class Placement:
    """Where an image lies on the network's input: pixel x of the image is ``x * scale + shift`` there."""

    size: tuple[int, int]  #: (height, width) of the whole image after scaling.
    shift: tuple[int, int]  #: (down, right) of its top left corner on the input; negative where it is cropped.


def placement(size: tuple[int, int], pre: Preprocess) -> Placement:
    """Return where an image of a size (height, width) lies on the network's input.

    A letterboxed image has the scaled size that its trainers give it. ``corner`` is YOLOX's: ``int(side * ratio)``
    (``preproc`` in ``yolox/data/data_augment.py``). ``center`` is ultralytics': ``round(side * ratio)``, from
    ``round(rest / 2 - 0.1)`` on (``LetterBox`` in ``ultralytics/data/augment.py``). The ratio is the smaller of input
    to image of both sides.
    """
    (height, width), (crop_h, crop_w) = size, pre.crop
    if pre.letterbox is not None:
        ratio = min(crop_h / height, crop_w / width)
        corner = pre.letterbox == "corner"
        high, wide = (max(1, int(side * ratio) if corner else round(side * ratio)) for side in size)
        if corner:
            return Placement((high, wide), (0, 0))
        return Placement((high, wide), (round((crop_h - high) / 2 - 0.1), round((crop_w - wide) / 2 - 0.1)))
    if pre.resize is None:
        high, wide = crop_h, crop_w
    elif width <= height:
        high, wide = int(pre.resize * height / width), pre.resize
    else:
        high, wide = pre.resize, int(pre.resize * width / height)
    # Python's round() halves to even; torchvision uses it, so we must.
    return Placement((high, wide), (-round((high - crop_h) / 2), -round((wide - crop_w) / 2)))


def unletterbox(boxes: Tensor, size: tuple[int, int], pre: Preprocess) -> Tensor:
    """Return boxes in pixels of an image, of boxes in pixels of the network's input.

    Args:
        boxes: (n, 4): left, top, right, bottom.
        size: (height, width) of the image.

    Returns:
        (n, 4), cut at the image's border.
    """
    place = placement(size, pre)
    (down, right), (high, wide) = place.shift, place.size
    limit = np.array([size[1], size[0]] * 2, np.float32)
    moved = (boxes - np.array([right, down] * 2, np.float32)) * (limit / np.array([wide, high] * 2, np.float32))
    return np.clip(moved, np.float32(0), limit)


def resize_crop(rgb: Image, pre: Preprocess) -> Image:
    """Make an image the size of the network's input: cropped, stretched or letterboxed, as ``pre`` says.

    Cropped as torchvision's ``Resize`` and ``CenterCrop`` do on a Pillow image: the shorter side becomes
    ``pre.resize``, the longer ``int(resize * long / short)``, and the crop starts at ``round((side - crop) / 2)``;
    with ``pre.resize`` None the whole image is stretched. Shrinking widens the filter (antialiasing). ``area`` and
    ``nearest`` are both Pillow's BOX: a mean when shrinking, repeated pixels when enlarging.

    A letterboxed image lies where :func:`placement` says, on ``pre.fill``. Its ``bilinear`` is OpenCV's, without
    antialiasing, as YOLOX and ultralytics train: of OpenCV's two kinds the exact one, which gives the same bytes on
    every machine and is never more than one level off the other.

    Where ``pre.canvas`` is larger than ``pre.crop``, the crop's last row and column are repeated below and to the
    right: the program cuts them off again, but calibration sees them.

    Args:
        rgb: uint8, (height, width, 3).

    Returns:
        uint8, (*pre.canvas, 3), C-contiguous, RGB. Cropped or stretched, it is equal to Pillow's result.

    Raises:
        ImageError: ``rgb`` is not such an array.
    """
    _check_rgb(rgb)
    crop_h, crop_w = pre.crop
    place = placement(rgb.shape[:2], pre)
    (down, right), (high, wide) = place.shift, place.size
    if pre.letterbox is None:
        crop = resample(rgb, place.size, (-down, -right, crop_h, crop_w), pre.interpolation)
    else:
        crop = np.full((crop_h, crop_w, 3), pre.fill, np.uint8)
        if pre.interpolation == "bilinear":
            scaled = cv2.resize(rgb, (wide, high), interpolation=cv2.INTER_LINEAR_EXACT)
        else:
            scaled = resample(rgb, place.size, (0, 0, high, wide), pre.interpolation)
        crop[down : down + high, right : right + wide] = scaled
    below, right = pre.canvas[0] - crop_h, pre.canvas[1] - crop_w
    if not (below or right):
        return crop
    return np.asarray(cv2.copyMakeBorder(crop, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)


_ROWS = 32  # converted at once, even: their float64 planes stay in the processor's cache; 5 times faster at 640x640


def rgb_to_nv12(rgb: Image) -> Image:
    """Encode as full-range BT.601 NV12, as the compiler encodes its calibration data.

    ::

        Y =  0.299 R + 0.587 G + 0.114 B
        U = -0.169 R - 0.331 G + 0.500 B + 128      of the top-left pixel of each 2x2 block
        V =  0.500 R - 0.419 G - 0.081 B + 128      of the same pixel

    in float64, in this order of operations, then truncated. The vendor's RGB2NV12Transformer does the same with an
    8-bit image. Three decimals, no rounding and no averaged chroma are the compiler's choice; any other NV12 costs
    accuracy. (From raw float32 calibration files it computes in float32: then Y of 0.022 % and U of 0.008 % of all
    colours differ by one level.)

    Args:
        rgb: uint8, (H, W, 3), C-contiguous, H and W even.

    Returns:
        uint8, flat, H * W * 3 / 2 bytes: H*W of Y, then H/2 rows of alternating U, V.

    Raises:
        ImageError: ``rgb`` is not such an array.
    """
    _check_rgb(rgb)
    height, width = rgb.shape[:2]
    if not rgb.flags.c_contiguous:
        raise ImageError("the array is not C-contiguous", remedy="numpy.ascontiguousarray(array)")
    _check_even(height, width)
    nv12 = np.empty(height * width * 3 // 2, np.uint8)
    luma, chroma = nv12[: height * width].reshape(height, width), nv12[height * width :]
    pairs = chroma.reshape(height // 2, width // 2, 2)
    for top in range(0, height, _ROWS):
        red, green, blue = (rgb[top : top + _ROWS, :, channel].astype(np.float64) for channel in range(3))
        _store(luma[top : top + _ROWS], 0.299 * red + 0.587 * green + 0.114 * blue)
        red, green, blue = (plane[::2, ::2] for plane in (red, green, blue))
        some = pairs[top // 2 : (top + _ROWS) // 2]
        _store(some[..., 0], -0.169 * red - 0.331 * green + 0.5 * blue + 128)
        _store(some[..., 1], 0.5 * red - 0.419 * green - 0.081 * blue + 128)
    return nv12


def _store(target: Image, values: NDArray[np.float64]) -> None:
    # All values lie in 0..255.5, so that the cast truncates and never wraps.
    np.copyto(target, values, casting="unsafe")


def nv12_to_yuv444(nv12: Image, size: tuple[int, int]) -> Image:
    """Give every pixel its Y and the U, V of its 2x2 block, as the preprocess node's input.

    Args:
        nv12: uint8, H * W * 3 / 2 values in any shape.
        size: (H, W), even.

    Returns:
        uint8, (H, W, 3): Y, U, V.

    Raises:
        ImageError: wrong dtype, odd size, or another number of bytes.
    """
    height, width = size
    _check_even(height, width)
    if nv12.dtype != np.uint8 or nv12.size != height * width * 3 // 2:
        raise ImageError(
            f"an NV12 buffer of {nv12.size} x {nv12.dtype}",
            expected=f"{height * width * 3 // 2} x uint8 for {height}x{width}",
        )
    flat = nv12.reshape(-1)
    yuv = np.empty((height, width, 3), np.uint8)
    yuv[..., 0] = flat[: height * width].reshape(height, width)
    pairs = flat[height * width :].reshape(height // 2, width // 2, 2)
    yuv[..., 1:] = pairs.repeat(2, axis=0).repeat(2, axis=1)
    return yuv


def yuv444_to_rgb_float(yuv: Image) -> Tensor:
    """Apply the float matrix of the compiler's preprocess node (full-range BT.601), without clipping.

    Args:
        yuv: uint8, (..., 3): Y, U, V.

    Returns:
        float32, (..., 3): RGB; saturated chroma gives values outside 0..255, as in the node.
    """
    y, u, v = (yuv[..., channel].astype(np.float32) - np.float32(128) for channel in range(3))
    rgb = np.empty(yuv.shape, np.float32)
    (_, _, red), (_, green_u, green_v), (_, blue, _) = YUV_TO_RGB
    rgb[..., 0] = y + red * v + 128
    rgb[..., 1] = y + green_u * u + green_v * v + 128
    rgb[..., 2] = y + blue * u + 128
    return rgb


def network_input(rgb: Image, pre: Preprocess) -> Tensor:
    """Normalize a cropped image into the float network's input: (x - mean) / std.

    Args:
        rgb: uint8, (*pre.canvas, 3), RGB; from :func:`resize_crop`.
        pre: gives channel order, mean, std and layout.

    Returns:
        float32 of ``pre.input_shape``.

    Raises:
        ImageError: another dtype or size.
    """
    _check_rgb(rgb, pre.canvas)
    return _normalize(rgb.astype(np.float32), pre)


def network_input_from_nv12(nv12: Image, pre: Preprocess) -> Tensor:
    """Return what the float network sees behind NV12: decode, then normalize.

    Args:
        nv12: uint8, from :func:`rgb_to_nv12` of an image of ``pre.canvas``.
        pre: as for :func:`network_input`.

    Returns:
        float32 of ``pre.input_shape``.

    Raises:
        ImageError: another dtype or number of bytes.
    """
    return _normalize(yuv444_to_rgb_float(nv12_to_yuv444(nv12, pre.canvas)), pre)


def arrange(rgb: NDArray[np.float32], pre: Preprocess) -> Tensor:
    """Put an RGB image (H, W, 3) into the network's channel order and layout, without the batch axis."""
    ordered = rgb[..., ::-1] if pre.color == "bgr" else rgb
    return np.ascontiguousarray(ordered.transpose(2, 0, 1) if pre.layout == "NCHW" else ordered)


def calibration_image(file: Path, pre: Preprocess) -> Image:
    """Read a raw calibration file, the inverse of :func:`arrange` on an 8-bit image.

    Args:
        file: float32 in 0..255, in the network's channel order and layout, as ``edge.images.calibrate``
        writes it.

    Returns:
        uint8, (*pre.canvas, 3), C-contiguous, RGB.

    Raises:
        CalibrationError: it can't be read, is of another size, or holds values outside 0..255.
    """
    height, width = pre.canvas
    try:
        raw = np.fromfile(file, "<f4")
    except OSError as error:
        raise CalibrationError(
            f"{file.name} can't be read: {error.strerror or error}", remedy="check the path and its permissions"
        ) from error
    if raw.size != height * width * 3:
        raise CalibrationError(
            f"{file.name} holds {counted(raw.size, 'value')}",
            expected=f"{height * width * 3}: float32 of 3x{height}x{width}",
            remedy="edge calibrate",
        )
    if not (np.isfinite(raw).all() and raw.min() >= 0 and raw.max() <= 255):
        raise CalibrationError(f"{file.name} holds values outside 0..255", remedy="edge calibrate")
    shaped = raw.reshape(3, height, width).transpose(1, 2, 0) if pre.layout == "NCHW" else raw
    rgb = shaped.reshape(height, width, 3)[..., :: -1 if pre.color == "bgr" else 1]
    return np.ascontiguousarray(np.rint(rgb), np.uint8)


def calibration_input(file: Path, pre: Preprocess) -> Tensor:
    """Return what the float network sees of a calibration file behind NV12.

    Raises:
        CalibrationError: as :func:`calibration_image`.
    """
    return network_input_from_nv12(rgb_to_nv12(calibration_image(file, pre)), pre)


def _normalize(rgb: Tensor, pre: Preprocess) -> Tensor:
    shape = (3, 1, 1) if pre.layout == "NCHW" else (3,)
    mean = np.array(pre.mean, np.float32).reshape(shape)
    std = np.array(pre.std, np.float32).reshape(shape)
    data: Tensor = (arrange(rgb, pre) - mean) / std
    return data.reshape(pre.input_shape)


def _check_rgb(rgb: Image, size: tuple[int, int] | None = None) -> None:
    good = rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.size > 0
    if not good or (size is not None and rgb.shape[:2] != size):
        want = "(height, width, 3)" if size is None else str((*size, 3))
        raise ImageError(f"an array of {rgb.dtype} {rgb.shape}", expected=f"uint8 {want}, RGB in 0..255")


def _check_even(height: int, width: int) -> None:
    if height % 2 or width % 2 or height <= 0 or width <= 0:
        raise ImageError(f"an image of {height}x{width}", expected="even sides: NV12 chroma covers 2x2 pixels")
