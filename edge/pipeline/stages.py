"""What every stage of a build stands on: the request, the workspace, the compiler, and who listens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from edge.errors import UsageError
from edge.folder.workspace import FileRecord, Stage, Workspace
from edge.images import open_images
from edge.pipeline.choices import choose_calibration, choose_compiler
from edge.progress import Listener
from edge.specs.request import Request
from edge.toolchain.found import Toolchain

T = TypeVar("T")

WORKING_DIR = "model_output"  # of the vendor's own choice, for a compile by hand beside the YAML

# What shapes the vendor's output and how it is read, besides the compiler itself.
COMPILER_CODE = (
    "edge.compiler.run",
    "edge.compiler.logs",
    "edge.compiler.sandbox",
    "edge.toolchain.workers.hb_mapper",
)


class Stages:
    """The part of a build that knows how to run a stage, but no stage.

    Args:
        request: what to build.
        workspace: the model's build folder, held.
        listener: learns of progress.
    """

    def __init__(self, request: Request, workspace: Workspace, listener: Listener) -> None:
        self.request = request
        self.workspace = workspace
        self.done: list[Stage[object]] = []
        self._listener = listener
        self._calibration_set = choose_calibration(request)
        # Wrong paths are told now, not after minutes of compiling.
        for source in (request.images, self._calibration_set.images):
            if source is not None:
                open_images(source)

    @cached_property
    def toolchain(self) -> Toolchain | None:
        """The compiler; None with the portable mapper."""
        return choose_compiler(self.request, self._listener)

    def record(self, path: Path) -> FileRecord:
        """Return size and hash of a file of a finished stage."""
        return next(file for stage in self.done for file in stage.files if stage.path(file.path) == path)

    def _compiler(self) -> Toolchain:
        if self.toolchain is None:
            raise UsageError(
                "this stage needs the vendor's compiler, and the mapper is portable",
                allowed="--mapper auto, managed, path or docker",
                remedy="edge toolchain install",
            )
        return self.toolchain

    def _stage(
        self,
        name: str,
        inputs: Mapping[str, object],
        action: Callable[[Path], T],
        result_type: type[T],
        *,
        code: tuple[str, ...],
        note: Callable[[T], str],
    ) -> Stage[T]:
        self._listener.begin(name)
        stage = self.workspace.run(name, inputs, action, result_type, code)
        self._listener.end(name, stage.seconds, cached=stage.cached, note=note(stage.result))
        self.done.append(stage)
        return stage


def versions(*packages: str) -> dict[str, dict[str, str]]:
    """Return the installed version of each package, for cache keys.

    Under a key of its own: an input may be called ``onnx``, too.
    """
    return {"versions": {package: version(package) for package in packages}}
