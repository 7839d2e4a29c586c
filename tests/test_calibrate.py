from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import cattrs
import cv2
import numpy as np
import pytest

from edge.errors import CalibrationError, SpecError, WorkspaceError
from edge.images import open_images
from edge.images.calibrate import CalibrationResult, CalibrationSet, calibrate, load_set
from edge.images.preprocess import resize_crop
from edge.progress import Silent
from edge.specs import Preprocess

PRE = Preprocess(crop=(32, 32), resize=40)


def put(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes())


def noise(seed: int, height: int = 50, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for i in range(24):
        put(tmp_path / "photos" / f"p {i:02d}.png", noise(i))
    return tmp_path / "photos"


def run(folder: Path, out: Path, pre: Preprocess = PRE, **options) -> tuple[CalibrationResult, list[str]]:
    out.mkdir()
    reporter = Silent()
    result = calibrate(images=open_images(folder), preprocess=pre, out=out, reporter=reporter, **options)
    return result, reporter.warnings


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_files_hold_the_crops_own_values(folder, tmp_path, color, layout):
    """0..255 as float32, in the network's colour order: the compiler does mean, std and NV12 itself."""
    pre = Preprocess(crop=(32, 64), resize=64, color=color, layout=layout)
    result, warnings = run(folder, tmp_path / "out", pre, n=20)
    assert warnings == []
    assert result.directory == f"calibration_data_{color}_f32"
    assert result.n == len(result.images) == 20
    for image in result.images:
        data = np.fromfile(tmp_path / "out" / result.directory / image.file, "<f4")
        shape = (3, 32, 64) if layout == "NCHW" else (32, 64, 3)
        want = resize_crop(cv2.imread(str(folder / image.name))[..., ::-1].copy(), pre)
        want = want if color == "rgb" else want[..., ::-1]
        assert np.array_equal(data.reshape(shape), want.transpose(2, 0, 1) if layout == "NCHW" else want)
    assert sorted(p.name for p in (tmp_path / "out" / result.directory).iterdir()) == [
        image.file for image in result.images
    ]


def test_the_index_records_every_image(folder, tmp_path):
    result, _ = run(folder, tmp_path / "out", n=20, seed=3)
    text = json.loads((tmp_path / "out" / result.index).read_text())
    assert cattrs.structure(text, CalibrationResult) == result
    assert text["seed"] == 3
    assert result.images[0].file == "0000_" + result.images[0].name.replace(" ", "_").replace(".png", ".bin")
    assert str(tmp_path) not in json.dumps(text)


def test_same_inputs_same_bytes_and_another_seed_other_images(folder, tmp_path):
    first, _ = run(folder, tmp_path / "a", n=20, seed=1)
    second, _ = run(folder, tmp_path / "b", n=20, seed=1)
    third, _ = run(folder, tmp_path / "c", n=20, seed=2)
    assert first == second
    for image in first.images:
        one, two = (tmp_path / x / first.directory / image.file for x in "ab")
        assert one.read_bytes() == two.read_bytes()
    assert third.sha256 != first.sha256


def test_one_thread_writes_the_same_set(folder, tmp_path, monkeypatch):
    many, _ = run(folder, tmp_path / "a")
    monkeypatch.setattr("edge.images.calibrate.MAX_WORKERS", 1)
    assert run(folder, tmp_path / "b")[0] == many


def test_names_from_several_folders_do_not_collide(tmp_path):
    for i in range(20):
        put(tmp_path / "set" / f"{i}" / "same.png", noise(i))
    result, _ = run(tmp_path / "set", tmp_path / "out")
    assert len({image.file for image in result.images}) == 20


def test_few_images_warn(folder, tmp_path):
    _, warnings = run(folder, tmp_path / "out", n=5)
    assert warnings == ["only 5 calibration images; 20 to 100 give steadier ranges"]
    _, warnings = run(folder, tmp_path / "more", n=30)
    assert len(warnings) == 1
    assert "24 calibration images instead of the 30" in warnings[0]


def test_one_unreadable_image_is_named_and_left_out(folder, tmp_path):
    (folder / "p 03.png").write_bytes((folder / "p 03.png").read_bytes()[:500])
    result, warnings = run(folder, tmp_path / "out", n=24)
    assert result.n == 23
    assert result.unreadable == ("p 03.png",)
    assert len(warnings) == 1
    assert "p 03.png" in warnings[0]


def test_many_unreadable_images_are_refused(folder, tmp_path):
    for i in range(3):
        (folder / f"p {i:02d}.png").write_text("no")
    with pytest.raises(CalibrationError, match=r"3 of 24.*p 00\.png, p 01\.png, p 02\.png"):
        run(folder, tmp_path / "out", n=24)


def test_no_readable_image_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.jpg").write_text("no")
    with pytest.raises(CalibrationError, match=r"none of the 1 .*x\.jpg"):
        run(tmp_path / "photos", tmp_path / "out")


def spoil(folder: Path, change) -> None:
    for i, path in enumerate(sorted(folder.iterdir())):
        put(path, change(noise(i)))


def test_values_already_scaled_are_refused(folder, tmp_path):
    spoil(folder, lambda rgb: (rgb / 255).round().astype(np.uint8))
    with pytest.raises(CalibrationError, match="already scaled"):
        run(folder, tmp_path / "out")


def test_values_in_the_low_byte_of_16_bits_are_refused(folder, tmp_path):
    """0..255 stored as 16-bit PNG decode to zeros."""
    for i, path in enumerate(sorted(folder.iterdir())):
        path.write_bytes(cv2.imencode(".png", noise(i).astype(np.uint16))[1].tobytes())
    with pytest.raises(CalibrationError, match="already scaled"):
        run(folder, tmp_path / "out")


def test_flat_images_are_refused_and_some_of_them_warn(folder, tmp_path):
    put(folder / "p 05.png", np.full((50, 60, 3), 90, np.uint8))
    result, warnings = run(folder, tmp_path / "some")
    assert result.n == 24
    assert any("1 calibration image of one flat colour: p 05.png" in w for w in warnings)
    spoil(folder, lambda rgb: np.full_like(rgb, (90, 80, 70)))
    with pytest.raises(CalibrationError, match="one flat colour"):
        run(folder, tmp_path / "all")


def test_grey_images_warn_only_if_all_are(folder, tmp_path):
    spoil(folder, lambda rgb: rgb[..., :1].repeat(3, axis=2))
    assert any("is grey" in w for w in run(folder, tmp_path / "all", n=24)[1])
    put(folder / "p 00.png", noise(0))
    assert run(folder, tmp_path / "some", n=24)[1] == []


def test_small_images_warn_and_tiny_ones_are_refused(folder, tmp_path):
    pre = Preprocess(crop=(64, 64), resize=64)
    put(folder / "p 01.png", noise(1, 31, 90))
    put(folder / "p 02.png", noise(1, 32, 90))
    _, warnings = run(folder, tmp_path / "small", pre, n=24)
    assert warnings == ["1 calibration image smaller than half the input: p 01.png"]
    put(folder / "p 01.png", noise(1, 15, 90))
    with pytest.raises(CalibrationError, match=r"smaller than 16 pixels: p 01\.png"):
        run(folder, tmp_path / "tiny", pre, n=24)


def test_a_full_disk_says_how_much_is_needed(folder, tmp_path, monkeypatch):
    needed = f"{24 * 3 * 32 * 32 * 4:,}"

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(WorkspaceError, match=f"disk is full.*{needed} bytes"):
            run(folder, tmp_path / "during", n=24)
    monkeypatch.setattr("shutil.disk_usage", lambda _: os.terminal_size((0, 0)) and type("U", (), {"free": 1000}))
    with pytest.raises(WorkspaceError, match=needed):
        run(folder, tmp_path / "before", n=24)
    assert list((tmp_path / "before").iterdir()) == []


# Sets as data


@pytest.mark.parametrize("name", ["demo", "imagenet"])
def test_every_set_loads(name, monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGENET", str(tmp_path))
    found = load_set(name)
    assert found.n == 100
    assert found.images == ("demo:calibration" if name == "demo" else str(tmp_path / "train"))


def test_a_set_of_the_users_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("images: photos\nn: 7\n")
    assert load_set(str(tmp_path / "mine.yaml")) == CalibrationSet("mine", str(tmp_path / "photos"), 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images: x\ncount: 3\n", "count"),
        ("n: 3\n", "images"),
        ("images: x\nn: 0\n", "'n' must be >= 1"),
        ("images: x\nn: '3'\n", "'n' must be"),
        ("images: x\nseed: -1\n", "'seed' must be >= 0"),
        ("images: [x]\n", "'images' must be"),
        ("- x\n", "is not a calibration set"),
        ("a: [\n", "is not a calibration set"),
        ("images: $EDGE_NOWHERE/x\n", "EDGE_NOWHERE is not set"),
    ],
)
def test_broken_sets_are_refused(tmp_path, text, message):
    (tmp_path / "set.yaml").write_text(text)
    with pytest.raises(SpecError, match=message):
        load_set(str(tmp_path / "set.yaml"))


def test_an_unknown_set_names_the_known():
    with pytest.raises(SpecError, match="demo, imagenet"):
        load_set("imagnet")
