"""The command line: help on every verb, exit codes, and one clear error for each wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edge.cli import VERBS, cli, main
from edge.errors import EdgeError, UsageError
from edge.toolchain import find
from tests.cli_page import commands
from tests.conftest import FakeCompiler, Run, save_net

NORM = ("--mean", "0", "--std", "255")


def all_commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    context = click.Context(cli)
    for name in VERBS:
        command = cli.get_command(context, name)
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, sub) for sub in command.commands]
    return found


@pytest.mark.parametrize("verb", all_commands(), ids=" ".join)
def test_every_verb_has_help_with_examples(edge: Run, verb: tuple[str, ...]) -> None:
    code, out, _ = edge(*verb, "--help")
    assert code == 0
    assert f"edge {' '.join(verb)}" in out
    assert "Example" in out
    if verb not in (("toolchain",), ("board",)):  # groups
        assert "--debug" in out


def test_help_needs_no_heavy_import() -> None:
    code = "import sys\nfrom edge.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    check = "print(' '.join(m for m in ('onnx', 'onnxruntime', 'onnxsim', 'cv2', 'torch') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(edge: Run, shell: str) -> None:
    code, out, _ = edge("completion", shell)
    assert code == 0
    assert "_EDGE_COMPLETE" in out


def test_model_names_complete() -> None:
    env = {"_EDGE_COMPLETE": "bash_complete", "COMP_WORDS": "edge build ConvNeXt_a", "COMP_CWORD": "2"}
    done = subprocess.run([sys.executable, "-m", "edge"], env=env, capture_output=True, text=True, check=False)
    assert "ConvNeXt_atto" in done.stdout


def test_models_lists_the_zoo(edge: Run) -> None:
    code, out, _ = edge("models")
    assert code == 0
    assert "ConvNeXt_pico" in out
    code, out, _ = edge("models", "--json")
    assert {model["name"] for model in json.loads(out)} >= {"ConvNeXt_atto", "ConvNeXt_nano"}


def test_a_wrong_model_name_suggests_the_near_one(edge: Run) -> None:
    code, _, err = edge("build", "ConvNext_ato")
    assert code == 2
    assert "unknown model 'ConvNext_ato'" in err
    assert "next: edge build ConvNeXt_atto" in err


def wrong(name: str, *arguments: str, code: int, says: tuple[str, ...]) -> object:
    return pytest.param(arguments, code, says, id=name)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        wrong("no such onnx", "build", "no.onnx", *NORM, code=1, says=("does not exist",)),
        wrong("no mean and std", "build", "net.onnx", code=2, says=("--mean", "--std", "next: edge build")),
        wrong("corrupt onnx", "build", "bad.onnx", *NORM, code=1, says=("not a valid ONNX",)),
        wrong("open size", "build", "dynamic.onnx", *NORM, code=1, says=("nx3xhxw", "--crop")),
        wrong("no such onnx is told first", "build", "none.onnx", code=1, says=("does not exist",)),
        wrong("five channels", "build", "five.onnx", *NORM, code=1, says=("1x5x64x64",)),
        wrong("other crop", "build", "net.onnx", *NORM, "--crop", "32", code=2, says=("--crop 32x32", "64x64")),
        wrong("0..1 units", "build", "net.onnx", "--mean", "0.485", "--std", "0.229", code=2, says=("pixel units",)),
        wrong("two means", "build", "net.onnx", "--mean", "1,2", "--std", "255", code=2, says=("--mean", "three")),
        wrong("words", "build", "net.onnx", "--mean", "grey", "--std", "255", code=2, says=("--mean",)),
        wrong("small resize", "build", "ConvNeXt_atto", "--resize", "100", code=2, says=("resize >= crop",)),
        wrong("two weights", "build", "net.onnx", *NORM, "--weights", "timm", code=2, says=("one of them",)),
        wrong("unknown recipe", "build", "ConvNeXt_atto", "--precision", "int4", code=2, says=("int8",)),
        wrong("unknown option", "build", "ConvNeXt_atto", "--lvl", "O3", code=2, says=("--lvl",)),
        wrong("no model", "build", code=2, says=("MODEL",)),
        wrong("unknown verb", "biuld", code=2, says=("biuld",)),
        wrong("no yaml", "build", "mine.yaml", code=2, says=("mine.yaml does not exist",)),
        wrong(
            "images missing",
            "verify",
            "ConvNeXt_atto",
            "--weights",
            "demo",
            "--compiler",
            "onnxruntime",
            "--images",
            "nowhere",
            code=2,
            says=("nowhere does not exist",),
        ),
        wrong("not built", "eval", "ConvNeXt_atto", code=1, says=("not built", "edge build ConvNeXt_atto")),
        wrong("no demo weights", "export", "ConvNeXt_pico", "--weights", "demo", code=2, says=("demo",)),
    ],
)
def test_wrong_input_gives_one_clear_error(
    edge: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, says: tuple[str, ...]
) -> None:
    save_net(tmp_path / "net.onnx")
    save_net(tmp_path / "dynamic.onnx", ("n", 3, "h", "w"))
    save_net(tmp_path / "five.onnx", (1, 5, 64, 64))
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x06garbage")
    seen, out, err = edge(*arguments)
    assert seen == code
    assert out == ""
    for text in says:
        assert text in err
    assert not list(tmp_path.rglob("*.bin"))


def test_unexpected_errors_say_so_and_exit_3(edge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("edge.cli.models.available_models", broken)
    code, _, err = edge("models")
    assert code == 3
    assert "ZeroDivisionError: boom" in err
    assert "--debug" in err


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(UsageError):
        main(["build", "nonsense", "--debug"])


def test_errors_know_their_exit_codes() -> None:
    assert EdgeError("x").exit_code == 1
    assert UsageError("x").exit_code == 2
    assert str(EdgeError("a", expected="b", remedy="c")) == "a\nexpected: b\nnext: c"


def test_doctor_names_what_is_missing_and_the_remedy(
    edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setitem(find._ROUTES, "path", lambda: "no hb_mapper on PATH")  # whatever is on this machine
    monkeypatch.setitem(find._ROUTES, "docker", lambda: "no docker or podman on PATH")
    monkeypatch.setattr("edge.cli.doctor.available", lambda: 10**10)
    monkeypatch.setattr("edge.cli.doctor.FREE_GB", 0.0)
    code, out, err = edge("doctor")
    assert code == 1
    assert "✗ compiler" in out
    assert "edge toolchain install" in out
    assert "not ready to build: compiler" in err


def test_doctor_is_content_where_a_compiler_is(
    edge: Run, fake_compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.cli.doctor.available", lambda: 10**10)  # this machine may have little left
    monkeypatch.setattr("edge.cli.doctor.FREE_GB", 0.0)
    code, out, _ = edge("doctor")
    assert code == 0, out
    assert "ready: edge build" in out
    code, out, _ = edge("doctor", "--json")
    assert {finding["name"]: finding["ok"] for finding in json.loads(out)}["compiler"] is True


def test_toolchain_status_shows_every_route(edge: Run, fake_compiler: FakeCompiler) -> None:
    code, out, _ = edge("toolchain", "status")
    assert code == 0
    assert "✓ path" in out
    assert "- managed" in out
    assert "in use: path" in out
    _, out, _ = edge("toolchain", "status", "--json")
    assert [route["kind"] for route in json.loads(out)["routes"]] == ["managed", "path", "docker"]


NUMBERS = [
    (verb, option)
    for verb, command in commands()
    for option in command.params
    if isinstance(option.type, click.FloatRange | click.IntRange)
]
WRONG = [
    pytest.param(verb, option, text, id=f"{'-'.join(verb)}-{option.name}-{text}")
    for verb, option in NUMBERS
    for text in ("nan", "inf", "-inf", "-1", "1e999", "x", "")
    if text != "-1" or option.type.min is not None  # an offset may be negative
]


@pytest.mark.parametrize(("verb", "option", "text"), WRONG)
def test_every_number_is_one(edge: Run, verb: tuple[str, ...], option: click.Option, text: str) -> None:
    code, out, err = edge(*verb, f"{option.opts[-1]}={text}", "--", "nothing", "nothing")
    assert code == 2
    assert option.opts[-1] in err
    assert not out


def test_no_option_takes_a_bare_number() -> None:
    """Such as click's FLOAT, which takes nan and negative seeds."""
    for _, command in commands():
        for option in command.params:
            assert option.type not in (click.INT, click.FLOAT), option.name
            assert type(option.type) is not click.FloatRange, option.name


