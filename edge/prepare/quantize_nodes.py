"""Networks that tell the compiler the steps of their activations, so that it looks for none itself.

hb_mapper 1.24.3 takes type and step of every tensor behind which ``horizon.HzQuantize`` and ``HzDequantize`` stand, if
``calibration_type`` is ``load``. Its documents give that to networks that were trained with such nodes; any other with
them is taken as well. Weights need none: the compiler takes their largest magnitudes, as it always does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from edge.errors import ModelFileError, counted

if TYPE_CHECKING:
    import onnx

DOMAIN = "horizon"


@frozen
class Step:
    """How a tensor is rounded."""

    tensor: str  #: its name.
    size: float  #: of a step, above 0.
    bits: int  #: 8 or 16.


def with_steps(model: onnx.ModelProto, steps: Sequence[Step]) -> onnx.ModelProto:
    """Return a network whose tensors are rounded as said; every operator reads the rounded tensor.

    Args:
        model: the float network; it stays as it is.
        steps: one for each tensor that the compiler rounds, except its weights.

    Raises:
        ModelFileError: the network lacks a tensor, so that its step can't be told.
    """
    from onnx import ModelProto, helper, numpy_helper

    told = ModelProto()
    told.CopyFrom(model)
    graph = told.graph
    values = {value.name for value in graph.input} | {name for node in graph.node for name in node.output}
    if missing := [step.tensor for step in steps if step.tensor not in values]:
        raise ModelFileError(
            f"the compiler rounds {counted(len(missing), 'tensor')} of its own making, such as {missing[0]}",
            expected="tensors of the network, whose thresholds can be told to it",
            remedy="use a recipe without the key 'thresholds'",
        )
    pairs = {}
    for step in steps:
        scale, zero, integers, rounded = (f"{step.tensor}_{part}" for part in ("step", "zero", "integers", "rounded"))
        kind = np.int8 if step.bits == 8 else np.int16
        graph.initializer.append(numpy_helper.from_array(np.array(step.size, np.float32), scale))
        graph.initializer.append(numpy_helper.from_array(np.array(0, kind), zero))
        pairs[step.tensor] = (
            helper.make_node(
                "HzQuantize", [step.tensor, scale, zero], [integers], f"{integers}_node", domain=DOMAIN, bits=step.bits
            ),
            helper.make_node("HzDequantize", [integers, scale, zero], [rounded], f"{rounded}_node", domain=DOMAIN),
        )
    nodes = list(graph.node)
    del graph.node[:]
    for value in graph.input:
        graph.node.extend(pairs.get(value.name, ()))
    for node in nodes:
        node.input[:] = [_rounded(name, pairs) for name in node.input]
        graph.node.append(node)
        for name in node.output:
            graph.node.extend(pairs.get(name, ()))
    if all(entry.domain != DOMAIN for entry in told.opset_import):
        told.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return told


def _rounded(name: str, pairs: Mapping[str, tuple[onnx.NodeProto, ...]]) -> str:
    """Return the rounded value of a tensor, or the tensor itself."""
    return str(pairs[name][-1].output[0]) if name in pairs else name
