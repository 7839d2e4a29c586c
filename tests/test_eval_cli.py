"""``edge eval`` from end to end: files, gates, wrong input, and a kill in the middle.

The compiler is a stand-in: a Python whose worker answers with the brightness of the image's quarters.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve, frozen

from edge.accuracy.answers import FOLDER, NAME
from edge.accuracy.table import Evaluation
from edge.folder.metadata import read_metadata, write_metadata
from tests.board_server import PROGRAM, Board, board, server
from tests.conftest import Run, gone, save_images, save_net, wait_for
from tests.fabricated import make_build, save_photo

__all__ = ["board", "server"]

SIZE = 64
WORKER = """import array, json, os, sys, time
with open(os.environ["WORKER_LOG"], "a") as log:
    log.write(f"pid {os.getpid()}\\n")
outputs = [{"name": "y", "shape": [1, 4], "dtype": "float32"}]
print(json.dumps({"input": "x", "height": 64, "width": 64, "outputs": outputs}), flush=True)
while True:
    data = sys.stdin.buffer.read(64 * 64 * 3 // 2)
    if not data:
        break
    time.sleep(float(os.environ["WORKER_SLEEP"]))
    scores = [sum(data[i * 1024:(i + 1) * 1024]) / 1024 for i in range(4)]
    sys.stdout.buffer.write(array.array("f", scores).tobytes())
    sys.stdout.buffer.flush()
"""
PYTHON = """#!/bin/sh
[ "$1" = -c ] && {{ echo 'edge-versions {{"hb_mapper": "9.9"}}'; exit; }}
exec "{python}" "{worker}"
"""


@frozen
class Vendor:
    """A stand-in compiler, and what its workers did."""

    log: Path

    def pids(self) -> list[int]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [int(line.split()[1]) for line in lines]


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vendor:
    folder = tmp_path / "stand-in"
    folder.mkdir()
    (folder / "worker.py").write_text(WORKER)
    (folder / "python").write_text(PYTHON.format(python=sys.executable, worker=folder / "worker.py"))
    (folder / "hb_mapper").write_text(f"#!{folder}/python\n")
    for name in ("python", "hb_mapper"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setenv("WORKER_SLEEP", "0")
    monkeypatch.setenv("WORKER_LOG", str(folder / "log"))
    return Vendor(folder / "log")


def list_artifacts(folder: Path, compiler: str = "onnxruntime", **roles: str) -> None:
    artifacts = []
    for role, name in roles.items():
        data = (folder / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        artifacts.append({"role": role, "path": name, "bytes": len(data), "sha256": digest})
    manifest = {
        "toolchain": {"kind": compiler},
        "accuracy": {"dataset": "elsewhere (9 images)"},
        "artifacts": artifacts,
    }
    (folder / "manifest.json").write_text(json.dumps({"schema_version": 1, **manifest}))


def finished(
    folder: Path, *, weights: str = "onnx", compiler: str = "onnxruntime", program: bytes | None = None
) -> Path:
    """A finished build: float, BPU-ready and portable ONNX; with ``compiler`` path a quantized one too."""
    make_build(folder, program=program)
    write_metadata(folder / "metadata.json", evolve(read_metadata(folder / "metadata.json"), weights=weights))
    name = folder.name
    shutil.copy(folder / f"{name}.onnx", folder / f"{name}_bpu.onnx")
    roles = {"float_onnx": f"{name}.onnx", "bpu_onnx": f"{name}_bpu.onnx"}
    roles["portable_onnx"] = f"{name}_64x64_nv12_portable_int8.onnx"
    if compiler == "path":
        (folder / f"{name}_quantized_model.onnx").write_bytes(b"the worker does not look")
        roles["quantized_onnx"] = f"{name}_quantized_model.onnx"
    if program is not None:
        roles["bin"] = f"{name}_64x64_nv12.bin"
    list_artifacts(folder, compiler, **roles)
    return folder


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return finished(tmp_path / "build" / "small")


def answered(build: Path, folder: Path, count: int = 12, wrong: int = 2) -> Path:
    """Images in class folders of the float network's own answers, but for the first ones."""
    from edge.images.preprocess import decode, resize_crop
    from edge.measure.networks import FloatNet

    rule = read_metadata(build / "metadata.json").preprocess
    runner = FloatNet(next(build.glob("*_bpu.onnx")), rule)
    for index in range(count):
        path = save_photo(folder / "all" / f"{index:03}.png", index=index)
        answer = int(runner.outputs(np.ascontiguousarray(resize_crop(decode(path), rule)))[0].argmax())
        label = (answer + 1) % 4 if index < wrong else answer
        (folder / str(label)).mkdir(exist_ok=True)
        path.rename(folder / str(label) / path.name)
    (folder / "all").rmdir()
    return folder


@pytest.fixture
def photos(build: Path, tmp_path: Path) -> Path:
    return answered(build, tmp_path / "val")


def eval_json(build: Path) -> dict[str, Any]:
    return json.loads((build / "eval.json").read_text())


# --- what it writes and prints


def test_the_whole_table(edge: Run, build: Path, photos: Path) -> None:
    code, out, err = edge("eval", "small", "--images", str(photos))
    assert code == 0, err
    lines = out.strip().splitlines()
    assert " ".join(lines[0].split()) == "step Top-1 % Top-5 % change in points p agreement % cosine n by"
    assert [line.split()[0] for line in lines[1:5]] == ["float", "simplified", "nv12", "portable"]
    assert lines[1].split()[1] == "83.33"
    assert "left out: calibrated, quantized" not in err
    assert "left out: calibrated (" in err
    found = eval_json(build)
    assert found["n"] == 12
    assert found["steps"][0]["score"] == {"n": 12, "top1_right": 10, "top5_right": 12}
    assert found["command"] == f"edge eval small --images {photos.relative_to(build.parents[1])}"
    assert found["models"]["float_onnx"] == hashlib.sha256((build / "small.onnx").read_bytes()).hexdigest()
    assert found["verdict"] in out
    assert found["verdict"].startswith("Quantization, NV12 included,")
    code, out, _ = edge("eval", "small", "--images", str(photos), "--json")
    assert json.loads(out) == eval_json(build)
    assert [step["computed"] for step in json.loads(out)["steps"]] == [0, 0, 0, 0]


def test_eval_json_is_the_contract(edge: Run, build: Path, photos: Path) -> None:
    import cattrs

    edge("eval", "small", "--images", str(photos))
    found = cattrs.structure(eval_json(build), Evaluation)
    assert json.loads(json.dumps(cattrs.unstructure(found))) == eval_json(build)
    assert found.drop == pytest.approx(found.step("float").score.top1 - found.step("portable").score.top1)


def test_every_answer_is_listed(edge: Run, build: Path, photos: Path) -> None:
    (photos / "0" / "broken.png").write_bytes(b"\x89PNG")
    code, out, err = edge("eval", str(build), "--images", str(photos))
    assert code == 0, err
    assert "broken.png can't be read" in err
    assert "unreadable  1: 0/broken.png" in out
    rows = list(csv.DictReader((build / "answers.csv").open()))
    assert list(rows[0]) == ["image", "label", "float", "simplified", "nv12", "portable"]
    assert len(rows) == 13
    broken = next(row for row in rows if row["image"] == "0/broken.png")
    assert [broken[step] for step in ("float", "portable")] == ["", ""]
    right = sum(row["label"] == row["float"] for row in rows)
    assert eval_json(build)["steps"][0]["score"]["top1_right"] == right == 10
    assert eval_json(build)["unreadable"] == ["0/broken.png"]
    assert not list(build.glob(".*.tmp"))


def test_count_takes_some_and_a_larger_count_only_the_rest(edge: Run, build: Path, photos: Path) -> None:
    _, out, _ = edge("eval", "small", "--images", str(photos), "--count", "12", "--json", "--steps", "nv12")
    assert [step["computed"] for step in json.loads(out)["steps"]] == [12, 12]
    _, out, _ = edge("eval", "small", "--images", str(photos), "--count", "5", "--json")
    assert [(step["name"], step["n"], step["computed"]) for step in json.loads(out)["steps"]] == [
        ("float", 5, 0), ("simplified", 5, 5), ("nv12", 5, 0), ("portable", 5, 5)
    ]  # fmt: skip


def test_random_weights_measure_agreement_only(edge: Run, tmp_path: Path, photos: Path) -> None:
    finished(tmp_path / "build" / "random", weights="random")
    code, out, err = edge("eval", "random", "--images", str(photos))
    assert code == 0
    assert "random weights have no Top-1; agreement with the float network" in err
    assert "Top-1 %" not in out
    assert "There is no Top-1" in out
    assert eval_json(tmp_path / "build" / "random")["steps"][0]["score"] is None


def test_images_without_labels_measure_agreement(edge: Run, build: Path, tmp_path: Path) -> None:
    save_photo(tmp_path / "loose" / "a.png", index=1)
    code, _, err = edge("eval", "small", "--images", str(tmp_path / "loose"))
    assert code == 0
    assert "neither labels.csv nor class folders" in err


def test_the_demos_images_say_nothing_of_other_classes(edge: Run, build: Path) -> None:
    code, _, err = edge("eval", "small", "--images", "demo:test", "--count", "3")
    assert code == 0
    assert "the labels of the demo's images are not this network's classes" in err


# --- the vendor's steps and the gates


def test_the_vendors_network_is_measured_in_its_workers(
    edge: Run, tmp_path: Path, vendor: Vendor, photos: Path
) -> None:
    build = finished(tmp_path / "build" / "vendor", compiler="path")
    code, out, err = edge("eval", "vendor", "--images", str(photos), "--workers", "3", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [step["name"] for step in found["steps"]] == ["float", "simplified", "nv12", "quantized", "portable"]
    assert found["quantized"] == "quantized"
    assert found["steps"][3]["by"] == "the compiler's runtime (hb_mapper 9.9)"
    assert found["steps"][4]["before"] == "quantized"
    assert "left out: calibrated (the build has no calibrated_onnx)" in err
    assert len(vendor.pids()) == 3
    assert wait_for(lambda: all(map(gone, vendor.pids())))
    edge("eval", "vendor", "--images", str(photos))
    assert len(vendor.pids()) == 3
    assert build.joinpath("answers.csv").is_file()


def test_a_drop_beyond_the_gate_exits_with_1_after_writing(
    edge: Run, tmp_path: Path, vendor: Vendor, photos: Path
) -> None:
    build = finished(tmp_path / "build" / "vendor", compiler="path")
    code, out, err = edge("eval", "vendor", "--images", str(photos), "--max-drop", "1.0")
    assert code == 1
    found = eval_json(build)
    drop = found["total"]["points"]
    assert drop < -1
    assert f"error: Top-1 falls by {-drop:.2f} points from float to quantized, on 12 images" in err
    assert "at most 1 (--max-drop)" in err
    assert "edge diagnose vendor" in err
    assert found["verdict"] in out
    assert edge("eval", "vendor", "--images", str(photos), "--max-drop", "100")[0] == 0
    code, _, err = edge("eval", "vendor", "--images", str(photos), "--min-agreement", "99.5")
    assert code == 1
    assert "at least 99.5 %" in err


def test_a_gate_on_top1_needs_labels(edge: Run, build: Path, tmp_path: Path) -> None:
    save_photo(tmp_path / "loose" / "a.png", index=1)
    code, _, err = edge("eval", "small", "--images", str(tmp_path / "loose"), "--max-drop", "1")
    assert code == 2
    assert "--min-agreement" in err
    assert not (build / "eval.json").exists()
    code, _, err = edge("eval", "small", "--images", str(tmp_path / "loose"), "--min-agreement", "0")
    assert code == 0, err


def test_a_gate_needs_the_quantized_network(edge: Run, build: Path, photos: Path) -> None:
    code, _, err = edge("eval", "small", "--images", str(photos), "--steps", "nv12", "--max-drop", "1")
    assert code == 2
    assert "--max-drop without the quantized network" in err


# --- wrong input


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--steps", "int8"), 2, ("there is no step 'int8'", "calibrated")),
        (("--steps", "quantized"), 2, ("step quantized can't be measured: the build has no quantized_onnx",)),
        (("--steps", "board"), 2, ("--board HOST",)),
        (("--images", "nowhere"), 2, ("nowhere does not exist",)),
        (("--board", "rdk"), 2, ("holds no .bin",)),
        (("--labels", "imagenet"), 0, ()),
        (("--max-drop", "-1"), 2, ("--max-drop",)),
    ],
)
def test_wrong_options(
    edge: Run, build: Path, photos: Path, options: tuple[str, ...], code: int, says: tuple[str, ...]
) -> None:
    seen, out, err = edge("eval", "small", "--images", str(photos), *options)
    assert seen == code
    for text in says:
        assert text in err
    if code:
        assert out == ""
        assert not (build / "eval.json").exists()


