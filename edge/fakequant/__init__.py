"""The compiler's calibrated model in stock onnxruntime, every quantizer switchable from run to run."""

from edge.fakequant.quantizer import AS_BUILT, FLOAT, INT8, INT16, Quantizer
from edge.fakequant.session import FakeQuant
from edge.fakequant.translate import Translated, translate

__all__ = ["AS_BUILT", "FLOAT", "INT8", "INT16", "FakeQuant", "Quantizer", "Translated", "translate"]
