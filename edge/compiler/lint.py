"""Check a mapper YAML before the compiler starts: most of these mistakes cost minutes, or pass in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from attrs import frozen

from edge.compiler import rules as rules_calibration
from edge.compiler import rules as rules_compiler
from edge.compiler import rules as rules_structure
from edge.compiler import rules_input, rules_model
from edge.compiler.document import Document, Hit, read
from edge.errors import SpecError
from edge.graph.files import GraphFacts

if TYPE_CHECKING:
    import onnx

Rule = Callable[[Document], Iterator[Hit]]

# In this order; a rule sees only values of the right type, so each holds by itself.
RULES: tuple[Rule, ...] = (
    rules_structure.unknown_group,
    rules_structure.missing_group,
    rules_structure.group_is_mapping,
    rules_structure.unknown_key,
    rules_structure.duplicate_key,
    rules_structure.missing_key,
    rules_structure.value_type,
    rules_structure.empty_value,
    rules_structure.choice,
    rules_structure.separator,
    rules_structure.item_count,
    rules_structure.deprecated_key,
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
    rules_calibration.data_folder,
    rules_calibration.data_type_suffix,
    rules_calibration.no_files,
    rules_calibration.file_size,
    rules_calibration.max_percentile,
    rules_calibration.optimization,
    rules_calibration.absent_operator,
    rules_calibration.cpu_and_bpu,
    rules_calibration.custom_op,
    rules_compiler.core_num,
    rules_compiler.balance,
    rules_compiler.debug_off,
    rules_compiler.jobs,
    rules_compiler.input_source,
    rules_compiler.max_time_per_fc,
    rules_compiler.advice,
)


@frozen
class Finding:
    """A broken rule.

    Attributes:
        rule: name of the rule.
        seen: what the YAML says.
        allowed: what would be right.
        line: in the YAML, from 1; None where the fault is that something is missing.
    """

    rule: str
    seen: str
    allowed: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.seen} (allowed: {self.allowed}) [{self.rule}]"


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
        text: of the YAML.
        graph: facts of its model; without them, names and shapes are not compared with the model.
        calibration_files: name and size in bytes of each calibration file; None looks into ``cal_data_dir``
            where ``base`` is given.
        base: folder of the YAML; None looks up no path.
        model: the model itself; some rules need its operators.
    """
    try:
        data, lines, duplicates = read(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        return (Finding("yaml_syntax", f"no YAML: {error.problem or error}", "YAML 1.1", line),)
    except yaml.YAMLError as error:
        return (Finding("yaml_syntax", f"no YAML: {error}", "YAML 1.1"),)
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
    return tuple(
        Finding(rule.__name__, hit.seen, hit.allowed, hit.line) for rule in RULES for hit in rule(doc)
    )


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
        origin: how to call the YAML in the message.
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
            f"{origin} breaks {len(findings)} rule(s) of the mapper:\n{listed}",
            remedy="mend the model YAML or the precision recipe that it was rendered from",
        )
