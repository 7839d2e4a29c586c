"""Tensors of the Open Inference Protocol: datatypes, and their raw form, which both HTTP and gRPC carry."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from edge.errors import ServeError

# The protocol's name -> numpy's. BYTES, an array of byte strings, is apart.
DATATYPES = {
    "BOOL": "bool",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
NAMES = {numpy: name for name, numpy in DATATYPES.items()}
_MOST_AXES = 8

Value = NDArray[np.generic] | list[bytes]  # the second of BYTES


@frozen(eq=False)
class Tensor:
    """A named tensor of a request or of an answer."""

    name: str
    shape: tuple[int, ...]
    value: Value

    @property
    def datatype(self) -> str:
        """The protocol's name of its elements."""
        return "BYTES" if isinstance(self.value, list) else NAMES[str(self.value.dtype)]

    @property
    def raw(self) -> bytes:
        """The elements in row-major order; each of BYTES with its length before it."""
        if isinstance(self.value, list):
            return b"".join(struct.pack("<I", len(one)) + one for one in self.value)
        return self.value.tobytes()


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    """Return the tensor that a request brings in raw form.

    Raises:
        ServeError: no such datatype or shape, or another number of bytes.
    """
    count = _elements(name, datatype, shape)
    if datatype == "BYTES":
        return Tensor(name, tuple(shape), _strings(name, count, raw))
    dtype = np.dtype(DATATYPES[datatype])
    if len(raw) != count * dtype.itemsize:
        raise _wrong_count(name, f"{len(raw):,} bytes", f"{count * dtype.itemsize:,} of {datatype} {list(shape)}")
    return Tensor(name, tuple(shape), np.frombuffer(raw, dtype).reshape(tuple(shape)))


def from_values(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> Tensor:
    """Return the tensor that a request brings as numbers, flat or nested; as texts in base64 or bytes, of BYTES.

    Raises:
        ServeError: as :func:`from_raw`.
    """
    count = _elements(name, datatype, shape)
    if datatype == "BYTES":
        if len(values) != count:
            raise _wrong_count(name, f"{len(values)} elements", f"{count} of BYTES {list(shape)}")
        return Tensor(name, tuple(shape), [_decoded(name, one) for one in values])
    try:
        array = np.asarray(values)
        fits = array.dtype.kind in "biuf" and array.size == count
        converted = array.astype(DATATYPES[datatype]) if fits else array
        exact = fits and (converted.dtype.kind == "f" or bool((converted == array).all()))
    except (ValueError, TypeError, OverflowError):
        exact = False
    if not exact:
        raise ServeError(
            "invalid", f"the data of input {name!r} is not what it says", expected=f"{count} of {datatype}"
        )
    return Tensor(name, tuple(shape), converted.reshape(tuple(shape)))


def _elements(name: str, datatype: str, shape: Sequence[int]) -> int:
    if datatype not in DATATYPES and datatype != "BYTES":
        raise ServeError(
            "invalid", f"input {name!r} has datatype {datatype!r}", expected=", ".join([*DATATYPES, "BYTES"])
        )
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side >= 0 for side in shape)
    if not whole or len(shape) > _MOST_AXES:
        raise ServeError("invalid", f"input {name!r} has shape {list(shape)}", expected="a few whole numbers from 0 on")
    return math.prod(shape)


def _strings(name: str, count: int, raw: bytes | memoryview) -> list[bytes]:
    found, at = list[bytes](), 0
    while at + 4 <= len(raw) and len(found) < count:
        (length,) = struct.unpack_from("<I", raw, at)
        found.append(bytes(raw[at + 4 : at + 4 + length]))
        at += 4 + length
    if at != len(raw) or len(found) != count:
        raise _wrong_count(name, f"{len(raw):,} bytes", f"{count} of BYTES, each with its length before it")
    return found


def _decoded(name: str, text: object) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        return base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        raise ServeError("invalid", f"an element of input {name!r} is not base64", expected="BYTES in base64") from None


def _wrong_count(name: str, seen: str, expected: str) -> ServeError:
    return ServeError("invalid", f"input {name!r} has {seen}", expected=expected)
