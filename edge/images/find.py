"""Find the images of a source and their labels, and check them.

A source is one of::

    demo, demo:calibration     images that edge renders itself
    photo.jpg                  one image
    folder/*.jpg               no labels
    folder/labels.csv          filename,class_index
    folder/val.txt, list.txt   "path label" or "path" on each line, relative to the list
    s3://bucket/prefix         the same names in a store that fsspec knows
    folder/<class>/*.jpg       class names, class indices, or synsets (n01440764: ImageNet-1k's order)
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

from edge.errors import EdgeError, InputError, LabelError, UsageError, counted
from edge.images.items import Files, ImageItem, ImageSet, Split, set_name
from edge.images.stores import is_address, skeleton

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
DEMO_COUNTS: dict[Split, int] = {"calibration": 100, "test": 1000}
IMAGENET_CLASSES = 1000
_HIGHEST_LABEL = 2**31 - 1
# Files in a folder of images that give their labels; the first that exists counts.
_LISTS = ("labels.csv", "val.txt", "labels.txt")
_UNREAD = frozenset({".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".dng", ".cr2", ".nef"})
_TENSORS = frozenset({".rgb", ".bgr", ".bin", ".npy", ".raw", ".yuv", ".nv12"})
_INDEX = re.compile(r"[+-]?[0-9]{1,9}")  # more digits than any list of classes has are a mistake
_SYNSET = re.compile(r"n\d{8}")
_SYNSET_NAME = re.compile(r"n\d{8}\s+(?=\S)")
_SYNSET_LISTS = ("synsets.txt", "LOC_synset_mapping.txt")


def open_images(
    source: str | Path,
    *,
    classes: Sequence[str] | int | None = None,
    count: int | None = None,
    seed: int = 0,
    label_offset: int = 0,
) -> ImageSet:
    """Find the images of a source, and their labels.

    Args:
        classes: class names in index order, or how many classes there are; None if unknown. Labels are
            checked against it.
        count: how many demo images; by default 1000 of ``test`` and 100 of ``calibration``. Other sources
            are taken whole: see :func:`sample`.
        label_offset: added to every label of files, for a network that numbers the same classes from elsewhere.

    Raises:
        UsageError: the source does not exist.
        InputError: it holds no images.
        LabelError: labels outside the classes, missing files that a list names, or loose images beside class
            folders.
    """
    if is_address(str(source)):
        return _in_store(str(source).rstrip("/"), classes, label_offset)
    path, note = Path(source).expanduser(), ""
    if str(source).partition(":")[0] == "demo" and not path.exists():
        return _demo(str(source), count, seed)
    if not path.exists():
        raise UsageError(
            f"{source} does not exist", expected="an image, a folder, a list file, demo:test or demo:calibration"
        )
    if path.is_dir():
        files, unlabelled, note = _folder(path, classes, label_offset)
    elif path.suffix.lower() in EXTENSIONS:
        files, unlabelled = Files(path.parent, [(path.name, None)]), "a single image has no label"
    else:
        files, unlabelled = _listed(path, classes, label_offset)
    if not files:
        tensors = path.is_dir() and sorted(p.name for p in path.iterdir() if p.suffix.lower() in _TENSORS)
        if tensors:
            raise InputError(
                f"{source} holds raw tensors ({tensors[0]}, …), as hb_mapper's calibration data",
                expected=f"images: files ending in {_extensions()}",
                remedy="give the images that they were made from; edge prepares the tensors itself",
            )
        raise InputError(f"{source} holds no images", expected=f"files ending in {_extensions()}")
    name = set_name(path) + (f", labels {label_offset:+d}" if label_offset and not unlabelled else "")
    return ImageSet(files, f"{name}{note} ({counted(len(files), 'image')})", unlabelled, name)


def _in_store(url: str, classes: Sequence[str] | int | None, offset: int) -> ImageSet:
    with skeleton(url) as folder:
        try:
            found = open_images(folder, classes=classes, label_offset=offset)
        except EdgeError as error:
            error.seen = error.seen.replace(folder, url)
            raise
        assert isinstance(found.items, Files)  # noqa: S101 - of a folder
        name = f"{url.rpartition('/')[2]}" + (f", labels {offset:+d}" if offset and found.labelled else "")
        description = found.description.replace(found.source, name, 1)
        return ImageSet(found.items.at(url), description, found.unlabelled, name)


def class_names(labels: str | None, classes: int | None = None) -> tuple[str, ...] | None:
    """Return the class names that a model's ``labels`` stands for, in index order; None if they are not known.

    Args:
        labels: ``demo``, ``imagenet``, a path of a text file with one name per line, or None. A synset before
            every name is left out.
        classes: of the network; None if unknown.

    Returns:
        One name per class. ImageNet's are the first two of each synset's names, such as ``tench, Tinca tinca``,
        at most 53 characters. None for ``imagenet``, the default of specs, if the network does not have 1000
        classes.

    Raises:
        LabelError: the file can't be read, names no classes, or not ``classes`` of them.
    """
    if labels is None:
        return None
    if labels == "demo":
        from edge.images.demo import CLASSES

        return CLASSES
    if labels == "imagenet":
        if classes not in (None, IMAGENET_CLASSES):
            return None
        return tuple(", ".join(name.split(", ")[:2]) for name in imagenet().values())
    names = tuple(line.strip() for line in _text(Path(labels)).splitlines() if line.strip())
    if not names:
        raise LabelError(f"{labels} names no classes", expected="one class name per line")
    if classes is not None and len(names) != classes:
        raise LabelError(
            f"{labels} names {counted(len(names), 'class')}, the network has {classes}",
            expected="one line per class, in the order of the network's outputs",
        )
    if all(_SYNSET_NAME.match(name) for name in names):
        return tuple(_SYNSET_NAME.sub("", name) for name in names)
    return names


def imagenet() -> dict[str, str]:
    """Return synset -> names, in the order of ImageNet-1k's class indices (``zoo/labels/README.md``)."""
    path = Path(__file__).resolve().parents[1] / "zoo" / "labels" / "imagenet.txt"
    lines = _text(path).splitlines()
    return {synset: names for synset, _, names in (line.partition(" ") for line in lines)}


