"""A reference run and the largest difference of two graphs on seeded inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from edge.errors import ModelFileError
from edge.graph.files import image_input

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


SEEDS = (0, 1, 2, 3)  # one random input each


# What a picture becomes with ImageNet's mean and std at most: (1 - 0.406) / 0.225 = 2.64.
VALUE_RANGE = (-2.64, 2.64)


TOLERANCE = 1e-4  # of the range that an output spans: float32 sums in another order stay far below


@frozen
class Reference:
    """What the original model answers to the random inputs.

    Attributes:
        inputs: float32, one per seed and then the further ones, of the model's input shape.
        outputs: one list of arrays per input.
    """

    inputs: tuple[NDArray[np.float32], ...]
    outputs: tuple[list[Any], ...]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs."""
        return [array.shape for array in self.outputs[0]]


class Rejected(Exception):  # noqa: N818 - a verdict, caught by the stage
    """A candidate breaks a rule; the message says which."""


def reference(
    model: onnx.ModelProto,
    origin: Path,
    value_range: tuple[float, float] = VALUE_RANGE,
    further: Sequence[NDArray[np.float32]] = (),
) -> Reference:
    """Run the original on seeded random inputs.

    Args:
        model: from ``read_model``.
        origin: how to call it in messages.
        value_range: lowest and highest input value that the network sees.
        further: inputs of its shape to run it on besides.

    Raises:
        ModelFileError: onnxruntime can't run it, or it answers with no finite number.
    """
    import numpy as np

    _, shape = image_input(model, str(origin))
    low, high = value_range
    noise = (np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32) for seed in SEEDS)
    inputs = (*noise, *further)
    try:
        outputs = _run(model, inputs)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ModelFileError(
            f"onnxruntime can't run {origin}: {' '.join(str(error).split())[:200]}",
            allowed="a model of standard operators",
            remedy="export it again, from torch with opset_version=11",
        ) from error
    shapes = {tuple(array.shape for array in arrays) for arrays in outputs}
    if len(shapes) > 1:
        seen = " or ".join(sorted(map(str, shapes)))
        raise ModelFileError(
            f"{origin}: the shape of its outputs depends on the picture: {seen}",
            allowed="outputs of a static shape",
            remedy="cut off what selects results, such as NonMaxSuppression, and do it on the CPU afterwards",
        )
    if not any(np.isfinite(array).any() for arrays in outputs for array in arrays):
        raise ModelFileError(
            f"{origin} answers with nan or infinity only",
            allowed="finite outputs for finite inputs",
            remedy="check its weights",
        )
    return Reference(inputs, outputs)


def max_error(candidate: onnx.ModelProto, expected: Reference) -> float:
    """Return the largest absolute difference from the original, over all random inputs and outputs.

    Raises:
        Rejected: it can't run, or differs by more than TOLERANCE times the range of an output.
    """
    import numpy as np

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
            # A constant output has no range; then its size says what is small.
            span = float(np.ptp(exact)) or float(np.abs(exact).max())
            if apart > TOLERANCE * span:
                raise Rejected(f"output {place} differs by {apart:.2g}, of a range of {span:.2g}")
            worst = max(worst, apart)
    return worst


def _run(model: onnx.ModelProto, inputs: Sequence[NDArray[np.float32]]) -> tuple[list[Any], ...]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions; nothing may reach the console
    options.intra_op_num_threads = 1  # the figure is recorded: sums in one order
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return tuple(session.run(None, {name: value}) for value in inputs)
