"""Bring a file's input and numbers to what the later stages read: one float32 RGB or BGR image of a program's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.errors import ModelFileError
from edge.graph.files import copied, image_input, opset_of, values_of
from edge.graph.view import View, add_constant, constants, unused
from edge.specs import Preprocess
from edge.specs.schema import Color

if TYPE_CHECKING:
    import onnx

# Luma of BT.601, which is also PIL's conversion to "L". The weights' sum is 1, so a grey image stays as it is.
LUMA = (0.299, 0.587, 0.114)
_MOVING = frozenset({"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_QUANTIZED = frozenset({"ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QuantizeLinear"})


def mended(
    model: onnx.ModelProto, origin: str, color: Color = "rgb", *, image: bool = True
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model with one float32 image of three channels as its input, and what was changed for that.

    The model itself is returned where nothing has to change. Inputs that no node reads are left out; half and double
    precision become float32, and so do integers that are converted first; grey is weighed from colours.

    Args:
        origin: what messages call the model.
        color: order of the channels that the program hands over, for a network that takes grey.
        image: whether an only input is a camera image; other numbers are left as they are.

    Raises:
        ModelFileError: the model is quantized already, or computes on integers.
    """
    require_unquantized(model, origin)
    result = copied(model)
    notes = (
        _without_unread_inputs(result),
        _in_float32(result),
        _from_integers(result, origin, image=image),
        _from_colors(result, color) if image else "",
    )
    return (result, tuple(filter(None, notes))) if any(notes) else (model, ())


