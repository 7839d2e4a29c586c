"""``edge models``: listing, measuring, checking, the page; and a model that is added by one YAML file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from attrs import evolve

from edge.cli.models import PAGE_COMMAND, named
from edge.compiler.logs import NodeRow
from edge.errors import InputError
from edge.specs import ModelSpec, Published, Sources, available_models, load_model
from edge.survey import Checked, Compiled, Counted, Record, compare, load_records, page, request_of, save_records
from edge.survey.check import split
from tests.conftest import FakeCompiler, Run, save_net
from tests.test_toolchain_compiler import write_net

YAML = """sources: {{onnx: {onnx}}}
preprocess: {{crop: [{size}, {size}], resize: {size}, mean: [127.5, 127.5, 127.5], std: [58, 57, 57]}}
classes: 4
labels: null
"""
SMALLEST = ("ConvNeXt_atto", "NextViT_small_224")
COMPILED = Compiled("random", "O1", "int8", 1500.0, 666.7, 5_000_000, 4_000_000, 12.0, 800_000_000, 9, 1)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own models: one, Mine, which is an ONNX file beside its YAML."""
    folder = tmp_path / "own zoo"
    folder.mkdir()
    save_net(folder / "mine.onnx")
    (folder / "Mine.yaml").write_text(YAML.format(onnx="mine.onnx", size=64))
    monkeypatch.setenv("EDGE_ZOO", str(folder))
    return folder


def test_a_yaml_in_ones_own_folder_is_a_model(zoo: Path, edge: Run) -> None:
    assert set(available_models()) > {"Mine", "ConvNeXt_atto"}
    assert load_model("mine").sources.onnx == str(zoo / "mine.onnx")
    code, out, _ = edge("models")
    assert code == 0
    assert "Mine" in out
    code, out, _ = edge("models", "--json", "Mine")
    assert [model["name"] for model in json.loads(out)] == ["Mine"]


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "paddle", "mindspore"])
def test_every_kind_of_file_lies_beside_the_yaml(kind: str, zoo: Path, edge: Run) -> None:
    text = YAML.format(onnx="mine.onnx", size=64).replace("onnx: mine.onnx", f"{kind}: folder/mine")
    (zoo / "Mine.yaml").write_text(text)
    spec = load_model("Mine")
    assert getattr(spec.sources, kind) == str(zoo / "folder/mine")
    assert request_of(spec, timeout=60).weights == "auto"
    _, out, _ = edge("models", "Mine")
    assert out.splitlines()[1].split()[2] == kind


def test_a_model_of_ones_own_is_built_by_name(zoo: Path, edge: Run, tmp_path: Path) -> None:
    code, _, err = edge("build", "Mine", "--compiler", "onnxruntime", "--calib-count", "20", "--count", "8")
    assert code == 0, err
    manifest = json.loads((tmp_path / "build/Mine/manifest.json").read_text())
    assert manifest["model"] == "Mine"
    assert str(tmp_path) not in manifest["command"]


def test_ones_own_model_comes_before_ours_of_that_name(zoo: Path) -> None:
    (zoo / "ConvNeXt_atto.yaml").write_text(YAML.format(onnx="mine.onnx", size=64))
    assert load_model("ConvNeXt_atto").preprocess.crop == (64, 64)


@pytest.mark.parametrize(
    ("value", "text", "says"),
    [("no/such/folder", None, "not a folder"), (None, "name: Other\n", "'Other'"), (None, "colour: rgb\n", "colour")],
)
def test_a_wrong_zoo_says_what_is_wrong(
    zoo: Path, edge: Run, monkeypatch: pytest.MonkeyPatch, value: str | None, text: str | None, says: str
) -> None:
    if value:
        monkeypatch.setenv("EDGE_ZOO", value)
    if text:
        (zoo / "Mine.yaml").write_text(YAML.format(onnx="mine.onnx", size=64) + text)
    code, _, err = edge("models")
    assert code == 2
    assert says in err


def test_the_list_fits_a_terminal_and_marks_figures_of_other_weights(edge: Run) -> None:
    _, out, _ = edge("models")
    assert max(map(len, out.splitlines())) <= 110
    row = next(line for line in out.splitlines() if line.startswith("ConvNeXt_base_384"))
    assert "84.90*" in row
    assert "* ConvNeXt_base_384: of weights" in out
    names = [line.split()[0] for line in out.splitlines() if "224x224" in line]
    assert names[:5] == [f"ConvNeXt_{size}" for size in ("atto", "femto", "pico", "nano", "tiny")]


