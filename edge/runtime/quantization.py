"""How integer outputs of a program become float scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike, NDArray

from edge.errors import BackendError, counted
from edge.runtime.protocol import Array, Scores

Number = TypeVar("Number", bound=np.generic)


@frozen(eq=False)
class Dequantizer:
    """One output's rule: ``(q - zero_point) * scale`` for integers, nothing for floats.

    The product is computed in float32, as in the compiler's own Dequantize.
    """

    name: str  #: of the output.
    shape: tuple[int, ...]  #: of the result.
    #: float32, broadcasts against ``shape``; None if the values are already floats.
    scale: NDArray[np.float32] | None = None
    zero_point: NDArray[np.int64] | None = None  #: int64, broadcasts against ``shape``; None for zero.

    def __call__(self, values: Array) -> Scores:
        """Return a new float32 array of ``shape`` from any shape with as many elements.

        Raises:
            BackendError: wrong number of elements.
        """
        if values.size != np.prod(self.shape, dtype=np.int64):
            raise BackendError(
                f"output {self.name!r} has {counted(values.size, 'value')}", expected=f"shape {self.shape}"
            )
        values = values.reshape(self.shape)
        if self.zero_point is not None and self.scale is not None:
            # NumPy 1, which boards have, would keep uint8 and wrap.
            values = values.astype(np.int64) - self.zero_point
        scores: Scores = np.array(values, np.float32, order="C")
        if self.scale is not None:
            scores *= self.scale
        return scores


def dequantizer(
    name: str, shape: Sequence[int], dtype: str, *, scale: ArrayLike = (), zero_point: ArrayLike = (), axis: int = -1
) -> Dequantizer:
    """Make an output's rule from the facts that the runtime gives.

    Args:
        dtype: numpy name of the runtime's output; scales of floats are ignored.
        scale: empty (not quantized), one value (the whole tensor), or one per channel.
        zero_point: empty (zero), one value, or one per channel.
        axis: of the channels; negative counts from the end; ignored with one scale.

    Raises:
        BackendError: the number of scales or zero points is not the number of channels.
    """
    shape = tuple(shape)
    scales = np.array(scale, np.float32).reshape(-1)  # a copy: the runtimes hand out views of their memory
    if not scales.size or not np.issubdtype(np.dtype(dtype), np.integer):
        return Dequantizer(name, shape)
    zeros = np.array(zero_point, np.int64).reshape(-1)
    return Dequantizer(
        name,
        shape,
        _spread(name, "scales", scales, shape, axis),
        _spread(name, "zero points", zeros, shape, axis) if zeros.any() else None,
    )


def channel_axis(name: str, shape: Sequence[int], layout: str, scales: int) -> int:
    """Return the axis of the channels if the runtime gives only the layout, which may be neither NHWC nor NCHW.

    Raises:
        BackendError: the layout is unknown, and several axes or none have as many channels as scales.
    """
    if scales <= 1 or layout == "NHWC":
        return -1
    if layout == "NCHW":
        return 1
    fitting = [axis for axis, side in enumerate(shape) if side == scales]
    if len(fitting) != 1:
        raise BackendError(
            f"output {name!r} of shape {tuple(shape)} and layout {layout} has {scales} scales: their axis is not known",
            expected="layout NHWC or NCHW",
            remedy="load(path, backend='hbm_runtime'), which gives the axis",
        )
    return fitting[0]


def _spread(name: str, what: str, values: NDArray[Number], shape: tuple[int, ...], axis: int) -> NDArray[Number]:
    if values.size == 1:
        return values.reshape(())
    if not -len(shape) <= axis < len(shape) or shape[axis] != values.size:
        raise BackendError(
            f"output {name!r} of shape {shape} has {values.size} {what} on axis {axis}",
            expected="one, or one per channel",
        )
    sides = [1] * len(shape)
    sides[axis] = values.size
    return values.reshape(sides)
