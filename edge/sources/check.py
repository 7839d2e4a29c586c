"""Read a float network's ONNX file: layout, size, outputs, and whether it fits the spec."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from edge.errors import ModelFileError, counted
from edge.graph.files import (
    external_names,
    facts,
    fixed_input,
    image_input,
    inputs_of,
    load_onnx,
    missing_onnx,
    require_data,
)
from edge.graph.view import View, constants
from edge.heads import take
from edge.images.find import IMAGENET_CLASSES
from edge.sources.class_order import names_in
from edge.sources.framework_files import sha256_of_all
from edge.sources.mend import mended, takes_bytes
from edge.sources.outputs import SHAPE_ONLY, above, named_outputs, score_kind, scores_only
from edge.specs import Detector, ModelSpec
from edge.specs.schema import HEIGHT_MULTIPLE, WIDTH_MULTIPLE, Input, Layout, Output, ScoreKind, Task

if TYPE_CHECKING:
    import onnx

NAME_LENGTH = 100  # characters of a class name inside a file
PARAMETER_TOLERANCE = 0.02  # the sisters of one family differ by 40 % and more


@frozen
class ModelFacts:
    """Facts of a network's file."""

    input_name: str  #: name of the image input.
    input_shape: tuple[int, ...]  #: four numbers, batch 1.
    layout: Layout  #: position of the three colour channels.
    crop: tuple[int, int]  #: (height, width) of the input, in pixels.
    classes: int  #: number of scores; 0 where the outputs are no class scores.
    outputs: tuple[Output, ...]  #: those of the task: a classifier's only one flattens to ``classes``.
    parameters: int  #: number of float weights.
    constants: int  #: float values that the file keeps in Constant nodes, where some exporters have the weights.
    head: int  #: weights of the last layer, a share of which belongs to each class; 0 if it is not found.
    names: tuple[str, ...] | None  #: of the classes, from the file's metadata; None where it holds none.
    scores: ScoreKind  #: what a classifier's scores are.
    #: those of a network that takes more than one camera image, or something else; empty for one image.
    inputs: tuple[Input, ...] = ()
    detector: Detector | None = None  #: how boxes are read from the outputs, of the task ``detect``.
    notes: tuple[str, ...] = ()  #: what the user should know of a detector's head.
    takes_bytes: bool = False  #: the file's input is an image of bytes, which the network itself normalizes.

    @property
    def output_name(self) -> str:
        """Name of a classifier's scores."""
        return self.outputs[0].name


def inspect_onnx(
    path: Path,
    output: str | None = None,
    size: tuple[int, int] | None = None,
    task: Task = "classify",
    featuremap: str | None = None,
) -> ModelFacts:
    """Read the facts of a network's file; works without a spec, so that one can be derived from it.

    ``output`` names its scores or outputs and ``featuremap`` its inputs, as in :func:`of_task`.

    Raises:
        ModelFileError: not a valid ONNX, its input is not one static float image of three channels, or its outputs
            are not those of the task.
    """
    given = load_onnx(path)
    image = featuremap is None
    model, _ = fixed_input(mended(given, path.name, image=image)[0], path.name, size if image else None)
    return evolve(of_task(model, path.name, output, task, featuremap)[1], takes_bytes=image and takes_bytes(given))


