"""Finding a compiler and a Python 3.10, with fakes on PATH."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.errors import InstallError, ToolchainError, ToolchainMissing, UsageError
from edge.toolchain import find as module
from edge.toolchain import python310
from edge.toolchain.find import IMAGE, find, status
from edge.toolchain.found import Toolchain
from edge.toolchain.python310 import find_python310
from tests.conftest import FakeCompiler

Program = Callable[[str, str], Path]

PYTHON = 'echo \'["{kind}", [{version}], "{machine}", 64]\''


def fake_python(kind: str = "CPython", version: str = "3, 10, 9", machine: str = "x86_64") -> str:
    return PYTHON.format(kind=kind, version=version, machine=machine)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on it: an empty PATH, home and cache."""
    home, path = tmp_path / "home", tmp_path / "fake-bin"
    home.mkdir()
    path.mkdir(exist_ok=True)
    for name in (
        "PYENV_ROOT",
        "CONDA_PREFIX",
        "CONDA_ROOT",
        "MAMBA_ROOT_PREFIX",
        "EDGE_PYTHON310",
        "EDGE_DOCKER_IMAGE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr(python310, "uv_program", lambda: None)
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    monkeypatch.setenv("PATH", str(path))
    return home


def write(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def on_path(tmp_path: Path, bare: Path) -> Program:
    return lambda name, body: write(tmp_path / "fake-bin" / name, body)


def test_the_variable_wins(bare: Path, on_path: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path("python3.10", fake_python())
    mine = write(bare / "mine", fake_python(version="3, 10, 1"))
    monkeypatch.setenv("EDGE_PYTHON310", str(mine))
    found = find_python310()
    assert (found.path, found.version, found.source) == (mine, "3.10.1", "EDGE_PYTHON310")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (fake_python(version="3, 11, 2"), "is CPython 3.11.2"),
        (fake_python(kind="PyPy"), "is PyPy 3.10.9"),
        (fake_python(machine="aarch64"), "built for aarch64"),
        ("echo 'pyenv: version 3.10 is not installed' >&2; exit 1", "pyenv: version 3.10 is not installed"),
        ("exit 7", "exit status 7"),
    ],
)
def test_a_wrong_choice_is_told(bare: Path, monkeypatch: pytest.MonkeyPatch, body: str, why: str) -> None:
    monkeypatch.setenv("EDGE_PYTHON310", str(write(bare / "mine", body)))
    with pytest.raises(InstallError) as caught:
        find_python310()
    assert why in caught.value.seen


def test_a_shim_that_fails_is_passed_over(bare: Path, on_path: Program) -> None:
    on_path("python3.10", "echo 'pyenv: python3.10: command not found' >&2; exit 127")
    right = on_path("python3", fake_python())
    assert find_python310().path == right


@pytest.mark.parametrize(
    ("place", "source"),
    [
        (".pyenv/versions/3.10.13/bin/python3.10", "pyenv"),
        ("miniconda3/envs/work/bin/python3.10", "conda"),
        ("anaconda3/bin/python3.10", "conda"),
    ],
)
def test_version_managers_are_searched(bare: Path, place: str, source: str) -> None:
    path = write(bare / place, fake_python())
    found = find_python310()
    assert (found.path, found.source) == (path, source)


def test_the_newest_pyenv_patch_is_taken(bare: Path) -> None:
    for patch in (9, 13, 2):
        write(bare / f".pyenv/versions/3.10.{patch}/bin/python3.10", fake_python(version=f"3, 10, {patch}"))
    assert find_python310().version == "3.10.13"


def test_uv_is_asked_and_fetches_as_a_last_resort(
    bare: Path, on_path: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = write(bare / "uv-python", fake_python())
    uv = on_path(
        "uv", f'[ "$2" = install ] && : > {bare}/got && exit\n[ -f {bare}/got ] && echo {python} && exit\nexit 2'
    )
    monkeypatch.setattr(python310, "uv_program", lambda: str(uv))
    with pytest.raises(InstallError):
        find_python310(download=False)
    said: list[str] = []
    found = find_python310(say=said.append)
    assert (found.path, found.source) == (python, "uv")
    assert said == ["uv fetches Python 3.10"]
    assert find_python310(download=False).source == "uv"


def test_no_python_lists_where_it_looked(bare: Path, on_path: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = on_path("python3.10", "exit 127")
    uv = on_path("uv", "echo 'dns error' >&2; exit 2")
    monkeypatch.setattr(python310, "uv_program", lambda: str(uv))
    with pytest.raises(InstallError) as caught:
        find_python310()
    assert f"PATH: {shim}: does not run" in caught.value.seen
    assert "dns error" in caught.value.seen
    assert "uv python install 3.10" in str(caught.value.remedy)


def test_nothing_at_all_says_why_for_each_route(bare: Path) -> None:
    with pytest.raises(ToolchainMissing) as caught:
        find()
    for words in ("managed: not installed", "path: no hb_mapper on PATH", "docker: no docker or podman"):
        assert words in caught.value.seen
    assert "onnxruntime" in str(caught.value.remedy)
    with pytest.raises(UsageError):
        find("vendor")  # type: ignore[arg-type]


def test_status_looks_at_every_route(bare: Path, on_path: Program) -> None:
    on_path("hb_mapper", "echo 'hb_mapper, version 9.9.9'")
    write(bare / "miniconda3/bin/python3.10", fake_python())
    said = status()
    assert [(route.kind, route.available) for route in said.routes] == [
        ("managed", False),
        ("path", True),
        ("docker", False),
    ]
    assert said.routes[1].versions == {"hb_mapper": "9.9.9"}
    assert said.routes[2].why_not
    assert "(conda)" in said.python310


def test_a_plain_program_on_path_is_asked_for_its_version(fake_compiler: FakeCompiler) -> None:
    tool = find("path")
    assert (tool.kind, tool.where, tool.python) == ("path", str(fake_compiler.bin), None)
    assert tool.versions == {"hb_mapper": "1.24.3"}
    assert tool.identity == "hb_mapper 1.24.3"
    assert tool.python_argv() is None
    with pytest.raises(ToolchainError, match="not known"):
        tool.run_python(["x.py"], cwd=fake_compiler.bin, timeout=10)


def test_versions_are_read_from_the_packages_of_the_scripts_own_python(
    bare: Path, on_path: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    for file, version in (("horizon_tc_ui/version.py", "1.2"), ("hbdk/__init__.py", "3.4"), ("hmct/version.py", "5")):
        (site / file).parent.mkdir(parents=True)
        (site / file).write_text(f"raise SystemExit('must not be imported')\n__version__ = r\"{version}\"\n")
    # Its own Python: one that sees the packages above.
    python = write(
        tmp_path / "env" / "python", f'PYTHONPATH="{site}" exec "{os.path.realpath(sys.executable)}" -S "$@"'
    )
    (tmp_path / "fake-bin" / "hb_mapper").write_text(f"#!{python}\n")
    (tmp_path / "fake-bin" / "hb_mapper").chmod(0o755)
    tool = find("path")
    assert tool.versions == {"hb_mapper": "1.2", "hbdk": "3.4", "horizon_nn": "5"}
    assert tool.python == str(python)


def test_a_program_that_does_not_run_is_passed_over(bare: Path, on_path: Program) -> None:
    on_path("hb_mapper", "echo 'ImportError: libGL.so.1' >&2; exit 1")
    with pytest.raises(ToolchainMissing, match=r"does not run: ImportError: libGL\.so\.1"):
        find("path")


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("#!/opt/env/bin/python3.10\n", None),
        ("#!{here}/python\n", "{here}/python"),
        ("#!/usr/bin/env python\n", "{here}/python"),
        ('#!/bin/sh\n\'\'\'exec\' "{here}/python" "$0" "$@"\n', "{here}/python"),
        ("#!/bin/sh\nexec other\n", None),
        ("\x7fELF", None),
    ],
)
def test_the_first_line_names_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, expected: str | None
) -> None:
    write(tmp_path / "python", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    script = tmp_path / "hb_mapper"
    script.write_text(first.format(here=tmp_path))
    assert module._shebang(script) == (expected.format(here=tmp_path) if expected else None)


DOCKER = r"""
case "$1" in
info) {info} ;;
image) {image} ;;
manifest) {manifest} ;;
run) echo "$@" >> {log}; echo 'edge-versions {{"hb_mapper": "1.24.3"}}' ;;
esac
"""


def docker(tmp_path: Path, *, info: str = "exit 0", image: str = "echo sha256:abc", manifest: str = "exit 1") -> str:
    return DOCKER.format(info=info, image=image, manifest=manifest, log=tmp_path / "docker.log")


def test_a_docker_image_is_a_compiler(bare: Path, on_path: Program, tmp_path: Path) -> None:
    program = on_path("docker", docker(tmp_path))
    tool = find()
    assert (tool.kind, tool.where, tool.engine) == ("docker", IMAGE, str(program))
    assert tool.identity == "hb_mapper 1.24.3 image sha256:abc"
    (tmp_path / "in").mkdir()
    tool.run(["hb_mapper", "checker"], cwd=tmp_path, timeout=20, env={"TMPDIR": "/t"}, mounts=[tmp_path / "in"])
    line = (tmp_path / "docker.log").read_text().splitlines()[-1]
    assert line.endswith(f"--workdir {tmp_path} {IMAGE} hb_mapper checker")
    assert f"type=bind,source={tmp_path}/in,target={tmp_path}/in" in line
    for words in ("--rm", "-e TMPDIR=/t", "-e PYTHONHASHSEED=0", f"--user {os.getuid()}:{os.getgid()}"):
        assert words in line


def test_another_image_may_be_named(
    bare: Path, on_path: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path("docker", docker(tmp_path))
    monkeypatch.setenv("EDGE_DOCKER_IMAGE", "mine:1")
    assert find("docker").where == "mine:1"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"info": "echo 'Cannot connect to the daemon' >&2; exit 1"}, "Cannot connect to the daemon"),
        ({"image": "exit 1"}, "nor in its registry"),
        ({"info": "exec /bin/sleep 60"}, "does not answer within"),
    ],
)
def test_docker_without_engine_or_image_is_passed_over(
    bare: Path, on_path: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], why: str
) -> None:
    monkeypatch.setattr(module, "_ENGINE_TIMEOUT", 1.0)
    on_path("docker", docker(tmp_path, **options))
    with pytest.raises(ToolchainMissing, match=why) as caught:
        find("docker")
    assert "docker pull" in str(caught.value.remedy)


def test_an_image_that_can_be_pulled_counts(bare: Path, on_path: Program, tmp_path: Path) -> None:
    on_path("docker", docker(tmp_path, image="exit 1", manifest="exit 0"))
    assert find("docker").identity == f"image {IMAGE}"


def test_a_container_is_killed_at_the_time_limit(bare: Path, on_path: Program, tmp_path: Path) -> None:
    program = on_path("docker", f'echo "$@" >> {tmp_path}/calls; [ "$1" = run ] && exec /bin/sleep 60; exit 0')
    tool = Toolchain("docker", "image", engine=str(program))
    assert tool.run(["hb_mapper"], cwd=tmp_path, timeout=1).timed_out
    first, second = (tmp_path / "calls").read_text().splitlines()
    name = first.split("--name ")[1].split()[0]
    assert second == f"kill {name}"


def test_workers_are_files_of_ours() -> None:
    tool = Toolchain("path", "/bin")
    assert tool.worker_path("hb_mapper.py").is_file()
    with pytest.raises(ToolchainError, match="lacks its worker"):
        tool.worker_path("none.py")