def test_without_images_the_remedy_is_told(edge: Run, build: Path) -> None:
    code, _, err = edge("eval", "small")
    assert code == 2
    assert "elsewhere (9 images)" in err
    assert "edge eval small --images DIR" in err


def test_labels_outside_the_classes_are_named(edge: Run, build: Path, photos: Path) -> None:
    name = next(photos.glob("*/*.png")).relative_to(photos)
    (photos / "labels.csv").write_text(f"filename,class_index\n{name},7\n")
    code, _, err = edge("eval", "small", "--images", str(photos))
    assert code == 1
    assert "7 of " in err
    assert "0..3" in err


def test_a_file_that_is_not_the_built_one_is_refused(edge: Run, build: Path, photos: Path) -> None:
    path = build / "small_bpu.onnx"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    code, _, err = edge("eval", "small", "--images", str(photos))
    assert code == 1
    assert "small_bpu.onnx was changed after the build" in err
    assert "edge build small" in err


@pytest.mark.parametrize("what", ["small.onnx", "manifest.json"])
def test_only_a_build_folder_will_do(edge: Run, build: Path, photos: Path, what: str) -> None:
    code, _, err = edge("eval", str(build / what), "--images", str(photos))
    assert code == 1
    assert "the folder of a finished build" in err
    (build / "manifest.json").unlink()
    code, _, err = edge("eval", "small", "--images", str(photos))
    assert code == 1
    assert "holds no manifest.json" in err


