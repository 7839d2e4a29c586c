"""Turn hb_mapper's own configuration into a model YAML of edge, with a precision recipe where it needs one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from attrs import asdict, frozen

from edge.compiler.document import Document, read
from edge.compiler.lint import Finding, lint, text_of
from edge.compiler.render import SCALE_DIGITS, one_line
from edge.errors import ModelFileError, SpecError, UsageError
from edge.files import require_ours, write_text
from edge.graph.files import GraphFacts, facts, fixed_input, image_input, load_onnx
from edge.scratch import Scratch
from edge.specs import (
    Calibration,
    Compiler,
    ModelSpec,
    NodePrecision,
    Precision,
    Preprocess,
    Sources,
    load_precision,
    precision_text,
    read_model,
)
from edge.specs.schema import CROP_SHARE, MARCH

if TYPE_CHECKING:
    import onnx

MODEL, INPUT, CALIBRATION, COMPILER = (
    "model_parameters", "input_parameters", "calibration_parameters", "compiler_parameters",
)  # fmt: skip
LAST = 10**9  # what has no line comes after the lines
MARK = "# Written by edge import from"
METHODS = ("default", "kl", "max", "mix")
KEEP = "none: the program keeps its outputs; remove nodes of the finished .bin with hb_model_modifier"
LAYERS = "edge diagnose compares the layers"


class Row(NamedTuple):
    """A key that a model YAML and a recipe can't hold."""

    group: str
    key: str
    fine: tuple[str, ...]  #: values that need no word: edge does the same.
    edge: str  #: what edge does, or takes, instead.
    refused: bool = False  #: whether the result would be another one without it.


ROWS = (
    Row(MODEL, "march", (MARCH,), f"edge builds for {MARCH}, the RDK X5"),
    Row(MODEL, "caffe_model", (), "an ONNX: convert the network, for example with caffe2onnx", refused=True),
    Row(MODEL, "remove_node_type", (), KEEP, refused=True),
    Row(MODEL, "remove_node_name", (), KEEP, refused=True),
    Row(MODEL, "set_node_data_type", (), "node_info, with InputType and OutputType of each node", refused=True),
    Row(MODEL, "layer_out_dump", ("False",), LAYERS),
    Row(MODEL, "debug_mode", (), LAYERS),
    Row(INPUT, "input_type_train", ("rgb", "bgr"), "rgb, bgr", refused=True),
    Row(INPUT, "input_type_rt", ("nv12", "rgb", "bgr", "yuv444", "yuv444_128"), "nv12", refused=True),
    Row(INPUT, "input_type_rt", ("nv12",), "edge's program takes NV12: change what your code on the board hands over"),
    Row(INPUT, "input_space_and_range", ("regular",), "edge's program takes full-range NV12: check your camera's"),
    Row(INPUT, "input_batch", ("1",), "edge builds batch 1"),
    Row(CALIBRATION, "calibration_type", (*METHODS, "skip"), "a float network: export it without QAT", refused=True),
    Row(CALIBRATION, "calibration_type", METHODS, "edge calibrates: --calib FOLDER of images"),
    Row(CALIBRATION, "cal_data_dir", (), "edge makes its own calibration set: --calib FOLDER of images"),
    Row(CALIBRATION, "preprocess_on", ("False",), "edge prepares the images of --calib itself"),
    Row(CALIBRATION, "enable_int16", ("False",), "no effect, with hb_mapper neither"),
    Row(COMPILER, "compile_mode", ("latency", "bandwidth"), "edge compiles for latency; a recipe may say bandwidth"),
    Row(COMPILER, "debug", ("False",), "edge compiles without: the program is smaller and holds no paths"),
    Row(COMPILER, "core_num", ("1",), "edge compiles for one core: the X5 runs a model on one"),
    Row(COMPILER, "input_source", ("pyramid",), "edge's program takes its input from the pyramid"),
    Row(COMPILER, "max_time_per_fc", ("0",), "edge's program runs each image without interruption"),
    Row(COMPILER, "ability_entry", (), "edge does not protect programs"),
    Row(COMPILER, "advice", ("0",), "edge report shows the layers"),
)
# Rules of the linter about keys that have a row here.
ANSWERED = ("march", "balance", "core_num", "input_source", "max_time_per_fc", "advice")


@frozen
class Imported:
    """What was written."""

    model: Path  #: the model YAML.
    recipe: Path | None  #: the precision recipe that it names; None where edge's defaults say the same.
    spec: ModelSpec  #: what the model YAML says.
    precision: Precision  #: what the recipe says.
    changed: tuple[Finding, ...]  #: what edge does in another way; ``expected`` says how.


