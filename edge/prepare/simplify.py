"""The simplify stage: try forms of the graph, the leanest first, and take the first that the guard accepts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from attrs import evolve, field, frozen

from edge.errors import ModelFileError, WorkspaceError
from edge.graph.files import load_onnx, opset_of
from edge.prepare import onnxsim_child as child
from edge.prepare.attention import Attention, lay_out
from edge.prepare.guard import VALUE_RANGE, Guard, Rejected, reference, refused
from edge.prepare.normal_form import computes_shapes, normal_form, pin_outputs, read_model, tidy
from edge.prepare.patches import in_two_steps
from edge.prepare.patterns import count_patterns
from edge.prepare.pools import whole_windows
from edge.prepare.score_map import as_map
from edge.progress import Reporter, Silent
from edge.scratch import Scratch

if TYPE_CHECKING:
    import onnx

Form = Literal["simplified", "partly simplified", "unsimplified"]
T = TypeVar("T")

# Passes of onnxsim 0.7.3 and 0.8.1 that make a graph slower on the BPU, each found by running it alone and
# reading the compiler's node table.
HARMFUL = (
    "fuse_preceding_mul_into_conv",  # takes GELU's * 0.5, hardswish's * 1/6: ConvNeXt_atto 46 % slower
    "fuse_qkv",  # one MatMul and a Split for three MatMuls: that part of NextViT_small 13.2 -> 26.8 ms at O0
    "fuse_matmul_add_bias_into_gemm_batched",  # wraps each bias in Reshapes: EdgeNeXt 73 Transposes longer
)
TIME_LIMIT = 600.0  # seconds; a 30 M parameter Swin takes 6
OPTIONS: Mapping[str, tuple[str, ...]] = {"simplified": HARMFUL, "partly simplified": ("--no-optimizer",)}


@frozen
class SimplifyResult:
    """A BPU-ready ONNX."""

    onnx: str  #: file name.
    form: Form  #: ``simplified``, ``partly simplified`` (constants folded only) or ``unsimplified``.
    reason: str  #: why this form: what the guard found in the leaner ones.
    max_abs_error: float  #: largest difference from the original's outputs over seeded random inputs.
    patterns_before: dict[str, int]  #: what the compiler fuses, counted in the original.
    patterns_after: dict[str, int]  #: the same in the result; never less.
    nodes_before: int  #: number of nodes in the input file, constants included.
    nodes_after: int  #: number of nodes in the result.
    names_lost: int  #: names of computing nodes that no longer exist; no recipe may use them.
    opset: int  #: 10 or 11.
    ir: int  #: IR version.
    onnxsim: str  #: version of onnxsim.
    #: nodes of attention that were rewritten after the form was chosen.
    attention: Attention = field(factory=Attention)
    patches: tuple[str, ...] = ()  #: convolutions over patches that were then split in two.
    pools: tuple[str, ...] = ()  #: average pools over the edge that were made exact in integers.
    score_map: str = ""  #: node whose map of 1xNx1x1 became the output in place of a row of scores.


def simplify(
    *,
    model: Path,
    out: Path,
    name: str,
    reporter: Reporter | None = None,
    value_range: tuple[float, float] = VALUE_RANGE,
    scores: bool = False,
) -> SimplifyResult:
    """Write ``<name>.onnx``, ready for the compiler; the same input gives the same bytes.

    Args:
        model: float ONNX with one static float32 image input.
        out: an existing empty folder.
        name: of the file to write, without ``.onnx``.
        reporter: told of progress, and warned of a form that is not ``simplified``.
        value_range: lowest and highest input value that the network sees, for the comparison of outputs.
        scores: whether the outputs are class scores, whose shape may change.

    Raises:
        ModelFileError: the model itself can't be made ready: corrupt, dynamic, half precision, over 2 GB,
            or not convertible to opset 11.
        WorkspaceError: the file can't be written.
    """
    reporter = reporter or Silent()
    reporter.update("read the model", 0.0)
    original = read_model(model)
    expected = reference(original, model, value_range)
    pin_outputs(original, expected.shapes)
    normal = normal_form(original, str(model))

    reporter.update("simplify", 0.2)
    rules = Guard(original, expected, baseline=normal)
    rejected: list[str] = []
    folded = _attempt(rules, "partly simplified", rejected) if computes_shapes(normal) else None
    if folded:
        rules = Guard(original, expected, baseline=folded.model)
    shipped = _attempt(rules, "simplified", rejected)
    if not shipped:
        reporter.update("fold constants only", 0.6)
        shipped = folded or _attempt(rules, "partly simplified", rejected)
    if not shipped:
        with refused(
            f"{model} can't be made ready for the compiler",
            expected="a model that opset 10 or 11 can express",
            remedy="export with opset_version=11, dynamo=False and a fixed input size",
        ):
            shipped = _Shipped("unsimplified", normal, rules.prove(normal))
    reason = "; ".join(rejected) or f"onnxsim without {', '.join(HARMFUL)}"
    if shipped.form != "simplified":
        reporter.warn(f"the {shipped.form} graph is used ({reason})")
    slow = "stays as exported, which is slow on the BPU"
    shipped, pools = _rewritten(
        rules, shipped, whole_windows, "an average pool stays as exported, which int8 gets wrong at the edge", reporter
    )
    shipped, attention = _rewritten(rules, shipped, lay_out, f"attention {slow}", reporter)
    shipped, patches = _rewritten(rules, shipped, in_two_steps, f"the convolution over patches {slow}", reporter)
    score_map = None
    if scores:
        otherwise = "the scores stay a row, which ROS 2's dnn_node_example can't read"
        shipped, score_map = _rewritten(rules.of_maps(), shipped, as_map, otherwise, reporter)
    _warn_of_unfused(shipped.model, reporter)

    _write(shipped.model, out / f"{name}.onnx")
    kept = {node.name for node in shipped.model.graph.node}
    return SimplifyResult(
        onnx=f"{name}.onnx",
        form=shipped.form,
        reason=reason,
        max_abs_error=shipped.error,
        patterns_before=rules.patterns,
        patterns_after=count_patterns(shipped.model),
        nodes_before=len(original.graph.node),
        nodes_after=len(shipped.model.graph.node),
        names_lost=sum(n.name not in kept for n in normal.graph.node if n.op_type != "Constant"),
        opset=opset_of(shipped.model),
        ir=shipped.model.ir_version,
        onnxsim=version("onnxsim"),
        attention=attention or Attention(),
        patches=patches or (),
        pools=pools or (),
        score_map=score_map or "",
    )


@frozen
class _Shipped:
    form: Form
    model: onnx.ModelProto
    error: float


def _attempt(rules: Guard, form: Literal["simplified", "partly simplified"], rejected: list[str]) -> _Shipped | None:
    """Return the form if the guard accepts it; else add the reason to ``rejected``."""
    try:
        candidate = _onnxsim(rules.baseline, OPTIONS[form])
        return _Shipped(form, candidate, rules.prove(candidate, operators=True))
    except Rejected as verdict:
        rejected.append(f"{form}: {verdict}")
        return None


def _rewritten(
    rules: Guard,
    shipped: _Shipped,
    change: Callable[[onnx.ModelProto], tuple[onnx.ModelProto, T]],
    otherwise: str,
    reporter: Reporter,
) -> tuple[_Shipped, T | None]:
    """Return the model with a part rewritten for the BPU if the answers stay the same, and the changed nodes.

    Args:
        otherwise: what to warn of if they do not.
    """
    try:
        model, done = change(shipped.model)
        if not done:
            return shipped, None
        return evolve(shipped, model=model, error=rules.prove(model)), done
    except (Rejected, ModelFileError) as verdict:
        reporter.warn(f"{otherwise} ({verdict})")
        return shipped, None


def _onnxsim(normal: onnx.ModelProto, options: Sequence[str]) -> onnx.ModelProto:
    """Return what onnxsim makes of a model.

    Raises:
        Rejected: it failed, crashed, hung, or wrote an invalid model.
    """
    with Scratch("simplify") as folder:
        source, target = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        _write(normal, source)
        command = [sys.executable, str(Path(child.__file__)), str(source), str(target), *options]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=TIME_LIMIT, check=False)
        except subprocess.TimeoutExpired as error:
            raise Rejected(f"onnxsim was stopped after {TIME_LIMIT:g} s") from error
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [""]
            raise Rejected(f"onnxsim failed with code {done.returncode}: {last[0][:160]}".rstrip(": "))
        try:
            return tidy(load_onnx(target))
        except ModelFileError as error:
            reason = error.seen.replace(str(target), "its result")
            raise Rejected(f"onnxsim wrote an invalid model: {reason}") from error


def _warn_of_unfused(model: onnx.ModelProto, reporter: Reporter) -> None:
    rest = sum(node.op_type == "Erf" for node in model.graph.node) - count_patterns(model)["gelu"]
    if rest:
        reporter.warn(
            f"{rest} Erf nodes are slow: they are not in the form of a GELU that the compiler fuses, "
            "x / sqrt(2) -> Erf -> + 1 -> * x -> * 0.5, as torch.nn.GELU() exports it"
        )


def _write(model: onnx.ModelProto, path: Path) -> None:
    try:
        path.write_bytes(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise WorkspaceError(f"can't write {path}: {error.strerror}", remedy="free some space") from error
