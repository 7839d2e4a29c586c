"""What the export stage says is of these labels and this normalisation, not of an earlier run's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from attrs import evolve
from onnx import TensorProto, helper

from edge.folder.workspace import Done, Workspace
from edge.images.find import class_names
from edge.pipeline.build import Build
from edge.pipeline.stages import EXPORT
from edge.progress import Quiet
from edge.sources.stage import ExportResult
from edge.specs import ModelSpec, Preprocess, Sources, load_precision
from edge.specs.request import Request

CLASSES = 1000


def save_net_of_1000(path: Path) -> Path:
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 32, 32))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, CLASSES))],
        [onnx.numpy_helper.from_array(np.ones((3, CLASSES), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


def export_of(spec: ModelSpec, folder: Path) -> Done[ExportResult]:
    request = Request(spec=spec, precision=load_precision("int8"), compiler="onnxruntime")
    with Workspace(folder / spec.name, Quiet()) as workspace:
        return Build(request, workspace, Quiet()).stage(EXPORT)


def test_an_export_speaks_of_the_labels_of_this_run(tmp_path: Path) -> None:
    names = list(class_names("imagenet") or ())
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(names))
    net = save_net_of_1000(tmp_path / "net.onnx")
    preprocess = Preprocess(crop=(32, 32), resize=32)
    spec = ModelSpec("net", Sources(onnx=str(net)), preprocess, labels=str(labels), classes=None)
    first = export_of(spec, tmp_path)
    assert not first.result.notes
    assert export_of(spec, tmp_path).cached
    # The same path, other content.
    labels.write_text("\n".join(sorted(names)))
    (note,) = export_of(spec, tmp_path).result.notes
    assert "NOT in ImageNet's order" in note
    (note,) = export_of(evolve(spec, labels=None), tmp_path).result.notes
    assert "without names" in note


def test_the_comparison_is_of_this_normalisation(tmp_path: Path) -> None:
    net = save_net_of_1000(tmp_path / "net.onnx")
    spec = ModelSpec("net", Sources(onnx=str(net)), Preprocess(crop=(32, 32), resize=32), classes=None)
    first = export_of(spec, tmp_path)
    other = evolve(spec, preprocess=evolve(spec.preprocess, std=(1.0, 1.0, 1.0)))
    second = export_of(other, tmp_path)
    assert (second.cached, second.files[0].sha256) == (False, first.files[0].sha256)
