"""A board for tests: the vendor's Python runtimes as fakes, and programs that they run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from edge.folder.metadata import FILE, read_metadata, write_metadata
from edge.runtime.answer import Answer, write_answer
from tests.fabricated import entry, make_build

FOLDER = Path(__file__).resolve().parent / "fakes" / "board"
LIBRARIES = ("hbm_runtime", "hobot_dnn", "hobot_dnn_rdkx5", "bpu_infer_lib")
MODULES = (*LIBRARIES, "hobot_dnn.pyeasy_dnn", "hobot_dnn_rdkx5.pyeasy_dnn", "fake_libdnn", "fake_pyeasy_dnn")
NV12_64 = {"name": "images", "type": "NV12", "shape": [1, 3, 64, 64]}


def plug_in(
    monkeypatch: pytest.MonkeyPatch, libraries: Iterable[str] = LIBRARIES, *, workers: bool = False, **env: str
) -> None:
    """Make the fakes of these libraries importable, fresh, and no other of the vendor's libraries.

    They run in this process, where tests can reach them, unless ``workers`` are wanted as on a board.
    """
    libraries = tuple(libraries)
    if not workers:
        monkeypatch.setattr("edge.runtime.open.isolated", lambda *_: False)
    monkeypatch.syspath_prepend(str(FOLDER))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)  # so that afterwards it is gone again
        monkeypatch.delitem(sys.modules, name)
    for name in set(LIBRARIES) - set(libraries):
        monkeypatch.setitem(sys.modules, name, None)


def fake_bin(
    outputs: list[dict[str, object]] | None = None,
    inputs: list[dict[str, object]] | None = None,
    *,
    portable: str | None = None,
    builder: tuple[int, int] = (1, 24),
    fails: int = 0,
    healthy: int = 0,
    constant: bool = False,
    gain: float = 1,
) -> bytes:
    """Return a program for the fakes.

    Args:
        outputs: name, type, shape and more, as ``fake_libdnn.Tensor`` takes them.
        inputs: likewise; NV12 of 64x64 by default.
        portable: file name of the portable model to compute with, beside the program.
        builder: the compiler that made it; an older runtime refuses it.
        fails: libdnn's return code of every run after the first ``healthy`` ones.
        constant: do not compute at all.
        gain: of the fixed weights; the scores have about half of it as standard deviation.
    """
    facts = {
        "model": "fake",
        "inputs": inputs or [NV12_64],
        "outputs": outputs or [{"name": "scores", "type": "F32", "shape": [1, 4, 1, 1]}],
        "portable": portable,
        "builder": builder,
        "fails": fails,
        "healthy": healthy,
        "constant": constant,
        "gain": gain,
    }
    return json.dumps(facts).encode()


def board_build(folder: Path, program: bytes | None = None, hb_mapper: str = "1.24.3", **facts: Any) -> Path:
    """Write a finished build folder whose ``.bin`` computes what its portable model computes.

    Args:
        facts: as ``fake_bin`` takes them; or ``program`` is another one.
    """
    portable = f"{folder.name}_64x64_nv12_portable_int8.onnx"
    make_build(folder, program=program or fake_bin(portable=portable, **facts))
    metadata = read_metadata(folder / FILE)
    write_metadata(folder / FILE, attrs.evolve(metadata, toolchain={"hb_mapper": hb_mapper}))
    return folder


def store_answer(build: Path, *, change: float = 0, exact: bool = True) -> Path:
    """Give a build folder the answer that its program gives to a test image, as ``edge build`` does.

    Args:
        change: what is added to the first value, so that it is the answer of another program.
    """
    sys.path.insert(0, str(FOLDER))
    import fake_libdnn

    model = fake_libdnn.Model(str(next(build.glob("*.bin"))))
    image = np.random.default_rng(1).integers(0, 256, model.inputs[0].bytes).astype(np.uint8)
    model.inputs[0].memory[:] = image
    model.infer()
    outputs = [tensor.read().astype(np.float32) for tensor in model.outputs]
    outputs[0].reshape(-1)[0] += np.float32(change)
    path = build / f"{build.name}_test.npz"
    write_answer(path, Answer({"": image}, tuple(outputs), exact=exact))
    metadata = read_metadata(build / FILE)
    write_metadata(build / FILE, attrs.evolve(metadata, files={**metadata.files, "test": entry(path)}))
    return path
