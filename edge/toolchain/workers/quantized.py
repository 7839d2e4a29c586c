"""Run the compiler's quantized ONNX, one NV12 picture at a time, for a parent process.

Runs in the compiler's own Python; never imported by edge. Protocol, on stdin and stdout:

1. This side writes one JSON line: ``{"input": NAME, "height": H, "width": W, "outputs": [{"name", "shape",
   "dtype"}]}``, or ``{"error": "..."}`` and exits with 1.
2. The parent writes exactly H*W*3/2 bytes: packed full-range NV12. This side answers with the bytes of each
   output, one after the other, in C order.
3. At the end of its input this side exits with 0.

Usage: quantized.py MODEL.onnx THREADS [NAME DTYPE ...]

Each NAME is a value inside the graph, such as the integers before a HzDequantize, that becomes one more
output, behind the model's own; DTYPE is its numpy name.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from horizon_tc_ui import HB_ONNXRuntime


def nv12_to_input(data: bytes, height: int, width: int) -> np.ndarray:
    """Return YUV444 minus 128 as int8 (1, H, W, 3): each chroma sample repeated over its 2x2 block."""
    plane = np.frombuffer(data, np.uint8)
    luma = plane[: height * width].reshape(height, width)
    chroma = plane[height * width :].reshape(height // 2, width // 2, 2)
    chroma = chroma.repeat(2, axis=0).repeat(2, axis=1)
    yuv = np.concatenate([luma[:, :, None], chroma], axis=2)
    return (yuv ^ 0x80).view(np.int8)[None]


def open_session(path: str, threads: int, inner: list[str] | None = None) -> HB_ONNXRuntime:
    """Load the model with a fixed number of threads; ``inner`` is name, dtype, name, dtype, ..."""
    import onnx
    from horizon_nn.executor import session
    from horizon_tc_ui import HB_ONNXRuntime

    # The vendor's wrapper takes no session options; it asks this module for the defaults.
    options = session.onnxruntime_cpp2py_export.SessionOptions()
    options.intra_op_num_threads = threads
    session.onnxruntime_cpp2py_export.get_default_session_options = lambda: options

    model = onnx.load(path)
    for name, dtype in zip((inner or [])[::2], (inner or [])[1::2], strict=True):
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return HB_ONNXRuntime(onnx_model=model, input_batch=1)


def describe(session: HB_ONNXRuntime) -> list[dict[str, object]]:
    """Run once on a grey picture: inner values do not state their shapes."""
    _, height, width, _ = session.input_shapes[0]
    grey = np.full(height * width * 3 // 2, 128, np.uint8).tobytes()
    results = session.run(session.output_names, {session.input_names[0]: nv12_to_input(grey, height, width)})
    return [
        {"name": name, "shape": list(result.shape), "dtype": str(result.dtype)}
        for name, result in zip(session.output_names, results, strict=True)
    ]


def main() -> int:
    """Serve pictures until the parent closes the pipe."""
    # The vendor's libraries print; keep the protocol on its own descriptor.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        session = open_session(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
        name = session.input_names[0]
        _, height, width, channels = session.input_shapes[0]
        if channels != 3:
            raise ValueError(f"the input is {session.input_shapes[0]}")  # noqa: TRY301
        outputs = describe(session)
    except Exception as error:
        channel.write(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        channel.flush()
        return 1
    hello = {"input": name, "height": int(height), "width": int(width), "outputs": outputs}
    channel.write(json.dumps(hello).encode() + b"\n")
    channel.flush()
    size = height * width * 3 // 2
    while True:
        data = sys.stdin.buffer.read(size)
        if len(data) < size:
            return 0 if not data else 1
        for result in session.run(session.output_names, {name: nv12_to_input(data, height, width)}):
            channel.write(np.ascontiguousarray(result).tobytes())
        channel.flush()


if __name__ == "__main__":
    sys.exit(main())
