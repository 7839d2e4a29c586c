"""Rules on groups, keys and the types of values: what the compiler's schema refuses or misreads."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from edge.compiler.document import Document, Hit, has_type
from edge.compiler.schema import (
    EMPTY_IS_UNSET,
    GROUPS,
    ITEM_BYTES,
    OPTIMIZATION_FORMS,
    OPTIMIZATIONS,
    REQUIRED_GROUPS,
    REQUIRED_KEYS,
    RT_TYPES,
    SOURCES,
    Key,
)

CALIBRATION = "calibration_parameters"
SHOWN = 3
OPERATOR_FORM = r"set_(?!model_|all_)([A-Za-z0-9]+)_(?:input|output)_\w+"
# Operators that the compiler's optimiser makes of others: a MatMul becomes a Conv, a Div a Mul.
MADE = {"Conv", "Mul", "Add", "Reciprocal", "Transpose", "Reshape", "Concat", "Slice", "Pad", "GlobalAveragePool"}


def data_folder(doc: Document) -> Iterator[Hit]:
    """A folder that exists and holds files."""
    if not doc.calibrates():
        if doc.text(CALIBRATION, "cal_data_dir"):
            seen = f"cal_data_dir with calibration_type {doc.text(CALIBRATION, 'calibration_type')}"
            expected = "no cal_data_dir: it would not be read"
            yield Hit(seen, expected, doc.line(CALIBRATION, "cal_data_dir"), harmless=True)
        return
    if doc.base is None:
        return
    for item in doc.items(CALIBRATION, "cal_data_dir"):
        folder = doc.base / item
        line = doc.line(CALIBRATION, "cal_data_dir")
        if not folder.is_dir():
            yield Hit(f"cal_data_dir: {item!r} does not exist", f"a folder, relative to {doc.base}", line)
        elif not any(folder.iterdir()):
            yield Hit(f"cal_data_dir: {item!r} is empty", "one raw file per image", line)


def data_type_suffix(doc: Document) -> Iterator[Hit]:
    """A folder's suffix _f32 means float32, any other uint8; if cal_data_type differs, it wins."""
    for folder, kind in zip(
        doc.items(CALIBRATION, "cal_data_dir"), doc.items(CALIBRATION, "cal_data_type"), strict=False
    ):
        if kind in ITEM_BYTES and folder.rstrip("/").endswith("_f32") != (kind == "float32"):
            expected = "a folder that ends in _f32" if kind == "float32" else "a folder without _f32"
            line = doc.line(CALIBRATION, "cal_data_dir")
            yield Hit(f"cal_data_type {kind!r} with cal_data_dir {folder!r}", expected, line, harmless=True)


def file_size(doc: Document) -> Iterator[Hit]:
    """Each file holds exactly one input, raw: no header, no padding."""
    if not doc.calibrates():
        return
    for index in range(doc.inputs):
        shape, files = doc.shape(index), _files(doc, index)
        kind = doc.item(CALIBRATION, "cal_data_type", index) or _default_kind(doc, index)
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
                doc.line(CALIBRATION, "cal_data_dir"),
            )


def no_files(doc: Document) -> Iterator[Hit]:
    """Calibration needs images."""
    if doc.calibrates() and doc.calibration_files is not None and not doc.calibration_files:
        line = doc.line(CALIBRATION, "cal_data_dir")
        yield Hit("no calibration file", "at least one raw file, better 20 to 100", line)


def max_percentile(doc: Document) -> Iterator[Hit]:
    """0.5 to 1, with calibration_type max only; the compiler reads 0 as unset and raises smaller values to 0.5."""
    text = doc.text(CALIBRATION, "max_percentile")
    if not text:
        return
    line = doc.line(CALIBRATION, "max_percentile")
    method = doc.text(CALIBRATION, "calibration_type") or "default"
    if method != "max":
        yield Hit(f"max_percentile with calibration_type {method!r}", "calibration_type: max", line)
    try:
        inside = 0.5 <= float(text) <= 1
    except ValueError:
        inside = False
    if not inside:
        yield Hit(f"max_percentile: {text}", "0.5..1", line)


