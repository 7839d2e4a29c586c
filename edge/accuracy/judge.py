"""What the tasks share of an evaluation: the images, the steps' answers, and what a task has to say of them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.accuracy.answers import Answered, KeptAnswers
from edge.accuracy.steps import Step
from edge.accuracy.table import Change, Mistake, StepName, StepResult
from edge.images import ImageSet
from edge.measure.networks import Outputs

Row = NDArray[np.float32]  # an answer to an image, flat
Sink = Callable[[Sequence[object]], object]
ROWS = 64  # images that are counted together


@frozen
class MeasuredOn:
    """The images of a measurement."""

    images: ImageSet  #: the set; labels are class indices.
    unlabelled: str = ""  #: why there is no Top-1; empty if the labels are the network's classes.
    seed: int = 0  #: of the bootstrap, and of the sample for steps that are measured on a sample.


@frozen
class Column:
    """A step and its answers."""

    step: Step
    answered: Answered
    answers: KeptAnswers


@frozen
class Tally:
    """What the steps' answers say."""

    steps: tuple[StepResult, ...]  #: one a column.
    verdict: str  #: one line.
    explanation: tuple[str, ...]  #: sentences on the steps.
    total: Change | None = None  #: the change from the first step to the quantized one; None without labels.
    mistakes: tuple[Mistake, ...] = ()  #: the images to look at.
    mistakes_total: int = 0  #: how many there are.
    labels_doubt: str = ""  #: that the labels count the classes otherwise; empty as a rule.


class Judge(Protocol):
    """A task's part of an evaluation."""

    @property
    def width(self) -> int:
        """Number of floats of an answer to an image."""

    @property
    def paired(self) -> bool:
        """Whether an answer needs the outputs of the step that it is compared with."""

    def row(self, outputs: Outputs, like: Outputs | None, size: tuple[int, int], /) -> Row:
        """Return the answer to an image, which is kept.

        Args:
            outputs: of the network, in the float network's order.
            like: of the step that it is compared with, for the same image; None where ``paired`` is False, and for
                the first step.
            size: (height, width) of the image in its file; (0, 0) of a sample.
        """

    def tally(
        self, columns: Sequence[Column], measured_on: MeasuredOn, quantized: StepName, sink: Sink | None
    ) -> Tally:
        """Go through all images once.

        Args:
            columns: the steps in order, ``float`` first.
            quantized: the step that stands for the program.
            sink: takes a row an image: its name, its label, and a value of each step; None where it has none.
        """


def compared_with(names: Sequence[StepName]) -> list[int]:
    """Return for each step the place of the one that it is compared with.

    Behind NV12 the float network is what quantization has to keep; what NV12 itself costs is said at its own step.
    """
    nv12 = names.index("nv12") if "nv12" in names else 0
    return [nv12 if place > nv12 else 0 for place in range(len(names))]


def before(columns: Sequence[Column], place: int) -> int | None:
    """Return the nearest earlier step that answered all images; steps on a sample are skipped."""
    return next((i for i in reversed(range(place)) if columns[i].step.count is None), None)


@contextmanager
def answers_csv(path: Path, steps: Sequence[Step]) -> Iterator[Sink]:
    """Write ``image,label`` and one column per step; the file appears when it is complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("image", "label", *(step.name for step in steps)))
            yield writer.writerow
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
