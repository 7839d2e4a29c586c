"""Cut a network at its head, and prove that its own boxes come of what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import evolve

from edge.errors import ModelFileError
from edge.graph.cut import cut_to
from edge.graph.files import copied, image_input, open_exposed, session
from edge.graph.view import View, add_constant, insert, unused
from edge.heads.head import TOLERANCE, Floats, Head, Part, error, expected, heat_error, table, table_error

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

SEEDS = (0, 1)  # one random image each


def cut(model: onnx.ModelProto, head: Head, size: tuple[int, int]) -> onnx.ModelProto:
    """Return the network up to its head: each output apart, as the detector names them.

    Where one convolution makes several of them, it becomes one for each, with its share of the weights.

    Args:
        model: the whole network; it is left as it is.
        head: what its head is.
        size: (height, width) of its input.
    """
    import onnx

    result = copied(model)
    inner = {name: unused(model.graph, f"{name}_inner") for name in head.parts if unused(model.graph, name) != name}
    _rename(result, inner)  # values of the network that have the name of an output to come
    parts = {name: evolve(part, value=inner.get(part.value, part.value)) for name, part in head.parts.items()}
    for name, part in parts.items():
        if part.channels is not None:
            _split(result, name, part, part.channels)
    _rename(result, {part.value: name for name, part in parts.items() if part.channels is None})
    outputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.TensorProto.FLOAT, (1, channels, size[0] // scale.stride, size[1] // scale.stride)
        )
        for scale in head.detector.scales
        for name, channels in head.detector.channels(scale).items()
    ]
    return cut_to(result, outputs)


def prove(
    whole: onnx.ModelProto,
    part: onnx.ModelProto,
    head: Head,
    origin: str,
    *,
    size: tuple[int, int],
    value_range: tuple[float, float],
) -> float:
    """Return the largest difference between a network and the cut one, with its boxes decoded.

    Compared are the values that became outputs, and the boxes and scores of every candidate where the network holds
    them; on seeded noise, in pixels, or as a share of a value above 1.

    Raises:
        ModelFileError: they differ by more than ``TOLERANCE``.
    """
    image, shape = image_input(whole, origin)
    held = head.decoded.values if head.decoded else ()
    names = tuple(dict.fromkeys([*held, *(output.value for output in head.parts.values())]))
    opened, cut_opened = open_exposed(whole, names), session(part.SerializeToString())
    outputs = [value.name for value in part.graph.output]
    worst = 0.0
    for seed in SEEDS:
        noise = {image: np.random.default_rng(seed).uniform(*value_range, shape).astype(np.float32)}
        own = opened.run(list(names), noise)
        maps = dict(zip(outputs, cut_opened.run(outputs, noise), strict=True))
        apart = _apart(head, dict(zip(names, own, strict=True)), maps, size)
        if not apart <= TOLERANCE:
            raise ModelFileError(
                f"{origin}: cut at its head it gives other boxes: they differ from {', '.join(held or names)} by up "
                f"to {apart:.2g}, in pixels or as a share",
                expected=f"its own boxes, within {TOLERANCE:g}",
                remedy="say in the model's YAML, as detector, how its boxes are coded; or --task raw takes its outputs "
                "as they are",
            )
        worst = max(worst, apart)
    return worst


def _apart(
    head: Head, own: Mapping[str, NDArray[np.float32]], maps: Mapping[str, Floats], size: tuple[int, int]
) -> float:
    decoded = head.decoded
    outputs = max(error(maps[name], part.of(own)) for name, part in head.parts.items())
    if decoded is None:
        return outputs
    if decoded.form == "maps":
        scale = head.detector.scales[0]
        sides, heat, *offsets = decoded.values
        pairs = [(own[sides], maps[scale.boxes])]
        pairs += [(own[name], maps[scale.offsets]) for name in offsets if scale.offsets]
        logits = maps[scale.scores]
        heats = min(error(own[heat], logits), heat_error(own[heat], logits))
        return max(outputs, heats, *(error(a, b) for a, b in pairs))
    found = table([own[name] for name in decoded.values])
    tables = expected(list(maps.values()), list(maps), head.detector, size)
    wanted = next(rows for form, rows in tables if evolve(form, values=decoded.values) == decoded)
    return float("inf") if found is None else max(outputs, table_error(found, wanted))


def _rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    graph = model.graph
    for node in graph.node:
        for values in (node.input, node.output):
            for place, value in enumerate(values):
                if value in names:
                    values[place] = names[value]
    for item in (*graph.value_info, *graph.initializer, *graph.input, *graph.output):
        item.name = names.get(item.name, item.name)


def _split(model: onnx.ModelProto, name: str, part: Part, channels: Sequence[int]) -> None:
    """Add an output that holds some channels of a value: a convolution with their share of the weights."""
    import onnx

    graph = model.graph
    view = View(model)
    chain = [view.producer(part.value)]
    while chain[-1] is not None and chain[-1].op_type in ("Mul", "Add"):
        inner = next((value for value in chain[-1].input if view.tensor(value) is None), "")
        chain.append(view.producer(inner))
    convolution = chain[-1]
    picked = np.asarray(channels)
    if convolution is None or convolution.op_type != "Conv" or view.attribute(convolution, "group", 1) != 1:
        made = view.producer(part.value)
        where = add_constant(graph, f"{name}_channels", picked)
        node = onnx.helper.make_node("Gather", [part.value, where], [name], name=f"{name}_split", axis=1)
        graph.node.insert(list(graph.node).index(made) + 1, node)
        return
    weights = view.tensor(convolution.input[1]).astype(np.float64)
    bias = np.zeros(len(weights))
    if len(convolution.input) > 2 and convolution.input[2]:
        bias = view.tensor(convolution.input[2]).astype(np.float64)
    for step in filter(None, reversed(chain[:-1])):
        factor = next(value for value in map(view.tensor, step.input) if value is not None).reshape(-1)
        if step.op_type == "Mul":
            weights, bias = weights * factor[:, None, None, None], bias * factor
        else:
            bias = bias + factor
    own = onnx.NodeProto()
    own.CopyFrom(convolution)
    own.name, own.output[0] = f"{convolution.name or part.value}_{name}", name
    taken = [
        add_constant(graph, f"{name}_{what}", values[picked].astype(np.float32))
        for what, values in (("weight", weights), ("bias", bias))
    ]
    del own.input[1:]
    own.input.extend(taken)
    insert(graph, convolution, own)
