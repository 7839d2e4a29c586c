"""Each rule of the lint fires on a YAML broken in one place, and on no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge.compiler.lint import RULES, Finding, lint, require_clean
from edge.compiler.node_names import NodeNames
from edge.compiler.schema import GROUPS
from edge.errors import SpecError
from edge.graph.files import GraphFacts, facts
from edge.toolchain.found import Toolchain

GOOD = """\
model_parameters:
  onnx_model: './net.onnx'
  march: 'bayes-e'
  working_dir: './out'
  output_model_file_prefix: 'net_64x32_nv12'
  node_info:
    '/norm/Div_mul': {'ON': 'BPU', 'InputType': 'int16', 'OutputType': 'int16'}
input_parameters:
  input_name: 'data'
  input_type_rt: 'nv12'
  input_space_and_range: 'regular'
  input_type_train: 'rgb'
  input_layout_train: 'NCHW'
  input_shape: '1x3x32x64'
  norm_type: 'data_mean_and_scale'
  mean_value: '123.675 116.28 103.53'
  scale_value: '0.0171247538 0.0175070028 0.0174291939'
calibration_parameters:
  cal_data_dir: './cal_f32'
  cal_data_type: 'float32'
  calibration_type: 'max'
  max_percentile: 0.9999
  optimization: 'set_model_output_int16;run_fast'
compiler_parameters:
  compile_mode: 'latency'
  debug: False
  core_num: 1
  optimize_level: 'O0'
  jobs: 2
  input_source: {'data': 'pyramid'}
  max_time_per_fc: 0
"""

NODES = ("/stem/Conv", "/norm/ReduceMean", "/norm/Sub", "/norm/Sqrt", "/norm/Div", "/head/Gemm")
GRAPH = GraphFacts(
    input_name="data",
    input_shape=(1, 3, 32, 64),
    output_name="prob",
    output_shape=(1, 10),
    opset=11,
    ir=6,
    node_names=NODES,
    parameters=100,
)
FILE_BYTES = 3 * 32 * 64 * 4
FILES = (("000.bin", FILE_BYTES), ("001.bin", FILE_BYTES))
TABLE = "{'ON': 'BPU', 'InputType': 'int16', 'OutputType': 'int16'}"
NODE_INFO = f"  node_info:\n    '/norm/Div_mul': {TABLE}\n"


@attrs.frozen
class Case:
    """One broken place. ``refused``: the vendor's own parser refuses it too."""

    rule: str
    old: str
    new: str
    refused: bool
    others: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        assert GOOD.count(self.old) == 1, self.old
        return GOOD.replace(self.old, self.new)


