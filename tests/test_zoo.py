"""The zoo's data files: tags, preprocessing as timm has it, and the figures that others published."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from edge.specs import ModelSpec, available_models, load_model
from edge.toolchain.found import Toolchain

TAGS = {
    "CSPDarkNet53": "cspdarknet53.ra_in1k",
    "ConvNeXt_atto": "convnext_atto.d2_in1k",
    "ConvNeXt_base_224": "convnext_base.fb_in1k",
    "ConvNeXt_base_384": "convnext_base.fb_in22k_ft_in1k_384",
    "ConvNeXt_femto": "convnext_femto.d1_in1k",
    "ConvNeXt_large_224": "convnext_large.fb_in1k",
    "ConvNeXt_large_384": "convnext_large.fb_in22k_ft_in1k_384",
    "ConvNeXt_nano": "convnext_nano.d1h_in1k",
    "ConvNeXt_pico": "convnext_pico.d1_in1k",
    "ConvNeXt_small": "convnext_small.fb_in1k",
    "ConvNeXt_tiny": "convnext_tiny.fb_in1k",
    **{
        f"NextViT_{size}_{kind}": f"nextvit_{size}.{tag}"
        for size in ("small", "base", "large")
        for kind, tag in {
            "224": "bd_in1k",
            "224_ssld": "bd_ssld_6m_in1k",
            "384": "bd_in1k_384",
            "384_ssld": "bd_ssld_6m_in1k_384",
        }.items()
    },
}
# Their published accuracy belongs to other weights than the tag's.
OTHER_WEIGHTS = {"CSPDarkNet53", "ConvNeXt_base_384", "ConvNeXt_large_384"}

ASK = (
    "import json, sys, timm; "
    "configs = {tag: timm.get_pretrained_cfg(tag).to_dict() for tag in sys.argv[2:]}; "
    "json.dump(configs, open(sys.argv[1], 'w'))"
)


@pytest.fixture(scope="module")
def timm_says(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """timm's own configuration of every tag, from the timm that exports."""
    folder = tmp_path_factory.mktemp("timm")
    done = toolchain.run_python(["-c", ASK, "configs.json", *TAGS.values()], cwd=folder, timeout=300)
    assert done.returncode == 0, done.tail
    found: dict[str, dict[str, Any]] = json.loads((folder / "configs.json").read_text())
    return found


def preprocess_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a spec has to say for timm's configuration of a tag."""
    _, height, width = config["input_size"]
    kept = config["crop_mode"] == "center"
    assert kept or config["crop_mode"] == "squash"
    assert kept or config["crop_pct"] == 1
    return {
        "crop": (height, width),
        # timm.data.transforms_factory: the shorter side becomes floor(size / crop_pct).
        "resize": math.floor(height / config["crop_pct"]) if kept else None,
        "interpolation": config["interpolation"],
        "mean": pytest.approx([255 * value for value in config["mean"]]),
        "std": pytest.approx([255 * value for value in config["std"]]),
        "color": "rgb",
        "layout": "NCHW",
    }


def differences(spec: ModelSpec, config: dict[str, Any]) -> list[str]:
    wanted = preprocess_of(config)
    return [key for key, value in wanted.items() if getattr(spec.preprocess, key) != value]


def test_the_pinned_tags() -> None:
    assert {name: load_model(name).sources.timm for name in available_models()} == TAGS


@pytest.mark.compiler
@pytest.mark.parametrize("name", TAGS)
def test_images_reach_the_network_as_timm_has_it(name: str, timm_says: dict[str, dict[str, Any]]) -> None:
    spec, config = load_model(name), timm_says[TAGS[name]]
    assert differences(spec, config) == []
    assert spec.classes == config["num_classes"] == 1000


@pytest.mark.compiler
def test_a_wrong_zoo_file_would_be_seen(timm_says: dict[str, dict[str, Any]]) -> None:
    wrong = load_model("ConvNeXt_nano")
    assert differences(wrong, timm_says[TAGS["ConvNeXt_atto"]]) == ["resize"]
    assert differences(wrong, timm_says[TAGS["CSPDarkNet53"]]) == ["crop", "resize", "interpolation"]


@pytest.mark.parametrize("name", TAGS)
def test_published_figures_are_complete_and_plausible(name: str) -> None:
    published = load_model(name).published
    assert published
    assert published.source
    assert published.float_top1
    assert 70 < published.float_top1 < 90
    assert published.params_m
    board = published.latency_ms is not None
    assert board == (published.fps_4_threads is not None) == (published.int8_top1 is not None)
    assert board != (published.gflops is not None)
    assert board != (published.float_top5 is not None)
    if published.float_top5:
        assert published.float_top1 < published.float_top5 < 99
    if published.int8_top1:
        assert published.int8_top1 < published.float_top1


def test_accuracy_of_other_weights_is_marked() -> None:
    marked = {name for name in TAGS if (load_model(name).published or pytest.fail(name)).accuracy_of}
    assert marked == OTHER_WEIGHTS


def test_published_figures_grow_with_the_model() -> None:
    for kind in ("224", "384", "224_ssld", "384_ssld"):
        sizes = [load_model(f"NextViT_{size}_{kind}").published for size in ("small", "base", "large")]
        for key in ("float_top1", "float_top5", "gflops", "params_m"):
            figures = [getattr(published, key) for published in sizes]
            assert figures == sorted(figures)
            assert len(set(figures)) == 3
