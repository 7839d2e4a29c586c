"""A file that is given another network's name is refused; a framework's model is sent to its option."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.errors import DownloadError, InputError, ModelFileError
from edge.sources.check import inspect_onnx, require_parameters
from edge.sources.convert import AGAIN
from edge.sources.sources import choose_weights
from edge.specs import ModelSpec, Published, Sources
from tests.conftest import Run, save_net
from tests.test_frameworks import converted, fake, mindspore, mindspore_nets  # noqa: F401 - fixtures

FEATURES = 8


def net(path: Path, classes: int, *, width: int = 100, form: str = "gemm", crop: int = 64) -> Path:
    """Save a classifier of 27 * width + FEATURES * width + (FEATURES + 1) * classes weights."""
    rng = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    stored = [
        tensor("k", width, 3, 3, 3),
        tensor("m", FEATURES, width, 1, 1),
        tensor("w", FEATURES, classes),
        tensor("b", classes),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], name="pool"),
        helper.make_node("Conv", ["p", "m"], ["g"], name="mix"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
    ]
    if form == "gemm":
        nodes.append(helper.make_node("Gemm", ["f", "w", "b"], ["y"], name="head"))
    else:
        if form == "constants":
            nodes += [helper.make_node("Constant", [], [item.name], value=item, name=item.name) for item in stored]
            nodes, stored = [*nodes[4:], *nodes[:4]], []
        nodes += [
            helper.make_node("MatMul", ["f", "w"], ["s"], name="product"),
            helper.make_node("Add", ["b", "s"], ["a"], name="bias"),
            helper.make_node("Softmax", ["a"], ["y"], name="soft"),
        ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, crop, crop))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, classes))],
        stored,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


PUBLISHED = ((27 + FEATURES) * 100 + (FEATURES + 1) * 1000) / 1e6


@pytest.mark.parametrize("form", ["gemm", "matmul", "constants"])
@pytest.mark.parametrize("classes", [10, 1000, 1203])
def test_the_same_network_fits_whatever_its_classes(tmp_path: Path, form: str, classes: int) -> None:
    found = inspect_onnx(net(tmp_path / "net.onnx", classes, form=form))
    assert found.head == (FEATURES + 1) * classes
    require_parameters(found, PUBLISHED, "net.onnx", "Tiny", "build it")
    other = inspect_onnx(net(tmp_path / "other.onnx", classes, width=150, form=form))
    with pytest.raises(ModelFileError, match=rf"{classes} classes") as caught:
        require_parameters(other, PUBLISHED, "other.onnx", "Tiny", "build it")
    assert "another network's file" in str(caught.value.expected)
    assert caught.value.remedy == "build it"


def test_a_last_layer_that_can_not_be_told_is_not_judged(tmp_path: Path) -> None:
    model = onnx.load(net(tmp_path / "net.onnx", 10))
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(helper.make_node("Tanh", ["z"], ["y"], name="squash"))
    onnx.save(model, tmp_path / "net.onnx")
    found = inspect_onnx(tmp_path / "net.onnx")
    assert found.head == 0
    require_parameters(found, 99.0, "net.onnx", "Tiny", "build it")


def spec(folder: Path, params_m: float) -> ModelSpec:
    return ModelSpec(
        "ConvNeXt_atto", Sources(onnx=str(folder / "net.onnx")), published=Published("me", params_m=params_m)
    )


def test_what_is_published_is_in_the_key_of_a_file_of_the_users_only(tmp_path: Path) -> None:
    save_net(tmp_path / "net.onnx")
    one, other = (choose_weights(spec(tmp_path, size)).identity() for size in (1.0, 2.0))
    assert one != other
    own = attrs.evolve(spec(tmp_path, 1.0), name="Mine")
    assert "published_m" not in choose_weights(own).identity()  # its figures are the user's own
    zoo = attrs.evolve(spec(tmp_path, 1.0), sources=Sources(demo="ConvNeXt_atto_demo.onnx"))
    assert "published_m" not in choose_weights(zoo, "demo").identity()


def test_another_networks_onnx_does_not_get_a_zoo_models_name(edge: Run, tmp_path: Path) -> None:
    save_net(tmp_path / "small.onnx", (1, 3, 224, 224))
    code, _, err = edge("export", "ConvNeXt_tiny", "--onnx", "small.onnx")
    assert code == 1
    assert "small.onnx has 0.00 M parameters and 4 classes" in err
    assert "28.58 M within 2%, as published for ConvNeXt_tiny" in err
    assert f"next: build it under its own name: edge build {tmp_path}/small.onnx" in err


def test_a_trained_sister_of_a_zoo_model_keeps_its_name(edge: Run, shared: Path) -> None:
    own = str(shared / "models" / "convnext_atto_cifar10_64.onnx")
    code, _, err = edge("export", "ConvNeXt_atto", "--onnx", own, "--crop", "64", "--resize", "64")
    assert code == 0, err
    code, _, err = edge("export", "ConvNeXt_femto", "--onnx", own, "--crop", "64", "--resize", "64")
    assert (code, "another network's file" in err) == (1, True)


@pytest.mark.compiler
def test_a_mindir_has_to_be_the_network_that_it_is_said_to_be(
    edge: Run,
    mindspore: Any,  # noqa: F811
    mindspore_nets: Path,  # noqa: F811
) -> None:
    file = str(mindspore_nets / "net.mindir")
    code, _, err = edge("export", "--mindspore", file, "--network", "convnext_tiny", "--crop", "32")
    assert code == 0, err
    code, _, err = edge("export", "--mindspore", file, "--network", "convnext_small", "--crop", "32")
    assert code == 1
    assert "it is not convnext_small: it has 27.83 M parameters, convnext_small with 10 classes" in err
    assert "next: name the right network with --network, or leave --network out" in err


# Advice ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "remedy"),
    [
        (Sources(timm="net.a1"), "add --weights random to the command"),
        (Sources(vendor="http://127.0.0.1:9/net.onnx"), "try again; or build your own file"),
    ],
)
def test_advice_without_a_network_can_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: Sources, remedy: str
) -> None:
    for name, value in (("EDGE_CACHE", "cache"), ("HF_HOME", "hf")):
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError) as caught:
        choose_weights(ModelSpec("net_a1", sources))
    text = str(caught.value.remedy)
    assert remedy in text
    assert "edge build net_a1" not in text  # a name that no model may have
    assert text.endswith("edge build net.onnx")


INFERENCE = {
    "PreProcess": {
        "transform_ops": [
            {"CropImage": {"size": 64}},
            {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.5] * 3}},
        ]
    },
    "PostProcess": {"Topk": {"label_list": ["a", "b", "c"]}},
}


def test_too_few_names_in_a_configuration_are_told_as_that(
    edge: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Paddle of this test's own answers; its network has four classes, inference.yml names three."""
    from tests.test_frameworks import answering

    folder = tmp_path / "pd"
    folder.mkdir()
    for name in ("inference.json", "inference.pdiparams"):
        (folder / name).write_text(name)
    (folder / "inference.yml").write_text(json.dumps(INFERENCE))
    tool = answering(tmp_path, 0.0)
    monkeypatch.setattr("edge.pipeline.stages.choose_framework", lambda *_: tool)
    code, _, err = edge("export", "--paddle", "pd")
    assert code == 1
    assert "has 4 classes" in err
    assert "or its framework's configuration" in err
    assert "name its classes: --labels FILE with 4 lines" in err
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    code, _, err = edge("export", "--paddle", "pd", "--labels", "names.txt")
    assert code == 0, err
    code, _, err = edge("export", "--paddle", "pd", "--labels", "missing.txt")
    assert (code, "missing.txt" in err) == (1, True)


