"""What a network's outputs are: which of its values are the class scores, and how these are to be read."""

from __future__ import annotations

import difflib
import math
import shlex
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from edge.errors import ModelFileError, counted
from edge.graph.cut import cut_to
from edge.graph.files import values_of
from edge.graph.view import View
from edge.specs.schema import Output, ScoreKind

if TYPE_CHECKING:
    import onnx

# Operators that leave the scores as they are, and those that pick some of them or keep them within bounds.
SHAPE_ONLY = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose", "Cast"})
PICKING = frozenset({"Slice", "Gather", "Clip", "Dropout"})
# Operators that choose among the scores and give numbers of classes, and those that stand in front of the scores.
_CHOOSING = frozenset({"TopK", "ArgMax", "ArgMin", "ZipMap", "Hardmax"})
_LAYERS = frozenset({"Gemm", "MatMul", "Conv"})
_FLOATS = ("float32", "float16", "float64")
# What the outputs of a network may hold that is not a classifier.
NUMBERS = (*_FLOATS, "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")
_KINDS: dict[str, ScoreKind] = {"Softmax": "softmax", "Sigmoid": "sigmoid", "HardSigmoid": "sigmoid"}


def above(view: View, name: str, past: Collection[str] = SHAPE_ONLY) -> tuple[str, onnx.NodeProto | None]:
    """Return what a value comes of, and its node, past operators that leave the numbers as they are."""
    node = view.producer(name)
    while node is not None and node.op_type in past:
        name = node.input[0]
        node = view.producer(name)
    return name, node


def score_kind(model: onnx.ModelProto, name: str | None = None) -> ScoreKind:
    """Return what a network's scores are, from the operators that make them; ``name`` is the first output's if None.

    Log-probabilities count as logits: their softmax gives the probabilities back.
    """
    return _kind(View(model), name or model.graph.output[0].name)


def _kind(view: View, name: str) -> ScoreKind:
    node = above(view, name, SHAPE_ONLY | PICKING)[1]
    if node is None:
        return "logits"
    if node.op_type == "Concat":
        kinds = {_kind(view, part) for part in node.input}
        return kinds.pop() if len(kinds) == 1 else "logits"
    if node.op_type == "Sub" and view.constant(node.input[0]) == 1:  # 1 - p beside p: two classes by one Sigmoid
        return _kind(view, node.input[1])
    return "softmax" if _divides_exponentials(view, node) else _KINDS.get(node.op_type, "logits")


def _divides_exponentials(view: View, node: onnx.NodeProto) -> bool:
    """Tell whether a node is the end of a softmax in single operators: exp(x) / sum(exp(x))."""
    if node.op_type != "Div":
        return False
    power, total = (view.producer(name) for name in node.input)
    return (
        power is not None
        and total is not None
        and (power.op_type, total.op_type) == ("Exp", "ReduceSum")
        and view.producer(total.input[0]) == power
    )


def _row(value: Output) -> bool:
    """Tell whether a value looks like one row of class scores."""
    count = math.prod(value.shape)
    return value.dtype in _FLOATS and count >= 2 and count == max(value.shape)


def named_outputs(
    model: onnx.ModelProto, origin: str, names: str | None = None
) -> tuple[onnx.ModelProto, tuple[Output, ...]]:
    """Return the network up to some of its values, and what these are.

    Args:
        origin: what messages call the model.
        names: of any values of the graph, with commas between them; None keeps the outputs as they are.

    Raises:
        ModelFileError: no such value, or one that is no array of numbers.
    """
    wanted = [value.name for value in model.graph.output]
    if names is not None:
        wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
        for name in wanted:
            _require_value(model, origin, name)
    found = _values(model, wanted, origin)
    for value in found:
        if value.dtype not in NUMBERS:
            raise ModelFileError(
                f"{origin}: the output {value} is no array of numbers",
                expected=f"outputs of {', '.join(NUMBERS)}",
                remedy="--output NAME,NAME   takes other values of its graph",
            )
        if not value.shape or not math.prod(value.shape):
            raise ModelFileError(
                f"{origin}: the output {value.name} is {'empty' if value.shape else 'a scalar'}",
                expected="outputs with axes and values, such as 1x1 or 1x255x20x20",
                remedy="--output NAME,NAME   takes other values of its graph",
            )
    kept = [value.name for value in model.graph.output]
    return (model if wanted == kept else _cut(model, found)), tuple(found)


