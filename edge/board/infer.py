"""Run ``hrt_model_exec`` on the board: ``perf`` for its speed, ``infer`` for its outputs as float arrays."""

from __future__ import annotations

import io
import math
import queue
import re
import tarfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import cattrs
import numpy as np
from attrs import frozen
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from edge.board.connection import Connection
from edge.board.parse import (
    PerfRun,
    Profile,
    TensorInfo,
    error_code,
    lines_of,
    parse_model_info,
    parse_perf,
    parse_profile,
)
from edge.board.probe import State, read_state
from edge.errors import BoardError, EdgeError, UsageError, counted
from edge.progress import Reporter
from edge.runtime.libdnn import NUMBERS, explained

Frame = NDArray[np.uint8]
Scores = NDArray[np.float32]
Outputs = Sequence[Scores]

THREADS = (1, 4)
CORE = 0  # the X5 has one core
CHUNK_FRAMES = 32  # a frame of 224x224 has 75 kB, so a chunk is below 3 MB on the board
TRIES = 5
_NV12 = "HB_DNN_IMG_TYPE_NV12"
_MARK = "@edge profiler"
_DATA = b"@edge data\n"

_FIND = r"""
PATH=$PATH:/usr/hobot/bin
command -v hrt_model_exec >/dev/null || { echo 'hrt_model_exec: not found' >&2; exit 127; }
"""
_PERF = (
    _FIND
    + r"""mkdir -p -- "$4" || exit 3
hrt_model_exec perf --model_file="$1" --core_id=0 --thread_num="$2" --frame_count="$3" \
    --profile_path="$4" 2>&1
status=$?
printf '\n%s\n' '@edge profiler'
cat -- "$4/profiler.log" 2>/dev/null
exit "$status"
"""
)
_INFO = _FIND + 'hrt_model_exec model_info --model_file="$1" 2>&1\n'
_UNPACK = 'mkdir -p -- "$1/in" "$1/out" && tar -xf - -C "$1/in"'
# The tool loads the program again for each frame; this fails now and then with -6000006, so it is tried again.
_INFER = r"""
PATH=$PATH:/usr/hobot/bin
cd -- "$2" || exit 3
for frame in in/*.bin; do
    name=${frame##*/}; name=${name%.bin}; try=1
    while :; do
        rm -rf "out/$name"; mkdir "out/$name" || exit 3
        hrt_model_exec infer --model_file="$1" --input_file="$2/$frame" --core_id=0 --enable_dump=true \
            --dump_format=bin --dump_path="$2/out/$name" >log 2>&1
        status=$?
        set -- "$1" "$2" "$3" out/"$name"/model_infer_output_0_*
        [ "$status" -eq 0 ] && [ -e "$4" ] && break
        if grep -q -e -6000006 log && [ "$try" -lt "$3" ]; then try=$((try + 1)); sleep 1; continue; fi
        printf '@edge failed %s %s\n' "$status" "$name"
        tail -c 4000 log
        exit 5
    done
    printf '@edge done %s %s\n' "$name" "$try"
done
"""
_PULL = r"""
cd -- "$1/out" && printf '%s\n' '@edge data' && tar -cf - . && rm -rf -- "$1/in" "$1/out"
"""


@frozen
class PerfMeasurement:
    """One run of ``perf``: its output, its profiler's log, and the board's state before and after."""

    threads: int
    run: PerfRun
    profile: Profile | None
    before: State
    after: State


def measure(
    connection: Connection, program: str, frames: int, limit: float, reporter: Reporter
) -> list[PerfMeasurement]:
    """Measure the ``.bin`` at ``program`` with each number of threads of ``THREADS``.

    Each run has ``frames`` frames and may take ``limit`` seconds.

    Raises:
        BoardError: the tool is missing, failed, took too long, or its output holds no result.
    """
    found = []
    with connection.scratch() as folder:
        before = read_state(connection)
        for number, threads in enumerate(THREADS):
            reporter.update(f"{counted(frames, 'frame')}, {counted(threads, 'thread')}", number / len(THREADS))
            output = connection.run(
                _PERF, program, str(threads), str(frames), f"{folder}/{threads}", limit=limit, may_fail=True
            )
            log, _, profiler = output.text.rpartition(_MARK)
            if output.status:
                raise tool_failure("perf", log or output.text, output.err, output.status)
            run = parse_perf(log)
            if run is None or not (math.isfinite(run.fps) and run.fps > 0):
                raise BoardError(
                    f"hrt_model_exec perf gave no result; its last line: {last_words(log)}",
                    remedy="run it on the board by hand: hrt_model_exec perf --model_file=" + program,
                )
            after = read_state(connection)
            found.append(PerfMeasurement(threads, run, parse_profile(profiler), before, after))
            before = after
    return found


def perf_record(runs: Sequence[PerfMeasurement]) -> dict[str, Any]:
    """Return the runs as JSON."""
    listed = [cattrs.unstructure(run) for run in runs]
    return {"core_id": CORE, "runs": [{**run.pop("run"), **run} for run in listed]}


