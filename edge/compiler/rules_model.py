"""Rules on ``model_parameters`` and on every key that names nodes of the model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath, PureWindowsPath

from edge.compiler.document import Document, Hit
from edge.compiler.node_names import NodeNames
from edge.compiler.rules import did_you_mean
from edge.compiler.schema import BITS, NODE_KEYS
from edge.specs.schema import MARCH

GROUP = "model_parameters"
PATHS = (
    (GROUP, "onnx_model"),
    (GROUP, "caffe_model"),
    (GROUP, "prototxt"),
    (GROUP, "working_dir"),
    ("calibration_parameters", "cal_data_dir"),
    ("custom_op", "custom_op_dir"),
)
TABLES = ("node_info", "set_node_data_type")


def model_file(doc: Document) -> Iterator[Hit]:
    """A model file with the right suffix that exists, unless the caller gives the model."""
    onnx_model, caffe, prototxt = (doc.text(GROUP, key) for key in ("onnx_model", "caffe_model", "prototxt"))
    line = doc.line(GROUP, "onnx_model")
    if not onnx_model and not caffe:
        yield Hit("no model file", "onnx_model: a path that ends in .onnx", line)
    if onnx_model and not onnx_model.endswith(".onnx"):
        yield Hit(f"onnx_model: {onnx_model!r}", "a path that ends in .onnx", line)
    elif onnx_model and doc.base is not None and doc.model is None and not (doc.base / onnx_model).is_file():
        yield Hit(f"onnx_model: {onnx_model!r} does not exist", f"a file, relative to {doc.base}", line)
    if onnx_model and caffe:
        # Without --model-type, the compiler silently takes the Caffe one.
        yield Hit("both onnx_model and caffe_model", "one of them", doc.line(GROUP, "caffe_model"))
    if bool(caffe) != bool(prototxt) or not (caffe or "x.caffemodel").endswith(".caffemodel"):
        expected = "caffe_model: x.caffemodel together with prototxt: x.prototxt"
        yield Hit(f"caffe_model: {caffe!r}, prototxt: {prototxt!r}", expected, doc.line(GROUP, "caffe_model"))


def march(doc: Document) -> Iterator[Hit]:
    """The X5 has only one architecture."""
    value = doc.text(GROUP, "march")
    if value and value != MARCH:
        yield Hit(f"march: {value!r}", f"'{MARCH}', the RDK X5", doc.line(GROUP, "march"))


def absolute_path(doc: Document) -> Iterator[Hit]:
    """Paths start from the YAML's folder; an absolute path works on one machine only and leaks its folders."""
    for group, key in PATHS:
        for item in doc.items(group, key):
            if PurePosixPath(item).is_absolute() or PureWindowsPath(item).drive or item.startswith("~"):
                expected = "a path relative to the YAML's folder"
                yield Hit(f"{key}: {item!r}", expected, doc.line(group, key), harmless=True)


def prefix(doc: Document) -> Iterator[Hit]:
    """The prefix starts file names and is the model's name on the board."""
    value = doc.text(GROUP, "output_model_file_prefix")
    if value and not re.fullmatch(r"\w[\w.-]*", value):
        expected = "letters, digits, '_', '-' and '.'"
        line = doc.line(GROUP, "output_model_file_prefix")
        yield Hit(f"output_model_file_prefix: {value!r}", expected, line)


def node_table_form(doc: Document) -> Iterator[Hit]:
    """A mapping of node to settings, or the text ``Name:int16`` for one node."""
    for key in TABLES:
        value = doc.value(GROUP, key)
        if isinstance(value, str) and value.strip():
            parts = value.rstrip(";").split(":")
            if len(parts) != 2 or parts[1].strip() not in BITS:
                # `A:int16;B:int16` is refused, although the compiler's own message advertises it.
                expected = "'Name:int16' for one node; a mapping for more"
                yield Hit(f"{key}: {value!r}", expected, doc.line(GROUP, key))
        for node, settings in value.items() if isinstance(value, dict) else ():
            if not isinstance(settings, dict) or not settings:
                expected = "{'ON': 'BPU', 'InputType': 'int16', 'OutputType': 'int16'}"
                yield Hit(f"{key}: {node}: {settings!r}", expected, doc.line(GROUP, key, str(node)))