@pytest.mark.parametrize("arguments", [("--measure", "--check-all"), ("--measure", "--page", "x.md"), ("NoSuch",)])
def test_contradicting_wishes(edge: Run, arguments: tuple[str, ...]) -> None:
    assert edge("models", *arguments)[0] == 2


def test_measured_beside_published(zoo: Path, edge: Run, tmp_path: Path) -> None:
    path = zoo / "Mine.yaml"
    good = path.read_text() + "published: {source: me, params_m: 0.000012, gflops: 0.000000012}\n"
    path.write_text(good)
    code, out, err = edge("models", "--measure", "Mine")
    assert code == 0, err
    assert "+0.00" in out
    assert "multiply-accumulates" in out
    record = load_records(tmp_path / "build/models.json")["Mine"].counted
    assert record
    assert (record.parameters, record.macs) == (12, 12)
    path.write_text(good.replace("params_m: 0.000012", "params_m: 0.000013"))
    code, out, err = edge("models", "--measure", "Mine", "--json")
    assert code == 1
    assert "without a known reason" in err
    assert json.loads(out)["Mine"]["compared"]["parameters"] == pytest.approx(-7.69, abs=0.01)


def test_checking_goes_on_after_a_failure_and_then_says_so(
    zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler
) -> None:
    (zoo / "Broken.yaml").write_text(YAML.format(onnx="none.onnx", size=64))
    code, out, err = edge("models", "--check-all", "Broken", "Mine")
    assert code == 1
    assert "none.onnx" in out
    assert "1 of 2 passed" in out
    assert "Broken: not checked, for the reason above" in err
    records = load_records(tmp_path / "build/models.json")
    assert records["Broken"].checked
    assert records["Mine"].checked
    assert (records["Broken"].checked.passed, records["Mine"].checked.passed) == (False, True)
    fake_compiler.mode("crash")  # what is done already needs no compiler
    assert edge("models", "--check-all", "Mine")[0] == 0


def test_models_of_one_network_are_checked_once(
    zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler
) -> None:
    yaml = (zoo / "Mine.yaml").read_text()
    (zoo / "Twin.yaml").write_text(yaml.replace("name: Mine", "name: Twin"))
    (zoo / "Other.yaml").write_text(yaml.replace("name: Mine", "name: Other") + "precision: convnext\n")
    code, out, err = edge("models", "--check-all", "Mine", "Twin", "Other")
    assert code == 0, err
    assert "the same network as Mine" in err
    assert "3 of 3 passed" in out
    found = {name: record.checked for name, record in load_records(tmp_path / "build/models.json").items()}
    mine, twin, other = found["Mine"], found["Twin"], found["Other"]
    assert mine
    assert twin
    assert other
    assert (mine.same_as, twin.same_as, other.same_as) == ("", "Mine", "")  # another recipe, another verdict
    assert (twin.bpu, twin.tail, twin.versions) == (mine.bpu, mine.tail, mine.versions)
    assert not list((tmp_path / "build/Twin/.stages").glob("check-*"))
    code, out, err = edge("models", "--check-all", "Twin")
    assert code == 0, err
    assert list((tmp_path / "build/Twin/.stages").glob("check-*"))


def test_the_page_shows_a_twins_program_as_such() -> None:
    specs = [ModelSpec("Mine", Sources()), ModelSpec("Twin", Sources())]
    checked = Checked("random", bpu=4, seconds=30.0, network="n")
    records = {
        "Mine": Record(checked=checked, compiled=COMPILED),
        "Twin": Record(checked=evolve(checked, same_as="Mine")),
    }
    text = page(specs, records, command="x")
    assert "- Twin: the same network as Mine, checked once." in text
    row = next(line for line in text.splitlines() if line.startswith("| Twin") and "as Mine" in line)
    assert f"| {COMPILED.latency_us:.1f} |" in row
    records["Mine"] = Record(checked=evolve(checked, network="another"), compiled=COMPILED)
    assert "as Mine" not in page(specs, records, command="x")


