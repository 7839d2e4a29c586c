"""Outputs of unknown meaning: how far each is from float's, as numbers, on the same images."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from attrs import define, frozen
from numpy.typing import NDArray

from edge.accuracy.judge import ROWS, Column, MeasuredOn, Row, Sink, Tally, before, compared_with
from edge.accuracy.table import WHOLE, OutputResult, StepName, StepResult, raw_line, subject_of_step
from edge.errors import ModelFileError, counted
from edge.measure.networks import Outputs
from edge.specs.schema import Output

# Figures of one output for one image: cosine, sums of squares of the reference and of the error, largest error,
# smallest and largest value of the reference, and a checksum of the values in two halves, which float32 holds exactly.
_FIGURES = 8
_NOTHING = 1e-30  # squares of an output that is 0 everywhere, so that a logarithm can be taken
COSINE, SIGNAL, NOISE, LARGEST, LOW, HIGH, CHECKSUM = 0, 1, 2, 3, 4, 5, slice(6, 8)


@frozen
class Raw:
    """The part of a network with outputs of unknown meaning in an evaluation.

    Of an image the figures of each output are kept, and not the outputs: these may be millions of values.
    """

    outputs: tuple[Output, ...]
    paired: bool = True

    @property
    def width(self) -> int:
        """Number of figures for an image."""
        return _FIGURES * len(self.outputs)

    def row(self, outputs: Outputs, like: Outputs | None, _size: tuple[int, int], /) -> Row:
        """Return the figures of an image, those of one output after the other."""
        like = outputs if like is None else like
        if not len(outputs) == len(like) == len(self.outputs):
            raise ModelFileError(
                f"the network gives {counted(len(outputs), 'output')}", expected=f"{len(self.outputs)}"
            )
        found = [
            figures(output.name, own, other) for output, own, other in zip(self.outputs, outputs, like, strict=True)
        ]
        return np.concatenate(found)

    def tally(
        self, columns: Sequence[Column], measured_on: MeasuredOn, quantized: StepName, sink: Sink | None
    ) -> Tally:
        """Go through all images once; the sink gets the lowest cosine of an output at each step."""
        images = measured_on.images
        names = [column.step.name for column in columns]
        counts = [_Counts(len(self.outputs)) for _ in columns]
        earlier = [before(columns, place) for place in range(len(columns))]
        for start in range(0, len(images), ROWS):
            items, contents = images[start : start + ROWS], images.contents[start : start + ROWS]
            parts = [_part(column, start, contents, len(self.outputs)) for column in columns]
            for part, count, place in zip(parts, counts, earlier, strict=True):
                count.add(part, None if place is None else parts[place])
            if sink is not None:
                lowest = [part[:, :, COSINE].min(axis=1) for part in parts]
                for row, item in enumerate(items):
                    shown = [None if np.isnan(values[row]) else f"{values[row]:.6f}" for values in lowest]
                    sink([item.name, item.label, *shown])
        steps = tuple(
            count.result(self.outputs, column, names[like], None if place is None else names[place])
            for column, count, like, place in zip(columns, counts, compared_with(names), earlier, strict=True)
        )
        return Tally(steps, _verdict(steps, quantized), tuple(_sentences(steps)))


def figures(name: str, own: NDArray[np.generic], like: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return the figures of one output for one image.

    Raises:
        ModelFileError: another number of values than in the network that it is compared with.
    """
    if own.size != like.size:
        raise ModelFileError(
            f"output {name!r} has {counted(own.size, 'value')}", expected=f"{like.size}, as in the float network"
        )
    a, b = (np.asarray(values, np.float64).ravel() for values in (like, own))
    signal, noise = float(a @ a), float((a - b) @ (a - b))
    norms = math.sqrt(signal * float(b @ b))
    # Equal values give exactly 1, also where all are 0.
    cosine = 1.0 if noise == 0 else float(a @ b) / norms if norms else 0.0
    checksum = zlib.crc32(np.ascontiguousarray(own, np.float32).tobytes())
    parts = checksum >> 16, checksum & 0xFFFF
    return np.array([cosine, signal, noise, np.abs(a - b).max(), a.min(), a.max(), *parts], np.float32)


