"""The portable model: a quantized network that plain onnxruntime runs on any machine."""

from edge.portable.quantize import PortableResult, quantize

__all__ = ["PortableResult", "quantize"]
