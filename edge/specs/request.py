"""What to build."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from edge.specs import ModelSpec, Precision

Compiler = Literal["auto", "managed", "path", "docker", "onnxruntime"]
Weights = Literal["auto", "timm", "vendor", "demo", "random"]


@frozen
class Request:
    """What to build."""

    spec: ModelSpec  #: the model.
    precision: Precision  #: the recipe.
    source: str = ""  #: what the model is: absolute path of a file or folder of the user's, or a name such as a zoo's.
    replace: bool = False  #: whether the user named the build folder, which may then be of another source.
    weights: Weights = "auto"  #: where the weights come from; the user's own ONNX is ``spec.sources.onnx``.
    compiler: Compiler = "auto"  #: which compiler.
    images: str | None = None  #: images to measure on; None takes the demo's test images.
    images_count: int = 500  #: at most this many of them; 0 takes all.
    label_offset: int = 0  #: added to the labels of ``images``.
    calibration: str | None = None  #: images to calibrate on, or a set of ``calibration/``; None takes the demo's.
    calibration_count: int | None = None  #: how many of them; None takes the set's own number, 100 for a folder.
    seed: int = 0  #: of every random choice.
    timeout: float = 7200.0  #: seconds for one run of the compiler.
    install: bool = False  #: install the compiler if there is none and this platform has it.
    any_memory: bool = False  #: run the compiler even if the estimate says that it does not fit in memory.
    arguments: tuple[str, ...] = ()  #: the model and options as a user would type them after the verb, paths relative.
