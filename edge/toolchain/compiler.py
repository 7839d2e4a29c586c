"""Run ``hb_mapper makertbin`` and ``hb_mapper checker`` repeatably and return what they made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from edge.progress import Reporter, Silent
from edge.toolchain.found import Toolchain
from edge.toolchain.logs import NodeRow, StaticPerf


@frozen
class CompileResult:
    """What makertbin made; every file is named relative to ``out``.

    Attributes:
        bin: the program for the board.
        intermediates: the vendor's ONNX models, quant_info.json and subgraph html/json.
        log: ``hb_mapper_makertbin.log``.
        static: the compiler's own speed figures.
        nodes: the node table.
        bpu: number of nodes on the BPU.
        cpu: number of nodes on the CPU.
        output_cosine: the worst output's cosine, calibrated against float, on the calibration data.
        calibration_method: what the compiler chose, such as ``max``.
        seconds: wall time.
        command: as a user would type it, beside the YAML.
        versions: of hb_mapper, hbdk, horizon_nn, as the log says.
    """

    bin: str
    intermediates: tuple[str, ...]
    log: str
    static: StaticPerf | None
    nodes: tuple[NodeRow, ...]
    bpu: int
    cpu: int
    output_cosine: float | None
    calibration_method: str | None
    seconds: float
    command: tuple[str, ...]
    versions: dict[str, str]


@frozen
class CheckResult:
    """What the checker says; speed figures are for O0 without calibration, so pessimistic.

    Attributes:
        nodes: the node table (no cosines).
        bpu: number of nodes on the BPU.
        cpu: number of nodes on the CPU.
        cpu_nodes: names of the CPU nodes.
        cpu_inside: names of those that lie between BPU nodes, and so split the graph.
        log: ``hb_mapper_checker.log``.
        static: the compiler's figures.
        seconds: wall time.
        command: as a user would type it.
        versions: of hb_mapper, hbdk, horizon_nn.
    """

    nodes: tuple[NodeRow, ...]
    bpu: int
    cpu: int
    cpu_nodes: tuple[str, ...]
    cpu_inside: tuple[str, ...]
    log: str
    static: StaticPerf | None
    seconds: float
    command: tuple[str, ...]
    versions: dict[str, str]


def makertbin(
    toolchain: Toolchain,
    *,
    yaml: Path,
    files: Mapping[str, Path],
    out: Path,
    prefix: str,
    working_dir: str,
    key: str,
    timeout: float = 7200.0,
    reporter: Reporter = Silent(),
) -> CompileResult:
    """Compile; the same inputs and ``key`` give the same bytes wherever ``out`` lies.

    Args:
        toolchain: from :func:`edge.toolchain.find.find`.
        yaml: the mapper YAML; it is copied.
        files: what the YAML names, relative to its folder -> the real file or folder (read only).
        out: existing folder that receives the results.
        prefix: ``output_model_file_prefix`` of the YAML.
        working_dir: ``working_dir`` of the YAML, relative.
        key: content key of the compile; names the sandbox, so it is part of the bytes.
        timeout: seconds.
        reporter: progress.

    Raises:
        CompileError: stage, cause, remedy.
        CompileTimeout: it ran longer than ``timeout``.
    """
    raise NotImplementedError


def checker(
    toolchain: Toolchain,
    *,
    onnx: Path,
    input_name: str | None = None,
    input_shape: Sequence[int] | None = None,
    out: Path,
    timeout: float = 1800.0,
    reporter: Reporter = Silent(),
) -> CheckResult:
    """Check which nodes land on the BPU, without calibration; errors as for :func:`makertbin`."""
    raise NotImplementedError
