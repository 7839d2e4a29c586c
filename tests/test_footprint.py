"""A run of the compiler that would not fit in memory is foretold and refused; one that fits is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import NotEnoughMemory
from edge.memory import available
from edge.toolchain.footprint import GIB, Purpose, estimate, require
from tests.conftest import FakeCompiler, Run, save_net

MIB = 1 << 20

# Peak resident memory in MiB of the process tree, hb_mapper 1.24.3, O0 unless said otherwise.
MEASURED: list[tuple[str, Purpose, float, float]] = [
    ("ConvNeXt_atto, 20 pictures", "compile", 3.70, 843),
    ("ConvNeXt_atto, O3", "compile", 3.70, 811),
    ("MobileNetV1-0.75", "compile", 2.60, 749),
    ("ResNet18 at 64 pixels", "compile", 11.69, 1788),
    ("CSPDarkNet53, 20 pictures", "compile", 27.62, 2605),
    ("ConvNeXt_tiny at 64 pixels", "compile", 28.59, 2926),
    ("ConvNeXt_tiny, 20 pictures", "compile", 28.59, 2992),
    ("ConvNeXt_tiny, 100 pictures", "compile", 28.59, 2980),
    ("ConvNeXt_base_384, 10 pictures", "compile", 88.59, 7210),
    ("ConvNeXt_small, O3", "compile", 50.22, 3614),
    ("NextViT_large_224, O3", "compile", 57.90, 4139),
    ("ConvNeXt_large_224, O3", "compile", 197.77, 11368),
    ("ConvNeXt_large_384, O3", "compile", 197.77, 13094),
    ("one layer", "check", 0.0, 447),
    ("CSPDarkNet53", "check", 27.62, 2069),
    ("ConvNeXt_tiny", "check", 28.59, 1944),
    ("ConvNeXt_small", "check", 50.22, 3042),
    ("ConvNeXt_large_384", "check", 197.77, 10283),
]


@pytest.mark.parametrize(("name", "purpose", "millions", "peak"), MEASURED)
def test_the_estimate_lies_above_what_was_measured_and_not_far(
    name: str, purpose: Purpose, millions: float, peak: float
) -> None:
    ratio = estimate(round(millions * 1e6), purpose) / MIB / peak
    assert 1.0 <= ratio < (1.6 if peak < 1000 else 1.33), f"{name}: {ratio:.2f}"


@given(st.integers(0, 10**9))
def test_more_weights_need_more_and_a_check_needs_less(parameters: int) -> None:
    assert estimate(parameters + 1000, "compile") > estimate(parameters, "compile")
    assert estimate(parameters, "check") <= estimate(parameters, "compile")


def test_what_does_not_fit_is_refused_with_advice() -> None:
    require(200_000_000, "compile", free=20 * GIB, name="x")
    require(200_000_000, "compile", free=None, name="x")
    with pytest.raises(NotEnoughMemory) as caught:
        require(200_000_000, "compile", free=10 * GIB, name="Large")
    text = str(caught.value)
    for words in ("compile Large", "200.0 M", "14.1 GiB", "10.0 GiB are free", "24 GiB", "--any-memory"):
        assert words in text
    with pytest.raises(NotEnoughMemory, match="with 143 GiB"):
        require(2_200_000_000, "compile", free=10 * GIB, name="x")


MEMINFO = (
    "MemTotal:       24000000 kB\nMemFree: 5 kB\nMemAvailable:   10485760 kB\nHugePages_Total:       0\n"
)


def machine(root: Path, files: dict[str, object]) -> Path:
    for name, content in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def test_the_kernels_own_figure(tmp_path: Path) -> None:
    assert available(machine(tmp_path, {})) == 10 * GIB


def test_nothing_is_known_without_proc(tmp_path: Path) -> None:
    assert available(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"}, 10),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/memory.max": "max",
                "sys/fs/cgroup/a/memory.max": 4 * GIB,
                "sys/fs/cgroup/a/memory.current": 3 * GIB,
                "sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {GIB}",
            },
            2,
        ),
        (  # a container sees its own group as the top
            {
                "proc/self/cgroup": "0::/docker/0123",
                "sys/fs/cgroup/memory.max": 6 * GIB,
                "sys/fs/cgroup/memory.current": GIB,
            },
            5,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/job\n0::/",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": 8 * GIB,
                "sys/fs/cgroup/memory/job/memory.usage_in_bytes": 5 * GIB,
                "sys/fs/cgroup/memory/job/memory.stat": "total_inactive_file 0",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
                "sys/fs/cgroup/memory/memory.usage_in_bytes": 1,
            },
            3,
        ),
        (  # a group may be over a limit that was lowered
            {
                "proc/self/cgroup": "0::/",
                "sys/fs/cgroup/memory.max": GIB,
                "sys/fs/cgroup/memory.current": 2 * GIB,
            },
            0,
        ),
        ({"proc/self/cgroup": "nonsense", "sys/fs/cgroup/memory.max": "what"}, 10),
    ],
    ids=["unlimited", "v2", "container", "v1", "over", "nonsense"],
)
def test_limits_of_control_groups(tmp_path: Path, files: dict[str, object], gib: int) -> None:
    assert available(machine(tmp_path, files)) == gib * GIB


def test_this_machine_tells() -> None:
    found = available()
    assert found is None or found > 100 * MIB


def test_a_compile_that_would_not_fit_is_not_started(
    edge: Run, tmp_path: Path, fake_compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = save_net(tmp_path / "net.onnx")
    compile_net = ("compile", str(net), "--mean", "0", "--std", "255", "--calib-count", "20")
    monkeypatch.setattr("edge.pipeline.source.available", lambda: 100 * MIB)
    fake_compiler.mode("hang")  # it would not come back
    code, _, err = edge(*compile_net)
    assert code == 1
    assert "0.8 GiB of memory, and 0.1 GiB are free" in err
    assert "--any-memory" in err
    assert not list((tmp_path / "build/net/.stages").glob("*compile*"))
    assert fake_compiler.pids() == []
    fake_compiler.mode("ok")
    code, _, err = edge(*compile_net, "--any-memory")
    assert code == 0, err
    assert edge(*compile_net)[0] == 0  # what is done needs no memory
    code, _, err = edge("check", *compile_net[1:])
    assert code == 1
    assert "to check net" in err
