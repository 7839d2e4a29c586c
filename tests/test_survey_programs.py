"""Which programs stand for a model on the page, and what the page says of them."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from inspect import signature
from pathlib import Path

import numpy as np
import onnx
import pytest
from attrs import evolve

from edge.cli import main
from edge.errors import InputError, NotEnoughMemory, WorkspaceError
from edge.pipeline.stages import VERIFY
from edge.specs import ModelSpec, Sources, load_model, load_precision
from edge.survey import Checked, Counted, Record, keep, load_records, page, request_of, save_records
from edge.survey.collect import Origin, Stages, recipe_sha256, unfit
from edge.toolchain.memory import total
from tests.conftest import FakeCompiler, Run, save_net
from tests.test_survey import COMPILED, YAML

# What records of edge 0.1.0 may lack.
NEW = (
    "onnx", "network", "recipe_sha256", "tag", "seed", "max_error", "images", "calibration",
    "calibration_sha256", "toolchain", "machine", "command",
)  # fmt: skip
CALIB = ("--calib-count", "20")


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own models: one, Mine, which is an ONNX file beside its YAML."""
    folder = tmp_path / "own zoo"
    folder.mkdir()
    save_net(folder / "mine.onnx")
    (folder / "Mine.yaml").write_text(YAML.format(onnx="mine.onnx", size=64))
    monkeypatch.setenv("EDGE_ZOO", str(folder))
    return folder


def compiled(edge: Run, *arguments: str) -> None:
    code, _, err = edge("compile", *arguments, *CALIB)
    assert code == 0, err


def pages(edge: Run, *names: str, target: str = "models.md") -> tuple[dict[str, Record], str, str]:
    code, _, err = edge("models", "--page", target, *names)
    assert code == 0, err
    return load_records(Path(target).with_suffix(".json")), Path(target).read_text(), err


def other_weights(path: Path) -> None:
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full((3, 4), 2, np.float32), "w"))
    onnx.save(model, path)


def stage(build: Path, name: str) -> dict[str, object]:
    (path,) = (build / ".stages").glob(f"{name}-*/stage.json")
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_a_program_says_what_it_was_made_of(zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler) -> None:
    compiled(edge, "Mine", "--level", "O1")
    records, text, _ = pages(edge, "Mine")
    made = records["Mine"].compiled
    assert made
    folder = tmp_path / "build/Mine"
    simplified = {file["path"]: file["sha256"] for file in stage(folder, "simplify")["files"]}  # type: ignore[attr-defined]
    assert made.onnx == simplified["Mine_bpu.onnx"]
    assert made.network == f"{made.onnx} int8"
    assert made.recipe_sha256 == recipe_sha256(load_precision("int8"))
    assert (made.weights, made.tag, made.level, made.images) == ("onnx", "mine.onnx", "O1", 20)
    assert made.calibration_sha256 == stage(folder, "calibrate")["result"]["sha256"]  # type: ignore[index]
    assert made.toolchain == stage(folder, "compile")["inputs"]["toolchain"]  # type: ignore[index]
    assert "core" in made.machine
    assert "GiB of memory" in made.machine
    row = next(line for line in text.splitlines() if line.startswith(f"| Mine | {made.onnx[:12]}"))
    for shown in (made.machine, f"`{made.command}`", "20 of demo:calibration"):
        assert shown in row
    code, _, err = edge(*made.command.split()[1:])
    assert code == 0
    compile_line = next(line for line in err.splitlines() if " compile " in line)
    assert "(unchanged)" in compile_line, "the command on the page makes the same again"


