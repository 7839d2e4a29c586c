"""What a file of another tool is, told from its first bytes, and the way on from there."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import NamedTuple

HEAD = 512  # bytes that are looked at


class Foreign(NamedTuple):
    """A file that edge does not read."""

    what: str  #: continues "FILE is …".
    remedy: str  #: what to do; empty where only the user knows.


_KERAS = (
    "python -m tf2onnx.convert --opset 11 --keras {path} --output {stem}.onnx (pip install tf2onnx), then edge build"
)
_TFLITE = (
    "python -m tf2onnx.convert --opset 11 --tflite {path} --output {stem}.onnx (pip install tf2onnx), then edge build"
)
_CAFFE = "convert it to ONNX, for example with caffe2onnx, then edge build"
_AGAIN = "copy or download it again"
# Pattern at the beginning -> what it is, and the way on.
_HEADS = (
    (rb"version https://git-lfs", "is a Git LFS pointer, not the file itself", "git lfs pull"),
    (rb"\s*<(!doctype html|html)", "is an HTML page", _AGAIN),
    (rb"GIF8[79]a", "is a GIF", "convert it to PNG or JPEG"),
    (rb"\x89PNG|\xff\xd8\xff", "is an image", ""),
    (rb"....TFL3", "is a TensorFlow Lite model", _TFLITE),
    (rb"\x89HDF\r\n", "is an HDF5 file, as Keras writes weights and networks", _KERAS),
    (rb"RKNN", "is a program for a Rockchip NPU", "take the ONNX that it was made from"),
    (rb"\x1f\x8b", "is a gzip archive", "unpack it"),
    (rb"\x08\x01\x10\x01\x2a", "is a compiled program for the BPU", "edge run {path} IMAGE"),
    (rb"\x80[\x02-\x05]", "is a pickle, as torch.save writes it; it can run code, so edge opens none",
     "in your training code: torch.onnx.export(model.eval(), torch.zeros(1, 3, 224, 224), 'net.onnx')"),
    (rb".{8}\{.{0,400}\"dtype\"", "holds weights alone, as safetensors",
     "load them into the network in your training code, then torch.onnx.export it"),
    (rb"\s*(#.*\n\s*)*(name|input|input_dim|layers?)\s*[:{]", "is a network description of Caffe", _CAFFE),
)  # fmt: skip
# A name inside a ZIP archive -> the same.
_MEMBERS = (
    ("model.weights.h5", "is a Keras model", _KERAS),
    ("constants.pkl", "is TorchScript", "name it {stem}.pt"),
    (
        "data.pkl",
        "is a pickle, as torch.save writes it; it can run code, so edge opens none",
        "in your training code: torch.onnx.export(model.eval(), torch.zeros(1, 3, 224, 224), 'net.onnx')",
    ),
)
_ENDINGS = {".caffemodel": ("holds weights of Caffe", _CAFFE)}


def foreign(path: Path) -> Foreign | None:
    """Return what an existing file is, if it is known to be of another tool; None otherwise."""
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    if not head:
        return Foreign("is empty", _AGAIN)
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    for pattern, what, remedy in _HEADS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return _told(path, what, remedy)
    if known := _ENDINGS.get(path.suffix.lower()):
        return _told(path, *known)
    return None


def _archive(path: Path) -> Foreign:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()[:10_000]]
    except (zipfile.BadZipFile, OSError, ValueError):
        names = []
    for member, what, remedy in _MEMBERS:
        if member in names:
            return _told(path, what, remedy)
    return Foreign("is a ZIP archive", "unpack it")


def _told(path: Path, what: str, remedy: str) -> Foreign:
    return Foreign(what, remedy.format(path=path, stem=path.stem))
