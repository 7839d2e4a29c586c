"""The board's current runtime, ``hbm_runtime`` (RDK OS 3.5 and above)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edge.errors import BackendError
from edge.runtime.backends.watch import Watch
from edge.runtime.libdnn import (
    FAILURES,
    NUMBERS,
    bin_of,
    check_version,
    flat,
    known_interface,
    load_failure,
    reason,
    vendor_module,
)
from edge.runtime.program import Program
from edge.runtime.protocol import Array, Info, Scores, Tensor
from edge.runtime.quantization import Dequantizer, dequantizer

# Names of hbDNNDataType; their numbers differ between boards. It takes other images as int8 or not at all, and copies
# integers without the padding that the BPU wants.
INPUTS = {"NV12": "uint8", "F32": "float32"}
SOURCE = "hbm_runtime of RDK OS 3.5 and above (Debian package hobot-spdev)"


class HbmBackend:
    """One ``HB_HBMRuntime``; it refuses a second caller while it runs.

    Raises:
        BackendMissing: this machine has no hbm_runtime, or the program no ``.bin``.
        BackendError: the runtime refuses it.
    """

    concurrent = False

    @known_interface("hbm_runtime")
    def __init__(self, program: Program) -> None:
        path = bin_of(program)
        kind = vendor_module(("hbm_runtime",), "HB_HBMRuntime", SOURCE).HB_HBMRuntime
        # An attribute in the documentation, a method in the type stubs.
        told = getattr(kind, "version", "of unknown version")
        version = str(told() if callable(told) else told)
        gap = check_version(program, version)
        try:
            self._runtime: Any = kind(str(path))
        except FAILURES as error:
            raise load_failure("hbm_runtime", path, error, gap) from error
        # If a file packs several models, take the first, as the older runtime does.
        self._model: str = self._runtime.model_names[0]
        inputs = tuple(self._input(name) for name in self._runtime.input_names[self._model])
        names = self._runtime.output_names[self._model]
        self._rules = [self._rule(name) for name in names]
        floats = [self._runtime.output_dtypes[self._model][name].name.startswith("F") for name in names]
        judged = [rule.scale is not None or number for rule, number in zip(self._rules, floats, strict=True)]
        self._watch = Watch("hbm_runtime", self._once, judged)  # it ignores the code of a run that timed out
        self.info = Info(
            backend="hbm_runtime",
            model=program.name,
            version=f"libdnn {version}",
            inputs=inputs,
            outputs=tuple(Tensor(rule.name, rule.shape, "float32") for rule in self._rules),
        )

    def run(self, inputs: Sequence[Array]) -> list[Scores]:
        """Execute once; see the protocol."""
        return self._watch(inputs)

    def _once(self, inputs: Sequence[Array]) -> list[Scores]:
        named = {tensor.name: array for tensor, array in zip(self.info.inputs, inputs, strict=True)}
        try:
            # Every version accepts this form: with model names, without keywords.
            results = self._runtime.run({self._model: named})[self._model]
        except FAILURES as error:
            raise BackendError(f"hbm_runtime failed: {reason(error)}") from error
        missing = [rule.name for rule in self._rules if rule.name not in results]
        if missing:
            raise BackendError(f"hbm_runtime gave no output {', '.join(missing)}")
        return [rule(results[rule.name]) for rule in self._rules]

    def close(self) -> None:
        """Drop the runtime, which frees its memory."""
        self._runtime = None

    def _input(self, name: str) -> Tensor:
        shape = flat(self._runtime.input_shapes[self._model][name])
        kind = self._runtime.input_dtypes[self._model][name].name
        if kind not in INPUTS:
            raise BackendError(
                f"input {name!r} is of type {kind}, which hbm_runtime may misread",
                expected=", ".join(INPUTS),
                remedy="compile with input_type_rt: nv12, or featuremap of float32",
            )
        strides = flat(self._runtime.input_strides[self._model][name])
        packed = [4 * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        if kind == "F32" and any(strides) and strides != packed:
            raise BackendError(
                f"input {name!r} has padded rows in BPU memory, and hbm_runtime copies it without padding",
                expected=f"strides of {packed} bytes, not {strides}",
                remedy="compile with input_type_rt: nv12",
            )
        if kind == "NV12" and shape[-1] == 3:  # some programs state (1, H, W, 3)
            shape = [shape[0], 3, *shape[1:3]]
        return Tensor(name, tuple(shape), INPUTS[kind], nv12=kind == "NV12")

    def _rule(self, name: str) -> Dequantizer:
        shape = flat(self._runtime.output_shapes[self._model][name])
        kind = self._runtime.output_dtypes[self._model][name].name
        if kind not in NUMBERS:
            raise BackendError(f"output {name!r} is of type {kind}", expected=", ".join(NUMBERS))
        quants = self._runtime.output_quants[self._model][name]
        rule = quants.quant_type.name
        if rule not in ("NONE", "SCALE"):
            raise BackendError(f"output {name!r} has the quantization type {rule}", expected="NONE, SCALE")
        if rule == "NONE":
            return dequantizer(name, shape, NUMBERS[kind])
        return dequantizer(
            name, shape, NUMBERS[kind], scale=quants.scale, zero_point=quants.zero_point, axis=int(quants.axis)
        )


open_backend = HbmBackend
