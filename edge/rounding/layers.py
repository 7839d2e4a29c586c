"""The layers of a float ONNX whose weights can be rounded, and their inputs as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

# Between a factor and a layer, these change nothing of where the factor ends up.
_PASSING = ("Identity", "Add", "Sub", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_FACTORS = ("Mul", "Div", "BatchNormalization")


@frozen
class Layer:
    """A convolution or a fully connected layer.

    Attributes:
        name: of its node.
        input: name of the tensor that it reads.
        weight: name of its constant, float32.
        shape: of the weight as (output channels, input channels / groups, height, width).
        groups: of the convolution.
        strides: vertical, horizontal.
        pads: top, left, bottom, right.
        dilations: vertical, horizontal.
        transposed: whether the constant holds (inputs, outputs), as a MatMul's and a Gemm's may.
    """

    name: str
    input: str
    weight: str
    shape: tuple[int, int, int, int]
    groups: int = 1
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    transposed: bool = False

    @property
    def columns(self) -> int:
        """Inputs of one output of one group."""
        return self.shape[1] * self.shape[2] * self.shape[3]

    def matrices(self, data: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the constant as (groups, rows, columns)."""
        rows = (data.T if self.transposed else data).astype(np.float64)
        return rows.reshape(self.groups, self.shape[0] // self.groups, self.columns)

    def constant(self, matrices: NDArray[np.float64], like: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return matrices as the constant; the inverse of :meth:`matrices`."""
        flat = matrices.reshape(self.shape[0], -1)
        data = flat.T if self.transposed else flat
        return np.ascontiguousarray(data.reshape(like.shape), np.float32)

    def inputs(
        self, tensor: NDArray[np.float32], most: int, random: np.random.Generator
    ) -> NDArray[np.float64]:
        """Return what the outputs see, as (groups, columns, positions).

        Args:
            tensor: the layer's input for one picture: (1, channels, height, width), or (..., channels).
            most: positions to take; drawn where there are more.
            random: draws them.
        """
        if tensor.ndim != 4 or self.transposed:
            rows = tensor.reshape(-1, self.columns)
            patches = rows[_drawn(len(rows), most, random)].T
        else:
            patches = self._patches(tensor[0], most, random)
        return patches.astype(np.float64).reshape(self.groups, self.columns, -1)

    def _patches(
        self, picture: NDArray[np.float32], most: int, random: np.random.Generator
    ) -> NDArray[np.float32]:
        top, left, bottom, right = self.pads
        padded = np.pad(picture, ((0, 0), (top, bottom), (left, right)))
        (kernel_h, kernel_w), (step_h, step_w), (gap_h, gap_w) = self.shape[2:], self.strides, self.dilations
        channels, height, width = padded.shape
        out_h = (height - gap_h * (kernel_h - 1) - 1) // step_h + 1
        out_w = (width - gap_w * (kernel_w - 1) - 1) // step_w + 1
        c, h, w = padded.strides
        view = as_strided(
            padded,
            (channels, kernel_h, kernel_w, out_h, out_w),
            (c, gap_h * h, gap_w * w, step_h * h, step_w * w),
            writeable=False,
        )
        # Only what was drawn is copied.
        ys, xs = np.divmod(_drawn(out_h * out_w, most, random), out_w)
        return view[..., ys, xs].reshape(channels * kernel_h * kernel_w, -1)


def _drawn(count: int, most: int, random: np.random.Generator) -> NDArray[np.int64]:
    return random.choice(count, most, replace=False) if count > most else np.arange(count)


def find_layers(model: onnx.ModelProto) -> tuple[list[Layer], list[str]]:
    """Return the layers that can be rounded, in graph order, and the names of those that can't.

    A layer whose input was multiplied channel by channel just before (a LayerNorm's gain) is left out: the
    compiler moves such factors into the weights, and then rounds other numbers than stand here. A factor
    behind a layer is harmless, since it scales whole rows and their steps alike.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    found: list[Layer] = []
    left: list[str] = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
            continue
        tensor = constants.get(node.input[1])
        if tensor is None:
            continue  # a product of two computed tensors has no weights
        layer = _layer(node, tuple(numpy_helper.to_array(tensor).shape))
        if layer is None or uses[node.input[1]] != 1 or _scaled(node.input[0], made, constants):
            left.append(node.name)
        else:
            found.append(layer)
    return found, left


def _layer(node: onnx.NodeProto, shape: tuple[int, ...]) -> Layer | None:
    import onnx

    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        if len(shape) != 4 or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            return None
        return Layer(
            node.name,
            node.input[0],
            node.input[1],
            (shape[0], shape[1], shape[2], shape[3]),
            int(given.get("group", 1)),
            _pair(given.get("strides", (1, 1))),
            _four(given.get("pads", (0, 0, 0, 0))),
            _pair(given.get("dilations", (1, 1))),
        )
    plain = node.op_type == "MatMul" or (given.get("alpha", 1.0) == 1.0 and not given.get("transA", 0))
    if len(shape) != 2 or not plain:
        return None
    transposed = node.op_type == "MatMul" or not given.get("transB", 0)
    outputs, inputs = shape[::-1] if transposed else shape
    return Layer(node.name, node.input[0], node.input[1], (outputs, inputs, 1, 1), transposed=transposed)


def _scaled(name: str, made: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> bool:
    """Say whether a tensor comes out of a product with one constant a channel."""
    while (node := made.get(name)) is not None:
        fixed = [entry for entry in node.input if entry in constants]
        if node.op_type in _FACTORS:
            return any(int(np.prod(constants[entry].dims)) > 1 for entry in fixed)
        if node.op_type not in _PASSING or (len(node.input) > 1 and not fixed):
            return False
        name = next((entry for entry in node.input if entry not in constants), "")
    return False


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(value) for value in values)
    return first, second


def _four(values: Any) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(value) for value in values)
    return top, left, bottom, right
