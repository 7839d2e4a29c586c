"""Which output holds the class scores: taken where it is plain, asked for where it is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper

from edge.errors import ModelFileError, UsageError
from edge.runtime.net import Net
from edge.runtime.protocol import Info, Tensor
from edge.sources.check import inspect_onnx
from edge.sources.options import as_typed
from edge.sources.outputs import scores_only
from edge.specs import Preprocess
from tests.conftest import Run
from tests.heads import CLASSES, classifier, node

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
PROBABILITIES = node("Softmax", ["s"], "q", axis=1)
BEST = node("ArgMax", ["s"], "best", axis=1, keepdims=0)
FIVE = {"five": np.array([5])}
NORM = ("--mean", "127.5", "--std", "127.5", "--color", "rgb", "--resize", "32")
ROW = (1, CLASSES)


def top5(path: Path) -> Path:
    """Save a net that ends as a mobile app's: the five best, as values and as places."""
    tail = [PROBABILITIES, helper.make_node("TopK", ["q", "five"], ["v", "i"], name="top", axis=1)]
    return classifier(path, tail, [("v", (1, 5), FLOAT), ("i", (1, 5), INT64)], FIVE)


def packed(path: Path) -> Path:
    """Save a net whose five best are one tensor of pairs."""
    tail = [
        PROBABILITIES,
        helper.make_node("TopK", ["q", "five"], ["v", "i"], name="top", axis=1),
        node("Cast", ["i"], "fi", to=FLOAT),
        node("Unsqueeze", ["v"], "v3", axes=[2]),
        node("Unsqueeze", ["fi"], "i3", axes=[2]),
        node("Concat", ["v3", "i3"], "pairs", axis=2),
    ]
    return classifier(path, tail, [("pairs", (1, 5, 2), FLOAT)], FIVE)


def best(path: Path) -> Path:
    return classifier(path, [BEST], [("best", (1,), INT64)])


def best_as_float(path: Path) -> Path:
    tail = [BEST, node("Cast", ["best"], "y", to=FLOAT)]
    return classifier(path, tail, [("y", (1,), FLOAT)])


def number_first(path: Path) -> Path:
    return classifier(path, [PROBABILITIES, BEST], [("best", (1,), INT64), ("q", ROW, FLOAT)])


def auxiliary(path: Path) -> Path:
    return classifier(path, [PROBABILITIES, node("Neg", ["s"], "aux")], [("aux", ROW, FLOAT), ("s", ROW, FLOAT)])


def answer(model: onnx.ModelProto, name: str) -> np.ndarray:
    image = np.random.default_rng(1).normal(size=(1, 3, 32, 32)).astype(np.float32)
    return onnxruntime.InferenceSession(model.SerializeToString()).run([name], {"x": image})[0]


@pytest.mark.parametrize(
    ("make", "operator", "scores"),
    [(top5, "TopK", "q"), (packed, "TopK", "q"), (best, "ArgMax", "s"), (best_as_float, "ArgMax", "s")],
)
def test_a_selection_at_the_end_is_refused_and_the_remedy_works(
    tmp_path: Path, make: Any, operator: str, scores: str
) -> None:
    path = make(tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match=f"ends with {operator}") as error:
        inspect_onnx(path)
    assert str(error.value.remedy).startswith(f"--output {scores} ")
    found = inspect_onnx(path, scores)
    assert (found.output_name, found.classes, found.scores) == (scores, CLASSES, {"q": "softmax"}.get(scores, "logits"))


def test_the_one_output_that_looks_like_scores_is_taken(tmp_path: Path) -> None:
    path = number_first(tmp_path / "net.onnx")
    found = inspect_onnx(path)
    assert (found.output_name, found.classes) == ("q", CLASSES)


def test_several_rows_are_listed_and_none_is_guessed(tmp_path: Path) -> None:
    path = auxiliary(tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match=rf"aux float32 1x{CLASSES}, s float32 1x{CLASSES}") as error:
        inspect_onnx(path)
    assert "NAME is aux or s" in str(error.value.remedy)
    assert inspect_onnx(path, "s").output_name == "s"


def test_one_value_an_image_is_refused_with_what_to_export(tmp_path: Path) -> None:
    path = classifier(tmp_path / "net.onnx", [node("Sigmoid", ["s"], "y")], [("y", (1, 1), FLOAT)], classes=1)
    with pytest.raises(ModelFileError, match="network of two classes by one score") as error:
        inspect_onnx(path)
    assert "torch.zeros_like(s)" in str(error.value.remedy)


CHOSEN = "name the value in front of the operator that chooses among them"


@pytest.mark.parametrize(
    ("name", "message", "remedy"),
    [("qq", "computes no value of that name", "--output q"), ("best", "holds int64", CHOSEN), ("k", "no value", None)],
)
def test_a_name_that_gives_no_scores_is_refused(tmp_path: Path, name: str, message: str, remedy: str | None) -> None:
    path = classifier(tmp_path / "net.onnx", [PROBABILITIES, BEST], [("best", (1,), INT64), ("q", ROW, FLOAT)])
    with pytest.raises(ModelFileError, match=message) as error:
        inspect_onnx(path, name)
    assert error.value.remedy == remedy


def test_a_plain_classifier_is_left_alone(tmp_path: Path) -> None:
    model = onnx.load(classifier(tmp_path / "net.onnx"))
    assert scores_only(model, "net") is model
    assert scores_only(model, "net", "s") is model