def test_a_cpu_node_inside_fails_the_check(
    zoo: Path, edge: Run, fake_compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.survey.check.split", lambda rows: ((), rows[:1]))
    code, out, _ = edge("models", "--check-all", "Mine", "--json")
    assert code == 1
    assert json.loads(out)["Mine"]["inside"]


def rows(places: str) -> list[NodeRow]:
    on = {"B": "BPU", "C": "CPU"}
    return [NodeRow(f"n{i}", on[place], "", "", None, None, "") for i, place in enumerate(places)]


@pytest.mark.parametrize(
    ("places", "tail", "inside"),
    [("BBB", 0, 0), ("BBCC", 2, 0), ("BCBC", 1, 1), ("CBB", 0, 1), ("CC", 2, 0), ("", 0, 0)],
)
def test_only_the_tail_may_be_on_the_cpu(places: str, tail: int, inside: int) -> None:
    found = split(rows(places))
    assert (len(found[0]), len(found[1])) == (tail, inside)


def test_a_node_that_the_recipe_moves_does_not_count_as_inside(
    zoo: Path, edge: Run, fake_compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    softmax = NodeRow("/attn/Softmax", "CPU", "--", "Softmax", None, None, "float")
    monkeypatch.setattr("edge.survey.check.split", lambda rows: ((), (softmax,)))
    yaml = zoo / "Mine.yaml"
    assert edge("models", "--check-all", "Mine")[0] == 1
    yaml.write_text(yaml.read_text() + "precision: int8_softmax_int16\n")
    code, out, _ = edge("models", "--check-all", "Mine")
    assert code == 0
    assert "by the model's recipe" in out


def test_a_network_without_any_bpu_node_does_not_pass() -> None:
    assert not Checked("random", cpu=2, tail=("a", "b")).passed
    assert Checked("random", bpu=1, cpu=2, tail=("a", "b")).passed


def test_records_are_kept_and_a_lower_level_does_not_replace_a_higher_one(tmp_path: Path) -> None:
    counted = Counted(224, 224, 10, 20, 0, 5, versions={"edge": "1"})
    record = Record(counted=counted, compiled=COMPILED)
    save_records(tmp_path / "models.json", {"B": record, "A": Record()})
    assert load_records(tmp_path / "models.json") == {"A": Record(), "B": record}
    for level, kept in (("O0", COMPILED), ("O1", None), ("O3", None)):
        new = evolve(COMPILED, level=level, latency_us=1.0)
        assert record.update(Record(compiled=new)).compiled == (kept or new)
    assert record.update(Record()) == record


def test_a_machine_that_lacks_something_does_not_replace_a_result() -> None:
    good, lacking = Checked("random", bpu=3), Checked("random", failed="no memory", machine=True)
    assert Record(checked=good).update(Record(checked=lacking)).checked == good
    assert Record(checked=lacking).update(Record(checked=good)).checked == good
    assert Record().update(Record(checked=lacking)).checked == lacking
    for worse in (Checked("random", bpu=2, inside=("a",)), Checked("random", failed="it is no valid model")):
        assert Record(checked=good).update(Record(checked=worse)).checked == worse


def test_a_check_without_the_memory_for_it_is_the_machines_failure(
    zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert edge("models", "--check-all", "Mine")[0] == 0
    monkeypatch.setattr("edge.pipeline.stages.available", lambda: 1000)
    for stage in (tmp_path / "build/Mine/.stages").glob("check-*"):
        shutil.rmtree(stage)
    code, out, _ = edge("models", "--check-all", "Mine", "--build-dir", str(tmp_path / "build"))
    assert code == 1
    assert "are free" in out
    kept = load_records(tmp_path / "build/models.json")["Mine"].checked
    assert kept is not None
    assert kept.passed


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 99, "models": {}}', '{"models": 3}'])
def test_foreign_records_are_refused_and_left(tmp_path: Path, edge: Run, text: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(text)
    with pytest.raises(InputError):
        load_records(path)
    assert edge("models", "--page", str(tmp_path / "models.md"))[0] == 1
    assert path.read_text() == text


def test_the_page_shows_what_was_measured_and_nothing_else() -> None:
    published = Published("x", params_m=1.0, gflops=2.0)
    specs = [ModelSpec("Full", Sources(), published=published), ModelSpec("Empty", Sources(), published=None)]
    counted = Counted(224, 224, 1_010_000, 2 * 10**9, 0, 10**8)
    checked = Checked("random", nodes=50, bpu=40, cpu=3, tail=("t",), inside=("a", "b"), seconds=33.3)
    text = page(specs, {"Full": Record(counted, checked, COMPILED)}, command="edge models --page x")
    row = "| Full | 224x224 | - | 1.010 | 1 (+1.00 %) | 2.000 | 2 (+0.00 %) | 5.0 | 40 | 1 | 0 | **2** | 33 | -"
    assert f"{row} |" in text
    assert "| Full | O1 | int8 | 1500.0 | 666.70 | 5.00 | 4.00 | 12 | 0.80 | 9 / 1 | 0 | - | random |" in text
    assert "Full: on the CPU inside the network: a, b." in text
    empty = [line for line in text.splitlines() if line.startswith("| Empty")]
    assert [set(line.split(" | ")[2:]) - {"- |"} for line in empty] == [{"-"}, {"-"}]


def test_a_failed_check_is_on_the_page() -> None:
    text = page([ModelSpec("X", Sources())], {"X": Record(checked=Checked("random", failed="oh"))}, command="c")
    assert "X: the check failed: oh" in text


def test_the_page_comes_from_builds_and_stays_when_they_are_gone(
    zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler
) -> None:
    for level in ("O1", "O0"):  # the later one is the lower one
        code, _, err = edge("compile", "Mine", "--level", level, "--calib-count", "20")
        assert code == 0, err
    code, out, err = edge("models", "--page", "docs/reference/models.md", "Mine")
    assert code == 0, err
    assert "1 of them compiled" in out
    text = (tmp_path / "docs/reference/models.md").read_text()
    assert "| Mine | O1 | int8 |" in text
    (tmp_path / "build").rename(tmp_path / "gone")
    assert edge("models", "--page", "docs/reference/models.md", "Mine")[0] == 0
    assert (tmp_path / "docs/reference/models.md").read_text() == text


def test_a_compile_of_an_earlier_edge_is_left_out(
    zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler
) -> None:
    assert edge("compile", "Mine", "--calib-count", "20")[0] == 0
    (path,) = (tmp_path / "build/Mine/.stages").glob("compile-*/stage.json")
    data = json.loads(path.read_text())
    del data["inputs"]["level"]
    path.write_text(json.dumps(data))
    code, out, _ = edge("models", "--page", "models.md", "Mine")
    assert code == 0
    assert "0 of them compiled" in out


def test_a_compile_at_another_size_is_none_of_the_models(zoo: Path, edge: Run, fake_compiler: FakeCompiler) -> None:
    assert edge("compile", "Mine", "--calib-count", "20")[0] == 0
    assert "1 of them compiled" in edge("models", "--page", "models.md", "Mine")[1]
    (zoo / "Mine.yaml").write_text(YAML.format(onnx="mine.onnx", size=96))
    assert "0 of them compiled" in edge("models", "--page", "other.md", "Mine")[1]


def test_the_committed_page_is_that_of_the_committed_figures() -> None:
    docs = Path(__file__).resolve().parent.parent / "docs" / "reference"
    records = load_records(docs / "models.json")
    command = PAGE_COMMAND.format(page="docs/reference/models.md")
    remedy = f"{command}   writes it anew"
    assert (docs / "models.md").read_text() == page(list(named(()).values()), records, command=command), remedy
    assert set(records) == set(available_models()), "edge models --check-all, --measure and --page"
    for name, record in records.items():
        assert record.checked is not None, name
        assert record.checked.passed, name
        assert record.checked.versions, name
        assert record.counted is not None, name
        assert compare(record.counted, load_model(name).published).explained, name


@pytest.mark.compiler
@pytest.mark.slow
def test_two_models_on_the_real_checker(zoo: Path, edge: Run, tmp_path: Path, toolchain: object) -> None:
    for name, operator in (("Good", "Relu"), ("Split", "LpNormalization")):
        write_net(zoo / f"{name}.onnx", operator)
        (zoo / f"{name}.yaml").write_text(YAML.format(onnx=f"{name}.onnx", size=32))
    code, out, err = edge("models", "--check-all", "Good", "Split", "--json")
    found = json.loads(out)
    assert found["Good"]["failed"] == "", err
    assert found["Good"]["inside"] == []
    assert found["Good"]["peak_memory"] > 100e6
    assert found["Split"]["inside"] == ["middle"], found["Split"]
    assert code == 1
    assert edge("models", "--check-all", "Good")[0] == 0


@pytest.mark.compiler
@pytest.mark.slow
def test_models_of_the_zoo_on_the_real_checker(zoo: Path, edge: Run, tmp_path: Path, toolchain: object) -> None:
    """One without and one with attention; the whole zoo takes half an hour, docs/reference/models.json has it."""
    code, out, err = edge("models", "--check-all", *SMALLEST, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found) == set(SMALLEST)
    for name, checked in found.items():
        assert (checked["failed"], checked["inside"], checked["same_as"]) == ("", [], ""), name
        assert checked["bpu"] > 100, name
        assert checked["tail"] == [], name
        assert len(checked["moved"]) == (4 if "NextViT" in name else 0), name
        assert checked["max_error"] <= 1e-3, f"{name}: the ONNX against torch"
        record = load_records(tmp_path / "build/models.json")[name].checked
        assert record
        assert record.passed
    write_net(zoo / "Split.onnx", "LpNormalization")
    (zoo / "Split.yaml").write_text(YAML.format(onnx="Split.onnx", size=32))
    code, out, err = edge("models", "--check-all", SMALLEST[0], "Split")
    assert code == 1
    assert "1 of 2 passed" in out
    assert "error: Split: not on the BPU from end to end" in err
