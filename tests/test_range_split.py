"""Channels in groups by range: what is computed stays, the cuts are the best, and the real compiler answers better."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edge.compiler.node_names import NodeNames, expanded
from edge.errors import ModelFileError, SpecError
from edge.graph.files import facts
from edge.prepare.range_split import SplitResult, cut, find_places, range_split, split
from edge.specs import NodePrecision, Precision, RangeSplit, load_precision, save_precision
from edge.toolchain.found import Toolchain
from tests.conftest import FakeCompiler, Run, save_images
from tests.test_build_compiler import NORM, build
from tests.test_equalize import PRE, Net, run
from tests.test_rounding import calibration

BEHIND: dict[str, list[str]] = {
    "nothing": [], "Relu": ["Relu"], "Clip": ["Clip"], "LeakyRelu": ["LeakyRelu"], "Swish": ["Sigmoid", "Mul"],
    "HardSwish": ["HardSigmoid", "Mul"],
}  # fmt: skip


def activated(net: Net, kind: str) -> Net:
    if not kind.endswith("Swish"):
        for op in BEHIND[kind]:
            net.add(op)
        return net
    value = net.last
    net.add(BEHIND[kind][0]).add("Mul")
    net.nodes[-1].input.append(value)
    return net


def place(kind: str = "Relu", channels: int = 24, seed: int = 0) -> Net:
    """A third of the channels before a depthwise convolution is loud; it makes all alike."""
    sizes = np.where(np.arange(channels) % 3, 0.02, 1.0)[:, None, None, None]
    net = activated(Net(seed).conv(channels, strides=[2, 2], bias=False), kind)
    net = activated(net.conv(channels, group=channels, bias=False), kind).conv(16, 1)
    constants = {tensor.name: tensor for tensor in net.constants}
    first, second, _ = (constants[node.input[1]] for node in net.nodes if node.op_type == "Conv")
    for tensor, by in ((first, sizes), (second, 1 / sizes)):
        tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * by).astype(np.float32), tensor.name))
    return net.add("Relu")


def done(net: onnx.ModelProto, folder: Path, **fields: Any) -> SplitResult:
    onnx.save(net, folder / "net.onnx")
    return range_split(
        model=folder / "net.onnx",
        calibration=calibration(folder / "cal", 3),
        preprocess=PRE,
        range_split=RangeSplit(**fields),
        out=folder,
        name="s",
    )


@given(seed=st.integers(0, 10_000), count=st.integers(2, 12), groups=st.integers(2, 4), block=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_no_other_cut_is_better(seed: int, count: int, groups: int, block: int) -> None:
    random = np.random.default_rng(seed)
    ranges = [random.lognormal(0, 1, count) for _ in range(3)]
    gains = [random.lognormal(0, 1, count) for _ in range(3)]
    order = np.argsort(ranges[0])

    def noise(parts: Any) -> float:
        return sum(g[p].sum() * r[p].max() ** 2 for r, g in zip(ranges, gains, strict=True) for p in parts)

    found = cut(ranges, gains, groups, block)
    assert sorted(np.concatenate(found)) == list(range(count))
    assert all(len(part) % block == 0 for part in found[:-1])
    inner = range(block, count, block)
    every = [np.split(order, edges) for edges in combinations(inner, min(groups - 1, len(inner)))]
    assert noise(found) == pytest.approx(min(map(noise, every)))


@pytest.mark.parametrize("kind", BEHIND)
def test_each_activation_is_found_and_computes_what_it_did(tmp_path: Path, kind: str) -> None:
    net = place(kind).model()
    (found,) = find_places(net)
    assert (found.name, len(found.first.activation)) == ("n0", len(BEHIND[kind]))
    result = done(net, tmp_path)
    assert result.places[0].name == "n0"
    assert sum(result.places[0].groups) == 24
    x = np.random.default_rng(7).normal(0, 1, (1, 3, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "s.onnx", x), run(tmp_path / "net.onnx", x), rtol=1e-4, atol=1e-5)
    names = [node.name for node in onnx.load(tmp_path / "s.onnx").graph.node]
    assert {"n0_g0", "n0_g1"} <= set(names)
    assert len(names) == len(set(names)) == len(net.graph.node) + 2 + 2 * len(BEHIND[kind]) + 1


def test_places_may_overlap_and_have_several_readers(tmp_path: Path) -> None:
    """As in MobileNet, where the convolution behind one place is in front of the next; and as in a YOLOX's head."""
    net = Net(0).conv(16, strides=[2, 2], uneven=True).add("Relu").conv(16, group=16).add("Relu")
    net.conv(24, 1, uneven=True).add("Relu").conv(24, group=24)
    ends = [net.last, net.last]
    net.last = "n5"
    ends.append(net.conv(24, group=24).add("Relu").last)
    for place_, end in enumerate(ends):
        net.last, net.channels = end, 24
        ends[place_] = net.conv(8, 1).last
    net.last = "sum"
    net.nodes.append(helper.make_node("Sum", ends, [net.last], name=net.last))
    model = net.model()
    assert [(p.name, len(p.depthwise)) for p in find_places(model)] == [("n0", 1), ("n4", 2)]
    result = done(model, tmp_path)
    assert [p.name for p in result.places] == ["n0", "n4"]
    x = np.random.default_rng(7).normal(0, 1, (1, 3, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "s.onnx", x), run(tmp_path / "net.onnx", x), rtol=1e-4, atol=1e-5)
    assert done(model, tmp_path, places=("n4",)).places == result.places[1:]


