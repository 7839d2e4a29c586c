"""Labelled detection sets: found from one path, matched with the network's classes, and never trusted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import InputError, LabelError, UsageError
from edge.images import sample
from edge.images.annotations import open_boxes
from edge.images.headers import image_size
from edge.images.preprocess import decode

NAMES = ("cat", "dog", "traffic light")
# left, top, right, bottom in an image of 40 x 80 (height x width), and the class
OBJECTS = {"a": [(10, 5, 30, 25, 1), (0, 0, 8, 40, 2)], "b": [(40, 10, 80, 40, 0)], "c": []}
HEIGHT, WIDTH = 40, 80


def draw(path: Path, height: int = HEIGHT, width: int = WIDTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), np.uint8))


def coco(ids: tuple[int, ...] = (3, 7, 90)) -> dict[str, Any]:
    images = [{"id": n, "file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH} for n, stem in enumerate(OBJECTS)]
    rows = [
        {
            "id": 100 + place,
            "image_id": list(OBJECTS).index(stem),
            "category_id": ids[label],
            "bbox": [left, top, right - left, bottom - top],
            "area": 5.5,
            "iscrowd": int(label == 2),
        }
        for place, (stem, (left, top, right, bottom, label)) in enumerate(
            (stem, one) for stem, objects in OBJECTS.items() for one in objects
        )
    ]
    # The order in the file says nothing; the ids do.
    categories = [{"id": key, "name": name} for key, name in zip(ids, NAMES, strict=True)][::-1]
    return {"images": images, "annotations": rows, "categories": categories}


def save_coco(folder: Path, data: object, file: str = "annotations/instances_val.json", images: str = "images") -> Path:
    for stem in OBJECTS:
        draw(folder / images / f"{stem}.jpg")
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return folder


def yolo_lines(objects: list[tuple[float, ...]]) -> str:
    return "".join(
        f"{label} {(left + right) / 2 / WIDTH} {(top + bottom) / 2 / HEIGHT} {(right - left) / WIDTH} "
        f"{(bottom - top) / HEIGHT}\n"
        for left, top, right, bottom, label in objects
    )


def save_yolo(folder: Path, *, yaml: str | None = None, split: str = "val") -> Path:
    for stem, objects in OBJECTS.items():
        draw(folder / "images" / split / f"{stem}.jpg")
        labels = folder / "labels" / split / f"{stem}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(yolo_lines(objects))
    names = "names: [cat, dog, traffic light]\n"
    (folder / "data.yaml").write_text(f"path: /elsewhere\nval: images/{split}\n{names}" if yaml is None else yaml)
    return folder


def save_voc(folder: Path) -> Path:
    for stem, objects in OBJECTS.items():
        draw(folder / "JPEGImages" / f"{stem}.jpg")
        rows = "".join(
            f"<object><name>{NAMES[label]}</name><difficult>{int(label == 2)}</difficult><bndbox>"
            f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for left, top, right, bottom, label in objects
        )
        (folder / "Annotations").mkdir(exist_ok=True)
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        (folder / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{size}{rows}</annotation>")
    return folder


def check(path: Path, classes: Any = NAMES) -> None:
    found = open_boxes(path, classes=classes)
    assert [item.name for item in found] == ["a.jpg", "b.jpg", "c.jpg"]
    assert all(item.load().shape == (HEIGHT, WIDTH, 3) for item in found)
    assert (found.names, found.labelled) == (NAMES, True)
    for one, objects in zip(found.truths(), OBJECTS.values(), strict=True):
        assert one.labels.tolist() == [label for *_, label in objects]
        np.testing.assert_allclose(one.boxes, np.array([box for *box, _ in objects]).reshape(-1, 4), atol=1e-3)


@pytest.mark.parametrize("classes", [None, 3, NAMES])
@pytest.mark.parametrize("save", [lambda f: save_coco(f, coco()), save_yolo, save_voc], ids=["coco", "yolo", "voc"])
def test_each_form_gives_the_same_set(tmp_path: Path, save: Any, classes: Any) -> None:
    check(save(tmp_path / "set"), classes)


@pytest.mark.parametrize(
    ("file", "images", "given"),
    [
        ("annotations/instances_val2017.json", "val2017", "."),
        ("annotations/instances_val2017.json", "images/val2017", "annotations/instances_val2017.json"),
        ("_annotations.coco.json", ".", "."),
        ("labels.json", "images", "labels.json"),
    ],
)
def test_cocos_images_lie_where_they_usually_do(tmp_path: Path, file: str, images: str, given: str) -> None:
    check(save_coco(tmp_path, coco(), file, images) / given)


def test_crowds_and_areas_are_cocos(tmp_path: Path) -> None:
    first = open_boxes(save_coco(tmp_path, coco())).truths()[0]
    assert (first.crowd.tolist(), first.areas.tolist()) == ([False, True], [5.5, 5.5])


def test_vocs_difficult_objects_do_not_count(tmp_path: Path) -> None:
    assert open_boxes(save_voc(tmp_path)).truths()[0].crowd.tolist() == [False, True]


def test_yolo_without_names_and_by_any_of_its_folders(tmp_path: Path) -> None:
    save_yolo(tmp_path / "set")
    (tmp_path / "set" / "data.yaml").unlink()
    found = open_boxes(tmp_path / "set" / "images" / "val", classes=NAMES)
    assert found.names == NAMES
    assert [len(one) for one in found.truths()] == [2, 1, 0]
    assert len(open_boxes(tmp_path / "set")) == 3  # images/val below images/
    with pytest.raises(LabelError, match=r"labels.val.a\.txt, line 2: an object of class 2") as told:
        open_boxes(tmp_path / "set", classes=2)
    assert told.value.expected == "0..1, of 2 classes"


def test_roboflows_paths_lead_up_and_are_taken_beside_the_file(tmp_path: Path) -> None:
    save_yolo(tmp_path / "set")
    moved = tmp_path / "other"
    shutil.copytree(tmp_path / "set" / "images" / "val", moved / "valid" / "images")
    shutil.copytree(tmp_path / "set" / "labels" / "val", moved / "valid" / "labels")
    (moved / "data.yaml").write_text("val: ../valid/images\nnc: 3\nnames: {0: cat, 1: dog, 2: traffic light}\n")
    check(moved)


def test_outlines_become_boxes(tmp_path: Path) -> None:
    save_yolo(tmp_path)
    (tmp_path / "labels/val/a.txt").write_text("1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 1.0\n")
    assert open_boxes(tmp_path).truths()[0].boxes.tolist() == [[20, 10, 60, 40]]


def test_classes_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    save_yolo(tmp_path)
    found = open_boxes(tmp_path, classes=("Traffic_Light", "cat", "bird", "dog"))
    assert found.truths()[0].labels.tolist() == [3, 0]
    assert found.truths()[1].labels.tolist() == [1]
    assert found.names == ("Traffic_Light", "cat", "bird", "dog")


def test_a_class_without_objects_needs_no_counterpart(tmp_path: Path) -> None:
    data = coco()
    data["categories"].append({"id": 0, "name": "animals", "supercategory": "none"})  # as Roboflow writes
    found = open_boxes(save_coco(tmp_path, data), classes=3)
    assert found.truths()[0].labels.tolist() == [1, 2]
    assert "animals" in found.doubts[0]


@pytest.mark.parametrize("classes", [2, 80, ("cat", "dog"), ("a", "b", "c")])
def test_other_classes_are_refused(tmp_path: Path, classes: Any) -> None:
    for save in (save_yolo, save_voc, lambda folder: save_coco(folder, coco())):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        with pytest.raises(LabelError, match="classes"):
            open_boxes(save(tmp_path / "set"), classes=classes)


def test_images_alone_are_unlabelled(tmp_path: Path) -> None:
    draw(tmp_path / "x.jpg")
    found = open_boxes(tmp_path)
    assert (len(found), found.labelled, found.objects) == (1, False, {})
    assert len(open_boxes(tmp_path / "x.jpg")) == 1
    with pytest.raises(UsageError, match="does not exist"):
        open_boxes(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        open_boxes(tmp_path / "empty")


def test_a_sample_keeps_its_objects(tmp_path: Path) -> None:
    found = open_boxes(save_yolo(tmp_path))
    few = sample(found, 2, seed=1)
    assert few.objects is found.objects
    assert [len(one) for one in few.truths()] == [len(found.objects[item.name]) for item in few]


def test_the_fingerprint_holds_the_objects(tmp_path: Path) -> None:
    before = open_boxes(save_yolo(tmp_path)).fingerprint
    assert open_boxes(tmp_path).fingerprint == before
    (tmp_path / "labels/val/c.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert open_boxes(tmp_path).fingerprint != before


# Faults of single labels are counted


@pytest.mark.parametrize(
    ("line", "doubt"),
    [
        ("0 0.5 0.5 nan 0.1", "not finite"),
        ("0 0.5 0.5 -0.1 0.1", "without width or height"),
        ("0 0.5 0.5 0 0.1", "without width or height"),
        ("0 1.5 0.5 0.2 0.1", "outside the image"),
        ("0 0.9 0.5 0.4 0.1", "cut at the image's border"),
        ("1 0.25 0.375 0.25 0.5\n1 0.25 0.375 0.25 0.5", "listed twice"),
        ("", "1 empty label file taken as without objects"),
    ],
)
def test_a_poor_label_is_counted(tmp_path: Path, line: str, doubt: str) -> None:
    save_yolo(tmp_path)
    (tmp_path / "labels/val/c.txt").write_text(line)
    found = open_boxes(tmp_path)
    assert any(doubt in told and "c." in told for told in found.doubts)
    for one in found.truths():
        assert np.isfinite(one.boxes).all()
        assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()


def test_images_and_labels_without_each_other_are_counted(tmp_path: Path) -> None:
    save_yolo(tmp_path)
    draw(tmp_path / "images/val/new.png")
    (tmp_path / "labels/val/old.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    doubts = "; ".join(open_boxes(tmp_path).doubts)
    assert "1 image without a file of labels, taken as without objects: new.png" in doubts
    assert "1 label file without an image: old.txt" in doubts


def test_an_image_of_another_size_than_its_labels_say_is_told(tmp_path: Path) -> None:
    save_coco(tmp_path, coco())
    draw(tmp_path / "images/a.jpg", 20, 40)
    assert any("another size" in doubt and "a.jpg" in doubt for doubt in open_boxes(tmp_path).doubts)


# A file that can't be meant so is refused


@pytest.mark.parametrize(
    "line",
    ["cat 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1", "0.5 0.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1", "0 30 30 9 9", "9 0 0 1 1"],
)
def test_a_line_of_another_form_is_refused(tmp_path: Path, line: str) -> None:
    save_yolo(tmp_path)
    (tmp_path / "labels/val/c.txt").write_text(line)
    with pytest.raises(LabelError):
        open_boxes(tmp_path)


@pytest.mark.parametrize(
    "yaml",
    [
        "val: ../outside/images\nnames: [a]",
        "val: [a, b]\nnames: [a]",
        "val: images/val\nnames: [cat, dog]\nnc: 3",
        "val: images/val\nnames: {1: cat, 2: dog}",
        "val: images/val\nnames: 7",
        "just text",
        "a: [",
        "names: [a]",
    ],
)
def test_a_poor_data_yaml_is_refused(tmp_path: Path, yaml: str) -> None:
    save_yolo(tmp_path / "set", yaml=yaml)
    draw(tmp_path / "outside/images/secret.jpg")
    with pytest.raises(LabelError):
        open_boxes(tmp_path / "set")


def test_a_data_yaml_leads_out_of_its_folder_to_nothing(tmp_path: Path) -> None:
    save_yolo(tmp_path / "set")
    draw(tmp_path / "outside/images/secret.jpg")
    for val in ("../outside/images", str(tmp_path / "outside/images")):
        (tmp_path / "set/data.yaml").write_text(f"val: {val}\nnames: [cat, dog, traffic light]\n")
        with pytest.raises(LabelError, match="no folder beside it"):
            open_boxes(tmp_path / "set")


def changed(change: Any) -> dict[str, Any]:
    data = coco()
    change(data)
    return data


@pytest.mark.parametrize(
    "data",
    [
        "[" * 100_000,
        "{",
        "[]",
        '{"images": [], "annotations": [], "categories": []}',
        changed(lambda d: d.pop("categories")),
        changed(lambda d: d["images"].append(5)),
        changed(lambda d: d["images"][0].update(file_name="../../etc/passwd")),
        changed(lambda d: d["images"][0].update(file_name="/etc/passwd")),
        changed(lambda d: d["images"][0].update(file_name=7)),
        changed(lambda d: d["images"][0].update(file_name="missing.jpg")),
        changed(lambda d: d["images"][0].update(file_name="b.jpg")),
        changed(lambda d: d["images"][0].update(id=1)),
        changed(lambda d: d["images"][0].update(id=[])),
        changed(lambda d: d["annotations"][0].update(category_id=4)),
        changed(lambda d: d["annotations"][0].update(category_id=[])),
        changed(lambda d: d["annotations"][0].update(bbox=[1, 2, 3])),
        changed(lambda d: d["annotations"][0].update(bbox=["1", 2, 3, 4])),
        changed(lambda d: d["categories"][0].update(id=3)),
        changed(lambda d: d["categories"][0].update(name=None)),
    ],
)
def test_a_poor_coco_file_is_refused(tmp_path: Path, data: Any) -> None:
    with pytest.raises(LabelError):
        open_boxes(save_coco(tmp_path, data))


def test_what_coco_lists_beyond_its_images_is_counted(tmp_path: Path) -> None:
    data = changed(lambda d: d["annotations"][0].update(image_id=99))
    data["annotations"][1]["bbox"] = [1e999, 0, 1, 1]
    data["annotations"][2]["area"] = float("nan")
    found = open_boxes(save_coco(tmp_path, data))
    assert [len(one) for one in found.truths()] == [0, 1, 0]
    assert len(found.doubts) == 2
    assert found.truths()[1].areas.tolist() == [40 * 30]


def test_two_files_of_labels_leave_it_open(tmp_path: Path) -> None:
    save_coco(tmp_path, coco())
    save_coco(tmp_path, coco(), "annotations/instances_train.json")
    with pytest.raises(LabelError, match="2 files"):
        open_boxes(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "<annotation>",
        '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
        "<annotation><object><bndbox/></object></annotation>",
        "<annotation><object><name>cat</name></object></annotation>",
        "<annotation><object><name>cat</name><bndbox><xmin>x</xmin></bndbox></object></annotation>",
    ],
)
def test_a_poor_voc_file_is_refused(tmp_path: Path, text: str) -> None:
    save_voc(tmp_path)
    (tmp_path / "Annotations/a.xml").write_text(text)
    with pytest.raises(LabelError):
        open_boxes(tmp_path)


def test_a_voc_file_without_its_image_is_refused(tmp_path: Path) -> None:
    save_voc(tmp_path)
    (tmp_path / "JPEGImages/a.jpg").unlink()
    with pytest.raises(LabelError, match=r"a\.xml"):
        open_boxes(tmp_path)


@given(data=st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_bytes_give_labels_or_one_clear_error(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    save_yolo(folder / "yolo")
    save_voc(folder / "voc")
    (folder / "yolo/labels/val/a.txt").write_bytes(data)
    (folder / "voc/Annotations/a.xml").write_bytes(data)
    save_coco(folder / "coco", "")
    (folder / "coco/annotations/instances_val.json").write_bytes(data)
    for name in ("yolo", "voc", "coco"):
        try:
            open_boxes(folder / name)
        except LabelError:
            continue


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "webp"])
def test_a_size_read_from_the_head_is_the_decoders(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    draw(path, 37, 91)
    assert image_size(path) == decode(path).shape[:2] == (37, 91)


def test_a_turned_photographs_size_is_the_decoders(tmp_path: Path) -> None:
    draw(tmp_path / "x.jpg", 37, 91)
    data = (tmp_path / "x.jpg").read_bytes()
    tiff = b"II*\0\x08\0\0\0\x01\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    (tmp_path / "x.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    assert image_size(tmp_path / "x.jpg") == decode(tmp_path / "x.jpg").shape[:2] == (91, 37)
