"""The README and the docs are true: their commands run in a fresh clone and print what is shown.

EDGE_REGENERATE_DOCS=1 rewrites the outputs from what is seen, and docs/reference/cli.md from the command line.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import onnx
import pytest
from attrs import frozen

from edge.cli import cli
from edge.toolchain import managed
from edge.toolchain.found import Toolchain
from edge.toolchain.managed import COMPILER
from tests import trained_net
from tests.board_server import Board, server
from tests.cli_page import cli_page, commands
from tests.shown_output import PROGRESS, missing

__all__ = ["server"]

ROOT = Path(__file__).resolve().parent.parent
README, CHINESE = ROOT / "README.md", ROOT / "README_cn.md"
DOCS = ROOT / "docs"
CLI_PAGE = DOCS / "reference" / "cli.md"
REGENERATE = os.environ.get("EDGE_REGENERATE_DOCS") == "1"
LONGEST_README = 200
# What a stranger's shell does not have.
OURS = ("VIRTUAL_ENV", "PYTHONPATH", "EDGE_VENV", "EDGE_ZOO", "FORCE_COLOR")
PAST_THE_PROXY = ("NO_PROXY", "no_proxy")
NO_NETWORK = "http://127.0.0.1:9"

# Beginnings of commands that the suite can't run, and why. Their verbs, options and values are checked.
NOT_RUN = {
    "scripts/test.sh": "it is this suite",
    "edge tune": "up to 45 minutes; tests/test_tune.py runs searches",
    "edge eval ConvNeXt_atto --cluster": "takes dask.distributed and workers; tests/test_cluster.py",
    "edge build ConvNeXt_atto ConvNeXt_femto": "likewise",
    "edge serve": "it runs until it is stopped; tests/test_serve_cli.py runs it, and its page's clients",
    "edge run ConvNeXt_atto /dev/video0": "takes a camera; tests/test_video.py",
    "edge bench ConvNeXt_atto --pipeline --image /dev/video0": "likewise",
    "edge models --check-all": "hours",
    "edge models --measure": "it exports every model of the zoo",
    "edge toolchain install": "gigabytes; tests/test_toolchain_install.py installs stand-ins",
    "edge build --paddle": "takes PaddlePaddle's environment; tests/test_frameworks.py",
    "edge export --paddle": "likewise",
    "edge build --mindspore": "takes MindSpore's environment; tests/test_frameworks.py",
    "edge export --mindspore": "likewise",
    "edge build timm:": "takes trained weights from the network; tests/test_torch_models.py",
}
# Commands that are shown to fail: part of the command -> exit code.
FAILING = {"ConvNext_ato": 2, "edge lint convnext_config.yaml": 1}


@frozen
class Block:
    """A fenced block of a page."""

    page: Path
    kind: str  #: ``console``, ``bash``, ``python``, …
    text: str

    @property
    def command(self) -> str:
        """The command of a console block."""
        first, *_ = self.text.splitlines()
        assert first.startswith("$ "), f"{self.page}: {first}"
        return first.removeprefix("$ ")

    @property
    def lines(self) -> list[str]:
        """The commands of a bash block, continued lines joined, comments left out."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def pages() -> list[Path]:
    """Return the English pages in the order in which their commands run."""
    first = [README, DOCS / "guides" / "own-model.md"]
    others = sorted(path for path in DOCS.rglob("*.md") if "zh" not in path.relative_to(DOCS).parts)
    return [path for path in dict.fromkeys([*first, *others]) if path.exists()]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [Block(page, kind, text) for kind, text in found]


def why_not_run(line: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if line.startswith(start)), None)


# --- what runs


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain) -> Path:
    """A copy of what git tracks or would add, as a stranger gets it, with the files that the pages call the user's."""
    folder = tmp_path_factory.mktemp("clone") / "edge"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    onnx.save(trained_net.network(trained_net.train()), folder / "my.onnx")
    trained_net.save_images(folder / "train", 100, seed=1)
    trained_net.save_images(folder / "val", 80, seed=2)
    return folder


def run(script: str, clone: Path, *, code: int = 0) -> list[str]:
    """Run a script of bash in the clone; return its lines."""
    env = {name: value for name, value in os.environ.items() if name not in OURS} | {"LC_ALL": "C.UTF-8"}
    if not REGENERATE:
        # The pages show a machine with no network but a package index; pip has done its part by now.
        subprocess.run(["bash", "scripts/setup.sh", "build"], cwd=clone, env=env, check=True)
        # Nor has it downloaded weights before, as the user of this machine may have.
        env |= {"EDGE_CACHE": str(compiler_only(clone.parent / "cache")), "HF_HOME": str(clone.parent / "hf")}
        if not (clone.parent / "cache" / "board_wheels").exists():
            fetch = "from edge.pipeline.wheels import wheels_zip; wheels_zip()"
            subprocess.run([clone / ".venv" / "bin" / "python", "-c", fetch], cwd=clone, env=env, check=True)
        env |= dict.fromkeys(("HTTPS_PROXY", "https_proxy"), NO_NETWORK) | dict.fromkeys(PAST_THE_PROXY, "")
    if not script.startswith("scripts/"):  # those are for a shell in which nothing is activated yet
        env["PATH"] = f"{clone}/.venv/bin{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=clone,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert done.returncode == code, f"{script}\n{done.stdout}"
    return [line.rstrip().replace(str(Path.home()), "~") for line in done.stdout.splitlines()]


