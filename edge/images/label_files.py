"""Files of labels as three tools write them: COCO's JSON, YOLO's text, VOC's XML; what each lists of an image.

They come from elsewhere: an image that one names lies in the set's own folder, and every number is looked at.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import define, field, frozen

from edge.errors import LabelError, counted
from edge.files import read_yaml
from edge.images.find import EXTENSIONS

_MOST_BYTES = 2 << 30  # of a file of labels; COCO's 118,000 training images have 450 MB
_TOLD = 3  # faults of one kind that are named
# Beside a COCO file, folders that may hold its images.
_COCO_FOLDERS = ("images", "val2017", "train2017", "val", "train", "valid", "test")
_VOC_IMAGES = ("JPEGImages", "images")


@define
class Faults:
    """Counts what is wrong with single labels, so that a set of thousands gives a few lines."""

    seen: dict[tuple[str, str], list[str]] = field(factory=dict)

    def add(self, thing: str, fault: str, where: str) -> None:
        """Count one more thing with a fault."""
        self.seen.setdefault((thing, fault), []).append(where)

    def lines(self) -> tuple[str, ...]:
        """Return a line a fault."""
        return tuple(
            f"{counted(len(places), thing)} {fault}: {some(places)}" for (thing, fault), places in self.seen.items()
        )


@frozen(eq=False)
class Listed:
    """The objects of an image as its file has them."""

    boxes: list[tuple[float, float, float, float]]  #: left, top, right, bottom.
    keys: list[Any]  #: index of the class among the set's.
    crowd: list[bool] = field(factory=list)  #: whether it is a group; empty for none.
    areas: list[float] = field(factory=list)  #: in square pixels; empty for those of the boxes.
    size: tuple[int, int] | None = None  #: (height, width) of the image as the file says, if it does.
    shares: bool = False  #: whether boxes are in shares of the image's sides, not in pixels.
    file: Path | None = None  #: the image's own file of labels, if it has one.
    lines: list[int] = field(factory=list)  #: of that file, one an object.


Found = tuple[Path, dict[str, Listed], "tuple[str, ...] | None"]


def find_labels(path: Path, faults: Faults) -> Found | None:
    """Return the images' folder, what is listed of each image by its name, and the class names; None if unlabelled."""
    if path.is_file():
        if path.suffix.lower() == ".json":
            return _coco(path, faults)
        return _yolo_yaml(path, faults) if path.suffix.lower() in (".yaml", ".yml") else None
    if not path.is_dir():
        return None
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (path / name).is_file():
            return _yolo_yaml(path / name, faults)
    for place, pattern in (
        (path / "annotations", "instances_*.json"),
        (path / "annotations", "*.json"),
        (path, "*.json"),
    ):
        files = sorted(file for file in place.glob(pattern) if not file.name.startswith("."))
        if len(files) > 1:
            raise LabelError(
                f"{place} holds {counted(len(files), 'file')} of labels: {some([file.name for file in files])}",
                expected="one",
                remedy=f"name it: --images {files[0]}",
            )
        if files:
            return _coco(files[0], faults)
    if (path / "Annotations").is_dir():
        return _voc(path, faults)
    if (path / "labels").is_dir():
        return _yolo(path / "images" if (path / "images").is_dir() else path, path / "labels", None, faults)
    labels = _labels_of(path, Path(path.anchor))
    return _yolo(path, labels, None, faults) if labels != path and labels.is_dir() else None


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise LabelError(f"{path} is larger than any file of labels", expected=f"at most {_MOST_BYTES >> 30} GB")
        return path.read_bytes()
    except OSError as error:
        raise LabelError(f"{path} can't be read: {error.strerror or error}") from error


def some(places: Sequence[object]) -> str:
    """Return the first of some names, as text."""
    first = list(dict.fromkeys(str(place) for place in places))
    return ", ".join(first[:_TOLD]) + (", …" if len(first) > _TOLD else "")


