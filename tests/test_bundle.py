"""``edge bundle``: what goes to the board, checked, repeatable, and never over somebody else's files."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import attrs
import numpy as np
import pytest

from edge.errors import ModelFileError, UsageError, WorkspaceError
from edge.folder.metadata import FILE, read_metadata, write_metadata
from edge.pipeline.bundle import MARKER, bundle, notebook
from edge.runtime import load
from edge.runtime.answer import read_answer
from edge.toolchain.found import Toolchain
from tests.conftest import Run, save_images
from tests.fabricated import entry, make_build, save_photo
from tests.test_build_compiler import save_small_net

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "ConvNeXt_atto_64x64_nv12"
FILES = sorted(
    [
        MARKER,
        "README.txt",
        "install.sh",
        "labels.txt",
        "metadata.json",
        "test_ConvNeXt_atto.ipynb",
        "wheels.zip",
        f"{PREFIX}.bin",
        f"{PREFIX}_portable_int8.onnx",
    ]
)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """With a quantized ONNX too, which stays at home."""
    folder = make_build(tmp_path / "build" / "ConvNeXt_atto", program=b"the program")
    quantized = folder / f"{PREFIX}_quantized_model.onnx"
    quantized.write_bytes(b"quantized")
    metadata = read_metadata(folder / FILE)
    write_metadata(folder / FILE, attrs.evolve(metadata, files={**metadata.files, "quantized": entry(quantized)}))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_bundle_holds_what_the_board_needs(edge: Run, build: Path, tmp_path: Path) -> None:
    code, out, _ = edge("bundle", "ConvNeXt_atto")
    assert code == 0
    made = tmp_path / "build" / "ConvNeXt_atto_bundle"
    assert sorted(contents(made)) == FILES
    assert f"bundle: the folder {made.relative_to(tmp_path)}" in out
    assert "scp -r build/ConvNeXt_atto_bundle" in out
    metadata = read_metadata(made / FILE)
    assert set(metadata.files) == {"bin", "portable", "labels"}
    assert attrs.evolve(metadata, files={}) == attrs.evolve(read_metadata(build / FILE), files={})
    for role in metadata.files.values():
        assert entry(made / role.path) == role
        assert (made / role.path).read_bytes() == (build / role.path).read_bytes()


def test_a_bundle_answers_as_its_build_does(build: Path, tmp_path: Path) -> None:
    made = bundle(build, tmp_path / "out")
    image = save_photo(tmp_path / "photo.png", 4)
    with load(build, "portable") as one, load(made.path, "portable") as other:
        assert one.classify(image) == other.classify(image)
        assert other.labels == one.labels


def test_the_readmes_commands_run_in_the_bundle(build: Path, tmp_path: Path) -> None:
    made = bundle(build, tmp_path / "out").path
    save_photo(made / "IMAGE.jpg")
    text = (made / "README.txt").read_text()
    assert "sh install.sh" in text
    commands = [line.split() for line in text.splitlines() if line.startswith("  ./edge ")]
    assert [words[1] for words in commands] == ["selftest", "run", "bench"]
    for words in commands[1:]:
        argv = [sys.executable, "-m", "edge", *words[1:]]
        done = subprocess.run(argv, cwd=made, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    start = text.index("  from edge.runtime")
    code = "\n".join(line[2:] for line in text[start:].splitlines())
    done = subprocess.run([sys.executable, "-c", code], cwd=made, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("portable [('")
    assert f"--model_file {PREFIX}.bin" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("name", "instead"), [("net.zip", "net"), ("net.ZIP", "net"), ("net.tar", "net"), ("a.b.tar.xz", "a.b")]
)
def test_another_kind_of_archive_is_refused(build: Path, tmp_path: Path, name: str, instead: str) -> None:
    with pytest.raises(UsageError, match="edge makes no") as refusal:
        bundle(build, tmp_path / name)
    assert refusal.value.remedy == f"--out {tmp_path / instead}.tar.gz"
    assert not (tmp_path / name).exists()
    assert tarfile.is_tarfile(bundle(build, tmp_path / "Net.TGZ").path)


def test_the_same_build_gives_the_same_bytes(build: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "net.tar.gz", tmp_path / "b" / "net.tar.gz"
    bundle(build, first)
    one = contents(bundle(build, tmp_path / "one").path)
    for path in build.iterdir():
        os.utime(path, (1, 1))
    moved = tmp_path / "moved"
    shutil.copytree(build, moved)
    bundle(moved, second)
    assert first.read_bytes() == second.read_bytes()
    assert contents(bundle(moved, tmp_path / "two").path) == one
    # Of the bundle itself, too: it is as good a source as the build.
    assert contents(bundle(tmp_path / "one", tmp_path / "three").path) == one


def test_an_archive_holds_the_same_as_a_folder(build: Path, tmp_path: Path) -> None:
    folder = contents(bundle(build, tmp_path / "net").path)
    made = bundle(build, tmp_path / "net.tar.gz")
    with tarfile.open(made.path) as archive:
        members = archive.getmembers()
        found = {
            member.name.removeprefix("net/"): archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in members
            if member.isfile()
        }
    assert found == folder
    assert {member.name.partition("/")[0] for member in members} == {"net"}
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 315532800)}
    assert {m.mode for m in members if m.isfile()} == {0o644}


def test_a_corrupt_file_is_refused(build: Path, tmp_path: Path) -> None:
    path = build / f"{PREFIX}.bin"
    path.write_bytes(b"tHe program")  # of the same size
    for out in ("out", "out.tar.gz"):
        with pytest.raises(ModelFileError, match="was changed"):
            bundle(build, tmp_path / out)
        assert not (tmp_path / out).exists()
    path.write_bytes(b"the program, longer")
    with pytest.raises(ModelFileError, match="does not have 11 bytes"):
        bundle(build, tmp_path / "out")


def test_an_earlier_bundle_is_replaced_and_the_users_files_stay(build: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bundle(build, out)
    (out / "photo.jpg").write_bytes(b"mine")
    (out / "results").mkdir()
    shutil.rmtree(build)
    make_build(build, names=("p", "q", "r"))  # now without a .bin
    made = bundle(build, out)
    assert not made.has_bin
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*(name for name in FILES if not name.endswith((".bin", ".sh", ".zip"))), "photo.jpg", "results"]
    )
    assert (out / "photo.jpg").read_bytes() == b"mine"
    with load(out, "portable") as net:
        assert net.labels == ("p", "q", "r")


def foreign_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("mine")


def foreign_marker(path: Path) -> None:
    foreign_folder(path)
    (path / MARKER).write_text("[]")


def foreign_archive(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(__file__, arcname="net/test.py")


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("out", foreign_folder, "holds files that edge did not bundle (thesis.txt"),
        ("out", foreign_marker, "has a broken .edge-bundle"),
        ("out", lambda path: path.write_text("mine"), "out is a file"),
        ("out.tar.gz", lambda path: path.write_bytes(b"mine"), "is not a bundle that edge made"),
        ("out.tar.gz", lambda path: path.write_bytes(gzip.compress(b"mine")), "is not a bundle that edge made"),
        ("out.tgz", foreign_archive, "is not a bundle that edge made"),
        ("out.tar.gz", foreign_folder, "is not a bundle that edge made"),
    ],
)
def test_what_edge_did_not_make_is_never_overwritten(
    edge: Run, build: Path, tmp_path: Path, name: str, make: object, says: str
) -> None:
    out = tmp_path / name
    make(out)  # type: ignore[operator]
    before = contents(out) if out.is_dir() else out.read_bytes()
    code, _, err = edge("bundle", "ConvNeXt_atto", "--out", name)
    assert code == 1
    assert says in err
    assert "next: " in err or "expected: " in err
    assert (contents(out) if out.is_dir() else out.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build", name]


def test_an_empty_folder_may_be_filled(build: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert sorted(contents(bundle(build, tmp_path / "out").path)) == FILES


@pytest.mark.parametrize("name", ["out", "out.tar.gz"])
def test_a_full_disk_leaves_the_earlier_bundle_whole(
    build: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / name
    bundle(build, out)
    before = contents(out) if out.is_dir() else out.read_bytes()
    shutil.rmtree(build)
    make_build(build, names=("p", "q", "r"))
    written = 0

    def full(*_: object) -> None:
        nonlocal written
        written += 1
        if written == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edge.pipeline.bundle._write", lambda path, data: (full(), path.write_bytes(data)))
    add = tarfile.TarFile.addfile
    monkeypatch.setattr(tarfile.TarFile, "addfile", lambda *args: (full(), add(*args)))
    with pytest.raises(WorkspaceError, match="is full"):
        bundle(build, out)
    assert (contents(out) if out.is_dir() else out.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build", name]


def test_a_build_without_a_bin_says_so(edge: Run, tmp_path: Path) -> None:
    make_build(tmp_path / "build" / "ConvNeXt_atto", exact=False)
    code, out, err = edge("bundle", "ConvNeXt_atto", "--out", "net.tar.gz", "--verbose")
    assert code == 0
    assert "no .bin" in err
    assert "bundle: the archive net.tar.gz" in out
    assert "scp net.tar.gz" in out
    with tarfile.open(tmp_path / "net.tar.gz") as archive:
        text = archive.extractfile("net/README.txt").read().decode()  # type: ignore[union-attr]
    assert "no .bin" in text
    assert "onnxruntime" in text
    assert "hrt_model_exec" not in text


def test_without_wheels_pip_installs_edge(edge: Run, build: Path, tmp_path: Path) -> None:
    assert edge("bundle", "ConvNeXt_atto", "--out", "net", "--no-wheels")[0] == 0
    assert sorted(contents(tmp_path / "net")) == [name for name in FILES if name not in ("wheels.zip", "install.sh")]
    text = (tmp_path / "net/README.txt").read_text()
    assert "/usr/bin/python3 -m pip install --user edge-*.whl" in text
    assert "/usr/bin/python3 -m edge run . IMAGE.jpg" in text
    assert "install.sh" not in text


def test_install_refuses_another_python(build: Path, tmp_path: Path) -> None:
    """On a board it is tried in ``test_board_rig.py``."""
    made = bundle(build, tmp_path / "out").path
    script = (made / "install.sh").read_text().replace("/usr/bin/python3", sys.executable)
    done = subprocess.run(["sh", "-c", script], cwd=made, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the wheels are for 3.10 aarch64" in done.stderr
    assert "next: run this on an RDK X5" in done.stderr
    assert not (made / "lib").exists()


def test_the_test_image_and_its_answer_come_along(build: Path, tmp_path: Path) -> None:
    test = build / "net_test.npz"
    test.write_bytes(b"an image and its answer")
    metadata = read_metadata(build / FILE)
    write_metadata(build / FILE, attrs.evolve(metadata, files={**metadata.files, "test": entry(test)}))
    made = bundle(build, tmp_path / "out").path
    assert (made / test.name).read_bytes() == test.read_bytes()
    assert "a test image as NV12, and the answer to it" in (made / "README.txt").read_text()


def test_json(edge: Run, build: Path) -> None:
    _, out, _ = edge("bundle", "ConvNeXt_atto", "--out", "net", "--json")
    told = json.loads(out)
    assert told["path"] == "net"
    assert told["has_bin"] is True
    assert sorted(file["path"] for file in told["files"]) == [name for name in FILES if name != MARKER]


def test_sources_that_are_no_finished_build(build: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="written over"):
        bundle(build, build)
    alone = tmp_path / "alone" / "other.bin"
    alone.parent.mkdir()
    alone.write_bytes(b"the program")
    with pytest.raises(ModelFileError, match=r"comes without a metadata\.json"):
        bundle(alone, tmp_path / "out")
    with pytest.raises(ModelFileError, match="holds no"):
        bundle(alone.parent, tmp_path / "out")
    with pytest.raises(ModelFileError, match="does not exist"):
        bundle(tmp_path / "gone", tmp_path / "out")
    assert bundle(build / f"{PREFIX}.bin", tmp_path / "out").has_bin


def test_the_notebook_is_the_models_own() -> None:
    for model in ("ConvNeXt_atto", "ConvNeXt_nano"):
        assert notebook(model) == (ROOT / "notebooks" / f"test_{model}.ipynb").read_text(encoding="utf-8")
    other = notebook("my_net.v2")
    assert json.loads(other)["nbformat"] == 4
    assert 'MODEL = \\"my_net.v2\\"' in other
    assert "ConvNeXt" not in other
    assert '"' not in json.loads(notebook('x"y'))["cells"][0]["source"][0].partition("#")[2]


def test_scores_are_not_all_the_same(build: Path, tmp_path: Path) -> None:
    """Without it the comparison of answers above would prove nothing."""
    with load(build, "portable") as net:
        scores = [net.scores(save_photo(tmp_path / "p.png", index)) for index in range(3)]
    assert not np.allclose(scores[0], scores[1])


# A real build


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, toolchain: Toolchain) -> Path:
    """The build folder of a small net, by the vendor's compiler at O0."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "names.txt").write_text("p\nq\nr\ns\n")
    net, images = save_small_net(folder / "small.onnx"), save_images(folder / "images", 24)
    words = ("--mean", "127.5", "--std", "64", "--resize", "64", "--level", "O0", "--labels", "names.txt")
    data = ("--images", str(images), "--calib", str(images), "--calib-count", "20")
    argv = [sys.executable, "-m", "edge", "build", str(net), *words, *data]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "build" / "small"