def compiler_only(cache: Path) -> Path:
    """Make a cache folder that holds nothing but the compiler that is installed in the user's."""
    cache.mkdir(exist_ok=True)
    link = cache / COMPILER.folder
    if not link.exists():
        link.symlink_to(managed.cache_dir() / COMPILER.folder)
    return cache


def reaching(line: str, board: Board, clone: Path) -> str:
    """Return a command to the board ``rdk`` so that it reaches the tests' stand-in, which computes as it should."""
    if not re.search(r"\brdk\b", line):
        return line
    program = next((clone / "build" / "ConvNeXt_atto").glob("*_portable_int8.onnx"))
    shutil.copy(program, board.root / "model.onnx")
    command = re.sub(r"\brdk\b", board.host, line.partition(" #")[0])
    return f"{command} {shlex.join(board.reach)}"


def show(page: Path, command: str, seen: list[str]) -> None:
    """Write a command's output into the page that shows it, and into its Chinese twin."""
    kept = [line for line in seen if not PROGRESS.pattern.search(line)]
    body = "\n".join([f"$ {command}", *kept]).rstrip()
    pattern = re.compile(rf"```console\n\$ {re.escape(command)}\n.*?```\n", re.DOTALL)
    twin = CHINESE if page == README else DOCS / "zh" / page.relative_to(DOCS)
    for shown in (page, twin):
        if shown.exists():
            text = shown.read_text(encoding="utf-8")
            shown.write_text(pattern.sub(lambda _: f"```console\n{body}\n```\n", text), encoding="utf-8")


@pytest.mark.compiler
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_commands_print_what_the_pages_show(clone: Path, server: Board) -> None:
    server.reset()
    for page in pages():
        python = []
        for block in blocks(page):
            if block.kind == "console":
                code = next((code for part, code in FAILING.items() if part in block.command), 0)
                seen = run(reaching(block.command, server, clone), clone, code=code)
                if REGENERATE:
                    show(page, block.command, seen)
                    continue
                lost = "\n".join(missing(block.text.splitlines()[1:], seen))
                assert not lost, f"{page}: $ {block.command}\nno longer prints:\n{lost}\nbut:\n" + "\n".join(seen)
            elif block.kind == "bash":
                lines = [reaching(line, server, clone) for line in block.lines if why_not_run(line) is None]
                run("\n".join(lines), clone)
            elif block.kind == "python":
                python.append(block.text)
        if python:
            script = clone / f"{page.stem}_examples.py"
            script.write_text("\n".join(python), encoding="utf-8")
            run(f"python {script.name}", clone)


# --- what can be known without running


def parse(line: str) -> None:
    """Refuse a command of edge whose verb, options or values there are not; nothing is done."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    if not words or words[0] != "edge":
        return
    words, command = words[1:], cli
    context = click.Context(cli, info_name="edge", **cli.context_settings)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"there is no verb {name}: {line}"
        command, context = found, click.Context(found, parent=context, info_name=name)
    if not {"-h", "--help", "--version"} & set(words):
        command.parse_args(context, words)


def shown_commands() -> Iterator[tuple[Path, str]]:
    for page in pages():
        for block in blocks(page):
            if block.kind == "console":
                yield page, block.command
            elif block.kind == "bash":
                yield from ((page, line) for line in block.lines)


def test_every_shown_command_can_be_typed() -> None:
    for page, line in shown_commands():
        try:
            parse(line)
        except click.ClickException as error:
            if "does not exist" not in error.message:  # of a file that an earlier command of the page makes
                pytest.fail(f"{page}: {line}: {error.format_message()}")


@pytest.mark.parametrize("line", ["edge biuld x", "edge build x --lvl O3", "edge build x --level O9", "edge eval"])
def test_a_command_that_there_is_not_would_be_seen(line: str) -> None:
    with pytest.raises((AssertionError, click.ClickException)):
        parse(line)


def test_what_is_not_run_is_still_shown_somewhere() -> None:
    lines = [line for _, line in shown_commands()]
    for start in NOT_RUN:
        assert any(line.startswith(start) for line in lines), f"no page shows {start}"


def test_the_command_lines_page_is_the_command_line() -> None:
    text = cli_page()
    if REGENERATE:
        CLI_PAGE.write_text(text, encoding="utf-8")
    assert CLI_PAGE.read_text(encoding="utf-8") == text, "EDGE_REGENERATE_DOCS=1 pytest tests/test_docs.py"


def test_every_verb_stands_in_a_guide() -> None:
    guides = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "guides").glob("*.md"))
    for verb, _ in commands():
        assert re.search(rf"\bedge {' '.join(verb)}\b", guides), f"no guide speaks of edge {' '.join(verb)}"


def test_the_readme_is_short() -> None:
    for page in (README, CHINESE):
        assert len(page.read_text(encoding="utf-8").splitlines()) <= LONGEST_README, page


LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield each relative link of a page, the file it means, and its anchor."""
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield target, (page.parent / path).resolve() if path else page, anchor


def test_every_link_leads_somewhere() -> None:
    for page in (README, CHINESE, *DOCS.rglob("*.md")):
        for target, path, anchor in links(page):
            assert path.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors(path), f"{page}: {target}"


def test_every_page_is_two_clicks_from_the_readme() -> None:
    reached = newest = {README}
    for _ in range(2):
        newest = {path for page in newest for _, path, _ in links(page) if path.suffix == ".md"}
        reached = reached | newest
    assert not set(pages()) - reached


def test_both_readmes_have_the_same_commands() -> None:
    english, chinese = (
        [re.sub(r" +#.*", "", block.text) for block in blocks(page) if block.kind in ("console", "bash", "python")]
        for page in (README, CHINESE)
    )
    assert english == chinese