CASES = (
    Case("unknown_group", "compiler_parameters:", "compiler_params:", refused=True, others=("debug_off",)),
    Case("missing_group", GOOD[GOOD.index("input_par") : GOOD.index("calibration_par")], "", refused=True),
    Case(
        "group_is_mapping",
        GOOD[GOOD.index("compiler_par") :],
        "compiler_parameters: fast\n",
        refused=True,
        others=("debug_off",),
    ),
    Case("unknown_key", "  jobs: 2", "  job: 2", refused=True),
    Case("unknown_key", "  jobs: 2", "  jobs: 2\n  per_channel: True", refused=True),
    Case("unknown_key", "  jobs: 2", "  jobs: 2\n  cache: 'c.json'", refused=True),
    Case("duplicate_key", "  jobs: 2", "  jobs: 2\n  jobs: 4", refused=False),
    Case("missing_key", "  march: 'bayes-e'\n", "", refused=True),
    Case("missing_key", "  input_type_train: 'rgb'\n", "", refused=True),
    Case("missing_key", "  input_layout_train: 'NCHW'\n", "", refused=True),
    Case("missing_key", "  cal_data_dir: './cal_f32'\n", "", refused=True),
    Case("value_type", "  jobs: 2", "  jobs: '2'", refused=True),
    Case("value_type", "  jobs: 2", "  jobs: True", refused=True),
    Case("value_type", "debug: False", "debug: 'False'", refused=True, others=("debug_off",)),
    Case("value_type", "prefix: 'net_64x32_nv12'", "prefix: 64", refused=True),
    Case("value_type", "input_name: 'data'", "input_name: yes", refused=True),
    Case("empty_value", "optimization: 'set_model_output_int16;run_fast'", "optimization:", refused=True),
    Case("empty_value", "cal_data_dir: './cal_f32'", "cal_data_dir: ''", refused=True),
    Case("empty_value", "input_name: 'data'", "input_name: ''", refused=False),
    Case("empty_value", "input_shape: '1x3x32x64'", "input_shape: ''", refused=False),
    Case("empty_value", "working_dir: './out'", "working_dir: ''", refused=False),
    Case("choice", "'O0'", "'O4'", refused=True),
    Case("choice", "calibration_type: 'max'\n  max_percentile: 0.9999", "calibration_type: 'fixed'", True),
    Case("choice", "_type: 'float32'", "_type: 'float64'", refused=True),
    Case("choice", "type_rt: 'nv12'", "type_rt: 'nv21'", refused=True),
    Case("choice", "'NCHW'", "'nchw'", refused=True),
    Case("choice", "norm_type: 'data_mean_and_scale'", "norm_type: 'mean_file_and_scale'", refused=False),
    Case("choice", "march: 'bayes-e'", "march: 'bayes-e'\n  debug_mode: 'dump'", refused=True),
    Case("choice", "march: 'bayes-e'", "march: 'bayes-e'\n  remove_node_type: 'Conv'", refused=False),
    Case("choice", "compile_mode: 'latency'", "compile_mode: 'fast'", refused=True),
    Case("separator", "int16;run_fast", "int16,run_fast", refused=False),
    Case("separator", "'1x3x32x64'", "'1,3,32,64'", refused=True),
    Case("item_count", "input_type_rt: 'nv12'", "input_type_rt: 'nv12;nv12'", refused=True),
    Case("item_count", "'./cal_f32'", "'./cal_f32;./cal_f32'", refused=True),
    Case("item_count", "103.53'", "103.53;99'", refused=True),
    Case("deprecated_key", "  max_perc", "  enable_int16: True\n  max_perc", refused=False),
    Case("deprecated_key", "  max_perc", "  preprocess_on: True\n  max_perc", refused=False),
    Case("deprecated_key", "  march:", "  log_level: 'debug'\n  march:", refused=False),
    Case("model_file", "net.onnx", "net.pb", refused=True),
    Case("model_file", "  onnx_model: './net.onnx'\n", "", refused=True),
    Case("model_file", "  march:", "  prototxt: 'net.prototxt'\n  march:", refused=False),
    Case("march", "'bayes-e'", "'bayes'", refused=False),
    Case("march", "'bayes-e'", "'x5'", refused=True),
    Case("absolute_path", "'./out'", "'/tmp/edge-out'", refused=False),
    Case("prefix", "'net_64x32_nv12'", "'sub/net'", refused=False),
    Case("node_table_form", NODE_INFO, "  set_node_data_type: '/stem/Conv:int16;/norm/Sub:int16'\n", True),
    Case("node_table_form", TABLE, "int16", refused=True),
    Case("unquoted_on", "'ON'", "ON", refused=True),
    Case("node_setting", "'InputType'", "'InputType2'", refused=False),
    Case("node_setting", "'InputType'", "'inputtype'", refused=True),
    Case("node_value", "'BPU'", "'bpu'", refused=True),
    Case("node_value", "'InputType': 'int16'", "'InputType': 'float32'", refused=True),
    Case("node_overrides", "  max_perc", "  run_on_cpu: '/head/Gemm'\n  max_perc", refused=False),
    Case("unknown_node", "/norm/Div_mul", "/norm/Dif_mul", refused=False),
    Case("unknown_node", "/norm/Div_mul", "/norm/Sub_mul", refused=False),
    Case("dissolved_node", "/norm/Div_mul", "/norm/Div", refused=False),
    Case("dissolved_node", "/norm/Div_mul", "/norm/Sqrt", refused=False),
    Case("input_name", "input_name: 'data'", "input_name: 'date'", refused=True, others=("input_source",)),
    Case("input_shape", "1x3x32x64", "1x3xHxW", refused=True),
    Case("input_shape", "1x3x32x64", "1x3x64x64", refused=False, others=("file_size",)),
    Case("input_batch", "  norm_type", "  input_batch: 5000\n  norm_type", refused=True),
    Case("runtime_layout", "  norm_type", "  input_layout_rt: 'NHWC'\n  norm_type", refused=False),
    Case("video_range", "'regular'", "'bt601_video'", refused=False),
    Case("transform", "train: 'rgb'", "train: 'featuremap'", refused=True),
    Case("layout_against_shape", "'NCHW'", "'NHWC'", refused=True, others=("width_multiple", "odd_size",
         "norm_values_count")),
    Case("norm_values_given", "'data_mean_and_scale'", "'data_mean'", refused=False),
    Case("norm_values_given", "  mean_value: '123.675 116.28 103.53'\n", "", refused=True),
    Case("norm_values_count", "'123.675 116.28 103.53'", "'123.675 116.28'", refused=False),
    Case("norm_values_count", "'123.675 116.28 103.53'", "'0x7b 116.28 103.53'", refused=True),
    Case("mean_units", "'123.675 116.28 103.53'", "'0.485 0.456 0.406'", refused=False),
    Case("mean_units", "'123.675 116.28 103.53'", "'-1 116.28 103.53'", refused=False),
    Case("scale_is_multiplier", "'0.0171247538 0.0175070028 0.0174291939'", "'58.395 57.12 57.375'", False),
    Case("scale_is_multiplier", "'0.0171247538 0.0175070028 0.0174291939'", "'0.229 0.224 0.225'", False),
    Case("scale_is_multiplier", "'0.0171247538 0.0175070028 0.0174291939'", "'-0.017'", refused=False),
    Case("data_folder", "type: 'max'\n  max_percentile: 0.9999", "type: 'skip'", refused=False),
    Case("data_type_suffix", "'float32'", "'uint8'", refused=False, others=("file_size",)),
    Case("data_type_suffix", "'./cal_f32'", "'./cal'", refused=False),
    Case("max_percentile", "0.9999", "1.5", refused=True),
    Case("max_percentile", "0.9999", "0.2", refused=False),
    Case("max_percentile", "type: 'max'", "type: 'kl'", refused=False),
    Case("optimization", "set_model_output_int16", "set_model_output_int4", refused=False),
    Case("optimization", "set_model_output_int16", "set_My_Op_input_int8", refused=False),
    Case("custom_op", "calibration_par", "custom_op:\n  op_register_files: 'a.py'\ncalibration_par", True),
    Case("core_num", "core_num: 1", "core_num: 2", refused=False),
    Case("core_num", "core_num: 1", "core_num: 4", refused=True),
    Case("balance", "'latency'", "'balance'", refused=True),
    Case("balance", "'latency'", "'balance'\n  balance_factor: 101", refused=True),
    Case("balance", "'latency'", "'latency'\n  balance_factor: 50", refused=False),
    Case("debug_off", "debug: False", "debug: True", refused=False),
    Case("debug_off", "  debug: False\n", "", refused=False),
    Case("jobs", "jobs: 2", "jobs: 0", refused=False),
    Case("input_source", "{'data': 'pyramid'}", "{'data': 'ddr'}", refused=True),
    Case("input_source", "{'data': 'pyramid'}", "{'date': 'pyramid'}", refused=True),
    Case("value_type", "{'data': 'pyramid'}", "'pyramid'", refused=True),
    Case("max_time_per_fc", "max_time_per_fc: 0", "max_time_per_fc: 999", refused=True),
    Case("advice", "  jobs", "  advice: -1\n  jobs", refused=True),
)  # fmt: skip


