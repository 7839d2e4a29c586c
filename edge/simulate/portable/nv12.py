"""NV12 as the input of a portable model: it takes the same bytes as the board."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.folder.metadata import EXACT_KEY, INPUTS_KEY, SIZE_KEY
from edge.images.preprocess import YUV_TO_RGB
from edge.simulate.portable.graph import NHWC, Graph, Value
from edge.specs import Preprocess
from edge.specs.schema import Input

INPUT = "nv12"
_PREFIX = "nv12_"


def decode(graph: Graph, size: tuple[int, int], name: str = INPUT) -> Value:
    """Add YUV444 minus 128 from packed NV12, H and W even; each chroma sample covers its 2x2 block.

    The graph's input, ``name``, is uint8, flat, H*W*3/2 values; the result is of int8 range, logical (1, H, W, 3),
    stored NCHW.
    """
    height, width = size
    luma = height * width
    whole = graph.add("Cast", name, to=1)
    y = graph.reshape(graph.slice(whole, 0, luma), (1, 1, height, width))
    chroma = graph.slice(whole, luma, luma * 3 // 2)
    # (H/2, W/2, 2) interleaved -> (2, H/2, 1, W/2, 1) -> repeated over the blocks
    planes = graph.add("Transpose", graph.reshape(chroma, (height // 2, width // 2, 2)), perm=[2, 0, 1])
    blocks = graph.reshape(planes, (2, height // 2, 1, width // 2, 1))
    repeated = graph.add("Expand", blocks, graph.constant(np.array([2, height // 2, 2, width // 2, 2]), np.int64))
    joined = graph.add("Concat", y, graph.reshape(repeated, (1, 2, height, width)), axis=1)
    centred = graph.add("Sub", joined, graph.constant(128.0))
    return Value(centred, (1, height, width, 3), NHWC, -128, 127)


def mark(model: onnx.ModelProto, size: tuple[int, int] | None, *, exact: bool, inputs: Sequence[Input] = ()) -> None:
    """Write into the model the size of its NV12 input, and whether its integers are the program's.

    Args:
        inputs: of a network that takes more than one camera image, or something else; ``size`` is None then.
    """
    texts = {EXACT_KEY: "1" if exact else "0"}
    if size is not None:
        texts[SIZE_KEY] = f"{size[0]}x{size[1]}"
    if inputs:
        texts[INPUTS_KEY] = json.dumps([[one.name, one.shape, one.image] for one in inputs])
    for key, text in texts.items():
        model.metadata_props.add(key=key, value=text)


def put_before(model: onnx.ModelProto, preprocess: Preprocess) -> onnx.ModelProto:
    """Change a network with a float input so that it takes NV12: decode, normalize, then the network.

    The arithmetic is the same as in :func:`edge.images.preprocess.network_input_from_nv12`. The network's only input
    must be float32 of ``preprocess.input_shape``.
    """
    graph = Graph.empty()
    yuv = decode(graph, preprocess.canvas).name
    matrix = np.array(YUV_TO_RGB)
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    if preprocess.color == "bgr":
        matrix = matrix[::-1]
    x = graph.add("Conv", yuv, graph.constant(matrix.reshape(3, 3, 1, 1)), kernel_shape=[1, 1])
    x = graph.add("Sub", x, graph.constant((mean - 128).reshape(1, 3, 1, 1)))
    x = graph.add("Div", x, graph.constant(std.reshape(1, 3, 1, 1)))
    if preprocess.layout == "NHWC":
        x = graph.add("Transpose", x, perm=[0, 2, 3, 1])
    network = model.graph
    front = [*graph.nodes, helper.make_node("Identity", [x], ["image"], name="image")]
    constants = [numpy_helper.from_array(data, name) for name, data in graph.constants.items()]
    _rename(front, constants)
    front[-1].output[0] = network.input[0].name
    height, width = preprocess.canvas
    taken = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [height * width * 3 // 2])
    nodes = [*front, *network.node]
    del network.node[:], network.input[:]
    network.node.extend(nodes)
    network.input.append(taken)
    network.initializer.extend(constants)
    mark(model, preprocess.canvas, exact=False)
    return model


def _rename(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> None:
    """Give every name but the input's a prefix, so that no name of the network is used twice."""
    for node in nodes:
        node.name = _PREFIX + node.name
        for names in (node.input, node.output):
            names[:] = [name if name == INPUT else _PREFIX + name for name in names]
    for tensor in constants:
        tensor.name = _PREFIX + tensor.name
