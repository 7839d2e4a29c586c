"""What a diagnosis measured, before it is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from edge.diagnose.findings import CpuNode, InputCheck, Share

if TYPE_CHECKING:
    from edge.diagnose.inputs import Tried
    from edge.diagnose.precision import Precision
    from edge.diagnose.weights import ChangedTensor
    from edge.folder.built import Built
from edge.measure.scores import Step


@frozen(eq=False)
class Evidence:
    """What was measured.

    Attributes:
        built: the build.
        n: pictures.
        labelled: whether they carry labels.
        checks: changes of the float network's input.
        program_checks: of the program's NV12.
        own_normalisation: how the float ONNX normalises its input itself; '' if it does not.
        pixel_range: 0.1 % and 99.9 % quantiles of the pictures' pixels, 0..255.
        steps: the network after one step of the build against the step before.
        shares: weights, activations, both, NV12.
        changed: weights that a step changed.
        cpu: nodes on the CPU.
        precision: the calibrated network taken apart; None without one.
    """

    built: Built
    n: int
    labelled: bool
    checks: tuple[Tried, ...]
    program_checks: tuple[InputCheck, ...]
    own_normalisation: str
    pixel_range: tuple[float, float]
    steps: tuple[Step, ...]
    shares: tuple[Share, ...]
    changed: tuple[ChangedTensor, ...]
    cpu: tuple[CpuNode, ...]
    precision: Precision | None

    def step(self, name: str) -> Step | None:
        """Return a step; None if it was not measured."""
        return next((step for step in self.steps if step.name == name), None)

    def share(self, part: str) -> Share | None:
        """Return a share; None if it was not measured."""
        return next((share for share in self.shares if share.part == part), None)