# --- a kill in the middle


def answers_of(build: Path) -> dict[str, int]:
    """Count the kept answers of each step."""
    if not (build / NAME).exists():
        return {}
    with closing(sqlite3.connect(build / NAME)) as database:
        try:
            parts = database.execute("SELECT part, count(*) FROM entries GROUP BY part").fetchall()
        except sqlite3.OperationalError:  # it is being made
            return {}
    assert len({part.split(" ")[0] for part, _ in parts}) == len(parts)
    return {part.split(" ")[0]: count for part, count in parts}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_no_worker_and_resumes(
    edge: Run, tmp_path: Path, vendor: Vendor, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    build = finished(tmp_path / "build" / "vendor", compiler="path")
    photos = answered(build, tmp_path / "val", count=30)
    command = ["eval", "vendor", "--images", str(photos), "--steps", "quantized", "--workers", "2"]
    monkeypatch.setenv("WORKER_SLEEP", "0.15")

    def kept() -> int:
        return answers_of(build).get("quantized", 0)

    argv = [sys.executable, "-m", "edge", *command]
    process = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert wait_for(lambda: kept() >= 4)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert b"Traceback" not in err
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert b"the answers so far are kept" in err
    assert wait_for(lambda: all(map(gone, vendor.pids())))
    assert not (build / "eval.json").exists()
    done = kept()
    assert 4 <= done < 30
    monkeypatch.setenv("WORKER_SLEEP", "0")
    code, out, err_text = edge(*command, "--json")
    assert code == 0, err_text
    resumed = json.loads(out)
    assert [(step["n"], step["computed"]) for step in resumed["steps"]] == [(30, 0), (30, 0), (30, 30 - done)]
    shutil.rmtree(build / FOLDER)
    _, out, _ = edge(*command, "--json")
    fresh = json.loads(out)
    for result in (resumed, fresh):
        for step in result["steps"]:
            del step["seconds"], step["computed"]
    assert resumed["steps"] == fresh["steps"]


# --- after a build


def portable(net: Path, images: Path, *more: str) -> tuple[str, ...]:
    calib = ("--calib", str(images), "--calib-count", "20", "--images", str(images))
    norm = ("--mean", "127.5", "--std", "127.5", "--resize", "64")
    return ("build", str(net), *norm, *calib, "--compiler", "onnxruntime", *more)


def test_a_build_leaves_its_answers_to_eval_and_keeps_what_still_holds(edge: Run, tmp_path: Path) -> None:
    net, images = save_net(tmp_path / "net.onnx"), save_images(tmp_path / "images", 24)
    code, _, err = edge(*portable(net, images))
    assert code == 0, err
    code, out, err = edge("eval", "net", "--images", str(images), "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {step["name"]: step["computed"] for step in found["steps"]} == {
        "float": 0, "simplified": 24, "nv12": 0, "portable": 0
    }  # fmt: skip
    accuracy = json.loads((tmp_path / "build/net/manifest.json").read_text())["accuracy"]
    by_name = {step["name"]: step["score"] for step in found["steps"]}
    for step, key in (("float", "float"), ("nv12", "nv12"), ("portable", "quantized")):
        assert accuracy[key]["top1"] == pytest.approx(100 * by_name[step]["top1_right"] / 24, abs=1e-4)
    edge(*portable(net, images))
    assert eval_json(tmp_path / "build/net") == found
    assert (tmp_path / "build/net/answers.csv").is_file()
    code, _, err = edge(*portable(net, images, "--seed", "1", "--calib-count", "10"))
    assert code == 0, err
    assert not (tmp_path / "build/net/eval.json").exists()
    assert not (tmp_path / "build/net/answers.csv").exists()
    assert answers_of(tmp_path / "build/net") == {"float": 24, "simplified": 24, "nv12": 24, "portable": 24}


# --- a board


def test_a_board_is_the_last_step(edge: Run, board: Board, tmp_path: Path) -> None:
    build = finished(tmp_path / "build" / "vendor", program=PROGRAM)
    shutil.copy(next(build.glob("*_portable_int8.onnx")), board.root / "model.onnx")
    photos = answered(build, tmp_path / "val")
    command = ("eval", "vendor", "--images", str(photos), "--board", board.host, *board.reach, "--json")
    code, out, err = edge(*command)
    assert code == 0, err
    found = json.loads(out)
    last = found["steps"][-1]
    assert (last["name"], last["before"], last["n"], last["computed"]) == ("board", "portable", 12, 12)
    assert last["agreement_before"] == 12
    assert "HBRT 3.15.55.0" in last["by"] or "hbrt 3.15.55.0" in last["by"]
    assert found["models"]["bin"] == hashlib.sha256(PROGRAM).hexdigest()
    calls = len([call for call in board.calls() if call.startswith("infer")])
    assert calls == 12
    assert board.left_over() == []
    _, out, _ = edge(*command)
    assert json.loads(out)["steps"][-1]["computed"] == 0
    assert len([call for call in board.calls() if call.startswith("infer")]) == calls


def test_a_board_that_fails_is_one_clear_error(edge: Run, board: Board, tmp_path: Path) -> None:
    build = finished(tmp_path / "build" / "vendor", program=PROGRAM)
    shutil.copy(next(build.glob("*_portable_int8.onnx")), board.root / "model.onnx")
    photos = answered(build, tmp_path / "val", count=4)
    board.mode(hbrt="3.16.2")
    code, out, err = edge("eval", "vendor", "--images", str(photos), "--board", board.host, *board.reach)
    assert code == 1
    assert "another release line" in err
    assert out == ""