def unquoted_on(doc: Document) -> Iterator[Hit]:
    """A bare ON (also On, yes, true) is the boolean true in YAML 1.1."""
    for key, node, setting, _ in _settings(doc):
        if isinstance(setting, bool):
            line = doc.line(GROUP, key, node, "ON")
            yield Hit(f"{key}: {node}: a bare ON, which YAML reads as {setting}", "'ON' in quotes", line)


def node_setting(doc: Document) -> Iterator[Hit]:
    """Names of settings; the compiler's parser lets InputType2 pass, its quantizer then fails."""
    for key, node, setting, _ in _settings(doc):
        if setting not in NODE_KEYS and not isinstance(setting, bool):
            hint = did_you_mean(str(setting), NODE_KEYS)
            line = doc.line(GROUP, key, node, str(setting))
            yield Hit(f"{key}: {node}: {setting!r}", hint or ", ".join(NODE_KEYS), line)


def node_value(doc: Document) -> Iterator[Hit]:
    """Values of settings."""
    for key, node, setting, value in _settings(doc):
        expected = ("BPU", "CPU") if setting == "ON" or isinstance(setting, bool) else BITS
        if value not in expected:
            line = doc.line(GROUP, key, node, str(setting))
            yield Hit(f"{key}: {node}: {setting}: {value!r}", ", ".join(expected), line)


def node_overrides(doc: Document) -> Iterator[Hit]:
    """``node_info`` wins over the other keys that place or widen nodes."""
    if not doc.value(GROUP, "node_info"):
        return
    others = (
        (GROUP, "set_node_data_type"),
        ("calibration_parameters", "run_on_cpu"),
        ("calibration_parameters", "run_on_bpu"),
    )
    for group, key in others:
        if doc.value(group, key):
            yield Hit(f"{key} beside node_info", "all of it in node_info, which wins", doc.line(group, key))


def unknown_node(doc: Document) -> Iterator[Hit]:
    """The compiler accepts a name that no node has, logs it as set, and does nothing."""
    if doc.graph is None:
        return
    names = NodeNames.of(doc.graph, doc.model)
    for group, key, name in _named_nodes(doc):
        if name not in names:
            hint = did_you_mean(name, names.known, cutoff=0.5)
            expected = hint or f"one of the model's {len(names.known)} node names"
            yield Hit(f"{key}: no node is called {name!r}", expected, doc.line(group, key, name))


def dissolved_node(doc: Document) -> Iterator[Hit]:
    """A setting for a node that the compiler's optimiser replaces is silently ignored."""
    if doc.graph is None:
        return
    names = NodeNames.of(doc.graph, doc.model)
    for group, key, name in _named_nodes(doc):
        if name in names.heirs:
            expected = " and ".join(names.heirs[name]) or "the node that reads its output"
            seen = f"{key}: the compiler replaces {name}, so nothing would be set"
            yield Hit(seen, expected, doc.line(group, key, name))


def _settings(doc: Document) -> Iterator[tuple[str, str, object, object]]:
    """Every (table, node, setting, value) of the tables given as mappings."""
    for key in TABLES:
        table = doc.value(GROUP, key)
        for node, settings in table.items() if isinstance(table, dict) else ():
            for setting, value in settings.items() if isinstance(settings, dict) else ():
                yield key, str(node), setting, value


def _named_nodes(doc: Document) -> Iterator[tuple[str, str, str]]:
    """Every (group, key, node name) before the compiler's optimiser has run."""
    for key in TABLES:
        table = doc.value(GROUP, key)
        if isinstance(table, dict):
            yield from ((GROUP, key, str(name)) for name in table)
        elif isinstance(table, str) and ":" in table:
            yield GROUP, key, table.split(":")[0].strip()
    lists = (
        (GROUP, "output_nodes"),
        ("calibration_parameters", "run_on_cpu"),
        ("calibration_parameters", "run_on_bpu"),
    )
    for group, key in lists:
        yield from ((group, key, name) for name in doc.items(group, key) if name)
