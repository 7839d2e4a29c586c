"""A board for tests: the vendor's Python runtimes as fakes, and programs that they run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import attrs
import pytest

from edge.folder.metadata import FILE, read_metadata, write_metadata
from tests.fabricated import make_build

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


def board_build(folder: Path, program: bytes | None = None, hb_mapper: str = "1.24.3") -> Path:
    """Write a finished build folder whose ``.bin`` computes what its portable model computes."""
    portable = f"{folder.name}_64x64_nv12_portable_int8.onnx"
    make_build(folder, program=program or fake_bin(portable=portable))
    metadata = read_metadata(folder / FILE)
    write_metadata(folder / FILE, attrs.evolve(metadata, toolchain={"hb_mapper": hb_mapper}))
    return folder