LONG = "a" * 300
DEEP = "images: " + "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("build", f"{LONG}.onnx", *NORM), 1, "shorter name"),
        (("build", "net.onnx", *NORM, "--name", LONG), 2, "150 bytes at most"),
        (("build", LONG), 1, "shorter name"),
        (("run", LONG, "net.onnx"), 1, "shorter name"),
        (("build", "net.onnx", *NORM, "--build-dir", "/proc"), 1, "/proc"),
        (("build", "deep.yaml"), 2, "nested too deeply"),
        (("build", "net.onnx", *NORM, "--precision", "deep.yaml"), 2, "nested too deeply"),
        (("build", "net.onnx", *NORM, "--calib", "deep.yaml"), 2, "nested too deeply"),
        (("build", "twice.yaml"), 2, "line 2: the key name is given twice"),
        (("lint", "deep.yaml"), 1, "deep"),
        (("build", "net.onnx", *NORM, "--compiler", "onnxruntime", "--images", "digits.txt"), 1, "whole number"),
    ],
    ids=lambda item: " ".join(item)[:40] if isinstance(item, tuple) else None,
)
def test_what_the_system_or_a_parser_refuses_is_told(
    edge: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    save_net(tmp_path / "net.onnx")
    (tmp_path / "deep.yaml").write_text(DEEP)
    (tmp_path / "twice.yaml").write_text("name: a\nname: b\n")
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "digits.txt").write_text("a.png " + "9" * 5000)
    found, out, err = edge(*arguments)
    assert found == code, err
    assert says in err + out
    assert max(map(len, (err + out).splitlines())) < 600
    assert "unexpected" not in err


def test_an_output_that_is_full_is_told(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "edge", "models"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
