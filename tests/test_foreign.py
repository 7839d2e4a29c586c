"""Files of other tools are known by their content, and each refusal says what to do."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from edge.foreign import foreign
from tests.conftest import Run, save_images, save_net

HEADS = {
    "lfs.onnx": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer", "git lfs pull"),
    "page.onnx": (b"\n<!DOCTYPE html><html>", "an HTML page", "download it again"),
    "empty.onnx": (b"", "is empty", "download it again"),
    "net.tflite": (b"\x1c\0\0\0TFL3rest", "TensorFlow Lite", "--tflite net.tflite --output net.onnx"),
    "net.h5": (b"\x89HDF\r\n\x1a\nrest", "HDF5", "--keras net.h5"),
    "net.rknn": (b"RKNN\0\0", "Rockchip", "the ONNX that it was made from"),
    "net.prototxt": (b'name: "net"\nlayer { }', "Caffe", "caffe2onnx"),
    "net.caffemodel": (b"\x0a\x03net", "Caffe", "caffe2onnx"),
    "old.pth": (b"\x80\x02}q\0", "pickle", "torch.onnx.export"),
    "photo.onnx": (b"\xff\xd8\xff\xe0", "is an image", "export it as ONNX"),
}
ARCHIVES = {
    "net.keras": ("config.json", "model.weights.h5", "a Keras model", "--keras"),
    "script.onnx": ("net/constants.pkl", "net/code/a.py", "is TorchScript", "name it script.pt"),
    "weights.onnx": ("net/data.pkl", "net/data/0", "pickle", "torch.onnx.export"),
    "files.onnx": ("a.txt", "b.txt", "a ZIP archive", "unpack it"),
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, (head, _, _) in HEADS.items():
        (tmp_path / name).write_bytes(head)
    for name, (one, two, _, _) in ARCHIVES.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(one, "1")
            archive.writestr(two, "2")
    return tmp_path


@pytest.mark.parametrize("name", [*HEADS, *ARCHIVES])
def test_build_says_what_the_file_is_and_the_way_on(edge: Run, files: Path, name: str) -> None:
    *_, what, remedy = (HEADS | ARCHIVES)[name]
    code, _, err = edge("build", name, "--mean", "0", "--std", "255", "--crop", "64")
    assert code in (1, 2)
    assert what in err
    assert remedy in err.split("next:")[1]


def test_what_edge_reads_is_not_foreign(tmp_path: Path) -> None:
    assert foreign(save_net(tmp_path / "net.onnx")) is None
    (tmp_path / "net.yaml").write_text("sources: {onnx: net.onnx}\n")
    assert foreign(tmp_path / "net.yaml") is None


def test_images_that_are_not_read_are_named(edge: Run, tmp_path: Path) -> None:
    save_net(tmp_path / "net.onnx")
    save_images(tmp_path / "images", 4)
    (tmp_path / "images" / "1" / "extra.gif").write_bytes(b"GIF89a")
    code, _, err = edge("calibrate", "net.onnx", "--mean", "0", "--std", "255", "--calib", "images")
    assert code == 1
    assert "1 image that edge does not read, such as extra.gif" in err
    assert "next: convert" in err


def test_raw_tensors_are_known(edge: Run, tmp_path: Path) -> None:
    save_net(tmp_path / "net.onnx")
    (tmp_path / "calibration_data").mkdir()
    (tmp_path / "calibration_data" / "0.rgb").write_bytes(bytes(12))
    code, _, err = edge("calibrate", "net.onnx", "--mean", "0", "--std", "255", "--calib", "calibration_data")
    assert code == 1
    assert "raw tensors (0.rgb, …)" in err
    assert "next: give the images" in err
