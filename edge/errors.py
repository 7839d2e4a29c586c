"""The one error tree.

::

    EdgeError                     exit code 1: a known failure
    ├── UsageError                exit code 2: the command or a spec is wrong
    │   └── SpecError             a model YAML or a precision recipe breaks its schema
    ├── InputError                a file given by the user can't be used
    │   ├── ModelFileError        an ONNX file is missing, corrupt, dynamic or of a wrong shape
    │   ├── ImageError            an image can't be read or is too small
    │   ├── LabelError            labels do not match the images or the classes
    │   └── CalibrationError      a calibration set would spoil the model
    ├── DownloadError             a download failed, timed out or has the wrong checksum
    ├── ToolchainError            the vendor's compiler
    │   ├── NotEnoughMemory       it would need more memory than is free
    │   ├── ToolchainMissing      none was found
    │   ├── InstallError          it could not be installed
    │   └── CompileError          it ran and failed; carries stage, cause, remedy
    │       └── CompileTimeout    it was stopped at its time limit
    ├── BackendError              a program can't be opened or run
    │   └── BackendMissing        this machine lacks what the backend needs
    ├── ServeError                a server refuses a request; the reason becomes the protocol's status
    ├── BoardError                the board is unreachable or of another version, or one of its tools failed
    ├── WorkspaceError            the build folder is foreign or locked, or the disk is full
    └── GateError                 a result is worse than a gate allows
"""

from __future__ import annotations

import re
from typing import Literal


class EdgeError(Exception):
    """A failure that edge understands.

    Args:
        seen: what was found, with the value itself.
        expected: what would have been right.
        remedy: what to do next; if possible, the command to type.
    """

    exit_code = 1

    def __init__(self, seen: str, *, expected: str | None = None, remedy: str | None = None) -> None:
        super().__init__(seen)
        self.seen = seen
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.seen]
        if self.expected:
            lines.append(f"expected: {self.expected}")
        if self.remedy:
            lines.append(f"next: {self.remedy}")
        return "\n".join(shown(line) for line in "\n".join(lines).split("\n"))


Refusal = Literal["invalid", "unknown", "large", "full", "late", "stopping"]
_LONGEST = 2000  # characters of a line
# Control characters move the cursor or colour the terminal, and the last ones turn the direction of text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    """Return text that holds names from a user's files so that it does nothing to the terminal and stays readable."""
    text = _CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 300]} … {text[-200:]}"


def counted(number: int, noun: str) -> str:
    """Return a number of things in words: 1 box, 2 boxes."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "x")) else "s"
    return f"{number} {noun}{ending}"


class UsageError(EdgeError):
    """The command line or a spec is wrong."""

    exit_code = 2


class SpecError(UsageError):
    """A model YAML or a precision recipe breaks its schema."""


class InputError(EdgeError):
    """A file given by the user can't be used."""


class ModelFileError(InputError):
    """An ONNX file is missing, corrupt, dynamic or of a wrong shape."""


class ImageError(InputError):
    """An image can't be read or is too small."""


class LabelError(InputError):
    """Labels do not match the images or the classes."""


class CalibrationError(InputError):
    """A calibration set would spoil the model."""


class DownloadError(EdgeError):
    """A download failed, timed out or has the wrong checksum."""


class ToolchainError(EdgeError):
    """The vendor's compiler, or a framework to export from, is missing or failed.

    Args:
        seen: what was found, with the value itself.
        expected: what would have been right.
        remedy: what to do next.
        log: path of the full log, shown to the user; a stage that fails keeps its log and sets this.
    """

    def __init__(
        self, seen: str, *, expected: str | None = None, remedy: str | None = None, log: str | None = None
    ) -> None:
        super().__init__(seen, expected=expected, remedy=remedy)
        self.log = log

    def __str__(self) -> str:
        return super().__str__() + (f"\nlog: {self.log}" if self.log else "")


class ToolchainMissing(ToolchainError):  # noqa: N818 - reads as what it says
    """No compiler was found."""


class NotEnoughMemory(ToolchainError):  # noqa: N818 - reads as what it says
    """A run of the compiler would need more memory than this machine has free."""


class InstallError(ToolchainError):
    """The compiler's environment could not be installed."""


class CompileError(ToolchainError):
    """The compiler ran and failed.

    Args:
        stage: the vendor's stage that failed, such as ``parse yaml``, ``calibrate`` or ``hbdk-cc``.
        cause: one line that says why, in the compiler's words if it gives any.
        remedy: what to do next.
        log: path of the full log, shown to the user.
    """

    def __init__(self, stage: str, cause: str, *, remedy: str | None = None, log: str | None = None) -> None:
        super().__init__(f"the compiler failed at stage '{stage}': {cause}", remedy=remedy, log=log)
        self.stage = stage
        self.cause = cause


class CompileTimeout(CompileError):  # noqa: N818 - reads as what it says
    """The compiler was stopped at its time limit."""


class BackendError(EdgeError):
    """A program can't be opened or run by a backend."""


class BackendMissing(BackendError):  # noqa: N818 - reads as what it says
    """This machine lacks what the backend needs: a vendor module, the compiler, onnxruntime, a file."""


class ServeError(EdgeError):
    """A server refuses a request.

    Args:
        reason: what the protocols make a status of.
        seen: what was found, with the value itself.
        expected: what would have been right.
        remedy: what a client can do.
    """

    def __init__(self, reason: Refusal, seen: str, *, expected: str | None = None, remedy: str | None = None) -> None:
        super().__init__(seen, expected=expected, remedy=remedy)
        self.reason = reason


class BoardError(EdgeError):
    """The board can't be reached, is of another version, or one of its tools failed."""


class WorkspaceError(EdgeError):
    """The build folder is foreign or locked, or the disk is full."""


class GateError(EdgeError):
    """A result is worse than a gate allows."""
