"""A detector's diagnosis goes by its boxes: AP with float's own as the objects, never a share of equal answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from attrs import evolve
from numpy.typing import NDArray
from onnx import helper

from edge.diagnose.faults import faults, remedies, verdict
from edge.diagnose.findings import OutputNoise, Share
from edge.diagnose.inputs import CENTER, CORNER, LETTERBOXES, STRETCHED, changes
from edge.diagnose.precision import _apart, around_depthwise, tensors_between
from edge.images.annotations import truth
from edge.images.frames import Frame
from edge.measure.boxes import BOXES, VALUES, Boxer, boxes_in
from edge.measure.layers import group
from edge.measure.objective import Classes, Detections
from edge.measure.scores import Gain
from edge.simulate.fakequant import FakeQuant
from edge.specs import Preprocess
from edge.specs.detector import Detector, Scale
from tests.conftest import Run
from tests.detectors import BINS, CLASSES, SIZE, STRIDES, VARIANTS, image
from tests.test_diagnose import rounding
from tests.test_eval_detector import build, save_set
from tests.test_fakequant import calibration, model
from tests.test_label_offset import evidence

RULE = Preprocess(crop=SIZE, letterbox="center", mean=(0.0,) * 3, std=(255.0,) * 3)
SCALES = tuple(Scale(stride, f"boxes_{stride}", f"scores_{stride}") for stride in STRIDES)
DETECTOR = Detector("dfl", CLASSES, SCALES, reg_max=BINS)
BOXER = Boxer(DETECTOR, DETECTOR.outputs, RULE)
FRAME = Frame("one", None, np.zeros((*SIZE, 3), np.uint8), (128, 128))


# ----- the objective


def outputs(cell: tuple[int, int], seed: int = 0) -> list[NDArray[np.float32]]:
    """Return the maps of the planted detector for an image with a red pixel in a cell of stride 16."""
    net, _ = VARIANTS["dfl"][0]()
    pixels = image([(16, cell, (1.0, 0.0, 0.0))])
    noise = np.random.default_rng(seed)
    found = []
    for stride in STRIDES:
        at = STRIDES.index(stride)
        colours = pixels[0, :, at::stride, at::stride]
        for name in ("boxes", "scores"):
            weights, bias = net.weights[f"{name}.{stride}"]
            values = np.einsum("oc,chw->ohw", weights, colours) + bias[:, None, None]
            found.append((values[None] + seed * noise.normal(0, 0.02, (1, *values.shape))).astype(np.float32))
    return found


def objective(truths: Any = None) -> Detections:
    return Detections(BOXER, tuple(np.arange(0, o.size, 2) for o in outputs((0, 0))), truths)


def answers(own: Detections, cells: list[tuple[int, int]], seed: int = 0) -> NDArray[np.float32]:
    return np.stack([own.answer(outputs(cell, seed), FRAME) for cell in cells])


CELLS = [(x, y) for x in (0, 1, 4, 5) for y in (1, 2, 3)]
MOVED = [(5 - x, y) for x, y in CELLS]


def test_agreement_is_ap_with_the_other_networks_boxes() -> None:
    own = objective()
    reference = answers(own, CELLS)
    assert len(boxes_in(reference[0][: BOXES * VALUES])) == 1
    assert own.agreement(reference, reference) == pytest.approx(1)
    assert own.cosine(reference, reference) == pytest.approx(1)
    assert own.agreement(reference, answers(own, MOVED)) < 0.5
    near = answers(own, CELLS, seed=1)
    assert 0.5 < own.agreement(reference, near) <= 1
    assert own.cosine(reference, near) < 1


def test_noise_is_told_by_output() -> None:
    own = objective()
    reference = answers(own, CELLS)
    assert [snr for _, snr in own.noise(reference, reference)] == [None] * 4
    worse = [[maps[0] + 0.3, *maps[1:]] for maps in (outputs(cell) for cell in CELLS)]
    rows = np.stack([own.answer(maps, FRAME) for maps in worse])
    (_, first), *rest = own.noise(reference, rows)
    values = np.stack([maps[0].ravel()[::2] for maps in map(outputs, CELLS)]).astype(np.float64)
    assert first == pytest.approx(10 * np.log10(values.var() / 0.09), abs=1e-3)
    assert [snr for _, snr in rest] == [None] * 3


def test_a_gain_is_sure_where_boxes_come_back_in_most_images() -> None:
    own = objective()
    reference, lost = answers(own, CELLS), answers(own, MOVED)
    found = own.gain("finer", reference, lost, reference)
    assert (found.after, found.boxes) == (pytest.approx(1), True)
    assert found.points == pytest.approx(found.expected)
    assert found.sure
    assert "AP with float's boxes behind NV12" in found.figure
    assert not own.gain("none", reference, lost, lost).sure
    assert not own.gain("coarser", reference, reference, lost).sure
    few = own.gain("finer", reference[:4], lost[:4], reference[:4])
    assert not few.sure  # four images may all change for the better by chance


def test_labels_then_floats_boxes_then_confidence_judge_an_input() -> None:
    plain = objective()
    reference, lost = answers(plain, CELLS), answers(plain, MOVED)
    objects = [boxes_in(row[: BOXES * VALUES]) for row in reference]
    labelled = objective(tuple(truth(rows[:, :4].tolist(), rows[:, 5].astype(int).tolist()) for rows in objects))
    found = labelled.judged(reference, lost)
    assert (found.measure, found.better) == ("AP", True)
    assert found.value == pytest.approx(labelled.right(reference) or 0)
    assert found.value > found.as_built + 50
    found = plain.judged(reference, lost, reference)
    assert (found.measure, found.better, plain.right(reference)) == ("AP with float's boxes", True, None)
    found = plain.judged(reference, lost)
    assert (found.measure, found.better) == ("confidence", False)
    blind = reference.copy()
    blind[:, : BOXES * VALUES] = 0
    assert plain.judged(reference, blind).better
    assert not plain.judged(blind, reference).better
    # Sure of a box on every image is what a detector is that sees nothing but the ends of its range.
    saturated = reference.copy()
    saturated[:, 4] = 0.999
    assert not plain.judged(saturated, blind).better


def test_layers_are_measured_where_there_are_boxes() -> None:
    own = objective()
    rows = answers(own, CELLS)
    rows[[0, 2], : BOXES * VALUES] = 0
    assert own.telling(rows) == [1, 3, 4, 5, 6, 7]
    assert Classes(None, "logits").telling(np.zeros((20, 3), np.float32)) == list(range(16))


def test_other_ways_to_show_a_whole_image_are_tried_for_a_detector_alone() -> None:
    assert not {change.name for change in changes(RULE)} & set(LETTERBOXES)
    tried = {change.name: change for change in changes(RULE, whole=True)}
    assert CENTER not in tried
    assert tried[CORNER].options == (("--letterbox", "corner"),)
    assert tried[STRETCHED].preprocess.resize is None
    stretched = evolve(RULE, letterbox=None, resize=None)
    assert {CORNER, CENTER} == {c.name for c in changes(stretched, whole=True)} & set(LETTERBOXES)


# ----- the calibrated model


def depthwise_net(*, also_read: bool = False) -> onnx.ModelProto:
    """A convolution, an activation, a depthwise convolution, an activation and a convolution, everything rounded."""

    def weight(name: str, channels: int) -> onnx.NodeProto:
        return calibration(
            f"{name}_q", name, f"{name}_r", "int8", [3.0] * channels, axis=0, group=1, quant_attrs=0x22111
        )

    nodes = [
        rounding("x"),
        weight("w1", 4),
        helper.make_node("Conv", ["x_r", "w1_r"], ["a"], "first"),
        rounding("a"),
        helper.make_node("Relu", ["a_r"], ["b"], "relu1"),
        rounding("b"),
        weight("w2", 4),
        helper.make_node("Conv", ["b_r", "w2_r"], ["c"], "middle", group=4, kernel_shape=[1, 1]),
        rounding("c"),
        helper.make_node("Relu", ["c_r"], ["d"], "relu2"),
        rounding("d"),
        weight("w3", 4),
        helper.make_node("Conv", ["d_r", "w3_r"], ["e"], "last"),
    ]
    if also_read:
        nodes += [rounding("e"), helper.make_node("Add", ["e_r", "b_r"], ["y"], "sum")]
    else:
        nodes += [helper.make_node("Identity", ["e"], ["y"], "out")]
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 1, 1), "w2": (4, 1, 1, 1), "w3": (4, 4, 1, 1)}
    constants = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    return model(nodes, constants, (1, 4, 4, 4))


def test_channels_around_a_depthwise_convolution_can_be_split_unless_something_else_reads_them(tmp_path: Path) -> None:
    onnx.save(depthwise_net(), tmp_path / "n_calibrated_model.onnx")
    net = FakeQuant(tmp_path / "n_calibrated_model.onnx")
    found, count = around_depthwise(net, group(net.graph))
    assert ({net.quantizers[i].tensor for i in found}, count) == (set("abcd"), 1)
    onnx.save(depthwise_net(also_read=True), tmp_path / "n_calibrated_model.onnx")
    net = FakeQuant(tmp_path / "n_calibrated_model.onnx")
    assert around_depthwise(net, group(net.graph)) == ([], 0)


def test_tensors_are_counted_by_the_layers_that_write_and_read_them(tmp_path: Path) -> None:
    onnx.save(depthwise_net(), tmp_path / "n_calibrated_model.onnx")
    net = FakeQuant(tmp_path / "n_calibrated_model.onnx")
    groups = group(net.graph)
    assert tensors_between(net, groups) == {}  # one tensor is a layer, and measured as such
    onnx.save(two_blocks(), tmp_path / "n_calibrated_model.onnx")
    net = FakeQuant(tmp_path / "n_calibrated_model.onnx")
    found = tensors_between(net, group(net.graph))
    assert {name: len(some) for name, some in found.items()} == {"conv → activation": 2, "activation → conv": 2}


def two_blocks() -> onnx.ModelProto:
    nodes = []
    for number, (before, after) in enumerate((("x", "b"), ("b", "y"))):
        conv, act = f"conv{number}", f"act{number}"
        nodes += [
            rounding(before),
            helper.make_node("Conv", [f"{before}_r", f"w{number}"], [conv], conv),
            rounding(conv),
            helper.make_node("Relu", [f"{conv}_r"], [act if after == "y" else after], act),
        ]
    nodes += [rounding("act1"), helper.make_node("Conv", ["act1_r", "w2"], ["y"], "last")]
    constants = {f"w{number}": np.ones((3, 3, 1, 1), np.float32) for number in range(3)}
    return model(nodes, constants, (1, 3, 4, 4))


# ----- what is said


def shares(weights: float, activations: float, both: float, nv12: float = 0.96) -> tuple[Share, ...]:
    return (
        Share("weights", weights, 0.99, None, 33.0),
        Share("activations", activations, 0.95, None, 22.9),
        Share("conv → activation", 0.65, 0.95, None, 26.8, 74),
        Share("activation → depthwise conv", 0.57, 0.95, None, 26.0, 25),
        Share("both", both, 0.94, None, 22.5),
        Share("NV12", nv12, 0.99, None, 33.1),
    )


def won(before: float, after: float, *, p: float = 0.001) -> Gain:
    return Gain("x", before, after, 24, 0.94, 0.97, 100 * (after - before), p, boxes=True)


def studied(**known: Any) -> Any:
    nothing: dict[str, Any] = dict.fromkeys(("weights", "differences", "layer_gains", "set_gains"), ())
    noise = (OutputNoise("boxes_8", 0.9, 3.3, 10.8, 3.5), OutputNoise("scores_8", 0.96, 1.6, 9.4, 1.8))
    rest = {
        "video_node": False, "weight_gains": {}, "max_gain": None, "weights_gain": won(0.38, 0.41),
        "alone": {"Conv_1": (0.99, 0.72), "Mul_43": (0.95, 0.66)}, "worst": "Mul_43", "outputs": noise,
        "split_gain": won(0.38, 0.83), "depthwise": 20, "nv12_p": 0.5, "all_gain": won(0.38, 0.9),
    }  # fmt: skip
    return SimpleNamespace(**{**nothing, **rest, **known})


def detector(**known: Any) -> Any:
    usual = {"n": 24, "boxes": True, "float_right": None, "float_ap": 34.7, "precision": studied()}
    found = evidence(**{**usual, "shares": shares(0.958, 0.409, 0.381), **known})
    found.built.manifest |= {"precision": "int8"}
    return found


def test_the_verdict_names_what_costs_boxes() -> None:
    known = detector()
    assert faults(known) == ()
    said = verdict(known, ())
    assert "rounded activations cost most (AP 40.9 alone, weights 95.8)" in said
    assert "between activation → depthwise conv (25 tensors, AP 57.0 alone)" in said
    assert "of all layers Mul_43 most (AP 66.0 alone)" in said
    assert "at scores_8 (signal to noise 1.6 dB)" in said
    assert "answer" not in said


def test_a_split_by_range_is_proposed_where_activations_cost() -> None:
    (remedy,) = remedies(detector(), ())
    assert remedy.how == "edge build net.onnx --precision int8_split_thresholds"
    assert "the 20 depthwise convolutions" in remedy.what
    assert "38.0 → 83.0 (24 images)" in remedy.figure
    mine = detector()
    mine.built.manifest |= {"precision": "mine"}
    assert remedies(mine, ())[0].how.startswith("range_split: 2")
    mine.built.manifest |= {"range_split": {"places": []}}
    assert remedies(mine, ()) == ()
    assert remedies(detector(precision=studied(split_gain=won(0.38, 0.83, p=0.4))), ()) == ()
    whole = {"split_gain": None, "depthwise": 0}
    (mixed,) = remedies(detector(precision=studied(**whole)), ())
    assert mixed.how == "edge build net.onnx --precision mixed_thresholds"
    assert "all activations at 16 bits: " in mixed.figure
    assert remedies(detector(precision=studied(**whole, all_gain=won(0.38, 0.83, p=0.4))), ()) == ()
    (rounded,) = remedies(detector(shares=shares(0.40, 0.95, 0.38)), ())
    assert "--precision int8_rounded" in rounded.how
    assert "weights alone: AP 40.0; activations alone: 95.0" in rounded.figure


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("kl:num_bin=1024,max_num_bin=16384", "calibration: {method: kl}"),
        ("max-percentile:percentile=0.99995", "calibration: {method: max, max_percentile: 0.99995}"),
        ("max", "calibration: {method: max}"),
        ("max:asymmetric", "calibration: {method: max, optimization: [asymmetric]}"),
        ("something:new=1", ""),
        (None, ""),
    ],
)
def test_sixteen_bits_come_with_the_calibration_they_were_tried_at(
    method: str | None, line: str, tmp_path: Path
) -> None:
    onnx.save(depthwise_net(), tmp_path / "n_calibrated_model.onnx")
    net = FakeQuant(tmp_path / "n_calibrated_model.onnx")
    groups = group(net.graph)
    relu = next(one for one in groups if one.name == "relu1")
    narrowed = _apart(net, groups, relu)
    assert [net.quantizers[i].tensor for i in relu.touching] == ["a", "b"]
    assert [net.quantizers[i].tensor for i in narrowed.touching] == ["a"]  # a convolution reads the other one
    known = detector(precision=studied(split_gain=None, layer_gains=((narrowed, won(0.38, 0.6)),)))
    known.built.manifest |= {"calibration": {"method": method}}
    (remedy,) = remedies(known, ())
    assert remedy.what == "Give layer relu1 (activation) 16-bit inputs"
    assert remedy.how == "  relu1: {'on': BPU, inputs: int16}" + (f"\n{line}" if line else "") + (
        "   # as the compiler chose; it may choose otherwise beside 16 bits" if line else ""
    )
    (classifier,) = remedies(evolve(known, boxes=False), ())
    assert classifier.how == remedy.how


def test_the_kept_calibration_keeps_the_operators_types(tmp_path: Path) -> None:
    onnx.save(depthwise_net(), tmp_path / "n_calibrated_model.onnx")
    net = FakeQuant(tmp_path / "n_calibrated_model.onnx")
    relu = next(one for one in group(net.graph) if one.name == "relu1")
    known = detector(precision=studied(split_gain=None, layer_gains=((relu, won(0.38, 0.6)),)))
    items = "set_Softmax_input_int16;bias_correction"
    (tmp_path / "net.yaml").write_text(f"calibration_parameters: {{optimization: '{items}'}}")
    known.built.manifest |= {"calibration": {"method": "kl:num_bin=1024,max_num_bin=16384,per_channel"}}
    known.built.files["mapper_yaml"] = tmp_path / "net.yaml"
    (remedy,) = remedies(known, ())
    assert "{method: kl, per_channel: true, optimization: [set_Softmax_input_int16, bias_correction]}   #" in remedy.how


def test_nv12_is_at_fault_only_where_it_changes_more_boxes_than_rounding() -> None:
    assert faults(detector(shares=shares(0.99, 0.97, 0.97, nv12=0.95))) == ()
    assert faults(detector(shares=shares(0.99, 0.97, 0.97, nv12=0.9))) == ()  # by chance: p = 0.5
    (fault,) = faults(detector(shares=shares(0.99, 0.97, 0.97, nv12=0.9), precision=studied(nv12_p=0.001)))
    assert "float behind NV12 has AP 90.0 with its own boxes as objects, rounded there 97.0" in fault.sentence


def test_a_float_network_that_finds_no_labelled_object_is_told_of_first() -> None:
    (fault,) = faults(detector(float_ap=0.2))
    assert "finds next to none of the labelled objects (AP 0.2 on 24 images)" in fault.sentence
    assert "the letterbox" in fault.remedy.what


# ----- the command


def diagnose(edge: Run, folder: Path, *more: str) -> tuple[dict[str, Any], str]:
    code, out, err = edge("diagnose", str(folder), *more)
    assert code == 0, err
    return json.loads((folder / "diagnosis.json").read_text()), re.sub(r"\s+", " ", out)


def test_a_build_without_the_vendors_compiler_is_diagnosed_as_far_as_it_goes(edge: Run, tmp_path: Path) -> None:
    folder, _, _ = build(edge, tmp_path, save_set(tmp_path / "set", 12))
    found, text = diagnose(edge, folder)
    assert found["verdict"].startswith("No fault found; the program has AP ")
    assert (found["task"], found["n"], found["labelled"], found["units"]) == ("detect", 12, True, [])
    assert {CORNER, STRETCHED} <= {check["change"] for check in found["input_checks"]}
    assert {check["measure"] for check in found["input_checks"]} == {"AP"}
    assert not any(check["better"] for check in found["input_checks"])
    assert "AP with float's boxes" in text
    assert "Top-1" not in text
    assert "No remedy" in text
    assert edge("report", str(folder))[0] == 0
    page = (folder / "report.html").read_text()
    assert "AP with float's boxes behind NV12" in page
    assert "same answer as float" not in page
    assert "AP with float's boxes behind NV12 as objects" in (folder / "report.md").read_text()


def test_the_wrong_channel_order_is_named(edge: Run, tmp_path: Path) -> None:
    """The planted blocks are red; read as BGR, they are of another class."""
    folder, _, _ = build(edge, tmp_path, save_set(tmp_path / "set", 12), "--color", "bgr")
    found, text = diagnose(edge, folder)
    assert found["verdict"].startswith("The input is wrong: swapped channels gives AP 0.0 → ")
    assert "--color rgb" in found["remedies"][0]["how"]
    assert "BETTER" in text


def test_without_labels_the_confidence_has_to_do(edge: Run, tmp_path: Path) -> None:
    images = save_set(tmp_path / "set", 12, labelled=False)
    folder, _, _ = build(edge, tmp_path, images, "--mean", "200")
    found, _ = diagnose(edge, folder, "--images", str(images))
    assert found["verdict"].startswith("The input seems wrong: ")
    assert {"confidence", "AP with float's boxes"} == {check["measure"] for check in found["input_checks"]}
    assert all(share["ap"] is None for share in found["shares"])


@pytest.mark.compiler
def test_a_compiled_detector_is_diagnosed_to_its_layers_and_outputs(edge: Run, tmp_path: Path) -> None:
    images = save_set(tmp_path / "set", 12)
    vendor = ("--compiler", "auto", "--level", "O0", "--calib-count", "12")
    folder, _, _ = build(edge, tmp_path, images, "--color", "bgr", *vendor)
    found, text = diagnose(edge, folder)
    assert found["verdict"].startswith("The input is wrong: swapped channels gives AP 0.0 → ")
    assert "--color rgb" in found["remedies"][0]["how"]
    assert found["units"]
    assert all(0 <= unit["alone_agreement"] <= 1 for unit in found["units"])
    metadata = json.loads((folder / "metadata.json").read_text())
    assert [one["name"] for one in found["outputs"]] == [output["name"] for output in metadata["outputs"]]
    assert {"weights", "activations", "both", "NV12"} <= {share["part"] for share in found["shares"]}
    assert "signal to noise" in text
    assert edge("report", str(folder))[0] == 0
    page = (folder / "report.html").read_text()
    assert "Each output" in page
    assert "alone: AP with float&#39;s boxes" in page or "alone: AP with float's boxes" in page
