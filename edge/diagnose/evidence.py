"""All measurements of a diagnosis, from which faults and remedies are judged."""

from __future__ import annotations

from attrs import frozen

from edge.diagnose.findings import CpuNode, InputCheck, Share
from edge.diagnose.inputs import TriedInput
from edge.diagnose.precision import LayerStudy
from edge.diagnose.weights import ChangedTensor
from edge.folder.built import Built
from edge.measure.labels import Shift, at_chance
from edge.measure.scores import StepEffect

LEAST_AP = 1.0  # in percent: a smaller gain is not proposed, and a detector that has less knows nothing of the labels


@frozen(eq=False)
class Measurements:
    """All measurements of a diagnosis."""

    built: Built  #: the build.
    n: int  #: images.
    labelled: bool  #: whether they carry labels.
    shift: Shift | None  #: of the labels, that fits the float network better; None as a rule.
    float_right: int | None  #: images that the float network answers as labelled; None without labels.
    checks: tuple[TriedInput, ...]  #: changes of the float network's input.
    program_checks: tuple[InputCheck, ...]  #: of the program's NV12.
    own_normalisation: str  #: how the float ONNX itself normalises its input; '' if it does not.
    pixel_range: tuple[float, float]  #: 0.1 % and 99.9 % quantiles of the images' pixels, 0..255.
    steps: tuple[StepEffect, ...]  #: the network after each step of the build compared with the step before.
    shares: tuple[Share, ...]  #: weights, activations, both, NV12.
    changed: tuple[ChangedTensor, ...]  #: weights that a step changed.
    cpu: tuple[CpuNode, ...]  #: nodes on the CPU.
    precision: LayerStudy | None  #: the study of the calibrated network's layers; None without one.
    boxes: bool = False  #: whether it is a detector: agreement is AP with the other network's boxes as objects.
    float_ap: float | None = None  #: AP of a float detector with the labels, in percent; None without.

    @property
    def at_chance(self) -> bool:
        """Whether the float network may know nothing of the labels, so that no Top-1 or AP tells anything."""
        if self.boxes:
            return self.float_ap is not None and self.float_ap < LEAST_AP
        return self.float_right is not None and at_chance(self.float_right, self.n, self.built.metadata.classes)

    def like(self, who: str, whose: str, agreement: float) -> str:
        """Return how far a network agrees with another one, in words."""
        if self.boxes:
            return f"{who} has AP {100 * agreement:.1f} with {whose} boxes as objects"
        return f"{who} gives {whose} answer on {100 * agreement:.1f} % of the images"

    def kept(self, share: Share) -> str:
        """Return AP, or the cosine of a classifier, with only a part rounded."""
        return f"{100 * share.agreement:.1f}" if self.boxes else f"{share.cosine:.4f}"

    def step(self, name: str) -> StepEffect | None:
        """Return a step; None if it was not measured."""
        return next((step for step in self.steps if step.name == name), None)

    def share(self, part: str) -> Share | None:
        """Return a share; None if it was not measured."""
        return next((share for share in self.shares if share.part == part), None)
