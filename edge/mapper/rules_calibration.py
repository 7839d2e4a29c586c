"""Rules on ``calibration_parameters`` and ``custom_op``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge.mapper.document import Document, Hit
from edge.mapper.schema import ITEM_BYTES, OPTIMIZATION_FORMS, OPTIMIZATIONS

GROUP = "calibration_parameters"
SHOWN = 3
OPERATOR_FORM = r"set_(?!model_|all_)([A-Za-z0-9]+)_(?:input|output)_\w+"
# Operators that the mapper's optimiser makes of others: a MatMul becomes a Conv, a Div a Mul.
MADE = {
    "Conv",
    "Mul",
    "Add",
    "Reciprocal",
    "Transpose",
    "Reshape",
    "Concat",
    "Slice",
    "Pad",
    "GlobalAveragePool",
}


def data_folder(doc: Document) -> Iterator[Hit]:
    """A folder that exists and holds files."""
    if not doc.calibrates():
        if doc.text(GROUP, "cal_data_dir"):
            seen = f"cal_data_dir with calibration_type {doc.text(GROUP, 'calibration_type')}"
            allowed = "no cal_data_dir: it would not be read"
            yield Hit(seen, allowed, doc.line(GROUP, "cal_data_dir"))
        return
    if doc.base is None:
        return
    for item in doc.items(GROUP, "cal_data_dir"):
        folder = doc.base / item
        line = doc.line(GROUP, "cal_data_dir")
        if not folder.is_dir():
            yield Hit(f"cal_data_dir: {item!r} does not exist", f"a folder, from {doc.base}", line)
        elif not any(folder.iterdir()):
            yield Hit(f"cal_data_dir: {item!r} is empty", "one raw file a picture", line)


def data_type_suffix(doc: Document) -> Iterator[Hit]:
    """A folder's suffix _f32 says float32, any other one uint8; cal_data_type must agree."""
    for folder, kind in zip(
        doc.items(GROUP, "cal_data_dir"), doc.items(GROUP, "cal_data_type"), strict=False
    ):
        if kind in ITEM_BYTES and folder.rstrip("/").endswith("_f32") != (kind == "float32"):
            allowed = "a folder that ends in _f32" if kind == "float32" else "a folder without _f32"
            line = doc.line(GROUP, "cal_data_dir")
            yield Hit(f"cal_data_type {kind!r} with cal_data_dir {folder!r}", allowed, line)


def file_size(doc: Document) -> Iterator[Hit]:
    """Each file holds exactly one input, raw: no header, no padding."""
    if not doc.calibrates():
        return
    for index in range(doc.inputs):
        shape, files = doc.shape(index), _files(doc, index)
        kind = doc.item(GROUP, "cal_data_type", index) or _default_kind(doc, index)
        if shape is None or kind not in ITEM_BYTES:
            continue
        wanted = math.prod(shape) * ITEM_BYTES[kind]
        wrong = [(name, size) for name, size in files if size != wanted]
        if wrong:
            shown = ", ".join(f"{name} ({size} bytes)" for name, size in wrong[:SHOWN])
            more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            hint = "; no .npy header" if any(name.endswith(".npy") for name, _ in wrong) else ""
            yield Hit(
                f"calibration files of a wrong size: {shown}{more}",
                f"{wanted} bytes: {'x'.join(map(str, shape))} of {kind}{hint}",
                doc.line(GROUP, "cal_data_dir"),
            )


def no_files(doc: Document) -> Iterator[Hit]:
    """Calibration needs pictures."""
    if doc.calibrates() and doc.calibration_files is not None and not doc.calibration_files:
        line = doc.line(GROUP, "cal_data_dir")
        yield Hit("no calibration file", "at least one raw file, better 20 to 100", line)


def max_percentile(doc: Document) -> Iterator[Hit]:
    """0.5 to 1, with calibration_type max only; the mapper takes 0 for unset and lifts the rest to 0.5."""
    text = doc.text(GROUP, "max_percentile")
    if not text:
        return
    line = doc.line(GROUP, "max_percentile")
    method = doc.text(GROUP, "calibration_type") or "default"
    if method != "max":
        yield Hit(f"max_percentile with calibration_type {method!r}", "calibration_type: max", line)
    try:
        inside = 0.5 <= float(text) <= 1
    except ValueError:
        inside = False
    if not inside:
        yield Hit(f"max_percentile: {text}", "0.5..1", line)


def optimization(doc: Document) -> Iterator[Hit]:
    """Values that the mapper knows for bayes-e."""
    for item in doc.items(GROUP, "optimization"):
        if not item or "," in item or item in OPTIMIZATIONS:
            continue
        if not any(re.fullmatch(form, item) for form in OPTIMIZATION_FORMS):
            allowed = (
                "set_all_nodes_<dtype>, set_model_output_<dtype>, set_<OpType>_input_<dtype>, "
                "set_<OpType>_output_<dtype> with int8, int16 or float32, no '_' in <OpType>; skip_<pass>; "
                + ", ".join(OPTIMIZATIONS)
            )
            yield Hit(f"optimization: {item!r}", allowed, doc.line(GROUP, "optimization"))


def absent_operator(doc: Document) -> Iterator[Hit]:
    """The mapper takes a rule for an operator that the model has not, logs it as set, and does nothing."""
    if doc.model is None:
        return
    present = {node.op_type for node in doc.model.graph.node}
    for item in doc.items(GROUP, "optimization"):
        found = re.fullmatch(OPERATOR_FORM, item)
        if found and found.group(1) not in present | MADE and not found.group(1).startswith("Hz"):
            allowed = f"an operator of the model, such as {', '.join(sorted(present)[:SHOWN])}"
            seen = f"optimization: {item!r}, but the model has no {found.group(1)}"
            yield Hit(seen, allowed, doc.line(GROUP, "optimization"))


def cpu_and_bpu(doc: Document) -> Iterator[Hit]:
    """A node runs in one place."""
    both = set(doc.items(GROUP, "run_on_cpu")) & set(doc.items(GROUP, "run_on_bpu")) - {""}
    for name in sorted(both):
        line = doc.line(GROUP, "run_on_bpu")
        yield Hit(f"{name!r} in run_on_cpu and run_on_bpu", "one of them", line)


def custom_op(doc: Document) -> Iterator[Hit]:
    """Custom operators are registered from Python files."""
    if not doc.group("custom_op"):
        return
    if not doc.text("custom_op", "custom_op_method"):
        yield Hit("custom_op: no custom_op_method", "custom_op_method: register", doc.line("custom_op"))
    for item in doc.items("custom_op", "op_register_files"):
        if not item.endswith(".py") and "," not in item:
            line = doc.line("custom_op", "op_register_files")
            yield Hit(f"op_register_files: {item!r}", "files that end in .py", line)


def _files(doc: Document, index: int) -> Sequence[tuple[str, int]]:
    if doc.calibration_files is not None:
        return doc.calibration_files if index == 0 else ()
    folder = doc.item(GROUP, "cal_data_dir", index)
    if doc.base is None or not folder or not (doc.base / folder).is_dir():
        return ()
    paths: list[Path] = sorted((doc.base / folder).iterdir())
    return [(path.name, path.stat().st_size) for path in paths]


def _default_kind(doc: Document, index: int) -> str:
    return "float32" if doc.item(GROUP, "cal_data_dir", index).rstrip("/").endswith("_f32") else "uint8"
