"""Simplified graphs are the same function, in a form that the compiler takes, with all that it fuses."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cattrs
import numpy as np
import onnx
import onnxsim
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.compiler.run import checker
from edge.errors import ModelFileError
from edge.prepare import guard
from edge.prepare import simplify as stage
from edge.prepare.guard import SEEDS, Rejected, max_error, reference
from edge.prepare.normal_form import normal_form, tidy
from edge.prepare.patterns import count_patterns
from edge.prepare.simplify import SimplifyResult, simplify
from edge.progress import Silent
from edge.toolchain.found import Toolchain

C = 16


def block_net(*, opset: int = 11, softmax: bool = False, ir: int = 6) -> onnx.ModelProto:
    """A stem, one ConvNeXt block, a head, as torch exports them."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 0.3) -> np.ndarray:
        return (rng.normal(size=shape) * scale).astype(np.float32)

    tensors = {
        "stem.w": normal(C, 3, 4, 4), "stem.b": normal(C),
        "dw.w": normal(C, 1, 7, 7), "dw.b": normal(C),
        "norm.w": 1 + normal(C, 1, 1), "norm.b": normal(C, 1, 1),
        "fc1.w": normal(4 * C, C, 1, 1), "fc1.b": normal(4 * C),
        "fc2.w": normal(C, 4 * C, 1, 1), "fc2.b": normal(C),
        "gamma": normal(1, C, 1, 1), "head.w": normal(10, C), "head.b": normal(10),
        "eps": np.float32(1e-6), "rt2": np.float32(np.sqrt(2)), "one": np.float32(1),
        "half": np.float32(0.5), "two": np.float32(2), "axis": np.int64([1]),
    }  # fmt: skip
    mean_by_input = opset >= 18

    def mean(x: str, y: str, name: str) -> onnx.NodeProto:
        if mean_by_input:
            return helper.make_node("ReduceMean", [x, "axis"], [y], name, keepdims=1)
        return helper.make_node("ReduceMean", [x], [y], name, axes=[1], keepdims=1)

    make = helper.make_node
    nodes = [
        make("Conv", ["image", "stem.w", "stem.b"], ["s"], "/stem/Conv", strides=[4, 4]),
        make("Conv", ["s", "dw.w", "dw.b"], ["c"], "/block/conv_dw/Conv", group=C, pads=[3, 3, 3, 3]),
        mean("c", "m", "/block/norm/ReduceMean"),
        make("Sub", ["c", "m"], ["d"], "/block/norm/Sub"),
        make("Pow", ["d", "two"], ["p"], "/block/norm/Pow"),
        mean("p", "v", "/block/norm/ReduceMean_1"),
        make("Add", ["v", "eps"], ["ve"], "/block/norm/Add"),
        make("Sqrt", ["ve"], ["r"], "/block/norm/Sqrt"),
        make("Div", ["d", "r"], ["n"], "/block/norm/Div"),
        make("Mul", ["n", "norm.w"], ["nw"], "/block/norm/Mul"),
        make("Add", ["nw", "norm.b"], ["nb"], "/block/norm/Add_1"),
        make("Conv", ["nb", "fc1.w", "fc1.b"], ["f"], "/block/mlp/fc1/Conv"),
        make("Div", ["f", "rt2"], ["g0"], "/block/mlp/act/Div"),
        make("Erf", ["g0"], ["g1"], "/block/mlp/act/Erf"),
        make("Add", ["g1", "one"], ["g2"], "/block/mlp/act/Add"),
        make("Mul", ["f", "g2"], ["g3"], "/block/mlp/act/Mul"),
        make("Mul", ["g3", "half"], ["g4"], "/block/mlp/act/Mul_1"),
        make("Conv", ["g4", "fc2.w", "fc2.b"], ["h"], "/block/mlp/fc2/Conv"),
        make("Mul", ["h", "gamma"], ["hg"], "/block/Mul"),
        make("Add", ["hg", "s"], ["b"], "/block/Add"),
        make("GlobalAveragePool", ["b"], ["a"], "/head/pool"),
        make("Flatten", ["a"], ["fl"], "/head/Flatten"),
        make("Gemm", ["fl", "head.w", "head.b"], ["scores"], "/head/fc/Gemm", transB=1),
    ]
    last = "scores"
    if softmax:
        nodes.append(make("Softmax", ["scores"], ["probabilities"], "/Softmax", axis=1))
        last = "probabilities"
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def saved(model: onnx.ModelProto, folder: Path, name: str = "model") -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