def of_task(
    model: onnx.ModelProto,
    origin: str,
    output: str | None,
    task: Task,
    featuremap: str | None = None,
    detector: Detector | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[onnx.ModelProto, ModelFacts]:
    """Return the network up to the outputs that its task needs, and its facts; errors as of ``inspect_onnx``.

    Args:
        output: name of the scores, or of the outputs with commas between them; None takes what the file gives.
        featuremap: names of the inputs that are no images, with commas between them, or ``all``; None takes those that
            can't be one.
        detector: how boxes are read from the outputs of ``detect``; None recognises the head.
        value_range: lowest and highest input value, for the proof of the head's cut.
    """
    if task == "classify":
        if featuremap is not None:
            raise ModelFileError(
                f"--featuremap {featuremap} with a classifier",
                expected="--task raw, which takes inputs that are no images",
                remedy="--task raw",
            )
        model = scores_only(model, origin, output)
        return model, describe(model, origin)
    if task == "detect":
        taken = take(model, origin, detector, value_range)
        part, outputs = named_outputs(taken.model, origin, None)
        proved = f"the boxes of its outputs are those of the whole network within {taken.max_error:.1g}"
        names = names_in(model)
        if names is not None and not (len(names) == taken.detector.classes and all(map(_plain, names))):
            names = None
        found = evolve(_facts(part, origin, outputs), classes=taken.detector.classes, names=names)
        return part, evolve(found, detector=taken.detector, notes=(*taken.notes, proved))
    model, outputs = named_outputs(model, origin, output)
    inputs = _inputs(model, origin, featuremap)
    if len(inputs) == 1 and inputs[0].image:
        return model, _facts(model, origin, outputs)
    return model, _facts_of_several(model, origin, inputs, outputs)


def _inputs(model: onnx.ModelProto, origin: str, featuremap: str | None) -> tuple[Input, ...]:
    """Return the inputs, each an image or not; an only input counts as an image unless it is said to be none."""
    found = inputs_of(model, origin)
    names = [name for name, _ in found]
    told = names if featuremap == "all" else [part.strip() for part in (featuremap or "").split(",") if part.strip()]
    if unknown := [name for name in told if name not in names]:
        raise ModelFileError(
            f"--featuremap {unknown[0]}: {origin} has no input of that name",
            expected=", ".join(names),
            remedy=f"--featuremap {names[0]}",
        )
    first = found[0][1]
    only = len(found) == 1 and featuremap is None and len(first) == 4 and bool({1, 3} & {first[1], first[3]})
    return tuple(Input(name, shape, name not in told and (only or _may_be_image(shape))) for name, shape in found)


def _may_be_image(shape: tuple[int, ...]) -> bool:
    """Tell whether an input of several may be a camera image: three channels, and sides that NV12 has."""
    if len(shape) != 4 or shape[0] != 1 or 3 not in (shape[1], shape[3]):
        return False
    height, width = shape[2:] if shape[1] == 3 else shape[1:3]
    return height % HEIGHT_MULTIPLE == 0 and width % WIDTH_MULTIPLE == 0


def _facts_of_several(
    model: onnx.ModelProto, origin: str, inputs: tuple[Input, ...], outputs: tuple[Output, ...]
) -> ModelFacts:
    """Return the facts of a network that takes more than one camera image, or something else."""
    graph = facts(model, origin)
    images = [one for one in inputs if one.image]
    if wrong := next((one for one in inputs if one.shape[0] != 1), None):
        raise ModelFileError(
            f"{origin}: the input {wrong.name!r} is {_times(wrong.shape)}",
            expected="batch 1: the program takes one sample at a time",
            remedy="export it again with batch 1",
        )
    if len({one.shape for one in images}) > 1:
        raise ModelFileError(
            f"{origin}: its images are {' and '.join(f'{one.name} {_times(one.shape)}' for one in images)}",
            expected="images of one size: one preprocessing makes all of them",
            remedy="export it for one size, or name those that are no images: --featuremap NAME",
        )
    shape = images[0].shape if images else ()
    layout: Layout = "NHWC" if images and shape[3] == 3 else "NCHW"
    return ModelFacts(
        input_name=graph.input_name,
        input_shape=graph.input_shape,
        layout=layout,
        crop=((shape[1], shape[2]) if layout == "NHWC" else (shape[2], shape[3])) if images else (0, 0),
        classes=0,
        outputs=outputs,
        parameters=graph.parameters,
        constants=0,
        head=0,
        names=None,
        scores="logits",
        inputs=inputs,
    )


def describe(model: onnx.ModelProto, origin: str) -> ModelFacts:
    """Return the facts of a loaded model whose scores are its only output; errors as of ``inspect_onnx``."""
    found = _facts(model, origin)
    (scores,) = found.outputs
    classes = math.prod(scores.shape)
    if classes == 1:
        raise ModelFileError(
            f"{origin}: the output {scores.name!r} is {_times(scores.shape)}: one value an image, so a "
            "network of two classes by one score",
            expected="a score a class, such as 1x2",
            remedy="export it with two logits: in PyTorch, return torch.cat([torch.zeros_like(s), s], 1) of its one "
            "logit s, without the Sigmoid; --task raw takes any outputs as they are",
        )
    if classes != max(scores.shape) or classes < 2:
        raise ModelFileError(
            f"{origin}: the output {scores.name!r} is {_times(scores.shape)}",
            expected="one row of class scores, such as 1x1000",
            remedy="export the whole classifier, with its pooling and its head; --output NAME takes another value of "
            "its graph; for a detector see docs/guides/yolo.md; --task raw takes any outputs as they are",
        )
    head = _head(View(model), constants(model.graph), scores.name)
    return evolve(found, classes=classes, head=head, names=names_in(model), scores=score_kind(model))


def _facts(model: onnx.ModelProto, origin: str, outputs: tuple[Output, ...] = ()) -> ModelFacts:
    """Return what holds for every task; the first output stands for all where these are not given."""
    image_input(model, origin)
    graph = facts(model, origin)
    shape = graph.input_shape
    shown = _times(shape)
    if len(shape) != 4 or shape[0] != 1:
        raise ModelFileError(
            f"{origin}: the input {graph.input_name!r} is {shown}",
            expected="one image: 1x3xHxW or 1xHxWx3",
            remedy="export it again with batch 1",
        )
    layout: Layout
    if shape[1] == 3:
        layout, crop = "NCHW", (shape[2], shape[3])
    elif shape[3] == 3:
        layout, crop = "NHWC", (shape[1], shape[2])
    else:
        raise ModelFileError(
            f"{origin}: the input {graph.input_name!r} is {shown}: no axis holds three colour channels",
            expected="1x3xHxW or 1xHxWx3, or one channel of grey: the program takes one camera image",
            remedy="export a network of three channels; or, of numbers that no camera gives, --task raw with "
            f"--featuremap {graph.input_name}",
        )
    stored = constants(model.graph)
    initializers = {tensor.name for tensor in model.graph.initializer}
    own = [tensor for name, tensor in stored.items() if name not in initializers]
    return ModelFacts(
        input_name=graph.input_name,
        input_shape=shape,
        layout=layout,
        crop=crop,
        classes=0,
        outputs=outputs or (Output(graph.output_name, graph.output_shape, "float32"),),
        parameters=graph.parameters,
        constants=sum(math.prod(tensor.dims) for tensor in own if tensor.data_type == tensor.FLOAT),
        head=0,
        names=None,
        scores="logits",
    )


def _plain(name: str) -> bool:
    """Tell whether a class name of a file can be shown, and stand on a line of its own."""
    return 0 < len(name) <= NAME_LENGTH and name.isprintable() and name == name.strip()


def require_fit(found: ModelFacts, spec: ModelSpec, origin: str, *, classes: bool = True) -> None:
    """Fail if a model contradicts its spec.

    Args:
        classes: whether the number of classes counts (demo weights have their own).

    Raises:
        ModelFileError: layout, size or number of classes differ.
    """
    pre = spec.preprocess
    if found.inputs and not any(one.image for one in found.inputs):
        return
    if found.layout != pre.layout:
        raise ModelFileError(
            f"{origin} takes its input as {found.layout} ({_times(found.input_shape)})",
            expected=f"{pre.layout}, as in the model's YAML",
            remedy=f"set preprocess.layout: {found.layout} in the model's YAML",
        )
    if found.crop != tuple(pre.crop):
        height, width = found.crop
        size = f"{height}" if height == width else f"{height}x{width}"
        raise ModelFileError(
            f"{origin} takes images of {height}x{width}",
            expected=f"{pre.crop[0]}x{pre.crop[1]}, the crop of the spec",
            remedy=f"--crop {size}, or preprocess.crop: [{height}, {width}] in the model's YAML",
        )
    if classes and spec.classes is not None and found.classes != spec.classes:
        raise ModelFileError(
            f"{origin} has {counted(found.classes, 'class')}",
            expected=f"{spec.classes}, as in the model's YAML or its framework's configuration",
            remedy="check that it is the right file; then name its classes: --labels FILE with "
            f"{counted(found.classes, 'line')}, or classes: {found.classes} and matching labels in the model's YAML",
        )


def require_parameters(found: ModelFacts, promised: float, origin: str, name: str, remedy: str) -> None:
    """Fail if a file can't be the network whose name it would get: the published number of parameters differs.

    The zoo's figures are for 1000 classes; a network for another number has a smaller or larger last layer.

    Args:
        promised: published millions of parameters.
        remedy: how to build the file under another name.

    Raises:
        ModelFileError: they differ by more than 2 %.
    """
    other = (IMAGENET_CLASSES - found.classes) * found.head / found.classes
    if found.classes != IMAGENET_CLASSES and not found.head:
        return  # the size of the last layer is not known
    own = (found.parameters + found.constants) / 1e6
    if all(abs(own - m) > PARAMETER_TOLERANCE * m for m in (promised, promised - other / 1e6)):
        raise ModelFileError(
            f"{origin} has {own:.2f} M parameters and {counted(found.classes, 'class')}",
            expected=f"{promised:.2f} M within {PARAMETER_TOLERANCE:.0%}, as published for {name}, without the last "
            "layer: this is another network's file",
            remedy=remedy,
        )


def notes_on(found: ModelFacts) -> tuple[str, ...]:
    """Return notes for the user on a model that can be built."""
    notes = []
    if found.scores == "softmax":
        notes.append("the model ends with Softmax: its scores are probabilities already")
    if found.scores == "sigmoid":
        notes.append(
            "the model ends with Sigmoid: each class is judged by itself; Top-1 counts the class of the highest score"
        )
    shape = found.outputs[0].shape
    if found.classes and found.detector is None and len(shape) != 2:
        notes.append(f"the output {_times(shape)} is read as {found.classes} scores")
    return tuple(notes)


def sha256_with_data(path: Path) -> str:
    """Return the checksum of an ONNX file and its files of external data."""
    return sha256_of_all(path, *external_data(path))


def external_data(path: Path) -> list[Path]:
    """Return the files beside an ONNX file that hold its tensors, sorted.

    Raises:
        ModelFileError: not ONNX, or one of them is missing.
    """
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise missing_onnx(path)
    try:
        names = external_names(path)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelFileError(f"{path} is not an ONNX file: {error}", remedy="export or download it again") from error
    require_data(path)
    return [path.parent / name for name in names]


def _head(view: View, stored: Mapping[str, onnx.TensorProto], name: str) -> int:
    """Return the number of weights of the last layer, bias included; 0 if unknown."""
    found = 0
    while (node := above(view, name, {*SHAPE_ONLY, "Softmax", "Sigmoid"})[1]) is not None:
        tensors = [stored.get(above(view, operand)[0]) for operand in node.input]
        sizes = [0 if tensor is None else math.prod(tensor.dims) for tensor in tensors]
        if node.op_type in {"Gemm", "MatMul", "Conv"}:
            return found + sum(sizes) if sum(sizes) else 0
        if node.op_type != "Add" or (sizes[0] > 0) == (sizes[1] > 0):
            return 0
        found += sum(sizes)
        name = node.input[0 if sizes[1] else 1]
    return 0


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)
