"""Gather what a report says from a finished build folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cattrs

from edge.accuracy.table import FILE as EVALUATION
from edge.accuracy.table import REFERENCES, Change, Evaluation, within_noise
from edge.accuracy.table import SCHEMA_VERSION as EVALUATION_SCHEMA
from edge.compiler.logs import NodeRow, cpu_inside, nodes
from edge.diagnose.findings import FILE as DIAGNOSIS
from edge.diagnose.findings import SCHEMA_VERSION as DIAGNOSIS_SCHEMA
from edge.diagnose.findings import Diagnosis
from edge.errors import UsageError, counted
from edge.files import read_json
from edge.folder.built import Built, as_written, compiler_settings
from edge.measure.statistics import wilson
from edge.report.boxes import boxes_shown
from edge.report.contents import (
    Accuracy,
    CalibrationShown,
    Fact,
    Flag,
    JudgedChange,
    Judgement,
    LayerRow,
    Layers,
    Report,
    Speed,
    SpeedRow,
    StepFigures,
    Thumbnail,
)
from edge.report.search import search_of
from edge.report.thumbnails import calibration_images, mistakes_shown
from edge.report.wording import bounds, prepared, published_line, verdict, verify_line
from edge.specs import Preprocess, Published, load_model

TITLES = {
    "float": "float",
    "simplified": "simplified ONNX",
    "nv12": "float behind NV12",
    "calibrated": "calibrated",
    "quantized": "quantized",
    "program": "compiled program",
    "portable": "portable model",
    "board": "on the board",
}
CALIBRATION_SHOWN = 24
OWN_EVALUATION = "build_eval.json"
# Files that a report writes itself, role -> name: they say nothing about the build.
OWN_FILES = {"report": "report.md", "report_html": "report.html", "report_json": "report.json"}
STATIC_NOTE = (
    "The static figure is the compiler's own, for the BPU part of one frame. It counts neither the nodes "
    "left to the CPU nor the driver."
)
PUBLISHED_NOTE = (
    "Published figures are measured on the board: latency with 1 thread and frames a second with 4, the "
    "whole program, compiled by others with a precision recipe of their own."
)


def gather(built: Built, *, names: Sequence[str] | None = None, measured: Evaluation | None = None) -> Report:
    """Return the report of a build.

    Args:
        names: of the classes; None reads them from the folder.
        measured: what the build measured itself, of a build that is about to be published; None reads it from
            the folder.

    Raises:
        ModelFileError: its manifest lacks what a report needs.
    """
    with as_written(built.folder):
        return _gather(built, class_names(built) if names is None else names, measured)


def _gather(built: Built, names: Sequence[str], measured: Evaluation | None) -> Report:
    manifest, files, folder = built.manifest, built.files, built.folder
    evaluation, stale_evaluation = evaluation_of(built)
    diagnosis, stale_diagnosis = read_sidecar(
        folder / DIAGNOSIS, built, Diagnosis, DIAGNOSIS_SCHEMA, f"edge diagnose {folder.name}"
    )
    # Stale files of a build that is about to be published are about to be removed.
    stale = [flag for flag in (stale_evaluation, stale_diagnosis) if flag and measured is None]
    published, rows = published_of(manifest), node_rows(files)
    preprocess = built.metadata.preprocess
    own = files.get("evaluation")  # what the build measured itself; None if it kept no record of it
    if evaluation is None and measured is None and own is not None:
        measured, _ = read_sidecar(own, built, Evaluation, EVALUATION_SCHEMA, "")
    if evaluation is not None:
        accuracy = from_evaluation(evaluation, EVALUATION, names, preprocess)
    elif measured is not None:
        accuracy = from_evaluation(measured, OWN_EVALUATION, names, preprocess)
    else:
        accuracy = from_manifest(manifest["accuracy"], manifest["command"])
    verify, placement, board = manifest["verify"], manifest["placement"], manifest.get("board")
    built_files = [file for file in manifest["artifacts"] if file["role"] not in OWN_FILES]
    return Report(
        name=manifest["name"],
        model=manifest["model"],
        verdict=verdict(manifest, accuracy),
        flags=(*_flags(manifest, folder.name), *stale),
        command=manifest["command"],
        edge=manifest["edge"],
        weights=manifest["weights"],
        precision=manifest["precision"] or "",
        recipe=compiler_settings(files),
        prepared=prepared(manifest),
        compiler=manifest["toolchain"]["kind"],
        versions=manifest["toolchain"]["versions"],
        exporter=manifest["exporter"],
        preprocess=cattrs.unstructure(preprocess),
        accuracy=accuracy,
        diagnosis=diagnosis,
        layers=layers_of(diagnosis, rows),
        placement=placement and {"bpu": placement["bpu"], "cpu": placement["cpu"], "nodes": cpu_nodes(diagnosis, rows)},
        speed=speed_of(manifest["static"], published, board),
        board=board,
        board_facts=board_facts(board),
        published_accuracy=published_line(manifest["model"], published, manifest["weights"]["source"]),
        calibration=_calibration(built),
        verify="" if verify is None else verify_line(verify),
        verified=None if verify is None else bool(verify["bit_exact"]),
        stages=_rows(manifest["stages"], "name", "seconds", "cached", "command"),
        files=_rows(built_files, "role", "path", "bytes", "sha256"),
        search=search_of(built),
    )


def _rows(found: Sequence[Fact], *keys: str) -> tuple[Fact, ...]:
    return tuple({key: one[key] for key in keys} for one in found)


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


def _flags(manifest: Mapping[str, Any], model: str) -> list[Flag]:
    flags = []
    source, verify = manifest["weights"]["source"], manifest["verify"]
    if source == "demo":
        text = "Trained on images that the project renders. They prove the pipeline and say nothing of ImageNet."
        flags.append(Flag("weights", "demo weights", text))
    if source == "random":
        text = "For speed only: every accuracy figure here is meaningless."
        flags.append(Flag("weights", "random weights", text))
    if manifest["toolchain"]["kind"] == "onnxruntime":
        text = (
            "Quantized by onnxruntime; an estimate of what the vendor's compiler gives. There is no program "
            "for the board."
        )
        remedy = f"edge toolchain install, then edge build {model}"
        flags.append(Flag("approximate", "portable", text, remedy))
    if verify is not None and not verify["bit_exact"]:
        text = f"Nothing proves that the program computes what was measured: {verify.get('why_not', 'it differs')}."
        flags.append(Flag("unverified", "not verified", text, f"edge verify {model}"))
    return flags


def _calibration(built: Built) -> CalibrationShown:
    facts = built.manifest["calibration"]
    images: tuple[Thumbnail, ...] = ()
    why_not = ""
    if built.metadata.inputs:
        why_not = "The samples hold arrays for several inputs, or no images."
    try:
        record = built.files["calibration_record"]
        index = read_json(record)
        folder = record.parent / index["directory"]
        files = [(str(one["name"]), folder / one["file"]) for one in index["images"]]
        if not built.metadata.inputs:
            images = calibration_images(files, built.metadata.preprocess, CALIBRATION_SHOWN)
    except (OSError, ValueError, KeyError, TypeError) as error:
        why_not = f"calibration.json can't be read ({type(error).__name__})"
    return CalibrationShown(
        n=facts["n"],
        source=facts["images"],
        method=facts["method"] or "not stated by the compiler",
        seed=facts["seed"],
        sha256=facts["sha256"],
        images=images,
        why_no_images=why_not,
    )


def evaluation_of(built: Built) -> tuple[Evaluation | None, Flag | None]:
    """Return ``eval.json`` where it speaks of this build, and why not where it is there and does not."""
    command = f"edge eval {built.folder.name}"
    return read_sidecar(built.folder / EVALUATION, built, Evaluation, EVALUATION_SCHEMA, command)


def from_evaluation(evaluation: Evaluation, source: str, names: Sequence[str], preprocess: Preprocess) -> Accuracy:
    """Return what an evaluation says, with images.

    Args:
        names: of the classes; empty if unknown.
        preprocess: of the network, for the images.
    """
    most = max((step.n for step in evaluation.steps), default=0)
    no_image = evaluation.task != "classify" and all(step.name != "nv12" for step in evaluation.steps)
    steps = []
    for step in evaluation.steps:
        n, score, before = step.n, step.score, step.before
        shares = {key: getattr(score, key) for key in SHARES} if score else None
        steps.append(
            _step(
                step.name,
                step.by,
                n,
                shares,
                step.agreement,
                step.cosine,
                agreement_before=None if step.agreement_before is None else 100 * step.agreement_before / n,
                cosine_before=step.cosine_before,
                change=judged_change(step.change, TITLES[before]) if step.change and before else None,
                seconds=step.seconds,
                sampled=n < most,
                agreement_with="float" if no_image else _WITH[step.agreement_with],
                outputs=tuple(cattrs.unstructure(output) for output in step.outputs),
                boxes=cattrs.unstructure(step.boxes),
            )
        )
    return Accuracy(
        source=source,
        command=evaluation.command,
        dataset=evaluation.dataset,
        dataset_sha256=evaluation.dataset_sha256,
        n=evaluation.n,
        unlabelled=evaluation.unlabelled,
        steps=tuple(steps),
        quantized=evaluation.quantized,
        verdict=evaluation.verdict,
        explanation=evaluation.explanation,
        mistakes=mistakes_shown(evaluation.mistakes, evaluation.dataset, names, preprocess),
        mistakes_total=evaluation.mistakes_total,
        changed=boxes_shown(evaluation.changed, names),
        unreadable=evaluation.unreadable,
        seconds=evaluation.seconds,
        versions=evaluation.versions,
        total=judged_change(evaluation.total, TITLES["float"]) if evaluation.total else None,
    )


def from_manifest(accuracy: Mapping[str, Any], command: str) -> Accuracy:
    """Return what the build measured: float and quantized, not compared in pairs."""
    n, by = accuracy["n"], accuracy["quantized_by"]
    reference, quantized = accuracy["float"], accuracy["quantized"]
    same, like = round(accuracy["agreement"] * n / 100), _WITH[accuracy.get("agreement_with", "float")]
    change = None
    if reference and quantized:
        points = quantized["top1"] - reference["top1"]
        change = JudgedChange(TITLES["float"], points, None, None, None, None, "untested")
    return Accuracy(
        source="manifest.json",
        command=command,
        dataset=accuracy["dataset"],
        dataset_sha256=accuracy["dataset_sha256"],
        n=n,
        unlabelled="" if quantized else "the images carry no usable labels",
        steps=(
            _step("float", "onnxruntime", n, reference, n, 1.0),
            _step("quantized", by, n, quantized, same, accuracy["cosine"], change=change, agreement_with=like),
        ),
        quantized="quantized",
        unreadable=tuple(accuracy["unreadable"]),
    )


_WITH = {name: f"float {words}" for name, words in REFERENCES.items()}
SHARES = ("top1", "top1_interval", "top5", "top5_interval")


def _step(
    name: str, by: str, n: int, score: Mapping[str, Any] | None, same: int, cosine: float, **more: Any
) -> StepFigures:
    """Return a step's figures from counts and ``SHARES``; ``more`` are further fields."""
    low, high = wilson(same, n)
    shares: dict[str, Any] = {key: score[key] if score else None for key in SHARES}
    return StepFigures(
        name=name,
        title=TITLES[name],
        by=by,
        n=n,
        **shares,
        agreement=100 * same / n,
        agreement_interval=(100 * low, 100 * high),
        cosine=cosine,
        **more,
    )


