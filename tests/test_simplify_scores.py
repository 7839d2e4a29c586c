"""A row of scores becomes a map of one pixel: the same scores, only where it fits, and no Reshape on the CPU."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from edge.compiler.run import checker
from edge.prepare import simplify as stage
from edge.prepare.normal_form import tidy
from edge.prepare.score_map import as_map
from edge.prepare.simplify import simplify
from edge.progress import Silent
from edge.toolchain.found import Toolchain

CHANNELS, CLASSES = 8, 5
POOLED = "p=GlobalAveragePool(x); f=Flatten<axis=1>(p); "
# name -> statements behind x, 1x8x4x4, and the operators that shall be left; x is the input's convolution
BECOME_MAPS = {
    "flatten, Gemm": (POOLED + "y=Gemm<transB=1>(f,wt,b)", "GlobalAveragePool Conv"),
    "weights not transposed": (POOLED + "y=Gemm(f,w,b)", "GlobalAveragePool Conv"),
    "no bias": (POOLED + "y=Gemm(f,w)", "GlobalAveragePool Conv"),
    "one bias for all": (POOLED + "y=Gemm(f,w,one)", "GlobalAveragePool Conv"),
    "Reshape": ("p=GlobalAveragePool(x); f=Reshape(p,row); y=Gemm(f,w,b)", "GlobalAveragePool Conv"),
    "Squeeze": ("p=GlobalAveragePool(x); f=Squeeze<axes=[2,3]>(p); y=Gemm(f,w,b)", "GlobalAveragePool Conv"),
    "MatMul, Add": (POOLED + "m=MatMul(f,w); y=Add(b,m)", "GlobalAveragePool Conv"),
    "MatMul alone": (POOLED + "y=MatMul(f,w)", "GlobalAveragePool Conv"),
    "a row between": (POOLED + "r=Relu(f); y=Gemm(r,w,b)", "GlobalAveragePool Flatten Relu Reshape Conv"),
    "pixels in the row": ("f=Flatten<axis=1>(x); y=Gemm(f,large,b)", "Flatten Reshape Conv"),
    "the row is read twice": (POOLED + "r=Relu(f); s=Sigmoid(f); t=Mul(r,s); y=Gemm(t,w,b)", None),
    "convolution, Flatten": ("p=GlobalAveragePool(x); c=Conv(p,wc,b); y=Flatten<axis=1>(c)", "GlobalAveragePool Conv"),
    "pool, Flatten": ("c=Conv(x,wc,b); p=GlobalAveragePool(c); y=Flatten<axis=1>(p)", "Conv GlobalAveragePool"),
    "Softmax": (POOLED + "g=Gemm(f,w,b); y=Softmax<axis=-1>(g)", "GlobalAveragePool Conv Softmax"),
    "Softmax, axis 1": (POOLED + "g=Gemm(f,w,b); y=Softmax(g)", "GlobalAveragePool Conv Softmax"),
    "Sigmoid": ("p=GlobalAveragePool(x); c=Conv(p,wc,b); g=Flatten(c); y=Sigmoid(g)", "GlobalAveragePool Conv Sigmoid"),
}
STAY = {
    "a map already": "p=GlobalAveragePool(x); y=Conv(p,wc,b)",
    "another operator behind": POOLED + "g=Gemm(f,w,b); s=Sigmoid(g); y=Mul(g,s)",
    "scaled": POOLED + "y=Gemm<alpha=2.0>(f,w,b)",
    "a sum of rows": POOLED + "g=Gemm(f,w,b); h=Gemm(f,w,b); y=Add(g,h)",
    "weights that are computed": POOLED + "v=Mul(w,f2); y=MatMul(f,v)",
    "the map is read elsewhere": "c=Conv(x,wc,b); p=GlobalAveragePool(c); y=Flatten<axis=1>(p); z=Relu(p)",
}


def net(body: str, *outputs: str) -> onnx.ModelProto:
    """Return a model of an image x0 whose last nodes are those of ``body``."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(CHANNELS, CLASSES)).astype(np.float32)
    tensors = {
        "w0": rng.normal(size=(CHANNELS, 3, 3, 3)).astype(np.float32),
        "w": w,
        "wt": w.T.copy(),
        "wc": w.T[:, :, None, None].copy(),
        "large": rng.normal(size=(CHANNELS * 16, CLASSES)).astype(np.float32),
        "b": rng.normal(size=CLASSES).astype(np.float32),
        "one": np.ones(1, np.float32),
        "row": np.array([1, CHANNELS]),
    }
    lines = "\n".join(part.strip() for part in body.split(";"))
    named = ", ".join(outputs or [f"float[1,{CLASSES}{',1,1' * ('y=Conv' in body)}] y"])
    model = onnx.parser.parse_model(
        '<ir_version: 6, opset_import: ["" : 11]>\n'
        f"net (float[1,3,4,4] x0) => ({named}) {{\nx = Conv<pads=[1,1,1,1]>(x0,w0)\n{lines}\n}}"
    )
    if "f2" in body:
        model.graph.node.insert(3, onnx.helper.make_node("ReduceMean", ["f"], ["f2"], axes=[0, 1], keepdims=0))
    reads = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in tensors.items() if name in reads
    )
    onnx.checker.check_model(model, full_check=True)
    return tidy(model)


