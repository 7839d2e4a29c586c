from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import cattrs
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import ImageError, InputError, LabelError, UsageError
from edge.images import ImageItem, ImageSet, class_names, open_images, sample
from edge.images.demo import draw as render
from edge.images.items import set_name


def put(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.random.default_rng(value).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(".png", rgb)[1].tobytes())
    return path


def labels(images: ImageSet) -> dict[str, int | None]:
    return {item.name: item.label for item in images}


def test_a_folder_of_images_has_no_labels(tmp_path):
    for i, name in enumerate(("b.png", "a.PNG", ".hidden.png")):
        put(tmp_path / name, i)
    (tmp_path / "notes.txt").write_text("no image")
    images = open_images(tmp_path)
    assert [item.name for item in images] == ["a.PNG", "b.png"]
    assert not images.labelled
    assert "labels.csv" in images.unlabelled
    assert images[0].load().shape == (8, 8, 3)
    assert images.description == f"{tmp_path.name} (2 images)"


def test_one_image(tmp_path):
    images = open_images(put(tmp_path / "photo.png"))
    assert [item.name for item in images] == ["photo.png"]
    assert not images.labelled


def test_class_folders_by_name_and_by_index(tmp_path):
    put(tmp_path / "named" / "dog" / "1.png")
    put(tmp_path / "named" / "cat" / "1.png")
    (tmp_path / "named" / ".cache").mkdir()
    named = open_images(tmp_path / "named", classes=("cat", "dog", "frog"))
    assert labels(named) == {"cat/1.png": 0, "dog/1.png": 1}
    put(tmp_path / "numbered" / "7" / "1.png")
    put(tmp_path / "numbered" / "011" / "1.png")
    assert labels(open_images(tmp_path / "numbered")) == {"7/1.png": 7, "011/1.png": 11}


def test_class_folders_without_known_names_say_so(tmp_path):
    put(tmp_path / "dog" / "1.png")
    images = open_images(tmp_path)
    assert not images.labelled
    assert "class names are not known" in images.unlabelled
    assert labels(images) == {"dog/1.png": None}
    strange = open_images(tmp_path, classes=("cat",))
    assert "dog" in strange.unlabelled


def test_some_synset_folders_have_the_indices_of_imagenet_not_their_rank(tmp_path):
    """Two folders numbered 0 and 1 would be a silent, wrong Top-1."""
    for synset in ("n01498041", "n01629819"):
        put(tmp_path / synset / "1.JPEG")
    for classes in (None, 1000, class_names("imagenet")):
        images = open_images(tmp_path, classes=classes)
        assert labels(images) == {"n01498041/1.JPEG": 6, "n01629819/1.JPEG": 25}
        assert images.labelled
    (tmp_path / "synsets.txt").write_text("n01440764 tench\nn01629819 salamander\nn01498041\n")
    assert labels(open_images(tmp_path)) == {"n01498041/1.JPEG": 2, "n01629819/1.JPEG": 1}
    (tmp_path / "synsets.txt").write_text("n01440764\nn01498041\n")
    with pytest.raises(LabelError, match="n01629819"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("folders", "classes", "why"),
    [
        (("n01498041", "n01629819"), 10, "a model of 10 classes"),
        (("n01498041", "n01629819"), ("a", "b"), "a model of 2 classes"),
        (("n01498041", "n00000001"), 1000, "1 of 2 synset folders, such as n00000001"),
    ],
)
def test_synset_folders_of_another_numbering_say_so(tmp_path, folders, classes, why):
    for synset in folders:
        put(tmp_path / synset / "1.JPEG")
    images = open_images(tmp_path, classes=classes)
    assert not images.labelled
    assert why in images.unlabelled
    assert "put synsets.txt" in images.unlabelled


def test_folders_named_by_the_first_of_several_class_names(tmp_path):
    for name in ("tench", "goldfish, Carassius auratus"):
        put(tmp_path / name / "1.png")
    images = open_images(tmp_path, classes=class_names("imagenet"))
    assert labels(images) == {"tench/1.png": 0, "goldfish, Carassius auratus/1.png": 1}
    put(tmp_path / "crane" / "1.png")  # a bird and a machine
    images = open_images(tmp_path, classes=class_names("imagenet"))
    assert not images.labelled
    assert "or several: crane" in images.unlabelled


