"""Run ``hb_mapper makertbin`` and ``hb_mapper checker`` reproducibly and return their results."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from edge.compiler import logs
from edge.compiler.failures import diagnose
from edge.compiler.logs import NodeRow, Progress, StaticPerf
from edge.compiler.sandbox import Sandbox, open_sandbox
from edge.errors import CompileTimeout, ModelFileError, WorkspaceError
from edge.files import read_json
from edge.progress import Reporter, Silent
from edge.specs.schema import MARCH
from edge.toolchain.found import Toolchain
from edge.toolchain.process import Completed

COMPILE_LOG = "hb_mapper_makertbin.log"
CHECK_LOG = "hb_mapper_checker.log"
LAUNCHER = "hb_mapper.py"
_MOST_LINES = 200_000  # of console text kept for parsing; a real log has some hundred


@frozen
class CompileResult:
    """What makertbin made; every file is named relative to ``out``."""

    bin: str  #: the program for the board.
    intermediates: tuple[str, ...]  #: the vendor's ONNX models, quant_info.json and subgraph html/json.
    log: str  #: ``hb_mapper_makertbin.log``.
    static: StaticPerf | None  #: the compiler's own speed figures.
    nodes: tuple[NodeRow, ...]  #: the node table.
    bpu: int  #: number of nodes on the BPU.
    cpu: int  #: number of nodes on the CPU.
    #: the worst output's cosine, calibrated against float, on the calibration data; None if the compiler got none.
    output_cosine: float | None
    calibration_method: str | None  #: the method that the compiler chose, such as ``max``.
    seconds: float  #: wall time.
    command: tuple[str, ...]  #: as a user would type it, beside the YAML.
    versions: dict[str, str]  #: of hb_mapper, hbdk, horizon_nn, as the log says.
    #: bytes that the compiler and its children held at most; None if unknown (a container).
    peak_memory: int | None = None
    machine: str = ""  #: processor, cores and memory of the machine that compiled; empty if unknown.


@frozen
class CheckResult:
    """The checker's answer; speed figures are for O0 without calibration, so pessimistic."""

    nodes: tuple[NodeRow, ...]  #: the node table (no cosines).
    bpu: int  #: number of nodes on the BPU.
    cpu: int  #: number of nodes on the CPU.
    cpu_nodes: tuple[str, ...]  #: names of the CPU nodes.
    cpu_inside: tuple[str, ...]  #: names of those that lie between BPU nodes, and so split the graph.
    log: str  #: ``hb_mapper_checker.log``, relative to ``out``.
    static: StaticPerf | None  #: the compiler's figures.
    seconds: float  #: wall time.
    command: tuple[str, ...]  #: as a user would type it.
    versions: dict[str, str]  #: of hb_mapper, hbdk, horizon_nn.
    peak_memory: int | None = None  #: bytes, as for a compile.


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
    machine: str = "",
    on_noise: bool = False,
    reporter: Reporter | None = None,
) -> CompileResult:
    """Compile; the same inputs and ``key`` give the same bytes wherever ``out`` lies.

    Args:
        toolchain: from :func:`edge.toolchain.find.find`.
        yaml: the mapper YAML; it is copied.
        files: what the YAML names, relative to its folder -> the real file or folder (only read).
        out: existing folder that receives the results.
        prefix: ``output_model_file_prefix`` of the YAML.
        working_dir: ``working_dir`` of the YAML, relative.
        key: content key of the compile, such as a sha256; names the sandbox, so it is part of the bytes.
        timeout: seconds.
        machine: the machine that this runs on, recorded beside seconds and memory.
        on_noise: whether the compiler gets no calibration data; its cosines, of noise, are left out then.
        reporter: told of stages and percentages.

    Raises:
        CompileError: stage, cause, remedy; the log is in ``out``.
        CompileTimeout: it ran longer than ``timeout``.
        WorkspaceError: the working folder can't be made.
    """
    reporter = reporter or Silent()
    command = ("hb_mapper", "makertbin", "-c", yaml.name, "--model-type", "onnx")
    with open_sandbox(key, files=files, working_dir=working_dir, out=out, timeout=timeout, reporter=reporter) as box:
        copy = box.base / yaml.name
        copy.write_bytes(yaml.read_bytes())
        args = ["makertbin", "-c", str(copy), "--model-type", "onnx"]
        mounts = [real.resolve() for real in files.values()]
        done, text = _run(toolchain, args, box, COMPILE_LOG, mounts, out, timeout, reporter)
        _require_success(done, text, out / COMPILE_LOG, timeout)
        rows = logs.nodes(text, _quant_info(box.scratch / f"{prefix}_quant_info.json"))
        made = _move(box.scratch, out)
    if f"{prefix}.bin" not in made or not (out / f"{prefix}.bin").stat().st_size or not rows:
        raise diagnose(text, 0, log=str(out / COMPILE_LOG))
    bpu, cpu = logs.counts(rows)
    cosines = [row.cosine for row in logs.outputs(text) if row.cosine is not None and not on_noise]
    rows = tuple(evolve(row, cosine=None) for row in rows) if on_noise else rows
    return CompileResult(
        bin=f"{prefix}.bin",
        intermediates=tuple(name for name in made if name != f"{prefix}.bin"),
        log=COMPILE_LOG,
        static=logs.static(text),
        nodes=rows,
        bpu=bpu,
        cpu=cpu,
        output_cosine=min(cosines, default=None),
        calibration_method=logs.calibration_method(text),
        seconds=done.seconds,
        command=command,
        versions=logs.versions(text) or toolchain.versions,
        peak_memory=done.peak_memory,
        machine=machine,
    )