def scores(model: onnx.ModelProto) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).normal(size=(1, 3, 4, 4)).astype(np.float32)
    result: NDArray[np.float32] = session.run(None, {"x0": image})[0]
    return result


@pytest.mark.parametrize("name", BECOME_MAPS)
def test_a_row_becomes_a_map_of_the_same_scores(name: str) -> None:
    body, left = BECOME_MAPS[name]
    before = net(body)
    after, last = as_map(before)
    onnx.checker.check_model(after, full_check=True)
    assert last in [node.name for node in after.graph.node[-2:]]
    assert last in {node.name for node in before.graph.node}, "a recipe that names it still finds it"
    if left:
        assert [node.op_type for node in after.graph.node] == ["Conv", *left.split()]
    assert [dim.dim_value for dim in after.graph.output[0].type.tensor_type.shape.dim] == [1, CLASSES, 1, 1]
    found = scores(after)
    np.testing.assert_allclose(found.reshape(1, CLASSES), scores(before), rtol=0, atol=1e-5)
    assert as_map(after) == (after, "")


@pytest.mark.parametrize("name", STAY)
def test_others_stay(name: str) -> None:
    before = net(STAY[name], *([f"float[1,{CLASSES}] y", f"float[1,{CLASSES},1,1] z"] if "z=" in STAY[name] else []))
    assert as_map(before) == (before, "")


def run(folder: Path, *, scores: bool) -> tuple[stage.SimplifyResult, onnx.ModelProto]:
    folder.mkdir()
    onnx.save(net(BECOME_MAPS["flatten, Gemm"][0]), folder / "net.onnx")
    made = simplify(model=folder / "net.onnx", out=folder, name="made", scores=scores)
    return made, onnx.load(folder / made.onnx)


def test_the_stage_changes_class_scores_alone_and_always_alike(tmp_path: Path) -> None:
    as_row, row = run(tmp_path / "row", scores=False)
    assert not as_row.score_map
    assert len(row.graph.output[0].type.tensor_type.shape.dim) == 2
    made, found = run(tmp_path / "map", scores=True)
    assert made.score_map == found.graph.node[-1].name
    assert made.max_abs_error < 1e-5
    run(tmp_path / "again", scores=True)
    digests = {hashlib.sha256((tmp_path / one / "made.onnx").read_bytes()).digest() for one in ("map", "again")}
    assert len(digests) == 1


def test_a_map_of_other_scores_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
        changed, name = as_map(model)
        bias = changed.graph.initializer[-1]
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
        return changed, name

    warned: list[str] = []

    class Listener(Silent):
        def warn(self, message: str) -> None:
            warned.append(message)

    monkeypatch.setattr(stage, "as_map", wrong)
    onnx.save(net(BECOME_MAPS["flatten, Gemm"][0]), tmp_path / "net.onnx")
    made = simplify(model=tmp_path / "net.onnx", out=tmp_path, name="made", scores=True, reporter=Listener())
    assert not made.score_map
    assert len(onnx.load(tmp_path / made.onnx).graph.output[0].type.tensor_type.shape.dim) == 2
    assert "the scores stay a row" in warned[-1]


@pytest.mark.compiler
def test_no_node_is_left_on_the_cpu(tmp_path: Path, toolchain: Toolchain) -> None:
    seen = {}
    for scores in (False, True):
        made, _ = run(tmp_path / str(scores), scores=scores)
        onnx_file = tmp_path / str(scores) / made.onnx
        rows = checker(toolchain=toolchain, onnx=onnx_file, out=tmp_path / str(scores)).nodes
        seen[scores] = Counter(row.on for row in rows)
    assert seen[False] - seen[True] == Counter(CPU=1)
    assert seen[True]["CPU"] == 0
