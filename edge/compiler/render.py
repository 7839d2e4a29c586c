"""Render the compiler's YAML of a model through the template in ``mapper_yaml/``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from edge.compiler.lint import require_clean
from edge.compiler.node_names import NodeNames, expanded
from edge.errors import SpecError
from edge.files import data_dir, sha256_of, write_text
from edge.graph.files import GraphFacts, facts, load_onnx
from edge.progress import Reporter, Silent
from edge.specs import ModelSpec, NodePrecision, Precision, Preprocess
from edge.specs.schema import Input, Task

TEMPLATE = "classifier_nv12.yaml.j2"

# float32 holds about 7 significant digits; 9 identify one exactly and keep the text readable.
SCALE_DIGITS = 9


@frozen
class RenderResult:
    """What ``render`` wrote."""

    yaml: str  #: file name, relative to ``out``.
    sha256: str  #: of that file.
    prefix: str  #: ``output_model_file_prefix``; starts the name of every file that the compiler writes.
    precision: str  #: name of the recipe.
    nodes: int  #: number of nodes with their own precision.
    optimize_level: str  #: ``O0`` to ``O3``.


def render(
    *,
    spec: ModelSpec,
    precision: Precision,
    prefix: str,
    onnx_model: str,
    cal_data_dir: str,
    working_dir: str,
    inputs: Sequence[Input] = (),
    out: Path,
    graph: GraphFacts | None = None,
    model: Path | None = None,
    calibration_files: Sequence[tuple[str, int]] | None = None,
    base: Path | None = None,
    reporter: Reporter | None = None,
) -> RenderResult:
    """Render, parse again, lint and write ``<prefix>.yaml``.

    Args:
        spec: the model; its preprocessing fills ``input_parameters``.
        precision: the recipe; fills ``node_info``, calibration and compiler.
        prefix: such as ``ConvNeXt_atto_224x224_nv12``.
        onnx_model: path relative to the YAML's folder.
        cal_data_dir: path relative to the YAML's folder; ends in ``_f32``, the compiler's mark of float32.
        working_dir: path relative to the YAML's folder; the compiler makes it.
        inputs: of a network that takes more than one camera image, or something else; then ``cal_data_dir`` holds a
            folder an input, separated by ``;``.
        graph: facts of the ONNX that ``onnx_model`` names; None reads them from ``model``.
        model: this ONNX; without it the rules that need its operators do not run.
        calibration_files: name and size in bytes of each calibration file.
        base: folder that the paths are relative to, to check that they exist; None checks no path.

    Raises:
        ModelFileError: ``model`` is not an ONNX with one static image input.
        SpecError: a pattern of the recipe fits no node, the rendered text breaks a rule of the compiler (all
            findings are listed), or the template itself is broken.
    """
    (reporter or Silent()).update(f"rendering {prefix}.yaml")
    network = load_onnx(model) if model is not None else None
    if graph is None:
        if network is None:
            raise TypeError("render needs graph or model")
        graph = facts(network, origin=str(model))
    precision = expanded(precision, NodeNames.of(graph, network))
    text = render_text(
        preprocess=spec.preprocess,
        precision=precision,
        graph=graph,
        prefix=prefix,
        onnx_model=onnx_model,
        cal_data_dir=cal_data_dir,
        working_dir=working_dir,
        task=spec.task,
        inputs=inputs,
    )
    name = f"{prefix}.yaml"
    require_clean(text, origin=name, graph=graph, calibration_files=calibration_files, base=base, model=network)
    write_text(out / name, text)
    return RenderResult(
        yaml=name,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        prefix=prefix,
        precision=precision.name,
        nodes=len(precision.nodes),
        optimize_level=precision.compiler.optimize_level,
    )


def render_text(
    *,
    preprocess: Preprocess,
    precision: Precision,
    graph: GraphFacts,
    prefix: str,
    onnx_model: str,
    cal_data_dir: str,
    working_dir: str,
    task: Task = "classify",
    inputs: Sequence[Input] = (),
) -> str:
    """Fill the template; arguments as for ``render``. Nothing is checked or written."""
    import jinja2

    # The text is YAML, not HTML. Every free value goes through the filter ``quoted``.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_dir("mapper_yaml")),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = quoted
    environment.filters["node_info"] = node_info
    environment.filters["one_line"] = one_line
    mean, scale = mean_value(preprocess), scale_value(preprocess)

    def each(of_image: str, of_map: str) -> str:
        return ";".join(of_image if one.image else of_map for one in inputs)

    try:
        return environment.get_template(TEMPLATE).render(
            preprocess=preprocess,
            precision=precision,
            graph=graph,
            task=task,
            inputs=inputs,
            shapes=["x".join(map(str, one.shape)) for one in inputs],
            each=each,
            prefix=prefix,
            onnx_model=onnx_model,
            cal_data_dir=cal_data_dir,
            working_dir=working_dir,
            norm_type=norm_type(mean, scale),
            mean_value=mean,
            scale_value=scale,
        )
    except jinja2.TemplateError as error:
        raise SpecError(
            f"the template {TEMPLATE} is broken: {error or type(error).__name__}",
            remedy=f"reinstall edge, or in a checkout: git checkout mapper_yaml/{TEMPLATE}",
        ) from error


def template_sha256() -> str:
    """Return the sha256 of the template, for cache keys."""
    return sha256_of(data_dir("mapper_yaml") / TEMPLATE)


def mean_value(preprocess: Preprocess) -> str | None:
    """Return ``mean_value``: three numbers in 0..255, or None if all are 0."""
    if not any(preprocess.mean):
        return None
    return " ".join(repr(float(mean)) for mean in preprocess.mean)


def scale_value(preprocess: Preprocess) -> str | None:
    """Return ``scale_value``: three multipliers, each 1/std, or None if every std is 1."""
    if all(std == 1 for std in preprocess.std):
        return None
    return " ".join(repr(float(f"{1 / std:.{SCALE_DIGITS}g}")) for std in preprocess.std)


def norm_type(mean: str | None, scale: str | None) -> str:
    """Return the ``norm_type`` that goes with the values given."""
    if mean and scale:
        return "data_mean_and_scale"
    if mean:
        return "data_mean"
    return "data_scale" if scale else "no_preprocess"


def quoted(value: object) -> str:
    """Return a value as a single-quoted YAML scalar."""
    return "'" + str(value).replace("'", "''") + "'"


def one_line(text: str) -> str:
    """Return a text without line breaks, for a YAML comment."""
    return " ".join(text.split())


def node_info(node: NodePrecision) -> str:
    """Return one node's ``node_info`` as a YAML mapping on one line."""
    settings = (("ON", node.on), ("InputType", node.inputs), ("OutputType", node.outputs))
    return "{" + ", ".join(f"{quoted(key)}: {quoted(value)}" for key, value in settings if value) + "}"
