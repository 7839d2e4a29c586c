"""Rules on ``input_parameters``: types, layouts, shapes and normalisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge.compiler.document import Document, Hit, parse_shape
from edge.compiler.schema import CHANNELS, RT_TYPES, TRAIN_TYPES, TRANSFORMS
from edge.errors import counted
from edge.specs.schema import MARCH, WIDTH_MULTIPLE

if TYPE_CHECKING:
    import onnx

GROUP = "input_parameters"

# In pixel units, 0..255. The largest plausible multiplier belongs to a std of 10 grey levels. A std in either unit
# (57.4 or 0.229) and 1/std of a 0..1 image (4.4) are all above it.
LARGEST_SCALE = 0.1

NORMALISING = ("Sub", "Add", "Mul", "Div", "BatchNormalization", "InstanceNormalization")
# Operators that move values without changing them.
MOVING = ("Identity", "Transpose", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Pad")


def input_name(doc: Document) -> Iterator[Hit]:
    """Names of the model's inputs, each once; required if there are several."""
    names = doc.items(GROUP, "input_name")
    line = doc.line(GROUP, "input_name")
    for name, count in Counter(names).items():
        if count > 1:
            yield Hit(f"input_name: {name!r} is given {count} times", "each input once", line)
        known = [given for given, _ in doc.graph.all_inputs] if doc.graph is not None else []
        if known and name and "," not in name and name not in known:
            yield Hit(f"input_name: the model has no input {name!r}", ", ".join(known), line)
    if not names and doc.inputs > 1:
        yield Hit(f"no input_name for {counted(doc.inputs, 'input')}", "their names, separated by ';'", line)


def input_shape(doc: Document) -> Iterator[Hit]:
    """Shapes such as 1x3x224x224, equal to the model's."""
    line = doc.line(GROUP, "input_shape")
    for index, text in enumerate(doc.items(GROUP, "input_shape")):
        shape = parse_shape(text)
        if shape is None or min(shape) < 1:
            if text and "," not in text:
                yield Hit(f"input_shape: {text!r}", "positive numbers, such as 1x3x224x224", line)
        elif (own := _of_model(doc, index)) is not None and shape != own:
            # The compiler warns and uses the YAML's shape.
            expected = "x".join(map(str, own)) + ", as the model has it"
            yield Hit(f"input_shape: {text!r}", expected, line)
        elif len(shape) != 4 and doc.item(GROUP, "input_type_rt", index) != "featuremap":
            yield Hit(f"input_shape: {text!r} of an image", "four sizes, such as 1x3x224x224", line)


def _of_model(doc: Document, index: int) -> tuple[int, ...] | None:
    """Return the model's own shape of an input, by the name that the YAML gives it; None if it is not known."""
    if doc.graph is None:
        return None
    known = dict(doc.graph.all_inputs)
    name = doc.item(GROUP, "input_name", index)
    return known.get(name) if name else doc.graph.input_shape if index == 0 else None


def input_batch(doc: Document) -> Iterator[Hit]:
    """One number for models whose inputs have batch 1."""
    text = doc.text(GROUP, "input_batch")
    if not text:
        return
    line = doc.line(GROUP, "input_batch")
    largest = 4096 if doc.text("model_parameters", "march") in {MARCH, "bayes", ""} else 128
    if not text.isdecimal() or not 1 <= int(text) <= largest:
        yield Hit(f"input_batch: {text!r}", f"one number in 1..{largest}", line)
    for index in range(doc.inputs):
        shape = doc.shape(index)
        if shape and shape[0] != 1:
            yield Hit(f"input_batch with the shape {shape}", "a model whose batch is 1", line)


def runtime_layout(doc: Document) -> Iterator[Hit]:
    """input_layout_rt is required unless every input is nv12, where it has no effect."""
    layouts, types = doc.items(GROUP, "input_layout_rt"), doc.items(GROUP, "input_type_rt")
    line = doc.line(GROUP, "input_layout_rt")
    if not layouts and any(kind != "nv12" for kind in types if kind in RT_TYPES):
        yield Hit(f"no input_layout_rt for input_type_rt {';'.join(types)!r}", "NHWC, NCHW", line)
    if layouts and all(kind == "nv12" for kind in types):
        yield Hit("input_layout_rt has no effect on nv12", "no input_layout_rt", line, harmless=True)


