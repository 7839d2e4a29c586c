"""Class names: those that ship, and those of a user's file."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import InputError, LabelError
from edge.images import class_names, open_images
from edge.images.demo import CLASSES
from edge.images.find import imagenet
from edge.toolchain.found import Toolchain


def test_names_that_ship() -> None:
    assert class_names(None) is None
    assert class_names("demo") == CLASSES
    names = class_names("imagenet")
    assert names is not None
    assert len(names) == 1000
    assert names[0] == "tench, Tinca tinca"
    # The index that the vendor's own notebook prints for its cheetah.
    assert names[293] == "cheetah, chetah"
    assert names[999] == "toilet tissue, toilet paper"
    assert max(map(len, names)) <= 53
    assert all(name.isascii() and name.strip() == name for name in names)


def test_the_shipped_order_is_that_of_sorted_synsets() -> None:
    synsets = list(imagenet())
    assert synsets == sorted(synsets)
    assert all(re.fullmatch(r"n\d{8}", synset) for synset in synsets)


@pytest.mark.compiler
def test_the_shipped_names_are_timms(toolchain: Toolchain) -> None:
    """Against their source, the timm package in the compiler's environment."""
    found = sorted(Path(toolchain.python or "").parents[1].glob("lib/python*/site-packages/timm/data/_info"))
    if not found:
        pytest.skip("this compiler's environment brings no timm")
    folder = found[0]
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    lemmas = dict(line.split("\t") for line in lines)
    synsets = (folder / "imagenet_synsets.txt").read_text().split()
    assert list(imagenet().items()) == [(synset, lemmas[synset]) for synset in synsets]


def test_imagenets_names_are_not_given_to_a_network_of_other_classes() -> None:
    assert class_names("imagenet", 10) is None
    assert class_names("imagenet", 1000) == class_names("imagenet")


def test_names_of_a_file(tmp_path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("cat\ntoy poodle\n\n", encoding="utf-8")
    assert class_names(str(path)) == ("cat", "toy poodle")
    assert class_names(str(path), 2) == ("cat", "toy poodle")
    with pytest.raises(LabelError, match="names 2 classes, the network has 3"):
        class_names(str(path), 3)
    path.write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n", encoding="utf-8")
    assert class_names(str(path)) == ("tench, Tinca tinca", "goldfish")
    path.write_text("n01440764\nn01443537\n", encoding="utf-8")
    assert class_names(str(path)) == ("n01440764", "n01443537")
    path.write_text("\n")
    with pytest.raises(LabelError, match="no classes"):
        class_names(str(path))
    with pytest.raises(LabelError, match="gone"):
        class_names(str(tmp_path / "gone.txt"))


def test_photographs_whose_names_tell_synset_and_class(shared) -> None:
    """Another source of the same pairs, such as n01498041_stingray."""
    pairs = [path.stem.split("_", 1) for path in (shared / "data" / "imagenet_train_128").glob("n*_*")]
    assert len(pairs) > 100
    agree = [name.replace("_", " ").lower() in imagenet()[synset].lower() for synset, name in pairs]
    assert sum(agree) / len(agree) > 0.9  # some sources shorten or correct a name


def lay(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((40, 40, 3), len(name), np.uint8))
    return folder


@pytest.mark.parametrize("order", [("a/x/1.png", "b/2.png"), ("a/1.png", "b/y/2.png"), ("0.png", "b/y/2.png")])
def test_a_class_on_another_level_is_never_left_out(tmp_path: Path, order: tuple[str, str]) -> None:
    with pytest.raises(LabelError, match="holds no images itself") as error:
        open_images(lay(tmp_path / "train", *order), classes=("a", "b"))
    deep = next(name for name in order if name.count("/") == 2)
    assert str(tmp_path / "train" / deep).rpartition("/")[0] in error.value.seen
    assert "train/CLASS/" in str(error.value.expected)


def test_the_level_where_the_images_are_is_named(tmp_path: Path) -> None:
    folder = lay(tmp_path / "data", "train/a/1.png", "train/b/2.png")
    with pytest.raises(InputError, match="holds no images") as error:
        open_images(folder)
    assert f"name {folder / 'train'} " in str(error.value.remedy)
    assert len(open_images(folder / "train", classes=("a", "b"))) == 2


def test_class_folders_with_a_folder_of_images_each(tmp_path: Path) -> None:
    folder = lay(tmp_path / "train", "a/images/1.png", "b/images/2.png", "b/images/3.png")
    (folder / "a" / "a_boxes.txt").write_text("1.png 0 0 3 3")
    found = open_images(folder, classes=("b", "a"))
    assert [(item.name, item.label) for item in found] == [
        ("a/images/1.png", 1),
        ("b/images/2.png", 0),
        ("b/images/3.png", 0),
    ]


def test_an_empty_class_folder_is_no_fault(tmp_path: Path) -> None:
    folder = lay(tmp_path / "train", "a/1.png", "b/2.png")
    (folder / "c").mkdir()
    assert len(open_images(folder, classes=("a", "b", "c"))) == 2


def test_folders_are_numbered_as_image_folder_does_where_names_are_not_known(tmp_path: Path) -> None:
    folder = lay(tmp_path / "val", "red/1.png", "blue/2.png", "green/3.png")
    found = open_images(folder, classes=3)
    assert {item.name: item.label for item in found} == {"blue/2.png": 0, "green/3.png": 1, "red/1.png": 2}
    assert "classes as the folders sort" in found.description
    for classes in (4, 2, None):
        assert "--labels FILE" in open_images(folder, classes=classes).unlabelled
    (folder / "extra").mkdir()
    assert open_images(folder, classes=3).unlabelled
