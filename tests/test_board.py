"""``edge board`` against a real sshd on loopback whose tools are stand-ins."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve

from edge.board import Connection, Target
from edge.board.findings import findings
from edge.board.infer import describe, measure
from edge.board.probe import probe
from edge.errors import BoardError, UsageError
from edge.folder.metadata import FILE, read_metadata, write_metadata
from edge.progress import Silent
from edge.runtime import load
from edge.runtime.answer import Answer, write_answer
from tests.board_server import PROGRAM, Board, board, free_port, key, server
from tests.conftest import FAKES, Run, wait_for
from tests.fabricated import entry, make_build, save_photo

__all__ = ["board", "server"]
MODEL = "ConvNeXt_atto"  # only the name: its published figures are shown beside


@pytest.fixture
def build(board: Board, tmp_path: Path) -> Path:
    """A build folder; the board computes with a copy of its portable model."""
    folder = make_build(tmp_path / "build" / MODEL, program=PROGRAM)
    shutil.copy(next(folder.glob("*_portable_int8.onnx")), board.root / "model.onnx")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    return [str(save_photo(tmp_path / "photos" / f"{i}.png", index=i)) for i in range(3)]


def target(board: Board) -> Target:
    flags = board.reach
    options = [value for name, value in zip(flags[::2], flags[1::2], strict=True) if name == "--ssh-option"]
    return Target.parse(board.host, board.port, board.keys / "user", options)


def manifest(build: Path) -> dict:
    return json.loads((build / "manifest.json").read_text())


def pushed(board: Board) -> Path:
    return board.root / "home" / "edge" / MODEL


# --- check


def test_check_tells_what_the_board_is(edge: Run, board: Board, build: Path) -> None:
    code, out, err = edge("board", "check", board.host, MODEL, *board.reach)
    assert code == 0, err
    for text in ("aarch64", "3.5.0", "X5", "libdnn 1.24.5, HBRT 3.15.55.0", "58.5", "DDR 59.5", "1000 MHz",
                 "hobot_dnn.pyeasy_dnn", "hbm_runtime RuntimeError: libdnn.so is missing",
                 "program made for HBRT 3.15.55.0 (hbdk 3.49.15), board has 3.15.55.0"):  # fmt: skip
        assert text in out
    code, out, _ = edge("board", "check", board.host, *board.reach, "--json")
    assert code == 0
    facts = json.loads(out)["board"]
    assert facts["state"]["boost"] is True
    assert facts["state"]["temperatures"] == {"pvt_bpu": 58.5, "DDR": 59.5}
    assert facts["tool"].endswith("board_tools/hrt_model_exec")


def give_answer(build: Path, change: float = 0) -> None:
    """Give a build the answer of its portable model."""
    image = np.random.default_rng(2).integers(0, 256, 64 * 64 * 3 // 2).astype(np.uint8)
    with load(build, "portable") as net:
        (scores,) = net.run(image)
    path = build / "net_test.npz"
    write_answer(path, Answer({"": image}, (scores + np.float32(change),), exact=True))
    metadata = read_metadata(build / FILE)
    write_metadata(build / FILE, evolve(metadata, files={**metadata.files, "test": entry(path)}))


def test_check_runs_the_test_image_and_leaves_nothing(edge: Run, board: Board, build: Path) -> None:
    give_answer(build)
    code, out, err = edge("board", "check", board.host, MODEL, *board.reach)
    assert code == 0, err
    assert "✓ inference    the test image is answered as the build says, in " in out
    assert f"✓ rights       {getpass.getuser()}" in out
    assert board.left_over() == []
    assert not pushed(board).exists()


def test_check_refuses_a_wrong_answer(edge: Run, board: Board, build: Path) -> None:
    give_answer(build, change=1e-3)
    code, out, err = edge("board", "check", board.host, MODEL, *board.reach)
    assert code == 1
    assert "✗ inference    the test image is answered wrongly: 4 of 4 values of output 0 differ" in out
    assert "not ready: inference" in err


def test_check_without_an_answer_or_a_model_still_runs_something(edge: Run, board: Board, build: Path) -> None:
    _, out, _ = edge("board", "check", board.host, MODEL, *board.reach)
    assert "! inference    ran; the build has no answer to compare with" in out
    _, out, _ = edge("board", "check", board.host, *board.reach)
    assert "✓ inference    sample.bin of RDK OS ran" in out
    board.mode(at="perf", exec="fail")
    code, out, _ = edge("board", "check", board.host, *board.reach)
    assert code == 1
    assert "✗ inference    sample.bin failed with exit status 139: Segmentation fault" in out
    board.file("opt/hobot/model/x5/basic/sample.bin", None)
    code, out, _ = edge("board", "check", board.host, *board.reach)
    assert code == 0
    assert "! inference    not tried" in out
    board.mode(at="infer", exec="fail")
    code, out, _ = edge("board", "check", board.host, MODEL, *board.reach)
    assert code == 1
    assert "✗ inference    hrt_model_exec infer failed with exit status 139" in out


def test_a_user_without_rights_is_told(edge: Run, board: Board) -> None:
    board.file("dev/bpu_core0", "")
    with Connection(target(board)) as connection:
        facts = probe(connection)
    assert facts.denied == ()  # the tests may open it
    (rights,) = [found for found in findings(evolve(facts, denied=("/dev/bpu_core0",))) if found.name == "rights"]
    assert rights.mark == "warn"
    assert "may not open /dev/bpu_core0" in rights.seen
    assert "usermod -aG" in rights.remedy


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"uname": "x86_64"}, ("✗ architecture x86_64", "is HOST the board?")),
        ({"hbrt": "3.16.2"}, ("✗ program", "another release line")),
        ({"df": "1000"}, ("✗ disk", "1 MB free")),
    ],
    ids=["architecture", "runtime of another release line", "disk"],
)
def test_check_refuses(edge: Run, board: Board, build: Path, change: dict[str, str], says: tuple[str, ...]) -> None:
    board.mode(**change)
    code, out, err = edge("board", "check", board.host, MODEL, *board.reach)
    assert code == 1
    assert "is not ready" in err
    for text in says:
        assert text in out


def test_check_refuses_another_soc_and_warns_of_what_it_does_not_know(edge: Run, board: Board) -> None:
    board.file("sys/class/boardinfo/soc_name", "S100\n")
    board.file("etc/version", None)
    board.file("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "schedutil\n")
    code, out, _ = edge("board", "check", board.host, *board.reach)
    assert code == 1
    assert "✗ soc          S100" in out
    assert "! RDK OS" in out
    assert "echo performance >" in out


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"sys/class/boardinfo/soc_name": "x5\n", "sys/class/socinfo/soc_name": "X5M\n"}, "✓ soc          x5"),
        ({"sys/class/socinfo/soc_name": "X5U\n"}, "✓ soc          X5U"),
        ({"proc/device-tree/model": "D-Robotics RDK X5 V1.0\0"}, "✓ soc          D-Robotics RDK X5 V1.0"),
        ({"proc/device-tree/model": "D-Robotics RDK S100 V1.0\0"}, "✗ soc          D-Robotics RDK S100 V1.0"),
    ],
)
def test_the_chip_is_found_where_the_vendor_looks_for_it(
    edge: Run, board: Board, files: dict[str, str], line: str
) -> None:
    board.file("sys/class/boardinfo/soc_name", None)
    for path, text in files.items():
        board.file(path, text)
    assert line in edge("board", "check", board.host, *board.reach)[1]


def test_an_older_runtime_of_the_same_line_warns_and_goes_on(edge: Run, board: Board, build: Path) -> None:
    board.mode(hbrt="3.15.54")
    code, out, _ = edge("board", "check", board.host, MODEL, *board.reach)
    assert code == 0
    assert "! program" in out
    code, _, err = edge("board", "push", board.host, MODEL, *board.reach)
    assert code == 0
    assert "older" in err


@pytest.mark.parametrize("verb", ["push", "perf"])
def test_nothing_is_sent_where_the_program_can_t_work(edge: Run, board: Board, build: Path, verb: str) -> None:
    board.mode(hbrt="3.16.2")
    code, _, err = edge("board", verb, board.host, MODEL, *board.reach)
    assert code == 1
    assert "another release line" in err
    assert not pushed(board).exists()


# --- reaching the board


def test_unknown_host_key(edge: Run, board: Board, tmp_path: Path) -> None:
    code, _, err = edge("board", "check", board.host, *board.reach_with(tmp_path / "none", board.keys / "user"))
    assert code == 1
    assert "the host key of 127.0.0.1 is not known yet" in err
    assert f"ssh -p {board.port} {board.host}" in err
    assert "ssh-keyscan" in err
    assert not (tmp_path / "none").exists()


def test_changed_host_key(edge: Run, board: Board, tmp_path: Path) -> None:
    other = key(tmp_path / "other").with_suffix(".pub").read_text().split()
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{board.port} {other[0]} {other[1]}\n")
    code, _, err = edge("board", "check", board.host, *board.reach_with(known, board.keys / "user"))
    assert code == 1
    assert "another host key than before" in err
    assert f"ssh-keygen -R '[127.0.0.1]:{board.port}'" in err


def test_the_user_can_t_switch_the_host_key_check_off(edge: Run, board: Board, tmp_path: Path) -> None:
    reach = board.reach_with(tmp_path / "none", board.keys / "user")
    code, _, err = edge("board", "check", board.host, *reach, "--ssh-option", "StrictHostKeyChecking=no")
    assert code == 1
    assert "not known yet" in err


def test_wrong_key(edge: Run, board: Board, tmp_path: Path) -> None:
    stranger = key(tmp_path / "stranger")
    code, _, err = edge("board", "check", board.host, *board.reach_with(board.keys / "known_hosts", stranger))
    assert code == 1
    assert "accepts none of the keys" in err
    assert "ssh-copy-id" in err


def test_nothing_listens(edge: Run) -> None:
    code, _, err = edge("board", "check", f"127.0.0.1:{free_port()}")
    assert code == 1
    assert "nothing listens for ssh" in err


def test_no_such_name(edge: Run) -> None:
    code, _, err = edge("board", "check", "no-such-board.invalid")
    assert code == 1
    assert "there is no host no-such-board.invalid" in err


def test_no_ssh_client(edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = edge("board", "check", "rdk")
    assert code == 1
    assert "there is no ssh on PATH" in err


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("rdk", "rdk", None),
        ("sunrise@rdk:2222", "sunrise@rdk", 2222),
        ("[fe80::1]:22", "fe80::1", 22),
        ("root@[::1]", "root@::1", None),
        ("fe80::1", "fe80::1", None),
    ],
)
def test_hosts(text: str, host: str, port: int | None) -> None:
    assert (Target.parse(text).host, Target.parse(text).port) == (host, port)


@pytest.mark.parametrize(
    "arguments",
    [("-oProxyCommand=x",), ("user@-oProxyCommand=x",), ("user@[-oProxyCommand=x]",),
     ("a@b@-oProxyCommand=x", 22), ("@rdk",),
     ("",), ("a b",), ("rdk:0",), ("rdk:1", 2), ("root@",), ("rdk;ls",),
     ("rdk", None, Path("no-such-key")), ("rdk", None, None, ("-x",))],
)  # fmt: skip
def test_wrong_hosts(arguments: tuple) -> None:
    with pytest.raises(UsageError):
        Target.parse(*arguments)


def test_bad_ssh_option(edge: Run, board: Board) -> None:
    code, _, err = edge("board", "check", board.host, *board.reach, "--ssh-option", "NoSuchOption=1")
    assert code == 2
    assert "NoSuchOption" in err or "nosuchoption" in err


# --- the connection


def test_arguments_arrive_as_they_are(board: Board) -> None:
    words = ["a b", "'", '"$HOME"', "*", "\\", "ä\n", ""]
    with Connection(target(board)) as connection:
        out = connection.run('for w do printf "<%s>" "$w"; done', *words, limit=10).text
    assert out.endswith("".join(f"<{word}>" for word in words))


def test_one_connection_and_nothing_left(board: Board) -> None:
    before = set(Path("/tmp").glob("edge-ssh-*"))
    with Connection(target(board)) as connection:
        client = 'printf "%s" "${SSH_CONNECTION#* }"; printf "%s" "$SSH_CONNECTION"'
        ports = {connection.run(client, limit=10).text for _ in range(3)}
        (folder,) = set(Path("/tmp").glob("edge-ssh-*")) - before
        assert folder.stat().st_mode & 0o077 == 0
    assert len(ports) == 1
    assert not set(Path("/tmp").glob("edge-ssh-*")) - before
    with pytest.raises(BoardError, match="failed with exit status 254"), Connection(target(board)) as connection:
        connection.run("exit 255", limit=10)


def test_a_time_limit_ends_the_command_and_its_children(board: Board) -> None:
    script = 'sleep 600 & echo $! $$ >"$FAKE_BOARD/pid"; wait'
    with Connection(target(board)) as connection, pytest.raises(BoardError, match="time limit of 3 s"):
        connection.run(script, limit=3)
    assert board.ended()


def test_a_lost_connection_is_told_and_ends_the_command(board: Board) -> None:
    drop = FAKES / "board_tools" / "drop_connection.py"
    with Connection(target(board)) as connection:
        with pytest.raises(BoardError, match=r"connection to .* was lost"):
            connection.run('echo $$ >"$FAKE_BOARD/pid"; exec "$FAKE_PYTHON" "$1"', str(drop), limit=60)
        with pytest.raises(BoardError, match="was lost"):  # no second connection behind the user's back
            connection.run("true", limit=10)
    assert board.ended()


def test_a_board_that_falls_silent_is_told(board: Board) -> None:
    silence = evolve(target(board), options=("ServerAliveInterval=1", *target(board).options))
    freeze = str(FAKES / "board_tools" / "drop_connection.py")
    try:
        with Connection(silence) as connection, pytest.raises(BoardError, match=r"connection to .* was lost"):
            connection.run('"$FAKE_PYTHON" "$1" freeze', freeze, limit=60)
    finally:
        os.kill(board.pids()[0], signal.SIGKILL)


# --- push


def test_push_copies_checks_and_does_not_send_twice(edge: Run, board: Board, build: Path) -> None:
    code, out, err = edge("board", "push", board.host, MODEL, *board.reach)
    assert code == 0, err
    names = {path.name for path in pushed(board).iterdir()}
    listed = json.loads((build / "metadata.json").read_text())["files"].values()
    assert names == {"metadata.json", *(entry["path"] for entry in listed)}
    for name in names:
        assert (pushed(board) / name).read_bytes() == (build / name).read_bytes()
    (pushed(board) / "labels.txt").write_text("half a fi")
    code, out, _ = edge("board", "push", board.host, str(build), *board.reach, "--json")
    states = {file["name"]: file["state"] for file in json.loads(out)["files"]}
    assert states.pop("labels.txt") == "sent"
    assert set(states.values()) == {"unchanged"}
    assert (pushed(board) / "labels.txt").read_bytes() == (build / "labels.txt").read_bytes()


def test_push_to_a_folder_with_a_space(edge: Run, board: Board, build: Path) -> None:
    code, _, err = edge("board", "push", board.host, MODEL, "--to", "~/my models/it's", *board.reach)
    assert code == 0, err
    assert (board.root / "home/my models/it's/metadata.json").exists()


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ({"cat": "full"}, "disk is full"),
        ({"cat": "corrupt"}, "arrived damaged"),
        ({"cat": "drop"}, "was lost"),
        ({"df": "100"}, "MB free"),
    ],
    ids=["disk full", "corrupted", "connection lost", "too little space"],
)
def test_a_failed_push_leaves_no_half_file(
    edge: Run, board: Board, build: Path, mode: dict[str, str], says: str
) -> None:
    board.mode(**mode)
    code, _, err = edge("board", "push", board.host, MODEL, *board.reach)
    assert code == 1
    assert says in err
    if "drop" not in mode.values():
        assert list(pushed(board).iterdir()) == []
    assert not [path for path in pushed(board).iterdir() if not path.name.startswith(".")]


def test_push_where_nothing_can_be_written(edge: Run, board: Board, build: Path) -> None:
    (board.root / "home" / "file").write_text("")
    code, _, err = edge("board", "push", board.host, MODEL, "--to", "file/x", *board.reach)
    assert code == 1
    assert "can't be used" in err


def test_a_build_without_a_program(edge: Run, board: Board, tmp_path: Path) -> None:
    make_build(tmp_path / "build" / "Tiny")
    for verb in ("push", "perf"):
        code, _, err = edge("board", verb, board.host, "Tiny", *board.reach)
        assert code == 1
        assert "no .bin" in err


# --- perf


@pytest.mark.parametrize("noise", [False, True], ids=["plain", "noise"])
def test_perf_is_shown_and_recorded(edge: Run, board: Board, build: Path, noise: bool) -> None:
    board.mode(**({"exec": "noise"} if noise else {}))
    before = manifest(build)
    code, out, err = edge("board", "perf", board.host, MODEL, *board.reach)
    assert code == 0, err
    for text in ("12.429 ms", "2.902 ms", "80.26 FPS", "1356.25 FPS", "732.1 FPS", "811.95 FPS", "59.5 → 59.5 °C"):
        assert text in out
    after = manifest(build)
    kept = after.pop("board")
    assert after == before
    assert kept["about"] == {"soc": "X5", "os": "3.5.0", "dnn": "1.24.5", "hbrt": "3.15.55.0"}
    one, four = kept["perf"]["runs"]
    assert (one["threads"], one["latency_ms"]) == (1, 12.429)
    assert (four["threads"], four["fps"]) == (4, 1356.254026)
    assert one["before"]["bpu_mhz"] == 1000
    if not noise:
        assert one["profile"]["cpu_ms"] == 0.22
        assert "2.530, 0.220 ms" in out
    assert board.left_over() == []


def test_figures_of_another_program_are_dropped(edge: Run, board: Board, build: Path) -> None:
    old = {"bin_sha256": "0" * 64, "accuracy": {"n": 3}}
    (build / "manifest.json").write_text(json.dumps({**manifest(build), "board": old}))
    assert edge("board", "perf", board.host, MODEL, *board.reach)[0] == 0
    assert set(manifest(build)["board"]) == {"bin_sha256", "about", "perf"}


def test_perf_of_a_bundle_is_printed_only(edge: Run, board: Board, build: Path) -> None:
    (build / "manifest.json").unlink()
    code, out, _ = edge("board", "perf", board.host, MODEL, *board.reach)
    assert code == 0
    assert "not recorded" in out
    assert not (build / "manifest.json").exists()


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ({"exec": "fail"}, "Segmentation fault"),
        ({"exec": "incompatible"}, "-6000014, the model does not fit this runtime"),
        ({"exec": "silent"}, "gave no result"),
        ({"exec": "drop", "at": "perf"}, "was lost"),
        ({"exec": "hang", "at": "perf"}, "time limit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failing_perf_changes_no_record(
    edge: Run, board: Board, build: Path, mode: dict[str, str], says: str
) -> None:
    board.mode(**mode)
    before = (build / "manifest.json").read_bytes()
    minutes = "0.05" if mode["exec"] == "hang" else "2"
    code, _, err = edge("board", "perf", board.host, MODEL, "--timeout", minutes, *board.reach)
    assert code == 1
    assert says in err
    assert (build / "manifest.json").read_bytes() == before
    if mode["exec"] in ("hang", "drop"):
        assert board.ended()
    if mode["exec"] != "drop":
        assert board.left_over() == []


def test_no_tool_on_the_board(edge: Run, board: Board) -> None:
    (board.root / "bare").touch()
    code, out, _ = edge("board", "check", board.host, *board.reach)
    assert code == 1
    assert "✗ tool         no hrt_model_exec" in out
    with Connection(target(board)) as connection:
        with pytest.raises(BoardError, match="the board has no hrt_model_exec"):
            measure(connection, "x.bin", 10, 5, Silent())
        with pytest.raises(BoardError, match="the board has no hrt_model_exec"):
            describe(connection, "x.bin", None)
    assert board.left_over() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "kill"])
def test_an_interrupt_ends_the_remote_command(board: Board, build: Path, number: signal.Signals) -> None:
    board.mode(exec="hang", at="perf")
    before = set(Path("/tmp").glob("edge-ssh-*"))
    process = subprocess.Popen(
        [sys.executable, "-m", "edge", "board", "perf", board.host, str(build), *board.reach],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wait_for((board.root / "pid").exists)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert board.ended()
    assert board.left_over() == []
    assert not set(Path("/tmp").glob("edge-ssh-*")) - before


def test_a_killed_edge_leaves_nothing_running_on_the_board(board: Board, build: Path) -> None:
    board.mode(exec="hang", at="perf")
    before = set(Path("/tmp").glob("edge-ssh-*"))
    process = subprocess.Popen(
        [sys.executable, "-m", "edge", "board", "perf", board.host, str(build), *board.reach],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert wait_for((board.root / "pid").exists)
    process.kill()
    process.wait()
    for folder in set(Path("/tmp").glob("edge-ssh-*")) - before:
        shutil.rmtree(folder)  # all that a killed process can't put away
    assert board.ended()


# --- run


@pytest.mark.parametrize("mode", [{}, {"exec": "noise"}], ids=["plain", "noise"])
def test_run_gives_the_simulator_s_answers(
    edge: Run, board: Board, build: Path, photos: list[str], mode: dict[str, str]
) -> None:
    board.mode(**mode)
    code, out, err = edge("board", "run", board.host, MODEL, *photos, *board.reach, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["simulator"] == {"backend": "portable", "exact": True}
    assert [image["max_abs_diff"] for image in result["images"]] == [0, 0, 0]
    assert all(image["same_top1"] for image in result["images"])
    assert result["images"][0]["best"][0]["label"].endswith("thing")
    assert sum(image["probability"] for image in result["images"][0]["best"]) == pytest.approx(1)
    assert board.left_over() == []
    assert {call.split()[1] for call in board.calls() if call.startswith("infer")} == {
        hashlib.sha256(PROGRAM).hexdigest()
    }


def test_integer_outputs_are_dequantised(edge: Run, board: Board, build: Path, photos: list[str]) -> None:
    board.mode(output="integer")
    code, out, err = edge("board", "run", board.host, MODEL, *photos, *board.reach, "--json")
    assert code == 0, err
    for image in json.loads(out)["images"]:
        assert image["same_top1"]
        assert 0 < image["max_abs_diff"] <= 2.0**-11 + 1e-6  # half a step of the coarsest channel


def test_a_board_that_answers_otherwise_fails_the_gate(edge: Run, board: Board, build: Path, photos: list[str]) -> None:
    board.mode(exec="other")
    code, out, err = edge("board", "run", board.host, MODEL, *photos, *board.reach)
    assert code == 1
    assert "another class" in out
    assert "give other classes" in err
    code, out, _ = edge("board", "run", board.host, MODEL, *photos, "--compare", "none", *board.reach)
    assert code == 0
    assert "thing" in out


def test_a_busy_board_is_asked_again(edge: Run, board: Board, build: Path, photos: list[str]) -> None:
    board.mode(exec="busy", times="2")
    code, _, err = edge("board", "run", board.host, MODEL, photos[0], *board.reach)
    assert code == 0, err
    assert (board.root / "busy").read_text() == "3"


def test_a_board_that_stays_busy_is_an_error(
    edge: Run, board: Board, build: Path, photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.board.infer.TRIES", 2)
    board.mode(exec="busy", times="99")
    code, _, err = edge("board", "run", board.host, MODEL, photos[0], *board.reach)
    assert code == 1
    assert "-6000006" in err
    assert board.left_over() == []


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ({"exec": "nodump"}, "wrote no output"),
        ({"exec": "fail", "at": "infer"}, "infer failed"),
        ({"exec": "drop", "at": "infer"}, "was lost"),
        ({"exec": "hang", "at": "infer"}, "time limit"),
        ({"input": "HB_DNN_IMG_TYPE_RGB"}, "one NV12 image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failing_run(
    edge: Run, board: Board, build: Path, photos: list[str], mode: dict[str, str], says: str
) -> None:
    board.mode(**mode)
    minutes = "0.05" if mode.get("exec") == "hang" else "2"
    code, _, err = edge("board", "run", board.host, MODEL, photos[0], "--timeout", minutes, *board.reach)
    assert code == 1
    assert says in err


def test_a_program_of_another_size(edge: Run, board: Board, build: Path, photos: list[str], tmp_path: Path) -> None:
    other = make_build(tmp_path / "other", size=32, program=PROGRAM)
    shutil.copy(next(other.glob("*_portable_int8.onnx")), board.root / "model.onnx")
    code, _, err = edge("board", "run", board.host, MODEL, photos[0], *board.reach)
    assert code == 2
    assert "32x32" in err
    assert "64x64" in err


def test_wrong_images(edge: Run, board: Board, build: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("no image")
    for name in ("nowhere.jpg", "x.jpg"):
        code, _, err = edge("board", "run", board.host, MODEL, name, *board.reach)
        assert code == 1
        assert name in err


# --- eval


def labelled(folder: Path, build: Path) -> Path:
    """Images whose labels are the simulator's answers, but for the last."""
    from edge.runtime import load

    with load(build, backend="portable") as net:
        for index in range(7):
            path = save_photo(folder / "all" / f"{index}.png", index=index)
            answer = int(net.scores(str(path)).argmax())
            wrong = (answer + 1) % 4 if index == 6 else answer
            (folder / str(wrong)).mkdir(parents=True, exist_ok=True)
            path.rename(folder / str(wrong) / path.name)
    (folder / "all").rmdir()
    return folder