def on_canvas(model: onnx.ModelProto, preprocess: Preprocess, origin: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the network behind a Slice that takes ``crop`` out of ``canvas``, and what to tell of it.

    The model itself is returned where both are of one size. The Slice is proved: the scores are the same bits, whatever
    the canvas holds beside the network's own pixels.

    Raises:
        ModelFileError: onnxruntime can't run the network, or it computes something else.
    """
    from onnx import helper

    own, size = preprocess.crop, preprocess.canvas
    if own == size:
        return model, ()
    result = copied(model)
    graph, (value,) = result.graph, _inputs(result.graph)
    first = 2 if preprocess.layout == "NCHW" else 1
    axes = [first, first + 1]
    cut = unused(graph, f"{value.name}/cut")
    _read_instead(graph, value.name, cut)
    if opset_of(model) < 10:  # where they are attributes
        node = helper.make_node("Slice", [value.name], [cut], f"{cut}/Slice", starts=[0, 0], ends=own, axes=axes)
    else:
        bounds = ("starts", [0, 0]), ("ends", own), ("axes", axes)
        stored = [add_constant(graph, f"{cut}/{key}", given) for key, given in bounds]
        node = helper.make_node("Slice", [value.name, *stored], [cut], f"{cut}/Slice")
    graph.node.insert(0, node)
    for axis, side in zip(axes, size, strict=True):
        value.type.tensor_type.shape.dim[axis].dim_value = side
    _, shape = image_input(result, origin)
    whole = np.random.default_rng(0).uniform(*preprocess.value_range, shape).astype(np.float32)
    part = whole[:, :, : own[0], : own[1]] if first == 2 else whole[:, : own[0], : own[1]]
    scores = [output.name for output in graph.output]
    runs = values_of(model, scores, origin, part), values_of(result, scores, origin, whole)
    for before, after in zip(*runs, strict=True):
        if not np.array_equal(before, after, equal_nan=True):
            raise ModelFileError(
                f"{origin}: behind a Slice from {size[0]}x{size[1]} to {own[0]}x{own[1]} it gives other scores",
                expected="the same network behind the Slice",
                remedy=f"export the network for {size[0]}x{size[1]}, or report it with the file",
            )
    return result, (
        f"the network takes {own[0]}x{own[1]}, the program {size[0]}x{size[1]}: NV12 needs an even height, the board's "
        "runtimes a width that is a multiple of 32; its first node cuts the top left corner out",
    )


def takes_bytes(model: onnx.ModelProto) -> bool:
    """Tell whether a model takes its image as bytes: it sees 0..255 and normalizes them itself."""
    from onnx import TensorProto

    values = _inputs(model.graph)
    return len(values) == 1 and values[0].type.tensor_type.elem_type == TensorProto.UINT8


def require_unquantized(model: onnx.ModelProto, origin: str) -> None:
    """Fail if a model holds operators of integers.

    Raises:
        ModelFileError: it does; the message names the first.
    """
    found = [node for node in model.graph.node if _is_quantized(node)]
    if not found:
        return
    node = found[0]
    where = f"the first is {node.op_type}" + (f" {node.name!r}" if node.name else "")
    raise ModelFileError(
        f"{origin} is quantized already: {len(found)} of its {len(model.graph.node)} nodes compute on integers or "
        f"convert to them; {where}",
        expected="the float network: the compiler chooses all integers itself, from calibration images",
        remedy="give the ONNX from before the quantization; after quantization-aware training, export the trained "
        "weights without the quantization's nodes",
    )


def _is_quantized(node: onnx.NodeProto) -> bool:
    kind = node.op_type
    return (
        kind in _QUANTIZED
        or kind.startswith("QLinear")
        or (node.domain == "com.microsoft" and kind.startswith("Q") and kind != "QuickGelu")
        or node.domain == "horizon"
    )


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def _read_instead(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let every node that reads one value read another."""
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new


def _without_unread_inputs(model: onnx.ModelProto) -> str:
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        return ""  # a branch may read any value
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    values = _inputs(model.graph)
    unread = [value for value in values if value.name not in read]
    if not unread or len(unread) == len(values):
        return ""
    for value in unread:
        model.graph.input.remove(value)
    return f"no node reads the input {' or '.join(value.name for value in unread)}: left out"


def _in_float32(model: onnx.ModelProto) -> str:
    """Compute in float32 what the file computes in half or double precision, weights included."""
    from onnx import TensorProto

    graph = model.graph
    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    other = (*halves, TensorProto.DOUBLE)
    kinds = {value.type.tensor_type.elem_type for value in _inputs(graph)} & set(other)
    kinds |= {tensor.data_type for tensor in constants(graph).values()} & set(halves)
    if not kinds:
        return ""
    _widen(graph, other)
    _drop_plain_casts(model)
    named = " and ".join(TensorProto.DataType.Name(kind).lower() for kind in sorted(kinds))
    return f"the file computes in {named}; it is built in float32"


def _widen(graph: onnx.GraphProto, other: tuple[int, ...]) -> None:
    from onnx import TensorProto

    for tensor in graph.initializer:
        _widen_tensor(tensor, other)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in other:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in other:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                _widen_tensor(attribute.t, other)
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _widen(inner, other)


def _widen_tensor(tensor: onnx.TensorProto, other: tuple[int, ...]) -> None:
    from onnx import numpy_helper

    if tensor.data_type not in other:
        return
    values = numpy_helper.to_array(tensor).astype(np.float64)
    largest = float(np.finfo(np.float32).max)
    finite = np.where(np.isinf(values), values, np.clip(values, -largest, largest))
    tensor.CopyFrom(numpy_helper.from_array(finite.astype(np.float32), tensor.name))


def _drop_plain_casts(model: onnx.ModelProto) -> None:
    """Turn a Cast from float32 to float32 into an Identity."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    for node in model.graph.node:
        to = View.attribute(node, "to", None)
        if node.op_type == "Cast" and to == onnx.TensorProto.FLOAT == types.get(node.input[0]):
            node.op_type = "Identity"
            del node.attribute[:]


def _from_integers(model: onnx.ModelProto, origin: str, *, image: bool) -> str:
    """Let inputs of integers be float32: the same numbers, if the network's first step is to convert them."""
    from onnx import TensorProto

    view, notes, kinds = View(model), [], TensorProto.DataType
    integers = {kinds.Value(name): name for name in ("INT8", "UINT8", "INT16", "UINT16", "INT32", "INT64")}
    bytes_ = image and takes_bytes(model)
    for value in _inputs(model.graph):
        kind, left = integers.get(value.type.tensor_type.elem_type), [value.name]
        if kind is None:
            continue
        while left:
            name = left.pop()
            for node in view.readers(name):
                if node.op_type in _MOVING and node.input[0] == name:
                    left.append(node.output[0])
                elif node.op_type != "Cast" or View.attribute(node, "to", None) != TensorProto.FLOAT:
                    raise ModelFileError(
                        f"{origin}: {node.op_type} {node.name!r} computes on integers: the input {value.name!r} "
                        f"is {kind}",
                        expected="a float32 input, or integers that a Cast makes float32 before anything is computed",
                        remedy="convert the input to float32 first in the network, or export it with a float32 input",
                    )
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        what = "bytes" if bytes_ else kind.lower()
        notes.append(f"the input {value.name!r} takes {what}; it is built for the same numbers in float32")
    if not notes:
        return ""
    del model.graph.value_info[:]
    _drop_plain_casts(model)
    return "; ".join(notes) + ", 0..255" * bytes_


def _from_colors(model: onnx.ModelProto, color: Color) -> str:
    """Put the weighing of red, green and blue in front of a network that takes grey."""
    from onnx import TensorProto, helper

    values = _inputs(model.graph)
    if len(values) != 1 or values[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        return ""
    graph, (value,) = model.graph, values
    sides = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if len(sides) != 4 or (sides[1] == 1) == (sides[3] == 1) or 3 in (sides[1], sides[3]):
        return ""
    weights = np.array(LUMA if color == "rgb" else LUMA[::-1], np.float32)
    grey = unused(graph, f"{value.name}/grey")
    _read_instead(graph, value.name, grey)
    if sides[1] == 1:
        axis = 1
        stored = add_constant(graph, f"{grey}/weights", weights.reshape(1, 3, 1, 1))
        first = helper.make_node("Conv", [value.name, stored], [grey], f"{grey}/Conv", kernel_shape=[1, 1])
    else:
        axis = 3
        stored = add_constant(graph, f"{grey}/weights", weights.reshape(3, 1))
        first = helper.make_node("MatMul", [value.name, stored], [grey], f"{grey}/MatMul")
    graph.node.insert(0, first)
    value.type.tensor_type.shape.dim[axis].dim_value = 3
    shares = ", ".join(f"{share:g}" for share in LUMA)
    return (
        f"the network takes grey: red, green and blue are weighed in front of it ({shares}), which leaves grey images "
        "as they are; give one number each as --mean and --std"
    )
