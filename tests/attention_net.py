"""A small trained classifier of the operators of NextViT and CSPDarkNet53, and the images that it knows.

A stem; a cross-stage part (Split, LeakyRelu, Add, Concat); an attention over pooled keys as NextViT's e_mhsa
exports it (BatchNormalization, AveragePool, MatMul of two activations, Softmax); a head solved by ridge
regression, strong enough that it does not live on differences that int8 can't hold. The attention is sharp on
purpose: its logits spread over more than 20.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.trained_net import COLORS, SIDE, image, normalized

CHANNELS, HEADS, WIDTH = 32, 2, 16
TOKENS, KEYS = (SIDE // 4) ** 2, (SIDE // 8) ** 2
Weights = Mapping[str, NDArray[Any]]


def train() -> Weights:
    """Return the weights: the same on every call."""
    rng = np.random.default_rng(5)

    def normal(scale: float, *shape: int) -> NDArray[np.float32]:
        return rng.normal(0, scale, shape).astype(np.float32)

    weights: dict[str, NDArray[Any]] = {
        "stem_w": normal(0.2, CHANNELS, 3, 4, 4), "stem_b": normal(0.5, CHANNELS),
        "csp_w": normal(0.1, 16, 16, 3, 3), "csp_b": normal(0.2, 16),
        "gain": 1 + normal(0.1, CHANNELS), "shift": normal(0.1, CHANNELS),
        "mean": normal(0.1, CHANNELS), "var": 1 + np.abs(normal(0.1, CHANNELS)),
        **{f"{name}_w": normal(0.35, CHANNELS, CHANNELS) for name in "qkv"},
        **{f"{name}_b": normal(0.1, CHANNELS) for name in "qkv"},
        "proj_w": normal(0.3, CHANNELS, CHANNELS), "proj_b": normal(0.1, CHANNELS),
        "mix_w": normal(0.12, 64, CHANNELS, 3, 3), "mix_b": normal(0.3, 64),
        "head_w": np.eye(64, dtype=np.float32), "head_b": np.zeros(64, np.float32),
    }  # fmt: skip
    session = onnxruntime.InferenceSession(
        network(weights, classes=64).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    labels = np.arange(480) % len(COLORS)
    features = np.concatenate(
        [session.run(None, {"x": normalized(image(int(label), rng))})[0] for label in labels]
    ).astype(np.float64)
    wide = np.hstack([features, np.ones((len(features), 1))])
    solved = np.linalg.solve(wide.T @ wide + 10 * np.eye(65), wide.T @ (np.eye(len(COLORS))[labels] * 8))
    weights["head_w"] = np.ascontiguousarray(solved[:-1].T, np.float32)
    weights["head_b"] = np.ascontiguousarray(solved[-1], np.float32)
    return weights


def network(weights: Weights, *, classes: int = len(COLORS)) -> onnx.ModelProto:
    """Return the classifier, (1, 3, 64, 64) to (1, classes)."""
    side = SIDE // 4
    constants: dict[str, NDArray[Any]] = {
        **weights,
        "to_tokens": np.array([1, CHANNELS, -1]),
        "to_heads": np.array([1, -1, HEADS, WIDTH]),
        "from_heads": np.array([1, TOKENS, CHANNELS]),
        "to_image": np.array([1, CHANNELS, side, side]),
        "scale": np.array(WIDTH**-0.5, np.float32),
    }
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, output: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [output], name=f"/{output}/{kind}", **attributes))
        return output

    def linear(name: str, source: str) -> str:
        return add("Add", f"{name}_out", add("MatMul", f"{name}_mm", source, f"{name}_w"), f"{name}_b")

    add("Relu", "stem_r", add("Conv", "stem", "x", "stem_w", "stem_b", strides=[4, 4], kernel_shape=[4, 4]))
    nodes.append(helper.make_node("Split", ["stem_r"], ["a", "b"], name="/csp/Split", axis=1, split=[16, 16]))
    conv = add("Conv", "csp", "b", "csp_w", "csp_b", pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    side_path = add("Add", "csp_sum", add("LeakyRelu", "csp_act", conv, alpha=0.01), "b")
    whole = add("Concat", "whole", "a", side_path, axis=1)
    normal = add("BatchNormalization", "norm1", whole, "gain", "shift", "mean", "var")
    planes = add("Reshape", "planes", normal, "to_tokens")
    tokens = add("Transpose", "tokens", planes, perm=[0, 2, 1])
    pooled = add("Transpose", "fewer", add("AveragePool", "sr", planes, kernel_shape=[4], strides=[4]), perm=[0, 2, 1])

    def heads(name: str, source: str, perm: list[int]) -> str:
        split = add("Reshape", f"{name}_heads", linear(name, source), "to_heads")
        return add("Transpose", f"{name}_t", split, perm=perm)

    query = add("Mul", "q_scaled", heads("q", tokens, [0, 2, 1, 3]), "scale")
    logits = add("MatMul", "logits", query, heads("k", pooled, [0, 2, 3, 1]))
    weighted = add("MatMul", "weighted", add("Softmax", "share", logits, axis=3), heads("v", pooled, [0, 2, 1, 3]))
    joined = add("Reshape", "joined", add("Transpose", "weighted_t", weighted, perm=[0, 2, 1, 3]), "from_heads")
    back = add("Reshape", "back", add("Transpose", "back_t", linear("proj", joined), perm=[0, 2, 1]), "to_image")
    mixed = add("Add", "residual", whole, back)
    mixed = add("Conv", "mix", mixed, "mix_w", "mix_b", pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    flat = add("Flatten", "flat", add("GlobalAveragePool", "pool", add("Relu", "mix_r", mixed)))
    add("Gemm", "y", flat, "head_w", "head_b", transB=1)
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, classes])],
        [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
