"""Float ONNX → BPU-ready ONNX: simplified under guard, so that the compiler still sees what it fuses."""

from edge.simplify.stage import SimplifyResult, simplify

__all__ = ["SimplifyResult", "simplify"]
