"""Finding a program, choosing a backend, and what a net does, with the portable model."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import attrs
import cv2
import numpy as np
import onnx
import pytest

from edge.errors import (
    BackendError,
    BackendMissing,
    EdgeError,
    ImageError,
    LabelError,
    ModelFileError,
    ToolchainError,
    UsageError,
)
from edge.folder.metadata import FILE, Role, read_metadata, write_metadata
from edge.images.preprocess import resize_crop, rgb_to_nv12
from edge.runtime import BACKENDS, Backend, Info, Net, Tensor, load
from edge.runtime.program import Program, locate
from edge.specs import Preprocess
from tests.conftest import wait_for
from tests.fabricated import NAMES, make_build, save_photo

BYTES = 64 * 64 * 3 // 2
RULE = Preprocess(crop=(64, 64), resize=72)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return make_build(tmp_path / "net", program=b"a program")


@pytest.fixture
def portable(build: Path) -> Path:
    return next(build.glob("*_portable_int8.onnx"))


def opens(open_backend: Callable[[Program], Backend], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a stand-in in the place of a backend's module."""
    module = ModuleType(name)
    module.open_backend = open_backend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, f"edge.runtime.backends.{name}", module)


class Counting:
    """A backend whose scores are the bytes that it is given; says who was inside."""

    def __init__(self, concurrent: bool = False) -> None:
        self.concurrent = concurrent
        self.closed = 0
        self.entered = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.info = Info(
            "counting",
            "net",
            "1",
            (Tensor("x", (1, 3, 64, 64), "uint8", nv12=True),),
            (Tensor("y", (1, 4), "float32"),),
        )

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        self.entered.set()
        assert self.go.wait(20)
        assert not self.closed
        return [inputs[0][:4].astype(np.float32).reshape(1, 4)]

    def close(self) -> None:
        self.closed += 1


# Where a program is


def test_a_folder_is_located_by_its_metadata(build: Path) -> None:
    program = locate(build)
    assert program.name == "net"
    assert set(program.files) == {"bin", "portable", "labels"}
    assert all(path.is_file() for path in program.files.values())
    assert locate(str(build)).files == program.files


def test_a_listed_file_that_is_missing(build: Path, portable: Path) -> None:
    portable.unlink()
    with pytest.raises(ModelFileError, match=r"_portable_int8\.onnx is missing or does not have") as error:
        locate(build)
    assert "build it again" in str(error.value.remedy)


def test_a_listed_file_that_was_cut_short(build: Path, portable: Path) -> None:
    portable.write_bytes(portable.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="missing or does not have"):
        load(build)


@pytest.mark.parametrize("role", ["bin", "portable", "labels"])
@pytest.mark.parametrize("whole", [True, False], ids=["folder", "single file"])
def test_a_listed_file_of_the_same_size_that_was_changed(build: Path, role: Role, whole: bool) -> None:
    path = build / read_metadata(build / FILE).files[role].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    named = build if whole else path if role != "labels" else next(build.glob("*_portable_int8.onnx"))
    with pytest.raises(ModelFileError, match="was changed"):
        load(named)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
        (b"<html>", "HTML page"),
        (b"PK\x03\x04rest", "ZIP archive"),
        (b"\x1f\x8brest", "gzip archive"),
        (b"\x08\x01\x10\x01\x2a\xff\x01" + bytes(254), "is cut off: it has 261 bytes of at least 262"),
    ],
)
def test_a_bin_that_is_none(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "net.bin").write_bytes(content)
    with pytest.raises(ModelFileError, match=kind):
        load(tmp_path / "net.bin")


def test_a_whole_bin_is_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_bytes(b"\x08\x01\x10\x01\x2a\xff\x01" + bytes(255))
    assert locate(tmp_path / "net.bin").files == {"bin": tmp_path / "net.bin"}


