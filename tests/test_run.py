"""``edge run``, and the images that it writes."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.cli.program import _complete
from edge.cli.run import _summary
from edge.errors import ImageError, UsageError, WorkspaceError
from edge.images.preprocess import decode, resize_crop, rgb_to_nv12
from edge.runtime import Net, Tensor
from edge.runtime.annotated import BAR, ROW, annotate, png, save_image
from edge.specs import Preprocess
from tests.conftest import Run
from tests.fabricated import MEAN, NAMES, STD, make_build, save_photo

PORTABLE = ("--backend", "portable")


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return make_build(tmp_path / "build" / "ConvNeXt_atto")


def expected(build: Path, image: Path) -> list[tuple[str, float]]:
    """Labels and probabilities, best first, without the runtime."""
    rule = Preprocess(crop=(64, 64), resize=73, interpolation="bilinear", mean=(MEAN,) * 3, std=(STD,) * 3)
    nv12 = rgb_to_nv12(resize_crop(decode(image), rule))
    session = onnxruntime.InferenceSession(str(next(build.glob("*_portable_int8.onnx"))))
    scores = session.run(None, {"nv12": nv12})[0].reshape(-1).astype(np.float64)
    chances = np.exp(scores) / np.exp(scores).sum()
    return sorted(zip(NAMES, chances.tolist(), strict=True), key=lambda pair: -pair[1])


def test_a_name_means_its_build_folder(edge: Run, build: Path, tmp_path: Path) -> None:
    image = save_photo(tmp_path / "photo.png", 3)
    code, out, _ = edge("run", "ConvNeXt_atto", "photo.png", "-k", "3", *PORTABLE)
    assert code == 0
    assert out.startswith("backend  portable (onnxruntime ")
    assert "the same integers as on the board" in out
    lines = out[out.index("photo.png") :].splitlines()[1:]
    assert lines == [f"  {100 * p:6.2f} %  {name}" for name, p in expected(build, image)[:3]]


def test_several_images_end_with_a_summary(edge: Run, build: Path, tmp_path: Path) -> None:
    photos = [save_photo(tmp_path / "photos" / f"{seed:02d}.png", seed) for seed in range(12)]
    code, out, _ = edge("run", "ConvNeXt_atto", "photos", "-k", "1", *PORTABLE)
    *_, last = out.splitlines()
    assert code == 0
    answers = Counter(expected(build, photo)[0][0] for photo in photos)
    said = ", ".join(f"{name} ({count})" for name, count in answers.most_common())
    assert len(answers) > 1
    assert re.fullmatch(r"12 images, \d+\.\d a second with reading them: " + re.escape(said), last)
    assert " a second" not in edge("run", "ConvNeXt_atto", str(photos[0]), *PORTABLE)[1]


def test_a_program_of_a_size_that_edge_builds_none_of_is_refused(tmp_path: Path) -> None:
    image = Tensor("image", (1, 3, 300, 300), "uint8", nv12=True)
    net = SimpleNamespace(preprocess=None, info=SimpleNamespace(inputs=(image,)))
    with pytest.raises(UsageError, match="takes images of 300x300"):
        _complete(cast(Net, net), tmp_path / "other.bin", None, None, True)


def test_a_summary_of_many_classes_names_the_most_frequent() -> None:
    results = [{"labels": [{"label": f"c{min(index, 7)}"}]} for index in range(12)] + [{"error": "broken"}]
    assert _summary(results, 2.0) == (
        "13 images, 6.5 a second with reading them: "
        "c7 (5), c0 (1), c1 (1), c2 (1), c3 (1), 3 more classes (3), 1 not read"
    )


@pytest.mark.parametrize("how", ["ConvNeXt_atto/", "build/ConvNeXt_atto", "file", "elsewhere"])
def test_other_ways_to_name_the_program(edge: Run, build: Path, tmp_path: Path, how: str) -> None:
    save_photo(tmp_path / "photo.png")
    arguments = [how]
    if how == "file":
        arguments = [str(build / "ConvNeXt_atto.onnx")]
        assert edge("run", *arguments, "photo.png", *PORTABLE)[0] == 1  # the float ONNX is no program
        arguments = [str(next(build.glob("*_portable_int8.onnx")))]
    if how == "elsewhere":
        build.rename(tmp_path / "other")
        (tmp_path / "other").rename(tmp_path / "ConvNeXt_atto")
        arguments = ["ConvNeXt_atto", "--build-dir", "nowhere"]
    code, out, _ = edge("run", *arguments, "photo.png", "--json", *PORTABLE)
    assert code == 0
    assert json.loads(out)["images"][0]["labels"][0]["label"] in NAMES


def test_a_bundle_unpacked_here_does_not_stand_for_the_build_of_its_name(
    edge: Run, build: Path, tmp_path: Path
) -> None:
    save_photo(tmp_path / "photo.png")
    shutil.copytree(build, tmp_path / "ConvNeXt_atto")
    programs = {}
    for model in ("ConvNeXt_atto", "./ConvNeXt_atto", str(tmp_path / "ConvNeXt_atto")):
        programs[model] = json.loads(edge("run", model, "photo.png", "--json", *PORTABLE)[1])["program"]
    assert programs == {
        "ConvNeXt_atto": "build/ConvNeXt_atto",
        "./ConvNeXt_atto": "ConvNeXt_atto",
        str(tmp_path / "ConvNeXt_atto"): str(tmp_path / "ConvNeXt_atto"),
    }


def test_json_tells_everything(edge: Run, build: Path, tmp_path: Path) -> None:
    image = save_photo(tmp_path / "photo.png", 5)
    _, out, _ = edge("run", "ConvNeXt_atto", "photo.png", "--json")
    told = json.loads(out)
    assert told["backend"] == "portable"
    assert told["exact"] is True
    # Nothing else can run it on a machine that is no board, without .bin and quantized ONNX.
    assert [entry["backend"] for entry in told["passed_over"]] == [
        "hbm_runtime",
        "hobot_dnn",
        "bpu_infer_lib",
        "hbdk_sim",
        "quantized",
    ]
    labels = told["images"][0]["labels"]
    assert [entry["label"] for entry in labels] == [name for name, _ in expected(build, image)]
    assert sum(entry["probability"] for entry in labels) == pytest.approx(1)


def test_verbose_says_why_others_were_passed_over(edge: Run, build: Path, tmp_path: Path) -> None:
    save_photo(tmp_path / "photo.png")
    _, quiet, _ = edge("run", "ConvNeXt_atto", "photo.png")
    assert "passed over" not in quiet
    _, out, _ = edge("run", "ConvNeXt_atto", "photo.png", "--verbose")
    assert "hbm_runtime passed over: " in out
    assert "shorter side to 73, centre crop 64x64, bilinear" in out


def test_an_approximation_is_called_one(edge: Run, tmp_path: Path) -> None:
    make_build(tmp_path / "build" / "ConvNeXt_atto", exact=False)
    save_photo(tmp_path / "photo.png")
    _, out, _ = edge("run", "ConvNeXt_atto", "photo.png", *PORTABLE)
    assert "an approximation" in out
    assert "same integers" not in out


def test_a_image_that_is_none_is_named_and_the_others_are_shown(edge: Run, build: Path, tmp_path: Path) -> None:
    save_photo(tmp_path / "a.png", 1)
    (tmp_path / "b.jpg").write_bytes(b"no image")
    save_photo(tmp_path / "c.png", 2)
    names = ("a.png", "b.jpg", "gone.png", "c.png")
    code, out, err = edge("run", "ConvNeXt_atto", *names, *PORTABLE)
    assert code == 1
    assert out.count(NAMES[0]) == 2
    assert "error: b.jpg is not a complete image" in err
    assert "error: gone.png can't be read" in err
    code, out, _ = edge("run", "ConvNeXt_atto", *names, "--json", *PORTABLE)
    assert code == 1
    assert ["error" in entry for entry in json.loads(out)["images"]] == [False, True, True, False]


def test_one_image_with_its_labels_is_written(edge: Run, build: Path, tmp_path: Path) -> None:
    image = save_photo(tmp_path / "photo.png", 3)
    code, out, _ = edge("run", "ConvNeXt_atto", "photo.png", "--out", "new/shown.png", *PORTABLE)
    assert code == 0
    assert "→ new/shown.png" in out
    written = decode(tmp_path / "new" / "shown.png")
    assert np.array_equal(written, annotate(decode(image), expected(build, image)))


def test_several_images_go_into_a_folder(edge: Run, build: Path, tmp_path: Path) -> None:
    save_photo(tmp_path / "in" / "a.png", 1)
    save_photo(tmp_path / "in" / "b.jpg", 2)
    save_photo(tmp_path / "a.jpg", 3)
    code, _, _ = edge("run", "ConvNeXt_atto", "in", "a.jpg", "--out", "shown", *PORTABLE)
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "shown").iterdir()) == ["a.png", "a_2.png", "b.png"]
    assert not np.array_equal(decode(tmp_path / "shown" / "a.png"), decode(tmp_path / "shown" / "a_2.png"))


def test_a_file_alone_says_what_it_assumes_and_takes_it_from_options(edge: Run, build: Path, tmp_path: Path) -> None:
    shutil.copy(next(build.glob("*_portable_int8.onnx")), tmp_path / "x_portable_int8.onnx")
    image = save_photo(tmp_path / "photo.png", 3)
    run = ("run", "x_portable_int8.onnx", "photo.png", "--scores", "logits", *PORTABLE)
    code, out, _ = edge(*run)
    assert code == 0
    assert "comes without metadata.json; images: shorter side to 73" in out
    assert "assumed" in out
    numbers = [f"  {100 * p:6.2f} %  {NAMES.index(name)}" for name, p in expected(build, image)]
    assert [line for line in out.splitlines() if " %  " in line] == numbers
    _, stretched, _ = edge(*run, "--resize", "stretch", "--interpolation", "area")
    assert "stretched to 64x64, area (as given)" in stretched
    assert [line for line in stretched.splitlines() if " %  " in line] != numbers
    (tmp_path / "names.txt").write_text("p\nq\nr\ns\n")
    _, named, _ = edge(*run, "--labels", "names.txt")
    assert named.splitlines()[-1].split()[-1] in "pqrs"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("ConvNeXt_nano", "photo.png"), 1, ("not built", "next: edge build ConvNeXt_nano")),
        (("ConvNeXt_nao", "photo.png"), 2, ("unknown model", "edge build ConvNeXt_nano")),
        (("some/where", "photo.png"), 1, ("some/where does not exist",)),
        (("gone.bin", "photo.png"), 1, ("gone.bin does not exist",)),
        (("photo.png", "photo.png"), 1, ("photo.png is not a program",)),
        (("ConvNeXt_atto",), 2, ("IMAGE",)),
        (("ConvNeXt_atto", "empty"), 1, ("empty holds no images",)),
        (("ConvNeXt_atto", "photo.png", "--top", "0"), 2, ("--top",)),
        (("ConvNeXt_atto", "photo.png", "--backend", "tpu"), 2, ("'tpu'", "hbdk_sim, quantized, portable")),
        (("ConvNeXt_atto", "photo.png", "--backend", "hobot_dnn"), 1, ("comes without its .bin",)),
        (("ConvNeXt_atto", "photo.png", "--resize", "80"), 2, ("metadata.json says: shorter side to 73",)),
        (("ConvNeXt_atto", "photo.png", "--labels", "imagenet"), 1, ("the program has 4 classes",)),
        (("ConvNeXt_atto", "photo.png", "--labels", "gone.txt"), 1, ("gone.txt can't be read",)),
        (("ConvNeXt_atto", "photo.png", "--out", "x.gif"), 2, ("x.gif", ".png, .jpg")),
        (("ConvNeXt_atto", "photo.png", "--out", "photo.png"), 2, ("would overwrite photo.png",)),
        (("ConvNeXt_atto", "photo.png", "--out", "."), 2, ("would overwrite photo.png",)),
        (("ConvNeXt_atto", "photo.png", "other.png", "--out", "x.png"), 2, ("for 2 images", "a folder")),
        (("bare_portable_int8.onnx", "photo.png", "--resize", "wide"), 2, ("'wide'", "stretch")),
        (("bare_portable_int8.onnx", "photo.png", "--resize", "32"), 2, ("resize >= crop",)),
    ],
)
def test_wrong_input_gives_one_clear_error(
    edge: Run, build: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: tuple[str, ...]
) -> None:
    photo = save_photo(tmp_path / "photo.png").read_bytes()
    save_photo(tmp_path / "other.png")
    (tmp_path / "empty").mkdir()
    shutil.copy(next(build.glob("*_portable_int8.onnx")), tmp_path / "bare_portable_int8.onnx")
    chosen = arguments if "--backend" in arguments else (*arguments, *PORTABLE)
    seen, out, err = edge("run", *chosen)
    assert seen == code
    assert out == ""
    for text in says:
        assert text in err
    assert (tmp_path / "photo.png").read_bytes() == photo


def test_a_disk_that_refuses_is_told_for_that_image(
    edge: Run, build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_photo(tmp_path / "photo.png")

    def full(path: Path, rgb: object) -> None:
        raise WorkspaceError(f"the disk that holds {path.parent} is full (0 MB free)")

    monkeypatch.setattr("edge.runtime.annotated.save_image", full)
    code, out, err = edge("run", "ConvNeXt_atto", "photo.png", "--out", "x.png", *PORTABLE)
    assert code == 1
    assert NAMES[0] in out
    assert "error: the disk that holds . is full" in err


# The image


def sample_rgb(height: int = 480, width: int = 640) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_rows_of_text_lie_below_the_image_which_stays_as_it_is() -> None:
    rgb = sample_rgb()
    drawn = annotate(rgb, [("cat", 0.75), ("dog", 0.25)])
    assert drawn.shape == (480 + 2 * ROW, 640, 3)
    assert np.array_equal(drawn[:480], rgb)
    for index, share in enumerate((0.75, 0.25)):
        middle = drawn[480 + ROW * index + 3]  # above the letters
        assert (middle == BAR).all(axis=-1).sum() == round(640 * share)
    other = annotate(rgb, [("cow", 0.75), ("dog", 0.25)])
    assert not np.array_equal(drawn[480 : 480 + ROW], other[480 : 480 + ROW])
    assert np.array_equal(drawn[480 + ROW :], other[480 + ROW :])


@given(
    st.integers(1, 300), st.integers(1, 300), st.lists(st.tuples(st.text(max_size=120), st.floats(0, 1)), max_size=3)
)
@settings(deadline=None, max_examples=40)
def test_any_size_and_any_label_can_be_drawn(height: int, width: int, ranked: list[tuple[str, float]]) -> None:
    drawn = annotate(sample_rgb(height, width), ranked)
    assert drawn.dtype == np.uint8
    assert drawn.shape[1] >= 360
    assert max(drawn.shape[0] - ROW * len(ranked), drawn.shape[1]) <= 960


def test_a_long_label_leaves_the_probability_readable() -> None:
    rgb = sample_rgb()
    long, short = annotate(rgb, [("W" * 200, 0.0)]), annotate(rgb, [("", 0.0)])
    # "0.0 %" takes the last 60 pixels; the label ends before.
    assert np.array_equal(long[480:, -60:], short[480:, -60:])
    assert (long[480:, :-60] != short[480:, :-60]).any()


def test_accents_are_left_out() -> None:
    rgb = sample_rgb()
    assert np.array_equal(annotate(rgb, [("café", 0.5)]), annotate(rgb, [("cafe", 0.5)]))


def test_images_survive_a_file(tmp_path: Path) -> None:
    rgb = sample_rgb(30, 20)
    save_image(tmp_path / "a.png", rgb)
    assert np.array_equal(decode(tmp_path / "a.png"), rgb)
    assert np.array_equal(decode(png(rgb)), rgb)
    save_image(tmp_path / "a.jpg", np.full((30, 20, 3), (200, 100, 50), np.uint8))
    assert abs(decode(tmp_path / "a.jpg").astype(int) - (200, 100, 50)).max() < 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a.png"]


def test_images_that_cannot_be_written(tmp_path: Path) -> None:
    rgb = sample_rgb(8, 8)
    with pytest.raises(UsageError, match="has no suffix of an image"):
        save_image(tmp_path / "x.txt", rgb)
    with pytest.raises(ImageError, match="float64"):
        png(rgb.astype(np.float64))
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="can't be written"):
        save_image(tmp_path / "file" / "x.png", rgb)


def test_the_fabricated_pair_differs_as_float_and_quantized_do(build: Path, tmp_path: Path) -> None:
    """What other tests rest on: alike, not equal, and different from image to image."""
    from edge.images.preprocess import network_input
    from edge.runtime import load

    session = onnxruntime.InferenceSession(str(build / "ConvNeXt_atto.onnx"))
    with load(build, "portable") as net:
        exact, quantized = [], []
        for index in range(20):
            rgb = decode(save_photo(tmp_path / "p.png", index))
            seen = resize_crop(rgb, net.preprocess)
            exact.append(session.run(None, {"x": network_input(seen, net.preprocess)})[0].reshape(-1))
            quantized.append(net.scores(rgb))
    difference = np.abs(np.array(exact) - np.array(quantized))
    assert 0.01 < difference.max() < 1
    assert np.ptp(np.array(exact), axis=0).min() > difference.max()
