"""Nodes that the compiler left to the CPU: their place, data transfer and time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from edge.compiler import logs
from edge.diagnose.findings import CpuNode
from edge.files import read_json
from edge.folder.built import Built
from edge.graph.files import load_onnx, session

_REPEATS = 20


def placements(built: Built) -> tuple[logs.NodeRow, ...]:
    """Return the compiler's node table; empty without the vendor's compiler or without its log."""
    if "compile_log" not in built.files:
        return ()
    info = None
    if "quant_info" in built.files:
        try:
            info = read_json(built.file("quant_info"))
        except (OSError, ValueError):
            info = None
    return logs.nodes(built.file("compile_log").read_text(encoding="utf-8", errors="replace"), info)


def cpu_nodes(built: Built, rows: Sequence[logs.NodeRow]) -> tuple[CpuNode, ...]:
    """Return the nodes on the CPU, in graph order, each timed alone on this machine's processor.

    A node transfers its input and output tensors: one byte per value for int8, two for int16, four for an accumulator
    or a float.
    """
    on_cpu = [row for row in rows if row.on == "CPU"]
    if not on_cpu or "calibrated_onnx" not in built.files:
        return ()
    model = load_onnx(built.file("calibrated_onnx"))
    nodes = {node.name: node for node in model.graph.node}
    shapes = _shapes(model)
    inside = {row.name for row in logs.cpu_inside(rows)}
    found = []
    for row in on_cpu:
        node = nodes.get(row.name)
        elements = _elements(node, shapes) if node is not None else 0
        found.append(
            CpuNode(
                name=row.name,
                op=row.type,
                inside=row.name in inside,
                transfer_bytes=4 * elements,
                milliseconds=_milliseconds(model, node, shapes) if node is not None else None,
            )
        )
    return tuple(found)


def _elements(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    names = [*node.input[:1], *node.output[:1]]
    return sum(int(np.prod(shapes[name])) for name in names if name in shapes)


def _milliseconds(model: onnx.ModelProto, node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> float | None:
    """Return the median time of the node alone, one thread; None if it can't run alone."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs = [name for name in node.input if name and name not in constants]
    if node.domain not in ("", "ai.onnx") or any(name not in shapes for name in inputs):
        return None
    graph = helper.make_graph(
        [node],
        "alone",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shapes[name]) for name in inputs],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in node.output[:1]],
        [constants[name] for name in node.input if name in constants],
    )
    opsets = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    single = helper.make_model(graph, opset_imports=opsets, ir_version=7)
    rng = np.random.Generator(np.random.PCG64(0))
    try:
        opened = session(single.SerializeToString())
        feeds = {name: rng.standard_normal(shapes[name]).astype(np.float32) for name in inputs}
        times = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            opened.run(None, feeds)
            times.append(time.perf_counter() - started)
    except Exception:  # onnxruntime's own exceptions share no public base; the time is then unknown
        return None
    return 1000 * float(np.median(times))


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes found by a run of the translated model; the compiler's file states few."""
    from edge.simulate.fakequant import translate

    translated = translate(model)
    names = [name for node in translated.nodes for name in node.output]
    graph = translate(model, names)
    opened = session(graph.model.SerializeToString())
    feeds: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    for entry in opened.get_inputs():
        kind = np.bool_ if "bool" in entry.type else np.float32
        feeds[entry.name] = np.ones(entry.shape, kind) if kind is np.float32 else np.zeros(entry.shape, kind)
    shapes = {name: tuple(value.shape) for name, value in zip(names, opened.run(names, feeds), strict=True)}
    shapes |= {q.output: shapes[q.tensor] for q in translated.quantizers if q.tensor in shapes}
    return shapes
