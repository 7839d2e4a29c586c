"""Choose calibration images and write them as the compiler reads them.

The compiler wants raw float32 files of the cropped image in the network's own colour order, 0..255, and does
mean, std and the NV12 round trip itself. It checks nothing: images already divided by 255 give a useless model
without any warning. So a set that would spoil the model is refused here.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cattrs
import numpy as np
from attrs import field, fields, frozen
from attrs.validators import ge, instance_of
from numpy.typing import NDArray

from edge.errors import CalibrationError, ImageError, SpecError, WorkspaceError, counted
from edge.files import data_dir, read_yaml
from edge.images import ImageItem, ImageSet, sample
from edge.images.preprocess import arrange, resize_crop
from edge.images.samples import Sample, read_sample
from edge.progress import Reporter, Silent
from edge.specs import Preprocess
from edge.specs.schema import Input

INDEX = "calibration.json"
# Fewer images than this miss rare activations; the vendor's guide asks for 20 to 100.
FEW = 20
# A larger share of unreadable images means that the set itself is wrong.
MAX_UNREADABLE = 0.1
MIN_SIDE = 16
# More threads than this only wait for the disk.
MAX_WORKERS = 8


@frozen
class CalibrationSet:
    """A calibration set as data: ``calibration/<name>.yaml``."""

    name: str = field(validator=instance_of(str))  #: file name without its ending.
    #: a source as ``edge.images.open_images`` understands it; ``~`` and ``$NAME`` are expanded, and a relative path is
    #: relative to the YAML.
    images: str = field(validator=instance_of(str))
    n: int = field(default=100, validator=[instance_of(int), ge(1)])  #: how many images.
    seed: int = field(default=0, validator=[instance_of(int), ge(0)])  #: of the choice.
    note: str = field(default="", validator=instance_of(str))  #: what the set holds.


@frozen
class CalibrationImage:
    """One image of the set: its name, the sha256 of its source, and the file made from it."""

    name: str  #: in its set.
    source_sha256: str  #: of the image.
    file: str  #: name of the raw file in ``directory``.
    sha256: str  #: of the raw file.


@frozen
class CalibrationResult:
    """What :func:`calibrate` wrote; paths are relative to its ``out``."""

    #: folder of the raw files; its name ends in ``_f32``, which tells the compiler their type. Of samples it holds a
    #: folder an input, ``0_f32`` and so on in the network's order.
    directory: str
    index: str  #: this JSON's name, ``calibration.json``.
    n: int  #: files written.
    asked: int  #: images asked for.
    seed: int  #: of the choice of images.
    sha256: str  #: over the names and hashes of all files.
    source: str  #: where the images come from.
    images: tuple[CalibrationImage, ...]  #: in file order.
    unreadable: tuple[str, ...] = ()  #: names of chosen images that were left out.


@frozen
class _Written:
    image: CalibrationImage
    shortest: int
    largest: int
    constant: bool
    gray: bool


def load_set(name: str) -> CalibrationSet:
    """Load a calibration set by name (``calibration/``) or by path of a YAML.

    Raises:
        SpecError: there is none, it breaks the schema, or a ``$NAME`` in it is not set.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        path = data_dir("calibration") / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in data_dir("calibration").glob("*.yaml")))
        raise SpecError(f"no calibration set is called {name!r}", expected=f"{known}; or a path of a YAML")
    try:
        spec = _as_set(path, read_yaml(path))
    except (OSError, ValueError, TypeError) as error:
        raise SpecError(
            f"{path} is not a calibration set: {error.args[0] if error.args else error}",
            expected="a mapping of images, n, seed and note",
        ) from error
    images = os.path.expandvars(spec.images)
    if unset := re.search(r"\$\{?\w+", images):
        raise SpecError(
            f"{path.name}: {unset.group()} is not set", remedy=f"export {unset.group().lstrip('${')}=/path/to/images"
        )
    if images.partition(":")[0] != "demo":
        images = str(path.parent / Path(images).expanduser())
    return CalibrationSet(spec.name, images, spec.n, spec.seed, spec.note)


def _as_set(path: Path, data: Any) -> CalibrationSet:
    if not isinstance(data, dict):
        raise TypeError(f"it holds {type(data).__name__}")
    if unknown := data.keys() - {item.name for item in fields(CalibrationSet)}:
        raise ValueError(f"unknown {', '.join(sorted(map(repr, unknown)))}")
    if "images" not in data:
        raise ValueError("it names no images")
    return CalibrationSet(**{"name": path.stem, **data})


