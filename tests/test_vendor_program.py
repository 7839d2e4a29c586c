"""A program that the board's maker built with an older compiler runs in the simulator, and is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.nv12_range import video_range_nv12
from edge.images import class_names, open_images
from edge.images.preprocess import resize_crop, rgb_to_nv12
from edge.runtime import Net, load
from edge.simulate.binfile import read_bin
from edge.specs import Preprocess
from edge.toolchain.found import Toolchain

PREPROCESS = Preprocess(crop=(224, 224), resize=256, interpolation="bilinear")
NAME = "models/vendor_mobilenetv2_224x224_nv12.bin"


@pytest.fixture(scope="module")
def program(shared: Path) -> Path:
    return shared / NAME


@pytest.fixture
def net(program: Path, toolchain: Toolchain) -> Net:
    labels = class_names("imagenet")
    return load(program, "hbdk_sim", preprocess=PREPROCESS, labels=labels)


def test_what_the_file_says_of_itself(program: Path) -> None:
    content = read_bin(program)
    assert [node.op for node in content.nodes] == ["BPU", "Dequantize", "Softmax"]
    assert content.origin["BUILDER_VERSION"] == "1.23.5"
    assert content.origin["INPUT_TYPE_TRAIN"] == "bgr;"
    assert content.origin["MEAN_VALUE"].startswith("103.94,116.78,123.68")
    assert content.constants["fc7_x_scale"].shape == (1000,)


@pytest.mark.compiler
def test_it_knows_photographs_and_video_range_moves_its_answers(net: Net, shared: Path) -> None:
    """``benchmarks/nv12_range.py`` measures 500; of the seventh to the fourteenth, six are right."""
    items = open_images(shared / "data/imagenet_val_500", classes=1000)[6:14]
    right, moved = 0, 0.0
    with net:
        assert net.info.outputs[0].shape == (1, 1000, 1, 1)
        for item in items:
            rgb = np.ascontiguousarray(resize_crop(item.load(), PREPROCESS))
            full = net.run(rgb_to_nv12(rgb))[0].reshape(-1)
            assert full.sum() == pytest.approx(1, abs=1e-5)
            right += int(full.argmax()) == item.label
            if full.max() < 0.7:  # a sure answer hardly moves
                video = net.run(video_range_nv12(rgb))[0].reshape(-1)
                moved = max(moved, float(np.abs(full - video).max()))
        (best, chance), *_ = net.classify(items[0].path or "")
    assert right >= 5
    assert best == "porcupine, hedgehog"
    assert chance > 0.9
    assert moved > 0.1


def test_video_range_is_what_opencv_makes_of_primary_colours() -> None:
    """BT.601 in video range: luma 16..235, chroma 16..240."""
    for colour, expected in (
        ((0, 0, 0), (16, 128, 128)),
        ((255, 255, 255), (235, 128, 128)),
        ((255, 0, 0), (82, 90, 240)),
    ):
        nv12 = video_range_nv12(np.full((2, 2, 3), colour, np.uint8))
        assert nv12.tolist() == [expected[0]] * 4 + list(expected[1:])