def checker(
    toolchain: Toolchain,
    *,
    onnx: Path,
    input_name: str | None = None,
    input_shape: Sequence[int] | None = None,
    out: Path,
    timeout: float = 1800.0,
    reporter: Reporter | None = None,
) -> CheckResult:
    """Check which nodes land on the BPU, without calibration.

    Args:
        toolchain: from :func:`edge.toolchain.find.find`.
        input_name: with ``input_shape``, a shape other than the model's own.
        input_shape: such as (1, 3, 224, 224).
        timeout: seconds.
        reporter: told of stages and percentages.

    Raises:
        ModelFileError: the ONNX file can't be read.
        CompileError: stage, cause, remedy; the log is in ``out``.
        CompileTimeout: it ran longer than ``timeout``.
        WorkspaceError: the working folder can't be made.
    """
    reporter = reporter or Silent()
    shape = ["--input-shape", input_name, "x".join(map(str, input_shape))] if input_name and input_shape else []
    args = ["checker", "--model-type", "onnx", "--march", MARCH, "--model"]
    name = "model.onnx"  # the checker requires the suffix
    try:
        key = hashlib.sha256(onnx.read_bytes() + repr(shape).encode()).hexdigest()
    except OSError as error:
        raise ModelFileError(
            f"can't read {onnx}: {error.strerror}", remedy="check the path and its permissions"
        ) from error
    with open_sandbox(
        key, files={name: onnx}, working_dir=".hb_check", out=out, timeout=timeout, reporter=reporter
    ) as box:
        # The checker writes to .hb_check in the folder where it starts.
        (box.path / ".hb_check").symlink_to(box.scratch)
        arguments = [*args, str(box.base / name), *shape]
        done, text = _run(toolchain, arguments, box, CHECK_LOG, [onnx.resolve()], out, timeout, reporter)
        _require_success(done, text, out / CHECK_LOG, timeout)
        rows = logs.nodes(text, _quant_info(box.scratch / "quant_info.json"))
    if not rows:
        raise diagnose(text, 0, log=str(out / CHECK_LOG))
    bpu, cpu = logs.counts(rows)
    return CheckResult(
        nodes=rows,
        bpu=bpu,
        cpu=cpu,
        cpu_nodes=tuple(row.name for row in rows if row.on == "CPU"),
        cpu_inside=tuple(row.name for row in logs.cpu_inside(rows)),
        log=CHECK_LOG,
        static=logs.static(text),
        seconds=done.seconds,
        command=("hb_mapper", *args, onnx.name, *shape),
        versions=logs.versions(text) or toolchain.versions,
        peak_memory=done.peak_memory,
    )


def _run(
    toolchain: Toolchain,
    args: Sequence[str],
    box: Sandbox,
    log_name: str,
    mounts: Sequence[Path],
    out: Path,
    timeout: float,
    reporter: Reporter,
) -> tuple[Completed, str]:
    """Run hb_mapper in the sandbox; its log goes to ``out`` whether it succeeds or not."""
    progress = Progress(reporter)
    kept: list[str] = []
    on_line = _collector(kept, progress)
    env = {"TMPDIR": str(box.tmp)}
    console = box.path / "console.log"
    mounts = [box.path, box.scratch, *mounts]
    with _log_saved(box.path / log_name, console, out / log_name):
        if toolchain.kind == "docker" or toolchain.python:
            script = str(toolchain.worker_path(LAUNCHER))
            done = toolchain.run_python(
                [script, *args], cwd=box.path, timeout=timeout, on_line=on_line, log=console, env=env, mounts=mounts
            )
        else:
            reporter.warn("the Python behind hb_mapper is unknown: the .bin may differ from build to build")
            done = toolchain.run(
                ["hb_mapper", *args],
                cwd=box.path,
                timeout=timeout,
                on_line=on_line,
                log=console,
                env=env,
                mounts=mounts,
            )
    return done, "\n".join(kept)


def _collector(kept: list[str], progress: Progress) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        progress.line(line)
        # The head names versions, the tail holds the tables: drop the middle of a very long output.
        if len(kept) >= _MOST_LINES:
            del kept[_MOST_LINES // 4 : _MOST_LINES // 2]
        kept.append(line)

    return on_line


@contextlib.contextmanager
def _log_saved(vendor: Path, console: Path, target: Path) -> Iterator[None]:
    try:
        yield
    finally:
        # The vendor's log has more detail, but there is none if the compiler did not start.
        source = vendor if vendor.is_file() and vendor.stat().st_size else console
        with contextlib.suppress(OSError):
            shutil.move(source, target)


def _require_success(done: Completed, text: str, log: Path, timeout: float) -> None:
    if done.timed_out:
        stage = diagnose(text, 0).stage
        raise CompileTimeout(
            stage,
            f"stopped at the time limit of {timeout:g} s",
            remedy="run again with a longer --timeout, or with --level O0 to see whether it compiles",
            log=str(log),
        )
    if done.returncode != 0:
        raise diagnose(text, done.returncode, log=str(log))


def _quant_info(path: Path) -> dict[str, Any]:
    """Read the JSON that holds whole node names; empty if it can't be read, as the table works without it."""
    try:
        data = read_json(path)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _move(scratch: Path, out: Path) -> list[str]:
    """Move every result into ``out``; return the names, sorted. Folders are plots of bias_correction."""
    names = sorted(item.name for item in scratch.iterdir() if item.is_file())
    try:
        for name in names:
            os.replace(scratch / name, out / name)  # noqa: PTH105 - same file system, by construction
    except OSError as error:
        raise WorkspaceError(
            f"can't write the compiler's results to {out}: {error}", remedy="free some space there"
        ) from error
    return names
