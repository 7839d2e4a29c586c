"""Count the operator patterns that the compiler fuses into one operator.

If a simplifier moves a constant out of a pattern, the compiler no longer sees it, and the graph gets slower. Each rule
here was found by compiling networks of one pattern with hb_mapper 1.24.3 and reading its node table. Forms that it
does not fuse (a GELU with x * 0.5 first or by tanh, a Softmax written with Exp) are not counted. Every value inside a
pattern must have one reader: with a second one the compiler does not fuse it, or even fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from edge.graph.view import View

if TYPE_CHECKING:
    import onnx

# The compiler takes 1.41421354 but not 1.4142, 0.16667 but not 0.1667, not 3.0001, not 0.5001.
_CLOSE = 1e-5
_GELU_ROOT = math.sqrt(2)


def count_patterns(model: onnx.ModelProto) -> dict[str, int]:
    """Return how often each pattern occurs.

    Args:
        model: a checked model; shapes need not be inferred, but depth_to_space, space_to_depth and
            channel_shuffle are only seen where the input's shape is known.

    Returns:
        All names of ``PATTERNS``, in their order, with a count of 0 or more.
    """
    view = View(model)
    return {
        name: sum(matches(view, node) for node in view.nodes if node.op_type in starts)
        for name, (starts, matches) in PATTERNS.items()
    }


def gelu(view: View, node: onnx.NodeProto) -> bool:
    """Match x/sqrt2 → Erf → +1 → *x → *0.5, in this order; terms of a sum or product may be swapped."""
    divide = view.inner(node.input[0], "Div")
    if divide is None or not _is(view.constant(divide.input[1]), _GELU_ROOT):
        return False
    x = view.source(divide.input[0])
    add = view.only_reader(node, "Add")
    if add is None or not _is(view.other_constant(add, node), 1.0):
        return False
    product = view.only_reader(add, "Mul")
    if product is None or view.other(product, add) != x:
        return False
    half = view.only_reader(product, "Mul")
    return half is not None and _is(view.other_constant(half, product), 0.5)


def hardswish(view: View, node: onnx.NodeProto) -> bool:
    """Match x * HardSigmoid(x), or x+3 → Clip 0..6 with *x and /6 (or *1/6) behind it in either order."""
    if node.op_type == "HardSigmoid":
        alpha, beta = view.attribute(node, "alpha", 0.2), view.attribute(node, "beta", 0.5)
        return _is(alpha, 1 / 6) and _is(beta, 0.5) and _times(view, node, view.source(node.input[0]))
    add = view.inner(node.input[0], "Add")
    if add is None or view.clip_range(node) != (0.0, 6.0):
        return False
    for term in (0, 1):
        if _is(view.constant(add.input[term]), 3.0):
            x = view.source(add.input[1 - term])
            break
    else:
        return False
    reader = view.only_reader(node)
    if reader is None:
        return False
    if _sixth(view, reader, node):
        return _times(view, reader, x)
    if reader.op_type != "Mul" or view.other(reader, node) != x:
        return False
    last = view.only_reader(reader)
    return last is not None and _sixth(view, last, reader)


def swish(view: View, node: onnx.NodeProto) -> bool:
    """Match x * Sigmoid(x)."""
    return _times(view, node, view.source(node.input[0]))


def mish(view: View, node: onnx.NodeProto) -> bool:
    """Match x * Tanh(Softplus(x))."""
    tanh = view.only_reader(node, "Tanh")
    return tanh is not None and _times(view, tanh, view.source(node.input[0]))


def rsqrt(view: View, node: onnx.NodeProto) -> bool:
    """Match LayerNorm's division by a Sqrt, with or without a constant added before the Sqrt."""
    before = view.producer(node.input[0])
    if before is not None and before.op_type == "Add":
        number = any(view.scalar(name) is not None for name in before.input)
        if not number or view.inner(node.input[0]) is None:
            return False
    reader = view.only_reader(node)
    if reader is None:
        return False
    if reader.op_type == "Div":
        return view.source(reader.input[1]) == view.source(node.output[0])
    return reader.op_type == "Reciprocal"


def power(view: View, node: onnx.NodeProto) -> bool:
    """Match Pow with a scalar exponent; with an exponent of shape [1] the compiler puts it on the CPU."""
    return view.scalar(node.input[1]) is not None and view.rank(node.input[1]) == 0


