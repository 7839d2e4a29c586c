"""What PaddleClas's and mindcv's own configurations say of images, and which files make a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import EdgeError, InputError, UsageError
from edge.images.find import imagenet
from edge.sources import mindcv, paddleclas
from edge.sources.declared import Declared, names_of, number, spec_of
from edge.sources.framework_files import mindspore_file, paddle_files
from edge.specs import Sources, load_model

Run = Callable[..., tuple[int, str, str]]

INFERENCE: dict[str, Any] = {
    "Global": {"model_name": "PPHGNetV2_B0"},
    "PreProcess": {
        "transform_ops": [
            {"ResizeImage": {"resize_short": 256, "interpolation": "bicubic", "backend": "pil"}},
            {"CropImage": {"size": 224}},
            {
                "NormalizeImage": {
                    "channel_num": 3,
                    "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225],
                    "scale": 0.00392156862745098,
                    "order": "",
                }
            },
            {"ToCHWImage": None},
        ]
    },
    "PostProcess": {"Topk": {"topk": 5, "label_list": ["cat", "dog"]}},
}


def save_yaml(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data))
    return path


def with_transforms(*operations: object) -> dict[str, Any]:
    return {"PreProcess": {"transform_ops": list(operations)}}


def test_inference_yml_says_everything(tmp_path: Path) -> None:
    found = paddleclas.read_config(save_yaml(tmp_path / "inference.yml", INFERENCE))
    assert found.values == {
        "crop": (224, 224),
        "resize": 256,
        "interpolation": "bicubic",
        "color": "rgb",
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
        "layout": "NCHW",
    }
    assert (found.model, found.names, found.notes) == ("PPHGNetV2_B0", ("cat", "dog"), ())


def test_a_training_config_and_its_class_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("1 dog, hound\n0 cat\n")
    data = {
        "Arch": {"name": "ResNet18", "class_num": 2},
        "Infer": {
            "transforms": [
                {"DecodeImage": {"to_rgb": False, "channel_first": False}},
                {"ResizeImage": {"size": [320, 256]}},
                {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}},
            ],
            "PostProcess": {"name": "Topk", "topk": 5, "class_id_map_file": "ppcls/utils/names.txt"},
        },
    }
    found = paddleclas.read_config(save_yaml(tmp_path / "ResNet18.yaml", data))
    # PaddleClas writes width first.
    assert (found.values["crop"], found.values["resize"]) == ((256, 320), None)
    assert found.values["color"] == "bgr"
    assert found.values["mean"] == (127.5, 127.5, 127.5)
    assert (found.names, found.classes, found.model) == (("cat", "dog, hound"), 2, "ResNet18")


@pytest.mark.parametrize(
    ("operation", "note"),
    [
        ({"GrayScale": {}}, "the operation GrayScale is unknown"),
        ({"ResizeImage": {"resize_short": 256, "interpolation": "lanczos"}}, "lanczos"),
    ],
)
def test_what_can_not_be_taken_over_is_noted(tmp_path: Path, operation: object, note: str) -> None:
    found = paddleclas.read_config(save_yaml(tmp_path / "c.yml", with_transforms(operation)))
    assert note in " ".join(found.notes)


def test_stretching_and_cropping_is_noted(tmp_path: Path) -> None:
    data = with_transforms({"ResizeImage": {"size": 256}}, {"CropImage": {"size": 224}})
    found = paddleclas.read_config(save_yaml(tmp_path / "c.yml", data))
    assert (found.values["resize"], found.values["crop"]) == (256, (224, 224))
    assert "stretches" in found.notes[0]


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        ({"Global": {}}, "no operations on images"),
        ([1], "no mapping"),
        (with_transforms({"CropImage": {"size": "large"}}), "CropImage: size"),
        (with_transforms({"CropImage": {"size": -1}}), "CropImage: size"),
        (with_transforms({"NormalizeImage": {"scale": "a/b"}}), "scale"),
        (with_transforms({"NormalizeImage": {"scale": 0}}), "scale"),
        (with_transforms({"NormalizeImage": {"mean": [0.5, 0.5]}}), "mean"),
        (with_transforms({"ResizeImage": 224}), "ResizeImage has 224"),
        (with_transforms({"NormalizeImage": {"scale": ""}}), "scale"),
        (with_transforms({"NormalizeImage": {"std": float("inf")}}), "std"),
        ({**with_transforms(), "Global": {"image_shape": [3, None, None]}}, "image_shape"),
        ({**with_transforms(), "Global": {"image_shape": [3, "any", 224]}}, "image_shape"),
    ],
)
def test_a_broken_config_is_told(tmp_path: Path, data: object, seen: str) -> None:
    with pytest.raises(InputError, match=seen):
        paddleclas.read_config(save_yaml(tmp_path / "c.yml", data))


def test_what_is_no_yaml_is_told(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_bytes(b"\xff\xfe{")
    for name in ("c.yml", "missing.yml"):
        with pytest.raises(InputError):
            paddleclas.read_config(tmp_path / name)


@given(st.floats(0.001, 1000), st.floats(0.001, 1000))
def test_numbers_written_as_quotients(a: float, b: float) -> None:
    assert number(f"{a!r}/{b!r}") == pytest.approx(a / b)
    assert number(f"{a!r} * {b!r}") == pytest.approx(a * b)
    assert number(a) == a


@pytest.mark.parametrize("text", ["", "/", "1/", "/255", "1//2", "a"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="float"):
        number(text)


def test_an_input_size_is_taken_where_nothing_crops(tmp_path: Path) -> None:
    data = {**with_transforms(), "Global": {"image_shape": [3, 192, 256]}}
    assert paddleclas.read_config(save_yaml(tmp_path / "c.yml", data)).values["crop"] == (192, 256)


def test_class_names_with_and_without_indices() -> None:
    assert names_of("a\nb c\n", "f") == ("a", "b c")
    assert names_of("0 a\n1 b, c\n", "f") == ("a", "b, c")
    assert names_of("1: b\n0: a\n", "f") == ("a", "b")
    with pytest.raises(InputError, match="not 0 to 1"):
        names_of("0 a\n2 b\n", "f")


# mindcv -----------------------------------------------------------------------------------------------------


def test_a_network_that_states_nothing_gets_mindcvs_defaults_and_a_note() -> None:
    found = mindcv.of_network("convnext_tiny")
    assert found.values["crop"] == (224, 224)
    assert found.values["resize"] == 256
    assert found.values["mean"] == (123.675, 116.28, 103.53)
    assert "states no mean, std" in found.notes[0]


def test_a_network_that_states_its_images() -> None:
    found = mindcv.of_network("cmt_small")  # mean and std in 0..1
    assert found.values["mean"] == (123.675, 116.28, 103.53)
    assert found.values["std"] == (58.395, 57.12, 57.375)
    assert (found.values["resize"], found.values["interpolation"]) == (233, "bicubic")
    assert mindcv.of_network("volo_d1").values["mean"] == (123.675, 116.28, 103.53)  # mean and std in 0..255


def test_every_network_of_the_table_has_a_preprocessing() -> None:
    for name in mindcv.table()["networks"]:
        found = mindcv.of_network(name)
        height, width = found.values["crop"]
        assert found.values["resize"] >= max(height, width)


def test_an_unknown_network_is_told_with_close_ones() -> None:
    with pytest.raises(UsageError, match="convnext_tyni") as caught:
        mindcv.of_network("convnext_tyni")
    assert "convnext_tiny" in str(caught.value)


def test_a_training_yaml_of_mindcv(tmp_path: Path) -> None:
    data = {"model": "convnext_tiny", "num_classes": 7, "image_resize": 256, "crop_pct": 0.95, "lr": 0.1}
    found = mindcv.read_config(save_yaml(tmp_path / "c.yaml", data))
    assert (found.values["crop"], found.values["resize"], found.classes) == ((256, 256), 269, 7)
    with pytest.raises(InputError, match="states no preprocessing"):
        mindcv.read_config(save_yaml(tmp_path / "d.yaml", {"lr": 0.1}))
    for key, value in (("crop_pct", 0), ("crop_pct", float("nan")), ("image_resize", float("inf"))):
        with pytest.raises(InputError, match=key):
            mindcv.read_config(save_yaml(tmp_path / "e.yaml", {key: value}))


# what comes of them -----------------------------------------------------------------------------------------

STATED = Declared("inference.yml", {"crop": (224, 224), "resize": 256, "mean": (1.0,) * 3, "std": (2.0,) * 3})


def a_spec(declared: Declared, changes: dict[str, Any], base: str | None = None) -> Any:
    zoo = load_model(base) if base else None
    sources = Sources(paddle="dir")
    return spec_of(declared, sources, changes, name="my net", base=zoo, example="edge x")


def test_the_users_options_win_and_are_named() -> None:
    spec, notes = a_spec(STATED, {"std": (3.0,) * 3})
    assert spec.preprocess.std == (3.0,) * 3
    assert spec.name == "my_net"
    assert len(notes) == 1
    assert "3,3,3 as you say, not 2,2,2 as inference.yml says" in notes[0]


def test_another_size_keeps_the_share_of_the_crop() -> None:
    spec, notes = a_spec(STATED, {"crop": (448, 448)})
    assert (spec.preprocess.crop, spec.preprocess.resize) == ((448, 448), 512)
    assert any("--resize: 512" in note for note in notes)


def test_what_nobody_states_is_asked_for() -> None:
    with pytest.raises(UsageError, match="--mean, --std and --crop missing") as caught:
        a_spec(Declared(), {})
    assert caught.value.remedy == "edge x"


def test_a_zoo_model_fills_what_the_source_leaves_open_and_contradictions_are_named() -> None:
    spec, notes = a_spec(Declared("c.yml", {"mean": (1.0,) * 3}), {}, base="NextViT_small_224")
    zoo = load_model("NextViT_small_224")
    assert (spec.name, spec.preprocess.std, spec.preprocess.mean) == (zoo.name, zoo.preprocess.std, (1.0,) * 3)
    assert len(notes) == 1
    assert "not 123.675,116.28,103.53 as the zoo's NextViT_small_224" in notes[0]


def test_a_zoo_models_recipe_is_taken_unless_it_names_nodes() -> None:
    spec, notes = a_spec(Declared(), {}, base="NextViT_small_224")
    assert (spec.precision, notes) == ("int8_softmax_int16", ())
    spec, notes = a_spec(Declared(), {}, base="ConvNeXt_tiny")
    assert (spec.precision, len(notes)) == ("int8", 1)
    assert "not convnext" in notes[0]


def test_class_names_become_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    names = tuple(imagenet().values())
    spec, _ = a_spec(Declared("c", STATED.values, names=names), {})
    assert (spec.labels, spec.classes) == ("imagenet", 1000)
    spec, _ = a_spec(Declared("c", STATED.values, names=names[::-1]), {})
    assert Path(spec.labels).read_text().splitlines() == list(names[::-1])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(EdgeError, match="can't write the class names"):
        a_spec(Declared("c", STATED.values, names=("a", "b")), {})


# files ------------------------------------------------------------------------------------------------------


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


def test_an_inference_model_is_found_in_both_forms(tmp_path: Path) -> None:
    new = paddle_files(fill(tmp_path / "new", "inference.json", "inference.pdiparams", "config.json"))
    old = paddle_files(fill(tmp_path / "old", "model.pdmodel", "model.pdiparams"))
    assert (new.main.name, old.main.name) == ("inference.json", "model.pdmodel")
    assert paddle_files(tmp_path / "old" / "model.pdmodel") == old
    (tmp_path / "old" / "model.pdiparams").write_text("other weights")
    assert paddle_files(tmp_path / "old").sha256 != old.sha256


@pytest.mark.parametrize(
    ("names", "seen", "remedy"),
    [
        ((), "m is an empty folder", "paddle.jit.save"),
        (("net.onnx",), "but net.onnx", "paddle.jit.save"),
        (("best_model.pdparams", "best_model.pdopt"), "a training checkpoint", "tools/export_model.py"),
        (("inference.pdiparams",), "no inference.json or .pdmodel", "paddle.jit.save"),
        (("inference.pdmodel",), "no .pdiparams", "paddle.jit.save"),
        (("__model__", "conv1_weights"), "Paddle 1", "Paddle 2"),
        (("a.json", "a.pdiparams", "b.pdmodel", "b.pdiparams"), "holds 2 models", "--paddle"),
    ],
)
def test_what_is_no_inference_model_is_told(tmp_path: Path, names: tuple[str, ...], seen: str, remedy: str) -> None:
    with pytest.raises(InputError, match=seen) as caught:
        paddle_files(fill(tmp_path / "m", *names))
    assert remedy in str(caught.value.remedy)


def test_missing_empty_and_foreign_files_are_told(tmp_path: Path) -> None:
    fill(tmp_path, "net.onnx", "net.air", "net.ckpt", "net.mindir")
    (tmp_path / "net.mindir").write_text("")
    for call, seen in (
        (lambda: paddle_files(tmp_path / "gone"), "does not exist"),
        (lambda: paddle_files(tmp_path / "net.onnx"), "is not a folder"),
        (lambda: mindspore_file(tmp_path / "gone.ckpt", None), "does not exist"),
        (lambda: mindspore_file(tmp_path, None), "is a folder"),
        (lambda: mindspore_file(tmp_path / "net.onnx", None), "edge build"),
        (lambda: mindspore_file(tmp_path / "net.air", None), "MINDIR"),
        (lambda: mindspore_file(tmp_path / "net.mindir", None), "net.mindir has no content"),
        (lambda: mindspore_file(tmp_path / "net.ckpt", None), "--network convnext_tiny"),
    ):
        with pytest.raises(EdgeError) as caught:
            call()
        assert seen in str(caught.value)


def test_the_weights_beside_a_large_mindir_count(tmp_path: Path) -> None:
    fill(tmp_path, "big_graph.mindir")
    before = mindspore_file(tmp_path / "big_graph.mindir", None).sha256
    fill(tmp_path / "big_variables", "data_0")
    assert mindspore_file(tmp_path / "big_graph.mindir", None).sha256 != before


# the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "seen"),
    [
        ((), 2, "no MODEL"),
        (("--paddle", "p", "--mindspore", "m.mindir"), 2, "both --paddle and --mindspore"),
        (("ConvNeXt_atto", "--network", "convnext_tiny"), 2, "--network without a model of a framework"),
        (("--paddle", "p", "--weights", "random"), 2, "--weights random with --paddle"),
        (("--paddle", "p", "--network", "convnext_tiny"), 2, "--network with --paddle"),
        (("--paddle", "gone", "--mean", "1", "--std", "1", "--crop", "64"), 1, "gone does not exist"),
        (("--mindspore", "n.ckpt", "--network", "convnext_tyni"), 2, "convnext_tiny"),
        (("--paddle", "p"), 2, "--mean, --std and --crop missing"),
    ],
)
def test_contradicting_or_missing_options(
    edge: Run, tmp_path: Path, words: tuple[str, ...], code: int, seen: str
) -> None:
    fill(tmp_path / "p", "inference.json", "inference.pdiparams")
    got, _, err = edge("export", *words)
    assert (got, seen in err) == (code, True), err


def test_without_the_environment_the_command_that_installs_it_is_named(
    edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "no-cache"))
    fill(tmp_path / "p", "inference.json", "inference.pdiparams")
    save_yaml(tmp_path / "p" / "inference.yml", INFERENCE)
    code, _, err = edge("export", "--paddle", "p")
    assert code == 1
    assert "edge toolchain install paddle" in err
    assert "mean 123.675 116.28 103.53" in err  # shown to be checked
    fill(tmp_path, "n.mindir")
    code, _, err = edge("export", "--mindspore", "n.mindir", "--mean", "1", "--std", "2", "--crop", "64")
    assert (code, "edge toolchain install mindspore" in err) == (1, True)


def test_where_a_framework_can_not_be_had_the_own_export_is_named(
    edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import platform

    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    for what, command in (("paddle", "paddle2onnx --model_dir"), ("mindspore", "file_format='ONNX'")):
        code, _, err = edge("toolchain", "install", what)
        assert code == 1
        assert "aarch64" in err
        assert command in err
        assert "edge build model.onnx" in err


def test_the_table_is_json_that_a_person_can_read() -> None:
    path = Path(mindcv.__file__).with_name(mindcv.TABLE)
    assert len(path.read_text().splitlines()) > len(json.loads(path.read_text())["networks"])
