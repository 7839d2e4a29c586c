"""Parts of the graph in another form: the same answers, the same names, and the real compiler takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edge.errors import ModelFileError, SpecError
from edge.prepare.channel_mean import RewriteResult, channel_mean, rewrite
from edge.specs import Precision, load_precision, precision_text, save_precision
from edge.toolchain.found import Toolchain
from tests.conftest import Run, save_images
from tests.test_build_compiler import NORM, build
from tests.test_equalize import Net, run

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


class Normed(Net):
    """A net with LayerNorms over channels, as torch exports ConvNeXt's."""

    def norm(self, axis: int = -1, keepdims: int = 1) -> Normed:
        n = f"norm{len(self.nodes)}"
        gain = self.constant(f"{n}.weight", self.random.uniform(0.5, 2, self.channels))
        shift = self.constant(f"{n}.bias", self.random.normal(0, 0.2, self.channels))
        if "two" not in {tensor.name for tensor in self.constants}:
            self.constant("two", 2.0)
            self.constant("epsilon", 1e-6)

        def node(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
            self.nodes.append(helper.make_node(op, inputs, [f"{n}/{name}"], name=f"{n}/{name}", **attributes))
            return f"{n}/{name}"

        x = node("Transpose", [self.last], "Transpose", perm=TO_LAST)
        mean = node("ReduceMean", [x], "ReduceMean", axes=[axis], keepdims=keepdims)
        centred = node("Sub", [x, mean], "Sub")
        square = node("Pow", [centred, "two"], "Pow")
        variance = node("ReduceMean", [square], "ReduceMean_1", axes=[axis], keepdims=keepdims)
        root = node("Sqrt", [node("Add", [variance, "epsilon"], "Add")], "Sqrt")
        scaled = node("Mul", [node("Div", [centred, root], "Div"), gain], "Mul")
        self.last = node("Transpose", [node("Add", [scaled, shift], "Add_1")], "Transpose_1", perm=TO_FIRST)
        return self


def two_norms(seed: int = 0, size: int = 64, channels: int = 8) -> onnx.ModelProto:
    net = Normed(seed, size)
    net.conv(channels, strides=[4, 4]).norm().conv(channels, group=channels).norm()  # type: ignore[attr-defined]
    return net.conv(16, 1).add("Relu").model()


def rewritten(model: onnx.ModelProto, folder: Path) -> RewriteResult:
    onnx.save(model, folder / "net.onnx")
    return rewrite(model=folder / "net.onnx", rewrites=("channel_mean",), out=folder, name="r")


def test_means_become_convolutions_under_their_own_names(tmp_path: Path) -> None:
    model = two_norms()
    result = rewritten(model, tmp_path)
    means = [node.name for node in model.graph.node if node.op_type == "ReduceMean"]
    assert result.nodes == {"channel_mean": tuple(means)}
    assert len(means) == 4
    assert result.max_abs_error < 1e-4
    made = {node.name: node for node in onnx.load(tmp_path / "r.onnx").graph.node}
    assert {made[name].op_type for name in means} == {"Conv"}
    gone = {node.name for node in model.graph.node} - set(made)
    assert gone == {node.name for node in model.graph.node if node.op_type == "Transpose"}
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "r.onnx").graph.initializer}
    assert (weights[f"{means[0]}/weight"] == np.float32(1 / 8)).all()


@given(seed=st.integers(0, 10_000), channels=st.sampled_from([1, 2, 8, 12, 40]))
@settings(max_examples=12, deadline=None)
def test_random_networks_answer_as_before(tmp_path_factory: pytest.TempPathFactory, seed: int, channels: int) -> None:
    folder = tmp_path_factory.mktemp("random")
    rewritten(two_norms(seed, 32, channels), folder)
    x = np.random.default_rng(seed).normal(size=(1, 3, 32, 32)).astype(np.float32)
    before, after = run(folder / "net.onnx", x), run(folder / "r.onnx", x)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-4 * max(1.0, np.ptp(before)))


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    rewritten(two_norms(), tmp_path / "a")
    rewritten(two_norms(), tmp_path / "b")
    assert (tmp_path / "a" / "r.onnx").read_bytes() == (tmp_path / "b" / "r.onnx").read_bytes()


def another_axis() -> onnx.ModelProto:
    net = Normed(0).conv(8, strides=[4, 4])
    return net.norm(axis=1).model()  # type: ignore[attr-defined,no-any-return]


def seen_from_outside() -> onnx.ModelProto:
    net = Normed(0).conv(8, strides=[4, 4])
    model: onnx.ModelProto = net.norm().model()  # type: ignore[attr-defined]
    sub = next(node for node in model.graph.node if node.name.endswith("/Sub"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(sub.output[0], onnx.TensorProto.FLOAT, (1, 16, 16, 8)))
    return model


def a_image_among_its_constants() -> onnx.ModelProto:
    model = two_norms()
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".bias"):
            wide = np.broadcast_to(numpy_helper.to_array(tensor), (1, 16, 16, 8)).copy()
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    return model


