"""Float ONNX to float ONNX that the BPU runs fast and int8 hurts least; each change is proved."""