def judged_change(change: Change, before: str) -> JudgedChange:
    """Return a measured change and what it means, against the step of that title."""
    if not change.lost and not change.gained:
        judgement: Judgement = "none"
    elif within_noise(change):
        judgement = "noise"
    else:
        judgement = "loss" if change.points < 0 else "gain"
    return JudgedChange(before, change.points, change.interval, change.lost, change.gained, change.p, judgement)


T = TypeVar("T")


def read_sidecar(path: Path, built: Built, kind: type[T], version: int, command: str) -> tuple[T | None, Flag | None]:
    """Read one of the files.

    Args:
        built: the build folder that it has to speak of.
        kind: the class that it holds; it has ``models``, role -> sha256 of what was measured.

    Returns:
        What it holds, None if it is not there or not to be used; and why not, None if nothing is to be said.
    """
    try:
        data = read_json(path)
        if data["schema_version"] != version:
            why = f"is of schema {data['schema_version']}, not {version}"
        else:
            found, models = cattrs.structure(data, kind), data["models"]
            changed = sorted(role for role, digest in models.items() if built.sha256.get(role) != digest)
            if models and not changed:
                return found, None
            why = f"speaks of another {', '.join(changed) or 'program'} than this build holds"
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, cattrs.BaseValidationError) as error:
        why = f"can't be read ({type(error).__name__})"
    return None, Flag("stale", f"{path.name} is left out", f"{path.name} {why}.", command)


