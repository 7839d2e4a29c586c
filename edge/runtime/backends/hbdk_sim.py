"""The compiled program itself, executed instruction by instruction on a PC that has the compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge.errors import BackendError, BackendMissing
from edge.runtime.backends import as_backend_errors
from edge.runtime.program import Program
from edge.runtime.protocol import Array, Info, Scores, Tensor

VIDEO_RANGE = "bt601_video"  # of INPUT_SPACE_AND_RANGE


class HbdkSimBackend:
    """A ``.bin`` in the vendor's simulator; each run starts a process.

    Raises:
        BackendMissing: no ``.bin``, no compiler, or one without its simulator.
        BackendError: the simulator can't run this program.
    """

    concurrent = True

    def __init__(self, program: Program) -> None:
        path = program.files.get("bin")
        if path is None:
            raise BackendMissing(f"{program.name} comes without its .bin", remedy="edge build MODEL")
        with as_backend_errors():
            from edge.simulate.hbdk import Simulator
            from edge.toolchain.find import find

            self._simulator = Simulator(find(), path)
        content = self._simulator.program
        try:
            self._check(content.name, content.origin)
        except BaseException:
            self.close()
            raise
        self.info = Info(
            backend="hbdk_sim",
            model=content.name,
            version=f"hbdk {self._simulator.version}",
            inputs=tuple(
                Tensor(one.name, one.shape, "uint8" if one.image else "float32", nv12=one.image)
                for one in self._simulator.inputs
            ),
            outputs=tuple(Tensor(value.name, value.shape, "float32") for value in content.outputs),
        )

    def run(self, inputs: Sequence[Array]) -> list[Scores]:
        """Execute once; see the protocol."""
        with as_backend_errors():
            names = (tensor.name for tensor in self.info.inputs)
            return self._simulator.outputs(dict(zip(names, inputs, strict=True)))

    def close(self) -> None:
        """Remove the temporary files."""
        self._simulator.close()

    def _check(self, name: str, origin: Mapping[str, str]) -> None:
        with as_backend_errors():
            self._simulator.require_whole()
        if VIDEO_RANGE in origin.get("INPUT_SPACE_AND_RANGE", ""):
            raise BackendError(
                f"{name} was compiled for video-range NV12",
                expected="full range (input_space_and_range: regular), as edge makes it",
                remedy="compile it with input_space_and_range: regular",
            )


open_backend = HbdkSimBackend