def import_mapper(file: Path, out: Path | None = None) -> Imported:
    """Write a model YAML, and a recipe beside it where one is needed, that say what a mapper YAML says.

    Args:
        file: the mapper YAML; paths in it start from its folder.
        out: the model YAML, which names the model; None takes the mapper YAML's prefix, in the current folder.

    Raises:
        SpecError: it breaks a rule of the compiler, or can't be carried over without another result; all such lines
            are listed.
        UsageError: ``out`` is no name of a YAML.
        WorkspaceError: a file that edge did not write has the name.
    """
    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise UsageError(f"--out {out}", expected="a name ending in .yaml")
    text = text_of(file)
    syntax = [finding for finding in lint(text) if finding.rule == "yaml_syntax"]
    doc = Document(*(({}, {}, ()) if syntax else read(text)))
    if syntax or not (doc.group(MODEL) and doc.group(INPUT)):
        seen = f": {syntax[0]}" if syntax else ""
        raise SpecError(f"{file} is not hb_mapper's YAML{seen}", expected=f"a YAML with {MODEL} and {INPUT}")
    path = file.parent / doc.text(MODEL, "onnx_model")
    model, graph, broken = _network(path, doc)
    rows = [*_rows(doc), *_unlike(doc, model)]
    broken += [item for item in (*lint(text, graph=graph, model=model), *rows) if not item.harmless]
    broken = [item for item in broken if item.rule not in ANSWERED]
    if broken or graph is None:
        listed = "\n".join(f"  {item}" for item in sorted(broken, key=lambda item: item.line or 0))
        raise SpecError(
            f"{file} can't be imported as it is:\n{listed}",
            remedy="correct these lines in a copy of it beside the ONNX, then: edge import COPY.yaml",
        )
    prefix = re.sub(r"_\d+x\d+_nv12$", "", doc.text(MODEL, "output_model_file_prefix") or path.stem)
    out = out or Path((re.sub(r"[^\w.-]+", "_", prefix).lstrip("._-") or "model") + ".yaml")
    precision = _precision(doc, out.stem, file)
    # Not .yaml: in a folder of EDGE_ZOO every .yaml is a model.
    own = Precision(out.stem, note=precision.note) != precision
    recipe = out.with_name(f"{out.stem}_recipe.yml") if own else None
    output = _output(doc, model)
    spec = ModelSpec(
        name=out.stem,
        sources=Sources(onnx=os.path.relpath(path.resolve(), out.parent.resolve())),
        preprocess=_preprocess(doc, graph.input_shape),
        labels=None,
        classes=None,
        precision=recipe.name if recipe else "int8",
        output=output,
    )
    mark = f"{MARK} {one_line(file.name)}; another import replaces this file.\n"
    texts = {out: mark + _model_text(spec)}
    if recipe:
        texts[recipe] = mark + precision_text(precision)
    with Scratch("import") as folder:  # nothing is written that edge would not load
        for target, content in texts.items():
            (Path(folder) / target.name).write_text(content, encoding="utf-8")
        load_precision(read_model(str(Path(folder) / out.name)).spec.precision)
    for target in texts:
        require_ours(target, MARK)
    out.parent.mkdir(parents=True, exist_ok=True)
    for target, content in texts.items():
        write_text(target, content)
    changed = sorted((item for item in rows if item.harmless), key=lambda item: item.line or LAST)
    return Imported(out, recipe, spec, precision, tuple(changed))


def _network(path: Path, doc: Document) -> tuple[onnx.ModelProto | None, GraphFacts | None, list[Finding]]:
    """Return the ONNX with open sides of its input fixed, and its facts; or why it can't be taken."""
    shape = doc.shape(0) or ()
    nhwc = doc.item(INPUT, "input_layout_train", 0) == "NHWC"
    size = (shape[1:3] if nhwc else shape[2:4]) if len(shape) == 4 else None
    try:
        model, _ = fixed_input(load_onnx(path), path.name, size)
        image_input(model, path.name)
        graph = facts(model, path.name)
    except ModelFileError as error:
        expected = "its size as input_shape, such as 1x3x224x224" if "is open" in error.seen else error.expected
        line = doc.line(MODEL, "onnx_model")
        return None, None, [Finding("model_file", error.seen, expected or "an ONNX with one image input", line)]
    if len(graph.input_shape) != 4 or graph.input_shape[0] != 1:
        seen = f"{path.name}: the input is {'x'.join(map(str, graph.input_shape))}"
        return None, None, [Finding("model_file", seen, "one image, such as 1x3x224x224")]
    return model, graph, []


def _rows(doc: Document) -> Iterator[Finding]:
    for row in ROWS:
        value = doc.value(row.group, row.key)
        items = map(str, value.values()) if isinstance(value, dict) else doc.items(row.group, row.key)
        wrong = [item for item in items if item and item not in row.fine]
        if wrong:
            line = doc.line(row.group, row.key)
            yield Finding(row.key, f"{row.key}: {'; '.join(wrong)}", row.edge, line, not row.refused)


