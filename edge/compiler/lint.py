"""Check a mapper YAML before the compiler starts: most of these mistakes cost minutes or are never reported."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from attrs import frozen

from edge.compiler import rules, rules_input, rules_model
from edge.compiler.document import Document, Hit, read
from edge.compiler.schema import REQUIRED_GROUPS
from edge.errors import EdgeError, SpecError
from edge.graph.files import GraphFacts, facts, load_onnx

if TYPE_CHECKING:
    import onnx

Rule = Callable[[Document], Iterator[Hit]]
RENDERED = "camera frames in, "  # in the first line of the template
LARGEST = 1 << 20  # bytes; a configuration with one line per node has some 100 KB

# In this order. A rule sees only values of the right type, so no rule depends on another.
RULES: tuple[Rule, ...] = (
    rules.unknown_group,
    rules.missing_group,
    rules.group_is_mapping,
    rules.unknown_key,
    rules.duplicate_key,
    rules.missing_key,
    rules.value_type,
    rules.empty_value,
    rules.choice,
    rules.separator,
    rules.item_count,
    rules.deprecated_key,
    rules_model.model_file,
    rules_model.march,
    rules_model.absolute_path,
    rules_model.prefix,
    rules_model.node_table_form,
    rules_model.unquoted_on,
    rules_model.node_setting,
    rules_model.node_value,
    rules_model.node_overrides,
    rules_model.unknown_node,
    rules_model.dissolved_node,
    rules_input.input_name,
    rules_input.input_shape,
    rules_input.input_batch,
    rules_input.runtime_layout,
    rules_input.video_range,
    rules_input.transform,
    rules_input.layout_against_shape,
    rules_input.odd_size,
    rules_input.width_multiple,
    rules_input.norm_values_given,
    rules_input.norm_values_count,
    rules_input.mean_units,
    rules_input.scale_is_multiplier,
    rules_input.normalised_twice,
    rules.data_folder,
    rules.data_type_suffix,
    rules.no_files,
    rules.file_size,
    rules.max_percentile,
    rules.optimization,
    rules.absent_operator,
    rules.cpu_and_bpu,
    rules.custom_op,
    rules.core_num,
    rules.balance,
    rules.debug_off,
    rules.jobs,
    rules.input_source,
    rules.max_time_per_fc,
    rules.advice,
)


@frozen
class Finding:
    """A broken rule."""

    rule: str  #: name of the rule.
    seen: str  #: what the YAML says.
    expected: str  #: what would be right.
    line: int | None = None  #: in the YAML, from 1; None if something is missing.
    harmless: bool = False  #: the compiler accepts it and makes the same program.

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.seen} (expected: {self.expected}) [{self.rule}]"


def lint(
    text: str,
    *,
    graph: GraphFacts | None = None,
    calibration_files: Sequence[tuple[str, int]] | None = None,
    base: Path | None = None,
    model: onnx.ModelProto | None = None,
) -> tuple[Finding, ...]:
    """Return every broken rule of a mapper YAML, in the order of the rules.

    Args:
        graph: facts of its model; without them, names and shapes are not compared with the model.
        calibration_files: name and size in bytes of each calibration file; None looks into ``cal_data_dir``
            where ``base`` is given.
        base: folder of the YAML; None looks up no path.
        model: the model itself; some rules need its operators.
    """
    try:
        data, lines, duplicates = read(text)
    except RecursionError:
        return (Finding("yaml_syntax", "the file is nested too deeply", "four levels"),)
    except (ValueError, AttributeError) as error:  # PyYAML's own errors for an impossible date or tag
        return (Finding("yaml_syntax", f"a value can't be read: {error}", "YAML 1.1"),)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        return (Finding("yaml_syntax", f"not YAML: {error.problem or error}", "YAML 1.1", line),)
    except yaml.YAMLError as error:
        return (Finding("yaml_syntax", f"not YAML: {error}", "YAML 1.1"),)
    except TypeError as error:
        return (Finding("yaml_syntax", f"the file holds {error}", "a mapping of groups"),)
    doc = Document(
        data=data,
        lines=lines,
        duplicates=duplicates,
        graph=graph,
        model=model,
        calibration_files=calibration_files,
        base=base,
    )
    return tuple(finding for rule in RULES for finding in _apply(rule, doc))


def _apply(rule: Rule, doc: Document) -> list[Finding]:
    try:
        return [Finding(rule.__name__, *hit) for hit in rule(doc)]
    except (OSError, ValueError) as error:  # a name too long for a file system, a number of thousands of digits
        return [Finding(rule.__name__, f"a value can't be checked: {error}"[:200], "a usual length")]


def require_clean(
    text: str,
    *,
    origin: str = "the mapper YAML",
    graph: GraphFacts | None = None,
    calibration_files: Sequence[tuple[str, int]] | None = None,
    base: Path | None = None,
    model: onnx.ModelProto | None = None,
) -> None:
    """Raise where ``lint`` finds anything.

    Args:
        text: as in ``lint``.
        graph: as in ``lint``.
        calibration_files: as in ``lint``.
        base: as in ``lint``.
        model: as in ``lint``.

    Raises:
        SpecError: lists every finding.
    """
    findings = lint(text, graph=graph, calibration_files=calibration_files, base=base, model=model)
    if findings:
        listed = "\n".join(f"  {finding}" for finding in findings)
        raise SpecError(
            f"{origin} breaks {len(findings)} rule(s) of the compiler:\n{listed}",
            remedy="correct the model YAML or the precision recipe that it was rendered from",
        )


@frozen
class Linted:
    """What was found in one file."""

    file: Path  #: the YAML.
    findings: tuple[Finding, ...]  #: broken rules, in the order of their lines.
    model: Path | None  #: the ONNX that names and shapes were compared with; None without one.
    why_not: str = ""  #: why they were not compared; empty if they were.
    foreign: bool = False  #: whether it is a mapper YAML that edge did not render.

    @property
    def errors(self) -> int:
        """How many findings are not harmless."""
        return sum(not finding.harmless for finding in self.findings)


def lint_file(file: Path, model: Path | None = None) -> Linted:
    """Return every broken rule of a mapper YAML; a file that can't be read is a finding too.

    Args:
        file: the YAML; paths in it start from its folder.
        model: the ONNX to compare names and shapes with; None takes the one that the YAML names.

    Raises:
        ModelFileError: ``model`` can't be read or compared.
    """
    try:
        text = text_of(file)
    except SpecError as error:
        return Linted(file, (Finding("file", error.seen, error.expected or "a mapper YAML"),), None)
    named, line = _named_model(text, file.parent)
    named = model or named
    network, graph, why_not = None, None, "" if named else "the YAML names no existing ONNX"
    broken: tuple[Finding, ...] = ()
    if named is not None:
        try:
            network = load_onnx(named)
            graph = facts(network, origin=str(named))
        except EdgeError as error:
            if model is not None:
                raise
            why_not = error.seen
            if network is None:
                broken = (Finding("model_file", error.seen, "a valid ONNX", line),)
    found = lint(text, graph=graph, base=file.parent, model=network)
    ordered = sorted((*broken, *found), key=lambda finding: finding.line or 0)
    foreign = all(group in text for group in REQUIRED_GROUPS) and RENDERED not in text
    return Linted(file, tuple(ordered), named if graph else None, why_not, foreign)


def _named_model(text: str, folder: Path) -> tuple[Path | None, int | None]:
    """Return the ONNX that a YAML names, if it exists, and the line that names it."""
    with contextlib.suppress(
        yaml.YAMLError, TypeError, RecursionError, AttributeError, ValueError, LookupError, OSError
    ):
        data, lines, _ = read(text)
        name = data["model_parameters"]["onnx_model"]
        return (folder / name if (folder / name).is_file() else None), lines["model_parameters", "onnx_model"]
    return None, None


def text_of(file: Path) -> str:
    """Return the text of a mapper YAML.

    Raises:
        SpecError: it is not a regular file, too large, or not UTF-8.
    """
    try:
        if not file.is_file():
            raise SpecError(f"{file} is not a regular file", expected="a mapper YAML")
        with file.open("rb") as stream:
            data = stream.read(LARGEST + 1)  # the size of a special file may be wrong
        if len(data) > LARGEST:
            raise SpecError(f"{file} has more than {LARGEST:,} bytes", expected=f"at most {LARGEST:,}")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise SpecError(f"can't read {file}: {error.strerror}", expected="a mapper YAML") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{file} is not UTF-8 text", expected="a mapper YAML") from error