def calibrate(
    *,
    images: ImageSet,
    preprocess: Preprocess,
    inputs: Sequence[Input] = (),
    n: int = 100,
    seed: int = 0,
    out: Path,
    reporter: Reporter | None = None,
) -> CalibrationResult:
    """Write ``n`` images as raw float32 files, and an index of them.

    Each file holds the crop's uint8 values as little-endian float32 in ``preprocess.color`` order and
    ``preprocess.layout``, without the batch axis. The same inputs give the same bytes.

    Args:
        preprocess: of the network.
        inputs: of a network that takes more than one camera image, or something else: then the images are samples.
        n: how many; all of them if there are fewer.
        out: an existing, empty folder.
        reporter: told the growing count; warned of a set that is poor but usable.

    Raises:
        CalibrationError: a set that would spoil the model: unreadable, tiny, constant or already scaled.
        WorkspaceError: the disk is full.
    """
    reporter = reporter or Silent()
    chosen = sample(images, n, seed)
    if len(chosen) < n:
        reporter.warn(f"{images.description}: {counted(len(chosen), 'calibration image')} instead of the {n} asked for")
    directory = out / ("calibration_data_f32" if inputs else f"calibration_data_{preprocess.color}_f32")
    values = sum(math.prod(one.shape) for one in inputs) or math.prod(preprocess.input_shape)
    needed = len(chosen) * 4 * values
    if shutil.disk_usage(out).free < needed:
        raise _disk_full(out, needed)
    written: list[_Written] = []
    unreadable: list[str] = []
    try:
        for folder in (directory, *(directory / f"{place}_f32" for place in range(len(inputs)))):
            folder.mkdir()
        outcomes = _write_all(list(chosen), preprocess, directory, inputs)
        for done, (item, outcome) in enumerate(zip(chosen, outcomes, strict=True), start=1):
            if isinstance(outcome, ImageError):
                reporter.warn(f"left out: {outcome.seen}")
                unreadable.append(item.name)
            else:
                written.append(outcome)
            reporter.update(f"{done}/{counted(len(chosen), 'image')}", done / len(chosen))
        (_judge_samples if inputs else _judge)(written, unreadable, preprocess, reporter)
        result = _result(images, directory, written, unreadable, n=n, seed=seed)
        text = json.dumps(cattrs.unstructure(result), indent=1, sort_keys=True) + "\n"
        (out / INDEX).write_text(text, encoding="utf-8")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise WorkspaceError(f"the calibration files can't be written to {out}: {error}") from error
        raise _disk_full(out, needed) from error
    return result


def _disk_full(out: Path, needed: int) -> WorkspaceError:
    return WorkspaceError(
        f"the disk is full: the calibration files need {needed:,} bytes in {out}",
        remedy="free space, or ask for fewer calibration images",
    )


def _write_all(
    items: list[ImageItem], preprocess: Preprocess, directory: Path, inputs: Sequence[Input]
) -> Iterator[_Written | ImageError]:
    """Write the images on several threads; decoding, resizing and hashing all release the interpreter's lock."""

    def write(numbered: tuple[int, ImageItem]) -> _Written | ImageError:
        try:
            if inputs:
                return _write_sample(*numbered, preprocess, directory, inputs)
            return _write(*numbered, preprocess, directory)
        except ImageError as error:
            return error

    pool = ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1))
    try:
        yield from pool.map(write, enumerate(items))
    finally:
        pool.shutdown(cancel_futures=True)


def _write(number: int, item: ImageItem, preprocess: Preprocess, directory: Path) -> _Written:
    rgb, source_sha256 = item.open()
    crop = resize_crop(rgb, preprocess)
    data = arrange(crop.astype("<f4"), preprocess).data
    file = _file_name(number, item)
    (directory / file).write_bytes(data)
    return _Written(
        CalibrationImage(item.name, source_sha256, file, hashlib.sha256(data).hexdigest()),
        shortest=min(rgb.shape[:2]),
        largest=int(crop.max()),
        constant=_everywhere(crop, lambda part: part == crop[0, 0]),
        gray=_everywhere(crop, lambda part: part[..., :2] == part[..., 1:]),
    )


def _file_name(number: int, item: ImageItem) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(item.name).with_suffix("").as_posix())[-80:]
    return f"{number:04d}_{stem}.bin"