def video_range(doc: Document) -> Iterator[Hit]:
    """Edge makes full-range NV12 everywhere; a model built for video range would see the wrong contrast."""
    for item, kind in zip(doc.items(GROUP, "input_space_and_range"), doc.items(GROUP, "input_type_rt"), strict=False):
        line = doc.line(GROUP, "input_space_and_range")
        if item == "bt601_video" and kind != "nv12":
            yield Hit(f"bt601_video with input_type_rt {kind!r}", "input_type_rt: nv12", line)
        elif item == "bt601_video":
            seen = "bt601_video: edge makes full-range NV12"
            yield Hit(seen, "regular, which is full range", line, harmless=True)


def transform(doc: Document) -> Iterator[Hit]:
    """Not every colour space can be turned into every other one."""
    for index in range(doc.inputs):
        train, runtime = doc.item(GROUP, "input_type_train", index), doc.item(GROUP, "input_type_rt", index)
        if train == runtime or train not in TRAIN_TYPES or runtime not in RT_TYPES:
            continue
        if runtime not in TRANSFORMS.get(train, ()):
            expected = ", ".join((train, *TRANSFORMS.get(train, ())))
            yield Hit(
                f"input_type_train {train!r} to input_type_rt {runtime!r}",
                f"input_type_rt: {expected}",
                doc.line(GROUP, "input_type_rt"),
            )


def layout_against_shape(doc: Document) -> Iterator[Hit]:
    """The channels must be where input_layout_train says."""
    for index in range(doc.inputs):
        train, layout = (doc.item(GROUP, key, index) for key in ("input_type_train", "input_layout_train"))
        shape = doc.shape(index)
        if train not in CHANNELS or layout not in {"NCHW", "NHWC"} or shape is None or len(shape) != 4:
            continue
        wanted, other = (1, 3) if layout == "NCHW" else (3, 1)
        if shape[wanted] != CHANNELS[train]:
            fits = shape[other] == CHANNELS[train]
            expected = ("NHWC" if layout == "NCHW" else "NCHW") if fits else counted(CHANNELS[train], "channel")
            line = doc.line(GROUP, "input_layout_train")
            yield Hit(f"input_layout_train {layout} with the {train} shape {shape}", expected, line)


def odd_size(doc: Document) -> Iterator[Hit]:
    """NV12 halves both sizes. With bt601_video the compiler does not check them."""
    for line, height, width in _nv12_sizes(doc):
        if height % 2 or width % 2:
            yield Hit(f"nv12 of {height}x{width}", "an even height and an even width", line)


def width_multiple(doc: Document) -> Iterator[Hit]:
    """The board's runtimes take packed rows and treat other widths differently."""
    for line, _, width in _nv12_sizes(doc):
        if width % WIDTH_MULTIPLE:
            yield Hit(f"nv12 of width {width}", f"a multiple of {WIDTH_MULTIPLE}", line, harmless=True)


def norm_values_given(doc: Document) -> Iterator[Hit]:
    """norm_type says which of mean_value and scale_value count."""
    for index in range(doc.inputs):
        norm = doc.item(GROUP, "norm_type", index) or "no_preprocess"
        if norm != "no_preprocess" and doc.item(GROUP, "input_type_rt", index) == "featuremap":
            yield Hit(f"norm_type {norm!r} of a featuremap", "no_preprocess", doc.line(GROUP, "norm_type"))
        for key, word in (("mean_value", "mean"), ("scale_value", "scale")):
            given = doc.item(GROUP, key, index)
            if word in norm and not given:
                yield Hit(f"norm_type {norm!r} without {key}", f"{key}: …", doc.line(GROUP, "norm_type"))
            if word not in norm and given:
                expected = f"no {key}, or norm_type: data_{word} or data_mean_and_scale"
                yield Hit(f"norm_type {norm!r} ignores {key}", expected, doc.line(GROUP, key))


