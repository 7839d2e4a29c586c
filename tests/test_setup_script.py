"""``scripts/setup.sh`` on a machine that lacks something."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/setup.sh"
Program = Callable[[str, str], Path]
# An interpreter that makes environments, in whose pip a package fails to install.
PYTHON = """\
case "$*" in
*venv*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/pip" ;;
*"pip "*) echo "ERROR: no such package" >&2; exit 1 ;;
--version) echo Python 3.11.0 ;;
esac
"""


def free(program: Program, megabytes: int, folder: str = "") -> None:
    """Let a disk have that much left: that of paths which contain ``folder``, the others have plenty."""
    program(
        "df",
        f'case "$*" in *{folder}*) free={megabytes * 1024} ;; *) free=99999999 ;; esac\n'
        'printf "Filesystem 1024-blocks Used Available\\nx 1 1 $free\\n"',
    )


def setup(tmp_path: Path, **env: str) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", str(SCRIPT), "build"],
        env={**os.environ, "EDGE_VENV": str(tmp_path / "envs/venv"), **env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_too_small_a_disk_is_told_before_anything_is_written(tmp_path: Path, program: Program) -> None:
    free(program, 300)
    code, said = setup(tmp_path)
    assert code == 1
    assert "300 MB free, 650 MB are needed" in said
    assert "next: free some space, or set EDGE_VENV" in said
    assert not (tmp_path / "envs").exists()


@pytest.mark.parametrize(
    ("full", "remedy"),
    [
        ("envs/venv", "EDGE_VENV"),  # full only once the environment is there
        ("temporary", "TMPDIR"),
        ("nothing", "check the network"),
    ],
)
def test_a_failed_installation_tells_which_disk_is_full(
    tmp_path: Path, program: Program, full: str, remedy: str
) -> None:
    free(program, 20, full)
    (tmp_path / "temporary").mkdir()
    code, said = setup(tmp_path, EDGE_PYTHON=str(program("own-python", PYTHON)), TMPDIR=str(tmp_path / "temporary"))
    assert code == 1
    assert remedy in said.splitlines()[-1]
    assert ("20 MB free" in said) == (full != "nothing")
    assert not list((tmp_path / "envs/venv").glob(".edge-*"))


@pytest.mark.parametrize(
    ("options", "installed", "told"),
    [
        ((), False, True),
        (("--compiler", "auto"), False, True),
        ((), True, False),
        (("--compiler", "onnxruntime"), False, False),
        (("--level", "O0", "--compiler=docker"), False, False),
    ],
)
def test_the_cost_of_the_first_time_is_told_before_anything_else(
    tmp_path: Path, program: Program, options: tuple[str, ...], installed: bool, told: bool
) -> None:
    free(program, 300)  # where the set-up ends at once
    program("uname", "echo Linux x86_64")
    if installed:
        (tmp_path / "toolchain/0123").mkdir(parents=True)
        (tmp_path / "toolchain/0123/complete.json").touch()
    done = subprocess.run(
        ["bash", str(SCRIPT.with_name("build_bin.sh")), "ConvNeXt_atto", *options],
        env={**os.environ, "EDGE_VENV": str(tmp_path / "envs/venv"), "EDGE_CACHE": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert ("4.2 GB" in done.stderr.splitlines()[0]) == told
    assert done.stderr.count("the first time") == told