def _demo(source: str, count: int | None, seed: int) -> ImageSet:
    split = {name: name for name in get_args(Split)}.get(source.partition(":")[2] or "test")
    if split is None:
        raise UsageError(f"there are no demo images {source!r}", expected="demo:test or demo:calibration")
    n = DEMO_COUNTS[split] if count is None else count
    if n < 1:
        raise UsageError(f"{n} images", expected="at least 1")
    from edge.images.demo import label

    items = tuple(ImageItem(f"{split}/{i:06d}", label(split, i, seed), demo=(split, i, seed)) for i in range(n))
    name = f"demo:{split}"
    return ImageSet(items, f"{name} ({n} rendered images, seed {seed})", source=name)


def _folder(folder: Path, classes: Sequence[str] | int | None, offset: int) -> tuple[Files, str, str]:
    """Return the images, why there are no labels, and what to say of the labels."""
    for name in _LISTS:
        if (folder / name).is_file():
            return *_listed(folder / name, classes, offset), ""
    loose = _images(folder)
    children = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    # One text a folder instead of one an image; no name holds the separator.
    held = {child: "\0".join(found) for child in children if (found := _of_class(folder / child))}
    _require_one_level(folder, loose, [child for child in children if child not in held], bool(held))
    if loose and held:
        raise LabelError(
            f"{folder} mixes {len(loose)} loose images with class folders ({next(iter(held))}, …)",
            expected="either images, or one folder per class",
        )
    if not held:
        files = Files(folder, ((name, None) for name in loose))
        return files, "the folder has neither labels.csv nor class folders", ""
    note = ""
    labels, unlabelled = _folder_labels(folder, children, list(held), classes, offset)
    # Where the names are not known, as torchvision's ImageFolder numbers them.
    if unlabelled and classes == len(held) == len(children):
        labels, unlabelled, note = {name: i for i, name in enumerate(sorted(held))}, "", ", classes as the folders sort"
    labels = {name: label + offset for name, label in labels.items()}

    def pairs() -> Iterator[tuple[str, int | None]]:
        for child in sorted(held, key=lambda child: child + "/"):
            for name in held[child].split("\0"):
                yield name, labels.get(child)

    if not unlabelled:
        _check_labels(pairs(), classes)
    return Files(folder, pairs()), unlabelled, note


