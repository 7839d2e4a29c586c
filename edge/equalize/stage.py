"""The equalize stage: channels scaled so that int8 steps fit each, and proved to compute what they did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.equalize.pairs import Pair, find_pairs
from edge.equalize.scales import Ranges, factors, multiply
from edge.errors import ModelFileError
from edge.graph import image_input, load_onnx, open_exposed
from edge.preprocess import calibration_picture, network_input_from_nv12, rgb_to_nv12
from edge.progress import Reporter, Silent
from edge.simplify import guard
from edge.specs import Equalization, Preprocess

if TYPE_CHECKING:
    import onnx

GUARDED = 16  # calibration pictures on which the outputs are compared, besides noise
NOISE = 0.25  # of the range of pixels, around grey


@frozen
class EqualizedPair:
    """Two convolutions between which channels were scaled.

    Attributes:
        name: of both.
        median: factor of a channel.
        largest: factor.
    """

    name: str
    median: float
    largest: float


@frozen
class EqualizeResult:
    """A float ONNX that computes what it did, its channels in ranges that int8 steps serve well.

    Attributes:
        onnx: file name.
        pairs: in graph order.
        pictures: calibration pictures whose ranges were taken.
        max_abs_error: largest difference of an output from before, over calibration pictures and noise.
    """

    onnx: str
    pairs: tuple[EqualizedPair, ...]
    pictures: int
    max_abs_error: float


def equalize(
    *,
    model: Path,
    calibration: Sequence[Path],
    preprocess: Preprocess,
    equalization: Equalization,
    out: Path,
    name: str,
    reporter: Reporter | None = None,
) -> EqualizeResult:
    """Scale channels of a BPU-ready ONNX; graph, names, shapes and answers stay.

    Behind a Clip the answers stay as long as no channel goes beyond what it reached on the pictures that were
    looked at: there it is cut off, much as the int8 steps would.

    Args:
        model: the simplified ONNX.
        calibration: raw float32 files of :func:`edge.calibrate.calibrate`; the first
            ``equalization.pictures`` of them are looked at, behind NV12.
        preprocess: of the network.
        equalization: how.
        out: existing folder for the result.
        name: of the result, without its ending.
        reporter: told of progress.

    Raises:
        ModelFileError: there is no pair, or the outputs differ from what they were.
        CalibrationError: a calibration file is of another size.
    """
    import onnx
    from onnx import numpy_helper

    reporter = reporter or Silent()
    source = load_onnx(model)
    pairs = find_pairs(source)
    if not pairs:
        raise ModelFileError(
            f"{model.name} has no pair of convolutions to equalize",
            allowed="Conv, then Relu, LeakyRelu, Clip from 0, pools or nothing, then Conv",
            remedy="take a recipe without 'equalization'",
        )
    files = list(calibration)[: equalization.pictures]
    pictures = [
        network_input_from_nv12(rgb_to_nv12(calibration_picture(file, preprocess)), preprocess)
        for file in files
    ]
    # On noise as on pictures: a Clip must cut off neither's channels.
    before = guard.reference(source, model, _noise_range(preprocess), pictures[:GUARDED])
    inputs = [*pictures, *before.inputs[: len(guard.SEEDS)]]
    ranges = _ranges(source, pairs, inputs, reporter)

    changed = onnx.ModelProto()
    changed.CopyFrom(source)
    tensors = {tensor.name: tensor for tensor in changed.graph.initializer}
    touched = {
        constant
        for pair in pairs
        for layer in (pair.producer, pair.consumer)
        for constant in (layer.weight, layer.bias)
        if constant
    }
    constants = {key: np.array(numpy_helper.to_array(tensors[key])) for key in touched}
    scales: dict[str, Ranges] = {}
    for pair in pairs:
        by = factors(ranges[pair.tensor], pair.ceiling, depthwise=pair.consumer.depthwise)
        multiply(constants, pair, by)
        scales[pair.name] = by
    for key in touched:
        tensors[key].CopyFrom(numpy_helper.from_array(constants[key], key))

    reporter.update("compare the outputs", 0.9)
    try:
        error = guard.max_error(changed, before)
    except guard.Rejected as verdict:
        raise ModelFileError(
            f"{model.name} answers differently once equalized: {verdict}",
            allowed="the same outputs on calibration pictures and on noise",
            remedy="take a recipe without 'equalization', and report the model",
        ) from verdict
    onnx.save(changed, out / f"{name}.onnx")
    return EqualizeResult(
        onnx=f"{name}.onnx",
        pairs=tuple(EqualizedPair(key, float(np.median(by)), float(by.max())) for key, by in scales.items()),
        pictures=len(files),
        max_abs_error=error,
    )


def _noise_range(preprocess: Preprocess) -> tuple[float, float]:
    """Return the lowest and the highest value of the noise, as the network sees it.

    Ranges are taken of the noise too. Over all of 0..255 it would drive channels further than any picture
    does, and so leave pictures less of the steps.
    """
    ends = [
        (level - mean) / std
        for level in (127.5 * (1 - NOISE), 127.5 * (1 + NOISE))
        for mean, std in zip(preprocess.mean, preprocess.std, strict=True)
    ]
    return min(ends), max(ends)


def _ranges(
    model: onnx.ModelProto, pairs: Iterable[Pair], inputs: Sequence[NDArray[np.float32]], reporter: Reporter
) -> dict[str, Ranges]:
    """Return the largest magnitude of each channel between the pairs, (channels,)."""
    picture, _ = image_input(model)
    names = [pair.tensor for pair in pairs]
    session = open_exposed(model, names)
    found: dict[str, Ranges] = {}
    for done, data in enumerate(inputs, start=1):
        for name, value in zip(names, session.run(names, {picture: data}), strict=True):
            axes = (0, *range(2, value.ndim))
            now = np.abs(value).max(axis=axes).astype(np.float64)
            found[name] = np.maximum(found[name], now) if name in found else now
        reporter.update(f"look at {done} of {len(inputs)} inputs", 0.8 * done / len(inputs))
    return found
