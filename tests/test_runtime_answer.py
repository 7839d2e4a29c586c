"""A board's first run is compared with the answer that came with the program."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import attrs
import numpy as np
import pytest

from edge.errors import BackendError, ModelFileError
from edge.folder.metadata import FILE, read_metadata, write_metadata
from edge.runtime import load
from edge.runtime.answer import Answer, read_answer, write_answer
from edge.runtime.protocol import Info, Tensor
from tests.fabricated import entry
from tests.fake_board import LIBRARIES, board_build, fake_bin, plug_in, store_answer

ONE_EACH = ("hbm_runtime", "hobot_dnn", "bpu_infer_lib")
INFO = Info("x", "net", "1", (Tensor("image", (1, 3, 4, 4), "uint8", nv12=True),), (Tensor("y", (1, 3), "float32"),))
IMAGE = np.arange(24, dtype=np.uint8)
SCORES = np.array([[1, -2, 3]], np.float32)


@pytest.mark.parametrize("library", ONE_EACH)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_right_answer_passes(tmp_path: Path, library: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    build = board_build(tmp_path / "net")
    store_answer(build)
    plug_in(monkeypatch, [library])
    # No onnxruntime is needed for it.
    monkeypatch.setattr("edge.runtime.answer._from_portable", lambda *_: pytest.fail("the answer is there"))
    with load(build, library, threads=threads) as net:
        assert net.backend == library


@pytest.mark.parametrize("library", ONE_EACH)
@pytest.mark.parametrize("workers", [False, True], ids=["here", "worker"])
def test_other_finite_values_in_the_memory_of_a_first_run_that_failed_are_refused(
    tmp_path: Path, library: str, workers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = board_build(tmp_path / "net")
    store_answer(build)
    stale = board_build(tmp_path / "stale" / "net", constant=True)  # does not compute at all
    (build / next(stale.glob("*.bin")).name).write_bytes(next(stale.glob("*.bin")).read_bytes())
    list_again(build)
    plug_in(monkeypatch, [library], workers=workers)
    with pytest.raises(
        BackendError, match=rf"^{library} \(.*\) answers the test image of net wrongly: 4 of 4"
    ) as wrong:
        load(build, library)
    assert wrong.value.expected == "the stored answer, to the last bits of float32"
    assert "edge board run" in str(wrong.value.remedy)


def list_again(build: Path) -> None:
    metadata = read_metadata(build / FILE)
    files = {role: entry(build / one.path) for role, one in metadata.files.items()}
    write_metadata(build / FILE, attrs.evolve(metadata, files=files))


@pytest.mark.parametrize("change", [1e-3, np.nan])
def test_one_value_is_told_and_auto_takes_the_next_backend(
    tmp_path: Path, change: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build = board_build(tmp_path / "net")
    store_answer(build, change=change)
    plug_in(monkeypatch)
    with load(build) as net:
        assert net.backend not in LIBRARIES
        assert {one.backend for one in net.passed_over if "1 of 4 values of output 0 differ" in one.why} == set(
            ONE_EACH
        )
    assert "backend hbm_runtime passed over: hbm_runtime (libdnn 1.24.5_(3.15.55 HBRT)) answers" in caplog.text


def test_a_board_that_is_right_all_the_same_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build = board_build(tmp_path / "net")
    store_answer(build, change=1e-3)
    plug_in(monkeypatch, ["hbm_runtime"], EDGE_ANY_ANSWER="1")
    with load(build, "hbm_runtime") as net:
        assert net.backend == "hbm_runtime"
    assert "1 of 4 values of output 0 differ" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(("change", "right"), [(1e-6, True), (1, False)])
def test_what_depends_on_the_processors_exponential_may_be_a_little_off(
    tmp_path: Path, change: float, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = board_build(tmp_path / "net")
    store_answer(build, change=change, exact=False)
    plug_in(monkeypatch, ["hobot_dnn"])
    if right:
        load(build, "hobot_dnn").close()
    else:
        with pytest.raises(BackendError, match="1 of 4 values"):
            load(build, "hobot_dnn")


def test_without_a_stored_answer_the_portable_model_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = board_build(tmp_path / "net", fake_bin())  # computes otherwise
    plug_in(monkeypatch, ["hbm_runtime"])
    with pytest.raises(BackendError, match="4 of 4 values of output 0 differ") as wrong:
        load(build, "hbm_runtime")
    assert wrong.value.expected == "the portable model's answer"
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    load(build, "hbm_runtime").close()  # nothing to compare with


def test_a_portable_model_that_is_an_estimate_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    build = board_build(tmp_path / "net", fake_bin())
    path = next(build.glob("*.onnx")).with_name("net_64x64_nv12_portable_int8.onnx")
    model = onnx.load(str(path))
    next(prop for prop in model.metadata_props if prop.key == "edge.exact").value = "0"
    onnx.save(model, str(path))
    list_again(build)
    plug_in(monkeypatch, ["hbm_runtime"])
    load(build, "hbm_runtime").close()


def test_an_answer_is_written_and_read(tmp_path: Path) -> None:
    names = {"image/left": IMAGE, "b": np.ones((1, 2), np.float32)}
    write_answer(tmp_path / "a.npz", Answer(names, (SCORES, SCORES[:, :2]), exact=True))
    info = attrs.evolve(INFO, inputs=(Tensor("b", (1, 2), "float32"), attrs.evolve(INFO.inputs[0], name="image/left")))
    found = read_answer(tmp_path / "a.npz", info)
    assert [array.shape for array in found.given(info)] == [(1, 2), (24,)]
    assert found.difference([SCORES.reshape(1, 3, 1, 1), SCORES[:, :2]]) == ""  # the board's shapes are longer
    assert found.difference([SCORES]) == "it has 3 values"
    assert found.difference([SCORES, -SCORES[:, :2]]) == "2 of 2 values of output 1 differ, by up to 4"
    write_answer(tmp_path / "b.npz", Answer(names, (SCORES, SCORES[:, :2]), exact=True))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("inputs", [{"": IMAGE[1:]}, {"": IMAGE.astype(np.float32)}])
def test_the_answer_of_another_program(inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(BackendError, match="does not fit its input 'image'"):
        Answer(inputs, (SCORES,), exact=True).given(INFO)


def huge(path: Path) -> None:
    np.savez_compressed(path, names=np.array([""]), input_0=np.zeros(1 << 24, np.uint8))


def pickled(path: Path) -> None:
    np.savez(path, names=np.array([{}], object))


def cut(path: Path) -> None:
    write_answer(path, Answer({"": IMAGE}, (SCORES,), exact=True))
    path.write_bytes(path.read_bytes()[:200])


def without_exact(path: Path) -> None:
    np.savez(path, names=np.array([""]), input_0=IMAGE)


@pytest.mark.parametrize("make", [huge, pickled, cut, without_exact, lambda path: path.write_bytes(b"x")])
def test_a_broken_answer(tmp_path: Path, make: object) -> None:
    make(tmp_path / "a.npz")  # type: ignore[operator]
    assert zipfile.is_zipfile(tmp_path / "a.npz") or make not in (huge, pickled)
    with pytest.raises(ModelFileError, match=r"a\.npz is no test of a program"):
        read_answer(tmp_path / "a.npz", INFO)
