"""``edge tune`` from the command line, its recipe in ``edge build``, and units in a calibrated model."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from edge.cli.options import make_request
from edge.cli.tune import parse_duration, parse_latency
from edge.errors import InputError, UsageError
from edge.files import write_text
from edge.images import ImageItem, ImageSet, open_images
from edge.specs import (
    Calibration,
    Evidence,
    NodePrecision,
    Precision,
    load,
    load_model,
    load_precision,
    precision_text,
    recipe_place,
    save_precision,
)
from edge.specs.schema import Rounding
from edge.toolchain.found import Toolchain
from edge.tune.context import halves
from edge.tune.journal import FILE
from edge.tune.spaces import combined
from edge.tune.trials import adopt
from tests.conftest import Run, save_images, save_net
from tests.test_build_compiler import NORM, save_small_net

MEAN = ("--mean", "127.5", "--std", "127.5", "--resize", "64")
EVIDENCE = Evidence("f" * 64, "a (10 of 20)", "b (10 of 20)", 10, 99.0, 97.5, versions={"edge": "1"})


def request_of(*, precision: str | None, build_dir: Path, model: str = "ConvNeXt_atto", **given: str) -> Any:
    nothing = dict.fromkeys(
        ("onnx", "images", "calib", "calib_count", "level", "mean", "std", "color", "resize", "crop")
    )
    return make_request(
        **{**nothing, **given},
        model=model,
        weights="auto",
        count=500,
        precision=precision,
        compiler="auto",
        interpolation=None,
        labels=None,
        seed=0,
        timeout=120.0,
        install=False,
        build_dir=build_dir,
    )


# Options.


@pytest.mark.parametrize(
    ("text", "found"),
    [("1.05x", (1.05, None)), ("1.5ms", (None, 1500.0)), ("900us", (None, 900.0)), (" 2X", (2.0, None))],
)
def test_latency_bars(text: str, found: tuple[float | None, float | None]) -> None:
    assert parse_latency(text) == found


@pytest.mark.parametrize("text", ["", "fast", "0.9x", "0ms", "-1ms", "1.5", "1s", "nanx"])
def test_a_latency_bar_that_means_nothing(text: str, edge: Run) -> None:
    code, _, err = edge("tune", "ConvNeXt_atto", "--max-latency", text)
    assert code == 2
    assert "1.05x" in err


def test_durations() -> None:
    assert [parse_duration("--time", text) for text in ("90s", "1.5m", "1h")] == [90, 90, 3600]
    for text in ("", "30", "0m", "-3m", "1d"):
        with pytest.raises(UsageError, match="--time"):
            parse_duration("--time", text)


def test_precision_is_what_is_searched_for(edge: Run) -> None:
    code, _, err = edge("tune", "ConvNeXt_atto", "--precision", "int8")
    assert (code, "edge tune has no option --precision" in err) == (2, True)


def test_images_that_are_not_there(edge: Run, tmp_path: Path, fake_compiler: object) -> None:
    net = save_net(tmp_path / "net.onnx")
    code, _, err = edge("tune", str(net), *MEAN, "--images", "nowhere")
    assert code in (1, 2)
    assert "nowhere" in err


def test_a_network_of_ones_own_wants_images_of_its_own(edge: Run, tmp_path: Path, fake_compiler: object) -> None:
    net = save_net(tmp_path / "net.onnx")
    code, _, err = edge("tune", str(net), *MEAN)
    assert (code, "--images DIR" in err) == (2, True)


def test_without_the_compiler_there_is_nothing_to_search(edge: Run, tmp_path: Path) -> None:
    net = save_net(tmp_path / "net.onnx")
    save_images(tmp_path / "p", 20)
    code, _, err = edge("tune", str(net), *MEAN, "--compiler", "onnxruntime", "--images", "p", "--calib", "p")
    assert (code, "edge toolchain install" in err) == (2, True)
    assert not (tmp_path / "build").exists()


def test_a_missing_compiler_is_told_before_another_run_is_waited_for(
    edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = save_net(tmp_path / "net.onnx")
    save_images(tmp_path / "p", 20)

    def wait(_: object) -> None:
        raise AssertionError("the folder's lock was asked for")

    monkeypatch.setattr("edge.folder.workspace.Workspace.__enter__", wait)
    for words in (("--compiler", "onnxruntime"), ("--compiler", "path")):
        code, _, err = edge("tune", str(net), *MEAN, *words, "--images", "p", "--calib", "p")
        assert (code in (1, 2), "edge toolchain install" in err) == (True, True), err


def test_too_few_images_to_split(edge: Run, tmp_path: Path, fake_compiler: object) -> None:
    net = save_net(tmp_path / "net.onnx")
    save_images(tmp_path / "p", 12)
    code, _, err = edge("tune", str(net), *MEAN, "--images", "p", "--calib", "p")
    assert (code, "12 images" in err, "--images" in err) == (1, True, True)


# Images.


def test_halves_share_no_image_and_no_content(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "p", 40)
    copy = folder / "0" / "copy.png"
    copy.write_bytes(next(folder.rglob("004.png")).read_bytes())
    images = open_images(folder)
    split = halves(images, 0)
    first = {row.tobytes() for row in split.selection.contents}
    second = {row.tobytes() for row in split.report.contents}
    assert not first & second
    assert len(split.selection) == 20
    assert halves(images, 0) == split
    assert halves(images, 1) != split


def test_images_that_are_all_the_same(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "p", 1)
    file = next(folder.rglob("*.png"))
    same = ImageSet(tuple(ImageItem(f"{i}", 0, file) for i in range(20)), "copies")
    with pytest.raises(InputError, match="copies"):
        halves(same, 0)


# Recipes.


def test_a_recipe_reads_back_as_it_was(tmp_path: Path) -> None:
    written = Precision(
        "mine",
        calibration=Calibration("max", max_percentile=0.9999, per_channel=True, optimization=("asymmetric",)),
        nodes={
            "/head/norm/Pow": NodePrecision("BPU", outputs="int16"),
            "/head/on": NodePrecision("BPU", inputs="int16"),
        },
        rounding=Rounding(),
        note="found: by 'edge tune'",
        evidence=EVIDENCE,
    )
    path = tmp_path / "new" / "mine.yaml"
    save_precision(path, written)
    assert load_precision(str(path)) == written
    assert "top1" not in path.read_text()


def test_where_a_recipe_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recipe_place("m", tmp_path).parts[-3:] == ("mapper_yaml", "precision", "m.yaml")
    installed = tmp_path / "edge" / "_data" / "mapper_yaml"
    (installed / "precision").mkdir(parents=True)
    monkeypatch.setattr(load, "data_dir", lambda _name: installed)
    assert recipe_place("m", tmp_path / "build" / "m") == tmp_path / "build" / "m" / "recipe.yaml"


def test_build_takes_the_models_own_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = Precision("ConvNeXt_atto", calibration=Calibration("kl"), evidence=EVIDENCE)
    save_precision(tmp_path / "ConvNeXt_atto" / "recipe.yaml", own)
    assert request_of(precision=None, build_dir=tmp_path).precision == own
    assert "--precision convnext builds without it" in capsys.readouterr().err
    assert request_of(precision="recipe", build_dir=tmp_path).precision == own
    assert request_of(precision="int8", build_dir=tmp_path).precision.name == "int8"
    assert capsys.readouterr().err == ""


def test_a_shared_recipe_of_the_same_name_is_nobodys_own(tmp_path: Path) -> None:
    net = save_net(tmp_path / "convnext.onnx")
    options: dict[str, Any] = {"model": str(net), "build_dir": tmp_path}
    given = {"mean": "0", "std": "255"}
    assert request_of(precision=None, **options, **given).precision.name == "int8"
    assert recipe_place("convnext", tmp_path / "convnext") == tmp_path / "convnext" / "recipe.yaml"
    own = Precision("convnext", calibration=Calibration("kl"), evidence=EVIDENCE)
    save_precision(tmp_path / "convnext" / "recipe.yaml", own)
    assert request_of(precision=None, **options, **given).precision == own


def test_a_recipe_that_is_insisted_on_has_to_be_there(tmp_path: Path) -> None:
    zoos = load_model("ConvNeXt_atto").precision
    assert request_of(precision=None, build_dir=tmp_path).precision.name == zoos
    with pytest.raises(UsageError, match="no recipe of its own") as error:
        request_of(precision="recipe", build_dir=tmp_path)
    assert "edge tune ConvNeXt_atto" in str(error.value)


def test_a_broken_recipe_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ConvNeXt_atto" / "recipe.yaml"
    path.parent.mkdir()
    write_text(path, "calibration: {method: best}\n")
    with pytest.raises(UsageError, match="method"):
        request_of(precision=None, build_dir=tmp_path)


# Units.


def test_settings_of_a_node_add_up() -> None:
    from edge.tune.spaces import Unit

    a = Unit("a", "tensor", {"/n": NodePrecision("BPU", outputs="int16")}, frozenset({1}))
    b = Unit("b", "tensor", {"/n": NodePrecision("BPU", inputs="int16")}, frozenset({2}))
    assert combined([a, b]) == {"/n": NodePrecision("BPU", "int16", "int16")}


def test_finished_stages_are_linked_not_done_again(tmp_path: Path) -> None:
    stage = tmp_path / "a" / ".stages" / "compile-123"
    (stage / "sub").mkdir(parents=True)
    (stage / "sub" / "file").write_text("x")
    (tmp_path / "a" / ".stages" / ".compile-9.partial").mkdir()
    (tmp_path / "b" / ".stages").mkdir(parents=True)
    adopt(tmp_path / "a", tmp_path / "b")
    adopt(tmp_path / "a", tmp_path / "b")
    made = tmp_path / "b" / ".stages" / "compile-123" / "sub" / "file"
    assert made.samefile(stage / "sub" / "file")
    assert [path.name for path in (tmp_path / "b" / ".stages").iterdir()] == ["compile-123"]
    adopt(tmp_path / "nowhere", tmp_path / "b")


# The real compiler.


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("tune")
    net = save_small_net(folder / "small.onnx")
    images = save_images(folder / "images", 40)
    data = ("--images", str(images), "--calib", str(images), "--calib-count", "8")
    tune = ("--time", "100s", "--max-latency", "1.5x", "--out", str(folder / "out.yaml"))
    return folder, ["tune", str(net), *NORM, *data, *tune]


def unhurried(arguments: list[str]) -> list[str]:
    """Return a search's command with so much time that a slow machine leaves nothing out."""
    return ["2h" if word == "100s" else word for word in arguments]


