"""One way to open, view, count and compare an ONNX graph."""
