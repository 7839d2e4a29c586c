"""Networks that take feature maps or several inputs: samples, the mapper YAML, the program, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

import edge as package
from edge.compiler.render import render
from edge.errors import ImageError, ModelFileError
from edge.images import ImageItem
from edge.images.calibrate import calibrate
from edge.images.samples import as_sample, holds_samples, open_samples, program_input, read_sample
from edge.simulate.portable.translate import translated
from edge.sources.check import inspect_onnx
from edge.specs import ModelSpec, Precision, Preprocess, Sources
from edge.specs.schema import Input
from tests.conftest import Run, save_images

PRE = Preprocess(crop=(64, 64), resize=None, mean=(127.5,) * 3, std=(127.5,) * 3)
TWO = (Input("image", (1, 3, 64, 64), image=True), Input("pose", (1, 6), image=False))
MAP = (Input("x", (1, 1, 40, 101), image=False),)
WORDS = ("--mean", "127.5", "--std", "127.5", "--resize", "stretch")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def save(path: Path, nodes: list, inputs: dict, outputs: dict, stored: dict) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


def save_two(path: Path) -> Path:
    """An image and six numbers, which are added to its features."""
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w"], ["c"], "c/Conv", kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["c"], ["r"], "r/Relu"),
        node("MatMul", ["pose", "pw"], ["p"], "p/MatMul"),
        node("Reshape", ["p", "ps"], ["p4"], "p4/Reshape"),
        node("Add", ["r", "p4"], ["s"], "s/Add"),
        node("Conv", ["s", "v"], ["y"], "y/Conv", kernel_shape=[1, 1]),
    ]
    stored = {
        "w": normal(0, 8, 3, 3, 3),
        "pw": normal(1, 6, 8),
        "ps": np.array([1, 8, 1, 1]),
        "v": normal(2, 4, 8, 1, 1),
    }
    return save(path, nodes, {"image": (1, 3, 64, 64), "pose": (1, 6)}, {"y": (1, 4, 32, 32)}, stored)


def save_map(path: Path) -> Path:
    """A spectrogram: one channel, and a width that no camera image may have."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "c/Conv", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["y"], "y/Relu"),
    ]
    return save(path, nodes, {"x": (1, 1, 40, 101)}, {"y": (1, 8, 40, 101)}, {"w": normal(0, 8, 1, 3, 3)})


def with_integers(path: Path) -> Path:
    """The same map of int8 numbers, which the network converts."""
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
    model.graph.node[0].input[0] = "f"
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["f"], "f/Cast", to=TensorProto.FLOAT))
    onnx.save(model, path)
    return path


def arrays_of(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    image = np.kron(random.integers(0, 256, (10, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    return {"image": image, "pose": random.normal(0, 1, 6)}


def samples_of_two(folder: Path, count: int = 24) -> Path:
    folder.mkdir()
    for seed in range(count):
        np.savez(folder / f"{seed:03d}.npz", **arrays_of(seed))
    return folder


def samples_of_map(folder: Path, count: int = 24) -> Path:
    folder.mkdir()
    for seed in range(count):
        np.save(folder / f"{seed:03d}.npy", normal(seed, 1, 40, 101))
    return folder


# --- which inputs are images


def test_inputs_are_told_apart_by_their_shapes_and_by_name(tmp_path: Path) -> None:
    two = save_two(tmp_path / "two.onnx")
    assert inspect_onnx(two, task="raw").inputs == TWO
    both = inspect_onnx(two, task="raw", featuremap="all").inputs
    assert [one.image for one in both] == [False, False]
    assert [one.image for one in inspect_onnx(two, task="raw", featuremap="image").inputs] == [False, False]
    with pytest.raises(ModelFileError, match="no input of that name") as error:
        inspect_onnx(two, task="raw", featuremap="imag")
    assert error.value.expected == "image, pose"


def test_one_channel_is_grey_unless_it_is_said_to_be_none(tmp_path: Path) -> None:
    path = save_map(tmp_path / "map.onnx")
    assert inspect_onnx(path, task="raw").inputs == ()  # grey: one camera image
    assert inspect_onnx(path, task="raw", featuremap="all").inputs == MAP


def test_a_classifier_takes_one_image(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="2 inputs") as error:
        inspect_onnx(save_two(tmp_path / "two.onnx"))
    assert "--task raw" in str(error.value.remedy)


# --- samples


def test_a_sample_is_read_as_the_network_takes_it(tmp_path: Path) -> None:
    samples = open_samples(samples_of_two(tmp_path / "s", 3))
    assert holds_samples(tmp_path / "s")
    assert not holds_samples(save_images(tmp_path / "images", 4))
    assert [item.name for item in samples] == ["000.npz", "001.npz", "002.npz"]
    taken, digest = read_sample(samples[1], TWO, PRE)
    assert taken["image"].shape == (64, 64, 3)
    assert taken["pose"].dtype == np.float32
    np.testing.assert_array_equal(taken["pose"], arrays_of(1)["pose"].astype(np.float32)[None])
    assert digest == samples[1].sha256
    assert program_input(taken["image"]).size == 64 * 64 * 3 // 2
    assert program_input(taken["pose"]) is taken["pose"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pose": np.zeros(5)}, "numbers of"),
        ({"pose": np.full(6, np.nan)}, "finite"),
        ({"pose": np.array(["a"] * 6)}, "numbers of"),
        ({"image": np.zeros((8, 8, 3), np.float32)}, "RGB, uint8"),
        ({"other": np.zeros(1)}, "arrays named image, pose"),
    ],
)
def test_an_array_that_does_not_fit_is_named(change: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(ImageError, match="the sample") as error:
        as_sample({**arrays_of(0), **change}, TWO, PRE)
    assert says in str(error.value.expected)


def test_files_that_are_no_samples_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(6))
    with pytest.raises(ImageError, match="one array for 2 inputs"):
        read_sample(ImageItem("one.npy", path=tmp_path / "one.npy"), TWO, PRE)
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    for name in ("objects.npy", "cut.npz", "gone.npy"):
        with pytest.raises(ImageError):
            read_sample(ImageItem(name, path=tmp_path / name), MAP, PRE)
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1, 1, 40, 101, 500)))
    with pytest.raises(ImageError, match="unpacks to"):
        read_sample(ImageItem("bomb", path=tmp_path / "bomb.npz"), MAP, PRE)


