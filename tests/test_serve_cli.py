"""The command ``edge serve`` as a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import requires
from pathlib import Path

import psutil
import pytest

from edge.cli.serve import PACKAGES, _quickest
from edge.runtime.program import locate
from tests.conftest import Run
from tests.fabricated import NAMES, make_build, save_photo
from tests.fake_board import board_build

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "guides" / "serve.md"
FREE = ("--http-port", "0", "--grpc-port", "0", "--backend", "portable")


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Start it; yield the process and what it printed, by the first word of each line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edge", "serve", *arguments, *FREE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    try:
        assert process.stdout is not None
        said = {}
        for line in process.stdout:
            word, _, rest = line.strip().partition("  ")
            said[word] = rest
            if word.startswith("Ctrl-C"):
                break
        yield process, said
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "kill"])
def test_it_serves_to_this_machine_only_until_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.chdir(tmp_path)
    make_build(tmp_path / "build" / "ConvNeXt_atto")
    make_build(tmp_path / "elsewhere" / "two")
    with started("ConvNeXt_atto", "elsewhere/two") as (process, said):
        assert said["two"].startswith("portable (onnxruntime")
        address = re.match(r"http://127\.0\.0\.1:\d+", said["HTTP"])
        assert address
        assert re.fullmatch(r"127\.0\.0\.1:\d+", said["gRPC"])
        open_ports = psutil.Process(process.pid).net_connections()
        listening = {one.laddr.ip.removeprefix("::ffff:") for one in open_ports if one.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        for model in ("ConvNeXt_atto", "two"):
            with urllib.request.urlopen(f"{address[0]}/v2/models/{model}/ready") as answer:
                assert answer.status == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "stopped\n", "")


@pytest.mark.parametrize("kind", ["py", "sh"])
def test_the_guides_clients_get_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    make_build(tmp_path / "build" / "ConvNeXt_atto")
    save_photo(tmp_path / "photo.jpg")
    (code,) = re.findall(rf"^```{kind}\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    program = {"py": [sys.executable, "-c"], "sh": ["bash", "-c"]}[kind]
    if shutil.which({"py": sys.executable, "sh": "curl"}[kind]) is None:
        pytest.skip("curl is not installed")
    with started("ConvNeXt_atto") as (_, said):
        address = said["HTTP"].split()[0].removeprefix("http://")
        assert "localhost:8000" in code
        done = subprocess.run([*program, code.replace("localhost:8000", address)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert any(name in done.stdout for name in NAMES)
    assert "decode_ms" in done.stdout


def test_what_cannot_be_served_is_told(edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_build(tmp_path / "build" / "one")
    make_build(tmp_path / "other" / "one")
    code, _, err = edge("serve", "one", "other/one", *FREE)
    assert (code, "two models are called one" in err) == (2, True)
    code, _, err = edge("serve", "one", "one", *FREE)
    assert (code, "one is given twice" in err) == (2, True)
    code, _, err = edge("serve", "one", "--http-port", "9000", "--grpc-port", "9000")
    assert (code, "port 9000 for both protocols" in err) == (2, True)
    code, _, err = edge("serve", "none", *FREE)
    assert (code, "none" in err) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for option in ("--http-port", "--grpc-port"):
            code, _, err = edge("serve", "one", *FREE, option, port)
            assert (code, f"next: {option} N" in err) == (2, True)
    code, _, err = edge("serve", "one", *FREE, "--host", "192.0.2.1")
    assert (code, "an address of this machine" in err) == (2, True)
    for name in [name for name in sys.modules if name.startswith("edge.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = edge("serve", "one", *FREE)
    assert (code, f"next: pip install {PACKAGES}" in err) == (1, True)
    needed = [line for line in requires("edge") or [] if "extra == 'serve'" in line.replace('"', "'")]
    assert sorted(re.match(r"[\w-]+", line)[0] for line in needed) == PACKAGES.split()
    assert f"pip install {PACKAGES}" in GUIDE.read_text()


def test_on_a_pc_the_portable_model_answers_and_on_a_board_the_bpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = locate(board_build(tmp_path / "net"))
    for on_board, chosen in ((False, "portable"), (True, "auto")):
        monkeypatch.setattr("edge.cli.serve.isolated", lambda *_, there=on_board: there)
        assert _quickest("auto", program) == chosen
        assert _quickest("hbdk_sim", program) == "hbdk_sim"


def test_a_second_ctrl_c_waits_for_no_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_build(tmp_path / "build" / "ConvNeXt_atto")
    with started("ConvNeXt_atto") as (process, said):
        host, _, port = said["HTTP"].split()[0].removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as unfinished:
            unfinished.sendall(b"POST /v2/models/ConvNeXt_atto/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            assert unfinished.fileno()
            time.sleep(0.5)  # it is being read
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)  # the request may still come
            process.send_signal(signal.SIGINT)
            assert process.wait(5) == 0
