"""The round stage: round weights to the compiler's int8 steps so that their errors cancel out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from edge.errors import ModelFileError, counted
from edge.graph.files import copied, image_input, load_onnx, open_exposed
from edge.graph.view import View
from edge.images.preprocess import calibration_input
from edge.progress import Reporter, Silent
from edge.specs import Preprocess, Rounding

if TYPE_CHECKING:
    import onnx

TOP = 127  # the compiler's int8 weights lie in -127..127, its step is the largest magnitude of a row / 127
BLOCK = 128  # columns whose effect on the others is added up before it is applied; results do not depend on it
POSITIONS = 512  # of a layer's output, taken from each image; neighbouring positions are much alike
MEMORY = 400e6  # bytes of moments that are gathered in one pass over the images
# Operators that a factor of a channel passes through on its way to a layer.
_PASSING = ("Add", "Sub", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_FACTORS = ("Mul", "Div", "BatchNormalization")

Matrix = NDArray[np.float64]
Moments = dict[str, NDArray[np.float64]]


def compensated(weights: Matrix, moments: Matrix, damping: float) -> Matrix:
    """Return the weights rounded to the compiler's steps, errors compensated.

    The largest weight of each row stays as it is: the compiler derives the row's step from it, and so arrives at the
    integers chosen here.

    Args:
        weights: (rows, columns), one row per output channel.
        moments: (columns, columns), the mean of x xᵀ over inputs x of the layer.
        damping: share of the mean squared input that is added to the diagonal, above 0; limits the effect of
            rare inputs.

    Returns:
        float64, (rows, columns): whole multiples of each row's step. A row of zeros stays.
    """
    rows, columns = weights.shape
    largest = np.abs(weights).argmax(axis=1)
    step = np.abs(weights[np.arange(rows), largest]) / TOP
    step = np.where(step > 0, step, 1.0)
    curvature = moments + damping * max(float(np.mean(np.diag(moments))), 1e-12) * np.eye(columns)
    # All later columns can compensate an early error, so the most important inputs come first.
    order = np.argsort(-np.diag(curvature), kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(curvature[np.ix_(order, order)])).T
    work = weights[:, order].astype(np.float64)
    place = np.argsort(order, kind="stable")[largest]  # of each row's largest weight
    pinned = np.sign(weights[np.arange(rows), largest])
    rounded = np.zeros_like(work)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = np.zeros((rows, stop - start))
        for column in range(start, stop):
            integers = np.clip(np.rint(work[:, column] / step), -TOP, TOP)
            integers = np.where(place == column, pinned * TOP, integers)
            rounded[:, column] = integers * step
            error = (work[:, column] - rounded[:, column]) / upper[column, column]
            errors[:, column - start] = error
            work[:, column + 1 : stop] -= np.outer(error, upper[column, column + 1 : stop])
        work[:, stop:] -= errors @ upper[start:stop, stop:]
    result = np.empty_like(rounded)
    result[:, order] = rounded
    return result


def nearest(weights: Matrix) -> Matrix:
    """Return the weights as the compiler itself rounds them: each to the nearest step of its row."""
    step = np.abs(weights).max(axis=1, keepdims=True) / TOP
    step = np.where(step > 0, step, 1.0)
    result: Matrix = np.clip(np.rint(weights / step), -TOP, TOP) * step
    return result


def output_error(difference: Matrix, moments: Matrix) -> float:
    """Return the mean squared error of a layer's outputs caused by a difference of its weights."""
    return float(np.einsum("ri,ij,rj->", difference, moments, difference, optimize=True))


