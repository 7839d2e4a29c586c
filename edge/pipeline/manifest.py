"""``manifest.json``: the files of a build, their sources, the tools used, and the measurements."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cattrs

from edge import __version__
from edge.accuracy import Evaluation
from edge.compiler.logs import cpu_inside
from edge.folder.metadata import FILE as METADATA
from edge.folder.metadata import FileEntry, Metadata, Role
from edge.folder.workspace import Artifact, Done
from edge.images import class_names
from edge.images.annotations import BoxSet
from edge.measure.scores import score_record
from edge.pipeline.build import Build
from edge.pipeline.stage import Stage
from edge.pipeline.stages import (
    CALIBRATE,
    CHECK,
    COMPILE,
    EQUALIZE,
    EVAL,
    EXPORT,
    PORTABLE,
    QUANTIZE,
    RENDER,
    REWRITE,
    ROUND,
    SIMPLIFY,
    SPLIT,
    THRESHOLDS,
    VERIFY,
)
from edge.pipeline.verify import VerifyResult
from edge.sources.options import stage_command
from edge.specs.request import Request
from edge.specs.schema import MARCH

SCHEMA_VERSION = 1
LABELS = "labels.txt"
EVALUATION = "build_eval.json"  # measured by the build itself; edge eval writes eval.json
TEXT_ROLES = {
    METADATA: "metadata",
    LABELS: "labels",
    EVALUATION: "evaluation",
    "report.md": "report",
    "report.html": "report_html",
    "report.json": "report_json",
}
# Roles of the ONNX after stages behind simplify.
_SHIPPED = {
    "rewrite": "rewritten_onnx", "equalize": "equalized_onnx", "split": "split_onnx", "round": "rounded_onnx",
    "thresholds": "told_onnx",
}  # fmt: skip
# Roles of the files that the runtime opens.
RUNTIME_ROLES: dict[str, Role] = {
    "bin": "bin", "portable_onnx": "portable", "quantized_onnx": "quantized", "test_answer": "test",
}  # fmt: skip


def artifacts(build: Build) -> list[Artifact]:
    """Return the files of a finished build to publish in the build folder."""
    export, simplify, calibrate = build.stage(EXPORT), build.stage(SIMPLIFY), build.stage(CALIBRATE)
    found = [
        _artifact("float_onnx", export, export.result.onnx),
        _artifact("bpu_onnx", simplify, simplify.result.onnx),
        _artifact("calibration_record", calibrate, calibrate.result.index),
    ]
    if build.toolchain is None:
        return [_artifact("portable_onnx", build.stage(QUANTIZE), build.stage(QUANTIZE).result.onnx), *found]
    check, render, compiled = build.stage(CHECK), build.stage(RENDER), build.stage(COMPILE)
    translated, verified = build.stage(PORTABLE).result.onnx, build.stage(VERIFY)
    shipped = build.shipped
    return [
        _artifact("bin", compiled, compiled.result.bin),
        _artifact("mapper_yaml", render, render.result.yaml),
        *found,
        *(
            [_artifact(_SHIPPED[shipped.stage.name], shipped.stage, shipped.name)]
            if shipped.stage is not simplify
            else []
        ),
        *(_artifact(_role(name), compiled, name) for name in compiled.result.intermediates),
        *([_artifact("portable_onnx", build.stage(PORTABLE), translated)] if translated else []),
        *([_artifact("test_answer", verified, verified.result.test)] if verified.result.test else []),
        _artifact("compile_log", compiled, compiled.result.log),
        _artifact("check_log", check, check.result.log),
    ]


def manifest(build: Build, files: Iterable[Artifact], texts: Mapping[str, str]) -> dict[str, object]:
    """Return the content of ``manifest.json``; ``texts`` are further files of the build folder, name -> content."""
    listed: list[dict[str, object]] = []
    for file in files:
        record = build.record(file.source)
        listed.append({"role": file.role, "path": file.name, "bytes": record.bytes, "sha256": record.sha256})
    for name, text in texts.items():
        listed.append({"role": TEXT_ROLES[name], **cattrs.unstructure(_text_entry(name, text))})
    return {**facts(build), "artifacts": listed}


def metadata(build: Build, files: Iterable[Artifact], labels: str) -> Metadata:
    """Return the metadata of the program; ``labels`` is the text of ``labels.txt``, empty if there is none."""
    found: dict[Role, FileEntry] = {}
    for file in files:
        if file.role in RUNTIME_ROLES:
            record = build.record(file.source)
            found[RUNTIME_ROLES[file.role]] = FileEntry(file.name, record.bytes, record.sha256)
    if labels:
        found["labels"] = _text_entry(LABELS, labels)
    toolchain = build.toolchain
    exact = toolchain is not None and build.stage(VERIFY).result.portable_exact is True
    return Metadata(
        name=build.stage(EXPORT).result.name,
        model=build.request.spec.name,
        weights=build.stage(EXPORT).result.weights.source,
        preprocess=build.request.spec.preprocess,
        classes=build.stage(EXPORT).result.classes,
        scores=build.stage(EXPORT).result.scores if build.request.spec.task == "classify" else None,
        task=build.request.spec.task,
        detector=build.stage(EXPORT).result.detector,
        outputs=build.outputs,
        inputs=build.stage(EXPORT).result.inputs,
        files=found,
        toolchain=toolchain.versions if toolchain else {"onnxruntime": version("onnxruntime")},
        exact=exact,
        march=MARCH,
    )


def labels(build: Build) -> str:
    """Return ``labels.txt``, one class name per line; empty if names are unknown or their number is wrong."""
    network = build.stage(EXPORT).result
    names = class_names("demo" if network.weights.source == "demo" else build.request.spec.labels)
    if network.detector is not None and not names:  # the file or the labelled set may tell them, too
        images = build.measured_on[0]
        names = network.names or (images.names if isinstance(images, BoxSet) else None)
    return "".join(f"{name}\n" for name in names) if names and len(names) == network.classes else ""


def _text_entry(name: str, text: str) -> FileEntry:
    data = text.encode()
    return FileEntry(name, len(data), hashlib.sha256(data).hexdigest())


def facts(build: Build) -> dict[str, object]:
    """Return the manifest without the list of files, for the report."""
    request, spec = build.request, build.request.spec
    compiled = build.stage(COMPILE).result if build.toolchain else None
    static = compiled.static if compiled else None
    return {
        "schema_version": SCHEMA_VERSION,
        "model": spec.name,
        "name": build.stage(EXPORT).result.name,
        "edge": __version__,
        "command": command("build", request),
        "weights": cattrs.unstructure(build.stage(EXPORT).result.weights),
        "exporter": build.stage(EXPORT).result.exporter,
        "export_max_error": build.stage(EXPORT).result.max_error,
        "preprocess": cattrs.unstructure(spec.preprocess),
        "task": spec.task,
        "output": build.stage(EXPORT).result.outputs[0].name,
        "outputs": cattrs.unstructure(build.outputs),
        "inputs": cattrs.unstructure(build.stage(EXPORT).result.inputs),
        "scores": build.stage(EXPORT).result.scores,
        # onnxruntime's quantizer reads no recipe.
        "precision": request.precision.name if build.toolchain else None,
        "toolchain": _toolchain(build),
        "static": None
        if static is None
        else {
            **cattrs.unstructure(static),
            "march": MARCH,
            "optimize_level": request.precision.compiler.optimize_level,
        },
        "placement": None
        if compiled is None
        else {"bpu": compiled.bpu, "cpu": compiled.cpu, "cpu_inside": [row.name for row in cpu_inside(compiled.nodes)]},
        "calibration": {
            "n": build.stage(CALIBRATE).result.n,
            "seed": build.stage(CALIBRATE).result.seed,
            "sha256": build.stage(CALIBRATE).result.sha256,
            "images": build.stage(CALIBRATE).result.source,
            "method": _method(build),
        },
        "attention": cattrs.unstructure(build.stage(SIMPLIFY).result.attention),
        "patches": build.stage(SIMPLIFY).result.patches,
        "pools": build.stage(SIMPLIFY).result.pools,
        "score_map": build.stage(SIMPLIFY).result.score_map,
        "rewrites": _refined(build, REWRITE, "nodes", "max_abs_error"),
        "equalization": _refined(build, EQUALIZE, "pairs", "images", "max_abs_error"),
        "range_split": _refined(build, SPLIT, "places", "images", "max_abs_error"),
        "rounding": _rounding(build),
        "thresholds": _refined(build, THRESHOLDS, *_LEARNED, damage_before="before", damage_after="after"),
        "accuracy": {
            **_accuracy(build.stage(EVAL).result),
            "quantized_by": build.quantized_by,
            "source": _measured_on(build),
        },
        "verify": _verify(build.stage(VERIFY).result) if build.toolchain else None,
        "stages": [_stage(stage, request) for stage in build.done],
    }


def _artifact(role: str, stage: Done[Any], name: str) -> Artifact:
    return Artifact(role, stage.path(name), Path(name).name)


def _role(name: str) -> str:
    for ending, role in (
        ("_original_float_model.onnx", "original_float_onnx"),
        ("_optimized_float_model.onnx", "optimized_float_onnx"),
        ("_calibrated_model.onnx", "calibrated_onnx"),
        ("_quantized_model.onnx", "quantized_onnx"),
        ("_quant_info.json", "quant_info"),
        (".html", "static_html"),
        (".json", "static_json"),
    ):
        if name.endswith(ending):
            return role
    return "intermediate"


def _toolchain(build: Build) -> Mapping[str, object]:
    if build.toolchain is None:
        return {"kind": "onnxruntime", "versions": {"onnxruntime": version("onnxruntime")}}
    return {"kind": build.toolchain.kind, "versions": dict(build.toolchain.versions)}


def _accuracy(result: Evaluation) -> dict[str, object]:
    first, last = result.step("float"), result.step(result.quantized)
    return {
        "dataset": result.dataset,
        "dataset_sha256": result.dataset_sha256,
        "n": result.n,
        "float": score_record(first.score),
        "nv12": next((score_record(step.score) for step in result.steps if step.name == "nv12"), None),
        "quantized": score_record(last.score),
        "drop": None if result.drop is None else round(result.drop, 4),
        "agreement": round(last.agreement_percent, 4),
        "agreement_with": last.agreement_with,
        "cosine": round(last.cosine, 6),
        **({"outputs": cattrs.unstructure(last.outputs)} if last.outputs else {}),
        **({"boxes": {step.name: cattrs.unstructure(step.boxes) for step in result.steps}} if last.boxes else {}),
        "unreadable": list(result.unreadable),
    }


def _measured_on(build: Build) -> dict[str, object] | None:
    """Return where the user's images lie, from the build folder, and how they were chosen; None for the demo's."""
    request = build.request
    source = request.images or (request.calibration if build.stage(EXPORT).result.inputs else None)
    if source is None or not Path(source).exists():
        return None
    return {
        "images": os.path.relpath(Path(source).resolve(), build.workspace.root.resolve()),
        "count": request.images_count,
        "seed": request.seed,
        "label_offset": request.label_offset,
    }


_LEARNED = ("tensors", "changed", "int16", "images", "kept_back")  # of thresholds


def _refined(build: Build, stage: Stage[Any], *names: str, **renamed: str) -> dict[str, object] | None:
    """Return what a stage found that only some recipes ask for, by key; None if it did not run."""
    if build.toolchain is None or not stage.when(build):
        return None
    found = cattrs.unstructure(build.stage(stage).result)
    return {key: found[name] for key, name in ({name: name for name in names} | renamed).items()}


def _method(build: Build) -> str | None:
    """Return how ranges were chosen; before thresholds were learned, if they were."""
    if build.toolchain is None:
        return "minmax"
    learned = build.request.precision.thresholds is not None
    return build.stage(THRESHOLDS).result.method if learned else build.stage(COMPILE).result.calibration_method


def _rounding(build: Build) -> dict[str, object] | None:
    if build.toolchain is None or build.request.precision.rounding is None:
        return None
    result = build.stage(ROUND).result
    return {
        "layers": len(result.layers),
        "left": list(result.left),
        "images": result.images,
        "error_kept": round(result.error_kept, 4),
    }


def _verify(result: VerifyResult) -> dict[str, object]:
    facts = {"frames": result.frames, "bit_exact": result.bit_exact, "max_abs_diff": result.max_abs_diff}
    if result.why_not:
        return {**facts, "why_not": result.why_not}
    return {
        **facts,
        "portable_exact": result.portable_exact,
        "integers": result.integers,
        "calls": result.calls,
        "images": list(result.images),
    }


def command(verb: str, request: Request) -> str:
    """Return what a user types to run a verb of this build."""
    return stage_command(verb, request.arguments)


def _stage(stage: Done[Any], request: Request) -> dict[str, object]:
    vendor = getattr(stage.result, "command", ())
    peak = getattr(stage.result, "peak_memory", None)
    return {
        "name": stage.name,
        "seconds": stage.seconds,
        **({} if peak is None else {"peak_memory": peak}),
        "cached": stage.cached,
        "command": shlex.join(vendor) if vendor else command(stage.name, request),
        "key": stage.key,
    }
