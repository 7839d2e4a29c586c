"""The README is true: its commands run in a fresh clone and print what it shows; its code map is the code's.

EDGE_REGENERATE_README=1 rewrites the outputs and the code map from what is seen.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.toolchain.found import Toolchain

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CHINESE = ROOT / "README_cn.md"
REGENERATE = os.environ.get("EDGE_REGENERATE_README") == "1"
BLOCK = re.compile(r"```console\n(.*?)```\n", re.DOTALL)
MAP = re.compile(r"(<!-- code map.*?-->\n)(.*?)(<!-- end of code map -->)", re.DOTALL)
PROGRESS = re.compile(r"^  \w+ +\d+%")
# What a machine has or lacks: another compiler, an engine, a network, how its Python 3.10 came there.
MACHINE = re.compile(
    r"^(- |setting up |Python 3\.10: |[✓✗] (python|paddle|mindspore) |! (timm|vendor) weights)"
)


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """Return (command, shown output) of each console block."""
    found = []
    for match in BLOCK.finditer(text):
        first, *shown = match.group(1).splitlines()
        assert first.startswith("$ ")
        found.append((first.removeprefix("$ "), shown))
    return found


def code_map() -> str:
    lines = []
    for path in sorted((ROOT / "edge").rglob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc, f"{path} says nothing of itself"
        name = path.relative_to(ROOT)
        lines.append(f"| `{name}` | {doc.splitlines()[0].replace('|', '/')} |")
    return "\n".join(["", "| module | what |", "|---|---|", *lines, "", ""])


def shape(line: str) -> str:
    """Return a line without what differs from run to run: numbers, hashes, widths, the user's own paths."""
    line = re.sub(r"\b[0-9a-f]{12,64}\b", "#", line)
    line = re.sub(r"(/[\w.~-]+)+(?=/)", "~", line)
    return re.sub(r"\s+", " ", re.sub(r"\d[\d.,]*", "#", line)).strip()


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
    """Run a command in the clone; return its lines, progress left out."""
    env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "EDGE_VENV")}
    if not REGENERATE:
        # The README shows a machine with no network but a package index; pip has done its part by now.
        subprocess.run(["bash", "scripts/setup.sh", "build"], cwd=clone, env=env, check=True)
        env |= {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    env["PATH"] = f"{clone}/.venv/bin{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=clone,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == (2 if "ConvNext_ato" in command else 0), done.stdout
    lines = [line.rstrip().replace(str(Path.home()), "~") for line in done.stdout.splitlines()]
    return [line for line in lines if not PROGRESS.match(line)]


def show(command: str, seen: list[str]) -> None:
    """Write a command's output into both pages."""
    body = "\n".join([f"$ {command}", *seen]).rstrip()
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
        shapes = {shape(line) for line in seen}
        for line in shown:
            if MACHINE.match(line):
                continue
            assert shape(line) in shapes, f"$ {command}\nno longer prints: {line}"


def test_the_code_map_is_the_codes_own() -> None:
    for page in (README, CHINESE):
        text = page.read_text()
        if REGENERATE:
            page.write_text(MAP.sub(lambda m: m.group(1) + code_map() + m.group(3), text))
            continue
        match = MAP.search(text)
        assert match
        assert match.group(2) == code_map()


def test_both_readmes_have_the_same_commands_and_links() -> None:
    english, chinese = README.read_text(), CHINESE.read_text()
    assert blocks(english) == blocks(chinese)
    code = re.compile(r"```bash\n(.*?)```", re.DOTALL)
    assert code.findall(english) == code.findall(chinese)
    for target in re.findall(r"\]\(([^)#:]+)\)", english + chinese):
        assert (ROOT / target).exists(), target


def test_a_changed_output_would_be_seen() -> None:
    assert shape("static BPU  1377.5 us, 725.93 FPS") == shape("static BPU   1.0 us, 7 FPS")
    assert shape("✓ export   2.0 s") != shape("✗ export   2.0 s")
