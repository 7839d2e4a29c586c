"""Installing the compiler: whole or not at all, and each obstacle told, with a fake uv."""

from __future__ import annotations

import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

from edge.errors import InstallError, ToolchainMissing
from edge.toolchain import install as module
from edge.toolchain import managed
from edge.toolchain.find import find
from edge.toolchain.found import Toolchain
from edge.toolchain.install import install
from edge.toolchain.managed import COMPILER
from edge.toolchain.python310 import Python310

Program = Callable[[str, str], Path]

# Makes an environment as uv would; what FAKE_UV says it does while installing packages.
FAKE_UV = r"""
echo "$@" >> "$FAKE_UV_LOG"
case "$1" in
venv)
    for last; do :; done
    mkdir -p "$last/bin" "$last/lib/python3.10/site-packages/horizon_tc_ui"
    printf '#!/bin/sh\nexit 0\n' > "$last/bin/python"
    chmod +x "$last/bin/python"
    echo "$last" > "$FAKE_UV_LOG.venv" ;;
pip)
    venv=$(cat "$FAKE_UV_LOG.venv")
    echo "__version__ = '1.24.3'" > "$venv/lib/python3.10/site-packages/horizon_tc_ui/version.py"
    case "$(cat "$FAKE_UV_MODE")" in
    ok) ;;
    slow) sleep 1 ;;
    hang) touch "$FAKE_UV_LOG.hangs"; sleep 600 ;;
    offline) echo "  cause: Failed to fetch: http://index/simple/absl-py/" >&2
        echo "  cause: dns error" >&2; exit 1 ;;
    full) echo "No space left on device (os error 28)" >&2; exit 2 ;;
    hash) echo "error: Hash mismatch for absl-py==2.5.1" >&2; exit 1 ;;
    odd) echo "something else went wrong" >&2; exit 9 ;;
    broken) printf '#!/bin/sh\necho "ImportError: libGL.so.1" >&2; exit 1\n' > "$venv/bin/hb_mapper"
        chmod +x "$venv/bin/hb_mapper"; exit 0 ;;
    esac
    echo "Installed 84 packages in 1ms" >&2
    for tool in hb_mapper hbdk-cc; do
        printf '#!/bin/sh\nexit 0\n' > "$venv/bin/$tool"
        chmod +x "$venv/bin/$tool"
    done ;;
esac
"""


class FakeUv:
    def __init__(self, tmp_path: Path) -> None:
        self.log, self.mode_file = tmp_path / "uv.log", tmp_path / "uv.mode"
        self.mode("ok")

    def mode(self, mode: str) -> None:
        self.mode_file.write_text(mode)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def fake_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program) -> FakeUv:
    fake = FakeUv(tmp_path)
    path = program("uv", FAKE_UV)
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_UV_LOG", str(fake.log))
    monkeypatch.setenv("FAKE_UV_MODE", str(fake.mode_file))
    monkeypatch.setattr(module, "uv_program", lambda: str(path))
    monkeypatch.setattr(module, "find_python310", lambda given, say: Python310(Path(sys.executable), "3.10.0", "test"))
    monkeypatch.setattr(module, "require_platform", lambda _: None)
    monkeypatch.setattr(module, "_pip_config", dict)
    monkeypatch.setattr(module, "COMPILER", evolve(COMPILER, needed_bytes=1))
    return fake


class Recorder:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def update(self, text: str, fraction: float | None = None) -> None:
        self.texts.append(text)

    def warn(self, message: str) -> None:
        self.texts.append(message)


def test_an_install_is_marked_found_and_reused(fake_uv: FakeUv) -> None:
    recorder = Recorder()
    tool = install(reporter=recorder)
    assert tool.kind == "managed"
    assert tool.versions == {"hb_mapper": "1.24.3"}
    assert managed.place().digest in tool.identity
    assert json.loads((managed.place().folder / managed.MARKER).read_text())["python"] == "3.10.0"
    assert "Installed 84 packages in 1ms" in recorder.texts
    assert "--require-hashes" in fake_uv.calls()[1]
    before = fake_uv.calls()
    assert install() == tool == find("managed") == find()
    assert fake_uv.calls() == before


