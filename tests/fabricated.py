"""A finished build folder, made within a second: a tiny classifier as float ONNX and as portable model.

Both average the image's RGB over a 2x2 grid and apply a linear head; the portable one takes NV12 as all
portable models do, and its head's weights are rounded, so that the two differ as float and quantized do.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.folder.metadata import FileEntry, Metadata, Role, write_metadata
from edge.images.demo import draw
from edge.specs import Preprocess

MEAN, STD = 127.5, 50.0
# RGB from YUV, full range, as the compiler's preprocess node has it.
MATRIX = np.array([[1, 0, 1.40170], [1, -0.34370, -0.71420], [1, 1.77220, 0]], np.float32)
STATIC = {"latency_us": 1231.6, "fps": 811.95, "ddr_bytes": 4696416, "march": "bayes-e", "optimize_level": "O3"}
NAMES = ("red thing", "green thing", "blue thing", "grey thing")


def make_build(
    folder: Path, *, size: int = 64, names: tuple[str, ...] = NAMES, program: bytes | None = None, exact: bool = True
) -> Path:
    """Write the folder as ``edge build`` publishes it; ``program`` is what stands in for the ``.bin``."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder.name
    prefix = f"{model}_{size}x{size}_nv12"
    rng = np.random.default_rng(7)
    head = rng.normal(0, 1.2, (12, len(names))).astype(np.float32)
    onnx.save(float_net(size, head), folder / f"{model}.onnx")
    rounded = np.round(head * 8) / np.float32(8)
    onnx.save(portable_net(size, rounded, exact=exact), folder / f"{prefix}_portable_int8.onnx")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    files: dict[Role, str] = {"portable": f"{prefix}_portable_int8.onnx", "labels": "labels.txt"}
    if program is not None:
        (folder / f"{prefix}.bin").write_bytes(program)
        files["bin"] = f"{prefix}.bin"
    rule = Preprocess(
        crop=(size, size), resize=size * 8 // 7, interpolation="bilinear", mean=(MEAN,) * 3, std=(STD,) * 3
    )
    entries = {role: entry(folder / name) for role, name in files.items()}
    write_metadata(
        folder / "metadata.json",
        Metadata(model, model, "random", rule, len(names), entries, {"hbdk": "3.49.15"}, exact=exact, scores="logits"),
    )
    manifest = {"schema_version": 1, "name": model, "static": STATIC, "artifacts": []}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / ".edge-workspace").write_text("{}")
    return folder


def entry(path: Path) -> FileEntry:
    data = path.read_bytes()
    return FileEntry(path.name, len(data), hashlib.sha256(data).hexdigest())


def float_net(size: int, head: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        _tail("x", size),
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, size, size))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, head.shape[1]))],
        [numpy_helper.from_array(head, "head")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def portable_net(size: int, head: np.ndarray, *, exact: bool) -> onnx.ModelProto:
    """Flat uint8 NV12 in, scores out, standard operators only."""
    half, luma = size // 2, size * size
    node = helper.make_node
    nodes = [
        node("Cast", ["nv12"], ["bytes"], to=TensorProto.FLOAT),
        node("Slice", ["bytes", "zero", "luma"], ["y_flat"]),
        node("Slice", ["bytes", "luma", "end"], ["uv_flat"]),
        node("Reshape", ["y_flat", "y_shape"], ["y"]),
        node("Reshape", ["uv_flat", "uv_shape"], ["uv_nhwc"]),
        node("Transpose", ["uv_nhwc"], ["uv_half"], perm=[0, 3, 1, 2]),
        node("Resize", ["uv_half", "", "scales"], ["uv"], mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Concat", ["y", "uv"], ["yuv"], axis=1),
        node("Conv", ["yuv", "matrix", "offset"], ["x"]),
        *_tail("x", size),
    ]  # fmt: skip
    values = {
        "zero": np.array([0], np.int64),
        "luma": np.array([luma], np.int64),
        "end": np.array([luma * 3 // 2], np.int64),
        "y_shape": np.array([1, 1, size, size], np.int64),
        "uv_shape": np.array([1, half, half, 2], np.int64),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "matrix": (MATRIX / STD).reshape(3, 3, 1, 1).astype(np.float32),
        "offset": ((-128 * MATRIX[:, 1:].sum(axis=1) - MEAN) / STD).astype(np.float32),
        "head": head,
    }
    graph = helper.make_graph(
        nodes,
        "portable",
        [helper.make_tensor_value_info("nv12", TensorProto.UINT8, (luma * 3 // 2,))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, head.shape[1]))],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"edge.size": f"{size}x{size}", "edge.exact": "1" if exact else "0"})
    return model


def save_photo(path: Path, index: int = 0, color: tuple[int, int, int] | None = None) -> Path:
    """Write a rendered image, or one of a single RGB colour, 120 rows of 160."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = draw("test", index)[0][:120, :160] if color is None else np.full((120, 160, 3), color, np.uint8)
    cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))
    return path


def _tail(x: str, size: int) -> list[onnx.NodeProto]:
    half = size // 2
    return [
        helper.make_node("AveragePool", [x], ["grid"], kernel_shape=[half, half], strides=[half, half]),
        helper.make_node("Flatten", ["grid"], ["features"]),
        helper.make_node("MatMul", ["features", "head"], ["scores"]),
    ]
