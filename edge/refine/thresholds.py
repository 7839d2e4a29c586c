"""The thresholds stage: the threshold of every activation, chosen by what it does to the network's answers.

The compiler chooses each threshold by the values of its own tensor. Whether large values may be clipped, or small ones
lost in a coarse step, shows only at the outputs. So the compiler calibrates first, as the recipe says; then each
threshold in turn is made smaller or larger in the calibrated model as long as the outputs come closer to the float
network's; and the result goes back to the compiler in the network itself (:mod:`edge.prepare.quantize_nodes`). Graph
and types stay, so the program takes the same time; unless the recipe grants time to 16-bit activations
(:mod:`edge.refine.bits`).

Source of the idea, there for one layer's output at a time: Wu et al., "EasyQuant: Post-training Quantization via Scale
Optimization" (2020), arXiv 2006.16669.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from attrs import evolve, frozen
from numpy.typing import NDArray

from edge.compiler.render import render
from edge.compiler.run import CompileResult, makertbin
from edge.errors import CompileError, counted
from edge.graph.files import image_input, load_onnx
from edge.images import ImageSet
from edge.images.frames import Frame, load_frames, spread
from edge.measure.damage import Damage, of_boxes, of_scores, of_values
from edge.prepare.quantize_nodes import Step, with_steps
from edge.progress import Reporter, Silent
from edge.refine.bits import Program, Wide, choose, shares
from edge.simulate.fakequant import AS_BUILT, FLOAT, INT16, FakeQuant, Quantizer
from edge.specs import ModelSpec, Precision
from edge.specs.detector import Detector
from edge.specs.schema import Level, Output, ScoreKind
from edge.specs.schema import Thresholds as AskedThresholds
from edge.toolchain.found import Toolchain

MOVES = frozenset({
    "Concat", "DepthToSpace", "Flatten", "GlobalAveragePool", "Identity", "MaxPool", "Pad", "Reshape", "Resize",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
# Gives its input's steps on; told other ones, the compiler adds an operator that rounds again.
POOL = "GlobalAveragePool"
PREPROCESS = "HzPreprocess"  # the compiler's node in front of the network
TOP = {8: 127, 16: 32767}  # integer that the threshold stands for
FACTORS = (0.75, 1 / 0.75)  # by which a threshold is made smaller, or larger, once or several times
MOST_TIMES = 6
LEAST_GAIN = 5e-4  # of the damage; less may be chance
# By which thresholds grow with 16 bits: steps are fine enough that nothing needs to be clipped, but the sums of a
# convolution lose what they gain if they grow too far.
WIDER = 1.4
COST_LEVEL: Level = "O1"  # where latency is compared: O0 does not fuse, and O2 and O3 take minutes
NONE: Wide = frozenset()

Thresholds = dict[int, NDArray[np.float32]]
"""Quantizer -> thresholds."""


@frozen
class ThresholdsResult:
    """What the thresholds stage made."""

    onnx: str  #: file name in ``out``; the network with the step of each activation.
    tensors: int  #: activations that the compiler rounds.
    changed: int  #: of them, those whose threshold is not the compiler's.
    int16: int  #: activations that got 16 bits within the time that the recipe grants.
    images: int  #: calibration images on which the thresholds were chosen.
    kept_back: int  #: others, on which the result was tried.
    before: float  #: mean damage to the outputs on those, with the compiler's thresholds; see ``edge.measure.damage``.
    after: float  #: the same with the chosen ones; not above ``before``.
    method: str | None  #: calibration method that the compiler started from.


@frozen
class Outcome:
    """Thresholds found."""

    thresholds: Thresholds  #: of all activations.
    wide: Wide  #: those that get 16 bits.
    before: float  #: mean damage on the images kept back, before and after.
    after: float


def learn_thresholds(
    toolchain: Toolchain,
    model: Path,
    images: ImageSet,
    *,
    spec: ModelSpec,
    precision: Precision,
    outputs: Sequence[Output],
    detector: Detector | None,
    scores: ScoreKind | None,
    calibrated: Path,
    method: str | None,
    cal_data_dir: str,
    working_dir: str,
    prefix: str,
    name: str,
    key: str,
    timeout: float,
    out: Path,
    reporter: Reporter | None = None,
) -> ThresholdsResult:
    """Choose the thresholds, and write the network with them as ``<name>.onnx``.

    Args:
        model: the float network that the compiler would get without this stage.
        images: the calibration images; a part chooses, another is kept back.
        spec: the model, for the mapper YAML.
        precision: the recipe.
        outputs: of the float network, in its order.
        detector: how boxes are read from them, if the network is a detector.
        scores: what class scores are, if it is a classifier.
        calibrated: the compiler's calibrated model of the same recipe without this stage.
        method: the calibration method that made it.
        cal_data_dir: as the mapper YAML names it.
        working_dir: as the mapper YAML names it.
        prefix: starts the names of the compiler's files.
        key: content key of the stage, for the compiler's sandbox.
        timeout: seconds of each compile; there is one, and a dozen more for 16-bit activations.

    Raises:
        CompileError: of the compiler; or it did not take the thresholds as they were told.
        ModelFileError: the network can't be read, or the compiler's calibrated model can't be simulated.
    """
    reporter = reporter or Silent()
    asked = precision.thresholds or AskedThresholds()
    compiled = partial(
        _compiled, toolchain, spec=spec, precision=precision, network=model, cal_data_dir=cal_data_dir,
        working_dir=working_dir, prefix=prefix, timeout=timeout, reporter=reporter,
    )  # fmt: skip
    net = FakeQuant(calibrated, outputs=[output.name for output in outputs])
    network = load_onnx(model)
    preprocessed = outputs_of(net, PREPROCESS)

    def with_thresholds(thresholds: Thresholds, wide: Wide = NONE) -> onnx.ModelProto:
        return with_steps(network, told(net.quantizers, thresholds, preprocessed, image_input(network)[0], wide))

    def program(thresholds: Thresholds, wide: Wide) -> Program:
        with _folder(out / "work") as work:
            path = work / f"{name}.onnx"
            onnx.save(with_thresholds(widened(thresholds, wide), wide), path)
            done = compiled(onnx=path, key=f"{key} cost", out=work, level=COST_LEVEL)
            taken = FakeQuant(work / f"{prefix}_calibrated_model.onnx").quantizers
        if done.static is None:
            raise CompileError("hbdk-cc", "the compiler gave no latency")
        as_told = {item.tensor for item in taken if item.bits == INT16}
        return Program(
            done.static.latency_us,
            frozenset(row.name for row in done.nodes if row.on == "CPU"),
            frozenset(i for i in wide if net.quantizers[i].tensor not in as_told),
        )

    with_thresholds(compilers(net))  # refused before the search, not after it
    size = spec.preprocess.crop
    damage = of_boxes(detector, net.graph.outputs, size) if detector else of_scores(scores) if scores else of_values
    frames, _ = load_frames(images, spec.preprocess, reporter)
    chosen = frames[: min(asked.images, -(-len(frames) // 2))]
    kept_back = frames[len(chosen) : 2 * len(chosen)] or chosen
    unrounded = net.bits(FLOAT)
    measures = {frame.name: damage(net.run(frame.yuv444, unrounded)) for frame in (*chosen, *kept_back)}

    def widen(thresholds: Thresholds) -> Wide:
        groups = [group for group in joined(net) if all(_can_be_wide(net.quantizers[i], preprocessed) for i in group)]
        ends = [
            frozenset(n for i in group for n in (net.quantizers[i].producer, *net.quantizers[i].consumers))
            for group in groups
        ]
        return choose(
            groups, ends, shares(net, groups, model),
            lambda wide: float(damages(net, chosen, measures, widened(thresholds, wide), wide).mean()),
            partial(program, thresholds), asked.int16_latency, reporter,
        )  # fmt: skip

    found = search(net, chosen, kept_back, measures, reporter, widen if asked.int16_latency > 1 else None)
    path = out / f"{name}.onnx"
    onnx.save(with_thresholds(found.thresholds, found.wide), path)
    with _folder(out / "work") as work:
        compiled(onnx=path, key=f"{key} told", out=work)
        again = FakeQuant(work / f"{prefix}_calibrated_model.onnx", outputs=net.graph.outputs)
        after = damages(again, kept_back, measures).mean()
    if after > found.before:
        raise CompileError(
            "calibrate",
            "the compiler did not take the thresholds as they were told: the outputs are further from float's than "
            f"before (damage {after:.4g} instead of {found.before:.4g} on {counted(len(kept_back), 'image')})",
            remedy="use a recipe without the key 'thresholds'",
        )
    return ThresholdsResult(
        onnx=path.name,
        tensors=len(found.thresholds),
        changed=sum(not np.array_equal(value, found.thresholds[i]) for i, value in compilers(net).items()),
        images=len(chosen),
        int16=len(found.wide),
        kept_back=len(kept_back),
        before=found.before,
        after=float(after),
        method=method,
    )


def search(
    net: FakeQuant,
    frames: Sequence[Frame],
    kept_back: Sequence[Frame],
    measures: Mapping[str, Damage],
    reporter: Reporter,
    widen: Callable[[Thresholds], Wide] | None = None,
) -> Outcome:
    """Return thresholds under which the outputs are closest to float's, and which activations get 16 bits.

    Args:
        widen: thresholds at 8 bits -> the activations that get 16; no others are asked for if None.
    """
    own = compilers(net)
    found, wide = _moved(net, frames, measures, own, NONE, reporter), NONE
    if widen is not None and (wide := widen(found)):
        found = _moved(net, frames, measures, widened(found, wide), wide, reporter)
    before = float(damages(net, kept_back, measures, own).mean())
    after = float(damages(net, kept_back, measures, found, wide).mean())
    return Outcome(found, wide, before, after) if after < before else Outcome(dict(own), NONE, before, before)


def widened(thresholds: Thresholds, wide: Wide) -> Thresholds:
    """Return thresholds with those of 16 bits made larger."""
    return {i: value * np.float32(WIDER) if i in wide else value for i, value in thresholds.items()}


def _moved(
    net: FakeQuant,
    frames: Sequence[Frame],
    measures: Mapping[str, Damage],
    start: Thresholds,
    wide: Wide,
    reporter: Reporter,
) -> Thresholds:
    """Return the thresholds after each of 8 bits was moved, one after another in graph order.

    Tensors that the compiler moves without rounding again keep equal thresholds.
    """
    groups = [group for group in joined(net) if not wide & set(group)]
    thresholds, best = dict(start), float(damages(net, frames, measures, start, wide).mean())
    for place, group in enumerate(groups):
        reporter.update(f"threshold {place + 1} of {len(groups)}", place / len(groups))
        for factor in FACTORS:
            times = 0
            while times < MOST_TIMES:
                moved = {i: (thresholds[i] * np.float32(factor)).astype(np.float32) for i in group}
                left = float(damages(net, frames, measures, {**thresholds, **moved}, wide).mean())
                if left >= best * (1 - LEAST_GAIN):
                    break
                thresholds, best, times = {**thresholds, **moved}, left, times + 1
            if times:
                break
    return thresholds


def compilers(net: FakeQuant) -> Thresholds:
    """Return the thresholds of activations that the compiler chose; a pool's result has those of what it reads."""
    own = {i: item.thresholds for i, item in enumerate(net.quantizers) if not item.weight}
    for node in net.graph.nodes:
        if node.op_type == POOL:
            (read,) = (i for i in own if node.name in net.quantizers[i].consumers)
            own |= {i: own[read] for i in own if net.quantizers[i].producer == node.name}
    return own


