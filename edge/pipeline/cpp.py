"""C++ for the board: the sources of ``edge/cpp/``, and a header with what they have to know about a model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path

from edge import __version__
from edge.errors import UsageError
from edge.folder.metadata import Metadata
from edge.specs import Detector, Preprocess

FOLDER = "cpp"  # in the bundle
SOURCES = Path(__file__).parents[1] / "cpp"
SHARED = ("CMakeLists.txt", "libdnn.h", "net.cpp", "net.h", "preprocess.h", "program.h")
CLASSIFY, DETECT = ("classify.cpp", "classes.h"), ("detect.cpp", "boxes.h")
FAMILIES = {"yolox": "kYolox", "dfl": "kDfl", "anchors": "kAnchors"}
_LETTERBOX = {None: "kNone", "corner": "kCorner", "center": "kCenter"}
_INTERPOLATION = {"bilinear": "kBilinear", "bicubic": "kBicubic", "area": "kBox", "nearest": "kBox"}
_SCORES = {"logits": "kLogits", "softmax": "kProbabilities", "sigmoid": "kProbabilities", None: "kUnknown"}


def sources(metadata: Metadata) -> dict[str, bytes]:
    """Return the files of the CMake project for a model, by their path in the bundle.

    Raises:
        UsageError: the C++ can't run this model.
    """
    header = "\n".join(_header(metadata)) + "\n"
    own = CLASSIFY if metadata.detector is None else DETECT
    files = {f"{FOLDER}/{name}": (SOURCES / name).read_bytes() for name in (*SHARED, *own)}
    return {**files, f"{FOLDER}/model.h": header.encode()}


def _header(metadata: Metadata) -> Iterator[str]:
    """Yield the lines of ``model.h``."""
    if "bin" not in metadata.files:
        raise _refused(f"{metadata.name} has no .bin", "a build with the vendor's compiler", "edge build MODEL")
    if metadata.inputs or metadata.task == "raw":
        seen = "takes more or something else than an image" if metadata.inputs else "gives raw outputs"
        raise _refused(f"{metadata.name} {seen}", "a classifier or a detector of one image")
    labels = metadata.files.get("labels")
    name = re.sub(r"[^\w.-]", "_", metadata.name)  # a received build's may break the line
    yield f"// {name}, as edge {__version__} built it."
    yield "#pragma once"
    yield ""
    yield f'#include "{"classes.h" if metadata.detector is None else "boxes.h"}"'
    yield '#include "preprocess.h"'
    yield ""
    yield "namespace model {"
    yield ""
    yield f"constexpr char kProgram[] = {_literal(metadata.files['bin'].path)};"
    yield f"constexpr char kLabels[] = {_literal(labels.path if labels else '')};"
    yield from _preprocess(metadata.preprocess)
    if metadata.detector is None:
        yield f"constexpr int kClasses = {metadata.classes};"
        yield f"constexpr edge::Scores kScores = edge::Scores::{_SCORES[metadata.scores]};"
        yield f"constexpr std::size_t kScoresOutput = {_scores_at(metadata)};"
    else:
        yield from _detector(metadata, metadata.detector)
    yield ""
    yield "}  // namespace model"


def _preprocess(pre: Preprocess) -> Iterator[str]:
    yield "constexpr edge::Preprocess kPreprocess{"
    yield f"    /*crop=*/{{{pre.crop[0]}, {pre.crop[1]}}},"
    yield f"    /*canvas=*/{{{pre.canvas[0]}, {pre.canvas[1]}}},"
    yield f"    /*resize=*/{pre.resize or 0},"
    yield f"    /*letterbox=*/edge::Letterbox::{_LETTERBOX[pre.letterbox]},"
    yield f"    /*fill=*/{pre.fill},"
    yield f"    /*interpolation=*/edge::Interpolation::{_INTERPOLATION[pre.interpolation]},"
    yield "};"


def _scores_at(metadata: Metadata) -> int:
    """Return the place of the only output, or of the only one that is a row of two scores and more."""
    shapes = [output.shape for output in metadata.outputs]
    rows = [place for place, shape in enumerate(shapes) if prod(shape) == max(shape, default=0) > 1]
    if len(shapes) > 1 and len(rows) != 1:
        raise _refused(
            f"which output of {metadata.name} holds class scores is not plain: {', '.join(map(str, metadata.outputs))}",
            "one row of scores",
        )
    return rows[0] if len(shapes) > 1 else 0


def _detector(metadata: Metadata, detector: Detector) -> Iterator[str]:
    if detector.family not in FAMILIES:
        raise _refused(f"{metadata.name} codes its boxes as {detector.family}", f"one of {', '.join(FAMILIES)}")
    places = {output.name: place for place, output in enumerate(metadata.outputs)}
    bins = detector.reg_max if detector.family == "dfl" else 1
    yield "const edge::Detector kDetector{"
    yield f"    /*family=*/edge::Family::{FAMILIES[detector.family]},"
    yield f"    /*classes=*/{detector.classes},"
    yield f"    /*bins=*/{bins},"
    yield f"    /*thinned_out=*/{str(detector.nms).lower()},"
    yield "    /*scales=*/"
    yield "    {"
    for scale in detector.scales:
        names = (scale.boxes, scale.scores, scale.objectness)
        parts = [str(scale.stride), *(str(places[name]) for name in names if name)]
        if scale.anchors:
            parts.append("{" + ", ".join(f"{{{width!r}F, {height!r}F}}" for width, height in scale.anchors) + "}")
        yield f"        {{{', '.join(parts)}}},"
    yield "    },"
    yield "};"


def _literal(text: str) -> str:
    """Return text as a literal of C++."""
    return json.dumps(text, ensure_ascii=False)


def _refused(seen: str, expected: str, remedy: str = "edge bundle without --cpp") -> UsageError:
    return UsageError(f"no C++ for this model: {seen}", expected=expected, remedy=remedy)
