"""Write the float ONNX of chosen weights into the stage's folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from edge.errors import InputError, ModelFileError, SpecError, ToolchainError, ToolchainMissing
from edge.files import sha256_of
from edge.graph.files import fixed_input, load_onnx
from edge.progress import SILENT, Reporter
from edge.sources.check import external_data, notes_on, of_task, require_fit, require_parameters
from edge.sources.class_order import notes_on_classes
from edge.sources.convert import convert, last_json
from edge.sources.demo_weights import unpack
from edge.sources.mend import mended, on_canvas
from edge.sources.sources import WORKER, Resolved
from edge.sources.timm_spec import near_names
from edge.specs import Detector, ModelSpec
from edge.specs.schema import Input, Output, ScoreKind
from edge.toolchain.managed import FRAMEWORKS

if TYPE_CHECKING:
    from edge.toolchain.found import Toolchain

TIMEOUT = 900.0  # seconds; the largest models of the family take under one minute
LOG = "export.log"


@frozen
class Weights:
    """Origin of the weights."""

    source: str  #: ``timm``, ``vendor``, ``demo``, ``random``, ``onnx``, ``torchscript``, ``paddle`` or ``mindspore``.
    tag: str  #: timm tag, URL or file name.
    sha256: str  #: of the weights' file; of the exported ONNX for ``random``.
    seed: int | None  #: of ``random``; else None.


@frozen
class ExportResult:
    """A float ONNX, ready to simplify."""

    onnx: str  #: file name.
    weights: Weights  #: origin of its weights.
    name: str  #: the model's name, with ``_demo`` or ``_random`` for such weights; starts all file names.
    input_name: str  #: name of the image input.
    input_shape: tuple[int, ...]  #: batch first.
    classes: int  #: number of scores; 0 where the outputs are no class scores.
    parameters: int  #: number of float weights.
    outputs: tuple[Output, ...]  #: those of the task, in the order of every later file.
    scores: ScoreKind  #: what a classifier's scores are.
    #: those of a network that takes more than one camera image, or something else; empty for one image.
    inputs: tuple[Input, ...] = ()
    detector: Detector | None = None  #: how boxes are read from the outputs; None but for a detector.
    names: tuple[str, ...] = ()  #: a detector's class names inside the file, where the user gives none.
    exporter: str = ""  #: versions of what exported it; empty where the file came as ONNX.
    notes: tuple[str, ...] = ()  #: what the user should know of it.
    #: largest difference between the outputs of the ONNX and of the framework on the same seeded noise, as a share of
    #: their range; None if the file was an ONNX.
    max_error: float | None = None


def export(
    *,
    resolved: Resolved,
    spec: ModelSpec,
    toolchain: Toolchain | None = None,
    framework: Toolchain | None = None,
    out: Path,
    reporter: Reporter = SILENT,
) -> ExportResult:
    """Write ``<name>.onnx``; the same choice, spec and toolchain give the same bytes.

    Args:
        resolved: from ``choose_weights``.
        spec: the model; its crop is the network's input size, its canvas that of the ONNX.
        toolchain: its Python exports timm models; not needed for files.
        framework: the managed environment that exports PaddlePaddle or MindSpore models.
        out: an empty folder.

    Raises:
        ToolchainMissing: timm or random weights without a Python that exports.
        ToolchainError: the exporter failed.
        SpecError: timm has no such model.
        ModelFileError: the model does not fit the spec or its published figures, or the ONNX computes other
            numbers than the framework.
        InputError: the weights do not fit the architecture.
        LabelError: the file of class names can't be read, or has another number of names.
    """
    target = out / f"{resolved.name}.onnx"
    notes: tuple[str, ...] = ()
    exporter = ""
    max_error: float | None = None
    if resolved.needs_toolchain:
        reporter.update(f"export {resolved.tag} to ONNX")
        answer = _run_worker(resolved, spec, toolchain, target)
        exporter = f"torch {answer['torch']}, timm {answer['timm']}"
        max_error = float(answer["max_error"])
        if resolved.source == "random":
            notes = (f"random weights of seed {resolved.seed}: good for speed, Top-1 means nothing",)
    elif resolved.framework is not None:
        if framework is None:
            environment = FRAMEWORKS[resolved.framework]
            raise ToolchainMissing(
                f"{environment.title} models are exported by an environment that is not installed",
                remedy=environment.install,
            )
        reporter.update(f"export {resolved.tag} to ONNX")
        converted = convert(
            source=resolved.source,
            file=Path(resolved.file or ""),
            network=resolved.network,
            classes=resolved.classes,
            preprocess=spec.preprocess,
            environment=framework,
            target=target,
            log=out / LOG,
            seed=0,
            timeout=TIMEOUT,
        )
        exporter, max_error, notes = converted.exporter, converted.max_error, converted.notes
    elif resolved.source == "demo":
        reporter.update(f"unpack {resolved.tag}")
        target.write_bytes(unpack(Path(resolved.file or "")).SerializeToString(deterministic=True))
        notes = ("demo weights: trained on the project's own rendered images, not on photographs",)
    else:
        reporter.update(f"read {resolved.tag}")
        _copy(Path(resolved.file or ""), target)
        if resolved.source == "vendor" and spec.sources.vendor_sha256 is None:
            notes = ("the vendor publishes no checksum; the one of the first download is recorded",)
    read = load_onnx(target)
    image = spec.featuremap is None
    right, changes = mended(read, resolved.tag, spec.preprocess.color, image=image)
    whole, fixed = fixed_input(right, resolved.tag, spec.preprocess.crop if image else None)
    notes += changes + ((fixed,) if fixed else ())
    model, found = of_task(
        whole, resolved.tag, spec.output, spec.task, spec.featuremap, spec.detector, spec.preprocess.value_range
    )
    notes += found.notes
    if model is not whole and found.detector is None:
        given, taken = (", ".join(value.name for value in part.graph.output) for part in (whole, model))
        meant = "the class scores" if spec.task == "classify" else "the outputs"
        notes += (f"of what the model gives ({given}), {taken} is taken as {meant}",)
    require_fit(found, spec, resolved.tag, classes=resolved.classes is not None)
    if resolved.published_m is not None:
        option = f"--{resolved.source} " if resolved.framework else ""
        remedy = f"build it under its own name: edge build {option}{resolved.file}"
        require_parameters(found, resolved.published_m, resolved.tag, spec.name, remedy)
    # Only a camera's image has a canvas; several inputs keep the sizes that they have.
    program, cut = (model, ()) if found.inputs else on_canvas(model, spec.preprocess, resolved.tag)
    if program is not read:
        target.write_bytes(program.SerializeToString(deterministic=True))
    labels = "demo" if resolved.source == "demo" else spec.labels
    notes += cut + notes_on(found)
    if spec.task != "raw":
        notes += notes_on_classes(model, found.classes, labels)
    return ExportResult(
        onnx=target.name,
        weights=Weights(resolved.source, resolved.tag, resolved.sha256 or sha256_of(target), resolved.seed),
        name=resolved.name,
        input_name=found.input_name,
        input_shape=found.input_shape if found.inputs else spec.preprocess.input_shape,
        classes=found.classes,
        parameters=found.parameters,
        outputs=found.outputs,
        scores=found.scores,
        inputs=found.inputs,
        detector=found.detector,
        names=found.names or () if found.detector is not None and spec.labels is None else (),
        exporter=exporter,
        notes=notes,
        max_error=max_error,
    )


def _copy(source: Path, target: Path) -> None:
    """Copy a model; external data is moved into the file."""
    if not external_data(source):
        shutil.copyfile(source, target)
        return
    import onnx

    model = load_onnx(source)
    try:
        onnx.save(model, target)
    except ValueError as error:
        raise ModelFileError(
            f"{source} does not fit into one file: {error}",
            expected="less than 2 GB of weights",
            remedy="export a smaller network: the program has to fit the board's memory too",
        ) from error


def _run_worker(resolved: Resolved, spec: ModelSpec, toolchain: Toolchain | None, target: Path) -> dict[str, Any]:
    if toolchain is None:
        raise ToolchainMissing(
            f"{resolved.source} models are exported by the compiler's Python, and there is no compiler",
            remedy="edge toolchain install",
        )
    if spec.preprocess.layout != "NCHW":
        raise ModelFileError(
            f"{spec.name}: layout {spec.preprocess.layout}",
            expected="NCHW: torch models have channels first",
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
        "range": spec.preprocess.value_range,
        "out": str(out / target.name),
    }
    if resolved.source == "torchscript":
        job["script"] = resolved.file
    mounts = [out] + ([Path(resolved.file).parent] if resolved.file else [])
    done = toolchain.run_python(
        [str(toolchain.worker_path(WORKER)), json.dumps(job)], cwd=out, timeout=TIMEOUT, log=out / LOG, mounts=mounts
    )
    if done.timed_out:
        raise ToolchainError(f"the export of {resolved.tag} did not end within {TIMEOUT:.0f} s")
    answer = last_json(done.tail)
    if done.returncode == 0 and "max_error" in answer and target.is_file():
        return answer
    reason = answer.get("error") or (done.tail.splitlines() or [f"exit status {done.returncode}"])[-1]
    if reason.startswith("ModuleNotFoundError"):
        raise ToolchainMissing(
            f"the compiler's Python can't export torch models: {reason}", remedy="edge toolchain install"
        )
    if answer.get("about") == "numbers":
        raise ModelFileError(
            reason,
            expected="an export that computes the same as the framework",
            remedy="export the model yourself and check the file: edge build my.onnx",
        )
    if answer.get("about") == "weights":
        remedy = "check the classes and the timm tag of the model's YAML"
        if resolved.source == "torchscript":
            remedy = (
                "save it with an older torch, or export it with torch.onnx.export(..., opset_version=11, dynamo=False)"
            )
        raise InputError(reason, remedy=remedy)
    if answer.get("about") == "model" and resolved.source != "torchscript":
        close = near_names(resolved.tag, toolchain)
        if close is not None:
            raise SpecError(
                f"{spec.name}: timm has no model {resolved.tag!r}",
                expected=("such as " + ", ".join(close)) if close else "a name of timm.list_models()",
                remedy=f"sources: {{timm: {close[0]}}} in the model's YAML" if close else None,
            )
    raise ToolchainError(f"the export of {resolved.tag} failed: {reason}", remedy="edge toolchain status")