def test_what_others_read_is_no_place() -> None:
    assert not find_places(place(channels=8).model()), "too few channels for two groups"
    assert not find_places(Net(0).conv(24).add("Relu").conv(24, group=12).conv(8, 1).model()), "not depthwise"
    assert not find_places(Net(0).conv(24).add("Relu").conv(48, group=24).conv(8, 1).model()), "two outputs a channel"
    assert not find_places(Net(0).conv(24).add("Relu").conv(24, group=24).add("Tanh").conv(8, 1).model())
    for value in ("n0", "n1", "n2", "n3"):
        model = place().model()
        assert find_places(model)
        read = place()
        read.nodes.append(helper.make_node("Tanh", [value], ["other"], name="other"))
        assert not find_places(read.model()), value
        model.graph.output.append(helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
        assert not find_places(model), value


def test_what_can_not_be_split_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no channels to split"):
        done(Net(0).conv(24).add("Relu").model(), tmp_path)
    with pytest.raises(ModelFileError, match=r"the place 'n2', where the channels of net\.onnx can't be split") as told:
        done(place().model(), tmp_path, places=("n0", "n2"))
    assert told.value.expected == "'n0'"
    assert "manifest.json" in str(told.value.remedy)
    with pytest.raises(ModelFileError, match=r"names the place 'nope', and net\.onnx has no such node"):
        done(place().model(), tmp_path, places=("nope",))


def test_a_place_that_does_not_exist_is_told_near_names(tmp_path: Path) -> None:
    net = Net(0)
    for _ in range(6):
        net.conv(24).add("Relu").conv(24, group=24).add("Relu")
    model = net.conv(8, 1).model()
    names = [found.name for found in find_places(model)]
    assert len(names) == 6
    with pytest.raises(ModelFileError) as told:
        done(model, tmp_path, places=(f"{names[-1]}x",))
    listed = str(told.value.expected)
    assert repr(names[-1]) in listed
    shown = [name for name in names if repr(name) in listed]
    assert listed.endswith(f" or one of {6 - len(shown)} more")


def test_a_place_that_does_not_exist_is_told_before_the_compiler_starts(
    edge: Run, tmp_path: Path, fake_compiler: object
) -> None:
    onnx.save(place().model(), tmp_path / "net.onnx")
    images = str(save_images(tmp_path / "images", 24))
    (tmp_path / "mine.yaml").write_text("range_split: {places: [nope]}\n")
    data = ("--images", images, "--calib", images, "--precision", str(tmp_path / "mine.yaml"))
    code, _, err = edge("build", str(tmp_path / "net.onnx"), *NORM[:4], "--resize", "64", *data, "--compiler", "path")
    assert (code, "names the place 'nope'" in err) == (1, True)
    assert "simplify" in err
    assert "check" not in err.split("simplify", 1)[1]


def test_a_split_that_changes_the_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(model: onnx.ModelProto, groups: Any) -> onnx.ModelProto:
        result = split(model, groups)
        (joined,) = (node for node in result.graph.node if node.op_type == "Concat")
        joined.input[:] = reversed(joined.input)
        return result

    monkeypatch.setattr("edge.prepare.range_split.split", swapped)
    with pytest.raises(ModelFileError, match="change when its channels are split: output 0 differs by"):
        done(place().model(), tmp_path)
    assert not (tmp_path / "s.onnx").exists()


def test_a_recipe_reads_back_and_nonsense_is_refused(tmp_path: Path) -> None:
    written = Precision("mine", range_split=RangeSplit(3, ("/a/Conv", "/b/Conv"), images=5))
    save_precision(tmp_path / "mine.yaml", written)
    assert load_precision(str(tmp_path / "mine.yaml")) == written
    assert load_precision("int8_split").range_split == RangeSplit()
    wrong = {"1": "groups 1", "{groups: 17}": "groups 17", "{images: 0}": "images 0", "true": "breaks the schema"}
    for text, says in wrong.items():
        (tmp_path / "r.yaml").write_text(f"range_split: {text}\n")
        with pytest.raises(SpecError, match=says):
            load_precision(str(tmp_path / "r.yaml"))


def test_a_setting_for_a_node_that_was_split_is_one_for_each_group() -> None:
    model = place().model()
    groups = split(model, {"n0": [np.arange(8), np.arange(8, 24)]})
    names = NodeNames.of(facts(groups), groups)
    wide, narrow, cpu = NodePrecision(outputs="int16"), NodePrecision(outputs="int8"), NodePrecision("CPU")
    recipe = Precision("r", nodes={"n*": cpu, "n0": wide, "n1_g1": narrow, "n1": wide}, range_split=RangeSplit())
    found = expanded(recipe, names).nodes
    assert [found[name] for name in ("n0_g0", "n0_g1", "n1_g0", "n1_g1", "n2_g0", "n4")] == [
        wide, wide, wide, narrow, cpu, cpu,
    ]  # fmt: skip
    assert set(found) <= {*names.known}
    exact = Precision("r", nodes={"*n0": wide}, range_split=RangeSplit())
    assert set(expanded(exact, names).nodes) == {"n0_g0", "n0_g1"}


def test_the_stage_splits_behind_equalization_and_before_rounding(
    edge: Run, tmp_path: Path, fake_compiler: FakeCompiler
) -> None:
    onnx.save(place().model(), tmp_path / "net.onnx")
    images = save_images(tmp_path / "images", 24)
    common = (str(tmp_path / "net.onnx"), *NORM[:4], "--resize", "64", "--calib", str(images))
    code, _, err = edge("split", *common)
    assert code == 2
    assert "recipe int8 does not split channels" in err
    assert "int8_split" in err
    code, out, err = edge("split", *common, "--precision", "int8_split")
    assert code == 0, err
    assert "net_bpu_split.onnx" in out
    assert "channels of 1 place in 2 groups by range" in err
    (tmp_path / "all.yaml").write_text(
        "equalization: {images: 4}\nrounding: {images: 4}\nrange_split: 3\nnodes: {n2: {outputs: int16}}\n"
    )
    code, out, err = edge("compile", *common, "--compiler", "path", "--precision", str(tmp_path / "all.yaml"))
    assert code == 0, err
    ran = [line.split()[1] for line in err.splitlines() if line.startswith(("✓", "="))]
    assert ran[ran.index("equalize") :][:3] == ["equalize", "split", "round"]
    (text,) = (tmp_path / "build").rglob("net_64x64_nv12.yaml")
    parameters = yaml.safe_load(text.read_text())["model_parameters"]
    assert parameters["onnx_model"] == "./net_bpu_rounded.onnx"
    assert set(parameters["node_info"]) == {"n2_g0", "n2_g1", "n2_g2"}


@pytest.mark.compiler
def test_the_real_compiler_answers_better(toolchain: Toolchain, tmp_path: Path) -> None:
    onnx.save(place("Swish").model(), tmp_path / "net.onnx")
    images = save_images(tmp_path / "images", 40)
    arguments = (str(tmp_path / "net.onnx"), *NORM, "--images", str(images), "--calib", str(images))
    cosines = {}
    for name, key in (("plain", ""), ("split", "range_split: {images: 32}\n")):
        chosen = tmp_path / f"{name}.yaml"
        chosen.write_text("calibration: {method: max}\n" + key)
        (tmp_path / name).mkdir()
        manifest = build(tmp_path / name, *arguments, "--precision", str(chosen))
        cosines[name] = manifest["accuracy"]["cosine"]
        assert manifest["verify"]["bit_exact"] is True
        assert manifest["verify"]["portable_exact"] is True
    assert 1 - cosines["split"] < 0.5 * (1 - cosines["plain"])
    made = manifest["range_split"]
    assert [place["name"] for place in made["places"]] == ["n0"]
    assert made["images"] == 32
    assert "split_onnx" in {entry["role"] for entry in manifest["artifacts"]}