def operator(_view: View, _node: onnx.NodeProto) -> bool:
    """Match an operator that the compiler runs as one: it must not be split."""
    return True


def depth_to_space(view: View, node: onnx.NodeProto) -> bool:
    """Match DepthToSpace, or Reshape → Transpose → Reshape that does the same (DCR or CRD)."""
    if node.op_type == "DepthToSpace":
        return True
    shapes = _reshaped(view, node)
    if shapes is None or len(shapes[1]) != 6 or len(shapes[0]) != 4:
        return False
    (n, c, h, w), middle, perm, after = shapes
    if perm == [0, 1, 4, 2, 5, 3]:  # CRD
        _, depth, block, also, *rest = middle
    elif perm == [0, 3, 4, 1, 5, 2]:  # DCR
        _, block, also, depth, *rest = middle
    else:
        return False
    whole = depth * block * block == c and block == also and rest == [h, w]
    return whole and after == [n, depth, h * block, w * block]


def space_to_depth(view: View, node: onnx.NodeProto) -> bool:
    """Match SpaceToDepth, or Reshape → Transpose → Reshape that does the same (block before channel)."""
    if node.op_type == "SpaceToDepth":
        return True
    shapes = _reshaped(view, node)
    if shapes is None or len(shapes[1]) != 6 or len(shapes[0]) != 4 or shapes[2] != [0, 3, 5, 1, 2, 4]:
        return False
    (n, c, h, w), middle, _, after = shapes
    block = middle[3]
    if block < 1 or h % block or w % block or middle != [n, c, h // block, block, w // block, block]:
        return False
    return after == [n, c * block * block, h // block, w // block]


def channel_shuffle(view: View, node: onnx.NodeProto) -> bool:
    """Match N,C,H,W → N,g,C/g,H,W → groups and channels swapped → N,C,H,W."""
    shapes = _reshaped(view, node)
    if shapes is None or len(shapes[1]) != 5 or len(shapes[0]) != 4 or shapes[2] != [0, 2, 1, 3, 4]:
        return False
    before, middle, _, after = shapes
    return before == after and [middle[0], middle[1] * middle[2], *middle[3:]] == before


# name -> the operators where a match may start, and the match
PATTERNS: Mapping[str, tuple[tuple[str, ...], Callable[[View, onnx.NodeProto], bool]]] = {
    "gelu": (("Erf",), gelu),
    "hardswish": (("HardSigmoid", "Clip"), hardswish),
    "hardsigmoid": (("HardSigmoid",), operator),
    "swish": (("Sigmoid",), swish),
    "mish": (("Softplus",), mish),
    "rsqrt": (("Sqrt",), rsqrt),
    "power": (("Pow",), power),
    "softmax": (("Softmax",), operator),
    "depth_to_space": (("DepthToSpace", "Transpose"), depth_to_space),
    "space_to_depth": (("SpaceToDepth", "Transpose"), space_to_depth),
    "channel_shuffle": (("Transpose",), channel_shuffle),
}


def _is(value: float | None, wanted: float) -> bool:
    return value is not None and abs(value - wanted) <= _CLOSE


def _times(view: View, node: onnx.NodeProto, x: str) -> bool:
    """Tell whether the only reader multiplies the node's value by x."""
    product = view.only_reader(node, "Mul")
    return product is not None and view.other(product, node) == x


def _sixth(view: View, node: onnx.NodeProto, value: onnx.NodeProto) -> bool:
    """Tell whether a node divides another node's value by six."""
    if node.op_type == "Div":
        divisor = view.constant(node.input[1])
        return divisor is not None and divisor != 0 and _is(1 / divisor, 1 / 6)
    return node.op_type == "Mul" and _is(view.other_constant(node, value), 1 / 6)


def _reshaped(
    view: View, node: onnx.NodeProto
) -> tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]] | None:
    """Return shape before, shape between, perm, shape after, of a Transpose between two Reshapes."""
    first, last = view.inner(node.input[0], "Reshape"), view.only_reader(node, "Reshape")
    if first is None or last is None:
        return None
    before = view.shape(first.input[0])
    middle = view.reshape_target(first, before)
    perm = list(view.attribute(node, "perm", ()))
    if before is None or middle is None or sorted(perm) != list(range(len(middle))):
        return None
    after = view.reshape_target(last, [middle[axis] for axis in perm])
    return (before, middle, perm, after) if after is not None else None
