"""Class names: those that ship, and those of a user's file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge.errors import LabelError
from edge.images import class_names
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