@pytest.mark.parametrize(
    ("change", "verified"), [({}, True), ({"program": "0" * 64}, None), ({"why_not": "no simulator"}, None)]
)
def test_a_proof_counts_for_the_program_that_it_is_of(
    zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler, change: dict[str, str], verified: bool | None
) -> None:
    assert "program" in signature(VERIFY.work).parameters, "what its record calls the .bin"
    compiled(edge, "Mine", "--level", "O1")
    folder = tmp_path / "build/Mine"
    (program,) = (file for file in stage(folder, "compile")["files"] if file["path"].endswith(".bin"))  # type: ignore[attr-defined]
    record = folder / ".stages/verify-0123456789ab/stage.json"
    record.parent.mkdir()
    record.write_text(
        json.dumps({
            "stage": "verify",
            "inputs": {"program": change.get("program", program["sha256"])},
            "result": {"bit_exact": True, "why_not": change.get("why_not", "")},
        })
    )  # fmt: skip
    made = pages(edge, "Mine")[0]["Mine"].compiled
    assert made
    assert made.verified is verified


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("Mine", "--precision", "other.yaml"), "recipe other is not the model's own int8"),
        (("Mine", "--onnx", "other.onnx"), "onnx weights (other.onnx) are not the model's own"),
        (("Mine", "--mean", "10"), "another input or preprocessing"),
        (("Mine.onnx", "--mean", "0", "--std", "1"), "onnx weights (Mine.onnx) are not the model's own"),
    ],
)
def test_another_program_in_the_models_folder_is_not_its_own(
    zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler, arguments: tuple[str, ...], why: str
) -> None:
    for name in ("other.onnx", "Mine.onnx"):
        save_net(tmp_path / name)
    (tmp_path / "other.yaml").write_text("calibration: {per_channel: true}\n")
    compiled(edge, *arguments, "--level", "O3")
    records, _, err = pages(edge, "Mine")
    assert "Mine" not in records
    assert f"! Mine: no compile in build can be used: {why}" in err
    compiled(edge, "Mine", "--level", "O0")
    records, _, err = pages(edge, "Mine")
    made = records["Mine"].compiled
    assert made
    assert (made.level, made.recipe, made.tag) == ("O0", "int8", "mine.onnx")
    assert err == ""


@pytest.mark.parametrize("own", [False, True])
def test_neither_a_strangers_network_nor_demo_weights_are_a_zoo_models(
    edge: Run, tmp_path: Path, fake_compiler: FakeCompiler, own: bool
) -> None:
    if own:
        save_net(tmp_path / "ConvNeXt_atto.onnx", (1, 3, 224, 224))
        spec = load_model("ConvNeXt_atto").preprocess
        mean, std = (",".join(map(str, values)) for values in (spec.mean, spec.std))
        how = ("--mean", mean, "--std", std, "--resize", "256", "--interpolation", spec.interpolation)
        compiled(edge, "ConvNeXt_atto.onnx", *how)
    else:
        compiled(edge, "ConvNeXt_atto", "--weights", "demo")
    records, _, err = pages(edge, "ConvNeXt_atto")
    assert "ConvNeXt_atto" not in records
    assert "are not the model's own" in err


def test_a_program_of_another_network_than_was_checked_does_not_count(
    zoo: Path, edge: Run, fake_compiler: FakeCompiler
) -> None:
    assert edge("models", "--check-all", "Mine")[0] == 0
    other_weights(zoo / "mine.onnx")
    compiled(edge, "Mine")
    records, _, err = pages(edge, "Mine")
    assert records["Mine"].compiled is None
    assert "another network" in err
    assert "than in its check" in err
    assert "edge models --check-all Mine" in err
    assert edge("models", "--check-all", "Mine")[0] == 0
    records, text, err = pages(edge, "Mine")
    assert err == ""
    assert records["Mine"].same_network is True
    assert "| as checked |" in text


def test_the_check_on_the_page_counts_where_the_builds_have_none(
    zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler
) -> None:
    save_records(tmp_path / "models.json", {"Mine": Record(checked=Checked("onnx", bpu=1, network="n int8"))})
    compiled(edge, "Mine")
    assert "another network" in pages(edge, "Mine")[2]


