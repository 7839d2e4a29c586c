"""From a spec to a float ONNX file: choose the weights, then export them.

``choose`` talks to the network and to the caches and returns a concrete choice; ``export`` is a pure function
of that choice, so a build can be keyed by ``Resolved.identity`` before anything is made.
"""

from edge.sources.check import ModelFacts, inspect_onnx
from edge.sources.sources import SUFFIX, Resolved, WeightsName, choose_weights
from edge.sources.stage import ExportResult, Weights, export

__all__ = [
    "SUFFIX",
    "ExportResult",
    "ModelFacts",
    "Resolved",
    "Weights",
    "WeightsName",
    "choose_weights",
    "export",
    "inspect_onnx",
]
