"""Specs: every zoo file and recipe loads; every wrong value is refused with what is expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import SpecError, UsageError
from edge.files import data_dir
from edge.specs import Calibration, Preprocess, available_models, load_model, load_precision
from edge.specs.schema import Layout

GOOD = "sources: {timm: net.a1}\npreprocess: {crop: [64, 64], resize: 64}\n"


@pytest.mark.parametrize("name", available_models())
def test_every_zoo_model_loads_and_its_recipe_too(name: str) -> None:
    spec = load_model(name)
    assert spec.name == name
    assert spec.sources.timm
    assert spec.published is not None
    load_precision(spec.precision)


@pytest.mark.parametrize("path", sorted((data_dir("mapper_yaml") / "precision").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_loads(path: Path) -> None:
    assert load_precision(path.stem).name == path.stem


def test_names_are_found_whatever_their_case() -> None:
    assert load_model("convnext_ATTO").name == "ConvNeXt_atto"


def test_a_users_yaml_needs_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    spec = load_model(str(path))
    assert (spec.name, spec.preprocess.crop, spec.precision) == ("mine", (64, 64), "int8")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("source: {}\n", "source"),
        (GOOD + "classes: many\n", "classes"),
        (GOOD + "classes: true\n", "classes"),
        (GOOD.replace("resize: 64", "colour: rgb"), "colour"),
        (GOOD.replace("resize: 64", "color: grb"), "grb"),
        (GOOD.replace("[64, 64]", "[64, 0]"), "a positive height and width"),
        (GOOD.replace("resize: 64", "resize: 60"), "resize"),
        (GOOD.replace("resize: 64", "mean: [300, 0, 0]"), "0..255"),
        (GOOD.replace("resize: 64", "std: [0, 1, 1]"), "above 0"),
        (GOOD.replace("resize: 64", "std: [0.229, 0.224, 0.225]"), "pixel units"),
        (GOOD.replace("resize: 64", "mean: [1, 2]"), "mean"),
        (GOOD + "name: ../evil\n", "name"),
        ("- a\n- b\n", "mapping"),
        ("a: [\n", "YAML"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_model(str(path))
    assert says in str(caught.value)


def test_networks_that_take_raw_pixels_are_allowed() -> None:
    assert Preprocess(mean=(0, 0, 0), std=(1, 1, 1)).std == (1, 1, 1)


def test_percentile_needs_the_max_method() -> None:
    assert Calibration(method="max", max_percentile=0.9999).max_percentile == 0.9999
    with pytest.raises(SpecError, match="method"):
        Calibration(method="kl", max_percentile=0.9999)
    with pytest.raises(SpecError, match=r"0\.2"):
        Calibration(method="max", max_percentile=0.2)


def test_optimization_items_joined_by_commas_are_refused() -> None:
    with pytest.raises(SpecError, match="optimization"):
        Calibration(optimization=("set_Conv_input_int8,set_Conv_output_int16",))


def test_unknown_names_are_told_with_what_there_is() -> None:
    with pytest.raises(UsageError, match="edge build ConvNeXt_nano"):
        load_model("ConvNext-nano")
    with pytest.raises(SpecError, match="int8"):
        load_precision("int3")


@pytest.mark.parametrize("key", ["on", "'on'"])
def test_on_is_a_key_and_no_truth_value(tmp_path: Path, key: str) -> None:
    recipe = tmp_path / "soft.yaml"
    recipe.write_text(f"nodes:\n  /Softmax: {{{key}: BPU}}\n")
    assert load_precision(str(recipe)).nodes["/Softmax"].on == "BPU"


def test_true_stays_a_truth_value(tmp_path: Path) -> None:
    recipe = tmp_path / "soft.yaml"
    recipe.write_text("calibration: {per_channel: true}\n")
    assert load_precision(str(recipe)).calibration.per_channel is True


def test_a_word_that_is_not_among_the_allowed_ones_is_told_with_these(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("rewrites: [fast]\n")
    with pytest.raises(SpecError, match="fast is none of 'channel_mean'"):
        load_precision(str(tmp_path / "r.yaml"))


@pytest.mark.parametrize(
    ("size", "canvas"),
    [
        ((224, 224), (224, 224)),
        ((225, 225), (226, 256)),
        ((112, 112), (112, 128)),
        ((299, 299), (300, 320)),
        ((126, 1198), (126, 1216)),
        ((127, 32), (128, 32)),
        ((1, 1), (2, 32)),
    ],
)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_any_size_has_a_canvas_that_a_program_can_take(
    size: tuple[int, int], canvas: tuple[int, int], layout: Layout
) -> None:
    rule = Preprocess(crop=size, resize=None, layout=layout)
    assert rule.canvas == canvas
    assert rule.input_shape == ((1, 3, *canvas) if layout == "NCHW" else (1, *canvas, 3))
    assert Preprocess(crop=canvas, resize=None).canvas == canvas