def _of_class(folder: Path) -> list[str]:
    """Return the images of a class folder, relative to the set's: ``CLASS/*.jpg``, or ``CLASS/images/*.jpg``."""
    inner = folder / "images"
    found = [f"{folder.name}/{name}" for name in _images(folder)]
    return found or [f"{folder.name}/images/{name}" for name in (_images(inner) if inner.is_dir() else ())]


def _require_one_level(folder: Path, loose: list[str], empty: Iterable[str], classes: bool) -> None:
    """Refuse a folder whose images lie on several levels, or all of them on a deeper one: none is left out unsaid."""
    for child in empty:
        deeper = _first_with_images(folder / child)
        if deeper is None:
            continue
        if classes or loose:
            raise LabelError(
                f"{folder / child} holds no images itself, but {deeper} does",
                expected=f"the images of each class directly in its folder, {folder.name}/CLASS/*.jpg, or in "
                f"{folder.name}/CLASS/images/",
                remedy=f"move them, or name the folder whose folders are the classes, such as {deeper.parent}",
            )
        raise InputError(
            f"{folder} holds no images, nor do its folders; {deeper} does",
            expected="a folder of images, or of class folders",
            remedy=f"name {deeper.parent} (or {deeper}) instead",
        )


def _first_with_images(folder: Path) -> Path | None:
    """Return the first folder below this one that holds images itself; None if there is none."""
    for place, names, _ in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if place != str(folder) and _images(Path(place)):
            return Path(place)
    return None


def _folder_labels(
    folder: Path, children: list[str], held: list[str], classes: Sequence[str] | int | None, offset: int
) -> tuple[Mapping[str, int], str]:
    """Return folder name -> class index before the offset is added, or why that is not known."""
    names = None if classes is None or isinstance(classes, int) else classes
    if names is not None:
        index = _by_name(names)
        if all(name in index for name in held):
            return index, ""
    if all(name.isdecimal() and re.fullmatch(_INDEX, name) for name in held):
        return {name: int(name) for name in held}, ""
    if all(_SYNSET.fullmatch(name) for name in held):
        return _synset_labels(folder, children, held, classes, offset)
    if names is not None:
        strange = [name for name in held if name not in index]
        return {}, f"these folder names match no class of the model, or several: {', '.join(strange[:3])}"
    return {}, "the model's class names are not known, so folder names give no class index (--labels FILE)"


def _by_name(classes: Sequence[str]) -> dict[str, int]:
    """Return folder name -> index: whole names and the first of several names; none that two classes share."""
    whole, first = Counter(classes), Counter(name.partition(", ")[0] for name in classes)
    index = {short: i for i, name in enumerate(classes) if first[short := name.partition(", ")[0]] == 1}
    return index | {name: i for i, name in enumerate(classes) if whole[name] == 1}


def _synset_labels(
    folder: Path, children: list[str], held: list[str], classes: Sequence[str] | int | None, offset: int
) -> tuple[Mapping[str, int], str]:
    """Number synset folders: by a list beside them, else as ImageNet-1k does."""
    for name in _SYNSET_LISTS:
        if (folder / name).is_file():
            lines = [line.split()[0] for line in _text(folder / name).splitlines() if line.strip()]
            index = {synset: i for i, synset in enumerate(lines)}
            if missing := [synset for synset in held if synset not in index]:
                raise LabelError(f"{folder / name} lacks {', '.join(missing[:3])}", expected="every synset")
            return index, ""
    put = f"put {_SYNSET_LISTS[0]} (one synset per line, in class order) into {folder.name}"
    count = classes if isinstance(classes, int) or classes is None else len(classes)
    if count is not None and count - offset != IMAGENET_CLASSES:
        background = ", or --label-offset 1 if class 0 is a background" * (count == IMAGENET_CLASSES + 1)
        return (
            {},
            f"synset folders, but a model of {counted(count, 'class')}: their order is not known; {put}{background}",
        )
    index = {synset: i for i, synset in enumerate(imagenet())}
    if all(name in index for name in held):
        return index, ""
    synsets = [name for name in children if _SYNSET.fullmatch(name)]
    if len(synsets) == IMAGENET_CLASSES:
        return {name: i for i, name in enumerate(sorted(synsets))}, ""
    strange = [name for name in held if name not in index]
    return ({}, f"{len(strange)} of {len(held)} synset folders, such as {strange[0]}, are not of ImageNet-1k; {put}")


