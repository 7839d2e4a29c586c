"""What a search found; ``tune.json`` in the build folder is this."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from edge.specs import Precision
from edge.tune.journal import Entry

FILE = "tune.json"
SCHEMA_VERSION = 1


@frozen
class Measured:
    """A network's answers on a set of pictures, beside those of the float network behind NV12.

    Attributes:
        n: pictures.
        agreement: of them, with the float network's answer.
        divergence: mean Kullback-Leibler divergence of its softmax from the float network's, nats, 0 and up.
        right: of the n, those answered as labelled; None without labels.
        float_right: the same of the float network behind NV12.
        lost: float right, this one wrong; 0 without labels.
        gained: the other way round.
    """

    n: int
    agreement: int
    divergence: float
    right: int | None = None
    float_right: int | None = None
    lost: int = 0
    gained: int = 0

    @property
    def agreement_percent(self) -> float:
        """Share of the pictures with the float network's answer, percent."""
        return 100 * self.agreement / self.n

    @property
    def top1(self) -> float | None:
        """Percent; None without labels."""
        return None if self.right is None else 100 * self.right / self.n

    @property
    def float_top1(self) -> float | None:
        """Of the float network behind NV12, percent; None without labels."""
        return None if self.float_right is None else 100 * self.float_right / self.n

    @property
    def drop(self) -> float | None:
        """Top-1 lost from float behind NV12, points; None without labels."""
        return (
            None
            if self.right is None or self.float_right is None
            else 100 * (self.float_right - self.right) / self.n
        )


@frozen
class Point:
    """A recipe that was compiled at the shipping level.

    Attributes:
        name: as the user reads it.
        precision: the recipe.
        latency_us: the compiler's static latency, microseconds; None if the trial failed.
        selection: on the pictures of the search; None if the trial failed.
        report: on the pictures that were kept back; None where there was no time.
        bit_exact: whether program and quantized model were seen to be equal; None if it could not be seen.
        failed: why there is no program; empty if there is.
    """

    name: str
    precision: Precision
    latency_us: float | None = None
    selection: Measured | None = None
    report: Measured | None = None
    bit_exact: bool | None = None
    failed: str = ""


@frozen
class Front:
    """A point of the front before anything is compiled for real: units added one after the other.

    Attributes:
        units: at 16 bits.
        divergence: on the calibrated model.
        latency_us: at the cheap level.
    """

    units: tuple[str, ...]
    divergence: float
    latency_us: float


@frozen
class TimeShare:
    """How long one kind of work took, and how often it was done."""

    kind: str
    count: int
    seconds: float
    failed: int = 0


@frozen
class TuneResult:
    """A whole search.

    Attributes:
        model: name of the model.
        command: what the user typed.
        float_sha256: of the float ONNX.
        seed: of the split of the pictures.
        level: optimisation level that ships.
        cost_level: at which the cost of a unit was measured.
        selection: description of the pictures that were searched on.
        report: description of those that the figures are for.
        unlabelled: why there is no Top-1; empty if there is.
        max_drop: points of Top-1 that may be lost.
        max_latency_us: microseconds that the program may take.
        min_agreement: percent that it has to have; None for no bar.
        baseline: plain int8.
        points: recipes at the shipping level, the baseline first.
        path: the front of the search in the calibrated model.
        chosen: index in ``points``; None if nothing met the bars of the search.
        met: whether the chosen one meets the bars on the report pictures.
        why: what stands in the way, or what was chosen and why, one line.
        trials: everything that was tried, failures included.
        time: how it divides.
        seconds: of all of it, of an interrupted search too.
        left_out: what there was no time for.
        versions: of what ran.
        recipe: path of the recipe that was written; empty if none was.
    """

    model: str
    command: str
    float_sha256: str
    seed: int
    level: str
    cost_level: str
    selection: str
    report: str
    unlabelled: str
    max_drop: float
    max_latency_us: float
    min_agreement: float | None
    points: tuple[Point, ...]
    path: tuple[Front, ...]
    chosen: int | None
    met: bool
    why: str
    trials: tuple[Entry, ...]
    time: tuple[TimeShare, ...]
    seconds: float
    left_out: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(factory=dict)
    recipe: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def baseline(self) -> Point:
        """Plain int8."""
        return self.points[0]

    @property
    def best(self) -> Point | None:
        """What was chosen."""
        return None if self.chosen is None else self.points[self.chosen]


def shares(entries: tuple[Entry, ...]) -> tuple[TimeShare, ...]:
    """Return how the time divides, the most first."""
    found = []
    for kind in dict.fromkeys(entry.kind for entry in entries):
        own = [entry for entry in entries if entry.kind == kind]
        failed = sum(1 for entry in own if entry.failed)
        found.append(TimeShare(kind, len(own), round(sum(entry.seconds for entry in own), 1), failed))
    return tuple(sorted(found, key=lambda share: -share.seconds))
