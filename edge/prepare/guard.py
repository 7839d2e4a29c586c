"""The proof that every change of a graph goes through: contract, patterns, operators and outputs stay.

A :class:`Guard` holds what a candidate is compared with; a check that fails raises :class:`Rejected`, whose
message is one sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from edge.errors import ModelFileError
from edge.graph.files import facts, inputs_of, opset_of, refusals, session
from edge.prepare.normal_form import OPSETS
from edge.prepare.patterns import count_patterns

if TYPE_CHECKING:
    import onnx

SEEDS = (0, 1, 2, 3)  # one random input each
# The largest input value of an image with ImageNet's mean and std: (1 - 0.406) / 0.225 = 2.64.
VALUE_RANGE = (-2.64, 2.64)
TOLERANCE = 1e-4  # of the range of an output: float32 sums in another order differ far less
# Operators that may replace each other; within a group only the total count must not grow.
_GROUPS = (("Reshape", "Flatten", "Squeeze", "Unsqueeze"), ("MatMul", "Gemm"), ("Constant", "Identity"))
_FREE = "Constant"


@frozen
class Reference:
    """The original model's outputs for the random inputs."""

    #: input name -> float32 of its shape: one mapping per seed, then the further ones.
    inputs: tuple[Mapping[str, NDArray[np.float32]], ...]
    outputs: tuple[list[Any], ...]  #: one list of arrays per input.

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs."""
        return [array.shape for array in self.outputs[0]]


class Rejected(Exception):  # noqa: N818 - a verdict, caught by the stage
    """A candidate breaks a rule; the message says which."""


@frozen
class Guard:
    """What a candidate is compared with."""

    original: onnx.ModelProto  #: its inputs, outputs and contract must stay.
    expected: Reference  #: its outputs.
    baseline: onnx.ModelProto  #: its patterns must stay, and no kind of operator may become more frequent.

    @property
    def patterns(self) -> dict[str, int]:
        """The baseline's patterns that the compiler fuses; see :func:`edge.prepare.patterns.count_patterns`."""
        return count_patterns(self.baseline)

    def of_maps(self) -> Guard:
        """Return the guard of a model whose outputs are maps of one pixel in place of rows."""
        outputs = tuple([array[..., None, None] for array in arrays] for arrays in self.expected.outputs)
        return evolve(self, expected=evolve(self.expected, outputs=outputs))

    def prove(self, candidate: onnx.ModelProto, *, operators: bool = False) -> float:
        """Return the largest absolute difference of the candidate's outputs.

        Args:
            operators: also check that no kind of operator became more frequent.

        Raises:
            Rejected: it computes something else, or is worse for the compiler.
        """
        check_contract(candidate, self.original)
        check_patterns(candidate, self.patterns)
        if operators:
            check_operators(candidate, self.baseline)
        return max_error(candidate, self.expected)


@contextmanager
def refused(what: str, *, expected: str, remedy: str) -> Iterator[None]:
    """Turn a :class:`Rejected` into the ModelFileError of a stage; ``what`` starts its message."""
    try:
        yield
    except Rejected as verdict:
        raise ModelFileError(f"{what}: {verdict}", expected=expected, remedy=remedy) from verdict


def reference(
    model: onnx.ModelProto,
    origin: Path,
    value_range: tuple[float, float] = VALUE_RANGE,
    further: Sequence[NDArray[np.float32]] = (),
) -> Reference:
    """Run the original on seeded random inputs.

    Args:
        model: from ``read_model``.
        value_range: lowest and highest input value that the network sees.
        further: more inputs of its shape.

    Raises:
        ModelFileError: onnxruntime can't run it, or all its outputs are nan or infinite.
    """
    shapes_of = inputs_of(model, str(origin))
    low, high = value_range

    def noise(seed: int) -> dict[str, NDArray[np.float32]]:
        random = np.random.default_rng(seed)
        return {name: random.uniform(low, high, shape).astype(np.float32) for name, shape in shapes_of}

    inputs = (*map(noise, SEEDS), *({shapes_of[0][0]: value} for value in further))
    with refusals(
        f"onnxruntime can't run {origin}",
        expected="a model of standard operators",
        remedy="export it again, from torch with opset_version=11, dynamo=False",
    ):
        outputs = _run(model, inputs)
    shapes = {tuple(array.shape for array in arrays) for arrays in outputs}
    if len(shapes) > 1:
        seen = " or ".join(sorted(map(str, shapes)))
        raise ModelFileError(
            f"{origin}: the shape of its outputs depends on the image: {seen}",
            expected="outputs of a static shape",
            remedy="remove nodes that select results, such as NonMaxSuppression, and do that on the CPU afterwards",
        )
    if not any(np.isfinite(array).any() for arrays in outputs for array in arrays):
        raise ModelFileError(
            f"{origin} answers with nan or infinity only",
            expected="finite outputs for finite inputs",
            remedy="check its weights",
        )
    return Reference(inputs, outputs)


