"""The equalize stage: scale channels so that int8 steps fit each, and prove that the outputs stay the same."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.errors import ModelFileError, counted
from edge.graph.files import copied, image_input, load_onnx, open_exposed
from edge.graph.view import View
from edge.images.preprocess import calibration_input
from edge.prepare.guard import SEEDS, Guard, reference, refused
from edge.progress import Reporter, Silent
from edge.specs import Equalization, Preprocess

if TYPE_CHECKING:
    import onnx

# Positively homogeneous in each channel: f(s x) = s f(x) for s > 0.
_ACTIVATIONS = ("Relu", "LeakyRelu", "Clip")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
LIMIT = 64.0  # the largest factor: a channel that needs more has next to no effect
# The share of a channel's factor (in logarithms) that is applied if the consumer's rows mix channels: there, finer
# steps for the activation mean coarser ones for the weights. On MobileNetV1 0.25 gains less, 1 no more.
MIXED = 0.5
GUARDED = 16  # calibration images on which the outputs are compared, besides noise
NOISE = 0.25  # of the range of pixels, around grey

Array = NDArray[np.float32]
Ranges = NDArray[np.float64]
"""(channels,): the largest magnitude seen in each channel."""


@frozen
class Convolution:
    """A convolution whose constants have no other reader."""

    name: str  #: of its node.
    input: str  #: name of the tensor that it reads.
    weight: str  #: name of its constant, (output channels, input channels / groups, ...).
    bias: str  #: name of its constant; empty if it has none.
    inputs: int  #: number of input channels.
    outputs: int  #: number of output channels.
    groups: int  #: 1, or as many as there are input channels: depthwise.

    @property
    def depthwise(self) -> bool:
        """Whether each output sees one input channel only."""
        return self.groups == self.inputs and self.groups > 1


@frozen
class ConvolutionPair:
    """Two convolutions; everything between them lets a factor of a channel through."""

    producer: Convolution  #: its rows are multiplied.
    consumer: Convolution  #: its weights for these channels are divided.
    tensor: str  #: the tensor whose ranges are taken: behind the activation, before any pool.
    ceiling: float | None  #: upper limit of the activation; None if it has none.

    @property
    def name(self) -> str:
        """The name shown to the user."""
        return f"{self.producer.name} → {self.consumer.name}"


def find_pairs(model: onnx.ModelProto) -> tuple[ConvolutionPair, ...]:
    """Return the pairs of a simplified graph, in graph order.

    Between the two may be one Relu, LeakyRelu or Clip from 0, then pools. No other node may read the values between
    them or their constants. A Clip lets a factor through as long as the channel stays below its upper bound.
    """
    view = View(model)
    found = []
    for node in view.nodes:
        producer = _convolution(view, node)
        if producer is None:
            continue
        tensor, ceiling = node.output[0], None
        reader = view.only_reader(node)
        if reader is not None and reader.op_type in _ACTIVATIONS:
            if reader.op_type == "Clip":
                low, ceiling = view.clip_range(reader)
                if low != 0 or (ceiling is not None and ceiling <= 0):
                    continue
            tensor = reader.output[0]
            reader = view.only_reader(reader)
        while reader is not None and reader.op_type in _POOLS and len(reader.output) == 1:
            reader = view.only_reader(reader)
        consumer = None if reader is None else _convolution(view, reader)
        if consumer is None or consumer.inputs != producer.outputs:
            continue
        if consumer.depthwise or consumer.groups == 1:
            found.append(ConvolutionPair(producer, consumer, tensor, ceiling))
    return tuple(found)


def _convolution(view: View, node: onnx.NodeProto) -> Convolution | None:
    """Return the convolution if no other node reads its constants."""
    if node.op_type != "Conv" or len(node.input) < 2:
        return None
    weight, bias = node.input[1], node.input[2] if len(node.input) > 2 else ""
    constants = [weight, *([bias] if bias else [])]
    if any(name not in view.initializers or len(view.readers(name)) != 1 for name in constants):
        return None
    outputs, share = view.initializers[weight].dims[:2]
    groups = int(view.attribute(node, "group", 1))
    return Convolution(node.name, node.input[0], weight, bias, share * groups, outputs, groups)


def factors(ranges: Ranges, ceiling: float | None, *, depthwise: bool) -> Ranges:
    """Return the factor of each channel between two convolutions, (channels,), 1 and above.

    Args:
        ceiling: upper limit of the activation; no channel is scaled above it.
        depthwise: whether the consumer keeps channels apart, so that each can fill the tensor's range.
    """
    top = float(ranges.max(initial=0.0)) if ceiling is None else ceiling
    if top <= 0:
        return np.ones_like(ranges)
    found = top / np.clip(ranges, top / LIMIT, top)
    found[ranges <= 0] = 1.0
    result: Ranges = found if depthwise else found**MIXED
    return result


def multiply(constants: MutableMapping[str, Array], pair: ConvolutionPair, by: Ranges) -> None:
    """Multiply the channels between two convolutions; the consumer's output stays the same."""
    producer, consumer = pair.producer, pair.consumer
    _scale(constants, producer.weight, by, axis=0)
    if producer.bias:
        _scale(constants, producer.bias, by, axis=0)
    if consumer.depthwise:
        _scale(constants, consumer.weight, 1 / by.repeat(consumer.outputs // consumer.inputs), axis=0)
    else:
        _scale(constants, consumer.weight, 1 / by, axis=1)


def _scale(constants: MutableMapping[str, Array], name: str, by: Ranges, axis: int) -> None:
    data = constants[name]
    shape = [1] * data.ndim
    shape[axis] = -1
    constants[name] = np.ascontiguousarray(data * by.reshape(shape), np.float32)


@frozen
class EqualizedPair:
    """Two convolutions between which channels were scaled."""

    name: str  #: of both.
    median: float  #: median factor of a channel.
    largest: float  #: largest factor.


@frozen
class EqualizeResult:
    """A float ONNX with the same outputs, whose channel ranges suit int8 steps."""

    onnx: str  #: file name.
    pairs: tuple[EqualizedPair, ...]  #: in graph order.
    images: int  #: number of calibration images that gave the ranges.
    max_abs_error: float  #: largest difference of an output from before, over calibration images and noise.


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

    Behind a Clip the answers stay as long as no channel exceeds its range on the calibration images; beyond it the
    Clip cuts off, much as the int8 steps would.

    Args:
        calibration: raw float32 files of :func:`edge.images.calibrate.calibrate`; the first
            ``equalization.images`` of them are looked at, behind NV12.
        preprocess: of the network.

    Raises:
        ModelFileError: there is no pair, or the outputs change.
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
            expected="Conv, then Relu, LeakyRelu, Clip from 0, pools or nothing, then Conv",
            remedy="use a recipe without 'equalization'",
        )
    files = list(calibration)[: equalization.images]
    images = [calibration_input(file, preprocess) for file in files]
    # Ranges of images and of noise: a Clip must not cut off channels of either.
    before = reference(source, model, _noise_range(preprocess), images[:GUARDED])
    inputs = [*images, *(feed[image_input(source)[0]] for feed in before.inputs[: len(SEEDS)])]
    ranges = _ranges(source, pairs, inputs, reporter)

    changed = copied(source)
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
    with refused(
        f"the outputs of {model.name} change when it is equalized",
        expected="the same outputs on calibration images and on noise",
        remedy="use a recipe without 'equalization', and report the model",
    ):
        error = Guard(source, before, baseline=source).prove(changed)
    onnx.save(changed, out / f"{name}.onnx")
    return EqualizeResult(
        onnx=f"{name}.onnx",
        pairs=tuple(EqualizedPair(key, float(np.median(by)), float(by.max())) for key, by in scales.items()),
        images=len(files),
        max_abs_error=error,
    )


def _noise_range(preprocess: Preprocess) -> tuple[float, float]:
    """Return the lowest and the highest value of the noise, as the network sees it.

    Ranges are taken from the noise too. Noise over all of 0..255 would drive channels further than any image does, and
    leave fewer int8 steps for images.
    """
    ends = [
        (level - mean) / std
        for level in (127.5 * (1 - NOISE), 127.5 * (1 + NOISE))
        for mean, std in zip(preprocess.mean, preprocess.std, strict=True)
    ]
    return min(ends), max(ends)


def _ranges(
    model: onnx.ModelProto, pairs: Iterable[ConvolutionPair], inputs: Sequence[NDArray[np.float32]], reporter: Reporter
) -> dict[str, Ranges]:
    """Return the largest magnitude of each channel between the pairs, (channels,)."""
    image, _ = image_input(model)
    names = [pair.tensor for pair in pairs]
    session = open_exposed(model, names)
    found: dict[str, Ranges] = {}
    for done, data in enumerate(inputs, start=1):
        for name, value in zip(names, session.run(names, {image: data}), strict=True):
            axes = (0, *range(2, value.ndim))
            now = np.abs(value).max(axis=axes).astype(np.float64)
            found[name] = np.maximum(found[name], now) if name in found else now
        reporter.update(f"look at {done} of {counted(len(inputs), 'input')}", 0.8 * done / len(inputs))
    return found