def rules(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.rule for finding in findings}


def check(text: str, **kwargs: object) -> tuple[Finding, ...]:
    return lint(text, **{"graph": GRAPH, "calibration_files": FILES, **kwargs})  # type: ignore[arg-type]


def test_good_yaml_is_clean() -> None:
    assert check(GOOD) == ()
    assert lint(GOOD) == ()
    require_clean(GOOD, graph=GRAPH, calibration_files=FILES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.new.strip()[:30]!r}")
def test_rule_fires(case: Case) -> None:
    findings = check(case.text)
    assert case.rule in rules(findings), findings
    assert rules(findings) <= {case.rule, *case.others}, findings
    for finding in findings:
        assert finding.seen
        assert finding.expected


def test_every_rule_is_shown_to_fire() -> None:
    shown = {case.rule for case in CASES}
    # These need a model, files or several inputs; each has a test below.
    elsewhere = {
        "odd_size", "width_multiple", "normalised_twice", "no_files", "file_size", "cpu_and_bpu",
        "absent_operator",
    }  # fmt: skip
    assert {rule.__name__ for rule in RULES} == shown | elsewhere


@pytest.mark.parametrize("text", ["", "- a\n", "just words", "a: [1", "a: {b: *x}", "? [a]\n: b", "a: !!python/x 1"])
def test_text_that_is_no_mapping(text: str) -> None:
    assert [finding.rule for finding in lint(text)] == ["yaml_syntax"]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.floats(),
    st.sampled_from(
        ["", ";", "None", "a;;b", "1x3", "0x3x0x0", "-1x3x2x2", "nv12", "NHWC", "1e999", "nan", "x,y", ":"]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(
        st.one_of(st.booleans(), st.integers(), st.sampled_from(["data", "ON", "/norm/Div"])),
        st.one_of(st.none(), st.just([]), st.sampled_from(["ddr", "int16"]), st.just({"ON": []}), st.just({1: 2})),
    ),
)