def optimization(doc: Document) -> Iterator[Hit]:
    """Values that the compiler knows for bayes-e."""
    for item in doc.items(CALIBRATION, "optimization"):
        if not item or "," in item or item in OPTIMIZATIONS:
            continue
        if not any(re.fullmatch(form, item) for form in OPTIMIZATION_FORMS):
            expected = (
                "set_all_nodes_<dtype>, set_model_output_<dtype>, set_<OpType>_input_<dtype>, "
                "set_<OpType>_output_<dtype> with int8, int16 or float32, no '_' in <OpType>; skip_<pass>; "
                + ", ".join(OPTIMIZATIONS)
            )
            yield Hit(f"optimization: {item!r}", expected, doc.line(CALIBRATION, "optimization"))


def absent_operator(doc: Document) -> Iterator[Hit]:
    """The compiler accepts a rule for an operator that the model does not have, logs it as set, and does nothing."""
    if doc.model is None:
        return
    present = {node.op_type for node in doc.model.graph.node}
    for item in doc.items(CALIBRATION, "optimization"):
        found = re.fullmatch(OPERATOR_FORM, item)
        if found and found.group(1) not in present | MADE and not found.group(1).startswith("Hz"):
            expected = f"an operator of the model, such as {', '.join(sorted(present)[:SHOWN])}"
            seen = f"optimization: {item!r}, but the model has no {found.group(1)}"
            yield Hit(seen, expected, doc.line(CALIBRATION, "optimization"))


def cpu_and_bpu(doc: Document) -> Iterator[Hit]:
    """A node runs in one place."""
    both = set(doc.items(CALIBRATION, "run_on_cpu")) & set(doc.items(CALIBRATION, "run_on_bpu")) - {""}
    for name in sorted(both):
        line = doc.line(CALIBRATION, "run_on_bpu")
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
    folder = doc.item(CALIBRATION, "cal_data_dir", index)
    if doc.calibration_files is not None:
        own = f"{folder.rstrip('/').rpartition('/')[2]}/"  # of several inputs each has a folder
        apart = any("/" in name for name, _ in doc.calibration_files)
        return [one for one in doc.calibration_files if one[0].startswith(own)] if apart else doc.calibration_files
    if doc.base is None or not folder or not (doc.base / folder).is_dir():
        return ()
    paths: list[Path] = sorted((doc.base / folder).iterdir())
    return [(path.name, path.stat().st_size) for path in paths]


def _default_kind(doc: Document, index: int) -> str:
    return "float32" if doc.item(CALIBRATION, "cal_data_dir", index).rstrip("/").endswith("_f32") else "uint8"


COMPILER = "compiler_parameters"
LONGEST_CALL_US = 4294967295


def core_num(doc: Document) -> Iterator[Hit]:
    """The compiler's parser lets 2 pass; hbdk refuses it on the X5, minutes later."""
    value = doc.value(COMPILER, "core_num")
    if value is not None and value != 1:
        yield Hit(f"core_num: {value}", "1: bayes-e runs a model on one core", doc.line(COMPILER, "core_num"))


def balance(doc: Document) -> Iterator[Hit]:
    """balance_factor goes with compile_mode balance, and only with it."""
    mode, factor = doc.text(COMPILER, "compile_mode") or "latency", doc.value(COMPILER, "balance_factor")
    line = doc.line(COMPILER, "balance_factor")
    if mode == "balance" and factor is None:
        yield Hit("compile_mode balance without balance_factor", "balance_factor: 0..100", line)
    if mode != "balance" and factor is not None:
        yield Hit(f"balance_factor with compile_mode {mode!r}", "compile_mode: balance", line)
    if factor is not None and not 0 <= factor <= 100:
        yield Hit(f"balance_factor: {factor}", "0..100", line)


def debug_off(doc: Document) -> Iterator[Hit]:
    """The default is on, which makes the program larger and writes paths of this machine into it."""
    if doc.value(COMPILER, "debug") is not False:
        line = doc.line(COMPILER, "debug")
        yield Hit("debug is on, which is the default", "debug: False", line, harmless=True)


