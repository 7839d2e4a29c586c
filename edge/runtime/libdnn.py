"""What the board's three Python runtimes share: their import, libdnn's error codes and its version."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from edge.errors import BackendError, BackendMissing
from edge.folder.metadata import Metadata
from edge.runtime.program import Program

# Exceptions of the runtimes: pybind turns C++ exceptions into the first three; SystemError comes from a C++ function
# that sets an error but does not return it.
FAILURES = (RuntimeError, ValueError, TypeError, SystemError)

# The vendor's list of return codes of hbDNN* and hbSys*.
CODES = {
    -6000001: "invalid argument",
    -6000002: "invalid model",
    -6000003: "too many models are loaded",
    -6000004: "invalid handle of a packed model",
    -6000005: "invalid handle of a model",
    -6000006: "a file can't be opened",
    -6000007: "out of memory",
    -6000008: "timed out",
    -6000009: "too many tasks",
    -6000010: "too many tasks in a batch",
    -6000011: "invalid handle of a task",
    -6000012: "the task failed",
    -6000013: "the model is running",
    -6000014: "the model does not fit this runtime: it was compiled for another chip or by a newer compiler",
    -6000015: "the calls came in a wrong order",
    -6000016: "another process uses it exclusively",
    -6000129: "invalid argument of a system call",
    -6000130: "out of BPU memory",
    -6000131: "the memory can't be registered",
}
# Names of hbDNNDataType that are numbers -> numpy's.
NUMBERS = {
    "S8": "int8", "U8": "uint8", "F16": "float16", "S16": "int16", "U16": "uint16", "F32": "float32",
    "S32": "int32", "U32": "uint32", "F64": "float64", "S64": "int64", "U64": "uint64",
}  # fmt: skip
SYSTEM = Path("/usr/lib/python3/dist-packages")  # of Debian packages
_CODE = re.compile(r"-60000\d\d\b|-6000129\b|-600013[01]\b")
_VERSION = re.compile(r"(\d+)\.(\d+)")
_log = logging.getLogger("edge.runtime")


def vendor_module(names: tuple[str, ...], member: str, source: str) -> ModuleType:
    """Import the first of the vendor's modules that is installed.

    Args:
        member: an attribute that the module must have; other platforms ship modules of the same name.
        source: where the module comes from, for the remedy.

    Raises:
        BackendMissing: none is installed, or its libraries are missing.
    """
    reasons, remedy = [], "run it on the board, with /usr/bin/python3"
    for name in names:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            reasons.append(f"no Python module {name}")
        except (ImportError, RuntimeError, OSError) as error:  # hbm_runtime checks for libdnn.so at import
            reasons.append(f"{name} can't be imported: {_line(error)}")
        else:
            if hasattr(module, member):
                return module
            reasons.append(f"{name} is another module of that name: it lacks {member}")
        origin = _origin(name)
        if origin and SYSTEM not in Path(origin).parents:  # the S100's of the package index is in ~/.local
            reasons[-1] += f" ({origin})"
            remedy = f"/usr/bin/python3 -m pip uninstall {name.partition('.')[0]}, if it hides the system's"
    raise BackendMissing("; ".join(reasons), expected=source, remedy=remedy)


def _origin(name: str) -> str | None:
    """Return the file of a module that may fail to be imported; None if there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec else None


def bin_of(program: Program) -> Path:
    """Return the program's ``.bin``; raise BackendMissing if it has none."""
    path = program.files.get("bin")
    if path is None:
        raise BackendMissing(
            f"{program.name} comes without its .bin",
            remedy="edge build MODEL on a PC with the compiler (edge toolchain install)",
        )
    return path


def reason(error: BaseException) -> str:
    """Return in one line why the vendor's runtime failed, with its error code in words."""
    hidden = error.__cause__ or error.__context__  # a SystemError hides the reason there
    text = _line(hidden if isinstance(error, SystemError) and hidden else error)
    code = _CODE.search(text)
    return f"{text} ({explained(int(code[0]))})" if code else text


def explained(code: int) -> str:
    """Return the meaning of a libdnn return code."""
    return CODES.get(code, "not in the vendor's list of codes")


def check_version(program: Program, version: str) -> str | None:
    """Warn (logger ``edge.runtime``) if the runtime is older than the compiler that made the program.

    The vendor numbers libdnn like hb_mapper, such as ``1.24.5_(3.15.55 HBRT)`` for hb_mapper 1.24; programs of an older
    compiler run on a newer runtime, not the other way round. Returns the warning, to explain a later failure; None if
    the versions fit, or the program has no metadata.
    """
    built = _number(_builder(program.metadata))
    here = _number(version)
    if built is None or here is None or here >= built:
        return None
    gap = (
        f"this board's libdnn {version} is older than the compiler of {program.name}, "
        f"hb_mapper {_builder(program.metadata)}"
    )
    _log.warning("%s; update RDK OS if it fails or its results are wrong", gap)
    return gap


def load_failure(backend: str, path: Path, error: BaseException | str, gap: str | None = None) -> BackendError:
    """Return the error to raise when the vendor's runtime refuses a program."""
    why = error if isinstance(error, str) else reason(error)
    return BackendError(
        f"{backend} can't load {path.name}: {why}" + (f"; {gap}" if gap else ""),
        expected="a .bin compiled for the RDK X5 (march bayes-e)",
        remedy="sudo apt update && sudo apt full-upgrade on the board"
        if gap
        else "hrt_model_exec model_info --model_file FILE.bin on the board checks whether the file is complete",
    )


@contextmanager
def known_interface(backend: str) -> Iterator[None]:
    """Raise BackendError if a vendor's module of an unknown version lacks an attribute, key or index."""
    try:
        yield
    except (AttributeError, KeyError, IndexError) as error:
        raise BackendError(
            f"{backend} has another interface than documented: {type(error).__name__}: {_line(error)}",
            expected="the hbm_runtime, hobot_dnn or bpu_infer_lib of an RDK OS for the X5",
        ) from error


def flat(value: Any) -> list[int]:
    """Return a shape as integers."""
    return [int(side) for side in value]


def _builder(metadata: Metadata | None) -> str:
    return metadata.toolchain.get("hb_mapper", "") if metadata else ""


def _number(version: str) -> tuple[int, int] | None:
    found = _VERSION.search(version)
    return (int(found[1]), int(found[2])) if found else None


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__
