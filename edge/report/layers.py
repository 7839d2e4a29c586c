"""Layer similarity over the network's depth: from a diagnosis, else from the compiler's own log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from edge.diagnose.findings import Diagnosis
from edge.report.contents import CpuNodeRow, Layer, Layers
from edge.toolchain.logs import NodeRow, cpu_inside, nodes

NONE = Layers("", "Nothing here says how similar the layers are: only the vendor's compiler measures it.")


def layers_of(diagnosis: Diagnosis | None, rows: tuple[NodeRow, ...]) -> Layers:
    """Return the similarity of each layer.

    Args:
        diagnosis: of this build; None if there is none.
        rows: the compile log's node table; empty without the vendor's compiler.
    """
    if diagnosis is not None and diagnosis.units:
        return Layers(
            "diagnosis",
            f"Cosine of each layer's output, everything quantized, with the float network's: mean over "
            f"n = {diagnosis.n} pictures, {diagnosis.dataset}.",
            tuple(
                Layer(
                    name=unit.name,
                    kind=unit.kind,
                    on=unit.on,
                    dtype=f"int{unit.bits}" if unit.on == "BPU" else "float",
                    cosine=unit.cosine,
                    alone_cosine=unit.alone_cosine,
                    alone_agreement=100 * unit.alone_agreement,
                    low=unit.range.low,
                    high=unit.range.high,
                    threshold=unit.range.threshold,
                    saturated=unit.range.saturated,
                    outlier_ratio=unit.range.outlier_ratio,
                )
                for unit in diagnosis.units
            ),
        )
    known = tuple(
        Layer(row.name, row.type, row.on, row.dtype, row.cosine, threshold=row.threshold)
        for row in rows
        if row.cosine is not None
    )
    if not known:
        return NONE
    return Layers(
        "compile log",
        "Cosine of each node's output, calibrated, with the float network's, as the compiler found it on the "
        "calibration pictures.",
        known,
    )


def node_rows(files: Mapping[str, Path]) -> tuple[NodeRow, ...]:
    """Return the compile log's node table; empty where there is no log or it can't be read."""
    log, info = files.get("compile_log"), files.get("quant_info")
    if log is None:
        return ()
    try:
        names = json.loads(info.read_text(encoding="utf-8")) if info is not None else None
        return nodes(log.read_text(encoding="utf-8", errors="replace"), names)
    except (OSError, ValueError):
        return ()


def cpu_nodes(diagnosis: Diagnosis | None, rows: tuple[NodeRow, ...]) -> tuple[CpuNodeRow, ...]:
    """Return the nodes that are left to the CPU."""
    if diagnosis is not None:
        return tuple(CpuNodeRow(node.name, node.op, node.inside) for node in diagnosis.cpu_nodes)
    inside = {id(row) for row in cpu_inside(rows)}
    return tuple(CpuNodeRow(row.name, row.type, id(row) in inside) for row in rows if row.on == "CPU")
