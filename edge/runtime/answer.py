"""The known answer: one input and the outputs that the program has to give, compared when a board loads it.

A board's runtime that times out, or a driver that does not fit, may give other finite numbers without an error.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from edge.errors import BackendError, BackendMissing, ModelFileError
from edge.files import disk_errors
from edge.runtime.program import Program
from edge.runtime.protocol import Array, Backend, Info, Scores

ANY_ANSWER = "EDGE_ANY_ANSWER"  # for a board whose own arithmetic differs though it is right
LAST_BITS = 1e-6  # of the largest value: as far as float32 arithmetic may be off where only integers are scaled
STEP = 1 / 127  # of the largest value: as far as an output may be off where it depends on the processor's exponential
_SPARE = 1 << 20  # bytes of a file beside its arrays
_log = logging.getLogger("edge.runtime")


@frozen(eq=False)
class Answer:
    """An input, and the outputs that the program gives for it."""

    inputs: Mapping[str, Array]  #: input's name -> what the program takes; of a single one any name.
    outputs: tuple[Scores, ...]  #: in the program's order, dequantized.
    exact: bool  #: whether every processor gives these values, up to the last bits of float32.
    source: str = "stored answer"  #: where it is from, for messages.

    def given(self, info: Info) -> list[Array]:
        """Return the inputs in the order of a program, as it takes them.

        Raises:
            BackendError: they are those of another program.
        """
        found = []
        for tensor in info.inputs:
            one = next(iter(self.inputs.values())) if len(info.inputs) == 1 else self.inputs.get(tensor.name)
            if one is None or one.size != tensor.elements or str(one.dtype) != tensor.dtype:
                raise BackendError(
                    f"the {self.source} of {info.model} does not fit its input {tensor.name!r}",
                    expected=f"{tensor.elements} values of {tensor.dtype}",
                    remedy="copy the whole folder again, or build it again",
                )
            found.append(np.ascontiguousarray(one.reshape(-1 if tensor.nv12 else tensor.shape)))
        return found

    def difference(self, outputs: Sequence[Scores]) -> str:
        """Return how outputs differ from the known ones; empty if they do not."""
        if [values.size for values in outputs] != [values.size for values in self.outputs]:
            return f"it has {', '.join(str(values.size) for values in outputs)} values"
        for place, (ours, wanted) in enumerate(zip(outputs, self.outputs, strict=True)):
            here, there = ours.reshape(-1).astype(np.float64), wanted.reshape(-1).astype(np.float64)
            apart = np.abs(here - there)
            limit = (LAST_BITS if self.exact else STEP) * np.abs(there[np.isfinite(there)]).max(initial=0)
            wrong = int(np.sum(~(apart <= limit)))  # nan is not
            if wrong:
                return f"{wrong} of {apart.size} values of output {place} differ, by up to {apart.max():.3g}"
        return ""


def write_answer(path: Path, answer: Answer) -> None:
    """Write an answer as ``.npz``: ``names`` of the inputs, ``input_N``, ``output_N`` and ``exact``."""
    arrays: dict[str, Any] = {f"input_{place}": array for place, array in enumerate(answer.inputs.values())}
    arrays |= {f"output_{place}": array for place, array in enumerate(answer.outputs)}
    with disk_errors(path.parent):
        np.savez_compressed(path, names=np.array(list(answer.inputs), np.str_), exact=np.array(answer.exact), **arrays)


def read_answer(path: Path, info: Info) -> Answer:
    """Read an answer for a program.

    Raises:
        ModelFileError: it can't be read, or would unpack to far more than the program takes and gives.
    """
    limit = sum(tensor.elements * 8 for tensor in (*info.inputs, *info.outputs)) + _SPARE
    try:
        _require_small(path, limit)
        with np.load(path, allow_pickle=False) as found:
            names = [str(name) for name in found["names"]]
            outputs = sum(name.startswith("output_") for name in found.files)
            return Answer(
                {name: found[f"input_{place}"] for place, name in enumerate(names)},
                tuple(found[f"output_{place}"].astype(np.float32) for place in range(outputs)),
                exact=bool(found["exact"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ModelFileError(
            f"{path} is no test of a program: {error}", remedy="copy the whole folder again, or build it again"
        ) from error


def _require_small(path: Path, limit: int) -> None:
    with zipfile.ZipFile(path) as packed:
        size = sum(entry.file_size for entry in packed.infolist())
    if size > limit:
        raise ValueError(f"it unpacks to {size:,} bytes, not at most {limit:,}")


def known_answer(program: Program, info: Info) -> Answer | None:
    """Return the answer that came with a program, else that of its portable model; None where there is neither.

    Raises:
        ModelFileError: the answer can't be read.
    """
    if "test" in program.files:
        return read_answer(program.files["test"], info)
    return _from_portable(program)


def require_answer(backends: Sequence[Backend], program: Program) -> Answer | None:
    """Ask each opened runtime of a board for the known answer; return it, None where none is known.

    Raises:
        BackendError: it answers otherwise, or failed. With EDGE_ANY_ANSWER=1 another answer is a warning.
        ModelFileError: the answer can't be read.
    """
    info = backends[0].info
    known = known_answer(program, info)
    if known is None:
        return None
    for backend in backends:
        difference = known.difference(backend.run(known.given(info)))
        if not difference:
            continue
        seen = f"{info.backend} ({info.version}) answers the test image of {program.name} wrongly: {difference}"
        if os.environ.get(ANY_ANSWER) == "1":
            _log.warning("%s; %s=1 takes it all the same", seen, ANY_ANSWER)
            continue
        raise BackendError(
            seen,
            expected=f"the {known.source}{', to the last bits of float32' if known.exact else ''}",
            remedy="restart the board and load it again; if it stays, edge board run HOST MODEL IMAGE on the PC asks "
            f"the vendor's own tool, and {ANY_ANSWER}=1 runs it as it is",
        )
    return known


def _from_portable(program: Program) -> Answer | None:
    """Return the portable model's answer to seeded noise, where it computes the program's integers."""
    if "portable" not in program.files:
        return None
    from edge.runtime.backends.portable import PortableBackend

    try:
        portable = PortableBackend(program)
    except BackendMissing:  # no onnxruntime
        return None
    if not portable.info.exact:
        return None
    rng = np.random.default_rng(0)
    inputs = {
        tensor.name: rng.integers(0, 256, tensor.elements).astype(np.uint8)
        if tensor.nv12
        else rng.normal(size=tensor.shape).astype(np.float32)
        for tensor in portable.info.inputs
    }
    outputs = portable.run(list(inputs.values()))
    return Answer(inputs, tuple(outputs), exact=False, source="portable model's answer")