def max_error(candidate: onnx.ModelProto, expected: Reference) -> float:
    """Return the largest absolute difference from the original, over all random inputs and outputs.

    Raises:
        Rejected: it can't run, or differs by more than TOLERANCE times the range of an output.
    """
    try:
        outputs = _run(candidate, expected.inputs)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise Rejected(f"onnxruntime can't run it: {' '.join(str(error).split())[:160]}") from error
    worst = 0.0
    for wanted, found in zip(expected.outputs, outputs, strict=True):
        for place, (a, b) in enumerate(zip(wanted, found, strict=True)):
            if a.shape != b.shape:
                raise Rejected(f"output {place} has the shape {b.shape}, not {a.shape}")
            finite = np.isfinite(a)
            if (finite != np.isfinite(b)).any():
                raise Rejected(f"output {place} is nan or infinite where the original is not")
            if not finite.any():
                continue
            exact, near = a[finite].astype(np.float64), b[finite].astype(np.float64)
            apart = float(np.abs(exact - near).max())
            # A constant output has no range; then its magnitude is the scale.
            span = float(np.ptp(exact)) or float(np.abs(exact).max())
            if apart > TOLERANCE * span:
                raise Rejected(f"output {place} differs by {apart:.2g}, of a range of {span:.2g}")
            worst = max(worst, apart)
    return worst


def _run(model: onnx.ModelProto, inputs: Sequence[Mapping[str, NDArray[np.float32]]]) -> tuple[list[Any], ...]:
    opened = session(model.SerializeToString())
    return tuple(opened.run(None, dict(feed)) for feed in inputs)


def check_contract(candidate: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Check what the compiler needs: a valid static graph, its opset, the same inputs and outputs.

    Raises:
        Rejected: why not.
    """
    import onnx

    try:
        onnx.checker.check_model(candidate)
        found = facts(candidate)
    except (onnx.checker.ValidationError, ModelFileError) as error:
        raise Rejected(f"it is not a valid static graph: {' '.join(str(error).split())[:160]}") from error
    if opset_of(candidate) not in OPSETS:
        raise Rejected(f"it has opset {opset_of(candidate)}, the compiler takes 10 or 11")
    wanted = facts(original)
    if found.all_inputs != wanted.all_inputs:
        became = ", ".join(f"{name!r} {shape}" for name, shape in found.all_inputs)
        raise Rejected(f"its input became {became}")
    if [v.name for v in candidate.graph.output] != [v.name for v in original.graph.output]:
        raise Rejected(f"its outputs became {', '.join(v.name for v in candidate.graph.output)}")


def check_patterns(candidate: onnx.ModelProto, before: Mapping[str, int]) -> None:
    """Check that no pattern that the compiler fuses is lost.

    Raises:
        Rejected: which were lost.
    """
    after = count_patterns(candidate)
    lost = [f"{n - after[name]} of {n} {name}" for name, n in before.items() if after[name] < n]
    if lost:
        raise Rejected(f"the compiler can no longer fuse {', '.join(lost)}")


def check_operators(candidate: onnx.ModelProto, normal: onnx.ModelProto) -> None:
    """Check that no kind of operator became more frequent: a simplifier should only remove nodes.

    One simplifier wrapped each MatMul's bias in two Reshapes, which added 78 Reshapes and 73 Transposes to an
    EdgeNeXt on the BPU.

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