def jobs(doc: Document) -> Iterator[Hit]:
    """A fixed number: the default depends on the machine, and the compiler does not pass 0 on."""
    value = doc.value(COMPILER, "jobs")
    if value is not None and value < 1:
        yield Hit(f"jobs: {value}", "1 or more", doc.line(COMPILER, "jobs"))


def input_source(doc: Document) -> Iterator[Hit]:
    """The source from which the board's runtime takes each input."""
    sources = doc.value(COMPILER, "input_source") or {}
    names = doc.items("input_parameters", "input_name")
    if not names and doc.graph is not None:
        names = [name for name, _ in doc.graph.all_inputs]
    for name, source in sources.items():
        line = doc.line(COMPILER, "input_source", str(name))
        if not isinstance(source, str) or source not in SOURCES:
            yield Hit(f"input_source: {name}: {source!r}", ", ".join(SOURCES), line)
            continue
        if names and name not in names:
            yield Hit(f"input_source: no input {name!r}", ", ".join(names), line)
        elif names:
            kind = doc.item("input_parameters", "input_type_rt", names.index(name))
            if kind in RT_TYPES and kind not in SOURCES[source]:
                fits = [other for other, kinds in SOURCES.items() if kind in kinds]
                seen = f"input_source: {source} with input_type_rt {kind}"
                yield Hit(seen, ", ".join(fits), line)


def max_time_per_fc(doc: Document) -> Iterator[Hit]:
    """Longest function call in microseconds; 0 is no limit."""
    value = doc.value(COMPILER, "max_time_per_fc")
    if value and not 1000 <= value <= LONGEST_CALL_US:
        expected = f"0, or 1000..{LONGEST_CALL_US} us"
        yield Hit(f"max_time_per_fc: {value}", expected, doc.line(COMPILER, "max_time_per_fc"))


def advice(doc: Document) -> Iterator[Hit]:
    """Layers slower than this many microseconds are listed."""
    value = doc.value(COMPILER, "advice")
    if value is not None and value < 0:
        yield Hit(f"advice: {value}", "0 or more us", doc.line(COMPILER, "advice"))


# Lists whose items may hold several numbers, separated by commas or spaces; items may be empty.
NUMBER_LISTS = ("mean_value", "scale_value")


def unknown_group(doc: Document) -> Iterator[Hit]:
    """One unknown group fails the whole file."""
    for name in doc.data:
        if name not in GROUPS:
            hint = did_you_mean(str(name), GROUPS)
            yield Hit(f"group {name!r}", hint or ", ".join(GROUPS), doc.line(str(name)))


def missing_group(doc: Document) -> Iterator[Hit]:
    """Two groups have no default."""
    for name in REQUIRED_GROUPS:
        if name not in doc.data:
            yield Hit(f"no group {name}", f"{name}: with {', '.join(REQUIRED_KEYS[name])}")


def group_is_mapping(doc: Document) -> Iterator[Hit]:
    """A group holds keys."""
    for name, value in doc.data.items():
        if name in GROUPS and not isinstance(value, dict):
            yield Hit(f"{name}: {value!r}", "a mapping of keys to values; or leave it out", doc.line(name))


def unknown_key(doc: Document) -> Iterator[Hit]:
    """One unknown key fails the whole file."""
    for group in GROUPS:
        for key in doc.group(group):
            if key in GROUPS[group]:
                continue
            home = next((other for other in GROUPS if key in GROUPS[other]), None)
            hint = f"{key} belongs in {home}" if home else did_you_mean(str(key), GROUPS[group])
            expected = hint or ", ".join(GROUPS[group])
            yield Hit(f"{group}: unknown key {key!r}", expected, doc.line(group, str(key)))


def duplicate_key(doc: Document) -> Iterator[Hit]:
    """YAML silently takes the last of two equal keys."""
    for key, line, same in doc.duplicates:
        yield Hit(f"{key!r} is given twice", "once", line, harmless=same)