@frozen
class LinearLayer:
    """A convolution or a fully connected layer."""

    name: str  #: of its node.
    input: str  #: name of the tensor that it reads.
    weight: str  #: name of its constant, float32.
    shape: tuple[int, int, int, int]  #: of the weight as (output channels, input channels / groups, height, width).
    groups: int = 1  #: of the convolution.
    strides: tuple[int, int] = (1, 1)  #: vertical, horizontal.
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  #: top, left, bottom, right.
    dilations: tuple[int, int] = (1, 1)  #: vertical, horizontal.
    transposed: bool = False  #: whether the constant holds (inputs, outputs), as a MatMul's and a Gemm's may.

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

    def inputs(self, tensor: NDArray[np.float32], most: int, random: np.random.Generator) -> NDArray[np.float64]:
        """Return the layer's inputs at each output position, as (groups, columns, positions).

        Args:
            tensor: the layer's input for one image: (1, channels, height, width), or (..., channels).
            most: positions to take; a random choice if there are more.
        """
        if tensor.ndim != 4 or self.transposed:
            rows = tensor.reshape(-1, self.columns)
            patches = rows[_drawn(len(rows), most, random)].T
        else:
            patches = self._patches(tensor[0], most, random)
        return patches.astype(np.float64).reshape(self.groups, self.columns, -1)

    def _patches(self, image: NDArray[np.float32], most: int, random: np.random.Generator) -> NDArray[np.float32]:
        top, left, bottom, right = self.pads
        padded = np.pad(image, ((0, 0), (top, bottom), (left, right)))
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
        # Copy the chosen positions only.
        ys, xs = np.divmod(_drawn(out_h * out_w, most, random), out_w)
        return view[..., ys, xs].reshape(channels * kernel_h * kernel_w, -1)


def _drawn(count: int, most: int, random: np.random.Generator) -> NDArray[np.int64]:
    return random.choice(count, most, replace=False) if count > most else np.arange(count)


def find_layers(model: onnx.ModelProto) -> tuple[list[LinearLayer], list[str]]:
    """Return the layers that can be rounded, in graph order, and the names of those that can't.

    A layer whose input was just multiplied channel by channel (a LayerNorm's gain) is left out: the compiler moves
    such factors into the weights and then rounds other numbers. A factor behind a layer is harmless, since it scales
    whole rows and their steps alike.
    """
    view = View(model)
    found: list[LinearLayer] = []
    left: list[str] = []
    for node in view.nodes:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
            continue
        tensor = view.initializers.get(node.input[1])
        if tensor is None:
            continue  # a product of two computed tensors has no weights
        layer = _layer(node, tuple(tensor.dims))
        if layer is None or len(view.readers(tensor.name)) != 1 or _scaled(view, node.input[0]):
            left.append(node.name)
        else:
            found.append(layer)
    return found, left


def _layer(node: onnx.NodeProto, shape: tuple[int, ...]) -> LinearLayer | None:
    import onnx

    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        if len(shape) != 4 or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            return None
        return LinearLayer(
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
    return LinearLayer(node.name, node.input[0], node.input[1], (outputs, inputs, 1, 1), transposed=transposed)


def _scaled(view: View, name: str) -> bool:
    """Say whether a tensor is a product with one constant per channel."""
    while (node := view.producer(name)) is not None:
        fixed = [entry for entry in node.input if entry in view.initializers]
        if node.op_type in _FACTORS:
            return any(int(np.prod(view.initializers[entry].dims)) > 1 for entry in fixed)
        if node.op_type not in _PASSING or (len(node.input) > 1 and not fixed):
            return False
        name = next((entry for entry in node.input if entry not in fixed), "")
    return False


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(value) for value in values)
    return first, second


def _four(values: Any) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(value) for value in values)
    return top, left, bottom, right


@frozen
class RoundedLayer:
    """A layer whose weights were rounded."""

    name: str  #: of its node.
    #: mean squared error of its outputs, relative to their power, with each weight rounded to the nearest step, as the
    #: compiler does by itself.
    nearest: float
    compensated: float  #: the same with the weights as they are now.
    moved: float  #: share of the weights that are not at their nearest step, 0..1.


@frozen
class RoundResult:
    """A float ONNX whose weights lie on the compiler's int8 steps."""

    onnx: str  #: file name.
    layers: tuple[RoundedLayer, ...]  #: in graph order.
    left: tuple[str, ...]  #: names of layers that were left as they are: the compiler changes their weights itself.
    images: int  #: number of calibration images used.
    error_kept: float  #: geometric mean over the layers of compensated / nearest error, 0..1.