def _write_sample(
    number: int, item: ImageItem, preprocess: Preprocess, directory: Path, inputs: Sequence[Input]
) -> _Written:
    """Write a file an input; what is judged of an image is judged of the numbers of all inputs."""
    taken, source_sha256 = read_sample(item, inputs, preprocess)
    file, digest = _file_name(number, item), hashlib.sha256()
    for place, one in enumerate(inputs):
        data = _raw(taken, one, preprocess)
        digest.update(data)
        (directory / f"{place}_f32" / file).write_bytes(data)
    constant = all(bool((value == value.flat[0]).all()) for value in taken.values())
    image = CalibrationImage(item.name, source_sha256, file, digest.hexdigest())
    return _Written(image, shortest=0, largest=0, constant=constant, gray=False)


def _raw(taken: Sample, one: Input, preprocess: Preprocess) -> memoryview:
    value = taken[one.name].astype("<f4")
    return (arrange(value, preprocess) if one.image else value).data


def _everywhere(crop: NDArray[np.uint8], holds: Callable[[NDArray[np.uint8]], NDArray[np.bool_]]) -> bool:
    # A few pixels decide it for nearly every photograph.
    return bool(holds(crop[::16, ::16]).all() and holds(crop).all())


def _judge(written: list[_Written], unreadable: list[str], preprocess: Preprocess, reporter: Reporter) -> None:
    """Refuse a set that would spoil the model, and warn of one that may."""
    _require_readable(written, unreadable, "images")
    if tiny := [w.image.name for w in written if w.shortest < MIN_SIDE]:
        raise CalibrationError(
            f"{counted(len(tiny), 'calibration image')} smaller than {MIN_SIDE} pixels: {_some(tiny)}",
            remedy="remove them, or give photographs at the camera's full size",
        )
    if all(w.largest <= 1 for w in written):
        raise CalibrationError(
            "no calibration image has a value above 1: black, or already scaled to 0..1",
            expected="8-bit images with values in 0..255; mean and std are applied later",
            remedy="give the original images: --calib DIR",
        )
    if all(w.constant for w in written):
        raise CalibrationError(
            "every calibration image is one flat colour; the value ranges would be meaningless",
            remedy="give photographs like those that the model will see: --calib DIR",
        )
    if all(w.gray for w in written):
        reporter.warn("every calibration image is grey; colour images would then be clipped on the board")
    if flat := [w.image.name for w in written if w.constant]:
        reporter.warn(f"{counted(len(flat), 'calibration image')} of one flat colour: {_some(flat)}")
    if small := [w.image.name for w in written if w.shortest < min(preprocess.crop) / 2]:
        reporter.warn(f"{counted(len(small), 'calibration image')} smaller than half the input: {_some(small)}")
    if len(written) < FEW:
        reporter.warn(f"only {counted(len(written), 'calibration image')}; {FEW} to 100 give steadier ranges")


def _require_readable(written: list[_Written], unreadable: list[str], what: str) -> None:
    total = len(written) + len(unreadable)
    if not written:
        raise CalibrationError(
            f"none of the {total} calibration {what} can be read: {_some(unreadable)}",
            remedy=f"give readable {what}: --calib DIR",
        )
    if len(unreadable) > MAX_UNREADABLE * total:
        raise CalibrationError(
            f"{len(unreadable)} of {total} calibration {what} can't be read: {_some(unreadable)}",
            expected=f"at most {MAX_UNREADABLE:.0%}",
            remedy="remove or replace them",
        )


def _judge_samples(written: list[_Written], unreadable: list[str], _preprocess: Preprocess, reporter: Reporter) -> None:
    """Refuse samples that would spoil the model, and warn of few."""
    _require_readable(written, unreadable, "samples")
    if all(w.constant for w in written):
        raise CalibrationError(
            "every input of every calibration sample is one value; the value ranges would be meaningless",
            remedy="give samples like those that the model will see: --calib DIR",
        )
    if len(written) < FEW:
        reporter.warn(f"only {counted(len(written), 'calibration sample')}; {FEW} to 100 give steadier ranges")


def _result(
    images: ImageSet, directory: Path, written: list[_Written], unreadable: list[str], *, n: int, seed: int
) -> CalibrationResult:
    digest = hashlib.sha256()
    for one in written:
        digest.update(f"{one.image.file} {one.image.sha256}\n".encode())
    return CalibrationResult(
        directory=directory.name,
        index=INDEX,
        n=len(written),
        asked=n,
        seed=seed,
        sha256=digest.hexdigest(),
        source=images.description,
        images=tuple(one.image for one in written),
        unreadable=tuple(unreadable),
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
