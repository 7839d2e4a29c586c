"""One module per backend; each has ``open_backend``, which takes a program and returns a :class:`Backend`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge.errors import BackendError, BackendMissing, ModelFileError, ToolchainError, ToolchainMissing


@contextmanager
def as_backend_errors() -> Iterator[None]:
    """Raise ``BackendMissing`` if the compiler is missing, ``BackendError`` if it fails."""
    try:
        yield
    except ToolchainMissing as error:
        raise BackendMissing(error.seen, expected=error.expected, remedy=error.remedy) from error
    except (ToolchainError, ModelFileError) as error:
        raise BackendError(error.seen, expected=error.expected, remedy=error.remedy) from error
    except ImportError as error:  # a package of the build extra, such as protobuf
        raise BackendMissing(f"{error.name or error} is not installed", remedy="pip install 'edge[build]'") from error
