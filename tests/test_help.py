"""The command line as a newcomer meets it: help in groups and sections, only options that count, what to type next."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
from attrs import fields, fields_dict

from edge.api import build, evaluate
from edge.cli import GROUPS, VERBS, cli
from edge.cli.verb import SECTIONS
from edge.errors import EdgeError, UsageError
from edge.folder.workspace import Workspace
from edge.pipeline.build import Build
from edge.pipeline.stages import PORTABLE_STAGES, STAGES
from edge.progress import Quiet
from edge.sources.options import EVERY, Options, stage_command
from edge.sources.resolve import resolve
from edge.specs.request import Request
from tests.cli_page import commands
from tests.conftest import FakeCompiler, Run, save_images, save_net

WIDTH = 80
LAST = ["--json", "--verbose", "--debug", "--help"]
ROWS = {row.name: row for row in (*PORTABLE_STAGES, *STAGES) if row.name != "eval"}


ALL = dict(commands(cli))


def options(*verb: str) -> set[str]:
    return {item.name or "" for item in ALL[verb].params if isinstance(item, click.Option)}


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def test_the_verbs_are_grouped_and_no_line_is_cut(edge: Run) -> None:
    code, out, _ = edge("--help")
    assert code == 0
    titles = [line[:-1] for line in out.splitlines() if re.fullmatch(r"\S.*:", line)]
    assert titles == ["Options", *GROUPS]
    for verb, (_, text) in [item for verbs in GROUPS.values() for item in verbs.items()]:
        assert re.search(rf"^  {verb} +{re.escape(text)}$", out, re.MULTILINE), verb
    assert "..." not in out.partition("\n")[2]


@pytest.mark.parametrize("verb", [(), *ALL], ids=lambda verb: "-".join(verb) or "edge")
def test_every_help_fits_and_stands_alone(edge: Run, verb: tuple[str, ...]) -> None:
    code, out, _ = edge(*verb, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= WIDTH
    for unclear in ("likewise", "as --", "Which compiler", "foretold"):
        assert unclear not in out
    cut = [line for line in out.splitlines() if line.endswith("...") and "Usage:" not in line]
    assert not cut


@pytest.mark.parametrize("verb", [verb for verb, command in ALL.items() if not isinstance(command, click.Group)])
def test_options_are_in_sections_the_general_ones_last(edge: Run, verb: tuple[str, ...]) -> None:
    _, out, _ = edge(*verb, "--help")
    titles = [line[:-1] for line in out.splitlines() if re.fullmatch(r"\S.*:", line)]
    assert titles == [title for title in SECTIONS if title in titles]
    shown = re.findall(r"^  (?:-\w, )?(--[\w-]+)", out, re.MULTILINE)
    declared = [item.opts[-1] for item in ALL[verb].params if isinstance(item, click.Option)]
    assert sorted(shown) == sorted([*declared, "--help"])
    general = [option for option in LAST if option in shown]
    assert shown[-len(general) :] == general


def test_an_option_is_in_one_section() -> None:
    names = [name for line in SECTIONS.values() for name in line.split()]
    assert len(names) == len(set(names))
    assert {name for verb in ALL for name in options(*verb)} | {"help"} == set(names)


def test_a_short_option_means_one_thing() -> None:
    means = defaultdict(set)
    for command in ALL.values():
        for item in command.params:
            for name in item.opts:
                if isinstance(item, click.Option) and not name.startswith("--"):
                    means[name].add((*item.opts, item.help))
    assert {name for name, found in means.items() if len(found) > 1} == set()
    assert means["-k"] == {("-k", "--top", "Classes to show of each image.")}


def watched(value: Any, prefix: str, seen: set[str], **inner: Any) -> Any:
    """Return a copy of an attrs object that notes which of its fields are read."""
    kind = type(value)

    class Watching(kind):  # type: ignore[misc, valid-type]
        def __getattribute__(self, name: str) -> Any:
            # A build of another recipe copies the request, and looks at its paths.
            other = sys._getframe(1).f_code.co_name in ("evolve", "require_readable_sets")
            if name in fields_dict(kind) and not other:
                seen.add(prefix + name)
            return super().__getattribute__(name)

    copy = object.__new__(Watching)
    for item in fields(kind):
        object.__setattr__(copy, item.name, inner.get(item.name, getattr(value, item.name)))
    return copy


def watched_request(request: Request, seen: set[str]) -> Request:
    preprocess = watched(request.spec.preprocess, "", seen)
    compiler = watched(request.precision.compiler, "", seen)
    return watched(
        request,
        "",
        seen,
        spec=watched(request.spec, "", seen, preprocess=preprocess),
        precision=watched(request.precision, "recipe.", seen, compiler=compiler),
    )


READ = {"level": "optimize_level", "count": "images_count"}  # an option -> what a stage reads of it, if not its name
# Read where a network's source wants a compiler or another program to export it, or where one is missing.
OF_SOURCES = {"onnx", "paddle", "mindspore", "network", "source_config", "compiler", "install"}
RECIPES = {
    "rewrite": "int8_channel_mean", "equalize": "int8_equalized", "split": "int8_split", "round": "int8_rounded",
    "thresholds": "int8_thresholds",
}  # fmt: skip


@pytest.mark.parametrize("verb", EVERY)
def test_a_stage_offers_what_it_reads_and_nothing_else(tmp_path: Path, fake_compiler: FakeCompiler, verb: str) -> None:
    """A stage runs on a request that notes what is read of it, by the stage and by all that it needs."""
    request, _ = resolve(
        Options(
            model=str(save_net(tmp_path / "net.onnx")),
            mean=0,
            std=255,
            resize=64,
            calib=str(save_images(tmp_path / "images", 8)),
            precision=RECIPES.get(verb, "int8"),
            compiler="onnxruntime" if verb == "quantize" else "path",
        )
    )
    seen: set[str] = set()
    with Workspace(tmp_path / "build", Quiet()) as workspace:
        under_way = Build(watched_request(request, seen), workspace, Quiet())
        seen.clear()  # the paths that are looked at first are no stage's
        with suppress(EdgeError):  # of a made-up network: nothing to equalize, no real program; after all was read
            under_way.stage(ROWS[verb])
    ran = {done.name for done in under_way.done} | {verb}
    found = {name for name in fields_dict(Options) if READ.get(name, name) in seen}
    found |= {"calib", "calib_count"} & ({"calib", "calib_count"} if "calibrate" in ran else set())
    found |= {"images"} if "measured_on" in vars(under_way) else set()
    found |= {"precision"} if any(name.startswith("recipe.") for name in seen - {"recipe.compiler"}) else set()
    offered = options(verb) - {"build_dir", "as_json", "verbose", "debug"}
    found |= {"resize", "letterbox"}  # nobody's only, but --crop may not exceed the first, unless there is the other
    assert found - OF_SOURCES - {"arguments"} == offered - OF_SOURCES
    assert OF_SOURCES & offered == (OF_SOURCES if verb == "export" else {"onnx", "compiler", "install"})


def test_build_offers_every_option() -> None:
    every = {item.name for item in fields(Options) if "verbs" in item.metadata}
    assert every <= options("build")
    assert every - options("tune") == {"precision", "timeout"}  # searched for; --trial-timeout is its own


def test_every_stage_is_a_verb() -> None:
    assert set(EVERY) == set(ROWS)
    assert set(EVERY) <= set(VERBS)


def test_a_larger_input_can_be_asked_of_every_stage(edge: Run, tmp_path: Path) -> None:
    """The one option that is there for another's sake."""
    (tmp_path / "net.yaml").write_text(
        "sources: {onnx: net.onnx}\npreprocess: {crop: [64, 64], resize: 64, mean: [0, 0, 0], std: [1, 1, 1]}\n"
    )
    save_net(tmp_path / "net.onnx", (1, 3, 96, 96))
    code, _, err = edge("export", "net.yaml", "--crop", "96")
    assert code == 2
    assert "resize >= crop" in err
    code, _, err = edge("export", "net.yaml", "--crop", "96", "--resize", "96")
    assert code == 0, err


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (("render", "X", "--paddle", "d"), ("no option --paddle", "build, tune, export", "edge render MODEL.yaml")),
        (("export", "X", "--calib", "d"), ("no option --calib", "calibrate", "compile")),
        (("calibrate", "X", "--level", "O0"), ("no option --level", "build, tune, render, compile")),
        (("simplify", "X", "--images=d"), ("no option --images", "build, eval")),
        (
            ("build", "X", "--mapper", "portable"),
            ("--mapper is an old name", "next: edge build X --compiler onnxruntime"),
        ),
        (("check", "X", "--mapper=docker"), ("--mapper is an old name", "next: edge check X --compiler docker")),
        (("eval", "X", "--hops", "nv12"), ("--hops is an old name", "next: edge eval X --steps nv12")),
        (("run", "X", "a.jpg", "--k", "3"), ("--k is an old name", "next: edge run X a.jpg --top 3")),
        (("build", "--mapper"), ("--mapper is an old name", "next: edge build --compiler")),
        (("run", "-zk", "3"), ("No such option '-z'",)),
        (("build", "X", "--clib", "d"), ("No such option '--clib'", "--calib")),
    ],
)
def test_an_option_that_is_not_there_is_told_where_it_is(
    edge: Run, typed: tuple[str, ...], says: tuple[str, ...]
) -> None:
    code, out, err = edge(*typed)
    assert code == 2
    assert not out
    for text in says:
        assert text in err


