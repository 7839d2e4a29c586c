"""``edge import``: hb_mapper's own YAML becomes a model YAML and a recipe of edge, or says why it can't."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from edge.compiler.importing import MARK, ROWS, import_mapper
from edge.compiler.lint import RENDERED
from edge.compiler.render import TEMPLATE, render, render_text
from edge.compiler.schema import GROUPS
from edge.errors import SpecError, UsageError, WorkspaceError
from edge.files import data_dir
from edge.graph.files import facts, load_onnx
from edge.specs import (
    Calibration,
    Compiler,
    ModelSpec,
    NodePrecision,
    Precision,
    Preprocess,
    Sources,
    load_precision,
    read_model,
)
from tests.conftest import Run, save_net
from tests.test_mapper_lint import GOOD, net

FOREIGN = GOOD.replace("  input_source: {'data': 'pyramid'}\n", "")


@pytest.fixture
def mapper(tmp_path: Path) -> Path:
    """A mapper YAML beside its network; the folder of calibration files is not there."""
    onnx.save(net(), tmp_path / "net.onnx")
    path = tmp_path / "vendor.yaml"
    path.write_text(FOREIGN)
    return path


def changed(path: Path, *pairs: tuple[str, str]) -> Path:
    text = path.read_text()
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    return path


# What is carried over --------------------------------------------------------------------------------------


def test_every_value_arrives_in_the_model_yaml_and_its_recipe(mapper: Path, tmp_path: Path) -> None:
    done = import_mapper(mapper, tmp_path / "models" / "mine.yaml")
    assert done.recipe == tmp_path / "models" / "mine_recipe.yml"
    found = read_model(str(done.model))
    assert (found.spec.name, found.spec.labels, found.spec.classes) == ("mine", None, None)
    assert Path(str(found.spec.sources.onnx)).samefile(tmp_path / "net.onnx")
    assert yaml.safe_load(done.model.read_text())["sources"] == {"onnx": "../net.onnx"}
    assert found.spec.preprocess == Preprocess(
        crop=(32, 64),
        resize=73,
        interpolation="bilinear",
        color="rgb",
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        layout="NCHW",
    )
    assert Path(found.spec.precision).samefile(done.recipe)
    recipe = load_precision(found.spec.precision)
    assert recipe == done.precision
    assert recipe.calibration == Calibration(
        "max", max_percentile=0.9999, optimization=("set_model_output_int16", "run_fast")
    )
    assert recipe.nodes == {"/norm/Div_mul": NodePrecision("BPU", "int16", "int16")}
    assert recipe.compiler == Compiler("O0", "latency", 2)
    assert [item.rule for item in done.changed] == ["cal_data_dir", "resize"]


@pytest.mark.parametrize(
    ("color", "mean", "std"),
    [
        ("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("bgr", (103.94, 116.78, 123.68), (1, 1, 1)),
        ("rgb", (0, 0, 0), (255, 255, 255)),
        ("bgr", (0, 0, 0), (1, 1, 1)),
        ("rgb", (127.5, 127.5, 127.5), (58.8235294, 127.123456789, 33.3333333333)),
    ],
)
@pytest.mark.parametrize(
    "recipe",
    [
        Precision("net"),
        Precision("net", Calibration("kl", per_channel=True), compiler=Compiler("O2", "bandwidth", 1)),
        Precision(
            "net",
            Calibration("mix", optimization=("asymmetric",)),
            {"/norm/Div_mul": NodePrecision("CPU"), "/stem/Conv": NodePrecision(None, "int16", None)},
        ),
    ],
    ids=["default", "kl", "nodes"],
)
def test_what_edge_renders_comes_back(
    recipe: Precision, color: str, mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path
) -> None:
    onnx.save(net(), tmp_path / "net.onnx")
    preprocess = Preprocess((32, 64), 73, "bilinear", color, mean, std)  # type: ignore[arg-type]
    paths = {
        "onnx_model": "./net.onnx",
        "cal_data_dir": "./cal_f32",
        "working_dir": "./out",
        "prefix": "net_64x32_nv12",
    }
    spec = ModelSpec("net", Sources(), preprocess)
    written = render(spec=spec, precision=recipe, model=tmp_path / "net.onnx", out=tmp_path, **paths)
    done = import_mapper(tmp_path / written.yaml, tmp_path / "net.yaml")
    assert attrs.evolve(done.precision, note="") == recipe
    assert (done.recipe is None) == (recipe == Precision("net"))
    back = done.spec.preprocess
    assert attrs.evolve(back, std=preprocess.std) == preprocess
    assert back.std == pytest.approx(preprocess.std, rel=1e-8)
    again = render_text(preprocess=back, precision=recipe, graph=facts(load_onnx(tmp_path / "net.onnx")), **paths)
    assert again == (tmp_path / written.yaml).read_text()


def test_one_number_stands_for_three_channels(mapper: Path, tmp_path: Path) -> None:
    changed(
        mapper,
        ("mean_value: '123.675 116.28 103.53'", "mean_value: 128"),
        ("scale_value: '0.0171247538 0.0175070028 0.0174291939'", "scale_value: 0.0078125;"),
    )
    preprocess = import_mapper(mapper, tmp_path / "mine.yaml").spec.preprocess
    assert (preprocess.mean, preprocess.std) == ((128,) * 3, (128,) * 3)


def test_numbers_may_be_separated_by_commas(mapper: Path, tmp_path: Path) -> None:
    changed(mapper, ("'123.675 116.28 103.53'", "'123.675, 116.28,103.53'"))
    assert import_mapper(mapper, tmp_path / "mine.yaml").spec.preprocess.mean == (123.675, 116.28, 103.53)


def test_values_that_norm_type_leaves_out_are_none(mapper: Path, tmp_path: Path) -> None:
    changed(mapper, ("'data_mean_and_scale'", "'data_scale'"), ("  mean_value: '123.675 116.28 103.53'\n", ""))
    assert import_mapper(mapper, tmp_path / "mine.yaml").spec.preprocess.mean == (0, 0, 0)


def test_nodes_to_run_in_one_place(mapper: Path, tmp_path: Path) -> None:
    node_info = "  node_info:\n    '/norm/Div_mul': {'ON': 'BPU', 'InputType': 'int16', 'OutputType': 'int16'}\n"
    places = "calibration_parameters:\n  run_on_cpu: /stem/Conv;/norm/Sub\n  run_on_bpu: /head/Gemm\n"
    changed(mapper, (node_info, ""), ("calibration_parameters:\n", places))
    assert import_mapper(mapper, tmp_path / "mine.yaml").precision.nodes == {
        "/head/Gemm": NodePrecision("BPU"),
        "/stem/Conv": NodePrecision("CPU"),
        "/norm/Sub": NodePrecision("CPU"),
    }


def test_both_inputs_of_a_node_are_its_inputs(mapper: Path, tmp_path: Path) -> None:
    changed(mapper, ("'InputType': 'int16'", "'InputType0': int16, 'InputType1': int16"))
    nodes = import_mapper(mapper, tmp_path / "mine.yaml").precision.nodes
    assert nodes["/norm/Div_mul"] == NodePrecision("BPU", "int16", "int16")


def test_an_output_node_names_the_scores(mapper: Path, tmp_path: Path) -> None:
    (head,) = (node for node in net().graph.node if node.name == "/head/Gemm")
    changed(mapper, ("  node_info:\n", "  output_nodes: /head/Gemm;\n  node_info:\n"))
    done = import_mapper(mapper, tmp_path / "mine.yaml")
    assert done.spec.output == read_model(str(done.model)).spec.output == head.output[0]


def test_open_sides_are_those_of_the_yaml(tmp_path: Path) -> None:
    save_net(tmp_path / "net.onnx", shape=("N", 3, "H", "W"))  # type: ignore[arg-type]
    text = """\