def test_a_recipe_that_changes_the_onnx_is_traced_to_the_simplified_one(
    zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler
) -> None:
    yaml = zoo / "Mine.yaml"
    yaml.write_text(yaml.read_text() + "precision: int8_rounded\n")
    other_weights(zoo / "mine.onnx")
    compiled(edge, "Mine")
    assert edge("models", "--check-all", "Mine")[0] == 0
    records, _, _ = pages(edge, "Mine")
    made, checked = records["Mine"].compiled, records["Mine"].checked
    assert made
    assert checked
    assert made.network == checked.network
    folder = tmp_path / "build/Mine"
    assert made.onnx in [file["sha256"] for file in stage(folder, "round")["files"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("lost", ["render", "simplify", "export", "calibrate"])
def test_a_program_whose_making_is_not_recorded_does_not_count(
    zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler, lost: str
) -> None:
    compiled(edge, "Mine")
    (path,) = (tmp_path / "build/Mine/.stages").glob(f"{lost}-*/stage.json")
    path.unlink()
    records, _, err = pages(edge, "Mine")
    assert "Mine" not in records
    assert "records of its build are gone" in err


def origin(zoo: Path, edge: Run, build: Path) -> Origin:
    compiled(edge, "Mine")
    stages = Stages(build)
    (found,) = [each for data in stages.compiles() for each in stages.origins(data)]
    return found


def test_what_is_the_models_own(zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler) -> None:
    mine = origin(zoo, edge, tmp_path / "build/Mine")
    own = request_of(load_model("Mine"), timeout=1)
    assert unfit(mine, own, None) == ""
    sources = Sources(timm="net.tag", vendor="https://host/net.onnx")
    spec = evolve(own.spec, sources=sources)
    zoos = request_of(spec, timeout=1)

    def weights(source: str, tag: str, seed: int | None = None) -> str:
        changed = evolve(mine.export.weights, source=source, tag=tag, seed=seed)
        made = evolve(mine, spec=spec, export=evolve(mine.export, weights=changed))
        return unfit(made, zoos, None)

    good = (("random", "net.tag", 0), ("timm", "net.tag", None), ("vendor", "https://host/net.onnx", None))
    for case in good:
        assert weights(*case) == "", case
    bad = (
        ("random", "net.tag", 1),
        ("random", "net.other", 0),
        ("timm", "net.other", None),
        ("vendor", "https://host/x.onnx", None),
        ("demo", "net.tag", None),
        ("onnx", "net.onnx", None),
        ("paddle", "net/inference.json", None),
    )
    for case in bad:
        assert "are not the model's own" in weights(*case), case
    assert "3 classes" in unfit(evolve(mine, export=evolve(mine.export, classes=3)), own, None)
    smaller = evolve(mine.spec, preprocess=evolve(mine.spec.preprocess, crop=(32, 32)))
    assert "another input" in unfit(evolve(mine, spec=smaller), own, None)
    higher = evolve(mine.precision, compiler=evolve(mine.precision.compiler, optimize_level="O0"))
    assert unfit(evolve(mine, precision=higher), own, None) == ""
    trained = Checked("random", bpu=1, network="other int8")
    assert unfit(mine, own, trained) == "", "weights of another kind are other bytes anyway"


def test_a_program_of_an_old_network_gives_way_to_a_lower_level() -> None:
    checked = Checked("random", bpu=1, network="new int8")
    old = evolve(COMPILED, level="O3", network="old int8")
    new = evolve(COMPILED, level="O0", network="new int8")
    assert Record(checked=checked, compiled=old).update(Record(compiled=new)).compiled == new
    same = evolve(old, network="new int8")
    assert Record(checked=checked, compiled=same).update(Record(compiled=new)).compiled == same
    stale = Record(checked=checked, compiled=old)
    assert "**another than checked**" in page([], {"Mine": stale}, command="x")


def test_records_of_an_earlier_edge_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    save_records(tmp_path / "models.json", {"Mine": Record(Counted(64, 64, 1, 1, 0, 0), None, COMPILED)})
    data = json.loads((tmp_path / "models.json").read_text())
    model = data["models"]["Mine"]
    earlier = {key: value for key, value in model["compiled"].items() if key not in NEW}
    assert len(earlier) + len(NEW) == len(model["compiled"])
    model["compiled"] = earlier
    del model["counted"]["max_error"]
    (tmp_path / "models.json").write_text(json.dumps(data))
    records = load_records(tmp_path / "models.json")
    text = page([ModelSpec("Mine", Sources())], records, command="x")
    assert "Compiled by an earlier edge, which did not record this: Mine." in text
    assert "| Mine | 224x224 | - |" in text


def test_the_exports_error_is_on_the_page(zoo: Path, edge: Run, fake_compiler: FakeCompiler) -> None:
    counted = Counted(64, 64, 1, 1, 0, 0, max_error=0.00042)
    assert "| A | 64x64 | 0.0004 |" in page([], {"A": Record(counted)}, command="x")
    assert "| A | - | 0.002 |" in page([], {"A": Record(checked=Checked("random", max_error=0.002))}, command="x")
    assert edge("models", "--measure", "Mine")[0] == 0
    counted_now = load_records(Path("build/models.json"))["Mine"].counted
    assert counted_now
    assert counted_now.max_error is None, "the file came as ONNX: nothing was exported"


def test_names_renew_records_and_the_page_lists_every_one(
    zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler
) -> None:
    atto = Record(checked=Checked("random", bpu=7), compiled=evolve(COMPILED, latency_us=4321.0))
    gone = Record(counted=Counted(96, 128, 2_000_000, 10**9, 0, 0), compiled=COMPILED)
    save_records(tmp_path / "models.json", {"ConvNeXt_atto": atto, "Gone": gone})
    compiled(edge, "Mine")
    records, text, _ = pages(edge, "Mine")
    assert set(records) == {"ConvNeXt_atto", "Gone", "Mine"}
    assert records["ConvNeXt_atto"] == atto
    speed = [line.split(" | ")[0] for line in text.partition("## Compiled")[2].splitlines() if "| O1 |" in line]
    assert speed == ["| ConvNeXt_atto", "| Gone"]
    for row in ("| ConvNeXt_atto | 224x224 |", "| Mine | 64x64 |", "| Gone | 96x128 | - | 2.000 | - |"):
        assert row in text
    assert "ConvNeXt_tiny" not in text
    assert "| ConvNeXt_tiny | 224x224 |" in pages(edge)[1], "without names all models of the zoo are listed"


@pytest.mark.parametrize("target", ["models.json", "models", "models.txt"])
def test_a_page_is_markdown_and_its_figures_are_not_overwritten(edge: Run, tmp_path: Path, target: str) -> None:
    text = '{"schema_version": 1, "models": {}}'
    (tmp_path / "models.json").write_text(text)
    code, _, err = edge("models", "--page", target)
    assert code == 2
    assert "next: edge models --page models.md" in err
    assert [path.name for path in tmp_path.glob("models*")] == ["models.json"]
    assert (tmp_path / "models.json").read_text() == text


def test_a_page_in_what_is_no_folder(edge: Run, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("x")
    code, _, err = edge("models", "--page", "net.onnx/p.md")
    assert code == 1
    assert "net.onnx is a file" in err
    assert "mv " not in err
    folder = tmp_path / "p.json"
    folder.mkdir()
    with pytest.raises(InputError, match="can't be read"):
        load_records(folder)


def test_a_page_that_cant_be_written_names_its_own_remedy(
    edge: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise WorkspaceError("the disk is full", remedy="choose another disk with --build-dir")

    monkeypatch.setattr("edge.cli.models.keep", full)
    code, _, err = edge("models", "--page", "x.md")
    assert code == 1
    assert "--build-dir" not in err
    assert "name another folder" in err


def test_a_page_as_json(zoo: Path, edge: Run, fake_compiler: FakeCompiler) -> None:
    compiled(edge, "Mine", "--mean", "10")
    code, out, _ = edge("models", "--page", "m.md", "--json", "Mine", "ConvNeXt_atto")
    assert code == 0
    told = json.loads(out)
    assert (told["page"], told["records"], told["compiled"], told["found"]) == ("m.md", "m.json", 0, [])
    assert set(told["left_out"]) == {"Mine"}


def _keep_some(path: Path, start: int) -> None:
    for number in range(start, start + 30):
        keep(path, {f"M{number:02d}": Record(checked=Checked("random", bpu=number))})


def test_two_edges_lose_no_record(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_keep_some, args=(tmp_path / "m.json", start)) for start in (0, 30)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(load_records(tmp_path / "m.json")) == 60


@pytest.fixture
def two_of_one_name(tmp_path: Path) -> Path:
    folder = tmp_path / "twice"
    folder.mkdir()
    save_net(folder / "net.onnx")
    for name, file in (("gone", "none.onnx"), ("good", "net.onnx")):
        (folder / f"{name}.yaml").write_text(YAML.format(onnx=file, size=64) + "name: Split\n")
    return folder


@pytest.mark.parametrize("verb", ["--check-all", "--measure", "--json"])
def test_two_models_of_one_name_are_refused(
    two_of_one_name: Path, edge: Run, fake_compiler: FakeCompiler, verb: str
) -> None:
    code, out, err = edge("models", verb, "twice/gone.yaml", "twice/good.yaml")
    assert code == 2
    assert out == ""
    assert "both named Split" in err
    shutil.copytree("twice", "again")
    assert edge("models", verb, "twice/good.yaml", "again/good.yaml")[0] == 2
    assert edge("models", "--json", "twice/good.yaml", "again/../twice/good.yaml")[0] == 0, "one file"
    assert edge("models", "--json", "ConvNeXt_atto", "convnext_atto")[0] == 0, "one model, typed in two ways"


def test_what_could_not_be_checked_is_not_called_a_matter_of_the_bpu(
    two_of_one_name: Path, edge: Run, fake_compiler: FakeCompiler
) -> None:
    code, out, err = edge("models", "--check-all", "twice/gone.yaml")
    assert code == 1
    assert "none.onnx" in out
    error = err[err.index("error:") :]
    assert "BPU from end to end" not in error
    assert "Split: not checked, for the reason above" in error
    assert "--weights random" not in error, "a file has its own weights"
    assert "edge check twice/gone.yaml" in error, "what was typed, not the name in it"


def test_the_next_step_after_a_failed_check_works(
    zoo: Path, edge: Run, fake_compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.survey.check.split", lambda rows: ((), rows[:1]))
    _, _, err = edge("models", "--check-all", "Mine")
    assert "Mine: not on the BPU from end to end" in err
    advice = next(line for line in err.splitlines() if line.startswith("next: ")).removeprefix("next: ")
    assert advice == "edge check Mine --verbose"
    assert edge(*advice.split()[1:])[0] == 0


def test_any_memory_can_be_said_where_it_is_advised(
    zoo: Path, edge: Run, fake_compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.pipeline.stages.available", lambda: 1000)
    code, _, err = edge("models", "--check-all", "Mine")
    assert code == 1
    assert "--any-memory" in err
    assert "Mine: not checked" in err
    assert edge("models", "--check-all", "Mine", "--any-memory")[0] == 0


def test_measuring_goes_on_after_a_failure(zoo: Path, edge: Run, tmp_path: Path, fake_compiler: FakeCompiler) -> None:
    (zoo / "Broken.yaml").write_text(YAML.format(onnx="none.onnx", size=64))
    (zoo / "Recipe.yaml").write_text(YAML.format(onnx="mine.onnx", size=64) + "precision: nothing\n")
    code, out, err = edge("models", "--measure", "Broken", "Recipe", "Mine")
    assert code == 1
    assert out.splitlines()[1].split()[:2] == ["Mine", "64x64"]
    assert "Broken: not measured: " in out
    assert "Broken, Recipe: not measured" in err
    assert set(load_records(tmp_path / "build/models.json")) == {"Mine"}
    code, out, err = edge("models", "--measure", "--json", "Broken", "Mine")
    assert code == 1
    assert "none.onnx" in json.loads(out)["Broken"]["failed"]
    assert json.loads(out)["Mine"]["counted"]["macs"] == 12
    code, out, err = edge("models", "--measure", "Recipe")
    assert code == 2
    assert "there is no precision recipe 'nothing'" in err


@pytest.mark.parametrize(("verb", "work"), [("--check-all", "check_model"), ("--measure", "measure_model")])
def test_an_unexpected_error_is_no_result_but_the_others_get_their_turn(
    zoo: Path, edge: Run, fake_compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch, verb: str, work: str
) -> None:
    (zoo / "Odd.yaml").write_text(YAML.format(onnx="mine.onnx", size=64))
    from edge.cli import models as models_survey

    real = getattr(models_survey, work)

    def odd(request, *rest, **more):  # type: ignore[no-untyped-def]
        if request.spec.name == "Odd":
            raise KeyError("oops")
        return real(request, *rest, **more)

    monkeypatch.setattr(models_survey, work, odd)
    code, out, err = edge("models", verb, "Odd", "Mine")
    assert code == 3
    assert "unexpected KeyError" in err
    assert "--debug" in err
    assert any(line.startswith("Mine ") for line in out.splitlines())
    with pytest.raises(KeyError, match="oops"):
        main(["models", verb, "Odd", "Mine", "--debug"])


@pytest.mark.parametrize("name", ["net.onnx", "net.pt", "mine.onnx"])
def test_a_network_file_is_no_model_of_the_list(zoo: Path, edge: Run, tmp_path: Path, name: str) -> None:
    save_net(tmp_path / "net.onnx")
    (tmp_path / "net.pt").write_text("x")
    code, _, err = edge("models", name)
    assert code == 2
    expected = next(line for line in err.splitlines() if line.startswith("expected"))
    assert ".yaml" in expected
    assert ".onnx" not in expected


def test_an_unknown_name_gets_close_ones(edge: Run) -> None:
    code, _, err = edge("models", "ConvNext_ato")
    assert code == 2
    assert "next: edge models ConvNeXt_atto" in err


def test_a_yaml_given_by_path_finds_its_file_beside_it(
    two_of_one_name: Path, edge: Run, fake_compiler: FakeCompiler
) -> None:
    assert edge("models", "--check-all", "twice/good.yaml")[0] == 0


def test_total_memory_is_the_containers_where_there_is_one(tmp_path: Path) -> None:
    assert total(tmp_path) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 500 kB\n")
    assert total(tmp_path) == 1_024_000
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (group / "memory.max").write_text("4096")
    (group / "memory.current").write_text("96")
    assert total(tmp_path) == 4096


def test_memory_error_advice_is_kept_with_the_check(
    zoo: Path, edge: Run, fake_compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(*_: object, **__: object) -> None:
        raise NotEnoughMemory("too little", remedy="close other programs")

    monkeypatch.setattr("edge.pipeline.stages.require_memory", lacks)
    _, _, err = edge("models", "--check-all", "Mine")
    assert "next: close other programs" in err
    kept = load_records(Path("build/models.json"))["Mine"].checked
    assert kept
    assert (kept.machine, kept.remedy) == (True, "close other programs")


def test_a_recipes_hash_is_of_what_it_does() -> None:
    recipe = load_precision("convnext")
    assert recipe_sha256(recipe) == recipe_sha256(evolve(recipe, name="x", note="y"))
    assert recipe_sha256(recipe) == recipe_sha256(evolve(recipe, compiler=evolve(recipe.compiler, optimize_level="O0")))
    assert recipe_sha256(recipe) != recipe_sha256(load_precision("int8"))
    assert recipe_sha256(recipe) != recipe_sha256(evolve(recipe, nodes={}))
