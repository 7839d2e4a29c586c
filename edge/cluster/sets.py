"""Sets of images on their way: names, labels and hashes travel, the bytes only to a worker that can't read them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from attrs import evolve

from edge.cluster.worker import Here, Lacks
from edge.images import ImageItem, ImageSet


def with_contents(images: ImageSet) -> ImageSet:
    """Return the set, its images' hashes read, so that they travel with it."""
    _ = images.contents
    return images


def files_of(images: ImageSet) -> dict[str, Path | bytes]:
    """Return sha256 -> file of the images that are files of this machine."""
    rows = images.contents
    return {
        row.tobytes().hex(): item.path
        for item, row in zip(images, rows, strict=True)
        if item.path is not None and not item.url and row.any()
    }


def part(images: ImageSet, indices: Sequence[int]) -> ImageSet:
    """Return some of the images as a set of its own."""
    found = evolve(images, items=tuple(images[index] for index in indices))
    found.__dict__["contents"] = images.contents[np.asarray(indices, np.int64)]
    return found


def local(images: ImageSet, here: Here) -> ImageSet:
    """Return a set whose files this machine can read: at the client's paths, else among its content.

    Raises:
        Lacks: some are neither here nor there.
    """
    rows = images.contents
    found, lacks = list[ImageItem](), list[str]()
    for item, row in zip(images, rows, strict=True):
        sha256 = row.tobytes().hex()
        if item.path is None or item.url or not row.any() or _same(item.path, sha256):
            found.append(item)
        elif here.contents.missing([sha256]):
            lacks.append(sha256)
        else:
            found.append(evolve(item, path=here.contents.path(sha256)))
    if lacks:
        raise Lacks(tuple(dict.fromkeys(lacks)))
    taken = evolve(images, items=tuple(found))
    taken.__dict__["contents"] = rows
    return taken


def _same(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False
