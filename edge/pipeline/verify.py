"""The verify stage: the compiled program and the quantized model must give the same integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from edge.errors import GateError, ImageError, ModelFileError, ToolchainError, counted
from edge.images import ImageSet, open_images, sample
from edge.images.preprocess import resize_crop, rgb_to_nv12
from edge.images.samples import program_input, read_sample
from edge.progress import SILENT, Reporter
from edge.runtime import load
from edge.runtime.answer import Answer, write_answer
from edge.runtime.protocol import Scores
from edge.simulate.hbdk import Simulator, why_unusable
from edge.simulate.tail import FINISHED, MOVING
from edge.simulate.vendor import QuantizedModel
from edge.specs import Preprocess
from edge.specs.schema import Input
from edge.toolchain.found import Toolchain

FRAMES = 3
# What the program takes: NV12 of one image, or the arrays of several inputs by name.
Taken = NDArray[np.uint8] | Mapping[str, NDArray[np.generic]]
_SPARE = 3  # candidates per frame: some images can't be read
_SEED = 0
TEST = "_test.npz"  # ending of the file with the first frame and its answer, for the board
# Behind a Softmax, libraries differ in the last digits; a wrong scale differs far more.
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6


@frozen
class VerifyResult:
    """The result of the comparison."""

    frames: int  #: images that went through both; 0 if it could not be verified.
    bit_exact: bool | None  #: whether all integers of the BPU were equal; None if it could not be verified.
    max_abs_diff: int | None  #: the largest difference of two integers; None if it could not be verified.
    images: tuple[str, ...] = ()  #: names of the frames.
    values: tuple[str, ...] = ()  #: names of the compared outputs of the BPU.
    integers: int = 0  #: how many were compared on each frame.
    calls: int = 0  #: of the BPU in the program; only the first one is compared.
    #: the largest difference of the float outputs behind the CPU nodes; None if these can't be computed here.
    outputs_max_diff: float | None = None
    #: whether the portable model gave the same outputs bit for bit; None without one.
    portable_exact: bool | None = None
    why_not: str = ""  #: why it could not be verified; empty if it was.
    test: str = ""  #: file with the first frame and its outputs, which a board has to give; empty if there is none.


def few(images: ImageSet, frames: int = FRAMES) -> ImageSet:
    """Return the images of a set that frames are taken from; of these all."""
    return sample(images, frames * _SPARE, _SEED)


def candidates(images: ImageSet, frames: int = FRAMES, *, rendered: bool = True) -> ImageSet:
    """Return the images to take frames from, always the same ones.

    If rendered ones fit, the first is one: it goes to the board with the program, and no photograph of the user does.
    """
    chosen = few(images, frames)
    demo = tuple(open_images("demo:test", count=frames)) if rendered else ()
    others = (item for item in chosen if item not in demo[:1])
    return ImageSet((*demo[:1], *others, *demo[1:]), chosen.description, "order is all that matters", chosen.source)


def verify(
    *,
    toolchain: Toolchain,
    program: Path,
    quantized: Path,
    portable: Path | None,
    images: ImageSet,
    preprocess: Preprocess,
    classes: bool = True,
    inputs: Sequence[Input] = (),
    frames: int = FRAMES,
    prefix: str,
    out: Path,
    reporter: Reporter = SILENT,
) -> VerifyResult:
    """Run images through the compiled program, the quantized model and the portable model.

    The first readable images of :func:`candidates` are used; the first one and its outputs are written to ``out``, for
    the board. If the compiler has no simulator, or it can't run this program, the result has ``why_not``.

    Args:
        classes: whether the first output holds class scores: then the portable model must give the same best class.
        inputs: of a network that takes more than one camera image, or something else: then the images are samples.
        prefix: start of the name of the written file.

    Raises:
        GateError: the program and the quantized model differ, or the portable model gives other answers.
        ToolchainError: the simulator or the runtime failed.
        ModelFileError: the ``.bin`` or the ONNX is broken.
    """
    if why := why_unusable(toolchain):
        return VerifyResult(0, None, None, why_not=why)
    try:
        simulator = Simulator(toolchain, program)
    except ToolchainError as error:
        return VerifyResult(0, None, None, why_not=error.seen)
    with simulator:
        _same_build(simulator, quantized)
        inner = {value.name: value.dtype for value in simulator.exposed}
        model = QuantizedModel(toolchain, quantized, inner)  # loads while the simulator runs
        try:
            taken = list(_frames(images, preprocess, inputs, frames))
            answers = []
            for done, (_, frame) in enumerate(taken, start=1):
                answers.append(simulator.integers(frame))
                reporter.update(f"{done}/{counted(len(taken), 'frame')}", done / len(taken))
            model.wait_ready()
            result = _compare(simulator, model, portable, taken, answers, classes=classes)
            if not all(output.dtype in FINISHED for output in model.outputs[: -len(inner)]):
                return result  # integers without their scales
            test = f"{prefix}{TEST}"
            write_answer(out / test, _answer(simulator, model, taken[0][1]))
            return evolve(result, test=test)
        finally:
            model.close()


def _answer(simulator: Simulator, model: QuantizedModel, frame: Taken) -> Answer:
    """Return what the program takes for a frame, and what it gives."""
    given = frame if isinstance(frame, Mapping) else {"": frame}
    outputs = model.run_all(given)[: len(model.outputs) - len(simulator.exposed)]
    # An exponential differs in its last digit between processors, and so may an integer that is made of it.
    exact = all(one.image for one in simulator.inputs) and all(node.op in MOVING for node in simulator.program.cpu)
    return Answer(given, tuple(values.astype(np.float32) for values in outputs), exact=exact)


def _frames(
    images: ImageSet, preprocess: Preprocess, inputs: Sequence[Input], count: int
) -> Iterator[tuple[str, Taken]]:
    for item in images:
        if count == 0:
            return
        frame: Taken
        try:
            if inputs:
                arrays, _ = read_sample(item, inputs, preprocess)
                frame = {name: program_input(value) for name, value in arrays.items()}
            else:
                frame = rgb_to_nv12(np.ascontiguousarray(resize_crop(item.load(), preprocess)))
        except ImageError:
            continue  # eval lists it
        yield item.name, frame
        count -= 1


def _same_build(simulator: Simulator, quantized: Path) -> None:
    import onnx

    try:
        graph = onnx.load(str(quantized)).graph
    except Exception as error:  # protobuf's exceptions share no public base
        raise ModelFileError(
            f"{quantized.name} can't be read: {type(error).__name__}", remedy="edge compile MODEL"
        ) from error
    made = {name for node in graph.node for name in node.output}
    missing = [value.name for value in simulator.exposed if value.name not in made]
    if missing:
        raise _mismatch(f"{quantized.name} has no value {missing[0]!r}, but the program has it")


def _compare(
    simulator: Simulator,
    model: QuantizedModel,
    portable: Path | None,
    taken: list[tuple[str, Taken]],
    answers: list[list[NDArray[np.integer]]],
    *,
    classes: bool,
) -> VerifyResult:
    if model.size != simulator.size:
        raise _mismatch(f"the program takes {simulator.size} images, the quantized model {model.size}")
    own = len(model.outputs) - len(simulator.exposed)
    behind = _tail_is_known(simulator)
    largest = 0.0
    exact = True
    net = load(portable, "portable") if portable else None
    for (name, frame), integers in zip(taken, answers, strict=True):
        given = frame if isinstance(frame, Mapping) else {"": frame}
        results = model.run_all(given)
        for value, ours, theirs in zip(simulator.exposed, integers, results[own:], strict=True):
            _require_equal(name, value.name, ours, theirs)
        if behind:
            for ours_f, theirs_f in zip(simulator.behind(integers), results[:own], strict=True):
                largest = max(largest, _require_close(name, ours_f, theirs_f))
        if net is not None:
            arrays = [given[tensor.name] for tensor in net.info.inputs] if "" not in given else [given[""]]
            exact = _same_answers(name, net.run(*arrays), results[:own], classes=classes) and exact
    return VerifyResult(
        frames=len(taken),
        bit_exact=True,
        max_abs_diff=0,
        images=tuple(name for name, _ in taken),
        values=tuple(value.name for value in simulator.exposed),
        integers=sum(array.size for array in answers[0]),
        calls=len(simulator.program.bpu),
        outputs_max_diff=largest if behind else None,
        portable_exact=exact if portable else None,
    )


def _same_answers(
    frame: str, portable: Sequence[Scores], outputs: Sequence[NDArray[np.generic]], *, classes: bool
) -> bool:
    """Say whether the portable model's outputs equal the quantized model's, bit for bit.

    Raises:
        GateError: its best class differs; or, without classes, an output by more than a step of int8.
    """
    remedy = "report this network: edge translated an operator wrongly"
    if classes and portable[0].argmax() != outputs[0].argmax():
        raise GateError(
            f"on {frame} the portable model answers {portable[0].argmax()}, the compiler's model {outputs[0].argmax()}",
            expected="the same answer",
            remedy=remedy,
        )
    for place, (ours, theirs) in enumerate(zip(portable, outputs, strict=True)):
        apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(initial=0)
        if not classes and not apart <= np.abs(theirs.astype(np.float64)).max(initial=0) / 127:  # nan is not
            raise GateError(
                f"on {frame} output {place} of the portable model is {apart:.3g} off the compiler's model",
                expected="the same values",
                remedy=remedy,
            )
    return all(np.array_equal(a, b) for a, b in zip(portable, outputs, strict=True))


def _tail_is_known(simulator: Simulator) -> bool:
    try:
        simulator.require_whole()
    except ToolchainError:
        return False
    return True


def _require_equal(frame: str, name: str, ours: NDArray[np.integer], theirs: NDArray[np.generic]) -> None:
    if ours.shape != theirs.shape:
        raise _mismatch(f"{name!r} is {ours.shape} in the program and {theirs.shape} in the quantized model")
    difference = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
    if difference.any():
        raise _mismatch(
            f"on {frame}, {np.count_nonzero(difference)} of {ours.size} integers of {name!r} differ, "
            f"by up to {difference.max()}"
        )


def _require_close(frame: str, ours: NDArray[np.float32], theirs: NDArray[np.generic]) -> float:
    expected = theirs.astype(np.float32)
    if ours.shape != expected.shape or not np.allclose(ours, expected, rtol=_RELATIVE, atol=_ABSOLUTE):
        raise _mismatch(f"on {frame}, the integers are equal but the outputs behind the CPU nodes are not")
    return float(np.abs(ours - expected).max(initial=0))


def _mismatch(seen: str) -> GateError:
    return GateError(
        f"the compiled program differs from the quantized model: {seen}",
        expected="equal integers from the .bin and from its quantized ONNX",
        remedy="build with --build-dir NEW in case files were mixed; if they still differ, try another --level",
    )
