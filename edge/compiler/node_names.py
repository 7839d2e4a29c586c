"""Names by which the compiler knows a model's nodes.

``node_info`` uses the names after the compiler's optimiser has run; most of them are the float model's names.
Measured on the optimised models of hb_mapper 1.24.3:

==============================  ==================================================================
float node                      after the optimiser
==============================  ==================================================================
``X`` = Div by a tensor         ``X_reciprocal`` and ``X_mul``
``X`` = Div by a constant       ``X_mul``
``X`` = Div of a constant       ``X_reciprocal``
Sqrt read by a Div ``X``        part of ``X_reciprocal`` (LayerNorm)
GELU: Div, Erf, Add, Mul, Mul   the last Mul
Constant, Identity, Dropout     nothing
Gemm ``X`` at the end           ``X`` and ``X_transpose_output_reshape``, which runs on the CPU
MatMul ``X`` at the end         ``X`` and ``X_transpose_0_reshape``, which runs on the CPU
the input ``x``                 ``HZ_PREPROCESS_FOR_x``
==============================  ==================================================================
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import frozen

from edge.graph.files import GraphFacts

if TYPE_CHECKING:
    import onnx
from collections.abc import Iterable

from attrs import evolve

from edge.errors import SpecError
from edge.specs import NodePrecision, Precision

RECIPROCAL, MUL = "_reciprocal", "_mul"
DROPPED = ("Constant", "Identity", "Dropout")
EXTRA = {"Gemm": "_transpose_output_reshape", "MatMul": "_transpose_0_reshape"}
SUFFIXES = (RECIPROCAL, MUL, *EXTRA.values())
GELU = ("Add", "Div", "Erf", "Mul", "Mul")


@frozen(eq=False)
class NodeNames:
    """The names that a setting may use."""

    operators: Mapping[str, str]  #: float node -> operator; '' if unknown.
    heirs: Mapping[str, tuple[str, ...]]  #: float node that the optimiser replaces -> the nodes in its place.
    known: tuple[str, ...]  #: every name that takes a setting, in graph order.

    @classmethod
    def of(cls, graph: GraphFacts, model: onnx.ModelProto | None = None) -> NodeNames:
        """Work out the names.

        Args:
            graph: facts of the float model.
            model: the model itself. Without it, the operator is read from the node's name, where exporters
                often put it (``…/norm/Div``, ``Div_12``).
        """
        if model is not None:
            operators = {node.name: node.op_type for node in model.graph.node if node.name}
        else:
            operators = {name: operator_in(name) for name in graph.node_names if name}
        heirs = _heirs(operators, model)
        known: dict[str, None] = {f"HZ_PREPROCESS_FOR_{name}": None for name, _ in graph.all_inputs}
        for name, operator in operators.items():
            known.update(dict.fromkeys(heirs.get(name, (name,))))
            if operator in EXTRA:
                known[name + EXTRA[operator]] = None
        return cls(operators=operators, heirs=heirs, known=tuple(known))

    def __contains__(self, name: str) -> bool:
        """Tell whether a node of the float or of the optimised model may have this name."""
        if name in self.operators or name in self.known:
            return True
        # A float node whose name does not tell its operator may be a Div, a Gemm or a MatMul.
        return any(name.endswith(end) and self.operators.get(name.removesuffix(end)) == "" for end in SUFFIXES)


def operator_in(name: str) -> str:
    """Return the operator at the end of an exporter's node name, or ''.

    ``/stages/stages.0/blocks/blocks.0/norm/ReduceMean_1`` gives ``ReduceMean``.
    """
    match = re.fullmatch(r"([A-Z][A-Za-z0-9]*)(_\d+)?", name.rsplit("/", 1)[-1])
    return match.group(1) if match else ""


def _heirs(operators: Mapping[str, str], model: onnx.ModelProto | None) -> dict[str, tuple[str, ...]]:
    heirs: dict[str, tuple[str, ...]] = {}
    for name, operator in operators.items():
        if operator in DROPPED:
            heirs[name] = ()
        elif operator == "Div":
            heirs[name] = (name + RECIPROCAL, name + MUL)
    if model is not None:
        heirs.update(_divs_of_constants(model))
    # Modules of the network, as exporters write them: the folder part of a node's name.
    modules: dict[str, list[str]] = defaultdict(list)
    for name, operator in operators.items():
        if "/" in name and operator not in DROPPED:
            modules[name.rpartition("/")[0]].append(name)
    for members in modules.values():
        divs = [name for name in members if operators[name] == "Div"]
        roots = [name for name in members if operators[name] == "Sqrt"]
        if len(divs) == len(roots) == 1:
            heirs[roots[0]] = (divs[0] + RECIPROCAL,)
        if tuple(sorted(operators[name] for name in members)) == GELU:
            last = next(name for name in reversed(members) if operators[name] == "Mul")
            heirs.update({name: (last,) for name in members if name != last})
    return heirs


def _divs_of_constants(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    found: dict[str, tuple[str, ...]] = {}
    for node in model.graph.node:
        if node.op_type == "Div" and node.input[1] in constants:
            found[node.name] = (node.name + MUL,)
        elif node.op_type == "Div" and node.input[0] in constants:
            found[node.name] = (node.name + RECIPROCAL,)
    return found


ANY = "*"


def fits(pattern: str, name: str) -> bool:
    """Tell whether a node's name fits a pattern, in which ``*`` stands for any text, ``/`` included."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split(ANY))), name) is not None


