"""Channels scaled between convolutions: what is computed stays, and the real compiler answers better."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.errors import ModelFileError, SpecError
from edge.measure.objective import Measured
from edge.prepare.equalize import LIMIT, EqualizeResult, equalize, factors, find_pairs
from edge.specs import Equalization, Precision, Preprocess, load_precision, save_precision
from edge.toolchain.found import Toolchain
from edge.tune.context import Candidate
from edge.tune.spaces import ROUNDINGS
from edge.tune.tune import Search
from tests.conftest import Run, save_images
from tests.test_build_compiler import NORM, build
from tests.test_rounding import calibration

PRE = Preprocess(crop=(64, 64), resize=64, mean=(127.5,) * 3, std=(64.0,) * 3)
BETWEEN: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "nothing": [],
    "Relu": [("Relu", {})],
    "LeakyRelu": [("LeakyRelu", {"alpha": 0.1})],
    "Clip": [("Clip", {})],
    "Relu, MaxPool": [("Relu", {}), ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]})],
    "AveragePool": [("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})],
}


class Net:
    """A net that grows node by node: an image in, ten scores out."""

    def __init__(self, seed: int, size: int = 64) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.size = size
        self.last, self.channels = "x", 3

    def constant(self, name: str, data: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(data, np.float32), name))
        return name

    def add(self, op: str, **attributes: Any) -> Net:
        name = f"n{len(self.nodes)}"
        inputs = [self.last]
        if op == "Clip":
            inputs += [self.constant(f"{name}_low", 0), self.constant(f"{name}_high", attributes.pop("high", 6))]
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.last = name
        return self

    def conv(
        self,
        outputs: int,
        kernel: int = 3,
        group: int = 1,
        uneven: bool = False,
        dead: int = 0,
        bias: bool = True,
        **attributes: Any,
    ) -> Net:
        name = f"n{len(self.nodes)}"
        share = self.channels // group
        weight = self.random.normal(0, (share * kernel**2) ** -0.5, (outputs, share, kernel, kernel))
        offset = self.random.normal(0, 0.1, outputs)
        if uneven:
            sizes = np.geomspace(1, 0.02, outputs)
            weight, offset = weight * sizes[:, None, None, None], offset * sizes
        if dead:
            weight[-dead:], offset[-dead:] = 1e-7, -1
        inputs = [self.last, self.constant(f"{name}_w", weight)]
        inputs += [self.constant(f"{name}_b", offset)] if bias else []
        pads = [kernel // 2] * 4
        self.nodes.append(helper.make_node("Conv", inputs, [name], name=name, group=group, pads=pads, **attributes))
        self.last, self.channels = name, outputs
        return self

    def model(self) -> onnx.ModelProto:
        if self.last != "y":
            self.add("GlobalAveragePool").conv(10, 1).add("Flatten")
            self.nodes[-1].output[0] = self.last = "y"
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, self.size, self.size))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 10))],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
        onnx.checker.check_model(model)
        return model


def bumpy(seed: int = 0) -> Net:
    """As MobileNet begins: channels of unlike size between convolutions; the quiet ones count as much."""
    net = Net(seed).conv(16, strides=[2, 2], uneven=True).add("Clip")
    net.conv(16, group=16, uneven=True).add("Clip").conv(24, 1)
    weight = net.constants[-2]
    louder = numpy_helper.to_array(weight) / np.geomspace(1, 0.02, 16)[None, :, None, None] ** 2
    weight.CopyFrom(numpy_helper.from_array(louder.astype(np.float32), weight.name))
    return net.add("Clip")


def quiet_channels() -> Net:
    """Channels of unlike size before a depthwise convolution, which makes them alike again."""
    net = Net(0).conv(16, strides=[2, 2], uneven=True).add("Clip").conv(16, group=16)
    weight = net.constants[-2]
    louder = numpy_helper.to_array(weight) / np.geomspace(1, 0.02, 16)[:, None, None, None]
    weight.CopyFrom(numpy_helper.from_array(louder.astype(np.float32), weight.name))
    return net.add("Clip").conv(24, 1).add("Clip")


def run(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def equalized(net: onnx.ModelProto, folder: Path, n: int = 4, **fields: Any) -> EqualizeResult:
    onnx.save(net, folder / "net.onnx")
    return equalize(
        model=folder / "net.onnx",
        calibration=calibration(folder / "cal", n),
        preprocess=PRE,
        equalization=Equalization(**fields),
        out=folder,
        name="e",
    )


@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("between", BETWEEN)
def test_each_kind_of_pair_is_found_and_computes_what_it_did(tmp_path: Path, between: str, depthwise: bool) -> None:
    net = Net(1).conv(8, strides=[4, 4], uneven=True)
    for op, attributes in BETWEEN[between]:
        net.add(op, **attributes)
    net.conv(8, group=8 if depthwise else 1).add("Tanh")
    (pair,) = find_pairs(model := net.model())
    assert pair.name == f"n0 → n{1 + len(BETWEEN[between])}"
    assert (pair.consumer.depthwise, pair.ceiling) == (depthwise, 6 if between == "Clip" else None)
    result = equalized(model, tmp_path)
    assert result.pairs[0].largest > (4 if depthwise else 2)
    x = np.random.default_rng(7).normal(0, 0.3, (1, 3, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "e.onnx", x), run(tmp_path / "net.onnx", x), rtol=0, atol=1e-5)
    assert list(onnx.load(tmp_path / "e.onnx").graph.node) == list(model.graph.node)


@given(seed=st.integers(0, 10_000), dead=st.integers(0, 4), layers=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_random_networks_compute_what_they_did(
    tmp_path_factory: pytest.TempPathFactory, seed: int, dead: int, layers: int
) -> None:
    folder = tmp_path_factory.mktemp("random")
    random = np.random.default_rng(seed)
    net = Net(seed).conv(8, strides=[4, 4], uneven=True, dead=dead).add(str(random.choice(["Relu", "Clip"])))
    for _ in range(layers):
        depthwise = bool(random.integers(2))
        net.conv(8, 3 if depthwise else 1, group=8 if depthwise else 1, bias=bool(random.integers(2)))
        net.add(str(random.choice(["Relu", "LeakyRelu", "Clip"])))
    result = equalized(net.model(), folder, n=2)
    x = random.normal(0, 0.2, (1, 3, 64, 64)).astype(np.float32)
    before, after = run(folder / "net.onnx", x), run(folder / "e.onnx", x)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-4 * max(1.0, float(np.ptp(before))))
    assert result.max_abs_error <= 1e-4 * max(1.0, float(np.abs(before).max()) * 10)


def test_what_minds_a_factor_is_no_pair() -> None:
    def two(*between: str, **attributes: Any) -> onnx.ModelProto:
        net = Net(0).conv(8)
        for op in between:
            net.add(op)
        return net.conv(8, **attributes).add("Tanh").model()

    assert not find_pairs(two("Sigmoid"))
    assert not find_pairs(two("Relu", "Softmax"))
    assert not find_pairs(two("Relu", group=4)), "groups that mix some channels"
    read_twice = Net(0).conv(8).add("Relu").conv(8).add("Tanh")
    read_twice.nodes.append(helper.make_node("Relu", ["n1"], ["other"], name="other"))
    assert not find_pairs(read_twice.model())
    shared = Net(0).conv(8).add("Tanh").conv(8).add("Relu").conv(8).add("Tanh")
    shared.nodes[4].input[1] = shared.nodes[2].input[1]
    assert not find_pairs(shared.model())
    shifted = Net(0).conv(8).add("Clip").conv(8).add("Tanh")
    shifted.constants[2].CopyFrom(numpy_helper.from_array(np.array(-1, np.float32), "n1_low"))
    assert not find_pairs(shifted.model())


def test_channels_are_brought_to_the_top_and_not_above() -> None:
    ranges = np.array([6.0, 3.0, 0.5, 1e-6, 0.0])
    np.testing.assert_allclose(factors(ranges, 6.0, depthwise=True), [1, 2, 12, LIMIT, 1])
    np.testing.assert_allclose(factors(ranges, 12.0, depthwise=True), [2, 4, 24, LIMIT, 1])
    np.testing.assert_allclose(factors(ranges, None, depthwise=False) ** 2, [1, 2, 12, LIMIT, 1])
    np.testing.assert_array_equal(factors(np.zeros(3), None, depthwise=True), np.ones(3))


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        equalized(bumpy().model(), tmp_path / name)
    assert (tmp_path / "a" / "e.onnx").read_bytes() == (tmp_path / "b" / "e.onnx").read_bytes()


def test_a_pair_that_changes_the_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(constants: Any, pair: Any, by: Any) -> None:
        constants[pair.producer.weight] *= by[:, None, None, None].astype(np.float32)

    monkeypatch.setattr("edge.prepare.equalize.multiply", half)
    with pytest.raises(ModelFileError, match="change when it is equalized: output 0 differs by"):
        equalized(bumpy().model(), tmp_path)
    assert not (tmp_path / "e.onnx").exists()


def test_a_factor_that_drives_channels_into_a_clip_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.prepare.equalize.factors", lambda ranges, *_, **__: np.full_like(ranges, 50.0))
    with pytest.raises(ModelFileError, match="change when it is equalized"):
        equalized(bumpy().model(), tmp_path)


def test_a_network_without_pairs_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no pair of convolutions"):
        equalized(Net(0).conv(8).add("Tanh").model(), tmp_path)


def test_a_recipe_reads_back_and_nonsense_is_refused(tmp_path: Path) -> None:
    written = Precision("mine", equalization=Equalization(images=3))
    save_precision(tmp_path / "mine.yaml", written)
    assert load_precision(str(tmp_path / "mine.yaml")) == written
    assert load_precision("int8_equalized").equalization == Equalization()
    (tmp_path / "r.yaml").write_text("equalization: {images: 0}\n")
    with pytest.raises(SpecError, match="images 0"):
        load_precision(str(tmp_path / "r.yaml"))


@pytest.mark.parametrize("pairs", [True, False])
def test_the_search_tries_it_where_there_are_pairs(monkeypatch: pytest.MonkeyPatch, pairs: bool) -> None:
    tried: list[tuple[str, Precision]] = []

    def quick(name: str, precision: Precision, _kept: float) -> Candidate:
        tried.append((name, precision))
        worth = 1 - 0.1 * (precision.rounding is not None) - 0.1 * (precision.equalization is not None)
        return Candidate(name, precision, Measured(100, 90, worth))

    # edge.tune.tune is the function, by name.
    monkeypatch.setattr(sys.modules[Search.__module__], "figures", lambda _entry: Measured(100, 90, 1.0))
    search: Any = SimpleNamespace(
        request=SimpleNamespace(precision=Precision("int8"), spec=SimpleNamespace(name="net")),
        options=SimpleNamespace(seconds=1000.0),
        equalizable=pairs,
        splittable=False,
        _quick=quick,
        _ahead=lambda *_, **__: None,
        _guess=lambda *_, **__: None,
    )
    search._plain = Search._plain.fget(search)  # type: ignore[attr-defined]
    search._first, search._methods = partial(Search._first, search), partial(Search._methods, search)
    Search._calibrations(search, cast(Any, None), 1.0)
    names = [name for name, precision in tried if precision.equalization is not None]
    # On top of the best so far; what comes after builds on it.
    assert len(names) == (1 + len(ROUNDINGS) if pairs else 0)
    assert all(", rounded, equalized" in name for name in names)


def test_equalize_needs_a_recipe_that_asks_for_it(edge: Run, tmp_path: Path) -> None:
    onnx.save(bumpy().model(), tmp_path / "net.onnx")
    images = save_images(tmp_path / "images", 24)
    common = (str(tmp_path / "net.onnx"), *NORM[:4], "--resize", "64", "--calib", str(images))
    code, _, err = edge("equalize", *common)
    assert code == 2
    assert "recipe int8 does not equalize channels" in err
    code, out, err = edge("equalize", *common, "--precision", "int8_equalized")
    assert code == 0, err
    assert "net_bpu_equalized.onnx" in out
    assert "channels of 3 pairs scaled" in err


@pytest.mark.compiler
def test_the_real_compiler_answers_better(toolchain: Toolchain, tmp_path: Path) -> None:
    onnx.save(quiet_channels().model(), tmp_path / "quiet.onnx")
    images = save_images(tmp_path / "images", 40)
    arguments = (str(tmp_path / "quiet.onnx"), *NORM, "--images", str(images), "--calib", str(images))
    cosines, latency = {}, {}
    for name, key in (("plain", ""), ("scaled", "equalization: {images: 32}\n")):
        chosen = tmp_path / f"{name}.yaml"
        chosen.write_text("calibration: {method: max}\n" + key)
        (tmp_path / name).mkdir()
        manifest = build(tmp_path / name, *arguments, "--precision", str(chosen))
        cosines[name] = manifest["accuracy"]["cosine"]
        latency[name] = manifest["static"]["latency_us"]
        assert manifest["verify"]["bit_exact"] is True
    assert 1 - cosines["scaled"] < 0.5 * (1 - cosines["plain"])
    assert latency["scaled"] == pytest.approx(latency["plain"], rel=0.01)
    made = json.loads((tmp_path / "scaled" / "build" / "quiet" / "manifest.json").read_text())
    assert [pair["name"] for pair in made["equalization"]["pairs"]] == ["n0 → n2", "n2 → n4", "n4 → n7"]
    assert made["equalization"]["images"] == 32
    assert "equalized_onnx" in {entry["role"] for entry in made["artifacts"]}