def damages(
    net: FakeQuant,
    frames: Sequence[Frame],
    measures: Mapping[str, Damage],
    thresholds: Thresholds | None = None,
    wide: Wide = NONE,
) -> NDArray[np.float64]:
    """Return the damage to the outputs for each image, with other thresholds and bits than the model's if given."""
    bits = net.bits(INT16, wide, rest=AS_BUILT)
    return np.array(spread(lambda one: measures[one.name](net.run(one.yuv444, bits, None, thresholds)), list(frames)))


def joined(net: FakeQuant) -> list[list[int]]:
    """Return the quantizers of activations in groups whose thresholds have to stay equal, in graph order.

    These are inputs and outputs of operators that move values, where they are equal already.
    """
    items, own = net.quantizers, compilers(net)
    chosen = [i for i, item in enumerate(items) if not item.weight and item.producer and item.thresholds.size == 1]
    leader = {i: i for i in chosen}
    for node in net.graph.nodes:
        if node.op_type not in MOVES:
            continue
        beside = [i for i in chosen if items[i].producer == node.name or node.name in items[i].consumers]
        for one in beside[1:]:
            if own[one] == own[beside[0]]:
                old, new = leader[one], leader[beside[0]]
                leader = {i: new if value == old else value for i, value in leader.items()}
    groups: dict[int, list[int]] = {}
    for i in chosen:
        groups.setdefault(leader[i], []).append(i)
    return list(groups.values())