def _part(column: Column, start: int, contents: NDArray[np.uint8], outputs: int) -> NDArray[np.float64]:
    """Return the figures of some images, (images, outputs, figures); nan where there is no answer."""
    there = column.answered.known[start : start + len(contents)]
    found = np.full((len(contents), outputs, _FIGURES), np.nan)
    found[there] = column.answers.read(column.step, contents[there]).reshape(-1, outputs, _FIGURES)
    return found


@define(slots=False)
class _Counts:
    """Sums over the images of one step, an entry an output."""

    outputs: int
    n: int = 0
    identical: int = 0
    identical_before: int = 0

    def __attrs_post_init__(self) -> None:
        self.same = np.zeros(self.outputs, np.int64)
        self.sums = np.zeros((self.outputs, 3))  # cosine, signal, noise
        self.largest = np.zeros(self.outputs)
        self.low, self.high = np.full(self.outputs, np.inf), np.full(self.outputs, -np.inf)

    def add(self, part: NDArray[np.float64], earlier: NDArray[np.float64] | None) -> None:
        there = ~np.isnan(part[:, 0, COSINE])
        own = part[there]
        self.n += len(own)
        if not len(own):
            return
        equal = own[:, :, NOISE] == 0
        self.same += equal.sum(axis=0)
        self.identical += int(equal.all(axis=1).sum())
        self.sums += own[:, :, COSINE : NOISE + 1].sum(axis=0)
        self.largest = np.maximum(self.largest, own[:, :, LARGEST].max(axis=0))
        self.low = np.minimum(self.low, own[:, :, LOW].min(axis=0))
        self.high = np.maximum(self.high, own[:, :, HIGH].max(axis=0))
        if earlier is not None:
            alike = (own[:, :, CHECKSUM] == earlier[there][:, :, CHECKSUM]).all(axis=(1, 2))
            self.identical_before += int(alike.sum())

    def result(self, outputs: Sequence[Output], column: Column, like: StepName, earlier: StepName | None) -> StepResult:
        found = tuple(
            OutputResult(
                name=output.name,
                shape=output.shape,
                cosine=min(1.0, float(cosine) / self.n) if self.n else 0.0,
                snr_db=None if noise == 0 else 10 * math.log10(max(signal, _NOTHING) / noise),
                largest_error=float(self.largest[place]),
                low=float(self.low[place]),
                high=float(self.high[place]),
                identical=int(self.same[place]),
            )
            for place, (output, (cosine, signal, noise)) in enumerate(zip(outputs, self.sums, strict=True))
        )
        return StepResult(
            name=column.step.name,
            by=column.step.by,
            n=self.n,
            score=None,
            before=earlier,
            change=None,
            agreement=self.identical,
            cosine=min(output.cosine for output in found),
            agreement_before=None,
            cosine_before=None,
            seconds=round(column.answered.seconds, 3),
            computed=column.answered.computed,
            identical_before=self.identical_before if earlier else None,
            agreement_with=like,
            outputs=found,
        )


def _verdict(steps: Sequence[StepResult], quantized: StepName) -> str:
    last = next(step for step in steps if step.name == quantized)
    if last is steps[0]:
        return f"Only the float network was measured, on {counted(last.n, 'image')}."
    what = "The program" if last.name in WHOLE else f"The {last.name} network"
    return f"{what}, n = {last.n}: {raw_line(last)}."


def _sentences(steps: Sequence[StepResult]) -> Iterator[str]:
    for step in steps:
        if step.before is None:
            continue
        subject = subject_of_step(step)
        if step.identical_before == step.n:
            yield f"{subject} gives the outputs of {step.before} bit for bit on {counted(step.n, 'image')}."
            continue
        worst = step.worst
        if worst.snr_db is None:
            yield f"{subject} gives float's outputs bit for bit on {counted(step.n, 'image')}."
            continue
        yield (
            f"{subject}: at worst {worst.snr_db:.1f} dB, at {worst.name}, whose largest error is "
            f"{worst.largest_error:.3g} of a range of {worst.low:.3g} to {worst.high:.3g}."
        )