def _inside(name: object, path: Path) -> str:
    """Return a relative name that a file of labels gives an image, never one that leads out of the set."""
    text = name.replace("\\", "/") if isinstance(name, str) else ""
    parts = PurePosixPath(text).parts
    if not parts or text.startswith("/") or ".." in parts or "\0" in text:
        raise LabelError(f"{path} names an image {str(name)[:80]!r}", expected="a name inside the set's own folder")
    return "/".join(parts)


def _require_files(path: Path, folder: Path, names: Iterable[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise LabelError(
            f"{path} names {counted(len(missing), 'image')} not in {folder}: {some(missing)}",
            expected="the images beside their labels",
            remedy="copy them there, or remove them from the labels",
        )


def _walk(folder: Path) -> Iterator[str]:
    """Yield the images below a folder, by name."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            if Path(file).suffix.lower() in EXTENSIONS and not file.startswith("."):
                yield (Path(place) / file).relative_to(folder).as_posix()


# COCO


def _coco(path: Path, faults: Faults) -> Found:
    try:
        data = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise LabelError(f"{path} is no JSON: {reason}", expected="COCO's instances file") from error
    if not isinstance(data, dict) or not all(_rows(data.get(key)) for key in ("images", "annotations", "categories")):
        raise LabelError(
            f"{path} is not COCO's file of labels", expected="an object with the lists images, annotations, categories"
        )
    categories = {}
    for row in data["categories"]:
        key, name = row.get("id"), row.get("name")
        if not _integer(key) or not isinstance(name, str) or not name or key in categories:
            raise LabelError(f"{path}: category {str(row)[:80]}", expected="a whole number as id, once, and a name")
        categories[key] = name
    order = {key: index for index, key in enumerate(sorted(categories))}
    names: dict[Any, str] = {}
    objects: dict[str, Listed] = {}
    for row in data["images"]:
        key, name = row.get("id"), _inside(row.get("file_name"), path)
        if not isinstance(key, (int, str)) or key in names:
            raise LabelError(
                f"{path}: image id {str(key)[:80]!r} of {name}", expected="an id of its own for each image"
            )
        if name in objects:
            raise LabelError(f"{path} lists {name} twice", expected="each image once")
        size = row.get("height"), row.get("width")
        known = all(_integer(side) and side > 0 for side in size)
        names[key] = name
        objects[name] = Listed([], [], size=size if known else None)
    for number, row in enumerate(data["annotations"]):
        where = f"{path}, annotation {number}"
        image, category, box = row.get("image_id"), row.get("category_id"), row.get("bbox")
        if not isinstance(image, (int, str)) or image not in names:
            faults.add("object", "left out of images that are not listed, such as of image", str(image)[:40])
            continue
        if not _integer(category) or category not in order:
            raise LabelError(f"{where}: category {str(category)[:40]!r}", expected=f"one of {some(list(order))}")
        if not isinstance(box, list) or len(box) != 4 or not all(_number(side) for side in box):
            raise LabelError(f"{where}: bbox {str(box)[:80]}", expected="[left, top, width, height] in pixels")
        listed = objects[names[image]]
        left, top, wide, high = map(float, box)
        area = row.get("area")
        sound = _number(area) and math.isfinite(area) and area >= 0
        listed.boxes.append((left, top, left + wide, top + high))
        listed.keys.append(order[category])
        listed.crowd.append(bool(row.get("iscrowd")))
        listed.areas.append(float(area) if sound else wide * high)
    folder = _coco_folder(path, objects)
    _require_files(path, folder, objects)
    return folder, objects, tuple(categories[key] for key in order)


def _coco_folder(path: Path, objects: Mapping[str, Listed]) -> Path:
    """Return the folder that the most of the first images lie in: beside the file, or in one near it."""
    first = list(objects)[:20]
    beside = path.parent.parent if path.parent.name == "annotations" else path.parent
    split = path.stem.removeprefix("instances_")
    places = [path.parent, beside, *(beside / name for name in (split, f"images/{split}", *_COCO_FOLDERS))]
    return max(places, key=lambda place: sum((place / name).is_file() for name in first))


def _rows(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53


def _number(value: object) -> bool:
    return isinstance(value, float) or _integer(value)


# YOLO


def _yolo_yaml(path: Path, faults: Faults) -> Found | None:
    try:
        data = read_yaml(path)
    except (OSError, ValueError) as error:
        raise LabelError(f"{path} can't be read: {error}", expected="ultralytics' data.yaml") from error
    if not isinstance(data, dict) or not ("names" in data or "val" in data):
        raise LabelError(f"{path} is no data.yaml", expected="val: the images' folder, and names: of the classes")
    names = _yolo_names(path, data.get("names"), data.get("nc"))
    root = str(data.get("path") or ".")
    split = next((data[key] for key in ("val", "test", "train") if isinstance(data.get(key), str)), None)
    if split is None:
        raise LabelError(f"{path} names no images", expected="val: a folder of images, as text")
    # Written for another folder as often as not (``../valid/images``): what lies beside the file counts.
    parts = [part for part in Path(split).parts if part != ".."]
    for tried in (Path(root, split), Path(*parts), Path(*parts[-2:])):
        folder = path.parent / tried
        if ".." not in tried.parts and folder.is_dir() and _below(folder, path.parent):
            return _yolo(folder, _labels_of(folder, path.parent), names, faults)
    raise LabelError(
        f"{path}: {split!r} is no folder beside it",
        expected=f"a folder of images in {path.parent}, such as images/val",
        remedy="give the folder of the images itself; its labels are found",
    )


def _below(place: Path, root: Path) -> bool:
    return place.resolve().is_relative_to(root.resolve())


def _labels_of(images: Path, root: Path) -> Path:
    """Return the folder of the labels: ``images`` in the path becomes ``labels``, the last one first."""
    parts = list(images.relative_to(root).parts)
    for place in reversed(range(len(parts))):
        if parts[place] == "images":
            return root.joinpath(*parts[:place], "labels", *parts[place + 1 :])
    return images / "labels" if (images / "labels").is_dir() else images


def _yolo_names(path: Path, names: object, count: object) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise LabelError(f"{path}: names has the keys {some(list(names))}", expected=f"0..{len(names) - 1}")
        names = [names.get(index, names.get(str(index))) for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, (str, int)) for name in names):
        raise LabelError(f"{path}: names is {str(names)[:80]}", expected="a list of class names")
    if count is not None and count != len(names):
        raise LabelError(f"{path}: nc is {str(count)[:20]}, but names has {len(names)}", expected="the same number")
    return tuple(map(str, names))


def _yolo(folder: Path, labels: Path, names: tuple[str, ...] | None, faults: Faults) -> Found:
    if not labels.is_dir():
        raise LabelError(f"{folder} has no labels: {labels} is no folder", expected="labels/ beside images/")
    objects: dict[str, Listed] = {}
    stems: dict[str, str] = {}
    for name in _walk(folder):
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem in stems:
            raise LabelError(
                f"{folder} holds {stems[stem]} and {name}, which share one file of labels",
                expected="a name of its own for each image",
            )
        stems[stem] = name
        file = labels / f"{stem}.txt"
        if file.is_file():
            objects[name] = _yolo_file(file, faults)
        else:
            # As ultralytics has it: such an image shows no object.
            faults.add("image", "without a file of labels, taken as without objects", name)
            objects[name] = Listed([], [])
    lonely = [
        file.name for file in labels.rglob("*.txt") if file.relative_to(labels).with_suffix("").as_posix() not in stems
    ]
    for name in sorted(name for name in lonely if name not in ("classes.txt", "labels.txt")):
        faults.add("label file", "without an image", name)
    if objects and sum(bool(one.boxes) for one in objects.values()) == 0:
        raise LabelError(
            f"none of the {counted(len(objects), 'image')} of {folder} has an object in {labels}",
            expected="files of the images' names: images/a.jpg and labels/a.txt",
        )
    return folder, objects, names


def _yolo_file(path: Path, faults: Faults) -> Listed:
    try:
        text = _read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path} is no text", expected="lines of: class x y width height") from error
    if not text.strip():
        faults.add("empty label file", "taken as without objects", path.name)
    boxes, keys, lines = [], [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            key, *values = map(float, line.split())
        except ValueError:
            key, values = -1.0, []
        if (
            len(values) < 4
            or not key.is_integer()
            or key < 0
            or (len(values) > 4 and (len(values) % 2 or len(values) < 6))
        ):
            raise LabelError(
                f"{path}, line {number}: {line.strip()[:60]!r}",
                expected="class x y width height as shares of the image, or class and the corners of an outline",
            )
        if len(values) == 4:
            x, y, wide, high = values
            box = x - wide / 2, y - high / 2, x + wide / 2, y + high / 2
        else:
            box = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
        if max(map(abs, box)) > 2 and all(map(math.isfinite, box)):
            raise LabelError(
                f"{path}, line {number}: {line.strip()[:60]!r} is not in shares of the image",
                expected="numbers in 0..1",
            )
        boxes.append(box)
        keys.append(int(key))
        lines.append(number)
    return Listed(boxes, keys, shares=True, file=path, lines=lines)


# VOC


def _voc(path: Path, faults: Faults) -> Found:
    files = sorted((path / "Annotations").glob("*.xml"))
    if not files:
        raise LabelError(f"{path / 'Annotations'} holds no .xml", expected="one file an image, as VOC has them")
    folder = next((path / name for name in _VOC_IMAGES if (path / name).is_dir()), path)
    stems: dict[str, str] = {}
    for name in _walk(folder):
        stems.setdefault(PurePosixPath(name).stem, name)
    objects: dict[str, Listed] = {}
    missing, names = [], set()
    for file in files:
        listed = _voc_file(file)
        names.update(listed.keys)
        if file.stem in stems:
            objects[stems[file.stem]] = listed
        else:
            missing.append(file.name)
    if missing:
        raise LabelError(
            f"{counted(len(missing), 'file')} of {path / 'Annotations'} without an image in {folder}: {some(missing)}",
            expected="images of the files' names: Annotations/a.xml and JPEGImages/a.jpg",
        )
    for stem in sorted(stems.keys() - {file.stem for file in files}):
        faults.add("image", "left out without a file of labels", stems[stem])
    # VOC has no list of classes; by their names, which a network with names may order otherwise.
    ordered = tuple(sorted(names))
    index = {name: place for place, name in enumerate(ordered)}
    for listed in objects.values():
        listed.keys[:] = [index[key] for key in listed.keys]
    return folder, objects, ordered


def _voc_file(path: Path) -> Listed:
    from xml.etree import ElementTree

    data = _read(path)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:  # entities unfold to any size
        raise LabelError(f"{path} defines entities", expected="VOC's XML, which has none")
    try:
        root = ElementTree.fromstring(data)  # noqa: S314 - no entities, see above
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise LabelError(f"{path} is no XML: {error}", expected="VOC's XML") from error
    size = None
    try:
        high, wide = (int(root.findtext(f"size/{key}", "0")) for key in ("height", "width"))
        size = (high, wide) if high > 0 and wide > 0 else None
        boxes, keys, crowd = [], [], []
        for one in root.iter("object"):
            name = (one.findtext("name") or "").strip()
            if not name:
                raise LabelError(f"{path} has an object without a name", expected="<name> in each <object>")
            left, top, right, bottom = (
                float(one.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")
            )
            # VOC counts pixels from 1 and includes the last.
            boxes.append((left - 1, top - 1, right, bottom))
            keys.append(name)
            crowd.append((one.findtext("difficult") or "0").strip() == "1")
    except ValueError as error:
        raise LabelError(
            f"{path}: {error}", expected="<object> with <name> and <bndbox> of xmin, ymin, xmax, ymax in pixels"
        ) from error
    return Listed(boxes, keys, crowd, size=size)
