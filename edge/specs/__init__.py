"""Frozen schemas of a model and of its precision recipe, and how they are loaded."""

from edge.specs.load import (
    ModelFile,
    available_models,
    beside,
    is_searched,
    is_shipped,
    load_model,
    load_precision,
    read_model,
)
from edge.specs.schema import (
    Calibration,
    Compiler,
    Equalization,
    Evidence,
    ModelSpec,
    NodePrecision,
    Precision,
    Preprocess,
    Published,
    Rounding,
    Sources,
)

__all__ = [
    "Calibration",
    "Compiler",
    "Equalization",
    "Evidence",
    "ModelFile",
    "ModelSpec",
    "NodePrecision",
    "Precision",
    "Preprocess",
    "Published",
    "Rounding",
    "Sources",
    "available_models",
    "beside",
    "is_searched",
    "is_shipped",
    "load_model",
    "load_precision",
    "read_model",
]
