"""Run the compiler's ONNX, quantized or float, one frame at a time, for a parent process.

Runs in the compiler's own Python; never imported by edge. Protocol, on stdin and stdout:

1. This side writes one JSON line: ``{"input": NAME, "height": H, "width": W, "inputs": [{"name", "shape", "image"}],
   "outputs": [{"name", "shape", "dtype"}]}``, or ``{"error": "..."}`` and exits with 1. ``input``, H and W are of
   the first image; 0 where there is none.
2. The parent writes the bytes of each input, one after the other: of an image packed full-range NV12, H*W*3/2 bytes; of
   another input float32 of its shape. This side answers with the bytes of each output, likewise, in C order.
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
    from collections.abc import Callable

    from horizon_tc_ui import HB_ONNXRuntime

FLOAT = 1  # onnx.TensorProto.FLOAT


class MapInput:
    """An input of numbers, which the model takes as they are."""

    image = False

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape
        self.bytes = 4 * int(np.prod(shape))

    def value(self, data: bytes) -> np.ndarray:
        """Return the input."""
        return np.frombuffer(data, np.float32).reshape(self.shape)

    def example(self) -> bytes:
        """Return zeros."""
        return bytes(self.bytes)


class ImageInput:
    """How the model takes an image: size, order of the axes, type.

    Raises:
        ValueError: it is no image of three channels.
    """

    image = True

    def __init__(self, name: str, shape: tuple[int, ...], *, is_float: bool) -> None:
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise ValueError(f"the input {name} is {shape}")
        self.name, self.shape = name, shape
        self.channels_first = shape[1] == 3
        self.height, self.width = (int(side) for side in (shape[2:] if self.channels_first else shape[1:3]))
        self.is_float = is_float
        self.centred = False
        self.bytes = self.height * self.width * 3 // 2

    def value(self, data: bytes) -> np.ndarray:
        """Return the input; see :meth:`from_nv12`."""
        return self.from_nv12(data) - np.float32(128) if self.centred else self.from_nv12(data)

    def example(self) -> bytes:
        """Return a grey image."""
        return np.full(self.bytes, 128, np.uint8).tobytes()

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


def inputs_of(session: HB_ONNXRuntime) -> list[ImageInput | MapInput]:
    """Return the model's inputs: images are int8, or read by the node that makes RGB of YUV444."""
    # Before that node the calibrated model rounds the image to the steps of its scale.
    origin = {value.name: value.name for value in session.model.graph.input}
    preprocessed = set()
    for node in session.model.graph.node:
        if node.input and node.input[0] in origin:
            if node.op_type == "HzPreprocess":
                preprocessed.add(origin[node.input[0]])
            origin.update(dict.fromkeys(node.output, origin[node.input[0]]))
    types = {value.name: value.type.tensor_type.elem_type for value in session.model.graph.input}
    found: list[ImageInput | MapInput] = []
    for name, shape in zip(session.input_names, session.input_shapes, strict=True):
        sides = tuple(int(side) for side in shape)
        is_float = types[name] == FLOAT
        if is_float and name not in preprocessed:
            found.append(MapInput(name, sides))
        else:
            found.append(ImageInput(name, sides, is_float=is_float))
    return found


def runner(session: HB_ONNXRuntime, inputs: list[ImageInput | MapInput]) -> Callable[..., list[np.ndarray]]:
    """Return what runs the model. Its usual way takes 128 off every float input, of whatever meaning."""
    images = [one for one in inputs if isinstance(one, ImageInput) and one.is_float]
    if not images or len(images) == len(inputs):
        return session.run
    for one in images:
        one.centred = True
    return session.run_direct


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


def describe(
    session: HB_ONNXRuntime, inputs: list[ImageInput | MapInput], run: Callable[..., list[np.ndarray]]
) -> list[dict[str, object]]:
    """Run once on a grey image, and zeros: inner values do not state their shapes."""
    results = run(session.output_names, {one.name: one.value(one.example()) for one in inputs})
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
        inputs = inputs_of(session)
        run = runner(session, inputs)
        outputs = describe(session, inputs, run)
    except Exception as error:
        channel.write(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        channel.flush()
        return 1
    images = [one for one in inputs if isinstance(one, ImageInput)]
    first = (images[0].name, images[0].height, images[0].width) if images else (inputs[0].name, 0, 0)
    hello = {
        **dict(zip(("input", "height", "width"), first, strict=True)),
        "inputs": [{"name": one.name, "shape": list(one.shape), "image": one.image} for one in inputs],
        "outputs": outputs,
    }
    channel.write(json.dumps(hello).encode() + b"\n")
    channel.flush()
    while True:
        feed = {}
        for place, one in enumerate(inputs):
            data = sys.stdin.buffer.read(one.bytes)
            if len(data) < one.bytes:
                return 0 if not data and not place else 1
            feed[one.name] = one.value(data)
        for result in run(session.output_names, feed):
            channel.write(np.ascontiguousarray(result).tobytes())
        channel.flush()


if __name__ == "__main__":
    sys.exit(main())