@pytest.mark.parametrize("make", [another_axis, seen_from_outside, a_image_among_its_constants])
def test_what_has_another_form_stays(tmp_path: Path, make: Any) -> None:
    model = make()
    changed, names = channel_mean(model)
    assert names == ()
    assert [node.op_type for node in changed.graph.node] == [node.op_type for node in model.graph.node]
    with pytest.raises(ModelFileError, match="the rewrite channel_mean finds nothing"):
        rewritten(model, tmp_path)
    assert not (tmp_path / "r.onnx").exists()


def test_a_rewrite_that_changes_the_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        changed, names = channel_mean(model)
        weight = next(t for t in changed.graph.initializer if t.name.endswith("ReduceMean_1/weight"))
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.1, weight.name))
        return changed, names

    monkeypatch.setattr("edge.prepare.channel_mean.REWRITES", {"channel_mean": broken})
    with pytest.raises(ModelFileError, match="computes something else after the rewrite: output 0 differs by"):
        rewritten(two_norms(), tmp_path)
    assert not (tmp_path / "r.onnx").exists()


def test_a_recipe_reads_back_and_nonsense_is_refused(tmp_path: Path) -> None:
    written = Precision("mine", rewrites=("channel_mean",))
    save_precision(tmp_path / "mine.yaml", written)
    assert load_precision(str(tmp_path / "mine.yaml")) == written
    assert "rewrites" not in precision_text(Precision("plain"))
    assert load_precision("int8_channel_mean").rewrites == ("channel_mean",)
    (tmp_path / "r.yaml").write_text("rewrites: [faster]\n")
    with pytest.raises(SpecError, match="faster"):
        load_precision(str(tmp_path / "r.yaml"))


def test_rewrite_needs_a_recipe_that_asks_for_it(edge: Run, tmp_path: Path) -> None:
    onnx.save(two_norms(), tmp_path / "net.onnx")
    common = (str(tmp_path / "net.onnx"), *NORM[:4], "--resize", "64")
    code, _, err = edge("rewrite", *common)
    assert code == 2
    assert "recipe int8 rewrites nothing" in err
    code, out, err = edge("rewrite", *common, "--precision", "int8_channel_mean")
    assert code == 0, err
    assert "net_bpu_rewritten.onnx" in out
    assert "channel_mean at 4 nodes" in err


def test_what_follows_a_rewrite_is_made_of_it(edge: Run, tmp_path: Path) -> None:
    onnx.save(two_norms(), tmp_path / "net.onnx")
    images = save_images(tmp_path / "images", 24)
    made = {}
    for name in ("plain", "rewritten"):
        chosen = tmp_path / f"{name}.yaml"
        chosen.write_text(("rewrites: [channel_mean]\n" if name == "rewritten" else "") + "rounding: {}\n")
        code, out, err = edge(
            "round",
            str(tmp_path / "net.onnx"),
            *NORM[:4],
            *("--resize", "64", "--calib", str(images), "--calib-count", "20"),
            *("--precision", str(chosen), "--json"),
        )
        assert code == 0, err
        (file,) = json.loads(out)["files"]
        made[name] = {node.op_type for node in onnx.load(file["path"]).graph.node}
    assert "ReduceMean" in made["plain"]
    assert "ReduceMean" not in made["rewritten"]


@pytest.mark.compiler
def test_the_real_compiler_runs_means_as_exactly(toolchain: Toolchain, tmp_path: Path) -> None:
    onnx.save(two_norms(), tmp_path / "norms.onnx")
    images = save_images(tmp_path / "images", 24)
    arguments = (str(tmp_path / "norms.onnx"), *NORM, "--images", str(images), "--calib", str(images))
    cosines = {}
    for name, key in (("plain", ""), ("rewritten", "rewrites: [channel_mean]\n")):
        chosen = tmp_path / f"{name}.yaml"
        # A node that is named keeps its setting in either form.
        chosen.write_text("nodes: {norm1/Pow: {'on': BPU, outputs: int16}}\n" + key)
        (tmp_path / name).mkdir()
        manifest = build(tmp_path / name, *arguments, "--precision", str(chosen))
        cosines[name] = manifest["accuracy"]["cosine"]
        assert manifest["verify"]["bit_exact"] is True
        assert manifest["placement"]["cpu_inside"] == []
    assert 1 - cosines["rewritten"] < 1.2 * (1 - cosines["plain"]) + 1e-4
    made = json.loads((tmp_path / "rewritten" / "build" / "norms" / "manifest.json").read_text())
    assert len(made["rewrites"]["nodes"]["channel_mean"]) == 4
    assert "rewritten_onnx" in {entry["role"] for entry in made["artifacts"]}
