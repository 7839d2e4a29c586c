"""Find labelled detection sets and check them.

A set is found from one path::

    data.yaml                          ultralytics': the images of ``val``, their boxes in labels/*.txt, class names
    folder/images, folder/labels       the same without names; or a folder that holds data.yaml
    instances_val2017.json             COCO's, its images beside it or in a folder near it
    folder/annotations/instances_*.json, folder/*.json        the same, found in a folder
    folder/Annotations/*.xml           VOC's, images in JPEGImages/ or images/
    anything else                      images as :func:`edge.images.open_images` finds them, without labels

A file of labels is never trusted with a path: an image that it names lies in the set's own folder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from attrs import evolve, field, frozen
from numpy.typing import NDArray

from edge.errors import ImageError, LabelError, UsageError, counted
from edge.images.find import open_images
from edge.images.headers import image_size
from edge.images.items import Files, ImageSet, set_name
from edge.images.label_files import Faults, Listed, find_labels, some


@frozen(eq=False)
class Truth:
    """The objects of an image."""

    boxes: NDArray[np.float64]  #: (n, 4): left, top, right, bottom in pixels of the image.
    labels: NDArray[np.int64]  #: (n,), index of the class.
    crowd: NDArray[np.bool_]  #: (n,), whether it is a group that counts neither as found nor as missed.
    areas: NDArray[np.float64]  #: (n,), in square pixels; COCO's are those of the outline.

    def __len__(self) -> int:
        return len(self.labels)


def truth(
    boxes: Iterable[Sequence[float]], labels: Iterable[int], crowd: Iterable[bool] = (), areas: Iterable[float] = ()
) -> Truth:
    """Return objects; none of them a crowd, and with the areas of their boxes, where these are not given."""
    corners = np.array(list(boxes), np.float64).reshape(-1, 4)
    crowds, known = list(crowd), list(areas)
    sides = corners[:, 2:] - corners[:, :2]
    return Truth(
        corners,
        np.array(list(labels), np.int64),
        np.array(crowds, bool) if crowds else np.zeros(len(corners), bool),
        np.array(known, np.float64) if known else sides[:, 0] * sides[:, 1],
    )


NOTHING = truth((), ())


@frozen(slots=False)
class BoxSet(ImageSet):
    """Images with the objects on them; a class index is no property of an image, so its label is None."""

    objects: Mapping[str, Truth] = field(factory=dict, eq=False)  #: by the image's name; none where it is left out.
    names: tuple[str, ...] | None = None  #: of the classes, in index order; None if the set does not tell.
    doubts: tuple[str, ...] = ()  #: what was seen and corrected or left out, with counts.

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 over names, contents and objects; reads every file once, unreadable or not."""
        digest = hashlib.sha256(ImageSet.fingerprint.func(self).encode())  # type: ignore[attr-defined]
        for item in self.items:
            found = self.objects.get(item.name, NOTHING)
            for array in (found.boxes, found.labels, found.crowd, found.areas):
                digest.update(array.tobytes() + b"\n")
        return digest.hexdigest()

    def truths(self) -> list[Truth]:
        """Return the objects of each image, in the set's order."""
        return [self.objects.get(item.name, NOTHING) for item in self.items]


def open_boxes(source: str | Path, *, classes: Sequence[str] | int | None = None) -> BoxSet:
    """Find the images of a detection set and their objects.

    Args:
        classes: of the network: names in index order, or how many; None if unknown. The set's are checked against it.

    Raises:
        UsageError: the source does not exist.
        InputError: it holds no images.
        LabelError: a file of labels can't be read, is of another form, names images that do not exist or more than
            once, or its classes are not the network's.
    """
    path = Path(source).expanduser()
    if not path.exists() and str(source).partition(":")[0] != "demo":
        raise UsageError(
            f"{source} does not exist",
            expected="a folder of images, COCO's .json, data.yaml, or a folder with labels/ or Annotations/",
        )
    faults = Faults()
    found = find_labels(path, faults)
    if found is None:
        images = open_images(source)
        why = "no COCO .json, data.yaml, labels/ or Annotations/ was found"
        return BoxSet(images.items, images.description, why, images.source)
    folder, objects, names = found
    if not objects:
        raise LabelError(f"{source} lists no images", expected="at least one image with its objects")
    limit = _count(classes) if names is None else len(names)
    clean = {name: _checked(name, folder, one, limit, faults) for name, one in objects.items()}
    if not any(len(one) for one in clean.values()):
        raise LabelError(
            f"{source} has no object on any of {counted(len(clean), 'image')}"
            + "".join(f"; {doubt}" for doubt in faults.lines()),
            expected="labelled objects; without any labels give the folder of the images alone",
        )
    own = None if classes is None or isinstance(classes, int) else tuple(classes)
    if names is not None:
        used = set(np.concatenate([one.labels for one in clean.values()]).tolist())
        index, own = _matched(source, names, used, classes, faults)
        clean = {name: _renumbered(one, index) for name, one in clean.items()}
    files = Files(folder, ((name, None) for name in sorted(clean)))
    count = sum(map(len, clean.values()))
    name = set_name(path)
    description = f"{name} ({counted(len(files), 'image')}, {counted(count, 'object')})"
    return BoxSet(files, description, source=name, objects=clean, names=own, doubts=faults.lines())


