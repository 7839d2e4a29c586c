"""A finished build folder for the tests of reports: every kind of fact is in it, and nothing was computed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cattrs
import cv2
import numpy as np

from edge.accuracy.table import Change, Evaluation, Mistake, StepName, StepResult
from edge.diagnose.findings import CpuNode, Diagnosis, InputCheck, LayerResult, Range, Remedy, Share
from edge.folder.built import Built, open_built
from edge.folder.metadata import Metadata, write_metadata
from edge.images.demo import CLASSES, draw
from edge.measure.scores import Score
from edge.specs import Preprocess

NAMES = (*CLASSES[:-1], "<script>alert('x')</script>")
HASH = "0" * 64
LOG = """
The main quantized node information:
======================================================================================
Node                 ON   Subgraph  Type                       Cosine Similarity  Threshold   In/Out DataType
--------------------------------------------------------------------------------------
HZ_PREPROCESS_FOR_x  BPU  id(0)     HzSQuantizedPreprocess     0.999917           127.000000  int8
/stem/stem.0/Conv    BPU  id(0)     HzSQuantizedConv           0.999758           2.721640    int8
/stages/stages.0/c1  BPU  id(0)     HzSQuantizedConv           0.981234           4.100000    int16
/stages/stages.0/sm  CPU  --        Softmax                    0.991234           --          float
/head/fc/Gemm        BPU  id(0)     HzSQuantizedConv           0.970563           5.780820    int8
/head/fc/reshape     CPU  --        Reshape                    0.970563           --          float
2025-01-01 00:00:00,000 INFO end
"""
YAML = """
calibration_parameters: {calibration_type: default}
compiler_parameters: {optimize_level: O3, jobs: 4}
"""


def make_build(
    folder: Path,
    *,
    weights: str = "demo",
    precision: str = "int8",
    salt: str = "",
    labelled: bool = True,
    verified: bool = True,
    vendor: bool = True,
    board: bool = False,
    color: str = "rgb",
    layout: str = "NCHW",
    recipe: str = YAML,
) -> Path:
    """Write a build folder: manifest, metadata, labels, logs, calibration images; no eval, no diagnosis."""
    folder.mkdir(parents=True)
    name = f"{folder.name}_demo"
    rule = Preprocess(crop=(64, 64), resize=72, color=color, layout=layout)  # type: ignore[arg-type]
    write_metadata(folder / "metadata.json", Metadata(name, folder.name, weights, rule, len(NAMES), {}))
    calibration(folder, rule)
    (folder / ".edge-workspace").write_text("{}")
    files = {
        "bin": (f"{name}_64x64_nv12.bin", f"program {salt}"),
        "mapper_yaml": (f"{name}.yaml", recipe),
        "float_onnx": (f"{name}.onnx", "float"),
        "quantized_onnx": (f"{name}_quantized_model.onnx", f"quantized {salt}"),
        "calibration_record": ("calibration.json", None),
        "compile_log": ("hb_mapper_makertbin.log", LOG),
        "metadata": ("metadata.json", None),
        "labels": ("labels.txt", "".join(f"{one}\n" for one in NAMES)),
    }
    if not vendor:
        for role in ("bin", "mapper_yaml", "quantized_onnx", "compile_log"):
            del files[role]
    artifacts = []
    for role, (file, text) in files.items():
        if text is not None:
            (folder / file).write_text(text)
        data = (folder / file).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        artifacts.append({"role": role, "path": file, "bytes": len(data), "sha256": digest})
    manifest = facts(folder.name, name, weights, precision, labelled, vendor=vendor, verified=verified)
    if board:
        manifest["board"] = board_record(artifacts[0]["sha256"])
    (folder / "manifest.json").write_text(json.dumps({**manifest, "artifacts": artifacts}, indent=2))
    return folder


def calibration(folder: Path, rule: Preprocess, count: int = 30) -> None:
    directory = folder / f"calibration_data_{rule.color}_f32"
    directory.mkdir()
    images = []
    for index in range(count):
        rgb = cv2.resize(draw("calibration", index)[0], (64, 64), interpolation=cv2.INTER_AREA)
        ordered = rgb[..., ::-1] if rule.color == "bgr" else rgb
        raw = ordered.transpose(2, 0, 1) if rule.layout == "NCHW" else ordered
        file = f"{index:04d}.bin"
        np.ascontiguousarray(raw, "<f4").tofile(directory / file)
        images.append({"name": f"calibration/{index:06d}", "file": file, "sha256": HASH, "source_sha256": HASH})
    index = {"directory": directory.name, "index": "calibration.json", "n": count, "images": images}
    (folder / "calibration.json").write_text(json.dumps(index))


def facts(
    model: str, name: str, weights: str, precision: str, labelled: bool, *, vendor: bool, verified: bool
) -> dict[str, Any]:
    score = {"top1": 94.4, "top5": 100.0, "top1_interval": [92.0, 96.1], "top5_interval": [99.24, 100.0]}
    worse = {"top1": 90.6, "top5": 99.8, "top1_interval": [87.7, 92.9], "top5_interval": [98.9, 100.0]}
    verify: dict[str, Any] = {"frames": 3, "bit_exact": True, "max_abs_diff": 0, "portable_exact": True}
    verify |= {"integers": 48, "calls": 1, "images": ["test/000003"]}
    if not verified:
        verify = {"frames": 0, "bit_exact": None, "max_abs_diff": None, "why_not": "the simulator is missing"}
    return {
        "schema_version": 1,
        "model": model,
        "name": name,
        "edge": "0.1.0",
        "command": f"edge build {model} --weights {weights}",
        "weights": {"source": weights, "tag": f"{name}.onnx", "sha256": HASH, "seed": None},
        "exporter": "torch 1.13.1",
        "preprocess": {
            "crop": [64, 64],
            "resize": 72,
            "interpolation": "bicubic",
            "color": "rgb",
            "mean": [123.675, 116.28, 103.53],
            "std": [58.395, 57.12, 57.375],
            "layout": "NCHW",
        },
        "precision": precision,
        "toolchain": {
            "kind": "managed" if vendor else "onnxruntime",
            "versions": {"hbdk": "3.49.15", "hb_mapper": "1.24.3"},
        },
        "static": {
            "fps": 811.95,
            "latency_us": 1231.6,
            "ddr_bytes": 4696416,
            "march": "bayes-e",
            "optimize_level": "O3",
        }
        if vendor
        else None,
        "placement": {"bpu": 4, "cpu": 2, "cpu_inside": ["/stages/stages.0/sm"]} if vendor else None,
        "calibration": {
            "n": 100,
            "seed": 0,
            "sha256": HASH,
            "images": "demo:calibration (100 rendered images, seed 0)",
            "method": "kl:num_bin=1024,max_num_bin=16384,per_channel",
        },
        "accuracy": {
            "dataset": "demo:test (500 rendered images, seed 0)",
            "dataset_sha256": HASH,
            "n": 500,
            "float": score if labelled else None,
            "quantized": worse if labelled else None,
            "drop": 3.8 if labelled else None,
            "agreement": 93.0,
            "agreement_with": "nv12",
            "cosine": 0.9601,
            "unreadable": [],
            "quantized_by": "the portable model",
        },
        "verify": verify if vendor else None,
        "stages": [
            {"name": "export", "seconds": 0.2, "cached": True, "command": f"edge export {model}", "key": HASH},
            {
                "name": "compile",
                "seconds": 207.0,
                "cached": False,
                "command": f"hb_mapper makertbin -c {name}.yaml --model-type onnx",
                "key": HASH,
            },
        ],
    }


def board_record(digest: str) -> dict[str, Any]:
    run = {"latency_ms": 1.92, "latency_min_ms": 1.9, "latency_max_ms": 2.3, "fps": 520.1, "threads": 1}
    many = {"latency_ms": 5.2, "latency_min_ms": 5.0, "latency_max_ms": 6.0, "fps": 768.4, "threads": 4}
    return {
        "bin_sha256": digest,
        "about": {"soc": "X5", "os": "RDK OS 3.5.0", "dnn": "1.24.5", "hbrt": "3.15.55.0"},
        "perf": {"measured": "2025-01-01T00:00:00+00:00", "frames": 200, "core_id": 0, "runs": [run, many]},
    }


STEPS: tuple[tuple[StepName, int, int, int, int, float], ...] = (
    # step, n, Top-1 right, became wrong, became right, p
    ("float", 500, 472, 0, 0, 1.0),
    ("simplified", 500, 472, 0, 0, 1.0),
    ("nv12", 500, 470, 4, 2, 0.6875),
    ("calibrated", 500, 459, 14, 3, 0.0127),
    ("quantized", 500, 453, 9, 3, 0.146),
    ("program", 20, 18, 0, 0, 1.0),
    ("portable", 500, 453, 0, 0, 1.0),
)


def evaluation(built: Built, *, labelled: bool = True, images: Path | None = None) -> Evaluation:
    """Return an evaluation of the build; its first mistake is a file that has gone."""
    steps = []
    before: StepName | None = None
    agree = {"float": 1.0, "simplified": 1.0, "nv12": 0.99, "calibrated": 0.95, "program": 0.95}
    for step, n, right, lost, gained, p in STEPS:
        points = 100 * (gained - lost) / n
        change = Change(points, (points - 1.4, points + 1.4), lost, gained, p) if before and labelled else None
        same = round(n * agree.get(step, 0.93))
        steps.append(
            StepResult(
                name=step,
                by="onnxruntime 1.32.0",
                n=n,
                score=Score(n, right, n) if labelled else None,
                before=before,
                change=change,
                agreement=same,
                cosine=0.9601 if same < n else 1.0,
                agreement_before=None if before is None else n - lost,
                cosine_before=None if before is None else 0.99,
                seconds=12.5,
                computed=n,
                agreement_with="float" if step in ("float", "simplified", "nv12") else "nv12",
            )
        )
        before = "quantized" if step == "program" else step
    mistakes = [Mistake("gone/cat.jpg", "/nowhere/cat.jpg", len(NAMES) - 1, len(NAMES) - 1, 0, 0.99, 0.6)]
    if images is not None:
        mistakes.append(Mistake("<b>.png", str(images), 1, 1, 2, 0.97, 0.51))
    mistakes += [Mistake(f"test/{i:06d}", None, i % 47, i % 47, (i + 1) % 47, 0.9, 0.5) for i in range(12)]
    return Evaluation(
        name=f"{built.folder.name}_demo",
        command=f"edge eval {built.folder.name}",
        models={role: built.sha256[role] for role in ("float_onnx", "bin", "quantized_onnx")},
        dataset="demo:test (500 rendered images, seed 0)",
        dataset_sha256=HASH,
        n=500,
        unlabelled="" if labelled else "a folder without labels",
        steps=tuple(steps),
        quantized="quantized",
        verdict="Quantization costs 3.8 points of Top-1, 94.4 % to 90.6 %, beyond noise (p = 0.002)",
        explanation=(
            "Calibration costs 2.2 points: beyond chance, p = 0.013.",
            "NV12 changes Top-1 by 0.4 points: within noise.",
        ),
        mistakes=tuple(mistakes),
        mistakes_total=len(mistakes),
        unreadable=("broken.jpg",),
        versions={"onnxruntime": "1.32.0", "numpy": "2.2.6"},
        seconds=75.0,
        total=Change(-3.8, (-5.8, -1.8), 27, 8, 0.0019) if labelled else None,
    )


def write_answers(folder: Path, right: dict[str, int], *, seed: int = 0, labelled: bool = True) -> None:
    """Write ``answers.csv``: of each step as many right as said, of its first n images."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list[int | str]] = {}
    for step, n, *_ in STEPS:
        answers: list[int | str] = [index % 48 for index in range(n)]
        for index in rng.permutation(n)[: n - right[step]]:
            answers[index] = (index + 1) % 48
        columns[step] = [*answers, *[""] * (500 - n)]
    rows = ["image,label," + ",".join(columns)]
    for index in range(500):
        label = index % 48 if labelled else ""
        rows.append(f"test/{index:06d},{label}," + ",".join(str(column[index]) for column in columns.values()))
    (folder / "answers.csv").write_text("\n".join(rows) + "\n")