def test_all_thousand_synsets_are_numbered_by_rank_even_if_some_are_empty(tmp_path):
    synsets = [f"n{i:08d}" for i in range(3, 3003, 3)]
    for synset in synsets:
        (tmp_path / synset).mkdir()
    put(tmp_path / synsets[10] / "x.png")
    put(tmp_path / synsets[999] / "x.png")
    assert sorted(item.label for item in open_images(tmp_path, classes=1000)) == [10, 999]


def test_labels_csv(tmp_path):
    for name in ("a.png", "b.png", "left out.png"):
        put(tmp_path / name)
    (tmp_path / "labels.csv").write_text("filename,class_index\nb.png,3\na.png,1\n")
    images = open_images(tmp_path, classes=4)
    assert labels(images) == {"a.png": 1, "b.png": 3}
    assert images.labelled
    assert labels(open_images(tmp_path / "labels.csv")) == labels(images)


@pytest.mark.parametrize("name", ["val.txt", "my list.lst"])
def test_list_files(tmp_path, name):
    put(tmp_path / "sub" / "two words.png")
    put(tmp_path / "b.png")
    (tmp_path / name).write_text("# comment\nsub/two words.png 5\n\nb.png 0\n")
    assert labels(open_images(tmp_path / name)) == {"sub/two words.png": 5, "b.png": 0}
    (tmp_path / name).write_text("sub/two words.png\nb.png\n")
    images = open_images(tmp_path / name)
    assert labels(images) == {"sub/two words.png": None, "b.png": None}
    assert not images.labelled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,1\ngone.png,2\n", r"gone\.png \(line 2\)"),
        ("a.png,4\n", r"such as 4 of a\.png"),
        ("a.png,-1\n", r"such as -1 of a\.png \(.*labels\.csv, line 1\)"),
        ("a.png,1\na.png,2\n", r"a\.png is listed twice"),
        ("a.png,1\nb.png\n", "1 of 2 lines without a label"),
    ],
)
def test_wrong_labels_are_named(tmp_path, text, message):
    put(tmp_path / "a.png")
    put(tmp_path / "b.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(LabelError, match=message):
        open_images(tmp_path, classes=("p", "q", "r", "s"))


def test_a_binary_list_is_an_error_not_a_crash(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(LabelError, match="as text"):
        open_images(tmp_path / "list.txt")


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        open_images(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        open_images(tmp_path / "empty")
    with pytest.raises(UsageError, match="train"):
        open_images("demo:train")
    with pytest.raises(UsageError, match="0 images"):
        open_images("demo:test", count=0)


def test_loose_images_beside_class_folders_are_refused(tmp_path):
    put(tmp_path / "stray.png")
    put(tmp_path / "cat" / "1.png")
    with pytest.raises(LabelError, match="mixes 1 loose"):
        open_images(tmp_path, classes=("cat",))


def test_demo_images_and_their_labels():
    images = open_images("demo", count=100, seed=5)
    assert images.labelled
    assert len(images) == 100
    for split in ("test", "calibration"):
        some = open_images(f"demo:{split}", count=100, seed=5)
        for index in (0, 1, 47, 48, 99):
            rgb, label = render(split, index, 5)
            assert some[index].label == label
            assert np.array_equal(some[index].load(), rgb)
    assert open_images("demo:test", count=2).fingerprint != open_images("demo:test", count=2, seed=1).fingerprint
    assert open_images("demo:test", count=2).fingerprint != open_images("demo:calibration", count=2).fingerprint


def test_a_folder_called_demo_wins(tmp_path, monkeypatch):
    put(tmp_path / "demo" / "x.png")
    monkeypatch.chdir(tmp_path)
    assert [item.name for item in open_images("demo")] == ["x.png"]


def test_fingerprint_follows_names_labels_and_contents(tmp_path):
    put(tmp_path / "a.png", 1)
    put(tmp_path / "b.png", 2)
    (tmp_path / "labels.csv").write_text("a.png,1\nb.png,2\n")
    first = open_images(tmp_path).fingerprint
    os.utime(tmp_path / "a.png", (1, 1))
    assert open_images(tmp_path).fingerprint == first
    (tmp_path / "labels.csv").write_text("b.png,2\na.png,1\n")
    assert open_images(tmp_path).fingerprint == first
    (tmp_path / "labels.csv").write_text("a.png,2\nb.png,2\n")
    assert open_images(tmp_path).fingerprint != first
    (tmp_path / "labels.csv").write_text("a.png,1\nb.png,2\n")
    put(tmp_path / "a.png", 3)
    assert open_images(tmp_path).fingerprint != first


def test_an_unreadable_file_is_named_when_it_is_read(tmp_path):
    (tmp_path / "bad.jpg").write_text("no")
    images = open_images(tmp_path)
    assert len(images.fingerprint) == 64
    with pytest.raises(ImageError, match=r"^bad\.jpg"):
        images[0].load()
    (tmp_path / "bad.jpg").unlink()
    with pytest.raises(ImageError, match=r"^bad\.jpg can't be read"):
        images[0].load()


def test_an_item_survives_json():
    item = ImageItem("x/y.png", 3, demo=("test", 4, 0))
    assert cattrs.structure(cattrs.unstructure(item), ImageItem) == item


def made(count: int, classes: int | None) -> ImageSet:
    items = tuple(ImageItem(f"{i:04d}", None if classes is None else i % classes) for i in range(count))
    return ImageSet(items, "made", "" if classes else "no labels", "made")


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 9), st.sampled_from([None, 1, 7, 300]))
@settings(deadline=None)
def test_sample_is_a_seeded_subset_whatever_the_order(count, n, seed, classes):
    images = made(count, classes)
    backwards = ImageSet(images.items[::-1], "made", images.unlabelled, "made")
    chosen = sample(images, n, seed)
    assert len({item.name for item in chosen}) == min(n, count) == len(chosen)
    assert set(chosen) <= set(images)
    if n < count:
        assert sample(backwards, n, seed) == chosen
        assert chosen.description == f"made ({n} of {count} images, seed {seed})"


@given(st.integers(1, 100), st.integers(0, 99))
@settings(deadline=None)
def test_each_class_gets_its_share(n, seed):
    items = tuple(ImageItem(f"{i:03d}", label) for i, label in enumerate([0] * 60 + [1] * 30 + [2] * 10))
    counts = Counter(item.label for item in sample(ImageSet(items, "made", "", "made"), n, seed))
    for label, share in ((0, 0.6), (1, 0.3), (2, 0.1)):
        assert abs(counts[label] - share * n) < 1 + 1e-9


def test_the_seed_matters_and_every_image_can_be_chosen():
    for classes in (None, 5):
        images = made(40, classes)
        assert sample(images, 10, 0) != sample(images, 10, 1)
        assert {item for seed in range(60) for item in sample(images, 10, seed)} == set(images)


def test_sample_refuses_none():
    with pytest.raises(UsageError, match="0 images"):
        sample(made(3, None), 0)


def test_real_photographs(shared):
    images = open_images(shared / "data" / "imagenet_val_500", classes=1000)
    assert images.labelled
    assert len(images) == 500
    assert sample(images, 3)[0].load().ndim == 3


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/coco/images", "coco/images"),
        ("coco/images/val2017", "coco/images/val2017"),
        ("/data/coco/data.yaml", "coco/data.yaml"),
        ("/photos", "photos"),
        ("/images", "images"),
        ("../images", "images"),
        ("images", "images"),
        ("coco/val_128/", "val_128"),
    ],
)
def test_a_set_of_any_name_is_told_apart_by_its_parent(path, name):
    assert set_name(Path(path)) == name


def test_its_description_begins_with_that_name(tmp_path):
    put(tmp_path / "coco" / "images" / "a.png")
    images = open_images(tmp_path / "coco" / "images")
    assert (images.description, images.source) == ("coco/images (1 image)", "coco/images")