def round_weights(
    *,
    model: Path,
    calibration: Sequence[Path],
    preprocess: Preprocess,
    rounding: Rounding,
    seed: int,
    out: Path,
    name: str,
    reporter: Reporter | None = None,
) -> RoundResult:
    """Round the weights of a BPU-ready ONNX; graph, names and shapes stay.

    Args:
        calibration: raw float32 files of :func:`edge.images.calibrate.calibrate`; the first
            ``rounding.images`` of them are looked at, behind NV12.
        preprocess: of the network.

    Raises:
        ModelFileError: no layer can be rounded.
        CalibrationError: a calibration file is of another size.
    """
    import onnx
    from onnx import numpy_helper

    reporter = reporter or Silent()
    source = load_onnx(model)
    layers, left = find_layers(source)
    if not layers:
        raise ModelFileError(
            f"{model.name} has no layer whose weights can be rounded",
            expected="a Conv, Gemm or MatMul with constant weights",
            remedy="use a recipe without 'rounding'",
        )
    files = list(calibration)[: rounding.images]
    graph = copied(source)
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    rounded: list[RoundedLayer] = []
    for part in _parts(layers):
        moments = _moments(source, part, files, preprocess, seed, reporter)
        for layer in part:
            reporter.update(f"round {layer.name}", len(rounded) / len(layers))
            tensor = constants[layer.weight]
            data = numpy_helper.to_array(tensor)
            result, about = _round(layer, data, moments[layer.name], rounding.damping)
            rounded.append(about)
            tensor.CopyFrom(numpy_helper.from_array(result, tensor.name))
    onnx.save(graph, out / f"{name}.onnx")
    ratios = [max(layer.compensated, 1e-30) / layer.nearest for layer in rounded if layer.nearest > 0]
    return RoundResult(
        onnx=f"{name}.onnx",
        layers=tuple(rounded),
        left=tuple(left),
        images=len(files),
        error_kept=float(np.exp(np.mean(np.log(ratios)))) if ratios else 1.0,
    )


def _round(
    layer: LinearLayer, data: NDArray[np.float32], moments: NDArray[np.float64], damping: float
) -> tuple[NDArray[np.float32], RoundedLayer]:
    """Return the rounded constant; nearest steps if compensation is not better on these inputs."""
    matrices = layer.matrices(data)
    result = np.empty_like(matrices)
    power = before = after = 0.0
    for group, (weights, own) in enumerate(zip(matrices, moments, strict=True)):
        plain, better = nearest(weights), compensated(weights, own, damping)
        errors = [output_error(weights - choice, own) for choice in (plain, better)]
        result[group] = better if errors[1] < errors[0] else plain
        power += output_error(weights, own)
        before += errors[0]
        after += min(errors)
    moved = float(np.mean(np.abs(result - np.stack([nearest(w) for w in matrices])) > 1e-12))
    scale = power or 1.0
    return layer.constant(result, data), RoundedLayer(layer.name, before / scale, after / scale, moved)


def _parts(layers: Sequence[LinearLayer]) -> Iterator[list[LinearLayer]]:
    """Yield groups of layers whose moments fit in memory together."""
    part: list[LinearLayer] = []
    held = 0.0
    for layer in layers:
        size = 8.0 * layer.groups * layer.columns**2
        if part and held + size > MEMORY:
            yield part
            part, held = [], 0.0
        part.append(layer)
        held += size
    yield part


def _moments(
    graph: onnx.ModelProto,
    layers: Sequence[LinearLayer],
    files: Sequence[Path],
    preprocess: Preprocess,
    seed: int,
    reporter: Reporter,
) -> Moments:
    """Return the mean of x xᵀ over each layer's inputs x in the float network: (groups, columns, columns)."""
    image, _ = image_input(graph)
    names = [name for name in dict.fromkeys(layer.input for layer in layers) if name != image]
    session = open_exposed(graph, names)
    random = np.random.default_rng(seed)
    sums: Moments = {layer.name: np.zeros((layer.groups, layer.columns, layer.columns)) for layer in layers}
    counts = dict.fromkeys(sums, 0)
    for done, file in enumerate(files, start=1):
        data = calibration_input(file, preprocess)
        tensors = dict(zip(names, session.run(names, {image: data}), strict=True)) if names else {}
        tensors[image] = data
        for layer in layers:
            seen = layer.inputs(tensors[layer.input], POSITIONS, random)
            sums[layer.name] += seen @ seen.transpose(0, 2, 1)
            counts[layer.name] += seen.shape[2]
        reporter.update(f"look at {done} of {counted(len(files), 'image')}", done / len(files))
    return {name: total / counts[name] for name, total in sums.items()}