def test_calibration_writes_a_folder_an_input(tmp_path: Path) -> None:
    samples = open_samples(samples_of_two(tmp_path / "s", 20))
    (tmp_path / "out").mkdir()
    result = calibrate(images=samples, preprocess=PRE, inputs=TWO, n=20, out=tmp_path / "out")
    folder = tmp_path / "out" / result.directory
    assert result.n == len(list((folder / "0_f32").iterdir())) == len(list((folder / "1_f32").iterdir())) == 20
    file = result.images[4].file
    image = np.fromfile(folder / "0_f32" / file, "<f4").reshape(3, 64, 64)
    taken, _ = read_sample(samples[4], TWO, PRE)
    np.testing.assert_array_equal(image, taken["image"].transpose(2, 0, 1))
    np.testing.assert_array_equal(np.fromfile(folder / "1_f32" / file, "<f4"), taken["pose"].ravel())


def test_the_mapper_yaml_has_an_item_an_input(tmp_path: Path) -> None:
    spec = ModelSpec("two", Sources(onnx="two.onnx"), PRE, labels=None, classes=None, task="raw")
    made = render(
        spec=spec,
        precision=Precision("int8"),
        prefix="two",
        onnx_model="./two.onnx",
        cal_data_dir="./c/0_f32;./c/1_f32",
        working_dir="./out",
        inputs=TWO,
        model=save_two(tmp_path / "two.onnx"),
        calibration_files=[("0_f32/a.bin", 4 * 3 * 64 * 64), ("1_f32/a.bin", 24)],
        out=tmp_path,
    )
    found = yaml.safe_load((tmp_path / made.yaml).read_text())["input_parameters"]
    assert found["input_name"] == "image;pose"
    assert found["input_type_rt"] == "nv12;featuremap"
    assert found["input_shape"] == "1x3x64x64;1x6"
    assert found["norm_type"] == "data_mean_and_scale;no_preprocess"
    assert found["mean_value"] == "127.5 127.5 127.5;None"


# --- what is refused


def test_what_lacks_is_told_before_any_work(edge: Run, tmp_path: Path) -> None:
    two, images = str(save_two(tmp_path / "two.onnx")), str(save_images(tmp_path / "images", 4))
    code, _, err = edge("build", two, "--task", "raw", *WORDS, "--compiler", "onnxruntime")
    assert code == 1
    assert "next: --calib DIR" in err
    code, _, err = edge("build", two, "--task", "raw", *WORDS, "--calib", images, "--compiler", "onnxruntime")
    assert code == 1
    assert "numpy.savez(path, image=(RGB image), pose=(1x6))" in err
    samples = str(samples_of_two(tmp_path / "s", 20))
    code, _, err = edge("build", two, "--task", "raw", *WORDS, "--calib", samples, "--compiler", "onnxruntime")
    assert code == 2
    assert "edge toolchain install" in err


