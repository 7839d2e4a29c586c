"""The pictures of a search, in two parts that share none: one to choose on, one to report on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from attrs import frozen

from edge.diagnose.frames import Frame, load_frames, spread
from edge.diagnose.networks import FloatNet
from edge.errors import InputError
from edge.images import ImageItem, ImageSet, sample
from edge.progress import Reporter
from edge.specs import Preprocess
from edge.tune.trials import Set

FEWEST = 16  # of both parts together
FEW = 100  # in a part; fewer say little


@frozen
class Halves:
    """Disjoint parts of a set of pictures."""

    selection: ImageSet
    report: ImageSet


def halves(images: ImageSet, seed: int) -> Halves:
    """Split a set in two, each class in halves where there are labels.

    Pictures of equal content come into one part, wherever they are.

    Raises:
        InputError: there are too few.
    """
    if len(images) < FEWEST:
        raise InputError(
            f"{len(images)} pictures in {images.description} are too few to choose on one half and report on "
            "the other",
            allowed=f"{FEWEST} and more; some hundred for figures that mean something",
            remedy="give --images a larger set, or --count 0 for all of it",
        )
    chosen = {item.name for item in sample(images, len(images) // 2, seed)}
    contents = {
        row.tobytes() for item, row in zip(images, images.contents, strict=True) if item.name in chosen
    }
    first: list[ImageItem] = []
    second: list[ImageItem] = []
    for item, row in zip(images, images.contents, strict=True):
        if item.name in chosen:
            first.append(item)
        elif row.tobytes() not in contents:
            second.append(item)
    if not second:
        raise InputError(
            f"the pictures of {images.description} are copies of each other",
            allowed="two halves without a picture in common",
            remedy="give --images another set",
        )
    return Halves(_part(images, first, f"seed {seed}"), _part(images, second, f"the other half, seed {seed}"))


def load(images: ImageSet, net: FloatNet, preprocess: Preprocess, unlabelled: str, reporter: Reporter) -> Set:
    """Return the pictures cropped, with the float network's answers behind NV12.

    Args:
        images: a part.
        net: the BPU-ready float network.
        preprocess: of the network.
        unlabelled: why labels mean nothing; empty if they do.
        reporter: told of broken pictures.

    Raises:
        InputError: none can be read.
    """
    frames, _ = load_frames(images, preprocess, reporter)
    scores = np.stack(spread(lambda frame: net.behind_nv12(frame.nv12), list(frames)))
    labels: Sequence[int | None] = [None if unlabelled else frame.label for frame in frames]
    return Set(frames, scores, labels, images.fingerprint)


def float_net(model: Path, preprocess: Preprocess) -> FloatNet:
    """Open the float network that all are compared with."""
    return FloatNet(model, preprocess)


def _part(images: ImageSet, items: Sequence[ImageItem], which: str) -> ImageSet:
    name = images.source or images.description
    return ImageSet(
        tuple(items), f"{name} ({len(items)} of {len(images)} pictures, {which})", images.unlabelled, name
    )


__all__ = ["FEW", "Frame", "Halves", "float_net", "halves", "load"]
