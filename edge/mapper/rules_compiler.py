"""Rules on ``compiler_parameters``."""

from __future__ import annotations

from collections.abc import Iterator

from edge.mapper.document import Document, Hit
from edge.mapper.schema import RT_TYPES, SOURCES

GROUP = "compiler_parameters"
LONGEST_CALL_US = 4294967295


def core_num(doc: Document) -> Iterator[Hit]:
    """The mapper's parser lets 2 pass; its compiler refuses it on the X5, minutes later."""
    value = doc.value(GROUP, "core_num")
    if value is not None and value != 1:
        yield Hit(f"core_num: {value}", "1: bayes-e runs a model on one core", doc.line(GROUP, "core_num"))


def balance(doc: Document) -> Iterator[Hit]:
    """balance_factor goes with compile_mode balance, and only with it."""
    mode, factor = doc.text(GROUP, "compile_mode") or "latency", doc.value(GROUP, "balance_factor")
    line = doc.line(GROUP, "balance_factor")
    if mode == "balance" and factor is None:
        yield Hit("compile_mode balance without balance_factor", "balance_factor: 0..100", line)
    if mode != "balance" and factor is not None:
        yield Hit(f"balance_factor with compile_mode {mode!r}", "compile_mode: balance", line)
    if factor is not None and not 0 <= factor <= 100:
        yield Hit(f"balance_factor: {factor}", "0..100", line)


def debug_off(doc: Document) -> Iterator[Hit]:
    """The default is on: the program grows and carries paths of this machine."""
    if doc.value(GROUP, "debug") is not False:
        yield Hit("debug is on, which is the default", "debug: False", doc.line(GROUP, "debug"))


def jobs(doc: Document) -> Iterator[Hit]:
    """A fixed number: the default depends on the machine, and 0 is not handed on."""
    value = doc.value(GROUP, "jobs")
    if value is not None and value < 1:
        yield Hit(f"jobs: {value}", "1 or more", doc.line(GROUP, "jobs"))


def input_source(doc: Document) -> Iterator[Hit]:
    """Where the board's runtime takes each input from."""
    sources = doc.value(GROUP, "input_source") or {}
    names = doc.items("input_parameters", "input_name")
    if not names and doc.graph is not None:
        names = [doc.graph.input_name]
    for name, source in sources.items():
        line = doc.line(GROUP, "input_source", str(name))
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
    value = doc.value(GROUP, "max_time_per_fc")
    if value and not 1000 <= value <= LONGEST_CALL_US:
        allowed = f"0, or 1000..{LONGEST_CALL_US} us"
        yield Hit(f"max_time_per_fc: {value}", allowed, doc.line(GROUP, "max_time_per_fc"))


def advice(doc: Document) -> Iterator[Hit]:
    """Layers slower than this many microseconds are listed."""
    value = doc.value(GROUP, "advice")
    if value is not None and value < 0:
        yield Hit(f"advice: {value}", "0 or more us", doc.line(GROUP, "advice"))
