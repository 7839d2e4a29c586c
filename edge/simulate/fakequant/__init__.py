"""The compiler's calibrated model in stock onnxruntime; each run can switch every quantizer."""

from edge.simulate.fakequant.quantizer import AS_BUILT, FLOAT, INT8, INT16, Quantizer
from edge.simulate.fakequant.session import FakeQuant
from edge.simulate.fakequant.translate import Translated, translate

__all__ = ["AS_BUILT", "FLOAT", "INT8", "INT16", "FakeQuant", "Quantizer", "Translated", "translate"]