def test_a_map_that_counts_as_a_grey_image_names_the_way_out(edge: Run, tmp_path: Path) -> None:
    code, _, err = edge("export", str(save_map(tmp_path / "map.onnx")), "--task", "raw", *WORDS[:4])
    assert code == 0, err
    assert "the network takes grey" in err
    assert "--featuremap all if it takes no camera image" in err


# --- the vendor's compiler


@pytest.mark.compiler
@pytest.mark.parametrize("kind", ["two", "map", "integers"])
def test_the_program_is_verified_and_equal_on_every_backend(edge: Run, tmp_path: Path, kind: str) -> None:
    if kind == "two":
        net, samples, words = save_two(tmp_path / "n.onnx"), samples_of_two(tmp_path / "s"), WORDS
        arrays = arrays_of(99)
    else:
        net, samples, words = save_map(tmp_path / "n.onnx"), samples_of_map(tmp_path / "s"), ("--featuremap", "x")
        arrays = {"x": normal(99, 1, 1, 40, 101)}
    if kind == "integers":
        with_integers(net)
        for file in samples.iterdir():
            np.save(file, np.round(300 * np.load(file)).clip(-128, 127).astype(np.int8))
        arrays = {"x": np.load(file)[None]}
    data = ("--calib", str(samples), "--calib-count", "20", "--level", "O0")
    code, out, err = edge("build", str(net), "--task", "raw", *words, *data)
    assert code == 0, err
    assert "sample.npz" in out
    assert "photo.jpg" not in out
    folder = tmp_path / "build" / "n"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["verify"]["bit_exact"]
    assert manifest["verify"]["portable_exact"]
    assert manifest["accuracy"]["outputs"][0]["snr_db"] > 25
    answers = {}
    for backend in ("hbdk_sim", "quantized", "portable"):
        with package.load(folder, backend) as loaded:
            answers[backend] = loaded.outputs(arrays)["y"]
            with pytest.raises(package.EdgeError, match="no single camera image"):
                loaded.nv12(np.zeros((8, 8, 3), np.uint8))
    np.testing.assert_array_equal(answers["hbdk_sim"], answers["portable"])
    np.testing.assert_array_equal(answers["quantized"], answers["portable"])
    code, out, err = edge("eval", str(folder))
    assert code == 0, err
    steps = {step["name"]: step["outputs"][0] for step in json.loads((folder / "eval.json").read_text())["steps"]}
    assert ("nv12" in steps) == (kind == "two")
    # The calibrated model's float input is the image less 128, and the other numbers as they are.
    assert steps["calibrated"]["snr_db"] == pytest.approx(steps["quantized"]["snr_db"], abs=1)
    first = str(next(samples.iterdir()))
    code, out, err = edge("run", str(folder), first)
    assert code == 0, err
    assert "y " in out
    code, _, err = edge("bundle", str(folder), "--out", "out")
    assert code == 0, err
    code, out, err = edge("run", "out", first, "--backend", "portable")
    assert code == 0, err


def test_a_portable_model_takes_each_input_under_its_name() -> None:
    """The vendor's form of two inputs, made by hand: an int8 image and float numbers."""
    node = helper.make_node
    scale = numpy_helper.from_array(np.float32(0.5), "scale")
    graph = helper.make_graph(
        [
            node("HzQuantize", ["pose", "scale"], ["q"], "q", domain="horizon", bits=8),
            node("HzDequantize", ["q", "scale"], ["y"], "d", domain="horizon"),
            node("HzDequantize", ["image", "scale"], ["z"], "e", domain="horizon"),
        ],
        "vendor",
        [
            helper.make_tensor_value_info("image", TensorProto.INT8, (1, 4, 32, 3)),
            helper.make_tensor_value_info("pose", TensorProto.FLOAT, (1, 6)),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 6)),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 4, 32, 3)),
        ],
        [scale],
    )
    opsets = [helper.make_opsetid("", 11), helper.make_opsetid("horizon", 1)]
    made = translated(helper.make_model(graph, opset_imports=opsets, ir_version=6))
    import onnxruntime

    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    nv12 = np.full(4 * 32 * 3 // 2, 130, np.uint8)
    y, z = session.run(None, {"image": nv12, "pose": np.array([[0.4, 1.2, -1.2, 0.25, 0.75, 900]], np.float32)})
    assert y.tolist() == [[0.5, 1.0, -1.0, 0.0, 1.0, 63.5]]  # halves to even, saturated
    assert (z == 1).all()  # 130 - 128, times 0.5
    notes = {entry.key: entry.value for entry in made.metadata_props}
    assert json.loads(notes["edge.inputs"]) == [["image", [1, 3, 4, 32], True], ["pose", [1, 6], False]]
