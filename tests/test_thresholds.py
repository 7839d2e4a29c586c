"""Thresholds chosen by the network's answers, and told to the compiler in the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from edge.errors import CompileError, ModelFileError, SpecError
from edge.images.frames import Frame
from edge.measure.damage import Damage, of_boxes, of_scores, of_values
from edge.measure.networks import Outputs
from edge.prepare.quantize_nodes import Step, with_steps
from edge.progress import Silent
from edge.refine import thresholds as stage
from edge.refine.thresholds import Outcome, ThresholdsResult, learn_thresholds, outputs_of, search, told
from edge.simulate.fakequant import FLOAT, FakeQuant
from edge.specs import Calibration, ModelSpec, Precision, Sources, Thresholds, load_precision, save_precision
from edge.specs.detector import Detector, Scale
from edge.toolchain.found import Toolchain
from tests.conftest import FakeCompiler, Run, save_images
from tests.test_fakequant import calibration, model, opened
from tests.test_range_split import NORM, build, place

SIDE = 4


def frames(count: int, seed: int = 0) -> list[Frame]:
    rng = np.random.default_rng(seed)
    return [
        Frame(f"{seed}-{i}", None, rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8), (SIDE, SIDE)) for i in range(count)
    ]


def searched(net: FakeQuant, kept_back: Callable[[Outputs], Damage] = of_values) -> Outcome:
    first, others = frames(6), frames(6, seed=1)
    unrounded = net.bits(FLOAT)
    measures = {one.name: of_values(net.run(one.yuv444, unrounded)) for one in first}
    measures |= {one.name: kept_back(net.run(one.yuv444, unrounded)) for one in others}
    return search(net, first, others, measures, Silent())


def learned(folder: Path) -> ThresholdsResult:
    (folder / "out").mkdir()
    return learn_thresholds(
        cast(Any, None), folder / "net.onnx", cast(Any, None),
        spec=ModelSpec("n", Sources(onnx="net.onnx"), task="raw"),
        precision=Precision("r", thresholds=Thresholds(images=6)), outputs=(), detector=None, scores=None,
        calibrated=folder / "calibrated.onnx", method="max", cal_data_dir="", working_dir="", prefix="n", name="n",
        key="", timeout=1, out=folder / "out",
    )  # fmt: skip


def clipped_net(threshold: float) -> onnx.ModelProto:
    """x, rounded with a threshold → Conv: the last of three channels is wide and does not count."""
    weight = np.zeros((3, 3, 1, 1), np.float32)
    weight[0, 0], weight[1, 1] = 1, 1
    narrow = np.array([0.01, 0.01, 1], np.float32).reshape(3, 1, 1, 1)
    return model(
        [
            helper.make_node("Conv", ["x", "narrow"], ["n"], "narrow", group=3),
            calibration("qn", "n", "nq", "int8", [threshold]),
            helper.make_node("Conv", ["nq", "w"], ["y"], "last"),
        ],
        {"w": weight, "narrow": narrow},
    )


def test_a_wide_channel_that_does_not_count_is_clipped(tmp_path: Path) -> None:
    net = opened(clipped_net(128.0), tmp_path)
    found = searched(net)
    (index,) = found.thresholds
    assert float(found.thresholds[index].max()) < 0.3 * 128
    assert found.after < 0.5 * found.before


def test_what_does_not_hold_on_other_images_is_not_taken(tmp_path: Path) -> None:
    net = opened(clipped_net(128.0), tmp_path)
    # On the images kept back float's own outputs are the worst there are.
    found = searched(net, kept_back=lambda reference: lambda outputs: 1 / (1 + of_values(reference)(outputs)))
    (index,) = found.thresholds
    assert float(found.thresholds[index].max()) == 128
    assert found.after == found.before


def test_only_what_is_moved_without_rounding_stays_equal(tmp_path: Path) -> None:
    half = np.full((3, 3, 1, 1), 0.1, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "left"),
        helper.make_node("Conv", ["x", "w"], ["b"], "right"),
        calibration("qa", "a", "aq", "int8", [200.0]),
        calibration("qb", "b", "bq", "int8", [200.0]),
        helper.make_node("Concat", ["aq", "bq"], ["c"], "both", axis=1),
        calibration("qc", "c", "cq", "int8", [200.0]),
        helper.make_node("Conv", ["cq", "v"], ["d"], "next"),
        calibration("qd", "d", "dq", "int8", [200.0]),
        helper.make_node("Relu", ["dq"], ["y"], "last"),
    ]
    net = opened(model(nodes, {"w": half, "v": np.concatenate([half, half], 1)}), tmp_path)
    groups = [[net.quantizers[i].tensor for i in group] for group in stage.joined(net)]
    assert groups == [["a", "b", "c"], ["d"]]


def test_every_operator_reads_the_rounded_tensor() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 2)) for name in "xyz"]
    nodes = [helper.make_node("Relu", ["x"], ["y"], "a"), helper.make_node("Add", ["y", "x"], ["z"], "b")]
    net = helper.make_model(
        helper.make_graph(nodes, "n", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 11)]
    )
    made = with_steps(net, [Step("x", 0.5, 8), Step("y", 0.25, 16)])
    by_name = {node.name: node for node in made.graph.node}
    assert list(by_name["a"].input) == ["x_rounded"]
    assert list(by_name["b"].input) == ["y_rounded", "x_rounded"]
    assert [value.name for value in made.graph.output] == ["y", "z"]
    constants = {entry.name: numpy_helper.to_array(entry) for entry in made.graph.initializer}
    assert (constants["x_step"], constants["x_zero"].dtype) == (0.5, np.int8)
    assert (constants["y_step"], constants["y_zero"].dtype) == (0.25, np.int16)
    assert {node.name: node.attribute[0].i for node in made.graph.node if node.op_type == "HzQuantize"} == {
        "x_integers_node": 8, "y_integers_node": 16,
    }  # fmt: skip
    assert len(net.graph.node) == 2
    with pytest.raises(ModelFileError, match="1 tensor of its own making, such as gone"):
        with_steps(net, [Step("gone", 1.0, 8)])


def test_steps_stand_for_the_thresholds(tmp_path: Path) -> None:
    nodes = [
        calibration("qx", "x", "xq", "int8", [128.0]),
        helper.make_node("Relu", ["xq"], ["a"], "a"),
        calibration("qa", "a", "aq", "int16", [65.534]),
        helper.make_node("Relu", ["aq"], ["y"], "b"),
    ]
    net = opened(model(nodes), tmp_path)
    own = {i: item.thresholds for i, item in enumerate(net.quantizers)}
    assert outputs_of(net, "HzPreprocess") == frozenset()
    assert told(net.quantizers, own, frozenset(), "x") == (
        Step("x", pytest.approx(128 / 127), 8),
        Step("a", pytest.approx(0.002), 16),
    )
    # Behind the compiler's own node the network's input stands for what that computes.
    assert [step.tensor for step in told(net.quantizers, own, frozenset({"a"}), "x")] == ["x"]
    unsigned = opened(model([calibration("qx", "x", "y", "uint8", [255.0])]), tmp_path)
    with pytest.raises(CompileError, match="can't be told"):
        told(unsigned.quantizers, {0: unsigned.quantizers[0].thresholds}, frozenset(), "")


def test_damage_is_zero_for_floats_own_and_grows() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((1, 10)).astype(np.float32)
    detector = Detector("yolox", 3, (Scale(8, "b", "s", "o"),))
    maps = [rng.standard_normal((1, n, 4, 4)).astype(np.float32) for n in (4, 3, 1)]
    for damage, reference in (
        (of_scores("logits")([scores]), [scores]),
        (of_values([scores]), [scores]),
        (of_boxes(detector, ("b", "s", "o"), (32, 32))(maps), maps),
    ):
        noise = [rng.standard_normal(one.shape).astype(np.float32) for one in reference]
        levels = [damage([a + level * b for a, b in zip(reference, noise, strict=True)]) for level in (0, 0.1, 0.3)]
        assert levels[0] == pytest.approx(0, abs=1e-6)
        assert levels[0] < levels[1] < levels[2]


def test_a_box_where_nothing_is_does_not_count() -> None:
    detector = Detector("yolox", 1, (Scale(8, "b", "s", "o"),))
    maps = [np.zeros((1, n, 4, 4), np.float32) for n in (4, 1, 1)]
    maps[2] -= 12  # no object anywhere
    sure = [maps[0], maps[1] + 8, maps[2].copy()]
    sure[2][0, 0, 1, 1] = 8
    for reference, counts in ((maps, False), (sure, True)):
        damage = of_boxes(detector, ("b", "s", "o"), (32, 32))(reference)
        assert (damage([reference[0] + 1, *reference[1:]]) > 0.5) is counts


def test_a_recipe_reads_back_and_nonsense_is_refused(tmp_path: Path) -> None:
    recipe = Precision("r", calibration=Calibration("mix"), thresholds=Thresholds(images=9))
    save_precision(tmp_path / "r.yaml", recipe)
    assert load_precision(str(tmp_path / "r.yaml")) == recipe
    with pytest.raises(SpecError, match="images 0"):
        Thresholds(images=0)
    with pytest.raises(SpecError, match="thresholds with calibration per_channel"):
        Precision("r", calibration=Calibration("max", per_channel=True), thresholds=Thresholds())


def test_a_recipe_without_the_key_is_refused(edge: Run, tmp_path: Path, fake_compiler: FakeCompiler) -> None:
    onnx.save(place().model(), tmp_path / "net.onnx")
    images = save_images(tmp_path / "images", 8)
    code, _, err = edge("thresholds", str(tmp_path / "net.onnx"), *NORM[:4], "--resize", "64", "--calib", str(images))
    assert code == 2
    assert "recipe int8 leaves thresholds to the compiler" in err
    assert "int8_thresholds" in err


def test_a_network_that_the_compiler_writes_another_way_is_refused_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(clipped_net(128.0), tmp_path / "calibrated.onnx")
    monkeypatch.setattr(stage, "load_frames", None)
    other = model([helper.make_node("Relu", ["x"], ["y"], "only")])
    onnx.save(other, tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match="1 tensor of its own making, such as n"):
        learned(tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.compiler
def test_the_real_compiler_takes_them_and_answers_are_closer(toolchain: Toolchain, tmp_path: Path) -> None:
    onnx.save(place("Swish").model(), tmp_path / "net.onnx")
    images = save_images(tmp_path / "images", 40)
    arguments = (str(tmp_path / "net.onnx"), *NORM, "--images", str(images), "--calib", str(images))
    cosines, manifests = {}, {}
    for name, key in (
        ("plain", ""),
        ("chosen", "rounding: {images: 8}\nthresholds: {images: 12}\n"),
        ("wide", "rounding: {images: 8}\nthresholds: {images: 12, int16_latency: 9}\n"),
    ):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text("calibration: {method: max}\n" + key)
        (tmp_path / name).mkdir()
        manifest = build(tmp_path / name, *arguments, "--precision", str(recipe))
        cosines[name], manifests[name] = manifest["accuracy"]["cosine"], manifest
        assert manifest["verify"]["bit_exact"] is True
        assert manifest["verify"]["portable_exact"] is True
    assert 1 - cosines["wide"] < 1 - cosines["chosen"] < 1 - cosines["plain"]
    assert manifests["wide"]["thresholds"]["int16"] > 0
    assert manifests["wide"]["static"]["latency_us"] > manifests["plain"]["static"]["latency_us"]
    made = manifests["chosen"]["thresholds"]
    assert made["changed"] > 0
    assert made["damage_after"] < made["damage_before"]
    assert (made["images"], made["kept_back"]) == (12, 12)
    assert manifests["chosen"]["static"]["latency_us"] == manifests["plain"]["static"]["latency_us"]
    assert manifests["chosen"]["calibration"]["method"] == manifests["plain"]["calibration"]["method"]
    (folder,) = (path.parent for path in (tmp_path / "chosen").rglob("manifest.json"))
    text = folder / "net_64x64_nv12.yaml"
    parameters = yaml.safe_load(text.read_text())
    assert parameters["calibration_parameters"] == {"calibration_type": "load"}
    assert parameters["model_parameters"]["onnx_model"] == "./net_bpu_thresholds.onnx"
    # What was told is in the published model, so that hb_mapper alone makes the same of it.
    told_onnx = folder / "net_bpu_thresholds.onnx"
    assert any(node.op_type == "HzQuantize" for node in onnx.load(told_onnx).graph.node)


@pytest.mark.parametrize("taken", [128.0, 0.1])
def test_a_compiler_that_takes_other_thresholds_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: float
) -> None:
    """Whatever it took is measured: no worse than before is fine, worse is an error."""
    onnx.save(clipped_net(128.0), tmp_path / "calibrated.onnx")

    def compiled(*_: object, out: Path, **__: object) -> None:
        onnx.save(clipped_net(taken), out / "n_calibrated_model.onnx")

    monkeypatch.setattr(stage, "_compiled", compiled)
    plain = clipped_net(128.0)
    (quantizer,) = (node for node in plain.graph.node if node.op_type == "HzCalibration")
    plain.graph.node.remove(quantizer)
    plain.graph.node[-1].input[0] = quantizer.input[0]
    onnx.save(plain, tmp_path / "net.onnx")
    monkeypatch.setattr(stage, "load_frames", lambda *_: (frames(12), ()))
    if taken < 1:
        with pytest.raises(CompileError, match="did not take the thresholds"):
            learned(tmp_path)
        return
    made = learned(tmp_path)
    assert made.after == made.before
    assert (made.images, made.kept_back, made.tensors, made.changed) == (6, 6, 1, 1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["n.onnx"]