def run(path: Path, out: Path, reporter: Silent | None = None) -> tuple[SimplifyResult, onnx.ModelProto]:
    out.mkdir()
    result = simplify(model=path, out=out, name="net_bpu", reporter=reporter)
    return result, onnx.load(out / result.onnx)


Change = Callable[[onnx.ModelProto], onnx.ModelProto]


def replace_onnxsim(monkeypatch: pytest.MonkeyPatch, change: Change, forms: Sequence[str]) -> None:
    """Let onnxsim's answer for some forms be what ``change`` makes of its input."""
    real = stage._onnxsim

    def fake(model: onnx.ModelProto, options: Sequence[str]) -> onnx.ModelProto:
        form = next(name for name, wanted in stage.OPTIONS.items() if wanted == options)
        if form not in forms:
            return real(model, options)
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return tidy(change(copy))

    monkeypatch.setattr(stage, "_onnxsim", fake)


def test_the_block_keeps_its_patterns_names_and_outputs(tmp_path: Path) -> None:
    source = saved(block_net(), tmp_path)
    reporter = Silent()
    result, model = run(source, tmp_path / "out", reporter)
    assert (result.onnx, result.form, result.opset, result.ir) == ("net_bpu.onnx", "simplified", 11, 6)
    assert result.patterns_after == result.patterns_before
    assert (result.patterns_after["gelu"], result.patterns_after["rsqrt"]) == (1, 1)
    names = {node.name for node in model.graph.node}
    assert {"/block/conv_dw/Conv", "/block/norm/ReduceMean_1", "/block/mlp/act/Erf", "/block/Add"} <= names
    before = {node.name for node in onnx.load(source).graph.node}
    assert result.names_lost == len(before - names) == 1  # the layer scale, folded into fc2
    assert result.nodes_after == len(model.graph.node) < result.nodes_before == len(before)
    assert 0 <= result.max_abs_error < 1e-4
    assert not reporter.warnings
    assert cattrs.structure(json.loads(json.dumps(cattrs.unstructure(result))), SimplifyResult) == result


def test_default_onnxsim_loses_the_gelu_here(tmp_path: Path) -> None:
    """The trap itself: if this fails, onnxsim has changed and HARMFUL may shrink."""
    plain = onnxsim.simplify(block_net())[0]
    assert count_patterns(plain)["gelu"] == 0
    with pytest.raises(Rejected, match="1 of 1 gelu"):
        guard.check_patterns(plain, count_patterns(block_net()))


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    source = saved(block_net(), tmp_path)
    told = block_net()
    told.producer_name = "another exporter"
    told.doc_string = "made at noon"
    told.graph.node[0].doc_string = "somewhere.py"
    other = saved(told, tmp_path, "elsewhere")
    for path, out in ((source, "a"), (source, "b"), (other, "c")):
        run(path, tmp_path / out)
    first = (tmp_path / "a" / "net_bpu.onnx").read_bytes()
    assert (tmp_path / "b" / "net_bpu.onnx").read_bytes() == first
    model = onnx.load(tmp_path / "c" / "net_bpu.onnx")
    assert not model.doc_string
    assert not any(node.doc_string for node in model.graph.node)
    model.ClearField("producer_name")
    assert model.SerializeToString(deterministic=True) == first


@pytest.mark.parametrize("opset", [9, 10, 13, 17, 18])
def test_other_opsets_are_brought_to_one_the_compiler_takes(tmp_path: Path, opset: int) -> None:
    result, model = run(saved(block_net(opset=opset, ir=8), tmp_path), tmp_path / "out")
    assert result.opset == (10 if opset == 10 else 11)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", result.opset)]
    assert model.ir_version == result.ir <= 9
    assert result.patterns_after["gelu"] == 1


def test_an_operator_that_opset_11_can_not_express_is_named(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["t"], "/turn", perm=[0, 2, 3, 1]),
            helper.make_node("Slice", ["t", "low", "high", "axes"], ["grid"], "/cut"),
            helper.make_node("GridSample", ["x", "grid"], ["y"], "/sample"),
        ],
        "sample",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])],
        [numpy_helper.from_array(np.array([k]), name) for name, k in (("low", 0), ("high", 2), ("axes", 3))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelFileError) as caught:
        run(saved(model, tmp_path), tmp_path / "out")
    assert "opset 17" in caught.value.seen
    assert "GridSample of node '/sample'" in caught.value.seen
    assert "opset_version=11" not in str(caught.value.remedy)  # torch refuses GridSample there