def setting(precision: Precision, name: str, whole: str = "") -> NodePrecision | None:
    """Return what a recipe sets for a node: under its own name, else by the last pattern that fits it.

    Args:
        whole: the node that stage split made it of; what is set for that one holds too.
    """
    if (own := precision.nodes.get(name, precision.nodes.get(whole))) is not None:
        return own
    found = [node for key, node in precision.nodes.items() if ANY in key and (fits(key, name) or fits(key, whole))]
    return found[-1] if found else None


def _wholes(precision: Precision, names: NodeNames) -> dict[str, str]:
    """Return each known node, and the one that stage split made it of: ``X`` for ``X_g0``, else itself."""
    found = dict(zip(names.known, names.known, strict=True))
    if precision.range_split is not None:
        before = {name: re.sub(r"_g\d+$", "", name) for name in names.known}
        found |= {name: whole for name, whole in before.items() if whole not in names}
    return found


def expanded(precision: Precision, names: NodeNames) -> Precision:
    """Return the recipe with its patterns, and nodes that were split, replaced by the nodes that they stand for.

    Raises:
        SpecError: a pattern fits no node: the recipe was made for another network.
    """
    patterns = [key for key in precision.nodes if ANY in key]
    if not patterns and precision.range_split is None:
        return precision
    wholes = _wholes(precision, names)
    for pattern in patterns:
        if not any(fits(pattern, name) for name in {*wholes, *wholes.values()}):
            raise SpecError(
                f"recipe {precision.name}: no node of this network fits {pattern!r}",
                expected=f"names such as {', '.join(names.known[1:4])}",
                remedy="--precision int8, or a recipe made for this network",
            )
    gone = set(wholes.values()) - set(wholes)
    plain = {key: node for key, node in precision.nodes.items() if ANY not in key and key not in gone}
    fitting = {name: node for name, whole in wholes.items() if (node := setting(precision, name, whole)) is not None}
    return evolve(precision, nodes={**fitting, **plain})


# Setting an input type moves this operator from the CPU to the BPU: Softmax.
_INPUT = re.compile(r"set_([A-Za-z0-9]+)_input_int(8|16)")
_SOFTMAX = ("quantize_softmax", "run_fast")
SOFTMAX_RECIPE = "int8_softmax_int16"


def moves(precision: Precision, name: str, operator: str) -> bool:
    """Tell whether a recipe puts a node on the BPU.

    Args:
        operator: of the node, as in the compiler's table.
    """
    node = setting(precision, name)
    if node is not None and (node.on or node.inputs):
        return node.on != "CPU"
    items = precision.calibration.optimization
    kinds = {found.group(1) for item in items if (found := _INPUT.fullmatch(item))}
    if any(item in _SOFTMAX for item in items):
        kinds.add("Softmax")
    return operator in kinds


def left_inside(precision: Precision, nodes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the names of CPU nodes inside the network that the recipe does not move; ``nodes``: (name, operator)."""
    return tuple(name for name, operator in nodes if not moves(precision, name, operator))
