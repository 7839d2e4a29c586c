r"""Parse the output of the board's tools, in spite of noise, missing keys and other versions.

``hrt_model_exec`` mixes its results with glog lines, banners, colours and carriage returns. The number of decimals
(three or six) and the keys differ between versions.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping

from attrs import field, frozen

from edge.toolchain.process import clean

_GLOG = re.compile(r"^[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+\s+\d+ \S+:\d+\]")
_BANNER = re.compile(r"^\[(?:BPU_PLAT|HBRT|DNN|[AWEID]\]\[DNN)\]|^\[[AWEID]\]\[DNN\]")
_NUMBER = r"([\d.]+(?:[eE][-+]?\d+)?)"
_CODE = re.compile(r"-60000\d\d\b|-60001\d\d\b")


@frozen
class PerfRun:
    """The figures of one run of ``hrt_model_exec perf``; None if missing."""

    threads: int | None  #: number of threads that submitted frames.
    frames: int | None  #: of all threads together.
    latency_ms: float  #: mean per frame in its thread, CPU nodes included; it grows with the threads.
    fps: float  #: frames per second of all threads together.
    latency_min_ms: float | None = None  #: of the fastest frame.
    latency_max_ms: float | None = None  #: of the slowest frame.
    run_time_ms: float | None = None  #: wall time.
    load_ms: float | None = None  #: time to load the program.


@frozen
class Profile:
    """Mean milliseconds per frame from ``profiler.log``: on the BPU, on the CPU, and of each node."""

    bpu_ms: float | None  #: on the BPU; None if unknown.
    cpu_ms: float | None  #: on the CPU; None if unknown.
    nodes: Mapping[str, float] = field(factory=dict)  #: node -> its milliseconds.


@frozen
class TensorInfo:
    """An input or output as ``model_info`` describes it; empty or None if unknown."""

    kind: str  #: ``input`` or ``output``.
    index: int  #: as printed.
    name: str = ""  #: of the tensor.
    valid: tuple[int, ...] = ()  #: shape without padding.
    aligned: tuple[int, ...] = ()  #: shape with padding.
    aligned_bytes: int | None = None  #: size of its memory.
    type: str = ""  #: such as ``HB_DNN_TENSOR_TYPE_S32`` or ``HB_DNN_IMG_TYPE_NV12``.
    layout: str = ""  #: ``NHWC``, ``NCHW`` or empty.
    quanti: str = "NONE"  #: ``NONE``, ``SCALE`` or ``SHIFT``.
    stride: tuple[int, ...] = ()  #: bytes from one element to the next, for each axis.
    scale: tuple[float, ...] = ()  #: one value, or one per channel.
    zero_point: tuple[float, ...] = ()  #: one value, or one per channel; empty means 0.
    axis: int | None = None  #: the channels' axis.


@frozen
class Versions:
    """Versions that the board's runtime prints when it loads a program; None if missing."""

    dnn: str | None = None
    hbrt: str | None = None
    platform: str | None = None


def lines_of(text: str) -> list[str]:
    r"""Split at ``\n`` and ``\r``, drop escape codes, empty lines, and log lines that are not results."""
    pieces = [piece.strip() for piece in re.split(r"[\r\n]+", clean(text))]
    return [piece for piece in pieces if piece and not _GLOG.match(piece) and not _BANNER.match(piece)]


def parse_perf(text: str) -> PerfRun | None:
    """Read the output of ``hrt_model_exec perf``; None if it holds no result.

    It takes the summary; if that is missing, the last of the progress lines, which come every 200 frames.
    """
    text = "\n".join(lines_of(text))
    latency = _last(text, rf"Average\s+latency\s+is:\s*{_NUMBER}\s*ms", rf"Thread Average:\s*{_NUMBER}\s*ms")
    fps = _last(text, rf"Frame\s+rate\s+is:\s*{_NUMBER}\s*FPS", rf"\bFPS:\s*{_NUMBER}")
    if latency is None or fps is None:
        return None
    threads = _last(text, r"Thread\s+number\s+is:\s*(\d+)")
    frames = _last(text, r"Frame\s+count\s+is:\s*(\d+)", r"Frame\s+count:\s*(\d+)")
    return PerfRun(
        threads=None if threads is None else int(threads),
        frames=None if frames is None else int(frames),
        latency_ms=latency,
        fps=fps,
        latency_min_ms=_last(text, rf"thread\s+min\s+latency:\s*{_NUMBER}"),
        latency_max_ms=_last(text, rf"thread\s+max\s+latency:\s*{_NUMBER}"),
        run_time_ms=_last(text, rf"Program\s+run\s+time:\s*{_NUMBER}"),
        load_ms=_last(text, rf"Load model to DDR cost\s+{_NUMBER}\s*ms"),
    )


