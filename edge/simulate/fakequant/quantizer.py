"""One fake quantizer of a calibrated model: what it rounds, how coarsely, and who reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from edge.errors import ModelFileError

Type = Literal["int8", "uint8", "int16"]

# What a run does at a quantizer.
FLOAT, INT8, INT16, AS_BUILT = 0, 8, 16, 255

_ACTIVATION, _WEIGHT = 0x11111, 0x22111  # the two forms of quant_attrs that the compiler writes
_KNOWN = {
    "axis", "channel_scales", "constant", "dequantize_scale", "group", "qtype", "quant_attrs", "scales", "switch",
    "thresholds",
}  # fmt: skip
# Largest integer that the threshold stands for; rounding saturates at the type's own limits.
_TOP: dict[Type, int] = {"int8": 127, "uint8": 255, "int16": 32767}


@frozen(eq=False)
class Quantizer:
    """A ``HzCalibration`` node.

    ::

        y = clip(rint(x / s), low, high) * s,    s = threshold / 127  (255 for uint8, 32767 for int16)

    in float32, halves to even, with the type's whole range: -128..127, 0..255, -32768..32767. The vendor's runtime gave
    the same values, each one compared. It rounds ``tensor``, a constant if ``weight``, to ``output``.
    """

    name: str
    tensor: str
    output: str
    producer: str  #: node that computes ``tensor``; empty for a constant and for the network's input.
    consumers: tuple[str, ...]  #: nodes that read ``output``.
    weight: bool
    type: Type
    thresholds: NDArray[np.float32]  #: float32, one, or one per channel.
    axis: int | None = None  #: of the channels; None for a single threshold.
    group: int = 1  #: groups of a transposed convolution whose weight has channels counted over all groups, else 1.
    #: float32, one per channel: factors of the rounded values, by which the next convolution's weights are divided;
    #: usually None.
    gain: NDArray[np.float32] | None = field(default=None)

    @property
    def bits(self) -> int:
        """8 or 16, as calibrated."""
        return INT16 if self.type == "int16" else INT8

    def type_at(self, bits: int) -> Type:
        """Return the quantizer's type with this number of bits."""
        if bits == INT16:
            return "int16"
        return "int8" if self.type == "int16" else self.type

    def steps(self, bits: int, thresholds: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the distance between neighbouring values, float32, one per threshold."""
        values = self.thresholds if thresholds is None else np.asarray(thresholds, np.float32)
        return values / np.float32(_TOP[self.type_at(bits)])

    def rounded(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a weight as the calibrated model sees it; ModelFileError if its shape does not fit the thresholds."""
        step = self.spread(self.steps(self.bits), data.shape)
        kind = np.iinfo(self.type)
        result: NDArray[np.float32] = (np.clip(np.rint(data / step), kind.min, kind.max) * step).astype(np.float32)
        return result if self.gain is None else result * self.spread(self.gain, data.shape)

    def spread(self, values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return values, one per channel, in a shape that broadcasts against a tensor of as many channels."""
        if self.axis is None:
            return values
        size = shape[self.axis]
        if values.size == size:
            return values.reshape([size if axis == self.axis else 1 for axis in range(len(shape))])
        if values.size == size * self.group and self.axis == 1 and shape[0] % self.group == 0:
            # A transposed convolution's weight is (in, out / group, ...): the groups lie along axis 0.
            spread = values.reshape(self.group, 1, size).repeat(shape[0] // self.group, axis=1)
            return spread.reshape(shape[0], size, *[1] * (len(shape) - 2))
        raise ModelFileError(f"{self.name}: {values.size} thresholds for a tensor of shape {shape}")


def quantizer(
    name: str,
    tensor: str,
    output: str,
    attributes: Mapping[str, Any],
    *,
    producer: str,
    consumers: tuple[str, ...],
    weight: bool,
) -> Quantizer | None:
    """Read a ``HzCalibration`` node; None if it is switched off and passes its input on.

    Raises:
        ModelFileError: an attribute has a value that no rule covers.
    """
    values = {key: v.decode() if isinstance(v, bytes) else v for key, v in attributes.items()}
    if values.get("switch", "ON") != "ON" or not values.get("constant", 0):
        return None
    if (kind := values.get("qtype")) not in _TOP:
        raise ModelFileError(f"HzCalibration {name!r}: qtype {kind!r}", expected=", ".join(_TOP))
    if unknown := sorted(set(values) - _KNOWN):
        raise ModelFileError(
            f"HzCalibration {name!r}: the attribute {unknown[0]} is not known", expected=", ".join(_KNOWN)
        )
    thresholds = np.asarray(values["thresholds"], np.float32).reshape(-1)
    if thresholds.size == 0 or not np.all(np.isfinite(thresholds)) or not np.all(thresholds > 0):
        raise ModelFileError(f"HzCalibration {name!r}: thresholds {thresholds[:4]}", expected="above 0")
    if (form := values.get("quant_attrs")) not in (_ACTIVATION, _WEIGHT):
        raise ModelFileError(f"HzCalibration {name!r}: quant_attrs {form}", expected=f"{_ACTIVATION} or {_WEIGHT}")
    # The form of activations always uses axis 1 and ignores the attribute.
    axis = int(values["axis"]) if form == _WEIGHT else 1
    rescaled = "dequantize_scale" in values
    return Quantizer(
        name=name,
        tensor=tensor,
        output=output,
        producer=producer,
        consumers=consumers,
        weight=weight,
        type=kind,
        thresholds=thresholds,
        axis=axis if thresholds.size > 1 else None,
        group=int(values.get("group", 1)),
        gain=np.asarray(values["channel_scales"], np.float32) if rescaled else None,
    )