def _listed(path: Path, classes: Sequence[str] | int | None, offset: int) -> tuple[Files, str]:
    """Read ``labels.csv`` (filename,class_index) or lines of ``path label``."""
    missing = [f"{name} (line {number})" for number, name, _ in _rows(path) if not (path.parent / name).is_file()]
    if missing:
        raise LabelError(
            f"{path} names what does not exist, {counted(len(missing), 'file')}: {', '.join(missing[:3])}",
            expected=f"paths relative to {path.parent}",
        )
    labels: dict[str, int | None] = {}
    lines: dict[str, int] = {}
    for number, name, text in _rows(path):
        if text is not None and re.fullmatch(_INDEX, text) is None:
            raise LabelError(f"{path}, line {number}: class index {_short(text)!r}", expected="a whole number")
        if name in labels:
            raise LabelError(f"{path}, line {number}: {name} is listed twice", expected="each image once")
        labels[name], lines[name] = None if text is None else int(text) + offset, number
    bare = sum(label is None for label in labels.values())
    if 0 < bare < len(labels):
        raise LabelError(f"{path}: {bare} of {counted(len(labels), 'line')} without a label", expected="all or none")
    if not bare:
        _check_labels(((f"{name} ({path}, line {lines[name]})", label) for name, label in labels.items()), classes)
    files = Files(path.parent, ((name, labels[name]) for name in sorted(labels)))
    return files, f"{path.name} lists no labels" if bare else ""


def _rows(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Yield line number, name and label of each image that a list names."""
    lines = io.StringIO(_text(path), newline=None)
    if path.suffix.lower() == ".csv":
        for number, cells in enumerate(_cells(path, lines), start=1):
            if cells and not (number == 1 and [c.strip() for c in cells] == ["filename", "class_index"]):
                yield number, cells[0].strip(), cells[1].strip() if len(cells) > 1 else None
    else:
        for number, line in enumerate(lines, start=1):
            name, _, label = line.strip().rpartition(" ")
            if line.strip() and not line.startswith("#"):
                known = bool(name) and re.fullmatch(r"[+-]?\d+", label) is not None
                yield number, name.strip() if known else line.strip(), label if known else None


def _cells(path: Path, lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the cells of each row of a CSV."""
    try:
        yield from csv.reader(lines)
    except csv.Error as error:
        raise LabelError(f"{path} is no CSV: {error}", expected="filename,class_index on each line") from error


def _check_labels(pairs: Iterable[tuple[str, int | None]], classes: Sequence[str] | int | None) -> None:
    count = classes if isinstance(classes, int) or classes is None else len(classes)
    limit = count or _HIGHEST_LABEL
    wrong = [(name, label) for name, label in pairs if label is not None and not 0 <= label < limit]
    if wrong:
        name, label = wrong[0]
        raise LabelError(
            f"{counted(len(wrong), 'label')} outside the classes, such as {label} of {name}",
            expected=f"0..{count - 1}" if count else "0 and above",
        )


def _images(folder: Path) -> list[str]:
    found: list[str] = []
    others: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a Path per entry is slow
            if (ending in EXTENSIONS or ending in _UNREAD) and not entry.name.startswith(".") and entry.is_file():
                (found if ending in EXTENSIONS else others).append(entry.name)
    if others:
        raise InputError(
            f"{folder} holds {counted(len(others), 'image')} that edge does not read, such as {min(others)}",
            expected=f"files ending in {_extensions()}",
            remedy="convert them to PNG or JPEG, or move them away",
        )
    return sorted(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path} can't be read as text: {error}", expected="text in UTF-8") from error


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}…"


def _extensions() -> str:
    return ", ".join(sorted(EXTENSIONS))
