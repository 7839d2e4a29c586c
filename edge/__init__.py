"""edge: from a model name to a checked program for the RDK X5 board.

``build``, ``load`` and ``evaluate`` do the same as the verbs build, run and eval; edge.api holds them. They are
imported when they are used, so ``import edge`` is fast.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.api import BuildResult, build, evaluate, load
    from edge.errors import EdgeError

# Unless this is set before its import, onnxruntime 1.32 sends device id, paths and names of files and graphs.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenCV reads it when it is imported. Its own limit lets a file of 100 KB take 6 GB of memory.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "200000000")

__version__ = "0.1.0"
__all__ = ["BuildResult", "EdgeError", "__version__", "build", "evaluate", "load"]
_HOME = {"BuildResult": "api", "EdgeError": "errors", "build": "api", "evaluate": "api", "load": "api"}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"edge.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
