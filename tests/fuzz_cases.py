"""The cases of :mod:`tests.fuzzing`: what is damaged, how, and the commands that read it."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import yaml
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from tests import trained_net
from tests.conftest import save_images, save_net

Command = list[str]
OUTSIDE = "../outside/keep.txt"
BUILD = ("--mean", "0", "--std", "1", "--resize", "64", "--compiler", "onnxruntime")
CALIBRATED = ("--calib", "imgs", "--calib-count", "4")
MEASURED = ("--images", "imgs", "--count", "4")
DEEP: list[Any] = []
for _ in range(3000):
    DEEP = [DEEP]
NAMES = (
    OUTSIDE, "/etc/passwd", "..", ".", "", " ", "a\0b", "x" * 300, "ü雪🙂", "\ud800", "$HOME", "~", "\x1b[31mred",
    "%s{0}{x}", "-rf", "a\nb", "a/b", "a\\b", "net.onnx/x", "*", "[", "'\"", "\u202eabc", "1" * 5000,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *NAMES, None, True, False, 0, -1, 1, 2, 10**9, 2**31, 2**63, 10**40, -(10**40), 0.5, 1e308, 1e-320, float("inf"),
    float("nan"), [], {}, [[]], [None], {"a": 1}, {"": None}, [1, 2, 3], [1, 2], [10**6, 10**6], "1e999", "0x10",
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values inside a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inner for place in _places(child, (*path, key)))]


def damaged_document(document: Any, rng: random.Random) -> Any:
    """Return a document with one to three values replaced, removed, renamed, exchanged or added."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(document)
        path = rng.choice(places[1:] or places)
        if not path:
            return rng.choice(VALUES)
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        key, what = path[-1], rng.randrange(8)
        if what < 4:
            parent[key] = rng.choice(VALUES)
        elif what == 4:
            del parent[key]
        elif what == 5:
            parent[key] = DEEP if rng.random() < 0.3 else [parent[key]] * rng.choice((1, 2, 1000))
        elif what == 6 and isinstance(parent, dict):
            parent[rng.choice((*NAMES, "name"))] = parent.pop(key)
        else:
            other = rng.choice(places)
            found = document
            for step in other:
                found = found[step]
            parent[key] = json.loads(json.dumps(found))
    return document


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes flipped, cut, exchanged or with others put in."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if len(result) < 2:
            return bytes(result)
        at, what = rng.randrange(len(result)), rng.randrange(7)
        to = min(len(result), at + rng.choice((1, 4, 32, 500)))
        if what < 2:
            result[at] ^= 1 << rng.randrange(8)
        elif what == 2:
            del result[at:]
        elif what == 3:
            del result[at:to]
        elif what == 4:
            result[at:at] = rng.choice(
                (b"\0", b"\xff" * 9, b"\t", b"\xef\xbb\xbf", b"\n", b"{", b"- ", rng.randbytes(9))
            )
        elif what == 5:
            other = rng.randrange(len(result))
            result[at:at] = result[other : other + 64]
        else:
            result[at:to] = rng.randbytes(to - at)
    return bytes(result)


_YAML_BOMBS = (
    "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}, *{p}, *{p}]\n" for p, c in pairwise("abcdefghijklm")),
    "name: !!python/object/apply:os.system ['touch ../outside/x']\n",
    "a: &a\n  b: *a\n", "? [1, 2]\n: 3\n", "name: 2020-01-01\nsources: !!binary aGFsbG8=\n", "name: !!set {a, b}\n",
    "--- a\n--- b\n", "%YAML 9.9\n---\na: 1\n", "<<: *x\n", "<<: [1, 2]\n", "1: 2\nnull: 3\ntrue: 4\n",
)  # fmt: skip


def damaged_text(document: Any, rng: random.Random, as_yaml: bool) -> bytes:
    """Return the text of a document that is damaged as one, or as text."""

    def dumped(value: Any) -> str:
        if as_yaml:
            return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=rng.random() < 0.5))
        return json.dumps(value)

    what = rng.randrange(12)
    if what < 8:
        try:
            return dumped(damaged_document(document, rng)).encode("utf-8", "surrogatepass")
        except RecursionError:
            return b"[" * 100_000
    if what < 10:
        return damaged_bytes(dumped(document).encode(), rng)
    if as_yaml and what == 10:
        extra = rng.choice(_YAML_BOMBS)
        return (extra if rng.random() < 0.5 else dumped(document) + extra).encode()
    return rng.choice(
        (b"", b"\0" * 100, b"\xff\xfe\0\0", b"{" * 50_000, b"- " * 20_000, b"null", b"[]", b'"x"', rng.randbytes(300))
    )