def outputs_of(net: FakeQuant, operator: str) -> frozenset[str]:
    """Return the tensors that nodes of an operator compute."""
    return frozenset(name for node in net.graph.nodes if node.op_type == operator for name in node.output)


def told(
    quantizers: Sequence[Quantizer], thresholds: Thresholds, preprocessed: frozenset[str], image: str, wide: Wide = NONE
) -> tuple[Step, ...]:
    """Return the steps to tell the compiler.

    Args:
        preprocessed: tensors of the compiler's own, in whose place the network has its input.
        image: name of this input.

    Raises:
        CompileError: the calibration chose what can't be told, such as unsigned integers.
    """
    steps = []
    for i, value in thresholds.items():
        item = quantizers[i]
        if item.tensor == image and preprocessed:
            continue  # camera bytes: their step is 1
        if item.type == "uint8" or item.gain is not None:
            raise CompileError(
                "calibrate",
                f"the calibration gave tensor {item.tensor} a type or factors that can't be told to the compiler",
                remedy="calibration: {method: mix}   in the recipe with the key 'thresholds'",
            )
        tensor = image if item.tensor in preprocessed else item.tensor
        bits = INT16 if i in wide else item.bits
        steps.append(Step(tensor, float(value.max()) / TOP[bits], bits))
    return tuple({step.tensor: step for step in steps}.values())


