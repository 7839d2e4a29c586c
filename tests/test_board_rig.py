"""edge on the vendor's real Python modules, in the emulated root of ``scripts/board_rig.sh``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.pipeline.bundle import bundle, install_script
from edge.pipeline.wheels import wheels_zip
from tests.rig.bindings import build, store_answer

ROOT = Path(__file__).resolve().parent.parent
EDGE = "edge/__init__.py"
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


@pytest.mark.slow
@pytest.mark.parametrize("user", ["0", "1000"])
@pytest.mark.usefixtures("root")
def test_a_bundle_installs_without_a_network_and_passes_its_own_test(tmp_path: Path, user: str) -> None:
    made = bundle(store_answer(build(tmp_path / "net")), tmp_path / "share").path
    version = rig("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").stdout.strip()
    (made / "wheels.zip").write_bytes(wheels_zip(version))  # Debian's Python is not the board's
    (made / "install.sh").write_text(install_script(version))
    script = """
        cp -r /share "my net"; sh "my net/install.sh" && mv "my net" moved && moved/edge selftest moved
        PYTHONPATH=moved/lib python3 -c "import edge, numpy, cv2; print(edge.__file__, numpy.__file__, cv2.__file__)"
        ls -A; cat /proc/net/dev | grep -c :
    """
    done = rig("sh", "-c", script, RIG_SHARE=str(made), RIG_USER=user)
    said = done.stdout.splitlines()
    passed = "PASS: net runs on this board's BPU and gives the answer that was built with it"
    assert said.count(passed) == 2, done.stdout + done.stderr
    system = "/usr/lib/python3/dist-packages"
    assert said[-3].split() == [f"/tmp/moved/lib/{EDGE}", f"{system}/numpy/__init__.py", f"{system}/cv2/__init__.py"]
    assert said[-2] == "moved"  # nothing else in the home, and the rest of the root can't be written
    assert said[-1] == "1"  # no network but loopback


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "env"):
        (tools / name).symlink_to(shutil.which(name) or name)
    done = rig("true", PATH=str(tools))
    assert done.returncode == 1
    assert done.stderr == "error: no qemu-aarch64-static\nnext: apt-get install qemu-user-static\n"
