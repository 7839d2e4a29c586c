"""The portable model in stock onnxruntime: no vendor software, any machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edge.errors import BackendError, BackendMissing
from edge.folder.metadata import EXACT_KEY, INPUTS_KEY, SIZE_KEY
from edge.runtime.program import Program
from edge.runtime.protocol import Array, Info, Scores, Tensor


class PortableBackend:
    """A portable model; threads may share the onnxruntime session, each run uses one thread.

    Raises:
        BackendMissing: no portable model, or no onnxruntime.
        BackendError: onnxruntime refuses it.
    """

    concurrent = True

    def __init__(self, program: Program) -> None:
        path = program.files.get("portable")
        if path is None:
            raise BackendMissing(f"{program.name} comes without its portable model", remedy="edge build MODEL")
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendMissing("onnxruntime is not installed", remedy="pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # errors come back as exceptions
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            notes = self._session.get_modelmeta().custom_metadata_map
            inputs = _inputs(notes, self._session.get_inputs())
        except KeyError:
            raise BackendError(f"{path.name} was not made by edge", remedy="edge build MODEL") from None
        except Exception as error:  # onnxruntime's own exceptions share no public base
            cause = " ".join(str(error).split())[:200]
            raise BackendError(f"onnxruntime can't load {path.name}: {cause}", remedy="edge build MODEL") from error
        if not self._session.get_inputs() or not self._session.get_outputs():
            raise BackendError(f"{path.name} has no input or no output", remedy="edge build MODEL")
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self.info = Info(
            backend="portable",
            model=program.name,
            version=f"onnxruntime {onnxruntime.__version__}",
            inputs=inputs,
            outputs=tuple(
                Tensor(tensor.name, tuple(tensor.shape), "float32") for tensor in self._session.get_outputs()
            ),
            exact=notes.get(EXACT_KEY) == "1",
        )

    def run(self, inputs: Sequence[Array]) -> list[Scores]:
        """Execute once; see the protocol."""
        try:
            return list(self._session.run(None, dict(zip(self._inputs, inputs, strict=True))))
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise BackendError(
                f"onnxruntime failed: {' '.join(str(error).split())[:200]}", remedy="edge build MODEL"
            ) from error

    def close(self) -> None:
        """Do nothing: only memory is held."""


def _inputs(notes: Mapping[str, str], given: Sequence[Any]) -> tuple[Tensor, ...]:
    """Return the inputs: one NV12 image, or as the file's notes list them; KeyError without notes of edge's."""
    if INPUTS_KEY in notes:
        return tuple(
            Tensor(name, tuple(shape), "uint8" if image else "float32", nv12=image)
            for name, shape, image in json.loads(notes[INPUTS_KEY])
        )
    height, width = (int(side) for side in notes[SIZE_KEY].split("x"))
    return tuple(Tensor(one.name, (1, 3, height, width), "uint8", nv12=True) for one in given[:1])


open_backend = PortableBackend