def edge_in(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edge", *arguments], cwd=folder, capture_output=True, text=True)


@pytest.mark.compiler
def test_a_search_killed_and_resumed(small: tuple[Path, list[str]]) -> None:
    folder, arguments = small
    trials = folder / "build" / "small" / ".trials"

    def finished() -> list[dict[str, Any]]:
        if not (trials / FILE).exists():
            return []
        with closing(sqlite3.connect(f"file:{trials / FILE}?mode=ro", uri=True)) as database:
            try:
                rows = database.execute("SELECT value FROM entries ORDER BY id").fetchall()
            except sqlite3.OperationalError:  # being made
                return []
        return [json.loads(value) for (value,) in rows]

    child = subprocess.Popen(
        [sys.executable, "-m", "edge", *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while len(finished()) < 2 and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    before = finished()

    done = edge_in(folder, [*arguments, "--json"])
    assert done.returncode in (0, 1), done.stderr
    result = json.loads(done.stdout)
    assert len(before) >= 2
    assert finished()[: len(before)] == before
    keys = [entry["key"] for entry in finished()]
    assert len(keys) == len(set(keys))
    assert json.loads((folder / "build" / "small" / "tune.json").read_text()) == result

    base = result["points"][0]
    assert (base["name"], base["latency_us"] > 0, base["bit_exact"]) == ("plain int8", True, True)
    assert "20 of 40" in result["selection"]
    assert "20 of 40" in result["report"]
    assert {share["kind"] for share in result["time"]} >= {"ship", "report"}
    if result["recipe"]:
        found = load_precision(result["recipe"])
        assert found.evidence is not None
        assert found.evidence.n == base["report"]["n"]
        assert found.evidence.latency_us <= result["max_latency_us"]

    # What a run leaves out for lack of time, one with more goes on with; after it nothing is left to do.
    known = {entry["key"] for entry in finished()}
    complete = edge_in(folder, [*unhurried(arguments), "--json"])
    assert complete.returncode in (0, 1), complete.stderr
    assert known <= {entry["key"] for entry in finished()}
    assert json.loads(complete.stdout)["left_out"] == []
    known = {entry["key"] for entry in finished()}
    again = edge_in(folder, [*unhurried(arguments), "--json"])
    assert again.returncode == complete.returncode, again.stderr
    assert json.loads(again.stdout) == json.loads(complete.stdout)
    assert known == {entry["key"] for entry in finished()}


@pytest.mark.compiler
def test_a_search_is_finished_on_a_cluster(small: tuple[Path, list[str]]) -> None:
    """Trials that are gone from the journal are done by workers; figures and decisions are the same."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    folder, arguments = small
    arguments = unhurried(arguments)
    edge_in(folder, arguments)
    before = json.loads((folder / "build" / "small" / "tune.json").read_text())
    gone = {"latency", "rank", "damage", "report", "ship"}
    last = [trial["key"] for trial in before["trials"] if trial["kind"] == "build"][-1:]
    keys = [trial["key"] for trial in before["trials"] if trial["kind"] in gone or trial["key"] in last]
    with closing(sqlite3.connect(folder / "build" / "small" / ".trials" / FILE)) as database, database:
        database.executemany("DELETE FROM entries WHERE key = ?", [(bytes.fromhex(key),) for key in keys])
    done = edge_in(folder, [*arguments, "--json", "--cluster", "local:2"])
    assert done.returncode in (0, 1), done.stderr
    assert "(worker " in done.stderr

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            times = ("seconds", "time", "compile_s", "verify_s", "measure_s")
            return {key: without_times(one) for key, one in value.items() if key not in times}
        return [without_times(one) for one in value] if isinstance(value, list) else value

    assert without_times(json.loads(done.stdout)) == without_times(before)


def test_a_search_says_what_its_recipe_rests_on() -> None:
    assert "agreement_int8: 97.5" in precision_text(evolve(Precision("m"), evidence=EVIDENCE))


def test_units_of_a_kind_are_offered_together() -> None:
    from edge.tune.spaces import Unit, families, signature

    def tensor(name: str, at: int) -> Unit:
        return Unit(name, "tensor", {f"/{at}": NodePrecision("BPU", outputs="int16")}, frozenset({at}))

    members = [
        tensor("stages/stages.0/norm: Pow → ReduceMean_1", 0),
        tensor("stages/stages.0/blocks.1/norm: Pow_3 → ReduceMean_1", 1),
        tensor("head/norm: Pow → ReduceMean_1", 2),
        tensor("stages/stages.0/fc1/Conv → stages/stages.0/act/Mul_1", 3),
    ]
    found = {unit.name: unit.widened for unit in families(members)}
    assert found["every Pow → ReduceMean"] == {0, 1, 2}
    assert found["every Pow → ReduceMean of stages.0"] == {0, 1}
    assert signature(members[3].name) == "fc/Conv → act/Mul"
    assert len(found) == 2


@pytest.mark.compiler
def test_units_of_a_real_calibrated_model(small: tuple[Path, list[str]]) -> None:
    """A node that reads the image keeps 8-bit inputs; what only the last layer computes has no output."""
    from edge.measure.layers import group
    from edge.simulate.fakequant import FakeQuant
    from edge.tune.spaces import units

    folder, arguments = small
    if not (folder / "build").exists():
        edge_in(folder, ["verify", *arguments[1 : arguments.index("--time")]])
    model = next((folder / "build").rglob("*_calibrated_model.onnx"))
    net = FakeQuant(model)
    found = {unit.name: unit for unit in units(net.graph, group(net.graph))}
    stem = found["stem"].nodes["/stem/Conv"]
    assert (stem.inputs, stem.outputs) == (None, "int16")
    assert all(unit.widened for unit in found.values())
    assert not any("PREPROCESS" in name for unit in found.values() for name in unit.nodes)
