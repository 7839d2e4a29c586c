"""Run the compiler's ONNX, quantized or float, one NV12 image at a time, for a parent process.

Runs in the compiler's own Python; never imported by edge. Protocol, on stdin and stdout:

1. This side writes one JSON line: ``{"input": NAME, "height": H, "width": W, "outputs": [{"name", "shape",
   "dtype"}]}``, or ``{"error": "..."}`` and exits with 1.
2. The parent writes exactly H*W*3/2 bytes: packed full-range NV12. This side answers with the bytes of each
   output, one after the other, in C order.
3. At the end of its input this side exits with 0.

Usage: quantized.py MODEL.onnx THREADS [NAME DTYPE ...]

MODEL is a ``*_quantized_model.onnx`` (int8 input) or one of the float models before it, such as
``*_calibrated_model.onnx`` (float32 input).

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

FLOAT = 1  # onnx.TensorProto.FLOAT


class ImageInput:
    """How the model takes its image: size, order of the axes, type.

    Raises:
        ValueError: its input is not one image of three channels.
    """

    def __init__(self, session: HB_ONNXRuntime) -> None:
        shape = session.input_shapes[0]
        if len(session.input_names) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise ValueError(f"the inputs are {session.input_shapes}")
        self.name = session.input_names[0]
        self.channels_first = shape[1] == 3
        self.height, self.width = (int(side) for side in (shape[2:] if self.channels_first else shape[1:3]))
        self.is_float = session.get_input_type() == FLOAT
        operators = {node.op_type for node in session.model.graph.node}
        if self.is_float and "HzPreprocess" not in operators:
            raise ValueError("a float model without HzPreprocess does not take YUV444")

    def from_nv12(self, data: bytes) -> np.ndarray:
        """Return the input: each chroma sample repeated over its 2x2 block.

        int8 is YUV444 minus 128. float32 is YUV444 in 0..255: the vendor's runtime itself subtracts 128.
        """
        plane = np.frombuffer(data, np.uint8)
        luma = plane[: self.height * self.width].reshape(self.height, self.width)
        chroma = plane[self.height * self.width :].reshape(self.height // 2, self.width // 2, 2)
        chroma = chroma.repeat(2, axis=0).repeat(2, axis=1)
        yuv = np.concatenate([luma[:, :, None], chroma], axis=2)
        yuv = yuv.astype(np.float32) if self.is_float else (yuv ^ 0x80).view(np.int8)
        return np.ascontiguousarray(yuv.transpose(2, 0, 1) if self.channels_first else yuv)[None]


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


def describe(session: HB_ONNXRuntime, image: ImageInput) -> list[dict[str, object]]:
    """Run once on a grey image: inner values do not state their shapes."""
    grey = np.full(image.height * image.width * 3 // 2, 128, np.uint8).tobytes()
    results = session.run(session.output_names, {image.name: image.from_nv12(grey)})
    return [
        {"name": name, "shape": list(result.shape), "dtype": str(result.dtype)}
        for name, result in zip(session.output_names, results, strict=True)
    ]


def main() -> int:
    """Serve images until the parent closes the pipe."""
    # The vendor's libraries print; keep the protocol on its own descriptor.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        session = open_session(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
        image = ImageInput(session)
        outputs = describe(session, image)
    except Exception as error:
        channel.write(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        channel.flush()
        return 1
    hello = {"input": image.name, "height": image.height, "width": image.width, "outputs": outputs}
    channel.write(json.dumps(hello).encode() + b"\n")
    channel.flush()
    size = image.height * image.width * 3 // 2
    while True:
        data = sys.stdin.buffer.read(size)
        if len(data) < size:
            return 0 if not data else 1
        for result in session.run(session.output_names, {image.name: image.from_nv12(data)}):
            channel.write(np.ascontiguousarray(result).tobytes())
        channel.flush()


if __name__ == "__main__":
    sys.exit(main())