def test_a_softmax_at_the_end_stays(tmp_path: Path) -> None:
    result, model = run(saved(block_net(softmax=True), tmp_path), tmp_path / "out")
    assert result.patterns_after["softmax"] == 1
    assert model.graph.node[-1].op_type == "Softmax"


def test_initializers_that_are_inputs_too_and_shared_weights_by_identity(tmp_path: Path) -> None:
    model = block_net(ir=3)
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)
    shared = helper.make_node("Identity", ["fc1.b"], ["fc1.b.shared"], "Identity_0")
    next(n for n in model.graph.node if n.name == "/block/mlp/fc1/Conv").input[2] = "fc1.b.shared"
    model.graph.node.insert(0, shared)
    result, shipped = run(saved(model, tmp_path), tmp_path / "out")
    assert [value.name for value in shipped.graph.input] == ["image"]
    assert "Identity" not in {node.op_type for node in shipped.graph.node}
    assert result.names_lost == 1


def exponent_with_an_axis(model: onnx.ModelProto) -> onnx.ModelProto:
    tensor = next(t for t in model.graph.initializer if t.name == "two")
    tensor.CopyFrom(numpy_helper.from_array(np.float32([2]), "two"))
    return model


def test_an_exponent_with_an_axis_becomes_a_scalar(tmp_path: Path) -> None:
    """The compiler leaves such a Pow to the CPU, in the middle of the network."""
    result, model = run(saved(exponent_with_an_axis(block_net()), tmp_path), tmp_path / "out")
    node = next(n for n in model.graph.node if n.op_type == "Pow")
    (exponent,) = (t for t in model.graph.initializer if t.name == node.input[1])
    assert list(exponent.dims) == []
    assert result.patterns_before["power"] == result.patterns_after["power"] == 1


def test_nameless_nodes_get_names_and_shared_names_are_told_apart() -> None:
    model = block_net()
    for node, name in zip(model.graph.node, ["", "", "same", "same", "Conv_0"], strict=False):
        node.name = name
    names = [node.name for node in normal_form(model, "it").graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
    assert names[2] == "same"
    assert names[4] == "Conv_0"


def test_shapes_computed_at_run_time_do_not_hide_a_pattern(tmp_path: Path) -> None:
    """A channel shuffle whose target shape comes from Shape is one once the shape is folded."""
    make = helper.make_node
    nodes = [
        make("Shape", ["x"], ["size"], "/Shape"),
        make("Slice", ["size", "from2", "to4"], ["hw"], "/Slice"),
        make("Concat", ["head", "hw"], ["target"], "/Concat", axis=0),
        make("Reshape", ["x", "target"], ["r"], "/Reshape"),
        make("Transpose", ["r"], ["t"], "/Transpose", perm=[0, 2, 1, 3, 4]),
        make("Reshape", ["t", "size"], ["y"], "/Reshape_1"),
    ]
    numbers = {"from2": [2], "to4": [4], "head": [1, 2, 4]}
    graph = helper.make_graph(
        nodes,
        "shuffle",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [numpy_helper.from_array(np.int64(value), name) for name, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    result, shipped = run(saved(model, tmp_path), tmp_path / "out")
    assert result.patterns_before["channel_shuffle"] == result.patterns_after["channel_shuffle"] == 1
    assert [node.op_type for node in shipped.graph.node] == ["Reshape", "Transpose", "Reshape"]
    assert [d.dim_value for d in shipped.graph.output[0].type.tensor_type.shape.dim] == [1, 8, 4, 4]


# What onnxsim must not do, and what the guard says of it.
def wrong_weight(model: onnx.ModelProto) -> onnx.ModelProto:
    tensor = next(t for t in model.graph.initializer if t.name == "fc2.b")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.01), "fc2.b"))
    return model


def not_a_number(model: onnx.ModelProto) -> onnx.ModelProto:
    tensor = next(t for t in model.graph.initializer if t.name == "fc2.b")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32("nan"), "fc2.b"))
    return model


