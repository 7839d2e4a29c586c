"""Frozen schemas of a model and of its precision recipe, and how they are loaded."""

from edge.specs.load import available_models, beside, is_searched, load_model, load_precision
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
    "load_model",
    "load_precision",
]
