"""The demo's images and network: the same bytes everywhere, and a network that a wrong input path hurts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest

from edge.errors import ModelFileError, UsageError
from edge.images.demo import CLASSES, COLORS, Split, draw, label
from edge.images.preprocess import network_input, network_input_from_nv12, resize_crop, rgb_to_nv12
from edge.sources.demo_weights import pack, unpack
from edge.specs import Preprocess

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

PRE = Preprocess()
SPLITS = get_args(Split)
SHIPPED = Path(str(resources.files("edge"))) / "zoo" / "demo" / "ConvNeXt_atto_demo.onnx"
RECORD = SHIPPED.with_suffix(".json")
IMAGES = 384  # eight of each class
COMPARED = 96

# --- images -----------------------------------------------------------------------------------------------

# The demo weights were trained on exactly these bytes: a change here means training again.
GOLDEN = "b4ea36792f748d2201d21e540628fadb7b11c224c42884b0e2740080f4622f0f"


def test_bytes_of_the_images_never_change() -> None:
    digest = hashlib.sha256()
    for split in SPLITS:
        for index in range(16):
            digest.update(draw(split, index)[0].tobytes())
    assert digest.hexdigest() == GOLDEN


def test_a_image_is_rgb_bytes_and_a_label_in_range() -> None:
    rgb, drawn = draw("test", 5)
    assert (rgb.shape, rgb.dtype, rgb.flags.c_contiguous) == ((224, 224, 3), np.uint8, True)
    assert 0 <= drawn < len(CLASSES)
    assert drawn == label("test", 5)


def test_splits_and_seeds_and_indices_share_no_image() -> None:
    keys = [(split, index, seed) for split in SPLITS for index in range(8) for seed in (0, 1)]
    assert len({draw(*key)[0].tobytes() for key in keys}) == len(keys)


@pytest.mark.parametrize("split", SPLITS)
def test_any_run_of_48_images_shows_every_class_once(split: Split) -> None:
    assert set(Counter(label(split, 1000 + i) for i in range(len(CLASSES))).values()) == {1}


def test_the_outer_frame_shows_another_class_than_the_subject() -> None:
    reds = [i for i in range(48) if CLASSES[label("test", i)].startswith("red")]
    for index in reds:
        rgb = draw("test", index)[0].astype(int)
        frame = np.concatenate([rgb[:10].reshape(-1, 3), rgb[-10:].reshape(-1, 3)])
        vivid = frame[frame.max(1) - frame.min(1) > 120]
        assert np.median(vivid[:, 1]) > 70, "red subjects sit in orange frames"


@pytest.mark.parametrize(("split", "index", "seed"), [("validation", 0, 0), ("test", -1, 0), ("test", 0, -1)])
def test_wrong_arguments_say_what_is_expected(split: str, index: int, seed: int) -> None:
    with pytest.raises(UsageError) as caught:
        draw(split, index, seed)  # type: ignore[arg-type]
    assert caught.value.expected


# --- weights ------------------------------------------------------------------------------------------------


def _tiny(value: float = 0.1) -> onnx.ModelProto:
    helper = onnx.helper
    weight = onnx.numpy_helper.from_array(np.array([value, 0.3], np.float32), "w")
    shape = onnx.numpy_helper.from_array(np.array([2], np.int64), "shape")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["data", "w"], ["m"]), helper.make_node("Reshape", ["m", "shape"], ["prob"])],
        "g",
        [helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("prob", onnx.TensorProto.FLOAT, [2])],
        [weight, shape],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def test_packing_rounds_to_float16_and_back_leaves_the_rest(tmp_path: Path) -> None:
    model = _tiny()
    path = tmp_path / "packed.onnx"
    onnx.save(pack(model), path)
    back = unpack(path)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in back.graph.initializer}
    np.testing.assert_array_equal(tensors["w"], np.float32(np.float16([0.1, 0.3])))
    assert tensors["w"].dtype == np.float32
    np.testing.assert_array_equal(tensors["shape"], [2])
    assert list(back.graph.node) == list(model.graph.node)
    assert model == _tiny(), "pack works on a copy"
    assert pack(back) == pack(model), "a second round changes nothing"
    output = onnxruntime.InferenceSession(back.SerializeToString()).run(None, {"data": np.ones(2, np.float32)})
    np.testing.assert_array_equal(output[0], tensors["w"])


def test_a_weight_beyond_float16_is_refused() -> None:
    with pytest.raises(ModelFileError, match="1e\\+06"):
        pack(_tiny(1e6))


@pytest.mark.parametrize("content", [None, b"", b"no onnx", "cut"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "broken.onnx"
    if content == "cut":
        content = pack(_tiny()).SerializeToString()[:-20]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match="broken"):
        unpack(path)


# --- the shipped network ------------------------------------------------------------------------------------


def test_the_shipped_weights_are_small_and_the_record_is_of_them() -> None:
    assert SHIPPED.stat().st_size <= 8_000_000
    record = json.loads(RECORD.read_text())
    assert record["file_sha256"] == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert record["training"]["classes"] == list(CLASSES)
    assert record["float"]["images"] >= 2000
    low, high = record["float"]["top1_wilson95"]
    assert low < record["float"]["top1"] < high


def test_the_shipped_graph_is_what_the_mapper_wants() -> None:
    model = unpack(SHIPPED)
    assert [o.version for o in model.opset_import] == [11]
    sides = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert (model.graph.input[0].name, sides) == ("data", [1, 3, 224, 224])
    assert model.graph.output[0].name == "prob"
    # Precision recipes name nodes by these module paths.
    assert all(n.name.startswith(("/stem/", "/stages/", "/head/")) for n in model.graph.node)


Path_ = Callable[[np.ndarray], np.ndarray]


def _video_range(rgb: np.ndarray) -> np.ndarray:
    """NV12 as OpenCV makes it, read as full range: the common mismatch."""
    planar = cv2.cvtColor(resize_crop(rgb, PRE), cv2.COLOR_RGB2YUV_I420)
    luma, chroma = planar[:224], planar[224:].reshape(2, -1).T
    return network_input_from_nv12(np.concatenate([luma.reshape(-1), chroma.reshape(-1)]), PRE)


def _normalized_twice(rgb: np.ndarray) -> np.ndarray:
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (PRE.mean, PRE.std))
    return (network_input(resize_crop(rgb, PRE), PRE) - mean) / std


PATHS: dict[str, Path_] = {
    "right": lambda rgb: network_input(resize_crop(rgb, PRE), PRE),
    "full-range NV12": lambda rgb: network_input_from_nv12(rgb_to_nv12(resize_crop(rgb, PRE)), PRE),
    "swapped channels": lambda rgb: network_input(resize_crop(rgb[..., ::-1], PRE), PRE),
    "video-range NV12": _video_range,
    "normalized twice": _normalized_twice,
    "no crop": lambda rgb: network_input(rgb, PRE),
}


@pytest.fixture(scope="module")
def hits() -> Callable[[str, int], np.ndarray]:
    """Return which of the first n test images come out right through a named path."""
    session = onnxruntime.InferenceSession(unpack(SHIPPED).SerializeToString())
    images = [draw("test", i) for i in range(IMAGES)]

    def run(name: str, count: int) -> np.ndarray:
        scores = (session.run(None, {"data": PATHS[name](rgb)})[0] for rgb, _ in images[:count])
        return np.array([int(s.argmax()) == truth for s, (_, truth) in zip(scores, images, strict=False)])

    return run


@pytest.fixture(scope="module")
def right(hits: Callable[[str, int], np.ndarray]) -> np.ndarray:
    return hits("right", IMAGES)


def test_float_top1_is_good_but_not_perfect(right: np.ndarray) -> None:
    assert 80 <= 100 * right.mean() <= 97
    low, high = json.loads(RECORD.read_text())["float"]["top1_wilson95"]
    assert low - 4 < 100 * right.mean() < high + 4, "the record describes another network"


def test_the_network_leans_on_no_single_colour(right: np.ndarray) -> None:
    for color in COLORS:
        mine = [hit for i, hit in enumerate(right) if CLASSES[label("test", i)].startswith(color)]
        assert np.mean(mine) > 0.6, color


def test_the_right_nv12_costs_little(hits: Callable[[str, int], np.ndarray], right: np.ndarray) -> None:
    assert 100 * (right[:COMPARED].mean() - hits("full-range NV12", COMPARED).mean()) < 4


@pytest.mark.parametrize(
    ("path", "points"), [("swapped channels", 40), ("video-range NV12", 5), ("normalized twice", 50), ("no crop", 10)]
)
def test_a_wrong_input_path_costs_top1(
    hits: Callable[[str, int], np.ndarray], right: np.ndarray, path: str, points: float
) -> None:
    assert 100 * (right[:COMPARED].mean() - hits(path, COMPARED).mean()) >= points


# --- the script ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [[], ["train"], ["export"], ["measure"]])
def test_the_training_script_explains_itself(step: list[str]) -> None:
    script = Path(__file__).parent.parent / "scripts" / "train_demo.py"
    shown = subprocess.run([sys.executable, script, *step, "--help"], capture_output=True, text=True, check=True)
    assert "usage:" in shown.stdout