def test_eval_in_chunks(edge: Run, board: Board, build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.board.compare.CHUNK_FRAMES", 3)
    images = labelled(tmp_path / "val", build)
    (images / "0").mkdir(exist_ok=True)
    (images / "0" / "broken.png").write_bytes(b"\x89PNG")
    code, out, err = edge("board", "eval", board.host, MODEL, "--images", str(images), *board.reach)
    assert code == 0, err
    assert "broken.png can't be read" in err
    kept = manifest(build)["board"]["accuracy"]
    assert kept["n"] == 7
    assert kept["board"] == kept["simulator"]
    assert kept["board"]["top1"] == pytest.approx(100 * 6 / 7, abs=1e-3)
    assert kept["board"]["top1_interval"][0] < 86 < kept["board"]["top1_interval"][1]
    assert (kept["agreement"], kept["max_abs_diff"], kept["backend"]) == (100, 0, "portable")
    assert "board 85.71 % [" in out
    assert len([call for call in board.calls() if call.startswith("infer")]) == 7
    assert board.left_over() == []


def test_eval_shows_a_board_that_answers_otherwise(edge: Run, board: Board, build: Path, tmp_path: Path) -> None:
    board.mode(exec="other")
    images = labelled(tmp_path / "val", build)
    code, out, _ = edge("board", "eval", board.host, MODEL, "--images", str(images), *board.reach, "--json")
    assert code == 0
    found = json.loads(out)["accuracy"]
    assert found["agreement"] < 100
    assert found["board"]["top1"] < found["simulator"]["top1"]


def test_eval_without_labels_measures_agreement(edge: Run, board: Board, build: Path, photos: list[str]) -> None:
    folder = str(Path(photos[0]).parent)
    code, out, _ = edge("board", "eval", board.host, MODEL, "--images", folder, "--count", "2", *board.reach)
    assert code == 0
    assert "Top-1" not in out
    assert "100.00 % same class" in out
    assert manifest(build)["board"]["accuracy"]["board"] is None


def test_a_single_bin_can_be_measured_but_not_fed(edge: Run, board: Board, build: Path, photos: list[str]) -> None:
    lone = build.parent / "lone.bin"
    shutil.copy(next(build.glob("*.bin")), lone)
    code, out, err = edge("board", "perf", board.host, str(lone), *board.reach)
    assert code == 0, err
    assert "not recorded" in out
    code, _, err = edge("board", "run", board.host, str(lone), photos[0], *board.reach)
    assert code == 2
    assert "metadata.json" in err
