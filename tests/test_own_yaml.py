"""A user's own YAML: what it does not say is not taken for ImageNet's, and its files lie beside it."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge.errors import LabelError, SpecError
from edge.images.find import class_names
from edge.sources.class_order import notes_on_classes
from edge.sources.sources import choose_weights
from edge.specs import ModelSpec, Published, Sources, beside, load_model, read_model
from tests.conftest import Run, save_net

STATED = "mean: [127.5, 127.5, 127.5], std: [58, 57, 57]"
SIZE = "crop: [64, 64], resize: 64"


def save_yaml(path: Path, preprocess: str = f"{SIZE}, {STATED}", more: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"sources: {{onnx: net.onnx}}\npreprocess: {{{preprocess}}}\n{more}")
    return path


def save_net_of(path: Path, classes: int) -> Path:
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 64, 64))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, classes))],
        [onnx.numpy_helper.from_array(np.ones((3, classes), np.float32), "w")],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


# What the YAML does not say --------------------------------------------------------------------------------


def test_classes_and_labels_that_it_does_not_state_are_unknown(tmp_path: Path) -> None:
    spec = load_model(str(save_yaml(tmp_path / "mine.yaml")))
    assert (spec.labels, spec.classes) == (None, None)
    stated = load_model(str(save_yaml(tmp_path / "mine.yaml", more="labels: imagenet\nclasses: 1000\n")))
    assert (stated.labels, stated.classes) == ("imagenet", 1000)
    # A timm tag is no file of the user's: its classes are checked against timm's own.
    (tmp_path / "timm.yaml").write_text("sources: {timm: resnet18.a1_in1k}\n")
    found = read_model(str(tmp_path / "timm.yaml"))
    assert (found.spec.classes, found.assumed[-2:]) == (1000, ("labels", "classes"))


@pytest.mark.parametrize(
    ("preprocess", "seen"),
    [
        ("crop: [64, 64], resize: 64", "lacks mean and std,"),
        ("std: [58, 57, 57]", "lacks mean,"),
        ("mean: [0, 0, 0]", "lacks std,"),
    ],
)
@pytest.mark.parametrize("kind", ["onnx", "torchscript", "paddle", "mindspore"])
def test_a_file_of_the_users_needs_mean_and_std(tmp_path: Path, kind: str, preprocess: str, seen: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"sources: {{{kind}: net}}\npreprocess: {{{preprocess}}}\n")
    with pytest.raises(SpecError) as caught:
        load_model(str(path))
    assert seen in caught.value.seen
    assert caught.value.expected
    assert "mean: [123.675, 116.28, 103.53]" in str(caught.value.remedy)


def test_every_key_is_told_that_the_yaml_leaves_open(tmp_path: Path) -> None:
    found = read_model(str(save_yaml(tmp_path / "mine.yaml")))
    assert (found.assumed, found.shipped) == (("letterbox", "fill", "interpolation", "color", "layout"), False)
    assert read_model("ConvNeXt_atto").shipped


def test_what_was_taken_is_shown_to_be_checked(edge: Run, tmp_path: Path) -> None:
    save_net(tmp_path / "net.onnx")
    save_yaml(tmp_path / "mine.yaml")
    code, _, err = edge("calibrate", "mine.yaml", "--color", "bgr", "--calib-count", "2")
    assert code == 0, err
    assert "mine, as mine.yaml and your options say; check it:" in err
    assert "64x64, NCHW (assumed), BGR\n" in err
    assert "shorter side to 64, bicubic (assumed), centre crop 64x64" in err
    assert "classes  as the file has them" in err
    assert "change   --color" in err  # an ONNX has one size
    code, _, err = edge("export", "ConvNeXt_atto", "--weights", "demo")
    assert (code, "check it" in err) == (0, False)


def test_a_thousand_classes_without_names_are_flagged_like_those_of_a_bare_file(edge: Run, tmp_path: Path) -> None:
    save_net_of(tmp_path / "net.onnx", 1000)
    save_yaml(tmp_path / "mine.yaml")
    code, _, err = edge("export", "mine.yaml")
    assert code == 0, err
    assert "1000 classes without names" in err
    assert "labels in the model's YAML" in err


def test_another_number_of_classes_is_the_files_own(edge: Run, tmp_path: Path) -> None:
    save_net_of(tmp_path / "net.onnx", 10)
    save_yaml(tmp_path / "mine.yaml")
    code, out, err = edge("export", "mine.yaml", "--json")
    assert code == 0, err
    assert json.loads(out)["result"]["classes"] == 10


def test_a_bare_file_shows_what_neither_it_nor_the_options_say(edge: Run, tmp_path: Path) -> None:
    model = onnx.load(save_net(tmp_path / "net.onnx"))
    model.metadata_props.add(key="names", value='["cat", "dog", "owl", "fox"]')
    onnx.save(model, tmp_path / "net.onnx")
    code, _, err = edge("calibrate", "net.onnx", "--mean", "0", "--std", "1", "--calib-count", "2")
    assert code == 0, err
    assert "64x64, NCHW, RGB (assumed)" in err
    assert "shorter side to 73 (assumed), bilinear (assumed)" in err
    assert "4 class names are inside the file, the first 'cat'" in err
    assert "change   --color" in err
    words = ("--color", "rgb", "--resize", "64", "--interpolation", "bicubic")
    code, _, err = edge("calibrate", "net.onnx", "--mean", "0", "--std", "1", "--calib-count", "2", *words)
    assert code == 0, err
    assert "assumed" not in err


# Files beside it -------------------------------------------------------------------------------------------


def test_labels_and_recipe_lie_beside_the_yaml(edge: Run, tmp_path: Path) -> None:
    folder = tmp_path / "zoo2"
    save_net_of(folder / "net.onnx", 3)
    (folder / "names.txt").write_text("a\nb\nc\n")
    (folder / "soft.yaml").write_text("calibration: {method: max}\n")
    path = save_yaml(folder / "Mine.yaml", more="labels: names.txt\nprecision: soft.yaml\n")
    spec = load_model(str(path))
    assert (spec.labels, spec.precision) == (str(folder / "names.txt"), str(folder / "soft.yaml"))
    assert beside(spec, Path("elsewhere")) == spec  # absolute by now
    code, _, err = edge("export", "zoo2/Mine.yaml")
    assert code == 0, err


def test_words_for_labels_and_recipes_are_no_paths() -> None:
    for labels in ("imagenet", "demo", None):
        spec = ModelSpec("m", Sources(timm="t"), labels=labels, precision="int8")
        assert beside(spec, Path("folder")) is spec


def test_a_missing_file_of_names_is_told_before_anything_runs(
    edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_net_of(tmp_path / "zoo2" / "net.onnx", 3)
    save_yaml(tmp_path / "zoo2" / "Mine.yaml", more="labels: gone.txt\n")
    monkeypatch.setenv("EDGE_ZOO", str(tmp_path / "zoo2"))
    code, _, err = edge("build", "Mine", "--compiler", "onnxruntime")
    assert (code, "export" in err.partition("error:")[0]) == (1, False)
    assert str(tmp_path / "zoo2" / "gone.txt") in err
    assert "next: --labels FILE" in err
    assert not (tmp_path / "build").exists()
    code, _, err = edge("export", "ConvNeXt_atto", "--weights", "demo", "--labels", "none.txt")
    assert (code, "none.txt" in err) == (1, True)


@pytest.mark.parametrize("classes", [3, 1000])
def test_the_export_counts_the_names(edge: Run, tmp_path: Path, classes: int) -> None:
    save_net_of(tmp_path / "net.onnx", classes)
    (tmp_path / "names.txt").write_text("a\nb\n")
    save_yaml(tmp_path / "mine.yaml", more="labels: names.txt\n")
    code, _, err = edge("export", "mine.yaml")
    assert (code, f"names 2 classes, the network has {classes}" in err) == (1, True)
    (tmp_path / "names.txt").write_text("\n".join(f"class {i}" for i in range(classes)))
    assert edge("export", "mine.yaml")[0] == 0


def test_a_file_of_names_is_read_whatever_the_number_of_classes(tmp_path: Path) -> None:
    model = onnx.load(save_net(tmp_path / "net.onnx"))
    with pytest.raises(LabelError, match="gone"):
        notes_on_classes(model, 4, str(tmp_path / "gone.txt"))
    (tmp_path / "names.txt").write_text("\n".join(class_names("imagenet") or ()))
    assert notes_on_classes(model, 1000, str(tmp_path / "names.txt")) == ()


# What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seen", "expected"),
    [
        ("sources: {onnx: a.onnx, paddle: b}\n", "onnx and paddle together", "one file"),
        ("sources: {timm: a.b, network: convnext_tiny}\n", "without mindspore", "beside mindspore"),
        ("sources: {timm: a.b}\npublished: {source: me, float_top1: 200}\n", "float_top1 200", "0..100"),
        ("sources: {timm: a.b}\npublished: {source: me, params_m: -3}\n", "params_m -3", "above 0"),
        ("sources: {timm: a.b}\npublished: {source: me, gflops_input: 0}\n", "gflops_input 0", "above 0"),
        ("sources: {timm: a.b}\nclasses: -3\n", "classes: -3", "2 and more"),
        ("sources: {timm: a.b}\npreprocess: {mean: [0, 0]}\n", "preprocess.mean", "mean: three numbers"),
        ("sources: {timm: a.b}\npreprocess: {std: 58}\n", "preprocess.std", "std: three numbers"),
        ("sources: {timm: a.b}\npreprocess: {crop: 224}\n", "preprocess.crop", "[height, width]"),
        ("sources: {timm: a.b}\npreprocess: {resize: big}\n", "preprocess.resize", "null, which stretches"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_expected(tmp_path: Path, text: str, seen: str, expected: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_model(str(tmp_path / "mine.yaml"))
    assert seen in caught.value.seen
    assert expected in str(caught.value.expected)


def test_the_edges_of_published_figures_are_allowed() -> None:
    assert Published("me", float_top1=0, float_top5=100, params_m=0.01).float_top5 == 100


def test_a_yaml_without_sources_is_told_to_name_one(edge: Run, tmp_path: Path) -> None:
    (tmp_path / "Split.yaml").write_text("sources: {}\n")
    code, _, err = edge("export", "Split.yaml")
    assert code == 2
    assert "sources names nothing" in err
    assert "next: in the model's YAML: sources: {onnx: net.onnx}" in err
    assert "--weights random" not in err


def test_a_misspelt_network_is_told_before_mindspore_starts(tmp_path: Path) -> None:
    (tmp_path / "net.ckpt").write_text("weights")
    sources = Sources(mindspore=str(tmp_path / "net.ckpt"), network="convnext_tyni")
    with pytest.raises(SpecError, match="no network 'convnext_tyni'") as caught:
        choose_weights(ModelSpec("m", sources))
    assert "convnext_tiny" in str(caught.value.expected)
    right = attrs.evolve(sources, network="convnext_tiny")
    assert choose_weights(ModelSpec("m", right)).network == "convnext_tiny"


@pytest.mark.parametrize("given", ["ConvNeXt_atto.yaml", "convnext_atto.onnx"])
def test_the_name_of_a_zoo_model_is_told(edge: Run, tmp_path: Path, given: str) -> None:
    save_net(tmp_path / "net.onnx")
    save_net(tmp_path / "convnext_atto.onnx")
    save_yaml(tmp_path / "ConvNeXt_atto.yaml")
    words = ("--mean", "0", "--std", "1")
    code, _, err = edge("export", given, *words)
    assert code == 0, err
    assert "keeps them apart" in err
    save_yaml(tmp_path / "mine.yaml")
    assert "keeps them apart" not in edge("export", "mine.yaml")[2]
