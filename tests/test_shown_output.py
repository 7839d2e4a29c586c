"""Another machine prints what the pages show; a changed output is seen there as here."""

from __future__ import annotations

import os
import platform
import re
import shlex
import textwrap
from collections import namedtuple
from pathlib import Path

import pytest

from edge.errors import InstallError
from edge.runtime import machine
from edge.toolchain import find
from edge.toolchain.find import Toolchain
from tests.conftest import Run
from tests.fabricated import NAMES, make_build
from tests.shown_output import KINDS, blocks, missing, shape, statements

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*/*.md")))
BLOCKS = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8"))]
SHOWN = dict(BLOCKS)
LINES = [line for _, shown in BLOCKS for line in statements(shown)]
VERSIONS = {"hb_mapper": "1.24.3", "hbdk": "3.49.15", "horizon_nn": "1.1.0"}
Usage = namedtuple("Usage", "total used free")


def command(start: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the words behind ``edge`` of the pages' first command that begins so, and what it shows."""
    line = next(line for line in SHOWN if line.startswith(start))
    return tuple(shlex.split(line)[1:]), SHOWN[line]


# Commands on machines that differ from the pages'


@pytest.mark.parametrize(
    ("cpuinfo", "architecture", "cores"),
    [
        ("model name\t: AMD EPYC 9R14 96-Core Processor\n", "x86_64", 64),
        ("model name\t: 12th Gen Intel(R) Core(TM) i5-1240P, 4.40 GHz @ 2x\n", "x86_64", 1),
        ("Hardware\t: BCM2711\n", "aarch64", 4),
        ("processor\t: 0\n", "riscv64", 8),
    ],
)
def test_edge_bench_on_another_processor(
    edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, architecture: str, cores: int
) -> None:
    words, shown = command("edge bench")
    build = make_build(tmp_path / "build" / "ConvNeXt_atto_demo", names=NAMES * 20)
    build.rename(build.with_name("ConvNeXt_atto"))
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    monkeypatch.setattr(platform, "processor", lambda: "")
    code, out, _ = edge(*words)
    assert code == 0
    assert architecture in out
    assert missing(shown, out.splitlines()) == []
    assert missing(shown, out.replace("machine ", "host ").splitlines()) == [
        line for line in statements(shown) if line.startswith("machine")
    ]
    one_thread_less = [line for line in out.splitlines() if not line.strip().startswith("2 ")]
    assert len(missing(shown, one_thread_less)) == 1


@pytest.mark.parametrize("memory", [None, 4_012_345_678, 1_531_234_567_890])
@pytest.mark.parametrize("free", [2_345_678_901, 7_654_321_012_345])
@pytest.mark.parametrize("python", ["3.10.4", "3.13.0rc1", "3.12.1+"])
def test_edge_doctor_elsewhere(
    edge: Run, monkeypatch: pytest.MonkeyPatch, memory: int | None, free: int, python: str
) -> None:
    words, shown = command("edge doctor")
    monkeypatch.setattr("edge.cli.doctor.available", lambda: memory)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**15, 0, free))
    monkeypatch.setattr(platform, "python_version", lambda: python)
    monkeypatch.setitem(find._ROUTES, "managed", lambda: Toolchain("managed", "/opt/bin", VERSIONS))
    code, out, _ = edge(*words)
    assert code == 0
    assert missing(shown, out.splitlines()) == []


def test_edge_doctor_where_something_lacks(edge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words, shown = command("edge doctor")
    monkeypatch.setattr("edge.cli.doctor.available", lambda: 3_900_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**15, 0, 10**9))
    monkeypatch.setitem(find._ROUTES, "managed", lambda: Toolchain("managed", "/opt/bin", VERSIONS))
    code, out, _ = edge(*words)
    assert code == 1
    lost = missing(shown, out.splitlines())
    assert [line.split()[1] for line in lost] == ["memory", "disk", "edge"]  # the last is "ready: edge build"


@pytest.mark.parametrize("where", ["/var/cache/some one/toolchain/0123/bin", "~/.cache/edge/toolchain/ab/bin"])
def test_edge_toolchain_status_elsewhere(edge: Run, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    words, shown = command("edge toolchain status")

    def no_python(**_: object) -> None:
        raise InstallError("no CPython 3.10 for x86-64; looked in PATH:\n  nothing that looked like one")

    monkeypatch.setattr(find, "find_python310", no_python)
    monkeypatch.setitem(find._ROUTES, "managed", lambda: Toolchain("managed", where, VERSIONS))
    monkeypatch.setitem(find._ROUTES, "path", lambda: Toolchain("path", "/opt/vendor/bin", VERSIONS))
    monkeypatch.setitem(find._ROUTES, "docker", lambda: Toolchain("docker", "ai_toolchain:v1", VERSIONS))
    code, out, _ = edge(*words)
    assert code == 0
    assert missing(shown, out.splitlines()) == []
    assert missing(shown, out.replace("docker ", "podman ").splitlines())
    assert missing(shown, out.replace("✓ managed", "- managed").splitlines())
    assert missing(shown, out.replace("in use: managed", "in use: path").splitlines())


# Recorded lines, as another machine would have them


def elsewhere(line: str) -> str:
    """Return a line with other times, figures, hashes and versions, by rules of its own."""
    line = re.sub(r"\b[0-9a-f]{12,64}\b", lambda m: m[0].translate(str.maketrans("0123abcd", "ba9876f1")), line)
    line = re.sub(r"\b[\d,]+(?= (DDR )?bytes)", "10,987,654", line)
    line = re.sub(r"(?<=error )0(?=,)", "1.3e-07", line)
    return re.sub(r"(?<![\w.-])(\d+)\.(\d+)(?=[ ,\])]|$)", lambda m: f"1{m[1]}.{m[2][::-1]}", line)


@pytest.mark.parametrize("start", SHOWN)
def test_every_output_with_other_figures(start: str) -> None:
    other = [elsewhere(line) for line in SHOWN[start]]
    assert missing(SHOWN[start], other) == []


@pytest.mark.parametrize("width", [70, 100, 130])
def test_where_filled_text_breaks_does_not_matter(width: int) -> None:
    _, shown = command("edge eval")
    filled = []
    for line in statements(shown):
        filled += textwrap.wrap(line, width, subsequent_indent="  ") if line.startswith("- ") else [line]
    assert missing(shown, filled) == []


GAINS = "gains 0.5 points (95 % -1.0 to 2.5), within noise (p = 1.00)"
COSTS = "costs 1.0 point (95 % -0.5 to 2.5), within noise (p = 0.62)"
LEAVES = "leaves Top-1 as it is (95 % -0.5 to 0.5), within noise (p = 1.00)"
BEYOND = "costs 5.0 points (95 % 2.5 to 8.0), beyond noise (p = 0.002)"
NV12 = f"- NV12 {GAINS}; 3 answers changed, 1 to wrong and 2 to right."
SIMPLIFIED = "- The simplifier gives the scores of float bit for bit on all 200 images."
PORTABLE = "- The portable model gives the scores of quantized bit for bit on all 200 images."
LAYER = "stem.0 conv 8 0.9998 1.0000 100 % -3.091 .. 2.727 2.337 0.00969 % 2.4x"
WEIGHTS = "! timm weights: no network: huggingface.co: its name is unknown; trying vendor"


@pytest.mark.parametrize(
    ("shown", "seen"),
    [
        (NV12, f"- NV12 {COSTS}; 1 answer changed, 1 to wrong and 0 to right."),
        (NV12, f"- NV12 {LEAVES}; 2 answers changed, 1 to wrong and 1 to right."),
        (NV12, "- NV12 changes no answer on 200 images."),
        (SIMPLIFIED, "- The simplifier changes no answer on 200 images."),
        (LAYER, "stages.1.norm LayerNorm 16 0.9 1.0000 97 % -2e-05 .. 12 11 0 % 12.4x"),
        (LAYER, "head.fc linear CPU 1.0000 1.0000 100 % -3 .. 2 - - -"),
        (WEIGHTS, "! timm weights: no network: the proxy 127.0.0.1:9: Connection refused; trying vendor"),
        ("machine A, x86_64, 2 cores", "machine B: C, D; E, aarch64, 1 core, 15.6 GiB of memory"),
        ("✓ export 4.5 s a, within 2e-07 of torch's scores", "✓ export 10.0 s a, within 0 of torch's scores"),
        ("static BPU 1377.5 us, 725.93 FPS", "static BPU 1.0 us, 7 FPS"),
    ],
)  # fmt: skip
def test_the_same_on_another_machine(shown: str, seen: str) -> None:
    assert missing([shown], [seen]) == []


# A changed output


@pytest.mark.parametrize(
    ("shown", "seen"),
    [
        (NV12, f"- NV12 {BEYOND}; 10 answers changed, 10 to wrong and 0 to right."),
        (NV12, f"- NV12 {GAINS}."),
        (f"Quantization {GAINS}: Top-1 94.5 → 95.0 %", f"Quantization {BEYOND}: Top-1 94.5 → 89.5 %"),
        (SIMPLIFIED, "- The simplifier changes the answer on 3 of 200 images (1.5 %)."),
        (PORTABLE, "- The portable model changes no answer on 200 images."),
        (LAYER, "stem.0 conv 8 0.9998 1.0000 100 % -3.091 .. 2.727 2.337 0.00969 %"),
        (LAYER, "stem.0 conv 8 0.9998 100 % -3.091 .. 2.727 2.337 0.00969 % 2.4x"),
        (WEIGHTS, "! timm weights: no network: huggingface.co: its name is unknown; trying demo"),
        (WEIGHTS, "! timm weights: the checksum is wrong; trying vendor"),
        ("machine A, x86_64, 2 cores", "machine A, x86_64"),
        ("machine A, x86_64, 2 cores", "A, x86_64, 2 cores"),
        ("✓ export 2.0 s", "✗ export 2.0 s"),
        ("✓ export 2.0 s", "= export 2.0 s"),
        ("static BPU 1377.5 us", "static BPU 1.4 ms"),
        ("size 4,199,391 bytes", "size 4.2 MB"),
        ("✓ memory 23.7 GB available", "✓ memory 22.1 GiB available"),
        ("384 → 307 nodes, max abs error 0, simplified", "384 → 307 nodes, max abs error 0, unsimplified"),
        ("384 → 307 nodes, max abs error 0, simplified", "384 → 310 nodes, max abs error 0, simplified"),
        ("bit for bit: 3 frames of 48 integers", "bit for bit: 2 frames of 48 integers"),
        ("a\na", "a"),
    ],
)  # fmt: skip
def test_a_change_is_seen(shown: str, seen: str) -> None:
    assert missing(shown.splitlines(), seen.splitlines())


FREE = {f"<{kind.name}>" for kind in KINDS if kind.free}
COMPARED = [line for line in dict.fromkeys(LINES) if not any(free in shape(line) for free in FREE)]


def test_most_of_the_readme_is_compared() -> None:
    assert len(COMPARED) > 0.9 * len(set(LINES))


@pytest.mark.parametrize("line", COMPARED)
def test_a_word_or_a_figure_that_goes_is_seen(line: str) -> None:
    """Whichever it is: a label, a field, a unit, a mark."""
    words = line.split()
    for i, word in enumerate(words):
        rest = " ".join((*words[:i], *words[i + 1 :]))
        assert missing([line], [rest]), f"{word} may go unseen"


@pytest.mark.parametrize("line", COMPARED)
def test_another_word_or_unit_is_seen(line: str) -> None:
    """Whichever is not of a kind."""
    words = line.split()
    for i, word in enumerate(words):
        if word in shape(line).split():
            other = " ".join((*words[:i], f"{word}q", *words[i + 1 :]))
            assert missing([line], [other]), f"{word} may change unseen"


def test_every_kind_is_on_a_page() -> None:
    """A kind that matches nothing there hides nothing there, and can go."""
    shapes = " ".join(map(shape, LINES))
    assert [kind.name for kind in KINDS if f"<{kind.name}>" not in shapes] == []
