"""How far answers are from the float network's, and what wider units would win, on the calibrated model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.diagnose.observed import scored
from edge.images.frames import Frame
from edge.simulate.fakequant import AS_BUILT, INT16, FakeQuant
from edge.tune.journal import Journal
from edge.tune.result import Measured
from edge.tune.spaces import Unit

SINGLES_ON = 32  # pictures on which every unit is tried alone
SETS_ON = 96  # pictures on which sets are compared
_SOFTMAX_SUM = 1e-3

Scores = NDArray[np.float32]


def log_softmax(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the logarithms of the classes' probabilities, (n, classes).

    Rows that are probabilities already, as behind a network's own Softmax, are taken as such.
    """
    values = scores.astype(np.float64)
    if values.min() >= 0 and np.allclose(values.sum(axis=1), 1, atol=_SOFTMAX_SUM):
        return np.log(np.maximum(values, 1e-12))
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float64)


def divergence(reference: Scores, scores: Scores) -> float:
    """Return the mean Kullback-Leibler divergence of the answers from the reference's, in nats.

    A count of changed answers moves by whole pictures; this moves with every score, so that recipes that
    differ by less than a picture in a hundred can be told apart on a few hundred. Source: S. Kullback and
    R. A. Leibler, "On Information and Sufficiency", Annals of Mathematical Statistics 22 (1951).
    """
    p, q = log_softmax(reference), log_softmax(scores)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def compare(reference: Scores, scores: Scores, labels: Sequence[int | None]) -> Measured:
    """Return what the answers are worth beside the float network's.

    Args:
        reference: of the float network behind NV12, (n, classes).
        scores: likewise.
        labels: class indices; Top-1 is left out where one is missing.
    """
    before, after = reference.argmax(axis=1), scores.argmax(axis=1)
    agreement = int((before == after).sum())
    value = divergence(reference, scores)
    if any(label is None for label in labels):
        return Measured(len(scores), agreement, value)
    truth = np.array([label for label in labels if label is not None])
    was, now = before == truth, after == truth
    return Measured(
        n=len(scores),
        agreement=agreement,
        divergence=value,
        right=int(now.sum()),
        float_right=int(was.sum()),
        lost=int((was & ~now).sum()),
        gained=int((now & ~was).sum()),
    )


@frozen(eq=False)
class Ranking:
    """A calibrated model on which units are tried at 16 bits.

    Attributes:
        net: the model.
        model: sha256 of it.
        units: name -> unit.
        frames: pictures of the search.
        reference: of the float network behind NV12 on them, (n, classes).
        journal: of finished work.
    """

    net: FakeQuant
    model: str
    units: Mapping[str, Unit]
    frames: Sequence[Frame]
    reference: Scores
    journal: Journal

    def singles(
        self, chosen: frozenset[str] = frozenset(), done: Callable[[int], None] | None = None
    ) -> dict[str, float]:
        """Return what each unit wins on top of a set, in nats, the most first.

        Args:
            chosen: units that have 16 bits already.
            done: told how many pictures are done.
        """
        frames, reference = self.frames[:SINGLES_ON], self.reference[:SINGLES_ON]
        have = {i for name in chosen for i in self.units[name].widened}
        names = [name for name, unit in self.units.items() if not unit.widened <= have]

        def work() -> dict[str, float]:
            settings = [self._bits(chosen), *(self._bits([*chosen, name]) for name in names)]
            results = scored(self.net, settings, frames, done)
            before = divergence(reference, results[0])
            return {
                name: before - divergence(reference, result)
                for name, result in zip(names, results[1:], strict=True)
            }

        inputs = {
            "model": self.model,
            "pictures": _digest(frames),
            "chosen": sorted(have),
            "units": self._described(names),
        }
        behind = f", behind {len(chosen)} chosen" if chosen else ", each alone"
        entry = self.journal.once("rank", f"{len(names)} units{behind}", inputs, work)
        return dict(sorted(entry.values.items(), key=lambda pair: (-pair[1], pair[0])))

    def damage(self, chosen: frozenset[str]) -> float | None:
        """Return the divergence with these units at 16 bits; None if it can't be measured."""
        frames, reference = self.frames[:SETS_ON], self.reference[:SETS_ON]
        names = sorted(chosen)

        def work() -> dict[str, float]:
            (result,) = scored(self.net, [self._bits(names)], frames)
            return {"divergence": divergence(reference, result)}

        inputs = {"model": self.model, "pictures": _digest(frames), "units": self._described(names)}
        entry = self.journal.once("damage", " + ".join(names) or "no unit", inputs, work)
        return None if entry.failed else float(entry.values["divergence"])

    def within(self, a: str, b: str) -> bool:
        """Tell whether one unit is part of another, and so adds nothing to it."""
        return self.units[a].widened <= self.units[b].widened

    def _bits(self, names: Iterable[str]) -> NDArray[np.uint8]:
        widened = {i for name in names for i in self.units[name].widened}
        return self.net.bits(INT16, sorted(widened), rest=AS_BUILT)

    def _described(self, names: Iterable[str]) -> list[list[int]]:
        return [sorted(self.units[name].widened) for name in names]


def _digest(frames: Sequence[Frame]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.rgb.tobytes())
    return digest.hexdigest()