def test_a_subgraph_keeps_what_it_reads(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [node("Mul", ["s", "two"], "inside")], "b", [], [helper.make_tensor_value_info("inside", FLOAT, ROW)]
    )
    other = helper.make_graph(
        [node("Identity", ["s"], "same")], "o", [], [helper.make_tensor_value_info("same", FLOAT, ROW)]
    )
    tail: list[NodeProto] = [
        helper.make_node("If", ["yes"], ["y"], name="if", then_branch=branch, else_branch=other),
        node("ArgMax", ["y"], "best", axis=1, keepdims=0),
    ]
    constants = {"two": np.array(2.0), "yes": np.array(True)}
    model = onnx.load(classifier(tmp_path / "net.onnx", tail, [("best", (1,), INT64)], constants))
    cut = scores_only(model, "net", "y")
    onnx.checker.check_model(cut)
    assert {tensor.name for tensor in cut.graph.initializer} == {"k", "w", "two", "yes"}
    np.testing.assert_allclose(answer(cut, "y"), 2 * answer(scores_only(model, "net", "s"), "s"), rtol=1e-6)


OPERATORS = ("Relu", "Sigmoid", "Neg", "Abs", "Identity")


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(OPERATORS), st.integers(0, 5)), min_size=1, max_size=6), st.data())
def test_the_network_up_to_any_value_computes_that_value(
    tmp_path: Path, tree: Sequence[tuple[str, int]], data: st.DataObject
) -> None:
    names = ["s"]
    tail = []
    for i, (operator, place) in enumerate(tree):
        tail.append(node(operator, [names[place % len(names)]], f"t{i}"))
        names.append(f"t{i}")
    model = onnx.load(
        classifier(tmp_path / "net.onnx", [*tail, BEST], [("best", (1,), INT64), (names[-1], ROW, FLOAT)])
    )
    name = data.draw(st.sampled_from(names))
    cut = scores_only(model, "net", name)
    onnx.checker.check_model(cut, full_check=True)
    assert [value.name for value in cut.graph.output] == [name]
    assert [value.name for value in cut.graph.input] == ["x"]
    assert len(cut.graph.node) <= 5 + len(tail)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.output.append(helper.make_tensor_value_info(name, FLOAT, ROW))
    del whole.graph.output[:2]
    np.testing.assert_array_equal(answer(cut, name), answer(whole, name))


def test_the_chosen_output_is_built_and_recorded(edge: Run, tmp_path: Path) -> None:
    packed(tmp_path / "net.onnx")
    arguments = ("net.onnx", *NORM, "--compiler", "onnxruntime")
    code, _, err = edge("build", *arguments)
    assert code != 0
    assert "next: --output q" in err
    code, out, err = edge("build", *arguments, "--output", "q", "--json")
    assert code == 0, err
    manifest = json.loads(out)
    assert (manifest["output"], manifest["scores"]) == ("q", "softmax")
    assert "--output q" in manifest["command"]
    assert "of what the model gives (pairs), q is taken as the class scores" in err
    (shown,) = onnx.load(tmp_path / "build" / "net" / "net.onnx").graph.output
    assert shown.name == "q"
    (tmp_path / "my.yaml").write_text(
        "sources: {onnx: net.onnx}\nlabels: null\nclasses: null\noutput: s\npreprocess: {crop: [32, 32], resize: 32, "
        "mean: [127.5, 127.5, 127.5], std: [127.5, 127.5, 127.5]}\n"
    )
    code, out, err = edge("export", "my.yaml", *NORM[:4], *NORM[6:], "--json")
    assert code == 0, err
    assert json.loads(out)["result"]["scores"] == "logits"


def test_a_name_like_a_path_is_recorded_as_it_is() -> None:
    assert as_typed([("", "net.onnx"), ("--output", "/head/Gemm_output_0")]) == (
        "net.onnx", "--output", "/head/Gemm_output_0",
    )  # fmt: skip


# ----- a program that edge did not build


class Several:
    """A backend of several outputs."""

    concurrent = True

    def __init__(self, *outputs: tuple[str, tuple[int, ...]]) -> None:
        tensors = tuple(Tensor(name, shape, "float32") for name, shape in outputs)
        self.info = Info("several", "net", "1", (Tensor("x", (1, 3, 32, 32), "uint8", nv12=True),), tensors)

    def run(self, _inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.full(tensor.shape, i, np.float32) for i, tensor in enumerate(self.info.outputs)]

    def close(self) -> None:
        pass


RULE = Preprocess(crop=(32, 32), resize=32)
IMAGE = np.zeros((32, 32, 3), np.uint8)


def test_a_program_of_several_outputs_gives_the_one_row() -> None:
    with Net([Several(("box", (1, 4, 10)), ("row", (1, 7, 1, 1)))], preprocess=RULE, labels="abcdefg") as net:
        assert net.classes == 7
        assert net.scores(IMAGE).tolist() == [1.0] * 7
    with Net([Several(("only", (1, 2, 3)))], preprocess=RULE, labels=None) as net:
        assert net.scores(IMAGE).size == 6


@pytest.mark.parametrize("outputs", [[("a", (1, 4)), ("b", (1, 4))], [("a", (1, 4, 10)), ("b", (1, 2, 10))]])
def test_a_program_whose_scores_are_not_plain_still_runs(outputs: list[tuple[str, tuple[int, ...]]]) -> None:
    with Net([Several(*outputs)], preprocess=RULE, labels=None) as net:
        assert len(net.run(net.nv12(IMAGE))) == 2
        with pytest.raises(UsageError, match=r"is not plain: a float32 1x4.*, b float32 1x"):
            net.classify(IMAGE)
