"""A real sshd on loopback that leads to a stand-in board: its own host key, files, tools and mode file."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from tests.conftest import FAKES, gone, wait_for

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
# Header and version strings as they stand in the compiler's programs.
PROGRAM = (
    b"\x02#B2Ehbm#########\x03\0\0\0\x0f\0\0\0\x37\0\0\0" + b"3.15.55.0" + bytes(23) + b"3.49.15" + bytes(64)
    + b"version: 3.49.15; runtime version: 3.15.55.0; cmake" + b"\n\x0fBUILDER_VERSION\x12\x061.24.3"
)  # fmt: skip
SYSFS = {
    "etc/version": "3.5.0\n",
    "sys/class/boardinfo/soc_name": "X5\n",
    "sys/class/thermal/thermal_zone0/type": "pvt_bpu\n",
    "sys/class/thermal/thermal_zone0/temp": "58500\n",
    "sys/class/hwmon/hwmon0/temp1_input": "59500\n",
    "sys/class/hwmon/hwmon0/temp1_label": "DDR\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1500000\n",
    "sys/devices/system/cpu/cpufreq/boost": "1\n",
    "sys/class/devfreq/3a000000.bpu/cur_freq": "1000000000\n",
    "sys/devices/system/bpu/bpu0/ratio": "0\n",
    "opt/hobot/model/x5/basic/sample.bin": "a program\n",
}


@frozen
class Board:
    """The stand-in board, and how to reach it."""

    root: Path
    keys: Path
    port: int

    @property
    def host(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1"

    @property
    def reach(self) -> tuple[str, ...]:
        """Options of every verb."""
        return self.reach_with(self.keys / "known_hosts", self.keys / "user")

    def reach_with(self, known_hosts: Path, identity: Path) -> tuple[str, ...]:
        options = (
            f"UserKnownHostsFile={known_hosts}",
            "GlobalKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
        )
        flags = [word for option in options for word in ("--ssh-option", option)]
        return "--port", str(self.port), "--identity", str(identity), *flags

    def mode(self, **modes: str) -> None:
        (self.root / "mode").write_text("".join(f"{key} {value}\n" for key, value in modes.items()))

    def file(self, path: str, text: str | None) -> None:
        """Change or remove a file of the board's system."""
        target = self.root / "system" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            target.unlink(missing_ok=True)
        else:
            target.write_text(text)

    def calls(self) -> list[str]:
        """What hrt_model_exec was asked: verb and sha256 of the program."""
        file = self.root / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def pids(self) -> list[int]:
        """Processes of a hanging tool."""
        return [int(word) for word in (self.root / "pid").read_text().split()]

    def left_over(self) -> list[str]:
        """What lies in the board's temporary folder."""
        return sorted(path.name for path in (self.root / "tmp").glob("edge.*"))

    def ended(self) -> bool:
        return wait_for(lambda: all(gone(pid) for pid in self.pids()))

    def reset(self) -> None:
        for child in self.root.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink()
        for name in ("home", "tmp"):
            (self.root / name).mkdir()
        for path, text in SYSFS.items():
            self.file(path, text)
        python = self.root / "system/usr/bin/python3"
        python.parent.mkdir(parents=True)
        python.write_text('#!/bin/sh\nPYTHONPATH="$FAKE_BOARD/modules" exec "$FAKE_PYTHON" "$@"\n')
        python.chmod(0o755)
        modules = self.root / "modules"
        (modules / "hobot_dnn").mkdir(parents=True)
        (modules / "hobot_dnn" / "pyeasy_dnn.py").write_text("")
        (modules / "hbm_runtime.py").write_text("raise RuntimeError('libdnn.so is missing')\n")
        self.mode()


def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config(keys: Path, root: Path, port: int) -> Path:
    environment = {
        "PATH": f"{FAKES}/board_tools:/usr/bin:/bin",
        "HOME": f"{root}/home",
        "TMPDIR": f"{root}/tmp",
        "FAKE_BOARD": root,
        "FAKE_PYTHON": sys.executable,
        "EDGE_BOARD_ROOT": f"{root}/system",
    }
    path = keys / "sshd_config"
    path.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {keys}/host\nPidFile none\n"
        f"AuthorizedKeysFile {keys}/user.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        f"SetEnv {' '.join(f'{name}={value}' for name, value in environment.items())}\n"
        # Greets like a talkative .bashrc, then does as it is told; has no tools if the test says so.
        'ForceCommand echo Welcome to RDK X5; [ -e "$FAKE_BOARD/bare" ] && PATH=/usr/bin:/bin; '
        'cd "$HOME" && eval "$SSH_ORIGINAL_COMMAND"\n'
    )
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no OpenSSH server here: apt-get install openssh-server")
    keys, root = tmp_path_factory.mktemp("keys"), tmp_path_factory.mktemp("board")
    host, _ = key(keys / "host"), key(keys / "user")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists when it starts as root
    port = free_port()
    public = host.with_suffix(".pub").read_text().split()
    (keys / "known_hosts").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    log = (keys / "log").open("wb")
    process = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(config(keys, root, port))], stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )

    def listening() -> bool:
        if process.poll() is not None:
            return True
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(listening)
    if process.poll() is not None:
        pytest.fail(f"sshd did not start: {(keys / 'log').read_text()}")
    yield Board(root, keys, port)
    process.terminate()
    process.wait(10)
    log.close()


@pytest.fixture
def board(server: Board) -> Board:
    """The board in its usual state."""
    server.reset()
    return server
