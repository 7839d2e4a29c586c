"""What to build."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from edge.specs import ModelSpec, Precision

Mapper = Literal["auto", "managed", "path", "docker", "portable"]
Weights = Literal["auto", "timm", "vendor", "demo", "random"]


@frozen
class Request:
    """What to build.

    Attributes:
        spec: the model.
        precision: the recipe.
        weights: where the weights come from; the user's own ONNX is ``spec.sources.onnx``.
        mapper: which compiler.
        images: pictures to measure on; None takes the demo's test pictures.
        images_count: at most so many of them; 0 takes all.
        calibration: pictures to calibrate on, or a set of ``calibration/``; None takes the demo's.
        calibration_count: so many of them; None takes the set's own number, 100 for a folder.
        seed: of every random choice.
        timeout: seconds for one run of the compiler.
        install: install the compiler if there is none and this machine can have it.
        any_memory: run the compiler even where it is foretold not to fit in memory.
        arguments: the model and options as a user would type them after the verb, paths relative.
    """

    spec: ModelSpec
    precision: Precision
    weights: Weights = "auto"
    mapper: Mapper = "auto"
    images: str | None = None
    images_count: int = 500
    calibration: str | None = None
    calibration_count: int | None = None
    seed: int = 0
    timeout: float = 7200.0
    install: bool = False
    any_memory: bool = False
    arguments: tuple[str, ...] = ()