NO_LAYERS = Layers("", "Nothing here says how similar the layers are: only the vendor's compiler measures it.")


def layers_of(diagnosis: Diagnosis | None, rows: tuple[NodeRow, ...]) -> Layers:
    """Return the similarity of each layer.

    Args:
        diagnosis: of this build; None if there is none.
        rows: the compile log's node table; empty without the vendor's compiler.
    """
    if diagnosis is not None and diagnosis.units:
        return Layers(
            "diagnosis",
            f"Cosine of each layer's output, everything quantized, with the float network's: mean over "
            f"n = {counted(diagnosis.n, 'image')}, {diagnosis.dataset}.",
            tuple(
                LayerRow(
                    name=unit.name,
                    kind=unit.kind,
                    on=unit.on,
                    dtype=f"int{unit.bits}" if unit.on == "BPU" else "float",
                    cosine=unit.cosine,
                    alone_cosine=unit.alone_cosine,
                    alone_agreement=100 * unit.alone_agreement,
                    low=unit.range.low,
                    high=unit.range.high,
                    threshold=unit.range.threshold,
                    saturated=unit.range.saturated,
                    outlier_ratio=unit.range.outlier_ratio,
                )
                for unit in diagnosis.units
            ),
            boxes=diagnosis.task == "detect",
        )
    known = tuple(
        LayerRow(row.name, row.type, row.on, row.dtype, row.cosine, threshold=row.threshold)
        for row in rows
        if row.cosine is not None
    )
    if not known:
        return NO_LAYERS
    return Layers(
        "compile log",
        "Cosine of each node's output, calibrated, with the float network's, as the compiler found it on the "
        "calibration images.",
        known,
    )