def parse_profile(text: str) -> Profile | None:
    """Read ``profiler.log``: JSON documents with anything between them; None if there are no times in it."""
    found: dict[str, object] = {}
    decoder, position = json.JSONDecoder(), 0
    while (position := text.find("{", position)) >= 0:
        try:
            document, position = decoder.raw_decode(text, position)
        except ValueError:
            position += 1
            continue
        found |= document if isinstance(document, dict) else {}
    processor = _times(found.get("processor_latency") or found.get("chip_latency"))
    nodes = _times(found.get("model_latency"))
    if not processor and not nodes:
        return None
    bpu = processor.get("BPU_inference_time_cost")
    cpu = processor.get("CPU_inference_time_cost")
    if nodes:
        on_bpu = [time for name, time in nodes.items() if name.startswith("BPU_")]
        bpu = sum(on_bpu) if bpu is None else bpu
        cpu = sum(nodes.values()) - sum(on_bpu) if cpu is None else cpu
    return Profile(bpu, cpu, nodes)


def parse_model_info(text: str) -> list[TensorInfo]:
    """Read the inputs and outputs from ``hrt_model_exec model_info``."""
    tensors: list[TensorInfo] = []
    block: dict[str, str] = {}

    def close() -> None:
        if block:
            tensors.append(_tensor(block))
        block.clear()

    for line in lines_of(text):
        opened = re.match(r"(input|output)\[(\d+)\]\s*:", line)
        if opened:
            close()
            block.update(kind=opened[1], index=opened[2])
        elif block and (pair := re.match(r"([A-Za-z][\w /]*?)\s*:\s*(.*)", line)):
            block[pair[1].lower()] = pair[2]
    close()
    return tensors


def parse_versions(text: str) -> Versions:
    """Read the versions from the banner of every load, or from ``hrt_model_exec -v``."""
    text = clean(text)
    pair = re.search(r"Runtime version = ([\d.]+)_\(([\d.]+) HBRT\)", text)
    exact = re.search(r"\[HBRT\][^\n]*version = ([\d.]+)", text)
    platform = re.search(r"BPU Platform Version\(([\d.]+)\)", text)
    bare = re.search(r"(?<![\d.])(\d+\.\d+\.\d+)(?![\d.])", text)
    return Versions(
        dnn=pair[1] if pair else bare[1] if bare and not exact else None,
        hbrt=exact[1] if exact else pair[2] if pair else None,
        platform=platform[1] if platform else None,
    )


def error_code(text: str) -> int | None:
    """Return the last error code of libdnn in a log."""
    found = _CODE.findall(text)
    return int(found[-1]) if found else None


def _last(text: str, *patterns: str) -> float | None:
    """Return the last number that the first pattern finds, or else the next pattern."""
    for pattern in patterns:
        for found in reversed(re.findall(pattern, text)):
            with contextlib.suppress(ValueError):  # such as 1.2.3
                return float(found)
    return None


def _times(entry: object) -> dict[str, float]:
    if not isinstance(entry, dict):
        return {}
    times = {name: value.get("avg_time") for name, value in entry.items() if isinstance(value, dict)}
    return {str(name): float(time) for name, time in times.items() if isinstance(time, int | float)}


def _tensor(block: Mapping[str, str]) -> TensorInfo:
    axis = re.search(r"-?\d+", block.get("quantizeaxis", ""))
    aligned_bytes = re.search(r"\d+", block.get("aligned byte size", ""))
    return TensorInfo(
        kind=block["kind"],
        index=int(block["index"]),
        name=block.get("name", ""),
        valid=_integers(block.get("valid shape", "")),
        aligned=_integers(block.get("aligned shape", "")),
        aligned_bytes=int(aligned_bytes[0]) if aligned_bytes else None,
        type=block.get("tensor type", ""),
        layout=block.get("tensor layout", "").removeprefix("HB_DNN_LAYOUT_"),
        quanti=block.get("quanti type", "NONE").strip() or "NONE",
        stride=_integers(block.get("stride", "")),
        scale=_floats(block.get("scale data", "")),
        zero_point=_floats(block.get("zero_point data", "")),
        axis=int(axis[0]) if axis else None,
    )


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"-?\d+", text))


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", text))