def norm_values_count(doc: Document) -> Iterator[Hit]:
    """One number, or one per channel."""
    for key, index, text in _norm_texts(doc):
        numbers = _numbers(text)
        shape, layout = doc.shape(index), doc.item(GROUP, "input_layout_train", index)
        channels = shape[3 if layout == "NHWC" else 1] if shape and len(shape) == 4 else 3
        line = doc.line(GROUP, key)
        if numbers is None:
            yield Hit(f"{key}: {text!r}", "numbers, separated by spaces", line)
        elif len(numbers) not in {1, channels}:
            yield Hit(f"{key}: {len(numbers)} numbers", f"1, or {channels}: one per channel", line)


def mean_units(doc: Document) -> Iterator[Hit]:
    """mean_value is in 0..255; a mean of 0..1 images does next to nothing."""
    for key, _, text in _norm_texts(doc):
        numbers = _numbers(text) if key == "mean_value" else None
        if not numbers:
            continue
        line = doc.line(GROUP, key)
        if min(numbers) < 0 or max(numbers) > 255:
            yield Hit(f"mean_value: {text}", "0..255", line)
        elif 0 < max(numbers) <= 1:
            wanted = " ".join(f"{number * 255:g}" for number in numbers)
            yield Hit(f"mean_value: {text} is of 0..1 images", f"times 255: {wanted}", line)


def scale_is_multiplier(doc: Document) -> Iterator[Hit]:
    """scale_value multiplies: 1/std with std in 0..255."""
    for key, _, text in _norm_texts(doc):
        numbers = _numbers(text) if key == "scale_value" else None
        if not numbers or all(number == 1 for number in numbers):
            continue
        line = doc.line(GROUP, key)
        if min(numbers) <= 0:
            yield Hit(f"scale_value: {text}", "numbers above 0", line)
        elif max(numbers) > LARGEST_SCALE:
            # 58.395 is a std, 0.229 a std of 0..1 images, 4.37 its inverse: 1/58.395 is right for all of them.
            yield Hit(
                f"scale_value: {text} looks like a std or is of 0..1 images",
                "1/std with std in 0..255, such as 0.0171247538 = 1/58.395",
                line,
            )


def normalised_twice(doc: Document) -> Iterator[Hit]:
    """A model that already normalises its input must not be given mean and scale again."""
    if doc.model is None or doc.item(GROUP, "norm_type", 0) in {"", "no_preprocess"}:
        return
    node = _first_normalisation(doc.model)
    if node is not None:
        yield Hit(
            f"the model starts with {node} on its input, and norm_type "
            f"{doc.item(GROUP, 'norm_type', 0)!r} normalises too",
            "norm_type: no_preprocess (in edge: mean 0, std 1), or a model without that node",
            doc.line(GROUP, "norm_type"),
        )


def _nv12_sizes(doc: Document) -> Iterator[tuple[int | None, int, int]]:
    for index in range(doc.inputs):
        shape = doc.shape(index)
        if doc.item(GROUP, "input_type_rt", index) != "nv12" or shape is None or len(shape) != 4:
            continue
        nhwc = doc.item(GROUP, "input_layout_train", index) == "NHWC"
        height, width = (shape[1], shape[2]) if nhwc else (shape[2], shape[3])
        yield doc.line(GROUP, "input_shape"), height, width


def _norm_texts(doc: Document) -> Iterator[tuple[str, int, str]]:
    for key in ("mean_value", "scale_value"):
        for index, text in enumerate(doc.items(GROUP, key)):
            if text:
                yield key, index, text


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        return None


def _first_normalisation(model: onnx.ModelProto) -> str | None:
    """Return the node that normalises the input, looking through nodes that only move values."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    values = {value.name for value in model.graph.input} - constants
    for node in model.graph.node:
        if not values.intersection(node.input):
            continue
        if node.op_type in MOVING:
            values.update(node.output)
        elif node.op_type in NORMALISING and set(node.input) - values <= constants:
            return f"{node.op_type} ({node.name or 'no name'})"
    return None