def node_rows(files: Mapping[str, Path]) -> tuple[NodeRow, ...]:
    """Return the compile log's node table; empty where there is no log or it can't be read."""
    log, info = files.get("compile_log"), files.get("quant_info")
    if log is None:
        return ()
    try:
        names = read_json(info) if info is not None else None
        return nodes(log.read_text(encoding="utf-8", errors="replace"), names)
    except (OSError, ValueError):
        return ()


def cpu_nodes(diagnosis: Diagnosis | None, rows: tuple[NodeRow, ...]) -> tuple[Fact, ...]:
    """Return the nodes that are left to the CPU."""
    if diagnosis is not None:
        found = [(node.name, node.op, node.inside) for node in diagnosis.cpu_nodes]
    else:
        inside = {id(row) for row in cpu_inside(rows)}
        found = [(row.name, row.type, id(row) in inside) for row in rows if row.on == "CPU"]
    return tuple({"name": name, "op": op, "inside": inner} for name, op, inner in found)


def speed_of(static: Mapping[str, Any] | None, published: Published | None, board: Mapping[str, Any] | None) -> Speed:
    """Return the figures.

    Args:
        static: of the manifest; None where nothing was compiled.
        published: of the same model; None where nobody did.
        board: of the manifest: what ``edge board`` recorded of this program.
    """
    rows, notes = [], []
    if static is not None:
        level = static["optimize_level"]
        note = f"the BPU part alone, estimated; {static['march']}, {level}"
        latency = static["latency_us"] / 1000
        rows.append(SpeedRow("static", "compiler's static figure", None, latency, static["fps"], note))
        notes.append(STATIC_NOTE)
        if level != "O3":
            notes.append(f"This program is compiled at {level}: quickly made, slow to run; O3 is what ships.")
    if published is not None:
        covers = f"the whole program, measured; {published.source}"
        if published.latency_ms:
            rows.append(SpeedRow("published", "published", 1, published.latency_ms, None, covers))
        if published.fps_4_threads:
            fps = published.fps_4_threads
            rows.append(SpeedRow("published", "published", 4, None, fps, covers))
        if published.latency_ms or published.fps_4_threads:
            notes.append(PUBLISHED_NOTE)
    about = (board or {}).get("about") or {}
    where = "; ".join(("the whole program, measured", *(str(about[key]) for key in ("soc", "os") if about.get(key))))
    rows += [
        SpeedRow("board", "your board", run["threads"], run["latency_ms"], run["fps"], where)
        for run in ((board or {}).get("perf") or {}).get("runs", ())
    ]
    return Speed(tuple(rows), tuple(notes), static["ddr_bytes"] if static else None)


def board_facts(board: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """Return what ``edge board`` recorded besides speed, as names and values."""
    if not board:
        return ()
    rows = [(name, str(value)) for name, value in (board.get("about") or {}).items() if value]
    accuracy = board.get("accuracy")
    if accuracy:
        found = accuracy["board"]
        if found:
            rows += [
                (f"{title} on the board", f"{found[key]:.2f} % {bounds(found[f'{key}_interval'])}")
                for key, title in (("top1", "Top-1"), ("top5", "Top-5"))
            ]
        if accuracy["agreement"] is not None:
            rows.append((f"same answer as {accuracy['backend']}", f"{accuracy['agreement']:.2f} %"))
        rows.append(("measured on", f"n = {accuracy['n']}: {accuracy['dataset']}"))
    return tuple(rows)