model_parameters: {onnx_model: net.onnx, march: bayes-e}
input_parameters:
  {input_type_rt: nv12, input_type_train: bgr, input_layout_train: NCHW, input_shape: 1x3x64x96}
calibration_parameters: {cal_data_dir: cal}
"""
    path = tmp_path / "vendor.yaml"
    path.write_text(text)
    done = import_mapper(path, tmp_path / "mine.yaml")
    assert (done.spec.preprocess.crop, done.recipe) == ((64, 96), None)
    assert [item.rule for item in done.changed] == ["cal_data_dir", "optimize_level", "resize"]
    path.write_text(text.replace(", input_shape: 1x3x64x96", ""))
    with pytest.raises(SpecError, match=r"size of the image is open.*input_shape, such as"):
        import_mapper(path, tmp_path / "mine.yaml")


# What is not ------------------------------------------------------------------------------------------------

# Added lines -> word of the finding that stops it.
REFUSED = {
    ("model_parameters:", "  caffe_model: net.caffemodel\n  prototxt: net.prototxt"): "caffe_model",
    ("model_parameters:", "  remove_node_type: Quantize;Dequantize"): "remove_node_type",
    ("model_parameters:", "  remove_node_name: /head/Gemm"): "remove_node_name",
    ("model_parameters:", "  set_node_data_type: '/stem/Conv:int16'"): "set_node_data_type",
    ("model_parameters:", "  output_nodes: /stem/Conv;/head/Gemm"): "output_nodes",
    ("model_parameters:", "  unknown: 1"): "unknown_key",
    ("calibration_parameters:", "  run_on_cpu: /stem/Conv,/head/Gemm"): "separator",
    ("calibration_parameters:", "  per_channel: 'True'"): "value_type",
    ("compiler_parameters:", "  balance_factor: '3'"): "value_type",
}
# Changed value -> the same.
BROKEN = {
    ("'nv12'", "featuremap"): "input_type_rt",
    ("'nv12'", "nv12;featuremap"): "item_count",
    ("'data_mean_and_scale'", "data_scale"): "norm_values_given",
    ("'rgb'", "yuv444"): "input_type_train",
    ("'max'\n  max_percentile: 0.9999", "load"): "calibration_type",
    ("'1x3x32x64'", "1x3x64x64"): "input_shape",
    ("'InputType'", "InputType0"): "node_info",
    ("'ON'", "ON"): "unquoted_on",
    ("/norm/Div_mul", "/norm/Dvi"): "unknown_node",
    ("'set_model_output_int16;run_fast'", "set_model_output_int16,run_fast"): "separator",
    ("0.0171247538 0.0175070028 0.0174291939", "58.395 57.12 57.375"): "scale_is_multiplier",
    ("./net.onnx", "gone.onnx"): "model_file",
    ("jobs: 2", "jobs: many"): "value_type",
}


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [(f"{group}\n", f"{group}\n{lines}\n", rule) for (group, lines), rule in REFUSED.items()]
    + [(old, new, rule) for (old, new), rule in BROKEN.items()],
)
def test_what_would_change_the_result_is_refused_with_its_line(
    mapper: Path, tmp_path: Path, old: str, new: str, rule: str
) -> None:
    changed(mapper, (old, new))
    with pytest.raises(SpecError) as error:
        import_mapper(mapper, tmp_path / "mine.yaml")
    assert f"[{rule}]" in error.value.seen
    assert "  line " in error.value.seen
    assert "edge import" in str(error.value.remedy)
    assert not (tmp_path / "mine.yaml").exists()


def test_a_table_as_text_and_custom_operators_are_refused(mapper: Path, tmp_path: Path) -> None:
    table = "node_info:\n    '/norm/Div_mul': {'ON': 'BPU', 'InputType': 'int16', 'OutputType': 'int16'}"
    changed(mapper, (table, "node_info: '/stem/Conv:int16'"))
    mapper.write_text(f"{mapper.read_text()}custom_op: {{custom_op_method: register, op_register_files: a.py}}\n")
    with pytest.raises(SpecError) as error:
        import_mapper(mapper, tmp_path / "mine.yaml")
    assert "[node_info]" in error.value.seen
    assert "[custom_op]" in error.value.seen


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("'bayes-e'", "bernoulli2", "march"),
        ("model_parameters:\n", "model_parameters:\n  layer_out_dump: True\n", "layer_out_dump"),
        ("model_parameters:\n", "model_parameters:\n  debug_mode: dump_calibration_data\n", "debug_mode"),
        ("input_type_rt: 'nv12'", "input_type_rt: yuv444\n  input_layout_rt: NHWC", "input_type_rt"),
        ("'regular'", "bt601_video", "input_space_and_range"),
        ("  input_name: 'data'\n", "  input_name: 'data'\n  input_batch: 8\n", "input_batch"),
        ("'max'\n  max_percentile: 0.9999", "skip", "calibration_type"),
        ("'max'\n", "'max'\n  preprocess_on: True\n", "preprocess_on"),
        ("'max'\n", "'max'\n  enable_int16: True\n", "enable_int16"),
        ("'latency'", "balance\n  balance_factor: 10", "compile_mode"),
        ("debug: False", "debug: True", "debug"),
        ("core_num: 1", "core_num: 2", "core_num"),
        ("  jobs: 2\n", "  jobs: 2\n  input_source: {data: resizer}\n", "input_source"),
        ("max_time_per_fc: 0", "max_time_per_fc: 5000", "max_time_per_fc"),
        ("  jobs: 2\n", "  jobs: 2\n  ability_entry: secret\n", "ability_entry"),
        ("  jobs: 2\n", "  jobs: 2\n  advice: 100\n", "advice"),
    ],
)
def test_what_edge_does_in_another_way_is_told(mapper: Path, tmp_path: Path, old: str, new: str, key: str) -> None:
    before = import_mapper(mapper, tmp_path / "before.yaml")
    done = import_mapper(changed(mapper, (old, new)), tmp_path / "mine.yaml")
    (item,) = (item for item in done.changed if item.rule not in ("cal_data_dir", "resize"))
    assert item.rule == key
    assert key in mapper.read_text().splitlines()[(item.line or 0) - 1]
    assert item.expected
    assert done.spec.preprocess == before.spec.preprocess


def test_every_key_is_carried_over_or_told() -> None:
    """A key that the compiler learns must get a place here."""
    carried = {
        "onnx_model", "output_model_file_prefix", "node_info", "output_nodes", "input_layout_train", "input_shape",
        "norm_type", "mean_value", "scale_value", "max_percentile", "per_channel", "optimization", "run_on_cpu",
        "run_on_bpu", "optimize_level", "jobs",
    }  # fmt: skip
    # Without effect on the result, or told by another key's line.
    silent = {
        "prototxt", "working_dir", "log_level", "input_name", "input_layout_rt", "cal_data_type", "balance_factor",
        "custom_op_method", "op_register_files", "custom_op_dir",
    }  # fmt: skip
    keys = {key for group in GROUPS.values() for key in group}
    assert keys == carried | silent | {row.key for row in ROWS}
    assert all(row.key in GROUPS[row.group] for row in ROWS)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "name: mine\n", "model_parameters: 3\ninput_parameters: 4\n"])
def test_other_files_are_told_for_what_they_are(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match="is not hb_mapper's YAML"):
        import_mapper(path)


def test_two_inputs_are_refused(mapper: Path, tmp_path: Path) -> None:
    model = net()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, (1, 3, 32, 64)))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(SpecError, match=r"line 2: .*2 inputs"):
        import_mapper(mapper, tmp_path / "mine.yaml")


# The files and the verb -------------------------------------------------------------------------------------


def test_a_file_of_another_is_not_written_over(mapper: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError):
        import_mapper(mapper, mapper)
    recipe = tmp_path / "mine_recipe.yml"
    recipe.write_text("name: own\n")
    with pytest.raises(WorkspaceError):
        import_mapper(mapper, tmp_path / "mine.yaml")
    assert recipe.read_text() == "name: own\n"
    assert not (tmp_path / "mine.yaml").exists()
    recipe.write_text(MARK)
    import_mapper(mapper, tmp_path / "mine.yaml")
    import_mapper(mapper, tmp_path / "mine.yaml")
    with pytest.raises(UsageError):
        import_mapper(mapper, tmp_path / "mine.txt")


def test_the_verb_tells_what_it_wrote_and_the_next_command(edge: Run, mapper: Path, tmp_path: Path) -> None:
    code, out, _ = edge("import", str(mapper))
    assert code == 0
    lines = out.splitlines()
    assert lines[:2] == ["model   net.yaml", "recipe  net_recipe.yml"]
    line = 1 + FOREIGN.splitlines().index("  cal_data_dir: './cal_f32'")
    assert f"{mapper}:{line}: cal_data_dir: ./cal_f32; edge makes its own" in out
    assert lines[-1] == "next: edge build net.yaml --images val/ --calib train/"
    code, out, _ = edge("import", str(mapper), "--out", str(tmp_path / "mine.yaml"), "--json")
    data = json.loads(out)
    assert (code, data["spec"]["name"], data["recipe"]) == (0, "mine", str(tmp_path / "mine_recipe.yml"))
    assert edge("import", "missing.yaml")[0] == 2


def test_build_and_lint_point_to_it(edge: Run, mapper: Path) -> None:
    for arguments in (("build", str(mapper)), ("build", "net.onnx", "--mean", "0,0,0", "--std", "1,1,1")):
        code, _, err = edge(*arguments, *(() if arguments[1] != "net.onnx" else ("--precision", str(mapper))))
        assert code == 2
        assert f"{mapper} is hb_mapper's own YAML" in err
        assert f"next: edge import {mapper}" in err
    assert f"next: edge import {mapper}" in edge("lint", str(mapper))[2]
    changed(mapper, ("model_parameters:\n", f"# {RENDERED}.\nmodel_parameters:\n"))
    assert "import" not in edge("lint", str(mapper))[2]  # edge rendered it
    assert RENDERED in (data_dir("mapper_yaml") / TEMPLATE).read_text().splitlines()[0]


def test_a_vendors_flow(shared: Path, tmp_path: Path) -> None:
    save_net(tmp_path / "head_squeeze.onnx", shape=(1, 3, 96, 96))
    path = tmp_path / "vendor.yaml"
    path.write_text((shared / "cases/vendor_yaml.yaml").read_text())
    done = import_mapper(path, tmp_path / "mine.yaml")
    assert (done.recipe, done.spec.preprocess.crop, done.spec.preprocess.mean) == (
        None,
        (96, 96),
        (123.675, 116.28, 103.53),
    )
    assert done.spec.preprocess.std == pytest.approx((58.395, 57.12, 57.375), rel=1e-6)