# ---- ONNX


@cache
def _net(which: str) -> bytes:
    if which == "small":
        path = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp") / "edge-fuzz-net.onnx"
        save_net(path)
        data = path.read_bytes()
        path.unlink()
        return data
    return trained_net.network(trained_net.train()).SerializeToString()


def _damaged_model(rng: random.Random, folder: Path) -> bytes:
    data = _net(rng.choice(("small", "trained", "trained")))
    if rng.random() < 0.3:
        return damaged_bytes(data, rng)
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_GRAPH)(model, rng, folder)
    return model.SerializeToString()


def _dims(model: ModelProto, rng: random.Random, _: Path) -> None:
    values = [*model.graph.input, *model.graph.output]
    dims = rng.choice(values).type.tensor_type.shape.dim
    bad = rng.choice((0, -1, 1, 2, 7, 10**9, 2**40, 2**62))
    what = rng.randrange(4)
    if what == 0 or not dims:
        dims.add().dim_value = bad
    elif what == 1:
        dims.pop()
    elif what == 2:
        rng.choice(dims).dim_param = rng.choice(("N", *NAMES[:9]))
    else:
        rng.choice(dims).dim_value = bad


def _tensor(model: ModelProto, rng: random.Random, folder: Path) -> None:
    if not model.graph.initializer:
        return
    tensor, what = rng.choice(model.graph.initializer), rng.randrange(10)
    if what == 0:
        model.graph.initializer.remove(tensor)
    elif what == 1:
        tensor.dims[:] = [rng.choice((side, side, 0, -1, 10**9, 2**62, 3)) for side in tensor.dims]
    elif what == 2:
        tensor.data_type = rng.choice((0, 2, 7, 8, 10, 11, 14, 22, 99))
    elif what == 3:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif what == 4:
        size = max(1, len(tensor.raw_data) // 4)
        array = np.full(size, rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-40, 0)), np.float32)
        tensor.raw_data = array.tobytes()
    elif what == 5:
        model.graph.initializer.append(tensor)
    elif what == 6:
        tensor.name = rng.choice([n for n in NAMES if n != "\ud800"])
    elif what == 7:
        tensor.float_data.extend([1.0] * 5)
    else:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", rng.choice((OUTSIDE, "/etc/passwd", "weights.bin", "", "/dev/zero", ".", "link.bin"))),
            ("offset", rng.choice(("0", "-1", "10000000000", "x"))),
            ("length", rng.choice(("16", "-1", "100000000000", "x"))),
        ):
            if rng.random() < 0.8:
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value
        (folder / "weights.bin").write_bytes(b"\0" * 64)
        if not (folder / "link.bin").is_symlink():
            (folder / "link.bin").symlink_to(OUTSIDE)


