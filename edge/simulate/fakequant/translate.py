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

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from attrs import define, field, frozen
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.errors import ModelFileError
from edge.graph.files import opset_of
from edge.graph.view import View
from edge.simulate.fakequant.operators import CONTRIB, DOMAIN, standard
from edge.simulate.fakequant.quantizer import INT8, INT16, Quantizer, quantizer

CALIBRATION = "HzCalibration"
ON8, ON16, STEPS = "edge_int8", "edge_int16", "edge_steps"
_TYPES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int16": TensorProto.INT16}
_LAST_OPSET = 12  # from 13 on, Split, ReduceMax and others take inputs instead of attributes


@frozen(eq=False)
class Translated:
    """The translation, and names in it."""

    #: standard ONNX and operators of onnxruntime's own domain; inputs are the image, ``edge_int8`` and ``edge_int16``
    #: (bool, one entry per quantizer) and ``edge_steps`` (float32, one entry per step).
    model: onnx.ModelProto
    quantizers: tuple[Quantizer, ...]  #: in graph order.
    slots: tuple[slice | None, ...]  #: place of each quantizer's steps in ``edge_steps``; None for a weight.
    image: str  #: the image's input, of ``shape``.
    shape: tuple[int, ...]
    outputs: tuple[str, ...]  #: the model's own.
    nodes: tuple[onnx.NodeProto, ...]  #: the calibrated model's nodes, quantizers left out, in graph order.
    constants: frozenset[str]  #: of the calibrated model.


def translate(source: onnx.ModelProto, inner: Iterable[str] = ()) -> Translated:
    """Translate a calibrated (or an optimized float) model; ``inner`` tensors become further outputs.

    Raises:
        ModelFileError: no rule covers an operator, an attribute or a structure; the message names it.
    """
    opset = opset_of(source)
    if opset > _LAST_OPSET:
        raise ModelFileError(f"the calibrated model is of opset {opset}", expected=f"up to {_LAST_OPSET}")
    graph = source.graph
    view = View(source)
    constants = view.initializers
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ModelFileError(f"the calibrated model has {len(inputs)} inputs", expected="one image")
    found, aliases = _quantizers(view)
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
        image=inputs[0].name,
        shape=tuple(dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim),
        outputs=outputs,
        nodes=tuple(node for node in graph.node if node.op_type != CALIBRATION),
        constants=frozenset(constants),
    )


def _quantizers(view: View) -> tuple[tuple[Quantizer, ...], dict[str, str]]:
    """Return the quantizers, and output -> input of those that are switched off."""

    def producer(name: str) -> str:
        # A tensor may be rounded twice, to 8 and to 16 bits.
        writer = view.producer(name)
        if writer is not None and writer.op_type == CALIBRATION:
            return producer(writer.input[0])
        return writer.name if writer is not None else ""

    def consumers(name: str) -> Iterator[str]:
        for reader in view.readers(name):
            if reader.op_type == CALIBRATION:
                yield from consumers(reader.output[0])
            else:
                yield reader.name

    found: list[Quantizer] = []
    aliases: dict[str, str] = {}
    for node in view.nodes:
        if node.op_type != CALIBRATION:
            continue
        item = quantizer(
            node.name,
            node.input[0],
            node.output[0],
            {a.name: helper.get_attribute_value(a) for a in node.attribute},
            producer=producer(node.input[0]),
            consumers=tuple(dict.fromkeys(consumers(node.output[0]))),
            weight=node.input[0] in view.initializers,
        )
        if item is None:
            aliases[node.output[0]] = node.input[0]
        else:
            found.append(item)
    return tuple(found), aliases


