"""Rendering: golden files of the whole zoo, exact numbers, and text that reads back as it was meant."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import attrs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edge.compiler import render as render_module
from edge.compiler.lint import lint
from edge.compiler.render import RenderResult, node_info, norm_type, quoted, render, render_text, scale_value
from edge.errors import EdgeError, SpecError
from edge.graph.files import GraphFacts
from edge.specs import (
    Calibration,
    ModelSpec,
    NodePrecision,
    Precision,
    Preprocess,
    Sources,
    available_models,
    load_model,
    load_precision,
)

GOLDEN = Path(__file__).parent / "golden"
REGENERATE = os.environ.get("EDGE_REGENERATE_GOLDEN") == "1"

# Blocks of each stage: https://github.com/huggingface/pytorch-image-models, convnext.py
DEPTHS = {"atto": (2, 2, 6, 2), "femto": (2, 2, 6, 2), "pico": (2, 2, 6, 2), "nano": (2, 2, 8, 2)}
NORM = ("ReduceMean", "Sub", "Pow", "ReduceMean_1", "Add", "Sqrt", "Div", "Mul", "Add_1")
GELU = ("Div", "Erf", "Add", "Mul", "Mul_1")
SPEC = ModelSpec(name="net", sources=Sources())


def graph_of(model: str, **changes: object) -> GraphFacts:
    """Make the facts of a ConvNeXt by hand, with the node names of a torch export."""
    names = ["/stem/stem.0/Conv", *(f"/stem/stem.1/{op}" for op in NORM)]
    for stage, blocks in enumerate(DEPTHS.get(model.rpartition("_")[2], (1,))):
        here = f"/stages/stages.{stage}"
        if stage:
            names += [f"{here}/downsample/downsample.0/{op}" for op in NORM]
            names += [f"{here}/downsample/downsample.1/Conv"]
        for block in range(blocks):
            inside = f"{here}/blocks/blocks.{block}"
            names += [f"{inside}/conv_dw/Conv", *(f"{inside}/norm/{op}" for op in NORM)]
            names += [f"{inside}/mlp/fc1/Conv", *(f"{inside}/mlp/act/{op}" for op in GELU)]
            names += [f"{inside}/mlp/fc2/Conv", f"{inside}/Mul", f"{inside}/Add"]
    names += ["/head/global_pool/pool/GlobalAveragePool", "/head/flatten/Flatten", "/head/fc/Gemm"]
    facts = GraphFacts("data", (1, 3, 224, 224), "prob", (1, 1000), 11, 6, tuple(names), 3_700_000)
    return attrs.evolve(facts, **changes)  # type: ignore[arg-type]


def render_into(out: Path, model: str, recipe: str) -> RenderResult:
    spec = load_model(model)
    height, width = spec.preprocess.crop
    return render(
        spec=spec,
        precision=load_precision(recipe),
        graph=graph_of(model, input_shape=spec.preprocess.input_shape),
        prefix=f"{model}_{width}x{height}_nv12",
        onnx_model=f"../simplify/{model}.onnx",
        cal_data_dir="../calibrate/rgb_f32",
        working_dir="./compile",
        out=out,
    )


def make(out: Path, *, spec: ModelSpec = SPEC, precision: Precision | None = None, **changes: object) -> str:
    arguments = {
        "graph": graph_of("x_atto"),
        "prefix": "net_nv12",
        "onnx_model": "./net.onnx",
        "cal_data_dir": "./cal_f32",
        "working_dir": "./out",
        **changes,
    }
    result = render(spec=spec, precision=precision or Precision(name="int8"), out=out, **arguments)  # type: ignore[arg-type]
    return (out / result.yaml).read_text()


ZOO = [(model, load_model(model).precision) for model in available_models()]
VENDOR = [(f"ConvNeXt_{size}", f"vendor_ConvNeXt_{size}") for size in ("atto", "femto", "nano")]


@pytest.mark.parametrize(("model", "recipe"), ZOO + VENDOR)
def test_golden(model: str, recipe: str, tmp_path: Path) -> None:
    result = render_into(tmp_path, model, recipe)
    text = (tmp_path / result.yaml).read_text()
    golden = GOLDEN / f"{model}_{recipe}.yaml"
    if REGENERATE:
        golden.write_text(text)
    assert text == golden.read_text(), "EDGE_REGENERATE_GOLDEN=1 python -m pytest tests/test_mapper_render.py"
    assert result.sha256 == hashlib.sha256(golden.read_bytes()).hexdigest()
    assert result.nodes == len(yaml.safe_load(text)["model_parameters"].get("node_info") or ())


def test_every_golden_is_checked() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == {f"{m}_{r}" for m, r in ZOO + VENDOR}


def test_result_names_the_file_and_nothing_else_is_left(tmp_path: Path) -> None:
    result = render_into(tmp_path, "ConvNeXt_atto", "vendor_ConvNeXt_atto")
    assert [path.name for path in tmp_path.iterdir()] == [result.yaml] == ["ConvNeXt_atto_224x224_nv12.yaml"]
    assert (result.nodes, result.optimize_level, result.precision) == (8, "O3", "vendor_ConvNeXt_atto")


def test_order_of_groups_and_types(tmp_path: Path) -> None:
    precision = load_precision("vendor_ConvNeXt_atto")
    data = yaml.safe_load(make(tmp_path, precision=precision))
    assert list(data) == ["model_parameters", "input_parameters", "calibration_parameters", "compiler_parameters"]
    for settings in data["model_parameters"]["node_info"].values():
        assert settings == {"ON": "BPU", "InputType": "int16", "OutputType": "int16"}
    assert data["model_parameters"]["march"] == "bayes-e"
    compiler = data["compiler_parameters"]
    assert (compiler["debug"], compiler["core_num"], compiler["jobs"]) == (False, 1, 4)
    assert compiler["optimize_level"] == "O3"


@pytest.mark.parametrize(
    ("mean", "std", "norm", "keys"),
    [
        ((127.5,) * 3, (127.5,) * 3, "data_mean_and_scale", {"mean_value", "scale_value"}),
        ((103.94, 116.78, 123.68), (1, 1, 1), "data_mean", {"mean_value"}),
        ((0, 0, 0), (255, 255, 255), "data_scale", {"scale_value"}),
        ((0, 0, 0), (1, 1, 1), "no_preprocess", set()),
    ],
)
def test_norm_type_follows_mean_and_std(
    mean: tuple[float, ...], std: tuple[float, ...], norm: str, keys: set[str], tmp_path: Path
) -> None:
    assert norm_type("1" if any(mean) else None, "1" if std != (1, 1, 1) else None) == norm
    preprocess = _unchecked(mean, std)
    text = render_text(
        preprocess=preprocess,
        precision=Precision(name="int8"),
        graph=graph_of("x_atto"),
        prefix="net",
        onnx_model="net.onnx",
        cal_data_dir="cal_f32",
        working_dir="out",
    )
    inputs = yaml.safe_load(text)["input_parameters"]
    assert inputs["norm_type"] == norm
    assert keys == {"mean_value", "scale_value"} & inputs.keys()
    assert lint(text, graph=graph_of("x_atto")) == ()


def _unchecked(mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocess:
    """Make a Preprocess with a std of 1, which the schema may refuse, and the template must still handle."""
    preprocess = Preprocess()
    object.__setattr__(preprocess, "mean", mean)
    object.__setattr__(preprocess, "std", std)
    return preprocess


channel = st.floats(min_value=10, max_value=255, allow_nan=False)


@given(std=st.tuples(channel, channel, channel))
def test_scale_is_one_over_std(std: tuple[float, float, float]) -> None:
    text = scale_value(Preprocess(std=std))
    assert text is not None
    for number, value in zip(text.split(), std, strict=True):
        assert float(number) == pytest.approx(1 / value, rel=5e-9)
        assert number == repr(float(number))
        assert len(number.replace("0.", "", 1).lstrip("0")) <= 9


def test_scale_of_imagenet() -> None:
    assert scale_value(Preprocess()) == "0.0171247538 0.0175070028 0.0174291939"
    assert scale_value(Preprocess(std=(255, 255, 255))) == " ".join(["0.00392156863"] * 3)


@given(st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"], blacklist_characters="\ufeff\ufffe\uffff")))
def test_quoted_reads_back(text: str) -> None:
    assert yaml.safe_load(quoted(text)) == text


def test_node_info_holds_only_what_is_set() -> None:
    assert node_info(NodePrecision(on="CPU")) == "{'ON': 'CPU'}"
    assert node_info(NodePrecision(outputs="int16")) == "{'OutputType': 'int16'}"


def test_calibration_keys(tmp_path: Path) -> None:
    calibration = Calibration("max", 0.99995, per_channel=True, optimization=("asymmetric", "run_fast"))
    data = yaml.safe_load(make(tmp_path, precision=Precision(name="p", calibration=calibration)))
    assert data["calibration_parameters"] == {
        "cal_data_dir": "./cal_f32",
        "cal_data_type": "float32",
        "calibration_type": "max",
        "max_percentile": 0.99995,
        "per_channel": True,
        "optimization": "asymmetric;run_fast",
    }


def test_nhwc_and_bgr(tmp_path: Path) -> None:
    spec = attrs.evolve(SPEC, preprocess=Preprocess(color="bgr", layout="NHWC", crop=(192, 160)))
    data = yaml.safe_load(make(tmp_path, spec=spec, graph=graph_of("x", input_shape=(1, 192, 160, 3))))
    inputs = data["input_parameters"]
    assert (inputs["input_type_train"], inputs["input_layout_train"]) == ("bgr", "NHWC")
    assert inputs["input_shape"] == "1x192x160x3"


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert make(tmp_path / "a") == make(tmp_path / "b")


def test_a_note_of_several_lines_stays_a_comment(tmp_path: Path) -> None:
    note = "first\nmodel_parameters:\n  march: 'bayes'"
    data = yaml.safe_load(make(tmp_path, precision=Precision(name="p", note=note)))
    assert data["model_parameters"]["march"] == "bayes-e"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"graph": graph_of("x_atto", input_shape=(1, 3, 256, 256))}, "input_shape"),
        ({"onnx_model": "/home/me/net.onnx"}, "absolute_path"),
        ({"cal_data_dir": "./cal"}, "data_type_suffix"),
        ({"calibration_files": [("0.bin", 12)]}, "file_size"),
        ({"precision": Precision("p", nodes={"/stem/stem.9/Conv": NodePrecision("BPU")})}, "unknown_node"),
        ({"precision": Precision("p", nodes={"/stem/stem.0/Conv": NodePrecision()})}, "node_table_form"),
        ({"precision": Precision("p", calibration=Calibration(optimization=("int16",)))}, "optimization"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_writes_nothing(changes: dict[str, object], rule: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        make(tmp_path, **changes)  # type: ignore[arg-type]
    assert f"[{rule}]" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_recipe_of_another_model_is_refused(tmp_path: Path) -> None:
    recipe = load_precision("vendor_ConvNeXt_atto")
    with pytest.raises(SpecError, match="no node is called"):
        make(tmp_path, precision=recipe, graph=graph_of("x", node_names=("conv0", "conv1")))


def test_broken_template_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "classifier_nv12.yaml.j2").write_text("a: {{ no_such_thing }}\n")
    monkeypatch.setattr(render_module, "data_dir", lambda _: tmp_path)
    with pytest.raises(EdgeError, match="no_such_thing"):
        make(tmp_path)
