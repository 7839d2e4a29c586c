"""Frozen schemas. Validation touches neither disk nor network.

Value ranges are checked when an object is made, so every spec is valid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal

from attrs import Attribute, Factory, field, frozen

from edge.errors import SpecError
from edge.specs.detector import Detector

MARCH = "bayes-e"  # the RDK X5's BPU, as the compiler names it

Color = Literal["rgb", "bgr"]
Layout = Literal["NCHW", "NHWC"]
Interpolation = Literal["bilinear", "bicubic", "area", "nearest"]
#: Where a letterboxed image lies on its input: in the top left corner, or in the middle.
Letterbox = Literal["corner", "center"]
Bits = Literal["int8", "int16"]
Level = Literal["O0", "O1", "O2", "O3"]
Rewrite = Literal["channel_mean"]
OwnFile = Literal["onnx", "torchscript", "paddle", "mindspore"]
#: What the outputs mean: scores of classes, arrays that are compared as numbers, or boxes.
Task = Literal["classify", "raw", "detect"]
#: What class scores are: logits, whose softmax tells probabilities; the probabilities of a Softmax at the network's
#: end; or of a Sigmoid, which judges each class by itself.
ScoreKind = Literal["logits", "softmax", "sigmoid"]

# Of a program's input. The preprocess node takes NV12, whose chroma covers 2x2 pixels. The board's runtimes take packed
# rows and treat a width that is not a multiple of 32 differently.
WIDTH_MULTIPLE = 32
HEIGHT_MULTIPLE = 2
# The share of the resized image that the centre crop keeps; the usual one for ImageNet classifiers.
CROP_SHARE = 0.875
RESIZE = 256  # pixels; that of ImageNet classifiers
FILL = 114  # the grey that YOLOX and ultralytics fill with


def _check(condition: bool, seen: str, expected: str) -> None:
    if not condition:
        raise SpecError(seen, expected=expected)


def _name(_: object, attribute: Attribute[str], value: str) -> None:
    _check(
        re.fullmatch(r"\w[\w.-]*", value) is not None and len(value.encode()) <= 150,
        f"{attribute.name}: {value!r}",
        "letters, digits, '_', '-' and '.', 150 bytes at most; it names files",
    )


@frozen
class Preprocess:
    """From an image to the network's input; see ``edge.images.preprocess`` for the arithmetic."""

    #: (height, width) of the image that the network sees, in pixels. The program takes the next even height and the
    #: next width that is a multiple of 32; its first step cuts off what is below and to the right of ``crop``.
    crop: tuple[int, int] = (224, 224)
    #: scales the whole image until it fits into ``crop``, its aspect kept, and fills the rest: below and to the right
    #: (``corner``) or on both sides (``center``), as detectors are trained; None crops or stretches by ``resize``.
    letterbox: Letterbox | None = field(default=None, kw_only=True)
    fill: int = field(default=FILL, kw_only=True)  #: grey level of what a letterboxed image leaves, 0..255.
    #: length of the shorter side before the centre crop, in pixels; None stretches the whole image to ``crop``
    #: without keeping its aspect. None with ``letterbox``.
    resize: int | None = Factory(lambda own: None if own.letterbox else RESIZE, takes_self=True)
    #: how to enlarge; shrinking is always antialiased, except with ``letterbox`` and ``bilinear``.
    interpolation: Interpolation = Factory(lambda own: "bilinear" if own.letterbox else "bicubic", takes_self=True)
    color: Color = "rgb"  #: channel order the network was trained with.
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  #: per channel of ``color``, in 0..255.
    #: per channel of ``color``, in 0..255; the network sees (x - mean) / std.
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    layout: Layout = "NCHW"  #: of the network's input.

    def __attrs_post_init__(self) -> None:
        height, width = self.crop
        _check(height > 0 and width > 0, f"crop: {height}x{width}", "a positive height and width")
        _check(
            self.resize is None or self.resize >= max(height, width),
            f"resize {self.resize} is smaller than the crop {height}x{width}",
            "resize >= crop",
        )
        _check(
            self.letterbox is None or self.resize is None,
            f"letterbox {self.letterbox!r} with resize {self.resize}",
            "one of both: a letterboxed image is scaled until it fits",
        )
        _check(
            self.letterbox is not None or self.fill == FILL,
            f"fill {self.fill} without letterbox",
            "letterbox beside it",
        )
        _check(0 <= self.fill <= 255, f"fill: {self.fill}", "a grey level, 0..255")
        _check(all(0 <= m <= 255 for m in self.mean), f"mean: {self.mean}", "three values in 0..255 (pixel units)")
        _check(
            not any(self.mean) or any(m >= 1 for m in self.mean),
            f"mean: {self.mean}",
            "pixel units: mean 0.485 of a 0..1 image is 123.675 here",
        )
        _check(
            all(0 < s <= 255 for s in self.std),
            f"std: {self.std}",
            "three values in 0..255 above 0 (pixel units, a divisor; the compiler's scale_value is 1/std)",
        )
        _check(
            any(s > 1 for s in self.std) or all(s == 1 for s in self.std),
            f"std: {self.std}",
            "pixel units: std 0.229 of a 0..1 image is 58.395 here",
        )

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) of the program's input, in pixels; ``crop`` is its top left corner."""
        height, width = self.crop
        return -(-height // HEIGHT_MULTIPLE) * HEIGHT_MULTIPLE, -(-width // WIDTH_MULTIPLE) * WIDTH_MULTIPLE

    def fitted(self, size: str) -> str:
        """Return how a letterboxed image gets to the network's size, in a few words."""
        where = {"corner": "below and to the right", "center": "on both sides"}.get(self.letterbox or "")
        return f"scaled to fit into {size}, the rest {where} filled with {self.fill}"

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the program's input, batch 1."""
        height, width = self.canvas
        return (1, 3, height, width) if self.layout == "NCHW" else (1, height, width, 3)

    @property
    def value_range(self) -> tuple[float, float]:
        """Smallest and largest value that the network may see: (x - mean) / std of x in 0..255."""
        channels = list(zip(self.mean, self.std, strict=True))
        return min(-m / s for m, s in channels), max((255 - m) / s for m, s in channels)


# Sources that are files of the user: they hold their weights, and a YAML names them relative to itself.
OWN_FILES: tuple[OwnFile, ...] = ("onnx", "torchscript", "paddle", "mindspore")


@frozen
class Sources:
    """Where a model's weights may come from; None if there is no such source."""

    timm: str | None = None  #: pinned timm tag, such as ``convnext_atto.d2_in1k``.
    timm_sha256: str | None = None  #: checksum of the tag's ``model.safetensors``, where known.
    vendor: str | None = None  #: URL of the vendor's float ONNX.
    vendor_sha256: str | None = None  #: its checksum, where known.
    demo: str | None = None  #: file name in ``edge/zoo/demo`` of weights that the project trained itself.
    # Paths of the user's files, absolute or relative to the YAML that names them.
    onnx: str | None = None  #: an ONNX.
    torchscript: str | None = None  #: a TorchScript file.
    paddle: str | None = None  #: the folder of a PaddlePaddle inference model.
    mindspore: str | None = None  #: a MindIR or a MindSpore checkpoint.
    network: str | None = None  #: mindcv's name of the network, which a checkpoint needs.

    def __attrs_post_init__(self) -> None:
        own = [kind for kind in OWN_FILES if getattr(self, kind) is not None]
        _check(len(own) < 2, f"sources: {' and '.join(own)} together", "one file that holds the weights")
        _check(
            self.network is None or self.mindspore is not None,
            f"sources: network {self.network!r} without mindspore",
            "network beside mindspore: it names the network of a checkpoint",
        )


@frozen
class Published:
    """Figures that others published, to compare with. Top-1 and Top-5 in percent."""

    source: str  #: who published them and how they were measured.
    float_top1: float | None = None
    float_top5: float | None = None
    int8_top1: float | None = None
    latency_ms: float | None = None  #: on the board, one thread.
    fps_4_threads: float | None = None  #: on the board, four threads.
    params_m: float | None = None  #: millions of parameters.
    gflops: float | None = None  #: as published; conventions differ.
    #: side in pixels of the square input that ``gflops`` was counted at, if it differs from the model's.
    gflops_input: int | None = None
    #: whose weights ``float_top1`` and ``float_top5`` belong to, if not the model's timm tag: then they are no goal
    #: for this model.
    accuracy_of: str | None = None

    def __attrs_post_init__(self) -> None:
        for key in ("float_top1", "float_top5", "int8_top1"):
            value = getattr(self, key)
            _check(value is None or 0 <= value <= 100, f"published: {key} {value}", "0..100, in percent")
        for key in ("latency_ms", "fps_4_threads", "params_m", "gflops", "gflops_input"):
            value = getattr(self, key)
            _check(value is None or value > 0, f"published: {key} {value}", "above 0")


@frozen
class Input:
    """An input of a network that takes more than one camera image, or something else."""

    name: str  #: its name in the graph.
    shape: tuple[int, ...]  #: batch first.
    image: bool  #: whether it is a camera image, NV12 on the board; else float32 numbers as they are.


@frozen
class Output:
    """An output of the float network."""

    name: str  #: its name in the graph.
    shape: tuple[int, ...]  #: batch first; empty for a scalar.
    dtype: str  #: numpy's name.

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {'x'.join(map(str, self.shape))}".rstrip()


@frozen
class ModelSpec:
    """Everything that edge needs to know about a network."""

    name: str = field(validator=_name)  #: names the build folder and every file.
    sources: Sources
    preprocess: Preprocess = Preprocess()
    #: ``imagenet``, ``demo``, or a path of a text file with one class name per line; None if unknown.
    labels: str | None = "imagenet"
    classes: int | None = 1000  #: number of outputs of the head; None if unknown.
    precision: str = "int8"  #: name of a recipe in ``mapper_yaml/precision`` or a path.
    published: Published | None = None
    #: how boxes are read from the outputs; None recognises the head. Only with ``task: detect``.
    detector: Detector | None = None
    #: name of the class scores, any value of the graph; None where they are the only output that looks like scores.
    #: With another task: names of the outputs with commas between them; None takes those of the file.
    output: str | None = None
    task: Task = "classify"  #: what the outputs mean.
    #: names of the inputs that are arrays of numbers and no camera images, with commas between them, or ``all``; None
    #: takes those that can't be an image.
    featuremap: str | None = None

    def __attrs_post_init__(self) -> None:
        _check(self.classes is None or self.classes > 1, f"classes: {self.classes}", "2 and more")


@frozen
class Calibration:
    """``calibration_parameters`` of the compiler."""

    method: Literal["default", "kl", "max", "mix"] = "default"  #: the compiler's ``calibration_type``.
    max_percentile: float | None = None  #: 0.5..1, only with method ``max``.
    per_channel: bool = False  #: activation scales per channel.
    optimization: tuple[str, ...] = ()  #: the compiler's optimization values.

    def __attrs_post_init__(self) -> None:
        if self.max_percentile is not None:
            _check(self.method == "max", f"max_percentile with method {self.method!r}", "method: max")
            _check(0.5 <= self.max_percentile <= 1, f"max_percentile: {self.max_percentile}", "0.5..1")
        for item in self.optimization:
            _check(
                not re.search(r"[,;\s]", item),
                f"optimization item {item!r}",
                "one value per item; the compiler silently misreads a list joined with commas",
            )

    @property
    def beyond_thresholds(self) -> tuple[str, ...]:
        """The settings that change more than thresholds: what they change can't be told to the compiler."""
        found = [item for item in self.optimization if item in ("asymmetric", "bias_correction")]
        return (*found, *["per_channel"] * self.per_channel)


@frozen
class NodePrecision:
    """``node_info`` of one node: where it runs and with which bits."""

    on: Literal["BPU", "CPU"] | None = None  #: ``BPU`` or ``CPU``; None leaves it to the compiler.
    inputs: Bits | None = None  #: bits of its input activations.
    outputs: Bits | None = None  #: bits of its output activation.


@frozen
class Compiler:
    """``compiler_parameters`` of the compiler."""

    optimize_level: Level = "O3"  #: O0 compiles in seconds, O3 is what ships.
    compile_mode: Literal["latency", "bandwidth"] = "latency"  #: ``latency`` or ``bandwidth``.
    #: threads of the compiler. A constant, not the machine's cores: the program records it, and the same inputs must
    #: give the same bytes on every machine.
    jobs: int = 4


@frozen
class Rounding:
    """Weights rounded to the compiler's int8 steps beforehand, errors compensated; see ``edge.prepare``.

    Costs no time on the BPU: graph and types stay, only the integers are chosen better.
    """

    images: int = 64  #: calibration images to look at, 1 and above; all of them if there are fewer.
    damping: float = 0.01  #: share of the mean squared input that is added to the diagonal of the layer's moments.

    def __attrs_post_init__(self) -> None:
        _check(self.images >= 1, f"rounding: images {self.images}", "1 and above")
        _check(0 < self.damping <= 1, f"rounding: damping {self.damping}", "above 0, up to 1")


@frozen
class Equalization:
    """Channels scaled between convolutions so that int8 steps fit each; see ``edge.prepare``.

    Costs no time on the BPU: the float network computes the same with other weights.
    """

    images: int = 64  #: calibration images to look at, 1 and above; all of them if there are fewer.

    def __attrs_post_init__(self) -> None:
        _check(self.images >= 1, f"equalization: images {self.images}", "1 and above")


@frozen
class RangeSplit:
    """Channels around depthwise convolutions in groups of similar range, each with thresholds of its own.

    Costs time on the BPU, but no multiplication: see ``edge.prepare``. A recipe may give the groups alone.
    """

    groups: int = 2  #: at each place, 2..16; fewer where there are few channels.
    places: tuple[str, ...] = ()  #: node names of the convolutions in front; empty for all that can be split.
    images: int = 64  #: calibration images to look at, 1 and above; all of them if there are fewer.

    def __attrs_post_init__(self) -> None:
        _check(2 <= self.groups <= 16, f"range_split: groups {self.groups}", "2..16")
        _check(self.images >= 1, f"range_split: images {self.images}", "1 and above")


@frozen
class Thresholds:
    """Thresholds of activations chosen by what they do to the network's answers; see ``edge.refine``.

    They cost no time on the BPU, since graph and types stay; 16 bits do.
    """

    images: int = 24  #: calibration images to look at, 1 and above; as many others are kept back to try the result.
    #: time that the program may take, relative to int8, 1 and above: the activations that the answers need most get 16
    #: bits until it is reached. 1 gives none.
    int16_latency: float = 1.0

    def __attrs_post_init__(self) -> None:
        _check(self.images >= 1, f"thresholds: images {self.images}", "1 and above")
        _check(1 <= self.int16_latency < math.inf, f"thresholds: int16_latency {self.int16_latency}", "1 and above")


@frozen
class Evidence:
    """On which images ``edge tune`` found a recipe, and what was measured with it.

    Agreement is the share of images, in percent, with the same answer as the float network behind NV12; of a detector
    AP, in percent, with that network's boxes as the objects.
    """

    float_sha256: str  #: of the float ONNX of the search.
    chosen_on: str  #: images of the search.
    reported_on: str  #: images of the figures below, none of them in ``chosen_on``.
    n: int  #: how many.
    agreement: float  #: of this recipe.
    agreement_int8: float  #: of plain int8 on the same images.
    #: percent, behind NV12, of a detector AP; this and the next two are None without labels.
    top1_float: float | None = None
    top1: float | None = None  #: of this recipe.
    top1_int8: float | None = None  #: of plain int8.
    latency_us: float | None = None  #: static, microseconds, at ``level``.
    latency_us_int8: float | None = None  #: of plain int8 at the same level.
    level: Level | None = None  #: optimisation level of the search; builds with the recipe take their own.
    seed: int = 0  #: of every random choice.
    versions: Mapping[str, str] = field(factory=dict)  #: of the programs that ran.


@frozen
class Precision:
    """A precision recipe."""

    name: str = field(validator=_name)  #: as reports show it.
    calibration: Calibration = Calibration()  #: how ranges are chosen.
    #: node name (the model's module path) -> precision; ``*`` in a name stands for any text.
    nodes: Mapping[str, NodePrecision] = field(factory=dict)
    compiler: Compiler = Compiler()  #: what the compiler is told.
    note: str = ""  #: what the recipe was measured on.
    #: rewrites of parts of the graph that keep its answers; see ``edge.prepare``.
    rewrites: tuple[Rewrite, ...] = ()
    equalization: Equalization | None = None  #: of the channels; None leaves them as they are.
    range_split: RangeSplit | None = None  #: of the channels around depthwise convolutions; None leaves them together.
    rounding: Rounding | None = None  #: of the weights; None rounds each to the nearest step, as the compiler does.
    thresholds: Thresholds | None = None  #: of the activations; None leaves them to the compiler's calibration.
    evidence: Evidence | None = None  #: figures behind a recipe that ``edge tune`` found.

    def __attrs_post_init__(self) -> None:
        if self.thresholds is not None:
            changing = self.calibration.beyond_thresholds
            _check(not changing, f"thresholds with calibration {', '.join(changing)}", "one of the two")
