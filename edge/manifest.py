"""``manifest.json``: what a build made, from what, with which tools, and what was measured."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import cattrs

from edge import __version__
from edge.evaluate import EvalResult, Score
from edge.pipeline import Build
from edge.request import Request
from edge.verify import VerifyResult
from edge.workspace import Artifact, Stage, Workspace

SCHEMA_VERSION = 1
MARCH = "bayes-e"
REPORT = "report.md"


def artifacts(build: Build) -> list[Artifact]:
    """Return the files of a finished build that belong in the build folder."""
    export, simplify, calibrate = build.export, build.simplify, build.calibrate
    found = [
        _artifact("float_onnx", export, export.result.onnx),
        _artifact("bpu_onnx", simplify, simplify.result.onnx),
        _artifact("calibration_record", calibrate, calibrate.result.index),
        _artifact("evaluation_outputs", build.eval, build.eval.result.outputs),
    ]
    if build.toolchain is None:
        return [_artifact("portable_int8_onnx", build.quantize, build.quantize.result.onnx), *found]
    check, render, compiled = build.check, build.render, build.compile
    return [
        _artifact("bin", compiled, compiled.result.bin),
        _artifact("mapper_yaml", render, render.result.yaml),
        *found,
        *(_artifact(_role(name), compiled, name) for name in compiled.result.intermediates),
        _artifact("compile_log", compiled, compiled.result.log),
        _artifact("check_log", check, check.result.log),
    ]


def manifest(build: Build, files: Iterable[Artifact], report: str) -> dict[str, object]:
    """Return the content of ``manifest.json``.

    Args:
        build: finished.
        files: from :func:`artifacts`.
        report: text of ``report.md``.
    """
    hashes = {stage.path(record.path): record for stage in build.done for record in stage.files}
    listed = [
        {
            "role": file.role,
            "path": file.name,
            "bytes": hashes[file.source].bytes,
            "sha256": hashes[file.source].sha256,
        }
        for file in files
    ]
    text = report.encode()
    listed.append(
        {"role": "report", "path": REPORT, "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    )
    return {**facts(build), "artifacts": listed}


def facts(build: Build) -> dict[str, object]:
    """Return everything of the manifest but the list of files: what the report shows."""
    request, spec = build.request, build.request.spec
    compiled = build.compile.result if build.toolchain else None
    check = build.check.result if build.toolchain else None
    static = compiled.static if compiled else None
    return {
        "schema_version": SCHEMA_VERSION,
        "model": spec.name,
        "name": build.export.result.name,
        "edge": __version__,
        "command": command("build", request),
        "weights": cattrs.unstructure(build.export.result.weights),
        "exporter": build.export.result.exporter,
        "preprocess": cattrs.unstructure(spec.preprocess),
        "mapper": build.toolchain.kind if build.toolchain else "portable",
        "precision": request.precision.name,
        "toolchain": _toolchain(build),
        "static": None
        if static is None
        else {
            **cattrs.unstructure(static),
            "march": MARCH,
            "optimize_level": request.precision.compiler.optimize_level,
        },
        "placement": None
        if compiled is None or check is None
        else {"bpu": compiled.bpu, "cpu": compiled.cpu, "cpu_inside": list(check.cpu_inside)},
        "calibration": {
            "n": build.calibrate.result.n,
            "seed": build.calibrate.result.seed,
            "sha256": build.calibrate.result.sha256,
            "images": build.calibrate.result.source,
            "method": compiled.calibration_method if compiled else "minmax",
        },
        "accuracy": _accuracy(build.eval.result),
        "verify": _verify(build.verify.result) if build.toolchain else None,
        "stages": [_stage(stage, request) for stage in build.done],
    }


def publish(build: Build, workspace: Workspace, report: str) -> dict[str, object]:
    """Put the result into the build folder and return the manifest."""
    files = artifacts(build)
    content = manifest(build, files, report)
    calibration = build.calibrate
    folders = {calibration.result.directory: calibration.path(calibration.result.directory)}
    workspace.publish(files, content, texts={REPORT: report}, folders=folders)
    workspace.discard_all_but(build.done)
    return content


def _artifact(role: str, stage: Stage[object], name: str) -> Artifact:
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
        from importlib.metadata import version

        return {"kind": "portable", "versions": {"onnxruntime": version("onnxruntime")}}
    return {"kind": build.toolchain.kind, "versions": dict(build.toolchain.versions)}


def _accuracy(result: EvalResult) -> dict[str, object]:
    return {
        "dataset": result.dataset,
        "dataset_sha256": result.dataset_sha256,
        "n": result.n,
        "float": _score(result.float_score),
        "quantized": _score(result.quantized_score),
        "drop": None if result.drop is None else round(result.drop, 4),
        "agreement": round(result.agreement_percent, 4),
        "cosine": round(result.cosine, 6),
        "unreadable": list(result.unreadable),
    }


def _verify(result: VerifyResult) -> dict[str, object]:
    facts = {"frames": result.frames, "bit_exact": result.bit_exact, "max_abs_diff": result.max_abs_diff}
    if result.why_not:
        return {**facts, "why_not": result.why_not}
    return {**facts, "integers": result.integers, "calls": result.calls, "pictures": list(result.pictures)}


def _score(score: Score | None) -> dict[str, object] | None:
    if score is None:
        return None
    return {
        "top1": round(score.top1, 4),
        "top5": round(score.top5, 4),
        "top1_interval": [round(bound, 2) for bound in score.top1_interval],
        "top5_interval": [round(bound, 2) for bound in score.top5_interval],
    }


def command(verb: str, request: Request) -> str:
    """Return what a user types to run a verb of this build."""
    return shlex.join(["edge", verb, *request.arguments])


def _stage(stage: Stage[object], request: Request) -> dict[str, object]:
    vendor = getattr(stage.result, "command", ())
    return {
        "name": stage.name,
        "seconds": stage.seconds,
        "cached": stage.cached,
        "command": shlex.join(vendor) if vendor else command(stage.name, request),
        "key": stage.key,
    }