def tool_failure(verb: str, log: str, err: str, status: int) -> EdgeError:
    """Return the error for a failed ``hrt_model_exec``, with libdnn's error code explained."""
    if status == 127:
        return BoardError(
            "the board has no hrt_model_exec",
            expected="an RDK OS with the package hobot-dnn",
            remedy="apt-get install hobot-dnn on the board",
        )
    code = error_code(log + err)
    said = last_words(log) or last_words(err) or "no message"
    if code is None:
        return BoardError(f"hrt_model_exec {verb} failed with exit status {status}: {said}")
    remedy = {
        -6000014: "edge board check HOST MODEL compares the versions",
        -6000006: "check whether another program uses the BPU, then run the command again",
    }.get(code)
    return BoardError(f"hrt_model_exec {verb} failed: {code}, {explained(code)} ({said})", remedy=remedy)


def last_words(log: str) -> str:
    """Return the last line of a log that is not empty, shortened."""
    lines = [line for line in lines_of(log) if not line.startswith("@edge")]
    return lines[-1][:200] if lines else ""


def describe(connection: Connection, program: str, size: tuple[int, int] | None) -> list[TensorInfo]:
    """Return the outputs of the ``.bin`` at ``program``, as the board's runtime describes them.

    ``size`` is (height, width) of the frames that it will get; None if unknown.

    Raises:
        BoardError: the tool failed, or the program does not take one NV12 image.
        UsageError: it takes another size.
    """
    output = connection.run(_INFO, program, limit=60, may_fail=True)
    if output.status:
        raise tool_failure("model_info", output.text, output.err, output.status)
    tensors = parse_model_info(output.text)
    inputs = [tensor for tensor in tensors if tensor.kind == "input"]
    outputs = [tensor for tensor in tensors if tensor.kind == "output"]
    if not outputs or not inputs:
        raise BoardError(f"model_info names no inputs and outputs; its last line: {last_words(output.text)}")
    if len(inputs) != 1 or inputs[0].type != _NV12:
        seen = ", ".join(tensor.type or "an unknown type" for tensor in inputs)
        raise BoardError(f"the program takes {seen}", expected="one NV12 image")
    if size is not None and len(inputs[0].valid) == 4 and inputs[0].valid[2:] != size:
        height, width = inputs[0].valid[2:]
        raise UsageError(
            f"the program takes {height}x{width} images, but its metadata says {size[0]}x{size[1]}",
            remedy="build it again",
        )
    return outputs


class BoardRunner:
    """A program on the board as a function of frames, during a ``with`` block.

    Many threads call it with one frame each, and it sends the frames in chunks: the first thread also sends the waiting
    frames of the others. A frame is packed NV12, uint8; the result is its outputs, float32, in the program's order.

    Args:
        program: path of the ``.bin`` on the board.
        size: (height, width) of the frames.
        limit: seconds that a chunk may take.

    Raises:
        BoardError: the tool failed, or its output does not fit ``model_info``.
        UsageError: the program takes frames of another size.
    """

    def __init__(self, connection: Connection, program: str, size: tuple[int, int], limit: float) -> None:
        self._connection = connection
        self._program = program
        self._size = size
        self._limit = limit
        self._waiting: queue.SimpleQueue[tuple[Frame, Future[Outputs]]] = queue.SimpleQueue()
        self._board = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> BoardRunner:
        #: The program's outputs, as the board describes them.
        self.tensors = describe(self._connection, self._program, self._size)
        self._folder = self._stack.enter_context(self._connection.scratch()) + "/frames"
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, frame: Frame) -> Outputs:
        """Return the outputs of a frame."""
        own: Future[Outputs] = Future()
        self._waiting.put((frame, own))
        while not own.done():
            with self._board:
                if not own.done():
                    self._carry()
        return own.result()

    def _carry(self) -> None:
        chunk: list[tuple[Frame, Future[Outputs]]] = []
        while len(chunk) < CHUNK_FRAMES and not self._waiting.empty():
            chunk.append(self._waiting.get())
        try:
            found = self.run([frame for frame, _ in chunk])
        except BaseException as error:
            for _, future in chunk:
                future.set_exception(error)
            raise
        for (_, future), outputs in zip(chunk, found, strict=True):
            future.set_result(outputs)

    def run(self, frames: Sequence[Frame], on_frame: Callable[[int], None] | None = None) -> list[Outputs]:
        """Run up to :data:`CHUNK_FRAMES` frames: one transfer to the board, one loop there, one transfer back.

        ``on_frame`` is called with the number of frames done.
        """
        packed, folder, done = _pack(frames), self._folder, 0
        self._connection.run(_UNPACK, folder, limit=60 + len(packed) / 50_000, data=lambda: iter([packed]))

        def heard(line: str) -> None:
            nonlocal done
            if line.startswith("@edge done") and on_frame is not None:
                done += 1
                on_frame(done)

        output = self._connection.run(
            _INFER, self._program, folder, str(TRIES), limit=self._limit, on_line=heard, may_fail=True
        )
        if output.status:
            found = re.search(r"@edge failed (\d+) \w+\n", output.text)
            log = output.text[found.end() :] if found else output.text
            if found and found[1] == "0":
                raise BoardError(f"hrt_model_exec infer wrote no output; its last line: {last_words(log)}")
            if "No space left" in log + output.err:
                raise BoardError("the board's disk is full", remedy="free some space in its /tmp")
            raise tool_failure("infer", log, output.err, int(found[1]) if found else output.status)
        files = _unpack(self._connection.run(_PULL, folder, limit=300).out.partition(_DATA)[2])
        return [self._read(files, f"{number:06d}") for number in range(len(frames))]

    def _read(self, files: dict[str, bytes], frame: str) -> Outputs:
        """Return the outputs of a frame; every output must exist and fit its description."""
        found = []
        for number, tensor in enumerate(self.tensors):
            start = f"{frame}/model_infer_output_{number}_"
            names = [name for name in files if name.startswith(start)]
            if len(names) != 1:
                raise BoardError(f"{len(names)} files for output {number} of {frame}", expected="one")
            found.append(dequantise(files[names[0]], tensor))
        return found