@pytest.mark.parametrize("name", ["../other.bin", "/etc/passwd", "a/b.bin", ".hidden", "", "a\0b", "..\\x.bin"])
@pytest.mark.parametrize("key", ["path", "model", "name"])
def test_metadata_that_names_files_elsewhere(build: Path, name: str, key: str) -> None:
    data = json.loads((build / FILE).read_text())
    (data["files"]["bin"] if key == "path" else data)[key] = name
    (build / FILE).write_text(json.dumps(data))
    with pytest.raises(ModelFileError, match="names"):
        locate(build)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        "null",
        '{"schema_version": 1}',
        '{"schema_version": 2}',
        '{"schema_version": 1, "files": 3}',
        "\udc80",
    ],
)
def test_metadata_that_is_broken(build: Path, text: str) -> None:
    (build / FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelFileError, match=r"metadata\.json"):
        locate(build)


def test_a_folder_without_metadata(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"holds no metadata\.json") as error:
        load(tmp_path)
    assert str(error.value.remedy).startswith("edge build")


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        load(tmp_path / "gone.bin")


@pytest.mark.parametrize("name", ["model.onnx", "model.hbm", "bin", "image.jpg"])
def test_a_file_that_is_no_program(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelFileError, match=f"{name} is not a program") as error:
        load(tmp_path / name)
    assert ".bin" in str(error.value.expected)


def test_a_single_file_takes_the_metadata_that_speaks_of_it(build: Path, portable: Path) -> None:
    assert locate(portable).metadata == read_metadata(build / FILE)
    with load(portable) as net:
        assert net.labels == NAMES


def test_a_single_file_leaves_out_the_metadata_of_another(tmp_path: Path, build: Path, portable: Path) -> None:
    other = portable.with_name("other_portable_int8.onnx")
    other.write_bytes(portable.read_bytes() + b"\n")
    assert locate(other).metadata is None
    alone = tmp_path / portable.name
    shutil.copy(portable, alone)
    assert locate(alone) == Program(alone, {"portable": alone})


