"""The calibration images compared with the images that the network is measured on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.folder.built import Built
from edge.images.frames import Frame
from edge.images.preprocess import Image, calibration_image

APART = 0.95  # the sets differ if a statistic puts this share of pairs, one image of each set, in the same order
NOISE = 0.5  # in photographs neighbouring pixels correlate above 0.9, in noise not at all
CORRELATION = "neighbour correlation"
_NAMES = ("mean red", "mean green", "mean blue", "contrast", CORRELATION, "colourfulness")
_LEAST = (12.0, 12.0, 12.0, 8.0, 0.05, 8.0)  # smaller differences of medians do not count
_FOLDER = "calibration_data_*_f32"


@frozen(eq=False)
class Statistics:
    """Statistics of a set of images, one row per image."""

    names: tuple[str, ...]  #: of the columns.
    values: NDArray[np.float64]  #: float64 (n, columns).

    def median(self, name: str) -> float:
        """Return the median of a column."""
        return float(np.median(self.values[:, self.names.index(name)]))


@frozen
class Difference:
    """A statistic in which the two sets differ."""

    name: str  #: such as ``neighbour correlation``.
    calibration: float  #: its median over the calibration images.
    evaluation: float  #: its median over the measured images.
    order: float  #: share of pairs, one image of each set, whose order is that of the medians, 0.5..1.


def calibration_frames(built: Built, count: int) -> tuple[Frame, ...]:
    """Return ``count`` images of the calibration set, evenly spaced; none if the files are gone."""
    folder = next(iter(sorted(built.folder.glob(_FOLDER))), None)
    files = sorted(folder.glob("*.bin")) if folder else []
    if len(files) > count:
        files = [files[i * len(files) // count] for i in range(count)]
    rule = built.metadata.preprocess
    return tuple(Frame(file.name, None, calibration_image(file, rule)) for file in files)


def statistics(frames: Sequence[Frame]) -> Statistics:
    """Return the statistics of images."""
    return Statistics(_NAMES, np.array([_row(frame.rgb) for frame in frames]))


def differences(calibration: Statistics, evaluation: Statistics) -> tuple[Difference, ...]:
    """Return the statistics in which the sets differ, the largest difference first."""
    found = []
    for i, name in enumerate(_NAMES):
        a, b = calibration.values[:, i], evaluation.values[:, i]
        middle_a, middle_b = float(np.median(a)), float(np.median(b))
        # The area under the ROC curve, which assumes nothing about the distributions.
        larger = (a[:, None] > b[None, :]).mean() + 0.5 * (a[:, None] == b[None, :]).mean()
        order = float(max(larger, 1 - larger))
        noise = name == CORRELATION and (middle_a < NOISE) != (middle_b < NOISE)
        if noise or (order >= APART and abs(middle_a - middle_b) >= _LEAST[i]):
            found.append(Difference(name, middle_a, middle_b, order))
    # Noise first: it explains most.
    return tuple(sorted(found, key=lambda item: (item.name != CORRELATION, -item.order)))


def _row(rgb: Image) -> list[float]:
    values = rgb.astype(np.float32)
    means = values.mean(axis=(0, 1))
    luma = values @ np.array([0.299, 0.587, 0.114], np.float32)
    left, right = luma[:, :-1].ravel(), luma[:, 1:].ravel()
    flat = left.std() < 1e-3 or right.std() < 1e-3
    correlation = 1.0 if flat else float(np.corrcoef(left, right)[0, 1])
    colour = float((values.max(axis=2) - values.min(axis=2)).mean())
    return [*(float(mean) for mean in means), float(luma.std()), correlation, colour]