def test_old_names_are_told_in_python(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compiler='onnxruntime'"):
        build("ConvNeXt_atto", mapper="portable")
    with pytest.raises(UsageError, match="steps='nv12'"):
        evaluate(tmp_path, hops="nv12")
    with pytest.raises(UsageError, match="there is no option 'top'"):
        build("ConvNeXt_atto", top=3)


def test_the_command_of_a_stage_has_its_options_only() -> None:
    typed = ("my.onnx", "--mean", "0", "--calib", "a b", "--level", "O0")
    assert stage_command("export", typed) == "edge export my.onnx --mean 0"
    assert stage_command("calibrate", typed) == "edge calibrate my.onnx --mean 0 --calib 'a b'"
    assert stage_command("eval", typed) == "edge build my.onnx --mean 0 --calib 'a b' --level O0"
    paddle = ("--paddle", "x", "--crop", "64")
    assert stage_command("export", paddle) == "edge export --paddle x --crop 64"
    assert stage_command("simplify", paddle) == "edge build --paddle x --crop 64"


def test_what_comes_next_is_the_last_word(edge: Run, tmp_path: Path) -> None:
    save_net(tmp_path / "net.onnx")
    typed = ("net.onnx", "--mean", "0", "--std", "255")
    _, out, _ = edge("simplify", *typed, "--build-dir", "else where")
    assert out.splitlines()[-1] == f"next: edge check {' '.join(typed)} --build-dir 'else where'"
    _, out, _ = edge("calibrate", *typed, "--compiler", "onnxruntime", "--calib-count", "2")
    next_one = f"edge quantize {' '.join(typed)} --compiler onnxruntime --calib-count 2".split()
    assert sorted(out.splitlines()[-1].removeprefix("next: ").split()) == sorted(next_one)
    _, out, _ = edge("calibrate", *typed, "--calib-count", "2")
    assert out.splitlines()[-1].startswith("next: edge render net.onnx")
    _, out, _ = edge("export", *typed, "--json")
    assert "next" not in out


def test_a_build_ends_with_what_to_do_with_it(edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_net(tmp_path / "net.onnx")
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "activate").touch()
    monkeypatch.setattr("sys.prefix", str(venv))
    monkeypatch.setenv("PATH", "/nowhere")
    typed = ("build", "net.onnx", "--mean", "0", "--std", "255", "--compiler", "onnxruntime", "--calib-count", "2")
    code, out, _ = edge(*typed, "--count", "4")
    assert code == 0
    steps = out[out.rindex("\n\n") + 2 :].splitlines()
    assert re.fullmatch(r"next +source venv/bin/activate +first: edge is not on PATH", steps[0])
    assert re.fullmatch(r" +edge run build/net photo.jpg +classify your own image", steps[1])
    assert len(steps) == 2  # without a .bin there is nothing for the board
    monkeypatch.setenv("PATH", str(venv / "bin"))
    (venv / "bin" / "edge").touch(mode=0o755)
    _, out, _ = edge(*typed, "--count", "4")
    assert "activate" not in out