def missing_key(doc: Document) -> Iterator[Hit]:
    """Keys without a default."""
    for group, keys in REQUIRED_KEYS.items():
        if group not in doc.data:
            continue
        for key in keys:
            if key not in doc.group(group):
                yield Hit(f"{group}: no {key}", f"{key}: …", doc.line(group))
    if doc.calibrates() and "cal_data_dir" not in doc.group("calibration_parameters"):
        yield Hit(
            "calibration_parameters: no cal_data_dir",
            "cal_data_dir: a folder of raw files; only calibration_type load and skip need none",
            doc.line("calibration_parameters"),
        )


def value_type(doc: Document) -> Iterator[Hit]:
    """The compiler expects text, a number, true/false or a mapping, depending on the key."""
    for group, key, value, rule in _known(doc):
        if value is not None and not has_type(value, rule.types):
            expected = " or ".join(_type_name(kind) for kind in rule.types)
            quotes_help = str in rule.types and isinstance(value, bool | int | float)
            hint = f", quoted: {key}: '{value}'" if quotes_help else ""
            seen = f"{key}: {value!r} is {_type_name(type(value))}"
            yield Hit(seen, expected + hint, doc.line(group, key))


def empty_value(doc: Document) -> Iterator[Hit]:
    """An empty value fails, or becomes the text 'None'; empty text counts as none for some keys."""
    for group, key, value, _ in _known(doc):
        if value is None or (isinstance(value, str) and not value.strip()):
            line, unset = doc.line(group, key), value == "" and key in EMPTY_IS_UNSET
            yield Hit(f"{key}: has no value", f"a value, or no {key} at all", line, harmless=unset)


def choice(doc: Document) -> Iterator[Hit]:
    """Values from a list."""
    for group, key, _, rule in _known(doc):
        if not rule.choices:
            continue
        items = [doc.text(group, key)] if rule.each == "one" else doc.items(group, key)
        for item in items:
            # Commas have their own rule, with a better message.
            if item and item not in rule.choices and ("," not in item or rule.each == "one"):
                yield Hit(f"{key}: {item!r}", ", ".join(rule.choices), doc.line(group, key))


def separator(doc: Document) -> Iterator[Hit]:
    """The compiler splits lists at ';' only, and silently reads a comma as part of a name."""
    for group, key, _, rule in _known(doc):
        if rule.each == "one" or key in NUMBER_LISTS:
            continue
        text = doc.text(group, key)
        if "," in text:
            fixed = ";".join(part.strip() for part in text.split(","))
            wanted = text.replace(",", "x") if key == "input_shape" else fixed
            yield Hit(f"{key}: {text!r}", f"'{wanted}'", doc.line(group, key))


def item_count(doc: Document) -> Iterator[Hit]:
    """A list over the inputs has one item for each input, and no item is empty."""
    for group, key, _, rule in _known(doc):
        if rule.each != "inputs":
            continue
        items = doc.items(group, key)
        if items and len(items) != doc.inputs:
            yield Hit(
                f"{key}: {len(items)} items for {doc.inputs} input(s)",
                f"{doc.inputs}, separated by ';', in the order of input_name",
                doc.line(group, key),
            )
        if "" in items and key not in NUMBER_LISTS:
            yield Hit(f"{key}: an empty item in {doc.text(group, key)!r}", "a value", doc.line(group, key))


def deprecated_key(doc: Document) -> Iterator[Hit]:
    """Keys that the compiler ignores or is about to drop."""
    for group, key, value, rule in _known(doc):
        if rule.use_instead and value is not False:
            line = doc.line(group, key)
            yield Hit(f"{key} is deprecated", f"instead: {rule.use_instead}", line, harmless=True)


def _known(doc: Document) -> Iterator[tuple[str, str, object, Key]]:
    for group, keys in GROUPS.items():
        for key, value in doc.group(group).items():
            if key in keys:
                yield group, key, value, keys[key]


def _type_name(kind: type) -> str:
    names = {str: "text", bool: "true/false", int: "a whole number", float: "a number", dict: "a mapping"}
    return names.get(kind, kind.__name__)


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return 'did you mean …' with the closest known name, or None."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]}?" if close else None