@define
class Building:
    """The new graph while it grows."""

    quantizers: tuple[Quantizer, ...]
    constants: dict[str, onnx.TensorProto]
    aliases: dict[str, str]
    nodes: list[onnx.NodeProto] = field(factory=list)
    added: list[onnx.TensorProto] = field(factory=list)
    by_output: dict[str, Quantizer] = field(init=False)
    index: dict[str, int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.by_output = {item.output: item for item in self.quantizers}
        self.index = {item.output: i for i, item in enumerate(self.quantizers)}

    def activation(self, item: Quantizer) -> None:
        """Add the switch of an activation."""
        tag = f"edge_q{self.index[item.output]}"
        x = self._resolved(item.tensor)
        if item.gain is None:
            unrounded = helper.make_node("Identity", [x], [f"{tag}_0"], f"{tag}/float")
        else:
            wide = self._constant(f"{tag}_wide", item.spread(item.gain, (1, item.gain.size, 1, 1)))
            unrounded = helper.make_node("Mul", [x, wide], [f"{tag}_0"], f"{tag}/float")
        other = _switch(f"{tag}_on16", f"{tag}_other", self._rounding(item, tag, x, INT16), _body([unrounded]))
        self.nodes.append(_switch(f"{tag}_on8", item.output, self._rounding(item, tag, x, INT8), _body([other])))

    def _rounding(self, item: Quantizer, tag: str, x: str, bits: int) -> onnx.GraphProto:
        """Return the branch that rounds a tensor to this number of bits."""
        step = back = f"{tag}_step"
        name = f"{tag}_{bits}"
        axis: dict[str, Any] = {} if item.axis is None else {"axis": item.axis}
        kind, count = _TYPES[item.type_at(bits)], item.thresholds.size if axis else 0
        zeros = np.zeros(count or (), helper.tensor_dtype_to_np_dtype(kind))
        zero = self._constant(f"edge_zero_{kind}_{count}", zeros)
        nodes = [helper.make_node("QuantizeLinear", [x, step, zero], [f"{name}_q"], domain=CONTRIB, **axis)]
        if item.gain is not None:
            back = f"{name}_back"
            gain = self._constant(f"{tag}_gain", item.gain)
            nodes.append(helper.make_node("Mul", [step, gain], [back]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", back, zero], [name], domain=CONTRIB, **axis))
        return _body(nodes)

    def node(self, node: onnx.NodeProto) -> None:
        """Add an operator, inside a switch if it reads a rounded weight."""
        weights = [name for name in node.input if name in self.by_output and self.by_output[name].weight]
        if not weights:
            self._plain(node, {}, self.nodes)
            return
        if len(node.output) != 1 or len(set(weights)) != 1:
            raise ModelFileError(
                f"{node.op_type} {node.name!r} reads {len(set(weights))} rounded constants",
                expected="one, and one output",
            )
        item = self.by_output[weights[0]]
        on = f"edge_q{self.index[item.output]}_on8"
        data = np.asarray(numpy_helper.to_array(self.constants[item.tensor]), np.float32)
        rounded = item.rounded(data)
        if item.gain is not None:
            raise ModelFileError(f"{item.name}: a constant with channel_scales")
        choices = []
        for label, values in (("rounded", rounded), ("float", data)):
            inside: list[onnx.NodeProto] = []
            tag = f"{node.output[0]}/{label}"
            self._plain(node, {item.output: f"{tag}/w"}, inside, suffix=f"/{label}")
            inside[-1].output[0] = tag
            choices.append(_body(inside, [numpy_helper.from_array(values, f"{tag}/w")]))
        self.nodes.append(_switch(on, node.output[0], *choices))

    def slots(self) -> tuple[slice | None, ...]:
        """Return where each activation's steps lie."""
        found: list[slice | None] = []
        at = 0
        for item in self.quantizers:
            found.append(None if item.weight else slice(at, at + item.thresholds.size))
            at += 0 if item.weight else item.thresholds.size
        return tuple(found)

    def model(self, image: onnx.ValueInfoProto, outputs: Sequence[str], opset: int) -> onnx.ModelProto:
        """Return the finished model."""
        inputs, splits = self._inputs()
        known = {name for node in [*splits, *self.nodes] for name in node.output} | set(self.aliases)
        for name in outputs:
            if name not in known and name != image.name:
                raise ModelFileError(f"the calibrated model computes no tensor {name!r}")
        for name in outputs:
            if name in self.aliases:
                self.nodes.append(helper.make_node("Identity", [self._resolved(name)], [name], f"{name}/alias"))
        read = {name for node in self.nodes for name in _names_read(node)}
        graph = helper.make_graph(
            [*splits, *self.nodes],
            "edge_fakequant",
            [image, *inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [t for t in [*self.constants.values(), *self.added] if t.name in read],
        )
        imports = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=7, producer_name="edge")

    def _inputs(self) -> tuple[list[onnx.ValueInfoProto], list[onnx.NodeProto]]:
        """Return the inputs that set the switches, and the nodes that split them."""
        count = len(self.quantizers)
        if not count:
            return [], []
        inputs = [helper.make_tensor_value_info(name, TensorProto.BOOL, [count]) for name in (ON8, ON16)]
        nodes = [
            _split(ON8, [f"edge_q{i}_on8" for i in range(count)], [1] * count),
            _split(ON16, [f"edge_q{i}_on16" for i in range(count)], [1] * count),
        ]
        steps: list[str] = []
        sizes: list[int] = []
        scalars: list[onnx.NodeProto] = []
        for i, item in enumerate(self.quantizers):
            if item.weight:
                continue
            name = f"edge_q{i}_step"
            sizes.append(item.thresholds.size)
            steps.append(name if item.axis is not None else f"{name}_1")
            if item.axis is None:
                scalars.append(helper.make_node("Squeeze", [steps[-1]], [name], f"{name}/scalar", axes=[0]))
        if steps:
            inputs.append(helper.make_tensor_value_info(STEPS, TensorProto.FLOAT, [sum(sizes)]))
            nodes.append(_split(STEPS, steps, sizes))
        return inputs, nodes + scalars

    def _plain(
        self, node: onnx.NodeProto, names: dict[str, str], target: list[onnx.NodeProto], suffix: str = ""
    ) -> None:
        """Copy a standard node, or add what replaces one of the compiler's own."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [names.get(name, self._resolved(name)) for name in node.input]
        if node.domain in ("", "ai.onnx"):
            made = [copy]
        elif node.domain == DOMAIN:
            emit = standard(copy)
            known = {tensor.name for tensor in self.added}
            self.added += [tensor for tensor in emit.constants if tensor.name not in known]
            made = emit.nodes
        else:
            raise ModelFileError(f"{node.op_type} {node.name!r} is of the domain {node.domain!r}")
        for one in made:
            one.name += suffix
        target += made

    def _resolved(self, name: str) -> str:
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def _constant(self, name: str, data: NDArray[np.generic]) -> str:
        if name in {tensor.name for tensor in self.added}:
            return name
        self.added.append(numpy_helper.from_array(np.ascontiguousarray(data), name))
        return name


def _body(nodes: list[onnx.NodeProto], constants: Sequence[onnx.TensorProto] = ()) -> onnx.GraphProto:
    """Return a branch; its result is the last node's."""
    name = nodes[-1].output[0]
    result = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [result], list(constants))


def _switch(condition: str, output: str, then: onnx.GraphProto, other: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", [condition], [output], f"{output}/if", then_branch=then, else_branch=other)


def _split(name: str, outputs: Sequence[str], sizes: Sequence[int]) -> onnx.NodeProto:
    return helper.make_node("Split", [name], list(outputs), f"{name}/split", axis=0, split=list(sizes))


def _names_read(node: onnx.NodeProto) -> Iterable[str]:
    yield from node.input
    for attribute in node.attribute:
        for inside in attribute.g.node:
            yield from _names_read(inside)
