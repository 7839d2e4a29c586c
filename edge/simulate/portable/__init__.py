"""The portable model: a quantized network that plain onnxruntime runs on any machine."""

from edge.simulate.portable.quantize import PortableResult, quantize
from edge.simulate.portable.translate import TranslateResult, translate

__all__ = ["PortableResult", "TranslateResult", "quantize", "translate"]
