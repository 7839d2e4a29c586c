"""The tail of a network: what stands behind its last convolutions, run by itself on chosen values.

How an exporter writes a decoder changes from version to version; what it computes does not. So the tail is taken as a
function of the convolutions' outputs: which columns of the boxes an output reaches tells what it is, and a known
decoder is recognised by its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import ModelFileError
from edge.graph.cut import reads
from edge.graph.files import copied, image_input, refusals, session
from edge.graph.view import View

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Array = NDArray[Any]
# Operators by a constant per channel, which belong to the convolution in front of them (YOLOv7's implicit knowledge).
_PER_CHANNEL = ("Mul", "Add", "BatchNormalization")


class Tail:
    """The part of a network behind its last convolutions.

    Args:
        model: a checked model with a static input.
        origin: what messages call it.

    Raises:
        ModelFileError: its input is not one image, or it can't be run.
    """

    def __init__(self, model: onnx.ModelProto, origin: str) -> None:
        self.model = model
        self.origin = origin
        self.view = View(model)
        self.input, self.input_shape = image_input(model, origin)
        if self.input_shape[0] != 1:
            raise ModelFileError(
                f"{origin}: the input takes {self.input_shape[0]} images",
                expected="one image: the BPU's program runs one at a time",
                remedy="export it with batch 1",
            )
        nodes = self._walk()
        self.nodes = [node for node in self.view.nodes if id(node) in nodes]
        #: names of the last convolutions' outputs, in the graph's order.
        self.heads = [
            self._end(node)
            for node in self.view.nodes
            if node.op_type in ("Conv", "ConvTranspose") and node.output[0] in self._read and id(node) not in nodes
        ]
        self._depend = self._dependent()
        self._functions: dict[tuple[str, ...], tuple[tuple[str, ...], onnxruntime.InferenceSession]] = {}

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input in pixels, channels first or last."""
        _, *shape = self.input_shape
        return (shape[0], shape[1]) if shape[2] == 3 and shape[0] != 3 else (shape[1], shape[2])

    def _walk(self) -> set[int]:
        """Return the nodes behind the last convolutions, from the outputs up."""
        made = {name: node for node in self.view.nodes for name in node.output if name}
        found: set[int] = set()
        self._read = {value.name for value in self.model.graph.output}
        left = list(self._read)
        while left:
            node = made.get(left.pop())
            if node is None or id(node) in found or self._is_layer(node):
                continue
            found.add(id(node))
            if node.op_type == "Shape":  # a size is no way to the values
                continue
            names = [name for name in reads(node) if name]
            self._read.update(names)
            left += names
        return found

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node is a convolution with weights of its own: not DFL's mean over the bins 0, 1, 2, …."""
        if node.op_type == "ConvTranspose":
            return True
        if node.op_type != "Conv":
            return False
        weights = self.view.tensor(node.input[1])
        return weights is None or len(weights) != 1 or not np.array_equal(weights.ravel(), np.arange(weights.size))

    def _end(self, node: onnx.NodeProto) -> str:
        """Return the output of a convolution, behind operators by a constant per channel."""
        while (reader := self.view.only_reader(node)) is not None and reader.op_type in _PER_CHANNEL:
            if reader.op_type != "BatchNormalization":
                value = self.view.tensor(self.view.other(reader, node))
                if value is None or value.ndim < 3 or value.size != value.shape[-3]:
                    break
            node = reader
        return str(node.output[0])

    def _dependent(self) -> set[str]:
        """Return the values of the tail that the convolutions' numbers reach; sizes are constants here."""
        reached = set(self.heads)
        for node in self.nodes:
            if node.op_type != "Shape" and any(name in reached for name in reads(node)):
                reached.update(name for name in node.output if name)
        return reached

    @cached_property
    def _needed(self) -> list[str]:
        """Return the values that the tail takes from elsewhere: sizes, grids, other constants."""
        taken = {name for node in self._steps for name in reads(node)} - self._depend
        made = {name for node in self.view.nodes for name in node.output} | {self.input}
        return sorted(taken & made - {""})

    @property
    def _steps(self) -> list[onnx.NodeProto]:
        own = set(self.heads)
        return [node for node in self.nodes if node.op_type != "Shape" and set(node.output) & self._depend - own]

    @cached_property
    def values(self) -> Mapping[str, Array]:
        """What a run of the whole network on noise gives: the heads, all that depends on them, and the constants."""
        import onnx

        exposed = copied(self.model)
        have = {value.name for value in exposed.graph.output}
        wanted = [name for name in dict.fromkeys([*self._needed, *sorted(self._depend)]) if name != self.input]
        exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in have)
        rng = np.random.default_rng(0)
        image = rng.uniform(0, 1, self.input_shape).astype(np.float32)
        if not wanted:  # without a convolution there is no head; onnxruntime takes no names for all outputs
            return {self.input: image}
        with refusals(
            f"onnxruntime can't run {self.origin}",
            expected="a network that onnxruntime runs, with a static input such as 1x3x640x640",
            remedy="export it with a fixed input size and no dynamic axes",
        ):
            results = session(exposed.SerializeToString()).run(wanted, {self.input: image})
        found = zip(wanted, results, strict=True)
        return {name: result for name, result in found if isinstance(result, np.ndarray)} | {self.input: image}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a head or of a value that depends on one."""
        return tuple(self.values[name].shape)

    @property
    def dependents(self) -> Iterator[str]:
        """The float values that depend on the heads, from the network's outputs up."""
        for node in reversed(self.nodes):
            for name in node.output:
                if name in self._depend and name in self.values and self.values[name].dtype == np.float32:
                    yield name

    def below(self, name: str) -> set[str]:
        """Return the operators behind a value, down to the outputs."""
        kinds: set[str] = set()
        left, seen = [name], {name}
        while left:
            for node in self.view.readers(left.pop()):
                kinds.add(node.op_type)
                fresh = [output for output in node.output if output not in seen]
                seen.update(fresh)
                left += fresh
        return kinds

    def runs(self, names: Sequence[str]) -> bool:
        """Tell whether values of the tail can be had by themselves."""
        try:
            self._function(tuple(names))
        except Exception:  # onnxruntime's exceptions share no base; then the values are no boxes that edge knows
            return False
        return True

    def heads_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the heads that values depend on."""
        return self._function(tuple(names))[0]

    def run(self, names: Sequence[str], values: Mapping[str, Array]) -> list[Array]:
        """Return values of the tail for these outputs of heads; heads that are not given are 0.

        None at all where it fails on them, such as behind a NonMaxSuppression that leaves no box.
        """
        heads, opened = self._function(tuple(names))
        filled = {name: np.zeros_like(self.values[name]) for name in heads}
        filled |= {name: values[name].astype(filled[name].dtype) for name in heads if name in values}
        try:
            return list(opened.run(list(names), filled))
        except Exception:  # onnxruntime's exceptions share no base
            return []

    def _function(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], onnxruntime.InferenceSession]:
        """Return the heads that values depend on, and the graph between them."""
        if names in self._functions:
            return self._functions[names]
        import onnx
        from onnx import numpy_helper

        wanted = set(names)
        needed: list[onnx.NodeProto] = []
        for node in reversed(self._steps):
            if wanted & set(node.output):
                needed.append(node)
                wanted.update(name for name in reads(node) if name)
        heads = tuple(name for name in self.heads if name in wanted)
        kept = [tensor for tensor in self.model.graph.initializer if tensor.name in wanted]
        constants = [numpy_helper.from_array(self.values[name], name) for name in self._needed if name in wanted]
        model = copied(self.model)
        graph = model.graph
        for part in (graph.node, graph.initializer, graph.input, graph.output, graph.value_info):
            del part[:]
        graph.node.extend(reversed(needed))
        graph.initializer.extend([*kept, *constants])
        for name in heads:
            kind = onnx.helper.np_dtype_to_tensor_dtype(self.values[name].dtype)
            graph.input.append(onnx.helper.make_tensor_value_info(name, kind, self.shape(name)))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        self._functions[names] = heads, session(model.SerializeToString())
        return self._functions[names]