@given(st.data())
def test_no_value_makes_a_rule_crash(data: st.DataObject) -> None:
    broken = yaml.safe_load(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        group = data.draw(st.sampled_from(sorted(GROUPS)))
        key = data.draw(st.sampled_from(sorted(GROUPS[group])))
        if isinstance(broken.get(group, {}), dict):
            broken.setdefault(group, {})[key] = data.draw(ODD)
    for finding in check(yaml.safe_dump(broken)):
        assert finding.seen


def test_finding_points_at_the_line() -> None:
    (finding,) = check(GOOD.replace("core_num: 1", "core_num: 2"))
    assert finding.line is not None
    assert GOOD.splitlines()[finding.line - 1] == "  core_num: 1"
    (finding,) = check(GOOD.replace("'BPU'", "'bpu'"))
    assert finding.line is not None
    assert "Div_mul" in GOOD.splitlines()[finding.line - 1]


def test_hints_name_the_right_word() -> None:
    (finding,) = check(GOOD.replace("optimize_level", "optimise_level"))
    assert finding.expected == "did you mean optimize_level?"
    (finding,) = check(GOOD.replace("  jobs: 2", "  jobs: 2\n  march: 'bayes-e'"))
    assert "belongs in model_parameters" in finding.expected
    (finding,) = check(GOOD.replace("/norm/Div_mul", "/norm/Div_mull"))
    assert "/norm/Div_mul" in finding.expected
    (finding,) = check(GOOD.replace("/norm/Div_mul", "/norm/Div"))
    assert finding.expected == "/norm/Div_reciprocal and /norm/Div_mul"


def test_require_clean_lists_every_finding() -> None:
    text = GOOD.replace("core_num: 1", "core_num: 2").replace("'ON'", "ON").replace("jobs: 2", "job: 2")
    with pytest.raises(SpecError) as error:
        require_clean(text, graph=GRAPH, origin="net.yaml")
    message = str(error.value)
    assert "net.yaml breaks 3 rule(s)" in message
    for rule in ("core_num", "unquoted_on", "unknown_key"):
        assert f"[{rule}]" in message


@pytest.mark.parametrize("space", ["regular", "bt601_video"])
@pytest.mark.parametrize(("shape", "rule"), [((1, 3, 33, 64), "odd_size"), ((1, 3, 32, 50), "width_multiple")])
def test_sizes(shape: tuple[int, ...], rule: str, space: str) -> None:
    text = GOOD.replace("1x3x32x64", "x".join(map(str, shape))).replace("'regular'", f"'{space}'")
    assert rule in rules(lint(text, graph=attrs.evolve(GRAPH, input_shape=shape)))


def test_sizes_of_nhwc() -> None:
    text = GOOD.replace("1x3x32x64", "1x32x64x3").replace("NCHW", "NHWC")
    assert lint(text, graph=attrs.evolve(GRAPH, input_shape=(1, 32, 64, 3))) == ()


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        ((), "no_files"),
        ((("000.bin", FILE_BYTES), ("001.bin", FILE_BYTES - 1)), "file_size"),
        ((("000.bin", FILE_BYTES // 4),), "file_size"),
        ((("000.npy", FILE_BYTES + 128),), "file_size"),
    ],
)
def test_calibration_files(files: tuple[tuple[str, int], ...], rule: str) -> None:
    (finding,) = check(GOOD, calibration_files=files)
    assert finding.rule == rule
    if files and files[0][0].endswith(".npy"):
        assert "header" in finding.expected


def test_paths_are_looked_up_from_base(tmp_path: Path) -> None:
    assert rules(lint(GOOD, graph=GRAPH, base=tmp_path)) == {"model_file", "data_folder"}
    (tmp_path / "net.onnx").touch()
    (tmp_path / "cal_f32").mkdir()
    (finding,) = lint(GOOD, graph=GRAPH, base=tmp_path)
    assert "is empty" in finding.seen
    (tmp_path / "cal_f32" / "000.bin").write_bytes(bytes(FILE_BYTES))
    assert lint(GOOD, graph=GRAPH, base=tmp_path) == ()
    (tmp_path / "cal_f32" / "001.bin").write_bytes(bytes(7))
    assert rules(lint(GOOD, graph=GRAPH, base=tmp_path)) == {"file_size"}


def test_node_on_both_processors() -> None:
    text = GOOD.replace(NODE_INFO, "").replace(
        "  max_perc", "  run_on_cpu: '/head/Gemm'\n  run_on_bpu: '/head/Gemm;/norm/Sub'\n  max_perc"
    )
    assert rules(check(text)) == {"cpu_and_bpu"}


def test_several_inputs_without_a_graph() -> None:
    two = (
        GOOD.replace("input_name: 'data'", "input_name: 'a;b'")
        .replace("_rt: 'nv12'", "_rt: 'nv12;featuremap'\n  input_layout_rt: 'NHWC;NCHW'")
        .replace("'regular'", "'regular;regular'")
        .replace("'rgb'", "'rgb;featuremap'")
        .replace("'NCHW'\n  input_shape: '1x3x32x64'", "'NCHW;NCHW'\n  input_shape: '1x3x32x64;1x8'")
        .replace("'data_mean_and_scale'", "'data_mean_and_scale;no_preprocess'")
        .replace("103.53'", "103.53;None'")
        .replace("0.0174291939'", "0.0174291939;None'")
        .replace("'./cal_f32'", "'./cal_f32;./b_f32;'")
        .replace("'float32'", "'float32;float32'")
        .replace("{'data': 'pyramid'}", "{'a': 'pyramid', 'b': 'ddr'}")
    )
    assert lint(two) == ()
    assert rules(lint(two.replace("'a;b'", "'a;a'"))) == {"input_name", "input_source"}
    assert rules(lint(two.replace("  input_name: 'a;b'\n", ""))) == {"input_name"}
    assert "item_count" in rules(lint(two.replace("'float32;float32'", "'float32'")))
    assert "norm_values_given" in rules(lint(two.replace("scale;no_preprocess", "scale;data_mean")))


# --- rules that look at the model ---------------------------------------------------------------------------


def net(first: str | None = None) -> onnx.ModelProto:
    """Build conv -> a norm with Div by a tensor -> Gemm, with the node names of GRAPH."""
    rng = np.random.default_rng(0)
    weights = {
        "c": np.array([2.0], np.float32),
        "w": rng.normal(size=(8, 3, 4, 4)).astype(np.float32),
        "g": rng.normal(size=(10, 8)).astype(np.float32),
        "b": np.zeros(10, np.float32),
        **{f"bn{i}": np.ones(3, np.float32) for i in range(4)},
    }
    nodes = []
    start = "data"
    if first == "BatchNormalization":
        nodes = [helper.make_node(first, ["data", "bn0", "bn1", "bn2", "bn3"], ["x0"], name="/pre/BN")]
    elif first == "Constant":
        value = numpy_helper.from_array(np.array([2.0], np.float32))
        nodes = [
            helper.make_node("Constant", [], ["k"], name="/pre/Constant", value=value),
            helper.make_node("Identity", ["data"], ["i"], name="/pre/Identity"),
            helper.make_node("Sub", ["i", "k"], ["x0"], name="/pre/Sub"),
        ]
    elif first is not None:
        nodes = [helper.make_node(first, ["data", "c"], ["x0"], name=f"/pre/{first}")]
    start = "x0" if first else "data"
    nodes += [
        helper.make_node("Conv", [start, "w"], ["y"], name="/stem/Conv", strides=[4, 4]),
        helper.make_node("ReduceMean", ["y"], ["m"], name="/norm/ReduceMean", axes=[1]),
        helper.make_node("Sub", ["y", "m"], ["d"], name="/norm/Sub"),
        helper.make_node("Abs", ["m"], ["p"], name="/norm/Abs"),
        helper.make_node("Sqrt", ["p"], ["s"], name="/norm/Sqrt"),
        helper.make_node("Div", ["d", "s"], ["n"], name="/norm/Div"),
        helper.make_node("Div", ["n", "c"], ["n2"], name="/half/Div"),
        helper.make_node("GlobalAveragePool", ["n2"], ["q"], name="/head/GlobalAveragePool"),
        helper.make_node("Flatten", ["q"], ["f"], name="/head/Flatten"),
        helper.make_node("Gemm", ["f", "g", "b"], ["prob"], name="/head/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 32, 64])],
        [helper.make_tensor_value_info("prob", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 6
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("first", ["Sub", "Div", "Mul", "Add", "BatchNormalization", "Constant"])
def test_model_that_normalises_by_itself(first: str) -> None:
    model = net(first)
    (finding,) = check(GOOD, graph=facts(model), model=model)
    assert finding.rule == "normalised_twice"
    plain = GOOD.replace("'data_mean_and_scale'", "'no_preprocess'")
    plain = "".join(line for line in plain.splitlines(True) if "_value:" not in line)
    assert check(plain, graph=facts(model), model=model) == ()


@pytest.mark.parametrize(
    ("item", "fires"),
    [
        ("set_Softmax_input_int16", True),
        ("set_Softmx_input_int16", True),
        ("set_Gemm_input_int16", False),
        ("set_Conv_output_int8", False),
        ("set_model_output_int16", False),
    ],
)
def test_a_rule_for_an_operator_that_the_model_has_not(item: str, fires: bool) -> None:
    model = net()
    found = check(GOOD.replace("set_model_output_int16;run_fast", item), graph=facts(model), model=model)
    assert rules(found) == ({"absent_operator"} if fires else set())


def test_model_that_does_not_normalise_is_clean() -> None:
    model = net()
    assert check(GOOD, graph=facts(model), model=model) == ()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("/norm/Div_mul", None),
        ("/norm/Div_reciprocal", None),
        ("/half/Div_mul", None),
        ("/half/Div_reciprocal", "unknown_node"),
        ("/half/Div", "dissolved_node"),
        ("/head/Gemm", None),
        ("/head/Gemm_transpose_output_reshape", None),
        ("/stem/Conv_mul", "unknown_node"),
        ("HZ_PREPROCESS_FOR_data", None),
        ("HZ_PREPROCESS_FOR_date", "unknown_node"),
    ],
)
def test_names_after_the_optimiser(name: str, rule: str | None) -> None:
    model = net()
    found = check(GOOD.replace("/norm/Div_mul", name), graph=facts(model), model=model)
    assert rules(found) == ({rule} if rule else set())


def test_gelu_is_one_node() -> None:
    members = ("Constant", "Div", "Erf", "Add", "Mul", "Mul_1")
    graph = attrs.evolve(GRAPH, node_names=tuple(f"/act/{name}" for name in members))
    names = NodeNames.of(graph)
    assert set(names.known) == {"HZ_PREPROCESS_FOR_data", "/act/Mul_1"}
    (finding,) = check(GOOD.replace("/norm/Div_mul", "/act/Erf"), graph=graph)
    assert (finding.rule, finding.expected) == ("dissolved_node", "/act/Mul_1")
    # A factor folded elsewhere leaves another pattern, which the compiler does not fuse.
    graph = attrs.evolve(GRAPH, node_names=("/act/Div", "/act/Erf", "/act/Add", "/act/Mul"))
    assert check(GOOD.replace("/norm/Div_mul", "/act/Erf"), graph=graph) == ()


def test_names_that_do_not_tell_the_operator() -> None:
    graph = attrs.evolve(GRAPH, node_names=("conv0", "n7"))
    assert check(GOOD.replace("/norm/Div_mul", "n7_mul"), graph=graph) == ()
    assert rules(check(GOOD.replace("/norm/Div_mul", "n8_mul"), graph=graph)) == {"unknown_node"}


# --- the vendor's own parser --------------------------------------------------------------------------------

# Runs in the compiler's Python: reads each YAML as makertbin does and notes why it was refused.
ASK_PARSER = """
import json, logging, pathlib
logging.disable(logging.CRITICAL)
from horizon_tc_ui.config.mapper_conf_parser import MpConf
answers = {}
for path in sorted(pathlib.Path(".").glob("case_*.yaml")):
    try:
        MpConf(str(path), "onnx")
        answers[path.stem] = None
    except BaseException as error:
        answers[path.stem] = f"{type(error).__name__}: {error}"[:300]
pathlib.Path("answers.json").write_text(json.dumps(answers))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with what GOOD names."""
    onnx.save(net(), tmp_path / "net.onnx")
    for folder in ("cal_f32", "cal"):
        (tmp_path / folder).mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 64)).astype(np.float32)
        (tmp_path / folder / "000.bin").write_bytes(pixels.tobytes())
    return tmp_path


@pytest.mark.compiler
def test_vendor_parser_agrees(project: Path, toolchain: Toolchain) -> None:
    if toolchain.python_argv() is None:
        pytest.skip("the Python behind this hb_mapper is not known")
    (project / "case_good.yaml").write_text(GOOD)
    for number, case in enumerate(CASES):
        (project / f"case_{number}.yaml").write_text(case.text)
    script = project / "ask.py"
    script.write_text(ASK_PARSER)
    done = toolchain.run_python([str(script)], cwd=project, timeout=300, mounts=[project])
    assert done.returncode == 0, done.tail
    answers = json.loads((project / "answers.json").read_text())
    assert answers.pop("case_good") is None
    surprises = [
        (case.rule, case.new, answers[f"case_{number}"])
        for number, case in enumerate(CASES)
        if (answers[f"case_{number}"] is not None) != case.refused
    ]
    assert surprises == []


@pytest.mark.compiler
def test_vendor_mapper_agrees(project: Path, toolchain: Toolchain) -> None:
    command = ["hb_mapper", "makertbin", "--model-type", "onnx", "-c", "net.yaml"]
    (project / "net.yaml").write_text(GOOD.replace("'ON'", "ON"))
    broken = toolchain.run(command, cwd=project, timeout=300, mounts=[project])
    assert broken.returncode != 0
    assert not list(project.glob("out/*.bin"))
    (project / "net.yaml").write_text(GOOD)
    good = toolchain.run(command, cwd=project, timeout=300, mounts=[project])
    assert good.returncode == 0, good.tail
    assert (project / "out" / "net_64x32_nv12.bin").is_file()


def test_lint_imports_no_heavy_package() -> None:
    code = "import sys, edge.compiler.render as _; print(sorted({'onnx', 'jinja2', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
