"""The interface of a backend: load, info, run, close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

Array = NDArray[np.generic]
Scores = NDArray[np.float32]


@frozen
class Tensor:
    """An input or output of a program."""

    name: str  #: its name in the program.
    shape: tuple[int, ...]  #: logical shape; (1, 3, H, W) for an NV12 input, whose buffer is flat.
    dtype: str  #: numpy name of the elements that are passed: ``uint8`` for NV12.
    nv12: bool = False  #: whether it is a packed full-range NV12 image of H*W*3/2 bytes.

    @property
    def elements(self) -> int:
        """Number of elements of the buffer; for NV12 its bytes."""
        count = int(np.prod(self.shape, dtype=np.int64))
        return count // 2 if self.nv12 else count

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of an NV12 input, in pixels."""
        return self.shape[2], self.shape[3]


@frozen
class Info:
    """Facts of an opened program."""

    backend: str  #: its name, one of ``edge.runtime.BACKENDS``.
    model: str  #: the program's own name.
    version: str  #: of the runtime that executes it.
    inputs: tuple[Tensor, ...]  #: in the order in which ``run`` takes them.
    outputs: tuple[Tensor, ...]  #: in the order in which ``run`` returns them, dequantized.
    exact: bool = True  #: whether it computes the same integers as the board.


class Backend(Protocol):
    """One way to execute a program. ``run`` gets checked inputs: dtype, size and contiguity are right."""

    concurrent: bool
    """Whether several threads may be in ``run`` at once."""

    @property
    def info(self) -> Info:
        """Facts of the opened program."""

    def run(self, inputs: Sequence[Array]) -> list[Scores]:
        """Execute once.

        Args:
            inputs: one array per input, C-contiguous, of the dtype in ``info``; NV12 flat.

        Returns:
            One float32 array per output, dequantized, of the shape in ``info``; the caller owns it.

        Raises:
            BackendError: the runtime failed.
        """

    def close(self) -> None:
        """Free everything; further calls do nothing."""
