from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cattrs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.errors import CalibrationError, CompileError, ModelFileError
from edge.images.preprocess import network_input, network_input_from_nv12, rgb_to_nv12
from edge.progress import Silent
from edge.simulate.portable import PortableResult, quantize
from edge.specs import Preprocess

PRE = Preprocess(crop=(32, 32), resize=32)
CLASSES = 8


def tiny_net(path: Path, *, opset: int = 11, layout: str = "NCHW", op: str = "Relu") -> Path:
    """Conv, activation, depthwise Conv, average, Gemm; channels of different scale."""
    rng = np.random.default_rng(0)
    scale = np.logspace(-0.3, 0.3, 16).astype(np.float32).reshape(-1, 1, 1, 1)
    tensors = {
        "w0": rng.normal(size=(16, 3, 3, 3)).astype(np.float32) * scale,
        "b0": rng.normal(size=16).astype(np.float32),
        "w1": rng.normal(size=(16, 1, 3, 3)).astype(np.float32) / scale,
        "w2": rng.normal(size=(CLASSES, 16)).astype(np.float32),
        "b2": rng.normal(size=CLASSES).astype(np.float32),
    }
    first = "image" if layout == "NCHW" else "moved"
    nodes = [
        helper.make_node("Conv", [first, "w0", "b0"], ["a"], "/stem/Conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node(op, ["a"], ["b"], "/act"),
        helper.make_node("Conv", ["b", "w1"], ["c"], "/dw/Conv", group=16, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "/pool"),
        helper.make_node("Flatten", ["d"], ["e"], "/flat"),
        helper.make_node("Gemm", ["e", "w2", "b2"], ["scores"], "/head/Gemm", transB=1),
    ]
    shape = [1, 3, 32, 32]
    if layout == "NHWC":
        nodes.insert(0, helper.make_node("Transpose", ["image"], ["moved"], "/in", perm=[0, 3, 1, 2]))
        shape = [1, 32, 32, 3]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.save(model, path)
    return path


def images(n: int, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return list(coarse.repeat(8, axis=1).repeat(8, axis=2))


def calibration(folder: Path, n: int = 12, pre: Preprocess = PRE) -> Path:
    from edge.images.preprocess import arrange

    folder.mkdir()
    for number, rgb in enumerate(images(n, seed=2)):
        arrange(rgb.astype(np.float32), pre).tofile(folder / f"{number:03}.bin_f32")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def scores(path: Path, inputs: list[np.ndarray]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.stack([session.run(None, {name: x})[0].ravel() for x in inputs])


def run(tmp_path: Path, out: Path, model: Path | None = None, pre: Preprocess = PRE) -> PortableResult:
    folder = tmp_path / "calibration_data_rgb_f32"
    return quantize(
        model=model or tiny_net(tmp_path / "tiny.onnx"),
        calibration=folder if folder.exists() else calibration(folder, pre=pre),
        preprocess=pre,
        prefix="tiny_32x32_nv12",
        out=out,
    )


def relative_error(reference: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(reference - other).mean() / reference.std())


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_quantized_stays_close_to_float_in_stock_onnxruntime(tmp_path: Path, out: Path, opset: int) -> None:
    model = tiny_net(tmp_path / "tiny.onnx", opset=opset)
    result = run(tmp_path, out, model)
    frames = [rgb_to_nv12(rgb) for rgb in images(40)]
    inputs = [network_input_from_nv12(frame, PRE) for frame in frames]
    expected, got = scores(model, inputs), scores(out / result.onnx, frames)
    assert 0 < relative_error(expected, got) < 0.05
    assert (expected.argmax(1) == got.argmax(1)).mean() >= 0.9


def test_the_closeness_gate_fails_on_wrong_weights(tmp_path: Path, out: Path) -> None:
    result = run(tmp_path, out)
    broken = onnx.load(out / result.onnx)
    weight = next(t for t in broken.graph.initializer if t.name == "w1_quantized")
    weight.CopyFrom(numpy_helper.from_array(255 - numpy_helper.to_array(weight), weight.name))
    onnx.save(broken, tmp_path / "broken.onnx")
    expected = scores(tmp_path / "tiny.onnx", [network_input(rgb, PRE) for rgb in images(10)])
    got = scores(tmp_path / "broken.onnx", [rgb_to_nv12(rgb) for rgb in images(10)])
    assert relative_error(expected, got) > 0.2


def test_weights_are_symmetric_for_each_channel(tmp_path: Path, out: Path) -> None:
    result = run(tmp_path, out)
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(out / result.onnx).graph.initializer}
    assert tensors["w0_scale"].shape == (16,)
    assert tensors["w0_quantized"].dtype == np.uint8
    middle = set(tensors["w0_zero_point"].tolist())
    assert middle in ({127}, {128})  # onnxruntime 1.23 rounds the middle down, later ones up


def test_counts_names_and_record(tmp_path: Path, out: Path) -> None:
    result = run(tmp_path, out)
    assert result.onnx == "tiny_32x32_nv12_portable_int8.onnx"
    assert [path.name for path in out.iterdir()] == [result.onnx]  # no .bin, no scratch files
    data = (out / result.onnx).read_bytes()
    assert (result.bytes, result.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert result.images == 12
    assert result.quantized == 5  # two Conv, pool, Flatten, Gemm; Relu became the first Conv's range
    assert result.floating == 0
    back = cattrs.structure(json.loads(json.dumps(cattrs.unstructure(result))), PortableResult)
    assert back == result


def test_what_is_not_linear_stays_float(tmp_path: Path, out: Path) -> None:
    result = run(tmp_path, out, tiny_net(tmp_path / "tiny.onnx", op="Sigmoid"))
    assert result.floating == 1


def test_same_inputs_give_same_bytes(tmp_path: Path, out: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    assert run(tmp_path, out).sha256 == run(tmp_path, again).sha256


def test_channels_last_and_bgr(tmp_path: Path, out: Path) -> None:
    pre = Preprocess(crop=(32, 32), resize=32, layout="NHWC", color="bgr")
    model = tiny_net(tmp_path / "tiny.onnx", layout="NHWC")
    result = run(tmp_path, out, model, pre)
    frames = [rgb_to_nv12(rgb) for rgb in images(20)]
    expected = scores(model, [network_input_from_nv12(frame, pre) for frame in frames])
    assert relative_error(expected, scores(out / result.onnx, frames)) < 0.1


def test_progress_counts_the_images(tmp_path: Path, out: Path) -> None:
    class Listener(Silent):
        fractions: list[float] = []  # noqa: RUF012 - one instance

        def update(self, text: str, fraction: float | None = None) -> None:
            if fraction is not None:
                self.fractions.append(fraction)

    listener = Listener()
    quantize(
        model=tiny_net(tmp_path / "tiny.onnx"),
        calibration=calibration(tmp_path / "c", n=4),
        preprocess=PRE,
        prefix="t",
        out=out,
        reporter=listener,
    )
    assert listener.fractions == [0.25, 0.5, 0.75, 1.0]


def test_refuses_an_empty_or_missing_calibration_set(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "calibration_data_rgb_f32"
    for _ in range(2):
        with pytest.raises(CalibrationError, match="no calibration images"):
            quantize(model=tiny_net(tmp_path / "t.onnx"), calibration=folder, preprocess=PRE, prefix="t", out=out)
        folder.mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(3 * 32 * 31, np.float32), "holds 2976 values"),
        (np.full(3 * 32 * 32, 256, np.float32), "outside 0..255"),
        (np.full(3 * 32 * 32, np.nan, np.float32), "outside 0..255"),
    ],
    ids=["size", "range", "nan"],
)
def test_refuses_a_bad_calibration_file(tmp_path: Path, out: Path, values: np.ndarray, message: str) -> None:
    folder = calibration(tmp_path / "calibration_data_rgb_f32", n=3)
    values.tofile(folder / "bad.f32")
    with pytest.raises(CalibrationError, match=message) as caught:
        run(tmp_path, out)
    assert "bad.f32" in caught.value.seen


def test_refuses_what_is_no_model(tmp_path: Path, out: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"<html>")
    with pytest.raises(ModelFileError):
        run(tmp_path, out, tmp_path / "no.onnx")


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_a_network_that_breaks_is_a_clear_failure(tmp_path: Path, out: Path) -> None:
    path = tiny_net(tmp_path / "tiny.onnx")
    model = onnx.load(path)
    bias = next(t for t in model.graph.initializer if t.name == "b2")
    bias.CopyFrom(numpy_helper.from_array(np.full(CLASSES, np.nan, np.float32), "b2"))
    onnx.save(model, path)
    with pytest.raises(CompileError, match="portable quantization") as caught:
        run(tmp_path, out, path)
    assert "edge toolchain install" in str(caught.value)