def scores_only(model: onnx.ModelProto, origin: str, output: str | None = None) -> onnx.ModelProto:
    """Return the network up to its class scores; the model itself where they are all that it gives.

    Args:
        origin: what messages call the model.
        output: name of the scores, any value of the graph; None takes the one output that looks like class scores.

    Raises:
        ModelFileError: no such value, or which output holds the scores is not plain.
    """
    outputs = [value.name for value in model.graph.output]
    view = View(model)
    if output is None:
        if len(outputs) <= 1 and _before_choosing(view, outputs) is None:
            return model
        found = _values(model, outputs, origin)
        rows = [value for value in found if _row(value) and not _chosen(view, value.name)]
        if len(rows) != 1:
            raise _not_plain(view, origin, found, rows)
        (value,) = rows
    else:
        _require_value(model, origin, output)
        (value,) = _values(model, [output], origin)
        if value.dtype not in _FLOATS:
            raise ModelFileError(
                f"--output {output}: it holds {value.dtype}",
                expected="scores, which are floats",
                remedy="name the value in front of the operator that chooses among them",
            )
    return model if outputs == [value.name] else _cut(model, [value])


def _require_value(model: onnx.ModelProto, origin: str, name: str) -> None:
    """Fail unless the graph computes a value of that name."""
    known = [value for node in model.graph.node for value in node.output if value]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        outputs = ", ".join(value.name for value in model.graph.output)
        raise ModelFileError(
            f"--output {name}: {origin} computes no value of that name",
            expected=f"one of its outputs ({outputs}), or another name of a value in its graph",
            remedy=f"--output {shlex.quote(near[0])}" if near else None,
        )


def _chosen(view: View, name: str) -> bool:
    """Tell whether a value is what an operator chose among the scores."""
    node = above(view, name)[1]
    return node is not None and node.op_type in _CHOOSING


def _not_plain(view: View, origin: str, found: Sequence[Output], rows: Sequence[Output]) -> ModelFileError:
    listed = ", ".join(map(str, found))
    before = _before_choosing(view, [value.name for value in found])
    if not rows and before is not None:
        operator, name = before
        return ModelFileError(
            f"{origin} ends with {operator}, which gives classes instead of their scores; its outputs: {listed}",
            expected="one row of class scores, such as 1x1000: edge and the board's code rank them",
            remedy=f"--output {shlex.quote(name)}   takes the scores in front of {operator}",
        )
    names = " or ".join(value.name for value in rows) or "any float value of its graph"
    return ModelFileError(
        f"{origin} has {counted(len(found), 'output')}, and which of them holds the class scores is "
        f"not plain: {listed}",
        expected="exactly one float output of one row, such as 1x1000",
        remedy=f"--output NAME, where NAME is {names}",
    )


def _before_choosing(view: View, names: Sequence[str]) -> tuple[str, str] | None:
    """Return the nearest operator that chooses among scores, and the scores' name, going up from the outputs."""
    seen, left = set(names), list(names)
    while left:
        node = view.producer(left.pop(0))
        if node is None or node.op_type in _LAYERS:
            continue
        if node.op_type in _CHOOSING:
            return node.op_type, node.input[0]
        fresh = [name for name in node.input if name not in seen]
        seen.update(fresh)
        left += fresh
    return None


def _values(model: onnx.ModelProto, names: Sequence[str], origin: str) -> list[Output]:
    """Return type and shape of values, as a run tells them: files often leave them open."""
    import numpy as np

    results = values_of(model, names, origin)
    return [
        Output(name, tuple(map(int, result.shape)), str(result.dtype))
        if isinstance(result, np.ndarray)
        else Output(name, (), type(result).__name__)
        for name, result in zip(names, results, strict=True)
    ]


def _cut(model: onnx.ModelProto, values: Sequence[Output]) -> onnx.ModelProto:
    """Return the part of a network that makes some values, which become its only outputs."""
    import numpy as np
    import onnx

    kinds = [onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype)) for value in values]
    return cut_to(
        model,
        [
            onnx.helper.make_tensor_value_info(value.name, kind, value.shape)
            for value, kind in zip(values, kinds, strict=True)
        ],
    )
