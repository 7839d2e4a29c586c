"""What must hold of a simplified graph; each check says in a sentence why it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edge.errors import ModelFileError
from edge.graph.files import facts
from edge.prepare.normal_form import OPSETS, opset_of
from edge.prepare.patterns import count_patterns

if TYPE_CHECKING:
    import onnx
from edge.graph.compare import Rejected

# Operators that may stand in for each other; within a group only the sum may not grow.
_GROUPS = (("Reshape", "Flatten", "Squeeze", "Unsqueeze"), ("MatMul", "Gemm"), ("Constant", "Identity"))
_FREE = "Constant"


def check_contract(candidate: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Check what the compiler asks for: a valid static graph, its opset, the same inputs and outputs.

    Raises:
        Rejected: why not.
    """
    import onnx

    try:
        onnx.checker.check_model(candidate)
        found = facts(candidate)
    except (onnx.checker.ValidationError, ModelFileError) as error:
        raise Rejected(f"it is no valid static graph: {' '.join(str(error).split())[:160]}") from error
    if opset_of(candidate) not in OPSETS:
        raise Rejected(f"it has opset {opset_of(candidate)}, the compiler takes 10 or 11")
    wanted = facts(original)
    if (found.input_name, found.input_shape) != (wanted.input_name, wanted.input_shape):
        raise Rejected(f"its input became {found.input_name!r} {found.input_shape}")
    if [v.name for v in candidate.graph.output] != [v.name for v in original.graph.output]:
        raise Rejected(f"its outputs became {', '.join(v.name for v in candidate.graph.output)}")


def check_patterns(candidate: onnx.ModelProto, before: Mapping[str, int]) -> None:
    """Check that no pattern is lost that the compiler fuses.

    Raises:
        Rejected: which were lost.
    """
    after = count_patterns(candidate)
    lost = [f"{n - after[name]} of {n} {name}" for name, n in before.items() if after[name] < n]
    if lost:
        raise Rejected(f"it hides from the compiler {', '.join(lost)}")


def check_operators(candidate: onnx.ModelProto, normal: onnx.ModelProto) -> None:
    """Check that no kind of operator became more frequent: a simplifier is to take nodes away.

    One that folds a MatMul's bias between two new Reshapes made an EdgeNeXt 78 Reshapes and 73 Transposes
    longer on the BPU.

    Raises:
        Rejected: which grew.
    """
    before, after = (_kinds(model) for model in (normal, candidate))
    grown = [
        f"{after[kind] - before[kind]} more {kind}"
        for kind in sorted(after)
        if after[kind] > before[kind] and kind != _FREE
    ]
    if grown:
        raise Rejected(f"it has {', '.join(grown)}")


def _kinds(model: onnx.ModelProto) -> Counter[str]:
    group = {kind: kinds[0] for kinds in _GROUPS for kind in kinds}
    return Counter(group.get(node.op_type, node.op_type) for node in model.graph.node)