@pytest.mark.compiler
def test_a_real_build_is_bundled_and_answers_the_same_in_every_simulator(edge: Run, real: Path, tmp_path: Path) -> None:
    code, out, err = edge("bundle", str(real), "--out", "small.tar.gz")
    assert code == 0, err
    assert err == ""
    with tarfile.open("small.tar.gz") as archive:
        archive.extractall(tmp_path)
    assert {".bin", ".onnx", ".npz", ".ipynb"} <= {path.suffix for path in (tmp_path / "small").iterdir()}
    with load(tmp_path / "small", "hbdk_sim") as net:  # the program itself, in another run of its simulator
        answer = read_answer(tmp_path / "small/small_64x64_nv12_test.npz", net.info)
        assert answer.exact
        assert answer.difference(net.run(*answer.given(net.info))) == ""
    images = [str(save_photo(tmp_path / f"{index}.png", index)) for index in range(3)]
    answers = {}
    for folder, backend in (("small", "hbdk_sim"), ("small", "portable"), (str(real), "quantized")):
        code, out, err = edge("run", folder, *images, "--backend", backend, "--json")
        assert code == 0, err
        told = json.loads(out)
        assert told["backend"] == backend
        assert told["exact"] is True
        answers[backend] = told["images"]
    assert {entry["label"] for image in answers["hbdk_sim"] for entry in image["labels"]} == set("pqrs")
    assert answers["hbdk_sim"] == answers["portable"] == answers["quantized"]
