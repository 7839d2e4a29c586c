"""One operator in a model of its own: for the vendor's runtime, and translated for stock onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from attrs import frozen
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.simulate.portable.graph import Graph, Value
from edge.simulate.portable.translate import add_nodes
from edge.toolchain.found import Toolchain
from tests.vendor_runtime import VendorRuntime

Array = NDArray[Any]
Random = np.random.Generator


@frozen
class Case:
    """One operator with its inputs and constants, in the node's order."""

    operator: str
    inputs: Mapping[str, Array]
    attributes: Mapping[str, Any]
    shape: Sequence[int] | Sequence[Sequence[int]]
    out: int = TensorProto.INT8
    constants: Mapping[str, Array] = {}
    order: Sequence[str] = ()
    domain: str = "horizon"

    def model(self) -> onnx.ModelProto:
        """A model of the vendor's with this one node."""
        shapes: Any = self.shape if self.shape and isinstance(self.shape[0], (tuple, list)) else [self.shape]
        outs = [f"y{i}" for i in range(len(shapes))]
        names = self.order or [*self.inputs, *self.constants]
        node = helper.make_node(self.operator, names, outs, name="the_node", domain=self.domain, **self.attributes)
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info(k, _type(v), v.shape) for k, v in self.inputs.items()],
            [helper.make_tensor_value_info(o, self.out, s) for o, s in zip(outs, shapes, strict=True)],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", 11), helper.make_opsetid("horizon", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=6)


def _type(array: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def portable(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Translate a vendor model of any inputs and run it in stock onnxruntime."""
    graph = Graph.empty()
    for name, array in inputs.items():
        real = array.dtype == np.float32
        low, high = (0, 0) if real else (int(np.iinfo(array.dtype).min), int(np.iinfo(array.dtype).max))
        graph.values[name] = Value(name, array.shape, tuple(range(array.ndim)), low, high, real)
    add_nodes(graph, model.graph)
    outputs = [(v.name, graph.plain(graph.values[v.name])) for v in model.graph.output]
    built = graph.model("none", [1], outputs)
    del built.graph.input[:]
    for name, array in inputs.items():
        built.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    onnx.checker.check_model(built)
    session = onnxruntime.InferenceSession(built.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {name: array.astype(np.float32) for name, array in inputs.items()}
    names = [name for name, _ in outputs]
    results = dict(zip(names, session.run(names, feed), strict=True))
    for name, value in outputs:
        if not value.real:
            whole = results[name]
            assert whole.min() >= graph.values[name].low
            assert whole.max() <= graph.values[name].high
    return results


def same(vendor: VendorRuntime, case: Case) -> None:
    """Assert that both give the same bits."""
    model = case.model()
    wanted, seen = vendor.run(model, case.inputs), portable(model, case.inputs)
    for name, array in wanted.items():
        assert seen[name].shape == array.shape
        np.testing.assert_array_equal(seen[name], array.astype(np.float32))


def anything(random: Random, dtype: Any, *shape: int) -> Array:
    """Every number of a type equally often, the extremes in any case."""
    limits = np.iinfo(dtype)
    array = random.integers(limits.min, limits.max + 1, shape).astype(dtype)
    array.ravel()[: min(2, array.size)] = [limits.min, limits.max][: min(2, array.size)]
    return array


def many(random: Random, low: int, high: int, count: int) -> list[int]:
    return [int(n) for n in random.integers(low, high, count)]


def out_type(bits: int) -> int:
    return {8: TensorProto.INT8, 16: TensorProto.INT16, 32: TensorProto.INT32}[bits]


def out_dtype(bits: int) -> Any:
    return {8: np.int8, 16: np.int16}[bits]


@pytest.fixture(scope="module")
def vendor(toolchain: Toolchain) -> Iterator[VendorRuntime]:
    """The vendor's runtime in a process of its own; a test module imports this fixture."""
    runtime = VendorRuntime(toolchain)
    yield runtime
    runtime.close()
