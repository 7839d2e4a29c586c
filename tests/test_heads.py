"""Heads of detectors: recognised by what they compute, cut, and proved; see ``detectors``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge.detect import decode
from edge.errors import ModelFileError
from edge.graph.files import session
from edge.heads import take
from edge.heads.cut import cut, prove
from edge.heads.recognise import recognise
from edge.heads.tail import Tail
from edge.specs.detector import Detector, Scale
from tests.detectors import (
    ANCHORS,
    BINS,
    CLASSES,
    SIZE,
    STRIDES,
    VARIANTS,
    anchors,
    centernet,
    dfl,
    image,
    reckoned,
    yolox,
)

RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
PLANTED = [(8, (3, 1), RED), (8, (7, 5), GREEN), (16, (2, 1), RED), (8, (1, 7), BLUE)]


def bins_of(name: str) -> int:
    return 1 if name.startswith("ltrb") else BINS


@pytest.mark.parametrize("name", VARIANTS)
def test_a_head_is_recognised_cut_and_its_planted_boxes_are_found(name: str) -> None:
    make, family, nms = VARIANTS[name]
    net, outputs = make()
    whole = net.model(outputs)
    before = whole.SerializeToString()
    taken = take(whole, "net.onnx")
    assert whole.SerializeToString() == before
    onnx.checker.check_model(taken.model, full_check=True)
    detector = taken.detector
    strides = (8,) if family == "centernet" else STRIDES
    classes = {"one": 1, "four": 4}.get(name.removeprefix("yolox_").split("_")[0], CLASSES)
    assert (detector.family, detector.classes, detector.nms) == (family, classes, nms)
    assert tuple(scale.stride for scale in detector.scales) == strides
    assert detector.reg_max == bins_of(name) or family != "dfl"
    assert tuple(value.name for value in taken.model.graph.output) == detector.outputs
    assert {node.op_type for node in taken.model.graph.node} <= {"Conv", "Mul"}
    assert taken.max_error < 1e-4
    if family == "anchors":
        found = {scale.stride: np.asarray(scale.anchors) for scale in detector.scales}
        assert all(np.allclose(found[stride], ANCHORS[stride]) for stride in STRIDES)

    planted = [cell for cell in PLANTED if cell[0] in strides and (classes > 1 or cell[2] == RED)]
    opened = session(taken.model.SerializeToString())
    values = opened.run(list(detector.outputs), {"images": image(planted)})
    # Boxes that belong to each other may overlap: what is tested here is where they are.
    boxes = decode(values, detector.outputs, detector, size=SIZE, iou=1.0)
    each = len(ANCHORS[8]) if family == "anchors" else 1
    wanted = [reckoned(net, family, bins_of(name), cell, anchor) for cell in planted for anchor in range(each)]
    wanted.sort(key=lambda row: -row[1])
    assert len(boxes) == len(wanted)
    assert np.allclose(boxes.scores, [score for _, score, _ in wanted], atol=1e-5)
    key = np.lexsort(boxes.boxes.T.round(2))
    rows = np.asarray([box for box, _, _ in wanted])
    other = np.lexsort(rows.astype(np.float32).T.round(2))
    assert np.allclose(boxes.boxes[key], rows[other], atol=1e-2)
    assert [int(boxes.labels[i]) for i in key] == [wanted[i][2] for i in other]


def test_what_was_seen_is_said() -> None:
    def said(variant: str) -> str:
        net, outputs = VARIANTS[variant][0]()
        return " / ".join(take(net.model(outputs), "net.onnx").notes)

    assert said("dfl") == "detector: YOLOv8 type (distances to the sides, 4 bins each): 3 classes, strides 8, 16"
    assert "one box per object without NMS" in said("dfl_one_to_one")
    assert "as YOLOX does it" in said("yolox_undecoded")
    assert "hm is the heat map, wh the sides, reg the offsets, in cells of 8 pixels" in said("centernet")
    assert said("anchors_v7") == "detector: YOLOv5 type (2 anchors a cell): 3 classes, strides 8, 16"
    assert "1 class, strides" in said("yolox_one_class")


def test_the_names_of_heat_maps_outputs_tell_sides_from_offsets() -> None:
    net, outputs = centernet(names=("b", "offset", "size"))
    # The builder gives sides second and offsets third; their names say the opposite.
    (scale,) = take(net.model(outputs), "net.onnx").detector.scales
    assert (scale.boxes, scale.offsets) == ("boxes_8", "offsets_8")
    head = recognise(Tail(net.model(outputs), "net.onnx"))
    assert head.parts["boxes_8"].value == "offsets.8"


@pytest.mark.parametrize(
    "make", [lambda: dfl(half=0.0), lambda: yolox(offset=0.5), lambda: dfl(extra=5), lambda: anchors(decode=False)]
)
def test_another_decoder_is_not_taken_for_a_known_one(make) -> None:
    net, outputs = make()
    with pytest.raises(ModelFileError, match="does not know this head") as caught:
        take(net.model(outputs), "net.onnx")
    assert "stride 8: " in caught.value.seen
    assert "detector: {family: " in (caught.value.remedy or "")


@pytest.mark.parametrize(("task", "said"), [("pose", "keypoints"), ("obb", "angles"), ("segment", "masks")])
def test_a_head_that_gives_more_than_boxes_is_named(task: str, said: str) -> None:
    net, outputs = dfl(extra=5)
    model = net.model(outputs)
    helper.set_model_props(model, {"task": task})
    with pytest.raises(ModelFileError, match=f"{said} besides boxes and classes") as caught:
        take(model, "net.onnx")
    heads = [f"{name}.{stride}" for stride in STRIDES for name in ("boxes", "scores", "extra")]
    assert f"--task raw --output {','.join(heads)} " in str(caught.value.remedy)


def test_masks_are_seen_by_the_map_of_their_prototypes() -> None:
    net, outputs = dfl(extra=5)
    prototypes = net.op("Relu", net.head("proto.8", 8, np.ones((5, 3)), np.zeros(5)))
    with pytest.raises(ModelFileError, match="segmentation head") as caught:
        take(net.model([*outputs, prototypes]), "net.onnx")
    assert f",{prototypes}," in str(caught.value.remedy)  # behind its activation


def test_a_classifier_is_no_detector(tmp_path: Path) -> None:
    from tests.heads import classifier

    with pytest.raises(ModelFileError, match="does not know this head"):
        take(onnx.load(classifier(tmp_path / "a.onnx")), "a.onnx")


def test_several_images_at_once_are_refused() -> None:
    net, outputs = yolox(decode=False)
    with pytest.raises(ModelFileError, match="takes 2 images"):
        take(net.model(outputs, batch=2), "net.onnx")


@pytest.mark.parametrize("name", ["dfl", "yolox", "anchors", "centernet", "yolox_undecoded"])
def test_a_cut_that_computes_something_else_is_refused(name: str) -> None:
    net, outputs = VARIANTS[name][0]()
    whole = net.model(outputs)
    tail = Tail(whole, "net.onnx")
    head = recognise(tail)
    part = cut(whole, head, tail.size)
    assert prove(whole, part, head, "net.onnx", size=tail.size, value_range=(0, 1)) < 1e-4
    for tensor in part.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 1 and len(values) > 1 and values.dtype == np.float32:
            changed = values + np.float32(0.01) * (np.arange(len(values)) == 0)
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), tensor.name))
            break
    with pytest.raises(ModelFileError, match="gives other boxes"):
        prove(whole, part, head, "net.onnx", size=tail.size, value_range=(0, 1))


def test_a_name_that_the_network_has_already_gives_way() -> None:
    net, outputs = dfl()
    model = net.model(outputs)
    for node in model.graph.node:  # an inner value called as the cut network calls an output
        node.input[:] = ["scores_8" if name == "boxes.16" else name for name in node.input]
        node.output[:] = ["scores_8" if name == "boxes.16" else name for name in node.output]
    taken = take(model, "net.onnx")
    assert taken.max_error < 1e-4
    assert taken.detector.outputs == ("boxes_8", "scores_8", "boxes_16", "scores_16")


def by_hand(**changes: object) -> Detector:
    names = {s: f"joint.{s}" for s in STRIDES}
    scales = tuple(Scale(s, n, n, n, anchors=ANCHORS[s]) for s, n in names.items())
    return Detector(**({"family": "anchors", "classes": CLASSES, "scales": scales} | changes))  # type: ignore[arg-type]


def test_a_head_given_by_hand_is_cut_and_said_to_be_unchecked() -> None:
    net, outputs = anchors(decode=False)
    taken = take(net.model(outputs), "net.onnx", by_hand())
    assert taken.detector.outputs[:3] == ("boxes_8", "scores_8", "objectness_8")
    assert "is not checked" in taken.notes[-1]
    values = session(taken.model.SerializeToString()).run(None, {"images": image(PLANTED[:1])})
    boxes = decode(values, taken.detector.outputs, taken.detector, size=SIZE)
    wanted = sorted(reckoned(net, "anchors", 1, PLANTED[0], anchor)[0] for anchor in (0, 1))
    assert np.allclose(sorted(boxes.boxes.tolist()), wanted, atol=1e-2)


def test_a_head_given_by_hand_is_proved_where_the_network_decodes() -> None:
    net, outputs = anchors()
    taken = take(net.model(outputs), "net.onnx", by_hand())
    assert taken.max_error < 1e-4
    assert len(taken.notes) == 1


def test_a_head_with_more_than_boxes_can_be_given_by_hand_and_is_proved() -> None:
    net, outputs = dfl(extra=5)
    scales = tuple(Scale(s, f"boxes.{s}", f"scores.{s}") for s in STRIDES)
    taken = take(net.model(outputs), "net.onnx", Detector("dfl", CLASSES, scales, reg_max=BINS))
    assert (len(taken.notes), len(taken.model.graph.output)) == (1, 4)


def test_scores_given_behind_their_sigmoid_are_taken_in_front_of_it() -> None:
    net, outputs = yolox()
    model = net.model(outputs)
    behind = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Sigmoid"}
    scales = tuple(Scale(s, f"boxes.{s}", behind[f"scores.{s}"], behind[f"objectness.{s}"]) for s in STRIDES)
    taken = take(model, "net.onnx", Detector("yolox", CLASSES, scales))
    assert {node.op_type for node in taken.model.graph.node} == {"Conv"}
    assert len(taken.notes) == 1  # proved


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (by_hand(classes=2), "'joint.8' of net.onnx is 1x16x8x12"),
        (by_hand(scales=(Scale(8, "gone", "gone", "gone", anchors=ANCHORS[8]),)), "computes no value 'gone'"),
    ],
)
def test_a_head_given_by_hand_has_to_fit(detector: Detector, message: str) -> None:
    net, outputs = anchors()
    with pytest.raises(ModelFileError, match=message):
        take(net.model(outputs), "net.onnx", detector)
