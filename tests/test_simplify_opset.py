"""Going down to an older opset keeps the meaning, or says what stands in the way."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from edge.prepare.normal_form import CannotExpress, downgrade


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


@pytest.mark.parametrize(
    ("body", "opset", "reason"),
    [
        ("y = HardSwish(x)", 14, "opset 11 has no HardSwish of node '/HardSwish'"),
        ("y = Gelu(x)", 20, "opset 11 has no Gelu"),
        ("y = Reshape<allowzero=1>(x, to)", 14, "no allowzero in Reshape"),
        ("a = Shape(x); y = ReduceSum(x, a)", 13, "no input 'axes' that is computed, in ReduceSum"),
    ],
)
def test_what_can_not_be_said_is_named(body: str, opset: int, reason: str) -> None:
    constants = "int64[4] to = {1,8,8,8}"
    out = "float[a,b,c,d]" if "ReduceSum" in body else "float[1,8,8,8]"
    with pytest.raises(CannotExpress) as caught:
        downgrade(net(body, opset, out=out, constants=constants), 11)
    assert reason in str(caught.value)
