"""The compiler's console log as data: node table, similarity, static figures, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen


@frozen
class NodeRow:
    """One line of the node table.

    Attributes:
        name: the whole node name (the log shortens names of more than 50 characters).
        on: ``BPU`` or ``CPU``.
        subgraph: such as ``id(0)``; ``--`` on the CPU.
        type: the compiler's operator, such as ``HzSQuantizedConv``.
        cosine: calibrated against float on the calibration data; None in a check.
        threshold: of the activation; None where there is none.
        dtype: ``int8``, ``int16`` or ``float``.
    """

    name: str
    on: str
    subgraph: str
    type: str
    cosine: float | None
    threshold: float | None
    dtype: str


@frozen
class StaticPerf:
    """The compiler's own figures for one inference, summed over BPU subgraphs (CPU nodes not counted).

    Attributes:
        fps: frames per second, 1e6 / latency_us.
        latency_us: microseconds.
        ddr_bytes: memory traffic in bytes.
    """

    fps: float
    latency_us: float
    ddr_bytes: int


def nodes(text: str, quant_info: Mapping[str, Any] | None = None) -> tuple[NodeRow, ...]:
    """Return the node table, names completed from ``<prefix>_quant_info.json``."""
    raise NotImplementedError


def cpu_inside(rows: Sequence[NodeRow]) -> tuple[NodeRow, ...]:
    """Return CPU nodes that lie between BPU nodes; those at the tail are harmless."""
    raise NotImplementedError
