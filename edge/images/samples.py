"""Samples of networks that take more than one camera image, or something else: ``.npy`` and ``.npz`` files.

A ``.npy`` holds the array of the only input; a ``.npz`` an array an input, by its name. An image is RGB, uint8,
(height, width, 3), of any size; other inputs are numbers of the input's shape, with or without the batch axis.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import ImageError, InputError, counted
from edge.images.items import Files, ImageItem, ImageSet, set_name
from edge.images.preprocess import network_input, network_input_from_nv12, resize_crop, rgb_to_nv12
from edge.specs import Preprocess
from edge.specs.schema import Input

SUFFIXES = (".npy", ".npz")
# Input name -> a crop (uint8, RGB, of the network's size) of an image, or float32 of the input's shape.
Sample = Mapping[str, NDArray[np.generic]]
_WIDEST = 8  # bytes of a number
_MOST_PIXELS = 200_000_000


def holds_samples(source: str | Path) -> bool:
    """Tell whether a source is one of samples: such a file, or a folder with some."""
    path = Path(source).expanduser()
    if path.is_dir():
        return any(file.suffix.lower() in SUFFIXES for file in path.iterdir())
    return path.is_file() and path.suffix.lower() in SUFFIXES


def open_samples(source: str | Path) -> ImageSet:
    """Find the samples of a source for which :func:`holds_samples` is true, by name; they have no labels."""
    path = Path(source).expanduser()
    folder, found = (path, sorted(path.iterdir())) if path.is_dir() else (path.parent, [path])
    names = [file.name for file in found if file.suffix.lower() in SUFFIXES and file.is_file()]
    files = Files(folder, ((name, None) for name in names))
    name = set_name(path)
    return ImageSet(files, f"{name} ({counted(len(files), 'sample')})", "samples have no labels", name)


def read_sample(item: ImageItem, inputs: Sequence[Input], preprocess: Preprocess) -> tuple[Sample, str]:
    """Return a sample as the network takes it, and the sha256 of its file.

    Raises:
        ImageError: it can't be read, or an array does not fit its input.
    """
    arrays, digest = read_arrays(item, inputs)
    return as_sample(arrays, inputs, preprocess, item.name), digest


def read_arrays(item: ImageItem, inputs: Sequence[Input]) -> tuple[dict[str, NDArray[np.generic]], str]:
    """Return the arrays of a sample's file as they are, by the names of the inputs, and the sha256 of the file.

    Raises:
        ImageError: it can't be read, or is no such file.
    """
    path = item.path or Path(item.name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"{item.name} can't be read: {error.strerror or error}", remedy="check the path and its permissions"
        ) from error
    return _arrays(data, item.name, inputs), hashlib.sha256(data).hexdigest()


def as_sample(
    arrays: Mapping[str, NDArray[np.generic]], inputs: Sequence[Input], preprocess: Preprocess, name: str = "the sample"
) -> Sample:
    """Return arrays as the network takes them: images cropped, numbers as float32.

    Raises:
        ImageError: one is missing, too many, or does not fit its input.
    """
    wanted = [one.name for one in inputs]
    if set(arrays) != set(wanted):
        raise ImageError(f"{name} holds {', '.join(arrays) or 'nothing'}", expected=f"arrays named {', '.join(wanted)}")
    return {one.name: _fitted(arrays[one.name], one, preprocess, name) for one in inputs}


def program_input(value: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return what the program takes of a part of a sample: packed NV12 of an image, numbers as they are."""
    return rgb_to_nv12(value.astype(np.uint8, copy=False)) if value.dtype == np.uint8 else value


def network_feed(sample: Sample, preprocess: Preprocess, *, nv12: bool) -> dict[str, NDArray[np.float32]]:
    """Return what the float network takes of a sample; images normalized, through NV12 first if asked."""

    def taken(value: NDArray[np.generic]) -> NDArray[np.float32]:
        if value.dtype != np.uint8:
            return value.astype(np.float32, copy=False)
        rgb = value.astype(np.uint8, copy=False)
        return network_input_from_nv12(rgb_to_nv12(rgb), preprocess) if nv12 else network_input(rgb, preprocess)

    return {name: taken(value) for name, value in sample.items()}


def _arrays(data: bytes, name: str, inputs: Sequence[Input]) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a file; one that would unpack to far more than the inputs take is not read."""
    limit = sum(_MOST_PIXELS * 3 if one.image else math.prod(one.shape) * _WIDEST for one in inputs) + (1 << 20)
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                size = sum(entry.file_size for entry in packed.infolist())
            if size <= limit:
                with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                    return {key: archive[key] for key in archive.files}
            raise ImageError(f"{name} unpacks to {size:,} bytes", expected=f"at most {limit:,}, for these inputs")
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        raise ImageError(
            f"{name} is no sample: {' '.join(str(error).split())[:120]}",
            expected="a file of numpy.save or numpy.savez, without pickled objects",
        ) from error
    if len(inputs) != 1:
        raise ImageError(
            f"{name} holds one array for {len(inputs)} inputs",
            expected="a .npz with an array an input: numpy.savez(path, "
            + ", ".join(f"{i.name}=…" for i in inputs)
            + ")",
        )
    return {inputs[0].name: np.asarray(array)}


def _fitted(array: NDArray[np.generic], one: Input, preprocess: Preprocess, name: str) -> NDArray[np.generic]:
    if one.image:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise ImageError(
                f"{name}: {one.name} is {array.dtype} {array.shape}",
                expected="an image, RGB, uint8, (height, width, 3)",
                remedy=f"--featuremap {one.name}   if it is no camera image",
            )
        return np.ascontiguousarray(resize_crop(array.astype(np.uint8, copy=False), preprocess))
    if array.shape == one.shape[1:]:
        array = array[None]
    if array.shape != one.shape or array.dtype.kind not in "fiub":
        raise ImageError(f"{name}: {one.name} is {array.dtype} {array.shape}", expected=f"numbers of {one.shape}")
    values = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(values).all():
        raise ImageError(f"{name}: {one.name} holds nan or infinity", expected="finite numbers")
    return values


def require_samples(source: str, inputs: Sequence[Input]) -> None:
    """Fail unless a source is one of samples.

    Raises:
        InputError: it is not; the message says what to write.
    """
    if holds_samples(source):
        return
    listed = ", ".join(f"{one.name}=({'RGB image' if one.image else 'x'.join(map(str, one.shape))})" for one in inputs)
    raise InputError(
        f"{source} holds no samples, and the network takes {', '.join(one.name for one in inputs)}",
        expected="a folder of .npz files" + (", or .npy" if len(inputs) == 1 else ""),
        remedy=f"in Python, one file a sample: numpy.savez(path, {listed})",
    )