def _can_be_wide(item: Quantizer, preprocessed: frozenset[str]) -> bool:
    """Return whether 16 bits are more than it has; what the image becomes has no more than 8."""
    return item.bits != INT16 and item.tensor not in preprocessed


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """Make a folder that is gone afterwards."""
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _compiled(
    toolchain: Toolchain,
    *,
    spec: ModelSpec,
    precision: Precision,
    network: Path,
    onnx: Path,
    cal_data_dir: str,
    working_dir: str,
    prefix: str,
    key: str,
    timeout: float,
    out: Path,
    reporter: Reporter,
    level: Level = "O0",
) -> CompileResult:
    """Compile a network with steps into ``out``; by default at the level that takes least time."""
    quick = evolve(precision, compiler=evolve(precision.compiler, optimize_level=level))
    made = render(
        spec=spec, precision=quick, prefix=prefix, onnx_model=f"./{onnx.name}", cal_data_dir=cal_data_dir,
        working_dir=working_dir, out=out, model=network, reporter=reporter,
    )  # fmt: skip
    return makertbin(
        toolchain, yaml=out / made.yaml, files={onnx.name: onnx}, out=out, prefix=prefix,
        working_dir=working_dir, key=hashlib.sha256(key.encode()).hexdigest(), timeout=timeout, reporter=reporter,
    )  # fmt: skip