def lost_pattern(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnxsim.simplify(model)[0]


def dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    return model


def other_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    model.opset_import[0].version = 12
    return model


def more_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output[0].name = "turned"
    last = next(node for node in model.graph.node if "scores" in node.output)
    last.output[0] = "turned_twice"
    for x, y in (("turned_twice", "turned_once"), ("turned_once", "turned")):
        model.graph.node.append(helper.make_node("Transpose", [x], [y], perm=[1, 0]))
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            node.output[place] = "scores" if name == "turned" else name
    model.graph.output[0].name = "scores"
    return model


def other_output(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output[0].name = "a"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    for size in (1, C, 1, 1):
        model.graph.output[0].type.tensor_type.shape.dim.add(dim_value=size)
    return model


def failure(model: onnx.ModelProto) -> onnx.ModelProto:
    raise Rejected("onnxsim failed with code 1: boom")


BROKEN = {
    "a changed weight": (wrong_weight, "differs by"),
    "nan": (not_a_number, "nan or infinite"),
    "a lost pattern": (lost_pattern, "the compiler can no longer fuse 1 of 1 gelu"),
    "a dynamic graph": (dynamic, "not a valid static graph"),
    "another opset": (other_opset, "opset 12"),
    "more nodes": (more_nodes, "2 more Transpose"),
    "another output": (other_output, "outputs became a"),
    "a failure": (failure, "boom"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_simplifier_is_caught_and_the_next_form_shipped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, verdict = BROKEN[name]
    source = saved(block_net(), tmp_path)

    replace_onnxsim(monkeypatch, change, ["simplified"])
    reporter = Silent()
    result, model = run(source, tmp_path / "first", reporter)
    assert result.form == "partly simplified"
    assert verdict in result.reason
    assert "partly simplified" in reporter.warnings[0]
    assert result.patterns_after == result.patterns_before
    assert Counter(n.op_type for n in model.graph.node) == Counter(n.op_type for n in block_net().graph.node)

    monkeypatch.undo()
    replace_onnxsim(monkeypatch, change, ["simplified", "partly simplified"])
    result, model = run(source, tmp_path / "second")
    assert result.form == "unsimplified"
    assert result.reason.count(verdict) == 2
    assert result.max_abs_error == 0
    assert [n.name for n in model.graph.node] == [n.name for n in block_net().graph.node]


@pytest.mark.parametrize(
    ("script", "verdict"),
    [
        ("raise SystemExit('no such pass')", "failed with code 1: no such pass"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "failed with code -11"),
        ("import time; time.sleep(60)", "stopped after 1 s"),
        ("import sys; open(sys.argv[2], 'wb').write(b'garbage')", "wrote an invalid model"),
        ("print('done')", "its result does not exist"),
    ],
)
def test_a_crash_of_onnxsim_costs_the_form_only(
    script: str, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    broken = tmp_path / "child.py"
    broken.write_text(script)
    monkeypatch.setattr(stage.child, "__file__", str(broken))
    monkeypatch.setattr(stage, "TIME_LIMIT", 1.0)
    result, _ = run(saved(block_net(), tmp_path), tmp_path / "out")
    assert result.form == "unsimplified"
    assert verdict in result.reason
    assert capfd.readouterr() == ("", "")


def test_a_model_whose_conversion_changes_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = stage.normal_form
    monkeypatch.setattr(stage, "normal_form", lambda model, origin: wrong_weight(real(model, origin)))
    with pytest.raises(ModelFileError, match=r"can't be made ready.*differs by"):
        run(saved(block_net(), tmp_path), tmp_path / "out")


def test_a_gelu_that_the_compiler_will_not_fuse_is_told(tmp_path: Path) -> None:
    model = block_net()
    node = next(n for n in model.graph.node if n.name == "/block/mlp/act/Div")
    node.op_type, node.name = "Mul", "/block/mlp/act/Mul_2"
    tensor = next(t for t in model.graph.initializer if t.name == "rt2")
    tensor.CopyFrom(numpy_helper.from_array(np.array(np.sqrt(0.5), np.float32), "rt2"))
    reporter = Silent()
    run(saved(model, tmp_path), tmp_path / "out", reporter)
    assert reporter.warnings[0].startswith("1 Erf nodes are slow")


def test_output_errors_are_relative_to_their_range() -> None:
    model = block_net()
    expected = reference(model, Path("it"))
    assert max_error(model, expected) == 0
    assert len(expected.inputs) == len(SEEDS) > 2
    assert all(-2.64 <= x.min() < -2 < 2 < x.max() <= 2.64 for feed in expected.inputs for x in feed.values())
    with pytest.raises(Rejected, match=r"differs by 0\.0"):
        max_error(wrong_weight(block_net()), expected)


class TestBadInput:
    def refused(self, path: Path, tmp_path: Path) -> ModelFileError:
        out = tmp_path / "out"
        with pytest.raises(ModelFileError) as caught:
            run(path, out)
        assert not list(out.iterdir())
        return caught.value

    def test_missing(self, tmp_path: Path) -> None:
        assert "does not exist" in self.refused(tmp_path / "no.onnx", tmp_path).seen

    @pytest.mark.parametrize("cut", [0, 100, 5000])
    def test_truncated(self, tmp_path: Path, cut: int) -> None:
        path = saved(block_net(), tmp_path)
        path.write_bytes(path.read_bytes()[:cut])
        self.refused(path, tmp_path)

    def test_dynamic(self, tmp_path: Path) -> None:
        model = block_net()
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
        error = self.refused(saved(model, tmp_path), tmp_path)
        assert "dynamic" in error.seen
        assert "fixed size" in (error.remedy or "")

    def test_half_precision(self, tmp_path: Path) -> None:
        model = block_net()
        half = numpy_helper.from_array(np.ones(3, np.float16), "unused.half")
        model.graph.initializer.append(half)
        error = self.refused(saved(model, tmp_path), tmp_path)
        assert "1 half-precision" in error.seen
        assert "model.float()" in (error.remedy or "")

    def test_weights_that_are_elsewhere(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        onnx.save(block_net(), path, save_as_external_data=True, location="weights.data", size_threshold=0)
        (tmp_path / "weights.data").unlink()
        assert "weights.data, which is not beside it" in self.refused(path, tmp_path).seen

    def test_more_than_two_gigabytes(self, tmp_path: Path) -> None:
        path = tmp_path / "huge.onnx"
        with path.open("wb") as stream:
            stream.truncate(3 * 2**30)  # sparse: takes no disk
        assert "3.2 GB" in self.refused(path, tmp_path).seen

    def test_operators_of_another_domain(self, tmp_path: Path) -> None:
        model = block_net()
        model.graph.node[-1].domain = "com.microsoft"
        model.graph.node[-1].op_type = "FusedGemm"
        model.opset_import.add(domain="com.microsoft", version=1)
        assert "com.microsoft" in self.refused(saved(model, tmp_path), tmp_path).seen

    def test_nan_weights(self, tmp_path: Path) -> None:
        assert "nan or infinity only" in self.refused(saved(not_a_number(block_net()), tmp_path), tmp_path).seen


def test_weights_beside_the_model_are_taken_in(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(block_net(), path, save_as_external_data=True, location="weights.data", size_threshold=0)
    run(path, tmp_path / "out")
    whole = onnx.load(tmp_path / "out" / "net_bpu.onnx", load_external_data=False)
    assert not any(tensor.external_data for tensor in whole.graph.initializer)


def test_the_child_is_a_script_of_its_own() -> None:
    assert "edge" not in {line.split()[1].split(".")[0] for line in _imports(Path(stage.child.__file__))}
    assert sys.executable


def _imports(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line.startswith(("import ", "from "))]


@pytest.mark.compiler
def test_the_compilers_own_table_shows_the_gelu_only_in_ours(toolchain: Toolchain, tmp_path: Path) -> None:
    source = saved(block_net(), tmp_path)
    forms = {"plain": source, "onnxsim": saved(onnxsim.simplify(block_net())[0], tmp_path, "onnxsim")}
    result, _ = run(source, tmp_path / "ours")
    forms["ours"] = tmp_path / "ours" / result.onnx

    forms["exponent"] = saved(exponent_with_an_axis(block_net()), tmp_path, "exponent")

    tables, latency, inside = {}, {}, {}
    for form, path in forms.items():
        out = tmp_path / f"check_{form}"
        out.mkdir()
        found = checker(toolchain, onnx=path, out=out)
        tables[form] = Counter(row.type for row in found.nodes)
        assert found.static is not None
        latency[form] = found.static.latency_us
        inside[form] = found.cpu_inside
    assert inside.pop("exponent") == ("/block/norm/Pow",)
    assert not any(inside.values())

    # GELU and the LayerNorm's root are a table each; without the pattern Erf is a table plus arithmetic.
    assert sum(tables["onnxsim"].values()) > sum(tables["ours"].values())
    extra = tables["onnxsim"] - tables["ours"]
    assert extra["HzSElementwiseMul"] >= 1
    assert extra["HzSElementwiseAdd"] + extra["HzSQuantizedConv"] >= 1
    assert not tables["ours"] - tables["plain"]
    assert latency["ours"] <= latency["plain"]
    assert latency["ours"] < latency["onnxsim"]
