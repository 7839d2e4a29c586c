"""Keep the demo network small: float32 weights stored as float16.

Only initializers change their type; the graph stays as exported, and `unpack` restores a plain float32 model.
A packed file is for storage, not for a runtime: its graph expects float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import ModelFileError

if TYPE_CHECKING:
    import onnx


def pack(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose float32 initializers are rounded to float16.

    Raises:
        ModelFileError: a weight is outside float16's range, +-65504.
    """
    return _cast(model, np.dtype(np.float32), np.dtype(np.float16))


def unpack(path: Path) -> onnx.ModelProto:
    """Read a packed ONNX file and return it with float32 weights, checked.

    Args:
        path: a file that `pack` made, such as ``edge/zoo/demo/ConvNeXt_atto_demo.onnx``. A file with float32
            weights is returned unchanged.

    Returns:
        A model that passes ``onnx.checker`` and runs in plain onnxruntime.

    Raises:
        ModelFileError: it can't be read or is not a valid ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        packed = onnx.load(path)
        model = _cast(packed, np.dtype(np.float16), np.dtype(np.float32))
        onnx.checker.check_model(model, full_check=True)
    except OSError as error:
        raise ModelFileError(
            f"{path} can't be read: {error.strerror or error}", remedy="check the path and its permissions"
        ) from error
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise ModelFileError(
            f"{path} is not a complete ONNX model: {reason}", remedy="reinstall edge, or fetch the file again"
        ) from error
    return model


def _cast(model: onnx.ModelProto, source: np.dtype[np.generic], to: np.dtype[np.generic]) -> onnx.ModelProto:
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != source:
            continue
        with np.errstate(over="ignore"):
            cast = values.astype(to)
        if np.isfinite(values).all() and not np.isfinite(cast).all():
            raise ModelFileError(
                f"the weight {tensor.name} reaches {abs(values).max():g}", expected="+-65504, float16's range"
            )
        tensor.CopyFrom(numpy_helper.from_array(cast, tensor.name))
    return result
