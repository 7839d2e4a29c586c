"""Translate a calibrated model into standard ONNX whose quantizers are switched by graph inputs.

::

    HzCalibration of a tensor     If(int8) { QuantizeLinear, DequantizeLinear }
                                  else If(int16) { the same with 16 bits } else { the tensor itself }
    HzCalibration of a weight     If(on) { its operator with the rounded weight } else { with the float one }
    Hz… of floats                 standard operators

A branch that is not taken costs nothing, and a convolution's weight stays a constant that onnxruntime packs
when it loads the model. onnxruntime's own QuantizeLinear divides, rounds halves to even and saturates as the
vendor's runtime does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import onnx
from attrs import frozen
from onnx import helper

from edge.errors import ModelFileError
from edge.simulate.fakequant.building import Building
from edge.simulate.fakequant.quantizer import Quantizer, quantizer

CALIBRATION = "HzCalibration"
_LAST_OPSET = 12  # Split, ReduceMax and others take as attributes what later opsets take as inputs


@frozen(eq=False)
class Translated:
    """The translation.

    Attributes:
        model: standard ONNX and operators of onnxruntime's own domain; inputs are the picture, ``edge_int8``
            and ``edge_int16`` (bool, one entry a quantizer) and ``edge_steps`` (float32, one entry a step).
        quantizers: in graph order.
        slots: of each quantizer, where its steps lie in ``edge_steps``; None for a weight.
        picture: name of the picture's input.
        shape: of it.
        outputs: names of the model's own outputs.
        nodes: the calibrated model's nodes, quantizers left out, in graph order.
        constants: names of its constants.
    """

    model: onnx.ModelProto
    quantizers: tuple[Quantizer, ...]
    slots: tuple[slice | None, ...]
    picture: str
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]
    constants: frozenset[str]


def translate(source: onnx.ModelProto, inner: Iterable[str] = ()) -> Translated:
    """Translate a calibrated (or an optimized float) model.

    Args:
        source: the compiler's ``*_calibrated_model.onnx``.
        inner: tensors inside it that become further outputs.

    Raises:
        ModelFileError: an operator, an attribute or a structure that no rule covers; it is named.
    """
    opset = next((o.version for o in source.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset > _LAST_OPSET:
        raise ModelFileError(f"the calibrated model is of opset {opset}", allowed=f"up to {_LAST_OPSET}")
    graph = source.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ModelFileError(f"the calibrated model has {len(inputs)} inputs", allowed="one picture")
    found, aliases = _quantizers(graph, constants)
    building = Building(found, constants, aliases)
    for node in graph.node:
        if node.op_type != CALIBRATION:
            building.node(node)
        elif (item := building.by_output.get(node.output[0])) is not None and not item.weight:
            building.activation(item)
    outputs = tuple(value.name for value in graph.output)
    model = building.model(inputs[0], [*outputs, *(name for name in inner if name not in outputs)], opset)
    return Translated(
        model=model,
        quantizers=found,
        slots=building.slots(),
        picture=inputs[0].name,
        shape=tuple(dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim),
        outputs=outputs,
        nodes=tuple(node for node in graph.node if node.op_type != CALIBRATION),
        constants=frozenset(constants),
    )


def _quantizers(
    graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]
) -> tuple[tuple[Quantizer, ...], dict[str, str]]:
    """Return the quantizers, and output -> input of those that are switched off."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    writers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)

    def producer(name: str) -> str:
        # A tensor may be rounded twice, to 8 and to 16 bits.
        writer = writers.get(name)
        if writer is not None and writer.op_type == CALIBRATION:
            return producer(writer.input[0])
        return writer.name if writer is not None else ""

    def consumers(name: str) -> Iterator[str]:
        for reader in readers[name]:
            if reader.op_type == CALIBRATION:
                yield from consumers(reader.output[0])
            else:
                yield reader.name

    found: list[Quantizer] = []
    aliases: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != CALIBRATION:
            continue
        item = quantizer(
            node.name,
            node.input[0],
            node.output[0],
            {a.name: helper.get_attribute_value(a) for a in node.attribute},
            producer=producer(node.input[0]),
            consumers=tuple(dict.fromkeys(consumers(node.output[0]))),
            weight=node.input[0] in constants,
        )
        if item is None:
            aliases[node.output[0]] = node.input[0]
        else:
            found.append(item)
    return tuple(found), aliases
