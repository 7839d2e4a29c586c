"""Which node of the network the compiler refuses, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import frozen

from edge.compiler import logs

_UNKNOWN = re.compile(r"not support these cpu operators: *([^\n]+)")
_LIMITED = re.compile(
    r"The node name is (\S+) and the node type is (\w+)\. Constraints exist[^\n]*\n[^\n]*error info: *(.+)"
)
_PASS = re.compile(r"Error Node Info\(name:(.*?); kind:(\w+)\)\.?\s*\nError Pass\((\w+)\)")
_SUBGRAPH = re.compile(r"Only allow to append input for main graph")
_MOST = 3  # nodes that are named

# Operators that the compiler refuses -> what computes the same, or where else to compute it.
_INSTEAD: Mapping[str, str] = {
    "CumSum": "give its axis as int32: the CPU runtime refuses int64",
    "Det": "compute the determinant behind the program, or write it out as products and sums",
    "Hardmax": "give out the scores themselves: the largest is found behind the program",
    "MeanVarianceNormalization": "write InstanceNormalization, or ReduceMean, Sub, Mul, Sqrt and Div",
    "NonMaxSuppression": "give out boxes and scores: they are selected behind the program",
    "NonZero": "multiply with a mask instead of taking places out, or select behind the program",
    "Shrink": "write x - Clip(x, -lambd, lambd) for lambd = bias",
}
_OTHERWISE = (
    "write it with operators that the compiler has, such as Conv, MatMul, Add, Mul, Resize or Slice, or end the "
    "network in front of it and compute the rest behind the program"
)


@frozen
class Refusal:
    """A node, or nodes of one kind, that the compiler refuses."""

    cause: str  #: names operators and nodes.
    remedy: str  #: what to write instead.


def refusal(plain: str) -> Refusal | None:
    """Return what a log says of refused nodes; None if it names none.

    Args:
        plain: console text without escape codes.
    """
    if found := _UNKNOWN.search(plain):
        operators = [name for name in re.split(r"[,\s]+", found[1].strip(" .[]")) if name]
        rows = logs.nodes(plain)
        shown = [f"{name}{_places([row.name for row in rows if row.type == name])}" for name in operators]
        remedies = dict.fromkeys(_INSTEAD.get(name, _OTHERWISE) for name in operators)
        return Refusal(f"neither the BPU nor its CPU runtime has {', '.join(shown)}", "; ".join(remedies))
    if found := _LIMITED.search(plain):
        return Refusal(
            f"{found[2]} of node {found[1]!r}: {found[3].strip()}",
            _INSTEAD.get(found[2], f"change what this names, or {_OTHERWISE}"),
        )
    if found := _PASS.search(plain):
        operator = re.sub(r"^Hz(?:Pre)?S?|Quant(?:ized)?", "", found[2])
        return Refusal(
            f"its pass {found[3]} fails at {operator} of node {found[1]!r}",
            "check the number of axes: the BPU convolves and pools images, of four; else " + _OTHERWISE,
        )
    if _SUBGRAPH.search(plain):
        return Refusal(
            "the network holds a loop or a branch (Loop, If or Scan)",
            "export it without: torch.onnx.export of the model itself, not of torch.jit.script(model), and no "
            "loop over what depends on the image",
        )
    return None


def _places(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f" (node{'s' * (len(names) > 1)} {', '.join(map(repr, names[:_MOST]))}{more})"
