"""Attentions as torch exports them, small, and what they answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.prepare.normal_form import tidy


def attention_net(
    *,
    side: int = 8,
    heads: int = 2,
    width: int = 4,
    window: int = 4,
    scale: float | list[float] = 0.37,
    op: str = "Mul",
    at: str = "query",
    shared: bool = False,
    seen: bool = False,
    scores: bool = False,
    changes: tuple[tuple[str, NDArray[np.float32]], ...] = (),
    seed: int = 0,
    **pool: Any,
) -> onnx.ModelProto:
    """Return an image's attention over pooled keys, as torch exports NextViT's, with its number somewhere.

    Args:
        window: tokens that become one key; 1 for no pooling.
        at: query, key, values or scores.
        shared: queries and keys come of the same weights.
        seen: the scaled value is an output too.
        scores: an image of 3 * side + 2 goes in, a score a channel comes out.
        changes: operators and constants that change the scores, a bias for instance.
        pool: further attributes of the AveragePool.
    """
    rng = np.random.default_rng(seed)
    channels, tokens, size = heads * width, side * side, 3 * side + 2 if scores else side
    kernel = 5 if scores else 1
    constants: dict[str, NDArray[Any]] = {
        "stem_w": rng.normal(0, 0.3, (channels, 3, kernel, kernel)).astype(np.float32),
        "scale": np.array(scale, np.float32),
        "to_tokens": np.array([1, channels, -1]),
        "to_heads": np.array([1, -1, heads, width]),
        "from_heads": np.array([1, tokens, channels]),
    }
    for name in "qkv":
        constants[f"{name}_w"] = rng.normal(0, 0.5, (channels, channels)).astype(np.float32)
        constants[f"{name}_b"] = rng.normal(0, 0.2, channels).astype(np.float32)
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, output: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [output], name=f"/{output}/{kind}", **attributes))
        return output

    def split(name: str, source: str, perm: list[int]) -> str:
        of = "q" if shared and name == "k" else name
        linear = add("Add", f"{name}_out", add("MatMul", f"{name}_mm", source, f"{of}_w"), f"{of}_b")
        return scaled(
            {"q": "query", "k": "key", "v": "values"}[name],
            add("Transpose", f"{name}_t", add("Reshape", f"{name}_heads", linear, "to_heads"), perm=perm),
        )

    def scaled(place: str, value: str) -> str:
        return add(op, f"{place}_scaled", value, "scale") if at == place else value

    planes = add("Reshape", "planes", add("Conv", "stem", "x", "stem_w", strides=[3 if scores else 1] * 2), "to_tokens")
    all_tokens = add("Transpose", "tokens", planes, perm=[0, 2, 1])
    pooling = {"kernel_shape": [window], "strides": [window], **pool}
    fewer = all_tokens
    if window > 1:
        fewer = add("Transpose", "fewer", add("AveragePool", "pooled", planes, **pooling), perm=[0, 2, 1])
    logits = add("MatMul", "scores", split("q", all_tokens, [0, 2, 1, 3]), split("k", fewer, [0, 2, 3, 1]))
    logits = scaled("scores", logits)
    for index, (kind, value) in enumerate(changes):
        constants[f"change{index}"] = value
        logits = add(kind, f"changed{index}", logits, f"change{index}")
    share = add("Softmax", "share", logits, axis=3)
    mixed = add("MatMul", "mixed", share, split("v", fewer, [0, 2, 1, 3]))
    joined = add("Transpose", "joined", mixed, perm=[0, 2, 1, 3])
    if scores:
        constants["to_image"] = np.array([1, channels, side, side])
        turned = add("Transpose", "turned", add("Reshape", "row", joined, "from_heads"), perm=[0, 2, 1])
        shown = add("Relu", "shown", add("Reshape", "back", turned, "to_image"))
        add("Flatten", "y", add("GlobalAveragePool", "mean", shown))
    else:
        add("Reshape", "y", joined, "from_heads")
    shape = [1, channels] if scores else [1, tokens, channels]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    if seen:
        shape = [1, heads, tokens, width]
        outputs.append(helper.make_tensor_value_info(f"{at}_scaled", TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return tidy(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6))


def answers(model: onnx.ModelProto, seed: int = 0) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    value = np.random.default_rng(seed).uniform(-2, 2, shape).astype(np.float32)
    result: NDArray[np.float32] = session.run(None, {"x": value})[0]
    return result


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def transformer_net(
    *,
    tokens: int = 9,
    heads: int = 2,
    width: int = 4,
    cut: str = "Split",
    bias: bool = True,
    leave: str = "",
    seed: int = 0,
) -> onnx.ModelProto:
    """Return an attention whose queries, keys and values come of one product, as timm's vision transformers'.

    Args:
        cut: Split, with a Squeeze a part, or Gather.
        leave: what makes it unfit: the product or a part is an output too, the axes have another order, one
            part is taken twice.
    """
    rng = np.random.default_rng(seed)
    channels, patch = heads * width, 4
    constants: dict[str, NDArray[Any]] = {
        "patch_w": rng.normal(0, 0.3, (channels, 3, patch, patch)).astype(np.float32),
        "to_tokens": np.array([1, channels, -1]),
        "qkv_w": rng.normal(0, 0.4, (channels, 3 * channels)).astype(np.float32),
        "qkv_b": rng.normal(0, 0.2, 3 * channels).astype(np.float32),
        "scale": np.array(width**-0.5, np.float32),
        "to_parts": np.array([1, tokens, 3, heads, width]),
        "from_heads": np.array([1, tokens, channels]),
        "last": np.array(-1),
        **{str(part): np.array(part) for part in range(2)},
    }
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, output: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [output], name=f"/{output}/{kind}", **attributes))
        return output

    image = add("Conv", "patch", "x", "patch_w", strides=[patch, patch], kernel_shape=[patch, patch])
    row = add("Transpose", "row", add("Reshape", "planes", image, "to_tokens"), perm=[0, 2, 1])
    product = add("MatMul", "qkv", add("Tanh", "calm", row), "qkv_w")
    if bias:
        product = add("Add", "biased", "qkv_b", product)
    perm = [2, 0, 1, 3, 4] if leave == "order" else [2, 0, 3, 1, 4]
    parts = add("Transpose", "parts", add("Reshape", "split", product, "to_parts"), perm=perm)
    if cut == "Split":
        names = [f"one{part}" for part in range(3)]
        nodes.append(helper.make_node("Split", [parts], names, name="/Split", axis=0, split=[1, 1, 1]))
        q, k, v = (add("Squeeze", f"part{part}", name, axes=[0]) for part, name in enumerate(names))
    else:
        q, k, v = (add("Gather", f"part{i}", parts, name, axis=0) for i, name in enumerate(("0", "1", "last")))
    if leave == "order":
        q, k, v = (add("Transpose", f"{name}_heads", name, perm=[0, 2, 1, 3]) for name in (q, k, v))
    if leave == "twice":
        q = add("Add", "both", q, add("Gather", "again", parts, "last", axis=0))
    scaled = add("Mul", "scaled", q, "scale")
    scores = add("MatMul", "scores", scaled, add("Transpose", "k_t", k, perm=[0, 1, 3, 2]))
    mixed = add("MatMul", "mixed", add("Softmax", "share", scores, axis=3), v)
    joined = add("Transpose", "joined", mixed, perm=[0, 2, 1, 3])
    add("Reshape", "y", joined, "from_heads")
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, tokens, channels])]
    if leave == "product":
        outputs.append(helper.make_tensor_value_info(product, TensorProto.FLOAT, [1, tokens, 3 * channels]))
    if leave == "part":
        outputs.append(helper.make_tensor_value_info(parts, TensorProto.FLOAT, [3, 1, heads, tokens, width]))
    if leave == "split":
        outputs.append(helper.make_tensor_value_info("one1", TensorProto.FLOAT, [1, 1, heads, tokens, width]))
    rows = int(tokens**0.5)
    graph = helper.make_graph(
        nodes,
        "transformer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, patch * rows, patch * rows])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return tidy(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6))
