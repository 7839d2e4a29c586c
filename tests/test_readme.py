"""The README is true: its commands run in a fresh clone and print what it shows.

EDGE_REGENERATE_README=1 rewrites the outputs from what is seen.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.toolchain import managed
from edge.toolchain.found import Toolchain
from edge.toolchain.managed import COMPILER
from tests.shown_output import PROGRESS, blocks, missing

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CHINESE = ROOT / "README_cn.md"
REGENERATE = os.environ.get("EDGE_REGENERATE_README") == "1"
# What a stranger's shell does not have.
OURS = ("VIRTUAL_ENV", "PYTHONPATH", "EDGE_VENV", "EDGE_ZOO", "FORCE_COLOR")
PAST_THE_PROXY = ("NO_PROXY", "no_proxy")
NO_NETWORK = "http://127.0.0.1:9"


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain) -> Path:
    """A copy of what git tracks or would add, as a stranger gets it: no environment, no build."""
    folder = tmp_path_factory.mktemp("clone") / "edge"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run(command: str, clone: Path) -> list[str]:
    """Run a command in the clone; return its lines."""
    env = {name: value for name, value in os.environ.items() if name not in OURS} | {"LC_ALL": "C.UTF-8"}
    if not REGENERATE:
        # The README shows a machine with no network but a package index; pip has done its part by now.
        subprocess.run(["bash", "scripts/setup.sh", "build"], cwd=clone, env=env, check=True)
        env |= dict.fromkeys(("HTTPS_PROXY", "https_proxy"), NO_NETWORK) | dict.fromkeys(PAST_THE_PROXY, "")
        # Nor has it downloaded weights before, as the user of this machine may have.
        env |= {"EDGE_CACHE": str(compiler_only(clone.parent / "cache")), "HF_HOME": str(clone.parent / "hf")}
    env["PATH"] = f"{clone}/.venv/bin{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=clone, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    assert done.returncode == (2 if "ConvNext_ato" in command else 0), done.stdout
    return [line.rstrip().replace(str(Path.home()), "~") for line in done.stdout.splitlines()]


def compiler_only(cache: Path) -> Path:
    """Make a cache folder that holds nothing but the compiler that is installed in the user's."""
    cache.mkdir(exist_ok=True)
    link = cache / COMPILER.folder
    if not link.exists():
        link.symlink_to(managed.cache_dir() / COMPILER.folder)
    return cache


def show(command: str, seen: list[str]) -> None:
    """Write a command's output into both pages."""
    kept = [line for line in seen if not PROGRESS.pattern.search(line)]
    body = "\n".join([f"$ {command}", *kept]).rstrip()
    pattern = re.compile(rf"```console\n\$ {re.escape(command)}\n.*?```\n", re.DOTALL)
    for page in (README, CHINESE):
        page.write_text(pattern.sub(lambda _: f"```console\n{body}\n```\n", page.read_text()))


@pytest.mark.compiler
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_commands_print_what_the_readme_shows(clone: Path) -> None:
    for command, shown in blocks(README.read_text()):
        seen = run(command, clone)
        if REGENERATE:
            show(command, seen)
            continue
        lost = "\n".join(missing(shown, seen))
        assert not lost, f"$ {command}\nno longer prints:\n{lost}\nbut:\n" + "\n".join(seen)


def test_both_readmes_have_the_same_commands_and_links() -> None:
    english, chinese = README.read_text(), CHINESE.read_text()
    assert blocks(english) == blocks(chinese)
    code = re.compile(r"```bash\n(.*?)```", re.DOTALL)
    assert code.findall(english) == code.findall(chinese)
    for target in re.findall(r"\]\(([^)#:]+)\)", english + chinese):
        assert (ROOT / target).exists(), target