def _node(model: ModelProto, rng: random.Random, _: Path) -> None:
    if not model.graph.node:
        return
    nodes = model.graph.node
    node, what = rng.choice(nodes), rng.randrange(14)
    if what == 0:
        node.op_type = rng.choice(
            ("Foo", "", "Relu", "Loop", "If", "NonZero", "Sigmoid", "ConstantOfShape", "Tile", "x" * 300)
        )
    elif what == 1:
        node.domain = rng.choice(("com.example", "ai.onnx.ml", "\x1b[31m", "ai.onnx"))
    elif what == 2:
        node.input[rng.randrange(len(node.input))] = rng.choice(("missing", "", node.output[0], "y"))
    elif what == 3:
        node.output[0] = rng.choice(("x", "", "y", rng.choice(nodes).output[0]))
    elif what == 4:
        nodes.remove(node)
    elif what == 5:
        nodes.append(node)
    elif what == 6:
        for other in nodes:
            other.name = rng.choice(("same", "", "../x", "a\0b", "x" * 300, "ü雪🙂"))
    elif what == 7:
        node.attribute.append(
            helper.make_attribute(
                rng.choice(("strides", "kernel_shape", "pads", "group", "foo", "axis")),
                rng.choice(([0, 0], [-1, 5], 0, 10**9, "x", [1e9], [10**9, 10**9])),
            )
        )
    elif what == 8 and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.type = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 11)) if rng.random() < 0.3 else attribute.type
        for place in range(len(attribute.ints)):
            attribute.ints[place] = rng.choice((0, -1, 10**9, 2**62, 1))
        attribute.i = rng.choice((0, -1, 10**9))
    elif what == 9 and node.attribute:
        node.attribute.remove(rng.choice(node.attribute))
    elif what == 10:
        graph = helper.make_graph([], "inner", [], [])
        attribute = node.attribute.add()
        attribute.name, attribute.type = "then_branch", AttributeProto.GRAPH
        attribute.g.CopyFrom(graph)
    elif what == 11:  # grows without end, or to 40 GB
        size = numpy_helper.from_array(
            np.array(rng.choice(([100_000, 100_000], [0], [-1], [10**6, 10**5])), np.int64), "big"
        )
        model.graph.initializer.append(size)
        nodes.insert(0, helper.make_node("ConstantOfShape", ["big"], ["filled"], name="filled"))
        nodes.insert(1, helper.make_node("ReduceSum", ["filled"], ["sum"], keepdims=0, name="sum"))
        last = nodes[-1].output[0]
        nodes[-1].output[0] = "before"
        nodes.append(helper.make_node("Add", ["before", "sum"], [last], name="added"))
    elif what == 12:
        last = nodes[-1].output[0]
        nodes[-1].output[0] = "before"
        nodes.append(
            helper.make_node(
                rng.choice(("Softmax", "Sigmoid", "TopK", "ArgMax", "Transpose", "Identity", "Dropout")),
                ["before"],
                [last],
                name="tail",
            )
        )
    else:
        shuffled = list(nodes)
        rng.shuffle(shuffled)
        del nodes[:]
        nodes.extend(shuffled)


def _model(model: ModelProto, rng: random.Random, _: Path) -> None:
    what = rng.randrange(12)
    if what == 0:
        model.ir_version = rng.choice((0, 1, 3, 99, 2**40))
    elif what == 1:
        model.opset_import[0].version = rng.choice((0, -1, 1, 6, 9, 13, 17, 21, 999, 2**40))
    elif what == 2:
        del model.opset_import[:]
    elif what == 3:
        model.opset_import.append(helper.make_opsetid(rng.choice(("", "com.microsoft", "ai.onnx.ml", "x")), 3))
    elif what == 4:
        del model.graph.output[:]
    elif what == 5:
        del model.graph.input[:]
    elif what == 6:
        model.graph.input.append(helper.make_tensor_value_info("z", rng.choice((1, 7, 8, 0)), [1, 2]))
    elif what == 7:
        model.graph.output.append(helper.make_tensor_value_info(rng.choice(("z", "x", "y", "p")), 1, [1, 4]))
    elif what == 8:
        rng.choice([*model.graph.input, *model.graph.output]).type.tensor_type.elem_type = rng.choice(
            (0, 2, 7, 8, 10, 99)
        )
    elif what == 9:
        rng.choice([*model.graph.input, *model.graph.output]).name = rng.choice([n for n in NAMES if n != "\ud800"])
    elif what == 10:
        rng.choice([*model.graph.input, *model.graph.output]).ClearField("type")
    else:
        model.graph.name = rng.choice(("", "../x", "x" * 300))
        entry = model.metadata_props.add()
        entry.key, entry.value = (
            rng.choice(("edge.exact", "edge.size", "x")),
            rng.choice(("1", "99999999x2", "x", "\0")),
        )


_GRAPH: tuple[Callable[[ModelProto, random.Random, Path], None], ...] = (_dims, _tensor, _node, _node, _model)


def onnx_file(rng: random.Random, folder: Path) -> list[Command]:
    """The user's network."""
    name = rng.choice(("net.onnx", "net.onnx", "ü雪 🙂.onnx", "-x.onnx", "a b'c.onnx"))
    (folder / name).write_bytes(_damaged_model(rng, folder))
    save_images(folder / "imgs", 4)
    path = f"./{name}"
    what = rng.randrange(10)
    if what < 6:
        return [["export", path, *BUILD[:-2]]]
    if what < 8:
        return [["simplify", path, *BUILD[:-2]]]
    return [
        [
            "build",
            path,
            *BUILD,
            *CALIBRATED,
            *MEASURED,
            *rng.choice(([], ["--output", "p"], ["--output", "../x"], ["--crop", "96"])),
        ]
    ]