def _unlike(doc: Document, model: onnx.ModelProto | None) -> Iterator[Finding]:
    """Yield what no row can tell: what depends on several values, or on what is not there."""
    if doc.group("custom_op"):
        yield Finding("custom_op", "custom_op", "standard operators: edge has no others", doc.line("custom_op"))
    table = doc.value(MODEL, "node_info")
    if isinstance(table, str) and table:
        expected = "a mapping: {NODE: {'InputType': 'int16', 'OutputType': 'int16'}}"
        yield Finding("node_info", f"node_info: {table}", expected, doc.line(MODEL, "node_info"))
    for node, settings in table.items() if isinstance(table, dict) else ():
        kinds = [settings.get(key) for key in ("InputType0", "InputType1")] if isinstance(settings, dict) else [None]
        if any(kinds) and (kinds[0] != kinds[1] or "InputType" in settings):
            seen = f"node_info: {node}: inputs of different types, {settings}"
            yield Finding(
                "node_info", seen, "InputType, for all inputs of the node", doc.line(MODEL, "node_info", node)
            )
    if model is not None and doc.items(MODEL, "output_nodes") and _output(doc, model) is None:
        line = doc.line(MODEL, "output_nodes")
        yield Finding("output_nodes", "output_nodes of several outputs", "one node with the class scores", line)
    if not doc.text(COMPILER, "optimize_level"):
        seen = "no optimize_level, which is O0 to hb_mapper"
        yield Finding("optimize_level", seen, "edge compiles at O3: same integers, faster; --level O0", harmless=True)
    seen = "hb_mapper's YAML does not say how images are resized"
    expected = "assumed: correct resize and interpolation in the model YAML"
    yield Finding("resize", seen, expected, harmless=True)


def _output(doc: Document, model: onnx.ModelProto | None) -> str | None:
    """Return the value that the one output node makes; None without such a node."""
    wanted = doc.items(MODEL, "output_nodes")
    made = [node.output for node in model.graph.node if [node.name] == wanted] if model is not None else []
    return str(made[0][0]) if len(made) == 1 and len(made[0]) == 1 else None


def _preprocess(doc: Document, shape: tuple[int, ...]) -> Preprocess:
    layout = doc.item(INPUT, "input_layout_train", 0)
    height, width = shape[2:4] if layout == "NCHW" else shape[1:3]
    norm = doc.item(INPUT, "norm_type", 0)
    values: dict[str, Any] = {"color": doc.item(INPUT, "input_type_train", 0), "layout": layout}
    for key, name, usual in (("mean", "mean_value", "0"), ("std", "scale_value", "1")):
        text = doc.item(INPUT, name, 0) if name.removesuffix("_value") in norm else usual
        numbers = [float(number) for number in text.replace(",", " ").split()]
        values[key] = tuple(map(_inverse, numbers) if key == "std" else numbers) * (3 // len(numbers))
    return Preprocess((height, width), round(max(height, width) / CROP_SHARE), "bilinear", **values)


def _inverse(scale: float) -> float:
    """Return the shortest std whose scale_value, as edge renders it, is this one."""
    wanted = f"{scale:.{SCALE_DIGITS}g}"
    candidates = (float(f"{1 / scale:.{digits}g}") for digits in range(1, 17))
    return next((std for std in candidates if f"{1 / std:.{SCALE_DIGITS}g}" == wanted), 1 / scale)


def _precision(doc: Document, name: str, file: Path) -> Precision:
    nodes = {item: NodePrecision("BPU") for item in doc.items(CALIBRATION, "run_on_bpu") if item}
    nodes |= {item: NodePrecision("CPU") for item in doc.items(CALIBRATION, "run_on_cpu") if item}
    for node, settings in (doc.value(MODEL, "node_info") or {}).items():
        inputs = settings.get("InputType", settings.get("InputType0"))
        nodes[str(node)] = NodePrecision(settings.get("ON"), inputs, settings.get("OutputType"))
    method, percentile = (doc.text(CALIBRATION, key) for key in ("calibration_type", "max_percentile"))
    calibration: dict[str, Any] = {
        "method": method if method in METHODS else "default",
        "max_percentile": float(percentile) if percentile else None,
        "per_channel": bool(doc.value(CALIBRATION, "per_channel")),
        "optimization": tuple(item for item in doc.items(CALIBRATION, "optimization") if item),
    }
    compiler = {key: doc.value(COMPILER, key) for key in ("optimize_level", "compile_mode", "jobs")}
    stated: dict[str, Any] = {key: value for key, value in compiler.items() if value not in (None, "", "balance")}
    return Precision(name, Calibration(**calibration), nodes, Compiler(**stated), note=f"as {file.name} has it")


def _model_text(spec: ModelSpec) -> str:
    data: dict[str, Any] = {"name": spec.name, "sources": {"onnx": spec.sources.onnx}}
    data["preprocess"] = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(spec.preprocess).items()}
    stated = {"precision": spec.precision, "output": spec.output}
    data |= {key: value for key, value in stated.items() if value not in (None, "int8")}
    text: str = yaml.safe_dump(data, default_flow_style=None, sort_keys=False, allow_unicode=True, width=10**9)
    return "# resize and interpolation are assumed. Names of the classes: labels: FILE, one a line.\n" + text
