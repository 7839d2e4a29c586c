"""A small classifier that is really trained, in a second, and the images that it knows.

Random convolutions and a head solved by ridge regression tell eight colours; four of them are two pairs that
exchange red and blue, four are greys, so that wrong channels, wrong range and wrong normalisation all show.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 64
COLORS = {
    "red": (200, 50, 60), "blue": (60, 50, 200), "orange": (215, 130, 45), "azure": (45, 130, 215),
    "black": (8, 8, 8), "charcoal": (28, 28, 28), "grey": (200, 200, 200), "silver": (225, 225, 225),
}  # fmt: skip
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
DEAD = 5  # a channel of the first convolution that is always 0 behind its ReLU
Weights = Mapping[str, NDArray[np.float32]]


def image(label: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a disc of the class's colour over a smooth background, RGB (64, 64, 3)."""
    coarse = rng.integers(60, 190, (4, 4, 3)).astype(np.float32)
    canvas = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    color = np.array(list(COLORS.values())[label], np.float32) + rng.normal(0, 4, 3)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    y, x = rng.integers(24, 40, 2)
    inside = (rows - y) ** 2 + (columns - x) ** 2 < rng.integers(24, 30) ** 2
    canvas[inside] = color
    canvas = canvas + rng.normal(0, 3, canvas.shape)
    return np.clip(cv2.GaussianBlur(canvas, (3, 3), 0), 0, 255).astype(np.uint8)


def save_images(folder: Path, n: int, seed: int) -> Path:
    """Save n images in class folders."""
    rng = np.random.default_rng(seed)
    for index in range(n):
        name = list(COLORS)[index % len(COLORS)]
        path = folder / f"{index % len(COLORS)}" / f"{name}_{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image(index % len(COLORS), rng)[..., ::-1])
    return folder


def save_noise(folder: Path, n: int) -> Path:
    """Save n images of independent grey-level noise."""
    rng = np.random.default_rng(9)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(n):
        cv2.imwrite(str(folder / f"{index:03d}.png"), rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    return folder


def normalized(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the network's input, (1, 3, 64, 64)."""
    data = (rgb.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(data.transpose(2, 0, 1)[None], np.float32)


def train() -> Weights:
    """Return the weights: the same on every call."""
    rng = np.random.default_rng(3)
    weights: dict[str, NDArray[np.float32]] = {
        "w1": rng.normal(0, 0.2, (24, 3, 4, 4)).astype(np.float32),
        "b1": rng.normal(0, 0.5, 24).astype(np.float32),
        "w2": rng.normal(0, 0.1, (48, 24, 3, 3)).astype(np.float32),
        "b2": rng.normal(0, 0.3, 48).astype(np.float32),
        "w3": np.eye(48, dtype=np.float32),
        "b3": np.zeros(48, np.float32),
    }
    weights["w1"][DEAD], weights["b1"][DEAD] = 0, -1
    session = onnxruntime.InferenceSession(
        network(weights, classes=48).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    labels = np.arange(640) % len(COLORS)
    features = np.concatenate(
        [session.run(None, {"x": normalized(image(int(label), rng))})[0] for label in labels]
    ).astype(np.float64)
    wide = np.hstack([features, np.ones((len(features), 1))])
    wanted = np.eye(len(COLORS))[labels] * 8
    solved = np.linalg.solve(wide.T @ wide + 1e-2 * np.eye(wide.shape[1]), wide.T @ wanted)
    weights["w3"] = np.ascontiguousarray(solved[:-1].T, np.float32)
    weights["b3"] = np.ascontiguousarray(solved[-1], np.float32)
    return weights


def network(weights: Weights, *, classes: int = len(COLORS), own_normalisation: bool = False) -> onnx.ModelProto:
    """Return the classifier; it takes 0..255 and normalises by itself if asked to."""
    nodes, constants = [], dict(weights)
    x = "x"
    if own_normalisation:
        constants |= {
            "mean": np.array(MEAN, np.float32).reshape(1, 3, 1, 1),
            "std": np.array(STD, np.float32).reshape(1, 3, 1, 1),
        }
        nodes += [
            helper.make_node("Sub", ["x", "mean"], ["centred"], name="/norm/Sub"),
            helper.make_node("Div", ["centred", "std"], ["normal"], name="/norm/Div"),
        ]
        x = "normal"

    def conv(name: str, *names: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node("Conv", list(names[:3]), [names[3]], name=name, **attributes)

    nodes += [
        conv("/stem/Conv", x, "w1", "b1", "c1", strides=[4, 4], kernel_shape=[4, 4]),
        helper.make_node("Relu", ["c1"], ["r1"], name="/stem/act/Relu"),
        conv("/block/Conv", "r1", "w2", "b2", "c2", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c2"], ["r2"], name="/block/act/Relu"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="/head/pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="/head/flat"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], name="/head/fc/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "trained",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, classes])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def with_outlier(weights: Weights, times: float = 50.0) -> Weights:
    """Return weights in which every channel of the second convolution has an outlier on the dead channel.

    The float network's answers stay: what the outliers multiply is always 0.
    """
    changed = dict(weights)
    changed["w2"] = weights["w2"].copy()
    changed["w2"][:, DEAD, 1, 1] = times * np.abs(weights["w2"]).max()
    return changed