def test_a_framework_that_names_no_remedy_gets_one(tmp_path: Path) -> None:
    tool = fake(tmp_path, 'echo \'{"error": "Paddle can not load it", "remedy": null}\'; exit 1')
    with pytest.raises(InputError, match="can not load it") as caught:
        converted("paddle", tmp_path / "inference.json", tool, tmp_path)
    assert caught.value.remedy == AGAIN


@pytest.mark.parametrize(
    ("names", "given", "remedy"),
    [
        (["small.mindir"], "small.mindir", "--mindspore small.mindir "),
        (["small.ckpt"], "small.ckpt", "--mindspore small.ckpt --network NAME"),
        (["pd_fix/inference.json", "pd_fix/inference.pdiparams"], "pd_fix/", "--paddle pd_fix/"),
        (["pd/m.json", "pd/m.pdiparams"], "pd/m.json", "--paddle pd/m.json"),
        (["pd/m.pdmodel"], "pd/m.pdmodel", "--paddle pd/m.pdmodel"),
    ],
)
def test_a_frameworks_model_as_model_is_sent_to_its_option(
    edge: Run, tmp_path: Path, names: Sequence[str], given: str, remedy: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    code, _, err = edge("export", given)
    assert (code, f"next: {remedy}" in err) == (2, True), err
    assert "unknown model" not in err


def test_a_folder_of_a_models_name_is_no_framework(edge: Run, tmp_path: Path) -> None:
    (tmp_path / "ConvNeXt_atto").mkdir()
    assert edge("export", "ConvNeXt_atto", "--weights", "demo")[0] == 0
    assert "unknown model" in edge("export", "ConvNext_ato")[2]
