"""ONNX files as people have them: half and double precision, bytes, grey, unread inputs, quantized, without weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.errors import ModelFileError
from edge.graph.files import image_input, load_onnx
from edge.sources.check import inspect_onnx
from edge.sources.mend import LUMA, mended, on_canvas
from edge.sources.options import Options
from edge.sources.resolve import resolve
from edge.specs import Preprocess

CLASSES = 5


def net(
    *, kind: int = TensorProto.FLOAT, channels: int = 3, last: bool = False, before: Sequence[onnx.NodeProto] = ()
) -> onnx.ModelProto:
    """Return a convolution, a mean over the image and a layer; ``before`` makes the value x of the image."""
    rng = np.random.default_rng(0)
    integers = helper.tensor_dtype_to_np_dtype(kind).kind in "iu"
    dtype = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT if integers else kind)
    shape = [1, 32, 32, channels] if last else [1, channels, 32, 32]
    if last and not before:
        before = [helper.make_node("Transpose", ["image"], ["x"], "/first", perm=[0, 3, 1, 2])]
    nodes = [
        *before,
        helper.make_node("Conv", ["x" if before else "image", "k"], ["c"], "/conv", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "/pool"),
        helper.make_node("Flatten", ["p"], ["f"], "/flat"),
        helper.make_node("Gemm", ["f", "w", "b"], ["scores"], "/head"),
    ]
    graph = helper.make_graph(
        nodes,
        "mend",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("scores", helper.np_dtype_to_tensor_dtype(dtype), [1, CLASSES])],
        [
            numpy_helper.from_array(rng.normal(0, 0.5, (4, channels, 3, 3)).astype(dtype), "k"),
            numpy_helper.from_array(rng.normal(0, 0.5, (4, CLASSES)).astype(dtype), "w"),
            numpy_helper.from_array(np.zeros(CLASSES, dtype), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def scores(model: onnx.ModelProto, image: NDArray[Any]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: image})[0]
    return result


def pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def test_a_plain_network_stays_itself() -> None:
    model = net()
    assert mended(model, "m")[0] is model


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_precisions_become_float32(kind: int, tmp_path: Path) -> None:
    before = net(kind=kind)
    after, notes = mended(before, "m")
    onnx.checker.check_model(after, full_check=True)
    kinds = {t.data_type for t in after.graph.initializer} | {
        value.type.tensor_type.elem_type for value in (*after.graph.input, *after.graph.output)
    }
    assert kinds == {TensorProto.FLOAT}
    stored = [numpy_helper.to_array(tensor) for tensor in before.graph.initializer]
    for tensor, wanted in zip(after.graph.initializer, stored, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), wanted.astype(np.float32))
    assert "float32" in notes[0]
    onnx.save(before, tmp_path / "net.onnx")
    assert inspect_onnx(tmp_path / "net.onnx").classes == CLASSES


def test_the_casts_around_half_precision_go() -> None:
    """As converters leave it: float32 outside, half inside."""
    model = net(kind=TensorProto.FLOAT16, before=[helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT16)])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.node[-1].output[0] = "half"
    model.graph.node.append(helper.make_node("Cast", ["half"], ["scores"], to=TensorProto.FLOAT))
    after, _ = mended(model, "m")
    onnx.checker.check_model(after, full_check=True)
    assert "Cast" not in [node.op_type for node in after.graph.node]
    image = np.random.default_rng(2).normal(size=(1, 3, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(scores(after, image), scores(model, image), atol=2e-2)


def test_numbers_beyond_float32_stay_finite_and_infinity_stays() -> None:
    model = net(kind=TensorProto.DOUBLE)
    values = numpy_helper.to_array(model.graph.initializer[1]).copy()
    values[0, :3] = [-1.7e308, -np.inf, 1.7e308]
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(values, "w"))
    largest = np.finfo(np.float32).max
    kept = numpy_helper.to_array(mended(model, "m")[0].graph.initializer[1])[0, :3]
    np.testing.assert_array_equal(kept, np.array([-largest, -np.inf, largest], np.float32))


@pytest.mark.parametrize("moved_first", [False, True], ids=["cast first", "moved first"])
def test_an_image_of_bytes_is_the_same_numbers(moved_first: bool, tmp_path: Path) -> None:
    names = ["image", "between", "x"]
    cast = {"op_type": "Cast", "to": TensorProto.FLOAT}
    moved = {"op_type": "Transpose", "perm": [0, 3, 1, 2]}
    order = (moved, cast) if moved_first else (cast, moved)
    before = [
        helper.make_node(inputs=[names[i]], outputs=[names[i + 1]], name=f"/n{i}", **step)
        for i, step in enumerate(order)
    ]
    model = net(kind=TensorProto.UINT8, last=True, before=before)
    after, (note,) = mended(model, "m")
    onnx.checker.check_model(after, full_check=True)
    assert "bytes" in note
    image = pixels(1, 32, 32, 3)
    np.testing.assert_array_equal(scores(after, image.astype(np.float32)), scores(model, image))
    onnx.save(model, tmp_path / "net.onnx")
    request, _ = resolve(Options(model=str(tmp_path / "net.onnx"), build_dir=tmp_path))
    pre = request.spec.preprocess
    assert (pre.mean, pre.std) == ((0, 0, 0), (1, 1, 1)), "such a network normalizes them itself"


@pytest.mark.parametrize("kind", [TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.INT32])
def test_maps_of_integers_are_the_same_numbers(kind: int, tmp_path: Path) -> None:
    cast = helper.make_node("Cast", ["image"], ["x"], "/cast", to=TensorProto.FLOAT)
    model = net(kind=kind, channels=16, before=[cast])
    after, (note,) = mended(model, "m", image=False)
    onnx.checker.check_model(after, full_check=True)
    assert TensorProto.DataType.Name(kind).lower() in note
    numbers = pixels(1, 16, 32, 32).astype(helper.tensor_dtype_to_np_dtype(kind))
    np.testing.assert_array_equal(scores(after, numbers.astype(np.float32)), scores(model, numbers))
    onnx.save(model, tmp_path / "net.onnx")
    (found,) = inspect_onnx(tmp_path / "net.onnx", task="raw", featuremap="all").inputs
    assert (found.shape, found.image) == ((1, 16, 32, 32), False)


def test_a_network_that_computes_on_bytes_is_refused() -> None:
    model = net(kind=TensorProto.UINT8, before=[helper.make_node("Relu", ["image"], ["x"], "/relu")])
    with pytest.raises(ModelFileError, match="Relu '/relu' computes on integers: the input 'image' is UINT8") as failed:
        mended(model, "m")
    assert "float32" in (failed.value.remedy or "")


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_grey_is_weighed_from_colours(last: bool, color: Any, tmp_path: Path) -> None:
    model = net(channels=1, last=last)
    after, (note,) = mended(model, "m", color)
    onnx.checker.check_model(after, full_check=True)
    axis = 3 if last else 1
    shape = [1, 32, 32, 3] if last else [1, 3, 32, 32]
    image = pixels(*shape).astype(np.float32)
    weights = np.array(LUMA if color == "rgb" else LUMA[::-1], np.float32)
    grey = np.expand_dims(np.tensordot(image, weights, (axis, 0)), axis).astype(np.float32)
    np.testing.assert_allclose(scores(after, image), scores(model, grey), rtol=1e-4)
    same = np.repeat(grey, 3, axis)
    np.testing.assert_allclose(scores(after, same), scores(model, grey), rtol=1e-4, err_msg="grey stays as it is")
    assert "grey" in note
    onnx.save(model, tmp_path / "net.onnx")
    found = inspect_onnx(tmp_path / "net.onnx")
    assert (found.layout, found.input_shape) == ("NHWC" if last else "NCHW", tuple(shape))


def test_an_input_that_no_node_reads_is_left_out() -> None:
    model = net()
    model.graph.input.append(helper.make_tensor_value_info("im_shape", TensorProto.FLOAT, [1, 2]))
    after, (note,) = mended(model, "m")
    assert [value.name for value in after.graph.input] == ["image"]
    assert "im_shape" in note


@pytest.mark.parametrize(
    ("operator", "domain"),
    [("QuantizeLinear", ""), ("QLinearConv", ""), ("QLinearAdd", "com.microsoft"), ("HzSQuantizedConv", "horizon")],
)
def test_quantized_files_are_refused_at_once(operator: str, domain: str, tmp_path: Path) -> None:
    model = net()
    model.graph.node.insert(2, helper.make_node(operator, ["c"] * 8, ["q"], "/quantized", domain=domain))
    with pytest.raises(ModelFileError, match=rf"quantized already: 1 of its 5 nodes .* {operator} '/quantized'") as e:
        mended(model, "m")
    assert "before the quantization" in (e.value.remedy or "")


def test_quantized_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    before = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"], "/q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"], "/dq"),
    ]
    model = net(before=before)
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
    )
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match="quantized already"):
        resolve(Options(model=str(tmp_path / "net.onnx"), build_dir=tmp_path))


def test_missing_weights_say_what_to_copy_where(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(net(), path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    assert load_onnx(path).graph.initializer
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(ModelFileError, match=r"keeps its weights in net\.onnx\.data") as failed:
        resolve(Options(model=str(path), build_dir=tmp_path))
    assert failed.value.remedy == f"copy net.onnx.data to {tmp_path}, from where the model was exported"


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_other_numbers_of_channels_are_refused_with_a_way_on(channels: int, tmp_path: Path) -> None:
    onnx.save(net(channels=channels), tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match="no axis holds three colour channels") as failed:
        inspect_onnx(tmp_path / "net.onnx")
    assert failed.value.remedy


# Behind a Slice, where no program has the network's size


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("last", [False, True])
def test_a_network_of_any_size_gets_a_canvas(opset: int, last: bool) -> None:
    own = net(last=last)
    own.opset_import[0].version = opset
    rule = Preprocess(crop=(29, 31), resize=None, layout="NHWC" if last else "NCHW")
    for place, side in enumerate(rule.crop, 1 if last else 2):
        own.graph.input[0].type.tensor_type.shape.dim[place].dim_value = side
    model, (note,) = on_canvas(own, rule, "mine.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert ("29x31" in note, "30x32" in note) == (True, True)
    assert image_input(model) == ("image", rule.input_shape)
    whole = np.random.default_rng(3).normal(0, 1, rule.input_shape).astype(np.float32)
    part = whole[:, :29, :31] if last else whole[:, :, :29, :31]
    np.testing.assert_array_equal(scores(model, whole), scores(own, np.ascontiguousarray(part)))


def test_a_network_of_a_programs_size_stays() -> None:
    own = net()
    assert on_canvas(own, Preprocess(crop=(32, 32), resize=None), "mine.onnx") == (own, ())


def test_a_slice_that_changes_the_scores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own, rule = net(), Preprocess(crop=(32, 30), resize=None)
    own.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 30
    answers = iter([[np.zeros(CLASSES)], [np.ones(CLASSES)]])
    monkeypatch.setattr("edge.sources.mend.values_of", lambda *_: next(answers))
    with pytest.raises(ModelFileError, match="other scores"):
        on_canvas(own, rule, "mine.onnx")
