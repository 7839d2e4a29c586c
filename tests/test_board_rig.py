"""edge on the vendor's real Python modules, in the emulated root of ``scripts/board_rig.sh``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts/board_rig.sh"


def rig(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *command], capture_output=True, text=True, env={**os.environ, **env}, check=False
    )


@pytest.fixture(scope="session")
def root() -> None:
    """The emulated root; skips with the script's own reason where it can't be had."""
    done = rig("true")
    if done.returncode:
        pytest.skip(f"no emulated board: {done.stderr.strip()}")


@pytest.mark.slow
@pytest.mark.usefixtures("root")
def test_the_bindings_are_as_edge_takes_them() -> None:
    done = rig()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d\d passed", done.stdout, re.MULTILINE), done.stdout


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "env"):
        (tools / name).symlink_to(shutil.which(name) or name)
    done = rig("true", PATH=str(tools))
    assert done.returncode == 1
    assert done.stderr == "error: no qemu-aarch64-static\nnext: apt-get install qemu-user-static\n"
