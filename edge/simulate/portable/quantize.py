"""Quantize with onnxruntime alone, for machines that can't run the vendor's compiler.

The result is a standard ONNX with QuantizeLinear and DequantizeLinear that takes NV12, as the translated models do. It
shows how well a network tolerates 8 bits, not what the board will answer, and it is never called ``.bin``.

Weights are symmetric per output channel and activations are per tensor. Both are *stored* as uint8, weights with zero
point 128. With int8 weights, onnxruntime's kernels on x86 CPUs with AVX2 but without VNNI add pairs of products in 16
bits and saturate: MobileNetV1 then agreed with the float network on 65 % of images. With uint8 weights it agreed on
91 %, the same as with float arithmetic.
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from edge.errors import CalibrationError, CompileError
from edge.files import sha256_of
from edge.graph.files import facts, load_onnx, opset_of, session
from edge.images.preprocess import Tensor, calibration_image, calibration_input, rgb_to_nv12
from edge.progress import SILENT, Reporter
from edge.simulate.portable import nv12
from edge.specs import Preprocess

if TYPE_CHECKING:
    import onnx

STAGE = "portable quantization"
OPSET = 13  # the first whose DequantizeLinear takes scales per channel
# Operators that run on integers. Additions, products and normalizations stay float: in ConvNeXt they belong to
# GELU and LayerNorm, where 8 bits cost more than they save.
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FOLLOWING = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool")
MOVING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
QDQ = ("QuantizeLinear", "DequantizeLinear")


@frozen
class PortableResult:
    """A network of 8-bit integers in standard ONNX: the file ``<prefix>_portable_int8.onnx`` and how it was made.

    ``quantized`` nodes compute on integers, ``floating`` ones stay in float32.
    """

    onnx: str
    bytes: int
    sha256: str
    seconds: float
    quantized: int
    floating: int
    images: int


def quantize(
    *, model: Path, calibration: Path, preprocess: Preprocess, prefix: str, out: Path, reporter: Reporter = SILENT
) -> PortableResult:
    """Quantize a float network with one static image input; the same inputs give the same bytes.

    ``calibration`` is a folder of raw float32 files, 0..255 in the network's colour order and layout, as the vendor's
    compiler takes them. They go through NV12 first, as on the board, one at a time.

    Raises:
        CalibrationError: no images, or one of a wrong size or range.
        ModelFileError: the model can't be read.
        CompileError: onnxruntime can't quantize it, or can't run the result.
    """
    import onnx

    started = time.monotonic()
    files = sorted(path for path in calibration.iterdir() if path.is_file()) if calibration.is_dir() else []
    if not files:
        raise CalibrationError(
            f"{calibration} holds no calibration images",
            expected="raw float32 files, one per image",
            remedy="edge calibrate",
        )
    source = load_onnx(model)
    name = facts(source, model.name).input_name
    target = out / f"{prefix}_portable_int8.onnx"
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=".quantize-") as folder:
            _quantize(source, _Images(files, name, preprocess, reporter), target, Path(folder))
        network = load_onnx(target)
        integers, floats = _count(network)
        onnx.save(nv12.put_before(network, preprocess), target)
        reporter.update("run it once in onnxruntime")
        _prove(target, {nv12.INPUT: rgb_to_nv12(calibration_image(files[0], preprocess))})
    except (CalibrationError, OSError):  # the workspace explains a full disk
        raise
    except Exception as error:  # onnx's and onnxruntime's own errors share no base
        cause = " ".join(str(error).split())[:300] or type(error).__name__
        raise CompileError(
            STAGE, cause, remedy="use the vendor's compiler: edge toolchain install, then --compiler managed"
        ) from error
    return PortableResult(
        onnx=target.name,
        bytes=target.stat().st_size,
        sha256=sha256_of(target),
        seconds=time.monotonic() - started,
        quantized=integers,
        floating=floats,
        images=len(files),
    )


class _Images:
    """Feeds calibration files one at a time; onnxruntime asks for ``get_next``."""

    def __init__(self, files: list[Path], name: str, preprocess: Preprocess, reporter: Reporter) -> None:
        self._files, self._name, self._preprocess, self._reporter = files, name, preprocess, reporter
        self._next = 0

    def get_next(self) -> dict[str, Tensor] | None:
        """Return the next input by name; None at the end."""
        if self._next == len(self._files):
            self._reporter.update("quantize")
            return None
        file = self._files[self._next]
        self._next += 1
        self._reporter.update(f"calibrate {self._next} of {len(self._files)}", self._next / len(self._files))
        return {self._name: calibration_input(file, self._preprocess)}


def _quantize(source: onnx.ModelProto, images: _Images, target: Path, scratch: Path) -> None:
    import onnx
    from onnx import version_converter
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if opset_of(source) < OPSET:
        source = version_converter.convert_version(source, OPSET)
    plain, prepared = scratch / "plain.onnx", scratch / "prepared.onnx"
    onnx.save(source, plain)
    # Shapes are static, so symbolic inference, which needs sympy, would add nothing.
    quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    silent = logging.Filter("nobody")  # it logs a line for each bias that it widens, to the root logger
    logging.root.addFilter(silent)
    try:
        quantize_static(
            str(prepared),
            str(target),
            images,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*LINEAR, *FOLLOWING, *MOVING],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"WeightSymmetric": True},
        )
    finally:
        logging.root.removeFilter(silent)  # the own one: another thread may be at the same


def _prove(target: Path, feed: dict[str, Any]) -> None:
    """Fail unless stock onnxruntime loads the file and gives finite outputs."""
    if not all(np.isfinite(output).all() for output in session(str(target)).run(None, feed)):
        raise ValueError("the quantized network gives outputs that are not finite")


def _count(model: onnx.ModelProto) -> tuple[int, int]:
    """Return how many nodes take integers and how many take floats."""
    graph = model.graph
    restored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    working = [node for node in graph.node if node.op_type not in QDQ]
    integers = sum(node.op_type in (*LINEAR, *FOLLOWING, *MOVING) and node.input[0] in restored for node in working)
    return integers, len(working) - integers
