"""The pictures that a finished build is looked at with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.errors import UsageError

if TYPE_CHECKING:
    from edge.built import Built
    from edge.images import ImageSet

DEMO = "demo:test"


def built_pictures(
    built: Built, verb: str, images: str | None, labels: str | None, *, count: int, seed: int
) -> tuple[ImageSet, str]:
    """Return the pictures, and why there is no Top-1; empty if there is.

    Args:
        built: the build.
        verb: for the remedy, such as ``diagnose``.
        images: a source of pictures; None takes those of the build's own measurement, if the demo's.
        labels: what names the classes, as for :func:`edge.images.class_names`; None takes the build's own.
        count: at most so many pictures; 0 takes all.
        seed: of the choice.

    Raises:
        UsageError: no pictures are named and the build was measured on others than the demo's.
        EdgeError: as :func:`edge.images.open_images`.
    """
    from edge import choices

    about = built.metadata
    if images is None:
        measured = str(built.manifest.get("accuracy", {}).get("dataset", "other pictures"))
        if not measured.startswith(DEMO):
            raise UsageError(
                f"no --images, and {about.model} was measured on {measured}, which may have moved",
                allowed="a folder of pictures, a list file or labels.csv",
                remedy=f"edge {verb} {built.folder.name} --images DIR",
            )
    names = labels or (str(built.folder / about.files["labels"].path) if "labels" in about.files else None)
    if about.weights == "demo":
        names = labels or "demo"
    return choices.pictures(images, names, about.weights, about.classes, count=count, seed=seed)