def test_a_single_file_beside_a_foreign_metadata_json(
    tmp_path: Path, portable: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = tmp_path / portable.name
    shutil.copy(portable, alone)
    (tmp_path / FILE).write_text('{"title": "holiday"}')
    with load(alone, preprocess=RULE) as net:
        assert net.metadata is None
    assert "metadata.json is ignored" in caplog.text


def test_the_home_folder_is_understood(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(build.parent))
    assert locate("~/net").metadata is not None


# Which backend


def test_auto_takes_the_first_that_works_and_says_why(
    build: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def failing(name: str, error: EdgeError) -> None:
        def open_backend(program: Program) -> Backend:
            asked.append(name)
            raise error

        opens(open_backend, name, monkeypatch)

    failing("hbm_runtime", BackendMissing("no Python module hbm_runtime"))
    failing("hobot_dnn", BackendError("it is broken"))
    failing("bpu_infer_lib", BackendMissing("no Python module bpu_infer_lib"))
    failing("hbdk_sim", ToolchainError("the compiler's folder can't be read"))
    failing("quantized", BackendMissing("without its quantized ONNX"))
    caplog.set_level(logging.DEBUG, "edge.runtime")
    with load(build) as net:
        assert net.backend == "portable"
        assert [entry.backend for entry in net.passed_over] == asked == list(BACKENDS[:-1])
        assert net.passed_over[1].why == "it is broken"
    told = {record.getMessage(): record.levelno for record in caplog.records}
    assert told["net: backend hbm_runtime passed over: no Python module hbm_runtime"] == logging.DEBUG
    assert told["net: backend hobot_dnn passed over: it is broken"] == logging.WARNING
    assert told["net: backend hbdk_sim passed over: the compiler's folder can't be read"] == logging.WARNING
    assert told["net: backend portable"] == logging.INFO


def test_the_order_is_the_documented_one() -> None:
    assert BACKENDS == (
        "hbm_runtime", "hobot_dnn", "bpu_infer_lib", "hbdk_sim", "quantized", "portable",
    )  # fmt: skip


def test_nothing_works(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(program: Program) -> Backend:
        raise BackendMissing("not here")

    for name in BACKENDS:
        opens(missing, name, monkeypatch)
    with pytest.raises(BackendMissing, match="nothing on this machine can run net") as error:
        load(build)
    assert all(f"{name}: not here" in error.value.seen for name in BACKENDS)
    assert error.value.remedy


def test_a_backend_that_does_not_exist(build: Path) -> None:
    with pytest.raises(UsageError, match="there is no backend 'cuda'") as error:
        load(build, backend="cuda")  # type: ignore[arg-type]
    assert "portable" in str(error.value.expected)


@pytest.mark.parametrize("threads", [0, -1])
def test_a_thread_count_that_makes_no_sense(build: Path, threads: int) -> None:
    with pytest.raises(UsageError, match="threads ="):
        load(build, threads=threads)


def test_a_portable_model_that_edge_did_not_make(portable: Path) -> None:
    model = onnx.load(portable)
    del model.metadata_props[:]
    portable = portable.with_name("foreign_portable_int8.onnx")
    onnx.save(model, portable)
    with pytest.raises(BackendError, match="was not made by edge"):
        load(portable, backend="portable")


def test_a_portable_model_that_is_broken(portable: Path) -> None:
    portable = portable.with_name("foreign_portable_int8.onnx")
    portable.write_bytes(b"no onnx")
    with pytest.raises(BackendError, match="onnxruntime can't load"):
        load(portable, backend="portable")


def test_onnxruntime_is_not_there(portable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissing, match="onnxruntime is not installed") as error:
        load(portable, backend="portable")
    assert error.value.remedy == "pip install onnxruntime"


def test_a_program_that_is_none_is_to_be_copied_again(tmp_path: Path) -> None:
    (tmp_path / "x_portable_int8.onnx").write_bytes(b"garbage")
    with pytest.raises(BackendMissing) as error:
        load(tmp_path / "x_portable_int8.onnx")
    assert error.value.remedy == "copy the file again, or build it again"


@pytest.mark.parametrize("exact", [True, False])
def test_info_says_whether_the_integers_are_the_boards(tmp_path: Path, exact: bool) -> None:
    with load(make_build(tmp_path / "net", exact=exact), backend="portable") as net:
        assert net.info.exact is exact
        assert net.info.version.startswith("onnxruntime ")


def test_what_was_opened_is_closed_when_loading_fails(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Counting] = []

    def open_backend(program: Program) -> Backend:
        if len(opened) == 2:
            raise BackendError("out of memory")
        opened.append(Counting())
        return opened[-1]

    opens(open_backend, "quantized", monkeypatch)
    with pytest.raises(BackendError, match="out of memory"):
        load(build, backend="quantized", threads=3)
    assert [backend.closed for backend in opened] == [1, 1]
    opened.clear()
    with pytest.raises(LabelError):
        load(build, backend="quantized", labels=["one"])
    assert [backend.closed for backend in opened] == [1]


# Images, scores, classes


def test_classes_and_probabilities(build: Path, tmp_path: Path) -> None:
    photo = save_photo(tmp_path / "p.png")
    with load(build, backend="portable") as net:
        best = net.classify(photo, k=3)
        everything = dict(net.classify(str(photo), k=99))
        assert len(best) == 3
        assert list(everything) == sorted(everything, key=lambda name: -everything[name])
        assert sum(everything.values()) == pytest.approx(1)
        scores = net.scores(photo)
        assert scores.shape == (4,)
        assert best[0] == (NAMES[int(scores.argmax())], max(everything.values()))
        np.testing.assert_array_equal(net.scores(cv2.imread(str(photo))[..., ::-1]), scores)


def test_nv12_is_that_of_the_one_preprocess_module(build: Path) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    with load(build, backend="portable") as net:
        assert net.preprocess is not None
        nv12 = net.nv12(rgb)
        np.testing.assert_array_equal(nv12, rgb_to_nv12(resize_crop(rgb, net.preprocess)))
        assert (nv12.dtype, nv12.shape) == (np.uint8, (BYTES,))


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one(build: Path, k: int) -> None:
    with load(build, backend="portable") as net, pytest.raises(UsageError, match="k ="):
        net.classify(np.zeros((64, 64, 3), np.uint8), k)


def test_labels(build: Path, portable: Path) -> None:
    gray = np.zeros((64, 64, 3), np.uint8)
    with load(build, backend="portable", labels="abcd") as net:
        assert {label for label, _ in net.classify(gray)} == set("abcd")
    (build / FILE).unlink()
    with load(portable, preprocess=RULE) as net:
        assert {label for label, _ in net.classify(gray)} == set("0123")
    with pytest.raises(LabelError, match="3 labels for") as error:
        load(portable, preprocess=RULE, labels="abc")
    assert str(error.value.expected).startswith("4,")


def test_a_program_whose_preprocessing_is_not_known(portable: Path) -> None:
    (portable.parent / FILE).unlink()
    with load(portable, backend="portable") as net:
        assert net.run(np.zeros(BYTES, np.uint8))[0].shape == (1, 4)
        with pytest.raises(UsageError, match="is not known") as error:
            net.classify(np.zeros((64, 64, 3), np.uint8))
    assert "preprocess=" in str(error.value.expected)


def test_a_preprocessing_of_another_size(build: Path) -> None:
    with pytest.raises(UsageError, match="takes 64x64 images, the preprocessing makes 96x96"):
        load(build, backend="portable", preprocess=Preprocess(crop=(96, 96)))
    metadata = attrs.evolve(read_metadata(build / FILE), preprocess=Preprocess())
    write_metadata(build / FILE, metadata)
    with pytest.raises(UsageError, match="makes 224x224"):
        load(build, backend="portable")


@pytest.mark.parametrize(
    ("content", "match"),
    [(None, "can't be read"), (b"", "is empty"), (b"hello", "not a complete image"), ("folder", "can't be read")],
)
def test_a_image_that_is_no_image(build: Path, tmp_path: Path, content: bytes | str | None, match: str) -> None:
    path = tmp_path / "cheetah.jpg"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with load(build, backend="portable") as net, pytest.raises(ImageError, match=match) as error:
        net.classify(path)
    assert "cheetah.jpg" in str(error.value)


@pytest.mark.parametrize("array", [np.zeros((64, 64, 3)), np.zeros((64, 64), np.uint8), np.zeros((0, 0, 3), np.uint8)])
def test_an_array_that_is_no_image(build: Path, array: np.ndarray) -> None:
    with load(build, backend="portable") as net, pytest.raises(ImageError, match="an array of"):
        net.classify(array)


def test_a_failure_inside_onnxruntime_is_a_backend_error(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(build, backend="portable") as net:
        monkeypatch.setattr(net._backends[0], "_inputs", ["another"])
        with pytest.raises(BackendError, match="onnxruntime failed"):
            net.run(np.zeros(BYTES, np.uint8))


# Threads and closing


def test_threads_that_share_the_portable_model(build: Path) -> None:
    frames = [np.random.default_rng(seed).integers(0, 256, BYTES).astype(np.uint8) for seed in range(16)]
    with load(build, backend="portable", threads=4) as net:
        alone = [net.run(frame)[0] for frame in frames]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda frame: net.run(frame)[0], frames))
    np.testing.assert_array_equal(together, alone)


def counting_net(backends: list[Counting]) -> Net:
    return Net(backends, preprocess=None, labels=None)


def test_a_closed_net_says_so() -> None:
    backends = [Counting(), Counting()]
    net = counting_net(backends)
    with net:
        net.run(np.zeros(BYTES, np.uint8))
    net.close()
    assert [backend.closed for backend in backends] == [1, 1]
    with pytest.raises(BackendError, match="net is closed") as error:
        net.run(np.zeros(BYTES, np.uint8))
    assert error.value.remedy == "load it again"


def test_closing_waits_for_a_run_and_turns_away_who_waits() -> None:
    backend = Counting()
    backend.go.clear()
    net = counting_net([backend])
    frame = np.full(BYTES, 7, np.uint8)
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(net.run, frame)
        assert backend.entered.wait(20)
        waiters = net._free.not_empty._waiters  # type: ignore[attr-defined]
        waiting = pool.submit(net.run, frame)
        assert wait_for(lambda: len(waiters) == 1)
        closing = pool.submit(net.close)
        assert wait_for(lambda: len(waiters) == 2)
        assert not backend.closed
        backend.go.set()
        closing.result(20)
        assert running.result(20)[0].tolist() == [[7] * 4]
        with pytest.raises(BackendError, match="net is closed"):
            waiting.result(20)
    assert backend.closed == 1


def test_a_net_closes_when_its_block_fails() -> None:
    backend = Counting(concurrent=True)
    with pytest.raises(ZeroDivisionError), counting_net([backend]):
        _ = 1 / 0
    assert backend.closed == 1
