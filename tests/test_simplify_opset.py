"""Going down to an older opset keeps the meaning, or says what stands in the way."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from edge.prepare.normal_form import normal_form
from edge.prepare.opset import CannotExpress, downgrade


def net(body: str, opset: int, *, out: str = "float[1,8,8,8]", constants: str = "") -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]>\n'
        f"net (float[1,8,8,8] x) => ({out} y) <{constants}> {{ {body.replace(';', chr(10))} }}"
    )
    for node in model.graph.node:
        node.name = f"/{node.op_type}"
    onnx.checker.check_model(model, full_check=True)
    return model


def answer(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


AXES = "int64[2] axes = {2, 3}"


@pytest.mark.parametrize(
    ("body", "opset", "out", "constants"),
    [
        ("y = Pow(x, two)", 15, "float[1,8,8,8]", "float[1] two = {2.0}"),
        ("y = Relu(x)", 14, "float[1,8,8,8]", ""),
        ("y = Softmax(x)", 13, "float[1,8,8,8]", ""),
        ("y = Reshape(x, to)", 14, "float[1,512]", "int64[2] to = {1, -1}"),
        ("y = ReduceMean(x, axes)", 18, "float[1,8,1,1]", AXES),
        ("y = ReduceMean<keepdims=0>(x, axes)", 18, "float[1,8]", AXES),
        ("y = ReduceSum(x, axes)", 13, "float[1,8,1,1]", AXES),
        ("y = ReduceMax(x)", 18, "float[1,1,1,1]", ""),
        ("a = Constant<value = int64[1] {0}>(); y = Unsqueeze(x, a)", 13, "float[1,1,8,8,8]", ""),
        ("y, z = Split(x, sizes)", 13, "float[1,8,6,8]", "int64[2] sizes = {6, 2}"),
        ("y = Clip(x, low)", 13, "float[1,8,8,8]", "float low = {0.0}"),
    ],
)
def test_the_older_model_answers_the_same(body: str, opset: int, out: str, constants: str) -> None:
    body = body.replace("Split(", "Split<axis=2>(")
    model = net(body, opset, out=out, constants=constants)
    older = downgrade(model, 11)
    assert older.opset_import[0].version == 11
    onnx.checker.check_model(older, full_check=True)
    assert [node.name for node in older.graph.node] == [node.name for node in model.graph.node]
    np.testing.assert_array_equal(answer(older), answer(model))
    assert model.opset_import[0].version == opset


W8, W512 = "float[8] w = {1,2,3,4,5,6,7,8}, float[8] b = {0,1,0,1,0,1,0,1}", "float[8,8,8] w"
SAME = "float[1,8,8,8]"


@pytest.mark.parametrize(
    ("body", "opset", "out", "constants"),
    [
        ("y = HardSwish(x)", 14, SAME, ""),
        ("y = Gelu(x)", 20, SAME, ""),
        ('y = Gelu<approximate="tanh">(x)', 20, SAME, ""),
        ("y = Mish(x)", 18, SAME, ""),
        ("y = Celu<alpha=0.7>(x)", 12, SAME, ""),
        ("y = LayerNormalization(x, w, b)", 17, SAME, W8),
        ("y = LayerNormalization<axis=3, epsilon=0.1>(x, w)", 17, SAME, W8),
        ("s = Transpose<perm=[0,2,3,1]>(x); y = LayerNormalization(s, w, b)", 17, SAME, W8),
        ("y = GroupNormalization<num_groups=4>(x, w, b)", 21, SAME, W8),
        (
            "y = Pad(x, by, none, at)",
            18,
            "float[1,8,10,9]",
            "int64[4] by = {1,0,1,1}, float none = {0.5}, int64[2] at = {2,3}",
        ),
        ('y = Pad<mode="reflect">(x, by)', 19, "float[1,8,10,8]", "int64[8] by = {0,0,1,0,0,0,1,0}"),
        ('y = Resize<mode="nearest">(x, , , to)', 13, "float[1,8,16,16]", "int64[4] to = {1,8,16,16}"),
        ('y = Resize<mode="linear", axes=[2,3]>(x, , twice)', 18, "float[1,8,16,16]", "float[2] twice = {2.0,2.0}"),
        ("y, z, t = Split<num_outputs=3>(x)", 18, "float[1,8,3,8]", ""),
        ("y = Softmax<axis=1>(x)", 13, SAME, ""),
        ("y = LogSoftmax<axis=2>(x)", 13, SAME, ""),
        ("y = Reshape<allowzero=1>(x, to)", 14, SAME, "int64[4] to = {1,8,8,8}"),
        ("c = GreaterOrEqual(x, zero); y = Where(c, x, zero)", 16, SAME, "float zero = {0.0}"),
        ("c = LessOrEqual(x, zero); y = Where(c, x, zero)", 16, SAME, "float zero = {0.0}"),
        ("two = Constant<value_float=2.0>(); y = Mul(x, two)", 14, SAME, ""),
        ("a = Constant<value_ints=[2,3]>(); y = ReduceMean(x, a)", 18, "float[1,8,1,1]", ""),
        ("y = Pow(x, two)", 15, SAME, "int64 two = {2}"),
        ("s = Shape<start=1, end=3>(x); t = Cast<to=1>(s); y = ReduceSum<keepdims=0>(t)", 15, "float", ""),
        ('y = Einsum<equation="bchw,bcvw->bchv">(x, x)', 12, SAME, ""),
        ('y = Einsum<equation="bchw,bcwv->bhcv">(x, x)', 12, SAME, ""),
        ('y = Einsum<equation="bchw,cd->bdhw">(x, m)', 12, SAME, "float[8,8] m"),
        ('y = Einsum<equation="bchw->bwhc">(x)', 12, SAME, ""),
        ('y = Einsum<equation="bchw,bchw->bc">(x, x)', 12, "float[1,8]", ""),
        ('y = Einsum<equation="bchw,cw->bh">(x, m)', 12, "float[1,8]", "float[8,8] m"),
    ],
)
def test_what_an_older_opset_says_otherwise(body: str, opset: int, out: str, constants: str) -> None:
    body = body.replace("Split<", "Split<axis=2,")
    numbers = ",".join(f"{(7 * k) % 11 - 5}.25" for k in range(64))
    model = net(body, opset, out=out, constants=constants.replace("float[8,8] m", f"float[8,8] m = {{{numbers}}}"))
    older = downgrade(model, 11)
    onnx.checker.check_model(older, full_check=True)
    names = [node.name for node in older.graph.node]
    assert len(set(names)) == len(names)
    np.testing.assert_allclose(answer(older), answer(model), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("body", "opset", "reason"),
    [
        ("y = Reshape<allowzero=1>(x, to)", 14, "no allowzero in Reshape"),
        ("a = Shape(x); y = ReduceSum(x, a)", 13, "no input 'axes' that is computed, in ReduceSum"),
        (
            "g = Transpose<perm=[0,2,3,1]>(x); k = Slice(g, low, high); y = GridSample(x, k)",
            16,
            "opset 11 has no GridSample",
        ),
        ('y = Resize<mode="linear", antialias=1>(x, , , to)', 18, "no antialias"),
        ('y = Einsum<equation="bcii->bci">(x)', 12, "the equation bcii->bci"),
    ],
)
def test_what_can_not_be_said_is_named(body: str, opset: int, reason: str) -> None:
    to = "0" if "allowzero" in body else "1"
    constants = f"int64[4] to = {{{to},8,8,8}}, int64[4] low = {{0,0,0,0}}, int64[4] high = {{1,8,8,2}}"
    with pytest.raises(CannotExpress) as caught:
        downgrade(
            net(body, opset, out="float[a,b,c,d]" if "Einsum" not in body else "float[a,b,c]", constants=constants), 11
        )
    assert reason in str(caught.value)


def test_training_mode_is_told_for_what_it_is() -> None:
    body = "y, m, v = BatchNormalization<training_mode=1>(x, w, b, w, w)"
    with pytest.raises(CannotExpress, match=r"model\.eval\(\)"):
        downgrade(net(body, 15, constants=W8), 11)


def test_gelu_and_layer_norm_have_the_forms_that_the_compiler_fuses() -> None:
    kinds = [node.op_type for node in downgrade(net("y = Gelu(x)", 20), 11).graph.node]
    assert kinds == ["Div", "Erf", "Add", "Mul", "Mul"]
    kinds = [
        node.op_type for node in downgrade(net("y = LayerNormalization(x, w, b)", 17, constants=W8), 11).graph.node
    ]
    assert kinds == ["ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"]


@pytest.mark.parametrize(
    ("body", "opset", "out", "constants", "kinds"),
    [
        ("y = ReduceMean<axes=[2,3]>(x)", 11, "float[1,8,1,1]", "", ["GlobalAveragePool"]),
        ("y = ReduceMean<axes=[-1,-2], keepdims=0>(x)", 11, "float[1,8]", "", ["GlobalAveragePool", "Flatten"]),
        ("y = ReduceMean<keepdims=1>(x, axes)", 18, "float[1,8,1,1]", AXES, ["GlobalAveragePool"]),
        ("y = ReduceMean<axes=[1]>(x)", 11, "float[1,1,8,8]", "", ["ReduceMean"]),
        ("y = ReduceMean<axes=[1,2]>(x)", 11, "float[1,1,1,8]", "", ["Transpose", "GlobalAveragePool", "Transpose"]),
        (
            "y = ReduceMean<axes=[1,2], keepdims=0>(x)",
            11,
            "float[1,8]",
            "",
            ["Transpose", "GlobalAveragePool", "Flatten"],
        ),
        ("y = ReduceMean<axes=[1,3]>(x)", 11, "float[1,1,8,1]", "", ["ReduceMean"]),
    ],
)
def test_a_mean_over_height_and_width_is_a_pool(
    body: str, opset: int, out: str, constants: str, kinds: list[str]
) -> None:
    model = net(body, opset, out=out, constants=constants)
    found = normal_form(model, "net")
    onnx.checker.check_model(found, full_check=True)
    assert [node.op_type for node in found.graph.node] == kinds
    np.testing.assert_allclose(answer(found), answer(model), atol=1e-6)
