"""Round weights so that the errors of a row cancel out on the layer's own inputs.

Rounding each weight to the nearest step is best for the weight and not for the layer: the inputs of a layer
are correlated, so an error made at one weight can be taken back at the others. Here a row is rounded weight
by weight, and after each the ones not yet rounded move to make up for it, as far as the inputs allow.

Sources: Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992;
Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
ICLR 2023, whose order (largest inputs first) and Cholesky form this is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TOP = 127  # the compiler's int8 weights lie in -127..127, its step is the largest magnitude of a row / 127
BLOCK = 128  # columns whose effect on the others is added up before it is applied; no result depends on it

Matrix = NDArray[np.float64]


def compensated(weights: Matrix, moments: Matrix, damping: float) -> Matrix:
    """Return the weights rounded to the compiler's steps, errors compensated.

    The largest weight of each row stays as it is: the compiler takes the row's step from it, and so finds the
    very integers that are chosen here.

    Args:
        weights: (rows, columns), a row an output channel.
        moments: (columns, columns), the mean of x xᵀ over inputs x of the layer.
        damping: share of the mean squared input that is added to the diagonal, above 0; keeps rare inputs
            from being trusted too far.

    Returns:
        float64, (rows, columns): whole multiples of each row's step. A row of zeros stays.
    """
    rows, columns = weights.shape
    largest = np.abs(weights).argmax(axis=1)
    step = np.abs(weights[np.arange(rows), largest]) / TOP
    step = np.where(step > 0, step, 1.0)
    curvature = moments + damping * max(float(np.mean(np.diag(moments))), 1e-12) * np.eye(columns)
    # Early errors can be taken back by all that follow, so the inputs that count most come first.
    order = np.argsort(-np.diag(curvature), kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(curvature[np.ix_(order, order)])).T
    work = weights[:, order].astype(np.float64)
    place = np.argsort(order, kind="stable")[largest]  # of each row's largest weight
    pinned = np.sign(weights[np.arange(rows), largest])
    rounded = np.zeros_like(work)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = np.zeros((rows, stop - start))
        for column in range(start, stop):
            integers = np.clip(np.rint(work[:, column] / step), -TOP, TOP)
            integers = np.where(place == column, pinned * TOP, integers)
            rounded[:, column] = integers * step
            error = (work[:, column] - rounded[:, column]) / upper[column, column]
            errors[:, column - start] = error
            work[:, column + 1 : stop] -= np.outer(error, upper[column, column + 1 : stop])
        work[:, stop:] -= errors @ upper[start:stop, stop:]
    result = np.empty_like(rounded)
    result[:, order] = rounded
    return result


def nearest(weights: Matrix) -> Matrix:
    """Return the weights as the compiler itself rounds them: each to the nearest step of its row."""
    step = np.abs(weights).max(axis=1, keepdims=True) / TOP
    step = np.where(step > 0, step, 1.0)
    result: Matrix = np.clip(np.rint(weights / step), -TOP, TOP) * step
    return result


def output_error(difference: Matrix, moments: Matrix) -> float:
    """Return the mean squared error of a layer's outputs that a difference of its weights makes."""
    return float(np.einsum("ri,ij,rj->", difference, moments, difference, optimize=True))
