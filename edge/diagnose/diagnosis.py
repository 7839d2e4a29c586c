"""Measure a finished build and find what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import version

from edge.compiler.logs import NodeRow
from edge.diagnose.cpu import cpu_nodes, placements
from edge.diagnose.evidence import Measurements
from edge.diagnose.faults import faults, remedies, verdict
from edge.diagnose.findings import Diagnosis, LayerResult, share
from edge.diagnose.inputs import clipped, measure_steps, own_normalisation, pixel_range
from edge.diagnose.observed import summarize
from edge.diagnose.precision import LayerStudy, study
from edge.diagnose.weights import changed_floats
from edge.errors import EdgeError, UsageError, counted
from edge.folder.built import Built
from edge.graph.files import load_onnx
from edge.images import ImageSet
from edge.images.frames import cores, load_frames
from edge.measure.labels import Shifts
from edge.measure.objective import Classes, objective_of
from edge.progress import SILENT, Reporter
from edge.runtime import load
from edge.simulate.fakequant import Quantizer

_ROLES = ("float_onnx", "bpu_onnx", "calibrated_onnx", "quantized_onnx", "portable_onnx", "bin")


def diagnose(
    built: Built, images: ImageSet, *, unlabelled: str, command: str, reporter: Reporter = SILENT
) -> Diagnosis:
    """Diagnose a build on images.

    Args:
        images: their labels are class indices.
        unlabelled: why there is no Top-1; empty if there is.

    Raises:
        UsageError: the outputs are neither class scores nor boxes.
        InputError: no image can be read.
        ModelFileError: a file of the build can't be run, or holds an operator without a rule.
    """
    if built.metadata.task == "raw":
        raise UsageError(
            f"the outputs of {built.metadata.model} are no class scores and no boxes",
            expected="a classifier or a detector: a fault is found by the answers that it changes",
            remedy=f"edge eval {built.folder.name}   tells how far each output is from float's",
        )
    started = time.monotonic()
    reporter.update("images", 0.0)
    frames, unreadable = load_frames(images, built.metadata.preprocess, reporter)
    objective = objective_of(built, images, frames, labelled=not unlabelled)
    labels = objective.labels if isinstance(objective, Classes) else None
    notes = [unlabelled[0].upper() + unlabelled[1:]] if unlabelled else []
    with ExitStack() as stack:
        program = None
        try:
            program = stack.enter_context(load(built.folder, "portable", threads=cores()))
        except EdgeError as error:
            notes.append(f"The program's integers were not run: {error.seen}")
        whole = measure_steps(built, frames, objective, program, reporter)
    if unreadable:
        notes.append(
            f"{counted(len(unreadable), 'image')} can't be read and left out of all figures: {unreadable[0]} …"
        )
    taken: LayerStudy | None = None
    if "calibrated_onnx" in built.files:
        taken = study(built, frames, objective, whole, reporter)
    else:
        notes.append(
            "No calibrated model, since the vendor's compiler did not run: layers, ranges, weights, calibration "
            "and 16 bits could not be measured"
        )
    rows = placements(built)
    evidence = Measurements(
        built=built,
        n=len(frames),
        labelled=objective.labelled,
        shift=None if labels is None else Shifts().add(whole.float_rgb.argmax(1), labels).better,
        float_right=None if labels is None else int((whole.float_rgb.argmax(1) == labels).sum()),
        float_ap=objective.right(whole.float_rgb) if objective.boxes else None,
        boxes=objective.boxes,
        checks=whole.checks,
        program_checks=(*whole.program_checks, *(taken.program_checks if taken else ())),
        own_normalisation=own_normalisation(load_onnx(built.file("float_onnx"))),
        pixel_range=pixel_range(frames),
        steps=(*whole.steps, *(taken.steps if taken else ())),
        shares=(*(taken.shares if taken else ()), share("NV12", whole.float_rgb, whole.float_nv12, objective)),
        changed=(
            *changed_floats(built.file("float_onnx"), built.file("bpu_onnx"), "simplify"),
            *(taken.changed if taken else ()),
        ),
        cpu=cpu_nodes(built, rows),
        precision=taken,
    )
    found = faults(evidence)
    return Diagnosis(
        name=built.metadata.name,
        command=command,
        models={role: built.sha256[role] for role in _ROLES if role in built.sha256},
        dataset=images.description,
        n=len(frames),
        labelled=objective.labelled,
        verdict=verdict(evidence, found),
        units=_units(taken, rows) if taken else (),
        shares=evidence.shares,
        nv12_clipped=clipped(frames),
        cpu_nodes=evidence.cpu,
        input_checks=(*(tried.check for tried in evidence.checks), *evidence.program_checks),
        remedies=remedies(evidence, found),
        notes=(*notes, *_notes(evidence)),
        versions=_versions(built),
        seconds=round(time.monotonic() - started, 3),
        task=built.metadata.task,
        outputs=taken.outputs if taken else (),
    )


def _units(taken: LayerStudy, rows: tuple[NodeRow, ...]) -> tuple[LayerResult, ...]:
    on_cpu = {row.name for row in rows if row.on == "CPU"}
    cosine = taken.observed.cosine.mean(axis=0)
    first: dict[str, tuple[int, Quantizer]] = {}
    for i, item in enumerate(taken.quantizers):
        if not item.weight:
            first.setdefault(item.tensor, (i, item))
    units = []
    for i, group in enumerate(taken.groups):
        known = first.get(group.output)
        units.append(
            LayerResult(
                name=group.name,
                kind=group.kind,
                nodes=group.nodes,
                cosine=float(cosine[i]),
                alone_cosine=taken.alone[group.name][0],
                alone_agreement=taken.alone[group.name][1],
                bits=group.bits,
                on="CPU" if group.nodes[0] in on_cpu else "BPU",
                range=summarize(known, taken.observed.seen, taken.observed.bounds(i)),
            )
        )
    return tuple(units)


def _notes(evidence: Measurements) -> list[str]:
    notes = []
    if evidence.own_normalisation:
        notes.append(f"The ONNX normalises its input itself: {evidence.own_normalisation}")
    taken = evidence.precision
    if taken is None:
        return notes
    if not taken.calibration_n:
        notes.append("The calibration images are no longer in the build folder; they were not compared")
    integers = evidence.step("program")
    if integers is not None and integers.agreement < 1:
        like = evidence.like("the program", "the calibrated model's", integers.agreement)
        notes.append(f"Integer arithmetic has a further cost: {like} (cosine {integers.cosine:.4f})")
    notes += [
        f"Calibration images differ from the measured ones in {item.name}: median {item.calibration:.2f}, "
        f"measured {item.evaluation:.2f}"
        for item in taken.differences[:3]
    ]
    every = taken.all_gain
    if every.expected - max((gain.expected for _, gain in taken.set_gains), default=0.0) >= 1:
        agreement = f"{100 * every.after:.1f} % of float's answers (cosine {every.cosine_after:.4f})"
        if every.boxes:
            agreement = f"AP {100 * every.after:.1f} with float's boxes as objects"
        notes.append(
            "16 bits at every activation, including convolutions, would bring the calibrated model to "
            f"{agreement}; convolutions are not proposed, since their 16-bit integers can lose more than they gain"
        )
    if taken.alone_n < evidence.n:
        which = "images with boxes" if evidence.boxes else "images"
        notes.append(f"Each layer alone was measured on the first {taken.alone_n} {which}")
    return notes


def _versions(built: Built) -> Mapping[str, str]:
    return {
        "onnxruntime": version("onnxruntime"),
        "numpy": version("numpy"),
        **{name: str(value) for name, value in built.metadata.toolchain.items()},
    }
