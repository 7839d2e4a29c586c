"""Images, sets of images, and seeded choice. An image is read only when it is asked for."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from edge.errors import ImageError, UsageError
from edge.images.preprocess import decode

Split = Literal["calibration", "test"]

# Stems of folders and files that are called so in many sets.
_ANY_SET = frozenset(
    {
        *("images", "imgs", "jpegimages", "labels", "data", "dataset", "calib"),
        *("train", "train2017", "val", "val2017", "valid", "validation", "test"),
    }
)


@frozen
class ImageItem:
    """One image of a set."""

    name: str  #: unique in the set: the path relative to it, or ``calibration/000012`` of the demo.
    label: int | None = None  #: class index; None if unknown.
    path: Path | None = None  #: the file; None for a rendered image.
    demo: tuple[Split, int, int] | None = None  #: (split, index, seed) of a rendered image; None for a file.
    url: str = ""  #: of an object in a store, such as ``s3://bucket/val/1.jpg``; empty for a file.

    def load(self) -> NDArray[np.uint8]:
        """Return the image, RGB, uint8, (height, width, 3).

        Raises:
            ImageError: it can't be read.
        """
        return self.open()[0]

    def open(self) -> tuple[NDArray[np.uint8], str]:
        """Return the image as :meth:`load` does, and the sha256 of its file or rendered pixels.

        Raises:
            ImageError: it can't be read.
        """
        if self.demo is not None:
            from edge.images.demo import draw

            rgb, _ = draw(*self.demo)
            return rgb, hashlib.sha256(rgb.tobytes()).hexdigest()
        data = self._bytes()
        return decode(data, self.name), hashlib.sha256(data).hexdigest()

    @property
    def sha256(self) -> str:
        """The sha256 of the file's bytes, or of what determines a rendered image (renderer, index, seed).

        Raises:
            ImageError: the file can't be read.
        """
        if self.demo is None:
            return hashlib.sha256(self._bytes()).hexdigest()
        return hashlib.sha256(f"{_renderer_sha256()} {self.demo}".encode()).hexdigest()

    def _bytes(self) -> bytes:
        if self.url:
            from edge.images.stores import read

            return read(self.url)
        try:
            return (self.path or Path(self.name)).read_bytes()
        except OSError as error:
            raise ImageError(
                f"{self.name} can't be read: {error.strerror or error}", remedy="check the path and its permissions"
            ) from error


class Files(Sequence[ImageItem]):
    """Image files below one folder, in few bytes each; an item is made when it is asked for.

    50,000 of them take 3 MB; as many objects would take 25.

    Args:
        folder: the names are relative to it.
        pairs: name and label of each; the label is a class index, 0 and above, or None if unknown.
        url: of the folder, where it is in a store.
    """

    def __init__(self, folder: Path, pairs: Iterable[tuple[str, int | None]], url: str = "") -> None:
        names, ends, labels = bytearray(), array("I", [0]), array("i")
        for name, label in pairs:
            names += name.encode("utf-8", "surrogateescape")
            ends.append(len(names))
            labels.append(-1 if label is None else label)
        self._folder, self._names, self._ends, self._labels = folder, names, ends, labels
        self._url = url

    def take(self, indices: Iterable[int]) -> Files:
        """Return some of the images, in the order given."""
        chosen = (self[int(index)] for index in indices)
        return Files(self._folder, ((item.name, item.label) for item in chosen), self._url)

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> ImageItem: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ImageItem, ...]: ...
    def __getitem__(self, index: int | slice) -> ImageItem | tuple[ImageItem, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        place = range(len(self))[index]
        name = self._names[self._ends[place] : self._ends[place + 1]].decode("utf-8", "surrogateescape")
        label = self._labels[place]
        if self._url:
            return ImageItem(name, None if label < 0 else label, url=f"{self._url}/{name}")
        return ImageItem(name, None if label < 0 else label, path=self._folder / name)

    def at(self, url: str) -> Files:
        """Return the same names below an address."""
        return Files(self._folder, ((item.name, item.label) for item in self), url)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Files) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    @property
    def _content(self) -> tuple[str, bytes, bytes, bytes]:
        return self._url or str(self._folder), bytes(self._names), self._ends.tobytes(), self._labels.tobytes()


def set_name(path: Path) -> str:
    """Return what a set is called: the last part of its path, behind its parent's where that tells sets apart."""
    parts, last = path.parts, path.name
    while len(parts) > 1 and Path(parts[-1]).stem.lower() in _ANY_SET and parts[-2] not in ("..", path.anchor):
        parts = parts[:-1]
        last = f"{parts[-1]}/{last}"
    return last


@frozen(slots=False)
class ImageSet(Sequence[ImageItem]):
    """Images in a fixed order."""

    items: Sequence[ImageItem]  #: the images.
    description: str  #: what to call the set in reports, such as ``imagenet_val (500 of 50000 images)``.
    unlabelled: str = ""  #: why there are no labels; empty if every image has one.
    source: str = ""  #: the set's short name.

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return not self.unlabelled

    @cached_property
    def contents(self) -> NDArray[np.uint8]:
        """The sha256 of each image's content, (n, 32); zeros where a file can't be read. Reads all once."""
        found = np.zeros((len(self.items), 32), np.uint8)
        for row, item in zip(found, self.items, strict=True):
            try:
                row[:] = np.frombuffer(bytes.fromhex(item.sha256), np.uint8)
            except ImageError:
                continue
        return found

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 over names, labels and contents; reads every file once, unreadable or not."""
        digest = hashlib.sha256()
        for item, row in zip(self.items, self.contents, strict=True):
            content = row.tobytes().hex() if row.any() else "unreadable"
            digest.update(f"{item.name}\t{item.label}\t{content}\n".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[ImageItem]:
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> ImageItem: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ImageItem, ...]: ...
    def __getitem__(self, index: int | slice) -> ImageItem | tuple[ImageItem, ...]:
        return tuple(self.items[index]) if isinstance(index, slice) else self.items[index]


def sample(images: ImageSet, n: int, seed: int = 0) -> ImageSet:
    """Choose ``n`` images with a seed, the same ones on every machine.

    Every image is equally likely; in a labelled set each class gets its share, give or take one image.

    Args:
        n: how many; all of them if there are fewer.

    Raises:
        UsageError: ``n`` is not positive.
    """
    if n < 1:
        raise UsageError(f"{n} images", expected="at least 1")
    if n >= len(images):
        return images
    names = [item.name for item in images]
    items = sorted(range(len(images)), key=names.__getitem__)
    rng = np.random.Generator(np.random.PCG64(seed))
    order = rng.permutation(len(items))
    if images.labelled:
        # Grouped by class, every (N/n)-th image from a random start gives each class its share.
        known = np.array([-1 if item.label is None else item.label for item in images])
        labels = known[items][order]
        ranks = rng.permutation(int(labels.max()) + 2)
        order = order[np.argsort(ranks[labels + 1], kind="stable")]
        order = order[((np.arange(n) + rng.random()) * len(items) / n).astype(np.int64)]
    chosen = [items[i] for i in sorted(order[:n])]
    files = images.items.take(chosen) if isinstance(images.items, Files) else None
    taken = files or tuple(images[i] for i in chosen)
    description = f"{images.source} ({n} of {len(items)} images, seed {seed})"
    return evolve(images, items=taken if isinstance(taken, Files) else tuple(taken), description=description)


def _renderer_sha256() -> str:
    from edge.images import demo as render

    return hashlib.sha256(Path(render.__file__).read_bytes()).hexdigest()
