"""Notice a run that failed without an error: some of the vendor's runtimes give what lay in their memory then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edge.errors import BackendError
from edge.runtime.protocol import Array, Scores


class Watch:
    """Runs a program, and refuses scores that it did not compute.

    Output memory that was never written mostly holds one value; later it holds the scores of the run before. Both can
    be right answers too, so the program is then asked about another input: scores that stay the same are refused.

    Args:
        backend: name of the runtime, for the error.
        once: executes the program.
        judged: for each output, whether it holds scores; class numbers may well be all equal.
    """

    def __init__(self, backend: str, once: Callable[[Sequence[Array]], list[Scores]], judged: Sequence[bool]) -> None:
        self._backend, self._once, self._judged = backend, once, judged
        self._last: tuple[list[Array], list[Scores]] = ([], [])

    def __call__(self, inputs: Sequence[Array]) -> list[Scores]:
        """Execute once.

        Raises:
            BackendError: the runtime failed, with an error or without.
        """
        scores = self._once(inputs)
        doubt = self._doubt(inputs, self._scores(scores))
        if doubt:
            other = self._once([_other(array) for array in inputs])
            scores = self._once(inputs)
            if _same(self._scores(scores), self._scores(other)) or not _finite(self._scores(scores)):
                raise BackendError(
                    f"{self._backend} failed without an error: {doubt}",
                    expected="scores that depend on the input",
                    remedy="restart the board if hrt_model_exec infer fails too; "
                    "load(path, backend='hobot_dnn') tells of a failed run",
                )
        self._last = ([array.copy() for array in inputs], self._scores(scores))
        return scores

    def _scores(self, outputs: Sequence[Scores]) -> list[Scores]:
        # A single value may well be the same for many images.
        return [values for values, judged in zip(outputs, self._judged, strict=True) if judged and values.size > 1]

    def _doubt(self, inputs: Sequence[Array], scores: list[Scores]) -> str:
        """Return what is odd about the scores; empty if nothing is."""
        if not _finite(scores):
            return "its scores are not all finite"
        if scores and all(values.min() == values.max() for values in scores):
            return "all its scores are equal"
        if _same(scores, self._last[1]) and not _same(inputs, self._last[0]):
            return "it gave the scores of the image before again"
        return ""


def _finite(scores: Sequence[Scores]) -> bool:
    return all(np.isfinite(values.min()) and np.isfinite(values.max()) for values in scores)


def _same(some: Sequence[Array], others: Sequence[Array]) -> bool:
    """Return whether there are values and all are the same; most differ at the beginning."""
    pairs = list(zip(some, others, strict=False))
    return bool(pairs) and all(
        np.array_equal(one.reshape(-1)[:64], other.reshape(-1)[:64]) and np.array_equal(one, other)
        for one, other in pairs
    )


def _other(array: Array) -> Array:
    return np.invert(array) if np.issubdtype(array.dtype, np.integer) else np.subtract(1, array, dtype=array.dtype)
