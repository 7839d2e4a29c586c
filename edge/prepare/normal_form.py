"""Bring a float ONNX into the form that the compiler reads, without optimising anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import ModelFileError
from edge.graph.files import copied, inputs_of, load_onnx, opset_of
from edge.graph.view import constants
from edge.prepare.opset import CannotExpress, downgrade

if TYPE_CHECKING:
    import onnx

OPSETS = (10, 11)  # hb_mapper 1.24.3 refuses others by name
OPSET = 11
IR = 6  # the IR of opset 11; the compiler takes up to 9
_LIMIT = 2**31 - 1  # bytes; of any protobuf message, so of any single-file ONNX


def read_model(path: Path) -> onnx.ModelProto:
    """Load a float32 ONNX with a static input; output shapes may be unknown.

    Raises:
        ModelFileError: missing, corrupt, over 2 GB, dynamic, half precision, operators
            outside standard ONNX, or a file of external weights that can't be read.
    """
    import onnx
    from onnx import inliner

    if path.is_file() and path.stat().st_size > _LIMIT:
        raise ModelFileError(
            f"{path} has {path.stat().st_size / 1e9:.1f} GB", expected="an ONNX file of less than 2 GB"
        )
    model = load_onnx(path)
    half_types = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    half = [t.name for t in model.graph.initializer if t.data_type in half_types]
    if half:
        raise ModelFileError(
            f"{path}: {len(half)} half-precision initializers, such as {half[0]!r}",
            expected="float32 weights; the compiler quantizes them itself",
            remedy="export the float32 model: call model.float() before torch.onnx.export",
        )
    size = model.ByteSize()
    if size > _LIMIT:
        raise ModelFileError(f"{path} and its weights have {size / 1e9:.1f} GB", expected="less than 2 GB in one file")
    inputs_of(model, str(path))
    model = inliner.inline_local_functions(model) if model.functions else model
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise ModelFileError(
            f"{path} has operators of the domain {', '.join(foreign)}",
            expected="operators of standard ONNX",
            remedy="export without custom operators, from torch with opset_version=11, dynamo=False",
        )
    return model


def pin_outputs(model: onnx.ModelProto, shapes: Sequence[Sequence[int]]) -> None:
    """Write the output shapes for the static input into the model; exporters leave some open."""
    for value, shape in zip(model.graph.output, shapes, strict=True):
        dims = value.type.tensor_type.shape.dim
        del dims[:]
        for size in shape:
            dims.add(dim_value=size)


def normal_form(model: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    """Return the model at an opset and IR that the compiler accepts; its answers stay the same.

    A Pow's exponent of shape [1] becomes a scalar, which keeps the Pow off the CPU. Initializers are no longer inputs.
    Identity nodes, unread nodes, doc strings and metadata (which depend on the exporting machine) are removed. Nodes
    without a name get one.

    Args:
        model: from ``read_model``.

    Raises:
        ModelFileError: it can't be brought to opset 10 or 11.
    """
    result = copied(model)
    opset = opset_of(result)
    if opset not in OPSETS:
        result = _converted(result, opset, origin)
    del result.opset_import[:]
    result.opset_import.add(domain="", version=opset if opset in OPSETS else OPSET)
    _scalar_exponents(result.graph)
    _pool_means(result)
    return tidy(result)


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make a model's bytes a function of its graph alone; changes and returns it."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    del graph.input[:]
    graph.input.extend(inputs)
    if not has_branches(graph):
        # Branches of an If may read any name, so a graph with an If keeps all nodes.
        _drop_identities(graph)
        _drop_unread(graph)
    _name_nodes(graph)
    for holder in (model, graph):
        holder.ClearField("doc_string")
        holder.ClearField("metadata_props")
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        item.ClearField("doc_string")
    for node in graph.node:
        node.ClearField("metadata_props")
    model.ir_version = IR
    # A simplifier may write shapes in any order; inference writes them in the order of the nodes.
    return _with_shapes(model, Path(graph.name))


def has_branches(graph: onnx.GraphProto) -> bool:
    """Tell whether a node holds subgraphs, which may read any value of this graph."""
    return any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute)


def computes_shapes(model: onnx.ModelProto) -> bool:
    """Tell whether shapes are computed at run time: then patterns show only after folding."""
    return any(node.op_type in ("Shape", "Size", "Range", "ConstantOfShape") for node in model.graph.node)


def _with_shapes(model: onnx.ModelProto, origin: Path) -> onnx.ModelProto:
    import onnx

    del model.graph.value_info[:]
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ModelFileError(
            f"{origin}: its shapes contradict each other: {' '.join(str(error).split())[:200]}",
            remedy="export it again",
        ) from error


def _converted(model: onnx.ModelProto, opset: int, origin: str) -> onnx.ModelProto:
    import onnx
    from onnx import version_converter

    def fitting(result: onnx.ModelProto) -> onnx.ModelProto:
        del result.graph.value_info[:]
        onnx.checker.check_model(result, full_check=True)
        return result

    why: Exception | None = None
    if opset > OPSET:
        try:
            return fitting(downgrade(model, OPSET))
        except (CannotExpress, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            why = error
    try:
        return fitting(version_converter.convert_version(model, OPSET))
    except Exception as error:  # RuntimeError, ConvertError and others all mean the same here
        why = why or error
    raise ModelFileError(
        f"{origin} has opset {opset}, which can't be brought to {OPSET}: {' '.join(str(why).split())[:300]}",
        expected=f"operators that opset {OPSET} can express: the compiler reads no newer one",
        remedy="write that part of the network another way, or leave it to the CPU behind the program",
    ) from why


def _scalar_exponents(graph: onnx.GraphProto) -> None:
    import onnx

    known = constants(graph)
    for node in graph.node:
        tensor = known.get(node.input[1]) if node.op_type == "Pow" else None
        if tensor is not None and list(tensor.dims) == [1]:
            scalar = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).reshape(()))
            scalar.name = f"{node.input[1]}_scalar"
            if scalar.name not in known:
                graph.initializer.append(scalar)
                known[scalar.name] = scalar
            node.input[1] = scalar.name


def _pool_means(model: onnx.ModelProto) -> None:
    """Write a mean over height and width as a global pool, which runs on the BPU; the mean stays on the CPU.

    So torch's default export writes its pools today, and Keras the squeeze of its squeeze-and-excite blocks.
    """
    means = [node for node in model.graph.node if node.op_type == "ReduceMean"]
    if not any(len(_axes(node)) == 2 for node in means):
        return
    known = _with_shapes(copied(model), Path(model.graph.name)).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim) for value in (*known.value_info, *known.input, *known.output)
    }
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        axes = {axis % 4 for axis in _axes(node)} if ranks.get(node.input[0]) == 4 else set()
        if node.op_type != "ReduceMean" or axes not in ({2, 3}, {1, 2}):
            nodes.append(node)
            continue
        add = partial(_follow, nodes, node.name)
        kept = not any(attribute.name == "keepdims" and attribute.i == 0 for attribute in node.attribute)
        last = axes == {1, 2}  # channels are, as Keras has them
        value = add("Transpose", node.input[0], perm=[0, 3, 1, 2]) if last else node.input[0]
        value = add("GlobalAveragePool", value)
        if not kept:
            add("Flatten", value, axis=1)
        elif last:
            add("Transpose", value, perm=[0, 2, 3, 1])
        nodes[-1].output[0] = node.output[0]
    _keep_nodes(model.graph, nodes, changed=True)


def _follow(nodes: list[onnx.NodeProto], name: str, kind: str, source: str, **attributes: Any) -> str:
    import onnx

    target = f"{name or 'mean'}_{kind}_{len(nodes)}"
    nodes.append(onnx.helper.make_node(kind, [source], [target], name=target, **attributes))
    return target


def _axes(node: onnx.NodeProto) -> list[int]:
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"), [])


def _drop_identities(graph: onnx.GraphProto) -> None:
    """Let readers of an Identity read its input; exporters write an Identity for every shared weight."""
    alias = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    outputs = {value.name for value in graph.output}

    def source(name: str) -> str:
        while name in alias and name not in outputs:
            name = alias[name]
        return name

    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = source(name)
    _keep_nodes(graph, [n for n in graph.node if n.op_type != "Identity" or n.output[0] in outputs])


def _drop_unread(graph: onnx.GraphProto) -> None:
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    _keep_nodes(graph, kept[::-1])
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    if len(tensors) != len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(tensors)


def _keep_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], *, changed: bool = False) -> None:
    if changed or len(nodes) != len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give each node a unique name: precision recipes and the compiler's tables use names."""
    taken = Counter(node.name for node in graph.node)
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            base, name, number = node.name or node.op_type, f"{node.name or node.op_type}_{index}", index
            while name in taken:
                number += 1
                name = f"{base}_{number}"
            node.name = name
            taken[name] += 1
        seen.add(node.name)