# ---- images


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, depth: int, color: int, rows: bytes, *extra: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    packed = zlib.compress(rows, 1)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + b"".join(extra) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")
    )


@cache
def _bomb(side: int) -> bytes:
    """A PNG of few bytes and many pixels."""
    packer = zlib.compressobj(1)
    row = b"\0" * (1 + (side + 7) // 8)
    packed = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _exif(orientation: int) -> bytes:
    body = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def _encoded(ending: str, image: np.ndarray[Any, Any], *options: int) -> bytes:
    return cv2.imencode(ending, image, options)[1].tobytes()


@cache
def _images() -> Mapping[str, bytes]:
    """Whole images of every form."""
    rng = np.random.default_rng(5)
    rgb = rng.integers(0, 256, (70, 90, 3), np.uint8)
    deep, alpha = rgb.astype(np.uint16) * 257, np.dstack([rgb, rgb[..., :1]])
    jpeg = _encoded(".jpg", rgb)
    found = {f"plain{ending}": _encoded(ending, rgb) for ending in (".png", ".bmp", ".webp", ".tif", ".ppm")}
    found |= {"plain.jpg": jpeg, "progressive.jpg": _encoded(".jpg", rgb, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)}
    found |= {f"exif{n}.jpg": jpeg[:2] + _exif(n) + jpeg[2:] for n in (0, 3, 6, 8, 99)}
    found |= {
        "deep.png": _encoded(".png", deep),
        "deep.tif": _encoded(".tif", deep),
        "alpha.png": _encoded(".png", alpha),
    }
    found |= {"grey.png": _encoded(".png", rgb[..., 0]), "float.tif": _encoded(".tif", rgb.astype(np.float32) / 255)}
    palette = _chunk(b"PLTE", rng.integers(0, 256, 48, np.uint8).tobytes())
    found["palette.png"] = _png(64, 64, 4, 3, b"".join(b"\0" + rng.bytes(32) for _ in range(64)), palette)
    found["none.png"] = _png(64, 64, 4, 3, b"".join(b"\0" + rng.bytes(32) for _ in range(64)))
    found["thin.png"] = _png(10_000, 1, 1, 0, b"\0" + b"\x55" * 1250)
    found["one.png"] = _png(1, 1, 8, 0, b"\0\x55")
    try:
        from PIL import Image
    except ImportError:
        pass
    else:
        for name, mode, format_ in (("cmyk.jpg", "CMYK", "JPEG"), ("cmyk.tif", "CMYK", "TIFF"), ("p.bmp", "P", "BMP")):
            stream = io.BytesIO()
            Image.fromarray(rgb).convert(mode).save(stream, format_)
            found[name] = stream.getvalue()
    return found


def _damaged_image(rng: random.Random) -> tuple[str, bytes]:
    name, data = rng.choice(list(_images().items()))
    what = rng.randrange(12)
    if what == 0:
        return name, data
    if what == 1:
        return name, rng.choice(
            (
                b"",
                b"\0",
                b"\xff\xd8",
                b"\xff\xd8\xff\xd9",
                b"\x89PNG\r\n\x1a\n",
                b"P6 -5 9999999999 255\n",
                b"BM",
                b"II*\0\xff\xff\xff\xff",
                b"<html>",
                b"GIF89a" + b"\0" * 99,
                b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 90000 +X 90000\n",
                b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 99,
                b"Pf\n3 3\n-1.0\n" + b"\0" * 40,
            )
        )
    if what == 2:
        sizes = (0, 1, 3, 65535, 30_000, 100_000, 2**31 - 1, 2**32 - 1)
        width, height = rng.choice(sizes), rng.choice(sizes)
        if name.endswith(".png"):
            head = struct.pack(">II", width, height) + data[24:29]
            return name, data[:8] + _chunk(b"IHDR", head) + data[33:]
        if name.endswith(".bmp"):
            return name, data[:18] + struct.pack("<II", width, height) + data[26:]
        at = data.find(b"\xff\xc0")
        if at > 0:
            return name, data[: at + 5] + struct.pack(">HH", height % 65536, width % 65536) + data[at + 9 :]
        return name, data.replace(b"90 70", f"{width} {height}".encode(), 1)
    if what == 3 and name.endswith(".png"):
        kind = rng.choice((b"iCCP", b"gAMA", b"sRGB", b"tEXt", b"zTXt", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"ABCD"))
        return name, data[:33] + _chunk(kind, rng.randbytes(rng.choice((0, 1, 3, 4, 30)))) + data[33:]
    if what == 4:
        return name.rpartition(".")[0] + rng.choice((".png", ".jpg", ".tif", ".webp", ".bmp", ".ppm")), data
    if what == 5 and rng.random() < 0.2:
        return "bomb.png", _bomb(rng.choice((12_000, 30_000)))
    return name, damaged_bytes(data, rng)


def image_files(rng: random.Random, folder: Path) -> list[Command]:
    """The user's images."""
    _received(folder)
    images = folder / "photos"
    images.mkdir()
    for number in range(4):
        name, data = _damaged_image(rng)
        (images / f"{number}{rng.choice(('', 'ü雪', ' ', chr(10), chr(27) + '[31m'))}{name}").write_bytes(data)
    if rng.random() < 0.2:
        (images / "link.png").symlink_to(rng.choice(("../../outside/keep.txt", "nowhere", ".", "/dev/zero")))
    if rng.random() < 0.1:
        (images / "folder.png").mkdir()
    what = rng.randrange(6)
    if what < 3:
        out = ["--out", "build/out"] if rng.random() < 0.5 else []
        return [["run", "build/net", "photos", "--backend", "portable", *out]]
    if what < 5:
        save_net(folder / "net.onnx")
        return [["calibrate", "net.onnx", "--build-dir", "build/other", *BUILD[:-2], "--calib", "photos"]]
    return [
        ["eval", "build/net", "--images", "photos", "--steps", "simplified,portable", *rng.choice(([], ["--json"]))]
    ]


# ---- YAML


def model_yaml(rng: random.Random, folder: Path) -> list[Command]:
    """A model YAML."""
    save_net(folder / "net.onnx")
    (folder / "names.txt").write_text("a\nb\nc\nd\n")
    save_images(folder / "imgs", 4)
    document: dict[str, Any] = {
        "name": "net", "sources": {"onnx": "net.onnx"}, "labels": "names.txt", "classes": 4, "precision": "int8",
        "preprocess": {"crop": [64, 64], "resize": 64, "interpolation": "bilinear", "color": "rgb",
                       "mean": [0, 0, 0], "std": [1, 1, 1], "layout": "NCHW"},
        "published": {"source": "x", "float_top1": 50.0, "latency_ms": 1.0}, "output": "y",
    }  # fmt: skip
    (folder / "m.yaml").write_bytes(damaged_text(document, rng, as_yaml=True))
    if rng.random() < 0.8:
        return [[rng.choice(("export", "export", "calibrate")), "m.yaml"]]
    return [["build", "m.yaml", "--compiler", "onnxruntime", *CALIBRATED, *MEASURED]]


def recipe_yaml(rng: random.Random, folder: Path) -> list[Command]:
    """A precision recipe."""
    save_net(folder / "net.onnx")
    save_images(folder / "imgs", 4)
    document: dict[str, Any] = {
        "name": "mine", "calibration": {"method": "max", "max_percentile": 0.999, "per_channel": True,
                                        "optimization": ["set_all_nodes_int16"]},
        "nodes": {"pool": {"on": "BPU", "inputs": "int8", "outputs": "int16"}, "*": {"outputs": "int8"}},
        "compiler": {"optimize_level": "O0", "compile_mode": "latency", "jobs": 4}, "note": "x",
        "rewrites": ["channel_mean"], "equalization": {"images": 4}, "rounding": {"images": 4, "damping": 0.01},
        "range_split": rng.choice([2, {"groups": 2, "places": ["conv"], "images": 4}]),
        "evidence": {"float_sha256": "0", "chosen_on": "a", "reported_on": "b", "n": 4, "agreement": 99.0,
                     "agreement_int8": 98.0, "level": "O0", "versions": {"edge": "1"}},
    }  # fmt: skip
    for key in ("rewrites", "equalization", "range_split", "rounding", "evidence"):
        if rng.random() < 0.7:
            del document[key]
    (folder / "r.yaml").write_bytes(damaged_text(document, rng, as_yaml=True))
    if rng.random() < 0.1:
        return [["build", "net.onnx", *BUILD, *CALIBRATED, *MEASURED, "--precision", "r.yaml"]]
    return [["render", "net.onnx", *BUILD[:-2], *CALIBRATED, "--precision", "r.yaml"]]


def calibration_yaml(rng: random.Random, folder: Path) -> list[Command]:
    """A calibration set."""
    save_net(folder / "net.onnx")
    save_images(folder / "imgs", 4)
    document = {"name": "mine", "images": "imgs", "n": 4, "seed": 0, "note": "x"}
    (folder / "c.yaml").write_bytes(damaged_text(document, rng, as_yaml=True))
    return [["calibrate", "net.onnx", *BUILD[:-2], "--calib", "c.yaml"]]


def mapper_yaml(rng: random.Random, folder: Path) -> list[Command]:
    """A mapper YAML, to lint and to import."""
    golden = sorted((Path(__file__).parent / "golden").rglob("*.yaml"), key=lambda path: (path.stat().st_size, path))[
        :4
    ]
    text = rng.choice(golden).read_text()
    save_net(folder / "net.onnx")
    document = yaml.safe_load(text)
    document["model_parameters"]["onnx_model"] = "net.onnx"
    (folder / "cal").mkdir()
    document["calibration_parameters"]["cal_data_dir"] = "cal"
    (folder / "m.yaml").write_bytes(
        damaged_bytes(text.encode(), rng) if rng.random() < 0.3 else damaged_text(document, rng, as_yaml=True)
    )
    model = rng.choice(([], ["--model", "net.onnx"]))
    return [["lint", "m.yaml", *model, *rng.choice(([], ["--json"]))], ["import", "m.yaml", "--out", "build/new.yaml"]]


# ---- labels


def labels(rng: random.Random, folder: Path) -> list[Command]:
    """labels.csv, a list, class names, synsets."""
    _received(folder)
    images = save_images(folder / "imgs", 4)
    names = sorted(str(path.relative_to(images)) for path in images.rglob("*.png"))
    what = rng.randrange(4)
    strange = [*NAMES, "99999999999", "-1", "0.5", "1 2", "#", '"', "nan", "\uff11", "0/000.png\t1", "²"]

    def line(name: str, label: str, separator: str) -> str:
        if rng.random() < 0.25:
            label = rng.choice(strange)
        if rng.random() < 0.15:
            name = rng.choice(strange)
        return f"{name}{separator}{label}" if rng.random() < 0.95 else rng.choice((name, "", separator, name * 100_000))

    def written(path: Path, lines: list[str]) -> None:
        data = rng.choice(("\n", "\n", "\r\n", "\r", "\n\n")).join(lines).encode("utf-8", "surrogatepass")
        path.write_bytes(damaged_bytes(data, rng) if rng.random() < 0.3 else data)

    source = "imgs"
    if what == 0:
        written(
            images / "labels.csv",
            ["filename,class_index", *(line(name, str(n % 4), ",") for n, name in enumerate(names))],
        )
    elif what == 1:
        source = rng.choice(("imgs", "imgs/val.txt"))
        written(images / "val.txt", [line(name, str(n % 4), " ") for n, name in enumerate(names)])
    elif what == 2:
        written(folder / "names.txt", [line(name, "", " ") for name in ("a", "b", "c", "d")])
        photo = str(Path("imgs") / names[0])
        return [["run", "build/net", photo, "--backend", "portable", "--labels", "names.txt"]]
    else:
        for number, child in enumerate(sorted(p for p in images.iterdir() if p.is_dir())):
            child.rename(images / f"n0{number:07d}")
        written(images / "synsets.txt", [line(f"n0{n:07d}", "name", " ") for n in range(4)])
    return [
        [
            "eval",
            "build/net",
            "--images",
            source,
            "--steps",
            "simplified,portable",
            "--label-offset",
            rng.choice(("0", "1", "-9", str(2**40))),
        ]
    ]


# ---- a build folder or bundle of someone else


def _template(root: Path) -> Path:
    """The folder of one whole build; made once."""
    place = root / "template"
    if not (place / "done").exists():
        from tests.fuzzing import run

        folder = place / "case"
        folder.mkdir(parents=True, exist_ok=True)
        save_net(folder / "net.onnx")
        save_images(folder / "imgs", 4)
        (folder / "names.txt").write_text("a\nb\nc\nd\n")
        for command in (
            ["build", "net.onnx", *BUILD, *CALIBRATED, *MEASURED, "--labels", "names.txt"],
            ["eval", "build/net", "--images", "imgs", "--steps", "simplified,portable"],
            ["bundle", "build/net"],
        ):
            done = run(command, folder)
            assert done.code == 0, done.err
        (place / "done").touch()
    return place / "case" / "build"


def _received(folder: Path) -> Path:
    shutil.copytree(_template(folder.parents[1]), folder / "build", symlinks=True)
    return folder / "build" / "net"


def _listed_again(build: Path) -> None:
    """Bring hashes up to date where the documents can still be read."""
    for name, key in (("metadata.json", "files"), ("manifest.json", "artifacts")):
        try:
            document = json.loads((build / name).read_text())
            entries = document[key]
            for entry in entries.values() if isinstance(entries, dict) else entries:
                if (build / entry["path"]).is_file():
                    data = (build / entry["path"]).read_bytes()
                    entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # damaged beyond a list of files
        (build / name).write_text(json.dumps(document))


def received(rng: random.Random, folder: Path) -> list[Command]:
    """metadata.json, manifest.json, the other documents, the portable model, links."""
    build = _received(folder)
    images = save_images(folder / "imgs", 4)
    name = "build/net"
    what = rng.randrange(10)
    if what < 3:
        name, build = rng.choice((("build/net_bundle", folder / "build" / "net_bundle"), (name, build)))
        _damage_json(build / "metadata.json", rng)
    elif what < 5:
        _damage_json(build / "manifest.json", rng)
    elif what < 7:
        path = rng.choice(sorted(p for p in build.rglob("*.json") if p.is_file()))
        _damage_json(path, rng)
        if rng.random() < 0.5:
            _listed_again(build)
    elif what == 7:
        path = next(build.glob("*_portable_int8.onnx"))
        model = onnx.load(path)
        path.unlink()
        for _ in range(rng.choice((1, 2))):
            rng.choice(_GRAPH)(model, rng, build)
        path.write_bytes(
            damaged_bytes(model.SerializeToString(), rng) if rng.random() < 0.2 else model.SerializeToString()
        )
        _listed_again(build)
    elif what == 8:
        for path in rng.sample(sorted(build.iterdir()), 2):
            _replaced(path, rng)
    else:
        new = build / ".next"
        new.mkdir()
        (new / ".gone.json").write_bytes(
            damaged_text(["../outside/keep.txt", "../../outside/keep.txt", "report.md"], rng, as_yaml=False)
        )
        (new / "metadata.json").symlink_to(build / "metadata.json")
        (new / "x").symlink_to("../../../../outside")
        (new / "folder").mkdir()
    photo = str(next(images.rglob("*.png")).relative_to(folder))
    (folder / "net.onnx").write_bytes(_net("small"))
    commands: list[Command] = [
        ["run", name, photo], ["bench", name, "--frames", "2", "--threads", "1"], ["bundle", name], ["report", name],
        ["report", name, "build/net", "--out", "build/c.html"], ["eval", name, "--images", "imgs", "--count", "4"],
        ["bundle", name, "--out", "build/b.tar.gz"], ["eval", name, "--images", "imgs", "--json"],
        ["diagnose", name, "--images", "imgs", "--count", "4"],
        ["build", "net.onnx", *BUILD, *CALIBRATED, *MEASURED],
    ]  # fmt: skip
    return rng.sample(commands, 2)


def _damage_json(path: Path, rng: random.Random) -> None:
    document = json.loads(path.read_text())
    path.unlink()
    path.write_bytes(damaged_text(document, rng, as_yaml=False))


def _replaced(path: Path, rng: random.Random) -> None:
    """Put a link, a folder or nothing where something was."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    what = rng.randrange(5)
    if what < 2:
        path.symlink_to("../../../outside/keep.txt" if what else "../../../outside/folder")
    elif what == 2:
        path.mkdir()
    elif what == 3:
        path.symlink_to(path.name)


KINDS: Mapping[str, Callable[[random.Random, Path], list[Command]]] = {
    "onnx": onnx_file, "images": image_files, "model": model_yaml, "recipe": recipe_yaml,
    "calibration": calibration_yaml, "mapper": mapper_yaml, "labels": labels, "received": received,
}  # fmt: skip
