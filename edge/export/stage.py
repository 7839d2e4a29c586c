"""Write the float ONNX of chosen weights into the stage's folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from edge.errors import InputError, ModelFileError, ToolchainError, ToolchainMissing
from edge.export.check import ModelFacts, describe, external_data, notes_on, require_fit
from edge.export.sources import WORKER, Resolved
from edge.graph import load_onnx, sha256_of
from edge.progress import Reporter, Silent
from edge.specs import ModelSpec

if TYPE_CHECKING:
    from edge.toolchain.found import Toolchain

TIMEOUT = 900.0  # seconds; the largest models of the family take under one minute
LOG = "export.log"


@frozen
class Weights:
    """Where the weights came from.

    Attributes:
        source: ``timm``, ``vendor``, ``demo``, ``random`` or ``onnx``.
        tag: timm tag, URL or file name.
        sha256: of the weights' file; of the exported ONNX for ``random``.
        seed: of ``random``; else None.
    """

    source: str
    tag: str
    sha256: str
    seed: int | None


@frozen
class ExportResult:
    """A float ONNX, ready to simplify.

    Attributes:
        onnx: file name.
        weights: where its weights came from.
        name: the model's name, with ``_demo`` or ``_random`` where it is that; starts all file names.
        input_name: name of the picture input.
        input_shape: batch first.
        classes: number of scores.
        parameters: number of float weights.
        exporter: versions of what exported it; empty where the file came as ONNX.
        notes: what the user should know of it.
    """

    onnx: str
    weights: Weights
    name: str
    input_name: str
    input_shape: tuple[int, ...]
    classes: int
    parameters: int
    exporter: str = ""
    notes: tuple[str, ...] = ()


def export(
    *,
    resolved: Resolved,
    spec: ModelSpec,
    toolchain: Toolchain | None = None,
    out: Path,
    reporter: Reporter | None = None,
) -> ExportResult:
    """Write ``<name>.onnx``; the same choice, spec and toolchain give the same bytes.

    Args:
        resolved: from ``choose``.
        spec: the model; its crop is the input size.
        toolchain: whose Python exports timm models; not needed for ready-made files.
        out: an empty folder.
        reporter: hears of the progress.

    Raises:
        ToolchainMissing: timm or random weights without a Python that exports.
        ToolchainError: the exporter failed.
        ModelFileError: the model does not fit the spec.
        InputError: the weights do not fit the architecture.
    """
    reporter = reporter or Silent()
    target = out / f"{resolved.name}.onnx"
    notes: tuple[str, ...] = ()
    exporter = ""
    if resolved.needs_toolchain:
        reporter.update(f"export {resolved.tag} to ONNX")
        answer = _run_worker(resolved, spec, toolchain, target)
        exporter = f"torch {answer['torch']}, timm {answer['timm']}"
        if resolved.source == "random":
            notes = (f"random weights of seed {resolved.seed}: good for speed, Top-1 means nothing",)
    elif resolved.source == "demo":
        reporter.update(f"unpack {resolved.tag}")
        _unpack_demo(Path(resolved.file or ""), target)
        notes = ("demo weights: trained on the project's own rendered pictures, not on photographs",)
    else:
        reporter.update(f"read {resolved.tag}")
        _copy(Path(resolved.file or ""), target)
        if resolved.source == "vendor" and spec.sources.vendor_sha256 is None:
            notes = ("the vendor publishes no checksum; the one of the first download is recorded",)
    found = _checked(target, resolved, spec)
    return ExportResult(
        onnx=target.name,
        weights=Weights(resolved.source, resolved.tag, resolved.sha256 or sha256_of(target), resolved.seed),
        name=resolved.name,
        input_name=found.input_name,
        input_shape=found.input_shape,
        classes=found.classes,
        parameters=found.parameters,
        exporter=exporter,
        notes=notes + notes_on(found),
    )


def _checked(target: Path, resolved: Resolved, spec: ModelSpec) -> ModelFacts:
    found = describe(load_onnx(target), resolved.tag)
    require_fit(found, spec, resolved.tag, classes=resolved.classes is not None)
    return found


def _copy(source: Path, target: Path) -> None:
    """Copy a model; one with external data becomes a single file."""
    if not external_data(source):
        shutil.copyfile(source, target)
        return
    import onnx

    model = load_onnx(source)
    try:
        onnx.save(model, target)
    except ValueError as error:
        raise ModelFileError(
            f"{source} does not fit one file: {error}", allowed="less than 2 GB of weights"
        ) from error


def _unpack_demo(source: Path, target: Path) -> None:
    from edge.demo.weights import unpack

    target.write_bytes(unpack(source).SerializeToString(deterministic=True))


def _run_worker(
    resolved: Resolved, spec: ModelSpec, toolchain: Toolchain | None, target: Path
) -> dict[str, Any]:
    if toolchain is None:
        raise ToolchainMissing(
            f"{resolved.source} weights are exported by the compiler's Python, and there is no compiler",
            remedy="edge toolchain install",
        )
    if spec.preprocess.layout != "NCHW":
        raise ModelFileError(
            f"{spec.name}: layout {spec.preprocess.layout}",
            allowed="NCHW: timm models have their channels first",
            remedy="set preprocess.layout: NCHW in the model's YAML",
        )
    height, width = spec.preprocess.crop
    out = target.parent.resolve()
    job = {
        "tag": resolved.tag,
        "weights": resolved.file,
        "seed": resolved.seed or 0,
        "classes": resolved.classes,
        "height": height,
        "width": width,
        "out": str(out / target.name),
    }
    mounts = [out] + ([Path(resolved.file).parent] if resolved.file else [])
    done = toolchain.run_python(
        [str(toolchain.worker_path(WORKER)), json.dumps(job)],
        cwd=out,
        timeout=TIMEOUT,
        log=out / LOG,
        mounts=mounts,
    )
    if done.timed_out:
        raise ToolchainError(f"the export of {resolved.tag} did not end within {TIMEOUT:.0f} s")
    answer = _last_json(done.tail)
    if done.returncode == 0 and "parameters" in answer and target.is_file():
        return answer
    reason = answer.get("error") or (done.tail.splitlines() or [f"exit status {done.returncode}"])[-1]
    if reason.startswith("ModuleNotFoundError"):
        raise ToolchainMissing(
            f"the compiler's Python can't export timm models: {reason}", remedy="edge toolchain install"
        )
    if answer.get("about") == "weights":
        raise InputError(reason, remedy="check the classes and the timm tag of the model's YAML")
    raise ToolchainError(f"the export of {resolved.tag} failed: {reason}", remedy="edge toolchain status")


def _last_json(text: str) -> dict[str, Any]:
    for line in reversed(text.splitlines()):
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict):
            return answer
    return {}
