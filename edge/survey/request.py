"""The build that a survey asks for: a model's own recipe, random weights where the model can have them."""

from __future__ import annotations

from edge.request import Request
from edge.specs import ModelSpec, load_precision
from edge.specs.schema import OWN_FILES


def request_of(spec: ModelSpec, *, timeout: float, any_memory: bool = False) -> Request:
    """Return the request of one model.

    Weights are random, from seed 0: shapes, placement and speed do not depend on them, and none have to be
    downloaded. A model that is a file keeps its own.

    Args:
        spec: of the model.
        timeout: seconds for one run of the compiler.
        any_memory: run the compiler even where it is foretold not to fit in memory.

    Raises:
        SpecError: its recipe breaks the schema.
    """
    own = any(getattr(spec.sources, kind) for kind in OWN_FILES)
    return Request(
        spec=spec,
        precision=load_precision(spec.precision),
        weights="random" if spec.sources.timm and not own else "auto",
        timeout=timeout,
        any_memory=any_memory,
        arguments=(spec.name,),
    )