def diagnosis(built: Built, seed: int = 5) -> Diagnosis:
    """Return a diagnosis with some forty units, one of them ruined, some of 16 bits."""
    rng = np.random.default_rng(seed)
    units = []
    for stage, blocks in enumerate((2, 2, 6, 2)):
        for block in range(blocks):
            depth = sum((2, 2, 6, 2)[:stage]) + block
            for part, kind in (("conv_dw", "depthwise conv"), ("norm", "LayerNorm"), ("mlp.fc1", "linear")):
                error = 0.0008 * 1.25**depth * float(rng.uniform(0.4, 1.8)) * (6 if kind == "LayerNorm" else 1)
                units.append(_unit(f"stages.{stage}.blocks.{block}.{part}", kind, error, rng))
    units.append(_unit("head.fc", "linear", 0.03, rng))
    return Diagnosis(
        name=f"{built.folder.name}_demo",
        command=f"edge diagnose {built.folder.name}",
        models={role: built.sha256[role] for role in ("float_onnx", "quantized_onnx")},
        dataset="demo:test (64 rendered images, seed 0)",
        n=64,
        labelled=True,
        verdict="The LayerNorms of the third stage lose most; the input is right.",
        units=tuple(units),
        shares=(
            Share("weights", 0.984, 0.9921, 94.1),
            Share("activations", 0.938, 0.9702, 91.0),
            Share("both", 0.93, 0.9601, 90.6),
            Share("NV12", 0.992, 0.9985, 94.2),
        ),
        nv12_clipped=0.0123,
        cpu_nodes=(
            CpuNode("/stages/stages.0/sm", "Softmax", True, 401408, 0.42),
            CpuNode("/head/fc/reshape", "Reshape", False, 192, None),
        ),
        input_checks=(
            InputCheck("swapped channels", "float", 31.2, 94.4, "Top-1", False),
            InputCheck("video-range NV12", "program", 88.0, 90.6, "Top-1", False),
        ),
        remedies=(
            Remedy(
                "Give the LayerNorm of stages.2.blocks.5 int16 inputs.",
                "nodes:\n  /stages/stages.2/blocks/blocks.5/norm/Sub: {inputs: int16}",
                "alone it changes 3.1 % of the answers",
                2.4,
            ),
            Remedy("Calibrate on more images.", "edge build MODEL --calib-count 200", "saturation 0.8 %", 0.6),
        ),
        notes=("GELU is one table on the BPU.",),
        seconds=41.0,
    )


