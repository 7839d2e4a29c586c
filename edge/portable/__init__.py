"""The portable model: a quantized network that plain onnxruntime runs on any machine."""

from edge.portable.quantize import PortableResult, quantize
from edge.portable.translate import TranslateResult, translate

__all__ = ["PortableResult", "TranslateResult", "quantize", "translate"]
