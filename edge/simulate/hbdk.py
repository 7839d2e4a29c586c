"""Execute the compiled program inside a ``.bin``, instruction by instruction, with the vendor's hbdk-sim."""

from __future__ import annotations

import math
import re
import shutil
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import ToolchainError, ToolchainMissing, counted
from edge.scratch import Scratch
from edge.simulate.binfile import BinNode, BinProgram, BinValue, read_bin
from edge.simulate.tail import check_tail, head_outputs, quantized_head, run_tail
from edge.specs.schema import Input
from edge.toolchain.found import Toolchain

Integers = NDArray[np.integer]

TOOL = "hbdk-sim"
TIMEOUT = 600.0  # seconds for a frame; the zoo's networks take 0.3 to 4 s
_HBM = "program.hbm"


def why_unusable(toolchain: Toolchain) -> str:
    """Return why this compiler has no simulator; empty when it has."""
    if toolchain.kind == "docker" or (Path(toolchain.where) / TOOL).is_file():
        return ""
    return f"no {TOOL} beside hb_mapper in {toolchain.where}"


class Simulator:
    """A compiled program on the PC; may be called from several threads, each call starts a process.

    Args:
        path: the ``.bin``, built by this or another version of the compiler.
        timeout: seconds for one frame.

    Raises:
        ToolchainMissing: this compiler comes without its simulator.
        ModelFileError: ``path`` is not a program.
        ToolchainError: an input is neither an NV12 image nor float32.
    """

    def __init__(self, toolchain: Toolchain, path: Path, *, timeout: float = TIMEOUT) -> None:
        if why := why_unusable(toolchain):
            raise ToolchainMissing(why, remedy="edge toolchain install")
        self.program: BinProgram = read_bin(path)
        self.inputs: tuple[Input, ...] = _inputs(self.program)
        images = [one.shape[2:] for one in self.inputs if one.image]
        #: (height, width) of the images; (0, 0) where there is none.
        self.size: tuple[int, int] = (images[0][0], images[0][1]) if images else (0, 0)
        self._toolchain = toolchain
        self._timeout = timeout
        self._first = _first_part(self.program)
        self._lock = threading.Lock()
        self._runs = 0
        # Private, as the program may be confidential; removed at the latest when the interpreter ends.
        self._scratch = Scratch("sim")
        self._folder = self._scratch.path
        (self._folder / _HBM).write_bytes(self.program.hbm)

    @property
    def version(self) -> str:
        """Version of the simulator; another one may have built the program."""
        return self._toolchain.versions.get("hbdk", "of unknown version")

    @property
    def whole(self) -> bool:
        """Whether the program calls the BPU once, so that it can be simulated completely."""
        return len(self.program.bpu) == 1

    @property
    def exposed(self) -> tuple[BinValue, ...]:
        """The values that :meth:`integers` returns: outputs of the program's first BPU call."""
        return tuple(self.program.values[name] for name in self._first.outputs)

    def require_whole(self) -> None:
        """Raise ToolchainError if the BPU is called several times, or a CPU node is unknown."""
        if not self.whole:
            calls = len(self.program.bpu)
            between = ", ".join(f"{node.op} {node.name!r}" for node in self.program.cpu)
            raise ToolchainError(
                f"{self.program.name} calls the BPU {calls} times, and the simulator runs one call; "
                f"its CPU nodes: {between}",
                expected="a program whose BPU part is in one piece",
                remedy="use the backend quantized, or move these nodes to the BPU",
            )
        check_tail(self.program)

    def integers(self, taken: NDArray[np.uint8] | Mapping[str, NDArray[np.generic]]) -> list[Integers]:
        """Return the BPU's integers for an image, packed NV12, uint8, H*W*3/2 values, before dequantization.

        One array per entry of :attr:`exposed`, of its shape and dtype, without padding. A program of several inputs, or
        of float32, takes a mapping by their names.

        Raises:
            ToolchainError: wrong number of bytes; the simulator fails, is killed, takes too long or does not
                write these outputs.
        """
        given = taken if isinstance(taken, Mapping) else {self.inputs[0].name: taken}
        for one in self.inputs:
            _require_fit(one, given.get(one.name))
        if not self._scratch.remove.alive:
            raise ToolchainError(f"the simulator of {self.program.name} is closed", remedy="open it again")
        with self._lock:
            self._runs += 1
            run = self._folder / f"run{self._runs}"
        run.mkdir()
        try:
            self._execute(run.name, self._write_inputs(run, given))
            return [self._read(run, index, value) for index, value in enumerate(self.exposed)]
        except OSError as error:
            raise ToolchainError(
                f"can't write for the simulator: {error.strerror or error}",
                remedy=f"free some space in {self._folder.parent}",
            ) from error
        finally:
            shutil.rmtree(run, ignore_errors=True)

    def outputs(self, taken: NDArray[np.uint8] | Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        """Return the program's dequantized outputs for an image; arguments and errors as for :meth:`integers`."""
        self.require_whole()
        return self.behind(self.integers(taken))

    def behind(self, integers: list[Integers]) -> list[NDArray[np.float32]]:
        """Return the program's outputs from what :meth:`integers` returned."""
        return run_tail(self.program, dict(zip(self._first.outputs, integers, strict=True)))

    def close(self) -> None:
        """Remove the temporary files; further calls do nothing."""
        self._scratch.remove()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_inputs(self, run: Path, given: Mapping[str, NDArray[np.generic]]) -> list[tuple[str, bool]]:
        """Write what the call of the BPU takes; return the files in its order, and whether each is an image."""
        images = {one.name for one in self.inputs if one.image}
        integers = quantized_head(self.program, {name: given[name] for name in given if name not in images})
        files = []
        for place, name in enumerate(self._first.inputs):
            file = f"frame{place or ''}.yuv" if name in images else f"feature{place}.bin"  # the tool goes by the suffix
            np.ascontiguousarray(given[name] if name in images else integers[name]).tofile(run / file)
            files.append((f"{run.name}/{file}", name in images))
        return files

    def _execute(self, run: str, files: Sequence[tuple[str, bool]]) -> None:
        height, width = self.size

        def each(text: str) -> str:
            return ",".join(text if image else "" for _, image in files)

        argv = [TOOL, "-f", _HBM, "-n", self._first.name, "-i", ",".join(file for file, _ in files), "-o", run]
        if any(image for _, image in files):
            argv += ["--yuv-size", each(f"{height}x{width}"), "--yuv-stride", each(str(width))]
            argv += ["--yuv-roi-coord", each("0x0"), "--yuv-roi-size", each(f"{height}x{width}")]
        done = self._toolchain.run(argv, cwd=self._folder, timeout=self._timeout)
        if done.timed_out:
            raise ToolchainError(
                f"the simulator was stopped after {self._timeout:g} s",
                remedy="close other programs: an image takes it a few seconds",
            )
        if done.returncode != 0:
            how = f"was ended by signal {-done.returncode}" if done.returncode < 0 else "failed"
            killed = done.returncode == -signal.SIGKILL
            raise ToolchainError(
                f"the simulator {how} on {self.program.name}: {_cause(done.tail)}",
                remedy="edge doctor: a killed process often means too little memory"
                if killed
                else "edge eval BUILD --steps quantized measures its integers without the simulator; please report the "
                "network",
            )

    def _read(self, run: Path, index: int, value: BinValue) -> Integers:
        """Parse one output: comment lines with its dimensions, then the integers without padding."""
        found = sorted(run.glob(f"hbdk_output{index}_*_elem_int.txt"))
        if len(found) != 1:
            raise self._strange(f"{len(found)} files for output {index} ({value.name})")
        lines = found[0].read_text(encoding="utf-8", errors="replace").splitlines()
        head = [line for line in lines if line.startswith("#")]
        dims = re.search(r"^#valid_dim=([\dx]+)\s*$", "\n".join(head), re.MULTILINE)
        if _plain(value.name) not in _plain(found[0].name) or dims is None:
            raise self._strange(f"{found[0].name} instead of output {value.name}")
        shape = tuple(int(side) for side in dims[1].split("x"))
        words = " ".join(line for line in lines if not line.startswith("#")).split()
        try:
            numbers = np.array(words, np.int64)
        except (ValueError, OverflowError):
            raise self._strange(f"no integers for output {value.name}") from None
        limits = np.iinfo(value.dtype)
        # A head with int16 scores is (1, 1, 1, classes) here and (1, classes) in the program.
        if _plain_shape(shape) != _plain_shape(value.shape) or numbers.size != np.prod(shape):
            raise self._strange(f"{numbers.size} numbers of shape {shape}, {value.name} is {value.shape}")
        if numbers.size and not limits.min <= numbers.min() <= numbers.max() <= limits.max:
            raise self._strange(f"numbers beyond {value.dtype} for output {value.name}")
        return numbers.astype(value.dtype).reshape(value.shape)

    def _strange(self, what: str) -> ToolchainError:
        return ToolchainError(
            f"the simulator wrote {what}", expected="one file of integers per output", remedy="edge doctor"
        )


def _inputs(program: BinProgram) -> tuple[Input, ...]:
    """Return the inputs, images as (1, 3, H, W)."""
    found = []
    for kind, value in zip(program.input_kinds, program.inputs, strict=False):
        shape = value.shape
        if kind == "F32":
            found.append(Input(value.name, shape, image=False))
        elif kind == "NV12" and len(shape) == 4 and shape[0] == 1:
            # The network's own layout: the axis of size 3 is the channels.
            height, width = shape[1:3] if shape[3] == 3 else shape[2:4]
            found.append(Input(value.name, (1, 3, height, width), image=True))
    if not found or len(found) != len(program.inputs) or len({one.shape for one in found if one.image}) > 1:
        pairs = zip(program.input_kinds, program.inputs, strict=False)
        kinds = ", ".join(f"{kind} {value.shape}" for kind, value in pairs)
        raise ToolchainError(
            f"{program.name} takes {kinds or 'nothing'}", expected="NV12 images of one size, or float32"
        )
    return tuple(found)


def _require_fit(one: Input, value: NDArray[np.generic] | None) -> None:
    """Fail unless an array is what an input takes."""
    kind, wanted = ("float32", math.prod(one.shape)) if not one.image else ("uint8", math.prod(one.shape[2:]) * 3 // 2)
    if value is None or value.dtype != kind or value.size != wanted:
        seen = "nothing" if value is None else f"{counted(value.size, 'value')} of {value.dtype}"
        what = f"{wanted} bytes of NV12 for {one.shape[2]}x{one.shape[3]}" if one.image else f"{one.shape}"
        raise ToolchainError(f"{seen}{'' if one.image else f' for {one.name}'}", expected=f"{kind}, {what}")


def _first_part(program: BinProgram) -> BinNode:
    """Return the call of the BPU that sees the inputs, and nothing else."""
    given = {one.name for one in _inputs(program) if one.image} | set(head_outputs(program))
    for node in program.bpu:
        if set(node.inputs) <= given:
            if all(program.values[name].dtype.startswith("int") for name in node.outputs):
                return node
            break
    named = " and ".join(repr(value.name) for value in program.inputs)
    raise ToolchainError(
        f"in {program.name} no call of the BPU goes from the image {named} to integers",
        expected="a program that begins on the BPU",
    )


def _plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if shape[:1] != (1,) else _plain_shape(shape[1:])


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _cause(tail: str) -> str:
    lines = tail.strip().splitlines()
    told = [line for line in lines if re.search(r"error|fatal|exception", line, re.IGNORECASE)]
    return (told or lines or ["no message"])[-1][:200]