# Classes


def _count(classes: Sequence[str] | int | None) -> int | None:
    return classes if isinstance(classes, int) or classes is None else len(classes)


def _matched(
    source: str | Path, names: tuple[str, ...], used: set[int], classes: Sequence[str] | int | None, faults: Faults
) -> tuple[Mapping[int, int], tuple[str, ...]]:
    """Return the network's class index of each of the set's, and the class names.

    Of a network with names classes are matched by them; without, they are the same in the same order. A class of the
    set without any object needs no counterpart.
    """
    count = _count(classes)
    same = {index: index for index in range(len(names))}
    if classes is None or isinstance(classes, int):
        if count is None or count == len(names):
            return same, names
        if count == len(used):
            for index in sorted(same.keys() - used):
                faults.add("class", "without objects left out, which the network does not have", names[index])
            kept = sorted(used)
            return {index: place for place, index in enumerate(kept)}, tuple(names[index] for index in kept)
        raise LabelError(
            f"{source} has {counted(len(names), 'class')} ({some(names)}), the network has {count}",
            expected="labels of the network's own classes",
            remedy="name the network's classes with --labels FILE: they are then matched by name",
        )
    own, others = [_plain(name) for name in classes], [_plain(name) for name in names]
    if own == others:
        return same, tuple(classes)
    place = {name: index for index, name in enumerate(own) if own.count(name) == 1}
    strange = [names[index] for index in sorted(used) if others[index] not in place]
    if strange:
        raise LabelError(
            f"{source} has objects of {counted(len(strange), 'class')} unknown to the network: {some(strange)}",
            expected=f"the network's {count} classes: {some(classes)}",
            remedy="correct the names in the labels, or give the network's with --labels FILE",
        )
    return {index: place[others[index]] for index in used}, tuple(classes)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


# What all forms share


def _renumbered(one: Truth, index: Mapping[int, int]) -> Truth:
    return evolve(one, labels=np.array([index[label] for label in one.labels.tolist()], np.int64))


def _checked(name: str, folder: Path, listed: Listed, limit: int | None, faults: Faults) -> Truth:
    """Return an image's objects in pixels; what can't be is left out and counted."""
    if not listed.boxes:
        return NOTHING
    try:
        size = image_size(folder / name)
    except ImageError:
        faults.add("image", "that can't be read", name)
        return NOTHING
    if listed.size not in (None, size):
        faults.add("image", "of another size than the labels say", name)
    wide = [size[1], size[0]] * 2
    kept = []
    for place, (box, key) in enumerate(zip(listed.boxes, listed.keys, strict=True)):
        if limit is not None and not 0 <= key < limit:
            where = name if listed.file is None else f"{listed.file}, line {listed.lines[place]}"
            raise LabelError(
                f"{where}: an object of class {key}",
                expected=f"0..{limit - 1}, of {counted(limit, 'class')}",
                remedy="correct the label, or the list of class names",
            )
        if not all(map(math.isfinite, box)):
            faults.add("box", "left out whose numbers are not finite, on", name)
            continue
        left, top, right, bottom = (side * (by if listed.shares else 1) for side, by in zip(box, wide, strict=True))
        if right <= left or bottom <= top:
            faults.add("box", "left out without width or height, on", name)
            continue
        inside = max(0.0, left), max(0.0, top), min(wide[0], right), min(wide[1], bottom)
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            faults.add("box", "left out outside the image, on", name)
            continue
        if max(inside[0] - left, inside[1] - top, right - inside[2], bottom - inside[3]) > 1:  # a pixel is rounding
            faults.add("box", "cut at the image's border, on", name)
            left, top, right, bottom = inside
        area = listed.areas[place] if listed.areas else (right - left) * (bottom - top)
        kept.append(((left, top, right, bottom), key, bool(listed.crowd and listed.crowd[place]), area))
    # Twice in COCO's own files is twice in everybody's figures; ultralytics leaves the second out.
    rows = list(dict.fromkeys(kept)) if listed.shares else kept
    if len(rows) < len(kept):
        faults.add("object", "left out as listed twice, on", name)
    return truth(*zip(*rows, strict=True)) if rows else NOTHING
