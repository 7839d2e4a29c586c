"""The rewrite stage: a recipe's other forms of parts of the graph, proved to give the same answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from edge.errors import ModelFileError
from edge.graph import load_onnx
from edge.progress import Reporter, Silent
from edge.rewrite.channel_mean import channel_mean
from edge.simplify import guard
from edge.simplify.patterns import count_patterns
from edge.specs.schema import Rewrite

if TYPE_CHECKING:
    import onnx

REWRITES: Mapping[Rewrite, Callable[[onnx.ModelProto], tuple[onnx.ModelProto, tuple[str, ...]]]] = {
    "channel_mean": channel_mean,
}


@frozen
class RewriteResult:
    """A float ONNX with some parts written another way.

    Attributes:
        onnx: file name.
        nodes: rewrite -> names of the nodes that it changed.
        max_abs_error: largest difference of an output from before, over seeded random inputs.
    """

    onnx: str
    nodes: Mapping[str, tuple[str, ...]]
    max_abs_error: float


def rewrite(
    *, model: Path, rewrites: Sequence[Rewrite], out: Path, name: str, reporter: Reporter | None = None
) -> RewriteResult:
    """Write ``<name>.onnx``; inputs, outputs and answers stay.

    Args:
        model: the simplified ONNX.
        rewrites: what to write another way, in order.
        out: existing folder for the result.
        name: of the result, without its ending.
        reporter: told of progress.

    Raises:
        ModelFileError: a rewrite finds nothing in this model, or the outputs differ from what they were.
    """
    import onnx

    reporter = reporter or Silent()
    source = changed = load_onnx(model)
    nodes: dict[str, tuple[str, ...]] = {}
    for key in rewrites:
        reporter.update(key)
        changed, nodes[key] = REWRITES[key](changed)
        if not nodes[key]:
            raise ModelFileError(
                f"{model.name} has nothing for the rewrite {key}",
                allowed="a LayerNorm over channels between two Transposes, as in ConvNeXt",
                remedy=f"take a recipe without {key!r} in 'rewrites'",
            )
    reporter.update("compare the outputs")
    try:
        guard.check_contract(changed, source)
        guard.check_patterns(changed, count_patterns(source))
        error = guard.max_error(changed, guard.reference(source, model))
    except guard.Rejected as verdict:
        raise ModelFileError(
            f"{model.name} is not the same network once rewritten: {verdict}",
            allowed="the same outputs on random inputs",
            remedy="take a recipe without 'rewrites', and report the model",
        ) from verdict
    onnx.save(changed, out / f"{name}.onnx")
    return RewriteResult(f"{name}.onnx", nodes, error)