def test_the_folder_is_named_after_the_lock_file(
    fake_uv: FakeUv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = managed.place()
    changed = tmp_path / "other.lock"
    changed.write_bytes(managed.lock_file().read_bytes() + b"\n")
    monkeypatch.setattr(managed, "lock_file", lambda _: changed)
    assert managed.place().folder != before.folder
    assert managed.place().folder.parent == before.folder.parent


def test_the_lock_file_pins_everything_by_hash_and_names_no_index() -> None:
    text = managed.lock_file().read_text()
    pins = re.findall(r"^(\S+)==(\S+) \\$", text, re.MULTILINE)
    assert dict(pins)["rdkx5-yolo-mapper"] == "1.0.0"
    assert int(dict(pins)["setuptools"].split(".")[0]) < 81
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) >= len(pins)
    assert "://" not in text
    assert not re.search(r"^--|^#", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("mode", "seen", "remedy"),
    [
        ("offline", "can't be reached", "--compiler onnxruntime"),
        ("full", "the disk is full", "EDGE_CACHE"),
        ("hash", "does not have the pinned hash", "uv cache clean"),
        ("odd", "exit status 9:\n  something else", "--verbose"),
        ("broken", "libGL.so.1", "--verbose"),
    ],
)
def test_a_failure_is_told_leaves_nothing_and_the_next_install_works(
    fake_uv: FakeUv, mode: str, seen: str, remedy: str
) -> None:
    fake_uv.mode(mode)
    with pytest.raises(InstallError) as caught:
        install()
    assert seen in caught.value.seen
    assert caught.value.remedy is not None
    assert remedy in caught.value.remedy
    assert not managed.place().folder.exists()
    with pytest.raises(ToolchainMissing):
        find("managed")
    fake_uv.mode("ok")
    assert install().kind == "managed"


def test_a_killed_install_is_never_taken_for_good(fake_uv: FakeUv, tmp_path: Path) -> None:
    fake_uv.mode("hang")
    code = f"""
from pathlib import Path
from edge.toolchain import install as module
from attrs import evolve
from edge.toolchain.managed import COMPILER
from edge.toolchain.python310 import Python310
module.uv_program = lambda: {module.uv_program()!r}
module.find_python310 = lambda given, say: Python310(Path("python"), "3.10.0", "test")
module.require_platform = lambda _: None
module._pip_config = dict
module.COMPILER = evolve(COMPILER, needed_bytes=1)
module.install()
"""
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 60
        while not Path(f"{fake_uv.log}.hangs").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    where = managed.place()
    assert where.folder.is_dir()
    assert "interrupted" in managed.why_unusable(where)
    with pytest.raises(ToolchainMissing, match="interrupted"):
        find("managed")
    (where.folder / "rest").write_text("of the killed one")
    fake_uv.mode("ok")
    assert install().kind == "managed"
    assert not (where.folder / "rest").exists()


def test_two_installs_at_once_do_the_work_once(fake_uv: FakeUv) -> None:
    fake_uv.mode("slow")
    results: list[Toolchain] = []
    threads = [threading.Thread(target=lambda: results.append(install())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert results[0] == results[1]
    assert sum("--require-hashes" in call for call in fake_uv.calls()) == 1


def test_a_time_limit_ends_it(fake_uv: FakeUv) -> None:
    fake_uv.mode("hang")
    with pytest.raises(InstallError, match="time limit"):
        install(timeout=1.5)
    assert not managed.place().folder.exists()


def test_too_small_a_disk_is_told_before_anything_starts(fake_uv: FakeUv, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module, "COMPILER", COMPILER)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**10, 9 * 10**9, 10**9))
    with pytest.raises(InstallError, match=r"1\.0 GB free"):
        install()
    assert fake_uv.calls() == []


def test_an_unwritable_cache_is_told(fake_uv: FakeUv, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InstallError, match="can't write") as caught:
        install()
    assert "EDGE_CACHE" in str(caught.value.remedy)


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "AMD64")])
def test_other_platforms_are_pointed_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str, machine: str
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(ToolchainMissing, match=machine) as caught:
        install()
    assert "--compiler onnxruntime" in str(caught.value.remedy)


def test_an_environment_whose_python_is_gone_is_made_anew(fake_uv: FakeUv) -> None:
    install()
    where = managed.place()
    where.python.unlink()
    where.python.symlink_to("/nowhere/python3.10")
    assert "is gone" in managed.why_unusable(where)
    install()
    assert managed.why_unusable(where) == ""


def test_pips_index_settings_reach_uv(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    program(
        "pip",
        """cat <<'END'
:env:.find-links='/wheels'
global.cert='/ca.pem'
global.extra-index-url='https://a.example/simple https://b.example/simple'
global.find-links='/overruled'
global.index-url='https://main.example/simple'
END""",
    )
    assert module._pip_settings({}) == {
        "UV_INDEX_URL": "https://main.example/simple",
        "UV_EXTRA_INDEX_URL": "https://a.example/simple https://b.example/simple",
        "UV_FIND_LINKS": "/wheels",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    own = dict.fromkeys(("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "SSL_CERT_FILE"), "x")
    assert module._pip_settings({**own, "UV_INDEX_STRATEGY": "x"}) == {}


def test_without_uv_pip_does_it(
    fake_uv: FakeUv, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: Program
) -> None:
    # A Python whose -m venv makes an environment that calls back to the same fake.
    python = program(
        "fake-python", 'case "$2" in venv) uv venv "$3" && cp "$0" "$3/bin/python" ;; pip) shift; uv "$@" ;; esac'
    )
    monkeypatch.setattr(module, "uv_program", lambda: None)
    monkeypatch.setattr(module, "find_python310", lambda given, say: Python310(python, "3.10.0", "test"))
    assert install().kind == "managed"
    assert any(call.startswith("pip install --require-hashes") for call in fake_uv.calls())
