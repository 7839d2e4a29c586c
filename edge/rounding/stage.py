"""The round stage: weights on the compiler's int8 steps, chosen so that their errors cancel out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.errors import ModelFileError
from edge.graph import image_input, load_onnx, open_exposed
from edge.preprocess import calibration_picture, network_input_from_nv12, rgb_to_nv12
from edge.progress import Reporter, Silent
from edge.rounding.compensate import compensated, nearest, output_error
from edge.rounding.layers import Layer, find_layers
from edge.specs import Preprocess, Rounding

if TYPE_CHECKING:
    import onnx

POSITIONS = 512  # taken of a layer's output on each picture; neighbours are much alike
MEMORY = 400e6  # bytes of moments that are gathered in one pass over the pictures

Moments = dict[str, NDArray[np.float64]]


@frozen
class RoundedLayer:
    """A layer whose weights were rounded.

    Attributes:
        name: of its node.
        nearest: mean squared error of its outputs, relative to their power, with each weight rounded to the
            nearest step, as the compiler does by itself.
        compensated: the same with the weights as they are now.
        moved: share of the weights that are not at their nearest step, 0..1.
    """

    name: str
    nearest: float
    compensated: float
    moved: float


@frozen
class RoundResult:
    """A float ONNX whose weights lie on the compiler's int8 steps.

    Attributes:
        onnx: file name.
        layers: in graph order.
        left: names of layers that were left as they are: the compiler changes their weights by itself.
        pictures: calibration pictures that were looked at.
        error_kept: geometric mean over the layers of compensated / nearest error, 0..1.
    """

    onnx: str
    layers: tuple[RoundedLayer, ...]
    left: tuple[str, ...]
    pictures: int
    error_kept: float


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
        model: the simplified ONNX.
        calibration: raw float32 files of :func:`edge.calibrate.calibrate`; the first ``rounding.pictures``
            of them are looked at, behind NV12.
        preprocess: of the network.
        rounding: how.
        seed: of the positions that are looked at.
        out: existing folder for the result.
        name: of the result, without its ending.
        reporter: told of progress.

    Raises:
        ModelFileError: no layer can be rounded, or a layer's outputs would get worse.
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
            allowed="a Conv, Gemm or MatMul with constant weights",
            remedy="take a recipe without 'rounding'",
        )
    files = list(calibration)[: rounding.pictures]
    graph = onnx.ModelProto()
    graph.CopyFrom(source)
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
        pictures=len(files),
        error_kept=float(np.exp(np.mean(np.log(ratios)))) if ratios else 1.0,
    )


def _round(
    layer: Layer, data: NDArray[np.float32], moments: NDArray[np.float64], damping: float
) -> tuple[NDArray[np.float32], RoundedLayer]:
    """Return the rounded constant; nearest steps where compensation does no better on these inputs."""
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


def _parts(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """Yield layers, so many at once that their moments fit in memory."""
    part: list[Layer] = []
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
    layers: Sequence[Layer],
    files: Sequence[Path],
    preprocess: Preprocess,
    seed: int,
    reporter: Reporter,
) -> Moments:
    """Return the mean of x xᵀ over each layer's inputs x in the float network: (groups, columns, columns)."""
    picture, _ = image_input(graph)
    names = [name for name in dict.fromkeys(layer.input for layer in layers) if name != picture]
    session = open_exposed(graph, names)
    random = np.random.default_rng(seed)
    sums: Moments = {layer.name: np.zeros((layer.groups, layer.columns, layer.columns)) for layer in layers}
    counts = dict.fromkeys(sums, 0)
    for done, file in enumerate(files, start=1):
        rgb = calibration_picture(file, preprocess)
        data = network_input_from_nv12(rgb_to_nv12(rgb), preprocess)
        tensors = dict(zip(names, session.run(names, {picture: data}), strict=True)) if names else {}
        tensors[picture] = data
        for layer in layers:
            seen = layer.inputs(tensors[layer.input], POSITIONS, random)
            sums[layer.name] += seen @ seen.transpose(0, 2, 1)
            counts[layer.name] += seen.shape[2]
        reporter.update(f"look at {done} of {len(files)} pictures", done / len(files))
    return {name: total / counts[name] for name, total in sums.items()}