def _unit(name: str, kind: Any, error: float, rng: np.random.Generator) -> LayerResult:
    high = float(rng.uniform(2, 9))
    wide = name.endswith("blocks.1.norm")
    return LayerResult(
        name=name,
        kind=kind,
        nodes=(f"/{name.replace('.', '/')}/Conv",),
        cosine=1 - error,
        alone_cosine=1 - error * float(rng.uniform(0.02, 0.3)),
        alone_agreement=1 - error * 0.8,
        bits=16 if wide else 8,
        on="BPU",
        range=Range(-high, high, 0.9 * high, 0.0004, float(rng.uniform(1, 14)), 3),
    )


def with_sidecars(folder: Path, *, labelled: bool = True, images: Path | None = None, seed: int = 5) -> Built:
    """Put ``eval.json``, ``answers.csv`` and ``diagnosis.json`` of this very build beside it."""
    built = open_built(folder)
    write_answers(folder, {step: right for step, _, right, *_ in STEPS}, seed=seed, labelled=labelled)
    found = cattrs.unstructure(evaluation(built, labelled=labelled, images=images))
    (folder / "eval.json").write_text(json.dumps(found))
    (folder / "diagnosis.json").write_text(json.dumps(cattrs.unstructure(diagnosis(built, seed))))
    return built
