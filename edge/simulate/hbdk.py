"""Execute the compiled program inside a ``.bin``, instruction by instruction, with the vendor's hbdk-sim."""

from __future__ import annotations

import re
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import ToolchainError, ToolchainMissing
from edge.scratch import Scratch
from edge.simulate.binfile import BinNode, BinProgram, BinValue, read_bin
from edge.simulate.tail import check_tail, run_tail
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
        ToolchainError: the program's input is not one NV12 image.
    """

    def __init__(self, toolchain: Toolchain, path: Path, *, timeout: float = TIMEOUT) -> None:
        if why := why_unusable(toolchain):
            raise ToolchainMissing(why, remedy="edge toolchain install")
        self.program: BinProgram = read_bin(path)
        self.size: tuple[int, int] = _image_size(self.program)
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

    def integers(self, nv12: NDArray[np.uint8]) -> list[Integers]:
        """Return the BPU's integers for an image, packed NV12, uint8, H*W*3/2 values, before dequantization.

        One array per entry of :attr:`exposed`, of its shape and dtype, without padding.

        Raises:
            ToolchainError: wrong number of bytes; the simulator fails, is killed, takes too long or does not
                write these outputs.
        """
        height, width = self.size
        if nv12.dtype != np.uint8 or nv12.size != height * width * 3 // 2:
            raise ToolchainError(
                f"{nv12.size} values of {nv12.dtype}",
                expected=f"uint8, {height * width * 3 // 2} bytes of NV12 for {height}x{width}",
            )
        if not self._scratch.remove.alive:
            raise ToolchainError(f"the simulator of {self.program.name} is closed", remedy="open it again")
        with self._lock:
            self._runs += 1
            run = self._folder / f"run{self._runs}"
        run.mkdir()
        try:
            nv12.tofile(run / "frame.yuv")  # the tool recognizes an image by this suffix
            self._execute(run.name)
            return [self._read(run, index, value) for index, value in enumerate(self.exposed)]
        except OSError as error:
            raise ToolchainError(
                f"can't write for the simulator: {error.strerror or error}",
                remedy=f"free some space in {self._folder.parent}",
            ) from error
        finally:
            shutil.rmtree(run, ignore_errors=True)

    def outputs(self, nv12: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return the program's dequantized outputs for an image; arguments and errors as for :meth:`integers`."""
        self.require_whole()
        return self.behind(self.integers(nv12))

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

    def _execute(self, run: str) -> None:
        height, width = self.size
        argv = [TOOL, "-f", _HBM, "-n", self._first.name, "-i", f"{run}/frame.yuv", "-o", run]
        argv += ["--yuv-size", f"{height}x{width}", "--yuv-stride", str(width)]
        argv += ["--yuv-roi-coord", "0x0", "--yuv-roi-size", f"{height}x{width}"]
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


def _image_size(program: BinProgram) -> tuple[int, int]:
    shape = program.inputs[0].shape if program.inputs else ()
    if program.input_kinds != ("NV12",) or len(shape) != 4 or shape[0] != 1:
        pairs = zip(program.input_kinds, program.inputs, strict=False)
        kinds = ", ".join(f"{kind} {value.shape}" for kind, value in pairs)
        raise ToolchainError(f"{program.name} takes {kinds or 'nothing'}", expected="one NV12 image")
    # The network's own layout: the axis of size 3 is the channels.
    height, width = shape[1:3] if shape[3] == 3 else shape[2:4]
    return height, width


def _first_part(program: BinProgram) -> BinNode:
    """Return the call of the BPU that sees the image."""
    image = program.inputs[0].name
    for node in program.bpu:
        if node.inputs == (image,):
            if all(program.values[name].dtype.startswith("int") for name in node.outputs):
                return node
            break
    raise ToolchainError(
        f"in {program.name} no call of the BPU goes from the image {image!r} to integers",
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
