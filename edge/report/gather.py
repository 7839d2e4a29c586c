"""Gather what a report says from a finished build folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cattrs

from edge.built import Built
from edge.diagnose.findings import FILE as DIAGNOSIS
from edge.diagnose.findings import SCHEMA_VERSION as DIAGNOSIS_SCHEMA
from edge.diagnose.findings import Diagnosis
from edge.errors import ModelFileError, UsageError
from edge.evaluate.table import FILE as EVALUATION
from edge.evaluate.table import SCHEMA_VERSION as EVALUATION_SCHEMA
from edge.evaluate.table import Evaluation
from edge.report.accuracy import from_evaluation, from_manifest
from edge.report.contents import Calibration, FileRow, Flag, Placement, Report, StageRow
from edge.report.layers import cpu_nodes, layers_of, node_rows
from edge.report.measured import Picture
from edge.report.pictures import calibration_pictures
from edge.report.search import search_of
from edge.report.sidecars import read_sidecar
from edge.report.speed import board_facts, speed_of
from edge.report.verdict import verdict
from edge.report.wording import prepared, published_line, verify_line
from edge.specs import Published, load_model

CALIBRATION_SHOWN = 24
OWN_EVALUATION = "build_eval.json"
# Files that a report writes itself say nothing about the build.
OWN_ROLES = ("report", "report_html", "report_json")


def gather(built: Built, *, names: Sequence[str] | None = None, measured: Evaluation | None = None) -> Report:
    """Return the report of a build.

    Args:
        built: the build folder.
        names: of the classes; None reads them from the folder.
        measured: what the build measured itself, of a build that is about to be published; None reads it from
            the folder.

    Raises:
        ModelFileError: its manifest lacks what a report needs.
    """
    try:
        return _gather(built, class_names(built) if names is None else names, measured)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{built.folder / 'manifest.json'} lacks what a report needs: {type(error).__name__} {error}",
            allowed="the manifest of a build by this edge",
            remedy=f"edge build {built.folder.name}",
        ) from error


def published_of(manifest: Mapping[str, Any]) -> Published | None:
    """Return what others published of the same zoo model; None where nobody did."""
    try:
        spec = load_model(manifest["model"])
    except UsageError:  # the user's own model
        return None
    return spec.published if spec.name == manifest["model"] else None


def class_names(built: Built) -> tuple[str, ...]:
    """Return the names of the classes, from ``labels.txt``; empty if they are not known."""
    path = built.files.get("labels", built.folder / "labels.txt")
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return ()


def recipe(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the mapper's settings, flat: ``calibration_parameters.calibration_type`` -> ``default``."""
    path = files.get("mapper_yaml")
    if path is None:
        return {}
    import yaml

    try:
        return dict(_flat("", yaml.safe_load(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _gather(built: Built, names: Sequence[str], measured: Evaluation | None) -> Report:
    manifest, model = built.manifest, built.folder.name
    evaluation, stale_evaluation = evaluation_of(built)
    diagnosis, stale_diagnosis = _diagnosis(built)
    published, rows = published_of(manifest), node_rows(built.files)
    # Stale files of a build that is about to be published are about to be removed.
    stale = [flag for flag in (stale_evaluation, stale_diagnosis) if flag and measured is None]
    preprocess = built.metadata.preprocess
    if evaluation is not None:
        accuracy = from_evaluation(evaluation, EVALUATION, names, preprocess)
    elif (own := measured or _own_evaluation(built)) is not None:
        accuracy = from_evaluation(own, OWN_EVALUATION, names, preprocess)
    else:
        accuracy = from_manifest(manifest["accuracy"], manifest["command"])
    verify, placement = manifest["verify"], manifest["placement"]
    speed = speed_of(manifest["static"], published, manifest.get("board"))
    return Report(
        name=manifest["name"],
        model=manifest["model"],
        verdict=verdict(manifest, accuracy),
        flags=(*_flags(manifest, model), *stale),
        command=manifest["command"],
        edge=manifest["edge"],
        weights=manifest["weights"],
        precision=manifest["precision"],
        recipe=recipe(built.files),
        prepared=prepared(manifest),
        mapper=manifest["mapper"],
        versions=manifest["toolchain"]["versions"],
        exporter=manifest["exporter"],
        preprocess=cattrs.unstructure(preprocess),
        accuracy=accuracy,
        diagnosis=diagnosis,
        layers=layers_of(diagnosis, rows),
        placement=placement and Placement(placement["bpu"], placement["cpu"], cpu_nodes(diagnosis, rows)),
        speed=speed,
        board=manifest.get("board"),
        board_facts=board_facts(manifest.get("board")),
        published_accuracy=published_line(manifest["model"], published, manifest["weights"]["source"]),
        calibration=_calibration(built),
        verify="" if verify is None else verify_line(verify),
        verified=None if verify is None else bool(verify["bit_exact"]),
        stages=tuple(
            StageRow(stage["name"], stage["seconds"], stage["cached"], stage["command"])
            for stage in manifest["stages"]
        ),
        files=tuple(
            FileRow(file["role"], file["path"], file["bytes"], file["sha256"])
            for file in manifest["artifacts"]
            if file["role"] not in OWN_ROLES
        ),
        search=search_of(built),
    )


def evaluation_of(built: Built) -> tuple[Evaluation | None, Flag | None]:
    """Return ``eval.json`` where it speaks of this build, and why not where it is there and does not."""
    command = f"edge eval {built.folder.name}"
    return read_sidecar(built.folder / EVALUATION, built, Evaluation, EVALUATION_SCHEMA, command)


def _own_evaluation(built: Built) -> Evaluation | None:
    """Return what the build measured itself; None of a build that kept no record of it."""
    path = built.files.get("evaluation")
    return None if path is None else read_sidecar(path, built, Evaluation, EVALUATION_SCHEMA, "")[0]


def _diagnosis(built: Built) -> tuple[Diagnosis | None, Flag | None]:
    command = f"edge diagnose {built.folder.name}"
    return read_sidecar(built.folder / DIAGNOSIS, built, Diagnosis, DIAGNOSIS_SCHEMA, command)


def _flags(manifest: Mapping[str, Any], model: str) -> list[Flag]:
    flags = []
    source = manifest["weights"]["source"]
    if source == "demo":
        flags.append(
            Flag(
                "weights",
                "demo weights",
                "Trained on pictures that the project renders. They prove the pipeline and say nothing of "
                "ImageNet.",
            )
        )
    if source == "random":
        flags.append(
            Flag("weights", "random weights", "For speed only: every accuracy figure here is meaningless.")
        )
    if manifest["mapper"] == "portable":
        flags.append(
            Flag(
                "approximate",
                "portable",
                "Quantized by onnxruntime; an estimate of what the vendor's compiler gives. There is no "
                "program for the board.",
                f"edge toolchain install, then edge build {model}",
            )
        )
    verify = manifest["verify"]
    if verify is not None and not verify["bit_exact"]:
        flags.append(
            Flag(
                "unverified",
                "not verified",
                "Nothing proves that the program computes what was measured: "
                f"{verify.get('why_not', 'it differs')}.",
                f"edge verify {model}",
            )
        )
    return flags


def _calibration(built: Built) -> Calibration:
    facts = built.manifest["calibration"]
    pictures: tuple[Picture, ...] = ()
    why_not = ""
    try:
        record = built.files["calibration_record"]
        index = json.loads(record.read_text(encoding="utf-8"))
        folder = record.parent / index["directory"]
        files = [(str(one["name"]), folder / one["file"]) for one in index["pictures"]]
        pictures = calibration_pictures(files, built.metadata.preprocess, CALIBRATION_SHOWN)
    except (OSError, ValueError, KeyError, TypeError) as error:
        why_not = f"calibration.json can't be read ({type(error).__name__})"
    return Calibration(
        n=facts["n"],
        images=facts["images"],
        method=facts["method"] or "not stated by the compiler",
        seed=facts["seed"],
        sha256=facts["sha256"],
        pictures=pictures,
        why_no_pictures=why_not,
    )


def _flat(prefix: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(f"{prefix}.{key}".lstrip("."), inner)]
    return [(prefix, str(value))]