def dequantise(data: bytes, tensor: TensorInfo) -> Scores:
    """Read an output that the board dumped: remove padding, scale integers.

    The arithmetic is libdnn's: SCALE means (x - zero_point) * scale. ``model_info`` prints scales with six digits, so a
    result may differ from the runtime's own by some parts in a million. ``data`` is the content of
    ``model_infer_output_<i>_<name>.bin``; the result is float32 of the valid shape.

    Raises:
        BoardError: the size or the scales do not fit the description.
    """
    suffix = tensor.type.rpartition("_")[2]
    if suffix not in NUMBERS or not tensor.valid:
        raise BoardError(f"output {tensor.name!r} is of type {tensor.type or 'unknown'}", expected=", ".join(NUMBERS))
    values = _unpadded(data, np.dtype(NUMBERS[suffix]).newbyteorder("<"), tensor)
    if tensor.quanti == "NONE" or (not tensor.scale and suffix.startswith("F")):
        return np.ascontiguousarray(values, np.float32)
    if tensor.quanti != "SCALE" or not tensor.scale:
        raise BoardError(
            f"output {tensor.name!r} has quantization type {tensor.quanti} without scales in model_info",
            expected="SCALE",
        )
    shifted = values.astype(np.float64) - _along(tensor.zero_point or (0.0,), tensor)
    return np.ascontiguousarray(shifted * _along(tensor.scale, tensor), np.float32)


def _unpadded(data: bytes, dtype: np.dtype[np.generic], tensor: TensorInfo) -> NDArray[np.generic]:
    size = math.prod(tensor.valid) * dtype.itemsize
    if len(data) == size:
        return np.frombuffer(data, dtype).reshape(tensor.valid)
    strides = tensor.stride
    if len(data) == tensor.aligned_bytes and len(strides) == len(tensor.valid) and all(strides):
        last = sum((count - 1) * step for count, step in zip(tensor.valid, strides, strict=True))
        if last + dtype.itemsize <= len(data):
            return as_strided(np.frombuffer(data, dtype), tensor.valid, strides).copy()
    if len(tensor.aligned) == len(tensor.valid) and len(data) == math.prod(tensor.aligned) * dtype.itemsize:
        whole = np.frombuffer(data, dtype).reshape(tensor.aligned)
        return whole[tuple(slice(count) for count in tensor.valid)]
    raise BoardError(
        f"output {tensor.name!r} has {len(data)} bytes", expected=f"{size} for {tensor.valid}, or its padded size"
    )


def _along(values: Sequence[float], tensor: TensorInfo) -> NDArray[np.float64]:
    array = np.array(values, np.float64)
    if array.size == 1:
        return array.reshape(())
    axis = tensor.axis if tensor.axis is not None else (1 if tensor.layout == "NCHW" else -1)
    if not -len(tensor.valid) <= axis < len(tensor.valid) or tensor.valid[axis] != array.size:
        raise BoardError(
            f"output {tensor.name!r} of shape {tensor.valid} comes with {array.size} scales for axis {axis}"
        )
    shape = [1] * len(tensor.valid)
    shape[axis] = array.size
    return array.reshape(shape)


def _pack(frames: Sequence[Frame]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, frame in enumerate(frames):
            entry = tarfile.TarInfo(f"{number:06d}.bin")
            entry.size = frame.size
            archive.addfile(entry, io.BytesIO(frame.tobytes()))
    return buffer.getvalue()


def _unpack(data: bytes) -> dict[str, bytes]:
    """Return the files of a tar stream by name; nothing is written to disk."""
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for entry in archive:
                content = archive.extractfile(entry) if entry.isfile() else None
                if content is not None:
                    files[entry.name.removeprefix("./")] = content.read()
    except tarfile.TarError as error:
        raise BoardError(f"the outputs arrived damaged: {error}", remedy="run the command again") from error
    return files
